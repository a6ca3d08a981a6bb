//! Callers that do as they please: a raw HTTP/2 client, and sockets that speak something else.

use std::sync::Arc;

use berth_proto::v1::lookup_service_server::LookupServiceServer;
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use super::node::{Desk, LIMITS, Node, PATIENCE, device};
use crate::config::Limits;
use crate::edge::{Methods, serve_peers};
use crate::metrics::resident_bytes;

const LOOKUP: &str = "/berth.v1.LookupService/Lookup";

async fn connect(node: &Node) -> (SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let stream = TcpStream::connect(node.addr).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    (send, tokio::spawn(connection))
}

fn request(path: &str, headers: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::post(format!("http://berth{path}")).header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.header("te", "trailers").body(()).unwrap()
}

fn message(id: &str) -> Bytes {
    let message = device(id).encode_to_vec();
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap());
    bytes.put_slice(&message);
    bytes.freeze()
}

async fn status(response: http::Response<RecvStream>) -> Status {
    let (parts, mut body) = response.into_parts();
    let trailers = async {
        while let Some(data) = body.data().await {
            data.unwrap();
        }
        body.trailers().await.unwrap().unwrap_or_else(HeaderMap::new)
    };
    match Status::from_header_map(&parts.headers) {
        Some(status) => status,
        None => Status::from_header_map(&trailers.await).unwrap(),
    }
}

