//! Twins: tags, desired and reported properties (IoT Hub, device twins).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::Object;
use super::refusal::HubRefusal;
use crate::clock::Time;

/// Longest key, in bytes (IoT Hub, device twins).
const KEY_BYTES_MAX: usize = 1_024;
/// Longest text value, in bytes.
const TEXT_BYTES_MAX: usize = 4_096;
/// Deepest nesting.
const LEVELS_MAX: usize = 10;
/// Largest integer either way: 2^52 - 1.
const INTEGER_MAX: u64 = (1 << 52) - 1;
/// Largest tags, in bytes of JSON.
const TAGS_BYTES_MAX: usize = 8 * 1_024;
/// Largest desired, and largest reported properties, in bytes of JSON.
const SECTION_BYTES_MAX: usize = 32 * 1_024;

/// Desired or reported properties.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Section {
    values: Object,
    metadata: Object,
    version: u64,
    updated: Time,
}

/// A twin. What is empty takes one word.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Twin {
    pub(crate) version: u64,
    created: Time,
    tags: Option<Box<Object>>,
    desired: Option<Box<Section>>,
    reported: Option<Box<Section>>,
}

impl Twin {
    /// A twin of a new device; `initial` is `{"tags":…,"properties":{"desired":…}}`.
    pub(crate) fn new(initial: Option<&Object>, now: Time) -> Self {
        let mut twin = Self { version: 1, created: now, tags: None, desired: None, reported: None };
        if let Some(initial) = initial {
            // DPS checked it, by `check_initial`, and a hub takes of it what is an object.
            let tags = initial.get("tags").and_then(Value::as_object);
            let desired = initial.get("properties").and_then(|properties| properties.get("desired"));
            if let Some(tags) = tags {
                merge(twin.tags.get_or_insert_default(), tags);
            }
            if let Some(desired) = desired.and_then(Value::as_object) {
                twin.desired.get_or_insert_default().patch(desired, now);
            }
        }
        twin
    }

    /// What a hub would not take of an initial twin, whose form is the one that [`Twin::new`] reads.
    pub(crate) fn check_initial(initial: &Object) -> Result<(), String> {
        let empty = Object::new();
        let part = |value: Option<&Value>, name: &str| match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object.clone())),
            Some(_) => Err(format!("`initialTwin.{name}` must be an object")),
        };
        part(initial.get("tags"), "tags")?;
        let properties = part(initial.get("properties"), "properties")?;
        part(properties.as_ref().unwrap_or(&empty).get("desired"), "properties.desired")?;
        let twin = Self::new(Some(initial), Time::NEVER);
        twin.check().map_err(|refusal| format!("`initialTwin`: {}", refusal.message))
    }

    pub(crate) fn etag(&self) -> String {
        super::etag::Etag::twin(self.version)
    }

    pub(crate) fn tags(&self) -> Value {
        self.tags.as_deref().map_or_else(|| json!({}), |tags| Value::Object(tags.clone()))
    }

    pub(crate) fn properties(&self) -> Value {
        let shown = |section: &Option<Box<Section>>| match section {
            Some(section) => section.show(),
            None => json!({ "$metadata": { "$lastUpdated": self.created.to_string() }, "$version": 1 }),
        };
        json!({ "desired": shown(&self.desired), "reported": shown(&self.reported) })
    }

    /// A value by its path below the twin, for queries: `tags.a.b`, `properties.desired.x`.
    pub(crate) fn find(&self, path: &[&str]) -> Option<Value> {
        let (values, rest) = match path {
            ["tags", rest @ ..] => (self.tags.as_deref()?, rest),
            ["properties", "desired", rest @ ..] => (&self.desired.as_deref()?.values, rest),
            ["properties", "reported", rest @ ..] => (&self.reported.as_deref()?.values, rest),
            _ => return None,
        };
        let (first, rest) = match rest {
            [] => return Some(Value::Object(values.clone())),
            [first, rest @ ..] => (first, rest),
        };
        rest.iter().try_fold(values.get(*first)?, |value, name| value.get(name)).cloned()
    }

    /// Merges a PATCH: nulls delete. Nothing changes where anything of it is refused.
    pub(crate) fn patch(
        &mut self,
        tags: Option<&Object>,
        desired: Option<&Object>,
        now: Time,
    ) -> Result<(), HubRefusal> {
        let mut next = self.clone();
        if let Some(tags) = tags {
            merge(next.tags.get_or_insert_default(), tags);
        }
        if let Some(desired) = desired {
            next.desired.get_or_insert_default().patch(desired, now);
        }
        next.check()?;
        next.version += 1;
        *self = next;
        Ok(())
    }

    /// Replaces by a PUT: what is not there is gone.
    pub(crate) fn replace(
        &mut self,
        tags: Option<&Object>,
        desired: Option<&Object>,
        now: Time,
    ) -> Result<(), HubRefusal> {
        let version = self.desired.as_deref().map_or(1, |desired| desired.version.max(1));
        let mut next = Self { tags: None, desired: None, ..self.clone() };
        if let Some(tags) = tags {
            merge(next.tags.get_or_insert_default(), tags);
        }
        let section = next.desired.get_or_insert_default();
        section.version = version;
        section.patch(desired.unwrap_or(&Object::new()), now);
        next.check()?;
        next.version += 1;
        *self = next;
        Ok(())
    }

    fn check(&self) -> Result<(), HubRefusal> {
        let sections = [&self.desired, &self.reported].into_iter().flatten();
        let sections = sections.map(|section| (&section.values, SECTION_BYTES_MAX));
        let tags = self.tags.as_deref().map(|tags| (tags, TAGS_BYTES_MAX));
        for (values, bytes_max) in sections.chain(tags) {
            let bytes = Value::Object(values.clone()).to_string().len();
            if bytes > bytes_max {
                let told = format!("A twin section has {bytes} bytes, and may have {bytes_max}");
                return Err(HubRefusal::argument(told));
            }
            check_object(values, 1)?;
        }
        Ok(())
    }
}

