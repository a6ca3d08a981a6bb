//! Bodies as Azure writes them: each is read and comes out again with nothing lost.

use berth_azure::{Timestamp, dps, hub, traffic_manager};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

macro_rules! body {
    ($name:literal) => {
        include_str!(concat!("../bodies/", $name))
    };
}
pub(crate) use body;

/// Reads a body as `T` and writes it again.
fn there_and_back<T: Serialize + DeserializeOwned + std::fmt::Debug>(text: &str) -> (T, Value, Value) {
    let read: T = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let shown = format!("{read:?}");
    assert!(!shown.contains("AAECAwQF"), "Debug tells a key: {shown}");
    let written = serde_json::to_value(&read).unwrap();
    (read, written, serde_json::from_str(text).unwrap())
}

/// The same, where all of it is to come back.
fn equal<T: Serialize + DeserializeOwned + std::fmt::Debug>(text: &str) -> T {
    let (read, written, original) = there_and_back(text);
    assert_eq!(written, original);
    read
}

fn without(mut value: Value, names: &[&str]) -> Value {
    for name in names {
        value.as_object_mut().unwrap().remove(*name);
    }
    value
}

#[test]
fn enrollments_come_back_whole_but_for_what_is_not_theirs_to_write() {
    let (read, written, original) =
        there_and_back::<dps::IndividualEnrollment>(body!("dps/enrollment_get.json"));
    assert_eq!(written, without(original, &["registrationState"]));
    assert_eq!(read.device_id.unwrap().as_str(), "pump#1");
    assert_eq!(read.unknown.names().collect::<Vec<_>>(), ["credentialPolicyName"]);
    assert_eq!(read.registration_state.unwrap().status, dps::RegistrationStatus::Unassigned);
    assert_eq!(read.created_date_time_utc.unwrap().to_string(), "2023-05-19T23:10:45.1256254Z");

    let (read, written, original) =
        there_and_back::<dps::IndividualEnrollment>(body!("dps/enrollment_put_reply.json"));
    assert_eq!(written, without(original, &["provisioningStatus"]));
    assert!(read.attestation.symmetric_key.unwrap().primary_key().unwrap().is_ok());

    let page: Vec<dps::IndividualEnrollment> = equal(body!("dps/enrollments_page.json"));
    assert_eq!(page[2].allocation_policy, Some(dps::AllocationPolicy::Custom));
    equal::<dps::EnrollmentGroup>(body!("dps/group_get.json"));
    equal::<dps::Attestation>(body!("dps/attestation.json"));
    equal::<dps::IndividualEnrollment>(body!("dps/enrollment_put_request.json"));
    equal::<dps::BulkResult>(body!("dps/bulk_reply.json"));
    let failed: dps::BulkResult = equal(body!("dps/bulk_reply_failed.json"));
    assert_eq!(failed.errors[0].error_code, Some(409_201));
}

#[test]
fn registrations_come_back_whole() {
    let state: dps::RegistrationState = equal(body!("dps/registration_state.json"));
    assert_eq!(state.substatus, Some(dps::Substatus::Initial));
    assert_eq!(state.assigned_hub.unwrap().as_str(), "rk-cli-test-hub.azure-devices.net");
    for text in [
        body!("device/assigning.json"),
        body!("device/assigning_with_state.json"),
        body!("device/assigned.json"),
        body!("device/assigned_x509.json"),
        body!("device/assigned_tpm.json"),
        body!("device/failed.json"),
    ] {
        equal::<dps::RegistrationOperation>(text);
    }
    let (disabled, written, original) =
        there_and_back::<dps::RegistrationOperation>(body!("device/disabled.json"));
    assert_eq!(written, without(original, &["operationId"]));
    assert_eq!(disabled.status, dps::RegistrationStatus::Disabled);
    assert_eq!(disabled.operation_id, None);
}

