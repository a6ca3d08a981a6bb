use std::net::SocketAddr;
use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::*;
use crate::edge::listen;

async fn start() -> (SocketAddr, Health, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let addr = listener.local_addr().unwrap();
    let health = Health::new();
    let (stop, stopped) = oneshot::channel::<()>();
    let metrics = Metrics::new(SystemTime::now());
    let stopped = async move {
        let _ = stopped.await;
    };
    let hook = Hook::new(None, Arc::clone(&metrics.hook));
    let sources = Sources { metrics, health: health.clone(), hook };
    let server = tokio::spawn(serve(listener, sources, stopped));
    (addr, health, stop, server)
}

async fn get(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: berth\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn probes_follow_health_and_strangers_are_told_the_way() {
    let (addr, health, _stop, _server) = start().await;
    assert!(get(addr, "/healthz").await.starts_with("HTTP/1.1 200 OK"));
    let starting = get(addr, "/readyz").await;
    assert!(starting.starts_with("HTTP/1.1 503"), "{starting}");
    assert!(starting.ends_with("not ready: the node is starting\n"), "{starting}");
    health.set_read(Serving::Yes);
    assert!(get(addr, "/readyz").await.starts_with("HTTP/1.1 200 OK"));
    health.set_read(Serving::No("no leader has been heard of for 3 s".to_owned()));
    assert!(get(addr, "/readyz").await.ends_with("not ready: no leader has been heard of for 3 s\n"));
    let lost = get(addr, "/metric").await;
    assert!(lost.starts_with("HTTP/1.1 404") && lost.contains("try /metrics"), "{lost}");
}

#[tokio::test]
async fn metrics_are_openmetrics_text() {
    let (addr, _health, _stop, _server) = start().await;
    let answer = get(addr, "/metrics").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(OPENMETRICS), "{head}");
    assert!(body.ends_with("# EOF\n"));
    let mut samples = 0;
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(
            name.starts_with("berth_") || name.starts_with("process_") || name.starts_with("rpc_"),
            "{line}"
        );
        assert!(value.parse::<f64>().is_ok(), "{line}");
        samples += 1;
    }
    assert!(samples > 30, "only {samples} samples");
    let mut families: Vec<_> = body.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    let told = families.len();
    families.sort_unstable();
    families.dedup();
    assert_eq!(families.len(), told, "a family is told twice");
}

#[tokio::test]
async fn a_listener_that_stops_lets_idle_connections_go() {
    let (addr, _, stop, server) = start().await;
    let mut idle = TcpStream::connect(addr).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: berth\r\n\r\n").await.unwrap();
    let mut buffer = [0; 512];
    assert!(idle.read(&mut buffer).await.unwrap() > 0);
    stop.send(()).unwrap();
    assert_eq!(idle.read(&mut buffer).await.unwrap(), 0);
    server.await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err());
}
