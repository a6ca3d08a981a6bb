//! Calls as DPS makes them, and calls as it does not.

use berth_core::{Labels, RegistrationId};
use serde_json::{Value, json};

use super::*;

const HUB: &str = "Hub-1.azure-devices.net";
const QUERY: &str = "scope=0ne00000001&code=x";

fn body() -> Value {
    json!({
        "individualEnrollment": {
            "registrationId": "pump-1", "attestation": { "type": "symmetricKey" }, "allocationPolicy": "custom",
            "etag": "\"0a00b742\"", "initialTwin": null, "deviceId": null,
        },
        "deviceRuntimeContext": { "registrationId": "Pump-1", "symmetricKey": {}, "payload": { "deep": [[1]] } },
        "linkedHubs": [HUB, "hub-2.azure-devices.net"],
    })
}

fn read(body: &Value) -> Result<Call, Malformed> {
    Call::read(QUERY, body.to_string().as_bytes())
}

#[test]
fn what_dps_posts_is_understood() {
    let request = read(&body()).unwrap().request;
    assert_eq!(request.scope.as_str(), "0ne00000001");
    assert_eq!(request.registration.as_str(), "Pump-1");
    assert_eq!((request.device, request.current_hub), (None, None));
    assert_eq!(request.linked_hubs[0].as_str(), HUB.to_ascii_lowercase());
    let mut group = body();
    group.as_object_mut().unwrap().remove("individualEnrollment");
    // A group has no device ID, whatever it is called in there.
    group["enrollmentGroup"] = json!({ "enrollmentGroupId": "g", "deviceId": "not-so" });
    group["deviceRuntimeContext"]["currentIotHubHostName"] = json!(HUB);
    group["deviceRuntimeContext"]["currentDeviceId"] = json!("PUMP-1");
    let request = read(&group).unwrap().request;
    assert_eq!(request.device.unwrap().as_str(), "PUMP-1", "spelled as at its hub");
    assert_eq!(request.current_hub.unwrap().as_str(), HUB.to_ascii_lowercase());
}

#[test]
fn the_device_id_is_that_of_its_enrollment_unless_it_keeps_another() {
    let mut told = body();
    told["individualEnrollment"]["deviceId"] = json!("Pump #1");
    assert_eq!(read(&told).unwrap_err().field, "individualEnrollment.deviceId");
    told["individualEnrollment"]["deviceId"] = json!("Pump#1");
    assert_eq!(read(&told).unwrap().request.device.unwrap().as_str(), "Pump#1");
    told["deviceRuntimeContext"]["currentDeviceId"] = json!("old");
    assert_eq!(read(&told).unwrap().request.device.unwrap().as_str(), "Pump#1");
    told["individualEnrollment"]["reprovisionPolicy"] = json!({ "updateHubAssignment": false });
    assert_eq!(read(&told).unwrap().request.device.unwrap().as_str(), "old");
    told["individualEnrollment"]["reprovisionPolicy"] = json!({ "updateHubAssignment": true });
    told["individualEnrollment"]["deviceId"] = Value::Null;
    assert_eq!(read(&told).unwrap().request.device, None, "it is renamed to its registration ID");
}

#[test]
fn the_url_names_the_scope_once_and_perhaps_labels() {
    let text = body().to_string();
    let of = |query: &str| Call::read(query, text.as_bytes());
    let labelled = of("label=ring:2&scope=0ne1&label=region:eu%2Dwest&api-version=1").unwrap().request;
    assert_eq!(labelled.stamp_labels, Labels::parse([("region", "eu-west"), ("ring", "2")]).unwrap());
    for (query, field) in [
        ("", "scope"),
        ("scope=", "scope"),
        ("scope=a&scope=b", "scope"),
        ("scope=0ne%001", "scope"),
        ("scope=%ff", "scope"),
        ("scope=0ne1&label=ring", "label"),
        ("scope=0ne1&label=:x", "label"),
        ("scope=0ne1&label=a:1&label=a:2", "label"),
        (&format!("scope=0ne1{}", (0..9).map(|n| format!("&label=k{n}:v")).collect::<String>()), "label"),
    ] {
        assert_eq!(of(query).unwrap_err().field, field, "{query}");
    }
}

