//! Faults on demand: what fails next, what is slow, what is out.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Most faults that wait at one time. Past it the control API refuses another.
pub(crate) const FAULTS_MAX: usize = 1_000;

/// The next calls of an operation fail in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailNext {
    /// An operation such as `dps.enrollment.put`, or the beginning of several: `dps`, `hub.twin`, `device`, `arm`.
    pub operation: String,
    /// Only calls of this host; all by default.
    #[serde(default)]
    pub host: Option<String>,
    /// The HTTP status.
    pub status: u16,
    /// The number in the body. Default: the status and three zeros after it.
    #[serde(default)]
    pub code: Option<u32>,
    /// The message in the body.
    #[serde(default)]
    pub message: Option<String>,
    /// `Retry-After`, in seconds; none by default.
    #[serde(default)]
    pub retry_after_s: Option<u64>,
    /// A body that is no JSON of the service, sent as it is in place of the usual one.
    #[serde(default)]
    pub body: Option<String>,
    /// How many calls fail. Default 1.
    #[serde(default = "one")]
    pub count: u32,
}

fn one() -> u32 {
    1
}

/// All faults in force.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    fail_next: Vec<FailNext>,
    latency: BTreeMap<String, Duration>,
    /// DPS instances by host, and `arm`, that are out. Hubs know it themselves.
    out: std::collections::BTreeSet<String>,
}

/// Whether `named` is `operation`, or whole names at its beginning.
fn matches(named: &str, operation: &str) -> bool {
    let rest = operation.strip_prefix(named);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Faults {
    /// Adds a fault; false where too many wait.
    pub(crate) fn fail_next(&mut self, fault: FailNext) -> bool {
        let fits = self.fail_next.len() < FAULTS_MAX;
        if fits && fault.count > 0 {
            self.fail_next.push(fault);
        }
        fits
    }

    /// Takes the fault that this call meets, the oldest first.
    pub(crate) fn take(&mut self, operation: &str, host: &str) -> Option<FailNext> {
        let meets = |fault: &FailNext| {
            matches(&fault.operation, operation)
                && fault.host.as_deref().is_none_or(|told| told.eq_ignore_ascii_case(host))
        };
        let at = self.fail_next.iter().position(meets)?;
        let met = self.fail_next[at].clone();
        self.fail_next[at].count -= 1;
        if self.fail_next[at].count == 0 {
            self.fail_next.remove(at);
        }
        Some(met)
    }

    /// Slows operations down, by name or beginning; false where too many are slow already.
    pub(crate) fn set_latency(&mut self, operation: &str, latency: Duration) -> bool {
        if latency.is_zero() {
            self.latency.remove(operation);
            return true;
        }
        let fits = self.latency.len() < FAULTS_MAX || self.latency.contains_key(operation);
        if fits {
            self.latency.insert(operation.to_owned(), latency);
        }
        fits
    }

    /// How long an operation takes longer: the longest that is asked for.
    pub(crate) fn latency(&self, operation: &str) -> Duration {
        let met = self.latency.iter().filter(|(named, _)| matches(named, operation));
        met.map(|(_, latency)| *latency).max().unwrap_or_default()
    }

    pub(crate) fn set_out(&mut self, service: &str, out: bool) {
        match out {
            true => self.out.insert(service.to_owned()),
            false => self.out.remove(service),
        };
    }

    pub(crate) fn is_out(&self, service: &str) -> bool {
        self.out.contains(service)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_met_as_often_as_it_was_asked_for() {
        let mut faults = Faults::default();
        let fault = |operation: &str, count| FailNext {
            operation: operation.to_owned(),
            host: None,
            status: 503,
            code: None,
            message: None,
            retry_after_s: None,
            body: None,
            count,
        };
        assert!(faults.fail_next(fault("dps.enrollment", 2)));
        assert!(faults.take("dps.enrollments.get", "h").is_none());
        assert!(faults.take("dps.enrollment.get", "h").is_some());
        assert!(faults.take("dps.enrollment.put", "h").is_some());
        assert!(faults.take("dps.enrollment.put", "h").is_none());
    }

    #[test]
    fn the_longest_latency_counts() {
        let mut faults = Faults::default();
        faults.set_latency("hub", Duration::from_secs(1));
        faults.set_latency("hub.twin", Duration::from_secs(2));
        assert_eq!(faults.latency("hub.twin.get"), Duration::from_secs(2));
        assert_eq!(faults.latency("hub.query"), Duration::from_secs(1));
        assert_eq!(faults.latency("dps"), Duration::ZERO);
    }
}
