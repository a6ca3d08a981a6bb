use serde_json::{Value, json};

use super::rules::{Broken, Match, matched, merge};
use super::{State, Told};
use crate::stage::Seen;

fn refused(status: u16, name: &str) -> Told {
    (status, json!({"hubName": name, "Message": format!("ErrorCode:{name};no"), "ExceptionMessage": ""}))
}

pub fn answer(state: &mut State, seen: &Seen, at: &str, segments: &[&str]) -> Told {
    let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    let id = segments.get(1).copied().unwrap_or_default().to_owned();
    match (seen.method.as_str(), segments) {
        ("GET", ["statistics", "devices"]) => {
            let all = state.hubs[at].0.len();
            (200, json!({"totalDeviceCount": all, "enabledDeviceCount": all, "disabledDeviceCount": 0}))
        }
        ("GET", ["statistics", _]) => (200, json!({"connectedDeviceCount": state.online.len()})),
        ("POST", ["devices"]) => bulk(state, at, &body),
        (_, ["devices", _]) => identity(state, seen, at, &id, body),
        ("POST", ["twins", _, "methods"]) => method(state, at, &id, &body),
        (_, ["twins", _]) => twin(state, seen, at, &id, &body),
        _ => (405, Value::Null),
    }
}

/// Makes or replaces an identity, and makes its twin.
pub fn store(state: &mut State, at: &str, id: &str, mut identity: Value) -> Value {
    let keys = &identity["authentication"]["symmetricKey"];
    if keys.get("primaryKey").is_none_or(|key| key == "") {
        let (primary, secondary) = (state.key(), state.key());
        identity["authentication"] =
            json!({"type": "sas", "symmetricKey": {"primaryKey": primary, "secondaryKey": secondary}});
    }
    if identity.get("status").is_none() {
        identity["status"] = "enabled".into();
    }
    identity["etag"] = state.etag().into();
    let etag = state.etag();
    let (devices, twins) = state.hubs.get_mut(at).unwrap();
    devices.insert(id.to_owned(), identity.clone());
    twins.entry(id.to_owned()).or_insert_with(
        || json!({"deviceId": id, "etag": etag, "tags": {}, "properties": {"desired": {}, "reported": {}}}),
    );
    identity
}

fn identity(state: &mut State, seen: &Seen, at: &str, id: &str, body: Value) -> Told {
    let devices = &state.hubs[at].0;
    let mut found = devices.get(id).cloned();
    if state.is_broken(Broken::DeviceCase) {
        found = found.or_else(|| {
            devices.iter().find(|(name, _)| name.eq_ignore_ascii_case(id)).map(|(_, d)| d.clone())
        });
    }
    if seen.method == "GET" {
        return found.map_or_else(|| refused(404, "DeviceNotFound"), |found| (200, found));
    }
    match matched(seen, found.as_ref(), false) {
        Match::Exists => refused(409, "DeviceAlreadyExists"),
        Match::Missing => refused(404, "DeviceNotFound"),
        Match::Stale => refused(412, "PreconditionFailed"),
        Match::Good if seen.method == "PUT" => (200, store(state, at, id, body)),
        Match::Good => {
            let (devices, twins) = state.hubs.get_mut(at).unwrap();
            devices.remove(id);
            twins.remove(id);
            (204, Value::Null)
        }
    }
}

fn bulk(state: &mut State, at: &str, body: &Value) -> Told {
    let mut errors = Vec::new();
    for item in body.as_array().cloned().unwrap_or_default() {
        let id = item["id"].as_str().unwrap_or_default();
        let exists = state.hubs[at].0.contains_key(id);
        match (item["importMode"].as_str(), exists) {
            (Some("create"), false) => drop(store(state, at, id, json!({"deviceId": id}))),
            (Some("delete"), true) => {
                let (devices, twins) = state.hubs.get_mut(at).unwrap();
                devices.remove(id);
                twins.remove(id);
            }
            _ => {
                errors.push(json!({"deviceId": id, "errorCode": "DeviceAlreadyExists", "errorStatus": "no"}))
            }
        }
    }
    let status = if errors.is_empty() { 200 } else { 400 };
    (status, json!({"isSuccessful": errors.is_empty(), "errors": errors, "warnings": []}))
}

fn method(state: &State, at: &str, id: &str, body: &Value) -> Told {
    let is_enabled = state.hubs[at].0.get(id).is_some_and(|device| device["status"] == "enabled");
    if !is_enabled || (state.is_broken(Broken::OfflineNotFound) && !state.online.contains(id)) {
        return refused(404, "DeviceNotFound");
    }
    if !state.online.contains(id) {
        let inner = json!({"errorCode": 404_103, "message": "not online", "trackingId": "0f1e"}).to_string();
        return (404, json!({"hubName": "DeviceNotOnline", "Message": inner, "ExceptionMessage": ""}));
    }
    (200, json!({"status": 200, "payload": body["payload"]}))
}

fn twin(state: &mut State, seen: &Seen, at: &str, id: &str, body: &Value) -> Told {
    let Some(mut found) = state.hubs[at].1.get(id).cloned() else { return refused(404, "DeviceNotFound") };
    if seen.method == "GET" {
        return (200, found);
    }
    if seen.header("if-match").is_some() && !matches!(matched(seen, Some(&found), false), Match::Good) {
        return refused(412, "PreconditionFailed");
    }
    let empty = json!({});
    let tags = body.get("tags").unwrap_or(&empty);
    let desired = body["properties"].get("desired").unwrap_or(&empty);
    if seen.method == "PUT" || state.is_broken(Broken::PatchReplaces) {
        found["tags"] = tags.clone();
        found["properties"]["desired"] = desired.clone();
    } else {
        merge(&mut found["tags"], tags);
        merge(&mut found["properties"]["desired"], desired);
    }
    found["etag"] = state.etag().into();
    state.hubs.get_mut(at).unwrap().1.insert(id.to_owned(), found.clone());
    (200, found)
}
