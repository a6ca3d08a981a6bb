//! Lookups of devices that the directory does not have.

use std::time::Duration;

use berth_core::reconcile::{IdentitySeen, RegistrationSeen};
use berth_proto::convert::Consistency;
use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::lookup_response::Result as Answer;
use berth_proto::v1::{HubObservation, NegativeKind, ReportFinding};
use berth_server::reconcile::Trouble;
use tonic::Code;

use super::stage::{SCOPE, Stage, assigned, hub_of};
use crate::{HUB_1, HUB_2, HUB_3, apply, assignment};

fn asked(device: &str, consistency: Consistency) -> v1::LookupRequest {
    v1::LookupRequest {
        device: Some(v1::lookup_request::Device::DeviceId(device.to_owned())),
        consistency: Some(consistency.to_message()),
    }
}

async fn look_up(stage: &mut Stage, device: &str) -> Result<String, ApiError> {
    let request = asked(device, Consistency::Linearizable);
    let answer = stage.bench.lookups.lookup(request).await.map_err(ApiError::from)?.into_inner();
    match answer.result {
        Some(Answer::Found(found)) => Ok(found.hub),
        other => panic!("a linearizable lookup answered {other:?}"),
    }
}

fn no_hub(answer: Result<String, ApiError>) -> (NegativeKind, Duration) {
    match answer {
        Err(ApiError::NoHub { kind, epoch: 0, remember_for, .. }) => (kind, remember_for),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_dps_has_is_taken_in_by_one_question() {
    let mut stage = Stage::start().await;
    stage.authority.registration("new-1", Ok(Some(assigned("new-1", HUB_2, None))));
    let local = stage.bench.lookups.lookup(asked("new-1", Consistency::Local)).await.unwrap().into_inner();
    assert!(matches!(local.result, Some(Answer::Negative(_))), "{local:?}");
    assert_eq!(stage.authority.calls(), 0, "only what a quorum confirmed to be absent is looked for");
    stage.authority.hold();
    let lookups: Vec<_> = (0..300)
        .map(|_| {
            let mut lookups = stage.bench.lookups.clone();
            tokio::spawn(async move { lookups.lookup(asked("new-1", Consistency::Linearizable)).await })
        })
        .collect();
    stage.until_metric("berth_reconcile_flights_joined_total", 20).await;
    stage.authority.release();
    for lookup in lookups {
        let answer = lookup.await.unwrap().unwrap().into_inner();
        assert!(matches!(&answer.result, Some(Answer::Found(found)) if found.hub == HUB_2), "{answer:?}");
    }
    assert_eq!((stage.authority.registrations(), stage.authority.calls()), (1, 1));
    let mapping = stage.bench.get("new-1").await.unwrap();
    assert_eq!((mapping.scope.as_str(), mapping.origin()), (SCOPE, v1::Origin::Adopted));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dps_does_not_have_is_remembered_and_nothing_else_is_taken_in() {
    let mut stage = Stage::start().await;
    for round in 1..=2 {
        for _ in 0..50 {
            let (kind, remember_for) = no_hub(look_up(&mut stage, "nobody").await);
            assert_eq!((kind, remember_for), (NegativeKind::Unknown, Duration::from_secs(60)));
        }
        assert_eq!((stage.authority.registrations(), stage.authority.calls()), (round, 2 * round));
        stage.clock.advance(Duration::from_secs(61));
    }
    for (device, seen, kind) in [
        ("Mine", assigned("mine", HUB_1, None), NegativeKind::Unknown),
        ("far", assigned("far", "stranger.example", None), NegativeKind::Unknown),
        ("loose", assigned("loose", HUB_3, None), NegativeKind::Unknown),
        ("soon", RegistrationSeen::Assigning, NegativeKind::Enrolling),
        ("later", RegistrationSeen::Unassigned, NegativeKind::Unassigned),
        ("never", RegistrationSeen::Disabled, NegativeKind::Disabled),
    ] {
        stage.authority.registration(device, Ok(Some(seen)));
        assert_eq!(no_hub(look_up(&mut stage, device).await).0, kind, "{device}");
        assert_eq!(stage.bench.get(device).await.unwrap_err().code(), Code::NotFound);
        stage.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(stage.metric("berth_reconcile_drift{class=\"HUB_UNKNOWN\"}").await, 1);
    assert_eq!(stage.metric("berth_reconcile_drift{class=\"HUB_NOT_LINKED\"}").await, 1);
    // DPS's alphabet has no such name.
    let calls = stage.authority.calls();
    no_hub(look_up(&mut stage, "a+b").await);
    assert_eq!(stage.authority.calls(), calls);
    // A scope that does not allow it is not asked.
    let scope =
        v1::DesiredScope { name: SCOPE.to_owned(), read_through: Some(false), ..v1::DesiredScope::default() };
    let desired = v1::DesiredTopology { scopes: vec![scope], ..v1::DesiredTopology::default() };
    stage.bench.topology.apply(apply(desired)).await.unwrap();
    no_hub(look_up(&mut stage, "new-1").await);
    assert_eq!(stage.authority.calls(), calls);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_asked_is_not_said_to_be_unknown() {
    let mut stage = Stage::start().await;
    stage.authority.registration("lost", Err(Trouble::Away("no route".to_owned())));
    for _ in 0..20 {
        let error = look_up(&mut stage, "lost").await.unwrap_err();
        assert_eq!((error.code(), error.reason()), (Code::Unavailable, "DEVICE_UNVERIFIED"), "{error:?}");
        assert!(error.retry_after().is_some_and(|wait| wait <= Duration::from_secs(5)));
    }
    assert_eq!(stage.authority.calls(), 1);
    // 20 % of 600 a minute are two a second, of which one is spent; the clock stands.
    for (device, is_asked) in [("d-1", true), ("d-2", false), ("d-3", false)] {
        stage.authority.registration(device, Ok(Some(assigned(device, HUB_1, None))));
        let answer = look_up(&mut stage, device).await;
        assert_eq!(answer.is_ok(), is_asked, "{device}: {answer:?}");
    }
    assert_eq!(stage.authority.calls(), 2);
    stage.clock.advance(Duration::from_millis(500));
    assert_eq!(look_up(&mut stage, "d-2").await.unwrap(), HUB_1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_for_the_sake_of_another_device_says_nothing_of_this_one() {
    let mut stage = Stage::start().await;
    let row = v1::DeviceAssignment {
        scope: SCOPE.to_owned(),
        registration_id: "y".to_owned(),
        ..assignment("x", HUB_1)
    };
    let epoch = stage.bench.try_assign(row).await.unwrap().epoch;
    stage.authority.registration("y", Ok(Some(assigned("x", HUB_1, None))));
    stage.authority.identity("x", Ok(IdentitySeen::Enabled));
    stage.authority.hold();
    let mut lookups = stage.bench.lookups.clone();
    let lookup = tokio::spawn(async move { lookups.lookup(asked("y", Consistency::Linearizable)).await });
    stage.authority.asked(1).await;
    let (mut lookups, request) = (stage.bench.lookups.clone(), stage.request("x", HUB_1, epoch));
    let report = tokio::spawn(async move { lookups.report(request).await.unwrap().into_inner() });
    stage.until_metric("berth_reconcile_flights_joined_total", 1).await;
    stage.authority.release();
    assert_eq!(lookup.await.unwrap().unwrap_err().code(), Code::NotFound);
    let joined = report.await.unwrap();
    assert_eq!((joined.finding(), hub_of(&joined)), (ReportFinding::NotVerified, HUB_1), "{joined:?}");
    let alone = stage.report("x", HUB_1, epoch, HubObservation::NotFound).await.unwrap();
    assert_eq!(alone.finding(), ReportFinding::Confirmed, "{alone:?}");
    stage.stop().await;
}
