//! Lookups of devices that the directory has without a hub to call.

use std::time::Duration;

use berth_core::reconcile::{IdentitySeen, RegistrationSeen};
use berth_proto::convert::Consistency;
use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::lookup_response::Result as Answer;
use berth_proto::v1::{HubObservation, NegativeKind, ReportFinding};
use berth_server::reconcile::Trouble;

use super::read_through::{asked, look_up};
use super::stage::{SCOPE, Stage, assigned, negative_of};
use crate::{HUB_1, HUB_2, assignment};

fn no_hub(answer: Result<String, ApiError>) -> (NegativeKind, u64) {
    match answer {
        Err(ApiError::NoHub { kind, epoch, .. }) => (kind, epoch),
        other => panic!("{other:?}"),
    }
}

/// A device of the scope that DPS put on hub 1, and its epoch.
async fn adopt(stage: &mut Stage, device: &str) -> u64 {
    stage.authority.registration(device, Ok(Some(assigned(device, HUB_1, None))));
    assert_eq!(look_up(stage, device).await.unwrap(), HUB_1);
    stage.bench.get(device).await.unwrap().epoch
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dps_said_of_a_device_is_verified_by_the_next_lookup_when_its_time_is_over() {
    let mut stage = Stage::start().await;
    for (device, seen, kind, seconds) in [
        ("d-1", RegistrationSeen::Assigning, NegativeKind::Enrolling, 2),
        ("d-2", RegistrationSeen::Unassigned, NegativeKind::Unassigned, 60),
    ] {
        let epoch = adopt(&mut stage, device).await;
        stage.authority.registration(device, Ok(Some(seen)));
        let changed = stage.report(device, HUB_1, epoch, HubObservation::NotFound).await.unwrap();
        assert_eq!((changed.finding(), negative_of(&changed).kind()), (ReportFinding::Changed, kind));
        stage.authority.registration(device, Ok(Some(assigned(device, HUB_2, None))));
        let calls = stage.authority.calls();
        for _ in 0..50 {
            assert_eq!(no_hub(look_up(&mut stage, device).await), (kind, epoch + 1));
        }
        assert_eq!(stage.authority.calls(), calls, "{kind:?} is remembered");
        stage.clock.advance(Duration::from_secs(seconds));
        let local = stage.bench.lookups.lookup(asked(device, Consistency::Local)).await.unwrap().into_inner();
        assert!(matches!(local.result, Some(Answer::Negative(_))), "{local:?}");
        assert_eq!(stage.authority.calls(), calls, "only what a quorum confirmed is verified");
        assert_eq!(look_up(&mut stage, device).await.unwrap(), HUB_2);
        assert_eq!(stage.authority.calls(), calls + 1);
        let mapping = stage.bench.get(device).await.unwrap();
        assert_eq!((mapping.epoch, mapping.status()), (epoch + 2, v1::MappingStatus::Assigned));
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_is_enabled_again_is_found_by_a_lookup() {
    let mut stage = Stage::start().await;
    let epoch = stage.enroll("d-1", HUB_1).await;
    stage.authority.registration("d-1", Ok(Some(assigned("d-1", HUB_1, None))));
    stage.authority.identity("d-1", Ok(IdentitySeen::Disabled));
    stage.report("d-1", HUB_1, epoch, HubObservation::NotFound).await.unwrap();
    stage.clock.advance(Duration::from_secs(61));
    assert_eq!(no_hub(look_up(&mut stage, "d-1").await), (NegativeKind::Disabled, epoch + 1));
    stage.clock.advance(Duration::from_secs(61));
    stage.authority.identity("d-1", Ok(IdentitySeen::Enabled));
    assert_eq!(look_up(&mut stage, "d-1").await.unwrap(), HUB_1);
    let mapping = stage.bench.get("d-1").await.unwrap();
    assert_eq!(
        (mapping.epoch, mapping.evidence.unwrap().source()),
        (epoch + 2, v1::EvidenceSource::Operator)
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_never_had_a_hub_is_found_once_it_registered() {
    let mut stage = Stage::start().await;
    let row = v1::DeviceAssignment {
        scope: SCOPE.to_owned(),
        registration_id: "reg-1".to_owned(),
        ..assignment("d-1", "")
    };
    let epoch = stage.bench.try_assign(row).await.unwrap().epoch;
    stage.authority.registration("reg-1", Ok(Some(RegistrationSeen::Unassigned)));
    assert_eq!(no_hub(look_up(&mut stage, "d-1").await), (NegativeKind::Unassigned, epoch));
    stage.authority.registration("reg-1", Ok(Some(assigned("d-1", HUB_2, None))));
    stage.clock.advance(Duration::from_secs(61));
    // By its other name, too.
    let registration = v1::RegistrationRef { registration_id: "reg-1".to_owned(), scope: SCOPE.to_owned() };
    let device = Some(v1::lookup_request::Device::Registration(registration));
    let request = v1::LookupRequest { device, consistency: None };
    let answer = stage.bench.lookups.lookup(request).await.unwrap().into_inner();
    let Some(Answer::Found(found)) = answer.result else { panic!("{answer:?}") };
    assert_eq!((found.hub.as_str(), found.epoch), (HUB_2, epoch + 1));
    // A device without a scope has nobody to be asked about it.
    let epoch = stage.bench.try_assign(assignment("loner", "")).await.unwrap().epoch;
    let calls = stage.authority.calls();
    assert_eq!(no_hub(look_up(&mut stage, "loner").await), (NegativeKind::Unassigned, epoch));
    assert_eq!(stage.authority.calls(), calls);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_can_be_asked_the_directory_is_the_answer() {
    let mut stage = Stage::start().await;
    let mut epochs = Vec::new();
    for n in 0..20 {
        let (device, row) = (format!("d-{n}"), assignment(&format!("d-{n}"), ""));
        let row = v1::DeviceAssignment { scope: SCOPE.to_owned(), ..row };
        epochs.push(stage.bench.try_assign(row).await.unwrap().epoch);
        stage.authority.registration(&device, Err(Trouble::Away("no route".to_owned())));
    }
    for _ in 0..3 {
        for (n, epoch) in epochs.iter().enumerate() {
            let answer = look_up(&mut stage, &format!("d-{n}")).await;
            assert_eq!(no_hub(answer), (NegativeKind::Unassigned, *epoch));
        }
    }
    // The share of lookups: two at the start, of which a question needs both and gives one back.
    assert_eq!(stage.authority.calls(), 1);
    stage.stop().await;
}
