//! The allocation hook of real nodes, called over plain HTTP as DPS calls it.

mod call;
mod cluster;
mod wrong;

use std::collections::BTreeSet;

use berth_proto::v1;
use berth_server::config::{AzureSettings, Settings};
use berth_server::run::Injected;
use futures_util::future::join_all;
use serde_json::json;
use tempfile::TempDir;

use crate::{Bench, HUB_1, HUB_2, HUB_3, apply, assignment, labels, start_topology};
use call::{Answer, allocate, body, metric, post};

const SCOPE: &str = "0ne00000001";
const SECRET: &str = "a/new+secret=0123456789";

/// The hubs in two stamps, all linked to the scope.
fn topology() -> v1::DesiredTopology {
    let mut topology = start_topology();
    topology.scopes[0].linked_hubs =
        Some(v1::DesiredLinkedHubs { hubs: [HUB_1, HUB_2, HUB_3].map(str::to_owned).into() });
    topology
}

/// A node whose hook is on.
struct Stage {
    bench: Bench,
    secrets: TempDir,
}

impl Stage {
    async fn start() -> Self {
        let secrets = tempfile::tempdir().unwrap();
        let path = secrets.path().join("hook");
        std::fs::write(&path, SECRET).unwrap();
        let azure = AzureSettings {
            hook_secret: Some(format!("file:{}", path.display())),
            ..AzureSettings::default()
        };
        let settings = Settings { azure, ..Settings::default() };
        let mut bench = Bench::start_on(settings, Injected::default()).await;
        bench.topology.apply(apply(topology())).await.unwrap();
        Self { bench, secrets }
    }

    fn http(&self) -> std::net::SocketAddr {
        self.bench.node.addresses().http
    }

    async fn allocate(&self, id: &str, hubs: &[&str]) -> Answer {
        allocate(self.http(), id, hubs).await
    }

    async fn hub(&mut self, name: &str, change: impl FnOnce(&mut v1::DesiredHub)) {
        let mut hub = v1::DesiredHub { name: name.to_owned(), ..v1::DesiredHub::default() };
        change(&mut hub);
        let desired = v1::DesiredTopology { hubs: vec![hub], ..v1::DesiredTopology::default() };
        self.bench.topology.apply(apply(desired)).await.unwrap();
    }

    fn revision(&self) -> u64 {
        self.bench.node.directory().newest().revision().0
    }

    async fn metric(&self, line: &str) -> u64 {
        metric(self.http(), line).await
    }

    async fn outcome(&self, outcome: &str) -> u64 {
        self.metric(&format!("berth_hook_allocations_total{{outcome=\"{outcome}\"}}")).await
    }
}

