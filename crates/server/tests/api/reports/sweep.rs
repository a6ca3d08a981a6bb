//! Sweeps over listings that the test wrote: what is verified because of them, and what follows.

use std::time::Duration;

use berth_core::reconcile::{IdentitySeen, RegistrationSeen};
use berth_core::{Assign, Command, EvidenceSource, Origin, Precondition, Proposal, Status};
use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::reconcile_service_client::ReconcileServiceClient;
use berth_proto::v1::{DriftClass, SweepState};
use tonic::Code;
use tonic::transport::Channel;

use super::stage::{SCOPE, Stage, Three, assigned};
use crate::{HUB_1, HUB_2, HUB_3, assignment};

struct Play {
    stage: Stage,
    calls: ReconcileServiceClient<Channel>,
}

impl Play {
    async fn start() -> Self {
        let stage = Stage::start().await;
        let address = format!("http://{}", stage.bench.node.addresses().client);
        Self { stage, calls: ReconcileServiceClient::connect(address).await.unwrap() }
    }

    async fn order(&mut self, request: v1::StartSweepRequest) -> Result<v1::StartSweepResponse, ApiError> {
        self.calls.start_sweep(request).await.map(tonic::Response::into_inner).map_err(ApiError::from)
    }

    async fn told(&mut self) -> Option<v1::Sweep> {
        self.calls.get_sweep(v1::GetSweepRequest {}).await.unwrap().into_inner().sweep
    }

