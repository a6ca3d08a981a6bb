use std::collections::BTreeSet;

use berth_core::Rejection;
use berth_proto::convert::pack_ids;
use berth_proto::error::ApiError;
use berth_proto::v1;
use futures_util::StreamExt;
use tonic::Code;

use crate::{Bench, HUB_1, HUB_2, HUB_3, assignment, labels, refused, request_id};

fn packed(hub: &str, ids: impl IntoIterator<Item = String>) -> v1::BatchAssignRequest {
    let packed = v1::PackedAssignment {
        hub: hub.to_owned(),
        packed_device_ids: pack_ids(ids),
        ..v1::PackedAssignment::default()
    };
    v1::BatchAssignRequest { packed: vec![packed], ..v1::BatchAssignRequest::default() }
}

fn names(prefix: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |n| format!("{prefix}-{n:05}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_adds_one_to_the_epoch_and_conditions_hold() {
    let mut bench = Bench::start().await;
    let first = bench.assign("d", HUB_1).await;
    let second = bench.assign("d", HUB_2).await;
    assert_eq!((second.epoch, second.created, second.moved), (first.epoch + 1, false, true));
    let condition = |condition| Some(v1::Precondition { condition: Some(condition) });
    let stale = v1::DeviceAssignment {
        precondition: condition(v1::precondition::Condition::Epoch(first.epoch)),
        ..assignment("d", HUB_1)
    };
    let error = bench.try_assign(stale).await.unwrap_err();
    assert!(matches!(error, ApiError::Rejected(Rejection::EpochMismatch { .. })), "{error:?}");
    let absent = v1::DeviceAssignment {
        precondition: condition(v1::precondition::Condition::Absent(v1::Absent {})),
        ..assignment("d", HUB_1)
    };
    let error = bench.try_assign(absent).await.unwrap_err();
    assert!(matches!(error, ApiError::Rejected(Rejection::DeviceExists { .. })), "{error:?}");
    let mapping = bench.get("d").await.unwrap();
    assert_eq!(
        (mapping.hub.as_str(), mapping.epoch, mapping.stamp.as_str()),
        (HUB_2, second.epoch, "prod-1")
    );
    assert_eq!(
        (mapping.origin(), mapping.evidence.unwrap().source()),
        (v1::Origin::Placed, v1::EvidenceSource::Operator)
    );
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_gets_the_first_outcome() {
    let mut bench = Bench::start().await;
    let request = v1::AssignRequest {
        request_id: request_id(),
        assignment: Some(assignment("d", HUB_1)),
        ..v1::AssignRequest::default()
    };
    let first = bench.devices.assign(request.clone()).await.unwrap().into_inner();
    bench.assign("d", HUB_2).await;
    let again = bench.devices.assign(request.clone()).await.unwrap().into_inner();
    assert_eq!((again.epoch, again.created), (first.epoch, true));
    assert_eq!(again.header.unwrap().revision, first.header.unwrap().revision);
    assert_eq!(bench.get("d").await.unwrap().hub, HUB_2);
    let other = v1::AssignRequest { assignment: Some(assignment("d", HUB_3)), ..request.clone() };
    let (code, error) = refused(bench.devices.assign(other).await);
    assert_eq!(code, Code::InvalidArgument);
    assert!(matches!(error, ApiError::Rejected(Rejection::RequestIdReused { .. })), "{error:?}");
    let unsound = v1::AssignRequest { request_id: uuid::Uuid::from_u128(1).to_string(), ..request };
    let (code, error) = refused(bench.devices.assign(unsound).await);
    assert_eq!(code, Code::InvalidArgument);
    assert!(error.to_string().starts_with("request_id:"), "{error}");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_without_writing_writes_nothing() {
    let mut bench = Bench::start().await;
    let request = |hub: &str| v1::AssignRequest {
        validate_only: true,
        assignment: Some(assignment("d", hub)),
        ..v1::AssignRequest::default()
    };
    assert!(bench.devices.assign(request(HUB_1)).await.unwrap().into_inner().created);
    assert!(bench.get("d").await.is_err());
    let (code, _) = refused(bench.devices.assign(request("nowhere.example")).await);
    assert_eq!(code, Code::NotFound);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_all_or_nothing_at_one_revision() {
    let mut bench = Bench::start().await;
    let answer = bench.devices.batch_assign(packed(HUB_1, names("d", 10_000))).await.unwrap().into_inner();
    assert_eq!((answer.created, answer.moved, answer.unchanged), (10_000, 0, 0));
    let revision = answer.header.unwrap().revision;
    assert_eq!(bench.get("d-09999").await.unwrap().epoch, revision);

    let mut request = packed(HUB_2, names("d", 3));
    request.items = vec![assignment("new", HUB_1), assignment("other", "nowhere.example")];
    let (code, error) = refused(bench.devices.batch_assign(request).await);
    assert_eq!(code, Code::NotFound);
    let ApiError::BatchRefused { refused: 1, items } = &error else { panic!("{error:?}") };
    assert_eq!(items[0].index, 1);
    assert!(bench.get("new").await.is_err());
    assert_eq!(bench.get("d-00000").await.unwrap().hub, HUB_1);

    let mut request = packed(HUB_2, names("d", 2));
    request.items = vec![assignment("d-00001", HUB_2)];
    let (code, error) = refused(bench.devices.batch_assign(request).await);
    assert_eq!(code, Code::InvalidArgument, "{error:?}");
    let (code, error) = refused(bench.devices.batch_assign(packed(HUB_2, names("d", 10_001))).await);
    assert_eq!(code, Code::InvalidArgument);
    assert!(
        matches!(error, ApiError::Rejected(Rejection::BatchSize { count: 10_001, max: 10_000 })),
        "{error:?}"
    );
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_devices_are_gone_and_come_back_above_their_epoch() {
    let mut bench = Bench::start().await;
    let first = bench.assign("d", HUB_1).await;
    let remove = v1::RemoveRequest { device_id: "d".to_owned(), ..v1::RemoveRequest::default() };
    let removed = bench.devices.remove(remove.clone()).await.unwrap().into_inner();
    assert_eq!(removed.epoch, first.epoch);
    let (code, error) = refused(bench.devices.remove(remove).await);
    assert_eq!(code, Code::NotFound, "{error:?}");
    assert!(bench.assign("d", HUB_1).await.epoch > first.epoch);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_listing_hold_one_revision() {
    let mut bench = Bench::start().await;
    bench.devices.batch_assign(packed(HUB_1, names("d", 2_500))).await.unwrap();
    let mut request = v1::ListRequest { page_size: 700, ..v1::ListRequest::default() };
    let mut seen = BTreeSet::new();
    let mut revisions = BTreeSet::new();
    loop {
        let page = bench.devices.list(request.clone()).await.unwrap().into_inner();
        revisions.insert(page.header.unwrap().revision);
        assert!(page.devices.len() <= 700);
        for device in page.devices {
            assert_eq!(device.hub, HUB_1, "{}", device.device_id);
            assert!(seen.insert(device.device_id));
        }
        // What changes between two pages is not seen.
        bench.devices.batch_assign(packed(HUB_2, names("d", 2_500).chain(names("late", 50)))).await.unwrap();
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!((seen.len(), revisions.len()), (2_500, 1));
    request.filter = Some(v1::DeviceFilter { hub: HUB_1.to_owned(), ..v1::DeviceFilter::default() });
    let (code, error) = refused(bench.devices.list(request).await);
    assert_eq!(code, Code::InvalidArgument);
    assert!(error.to_string().contains("another filter"), "{error}");
    let (code, _) =
        refused(bench.devices.list(v1::ListRequest { page_size: 10_001, ..Default::default() }).await);
    assert_eq!(code, Code::InvalidArgument);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_and_exports_that_came_to_their_end_hold_nothing() {
    let mut bench = Bench::start().await;
    bench.devices.batch_assign(packed(HUB_1, names("d", 50))).await.unwrap();
    for round in 0..12 {
        let mut list = v1::ListRequest { page_size: 40, ..v1::ListRequest::default() };
        list.page_token = bench.devices.list(list.clone()).await.unwrap().into_inner().next_page_token;
        let last = bench.devices.list(list).await.unwrap().into_inner();
        assert!(last.next_page_token.is_empty() && last.devices.len() >= 10);
        bench.assign(&format!("between-{round}"), HUB_2).await;
        let mut export = v1::ExportRequest { partitions: 2, ..v1::ExportRequest::default() };
        for partition in 0..2 {
            export.partition = partition;
            let mut messages = bench.devices.export(export.clone()).await.unwrap().into_inner();
            while let Some(message) = messages.next().await {
                let token = message.unwrap().snapshot_token;
                export.snapshot_token = if token.is_empty() { export.snapshot_token } else { token };
            }
        }
        bench.assign(&format!("after-{round}"), HUB_2).await;
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_take_what_they_say() {
    let mut bench = Bench::start().await;
    bench.devices.batch_assign(packed(HUB_1, names("one", 30))).await.unwrap();
    bench.devices.batch_assign(packed(HUB_2, names("two", 20))).await.unwrap();
    bench.devices.batch_assign(packed(HUB_3, names("three", 10))).await.unwrap();
    let special = v1::DeviceAssignment {
        status: v1::MappingStatus::Disabled as i32,
        labels: Some(v1::LabelSet { labels: labels([("ring", "1"), ("site", "x")]) }),
        scope: "0ne00000001".to_owned(),
        ..assignment("special", HUB_2)
    };
    bench.try_assign(special).await.unwrap();
    let base = v1::DeviceFilter::default();
    let cases = [
        (base.clone(), 61),
        (v1::DeviceFilter { hub: HUB_1.to_owned(), ..base.clone() }, 30),
        (v1::DeviceFilter { stamp: "prod-1".to_owned(), ..base.clone() }, 31),
        (v1::DeviceFilter { stamp: "test-1".to_owned(), hub: HUB_2.to_owned(), ..base.clone() }, 0),
        (v1::DeviceFilter { statuses: vec![v1::MappingStatus::Disabled as i32], ..base.clone() }, 1),
        (v1::DeviceFilter { statuses: vec![v1::MappingStatus::Assigned as i32], ..base.clone() }, 60),
        (v1::DeviceFilter { labels: labels([("ring", "1")]), ..base.clone() }, 1),
        (v1::DeviceFilter { labels: labels([("ring", "2")]), ..base.clone() }, 0),
        (v1::DeviceFilter { scope: "0ne00000001".to_owned(), ..base.clone() }, 1),
    ];
    for (filter, expected) in cases {
        let request = v1::ListRequest { filter: Some(filter.clone()), ..v1::ListRequest::default() };
        let page = bench.devices.list(request).await.unwrap().into_inner();
        assert_eq!(page.devices.len(), expected, "{filter:?}");
    }
    let nowhere = v1::DeviceFilter { hub: "nowhere.example".to_owned(), ..base };
    let (code, _) =
        refused(bench.devices.list(v1::ListRequest { filter: Some(nowhere), ..Default::default() }).await);
    assert_eq!(code, Code::NotFound);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_an_export_cover_everything_once_at_one_revision() {
    let mut bench = Bench::start().await;
    bench.devices.batch_assign(packed(HUB_1, names("d", 5_000))).await.unwrap();
    let (mut seen, mut revisions, mut token) = (BTreeSet::new(), BTreeSet::new(), String::new());
    for partition in 0..3 {
        let request = v1::ExportRequest {
            partition,
            partitions: 3,
            snapshot_token: token.clone(),
            ..v1::ExportRequest::default()
        };
        let mut messages = bench.devices.export(request).await.unwrap().into_inner();
        let mut complete = false;
        while let Some(message) = messages.next().await {
            let message = message.unwrap();
            assert!(!complete, "a message after the last one");
            complete = message.complete;
            revisions.insert(message.header.unwrap().revision);
            if token.is_empty() {
                token = message.snapshot_token;
            }
            for device in message.devices {
                assert!(seen.insert(device.device_id));
            }
        }
        assert!(complete);
        // The other partitions do not see this.
        bench.devices.batch_assign(packed(HUB_2, names("late", 100))).await.unwrap();
    }
    assert_eq!((seen.len(), revisions.len()), (5_000, 1));
    let request = v1::ExportRequest { partition: 3, partitions: 3, ..v1::ExportRequest::default() };
    let (code, _) = refused(bench.devices.export(request).await);
    assert_eq!(code, Code::InvalidArgument);
    bench.stop().await;
}
