//! What a device does: register, and poll as it is asked to.

use std::time::Duration;

use berth_azure::id::{IdScope, OperationId, RegistrationId};
use berth_azure::{AzureError, DeviceKey, KeySource, Missing, Secret, SharedKey, dps};
use serde_json::json as value;

use crate::bodies::body;
use crate::stage::{KEY, Stage, host, json};

const OPERATION: &str = "5.316aac5bdc130deb.b1e02da8-c3a0-4ff2-a121-7ea7a6b7f550";

fn device(stage: &Stage) -> dps::Device {
    let key = SharedKey::decode(&Secret::new(KEY.into())).unwrap();
    dps::Device::new(
        stage.client.clone(),
        host(dps::GLOBAL_HOST),
        IdScope::new("0ne00000001").unwrap(),
        RegistrationId::new("dev-1").unwrap(),
        DeviceKey::Held(key),
    )
    .unwrap()
}

#[tokio::test]
async fn a_device_registers_and_polls_as_it_is_asked_to() {
    let stage = Stage::new().await;
    stage.server.play([
        json(202, body!("device/assigning.json")).with("retry-after", "3"),
        json(202, body!("device/assigning_with_state.json")),
        json(200, body!("device/assigned.json")),
    ]);
    let done = device(&stage).register(Some(&value!({"model": 7}))).await.unwrap();
    let result = done.registration_state.unwrap();
    assert_eq!(result.state.assigned_hub, Some(host("contoso.azure-devices.net")));
    assert_eq!(result.symmetric_key.unwrap().enrollment_group_id.unwrap().as_str(), "group-1");
    assert_eq!(stage.clock.pauses(), [Duration::from_secs(3), dps::POLL_WAIT]);

    let seen = stage.server.take_seen();
    let lines: Vec<String> = seen.iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect();
    let poll = format!("GET /0ne00000001/registrations/dev-1/operations/{OPERATION}?api-version=2019-03-31");
    assert_eq!(
        lines,
        [
            "PUT /0ne00000001/registrations/dev-1/register?api-version=2019-03-31",
            poll.as_str(),
            poll.as_str()
        ]
    );
    assert_eq!(String::from_utf8(seen[0].body.clone()).unwrap(), body!("device/register_request.json"));
    assert!(seen[1].body.is_empty());
    let signature = seen[0].header("authorization").unwrap();
    assert!(
        signature.starts_with("SharedAccessSignature sr=0ne00000001%2Fregistrations%2Fdev-1&sig="),
        "{signature}"
    );
    assert!(signature.ends_with("&skn=registration"), "{signature}");
}

#[tokio::test]
async fn no_word_of_azures_makes_it_poll_back_to_back() {
    let stage = Stage::new().await;
    stage.server.play([
        json(202, body!("device/assigning.json")).with("retry-after", "0"),
        json(202, body!("device/assigning.json")).with("retry-after", "Thu, 01 Jan 1998 00:00:30 GMT"),
        json(200, body!("device/assigned.json")),
    ]);
    device(&stage).register(None).await.unwrap();
    assert_eq!(stage.clock.pauses(), [dps::POLL_WAIT; 2]);
}

#[tokio::test]
async fn that_it_failed_or_is_disabled_is_an_answer() {
    let stage = Stage::new().await;
    stage.server.play([
        json(200, body!("device/failed.json")),
        json(200, body!("device/disabled.json")),
        json(202, body!("device/assigning.json")),
        json(202, body!("device/assigning.json")),
    ]);
    let device = device(&stage);
    let failed = device.register(None).await.unwrap();
    assert_eq!(failed.status, dps::RegistrationStatus::Failed);
    assert_eq!(failed.registration_state.unwrap().state.error_code, Some(400_207));
    assert_eq!(device.register(None).await.unwrap().status, dps::RegistrationStatus::Disabled);
    let begun = device.begin(None).await.unwrap();
    assert_eq!(begun.status, dps::RegistrationStatus::Assigning);
    let polled = device.poll(&begun.operation_id.unwrap()).await.unwrap();
    assert_eq!(polled.operation_id, Some(OperationId::new(OPERATION).unwrap()));
}

