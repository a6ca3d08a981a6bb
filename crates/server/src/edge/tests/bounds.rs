//! Limits, deadlines, panics and measures, as a well-behaved client meets them.

use std::time::{Duration, Instant};

use berth_proto::error::ApiError;
use berth_proto::v1::{BatchLookupRequest, LookupRouteRequest, LookupStreamRequest};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use super::node::{LIMITS, Node, device};
use crate::config::Limits;
use crate::edge::Methods;

fn told(status: &Status) -> ApiError {
    ApiError::from(status)
}

#[tokio::test]
async fn what_is_past_a_limit_is_refused_at_once_and_health_is_not() {
    let node = Node::start(Limits { lookups: 2, ..LIMITS });
    let client = node.client().await;
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.lookup(device("wait")).await })
        })
        .collect();
    node.wait_for("berth_rpc_permits_in_use{class=\"lookups\"} 2").await;

    let status = client.clone().lookup(device("one-too-many")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()));
    assert!(status.get_details_quota_failure().is_some());
    assert!(matches!(told(&status), ApiError::Overloaded { limit: 2, .. }), "{status:?}");
    let mut health = HealthClient::new(node.channel().await);
    assert!(health.check(HealthCheckRequest::default()).await.is_ok());

    node.release.add_permits(2);
    for answered in waiting {
        assert!(answered.await.unwrap().is_ok());
    }
    node.wait_for("berth_rpc_permits_in_use{class=\"lookups\"} 0").await;
    assert!(client.clone().lookup(device("room-again")).await.is_ok());
    node.wait_for("berth_rpc_shed_total{class=\"lookups\"} 1").await;
}

#[tokio::test]
async fn a_batch_takes_more_of_the_limit_than_a_lookup() {
    let node = Node::start(LIMITS);
    let mut client = node.client().await;
    let batch = tokio::spawn({
        let mut client = client.clone();
        async move { client.batch_lookup(BatchLookupRequest::default()).await }
    });
    node.wait_for("berth_rpc_permits_in_use{class=\"lookups\"} 16").await;
    assert!(client.lookup(device("beside-it")).await.is_ok());
    node.release.add_permits(1);
    assert!(batch.await.unwrap().is_ok());
    node.wait_for("berth_rpc_permits_in_use{class=\"lookups\"} 0").await;
}

#[tokio::test]
async fn open_streams_leave_room_for_lookups_and_have_a_limit_of_their_own() {
    let node = Node::start(Limits { lookups: 1, ..LIMITS });
    let mut client = node.client().await;
    let mut open = Vec::new();
    for _ in 0..LIMITS.streams {
        let (ask, asked) = tokio::sync::mpsc::channel::<LookupStreamRequest>(1);
        open.push((ask, client.lookup_stream(ReceiverStream::new(asked)).await.unwrap()));
    }
    node.wait_for("berth_rpc_permits_in_use{class=\"streams\"} 2").await;
    node.wait_for("berth_rpc_permits_in_use{class=\"lookups\"} 0").await;
    assert!(client.lookup(device("beside-them")).await.is_ok());

    let (_ask, asked) = tokio::sync::mpsc::channel::<LookupStreamRequest>(1);
    let status = client.lookup_stream(ReceiverStream::new(asked)).await.unwrap_err();
    assert!(matches!(told(&status), ApiError::Overloaded { limit: 2, .. }), "{status:?}");
    drop(open);
    node.wait_for("berth_rpc_permits_in_use{class=\"streams\"} 0").await;
}

#[tokio::test]
async fn a_panic_is_an_internal_error_and_nothing_else_breaks() {
    let node = Node::start(LIMITS);
    let mut client = node.client().await;
    let status = client.lookup(device("panic")).await.unwrap_err();
    assert!(matches!(told(&status), ApiError::Internal { .. }), "{status:?}");
    assert!(client.lookup(device("next")).await.is_ok());

    let (ask, asked) = tokio::sync::mpsc::channel(4);
    let mut stream = client.lookup_stream(ReceiverStream::new(asked)).await.unwrap().into_inner();
    ask.send(LookupStreamRequest { tag: 1, lookup: None }).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().tag, 1);
    ask.send(LookupStreamRequest { tag: 666, lookup: None }).await.unwrap();
    let status = stream.message().await.unwrap_err();
    assert!(matches!(told(&status), ApiError::Internal { .. }), "{status:?}");
    drop(stream);
    node.wait_for("berth_rpc_permits_in_use{class=\"lookups\"} 0").await;
}

#[tokio::test]
async fn calls_are_counted_by_method_and_status() {
    let node = Node::start(LIMITS);
    let mut client = node.client().await;
    for _ in 0..3 {
        client.lookup(device("d")).await.unwrap();
    }
    let status = client.lookup_route(LookupRouteRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
    let stream = tokio_stream::iter([LookupStreamRequest { tag: 7, lookup: None }]);
    let mut answers = client.lookup_stream(stream).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}

    let rpc = node.metrics.rpc();
    let count = |path: &str, code| rpc.count(Methods::of_this_build().find(path), code);
    assert_eq!(count("/berth.v1.LookupService/Lookup", Code::Ok), 3);
    assert_eq!(count("/berth.v1.LookupService/LookupRoute", Code::DataLoss), 1);
    let labels = "rpc_method=\"berth.v1.LookupService/LookupStream\",rpc_response_status_code=\"OK\"";
    node.wait_for(&format!("rpc_server_call_duration_seconds_count{{{labels}}} 1")).await;
}

#[tokio::test]
async fn unknown_services_are_unimplemented() {
    let node = Node::start(LIMITS);
    let mut client = berth_proto::v1::cluster_service_client::ClusterServiceClient::new(node.channel().await);
    let status = client.status(berth_proto::v1::StatusRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn small_calls_do_not_wait_for_full_segments() {
    let node = Node::start(LIMITS);
    let mut client = node.client().await;
    let mut took = Vec::new();
    for _ in 0..101 {
        let asked = Instant::now();
        client.lookup(device("d")).await.unwrap();
        took.push(asked.elapsed());
    }
    took.sort();
    // Nagle's algorithm and delayed acknowledgements together make 40 ms of each.
    assert!(took[50] < Duration::from_millis(20), "the median is {:?}", took[50]);
}

#[tokio::test]
async fn a_listener_that_stops_finishes_what_it_began() {
    let mut node = Node::start(LIMITS);
    let mut client = node.client().await;
    let waiting = tokio::spawn(async move { client.lookup(device("wait")).await });
    node.wait_for("berth_rpc_permits_in_use{class=\"lookups\"} 1").await;
    node.stop();
    let refused = async { while tokio::net::TcpStream::connect(node.addr).await.is_ok() {} };
    tokio::time::timeout(super::node::PATIENCE, refused).await.unwrap();
    node.release.add_permits(1);
    assert!(waiting.await.unwrap().is_ok());
    node.served.await.unwrap();
}

#[tokio::test]
async fn a_listener_that_stops_cuts_what_never_ends() {
    let mut node = Node::start(LIMITS);
    let mut client = node.client().await;
    let waiting = tokio::spawn(async move { client.lookup(device("wait")).await });
    node.wait_for("berth_rpc_permits_in_use{class=\"lookups\"} 1").await;
    node.stop();
    assert!(waiting.await.unwrap().is_err());
    node.served.await.unwrap();
}
