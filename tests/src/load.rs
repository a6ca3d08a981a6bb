//! Concurrent writers and readers against real nodes, recording what they saw.
//!
//! A write is repeated under its own request ID, on one node after another, until its fate is certain: that is what
//! a careful caller does, and it tries the reply table at every failure. Only what is still open at the end stays
//! unknown in the history.

mod caller;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use crate::history::{Act, Device, Fate, Hub, Op, Seen};
pub use caller::{Answer, Caller, read_at};

/// Devices of a load. Few enough that writers and readers meet.
const DEVICES: u32 = 240;
/// The last of them are written by everybody, the others by one writer each.
const SHARED: u32 = 24;
/// Hubs of a load.
pub const HUBS: u32 = 6;
/// Writers of one device at a time, writers of batches, and writers of shared devices.
const WRITERS: u32 = 6;
const BATCH_WRITERS: u32 = 2;
const SHARED_WRITERS: u32 = 2;
/// Readers of one device at a time, of batches, and of local state.
const READERS: u32 = 8;
const BATCH_READERS: u32 = 2;
const LOCAL_READERS: u32 = 1;
/// Devices of one batch.
const BATCH: usize = 8;
/// How long writes whose fate is open may go on after the end.
const SETTLE: Duration = Duration::from_secs(20);
/// After a failed call, so that a node that is away is not asked in a tight loop.
const PAUSE: Duration = Duration::from_millis(8);
/// Most operations one caller records: what a test's memory may hold.
const OPS_MAX: usize = 400_000;

/// A running load.
pub struct Load {
    callers: JoinSet<Vec<Op>>,
    shared: Arc<Shared>,
}

struct Shared {
    started: Instant,
    stopped: AtomicBool,
    accepted: AtomicU64,
    lookups: AtomicU64,
    leader: AtomicUsize,
    endpoints: Vec<SocketAddr>,
}

impl Load {
    /// Creates hubs and devices through `endpoints`, then starts writers and readers. All choices follow from `seed`.
    pub async fn start(endpoints: Vec<SocketAddr>, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            started: Instant::now(),
            stopped: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            lookups: AtomicU64::new(0),
            leader: AtomicUsize::new(0),
            endpoints,
        });
        let mut first = Client::new(&shared, seed, 0);
        first.caller.create_hubs(HUBS).await;
        let all: Vec<Device> = (0..DEVICES).collect();
        let created = first.write(all.iter().map(|device| (*device, device % HUBS)).collect()).await;
        assert!(
            matches!(created, Fate::Accepted { .. }),
            "the devices of the load could not be created: {created:?}"
        );
        let mut callers = JoinSet::new();
        let mut nth = 0;
        let mut spawn = |callers: &mut JoinSet<Vec<Op>>, role: Role| {
            nth += 1;
            let client = Client::new(&shared, seed, nth);
            callers.spawn(client.run(role));
        };
        let own = (DEVICES - SHARED) / (WRITERS + BATCH_WRITERS);
        for writer in 0..WRITERS + BATCH_WRITERS {
            let devices: Vec<Device> = (writer * own..(writer + 1) * own).collect();
            spawn(
                &mut callers,
                if writer < WRITERS { Role::Write(devices) } else { Role::BatchWrite(devices) },
            );
        }
        for _ in 0..SHARED_WRITERS {
            spawn(&mut callers, Role::Write((DEVICES - SHARED..DEVICES).collect()));
        }
        (0..READERS).for_each(|_| spawn(&mut callers, Role::Read { linearizable: true }));
        (0..LOCAL_READERS).for_each(|_| spawn(&mut callers, Role::Read { linearizable: false }));
        (0..BATCH_READERS).for_each(|_| spawn(&mut callers, Role::BatchRead));
        let history = first.ops;
        callers.spawn(async move { history });
        Self { callers, shared }
    }

    /// Writes acknowledged so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Linearizable lookups answered so far; a batch counts once.
    pub fn lookups(&self) -> u64 {
        self.shared.lookups.load(Ordering::Relaxed)
    }

    /// Ends the load once every write's fate is certain, looks every device up once more through every node, and
    /// gives the whole history.
    pub async fn finish(mut self) -> Vec<Op> {
        self.shared.stopped.store(true, Ordering::Relaxed);
        let mut history = Vec::new();
        while let Some(ops) = self.callers.join_next().await {
            history.extend(ops.expect("a caller panicked"));
        }
        for at in 0..self.shared.endpoints.len() {
            let mut last = Client::new(&self.shared, 0, 0);
            let deadline = Instant::now() + SETTLE;
            while last.ops.is_empty() {
                assert!(Instant::now() < deadline, "node {} answers no lookup after the end", at + 1);
                last.look_up(at, (0..DEVICES).collect(), true).await;
            }
            history.extend(last.ops);
        }
        history
    }
}

