//! Reports of gateways and lookups of unknown devices, over real connections, with an authority that says what the test wants.

mod azure;
mod ends;
mod interleavings;
mod operator;
mod read_through;
mod recheck;
mod stage;
mod sweep;
mod terms;

use std::time::Duration;

use berth_core::reconcile::{IdentitySeen, RegistrationSeen};
use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::{DriftClass, HubObservation, NegativeKind, ReportFinding};
use berth_server::reconcile::Trouble;
use tonic::Code;

use crate::{HUB_1, HUB_2, HUB_3, apply, assignment};
use stage::{Stage, assigned, hub_of, negative_of};

#[tokio::test(flavor = "multi_thread")]
async fn only_a_contradiction_of_the_present_epoch_is_worth_a_question() {
    let mut stage = Stage::start().await;
    let old = stage.enroll("d-1", HUB_1).await;
    let new = stage.enroll("d-1", HUB_2).await;
    let stale = stage.report("d-1", HUB_1, old, HubObservation::NotFound).await.unwrap();
    assert_eq!((stale.finding(), hub_of(&stale)), (ReportFinding::Stale, HUB_2));
    for observation in [HubObservation::Ok, HubObservation::Offline] {
        let idle = stage.report("d-1", HUB_2, new, observation).await.unwrap();
        assert_eq!((idle.finding(), hub_of(&idle)), (ReportFinding::NothingToCheck, HUB_2));
    }
    let ahead = stage.report("d-1", HUB_2, new + 1, HubObservation::NotFound).await.unwrap_err();
    assert_eq!((ahead.code(), ahead.reason()), (Code::Aborted, "EPOCH_MISMATCH"));
    let nobody = stage.report("nobody", HUB_2, 1, HubObservation::NotFound).await.unwrap_err();
    assert_eq!(nobody.code(), Code::NotFound);
    for (hub, observation) in [
        (HUB_1, HubObservation::NotFound),
        ("no host", HubObservation::NotFound),
        (HUB_2, HubObservation::Unspecified),
    ] {
        let refused = stage.report("d-1", hub, new, observation).await.unwrap_err();
        assert!(matches!(refused, ApiError::Invalid(_)), "{hub} {observation:?}: {refused:?}");
    }
    let unknown = v1::ReportRequest { observation: 99, ..stage.request("d-1", HUB_2, new) };
    assert_eq!(stage.bench.lookups.report(unknown).await.unwrap_err().code(), Code::InvalidArgument);
    // A device without a scope has nobody to be asked about it.
    let epoch = stage.bench.assign("loner", HUB_1).await.epoch;
    let loner = stage.report("loner", HUB_1, epoch, HubObservation::NotFound).await.unwrap();
    assert_eq!((loner.finding(), hub_of(&loner)), (ReportFinding::NotVerified, HUB_1));
    assert!(loner.problem.contains("scope"), "{}", loner.problem);
    assert_eq!(loner.retry_after, None, "there is no use in repeating that");
    assert_eq!(stage.authority.calls(), 0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_reports_at_once_are_one_question() {
    let mut stage = Stage::start().await;
    let epoch = stage.enroll("d-1", HUB_1).await;
    stage.authority.registration("d-1", Ok(Some(assigned("d-1", HUB_1, None))));
    stage.authority.identity("d-1", Ok(IdentitySeen::Enabled));
    stage.authority.hold();
    let reports: Vec<_> = (0..1_000)
        .map(|_| {
            let (mut lookups, request) = (stage.bench.lookups.clone(), stage.request("d-1", HUB_1, epoch));
            tokio::spawn(async move { lookups.report(request).await.unwrap().into_inner() })
        })
        .collect();
    // Some wait for the same answer by then; the others find it in memory.
    stage.until_metric("berth_reconcile_flights_joined_total", 50).await;
    stage.authority.release();
    for report in reports {
        let answer = report.await.unwrap();
        assert_eq!((answer.finding(), hub_of(&answer)), (ReportFinding::Confirmed, HUB_1), "{answer:?}");
    }
    assert_eq!(stage.authority.registrations(), 1);
    assert_eq!(stage.authority.calls(), 2, "one of DPS and one of the hub");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dps_knows_better_is_adopted_and_what_it_does_not_is_pending() {
    let mut stage = Stage::start().await;
    let epoch = stage.enroll("d-1", HUB_1).await;
    stage.clock.advance(Duration::from_secs(600));
    // From before our own assignment, and from within the margin after it.
    let start = stage.clock.start_ms();
    for updated in [start - 1, start + 59_000] {
        stage.authority.registration("d-1", Ok(Some(assigned("d-1", HUB_2, Some(updated)))));
        let pending = stage.report("d-1", HUB_1, epoch, HubObservation::NotFound).await.unwrap();
        assert_eq!((pending.finding(), pending.drift()), (ReportFinding::Drift, DriftClass::Pending));
        assert_eq!((hub_of(&pending), pending.other_hub.as_str()), (HUB_1, HUB_2));
        stage.clock.advance(Duration::from_secs(31));
    }
    assert_eq!(stage.metric("berth_reconcile_drift{class=\"PENDING\"}").await, 1);
    stage.authority.registration("d-1", Ok(Some(assigned("d-1", HUB_2, Some(start + 62_000)))));
    let adopted = stage.report("d-1", HUB_1, epoch, HubObservation::NotFound).await.unwrap();
    assert_eq!((adopted.finding(), hub_of(&adopted)), (ReportFinding::Changed, HUB_2));
    let calls = stage.authority.calls();
    // Whoever comes later with the old epoch is sent right without a question.
    let late = stage.report("d-1", HUB_1, epoch, HubObservation::NotFound).await.unwrap();
    assert_eq!((late.finding(), hub_of(&late)), (ReportFinding::Stale, HUB_2));
    assert_eq!(stage.authority.calls(), calls);
    let mapping = stage.bench.get("d-1").await.unwrap();
    assert_eq!(
        (mapping.hub.as_str(), mapping.epoch, mapping.origin()),
        (HUB_2, epoch + 1, v1::Origin::Adopted)
    );
    assert_eq!(mapping.evidence.unwrap().source(), v1::EvidenceSource::Dps);
    assert_eq!(stage.metric("berth_reconcile_drift{class=\"PENDING\"}").await, 0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_device_is_known_for_it_and_comes_back() {
    let mut stage = Stage::start().await;
    let epoch = stage.enroll("d-1", HUB_1).await;
    stage.authority.registration("d-1", Ok(Some(assigned("d-1", HUB_1, None))));
    stage.authority.identity("d-1", Ok(IdentitySeen::Disabled));
    let disabled = stage.report("d-1", HUB_1, epoch, HubObservation::NotFound).await.unwrap();
    assert_eq!(disabled.finding(), ReportFinding::Changed);
    let negative = negative_of(&disabled);
    assert_eq!((negative.kind(), negative.epoch), (NegativeKind::Disabled, epoch + 1));
    let calls = stage.authority.calls();
    for _ in 0..200 {
        let again = stage.report("d-1", HUB_1, epoch + 1, HubObservation::Disabled).await.unwrap();
        assert_eq!(
            (again.finding(), negative_of(&again).kind()),
            (ReportFinding::Negative, NegativeKind::Disabled)
        );
    }
    assert_eq!(stage.authority.calls(), calls);
    let mapping = stage.bench.get("d-1").await.unwrap();
    assert_eq!((mapping.status(), mapping.hub.as_str()), (v1::MappingStatus::Disabled, HUB_1));
    stage.clock.advance(Duration::from_secs(61));
    stage.authority.identity("d-1", Ok(IdentitySeen::Enabled));
    let back = stage.report("d-1", HUB_1, epoch + 1, HubObservation::NotFound).await.unwrap();
    assert_eq!((back.finding(), hub_of(&back)), (ReportFinding::Changed, HUB_1));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_reports_of_a_missing_identity_do_not_loop() {
    let mut stage = Stage::start().await;
    let epoch = stage.enroll("d-1", HUB_1).await;
    stage.authority.registration("d-1", Ok(Some(assigned("d-1", HUB_1, None))));
    stage.authority.identity("d-1", Ok(IdentitySeen::Missing));
    for round in 1..=2 {
        for _ in 0..50 {
            let mut together = Vec::new();
            for _ in 0..100 {
                let (mut lookups, request) =
                    (stage.bench.lookups.clone(), stage.request("d-1", HUB_1, epoch));
                together
                    .push(tokio::spawn(async move { lookups.report(request).await.unwrap().into_inner() }));
            }
            for report in together {
                let answer = report.await.unwrap();
                assert_eq!(
                    (answer.finding(), answer.drift()),
                    (ReportFinding::Negative, DriftClass::Missing)
                );
                let negative = negative_of(&answer);
                assert_eq!((negative.kind(), negative.epoch), (NegativeKind::Missing, epoch));
                assert!(answer.retry_after.is_some());
            }
        }
        assert_eq!(
            stage.authority.registrations(),
            round,
            "one question of DPS for 5,000 reports in a minute"
        );
        assert_eq!(stage.authority.calls(), 2 * round);
        stage.clock.advance(Duration::from_secs(61));
    }
    assert_eq!(stage.bench.get("d-1").await.unwrap().epoch, epoch, "the directory stands");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_answer_has_its_verdict() {
    let mut stage = Stage::start().await;
    let drift = |class: DriftClass| (ReportFinding::Drift, class);
    let cases = [
        (Some(RegistrationSeen::Assigning), (ReportFinding::Negative, DriftClass::Unspecified)),
        (Some(RegistrationSeen::Unassigned), (ReportFinding::Negative, DriftClass::Pending)),
        (Some(assigned("d", HUB_3, Some(u64::MAX))), drift(DriftClass::HubNotLinked)),
        (Some(assigned("d", "stranger.example", None)), drift(DriftClass::HubUnknown)),
        (Some(assigned("other", HUB_2, None)), drift(DriftClass::Duplicate)),
        (None, (ReportFinding::Negative, DriftClass::Orphan)),
    ];
    for (at, (seen, (finding, class))) in cases.into_iter().enumerate() {
        let device = format!("d-{at}");
        let seen = seen.map(|seen| match seen {
            RegistrationSeen::Assigned { hub, device: named, updated } if named.as_str() == "d" => {
                RegistrationSeen::Assigned { hub, device: device.parse().unwrap(), updated }
            }
            other => other,
        });
        let epoch = stage.enroll(&device, HUB_1).await;
        stage.authority.registration(&device, Ok(seen.clone()));
        stage.clock.advance(Duration::from_secs(10));
        let answer = stage.report(&device, HUB_1, epoch, HubObservation::NotFound).await.unwrap();
        assert_eq!((answer.finding(), answer.drift()), (finding, class), "{seen:?}: {answer:?}");
        let mapping = stage.bench.get(&device).await.unwrap();
        assert_eq!(
            (mapping.hub.as_str(), mapping.status()),
            (HUB_1, v1::MappingStatus::Assigned),
            "{seen:?}"
        );
        assert_eq!(mapping.epoch, epoch, "an operator's word stands: {seen:?}");
    }
    // A closed hub takes no newcomers: the device is there all the same, so that is drift.
    let epoch = stage.enroll("d-9", HUB_1).await;
    let closed = v1::DesiredHub {
        name: HUB_2.to_owned(),
        state: Some(v1::AcceptState::Cordoned as i32),
        ..v1::DesiredHub::default()
    };
    let desired = v1::DesiredTopology { hubs: vec![closed], ..v1::DesiredTopology::default() };
    stage.bench.topology.apply(apply(desired)).await.unwrap();
    stage.clock.advance(Duration::from_secs(120));
    let updated = stage.clock.now() - 1_000;
    stage.authority.registration("d-9", Ok(Some(assigned("d-9", HUB_2, Some(updated)))));
    let answer = stage.report("d-9", HUB_1, epoch, HubObservation::NotFound).await.unwrap();
    assert_eq!(
        (answer.finding(), answer.drift()),
        (ReportFinding::Drift, DriftClass::WrongHub),
        "{answer:?}"
    );
    assert_eq!((hub_of(&answer), answer.other_hub.as_str()), (HUB_1, HUB_2));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_away_or_talking_nonsense_changes_nothing() {
    let mut stage = Stage::start().await;
    for (at, trouble) in [
        Trouble::Away("no route".to_owned()),
        Trouble::Nonsense("half an answer".to_owned()),
        Trouble::NoAccess("wrong key".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let device = format!("d-{at}");
        let epoch = stage.enroll(&device, HUB_1).await;
        stage.authority.registration(&device, Err(trouble.clone()));
        for _ in 0..20 {
            let answer = stage.report(&device, HUB_1, epoch, HubObservation::NotFound).await.unwrap();
            assert_eq!((answer.finding(), hub_of(&answer)), (ReportFinding::NotVerified, HUB_1));
            assert_eq!(answer.problem, trouble.to_string());
            assert!(answer.retry_after.is_some());
        }
        assert_eq!(stage.authority.registrations(), at + 1);
        assert_eq!(stage.bench.get(&device).await.unwrap().epoch, epoch);
    }
    let line = "berth_azure_calls_total{operation=\"get registration\",outcome=\"nonsense\"}";
    assert_eq!(stage.metric(line).await, 1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_is_obeyed_for_the_whole_scope() {
    let mut stage = Stage::start().await;
    let first = stage.enroll("d-1", HUB_1).await;
    let second = stage.enroll("d-2", HUB_1).await;
    let throttled =
        Trouble::Throttled { problem: "too many".to_owned(), retry_after: Some(Duration::from_secs(30)) };
    stage.authority.registration("d-1", Err(throttled));
    stage.authority.registration("d-2", Ok(Some(assigned("d-2", HUB_1, None))));
    stage.authority.identity("d-2", Ok(IdentitySeen::Enabled));
    let answer = stage.report("d-1", HUB_1, first, HubObservation::NotFound).await.unwrap();
    assert_eq!(answer.finding(), ReportFinding::NotVerified);
    assert_eq!(answer.retry_after.unwrap().seconds, 30);
    for (passed, sent) in [(0, 1), (29, 1), (1, 2)] {
        stage.clock.advance(Duration::from_secs(passed));
        let answer = stage.report("d-2", HUB_1, second, HubObservation::NotFound).await.unwrap();
        let finding = if sent == 1 { ReportFinding::NotVerified } else { ReportFinding::Confirmed };
        assert_eq!((answer.finding(), stage.authority.registrations()), (finding, sent), "{answer:?}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_devices_stay_within_the_budget() {
    let mut stage = Stage::start().await;
    let mut verified = 0;
    for at in 0..60 {
        let device = format!("d-{at}");
        let epoch = stage.enroll(&device, HUB_1).await;
        stage.authority.registration(&device, Ok(Some(RegistrationSeen::Assigning)));
        let answer = stage.report(&device, HUB_1, epoch, HubObservation::NotFound).await.unwrap();
        match answer.finding() {
            ReportFinding::Negative => verified += 1,
            ReportFinding::NotVerified => {
                assert_eq!(hub_of(&answer), HUB_1);
                let wait = answer.retry_after.unwrap();
                assert!(wait.seconds == 0 && wait.nanos <= 100_000_000, "{wait:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    // 60 % of 1,000 a minute are 10 a second, and the clock stands. A question needs leave for two.
    assert_eq!((verified, stage.authority.registrations()), (9, 9));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_changes_meanwhile_keeps_the_change() {
    let mut stage = Stage::start().await;
    let epoch = stage.enroll("d-1", HUB_1).await;
    stage.clock.advance(Duration::from_secs(600));
    let updated = stage.clock.now() - 1_000;
    stage.authority.registration("d-1", Ok(Some(assigned("d-1", HUB_2, Some(updated)))));
    stage.authority.hold();
    let (mut lookups, request) = (stage.bench.lookups.clone(), stage.request("d-1", HUB_1, epoch));
    let report = tokio::spawn(async move { lookups.report(request).await.unwrap().into_inner() });
    stage.authority.asked(1).await;
    let row = v1::DeviceAssignment { status: v1::MappingStatus::Disabled as i32, ..assignment("d-1", HUB_1) };
    let changed = stage.bench.try_assign(row).await.unwrap().epoch;
    stage.authority.release();
    let answer = report.await.unwrap();
    assert_eq!(answer.finding(), ReportFinding::Stale);
    assert_eq!((negative_of(&answer).kind(), negative_of(&answer).epoch), (NegativeKind::Disabled, changed));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_through_a_follower_is_verified_by_the_leader() {
    // On a machine that stalls a leader may be replaced in the middle of it.
    for _ in 0..5 {
        if stage::Three::start().await.play().await {
            return;
        }
    }
    panic!("five times the leader changed meanwhile");
}
