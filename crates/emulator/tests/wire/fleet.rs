//! Simulated devices: they register, stay connected, are thrown off, and come back.

use berth_emulator::{Command, Config, FleetConfig};
use serde_json::{Value, json};

use crate::support::*;

const GROUP: &str = "fleet";

async fn fleet(devices: u32, change: impl FnOnce(&mut Config)) -> Stage {
    Stage::changed(|config| {
        config.throttle.enabled = false;
        let group = json!({ "id_scope": SCOPE, "devices": devices, "enrollment_group": GROUP });
        let fleet: FleetConfig = serde_json::from_value(group).unwrap();
        config.fleets.push(fleet);
        change(config);
    })
    .await
}

/// Connections of both hubs.
async fn connected(stage: &Stage) -> [u64; 2] {
    let status = stage.command(Command::Status).await;
    [0, 1].map(|no| status["hubs"][no]["connected"].as_u64().unwrap())
}

/// Moves the clock until the connections are as they should be.
async fn until(stage: &Stage, step_ms: u64, what: impl Fn([u64; 2]) -> bool) -> [u64; 2] {
    for _ in 0..20_000 {
        let now = connected(stage).await;
        if what(now) {
            return now;
        }
        stage.advance_ms(step_ms);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("never, but {:?}: {}", connected(stage).await, stage.command(Command::Calls).await);
}

async fn rehome(stage: &Stage, hubs: Value) {
    let path = format!("/enrollmentGroups/{GROUP}");
    let keys = stage.call("POST", DPS, &format!("{path}/attestationmechanism"), ask()).await.expect(200).body;
    let body = json!({ "enrollmentGroupId": GROUP, "attestation": keys, "iotHubs": hubs });
    stage.call("PUT", DPS, &path, ask().with("if-match", "*").body(body)).await.expect(200);
}

#[tokio::test]
async fn a_fleet_registers_connects_and_moves_when_it_is_told_to() {
    let stage = fleet(200, |_| {}).await;
    let [a, b] = until(&stage, 1_000, |[a, b]| a + b == 200).await;
    assert!(a > 50 && b > 50, "hashed: {a} {b}");
    let calls = stage.command(Command::Calls).await;
    assert_eq!(calls["device.register 202"], 200, "each registered through the device API, once: {calls}");
    rehome(&stage, json!([HUB_B])).await;
    stage.advance_ms(600_000);
    assert_eq!(connected(&stage).await, [a, b], "changing the enrollment moves nothing");
    // Each device is told by a direct method.
    for no in 0..200 {
        let body = json!({ "methodName": "reprovision", "payload": null, "responseTimeoutInSeconds": 5 });
        for hub in [HUB_A, HUB_B] {
            stage.call("POST", hub, &format!("/twins/sim-{no:06}/methods"), ask().body(body.clone())).await;
        }
    }
    until(&stage, 1_000, |now| now == [0, 200]).await;
    let status = stage.command(Command::Status).await;
    assert_eq!((&status["hubs"][0]["devices"], &status["hubs"][1]["devices"]), (&json!(0), &json!(200)));
}

#[tokio::test]
async fn a_fleet_comes_back_to_its_hub_or_finds_another() {
    let stage = fleet(100, |_| {}).await;
    rehome(&stage, json!([HUB_A])).await;
    until(&stage, 1_000, |now| now == [100, 0]).await;
    let before = stage.command(Command::Calls).await["device.register 202"].clone();
    stage.command(Command::DisconnectAll { hub: HUB_A.into() }).await;
    assert_eq!(connected(&stage).await, [0, 0]);
    until(&stage, 100, |now| now == [100, 0]).await;
    assert_eq!(stage.command(Command::Calls).await["device.register 202"], before, "its hub took it back");

    // Its hub goes out, and its enrollment names another: the devices give up on the hub, and ask DPS.
    let path = format!("/enrollmentGroups/{GROUP}");
    let keys = stage.call("POST", DPS, &format!("{path}/attestationmechanism"), ask()).await.body;
    let reset = json!({ "updateHubAssignment": true, "migrateDeviceData": false });
    let body = json!({ "enrollmentGroupId": GROUP, "attestation": keys, "iotHubs": [HUB_B], "reprovisionPolicy": reset });
    stage.call("PUT", DPS, &path, ask().with("if-match", "*").body(body)).await.expect(200);
    stage.command(Command::Outage { service: HUB_A.into(), out: true }).await;
    until(&stage, 1_000, |now| now == [0, 100]).await;
    stage.running.stop().await.unwrap();
}

#[tokio::test]
async fn devices_with_their_own_enrollments_survive_throttles_and_faults() {
    let stage = fleet(40, |config| {
        config.throttle.enabled = true;
        config.fleets[0].enrollment_group = None;
        config.fleets[0].back_off.start_spread_ms = 0;
    });
    let stage = stage.await;
    let fault = json!({ "operation": "device", "status": 500, "count": 30 });
    stage.command(Command::FailNext { fault: serde_json::from_value(fault).unwrap() }).await;
    until(&stage, 500, |[a, b]| a + b == 40).await;
}

/// How many devices the largest fleet has: `BERTH_FLEET_DEVICES`, or as many as a run of all tests has time for.
fn largest() -> u32 {
    std::env::var("BERTH_FLEET_DEVICES").map_or(20_000, |devices| devices.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_fleet_lives_in_one_process() {
    let devices = largest();
    let stage = fleet(devices, |_| {}).await;
    let all = |[a, b]: [u64; 2]| a + b == u64::from(devices);
    until(&stage, 2_000, all).await;
    stage.command(Command::DisconnectAll { hub: HUB_A.into() }).await;
    until(&stage, 2_000, all).await;
    assert_eq!(stage.running.assignments(SCOPE).len(), devices as usize);
}