impl Section {
    fn patch(&mut self, patch: &Object, now: Time) {
        self.version += 1;
        self.updated = now;
        let patch: Object = patch
            .iter()
            .filter(|(name, _)| !name.starts_with('$'))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect();
        merge(&mut self.values, &patch);
        stamp(&mut self.metadata, &patch, now, self.version);
    }

    fn show(&self) -> Value {
        let mut shown = self.values.clone();
        let mut metadata = self.metadata.clone();
        metadata.insert("$lastUpdated".to_owned(), json!(self.updated.to_string()));
        shown.insert("$metadata".to_owned(), Value::Object(metadata));
        shown.insert("$version".to_owned(), json!(self.version.max(1)));
        Value::Object(shown)
    }
}

fn merge(values: &mut Object, patch: &Object) {
    for (name, value) in patch {
        match (values.get_mut(name), value) {
            (_, Value::Null) => {
                values.remove(name);
            }
            (Some(Value::Object(inner)), Value::Object(patch)) => merge(inner, patch),
            (_, Value::Object(patch)) => {
                let mut inner = Object::new();
                merge(&mut inner, patch);
                values.insert(name.clone(), Value::Object(inner));
            }
            (_, value) => {
                values.insert(name.clone(), value.clone());
            }
        }
    }
}

fn stamp(metadata: &mut Object, patch: &Object, now: Time, version: u64) {
    for (name, value) in patch {
        if value.is_null() {
            metadata.remove(name);
            continue;
        }
        let entry = metadata.entry(name.clone()).or_insert_with(|| json!({}));
        if let Value::Object(entry) = entry {
            entry.insert("$lastUpdated".to_owned(), json!(now.to_string()));
            entry.insert("$lastUpdatedVersion".to_owned(), json!(version));
            if let Value::Object(inner) = value {
                stamp(entry, inner, now, version);
            }
        }
    }
}

fn check_object(values: &Object, level: usize) -> Result<(), HubRefusal> {
    if level > LEVELS_MAX {
        return Err(too_deep());
    }
    for (name, value) in values {
        let illegal = |c: char| c.is_control() || ".$# ".contains(c);
        if name.len() > KEY_BYTES_MAX || name.is_empty() || name.contains(illegal) {
            return Err(HubRefusal::argument("A key of a twin is too long, or holds one of . $ # space"));
        }
        check_value(value, level)?;
    }
    Ok(())
}

fn too_deep() -> HubRefusal {
    HubRefusal::argument(format!("A twin section has more than {LEVELS_MAX} levels"))
}

