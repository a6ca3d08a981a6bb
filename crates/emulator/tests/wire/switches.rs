//! Each open question about Azure: the default, and what the switch makes of it.

use berth_emulator::{
    BulkOverLimit, Command, Config, ErrorBody, IdCase, InvalidReprovisionPolicy, MethodMissing, Switches,
    WriteToMissing, WriteWithoutKeys,
};
use serde_json::{Value, json};

use crate::support::*;

async fn switched(change: impl FnOnce(&mut Switches)) -> Stage {
    Stage::changed(|config| change(&mut config.switches)).await
}

fn enrollment(id: &str) -> Value {
    json!({ "registrationId": id, "attestation": { "type": "symmetricKey" } })
}

#[tokio::test]
async fn refusals_of_the_service_api_may_have_no_body() {
    let stage = switched(|switches| switches.service_error_body = ErrorBody::Empty).await;
    let stranger = ask().with("authorization", "Bearer nobody");
    let refused = stage.call("GET", DPS, "/enrollments/x", stranger).await.expect(401);
    assert_eq!((refused.text.as_str(), refused.header("content-type")), ("", None));
    assert!(refused.header("x-ms-request-id").is_some());
    assert_eq!(stage.call("GET", DPS, "/enrollments/x", ask()).await.expect(404).body["errorCode"], 404_201);
}

#[tokio::test]
async fn numbers_that_are_not_known_can_be_others() {
    let stage = switched(|switches| {
        switches.precondition_failed_code = 1;
        switches.forbidden_code = 2;
        switches.operation_not_found_code = 3;
        switches.too_many_enrollments_code = 4;
        switches.bulk_over_limit = BulkOverLimit::PayloadTooLarge;
    });
    let stage = stage.await;
    stage.enroll("dev-1", json!({})).await;
    let stale = ask().with("if-match", "x").body(enrollment("dev-1"));
    assert_eq!(stage.call("PUT", DPS, "/enrollments/dev-1", stale).await.expect(412).body["errorCode"], 1);
    let reader = ask().with("authorization", "Bearer reader-token");
    assert_eq!(
        stage.call("DELETE", DPS, "/enrollments/dev-1", reader).await.expect(403).body["errorCode"],
        2
    );
    let lost = stage.device("GET", "dev-1", "/operations/x", &key(), json!({})).await.expect(404);
    assert_eq!(lost.body["errorCode"], 3);
    let items: Vec<_> = (0..11).map(|no| enrollment(&format!("x{no}"))).collect();
    let bulk = ask().body(json!({ "mode": "create", "enrollments": items }));
    assert_eq!(stage.call("POST", DPS, "/enrollments", bulk).await.expect(413).body["errorCode"], 4);
}

#[tokio::test]
async fn a_conditional_write_to_nothing() {
    for (switch, status) in [(WriteToMissing::PreconditionFailed, 412), (WriteToMissing::Create, 200)] {
        let stage = switched(|switches| switches.write_to_missing = switch).await;
        let asked = ask().with("if-match", "*").body(enrollment("dev-1"));
        stage.call("PUT", DPS, "/enrollments/dev-1", asked).await.expect(status);
        let there = stage.call("GET", DPS, "/enrollments/dev-1", ask()).await.status == 200;
        assert_eq!(there, status == 200);
    }
}

#[tokio::test]
async fn a_write_without_keys() {
    for (switch, status, kept) in [(WriteWithoutKeys::Keep, 200, true), (WriteWithoutKeys::Refuse, 400, true)]
    {
        let stage = switched(|switches| switches.write_without_keys = switch).await;
        let made = stage
            .call("PUT", DPS, "/enrollments/dev-1", ask().body(enrollment("dev-1")))
            .await
            .expect(200)
            .body;
        let asked = ask().with("if-match", "*").body(enrollment("dev-1"));
        stage.call("PUT", DPS, "/enrollments/dev-1", asked).await.expect(status);
        let keys = stage.call("POST", DPS, "/enrollments/dev-1/attestationmechanism", ask()).await.body;
        assert_eq!(keys == made["attestation"], kept);
    }
}

#[tokio::test]
async fn the_case_of_registration_ids() {
    for (case, stored) in
        [(IdCase::Preserve, Some("Dev-1")), (IdCase::Lower, Some("dev-1")), (IdCase::RefuseUpper, None)]
    {
        let stage = switched(|switches| switches.registration_id_case = case).await;
        let put = stage.call("PUT", DPS, "/enrollments/Dev-1", ask().body(enrollment("Dev-1"))).await;
        match stored {
            Some(id) => assert_eq!(put.expect(200).body["registrationId"], id),
            None => assert_eq!(put.expect(400).body["errorCode"], 400_004),
        }
    }
}

