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

pub fn asked(device: &str, consistency: Consistency) -> v1::LookupRequest {
    v1::LookupRequest {
        device: Some(v1::lookup_request::Device::DeviceId(device.to_owned())),
        consistency: Some(consistency.to_message()),
    }
}

pub async fn look_up(stage: &mut Stage, device: &str) -> Result<String, ApiError> {
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
        ("soon", RegistrationSeen::Assigning, NegativeKind::Enrolling),
        ("later", RegistrationSeen::Unassigned, NegativeKind::Unassigned),
        ("never", RegistrationSeen::Disabled, NegativeKind::Disabled),
    ] {
        stage.authority.registration(device, Ok(Some(seen)));
        assert_eq!(no_hub(look_up(&mut stage, device).await).0, kind, "{device}");
        assert_eq!(stage.bench.get(device).await.unwrap_err().code(), Code::NotFound);
        stage.clock.advance(Duration::from_secs(1));
    }
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
    // 20 % of 600 a minute are two a second, and a question needs leave for two; the clock stands.
    stage.clock.advance(Duration::from_millis(500));
    for (device, is_asked) in [("d-1", true), ("d-2", false), ("d-3", false)] {
        stage.authority.registration(device, Ok(Some(assigned(device, HUB_1, None))));
        match look_up(&mut stage, device).await {
            Ok(hub) => assert!(is_asked && hub == HUB_1, "{device}: {hub}"),
            Err(spent) => {
                assert!(!is_asked, "{device}: {spent:?}");
                assert_eq!((spent.code(), spent.reason()), (Code::ResourceExhausted, "BUDGET_SPENT"));
                assert_eq!(spent.retry_after(), Some(Duration::from_millis(500)));
            }
        }
    }
    assert_eq!(stage.authority.calls(), 2);
    stage.clock.advance(Duration::from_millis(500));
    assert_eq!(look_up(&mut stage, "d-2").await.unwrap(), HUB_1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_for_a_device_that_nobody_knows_is_charged_to_the_share_of_lookups() {
    let mut stage = Stage::start().await;
    let (mut unknown, mut spent) = (0, 0);
    for step in 0..100 {
        for n in 0..5 {
            match look_up(&mut stage, &format!("nobody-{step}-{n}")).await {
                Err(ApiError::NoHub { kind: NegativeKind::Unknown, .. }) => unknown += 1,
                Err(ApiError::BudgetSpent { per_minute: 120, .. }) => spent += 1,
                other => panic!("{other:?}"),
            }
        }
        stage.clock.advance(Duration::from_millis(200));
    }
    assert_eq!((unknown + spent, stage.authority.calls()), (500, 2 * unknown));
    // Two a second for 20 seconds, and two at the start.
    assert!((36..=42).contains(&stage.authority.calls()), "{} calls", stage.authority.calls());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_is_not_remembered_of_a_device() {
    let mut stage = Stage::start().await;
    let percent = |budget_percent| {
        let scope = v1::DesiredScope {
            name: SCOPE.to_owned(),
            budget_percent: Some(budget_percent),
            ..v1::DesiredScope::default()
        };
        apply(v1::DesiredTopology { scopes: vec![scope], ..v1::DesiredTopology::default() })
    };
    // Two questions a minute.
    stage.bench.topology.apply(percent(1)).await.unwrap();
    no_hub(look_up(&mut stage, "nobody").await);
    stage.authority.registration("new-1", Ok(Some(assigned("new-1", HUB_1, None))));
    let spent = look_up(&mut stage, "new-1").await.unwrap_err();
    assert_eq!(spent.retry_after(), Some(Duration::from_secs(60)), "{spent:?}");
    stage.bench.topology.apply(percent(100)).await.unwrap();
    stage.clock.advance(Duration::from_secs(1));
    assert_eq!(look_up(&mut stage, "new-1").await.unwrap(), HUB_1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dps_has_and_the_directory_may_not_follow_is_no_unknown_device() {
    let mut stage = Stage::start().await;
    let cordon = |state: v1::AcceptState| {
        let hub =
            v1::DesiredHub { name: HUB_2.to_owned(), state: Some(state as i32), ..v1::DesiredHub::default() };
        apply(v1::DesiredTopology { hubs: vec![hub], ..v1::DesiredTopology::default() })
    };
    stage.bench.topology.apply(cordon(v1::AcceptState::Cordoned)).await.unwrap();
    let row = v1::DeviceAssignment {
        scope: SCOPE.to_owned(),
        registration_id: "taken".to_owned(),
        ..assignment("holder", HUB_1)
    };
    stage.bench.try_assign(row).await.unwrap();
    for (device, hub, class) in [
        ("far", "stranger.example", v1::DriftClass::HubUnknown),
        ("loose", HUB_3, v1::DriftClass::HubNotLinked),
        ("closed", HUB_2, v1::DriftClass::WrongHub),
        ("taken", HUB_1, v1::DriftClass::Duplicate),
    ] {
        stage.authority.registration(device, Ok(Some(assigned(device, hub, None))));
        for _ in 0..20 {
            match look_up(&mut stage, device).await.unwrap_err() {
                ApiError::NotAdopted { hub: named, drift, remember_for, .. } => {
                    assert_eq!((named.as_str(), drift, remember_for.as_secs()), (hub, class, 30));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(stage.bench.get(device).await.unwrap_err().code(), Code::NotFound);
        let name = class.as_str_name().strip_prefix("DRIFT_CLASS_").unwrap();
        assert_eq!(stage.metric(&format!("berth_reconcile_drift{{class=\"{name}\"}}")).await, 1, "{name}");
        stage.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(stage.authority.calls(), 4);
    stage.bench.topology.apply(cordon(v1::AcceptState::Active)).await.unwrap();
    stage.clock.advance(Duration::from_secs(31));
    assert_eq!(look_up(&mut stage, "closed").await.unwrap(), HUB_2);
    assert_eq!(stage.metric("berth_reconcile_drift{class=\"WRONG_HUB\"}").await, 0);
    // One that is gone from there is drift no more.
    stage.authority.registration("far", Ok(None));
    assert_eq!(no_hub(look_up(&mut stage, "far").await).0, NegativeKind::Unknown);
    assert_eq!(stage.metric("berth_reconcile_drift{class=\"HUB_UNKNOWN\"}").await, 0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_for_dps_leave_room_for_those_who_need_not() {
    /// Calls that may wait for one question.
    const WAITERS_MAX: usize = 1_024;
    let mut stage = Stage::start().await;
    stage.bench.assign("d-1", HUB_1).await;
    stage.authority.registration("new-1", Ok(Some(assigned("new-1", HUB_2, None))));
    stage.authority.hold();
    let address = format!("http://{}", stage.bench.node.addresses().client);
    let mut lookups = Vec::new();
    for _ in 0..12 {
        let client = v1::lookup_service_client::LookupServiceClient::connect(address.clone()).await.unwrap();
        lookups.extend((0..100).map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.lookup(asked("new-1", Consistency::Linearizable)).await })
        }));
    }
    let joined = "berth_reconcile_flights_joined_total";
    stage.until_metric(joined, WAITERS_MAX as u64 - 1).await;
    assert_eq!(look_up(&mut stage, "d-1").await.unwrap(), HUB_1);
    let crowded = look_up(&mut stage, "new-1").await.unwrap_err();
    assert_eq!((crowded.code(), crowded.reason()), (Code::ResourceExhausted, "OVERLOADED"), "{crowded:?}");
    assert!(crowded.retry_after().is_some());
    // Those who give up make room again.
    for lookup in &lookups[..600] {
        lookup.abort();
    }
    while stage.metric(joined).await < WAITERS_MAX as u64 {
        let mut client = stage.bench.lookups.clone();
        lookups.push(tokio::spawn(
            async move { client.lookup(asked("new-1", Consistency::Linearizable)).await },
        ));
        tokio::task::yield_now().await;
    }
    stage.authority.release();
    let (mut found, mut refused) = (0, 0);
    for lookup in lookups {
        match lookup.await {
            Ok(Ok(_)) => found += 1,
            Ok(Err(status)) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                refused += 1;
            }
            Err(given_up) => assert!(given_up.is_cancelled()),
        }
    }
    assert!(found > 400 && refused > 0, "{found} found, {refused} refused");
    assert_eq!(stage.authority.registrations(), 1);
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
