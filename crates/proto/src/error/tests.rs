use berth_core::{Epoch, HubName, ItemRejection, ObjectKind, PlaceState, Rejection, Revision, Timestamp};
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::*;
use crate::v1::ItemError;

fn name(text: &str) -> String {
    text.to_owned()
}

fn rejections() -> Vec<Rejection> {
    vec![
        Rejection::DeviceUnknown { device: name("d-1") },
        Rejection::DeviceExists { device: name("d-1"), actual: Epoch(7) },
        Rejection::EpochMismatch { device: name("d-1"), expected: Epoch(6), actual: Epoch(7) },
        Rejection::Unknown { kind: ObjectKind::Stamp, name: name("s") },
        Rejection::Unknown { kind: ObjectKind::Hub, name: name("h.example") },
        Rejection::Unknown { kind: ObjectKind::Scope, name: name("0ne1") },
        Rejection::Unknown { kind: ObjectKind::Route, name: name("app.example") },
        Rejection::Exists { kind: ObjectKind::Hub, name: name("h.example") },
        Rejection::EtagMismatch {
            kind: ObjectKind::Stamp,
            name: name("s"),
            expected: Revision(3),
            actual: Revision(4),
        },
        Rejection::Closed {
            hub: HubName::parse("h.example").unwrap(),
            kind: ObjectKind::Stamp,
            name: name("s"),
            state: PlaceState::Draining,
        },
        Rejection::Full { kind: ObjectKind::Hub, name: name("h"), asked: 3, used: 9, reserved: 1, hard: 10 },
        Rejection::HubRequired { device: name("d") },
        Rejection::ScopeRequired { device: name("d") },
        Rejection::ScopeConflict { device: name("d"), held: name("0ne1"), asked: name("0ne2") },
        Rejection::RegistrationTaken { registration: name("r"), scope: name("0ne1"), holder: name("d2") },
        Rejection::TooManyTwins { device: name("d"), max: 16 },
        Rejection::DuplicateInBatch { device: name("d"), first: 4 },
        Rejection::BatchSize { count: 10_001, max: 10_000 },
        Rejection::LabelSetsFull { key: name("serial"), values: 65_000 },
        Rejection::Invalid { kind: ObjectKind::Scope, name: name("0ne1"), problem: name("no such hub") },
        Rejection::InUse {
            kind: ObjectKind::Stamp,
            name: name("s"),
            devices: 1,
            reserved: 2,
            hubs: 3,
            routes: 4,
            scopes: 5,
        },
        Rejection::NumbersExhausted { kind: ObjectKind::Scope },
        Rejection::RequestIdReused { request_id: name("0190") },
        Rejection::RequestIdExpired {
            request_id: name("0190"),
            made: Timestamp(5),
            kept_since: Timestamp(6),
        },
        Rejection::RequestIdAhead { request_id: name("0190"), made: Timestamp(60_000), now: Timestamp(6) },
    ]
}

