//! Faults on demand, the control API, and the state in a file.

use berth_emulator::{Command, CommandError, FailNext, LoadError, StartError};
use serde_json::{Value, json};

use crate::support::*;

fn fault(operation: &str, status: u16, count: u32) -> Command {
    let fault = FailNext {
        operation: operation.into(),
        host: None,
        status,
        code: None,
        message: None,
        retry_after_s: Some(7),
        body: None,
        count,
    };
    Command::FailNext { fault }
}

#[tokio::test]
async fn what_is_asked_to_fail_fails_as_often_and_in_its_services_envelope() {
    let stage = Stage::new().await;
    stage.command(fault("dps.enrollment.get", 500, 2)).await;
    for _ in 0..2 {
        let failed = stage.call("GET", DPS, "/enrollments/none", ask()).await.expect(500);
        assert_eq!((failed.header("retry-after"), &failed.body["errorCode"]), (Some("7"), &json!(500_000)));
    }
    stage.call("GET", DPS, "/enrollments/none", ask()).await.expect(404);
    stage.command(fault("hub", 503, 1)).await;
    let failed = stage.call("GET", HUB_A, "/devices/none", ask()).await.expect(503);
    assert_eq!(failed.header("iothub-errorcode"), Some("ServiceUnavailable"));
    stage.command(fault("dps", 200, 1)).await;
    let calls = stage.command(Command::Calls).await;
    assert_eq!(calls["dps.enrollment.get 500"], 2);
    stage.command(Command::ClearFaults).await;
    stage.call("GET", DPS, "/enrollments/none", ask()).await.expect(404);
}

#[tokio::test]
async fn nonsense_can_be_answered() {
    let stage = Stage::new().await;
    let nonsense = json!({ "operation": "dps.registration.get", "status": 200, "body": "{\"status\":" });
    let fault: FailNext = serde_json::from_value(nonsense).unwrap();
    stage.command(Command::FailNext { fault }).await;
    assert_eq!(stage.call("GET", DPS, "/registrations/x", ask()).await.expect(200).text, "{\"status\":");
}

#[tokio::test]
async fn one_service_is_out_and_the_others_are_not() {
    let stage = Stage::new().await;
    let out = |service: &str, out| Command::Outage { service: service.into(), out };
    stage.command(out(HUB_A, true)).await;
    stage.command(out(DPS, true)).await;
    stage.call("GET", HUB_A, "/devices/none", ask()).await.expect(503);
    stage.call("GET", DPS, "/enrollments/none", ask()).await.expect(503);
    stage.device("PUT", "dev-1", "/register", &key(), json!({})).await.expect(503);
    stage.call("GET", HUB_B, "/devices/none", ask()).await.expect(404);
    stage.command(out(DPS, false)).await;
    stage.call("GET", DPS, "/enrollments/none", ask()).await.expect(404);
    let unknown = stage.running.command(out("hub-z.azure-devices.net", true)).await.unwrap_err();
    assert!(matches!(unknown, CommandError::Unknown { .. }));
}

#[tokio::test]
async fn a_slow_disk_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    // A pipe: writing waits until somebody reads.
    let pipe = path.with_extension("new");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let stage = Stage::changed(|config| config.state_file = Some(path)).await;
    let (tell, told) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let in_time = told.recv_timeout(std::time::Duration::from_secs(20)).is_ok();
        let text = std::fs::read_to_string(pipe).unwrap();
        (in_time, text)
    });
    let (_no_file_to_sync, ()) = tokio::join!(stage.running.command(Command::Save), async {
        for _ in 0..20 {
            stage.call("GET", DPS, "/enrollments/none", ask()).await.expect(404);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        tell.send(()).unwrap();
    });
    let (in_time, text) = reader.join().unwrap();
    assert!(in_time, "calls are answered while the file is being written");
    assert!(text.starts_with("{\"Format\":1}"), "{text}");
}

#[tokio::test]
async fn a_lying_service_tells_what_was() {
    let stage = Stage::new().await;
    stage.enroll("dev-1", json!({ "iotHubs": [HUB_A] })).await;
    stage.register("dev-1", &key()).await;
    stage.command(Command::Lie { service: DPS.into(), ms: 60_000 }).await;
    stage.command(Command::Lie { service: HUB_A.into(), ms: 60_000 }).await;
    stage.enroll("dev-1", json!({ "iotHubs": [HUB_B] })).await;
    stage.register("dev-1", &key()).await;
    let hub = || async {
        stage.call("GET", DPS, "/registrations/dev-1", ask()).await.expect(200).body["assignedHub"].clone()
    };
    let listed =
        || async { stage.call("GET", DPS, "/enrollments/dev-1", ask()).await.body["iotHubs"].clone() };
    assert_eq!((hub().await, listed().await), (json!(HUB_A), json!([HUB_A])));
    stage.call("GET", HUB_A, "/devices/dev-1", ask()).await.expect(200);
    stage.advance_ms(60_000);
    assert_eq!((hub().await, listed().await), (json!(HUB_B), json!([HUB_B])));
    stage.call("GET", HUB_A, "/devices/dev-1", ask()).await.expect(404);
}

