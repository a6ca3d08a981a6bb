//! The device API: registering, and moving from hub to hub.

use std::sync::Arc;

use berth_emulator::{Command, FailedRegistration, Moving, RegisterWhileAssigning};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::*;

async fn hub_of(stage: &Stage, id: &str) -> [u16; 2] {
    let path = format!("/devices/{id}");
    [stage.call("GET", HUB_A, &path, ask()).await.status, stage.call("GET", HUB_B, &path, ask()).await.status]
}

#[tokio::test]
async fn a_device_registers_by_its_individual_key() {
    let stage = Stage::new().await;
    let more = json!({ "iotHubs": [HUB_A], "deviceId": "Pump#1", "capabilities": { "iotEdge": true },
        "initialTwin": { "tags": { "ring": 1 }, "properties": { "desired": { "on": true } } } });
    stage.enroll("Dev-1", more).await;
    let begun = stage
        .device("PUT", "dev-1", "/register", &key(), json!({ "registrationId": "dev-1" }))
        .await
        .expect(202);
    assert_eq!(begun.header("retry-after"), Some("3"));
    assert_eq!(
        begun.header("location"),
        Some(&*format!("https://{GLOBAL}/{SCOPE}/registrations/dev-1/register"))
    );
    assert_eq!(begun.body["status"], "assigning");
    let operation = begun.body["operationId"].as_str().unwrap();
    let rest = format!("/operations/{operation}");
    let running = stage.device("GET", "dev-1", &rest, &key(), json!({})).await.expect(202);
    assert_eq!(
        running.body["registrationState"],
        json!({ "registrationId": "Dev-1", "status": "assigning" })
    );
    assert_eq!(hub_of(&stage, "Pump%231").await, [404, 404]);
    stage.advance_ms(1_000);
    let done = stage.device("GET", "dev-1", &rest, &key(), json!({})).await.expect(200).body;
    assert_eq!(done["status"], "assigned");
    let state = &done["registrationState"];
    assert_eq!(state["assignedHub"], HUB_A);
    assert_eq!(state["deviceId"], "Pump#1");
    assert_eq!(state["substatus"], "initialAssignment");
    assert_eq!(state["symmetricKey"], json!({}));
    assert_eq!(hub_of(&stage, "Pump%231").await, [200, 404]);
    let twin = stage.call("GET", HUB_A, "/twins/Pump%231", ask()).await.expect(200).body;
    assert_eq!((&twin["tags"]["ring"], &twin["properties"]["desired"]["on"]), (&json!(1), &json!(true)));
    let record = stage.call("GET", DPS, "/registrations/DEV-1", ask()).await.expect(200).body;
    assert_eq!(record["status"], "assigned");
    let enrollment = stage.call("GET", DPS, "/enrollments/dev-1", ask()).await.body;
    assert_eq!(enrollment["registrationState"], record);
    let looked_up =
        stage.device("POST", "dev-1", "", &key(), json!({ "registrationId": "dev-1" })).await.expect(200);
    assert_eq!(looked_up.body, done["registrationState"], "a look-up tells of no operation");
    stage.device("GET", "dev-1", "/operations/other", &key(), json!({})).await.expect(404);
}

#[tokio::test]
async fn a_device_registers_by_a_derived_key() {
    let stage = Stage::new().await;
    let keys = json!({ "primaryKey": KEY, "secondaryKey": KEY });
    let group =
        json!({ "enrollmentGroupId": "g", "attestation": { "type": "symmetricKey", "symmetricKey": keys } });
    assert_eq!(
        stage.device("PUT", "dev-1", "/register", &key(), json!({})).await.expect(404).body["errorCode"],
        404_204
    );
    stage.call("PUT", DPS, "/enrollmentGroups/g", ask().body(group)).await.expect(200);
    let mac = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key());
    let derived = ring::hmac::sign(&mac, b"dev-1").as_ref().to_vec();
    assert_eq!(
        stage.device("PUT", "dev-1", "/register", &key(), json!({})).await.expect(401).body["errorCode"],
        401_002
    );
    let done = stage.register("dev-1", &derived).await;
    assert_eq!(done["registrationState"]["symmetricKey"], json!({ "enrollmentGroupId": "g" }));
    assert_eq!(done["registrationState"]["deviceId"], "dev-1");
    let rows = stage.call("POST", DPS, "/registrations/g/query", ask()).await.expect(200).body;
    assert_eq!(rows[0]["registrationId"], "dev-1");
    // An individual enrollment wins, and has another key.
    stage.enroll("dev-1", json!({})).await;
    stage.device("PUT", "dev-1", "/register", &derived, json!({})).await.expect(401);
    let done = stage.register("dev-1", &key()).await;
    assert_eq!(done["registrationState"]["symmetricKey"], json!({}));
}