#[tokio::test]
async fn the_size_of_pages() {
    let stage = switched(|switches| (switches.query_page_default, switches.query_page_max) = (3, 4)).await;
    for no in 0..9 {
        stage.enroll(&format!("dev-{no}"), json!({})).await;
    }
    let rows = |asked: Ask| stage.call("POST", DPS, "/enrollments/query", asked);
    assert_eq!(rows(ask()).await.body.as_array().unwrap().len(), 3);
    assert_eq!(rows(ask().with("x-ms-max-item-count", "100")).await.body.as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_state_that_follows_the_enrollment() {
    for (follows, status) in [(false, "assigned"), (true, "unassigned")] {
        let stage = switched(|switches| switches.state_follows_enrollment = follows).await;
        stage.enroll("dev-1", json!({ "iotHubs": [HUB_A] })).await;
        stage.register("dev-1", &key()).await;
        stage.enroll("dev-1", json!({ "iotHubs": [HUB_B] })).await;
        let state = stage.call("GET", DPS, "/registrations/dev-1", ask()).await.expect(200).body;
        assert_eq!(state["status"], status);
        assert_eq!(stage.register("dev-1", &key()).await["registrationState"]["assignedHub"], HUB_B);
    }
}

#[tokio::test]
async fn a_method_of_nobody() {
    let stage = switched(|switches| switches.method_missing = MethodMissing::Plain).await;
    let body = ask().body(json!({ "methodName": "m" }));
    let refused = stage.call("POST", HUB_A, "/twins/nobody/methods", body).await.expect(404);
    assert_eq!(refused.body["Message"], "ErrorCode:DeviceNotFound;nobody");
}

#[tokio::test]
async fn a_resource_with_a_scheme() {
    let stage = switched(|switches| switches.accept_scheme_in_resource = true).await;
    let later = START.unix_seconds() + 99;
    let token = sas(&format!("https://{DPS}:8443/"), &key(), Some("provisioningserviceowner"), later);
    stage.call("GET", DPS, "/enrollments/x", ask().with("authorization", token)).await.expect(404);
}

#[tokio::test]
async fn a_policy_that_no_document_lists() {
    let stage =
        switched(|switches| switches.invalid_reprovision_policy = InvalidReprovisionPolicy::Never).await;
    let odd = json!({ "updateHubAssignment": false, "migrateDeviceData": true });
    stage.enroll("dev-1", json!({ "iotHubs": [HUB_A] })).await;
    stage.register("dev-1", &key()).await;
    stage.enroll("dev-1", json!({ "iotHubs": [HUB_B], "reprovisionPolicy": odd })).await;
    assert_eq!(stage.register("dev-1", &key()).await["registrationState"]["assignedHub"], HUB_A);
}

#[tokio::test]
async fn retry_after_of_the_service_api() {
    let stage = Stage::changed(|config| config.throttle.service_retry_after = true).await;
    stage.command(Command::Throttle { enabled: true, factor: 0.001 }).await;
    stage.call("GET", DPS, "/enrollments/x", ask()).await.expect(404);
    let refused = stage.call("GET", DPS, "/enrollments/x", ask()).await.expect(429);
    assert_eq!(refused.header("retry-after"), Some("60"));
}

/// Every switch is told in a file by its documented name.
#[test]
fn every_switch_is_read_from_a_file() {
    let text = r#"
        [switches]
        service_error_body = "empty"
        precondition_failed_code = 1
        forbidden_code = 2
        operation_not_found_code = 3
        too_many_enrollments_code = 4
        write_to_missing = "precondition_failed"
        write_without_keys = "keep"
        registration_id_case = "refuse_upper"
        bulk_over_limit = "payload_too_large"
        query_page_default = 5
        query_page_max = 6
        failed_registration = "state"
        state_follows_enrollment = true
        method_missing = "plain"
        accept_scheme_in_resource = true
        register_while_assigning = "same_operation"
        invalid_reprovision_policy = "never"
    "#;
    assert_eq!(Config::from_toml(text).unwrap().switches.query_page_max, 6);
    assert!(Config::from_toml("[switches]\nunheard_of = 1").is_err());
}