#[tokio::test]
async fn a_lie_that_has_ended_does_not_come_back() {
    let stage = Stage::new().await;
    let lie = |service: &str, ms| Command::Lie { service: service.into(), ms };
    for end in [Some(0), None] {
        let id = if end.is_some() { "one" } else { "two" };
        for service in [DPS, HUB_A] {
            stage.command(lie(service, 60_000)).await;
        }
        stage.enroll(id, json!({ "iotHubs": [HUB_A] })).await;
        stage.register(id, &key()).await;
        stage.call("GET", DPS, &format!("/enrollments/{id}"), ask()).await.expect(404);
        stage.call("GET", HUB_A, &format!("/devices/{id}"), ask()).await.expect(404);
        for service in [DPS, HUB_A] {
            match end {
                Some(ms) => stage.command(lie(service, ms)).await,
                None => stage.command(Command::ClearFaults).await,
            };
        }
        for service in [DPS, HUB_A] {
            stage.command(lie(service, 60_000)).await;
        }
        stage.call("GET", DPS, &format!("/enrollments/{id}"), ask()).await.expect(200);
        stage.call("GET", HUB_A, &format!("/devices/{id}"), ask()).await.expect(200);
    }
    stage.command(Command::QueryLag { hub: HUB_A.into(), ms: 60_000 }).await;
    stage.call("DELETE", HUB_A, "/devices/one", ask().with("if-match", "*")).await.expect(204);
    let rows = async || {
        let body = ask().body(json!({ "query": "SELECT * FROM devices" }));
        stage.call("POST", HUB_A, "/devices/query", body).await.expect(200).body.as_array().unwrap().len()
    };
    assert_eq!(rows().await, 2);
    stage.command(Command::QueryLag { hub: HUB_A.into(), ms: 0 }).await;
    assert_eq!(rows().await, 1);
}

#[tokio::test]
async fn a_method_fails_in_the_envelope_of_methods() {
    let stage = Stage::new().await;
    stage.command(fault("hub.method", 503, 1)).await;
    let call = ask().body(json!({ "methodName": "m" }));
    let failed = stage.call("POST", HUB_A, "/twins/d/methods", call).await.expect(503);
    let inner: Value = serde_json::from_str(failed.body["Message"].as_str().unwrap()).unwrap();
    assert_eq!(inner["errorCode"], 503_001);
}

#[tokio::test]
async fn a_slow_service_answers_when_the_clock_has_moved() {
    let stage = Stage::new().await;
    stage.command(Command::Latency { operation: "dps".into(), ms: 5_000 }).await;
    let get = stage.call("GET", DPS, "/enrollments/none", ask());
    let mut get = std::pin::pin!(get);
    let early = tokio::time::timeout(std::time::Duration::from_millis(100), get.as_mut()).await;
    assert!(early.is_err(), "it waits for the clock");
    stage.advance_ms(5_000);
    get.await.expect(404);
}

#[tokio::test]
async fn the_control_api_takes_the_same_commands_and_is_off_by_default() {
    let stage = Stage::new().await;
    let post = |stage: &Stage, body: Value, token: &str| {
        let asked = ask().body(body).with("authorization", format!("Bearer {token}"));
        let target = "/_emulator/commands";
        let address = stage.running.http_address().unwrap();
        async move {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            exchange(hyper_util::rt::TokioIo::new(stream), "POST", "localhost", target, asked).await
        }
    };
    post(&stage, json!({ "command": "now" }), "x").await.expect(404);
    let stage = Stage::changed(|config| {
        config.control.enabled = true;
        config.control.token = Some(berth_emulator::Secret::new("control-token"));
    });
    let stage = stage.await;
    post(&stage, json!({ "command": "now" }), "x").await.expect(401);
    let told =
        post(&stage, json!({ "command": "advance", "ms": 60_000 }), "control-token").await.expect(200).body;
    assert_eq!(told, json!({ "result": { "now": "2023-11-14T22:14:20Z" } }));
    for body in [
        json!({ "command": "fail_next", "fault": { "operation": "dps", "status": 503 } }),
        json!({ "command": "outage", "service": HUB_A, "out": true }),
        json!({ "command": "moving", "dps": DPS, "moving": "both", "overlap_ms": 1 }),
        json!({ "command": "behave", "device": "d", "behaviour": { "slow": { "ms": 5 } } }),
        json!({ "command": "throttle", "enabled": true, "factor": 2.0 }),
        json!({ "command": "status" }),
    ] {
        post(&stage, body.clone(), "control-token").await.expect(200);
    }
    for body in [
        json!({ "command": "explode" }),
        json!({ "command": "advance" }),
        json!({ "command": "advance", "ms": u64::MAX }),
        json!({ "command": "fail_next", "fault": { "operation": "dps", "status": 100 } }),
        json!({ "command": "throttle", "enabled": true, "factor": -1.0 }),
        json!({ "command": "save" }),
    ] {
        post(&stage, body.clone(), "control-token").await.expect(400);
    }
    post(&stage, json!({ "command": "query_lag", "hub": "x.example.com", "ms": 1 }), "control-token")
        .await
        .expect(404);
}

