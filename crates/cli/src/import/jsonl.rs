//! One JSON object a line, as `berth export` writes them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::line::{Fields, Line};

/// A line. Fields that only an export has are known, and left alone; unknown ones are mistakes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonLine<'a> {
    #[serde(borrow)]
    device_id: Cow<'a, str>,
    #[serde(borrow, default)]
    hub: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    scope: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    registration_id: Option<Cow<'a, str>>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "stamp")]
    _stamp: IgnoredAny,
    #[serde(default, rename = "epoch")]
    _epoch: IgnoredAny,
    #[serde(default, rename = "revision")]
    _revision: IgnoredAny,
    #[serde(default, rename = "origin")]
    _origin: IgnoredAny,
    #[serde(default, rename = "evidence")]
    _evidence: IgnoredAny,
}

pub(super) fn read(text: &str) -> Result<Line, String> {
    let line: JsonLine<'_> = serde_json::from_str(text).map_err(|e| json_problem(&e))?;
    Fields {
        device_id: &line.device_id,
        hub: line.hub.as_deref().unwrap_or_default(),
        status: line.status.as_deref().unwrap_or_default(),
        scope: line.scope.as_deref().unwrap_or_default(),
        registration_id: line.registration_id.as_deref().unwrap_or_default(),
        labels: line.labels.map(|labels| labels.into_iter().collect()),
    }
    .check()
}

/// What the JSON parser says, without its own line number, which is always 1 here.
fn json_problem(error: &serde_json::Error) -> String {
    let told = error.to_string();
    let told = told.rsplit_once(" at line ").map_or(told.as_str(), |(told, _)| told);
    format!("not a device in JSON: {told} at column {}", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_export_writes_is_read_back() {
        let line = r#"{"device_id":"a","hub":"h.x","stamp":"s","status":"DISABLED","epoch":3,"revision":3,"origin":"PLACED",
            "evidence":{"source":"OPERATOR","time":null},"labels":{"ring":"1"},"scope":null,"registration_id":null}"#;
        let Line::Row(row) = read(line).unwrap() else { panic!("a row") };
        assert_eq!((row.device_id.as_str(), row.hub.as_str()), ("a", "h.x"));
        assert_eq!(row.labels.unwrap().labels["ring"], "1");
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        assert!(read("{\"device\":\"a\"}").unwrap_err().contains("unknown field `device`"));
        assert!(read("{\"device_id\":7}").unwrap_err().contains("invalid type"));
        assert!(read("{").unwrap_err().contains("column"));
    }
}
