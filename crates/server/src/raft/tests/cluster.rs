//! A cluster for a test: nodes that can be stopped, crashed, wiped and started again.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use berth_store::log::{LogStore, PurgeGate};
use berth_store::raft::{BerthNode, LogId, SnapshotMeta};
use bytes::Bytes;
use openraft::storage::RaftStateMachine;
use tempfile::TempDir;
use uuid::Uuid;

use super::links::Cuts;
use super::machine::{Disk, MemoryMachine};
use crate::metrics::Metrics;
use crate::raft::bootstrap::{FetchError, fetch_checkpoint};
use crate::raft::identity::Keeper;
use crate::raft::machine::{MachineView, SystemClock};
use crate::raft::network::Links;
use crate::raft::node::{ClusterSeed, RaftNode, RaftNodeOptions, RaftStartError};
use crate::raft::{Start, Timing};

/// How long a test waits for what must come. Far above what it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Slow enough that a busy machine does not call elections of its own.
const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(100),
    election_min: Duration::from_millis(400),
    election_max: Duration::from_millis(800),
};

/// What of a node outlives its process.
pub struct Home {
    pub name: String,
    pub dir: TempDir,
    pub disk: Disk,
    pub addr: String,
    pub incarnation: Uuid,
}

impl Home {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            dir: tempfile::tempdir().unwrap(),
            disk: Disk::default(),
            addr: free_address(),
            incarnation: Uuid::now_v7(),
        }
    }

    pub fn log_dir(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Whether its directory says that it has taken part in a cluster.
    pub fn has_settled(&self) -> bool {
        std::fs::read_to_string(self.dir.path().join("IDENTITY"))
            .is_ok_and(|text| text.contains("settled yes"))
    }

    /// Takes the node back to the moment before it noted that it took part.
    pub fn forget_settling(&self) {
        let keeper = Keeper::open(self.dir.path(), &self.name, self.incarnation).unwrap();
        keeper.change(|identity| identity.settled = false).unwrap();
    }

    /// Forgets everything, as an exchanged disk would.
    pub fn wipe(&mut self) {
        self.dir = tempfile::tempdir().unwrap();
        self.disk = Disk::default();
        self.incarnation = Uuid::now_v7();
    }

    /// Fetches a checkpoint from a peer, as a node without pages whose log begins after `purged` does before Raft
    /// starts.
    pub async fn fetch_pages(&self, cuts: &Cuts, purged: Option<LogId>) -> Result<SnapshotMeta, FetchError> {
        let keeper = Arc::new(Keeper::open(self.dir.path(), &self.name, self.incarnation).unwrap());
        let log = LogStore::open(&self.log_dir(), PurgeGate::closed()).unwrap();
        let mut machine = MemoryMachine::open(self.disk.clone(), log);
        let view: Arc<dyn MachineView> = Arc::new(machine.clone());
        let links = Links::new(cuts.dial(&self.name), keeper, Arc::clone(&view), None);
        let (meta, handle) = fetch_checkpoint(&links, view.as_ref(), purged).await?;
        machine.install_snapshot(&meta, handle).await.unwrap();
        Ok(meta)
    }

    pub async fn start(&self, start: Start, cuts: &Cuts) -> Result<Node, RaftStartError> {
        let keeper = Arc::new(Keeper::open(self.dir.path(), &self.name, self.incarnation).unwrap());
        let log = LogStore::open(&self.log_dir(), PurgeGate::closed()).unwrap();
        let machine = MemoryMachine::open(self.disk.clone(), log.clone());
        let options = RaftNodeOptions {
            start,
            node: BerthNode {
                name: self.name.clone(),
                peer_addr: self.addr.clone(),
                client_addr: format!("{}.example:7000", self.name),
            },
            listener: bind(&self.addr).await,
            timing: TIMING,
            dial: cuts.dial(&self.name),
            clock: Arc::new(SystemClock),
            seed: ClusterSeed { cluster_id: Uuid::now_v7(), hash_key: [7; 16] },
            snapshot_bytes_per_second: None,
            work: Arc::clone(&Metrics::new(UNIX_EPOCH).work),
        };
        let raft =
            RaftNode::start(options, keeper, log.clone(), machine.clone(), Arc::new(machine.clone())).await?;
        Ok(Node { raft, machine, log })
    }
}

/// A running node.
pub struct Node {
    pub raft: RaftNode<MemoryMachine>,
    pub machine: MemoryMachine,
    pub log: LogStore,
}