enum Role {
    Write(Vec<Device>),
    BatchWrite(Vec<Device>),
    Read { linearizable: bool },
    BatchRead,
}

struct Client {
    caller: Caller,
    shared: Arc<Shared>,
    random: StdRng,
    ops: Vec<Op>,
}

impl Client {
    fn new(shared: &Arc<Shared>, seed: u64, nth: u64) -> Self {
        let random = StdRng::seed_from_u64(seed ^ nth.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self { caller: Caller::new(&shared.endpoints), shared: Arc::clone(shared), random, ops: Vec::new() }
    }

    async fn run(mut self, role: Role) -> Vec<Op> {
        while !self.shared.stopped.load(Ordering::Relaxed) && self.ops.len() < OPS_MAX {
            match &role {
                Role::Write(devices) => {
                    let device = devices[self.random.random_range(0..devices.len())];
                    let hub = self.random.random_range(0..HUBS);
                    self.write(vec![(device, hub)]).await;
                }
                Role::BatchWrite(devices) => {
                    let from = self.random.random_range(0..=devices.len() - BATCH);
                    let hub = self.random.random_range(0..HUBS);
                    self.write(devices[from..from + BATCH].iter().map(|device| (*device, hub)).collect())
                        .await;
                }
                Role::Read { linearizable } => {
                    let device = self.random.random_range(0..DEVICES);
                    let node = self.random.random_range(0..self.shared.endpoints.len());
                    self.look_up(node, vec![device], *linearizable).await;
                }
                Role::BatchRead => {
                    let from = self.random.random_range(0..DEVICES - 32);
                    let node = self.random.random_range(0..self.shared.endpoints.len());
                    self.look_up(node, (from..from + 32).collect(), true).await;
                }
            }
        }
        self.ops
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.shared.started.elapsed().as_nanos()).unwrap_or(u64::MAX - 1)
    }

    /// Writes, repeating under one request ID until the fate is certain.
    async fn write(&mut self, items: Vec<(Device, Hub)>) -> Fate {
        let request_id = uuid::Uuid::now_v7().to_string();
        let invoked_ns = self.now_ns();
        let mut deadline = None;
        let mut sent = false;
        let fate = loop {
            if self.shared.stopped.load(Ordering::Relaxed) {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + SETTLE);
                if Instant::now() > deadline {
                    break if sent { Fate::Unknown } else { Fate::Refused };
                }
            }
            let node = self.shared.leader.load(Ordering::Relaxed) % self.shared.endpoints.len();
            match self.caller.write(node, &request_id, &items).await {
                Answer::Done(revision) => break Fate::Accepted { revision },
                Answer::Refused => break if sent { Fate::Unknown } else { Fate::Refused },
                Answer::NotLeader(Some(leader)) => self.shared.leader.store(leader, Ordering::Relaxed),
                Answer::NotLeader(None) => {
                    self.next_leader(node);
                    tokio::time::sleep(PAUSE).await;
                }
                Answer::Open => {
                    sent = true;
                    self.next_leader(node);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        let returned_ns = if fate == Fate::Unknown { u64::MAX } else { self.now_ns() };
        if matches!(fate, Fate::Accepted { .. }) {
            self.shared.accepted.fetch_add(1, Ordering::Relaxed);
        }
        self.ops.push(Op { invoked_ns, returned_ns, act: Act::Write { items, fate } });
        fate
    }

    /// Guesses the node after `node`, unless another caller knows better already.
    fn next_leader(&self, node: usize) {
        let next = (node + 1) % self.shared.endpoints.len();
        let leader = &self.shared.leader;
        let _ = leader.compare_exchange(node, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    async fn look_up(&mut self, node: usize, devices: Vec<Device>, linearizable: bool) {
        let invoked_ns = self.now_ns();
        let level = if linearizable { read_at::linearizable() } else { read_at::local() };
        let Some((at, items)) = self.caller.look_up(node, &devices, level).await else {
            tokio::time::sleep(PAUSE).await;
            return;
        };
        let returned_ns = self.now_ns();
        if linearizable {
            self.shared.lookups.fetch_add(1, Ordering::Relaxed);
        }
        let items: Vec<(Device, Option<Seen>)> = devices.into_iter().zip(items).collect();
        self.ops.push(Op { invoked_ns, returned_ns, act: Act::Read { items, at, linearizable } });
    }
}