#[tokio::test]
async fn changing_an_enrollment_moves_nothing_until_the_device_registers() {
    let stage = Stage::new().await;
    stage.enroll("dev-1", json!({ "iotHubs": [HUB_A] })).await;
    stage.register("dev-1", &key()).await;
    let patch = ask().body(json!({ "tags": { "kept": true } }));
    stage.call("PATCH", HUB_A, "/twins/dev-1", patch).await.expect(200);
    stage.enroll("dev-1", json!({ "iotHubs": [HUB_B] })).await;
    let record = stage.call("GET", DPS, "/registrations/dev-1", ask()).await.body;
    assert_eq!(record["assignedHub"], HUB_A);
    stage.advance_ms(600_000);
    assert_eq!(hub_of(&stage, "dev-1").await, [200, 404]);
    let moved = stage.register("dev-1", &key()).await;
    assert_eq!(moved["registrationState"]["assignedHub"], HUB_B);
    assert_eq!(moved["registrationState"]["substatus"], "deviceDataMigrated");
    assert_eq!(hub_of(&stage, "dev-1").await, [404, 200]);
    let twin = stage.call("GET", HUB_B, "/twins/dev-1", ask()).await.body;
    assert_eq!(twin["tags"], json!({ "kept": true }));
}

#[tokio::test]
async fn reset_starts_anew_and_never_stays() {
    let stage = Stage::new().await;
    let reset = json!({ "updateHubAssignment": true, "migrateDeviceData": false });
    let never = json!({ "updateHubAssignment": false, "migrateDeviceData": false });
    let twin = json!({ "tags": { "initial": 1 }, "properties": { "desired": {} } });
    stage.enroll("dev-1", json!({ "iotHubs": [HUB_A], "initialTwin": twin })).await;
    stage.register("dev-1", &key()).await;
    let tags = |hub| {
        let stage = &stage;
        async move { stage.call("GET", hub, "/twins/dev-1", ask()).await.expect(200).body["tags"].clone() }
    };
    let patch = ask().body(json!({ "tags": { "later": 2 } }));
    stage.call("PATCH", HUB_A, "/twins/dev-1", patch.clone()).await.expect(200);
    stage
        .enroll("dev-1", json!({ "iotHubs": [HUB_B], "initialTwin": twin, "reprovisionPolicy": never }))
        .await;
    let stays = stage.register("dev-1", &key()).await;
    assert_eq!(stays["registrationState"]["assignedHub"], HUB_A);
    assert_eq!(stays["registrationState"]["substatus"], "initialAssignment");
    assert_eq!(tags(HUB_A).await, json!({ "initial": 1, "later": 2 }));
    stage
        .enroll("dev-1", json!({ "iotHubs": [HUB_B], "initialTwin": twin, "reprovisionPolicy": reset }))
        .await;
    let moved = stage.register("dev-1", &key()).await;
    assert_eq!(moved["registrationState"]["substatus"], "deviceDataReset");
    assert_eq!(tags(HUB_B).await, json!({ "initial": 1 }));
    // On the same hub it is a factory reset.
    stage.call("PATCH", HUB_B, "/twins/dev-1", patch).await.expect(200);
    assert_eq!(stage.register("dev-1", &key()).await["registrationState"]["substatus"], "deviceDataReset");
    assert_eq!(tags(HUB_B).await, json!({ "initial": 1 }));
    assert_eq!(hub_of(&stage, "dev-1").await, [404, 200]);
}

#[tokio::test]
async fn where_a_device_is_while_it_moves_can_be_chosen() {
    for (moving, during, after) in [
        (Moving::Neither, [404, 404], [404, 200]),
        (Moving::Atomic, [200, 404], [404, 200]),
        (Moving::Both, [200, 404], [200, 200]),
    ] {
        let stage = Stage::new().await;
        stage.command(Command::Moving { dps: DPS.into(), moving, overlap_ms: 5_000 }).await;
        stage.enroll("dev-1", json!({ "iotHubs": [HUB_A] })).await;
        stage.register("dev-1", &key()).await;
        stage.enroll("dev-1", json!({ "iotHubs": [HUB_B] })).await;
        stage.device("PUT", "dev-1", "/register", &key(), json!({})).await.expect(202);
        assert_eq!(hub_of(&stage, "dev-1").await, during, "{moving:?}");
        stage.advance_ms(1_000);
        assert_eq!(hub_of(&stage, "dev-1").await, after, "{moving:?}");
        stage.advance_ms(5_000);
        assert_eq!(hub_of(&stage, "dev-1").await, [404, 200], "{moving:?}");
    }
}