fn errors() -> Vec<ApiError> {
    let hint = LeaderHint { node_id: 2, name: name("b"), address: name("127.0.0.1:7002") };
    let no_hub = |kind, epoch| ApiError::NoHub {
        device: name("d"),
        kind,
        epoch,
        remember_for: Duration::from_millis(1_500),
    };
    let mut errors = vec![
        ApiError::Invalid(vec![
            FieldViolation { field: name("items[3].device_id"), problem: name("is empty") },
            FieldViolation { field: name("page_size"), problem: name("10001; at most 10000") },
        ]),
        ApiError::BatchRefused {
            refused: 25,
            items: rejections()
                .into_iter()
                .take(TOLD_ITEMS_MAX)
                .enumerate()
                .map(|(n, rejection)| ItemRejection { index: n as u32 * 3, rejection })
                .collect(),
        },
        no_hub(NegativeKind::Unknown, 0),
        no_hub(NegativeKind::Unassigned, 3),
        no_hub(NegativeKind::Enrolling, 4),
        no_hub(NegativeKind::Disabled, 5),
        no_hub(NegativeKind::Failed, 6),
        no_hub(NegativeKind::Missing, 7),
        ApiError::Unverified {
            device: name("d"),
            problem: name("away"),
            retry_after: Duration::from_millis(1_200),
        },
        ApiError::NotAdopted {
            device: name("d"),
            hub: name("h.example"),
            drift: DriftClass::HubNotLinked,
            remember_for: Duration::from_secs(30),
        },
        ApiError::BudgetSpent {
            place: name("0ne1"),
            per_minute: 120,
            retry_after: Duration::from_millis(500),
        },
        ApiError::RegistrationUnknown { registration: name("r"), scope: None },
        ApiError::RegistrationUnknown { registration: name("r"), scope: Some(name("0ne1")) },
        ApiError::RegistrationAmbiguous { registration: name("r"), scopes: vec![name("0ne1"), name("0ne2")] },
        ApiError::DriftUnknown { device: name("d") },
        ApiError::DriftStands { device: name("d"), problem: name("Azure names no hub") },
        ApiError::SweepRunning,
        ApiError::NodeUnknown { node_id: 9 },
        ApiError::MembershipRefused { problem: name("node 4 is 120 entries behind; wait for it") },
        ApiError::NotLeader { leader: None },
        ApiError::NotLeader { leader: Some(hint) },
        ApiError::NoQuorum { cause: name("1 of 3 voters answered") },
        ApiError::ReplicaBehind { asked: name("revision 9"), actual: name("revision 8") },
        ApiError::NotServing { state: name("starting: no read barrier passed yet") },
        ApiError::Overloaded {
            what: name("proposals in flight"),
            limit: 8_192,
            retry_after: Duration::from_millis(20),
        },
        ApiError::DiskFull { free_bytes: 10, needed_bytes: 20 },
        ApiError::OutcomeUnknown { request_id: None, cause: name("leadership was lost"), timed_out: false },
        ApiError::OutcomeUnknown {
            request_id: Some(name("0190")),
            cause: name("5 s passed"),
            timed_out: true,
        },
        ApiError::DeadlineExceeded { waiting_for: name("the read index") },
        ApiError::WrongCluster { asked: name("a"), actual: name("b") },
        ApiError::TokenBeforeRestore { asked: 0, actual: 1 },
        ApiError::SnapshotExpired { revision: 77 },
        ApiError::SnapshotElsewhere { node_id: 3 },
        ApiError::Internal { correlation_id: name("c0ffee") },
        ApiError::DataLoss { correlation_id: name("c0ffee") },
        ApiError::Foreign { code: Code::Unimplemented, message: name("no such method") },
    ];
    errors.extend(rejections().into_iter().map(ApiError::Rejected));
    errors
}

#[test]
fn every_error_comes_back_from_its_status() {
    for error in errors() {
        let status = Status::from(error.clone());
        let read = ApiError::from(&status);
        match (&error, &read) {
            (ApiError::Foreign { code, .. }, ApiError::Foreign { code: same, .. }) => assert_eq!(code, same),
            _ => assert_eq!(read, error),
        }
        assert_eq!(Status::from(read).code(), status.code(), "{error:?}");
    }
}

#[test]
fn every_error_comes_back_from_an_item() {
    for error in errors() {
        if !matches!(error, ApiError::Foreign { .. }) {
            assert_eq!(ApiError::from(ItemError::from(error.clone())), error);
            let status = Status::from(error.clone());
            assert_eq!(from_status_bytes(status.details()), Some(error));
        }
    }
}

#[test]
fn every_error_names_its_reason_and_carries_what_its_code_calls_for() {
    for error in errors() {
        if matches!(error, ApiError::Foreign { .. }) {
            continue;
        }
        let status = Status::from(error.clone());
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.domain, ERROR_DOMAIN);
        assert!(!info.reason.is_empty() && !info.reason.starts_with("ERROR_REASON"), "{error:?}");
        assert!(!info.reason.contains("UNSPECIFIED"), "{error:?}");
        match status.code() {
            Code::InvalidArgument if !matches!(error, ApiError::BatchRefused { .. }) => {
                assert!(details.has_bad_request_violations(), "{error:?}");
            }
            Code::NotFound | Code::AlreadyExists => assert!(details.resource_info().is_some(), "{error:?}"),
            Code::FailedPrecondition => assert!(details.has_precondition_failure_violations(), "{error:?}"),
            Code::ResourceExhausted => assert!(details.has_quota_failure_violations(), "{error:?}"),
            _ => {}
        }
        assert_eq!(details.retry_info().is_some(), error.retry_after().is_some(), "{error:?}");
        // Base64 in a trailer: four bytes for three, within a header list of 16 KiB.
        assert!(status.details().len() < 11_000, "{error:?}: {}", status.details().len());
    }
}

