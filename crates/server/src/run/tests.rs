//! Whole nodes, with real pages and real gRPC, on a clock, on links and on randomness that the test sets.

pub(crate) mod asking;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use berth_core::{DeviceId, Epoch, Mapping};
use berth_proto::convert::Consistency;
use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::device_service_client::DeviceServiceClient;
use berth_proto::v1::topology_service_client::TopologyServiceClient;
use futures_util::future::join_all;
use tempfile::TempDir;
use tonic::Code;

use super::{Entropy, Injected, Node};
use crate::config::{Config, Settings};
use crate::raft::Clock;
use crate::raft::tests::{Cuts, free_address, until};

/// A moment of the year 2001.
const START_MS: u64 = 1_000_000_000_000;
const HUBS: [&str; 2] = ["hub-1.azure-devices.net", "hub-2.azure-devices.net"];
const DEVICE: &str = "meter-1";
/// How often a write is tried where leaders change.
const TRIES_MAX: u32 = 20;

/// A clock that stands until it is set.
#[derive(Clone)]
struct SetClock(Arc<AtomicU64>);

impl SetClock {
    fn set(&self, ms: u64) {
        self.0.store(ms, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Numbers that tell whose they are, and are never the same twice.
struct Dice {
    node: u8,
    drawn: AtomicU8,
}

impl Entropy for Dice {
    fn bytes(&self) -> [u8; 16] {
        let mut bytes = [self.node; 16];
        bytes[15] = self.drawn.fetch_add(1, Ordering::SeqCst);
        bytes
    }
}

struct Cluster {
    nodes: Vec<Node>,
    peers: Vec<(String, String)>,
    clock: SetClock,
    cuts: Cuts,
    _dirs: Vec<TempDir>,
}

impl Cluster {
    async fn found() -> Self {
        let clock = SetClock(Arc::new(AtomicU64::new(START_MS)));
        let cuts = Cuts::default();
        let peers: Vec<(String, String)> = (1..=3).map(|n| (format!("n{n}"), free_address())).collect();
        let list: Vec<String> = peers.iter().map(|(name, addr)| format!("{name}={addr}")).collect();
        let dirs: Vec<TempDir> = peers.iter().map(|_| tempfile::tempdir().unwrap()).collect();
        let starting = peers.iter().zip(&dirs).zip(1_u8..).map(|(((name, addr), dir), node)| {
            let settings = Settings {
                data_dir: Some(dir.path().to_path_buf()),
                node_name: Some(name.clone()),
                listen: Some("127.0.0.1:0".to_owned()),
                peer_listen: Some(addr.clone()),
                http_listen: Some("127.0.0.1:0".to_owned()),
                bootstrap: Some(list.join(",")),
                ..Settings::default()
            };
            let injected = Injected {
                clock: Arc::new(clock.clone()),
                dial: cuts.dial(name),
                entropy: Arc::new(Dice { node, drawn: AtomicU8::new(0) }),
                ..Injected::default()
            };
            async move { Node::start(Config::from_settings([settings]).unwrap(), injected).await.unwrap() }
        });
        let nodes = join_all(starting).await;
        let cluster = Self { nodes, peers, clock, cuts, _dirs: dirs };
        until("every node reads and writes", || {
            let serve = |node: &Node| {
                node.directory().serving().check().is_ok() && node.directory().check_writes().is_ok()
            };
            cluster.nodes.iter().all(serve)
        })
        .await;
        cluster
    }

    /// The place of a node that leads and is not `other`.
    async fn leader(&self, other: Option<usize>) -> usize {
        let leads = |place: usize, node: &Node| {
            Some(place) != other && node.raft().leads() && !node.raft().lacks_quorum()
        };
        let find = || self.nodes.iter().enumerate().find(|(place, node)| leads(*place, node));
        until("there is a leader", || find().is_some()).await;
        find().unwrap().0
    }

    async fn assign(&self, place: usize, hub: &str) -> Result<(), ApiError> {
        let address = format!("http://{}", self.nodes[place].addresses().client);
        let mut devices = DeviceServiceClient::connect(address).await.unwrap();
        let assignment = v1::DeviceAssignment {
            device_id: DEVICE.to_owned(),
            hub: hub.to_owned(),
            ..v1::DeviceAssignment::default()
        };
        let request = v1::AssignRequest { assignment: Some(assignment), ..v1::AssignRequest::default() };
        devices.assign(request).await.map(drop).map_err(ApiError::from)
    }

    /// Writes at the leader, and again where a busy machine let it change meanwhile: the same hub twice is one change.
    async fn assign_at_leader(&self, other: Option<usize>, hub: &str) -> usize {
        for _ in 0..TRIES_MAX {
            let place = self.leader(other).await;
            match self.assign(place, hub).await {
                Ok(()) => return place,
                Err(error) => assert_eq!(error.code(), Code::Unavailable, "{error}"),
            }
        }
        panic!("no leader took a write in {TRIES_MAX} tries");
    }

    async fn create_hubs(&self) {
        for _ in 0..TRIES_MAX {
            match self.apply_hubs().await {
                Ok(()) => return,
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
        }
        panic!("no leader took the hubs in {TRIES_MAX} tries");
    }

    async fn apply_hubs(&self) -> Result<(), tonic::Status> {
        let place = self.leader(None).await;
        let address = format!("http://{}", self.nodes[place].addresses().client);
        let hub = |name: &str| v1::DesiredHub {
            name: name.to_owned(),
            stamp: Some("stamp-1".to_owned()),
            ..v1::DesiredHub::default()
        };
        let desired = v1::DesiredTopology {
            stamps: vec![v1::DesiredStamp { name: "stamp-1".to_owned(), ..v1::DesiredStamp::default() }],
            hubs: HUBS.into_iter().map(hub).collect(),
            ..v1::DesiredTopology::default()
        };
        let request = v1::ApplyRequest { desired: Some(desired), ..v1::ApplyRequest::default() };
        TopologyServiceClient::connect(address).await.unwrap().apply(request).await.map(drop)
    }

    /// What a node answers of the device, and on which hub it is.
    async fn mapping(
        &self,
        place: usize,
        consistency: Consistency,
    ) -> Result<(Mapping, &'static str), ApiError> {
        let fresh = self.nodes[place].directory().read(consistency).await?;
        let mapping = fresh.snapshot.device(&DeviceId::parse(DEVICE).unwrap()).unwrap().unwrap();
        let hub = fresh.snapshot.topology().hub(mapping.hub.unwrap()).unwrap().name.to_string();
        Ok((mapping, HUBS.into_iter().find(|name| *name == hub).unwrap()))
    }

    /// Cuts one node off from the others, both ways.
    fn isolate(&self, place: usize) {
        let (name, addr) = &self.peers[place];
        for (other, other_addr) in self.peers.iter().filter(|(other, _)| other != name) {
            self.cuts.cut(name, other_addr);
            self.cuts.cut(other, addr);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_its_promises_while_the_clock_leaps_and_links_are_cut() {
    let cluster = Cluster::found().await;
    let leader = cluster.leader(None).await;
    let id = cluster.nodes[leader].directory().newest().cluster().unwrap().id;
    assert!((1..=3).contains(&id.as_bytes()[0]), "{id} was drawn from the dice");

    // Stamps come from the clock that was given, and never go back though it does.
    cluster.create_hubs().await;
    let mut stamps = Vec::new();
    for (ms, hub) in [(START_MS, HUBS[0]), (START_MS - 86_400_000, HUBS[1]), (START_MS + 3_600_000, HUBS[0])]
    {
        cluster.clock.set(ms);
        let leader = cluster.assign_at_leader(None, hub).await;
        let (mapping, on) = cluster.mapping(leader, Consistency::Linearizable).await.unwrap();
        assert_eq!(on, hub);
        stamps.push(u64::from(mapping.evidence.at.seconds()));
    }
    assert_eq!(stamps, [START_MS / 1_000, START_MS / 1_000, START_MS / 1_000 + 3_600]);

    // A leader cut off confirms nothing; what it has, it gives only to those who ask for no more.
    let old = cluster.leader(None).await;
    let (before, _) = cluster.mapping(old, Consistency::Linearizable).await.unwrap();
    cluster.isolate(old);
    let new = cluster.assign_at_leader(Some(old), HUBS[1]).await;
    let (after, on) = cluster.mapping(new, Consistency::Linearizable).await.unwrap();
    assert_eq!((after.epoch, on), (before.epoch.next(), HUBS[1]));
    let refused = cluster.mapping(old, Consistency::Linearizable).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let refused = cluster.assign(old, HUBS[1]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let (local, on) = cluster.mapping(old, Consistency::Local).await.unwrap();
    assert_eq!((local.epoch, on), (before.epoch, HUBS[0]));

    // Healed, it answers as all others do.
    cluster.cuts.heal();
    until("the old leader follows", || {
        cluster.nodes[old].raft().leader().is_some_and(|(id, _)| id != cluster.nodes[old].raft().id())
    })
    .await;
    let mut seen = (Epoch(0), "");
    for _ in 0..200 {
        if let Ok((mapping, on)) = cluster.mapping(old, Consistency::Linearizable).await {
            seen = (mapping.epoch, on);
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(seen, (after.epoch, HUBS[1]), "the first confirmed answer is the newest");
    join_all(cluster.nodes.into_iter().map(Node::shutdown)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_disk_are_read_again_from_time_to_time() {
    let dir = tempfile::tempdir().unwrap();
    let any = || Some("127.0.0.1:0".to_owned());
    let settings = Settings {
        data_dir: Some(dir.path().to_path_buf()),
        listen: any(),
        peer_listen: any(),
        http_listen: any(),
        ..Settings::default()
    };
    let mut config = Config::from_settings([settings]).unwrap();
    assert_eq!(config.scrub_interval, Some(Duration::from_secs(86_400)));
    config.scrub_interval = Some(Duration::from_millis(20));
    let node = Node::start(config, Injected::default()).await.unwrap();
    until("it writes", || node.directory().check_writes().is_ok()).await;
    node.raft().checkpoint().await.unwrap();
    let http = node.addresses().http;
    let figure = |name: &str| {
        let mut stream = std::net::TcpStream::connect(http).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: berth\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        value.unwrap_or_else(|| panic!("{name} is not told in {text}"))
    };
    until("it has scrubbed", || tokio::task::block_in_place(|| figure("berth_store_scrubs_total")) > 2).await;
    assert_eq!(tokio::task::block_in_place(|| figure("berth_store_scrubs_damaged_total")), 0);
    node.shutdown().await;
}
