//! Bodies as they were recorded from the live services, or as their documents show them: ours have the same keys, no
//! more and no fewer, the same types and the same spellings.

use berth_emulator::Command;
use serde_json::{Value, json};

use crate::support::*;

/// Fields whose value belongs to the shape.
const EXACT: [&str; 9] = [
    "status",
    "substatus",
    "type",
    "errorCode",
    "isSuccessful",
    "connectionState",
    "endpointStatus",
    "message",
    "operation",
];

fn recorded(name: &str) -> Value {
    let path = format!("{}/tests/bodies/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// What a text looks like: a time, a GUID, an operation ID, or a text with its words.
fn look(text: &str) -> String {
    let mut look = String::new();
    for (at, word) in text.split(|c: char| !c.is_ascii_alphanumeric()).enumerate() {
        if at > 0 {
            look.push('.');
        }
        if word.len() > 3 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            look.push_str(&format!("x{}", word.len()));
        }
    }
    look
}

fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    text.len() >= 20 && text.ends_with('Z') && bytes[4] == b'-' && bytes[10] == b'T' && bytes[13] == b':'
}

#[track_caller]
fn compare(path: &str, recorded: &Value, ours: &Value) {
    match (recorded, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(a), keys(b), "keys of {path}");
            for (name, value) in a {
                let path = format!("{path}/{name}");
                if EXACT.contains(&name.as_str()) && !value.is_object() {
                    assert_eq!(value, &b[name], "{path}");
                }
                compare(&path, value, &b[name]);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.is_empty(), b.is_empty(), "{path}");
            for ours in b {
                compare(&format!("{path}[]"), &a[0], ours);
            }
        }
        (Value::String(a), Value::String(b)) if path.ends_with("/Message") && a.starts_with('{') => {
            compare(path, &serde_json::from_str(a).unwrap(), &serde_json::from_str(b).unwrap());
        }
        (Value::String(a), Value::String(b)) if path.ends_with("/Message") => {
            assert_eq!(a.split(';').next(), b.split(';').next(), "{path}");
        }
        (Value::String(a), Value::String(b)) => {
            assert_eq!(is_time(a), is_time(b), "{path}: {a} {b}");
            if path.ends_with("/trackingId") || path.ends_with("/operationId") {
                assert_eq!(look(a).len(), look(b).len(), "{path}: {a} {b}");
            }
        }
        (Value::Number(_), Value::Number(_))
        | (Value::Bool(_), Value::Bool(_))
        | (Value::Null, Value::Null) => {}
        _ => panic!("{path}: recorded {recorded}, ours {ours}"),
    }
}

#[track_caller]
fn same(name: &str, ours: &Value) {
    compare(name, &recorded(name), ours);
}

#[test]
fn the_comparison_can_fail() {
    let differs = |a: Value, b: Value| std::panic::catch_unwind(|| compare("", &a, &b)).is_err();
    assert!(differs(json!({ "a": 1 }), json!({ "a": 1, "b": null })));
    assert!(differs(json!({ "a": 1, "b": null }), json!({ "a": 1 })));
    assert!(differs(json!({ "a": 1 }), json!({ "a": "1" })));
    assert!(differs(json!({ "status": "assigned" }), json!({ "status": "Assigned" })));
    assert!(differs(json!({ "at": "2020-04-10T03:11:13Z" }), json!({ "at": "now" })));
    assert!(!differs(json!({ "at": "2020-04-10T03:11:13.1Z" }), json!({ "at": "2021-04-10T03:11:13Z" })));
}

#[tokio::test]
async fn bodies_of_the_dps_service_api() {
    let stage = Stage::new().await;
    stage.enroll("dev1", json!({ "iotHubs": [HUB_A] })).await;
    let enrollment = stage.call("GET", DPS, "/enrollments/dev1", ask()).await.body;
    same("dps_unregistered_state", &enrollment["registrationState"]);
    stage.register("dev1", &key()).await;
    same("dps_registration_state", &stage.call("GET", DPS, "/registrations/dev1", ask()).await.body);
    let item = json!({ "registrationId": "dev1", "attestation": { "type": "symmetricKey" } });
    let other = json!({ "registrationId": "dev2", "attestation": { "type": "symmetricKey" } });
    let bulk = |item: &Value| ask().body(json!({ "mode": "create", "enrollments": [item] }));
    same("dps_bulk_success", &stage.call("POST", DPS, "/enrollments", bulk(&other)).await.body);
    same("dps_bulk_clash", &stage.call("POST", DPS, "/enrollments", bulk(&item)).await.body);
    let group = json!({ "enrollmentGroupId": "g", "attestation": { "type": "symmetricKey" } });
    let bulk = ask().body(json!({ "mode": "create", "enrollmentGroups": [group] }));
    stage.call("POST", DPS, "/enrollmentGroups", bulk.clone()).await;
    same("dps_bulk_group_clash", &stage.call("POST", DPS, "/enrollmentGroups", bulk).await.body);
    let stranger = ask().with("authorization", "Bearer nobody");
    same("dps_error_401", &stage.call("GET", DPS, "/enrollments/dev1", stranger).await.expect(401).body);
    same("dps_error_404", &stage.call("GET", DPS, "/enrollmentGroups/none", ask()).await.expect(404).body);
    stage.command(Command::Throttle { enabled: true, factor: 0.001 }).await;
    stage.call("GET", DPS, "/enrollments/dev1", ask()).await;
    same("dps_error_429", &stage.call("GET", DPS, "/enrollments/dev1", ask()).await.expect(429).body);
}

