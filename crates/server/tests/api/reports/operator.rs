//! What operators ask: one device now, the list of drift, an end to a drift, and the budgets.

use std::time::Duration;

use berth_core::reconcile::{IdentitySeen, RegistrationSeen};
use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::reconcile_service_client::ReconcileServiceClient;
use berth_proto::v1::{DriftClass, DriftEnd, DriftResolution, HubObservation, ReportFinding};
use berth_server::reconcile::Trouble;
use tonic::Code;
use tonic::transport::Channel;

use super::stage::{SCOPE, Stage, assigned};
use crate::{HUB_1, HUB_2, HUB_3, apply};

/// The operator's side of a stage.
struct Operator {
    stage: Stage,
    calls: ReconcileServiceClient<Channel>,
}

impl Operator {
    async fn start() -> Self {
        let stage = Stage::start().await;
        let address = format!("http://{}", stage.bench.node.addresses().client);
        Self { stage, calls: ReconcileServiceClient::connect(address).await.unwrap() }
    }

    async fn device(&mut self, id: &str) -> Result<v1::ReconcileDeviceResponse, ApiError> {
        let request = v1::ReconcileDeviceRequest { device_id: id.to_owned() };
        self.calls.reconcile_device(request).await.map(tonic::Response::into_inner).map_err(ApiError::from)
    }

    async fn drifts(&mut self, request: v1::ListDriftRequest) -> v1::ListDriftResponse {
        self.calls.list_drift(request).await.unwrap().into_inner()
    }

    async fn listed(&mut self) -> Vec<String> {
        let page = self.drifts(v1::ListDriftRequest::default()).await;
        page.drifts.into_iter().map(|drift| drift.device_id).collect()
    }

    async fn resolve(
        &mut self,
        request: v1::ResolveDriftRequest,
    ) -> Result<v1::ResolveDriftResponse, ApiError> {
        self.calls.resolve_drift(request).await.map(tonic::Response::into_inner).map_err(ApiError::from)
    }

    /// A device of ours on the first hub of which DPS still says the second.
    async fn pending(&mut self, id: &str) -> u64 {
        let epoch = self.stage.enroll(id, HUB_1).await;
        let before = self.stage.clock.start_ms() - 1;
        self.stage.authority.registration(id, Ok(Some(assigned(id, HUB_2, Some(before)))));
        let found = self.device(id).await.unwrap();
        assert_eq!(
            (found.finding(), found.drift.unwrap().class()),
            (ReportFinding::Drift, DriftClass::Pending)
        );
        epoch
    }
}

fn adopt(id: &str) -> v1::ResolveDriftRequest {
    let how = DriftResolution::Adopt as i32;
    v1::ResolveDriftRequest { device_id: id.to_owned(), how, ..Default::default() }
}