#[tokio::test]
async fn a_record_that_was_deleted_is_found_again_in_the_hub() {
    let stage = Stage::new().await;
    stage.enroll("dev-1", json!({ "iotHubs": [HUB_A] })).await;
    stage.register("dev-1", &key()).await;
    stage.call("DELETE", DPS, "/registrations/dev-1", ask()).await.expect(204);
    assert_eq!(
        stage.call("GET", DPS, "/registrations/dev-1", ask()).await.expect(404).body["errorCode"],
        404_202
    );
    assert_eq!(hub_of(&stage, "dev-1").await, [200, 404]);
    let again = stage.register("dev-1", &key()).await;
    assert_eq!(again["registrationState"]["substatus"], "reprovisionedToInitialAssignment");
}

#[tokio::test]
async fn a_disabled_enrollment_answers_disabled_and_cuts_nothing() {
    let stage = Stage::new().await;
    stage.enroll("dev-1", json!({ "iotHubs": [HUB_A] })).await;
    stage.register("dev-1", &key()).await;
    stage.enroll("dev-1", json!({ "iotHubs": [HUB_A], "provisioningStatus": "disabled" })).await;
    let told = stage.device("PUT", "dev-1", "/register", &key(), json!({})).await.expect(200).body;
    let state = json!({ "registrationId": "dev-1", "status": "disabled" });
    assert_eq!(told, json!({ "operationId": "", "status": "disabled", "registrationState": state }));
    assert_eq!(hub_of(&stage, "dev-1").await, [200, 404]);
}

#[tokio::test]
async fn two_registers_at_a_time_conflict_unless_told_otherwise() {
    let stage = Stage::new().await;
    stage.enroll("dev-1", json!({})).await;
    stage.device("PUT", "dev-1", "/register", &key(), json!({})).await.expect(202);
    let second = stage.device("PUT", "dev-1", "/register", &key(), json!({})).await.expect(409).body;
    assert_eq!((&second["errorCode"], &second["message"]), (&json!(409_203), &json!("Precondition failed.")));

    let same = Stage::changed(|config| {
        config.switches.register_while_assigning = RegisterWhileAssigning::SameOperation;
    });
    let stage = same.await;
    stage.enroll("dev-1", json!({})).await;
    let first = stage.device("PUT", "dev-1", "/register", &key(), json!({})).await.expect(202).body;
    let second = stage.device("PUT", "dev-1", "/register", &key(), json!({})).await.expect(202).body;
    assert_eq!(first["operationId"], second["operationId"]);
}

#[tokio::test]
async fn hubs_are_allocated_by_the_enrollments_policy() {
    let stage = Stage::new().await;
    let hub = |id: &'static str, more: Value| {
        let stage = &stage;
        async move {
            stage.enroll(id, more).await;
            stage.register(id, &key()).await["registrationState"]["assignedHub"].clone()
        }
    };
    assert_eq!(hub("near", json!({ "allocationPolicy": "geoLatency" })).await, HUB_B);
    assert_eq!(hub("first", json!({ "allocationPolicy": "static" })).await, HUB_A);
    assert_eq!(hub("told", json!({ "allocationPolicy": "static", "iotHubs": [HUB_B, HUB_A] })).await, HUB_B);
    assert_eq!(hub("legacy", json!({ "iotHubHostName": HUB_B })).await, HUB_B);
    let hashed = hub("hashed", json!({})).await;
    assert_eq!(hub("hashed", json!({ "allocationPolicy": "hashed" })).await, hashed);
}

