use berth_core::Rejection;
use berth_proto::error::ApiError;
use berth_proto::v1;
use tonic::Code;

use crate::{Bench, HUB_1, HUB_2, HUB_3, apply, assignment, labels, refused, start_topology};

fn stamp(name: &str) -> v1::Stamp {
    v1::Stamp { name: name.to_owned(), ..v1::Stamp::default() }
}

fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_created_changed_and_deleted() {
    let mut bench = Bench::start().await;
    let create = |stamp| v1::CreateStampRequest { stamp: Some(stamp), ..v1::CreateStampRequest::default() };
    let full = v1::Stamp {
        labels: labels([("region", "weu")]),
        capacity: Some(v1::Capacity { soft: Some(5), hard: Some(10) }),
        app_endpoint: "https://weu.example".to_owned(),
        ..stamp("weu-1")
    };
    let created = bench.topology.create_stamp(create(full.clone())).await.unwrap().into_inner();
    let stored = created.stamp.unwrap();
    assert_eq!(stored.revision, created.header.unwrap().revision);
    assert_eq!(
        (stored.state(), &stored.labels, stored.capacity),
        (v1::AcceptState::Active, &full.labels, full.capacity)
    );
    let (code, error) = refused(bench.topology.create_stamp(create(full)).await);
    assert_eq!(code, Code::AlreadyExists, "{error:?}");

    let update = v1::UpdateStampRequest {
        stamp: Some(stamp("weu-1")),
        update_mask: mask(&["capacity.hard", "app_endpoint"]),
        expected_revision: stored.revision,
        ..v1::UpdateStampRequest::default()
    };
    let updated = bench.topology.update_stamp(update.clone()).await.unwrap().into_inner().stamp.unwrap();
    assert_eq!(updated.capacity.unwrap(), v1::Capacity { soft: Some(5), hard: None });
    assert_eq!((updated.app_endpoint.as_str(), &updated.labels), ("", &stored.labels));
    let (code, error) = refused(bench.topology.update_stamp(update).await);
    assert_eq!(code, Code::Aborted);
    assert!(matches!(error, ApiError::Rejected(Rejection::EtagMismatch { .. })), "{error:?}");

    let delete = |name: &str| v1::DeleteStampRequest { name: name.to_owned(), ..Default::default() };
    bench.topology.delete_stamp(delete("weu-1")).await.unwrap();
    let get = v1::GetStampRequest { name: "weu-1".to_owned(), consistency: None };
    let (code, _) = refused(bench.topology.get_stamp(get).await);
    assert_eq!(code, Code::NotFound);
    let (code, error) = refused(bench.topology.delete_stamp(delete("prod-1")).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert!(matches!(error, ApiError::Rejected(Rejection::InUse { hubs: 2, routes: 1, .. })), "{error:?}");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hubs_scopes_and_routes_have_the_same_methods() {
    let mut bench = Bench::start().await;
    let hub = v1::Hub {
        name: "Hub-9.example".to_owned(),
        stamp: "test-1".to_owned(),
        tier: v1::HubTier::S2 as i32,
        units: 4,
        ..v1::Hub::default()
    };
    let request = v1::CreateHubRequest { hub: Some(hub), ..Default::default() };
    let made = bench.topology.create_hub(request).await.unwrap().into_inner().hub.unwrap();
    assert_eq!((made.name.as_str(), made.stamp.as_str(), made.units), ("hub-9.example", "test-1", 4));
    let scope = v1::Scope {
        name: "0ne00000009".to_owned(),
        linked_hubs: vec![HUB_2.to_owned(), HUB_1.to_owned()],
        read_through: true,
        ..v1::Scope::default()
    };
    let request = v1::CreateScopeRequest { scope: Some(scope), ..Default::default() };
    let made = bench.topology.create_scope(request).await.unwrap().into_inner().scope.unwrap();
    assert!(made.read_through && made.budget_percent == 60 && made.linked_hubs.len() == 2, "{made:?}");
    let route = v1::Route { key: "Tenant-7".to_owned(), stamp: "test-1".to_owned(), revision: 0 };
    let request = v1::CreateRouteRequest { route: Some(route.clone()), ..Default::default() };
    bench.topology.create_route(request).await.unwrap();
    let route = v1::Route { stamp: "prod-1".to_owned(), ..route };
    let request = v1::UpdateRouteRequest { route: Some(route), ..Default::default() };
    let moved = bench.topology.update_route(request).await.unwrap().into_inner().route.unwrap();
    assert_eq!((moved.key.as_str(), moved.stamp.as_str()), ("tenant-7", "prod-1"));

    let list = v1::ListHubsRequest { page_size: 2, ..Default::default() };
    let first = bench.topology.list_hubs(list.clone()).await.unwrap().into_inner();
    assert_eq!(first.hubs.iter().map(|hub| hub.name.as_str()).collect::<Vec<_>>(), [HUB_1, HUB_2]);
    let list = v1::ListHubsRequest { page_token: first.next_page_token, ..list };
    let second = bench.topology.list_hubs(list).await.unwrap().into_inner();
    assert_eq!(second.hubs.iter().map(|hub| hub.name.as_str()).collect::<Vec<_>>(), [HUB_3, "hub-9.example"]);
    assert!(second.next_page_token.is_empty());
    let of_stamp = v1::ListHubsRequest { stamp: "test-1".to_owned(), ..Default::default() };
    assert_eq!(bench.topology.list_hubs(of_stamp).await.unwrap().into_inner().hubs.len(), 2);
    let request = v1::ListScopesRequest::default();
    assert_eq!(bench.topology.list_scopes(request).await.unwrap().into_inner().scopes.len(), 3);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_description_is_diffed_then_written_once() {
    let mut bench = Bench::start().await;
    let same = bench.topology.apply(apply(start_topology())).await.unwrap().into_inner();
    assert!(same.changes.is_empty(), "{:?}", same.changes);
    let mut desired = start_topology();
    desired.stamps[0].state = Some(v1::AcceptState::Cordoned as i32);
    desired.scopes.pop();
    let check = v1::ApplyRequest { validate_only: true, prune: true, ..apply(desired.clone()) };
    let planned = bench.topology.apply(check.clone()).await.unwrap().into_inner().changes;
    let told: Vec<_> = planned.iter().map(|change| (change.kind(), change.name.as_str())).collect();
    assert_eq!(told.len(), 2, "{planned:?}");
    assert!(told.contains(&(v1::ChangeKind::Update, "test-1")));
    assert!(told.contains(&(v1::ChangeKind::Delete, "0ne00000002")));
    let written = v1::ApplyRequest { validate_only: false, ..check };
    assert_eq!(bench.topology.apply(written).await.unwrap().into_inner().changes, planned);
    // What a description leaves out stays, and so does the cordon.
    desired.stamps[0].state = None;
    let after = bench.topology.apply(apply(desired)).await.unwrap().into_inner();
    assert!(after.changes.is_empty(), "{:?}", after.changes);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_places_take_no_newcomers() {
    let mut bench = Bench::start().await;
    bench.assign("there", HUB_1).await;
    let set = |state: v1::AcceptState| v1::SetStateRequest {
        target: Some(v1::set_state_request::Target::Stamp("test-1".to_owned())),
        state: state as i32,
        ..v1::SetStateRequest::default()
    };
    let answer = bench.topology.set_state(set(v1::AcceptState::Draining)).await.unwrap().into_inner();
    assert!(answer.changed && answer.state() == v1::AcceptState::Draining);
    assert!(!bench.topology.set_state(set(v1::AcceptState::Draining)).await.unwrap().into_inner().changed);
    let error = bench.try_assign(assignment("new", HUB_1)).await.unwrap_err();
    assert!(matches!(error, ApiError::Rejected(Rejection::Closed { .. })), "{error:?}");
    assert!(bench.get("there").await.is_ok());
    bench.topology.set_state(set(v1::AcceptState::Active)).await.unwrap();
    bench.assign("new", HUB_1).await;
    let (code, _) = refused(bench.topology.set_state(set(v1::AcceptState::Unspecified)).await);
    assert_eq!(code, Code::InvalidArgument);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn capacity_and_suggestions_follow_the_seats() {
    let mut bench = Bench::start().await;
    let limit = |devices| Some(v1::DesiredLimit { devices: Some(devices) });
    let hub = |name: &str, soft, hard| v1::DesiredHub {
        name: name.to_owned(),
        capacity: Some(v1::DesiredCapacity { soft: limit(soft), hard: limit(hard) }),
        ..v1::DesiredHub::default()
    };
    let cost = v1::Cost {
        currency: "EUR".to_owned(),
        fixed_micros_per_month: 1_000_000,
        device_micros_per_month: 100,
    };
    let prod =
        v1::DesiredStamp { name: "prod-1".to_owned(), cost: Some(cost), ..v1::DesiredStamp::default() };
    let desired = v1::DesiredTopology {
        stamps: vec![prod],
        hubs: vec![hub(HUB_2, 1, 3), hub(HUB_3, 10, 10)],
        ..v1::DesiredTopology::default()
    };
    bench.topology.apply(apply(desired)).await.unwrap();
    assert!(bench.assign("a", HUB_2).await.warnings.is_empty());
    let passed = bench.assign("b", HUB_2).await.warnings;
    assert_eq!((passed[0].name.as_str(), passed[0].used, passed[0].limit), (HUB_2, 2, 1));
    let request = v1::GetCapacityRequest { stamp: "prod-1".to_owned(), consistency: None };
    let answer = bench.topology.get_capacity(request).await.unwrap().into_inner();
    assert_eq!(answer.stamps.len(), 1);
    let stamp = &answer.stamps[0];
    assert_eq!((stamp.devices, stamp.headroom, stamp.total_micros_per_month), (2, None, 1_000_200));
    assert_eq!(stamp.micros_per_device_month, Some(500_100));
    let seats: Vec<_> =
        answer.hubs.iter().map(|hub| (hub.name.as_str(), hub.devices, hub.headroom)).collect();
    assert_eq!(seats, [(HUB_2, 2, Some(1)), (HUB_3, 0, Some(10))]);

    let ask = |devices| v1::SuggestPlacementRequest {
        devices,
        labels: labels([("lifecycle", "production")]),
        ..v1::SuggestPlacementRequest::default()
    };
    let one = bench.topology.suggest_placement(ask(1)).await.unwrap().into_inner().placements;
    let told: Vec<_> = one.iter().map(|place| (place.hub.as_str(), place.over_soft)).collect();
    assert_eq!(told, [(HUB_3, false), (HUB_2, true)]);
    assert!(bench.topology.suggest_placement(ask(11)).await.unwrap().into_inner().placements.is_empty());
    let error =
        bench.try_assign(assignment("c", HUB_2)).await.and(bench.try_assign(assignment("d", HUB_2)).await);
    assert!(matches!(error, Err(ApiError::Rejected(Rejection::Full { hard: 3, .. }))), "{error:?}");
    bench.stop().await;
}
