use serde_json::{Value, json};

use super::rules::{Broken, Match, matched};
use super::{State, Told, refused};
use crate::stage::{Act, Seen};

const NOW: &str = "2026-01-01T00:00:00Z";

pub fn answer(state: &mut State, seen: &Seen, segments: &[&str]) -> Told {
    let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    match (seen.method.as_str(), segments) {
        ("GET", ["registrations", id]) => match state.registrations.get(&id.to_lowercase()) {
            Some(registration) => (200, registration["state"].clone()),
            None => refused(404, 404_202, "Registration not found."),
        },
        ("DELETE", ["registrations", id]) => match state.registrations.remove(&id.to_lowercase()) {
            Some(_) => (204, Value::Null),
            None => refused(404, 404_202, "Registration not found."),
        },
        ("POST", ["enrollments"]) => bulk(state, &body),
        (_, ["enrollments", id, ..]) => one(state, seen, false, id, segments.len() == 3, body),
        (_, ["enrollmentGroups", id, ..]) => one(state, seen, true, id, segments.len() == 3, body),
        _ => (405, Value::Null),
    }
}

/// Reads and changes one enrollment or group.
fn one(state: &mut State, seen: &Seen, is_group: bool, id: &str, wants_keys: bool, body: Value) -> Told {
    let (missing, exists) = if is_group { (404_204, 409_202) } else { (404_201, 409_201) };
    let id = id.to_lowercase();
    let things = if is_group { &state.groups } else { &state.enrollments };
    let found = things.get(&id).cloned();
    let stale_is_good = state.is_broken(Broken::StaleEtagAccepted);
    match (seen.method.as_str(), found) {
        ("POST", Some(thing)) if wants_keys => (200, thing["attestation"].clone()),
        ("GET", Some(mut thing)) => {
            if !state.is_broken(Broken::KeysInReads) {
                thing["attestation"] = json!({"type": "symmetricKey"});
            }
            if !is_group {
                let unassigned =
                    || json!({"registrationId": thing["registrationId"], "status": "unassigned"});
                thing["registrationState"] =
                    state.registrations.get(&id).map_or_else(unassigned, |found| found["state"].clone());
            }
            (200, thing)
        }
        ("PUT", found) => match matched(seen, found.as_ref(), stale_is_good) {
            Match::Exists if !state.is_broken(Broken::CreateReplaces) => refused(409, exists, "exists"),
            Match::Missing => refused(404, missing, "missing"),
            Match::Stale => refused(412, 412_001, "stale"),
            Match::Good | Match::Exists => {
                if state.is_broken(Broken::MovesAtOnce) {
                    super::device_api::follow(state, &id);
                }
                (200, store(state, is_group, id, found.as_ref(), body))
            }
        },
        ("DELETE", found) => match matched(seen, found.as_ref(), stale_is_good) {
            Match::Missing => refused(404, missing, "missing"),
            Match::Stale => refused(412, 412_001, "stale"),
            Match::Good | Match::Exists => {
                if !state.is_broken(Broken::DeleteKeeps) {
                    if is_group {
                        state.groups.remove(&id)
                    } else {
                        state.enrollments.remove(&id)
                    };
                }
                (204, Value::Null)
            }
        },
        _ => refused(404, missing, "missing"),
    }
}

fn store(state: &mut State, is_group: bool, id: String, before: Option<&Value>, mut thing: Value) -> Value {
    if thing["attestation"].get("symmetricKey").is_none() {
        let (primary, secondary) = (state.key(), state.key());
        thing["attestation"]["symmetricKey"] = json!({"primaryKey": primary, "secondaryKey": secondary});
    }
    thing["etag"] = state.etag().into();
    thing["createdDateTimeUtc"] = before.map_or(NOW.into(), |before| before["createdDateTimeUtc"].clone());
    thing["lastUpdatedDateTimeUtc"] = NOW.into();
    let things = if is_group { &mut state.groups } else { &mut state.enrollments };
    things.insert(id, thing.clone());
    thing
}

fn bulk(state: &mut State, body: &Value) -> Told {
    let mut errors = Vec::new();
    for item in body["enrollments"].as_array().cloned().unwrap_or_default() {
        let id = item["registrationId"].as_str().unwrap_or_default().to_lowercase();
        let before = state.enrollments.get(&id).cloned();
        let failed = match (body["mode"].as_str(), &before) {
            (Some("create"), None) => None,
            (Some("updateIfMatchETag"), Some(before)) if before["etag"] == item["etag"] => None,
            (Some("updateIfMatchETag"), Some(_)) => Some(412_001),
            (Some("delete"), Some(_)) => None,
            (Some("create"), Some(_)) => Some(409_201),
            _ => Some(404_201),
        };
        match (failed, body["mode"].as_str()) {
            (Some(code), _) => {
                errors.push(
                    json!({"registrationId": item["registrationId"], "errorCode": code, "errorStatus": "no"}),
                );
            }
            (None, Some("delete")) => drop(state.enrollments.remove(&id)),
            (None, _) => drop(store(state, false, id, before.as_ref(), item)),
        }
    }
    if state.is_broken(Broken::BulkHidesClash) {
        errors.clear();
    }
    (200, json!({"isSuccessful": errors.is_empty(), "errors": errors}))
}

/// Pages by number: the token is how many rows are behind.
pub fn query(state: &State, seen: &Seen, at: &str, segments: &[&str]) -> Act {
    let (kind, rows): (_, Vec<Value>) = match segments {
        ["enrollments", _] => ("Enrollment", state.enrollments.values().map(bare).collect()),
        ["enrollmentGroups", _] => ("EnrollmentGroup", state.groups.values().map(bare).collect()),
        ["registrations", group, _] => {
            let of_group =
                |found: &&Value| found["group"].as_str().is_some_and(|of| of.eq_ignore_ascii_case(group));
            let states = state.registrations.values().filter(of_group).map(|found| found["state"].clone());
            ("DeviceRegistration", states.collect())
        }
        _ => ("Twin", state.hubs[at].1.values().cloned().collect()),
    };
    let size: usize = seen.header("x-ms-max-item-count").map_or(100, |size| size.parse().unwrap());
    let behind: usize = seen.header("x-ms-continuation").map_or(0, |token| token.parse().unwrap());
    let from = if state.is_broken(Broken::PageTwice) && behind == size { 0 } else { behind };
    let page: Vec<Value> = rows.iter().skip(from).take(size).cloned().collect();
    let act = crate::stage::json(200, Value::from(page).to_string()).with("x-ms-item-type", kind);
    if behind + size < rows.len() { act.with("x-ms-continuation", &(behind + size).to_string()) } else { act }
}

fn bare(thing: &Value) -> Value {
    let mut thing = thing.clone();
    thing["attestation"] = json!({"type": "symmetricKey"});
    thing
}
