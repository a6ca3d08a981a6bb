//! Questions that end: with the time of whoever asked, with the device as it was, and with the node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_core::reconcile::{IdentitySeen, RegistrationSeen};
use berth_core::{DeviceId, HubName, RegistrationId, Scope};
use berth_proto::convert::Consistency;
use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::{HubObservation, ReportFinding};
use berth_server::config::Settings;
use berth_server::reconcile::{Authority, Trouble};
use berth_server::run::Injected;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::Code;

use super::read_through::asked;
use super::stage::{Stage, assigned, hub_of, request, topology};
use crate::{Bench, HUB_1, HUB_2, HUB_3, apply, assignment};

/// How long a lookup waits for DPS, however many instances there are.
const WAIT_MAX: Duration = Duration::from_secs(4);
/// How long the first of them takes.
const SLOW: Duration = Duration::from_secs(3);
const SCOPES: [&str; 3] = ["0ne00000001", "0ne00000002", "0ne00000003"];

/// DPS instances of which the first knows nothing after some time, and the others never answer.
#[derive(Default)]
struct Slow {
    asked: Mutex<Vec<String>>,
}

impl Authority for Slow {
    fn registration<'a>(
        &'a self,
        scope: &'a Scope,
        _: &'a RegistrationId,
    ) -> BoxFuture<'a, Result<Option<RegistrationSeen>, Trouble>> {
        Box::pin(async move {
            self.asked.lock().push(scope.name.to_string());
            match scope.name.as_str() == SCOPES[0] {
                true => tokio::time::sleep(SLOW).await,
                false => std::future::pending().await,
            }
            Ok(None)
        })
    }

    fn enrollment<'a>(
        &'a self,
        _: &'a Scope,
        _: &'a RegistrationId,
    ) -> BoxFuture<'a, Result<Option<RegistrationSeen>, Trouble>> {
        Box::pin(async { Ok(None) })
    }

    fn identity<'a>(
        &'a self,
        _: &'a HubName,
        _: &'a DeviceId,
    ) -> BoxFuture<'a, Result<IdentitySeen, Trouble>> {
        Box::pin(async { Err(Trouble::Nonsense("no hub is asked about a device unknown".to_owned())) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_scopes_of_one_lookup_have_one_time_together() {
    let slow = Arc::new(Slow::default());
    let authority: Arc<dyn Authority> = Arc::<Slow>::clone(&slow);
    let injected = Injected { authority: Some(authority), ..Injected::default() };
    let mut bench = Bench::start_on(Settings::default(), injected).await;
    let mut desired = topology();
    let scope = desired.scopes[0].clone();
    desired.scopes = SCOPES.map(|name| v1::DesiredScope { name: name.to_owned(), ..scope.clone() }).into();
    bench.topology.apply(apply(desired)).await.unwrap();
    let begun = Instant::now();
    let status = bench.lookups.lookup(asked("new-1", Consistency::Linearizable)).await.unwrap_err();
    let took = begun.elapsed();
    let error = ApiError::from(&status);
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, "DEVICE_UNVERIFIED"), "{error:?}");
    assert!(took >= WAIT_MAX && took < SLOW + WAIT_MAX, "{took:?}");
    assert_eq!(*slow.asked.lock(), SCOPES[..2], "nobody waits for a third one any more");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_changes_meanwhile_is_not_listed_for_what_it_was() {
    let mut stage = Stage::start().await;
    let epoch = stage.enroll("d-1", HUB_1).await;
    stage.authority.registration("d-1", Ok(Some(assigned("d-1", HUB_3, None))));
    stage.authority.hold();
    let (mut lookups, request) = (stage.bench.lookups.clone(), stage.request("d-1", HUB_1, epoch));
    let report = tokio::spawn(async move { lookups.report(request).await.unwrap().into_inner() });
    stage.authority.asked(1).await;
    let changed = stage.enroll("d-1", HUB_2).await;
    stage.authority.release();
    let answer = report.await.unwrap();
    assert_eq!((answer.finding(), hub_of(&answer)), (ReportFinding::Stale, HUB_2), "{answer:?}");
    assert_eq!(stage.metric("berth_reconcile_drift{class=\"HUB_NOT_LINKED\"}").await, 0);
    // It is said of what the device is now, once somebody asks about that.
    let answer = stage.report("d-1", HUB_2, changed, HubObservation::NotFound).await.unwrap();
    assert_eq!(answer.drift(), v1::DriftClass::HubNotLinked, "{answer:?}");
    assert_eq!(stage.metric("berth_reconcile_drift{class=\"HUB_NOT_LINKED\"}").await, 1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_comes_in_while_it_is_looked_for_keeps_the_hub_that_it_was_given() {
    let mut stage = Stage::start().await;
    stage.authority.registration("new-1", Ok(Some(assigned("new-1", HUB_2, None))));
    stage.authority.hold();
    let mut lookups = stage.bench.lookups.clone();
    let lookup = tokio::spawn(async move { lookups.lookup(asked("new-1", Consistency::Linearizable)).await });
    stage.authority.asked(1).await;
    let epoch = stage.enroll("new-1", HUB_1).await;
    stage.authority.release();
    let answer = lookup.await.unwrap().unwrap().into_inner();
    let Some(v1::lookup_response::Result::Found(found)) = answer.result else { panic!("{answer:?}") };
    assert_eq!((found.hub.as_str(), found.epoch), (HUB_1, epoch));
    assert_eq!(stage.bench.get("new-1").await.unwrap().epoch, epoch);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_broke_off_in_a_question_starts_again_on_its_directory() {
    let mut stage = Stage::start().await;
    let epoch = stage.enroll("d-1", HUB_1).await;
    stage.clock.advance(Duration::from_secs(600));
    let updated = stage.clock.now() - 1_000;
    stage.authority.registration("d-1", Ok(Some(assigned("d-1", HUB_2, Some(updated)))));
    stage.authority.hold();
    let (mut lookups, request) = (stage.bench.lookups.clone(), stage.request("d-1", HUB_1, epoch));
    let report = tokio::spawn(async move { lookups.report(request).await });
    stage.authority.asked(1).await;
    let Stage { bench: Bench { node, _dir: dir, .. }, clock, authority } = stage;
    node.halt().await;
    drop(report.await.unwrap());
    // The question has no answer yet, and holds on to nothing.
    let injected = Injected {
        clock: Arc::new(clock.clone()),
        authority: Some(Arc::new(authority.clone())),
        ..Injected::default()
    };
    let bench = Bench::open(dir, Settings::default(), injected).await;
    let mut stage = Stage { bench, clock, authority };
    stage.authority.release();
    let mapping = stage.bench.get("d-1").await.unwrap();
    assert_eq!((mapping.hub.as_str(), mapping.epoch), (HUB_1, epoch), "nobody did what followed from it");
    let answer = stage.report("d-1", HUB_1, epoch, HubObservation::NotFound).await.unwrap();
    assert_eq!((answer.finding(), hub_of(&answer)), (ReportFinding::Changed, HUB_2), "{answer:?}");
    stage.stop().await;
}

/// DPS, which has no record of one device, but says so only when it is let; and which throttles all others.
struct Throttling {
    asked: watch::Sender<Vec<String>>,
    open: watch::Sender<bool>,
}

impl Authority for Throttling {
    fn registration<'a>(
        &'a self,
        _: &'a Scope,
        id: &'a RegistrationId,
    ) -> BoxFuture<'a, Result<Option<RegistrationSeen>, Trouble>> {
        Box::pin(async move {
            self.asked.send_modify(|asked| asked.push(id.to_string()));
            if id.as_str() == "d-1" {
                self.open.subscribe().wait_for(|open| *open).await.unwrap();
                return Ok(None);
            }
            let retry_after = Some(Duration::from_secs(300));
            Err(Trouble::Throttled { problem: "too many".to_owned(), retry_after })
        })
    }

    fn enrollment<'a>(
        &'a self,
        _: &'a Scope,
        _: &'a RegistrationId,
    ) -> BoxFuture<'a, Result<Option<RegistrationSeen>, Trouble>> {
        Box::pin(async {
            self.asked.send_modify(|asked| asked.push("an enrollment".to_owned()));
            Ok(None)
        })
    }

    fn identity<'a>(
        &'a self,
        _: &'a HubName,
        _: &'a DeviceId,
    ) -> BoxFuture<'a, Result<IdentitySeen, Trouble>> {
        Box::pin(async { Err(Trouble::Nonsense("no hub is asked".to_owned())) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_has_begun_is_not_gone_on_with_while_dps_wants_to_be_left_alone() {
    let (asked, open) = (watch::Sender::new(Vec::new()), watch::Sender::new(false));
    let throttling = Arc::new(Throttling { asked, open });
    let authority: Arc<dyn Authority> = Arc::<Throttling>::clone(&throttling);
    let injected = Injected { authority: Some(authority), ..Injected::default() };
    let mut bench = Bench::start_on(Settings::default(), injected).await;
    bench.topology.apply(apply(topology())).await.unwrap();
    let mut reports = Vec::new();
    for device in ["d-1", "d-2"] {
        let row = v1::DeviceAssignment { scope: SCOPES[0].to_owned(), ..assignment(device, HUB_1) };
        let epoch = bench.try_assign(row).await.unwrap().epoch;
        let (mut lookups, request) =
            (bench.lookups.clone(), request(device, HUB_1, epoch, HubObservation::NotFound));
        reports.push(tokio::spawn(async move { lookups.report(request).await.unwrap().into_inner() }));
        let is_asked = |asked: &Vec<String>| asked.iter().any(|id| id == device);
        throttling.asked.subscribe().wait_for(is_asked).await.unwrap();
    }
    // Throttled for the sake of the second one, which is told first.
    let second = reports.pop().unwrap().await.unwrap();
    assert_eq!((second.finding(), hub_of(&second)), (ReportFinding::NotVerified, HUB_1), "{second:?}");
    throttling.open.send_replace(true);
    let first = reports.pop().unwrap().await.unwrap();
    assert_eq!(*throttling.asked.borrow(), ["d-1", "d-2"], "nothing more is asked");
    assert_eq!((first.finding(), hub_of(&first)), (ReportFinding::NotVerified, HUB_1), "{first:?}");
    bench.stop().await;
}