#[test]
fn codes_are_those_of_the_interface() {
    let code = |error: ApiError| Status::from(error).code();
    assert_eq!(code(ApiError::invalid("page_size", 0)), Code::InvalidArgument);
    assert_eq!(code(Rejection::DeviceUnknown { device: name("d") }.into()), Code::NotFound);
    assert_eq!(
        code(Rejection::EpochMismatch { device: name("d"), expected: Epoch(1), actual: Epoch(2) }.into()),
        Code::Aborted
    );
    assert_eq!(code(ApiError::NotLeader { leader: None }), Code::Unavailable);
    let unknown = |timed_out| ApiError::OutcomeUnknown { request_id: None, cause: name("x"), timed_out };
    assert_eq!(code(unknown(true)), Code::DeadlineExceeded);
    assert_eq!(code(unknown(false)), Code::Unavailable);
}

#[test]
fn a_refused_batch_tells_its_size_and_its_first_items() {
    let item =
        |index| ItemRejection { index, rejection: Rejection::DeviceUnknown { device: "x".repeat(128) } };
    let error = ApiError::from(Rejection::Batch { items: (0..10_000).map(item).collect() });
    let status = Status::from(error.clone());
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().starts_with("10000 of the batch's items are refused, the first at index 0"));
    assert!(status.details().len() < 11_000);
    let ApiError::BatchRefused { refused: 10_000, items } = ApiError::from(status) else {
        panic!("{error:?}")
    };
    assert_eq!(items.len(), TOLD_ITEMS_MAX);
}

#[test]
fn the_longest_texts_fit_the_header() {
    let long = || "ß".repeat(4_000);
    let item = |index| ItemRejection {
        index,
        rejection: Rejection::RegistrationTaken {
            registration: "r".repeat(128),
            scope: "s".repeat(32),
            holder: "h".repeat(128),
        },
    };
    for error in [
        ApiError::Invalid(vec![FieldViolation { field: long(), problem: long() }; 100]),
        ApiError::from(Rejection::Batch { items: (0..100).map(item).collect() }),
        ApiError::MembershipRefused { problem: long() },
    ] {
        let status = Status::from(error);
        assert!(status.details().len() < 12_000, "{}", status.details().len());
        assert!(status.message().len() < 1_100);
    }
}

#[test]
fn details_of_strangers_are_not_taken_for_ours() {
    let details = tonic_types::ErrorDetails::with_error_info(
        "DEVICE_UNKNOWN",
        "elsewhere.example",
        [(name("device"), name("d"))],
    );
    let status = Status::with_error_details(Code::NotFound, "gone", details);
    assert_eq!(ApiError::from(status), ApiError::Foreign { code: Code::NotFound, message: name("gone") });
    let garbage = Status::with_details(Code::Internal, "x", bytes::Bytes::from_static(&[0xff; 40]));
    assert!(matches!(ApiError::from(garbage), ApiError::Foreign { code: Code::Internal, .. }));
}

#[test]
fn a_reason_of_ours_is_read_from_other_writers_too() {
    let mut details =
        tonic_types::ErrorDetails::with_error_info("OVERLOADED", ERROR_DOMAIN, [(name("limit"), name("64"))]);
    details.set_retry_info(Some(Duration::from_millis(100)));
    let status = Status::with_error_details(Code::ResourceExhausted, "class lookups is full", details);
    let expected = ApiError::Overloaded {
        what: name("class lookups is full"),
        limit: 64,
        retry_after: Duration::from_millis(100),
    };
    assert_eq!(ApiError::from(status), expected);
}