#[tokio::test]
async fn the_state_outlives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let with_file = |config: &mut berth_emulator::Config| config.state_file = Some(path.clone());
    let stage = Stage::changed(with_file).await;
    stage.enroll("Dev-1", json!({ "iotHubs": [HUB_A], "more": 1 })).await;
    stage.register("dev-1", &key()).await;
    let patch = ask().body(json!({ "tags": { "a": 1 } }));
    stage.call("PATCH", HUB_A, "/twins/Dev-1", patch).await.expect(200);
    stage.enroll("Dev-1", json!({ "iotHubs": [HUB_B], "more": 1 })).await;
    // It stops in the middle of a move, when neither hub has the device.
    stage.device("PUT", "dev-1", "/register", &key(), json!({})).await.expect(202);
    let profile =
        "/subscriptions/s-1/resourceGroups/g-1/providers/Microsoft.Network/trafficManagerProfiles/fleet";
    let off = ask().body(json!({ "properties": { "endpointStatus": "Disabled" } }));
    stage.call("PATCH", ARM, &format!("{profile}/externalEndpoints/a"), off).await.expect(200);
    stage.running.stop().await.unwrap();

    let stage = Stage::changed(with_file).await;
    let enrollment = stage.call("GET", DPS, "/enrollments/dev-1", ask()).await.expect(200).body;
    assert_eq!((&enrollment["registrationId"], &enrollment["more"]), (&json!("Dev-1"), &json!(1)));
    assert_eq!(enrollment["registrationState"]["assignedHub"], HUB_B);
    let twin = stage.call("GET", HUB_B, "/twins/Dev-1", ask()).await.expect(200).body;
    assert_eq!(twin["tags"], json!({ "a": 1 }));
    let endpoint = stage.call("GET", ARM, &format!("{profile}/externalEndpoints/a"), ask()).await.body;
    assert_eq!(endpoint["properties"]["endpointStatus"], "Disabled");
    stage.command(Command::Save).await;

    let text = std::fs::read_to_string(&path).unwrap();
    for (damaged, expected) in
        [(text.replacen("{\"Format\":1}", "{\"Format\":9}", 1), 9), (text[..text.len() - 9].to_owned(), 0)]
    {
        std::fs::write(&path, damaged).unwrap();
        let mut config = berth_emulator::Config::from_toml(CONFIG).unwrap();
        with_file(&mut config);
        let clock = std::sync::Arc::new(berth_emulator::SteppedClock::at(START));
        let random = std::sync::Arc::new(berth_emulator::SeededRandomness::new(1));
        let refused = berth_emulator::Emulator::start(config, clock, random).await.err().unwrap();
        match refused {
            StartError::State(LoadError::Format { found }) => assert_eq!(found, expected),
            StartError::State(LoadError::Damaged { .. }) => assert_eq!(expected, 0),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn devices_are_made_and_moved_behind_everybodys_back() {
    let stage = Stage::new().await;
    let seed = |hub: &str, count| Command::Seed {
        dps: DPS.into(),
        hub: hub.into(),
        prefix: "s-".into(),
        first: 0,
        count,
    };
    assert_eq!(stage.command(seed(HUB_A, 1_000)).await, json!({ "made": 1_000 }));
    assert_eq!(stage.command(seed(HUB_B, 1_001)).await, json!({ "made": 1 }));
    assert!(matches!(
        stage.running.command(seed(HUB_A, 900_000)).await,
        Err(CommandError::OutOfBounds { .. })
    ));
    stage.advance_ms(60_000);
    let place = |id: &str| Command::Place { dps: DPS.into(), registration_id: id.into(), hub: HUB_B.into() };
    stage.command(place("S-000007")).await;
    assert!(matches!(stage.running.command(place("nobody")).await, Err(CommandError::Refused { .. })));
    let record = stage.call("GET", DPS, "/registrations/s-000007", ask()).await.expect(200).body;
    assert_eq!(
        (&record["assignedHub"], &record["lastUpdatedDateTimeUtc"]),
        (&json!(HUB_B), &json!("2023-11-14T22:14:20Z"))
    );
    stage.call("GET", HUB_A, "/devices/s-000007", ask()).await.expect(404);
    stage.call("GET", HUB_B, "/devices/s-000007", ask()).await.expect(200);
    let on_b =
        stage.running.assignments(SCOPE).iter().filter(|found| found.hub.as_deref() == Some(HUB_B)).count();
    assert_eq!(
        (on_b, stage.running.identities(HUB_B).len(), stage.running.identities(HUB_A).len()),
        (2, 2, 999)
    );
    // A device that was made can register by its own key, and stays.
    let keys = stage.call("POST", DPS, "/enrollments/s-000007/attestationmechanism", ask()).await.body;
    let key = base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        keys["symmetricKey"]["primaryKey"].as_str().unwrap(),
    );
    assert_eq!(stage.register("s-000007", &key.unwrap()).await["registrationState"]["assignedHub"], HUB_B);
    assert_eq!(stage.running.calls()[&("device.register", 202)], 1);
}