#[test]
fn the_secret_stands_in_the_url_as_it_is_or_encoded_and_once() {
    for (query, told) in [
        ("scope=a&code=a/b+c=", Some("a/b+c=")),
        ("code=a%2Fb%2bc%3D&scope=a", Some("a/b+c=")),
        ("code=", Some("")),
        ("Code=x", None),
        ("code=a&code=a", None),
        ("code=%ff", None),
        ("", None),
    ] {
        assert_eq!(call::code(query).as_deref(), told, "{query}");
    }
}

#[test]
fn what_dps_does_not_post_is_refused_by_name() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 15] = [
        (|b| *b = json!([]), "body"),
        (|b| *b = json!(null), "body"),
        (|b| drop(b.as_object_mut().unwrap().remove("linkedHubs")), "body"),
        (|b| b["linkedHubs"] = json!("hub"), "body"),
        (|b| b["linkedHubs"] = json!([1]), "body"),
        (|b| b["linkedHubs"] = json!([]), "linkedHubs"),
        (|b| b["linkedHubs"] = json!(["no host"]), "linkedHubs"),
        (|b| b["linkedHubs"] = (0..101).map(|n| json!(format!("h{n}.example"))).collect(), "linkedHubs"),
        (|b| b["enrollmentGroup"] = json!({}), "body"),
        (|b| b["individualEnrollment"] = Value::Null, "body"),
        (
            |b| b["individualEnrollment"]["registrationId"] = json!("other"),
            "individualEnrollment.registrationId",
        ),
        (|b| b["deviceRuntimeContext"] = json!({}), "body"),
        (
            |b| b["deviceRuntimeContext"]["registrationId"] = json!("a b"),
            "deviceRuntimeContext.registrationId",
        ),
        (
            |b| b["deviceRuntimeContext"]["registrationId"] = json!("x".repeat(129)),
            "deviceRuntimeContext.registrationId",
        ),
        (
            |b| b["deviceRuntimeContext"]["currentIotHubHostName"] = json!("-"),
            "deviceRuntimeContext.currentIotHubHostName",
        ),
    ];
    for (change, field) in cases {
        let mut wrong = body();
        change(&mut wrong);
        let malformed = read(&wrong).unwrap_err();
        assert_eq!(malformed.field, field, "{malformed}");
        assert!(malformed.problem.len() <= 300, "{malformed}");
    }
    for text in ["", "{", "\u{0}", "{\"linkedHubs\":[],\"linkedHubs\":[]}"] {
        assert_eq!(Call::read(QUERY, text.as_bytes()).unwrap_err().field, "body", "{text}");
    }
    // What is not looked at is passed over without a stack of its depth.
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let text = body().to_string().replace("[[1]]", &deep);
    assert!(Call::read(QUERY, text.as_bytes()).is_ok());
}

#[test]
fn dps_repeats_exactly_what_may_pass_by_itself() {
    use berth_proto::error::ApiError;
    use berth_proto::internal::AllocationRefusal as Reason;

    let none = |reason| Refusal::None { reason, problem: "p".to_owned() };
    let unknown = ApiError::OutcomeUnknown { request_id: None, cause: "c".to_owned(), timed_out: true };
    for (refusal, status, retries) in [
        (Refusal::Off, 404, false),
        (Refusal::Unauthorized, 401, false),
        (Refusal::Malformed(Malformed::new("body", "p")), 400, false),
        (Refusal::TooLarge, 413, false),
        (Refusal::Overloaded { limit: 1 }, 429, true),
        (Refusal::from(Unallocated::Failed(unknown)), 503, true),
        (Refusal::from(Unallocated::Failed(ApiError::NotLeader { leader: None })), 503, true),
        (none(Reason::ScopeUnknown), 404, false),
        (none(Reason::HubsUnknown), 422, false),
        (none(Reason::HubNotLinked), 409, false),
        (none(Reason::Duplicate), 409, false),
        (none(Reason::NoRoom), 429, true),
        (none(Reason::Rejected), 409, false),
    ] {
        let answer = answer::refusal(&refusal);
        assert_eq!(answer.status(), status, "{refusal}");
        assert_eq!(answer.headers().contains_key("retry-after"), retries, "{refusal}");
        assert_eq!(status >= 429, retries, "DPS repeats what is answered 429 or above");
    }
    // An ID of DPS's narrower alphabet is one of a hub's.
    let id = RegistrationId::parse("a:b.c_d-").unwrap();
    assert_eq!(berth_core::DeviceId::from(&id).as_str(), id.as_str());
}
