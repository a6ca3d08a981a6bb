//! What a bench says: one object, or a few lines.

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::load::Round;
use super::prepare;
use crate::args::Common;
use crate::demo::export_file;
use crate::failure::Failure;
use crate::import;
use crate::progress::{rate, whole};
use crate::screen::Screen;

/// Figures of a bench.
pub(super) struct Report {
    fields: Map<String, Value>,
}

impl Report {
    /// Figures of these rounds, with `unit` devices a call.
    pub(super) fn new(name: &str, rounds: &[Round], unit: u64) -> Self {
        let per_round: Vec<f64> =
            rounds.iter().map(|round| rate(round.calls * unit, round.seconds)).collect();
        let calls: u64 = rounds.iter().map(|round| round.calls).sum();
        let seconds: f64 = rounds.iter().map(|round| round.seconds).sum();
        let mut fields = Map::new();
        let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        put("bench", name.into());
        put("per_second", whole(median(&per_round)).into());
        put("p50_us", latency(rounds, 0.5).into());
        put("p99_us", latency(rounds, 0.99).into());
        put("p999_us", latency(rounds, 0.999).into());
        put("max_us", latency(rounds, 1.0).into());
        put("mean_per_second", whole(rate(calls * unit, seconds)).into());
        put("calls_per_second", whole(rate(calls, seconds)).into());
        put("calls", calls.into());
        put("seconds", json!((seconds * 1_000.0).round() / 1_000.0));
        put("errors", rounds.iter().map(|round| round.errors).sum::<u64>().into());
        put("rounds", per_round.iter().map(|rate| Value::from(whole(*rate))).collect());
        Self { fields }
    }

    pub(super) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(key.to_owned(), value.into());
        self
    }

    /// Adds the figures of what this was measured in turns with, and the ratio to them; nothing where there was nothing.
    pub(super) fn compared(self, with: &str, rounds: &[Round]) -> Self {
        if rounds.is_empty() {
            return self;
        }
        let unit = self.fields.get("batch").and_then(Value::as_u64).unwrap_or(1);
        let per_round: Vec<f64> =
            rounds.iter().map(|round| rate(round.calls * unit, round.seconds)).collect();
        let peer_per_second = median(&per_round);
        let per_second = self.fields.get("per_second").and_then(Value::as_f64).unwrap_or(0.0);
        let ratio = if peer_per_second > 0.0 { per_second / peer_per_second } else { 0.0 };
        self.with(&format!("{with}_per_second"), whole(peer_per_second))
            .with("ratio", (ratio * 1_000.0).round() / 1_000.0)
            .with(&format!("{with}_p50_us"), latency(rounds, 0.5))
            .with(&format!("{with}_p99_us"), latency(rounds, 0.99))
            .with(
                &format!("{with}_rounds"),
                per_round.iter().map(|rate| Value::from(whole(*rate))).collect::<Value>(),
            )
    }

    pub(super) fn tell(&self, screen: &mut Screen) -> Result<(), Failure> {
        screen.one(&Value::Object(self.fields.clone()))?;
        Ok(())
    }
}

/// Imports a generated file of so many lines, and tells how fast that went.
pub(super) async fn import(common: &Common, devices: u64, screen: &mut Screen) -> Result<Report, Failure> {
    let folder =
        tempfile::tempdir().map_err(|e| Failure::refused(format!("cannot make a temporary folder: {e}")))?;
    let file = folder.path().join("devices.txt");
    export_file::write(&file, devices, "import-").map_err(|e| Failure::file("write", &file, &e))?;
    let acks = import::Acks::default();
    let args = import::ImportArgs::of_hub_export(file, prepare::hub(0));
    let summary = import::perform(common, &args, &acks, screen).await?;
    let mut latencies =
        Histogram::<u64>::new_with_max(60_000_000, 3).map_err(|e| Failure::refused(e.to_string()))?;
    for us in acks.take() {
        latencies.saturating_record(us);
    }
    let fields = json!({
        "bench": "import",
        "per_second": summary["lines_per_second"],
        "p50_us": latencies.value_at_quantile(0.5),
        "p99_us": latencies.value_at_quantile(0.99),
        "max_us": latencies.max(),
        "lines": summary["lines"],
        "seconds": summary["seconds"],
        "created": summary["created"],
        "errors": summary["bad"],
        "chunks": summary["chunks"],
    });
    Ok(Report { fields: fields.as_object().cloned().unwrap_or_default() })
}

/// Latencies of all rounds at this share, in microseconds; 0 where there is no round.
fn latency(rounds: &[Round], quantile: f64) -> u64 {
    let mut all: Option<Histogram<u64>> = None;
    for round in rounds {
        match &mut all {
            None => all = Some(round.latencies_us.clone()),
            // All rounds have the same bounds.
            Some(all) => drop(all.add(&round.latencies_us)),
        }
    }
    all.map_or(0, |all| all.value_at_quantile(quantile))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len() % 2, sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (0, Some(below), Some(above)) => f64::midpoint(*below, *above),
        (_, _, Some(middle)) => *middle,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(&[]).abs() < f64::EPSILON);
    }
}
