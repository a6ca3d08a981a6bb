//! The life of Raft on a node: start, use, stop. Raft has threads of its own, so that requests, a slow
//! disk or a long answer cannot starve heartbeats.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use berth_proto::internal as pb;
use berth_store::log::LogStore;
use berth_store::raft::{Applied, BerthConfig, BerthNode, LogId, Payload};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardReason, LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use openraft::{Raft, ServerState};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

use super::bootstrap::{Place, PlaceError, Start, place};
use super::dial::Dial;
use super::grouper::{Committed, Grouper, Replicate, WriteError};
use super::identity::{Refusal, SharedKeeper};
use super::machine::{Clock, MachineView};
use super::membership::{Applicant, Membership, MembershipError};
use super::network::{Links, PeerNetwork};
use super::peer_service::{Forwarded, Machine, PeerPort, Running, leader_of};
use super::read_index::{Barrier, ReadError, ReadIndex, ReadPoint, Role};
use super::status::{MemberStatus, NodeStatus};
use super::steward::Steward;
use super::timing::Timing;
use crate::edge;
use crate::metrics::WorkMetrics;

/// How long a write waits for a leader that has not heard from a quorum for longer than its lease.
const LEASE_WAIT_MAX: Duration = Duration::from_secs(1);
/// Between two looks at whether the leader has its lease again.
const LEASE_PAUSE: Duration = Duration::from_millis(5);
/// Threads of Raft: one for its own task, one for peers, grouping and applying.
const THREADS: usize = 2;
/// Election timeouts without a word from a quorum after which a leader takes no more writes: a busy peer answers late
/// now and then, and one that is alone for so long has been replaced, or nobody can be.
const SILENT_ELECTIONS_MAX: u32 = 3;
/// How long stopping waits for Raft's tasks to end before it leaves them.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// What a node is started with.
pub struct RaftNodeOptions {
    /// How the node comes to its cluster if its data directory is empty.
    pub start: Start,
    /// Its name, and where peers and clients reach it.
    pub node: BerthNode,
    /// The bound listener for peers.
    pub listener: std::net::TcpListener,
    /// The timers of elections.
    pub timing: Timing,
    /// How peers are dialled.
    pub dial: Arc<dyn Dial>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Random, for a cluster that this node founds: its ID and its hash key.
    pub seed: ClusterSeed,
    /// Bytes of a snapshot sent to a peer in a second; unlimited if `None`.
    pub snapshot_bytes_per_second: Option<u64>,
    /// Counts entries and rounds.
    pub work: Arc<WorkMetrics>,
}

/// The random facts of a new cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterSeed {
    /// The cluster's ID.
    pub cluster_id: Uuid,
    /// The key of the hash that spreads devices over pages.
    pub hash_key: [u8; 16],
}

/// Why Raft did not start.
#[derive(Debug, thiserror::Error)]
pub enum RaftStartError {
    /// The timers do not fit each other.
    #[error("the election timers are unusable: {0}")]
    Timing(#[from] openraft::ConfigError),
    /// The threads or the listener could not be had.
    #[error("cannot start Raft's threads or use the peer listener: {0}")]
    Io(#[from] std::io::Error),
    /// The node has no place in a cluster.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The log is gone while the identity is there.
    #[error(
        "this data directory belongs to node {0} of a cluster, but its Raft log is empty: what it acknowledged and \
         voted is lost, so it must not vote again. Replace it: remove it from the cluster on a healthy node \
         (`berth cluster remove {0}`), set its data directory aside, and start it with an empty one and `--join`"
    )]
    LogLost(u64),
    /// openraft refused what it found.
    #[error("Raft refuses to start from what is stored: {0}")]
    Fatal(String),
}

/// Why a running node has to stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The cluster knows this node by another data directory.
    #[error("the cluster refuses this data directory: {0}")]
    Disowned(Refusal),
    /// Raft failed: a disk error or a damaged entry.
    #[error("Raft stopped: {0}")]
    Failed(String),
    /// A scrub found that the state in memory contradicts itself.
    #[error("the state in memory is not what was applied: {0}; the next start reads it from disk again")]
    Broken(String),
}