#[tokio::test]
async fn registers_and_polls_have_their_own_quotas() {
    let stage = Stage::new().await;
    stage.enroll("dev-1", json!({ "iotHubs": [HUB_A] })).await;
    let begun = stage.device("PUT", "dev-1", "/register", &key(), json!({})).await.expect(202).body;
    let rest = format!("/operations/{}", begun["operationId"].as_str().unwrap());
    for _ in 0..5 {
        stage.device("GET", "dev-1", &rest, &key(), json!({})).await.expect(202);
    }
    let refused = stage.device("GET", "dev-1", &rest, &key(), json!({})).await.expect(429);
    assert_eq!((&refused.body["errorCode"], refused.header("retry-after")), (&json!(429_001), Some("2")));
    stage.advance_ms(2_000);
    stage.device("GET", "dev-1", &rest, &key(), json!({})).await.expect(200);
    let mut registered = 0;
    while stage.device("PUT", "dev-1", "/register", &key(), json!({})).await.status != 429 {
        registered += 1;
        assert!(registered < 1_100);
    }
    // Of 1,000 a minute, a few went into enrolling and registering, and came back meanwhile.
    assert!(registered > 950, "{registered}");
    let by_service = stage.call("GET", DPS, "/enrollments/dev-1", ask()).await.expect(429);
    assert_eq!(by_service.header("retry-after"), None);
}

#[tokio::test]
async fn a_hub_that_is_out_fails_the_operation_and_loses_nothing() {
    let stage = Stage::new().await;
    stage.enroll("dev-1", json!({ "iotHubs": [HUB_A] })).await;
    stage.register("dev-1", &key()).await;
    stage.enroll("dev-1", json!({ "iotHubs": [HUB_B] })).await;
    stage.command(Command::Outage { service: HUB_B.into(), out: true }).await;
    let failed = stage.register("dev-1", &key()).await;
    assert_eq!(failed["status"], "failed");
    assert_eq!(failed["registrationState"]["errorCode"], 500_001);
    stage.command(Command::Outage { service: HUB_B.into(), out: false }).await;
    assert_eq!(hub_of(&stage, "dev-1").await, [200, 404]);
    assert_eq!(stage.register("dev-1", &key()).await["registrationState"]["assignedHub"], HUB_B);
}

#[tokio::test]
async fn moves_wait_for_the_registry_of_their_target() {
    let stage = Stage::changed(|config| config.throttle.factor = 0.1).await;
    stage.command(Command::Throttle { enabled: false, factor: 0.1 }).await;
    for no in 0..12 {
        stage.enroll(&format!("dev-{no}"), json!({ "iotHubs": [HUB_A] })).await;
    }
    stage.command(Command::Throttle { enabled: true, factor: 0.1 }).await;
    for no in 0..12 {
        let id = format!("dev-{no}");
        stage.device("PUT", &id, "/register", &key(), json!({})).await.expect(202);
    }
    async fn devices(stage: &Stage) -> u64 {
        stage.command(Command::Status).await["hubs"][0]["devices"].as_u64().unwrap()
    }
    stage.advance_ms(1_000);
    // Ten a minute: the bucket is full at first, and each further one takes six seconds.
    assert_eq!(devices(&stage).await, 10);
    stage.advance_ms(6_000);
    assert_eq!(devices(&stage).await, 11);
    stage.advance_ms(6_000);
    assert_eq!(devices(&stage).await, 12);
}

/// A webhook that answers what it was given, in order, and keeps what it was asked.
async fn webhook(answers: Vec<(u16, Value)>) -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/allocate?code=hidden", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&asked);
    tokio::spawn(async move {
        for (status, answer) in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let body = loop {
                let mut buffer = [0; 8_192];
                let read = stream.read(&mut buffer).await.unwrap();
                request.extend_from_slice(&buffer[..read]);
                let text = String::from_utf8_lossy(&request);
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                if body.len() >= length.parse().unwrap() {
                    break serde_json::from_str(body).unwrap();
                }
            };
            kept.lock().push(body);
            let answer = answer.to_string();
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
            stream.write_all(head.as_bytes()).await.unwrap();
        }
    });
    (url, asked)
}

fn custom(url: &str) -> Value {
    json!({
        "allocationPolicy": "custom",
        "customAllocationDefinition": { "webhookUrl": url, "apiVersion": "2021-10-01" },
    })
}

