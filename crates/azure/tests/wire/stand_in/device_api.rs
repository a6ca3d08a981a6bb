use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::rules::{Broken, is_signed};
use super::{HUB_B, SCOPE, State, Told, hub_api, refused};
use crate::stage::{HUB, Seen};

const NOW: &str = "2026-01-01T00:00:00Z";
const OPERATION: &str = "5.316aac5bdc130deb.b1e02da8-c3a0-4ff2-a121-7ea7a6b7f550";

pub fn answer(state: &mut State, seen: &Seen, segments: &[&str]) -> Told {
    let [SCOPE, "registrations", id, rest @ ..] = segments else { return (404, Value::Null) };
    let lower = id.to_lowercase();
    let Some((permit, group, key)) = permit(state, &lower) else {
        return refused(404, 404_204, "Not Found.");
    };
    if !is_signed(seen, &format!("{SCOPE}/registrations/{id}"), &key) {
        return refused(401, 401_002, "Unauthorized");
    }
    match rest {
        ["register"]
            if permit["provisioningStatus"] == "disabled" && !state.is_broken(Broken::DisabledRegisters) =>
        {
            let told = json!({"registrationId": id, "status": "disabled"});
            (200, json!({"operationId": "", "status": "disabled", "registrationState": told}))
        }
        ["register"] => {
            assign(state, id, &permit, group);
            if state.is_slow && !state.is_broken(Broken::NeverAssigning) {
                state.under_way.insert(lower, 2);
                return (202, json!({"operationId": OPERATION, "status": "assigning"}));
            }
            (200, done(state, &lower))
        }
        ["operations", _] => match state.under_way.get_mut(&lower) {
            Some(polls) if *polls > 0 => {
                *polls -= 1;
                (202, json!({"operationId": OPERATION, "status": "assigning"}))
            }
            _ => (200, done(state, &lower)),
        },
        _ => match state.registrations.get(&lower) {
            Some(found) => (200, found["state"].clone()),
            None => refused(404, 404_202, "Not Found."),
        },
    }
}

fn done(state: &State, id: &str) -> Value {
    json!({"operationId": OPERATION, "status": "assigned", "registrationState": state.registrations[id]["state"]})
}

/// What permits a device, its group if that does, and its key.
fn permit(state: &State, id: &str) -> Option<(Value, Option<String>, String)> {
    let primary =
        |thing: &Value| thing["attestation"]["symmetricKey"]["primaryKey"].as_str().unwrap().to_owned();
    if let Some(own) = state.enrollments.get(id) {
        return Some((own.clone(), None, primary(own)));
    }
    // The stand-in knows members of groups by their names.
    let (name, group) = state.groups.iter().next().filter(|_| id.contains("member"))?;
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &STANDARD.decode(primary(group)).unwrap());
    let derived = STANDARD.encode(ring::hmac::sign(&key, id.as_bytes()));
    Some((group.clone(), Some(name.clone()), derived))
}

/// Chooses a hub, and moves the device there by its policy.
fn assign(state: &mut State, id: &str, permit: &Value, group: Option<String>) {
    let lower = id.to_lowercase();
    let wanted = permit["iotHubs"][0].as_str().unwrap_or(HUB).to_owned();
    let name = permit["deviceId"].as_str().unwrap_or(id).to_owned();
    let before = state
        .registrations
        .get(&lower)
        .map(|found| found["state"]["assignedHub"].as_str().unwrap().to_owned());
    let policy = &permit["reprovisionPolicy"];
    let never = policy["updateHubAssignment"] == false && !state.is_broken(Broken::NeverMoves);
    let (to, substatus) = match before {
        None => (wanted, "initialAssignment"),
        Some(hub) if hub == wanted || never => (hub, "initialAssignment"),
        Some(hub) => {
            let twin = state.hubs[&hub].1[&name].clone();
            if !state.is_broken(Broken::StaysInOldHub) {
                let (devices, twins) = state.hubs.get_mut(&hub).unwrap();
                devices.remove(&name);
                twins.remove(&name);
            }
            if policy["migrateDeviceData"] == false {
                let mut fresh = twin;
                fresh["tags"] = permit["initialTwin"]["tags"].clone();
                state.hubs.get_mut(&wanted).unwrap().1.insert(name.clone(), fresh);
                (wanted, "deviceDataReset")
            } else {
                state.hubs.get_mut(&wanted).unwrap().1.insert(name.clone(), twin);
                (wanted, "deviceDataMigrated")
            }
        }
    };
    if !state.hubs[&to].0.contains_key(&name) {
        hub_api::store(state, &to, &name, json!({"deviceId": name}));
    }
    let etag = state.etag();
    let told = json!({
        "registrationId": id, "createdDateTimeUtc": NOW, "assignedHub": to, "deviceId": name, "status": "assigned",
        "substatus": substatus, "lastUpdatedDateTimeUtc": NOW, "etag": etag,
    });
    state.registrations.insert(lower, json!({"state": told, "group": group}));
}

/// Breaks the rule that a registration names its hub until the device comes back.
pub fn follow(state: &mut State, id: &str) {
    if let Some(found) = state.registrations.get_mut(id) {
        found["state"]["assignedHub"] = HUB_B.into();
    }
}