/// A node's running Raft.
pub struct RaftNode<SM: Machine> {
    id: u64,
    raft: Raft<BerthConfig, SM>,
    membership: Membership<SM>,
    grouper: Grouper,
    reads: ReadIndex,
    keeper: SharedKeeper,
    links: Arc<Links>,
    forwarded: Arc<OnceLock<Forwarded>>,
    /// How long a leader may go without an answer of a quorum.
    silence_max: Duration,
    /// `None` once the node has stopped.
    runtime: Mutex<Option<Runtime>>,
}

impl<SM: Machine> RaftNode<SM> {
    /// Starts Raft: finds the node's place in a cluster, which may take as long as its peers need to come
    /// up, and then returns. Nobody need lead by then.
    ///
    /// # Errors
    /// [`RaftStartError`].
    pub async fn start(
        options: RaftNodeOptions,
        keeper: SharedKeeper,
        log: LogStore,
        machine: SM,
        view: Arc<dyn MachineView>,
    ) -> Result<Self, RaftStartError> {
        let identity = keeper.identity();
        if let (Some(id), true, true) = (identity.node_id, identity.settled, log.is_blank()) {
            return Err(RaftStartError::LogLost(id));
        }
        let runtime = Threads(Some(
            Builder::new_multi_thread()
                .worker_threads(THREADS)
                .thread_name("berth-raft")
                .enable_all()
                .build()?,
        ));
        let Some(threads) = runtime.0.as_ref() else {
            return Err(RaftStartError::Fatal("no threads".into()));
        };
        let silence_max = silence_max(&options.timing);
        let assembled = threads.spawn(assemble(options, Arc::clone(&keeper), log, machine, view)).await;
        let parts = match assembled.unwrap_or_else(|error| Err(RaftStartError::Fatal(error.to_string()))) {
            Ok(parts) => parts,
            Err(error) => {
                // The log is open until the last of its tasks has ended; whoever tries again needs it.
                runtime.stop().await;
                return Err(error);
            }
        };
        let Parts { id, raft, membership, grouper, reads, links, forwarded } = parts;
        let runtime = Mutex::new(runtime.keep());
        Ok(Self { id, raft, membership, grouper, reads, keeper, links, forwarded, silence_max, runtime })
    }