impl Node {
    /// Stops as a crash would, and returns when its log can be opened again.
    pub async fn crash(self) {
        let Self { raft, machine, log } = self;
        raft.halt().await;
        drop((machine, log));
    }

    pub async fn stop(self) {
        let Self { raft, machine, log } = self;
        raft.shutdown().await;
        drop((machine, log));
    }

    pub async fn write(&self, command: &str) {
        self.raft.propose(Bytes::copy_from_slice(command.as_bytes())).await.unwrap();
    }

    pub fn commands(&self) -> Vec<String> {
        let commands = self.machine.state().commands;
        commands.into_iter().map(|command| String::from_utf8(command).unwrap()).collect()
    }
}

/// Three founders, or two of them and a gap.
pub struct Cluster {
    pub homes: Vec<Home>,
    pub nodes: Vec<Option<Node>>,
    pub cuts: Cuts,
}

impl Cluster {
    /// Founds a cluster of three and waits until it is whole: a leader, a birth, and everybody bound.
    pub async fn found() -> Self {
        let homes: Vec<Home> = ["n1", "n2", "n3"].into_iter().map(Home::new).collect();
        let cuts = Cuts::default();
        let list: Vec<_> = homes.iter().map(|home| (home.name.clone(), home.addr.clone())).collect();
        let starting = homes.iter().map(|home| home.start(Start::Bootstrap(list.clone()), &cuts));
        let nodes: Vec<_> = futures_util::future::join_all(starting).await;
        let nodes = nodes.into_iter().map(|node| Some(node.unwrap())).collect();
        let cluster = Self { homes, nodes, cuts };
        cluster
            .until("everybody is bound", |cluster| {
                cluster.live().all(|node| node.machine.state().nodes.len() == 3)
            })
            .await;
        cluster
    }

    pub fn live(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    pub fn node(&self, place: usize) -> &Node {
        self.nodes[place].as_ref().unwrap()
    }

    pub fn take(&mut self, place: usize) -> Node {
        self.nodes[place].take().unwrap()
    }

    /// Starts a stopped node again, from what it left.
    pub async fn restart(&mut self, place: usize) {
        let node = self.homes[place].start(Start::Single, &self.cuts).await.unwrap();
        self.nodes[place] = Some(node);
    }

    /// Where the leader is that a majority follows.
    pub async fn leader(&self) -> usize {
        let mut found = 0;
        self.until("there is a leader that can be read from", |cluster| {
            cluster.nodes.iter().enumerate().any(|(place, node)| {
                let leads = node.as_ref().is_some_and(|node| node.raft.leads());
                if leads {
                    found = place;
                }
                leads
            })
        })
        .await;
        // A leader of the past does not know that it is one, but it cannot confirm a read.
        found
    }

    /// A place whose node does not lead.
    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        (0..self.nodes.len()).find(|&place| place != leader && self.nodes[place].is_some()).unwrap()
    }

    /// Writes through whoever leads, again until it is done, and only if it was surely not done before.
    pub async fn write(&self, command: &str) {
        let bytes = Bytes::copy_from_slice(command.as_bytes());
        let begun = Instant::now();
        loop {
            for node in self.live().filter(|node| node.raft.leads()) {
                match node.raft.propose(bytes.clone()).await {
                    Ok(_) => return,
                    Err(crate::raft::WriteError::Unknown(why)) => panic!("unknown: {why}"),
                    Err(_) => {}
                }
            }
            assert!(begun.elapsed() < PATIENCE, "nobody takes a write");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for a state of the cluster.
    pub async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        until(what, || holds(self)).await;
    }

    /// Waits until all live nodes have applied the same commands, this many of them.
    pub async fn settled(&self, commands: usize) {
        self.until("everybody has applied the same", |cluster| {
            cluster.live().all(|node| node.machine.state().commands.len() == commands)
        })
        .await;
        let mut all = self.live().map(Node::commands);
        let first = all.next().unwrap();
        assert!(all.all(|other| other == first));
    }
}

/// An address on the loopback that nobody listens on.
pub fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Cuts bytes off the end of the log's last file.
pub fn cut_log(dir: &Path, bytes: u64) {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "wal"))
        .collect();
    files.sort();
    let file = std::fs::OpenOptions::new().write(true).open(files.last().unwrap()).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len.saturating_sub(bytes)).unwrap();
}

/// A former process' port may still be closing.
async fn bind(addr: &str) -> TcpListener {
    let begun = Instant::now();
    loop {
        // tokio sets SO_REUSEADDR, the standard library does too on Unix.
        match TcpListener::bind(addr) {
            Ok(listener) => return listener,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{addr}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