fn full(hub: &mut v1::DesiredHub, seats: u64) {
    let hard = Some(v1::DesiredLimit { devices: Some(seats) });
    hub.capacity = Some(v1::DesiredCapacity { hard, ..v1::DesiredCapacity::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_device_is_placed_before_it_is_told_and_told_the_same_again() {
    let mut stage = Stage::start().await;
    let before = stage.revision();
    let first = stage.allocate("Pump-1", &[HUB_2]).await;
    assert_eq!((first.status, first.hub()), (200, Some(HUB_2)), "{first:?}");
    assert_eq!(stage.revision(), before + 1);
    let mapping = stage.bench.get("Pump-1").await.unwrap();
    assert_eq!((mapping.hub.as_str(), mapping.status()), (HUB_2, v1::MappingStatus::Enrolling));
    assert_eq!((mapping.origin(), mapping.scope.as_str()), (v1::Origin::Placed, SCOPE));
    assert_eq!(mapping.evidence.unwrap().source(), v1::EvidenceSource::Hook);
    // Again, in another case, and with room elsewhere too.
    for id in ["Pump-1", "pump-1"] {
        let again = stage.allocate(id, &[HUB_1, HUB_2, HUB_3]).await;
        assert_eq!((again.status, again.hub()), (200, Some(HUB_2)), "{again:?}");
    }
    assert_eq!(stage.revision(), before + 1, "nothing more was written");
    assert_eq!((stage.outcome("placed").await, stage.outcome("held").await), (1, 2));
    // A device that was there before keeps its hub, cordoned or not.
    let row = v1::DeviceAssignment { scope: SCOPE.to_owned(), ..assignment("old-1", HUB_3) };
    stage.bench.try_assign(row).await.unwrap();
    stage.hub(HUB_3, |hub| hub.state = Some(v1::AcceptState::Cordoned as i32)).await;
    assert_eq!(stage.allocate("OLD-1", &[HUB_1, HUB_3]).await.hub(), Some(HUB_3));
    stage.bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_and_device_ids_are_kept_apart() {
    let mut stage = Stage::start().await;
    let mut told = body("pump-1", &[HUB_1]);
    told["individualEnrollment"]["deviceId"] = json!("Pump#1");
    let answer = post(stage.http(), &call::query(), told.to_string().as_bytes()).await;
    assert_eq!(answer.hub(), Some(HUB_1), "{answer:?}");
    assert_eq!(stage.bench.get("Pump#1").await.unwrap().registration_id, "pump-1");
    let reference = v1::RegistrationRef { registration_id: "PUMP-1".to_owned(), scope: SCOPE.to_owned() };
    let request = v1::GetRequest {
        device: Some(v1::get_request::Device::Registration(reference)),
        ..v1::GetRequest::default()
    };
    let found = stage.bench.devices.get(request).await.unwrap().into_inner();
    assert_eq!(found.mapping.unwrap().device_id, "Pump#1");
    // The same registration under another name at the hub.
    let revision = stage.revision();
    told["individualEnrollment"]["deviceId"] = json!("pump#1");
    let refused = post(stage.http(), &call::query(), told.to_string().as_bytes()).await;
    assert_eq!((refused.status, refused.reason()), (409, "DUPLICATE"), "{refused:?}");
    assert_eq!(stage.metric("berth_reconcile_drift{class=\"DUPLICATE\"}").await, 1);
    assert_eq!(stage.revision(), revision);
    stage.bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_of_one_device_at_once_place_it_once() {
    let stage = Stage::start().await;
    let before = stage.revision();
    let calls = (0..50).map(|_| stage.allocate("pump-1", &[HUB_1, HUB_2, HUB_3]));
    let answers = join_all(calls).await;
    let hubs: BTreeSet<_> = answers.iter().map(|answer| answer.hub().expect("a hub")).collect();
    assert_eq!(hubs.len(), 1, "{answers:?}");
    assert_eq!(stage.revision(), before + 1);
    assert_eq!((stage.outcome("placed").await, stage.outcome("held").await), (1, 49));
    stage.bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_devices_at_once_fill_what_there_is_and_no_more() {
    let mut stage = Stage::start().await;
    stage.hub(HUB_1, |hub| full(hub, 7)).await;
    stage.hub(HUB_2, |hub| full(hub, 5)).await;
    let ids: Vec<String> = (0..20).map(|n| format!("pump-{n}")).collect();
    let answers = join_all(ids.iter().map(|id| stage.allocate(id, &[HUB_1, HUB_2]))).await;
    let of = |hub| answers.iter().filter(|answer| answer.hub() == Some(hub)).count();
    assert_eq!((of(HUB_1), of(HUB_2)), (7, 5), "{answers:?}");
    for refused in answers.iter().filter(|answer| answer.hub().is_none()) {
        assert_eq!((refused.status, refused.reason()), (429, "NO_ROOM"), "{refused:?}");
        assert!(refused.head.contains("retry-after: 60"), "{refused:?}");
    }
    // Room is made, and those that were told to come again get it.
    stage.hub(HUB_2, |hub| full(hub, 20)).await;
    for (id, first) in ids.iter().zip(&answers) {
        let again = stage.allocate(id, &[HUB_1, HUB_2]).await;
        assert_eq!(again.hub(), Some(first.hub().unwrap_or(HUB_2)), "{again:?}");
    }
    stage.bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_labels_and_headroom_choose_the_hub() {
    let mut stage = Stage::start().await;
    stage.hub(HUB_1, |hub| full(hub, 10)).await;
    stage.hub(HUB_2, |hub| full(hub, 20)).await;
    stage.hub(HUB_3, |hub| full(hub, 30)).await;
    let all = [HUB_1, HUB_2, HUB_3];
    assert_eq!(stage.allocate("roomiest", &all).await.hub(), Some(HUB_3));
    // Cordoned hubs take nobody, and neither do those of a cordoned stamp.
    stage.hub(HUB_3, |hub| hub.state = Some(v1::AcceptState::Cordoned as i32)).await;
    for n in 0..20 {
        let hub = stage.allocate(&format!("open-{n}"), &[HUB_2, HUB_3]).await;
        assert_eq!(hub.hub(), Some(HUB_2), "{hub:?}");
    }
    assert_eq!(stage.allocate("one-too-many", &[HUB_2, HUB_3]).await.reason(), "NO_ROOM");
    assert_eq!(stage.allocate("next", &all).await.hub(), Some(HUB_1), "the next one has room");
    stage.hub(HUB_3, |hub| hub.state = Some(v1::AcceptState::Active as i32)).await;
    let query = |label: &str| format!("{}&label={label}", call::query());
    for (label, hub) in
        [("lifecycle:test", Some(HUB_1)), ("lifecycle:production", Some(HUB_3)), ("ring:9", None)]
    {
        let text = body(&label.replace(':', "-"), &all).to_string();
        let answer = post(stage.http(), &query(label), text.as_bytes()).await;
        assert_eq!(answer.hub(), hub, "{label}: {answer:?}");
    }
    let stamp = v1::DesiredStamp {
        name: "prod-1".to_owned(),
        state: Some(v1::AcceptState::Cordoned as i32),
        labels: Some(v1::DesiredLabels { labels: labels([("lifecycle", "production")]) }),
        ..v1::DesiredStamp::default()
    };
    let desired = v1::DesiredTopology { stamps: vec![stamp], ..v1::DesiredTopology::default() };
    stage.bench.topology.apply(apply(desired)).await.unwrap();
    assert_eq!(stage.allocate("later", &all).await.hub(), Some(HUB_1));
    assert_eq!(stage.allocate("never", &[HUB_3]).await.reason(), "NO_ROOM");
    stage.bench.stop().await;
}