/// How large an integer is, either way; none for a fraction.
fn magnitude(number: &serde_json::Number) -> Option<u64> {
    number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs))
}

fn check_value(value: &Value, level: usize) -> Result<(), HubRefusal> {
    match value {
        Value::String(text) if text.len() > TEXT_BYTES_MAX => {
            Err(HubRefusal::argument(format!("A text of a twin has more than {TEXT_BYTES_MAX} bytes")))
        }
        Value::Number(number) if magnitude(number).is_some_and(|n| n > INTEGER_MAX) => {
            Err(HubRefusal::argument("An integer of a twin is out of its bounds"))
        }
        Value::Array(_) if level >= LEVELS_MAX => Err(too_deep()),
        Value::Array(values) => values.iter().try_for_each(|value| check_value(value, level + 1)),
        Value::Object(values) => check_object(values, level + 1),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        value.as_object().cloned().unwrap()
    }

    const NOW: Time = Time::from_unix_seconds(1_700_000_000);

    #[test]
    fn a_patch_merges_and_null_deletes() {
        let mut twin = Twin::new(Some(&object(json!({"tags": {"a": {"b": 1, "c": 2}}}))), NOW);
        twin.patch(Some(&object(json!({"a": {"b": null, "d": 3}}))), Some(&object(json!({"x": 1}))), NOW)
            .unwrap();
        assert_eq!(twin.tags(), json!({"a": {"c": 2, "d": 3}}));
        assert_eq!(twin.find(&["tags", "a", "d"]), Some(json!(3)));
        assert_eq!(twin.find(&["properties", "desired", "x"]), Some(json!(1)));
        assert_eq!(twin.etag(), "AAAAAAAAAAI=");
        assert_eq!(twin.properties()["desired"]["$version"], 1);
        twin.replace(None, Some(&object(json!({"y": 2}))), NOW).unwrap();
        assert_eq!(twin.tags(), json!({}));
        assert_eq!(twin.find(&["properties", "desired", "x"]), None);
        assert_eq!(twin.properties()["desired"]["$version"], 2);
    }

    #[test]
    fn what_no_hub_takes_changes_nothing() {
        let mut twin = Twin::new(None, NOW);
        let deep = (0..11).fold(json!(1), |inner, _| json!({ "a": inner }));
        let lists = (0..10).fold(json!(1), |inner, _| json!([inner]));
        for bad in [
            json!({"a": i64::MIN}),
            json!({"a": u64::MAX}),
            json!({"a": -(1i64 << 52)}),
            json!({"a": lists}),
            json!({"a b": 1}),
            json!({"a.b": 1}),
            json!({"a": 1i64 << 53}),
            deep,
            json!({"a": "x".repeat(5_000)}),
        ] {
            assert!(twin.patch(Some(&object(bad.clone())), None, NOW).is_err(), "{bad}");
        }
        assert_eq!(twin.tags(), json!({}));
        assert_eq!(twin.version, 1);
    }

    #[test]
    fn what_is_just_within_the_bounds_is_taken() {
        let mut twin = Twin::new(None, NOW);
        let lists = (0..9).fold(json!(1), |inner, _| json!([inner]));
        let deep = (0..10).fold(json!(1), |inner, _| json!({ "a": inner }));
        for good in
            [json!({"a": (1i64 << 52) - 1}), json!({"a": 1 - (1i64 << 52)}), json!({"a": lists}), deep]
        {
            twin.patch(Some(&object(good)), None, NOW).unwrap();
        }
    }

    #[test]
    fn an_initial_twin_is_held_to_the_bounds_of_twins() {
        let check = |initial: Value| Twin::check_initial(&object(initial));
        check(json!({"tags": {"a": 1}, "properties": {"desired": {"b": [1], "$version": 1}}})).unwrap();
        check(json!({"tags": null})).unwrap();
        for bad in [
            json!({"tags": {"a.b": 1}}),
            json!({"tags": []}),
            json!({"properties": 1}),
            json!({"properties": {"desired": "x"}}),
            json!({"properties": {"desired": {"a": i64::MIN}}}),
            json!({"tags": {"a": "x".repeat(4_000), "b": "x".repeat(4_000), "c": "x".repeat(4_000)}}),
        ] {
            assert!(check(bad.clone()).is_err(), "{bad}");
        }
    }
}