#[tokio::test]
async fn bodies_of_the_device_api() {
    let stage = Stage::new().await;
    stage.enroll("dev1", json!({})).await;
    let begun = stage.device("PUT", "dev1", "/register", &key(), json!({})).await.body;
    same("device_registering", &begun);
    let rest = format!("/operations/{}", begun["operationId"].as_str().unwrap());
    same("device_polling", &stage.device("GET", "dev1", &rest, &key(), json!({})).await.body);
    let clash = stage.device("PUT", "dev1", "/register", &key(), json!({})).await.expect(409).body;
    same("dps_error_409", &clash);
    stage.advance_ms(2_000);
    same("device_assigned_individual", &stage.device("GET", "dev1", &rest, &key(), json!({})).await.body);

    let keys = json!({ "primaryKey": KEY, "secondaryKey": KEY });
    let group =
        json!({ "enrollmentGroupId": "g", "attestation": { "type": "symmetricKey", "symmetricKey": keys } });
    stage.call("PUT", DPS, "/enrollmentGroups/g", ask().body(group)).await.expect(200);
    let mac = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key());
    let derived = ring::hmac::sign(&mac, b"dev2").as_ref().to_vec();
    same("device_assigned_group", &stage.register("dev2", &derived).await);

    // Nobody listens on port 9: the webhook answers as a gateway that reaches nobody.
    let definition = json!({ "webhookUrl": "http://127.0.0.1:9/", "apiVersion": "2021-10-01" });
    stage
        .enroll("dev3", json!({ "allocationPolicy": "custom", "customAllocationDefinition": definition }))
        .await;
    stage.command(Command::Throttle { enabled: false, factor: 1.0 }).await;
    let begun = stage.device("PUT", "dev3", "/register", &key(), json!({})).await.body;
    let rest = format!("/operations/{}", begun["operationId"].as_str().unwrap());
    let failed = loop {
        let polled = stage.device("GET", "dev3", &rest, &key(), json!({})).await;
        if polled.status == 200 {
            break polled.body;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        stage.advance_ms(5_000);
    };
    same("device_failed", &failed);
    stage.enroll("dev1", json!({ "provisioningStatus": "disabled" })).await;
    same("device_disabled", &stage.device("PUT", "dev1", "/register", &key(), json!({})).await.body);
}

#[tokio::test]
async fn bodies_of_a_hub() {
    let stage = Stage::new().await;
    let call = |method: &'static str, path: &'static str, ask: Ask| stage.call(method, HUB_A, path, ask);
    same("hub_device_not_found", &call("GET", "/devices/sensor-1", ask()).await.body);
    let made = call("PUT", "/devices/sensor-1", ask().body(json!({ "deviceId": "sensor-1" })))
        .await
        .expect(200)
        .body;
    same("hub_device", &made);
    let again =
        call("PUT", "/devices/sensor-1", ask().body(json!({ "deviceId": "sensor-1" }))).await.expect(409);
    assert_eq!(again.header("iothub-errorcode"), Some("DeviceAlreadyExists"));
    same("hub_device_exists", &again.body);
    same("hub_twin", &call("GET", "/twins/sensor-1", ask()).await.body);
    let bulk = ask().body(json!([{ "id": "sensor-1", "importMode": "create" }]));
    same("hub_bulk_failed", &call("POST", "/devices", bulk).await.expect(400).body);
    let module = || ask().body(json!({ "deviceId": "sensor-1", "moduleId": "telemetry" }));
    call("PUT", "/devices/sensor-1/modules/telemetry", module()).await.expect(200);
    same(
        "hub_module_exists",
        &call("PUT", "/devices/sensor-1/modules/telemetry", module()).await.expect(409).body,
    );
    same("hub_device_statistics", &call("GET", "/statistics/devices", ask()).await.body);
    same("hub_purge", &call("DELETE", "/devices/sensor-1/commands", ask()).await.body);
    let method =
        || ask().body(json!({ "methodName": "m", "payload": { "in": 5 }, "responseTimeoutInSeconds": 5 }));
    same("hub_method_offline", &call("POST", "/twins/sensor-1/methods", method()).await.expect(404).body);
    same("hub_method_missing", &call("POST", "/twins/sensor-2/methods", method()).await.expect(404).body);
    stage.command(Command::Connect { hub: HUB_A.into(), device: "sensor-1".into() }).await;
    same("hub_method_answered", &call("POST", "/twins/sensor-1/methods", method()).await.expect(200).body);
}

#[tokio::test]
async fn bodies_of_arm() {
    let stage = Stage::new().await;
    let profile =
        "/subscriptions/s-1/resourceGroups/g-1/providers/Microsoft.Network/trafficManagerProfiles/fleet";
    same(
        "arm_endpoint",
        &stage.call("GET", ARM, &format!("{profile}/externalEndpoints/a"), ask()).await.body,
    );
    same(
        "arm_error",
        &stage.call("GET", ARM, &format!("{profile}/externalEndpoints/z"), ask()).await.expect(404).body,
    );
}