async fn call(send: &SendRequest<Bytes>, headers: &[(&'static str, &str)], id: &str) -> Status {
    let mut send = send.clone().ready().await.unwrap();
    let (answer, mut body) = send.send_request(request(LOOKUP, headers), false).unwrap();
    body.send_data(message(id), true).unwrap();
    status(answer.await.unwrap()).await
}

#[tokio::test]
async fn the_callers_deadline_is_kept_by_the_server() {
    let node = Node::start(LIMITS);
    let (send, _connection) = connect(&node).await;
    let late = call(&send, &[("grpc-timeout", "30m")], "wait").await;
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert!(late.message().contains("after 30 ms"), "{late:?}");
    let in_time = call(&send, &[("grpc-timeout", "10S")], "d").await;
    assert_eq!(in_time.code(), Code::Ok);
    let malformed = call(&send, &[("grpc-timeout", "soon")], "d").await;
    assert_eq!(malformed.code(), Code::InvalidArgument);
    assert!(malformed.message().contains("`soon`"), "{malformed:?}");
    node.wait_for("berth_rpc_permits_in_use{class=\"lookups\"} 0").await;
}

#[tokio::test]
async fn a_request_that_is_never_sent_whole_ends_with_its_deadline() {
    let node = Node::start(LIMITS);
    let (send, _connection) = connect(&node).await;
    let mut send = send.ready().await.unwrap();
    let (answer, mut body) = send.send_request(request(LOOKUP, &[("grpc-timeout", "50m")]), false).unwrap();
    body.send_data(message("d").slice(..3), false).unwrap();
    assert_eq!(status(answer.await.unwrap()).await.code(), Code::DeadlineExceeded);
    node.wait_for("berth_rpc_permits_in_use{class=\"lookups\"} 0").await;
}

#[tokio::test]
async fn a_caller_that_goes_away_is_counted_and_gives_its_place_back() {
    let node = Node::start(LIMITS);
    let (send, connection) = connect(&node).await;
    let mut send = send.ready().await.unwrap();
    let (_answer, mut body) = send.send_request(request(LOOKUP, &[]), false).unwrap();
    body.send_data(message("wait"), true).unwrap();
    node.wait_for("berth_rpc_permits_in_use{class=\"lookups\"} 1").await;
    connection.abort();
    node.wait_for("berth_rpc_permits_in_use{class=\"lookups\"} 0").await;
    let labels = "rpc_method=\"berth.v1.LookupService/Lookup\",rpc_response_status_code=\"CANCELLED\"";
    node.wait_for(&format!("rpc_server_call_duration_seconds_count{{{labels}}} 1")).await;
    node.wait_for("berth_connections_open 0").await;
}

#[tokio::test]
async fn rapid_resets_end_the_connection_and_leave_nothing_behind() {
    const ROUNDS: usize = 250;
    const AT_ONCE: usize = 40;
    let node = Node::start(LIMITS);
    let before = resident_bytes().unwrap();
    let mut ended = 0;
    for _ in 0..4 {
        let (mut send, connection) = connect(&node).await;
        'connection: for _ in 0..ROUNDS {
            let mut bodies = Vec::new();
            for _ in 0..AT_ONCE {
                let Ok(ready) = send.clone().ready().await else { break 'connection };
                send = ready;
                let Ok((_answer, body)) = send.send_request(request(LOOKUP, &[]), false) else {
                    break 'connection;
                };
                bodies.push(body);
            }
            // Gives the connection a turn, so that the requests leave before their resets.
            tokio::task::yield_now().await;
            for mut body in bodies {
                body.send_reset(Reason::CANCEL);
            }
        }
        drop(send);
        // The server ends a connection whose resets it cannot keep up with.
        if tokio::time::timeout(PATIENCE, connection).await.unwrap().unwrap().is_err() {
            ended += 1;
        }
    }
    let lookup = Methods::of_this_build().find(LOOKUP);
    let seen: u64 = (0..17).map(|code| node.metrics.rpc().count(lookup, Code::from_i32(code))).sum();
    assert!(seen > 0 || ended > 0, "no request reached the server");
    let grown = resident_bytes().unwrap().saturating_sub(before);
    assert!(grown < 64 * 1_024 * 1_024, "{ended} connections were ended and memory grew by {grown} bytes");
    node.wait_for("berth_rpc_permits_in_use{class=\"lookups\"} 0").await;
    node.wait_for("berth_connections_open 0").await;
    assert!(node.client().await.lookup(device("d")).await.is_ok());
}

#[tokio::test]
async fn a_connection_may_have_256_calls_in_flight() {
    let node = Node::start(Limits { lookups: 1_000, ..LIMITS });
    let (send, _connection) = connect(&node).await;
    // The settings arrive with the first answer at the latest.
    assert_eq!(call(&send, &[], "d").await.code(), Code::Ok);
    assert_eq!(send.current_max_send_streams(), 256);
}

#[tokio::test]
async fn peers_are_served_with_their_own_bounds_and_none_of_the_clients_layers() {
    let listener = crate::edge::listen(([127, 0, 0, 1], 0).into()).unwrap();
    let addr = listener.local_addr().unwrap();
    let release = Arc::new(Semaphore::new(0));
    let desk = LookupServiceServer::new(Desk(Arc::clone(&release)));
    let served = tokio::spawn(serve_peers(listener, desk));
    let stream = TcpStream::connect(addr).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    assert_eq!(call(&send, &[], "d").await.code(), Code::Ok);
    assert_eq!(send.current_max_send_streams(), 64);

    // A client's call would have been ended by its deadline.
    let waiting = tokio::spawn(async move { call(&send, &[("grpc-timeout", "1m")], "wait").await.code() });
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    release.add_permits(1);
    assert_eq!(waiting.await.unwrap(), Code::Ok);

    let mut web = TcpStream::connect(addr).await.unwrap();
    web.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut told = [0; 12];
    web.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 426");

    served.abort();
    let closed = tokio::time::timeout(PATIENCE, connection).await;
    assert!(closed.is_ok(), "a connection outlived its listener");
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let node = Node::start(LIMITS);
    let (send, _connection) = connect(&node).await;
    let long = "x".repeat(32 * 1_024);
    let mut send = send.ready().await.unwrap();
    let (answer, _body) = send.send_request(request(LOOKUP, &[("x-long", &long)]), true).unwrap();
    let refused = match answer.await {
        Ok(response) => response.status() == http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Err(_) => true,
    };
    assert!(refused);
    node.wait_for("berth_rpc_permits_in_use{class=\"lookups\"} 0").await;
}

#[tokio::test]
async fn connections_past_the_limit_are_closed_and_room_comes_back() {
    let node = Node::start(Limits { connections: 1, ..LIMITS });
    let first = connect(&node).await;
    node.wait_for("berth_connections_open 1").await;
    let mut second = TcpStream::connect(node.addr).await.unwrap();
    let mut buffer = [0; 16];
    let closed = tokio::time::timeout(PATIENCE, second.read(&mut buffer)).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)));
    node.wait_for("berth_connections_refused_total 1").await;
    first.1.abort();
    node.wait_for("berth_connections_open 0").await;
    assert!(node.client().await.lookup(device("d")).await.is_ok());
}

#[tokio::test]
async fn other_protocols_are_told_so_and_silence_ends() {
    let node = Node::start(LIMITS);
    let mut web = TcpStream::connect(node.addr).await.unwrap();
    web.write_all(b"GET / HTTP/1.1\r\nhost: berth\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    web.read_to_end(&mut answer).await.unwrap();
    drop(web);
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 426") && answer.contains("gRPC"), "{answer}");

    let mut silent = TcpStream::connect(node.addr).await.unwrap();
    let mut slow = TcpStream::connect(node.addr).await.unwrap();
    slow.write_all(b"PRI * HTTP").await.unwrap();
    let mut buffer = [0; 16];
    for stream in [&mut silent, &mut slow] {
        let closed = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap();
        assert!(matches!(closed, Ok(0) | Err(_)));
    }
    node.wait_for("berth_connections_open 0").await;
}

#[tokio::test]
async fn a_port_in_use_is_told_with_its_address() {
    let node = Node::start(LIMITS);
    let refused = crate::edge::listen(node.addr).unwrap_err().to_string();
    assert!(refused.contains(&node.addr.to_string()) && refused.contains("in use"), "{refused}");
}