fn dismiss(id: &str) -> v1::ResolveDriftRequest {
    v1::ResolveDriftRequest { how: DriftResolution::Dismiss as i32, ..adopt(id) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_compared_now_whatever_was_found_lately() {
    let mut play = Operator::start().await;
    let epoch = play.stage.enroll("d-1", HUB_1).await;
    play.stage.authority.registration("d-1", Ok(Some(assigned("d-1", HUB_1, None))));
    play.stage.authority.identity("d-1", Ok(IdentitySeen::Missing));
    let reported = play.stage.report("d-1", HUB_1, epoch, HubObservation::NotFound).await.unwrap();
    assert_eq!(reported.drift(), DriftClass::Missing);
    assert_eq!(play.listed().await, ["d-1"]);
    // A report would be answered from memory; an operator is not.
    play.stage.authority.identity("d-1", Ok(IdentitySeen::Enabled));
    let found = play.device("d-1").await.unwrap();
    assert_eq!(found.finding(), ReportFinding::Confirmed, "{found:?}");
    assert_eq!(found.mapping.unwrap().epoch, epoch);
    assert!(play.listed().await.is_empty());
    assert_eq!(play.stage.authority.registrations(), 2);

    // What the directory lacks is looked for, and taken in where DPS has it.
    let nobody = play.device("new-1").await.unwrap_err();
    assert_eq!((nobody.code(), nobody.reason()), (Code::NotFound, "DEVICE_UNKNOWN"));
    play.stage.authority.registration("new-1", Ok(Some(assigned("new-1", HUB_2, None))));
    let found = play.device("new-1").await.unwrap();
    assert_eq!((found.finding(), found.mapping.unwrap().hub.as_str()), (ReportFinding::Changed, HUB_2));
    let elsewhere = Ok(Some(assigned("new-2", "stranger.azure-devices.net", None)));
    play.stage.authority.registration("new-2", elsewhere);
    let found = play.device("new-2").await.unwrap();
    let drift = found.drift.clone().unwrap();
    assert_eq!((found.finding(), drift.class()), (ReportFinding::Drift, DriftClass::HubUnknown));
    assert_eq!((found.mapping, drift.ours.unwrap().status), (None, None));
    assert_eq!(drift.theirs.unwrap().hub, "stranger.azure-devices.net");

    let away = Err(Trouble::Away("DPS is away".to_owned()));
    play.stage.authority.registration("d-1", away.clone());
    play.stage.authority.registration("new-3", away);
    for id in ["d-1", "new-3"] {
        let found = play.device(id).await.unwrap();
        assert_eq!(found.finding(), ReportFinding::NotVerified, "{found:?}");
        assert!(found.problem.contains("away"), "{}", found.problem);
    }
    assert!(matches!(play.device("no id").await, Err(ApiError::Invalid(_))));
    play.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_listed_by_page_class_and_scope() {
    let mut play = Operator::start().await;
    for n in 1..=5 {
        play.pending(&format!("d-{n}")).await;
        play.stage.clock.advance(Duration::from_secs(1));
    }
    play.stage.enroll("e-1", HUB_1).await;
    play.device("e-1").await.unwrap();
    let (mut token, mut seen) = (String::new(), Vec::new());
    loop {
        let request = v1::ListDriftRequest { page_size: 2, page_token: token, ..Default::default() };
        let page = play.drifts(request).await;
        assert!(page.drifts.len() <= 2 && page.dropped == 0);
        seen.extend(page.drifts);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let ids: Vec<_> = seen.iter().map(|drift| drift.device_id.as_str()).collect();
    assert_eq!(ids, ["d-1", "d-2", "d-3", "d-4", "d-5", "e-1"]);
    let (first, since) = (&seen[0], i64::try_from(play.stage.clock.start_ms() / 1_000).unwrap());
    assert_eq!((first.since.unwrap().seconds, first.scope.as_str()), (since, SCOPE));
    let (ours, theirs) = (first.ours.as_ref().unwrap(), first.theirs.as_ref().unwrap());
    assert_eq!((ours.hub.as_str(), theirs.hub.as_str()), (HUB_1, HUB_2));
    assert_eq!(ours.status(), v1::MappingStatus::Assigned);
    let ways = [DriftResolution::Adopt, DriftResolution::Dismiss, DriftResolution::Enforce];
    assert!(first.resolutions().eq(ways));
    let orphan = &seen[5];
    assert_eq!((orphan.class(), orphan.theirs.as_ref().unwrap().status), (DriftClass::Orphan, None));
    assert!(orphan.resolutions().eq([DriftResolution::Dismiss]));

    let class = |class: DriftClass| v1::ListDriftRequest { class: class as i32, ..Default::default() };
    assert_eq!(play.drifts(class(DriftClass::Orphan)).await.drifts.len(), 1);
    assert_eq!(play.drifts(class(DriftClass::Duplicate)).await.drifts.len(), 0);
    let scope = |scope: &str| v1::ListDriftRequest { scope: scope.to_owned(), ..Default::default() };
    assert_eq!(play.drifts(scope(SCOPE)).await.drifts.len(), 6);
    assert_eq!(play.drifts(scope("0ne00000002")).await.drifts.len(), 0);
    for (request, code) in [
        (scope("0ne00000009"), Code::NotFound),
        (v1::ListDriftRequest { page_size: 1_001, ..Default::default() }, Code::InvalidArgument),
        (
            v1::ListDriftRequest { page_token: "not one".to_owned(), ..Default::default() },
            Code::InvalidArgument,
        ),
        (v1::ListDriftRequest { class: 99, ..Default::default() }, Code::InvalidArgument),
    ] {
        assert_eq!(play.calls.list_drift(request.clone()).await.unwrap_err().code(), code, "{request:?}");
    }
    play.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_drift_is_adopted_where_somebody_says_so() {
    let mut play = Operator::start().await;
    let epoch = play.pending("d-1").await;
    let tried = play.resolve(v1::ResolveDriftRequest { validate_only: true, ..adopt("d-1") }).await.unwrap();
    assert_eq!((tried.end(), tried.epoch), (DriftEnd::Adopted, epoch + 1));
    assert_eq!(play.stage.bench.get("d-1").await.unwrap().hub, HUB_1, "it was only tried");
    let id = uuid::Builder::from_unix_timestamp_millis(play.stage.clock.now(), &[7; 10]).into_uuid();
    let request = v1::ResolveDriftRequest {
        request_id: id.to_string(),
        reason: "moved back".to_owned(),
        ..adopt("d-1")
    };
    let done = play.resolve(request.clone()).await.unwrap();
    assert_eq!((done.end(), done.epoch), (DriftEnd::Adopted, epoch + 1));
    let mapping = play.stage.bench.get("d-1").await.unwrap();
    assert_eq!((mapping.hub.as_str(), mapping.origin()), (HUB_2, v1::Origin::Adopted));
    assert!(play.listed().await.is_empty());
    assert_eq!(play.stage.metric("berth_reconcile_drift{class=\"PENDING\"}").await, 0);
    // The same again has the first outcome; another one finds nothing to end.
    let again = play.resolve(request).await.unwrap();
    assert_eq!(
        (again.end(), again.epoch, again.header.unwrap().revision),
        (done.end(), done.epoch, mapping.revision)
    );
    let gone = play.resolve(adopt("d-1")).await.unwrap_err();
    assert_eq!((gone.code(), gone.reason()), (Code::NotFound, "DRIFT_UNKNOWN"));
    play.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_adopted_that_azure_no_longer_says() {
    let mut play = Operator::start().await;
    for n in 1..=4 {
        play.pending(&format!("d-{n}")).await;
    }
    let before = play.stage.clock.start_ms() - 1;
    let authority = play.stage.authority.clone();
    // DPS has followed, names a third hub, is away.
    authority.registration("d-1", Ok(Some(assigned("d-1", HUB_1, None))));
    authority.identity("d-1", Ok(IdentitySeen::Enabled));
    let settled = play.resolve(adopt("d-1")).await.unwrap();
    assert_eq!(settled.end(), DriftEnd::Settled);
    let mut wider = super::stage::topology();
    wider.scopes[0].linked_hubs =
        Some(v1::DesiredLinkedHubs { hubs: [HUB_1, HUB_2, HUB_3].map(ToOwned::to_owned).to_vec() });
    play.stage.bench.topology.apply(apply(wider)).await.unwrap();
    authority.registration("d-2", Ok(Some(assigned("d-2", HUB_3, Some(before)))));
    let other = play.resolve(adopt("d-2")).await.unwrap_err();
    assert_eq!((other.code(), other.reason()), (Code::FailedPrecondition, "DRIFT_STANDS"));
    assert!(other.to_string().contains(HUB_3), "{other}");
    authority.registration("d-3", Err(Trouble::Away("DPS is away".to_owned())));
    let away = play.resolve(adopt("d-3")).await.unwrap_err();
    assert_eq!((away.code(), away.reason()), (Code::Unavailable, "DEVICE_UNVERIFIED"));
    // The hub is closed by now: refused with the reason, and the drift stays listed.
    let cordon = v1::SetStateRequest {
        target: Some(v1::set_state_request::Target::Hub(HUB_2.to_owned())),
        state: v1::AcceptState::Cordoned as i32,
        ..Default::default()
    };
    play.stage.bench.topology.set_state(cordon).await.unwrap();
    let closed = play.resolve(adopt("d-4")).await.unwrap_err();
    assert_eq!(closed.reason(), "HUB_NOT_ACCEPTING");
    for n in 1..=4 {
        assert_eq!(play.stage.bench.get(&format!("d-{n}")).await.unwrap().hub, HUB_1);
    }
    assert_eq!(play.listed().await, ["d-2", "d-3", "d-4"]);
    assert_eq!(play.resolve(dismiss("d-2")).await.unwrap().end(), DriftEnd::Dismissed);
    let tried = v1::ResolveDriftRequest { validate_only: true, ..dismiss("d-3") };
    assert_eq!(play.resolve(tried).await.unwrap().end(), DriftEnd::Dismissed);
    assert_eq!(play.listed().await, ["d-3", "d-4"]);
    assert_eq!(play.resolve(dismiss("d-2")).await.unwrap_err().code(), Code::NotFound);
    play.stage.clock.advance(Duration::from_secs(60));
    // What Azure says nothing of cannot be taken over.
    play.stage.enroll("e-1", HUB_1).await;
    play.device("e-1").await.unwrap();
    assert_eq!(play.resolve(adopt("e-1")).await.unwrap_err().reason(), "DRIFT_STANDS");
    for bad in [adopt("no id"), v1::ResolveDriftRequest { how: 0, ..adopt("d-3") }] {
        assert!(matches!(play.resolve(bad).await, Err(ApiError::Invalid(_))));
    }
    play.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_enrollment_may_be_taken_for_the_word_on_its_device() {
    let mut play = Operator::start().await;
    let epoch = play.stage.enroll("d-1", HUB_1).await;
    play.stage.authority.registration("d-1", Ok(Some(RegistrationSeen::Disabled)));
    play.stage.authority.identity("d-1", Ok(IdentitySeen::Enabled));
    assert_eq!(play.device("d-1").await.unwrap().drift.unwrap().class(), DriftClass::Disabled);
    assert_eq!(play.resolve(adopt("d-1")).await.unwrap().epoch, epoch + 1);
    let mapping = play.stage.bench.get("d-1").await.unwrap();
    assert_eq!((mapping.status(), mapping.hub.as_str()), (v1::MappingStatus::Disabled, HUB_1));
    play.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_tell_what_is_left_and_until_when_a_place_is_closed() {
    let mut play = Operator::start().await;
    let budget = async |play: &mut Operator, request: v1::GetBudgetRequest| {
        play.calls.get_budget(request).await.unwrap().into_inner()
    };
    let all = budget(&mut play, v1::GetBudgetRequest::default()).await.budgets;
    assert_eq!(all.len(), 5);
    let of_scope = v1::GetBudgetRequest { scope: SCOPE.to_owned(), ..Default::default() };
    let fresh = budget(&mut play, of_scope.clone()).await.budgets.remove(0);
    assert_eq!((fresh.per_minute, fresh.share_percent, fresh.read_through_per_minute), (600, 60, 120));
    assert_eq!((fresh.left, fresh.closed_until), (10, None));
    play.pending("d-1").await;
    assert_eq!(budget(&mut play, of_scope.clone()).await.budgets[0].left, 9);
    let throttled =
        Trouble::Throttled { problem: "busy".to_owned(), retry_after: Some(Duration::from_secs(30)) };
    play.stage.authority.registration("d-1", Err(throttled));
    play.device("d-1").await.unwrap();
    let closed = budget(&mut play, of_scope).await.budgets.remove(0);
    let until = i64::try_from(play.stage.clock.now() / 1_000 + 30).unwrap();
    assert_eq!((closed.left, closed.closed_until.unwrap().seconds), (0, until));
    let of_hub = v1::GetBudgetRequest { hub: HUB_1.to_owned(), ..Default::default() };
    let hub = budget(&mut play, of_hub).await.budgets.remove(0);
    assert_eq!((hub.per_minute, hub.read_through_per_minute), (3_000, 0));
    let page = v1::GetBudgetRequest { page_size: 4, ..Default::default() };
    let first = budget(&mut play, page.clone()).await;
    let rest = budget(&mut play, v1::GetBudgetRequest { page_token: first.next_page_token, ..page }).await;
    assert_eq!((first.budgets.len(), rest.budgets.len(), rest.next_page_token.as_str()), (4, 1, ""));
    for unknown in [
        v1::GetBudgetRequest { scope: "0ne00000009".to_owned(), ..Default::default() },
        v1::GetBudgetRequest { hub: "nowhere.azure-devices.net".to_owned(), ..Default::default() },
    ] {
        assert_eq!(play.calls.get_budget(unknown).await.unwrap_err().code(), Code::NotFound);
    }
    play.stage.stop().await;
}
