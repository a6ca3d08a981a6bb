//! Answers about another than was asked for: no call takes one for its own.

use berth_azure::id::{DeviceId, EnrollmentGroupId, RegistrationId};
use berth_azure::{AzureError, IfMatch, dps, hub};
use serde_json::{Value, json as value};

use crate::bodies::body;
use crate::stage::{Stage, json};

fn registration(text: &str) -> RegistrationId {
    RegistrationId::new(text).unwrap()
}

fn device(text: &str) -> DeviceId {
    DeviceId::new(text).unwrap()
}

/// A recorded body with something else in it.
fn changed(body: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut changed = serde_json::from_str(body).unwrap();
    change(&mut changed);
    changed.to_string()
}

/// The words in which an answer is refused, which name what was told and what was asked for.
fn refused<T: std::fmt::Debug>(answer: Result<T, AzureError>, told: &str, asked: &str) -> String {
    let error = answer.unwrap_err();
    let AzureError::Nonsense { status: 200, problem, .. } = &error else { panic!("{error:?}") };
    let names = format!("it is about `{told}`, and `{asked}` was asked for");
    assert!(problem.contains(&names), "{error}");
    error.to_string()
}

fn half<T: std::fmt::Debug>(answer: Result<T, AzureError>, problem: &str) {
    let error = answer.unwrap_err();
    assert!(matches!(&error, AzureError::Nonsense { status: 200, .. }), "{error:?}");
    assert!(error.to_string().contains(problem), "{error}");
}

#[tokio::test]
async fn a_registration_of_another_or_half_a_one_is_nonsense() {
    let stage = Stage::new().await;
    let dps = stage.dps();
    let id = registration("dev-1");
    let state = |change: fn(&mut Value)| {
        json(200, changed(&body!("dps/registration_state.json").replace("device-4dfe3739", "dev-1"), change))
    };
    stage.server.play([
        state(|state| state["registrationId"] = value!("DEV-1")),
        state(|state| state["registrationId"] = value!("dev-2")),
        state(|state| state["registrationId"] = Value::Null),
        state(|state| state["assignedHub"] = Value::Null),
        state(|state| state["assignedHub"] = value!("")),
        state(|state| state["deviceId"] = Value::Null),
        state(|state| {
            state["status"] = value!("unassigned");
            state["assignedHub"] = Value::Null;
        }),
    ]);
    // Registration IDs have no case; that of the device is the hub's, and its own.
    let spelled = dps.registration(&id).await.unwrap();
    assert_eq!(spelled.device_id, Some(device("dev-1")));
    refused(dps.registration(&id).await, "dev-2", "dev-1");
    half(dps.registration(&id).await, "it is about no registration, and `dev-1` was asked for");
    half(dps.registration(&id).await, "registration `dev-1` is assigned to no hub");
    half(dps.registration(&id).await, "registration `dev-1` is assigned to no hub");
    half(dps.registration(&id).await, "registration `dev-1` is assigned as no device");
    dps.registration(&id).await.unwrap();
}

#[tokio::test]
async fn an_enrollment_or_a_group_of_another_is_nonsense() {
    let stage = Stage::new().await;
    let dps = stage.dps();
    let id = registration("device-4dfe3739");
    let read = |change: fn(&mut Value)| json(200, changed(body!("dps/enrollment_get.json"), change));
    let written = |change: fn(&mut Value)| json(200, changed(body!("dps/enrollment_put_reply.json"), change));
    let to_nobody = value!({ "registrationId": "device-4dfe3739", "status": "assigned", "deviceId": "d" });
    let nowhere = changed(body!("dps/enrollment_get.json"), |read| read["registrationState"] = to_nobody);
    stage.server.play([
        read(|read| read["registrationId"] = value!("Device-4DFE3739")),
        read(|read| read["registrationId"] = value!("dev-2")),
        // The enrollment is right, and what it says of the registration is another's.
        read(|read| read["registrationState"]["registrationId"] = value!("dev-3")),
        json(200, nowhere),
        written(|written| written["registrationId"] = value!("DEVICE-4dfe3739")),
        written(|written| written["registrationId"] = value!("dev-2")),
    ]);
    dps.enrollment(&id).await.unwrap();
    refused(dps.enrollment(&id).await, "dev-2", "device-4dfe3739");
    refused(dps.enrollment(&id).await, "dev-3", "device-4dfe3739");
    half(dps.enrollment(&id).await, "is assigned to no hub");
    let own = dps::IndividualEnrollment::new(id, dps::Attestation::symmetric_made_by_dps());
    dps.put_enrollment(&own, &IfMatch::Any).await.unwrap();
    let error = dps.put_enrollment(&own, &IfMatch::Any).await.unwrap_err();
    assert!(error.outcome_unknown(), "the write may have been done: {error:?}");
    refused::<()>(Err(error), "dev-2", "device-4dfe3739");

    let other = || json(200, body!("dps/group_get.json").replace("group-1", "group-2"));
    let spelled = json(200, body!("dps/group_get.json").replace("group-1", "Group-1"));
    stage.server.play([spelled, other(), other()]);
    let group = EnrollmentGroupId::new("group-1").unwrap();
    dps.group(&group).await.unwrap();
    refused(dps.group(&group).await, "group-2", "group-1");
    let own = dps::EnrollmentGroup::new(group, dps::Attestation::symmetric_made_by_dps());
    refused(dps.put_group(&own, &IfMatch::Any).await, "group-2", "group-1");
}

#[tokio::test]
async fn an_identity_or_a_twin_of_another_is_nonsense_and_case_tells_them_apart() {
    let stage = Stage::new().await;
    let hub = stage.hub();
    let id = device("dev-1");
    let identity = |id: &str| json(200, body!("hub/identity.json").replace("dev#1?x%y", id));
    let twin = |id: &str| json(200, body!("hub/twin.json").replace("dev-1", id));
    let of_module = json(200, changed(body!("hub/twin.json"), |twin| twin["moduleId"] = value!("edge")));
    stage.server.play([
        identity("dev-1"),
        identity("dev-2"),
        identity("Dev-1"),
        identity("Dev-1"),
        twin("dev-1"),
        twin("Dev-1"),
        of_module,
        twin("dev-2"),
        twin("dev-2"),
    ]);
    hub.identity(&id).await.unwrap();
    refused(hub.identity(&id).await, "dev-2", "dev-1");
    refused(hub.identity(&id).await, "Dev-1", "dev-1");
    refused(hub.put_identity(&hub::Identity::new(id.clone()), &IfMatch::Any).await, "Dev-1", "dev-1");
    hub.twin(&id).await.unwrap();
    refused(hub.twin(&id).await, "Dev-1", "dev-1");
    refused(hub.twin(&id).await, "dev-1/edge", "dev-1");
    let change = hub::TwinChange { tags: Some(value!({ "a": 1 })), desired: None };
    refused(hub.patch_twin(&id, &change, &IfMatch::Any).await, "dev-2", "dev-1");
    refused(hub.replace_twin(&id, &change, &IfMatch::Any).await, "dev-2", "dev-1");
}

/// A service that puts what it was shown in the place of an ID is not repeated.
#[tokio::test]
async fn no_more_of_another_id_is_told_than_tells_it_apart() {
    let stage = Stage::new().await;
    let long = "b64LookingText0123456789%2Bb64LookingText0123456789";
    stage.server.play([json(200, body!("hub/identity.json").replace("dev#1?x%y", long))]);
    let error = stage.hub().identity(&device("dev-1")).await.unwrap_err().to_string();
    assert!(error.contains("`b64L…` (51 characters)") && !error.contains("b64Lo"), "{error}");
}
