//! Values on the command line.

use std::time::Duration;

use berth_client::v1;

/// Reads a duration such as `250ms`, `10s`, `2m` or `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("`{text}` is not a duration; write a number and ms, s, m or h, such as 10s");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(wrong)
}

/// Reads a level of freshness: `linearizable`, `local`, `bounded:DURATION` or `at-least:TOKEN`.
pub(crate) fn consistency(text: &str) -> Result<v1::Consistency, String> {
    let level = match text.split_once(':') {
        None if text == "linearizable" => berth_client::linearizable(),
        None if text == "local" => berth_client::local(),
        Some(("bounded", age)) => berth_client::bounded(duration(age)?),
        Some(("at-least", token)) => berth_client::at_least(from_hex(token).ok_or_else(|| {
            format!("token `{token}` is not hexadecimal; copy it from the `token` of an answer")
        })?),
        _ => None,
    };
    level.ok_or_else(|| {
        format!("`{text}` is no level; write linearizable, local, bounded:DURATION or at-least:TOKEN")
    })
}

/// Reads a label, `key=value`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` is not a label; write key=value"))?;
    berth_core::Labels::parse([(key, value)]).map_err(|e| e.to_string())?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Reads a status of a mapping.
pub(crate) fn status(text: &str) -> Result<v1::MappingStatus, String> {
    let upper = format!("MAPPING_STATUS_{}", text.to_ascii_uppercase());
    match v1::MappingStatus::from_str_name(&upper) {
        Some(status) if status != v1::MappingStatus::Unspecified => Ok(status),
        _ => Err(format!("`{text}` is no status; write unassigned, enrolling, assigned, disabled or failed")),
    }
}

/// Reads a class of drift.
pub(crate) fn drift(text: &str) -> Result<v1::DriftClass, String> {
    let upper = format!("DRIFT_CLASS_{}", text.to_ascii_uppercase().replace('-', "_"));
    match v1::DriftClass::from_str_name(&upper) {
        Some(class) if class != v1::DriftClass::Unspecified => Ok(class),
        _ => Err(format!(
            "`{text}` is no class of drift; write missing, wrong-hub, pending, duplicate, disabled, orphan, hub-unknown or hub-not-linked"
        )),
    }
}

/// Reads a state of a stamp or hub.
pub(crate) fn accept_state(text: &str) -> Result<v1::AcceptState, String> {
    let upper = format!("ACCEPT_STATE_{}", text.to_ascii_uppercase());
    match v1::AcceptState::from_str_name(&upper) {
        Some(state) if state != v1::AcceptState::Unspecified => Ok(state),
        _ => Err(format!("`{text}` is no state; write active, cordoned, draining or offline")),
    }
}

/// Reads a tier of a hub.
pub(crate) fn tier(text: &str) -> Result<v1::HubTier, String> {
    let upper = format!("HUB_TIER_{}", text.to_ascii_uppercase());
    match v1::HubTier::from_str_name(&upper) {
        Some(tier) if tier != v1::HubTier::Unspecified => Ok(tier),
        _ => Err(format!("`{text}` is no tier; write f1, b1, b2, b3, s1, s2 or s3")),
    }
}

/// Reads a rule for repairing drift.
pub(crate) fn repair(text: &str) -> Result<v1::RepairRule, String> {
    match text.to_ascii_lowercase().as_str() {
        "adopt" => Ok(v1::RepairRule::Adopt),
        "enforce" => Ok(v1::RepairRule::Enforce),
        _ => Err(format!("`{text}` is no repair rule; write adopt or enforce")),
    }
}

/// Reads a number of devices, or `unlimited`.
pub(crate) fn limit(text: &str) -> Result<Limit, String> {
    if text == "unlimited" {
        return Ok(Limit(None));
    }
    let number = text.parse().map_err(|_| format!("`{text}` is not a number of devices, nor `unlimited`"))?;
    Ok(Limit(Some(number)))
}

/// A capacity limit; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<u64>);

/// Reads an amount of money as millionths: `1200`, `0.02`.
pub(crate) fn micros(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("`{text}` is not an amount; write digits with at most 6 after the point, such as 0.02");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) || fraction.len() > 6 {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let fraction: u64 = format!("{fraction:0<6}").parse().map_err(|_| wrong())?;
    whole.checked_mul(1_000_000).and_then(|whole| whole.checked_add(fraction)).ok_or_else(wrong)
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "10", "s", "1.5s", "-1s", "99999999999999999999h", "18446744073709551615h"] {
            assert!(duration(wrong).unwrap_err().contains(&format!("`{wrong}`")), "{wrong}");
        }
    }

    #[test]
    fn levels_of_freshness_are_read() {
        use v1::consistency::Level;
        let level = |text| consistency(text).unwrap().level.unwrap();
        assert!(matches!(level("linearizable"), Level::Linearizable(_)));
        assert!(matches!(level("local"), Level::Local(_)));
        assert!(matches!(level("bounded:2s"), Level::Bounded(age) if age.seconds == 2));
        assert!(matches!(level("at-least:0aff"), Level::AtLeast(token) if token.as_ref() == [0x0a, 0xff]));
        for wrong in
            ["", "strong", "bounded", "bounded:2", "at-least:", "at-least:0", "at-least:zz", "local:1"]
        {
            assert!(consistency(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn amounts_are_exact() {
        assert_eq!(micros("0.02"), Ok(20_000));
        assert_eq!(micros("1200"), Ok(1_200_000_000));
        for wrong in ["", ".5", "1.2345678", "-1", "1e3", "18446744073709551615"] {
            assert!(micros(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_states_and_tiers_are_checked() {
        assert_eq!(label("ring=1").unwrap(), ("ring".to_owned(), "1".to_owned()));
        assert!(label("ring").is_err());
        assert!(label("a b=1").is_err());
        assert_eq!(status("Disabled"), Ok(v1::MappingStatus::Disabled));
        assert!(status("unspecified").is_err());
        assert_eq!(tier("s1"), Ok(v1::HubTier::S1));
        assert_eq!(accept_state("draining"), Ok(v1::AcceptState::Draining));
        assert_eq!(limit("unlimited"), Ok(Limit(None)));
        assert!(limit("many").is_err());
    }
}