    /// The node's ID.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Replicates one encoded command, together with others that come at the same time.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn propose(&self, command: Bytes) -> Result<Committed, WriteError> {
        self.grouper.propose(command).await
    }

    /// Commands accepted and not yet answered, and their bytes.
    #[must_use]
    pub fn in_flight(&self) -> (usize, usize) {
        self.grouper.in_flight()
    }

    /// Waits until a linearizable read that starts now may be answered from this node's state.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn confirm_read(&self) -> Result<ReadPoint, ReadError> {
        self.reads.confirm().await
    }

    /// The moment that this node's state is at least as new as; see [`ReadIndex::fresh_as_of`].
    #[must_use]
    pub fn fresh_as_of(&self) -> Option<Instant> {
        self.reads.fresh_as_of()
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<(u64, BerthNode)> {
        leader_of(&self.raft)
    }

    /// What this node believes that it is.
    #[must_use]
    pub fn role(&self) -> Role {
        role_of(&self.raft)
    }

    /// Whether this node believes that it leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.raft.metrics().borrow_watched().state == ServerState::Leader
    }

    /// Whether this node leads and has not heard from a quorum for so long that it can commit nothing.
    #[must_use]
    pub fn lacks_quorum(&self) -> bool {
        self.status().is_silent_for(self.silence_max)
    }

    /// From now on clients' calls that other nodes send on are answered; a second call changes nothing.
    pub fn answer_forwarded(&self, forwarded: Forwarded) {
        let _ = self.forwarded.set(forwarded);
    }

    /// Sends a client's call on to the leader, once; `None` where no other node leads as far as this one knows.
    pub async fn forward(
        &self,
        call: pb::ForwardRequest,
    ) -> Option<Result<pb::ForwardResponse, tonic::Status>> {
        let (leader, node) = self.leader().filter(|(leader, _)| *leader != self.id)?;
        Some(self.links.forward(leader, &node, call).await)
    }

    /// Changes who belongs to the cluster.
    #[must_use]
    pub fn membership(&self) -> &Membership<SM> {
        &self.membership
    }

    /// Asks the state machine for a checkpoint; the log is purged behind it. Returns when it was asked.
    ///
    /// # Errors
    /// [`MembershipError::Stopped`] when Raft has stopped.
    pub async fn checkpoint(&self) -> Result<(), MembershipError> {
        self.raft.trigger().snapshot().await.map_err(|_| MembershipError::Stopped)
    }

    /// Raft as this node sees it now.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        NodeStatus::of(self.id, &self.raft)
    }

    /// Waits until this node has to stop by itself, and tells why.
    pub async fn ended(&self) -> Ended {
        let mut disowned = self.keeper.disowned();
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return Ended::Failed(fatal.to_string());
            }
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() {
                    return Ended::Failed("its task ended".to_owned());
                },
                refusal = disowned.wait_for(Option::is_some) => {
                    if let Some(refusal) = refusal.ok().and_then(|refusal| refusal.clone()) {
                        return Ended::Disowned(refusal);
                    }
                }
            }
        }
    }

    /// Admits the node that waits at a peer address, started with `--join`, and answers its ID. Asking again
    /// answers the same ID. Where name or client address are given, it must be a node that says the same.
    ///
    /// # Errors
    /// [`MembershipError`]; [`MembershipError::Unusable`] where nobody answers there, or somebody of another cluster;
    /// [`MembershipError::OtherNode`] where it is not the node that was meant.
    pub async fn invite(
        &self,
        peer_addr: &str,
        name: &str,
        client_addr: &str,
    ) -> Result<u64, MembershipError> {
        let unusable = |why: String| MembershipError::Unusable {
            what: "peer address",
            value: format!("{peer_addr} ({why})"),
        };
        let hello =
            self.links.hello(peer_addr).await.map_err(|status| unusable(status.message().to_owned()))?;
        let theirs = super::identity::read_uuid(&hello.cluster);
        if theirs.is_some() && theirs != self.keeper.identity().cluster {
            return Err(unusable("that node belongs to another cluster".to_owned()));
        }
        let incarnation = super::identity::read_uuid(&hello.incarnation)
            .ok_or_else(|| unusable("that node does not say who it is".to_owned()))?;
        for (what, asked, actual) in
            [("name", name, &hello.name), ("client address", client_addr, &hello.client_addr)]
        {
            if !asked.is_empty() && asked != actual {
                return Err(MembershipError::OtherNode {
                    peer_addr: peer_addr.to_owned(),
                    what,
                    asked: asked.to_owned(),
                    actual: actual.clone(),
                });
            }
        }
        let node = BerthNode {
            name: hello.name.clone(),
            peer_addr: peer_addr.to_owned(),
            client_addr: hello.client_addr.clone(),
        };
        self.membership.admit(Applicant { incarnation, node }).await.map(|(_, id)| id)
    }

    /// Hands the leadership to the voter that is furthest, and answers which one leads then.
    ///
    /// # Errors
    /// [`MembershipError`]; [`MembershipError::NotLeader`] where this node does not lead.
    pub async fn hand_over_to_any(&self) -> Result<u64, MembershipError> {
        if !self.leads() {
            return Err(MembershipError::NotLeader { leader: self.leader() });
        }
        let heir = self.heir().ok_or(MembershipError::LastVoter(self.id))?;
        self.membership.transfer(heir).await.map(|()| heir)
    }

    /// Hands the leadership over, if this node leads and anybody can take it.
    pub async fn hand_over(&self) {
        if let Some(heir) = self.heir()
            && let Err(error) = self.membership.transfer(heir).await
        {
            tracing::warn!(%error, heir, "the leadership could not be handed over");
        }
    }

    /// Stops: hands the leadership over first, if this node still leads.
    pub async fn shutdown(&self) {
        self.hand_over().await;
        // Its own task may have ended already; then there is nothing to stop.
        let _ = self.raft.shutdown().await;
        self.stop_threads().await;
    }

    /// Stops at once, as a crash would: nobody is told.
    pub async fn halt(&self) {
        self.stop_threads().await;
    }

    /// The voter that is furthest, if this node leads and is not alone.
    fn heir(&self) -> Option<u64> {
        let status = self.status();
        let others = status.members.iter().filter(|member| member.voter && member.id != self.id);
        // One that has everything may be gone all the same, where nothing was written since.
        let fitness = |member: &&MemberStatus| {
            (member.heard.is_some_and(|silence| silence <= self.silence_max), member.matched)
        };
        status.leads.then(|| others.max_by_key(fitness).map(|member| member.id))?
    }

    async fn stop_threads(&self) {
        let runtime = self.runtime.lock().take();
        if let Some(runtime) = runtime {
            let stopping = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(STOP_TIMEOUT));
            // The threads are gone or left; either way there is nothing more to do about them.
            let _ = stopping.await;
        }
    }
}