#[test]
fn hubs_and_profiles_come_back_whole() {
    let identity: hub::Identity = equal(body!("hub/identity.json"));
    assert!(!identity.is_enabled() && identity.last_activity_time == Some(Timestamp::NEVER));
    let (twin, written, original) = there_and_back::<hub::Twin>(body!("hub/twin.json"));
    assert_eq!(written, without(original, &["modelId"]));
    assert_eq!(twin.properties.unwrap().reported.unwrap()["battery"], 0.3);
    equal::<Vec<hub::BulkDevice>>(body!("hub/bulk_request.json"));
    let (failed, ..) = there_and_back::<hub::BulkDeviceResult>(body!("hub/bulk_reply_failed.json"));
    assert_eq!(failed.errors[0].error_code, Some("DeviceAlreadyExists".into()));
    equal::<hub::MethodAnswer>(body!("hub/method_reply.json"));
    equal::<hub::DeviceStatistics>(body!("hub/statistics_devices.json"));
    equal::<hub::ServiceStatistics>(body!("hub/statistics_service.json"));
    equal::<traffic_manager::Endpoint>(body!("arm/endpoint.json"));
    equal::<traffic_manager::Endpoint>(body!("arm/endpoint_put_request.json"));
    equal::<traffic_manager::Profile>(body!("arm/profile.json"));
}

#[test]
fn words_are_read_in_any_case_and_new_ones_are_kept() {
    let read: dps::AllocationPolicy = serde_json::from_str("\"GEOLATENCY\"").unwrap();
    assert_eq!(read, dps::AllocationPolicy::GeoLatency);
    let read: dps::AllocationPolicy = serde_json::from_str("\"byMoonPhase\"").unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), "\"byMoonPhase\"");
}

#[test]
fn the_debug_of_a_webhook_hides_its_key() {
    let text =
        r#"{"webhookUrl":"https://example.org/?code=planted","apiVersion":"2019-03-31","more":"planted"}"#;
    let shown = format!("{:?}", equal::<dps::CustomAllocation>(text));
    assert!(!shown.contains("planted"), "{shown}");
}

fn read_all(bytes: &[u8]) {
    let _ = serde_json::from_slice::<dps::IndividualEnrollment>(bytes);
    let _ = serde_json::from_slice::<dps::EnrollmentGroup>(bytes);
    let _ = serde_json::from_slice::<dps::RegistrationOperation>(bytes);
    let _ = serde_json::from_slice::<dps::RegistrationState>(bytes);
    let _ = serde_json::from_slice::<dps::BulkResult>(bytes);
    let _ = serde_json::from_slice::<hub::Identity>(bytes);
    let _ = serde_json::from_slice::<hub::Twin>(bytes);
    let _ = serde_json::from_slice::<hub::BulkDeviceResult>(bytes);
    let _ = serde_json::from_slice::<hub::MethodAnswer>(bytes);
    let _ = serde_json::from_slice::<traffic_manager::Profile>(bytes);
}

const SAMPLES: [&str; 6] = [
    body!("dps/enrollment_get.json"),
    body!("device/assigned.json"),
    body!("hub/identity.json"),
    body!("hub/twin.json"),
    body!("hub/bulk_reply_failed.json"),
    body!("arm/profile.json"),
];

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        read_all(&bytes);
    }

    #[test]
    fn no_damaged_body_makes_a_decoder_panic(
        sample in 0..SAMPLES.len(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = SAMPLES[sample].as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        read_all(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        read_all(&bytes);
    }

    #[test]
    fn numbers_of_a_twin_come_back_as_they_went(number in any::<f64>().prop_filter("JSON has no others", |n| n.is_finite())) {
        let twin: InitialTwin = serde_json::from_value(serde_json::json!({"tags": {"n": number}})).unwrap();
        let text = serde_json::to_string(&twin).unwrap();
        let back: InitialTwin = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(back, twin);
    }
}

type InitialTwin = dps::InitialTwin;