#[tokio::test]
async fn the_status_is_looked_up_without_registering() {
    let stage = Stage::new().await;
    stage.server.play([
        json(200, body!("dps/registration_state.json").replace("device-4dfe3739", "dev-1")),
        json(404, body!("dps/error_404204.json")),
    ]);
    let result = device(&stage).status(None).await.unwrap();
    assert_eq!(result.state.status, dps::RegistrationStatus::Assigned);
    let seen = stage.server.take_seen();
    assert_eq!(seen[0].path, "/0ne00000001/registrations/dev-1?api-version=2019-03-31");
    assert_eq!(
        (seen[0].method.as_str(), seen[0].body.as_slice()),
        ("POST", br#"{"registrationId":"dev-1"}"#.as_slice())
    );
    let error = device(&stage).status(None).await.unwrap_err();
    assert!(error.is_missing(Missing::EnrollmentGroup));
}

#[tokio::test]
async fn a_registration_that_outlasts_the_callers_time_is_late_and_nothing_is_on_its_way() {
    let stage = Stage::new().await;
    stage.server.play(vec![json(202, body!("device/assigning.json")).with("retry-after", "3"); 10]);
    let error = device(&stage).within(Duration::from_secs(10)).register(None).await.unwrap_err();
    match &error {
        AzureError::Deadline { in_flight, attempts, last, .. } => {
            assert!(!in_flight && *attempts == 4 && last.contains("assigning"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.server.seen().len(), 4, "at 0, 3, 6 and 9 s");
}

#[tokio::test]
async fn two_registrations_at_a_time_are_tried_again() {
    let stage = Stage::new().await;
    stage
        .server
        .play([json(409, body!("device/error_409203.json")), json(200, body!("device/disabled.json"))]);
    device(&stage).register(None).await.unwrap();
    assert_eq!(stage.server.seen().len(), 2);
}

#[tokio::test]
async fn an_answer_for_another_device_or_to_no_hub_is_nonsense() {
    let stage = Stage::new().await;
    let other =
        body!("device/assigned.json").replace("\"registrationId\":\"dev-1\"", "\"registrationId\":\"dev-2\"");
    let nowhere = body!("device/assigned.json").replace("\"assignedHub\":\"contoso.azure-devices.net\",", "");
    let odd_hub = body!("device/assigned.json").replace("contoso.azure-devices.net", "https://x/y");
    stage.server.play([json(200, other), json(200, nowhere), json(200, odd_hub)]);
    for said in ["dev-2", "no hub", "host name"] {
        let error = device(&stage).register(None).await.unwrap_err();
        assert!(matches!(error, AzureError::Nonsense { .. }) && error.to_string().contains(said), "{error}");
    }
    // The same device in other letters is the same device.
    let spelled =
        body!("device/assigned.json").replace("\"registrationId\":\"dev-1\"", "\"registrationId\":\"DEV-1\"");
    stage.server.play([json(200, spelled)]);
    device(&stage).register(None).await.unwrap();
}

#[tokio::test]
async fn a_groups_key_in_a_file_signs_for_its_device() {
    let stage = Stage::new().await;
    let group = KeySource::File(stage.file("group", KEY));
    let own = KeySource::File(stage.file("own", "uPrGCZtSCJ9Nt+iY0r7te47dbsu7OCYEU9tz7kQloUs="));
    for key in [DeviceKey::OfGroup(group), DeviceKey::Own(own)] {
        let device = dps::Device::new(
            stage.client.clone(),
            host(dps::GLOBAL_HOST),
            IdScope::new("0ne00000001").unwrap(),
            RegistrationId::new("dev-1").unwrap(),
            key,
        );
        stage.server.play([json(200, body!("device/disabled.json"))]);
        device.unwrap().register(None).await.unwrap();
    }
    let seen = stage.server.seen();
    assert_eq!(seen[0].header("authorization"), seen[1].header("authorization"));
}