impl<SM: Machine> Drop for RaftNode<SM> {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_background();
        }
    }
}

/// Threads that end with their owner, also when starting fails half-way.
struct Threads(Option<Runtime>);

impl Threads {
    fn keep(mut self) -> Option<Runtime> {
        self.0.take()
    }

    async fn stop(mut self) {
        if let Some(runtime) = self.0.take() {
            // The threads are gone or left; either way there is nothing more to do about them.
            let _ = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(STOP_TIMEOUT)).await;
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

struct Parts<SM: Machine> {
    id: u64,
    raft: Raft<BerthConfig, SM>,
    membership: Membership<SM>,
    grouper: Grouper,
    reads: ReadIndex,
    links: Arc<Links>,
    forwarded: Arc<OnceLock<Forwarded>>,
}

/// How long a leader may go without an answer of a quorum.
fn silence_max(timing: &Timing) -> Duration {
    timing.election_max * SILENT_ELECTIONS_MAX
}

/// Puts a node together on Raft's own threads.
async fn assemble<SM: Machine>(
    options: RaftNodeOptions,
    keeper: SharedKeeper,
    log: LogStore,
    machine: SM,
    view: Arc<dyn MachineView>,
) -> Result<Parts<SM>, RaftStartError> {
    let RaftNodeOptions { start, node, listener, timing, dial, clock, seed, snapshot_bytes_per_second, work } =
        options;
    let config = timing.config()?;
    let links = Arc::new(Links::new(dial, Arc::clone(&keeper), Arc::clone(&view), snapshot_bytes_per_second));

    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let forwarded = Arc::<OnceLock<Forwarded>>::default();
    let port = Arc::new(PeerPort::new(Arc::clone(&links), node.clone(), Arc::clone(&forwarded)));
    tokio::spawn(edge::serve_peers(listener, port.service()));

    let Place { node_id, found } =
        place(&links, &start, &node, seed.cluster_id, !log.is_blank(), || port.answer_hello()).await?;
    let network = PeerNetwork(Arc::clone(&links));
    let raft = Raft::new(node_id, config, network, log, machine)
        .await
        .map_err(|fatal| RaftStartError::Fatal(fatal.to_string()))?;
    let membership = Membership::new(raft.clone(), Arc::clone(&view), Arc::clone(&clock));
    port.run(Running { raft: raft.clone(), membership: membership.clone() });
    if let Some(founders) = found {
        raft.initialize(founders).await.map_err(|error| RaftStartError::Fatal(error.to_string()))?;
    }
    let steward = Steward {
        raft: raft.clone(),
        links: Arc::clone(&links),
        membership: membership.clone(),
        clock: Arc::clone(&clock),
        own: node,
        hash_key: seed.hash_key,
    };
    tokio::spawn(steward.run());
    let stamps = Arc::clone(&view);
    let applied_stamp_ms = Arc::new(move || stamps.stamp_ms());
    let grouper = Grouper::start(
        RaftReplicate { id: node_id, raft: raft.clone(), silence_max: silence_max(&timing) },
        clock,
        applied_stamp_ms,
        Arc::clone(&work),
    );
    let barrier = RaftBarrier { raft: raft.clone(), links: Arc::clone(&links), id: node_id };
    let reads = ReadIndex::start(barrier, view.applied(), work);
    Ok(Parts { id: node_id, raft, membership, grouper, reads, links, forwarded })
}

struct RaftReplicate<SM: Machine> {
    id: u64,
    silence_max: Duration,
    raft: Raft<BerthConfig, SM>,
}

impl<SM: Machine> Replicate for RaftReplicate<SM> {
    fn replicate(&self, payload: Payload) -> BoxFuture<'static, Result<(LogId, Applied), WriteError>> {
        let (id, raft, silence_max) = (self.id, self.raft.clone(), self.silence_max);
        Box::pin(async move {
            let begun = Instant::now();
            loop {
                match raft.client_write(payload.clone()).await.map_err(write_error) {
                    Ok(written) => return Ok((written.log_id, written.data)),
                    // Nothing was taken: the leader's lease has run out. A disk that stalls for some tenths of a second
                    // does that, and its cluster goes on as if nothing had been.
                    Err(WriteError::NoQuorum)
                        if begun.elapsed() < LEASE_WAIT_MAX
                            && !NodeStatus::of(id, &raft).is_silent_for(silence_max) =>
                    {
                        tokio::time::sleep(LEASE_PAUSE).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        })
    }
}

struct RaftBarrier<SM: Machine> {
    raft: Raft<BerthConfig, SM>,
    links: Arc<Links>,
    id: u64,
}

impl<SM: Machine> Barrier for RaftBarrier<SM> {
    async fn confirm(&self) -> Result<(LogId, Role), ReadError> {
        let (id, leader) = leader_of(&self.raft).ok_or(ReadError::NoLeader)?;
        if id == self.id {
            let linearizer =
                self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(read_error)?;
            return Ok((*linearizer.read_log_id().log_id(), Role::Leader));
        }
        match self.links.read_index(id, &leader).await {
            // Another node confirmed it, whatever this one has become since.
            Ok(log_id) => match role_of(&self.raft) {
                Role::Learner => Ok((log_id, Role::Learner)),
                Role::Leader | Role::Follower => Ok((log_id, Role::Follower)),
            },
            Err(status) => Err(ReadError::LeaderUnreachable { leader, why: status.message().to_owned() }),
        }
    }
}

fn read_error(error: RaftError<BerthConfig, LinearizableReadError<BerthConfig>>) -> ReadError {
    match error {
        RaftError::Fatal(_) => ReadError::Stopped,
        RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => ReadError::NoLeader,
        RaftError::APIError(error) => ReadError::NoQuorum(error.to_string()),
    }
}

fn role_of<SM: Machine>(raft: &Raft<BerthConfig, SM>) -> Role {
    match raft.metrics().borrow_watched().state {
        ServerState::Leader => Role::Leader,
        ServerState::Learner => Role::Learner,
        _ => Role::Follower,
    }
}

/// openraft takes nothing when it answers with a forward. Everything else may have reached the log.
fn write_error(error: RaftError<BerthConfig, ClientWriteError<BerthConfig>>) -> WriteError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => match forward.reason {
            ForwardReason::LeaseExpired => WriteError::NoQuorum,
            ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
                WriteError::NotLeader { leader: forward.leader_id.zip(forward.leader_node) }
            }
        },
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => {
            WriteError::Unknown("the leadership changed after the write was taken".to_owned())
        }
        error => WriteError::Unknown(error.to_string()),
    }
}