    async fn sweep(&mut self) -> v1::Sweep {
        self.order(v1::StartSweepRequest::default()).await.unwrap();
        loop {
            let sweep = self.told().await.unwrap();
            if sweep.state() != SweepState::Running {
                return sweep;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn listed(&mut self) -> Vec<(String, DriftClass)> {
        let page = self.calls.list_drift(v1::ListDriftRequest::default()).await.unwrap().into_inner();
        page.drifts.iter().map(|drift| (drift.device_id.clone(), drift.class())).collect()
    }

    /// A device that all agree on.
    async fn settled(&mut self, id: &str, hub: &str) -> u64 {
        let authority = &self.stage.authority;
        authority.enroll(id, id, false);
        authority.list(hub, id, true);
        authority.registration(id, Ok(Some(assigned(id, hub, None))));
        authority.identity(id, Ok(IdentitySeen::Enabled));
        self.stage.enroll(id, hub).await
    }

    /// What the allocation hook leaves behind.
    async fn placed(&self, id: &str, hub: &str) {
        let assign = Assign {
            device: id.parse().unwrap(),
            hub: Some(hub.parse().unwrap()),
            status: Some(Status::Enrolling),
            labels: None,
            scope: Some(SCOPE.parse().unwrap()),
            registration: None,
            precondition: Precondition::Absent,
            origin: Origin::Placed,
            evidence: EvidenceSource::Hook,
        };
        let proposal = Proposal {
            request_id: None,
            payload_hash: 0,
            actor: String::new(),
            reason: String::new(),
            command: Command::Assign(assign),
        };
        self.stage.bench.node.directory().propose(proposal).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_agree_nobody_is_asked_about_any_device() {
    let mut play = Play::start().await;
    assert_eq!(play.told().await, None);
    for n in 1..=5 {
        play.settled(&format!("d-{n}"), if n % 2 == 0 { HUB_1 } else { HUB_2 }).await;
    }
    let registered = assigned("g-1", HUB_1, None);
    play.stage.authority.group("g", "g-1", registered);
    play.stage.authority.list(HUB_1, "g-1", true);
    play.stage.enroll("g-1", HUB_1).await;
    let before = play.stage.authority.calls();
    let sweep = play.sweep().await;
    assert_eq!(
        (sweep.state(), sweep.verified, sweep.rows),
        (SweepState::Completed, 0, 5 + 1 + 1 + 6),
        "{sweep:?}"
    );
    // Enrollments take three pages; groups and the registrations of the one there is, one each; hubs two, two and one.
    assert_eq!((sweep.pages, play.stage.authority.calls() - before), (10, 10));
    assert!(play.listed().await.is_empty());
    play.stage.clock.advance(Duration::from_secs(60));
    assert_eq!(play.stage.metric("berth_reconcile_sweep_age_seconds{of=\"all\"}").await, 60);
    play.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_found_under_the_name_that_dps_has_for_it() {
    let mut play = Play::start().await;
    let authority = play.stage.authority.clone();
    authority.enroll("reg-1", "Device#1", false);
    authority.list(HUB_2, "Device#1", true);
    authority.registration("reg-1", Ok(Some(assigned("Device#1", HUB_2, None))));
    // One that only the hub knows, and that no registration can be named like; and one that is gone by now.
    authority.list(HUB_1, "alien#1", true);
    authority.identity("alien#1", Ok(IdentitySeen::Disabled));
    authority.list(HUB_1, "gone#1", true);
    authority.identity("gone#1", Ok(IdentitySeen::Missing));
    let sweep = play.sweep().await;
    assert_eq!((sweep.adopted, sweep.state()), (1, SweepState::Completed), "{sweep:?}");
    let mapping = play.stage.bench.get("Device#1").await.unwrap();
    assert_eq!((mapping.hub.as_str(), mapping.registration_id.as_str()), (HUB_2, "reg-1"));
    assert_eq!(play.listed().await, [("alien#1".to_owned(), DriftClass::Orphan)]);
    // The sweep after it finds both sides alike.
    let again = play.sweep().await;
    assert_eq!((again.adopted, again.repaired), (0, 0));
    play.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_left_behind_is_told_beside_what_it_is() {
    let mut play = Play::start().await;
    let epoch = play.settled("d-1", HUB_1).await;
    play.settled("d-2", HUB_1).await;
    let authority = play.stage.authority.clone();
    authority.list(HUB_3, "d-1", true);
    authority.enrollment("d-2", RegistrationSeen::Disabled);
    authority.enroll("d-2", "d-2", true);
    let sweep = play.sweep().await;
    assert_eq!(sweep.found.iter().map(|found| found.count).sum::<u64>(), 2, "{sweep:?}");
    let both = [("d-1".to_owned(), DriftClass::Duplicate), ("d-2".to_owned(), DriftClass::Disabled)];
    assert_eq!(play.listed().await, both);
    // A report has the device's own hub confirmed, and settles neither.
    play.stage.clock.advance(Duration::from_secs(10));
    for id in ["d-1", "d-2"] {
        let epoch = play.stage.bench.get(id).await.unwrap().epoch;
        let answer = play.stage.report(id, HUB_1, epoch, v1::HubObservation::NotFound).await.unwrap();
        assert_eq!(answer.finding(), v1::ReportFinding::Confirmed);
    }
    assert_eq!(play.listed().await, both);
    // Somebody who looks at the device sees it, and it goes when it has gone.
    let request = |id: &str| v1::ReconcileDeviceRequest { device_id: id.to_owned() };
    let told = play.calls.reconcile_device(request("d-1")).await.unwrap().into_inner();
    assert_eq!((told.finding(), told.others.len()), (v1::ReportFinding::Confirmed, 1));
    let other = &told.others[0];
    assert_eq!((other.class(), other.theirs.as_ref().unwrap().hub.as_str()), (DriftClass::Duplicate, HUB_3));
    let adopt = v1::ResolveDriftRequest {
        device_id: "d-2".to_owned(),
        how: v1::DriftResolution::Adopt as i32,
        ..Default::default()
    };
    play.calls.resolve_drift(adopt).await.unwrap();
    assert_eq!(play.stage.bench.get("d-2").await.unwrap().status(), v1::MappingStatus::Disabled);
    authority.identity("d-1", Ok(IdentitySeen::Missing));
    let told = play.calls.reconcile_device(request("d-1")).await.unwrap().into_inner();
    assert!(told.others.is_empty(), "{told:?}");
    assert_eq!(play.listed().await, [("d-1".to_owned(), DriftClass::Missing)]);
    assert_eq!(play.stage.bench.get("d-1").await.unwrap().epoch, epoch);
    play.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placement_is_released_a_day_after_its_device_did_not_come() {
    let mut play = Play::start().await;
    for id in ["late-1", "came-1", "enrolled-1"] {
        play.placed(id, HUB_1).await;
    }
    play.stage.authority.registration("came-1", Ok(Some(assigned("came-1", HUB_1, None))));
    play.stage.authority.identity("came-1", Ok(IdentitySeen::Enabled));
    play.stage.authority.enrollment("enrolled-1", RegistrationSeen::Unassigned);
    play.stage.clock.advance(Duration::from_secs(23 * 3_600));
    let early = play.sweep().await;
    assert_eq!((early.released, early.verified), (0, 0), "{early:?}");
    play.stage.clock.advance(Duration::from_secs(2 * 3_600));
    let due = play.sweep().await;
    assert_eq!((due.released, due.repaired), (2, 1), "{due:?}");
    for id in ["late-1", "enrolled-1"] {
        assert_eq!(play.stage.bench.get(id).await.unwrap_err().code(), Code::NotFound);
    }
    assert_eq!(play.stage.bench.get("came-1").await.unwrap().status(), v1::MappingStatus::Assigned);
    play.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_without_a_provisioning_service_are_compared_with_their_hub() {
    let mut play = Play::start().await;
    for id in ["loner-1", "loner-2", "loner-3"] {
        play.stage.bench.assign(id, HUB_1).await;
    }
    let authority = play.stage.authority.clone();
    authority.list(HUB_1, "loner-1", true);
    authority.list(HUB_1, "loner-2", false);
    authority.identity("loner-2", Ok(IdentitySeen::Disabled));
    authority.identity("loner-3", Ok(IdentitySeen::Missing));
    play.sweep().await;
    let both = [("loner-2".to_owned(), DriftClass::Disabled), ("loner-3".to_owned(), DriftClass::Missing)];
    assert_eq!(play.listed().await, both);
    let adopt = v1::ResolveDriftRequest {
        device_id: "loner-2".to_owned(),
        how: v1::DriftResolution::Adopt as i32,
        ..Default::default()
    };
    play.calls.resolve_drift(adopt).await.unwrap();
    assert_eq!(play.stage.bench.get("loner-2").await.unwrap().status(), v1::MappingStatus::Disabled);
    play.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sweep_at_a_time_and_bad_orders_are_refused() {
    let mut play = Play::start().await;
    play.settled("d-1", HUB_1).await;
    play.stage.authority.hold();
    let id =
        uuid::Builder::from_unix_timestamp_millis(play.stage.clock.now(), &[7; 10]).into_uuid().to_string();
    let order = v1::StartSweepRequest { request_id: id, scope: SCOPE.to_owned(), ..Default::default() };
    let first = play.order(order.clone()).await.unwrap().sweep.unwrap();
    play.stage.authority.asked(1).await;
    let busy = play.order(v1::StartSweepRequest::default()).await.unwrap_err();
    assert_eq!((busy.code(), busy.reason()), (Code::FailedPrecondition, "SWEEP_RUNNING"));
    let repeated = play.order(order).await.unwrap().sweep.unwrap();
    assert_eq!((repeated.number, repeated.state()), (first.number, SweepState::Running));
    assert!(repeated.left.is_some());
    play.stage.authority.release();
    while play.told().await.unwrap().state() == SweepState::Running {
        tokio::task::yield_now().await;
    }
    assert_eq!(play.told().await.unwrap().scope, SCOPE);
    let refused = [
        (v1::StartSweepRequest { scope: "0ne00000009".to_owned(), ..Default::default() }, Code::NotFound),
        (v1::StartSweepRequest { hub: "nowhere.example".to_owned(), ..Default::default() }, Code::NotFound),
        (
            v1::StartSweepRequest { hub: HUB_1.to_owned(), scope: SCOPE.to_owned(), ..Default::default() },
            Code::InvalidArgument,
        ),
        (v1::StartSweepRequest { request_id: "x".to_owned(), ..Default::default() }, Code::InvalidArgument),
    ];
    for (order, code) in refused {
        assert_eq!(play.order(order.clone()).await.unwrap_err().code(), code, "{order:?}");
    }
    let plan = v1::StartSweepRequest { validate_only: true, hub: HUB_2.to_owned(), ..Default::default() };
    let plan = play.order(plan).await.unwrap();
    assert_eq!((plan.plan.len(), plan.calls, plan.sweep), (1, 1, None));
    play.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_ends_with_the_leadership_of_its_node() {
    Three::start().await.lose_the_leader_of_a_sweep(assignment("d-1", HUB_1)).await;
}