/// Registers and waits for the webhook's effect, moving the clock only as the back-off asks.
async fn register_by_webhook(stage: &Stage, step_ms: u64) -> Value {
    let begun = stage
        .device("PUT", "dev-1", "/register", &key(), json!({ "payload": { "kind": "pump" } }))
        .await
        .expect(202)
        .body;
    let rest = format!("/operations/{}", begun["operationId"].as_str().unwrap());
    for _ in 0..2_000 {
        let polled = stage.device("GET", "dev-1", &rest, &key(), json!({})).await;
        match polled.status {
            200 => return polled.body,
            202 => {}
            other => panic!("{other} {}", polled.text),
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        stage.advance_ms(step_ms);
    }
    panic!("the webhook was never heard");
}

#[tokio::test]
async fn the_webhook_is_asked_and_chooses_the_hub() {
    let stage = Stage::new().await;
    stage.command(Command::Throttle { enabled: false, factor: 1.0 }).await;
    let answer = json!({ "iotHubHostName": HUB_B, "payload": { "hello": 1 },
        "initialTwin": { "tags": { "by": "hook" }, "properties": { "desired": {} } } });
    let (url, asked) = webhook(vec![(200, answer), (200, json!({ "iotHubHostName": HUB_A }))]).await;
    stage.enroll("dev-1", custom(&url)).await;
    let done = register_by_webhook(&stage, 100).await;
    assert_eq!(done["registrationState"]["assignedHub"], HUB_B);
    assert_eq!(done["registrationState"]["payload"], json!({ "hello": 1 }));
    let twin = stage.call("GET", HUB_B, "/twins/dev-1", ask()).await.body;
    assert_eq!(twin["tags"], json!({ "by": "hook" }));
    let first = asked.lock()[0].clone();
    assert_eq!(first["linkedHubs"], json!([HUB_A, HUB_B]));
    let context = json!({ "registrationId": "dev-1", "symmetricKey": {}, "payload": { "kind": "pump" } });
    assert_eq!(first["deviceRuntimeContext"], context);
    let told = &first["individualEnrollment"];
    assert!(told["etag"].as_str().unwrap().starts_with('"'), "the inner, quoted etag");
    assert!(told["customAllocationDefinition"]["webhookUrl"].as_str().unwrap().ends_with("/allocate?****"));
    assert!(!first.to_string().contains(KEY) && !first.to_string().contains("hidden"));
    let moved = register_by_webhook(&stage, 100).await;
    assert_eq!(moved["registrationState"]["assignedHub"], HUB_A);
    let context = asked.lock()[1]["deviceRuntimeContext"].clone();
    assert_eq!(
        (&context["currentIotHubHostName"], &context["currentDeviceId"]),
        (&json!(HUB_B), &json!("dev-1"))
    );
}

#[tokio::test]
async fn what_a_webhook_does_wrong_has_a_code() {
    for (answers, code) in [
        (vec![(400, json!({}))], 400_207),
        (vec![(401, json!({}))], 400_209),
        (vec![(200, json!({}))], 400_208),
        (vec![(200, json!({ "iotHubHostName": null }))], 400_208),
        (vec![(200, json!({ "iotHubHostName": 5 }))], 400_207),
        (vec![(200, json!([]))], 400_207),
        (vec![(200, json!({ "iotHubHostName": HUB_A, "initialTwin": { "tags": { "a.b": 1 } } }))], 400_207),
        (vec![(200, json!({ "iotHubHostName": "hub-c.azure-devices.net" }))], 400_207),
        (vec![(503, json!({})); 11], 400_207),
    ] {
        let stage = Stage::new().await;
        stage.command(Command::Throttle { enabled: false, factor: 1.0 }).await;
        let told = answers[0].clone();
        let times = answers.len();
        let (url, asked) = webhook(answers).await;
        stage.enroll("dev-1", custom(&url)).await;
        let done = register_by_webhook(&stage, 5_000).await;
        assert_eq!(done["status"], "failed", "{told:?}");
        assert_eq!(done["registrationState"]["errorCode"], code, "{told:?}");
        assert_eq!(asked.lock().len(), times);
        assert_eq!(
            stage.call("GET", DPS, "/registrations/dev-1", ask()).await.expect(404).body["errorCode"],
            404_202
        );
    }
}

#[tokio::test]
async fn a_dead_webhook_stops_no_other() {
    let stage = Stage::new().await;
    stage.command(Command::Throttle { enabled: false, factor: 1.0 }).await;
    // As many devices as may be asked for at one time, all of which wait to be asked for again.
    const DEAD: usize = 64;
    let (dead, asked) = webhook(vec![(503, json!({})); DEAD]).await;
    for no in 0..DEAD {
        let id = format!("dead-{no}");
        stage.enroll(&id, custom(&dead)).await;
        let body = json!({ "registrationId": id });
        stage.device("PUT", &id, "/register", &key(), body).await.expect(202);
    }
    while asked.lock().len() < DEAD {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let (url, _) = webhook(vec![(200, json!({ "iotHubHostName": HUB_B }))]).await;
    stage.enroll("dev-1", custom(&url)).await;
    assert_eq!(register_by_webhook(&stage, 5).await["registrationState"]["assignedHub"], HUB_B);
}

#[tokio::test]
async fn another_device_id_takes_the_old_ones_place() {
    let stage = Stage::new().await;
    let policy = |update, migrate| json!({ "updateHubAssignment": update, "migrateDeviceData": migrate });
    let enroll = async |device: &str, policy: Value| {
        let twin = json!({ "tags": { "initial": 1 } });
        let more = json!({ "iotHubs": [HUB_A], "deviceId": device, "initialTwin": twin, "reprovisionPolicy": policy });
        stage.enroll("dev-1", more).await;
        stage.register("dev-1", &key()).await["registrationState"].clone()
    };
    let tags = async |device: &str| {
        let twin = stage.call("GET", HUB_A, &format!("/twins/{device}"), ask()).await;
        (twin.status, twin.body["tags"].clone())
    };
    enroll("one", policy(true, true)).await;
    let patch = ask().body(json!({ "tags": { "later": 2 } }));
    stage.call("PATCH", HUB_A, "/twins/one", patch).await.expect(200);
    stage.command(Command::Connect { hub: HUB_A.into(), device: "one".into() }).await;

    let stays = enroll("two", policy(false, false)).await;
    assert_eq!((&stays["deviceId"], &stays["substatus"]), (&json!("one"), &json!("initialAssignment")));
    assert_eq!((tags("one").await.0, tags("two").await.0), (200, 404));

    let migrated = enroll("two", policy(true, true)).await;
    assert_eq!(
        (&migrated["deviceId"], &migrated["substatus"]),
        (&json!("two"), &json!("deviceDataMigrated"))
    );
    assert_eq!(tags("one").await.0, 404);
    assert_eq!(tags("two").await, (200, json!({ "initial": 1, "later": 2 })));
    assert_eq!(stage.command(Command::Status).await["hubs"][0]["connected"], 0);

    let reset = enroll("three", policy(true, false)).await;
    assert_eq!((&reset["deviceId"], &reset["substatus"]), (&json!("three"), &json!("deviceDataReset")));
    assert_eq!(tags("two").await.0, 404);
    assert_eq!(tags("three").await, (200, json!({ "initial": 1 })));
}

#[tokio::test]
async fn a_failed_registration_can_be_shown() {
    let stage =
        Stage::changed(|config| config.switches.failed_registration = FailedRegistration::State).await;
    stage.command(Command::Throttle { enabled: false, factor: 1.0 }).await;
    let (url, _) = webhook(vec![(400, json!({}))]).await;
    stage.enroll("dev-1", custom(&url)).await;
    register_by_webhook(&stage, 100).await;
    let state = stage.call("GET", DPS, "/registrations/dev-1", ask()).await.expect(200).body;
    assert_eq!(state["errorMessage"], "Custom allocation failed with status code: 400");
    assert!(state.get("assignedHub").is_none());
}

#[tokio::test]
async fn a_body_that_names_another_device_is_refused() {
    let stage = Stage::new().await;
    stage.enroll("dev-1", json!({})).await;
    let other = json!({ "registrationId": "dev-2" });
    assert_eq!(
        stage.device("PUT", "dev-1", "/register", &key(), other).await.expect(400).body["errorCode"],
        400_004
    );
    for (method, rest) in [("PUT", "/register"), ("POST", "")] {
        let nobody = json!({ "registrationId": null });
        let refused = stage.device(method, "dev-1", rest, &key(), nobody).await.expect(400);
        assert_eq!(refused.body["errorCode"], 400_004);
    }
    for (method, rest) in [("POST", "/register"), ("GET", ""), ("PUT", "/operations/x")] {
        stage.device(method, "dev-1", rest, &key(), json!({})).await.expect(405);
    }
    let missing = sas("0ne00000009/registrations/dev-1", &key(), None, START.unix_seconds() + 99);
    let target = "/0ne00000009/registrations/dev-1/register?api-version=2019-03-31";
    stage.send("PUT", GLOBAL, target, ask().with("authorization", missing.clone())).await.expect(404);
    let target = format!("/{SCOPE}/registrations/dev-1/register?api-version=2019-03-31");
    stage.send("PUT", GLOBAL, &target, ask().with("authorization", missing)).await.expect(401);
    stage.send("PUT", GLOBAL, &target, ask()).await.expect(401);
}
