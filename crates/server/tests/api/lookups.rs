use std::collections::BTreeMap;
use std::time::Duration;

use berth_proto::convert::{Consistency, pack_ids};
use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::lookup_request::Device;
use berth_proto::v1::lookup_response::Result as Answer;
use berth_server::config::LimitSettings;
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::{Bench, HUB_1, HUB_2, HUB_3, assignment, refused};

fn by_id(device: &str, consistency: Consistency) -> v1::LookupRequest {
    v1::LookupRequest {
        device: Some(Device::DeviceId(device.to_owned())),
        consistency: Some(consistency.to_message()),
    }
}

fn by_registration(id: &str, scope: &str) -> v1::LookupRequest {
    let registration = v1::RegistrationRef { registration_id: id.to_owned(), scope: scope.to_owned() };
    v1::LookupRequest { device: Some(Device::Registration(registration)), consistency: None }
}

fn found(answer: tonic::Response<v1::LookupResponse>) -> (v1::ResponseHeader, v1::LookupResult) {
    let answer = answer.into_inner();
    let Some(Answer::Found(result)) = answer.result else { panic!("{answer:?}") };
    (answer.header.unwrap(), result)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_answers_at_every_level() {
    let mut bench = Bench::start().await;
    let written = bench.assign("device-1", HUB_1).await;
    let header = written.header.unwrap();
    let token = berth_proto::ReadToken::decode(&header.token).unwrap();
    assert_eq!((token.revision.0, written.created, written.epoch), (header.revision, true, header.revision));
    for consistency in [
        Consistency::Linearizable,
        Consistency::AtLeast(token),
        Consistency::Bounded(Duration::from_secs(60)),
        Consistency::Local,
    ] {
        let (read, result) = found(bench.lookups.lookup(by_id("device-1", consistency)).await.unwrap());
        assert_eq!(
            (result.hub.as_str(), result.stamp.as_str(), result.epoch),
            (HUB_1, "test-1", written.epoch)
        );
        assert_eq!(result.status(), v1::MappingStatus::Assigned);
        assert_eq!((read.served_by.as_str(), read.role()), ("n1", v1::NodeRole::Leader));
        assert!(read.age_bound.is_some() && read.revision >= header.revision, "{read:?}");
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn negatives_are_typed_and_only_linearizable_ones_are_errors() {
    let mut bench = Bench::start().await;
    let (code, error) = refused(bench.lookups.lookup(by_id("nobody", Consistency::Linearizable)).await);
    assert_eq!(code, Code::NotFound);
    assert!(matches!(error, ApiError::NoHub { kind: v1::NegativeKind::Unknown, .. }), "{error:?}");
    let local = bench.lookups.lookup(by_id("nobody", Consistency::Local)).await.unwrap().into_inner();
    let Some(Answer::Negative(negative)) = local.result else { panic!("{local:?}") };
    assert!(negative.kind() == v1::NegativeKind::Unknown && !negative.confirmed);
    for (status, code, kind) in [
        (v1::MappingStatus::Disabled, Code::FailedPrecondition, v1::NegativeKind::Disabled),
        (v1::MappingStatus::Enrolling, Code::Unavailable, v1::NegativeKind::Enrolling),
        (v1::MappingStatus::Unassigned, Code::FailedPrecondition, v1::NegativeKind::Unassigned),
        (v1::MappingStatus::Failed, Code::FailedPrecondition, v1::NegativeKind::Failed),
    ] {
        let device = format!("device-{}", kind as i32);
        let row = v1::DeviceAssignment { status: status as i32, ..assignment(&device, HUB_1) };
        let epoch = bench.try_assign(row).await.unwrap().epoch;
        let (found, error) = refused(bench.lookups.lookup(by_id(&device, Consistency::Linearizable)).await);
        assert_eq!(found, code, "{error:?}");
        assert!(
            matches!(&error, ApiError::NoHub { kind: k, epoch: e, .. } if *k == kind && *e == epoch),
            "{error:?}"
        );
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_resolve_without_case_and_ambiguity_is_told() {
    let mut bench = Bench::start().await;
    let row = |device: &str, scope: &str, registration: &str| v1::DeviceAssignment {
        scope: scope.to_owned(),
        registration_id: registration.to_owned(),
        ..assignment(device, HUB_1)
    };
    bench.try_assign(row("device-1", "0ne00000001", "Reg-A")).await.unwrap();
    bench.try_assign(row("device-2", "0ne00000002", "reg-a")).await.unwrap();
    bench.try_assign(row("Own-Name", "0ne00000001", "")).await.unwrap();
    let (_, result) = found(bench.lookups.lookup(by_registration("REG-A", "0ne00000002")).await.unwrap());
    assert_eq!((result.device_id.as_str(), result.hub.as_str()), ("device-2", HUB_1));
    let (_, result) = found(bench.lookups.lookup(by_registration("own-name", "")).await.unwrap());
    assert_eq!(result.device_id, "Own-Name");
    let (code, error) = refused(bench.lookups.lookup(by_registration("reg-a", "")).await);
    assert_eq!(code, Code::FailedPrecondition);
    let expected = vec!["0ne00000001".to_owned(), "0ne00000002".to_owned()];
    assert_eq!(error, ApiError::RegistrationAmbiguous { registration: "reg-a".to_owned(), scopes: expected });
    let (code, _) = refused(bench.lookups.lookup(by_registration("nobody", "")).await);
    assert_eq!(code, Code::NotFound);
    let (code, _) = refused(bench.lookups.lookup(by_registration("nobody", "0ne99")).await);
    assert_eq!(code, Code::NotFound);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_one_result_per_id_in_both_forms() {
    let mut bench = Bench::start().await;
    let epochs = [
        bench.assign("a", HUB_1).await.epoch,
        bench.assign("b", HUB_2).await.epoch,
        bench.assign("c", HUB_1).await.epoch,
    ];
    let request = v1::BatchLookupRequest {
        device_ids: ["a", "nobody", "b"].map(str::to_owned).to_vec(),
        packed_device_ids: pack_ids(["c", "a"]),
        ..v1::BatchLookupRequest::default()
    };
    let answer = bench.lookups.batch_lookup(request).await.unwrap().into_inner();
    let hubs: Vec<&str> = answer.hubs.iter().map(|hub| hub.hub.as_str()).collect();
    assert_eq!(hubs, [HUB_1, HUB_2]);
    assert_eq!(answer.hub_numbers, [1, 0, 2, 1, 1]);
    assert_eq!(answer.epochs, [epochs[0], 0, epochs[1], epochs[2], epochs[0]]);
    assert_eq!(answer.revisions, answer.epochs);
    assert_eq!(answer.negatives.len(), 1);
    let negative = answer.negatives[0].negative.unwrap();
    assert_eq!((answer.negatives[0].index, negative.kind()), (1, v1::NegativeKind::Unknown));
    assert!(negative.confirmed);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_or_too_large_batch_is_refused_by_field() {
    let mut bench = Bench::start().await;
    let packed = |packed_device_ids| v1::BatchLookupRequest { packed_device_ids, ..Default::default() };
    let field = |error: ApiError| match error {
        ApiError::Invalid(violations) => violations[0].field.clone(),
        other => panic!("{other:?}"),
    };
    let (code, error) = refused(bench.lookups.batch_lookup(packed(pack_ids(["a", "b c"]))).await);
    assert_eq!((code, field(error).as_str()), (Code::InvalidArgument, "packed_device_ids[1]"));
    let many: Vec<String> = (0..10_001).map(|n| n.to_string()).collect();
    let (_, error) = refused(bench.lookups.batch_lookup(packed(pack_ids(many))).await);
    assert!(error.to_string().contains("10001 IDs"), "{error}");
    let (_, error) = refused(bench.lookups.batch_lookup(packed(pack_ids::<&str>([]))).await);
    assert_eq!(field(error), "packed_device_ids");
    let long = v1::LookupRequest { device: Some(Device::DeviceId("x".repeat(100_000))), consistency: None };
    assert_eq!(bench.lookups.lookup(long).await.unwrap_err().code(), Code::OutOfRange);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_every_tag_and_survives_refusals() {
    let mut bench = Bench::start().await;
    bench.assign("a", HUB_3).await;
    let requests = (0..500u64).map(|tag| v1::LookupStreamRequest {
        tag,
        lookup: Some(by_id(if tag % 5 == 0 { "not an id" } else { "a" }, Consistency::Linearizable)),
    });
    let answers = bench.lookups.lookup_stream(stream::iter(requests)).await.unwrap().into_inner();
    let answers: Vec<v1::LookupStreamResponse> = answers.map(Result::unwrap).collect().await;
    let mut tags: Vec<u64> = answers.iter().map(|answer| answer.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..500).collect::<Vec<_>>());
    for answer in answers {
        match answer.result.unwrap() {
            v1::lookup_stream_response::Result::Error(error) => {
                assert_eq!(answer.tag % 5, 0);
                assert!(matches!(ApiError::from(error), ApiError::Invalid(_)));
            }
            v1::lookup_stream_response::Result::Answer(_) => assert_ne!(answer.tag % 5, 0),
        }
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_lookup_of_a_stream_counts_as_a_lookup() {
    let limits = LimitSettings { lookups: Some(1), ..LimitSettings::default() };
    let mut bench = Bench::start_with(limits).await;
    bench.assign("a", HUB_3).await;
    let requests = (0..200u64)
        .map(|tag| v1::LookupStreamRequest { tag, lookup: Some(by_id("a", Consistency::Linearizable)) });
    let answers = bench.lookups.lookup_stream(stream::iter(requests)).await.unwrap().into_inner();
    let answers: Vec<v1::LookupStreamResponse> = answers.map(Result::unwrap).collect().await;
    let (mut found, mut shed) = (0, 0);
    for answer in answers {
        match answer.result.unwrap() {
            v1::lookup_stream_response::Result::Answer(_) => found += 1,
            v1::lookup_stream_response::Result::Error(error) => {
                let error = ApiError::from(error);
                assert!(matches!(error, ApiError::Overloaded { limit: 1, .. }), "{error:?}");
                shed += 1;
            }
        }
    }
    assert!(found > 0 && shed > 0 && found + shed == 200, "{found} found, {shed} shed");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_other_clusters_are_refused() {
    let mut bench = Bench::start().await;
    let token = berth_proto::ReadToken {
        cluster: uuid::Uuid::from_u128(7),
        restore_epoch: 0,
        revision: berth_core::Revision(1),
    };
    let (code, error) = refused(bench.lookups.lookup(by_id("a", Consistency::AtLeast(token))).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert!(matches!(error, ApiError::WrongCluster { .. }), "{error:?}");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_leads_to_its_stamp() {
    let mut bench = Bench::start().await;
    let ask = |key: &str| v1::LookupRouteRequest { key: key.to_owned(), consistency: None };
    let answer = bench.lookups.lookup_route(ask("APP.example")).await.unwrap().into_inner();
    assert_eq!((answer.key.as_str(), answer.stamp.as_str()), ("app.example", "prod-1"));
    let (code, _) = refused(bench.lookups.lookup_route(ask("elsewhere")).await);
    assert_eq!(code, Code::NotFound);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_to_be_unknown_before_a_quorum_confirmed_it() {
    let mut bench = Bench::start().await;
    bench.assign("a", HUB_1).await;
    let local = || Some(Consistency::Local.to_message());
    let get = |device: &str| v1::GetRequest {
        device: Some(v1::get_request::Device::DeviceId(device.to_owned())),
        consistency: local(),
    };

    let before = rounds(&bench).await;
    bench.devices.get(get("a")).await.unwrap();
    let hub = |name: &str| v1::GetHubRequest { name: name.to_owned(), consistency: local() };
    bench.topology.get_hub(hub(HUB_1)).await.unwrap();
    assert!(rounds(&bench).await <= before, "what is there is answered from the replica alone");

    let mut codes = Vec::new();
    codes.push(refused(bench.devices.get(get("nobody")).await).0);
    codes.push(refused(bench.topology.get_hub(hub("nowhere.example")).await).0);
    let route = v1::LookupRouteRequest { key: "elsewhere".to_owned(), consistency: local() };
    codes.push(refused(bench.lookups.lookup_route(route).await).0);
    let scopeless = v1::LookupRequest { consistency: local(), ..by_registration("r", "0ne00000009") };
    codes.push(refused(bench.lookups.lookup(scopeless).await).0);
    let filter = v1::DeviceFilter { stamp: "gone".to_owned(), ..v1::DeviceFilter::default() };
    let list = v1::ListRequest { filter: Some(filter), consistency: local(), ..v1::ListRequest::default() };
    codes.push(refused(bench.devices.list(list).await).0);
    assert_eq!(codes, [Code::NotFound; 5]);
    let grown = rounds(&bench).await - before;
    assert!(grown >= 5.0, "5 answers NOT_FOUND took {grown} rounds");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_counted() {
    let mut bench = Bench::start().await;
    let before = counters(&bench).await;
    bench.assign("device-1", HUB_1).await;
    let disabled =
        v1::DeviceAssignment { status: v1::MappingStatus::Disabled as i32, ..assignment("device-2", HUB_2) };
    bench.try_assign(disabled).await.unwrap();
    bench.try_assign(assignment("device-3", "no-such-hub.azure-devices.net")).await.unwrap_err();

    bench.lookups.lookup(by_id("device-1", Consistency::Linearizable)).await.unwrap();
    bench.lookups.lookup(by_id("nobody", Consistency::Linearizable)).await.unwrap_err();
    bench.lookups.lookup(by_id("device-2", Consistency::Local)).await.unwrap();
    bench.lookups.lookup(by_id("not an ID", Consistency::Local)).await.unwrap_err();
    let batch = v1::BatchLookupRequest {
        device_ids: ["device-1", "device-2", "nobody", "device-1"].map(str::to_owned).to_vec(),
        ..v1::BatchLookupRequest::default()
    };
    bench.lookups.batch_lookup(batch).await.unwrap();
    let route = v1::LookupRouteRequest { key: "app.example".to_owned(), consistency: None };
    bench.lookups.lookup_route(route).await.unwrap();

    let after = counters(&bench).await;
    let grown = |name: &str| {
        let of = |counters: &BTreeMap<String, f64>| counters.get(name).copied().unwrap_or_default();
        of(&after) - of(&before)
    };
    for (name, by) in [
        ("berth_lookups_total{outcome=\"hit\"}", 3.0),
        ("berth_lookups_total{outcome=\"unknown\"}", 2.0),
        ("berth_lookups_total{outcome=\"unavailable\"}", 2.0),
        ("berth_lookups_total{outcome=\"refused\"}", 1.0),
        ("berth_route_lookups_total", 1.0),
        ("berth_writes_accepted_total", 2.0),
        ("berth_writes_devices_total", 2.0),
        ("berth_writes_refused_total{reason=\"HUB_UNKNOWN\"}", 1.0),
        ("berth_write_group_commands_sum", 3.0),
    ] {
        assert!((grown(name) - by).abs() < 0.5, "{name} grew by {}, not by {by}", grown(name));
    }
    assert!(grown("berth_read_index_rounds_total") >= 1.0);
    assert!(grown("berth_read_index_sharers_sum") >= 1.0);
    bench.stop().await;
}

/// Rounds that confirmed with a quorum how fresh reads are.
pub async fn rounds(bench: &Bench) -> f64 {
    counters(bench).await["berth_read_index_rounds_total"]
}

/// Every sample of the node's metrics, by name and labels.
async fn counters(bench: &Bench) -> BTreeMap<String, f64> {
    let mut stream = TcpStream::connect(bench.node.addresses().http).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: berth\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}
