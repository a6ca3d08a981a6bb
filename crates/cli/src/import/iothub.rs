//! The file that an IoT hub's export job writes: one identity with its twin a line (Azure:
//! iot-hub-bulk-identity-mgmt). Of all its fields only the ID, the status and the tags asked for are ever looked at:
//! the keys in `authentication` are passed over by the parser and never become a value here.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::line::{Fields, Line};

/// A tag that becomes a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LabelTag {
    label: String,
    path: Vec<String>,
}

impl LabelTag {
    /// Reads `PATH` or `LABEL=PATH`; the parts of a path are separated by dots.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (label, path) = text.split_once('=').unwrap_or((text, text));
        berth_core::Labels::parse([(label, "")]).map_err(|e| format!("--label-tag {text}: {e}"))?;
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err(format!("--label-tag {text}: the path has an empty part; write it as site.ring"));
        }
        Ok(Self { label: label.to_owned(), path })
    }
}

/// What is looked at; everything else is passed over unread. The tags are a value only where labels are asked for.
#[derive(Deserialize)]
struct HubLine<'a, T> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "moduleId")]
    module_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    status: Option<Cow<'a, str>>,
    #[serde(default)]
    tags: Option<T>,
}

pub(super) fn read(text: &str, tags: &[LabelTag]) -> Result<Line, String> {
    if tags.is_empty() {
        let line: HubLine<'_, IgnoredAny> = serde_json::from_str(text).map_err(|e| broken(&e))?;
        return row(&line, None);
    }
    let line: HubLine<'_, Value> = serde_json::from_str(text).map_err(|e| broken(&e))?;
    let id = line.id.as_deref().unwrap_or_default();
    let labels = labels(id, line.tags.as_ref(), tags)?;
    row(&line, Some(labels))
}

/// Only the position is told: the parser's own words could repeat a value of the line, and a line holds keys.
fn broken(error: &serde_json::Error) -> String {
    let column = error.column();
    format!("not a line of an IoT hub's export: the JSON breaks or has a wrong type at column {column}")
}

fn row<T>(line: &HubLine<'_, T>, labels: Option<Vec<(String, String)>>) -> Result<Line, String> {
    if line.module_id.as_deref().is_some_and(|module| !module.is_empty()) {
        return Ok(Line::Module);
    }
    let id = line.id.as_deref().ok_or("not a line of an IoT hub's export: it has no `id`")?;
    let status = match line.status.as_deref() {
        None => "assigned",
        Some(status) if status.eq_ignore_ascii_case("enabled") => "assigned",
        Some(status) if status.eq_ignore_ascii_case("disabled") => "disabled",
        Some(status) => {
            let shown: String = status.chars().take(16).collect();
            return Err(format!("status `{shown}` of device `{id}` is neither enabled nor disabled"));
        }
    };
    Fields { device_id: id, status, labels, ..Default::default() }.check()
}

fn labels(id: &str, root: Option<&Value>, tags: &[LabelTag]) -> Result<Vec<(String, String)>, String> {
    let Some(root) = root else { return Ok(Vec::new()) };
    let mut labels = Vec::new();
    for tag in tags {
        let found = tag.path.iter().try_fold(root, |value, part| value.get(part));
        let value = match found {
            None | Some(Value::Null) => continue,
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Bool(flag)) => flag.to_string(),
            Some(Value::Array(_) | Value::Object(_)) => {
                let path = tag.path.join(".");
                return Err(format!("tag `{path}` of device `{id}` is no text, number or truth value"));
            }
        };
        labels.push((tag.label.clone(), value));
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "Q0FOQVJZLWtleS10aGF0LW11c3QtbmV2ZXItYXBwZWFy";

    fn line(rest: &str) -> String {
        format!(
            r#"{{"id":"pump-17","eTag":"MQ==",{rest}"authentication":{{"symmetricKey":{{"primaryKey":"{CANARY}","secondaryKey":"{CANARY}"}},"x509Thumbprint":{{"primaryThumbprint":null,"secondaryThumbprint":null}},"type":"sas"}},"twinETag":"AAAAAAAAAAE=","tags":{{"site":{{"ring":2,"live":true}},"region":"eu","list":[]}},"properties":{{"desired":{{"$version":1}},"reported":{{"$version":1}}}},"capabilities":{{"iotEdge":false}}}}"#
        )
    }

    fn tags(texts: &[&str]) -> Vec<LabelTag> {
        texts.iter().map(|text| LabelTag::parse(text).unwrap()).collect()
    }

    #[test]
    fn enabled_devices_travel_packed_and_disabled_ones_are_told() {
        assert_eq!(read(&line(r#""status":"enabled","#), &[]), Ok(Line::Plain("pump-17".into())));
        let Ok(Line::Row(row)) = read(&line(r#""status":"disabled","#), &[]) else { panic!("a row") };
        assert_eq!(row.status(), berth_client::v1::MappingStatus::Disabled);
        assert_eq!(read(&line(r#""moduleId":"$edgeAgent","#), &[]), Ok(Line::Module));
    }

    #[test]
    fn tags_that_are_asked_for_become_labels() {
        let asked = tags(&["region", "ring=site.ring", "live=site.live", "absent"]);
        let Ok(Line::Row(row)) = read(&line(""), &asked) else { panic!("a row") };
        let labels = row.labels.unwrap().labels;
        let told: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(told, ["live=true", "region=eu", "ring=2"]);
        assert!(read(&line(""), &tags(&["list"])).unwrap_err().contains("tag `list`"));
        assert!(LabelTag::parse("a..b").is_err());
        assert!(LabelTag::parse("a b").is_err());
    }

    #[test]
    fn keys_never_appear_wherever_the_line_is_cut_or_bent() {
        let whole = line(r#""status":"enabled","#);
        for cut in 0..whole.len() {
            let problem = read(&whole[..cut], &tags(&["region"])).unwrap_err();
            assert!(!problem.contains(CANARY), "{problem}");
        }
        // A key in a place where something else is due.
        for bent in [
            whole.replace("\"type\":\"sas\"", &format!("\"type\":{CANARY}")),
            whole.replace("\"id\":\"pump-17\"", &format!("\"id\":{{\"k\":\"{CANARY}\"}}")),
            whole.replace("\"status\":\"enabled\"", &format!("\"status\":[\"{CANARY}\"]")),
            whole.replace("\"status\":\"enabled\"", &format!("\"status\":\"{CANARY}\"")),
            whole.replace(
                "\"tags\":{",
                &format!("\"tags\":{{\"region\":[\"{CANARY}\"],\"was\":{{}},\"x\":{{"),
            ),
        ] {
            if let Err(problem) = read(&bent, &tags(&["region"])) {
                assert!(!problem.contains(CANARY), "{problem}");
            }
        }
        let ok = format!("{:?}", read(&whole, &tags(&["region"])));
        assert!(!ok.contains(CANARY));
    }
}
