//! The directory as the edge sees it: reads at an asked freshness, and proposals.
//!
//! A read is resolved to one [`Snapshot`] here, before any handler touches data; a handler then answers from that
//! snapshot alone. A write is encoded, grouped, replicated, and answered with what the state machine decided.

mod pins;
mod serving;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use berth_core::{
    Command, Decision, Outcome, Proposal, Rejection, RequestId, Revision, View, decide, misplaced_secret,
};
use berth_proto::ReadToken;
use berth_proto::convert::Consistency;
use berth_proto::disk;
use berth_proto::error::{ApiError, LeaderHint, reason_of_rejection};
use berth_store::machine::{Machine, Position, Question, Reader, Snapshot};
use tonic::Code;

pub use pins::{PINS_MAX, Pinned, Pins};
pub use serving::{Serving, State};

use crate::metrics::WorkMetrics;
use crate::raft::{Clock, RaftNode, ReadError, Role, WriteError, leader_hint};

/// How long a read waits for a replica to reach its token. Longer, and asking another node is better.
const TOKEN_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a write waits for its outcome where the caller set no deadline.
const WRITE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Reads and proposals of one node. Cheap to clone.
#[derive(Clone)]
pub struct Directory {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeName,
    reader: Reader,
    raft: Arc<RaftNode<Machine>>,
    serving: Serving,
    pins: Pins,
    clock: Arc<dyn Clock>,
    space: SpaceGate,
    work: Arc<WorkMetrics>,
}

/// What answers say of the node that gave them.
#[derive(Debug, Clone)]
pub struct NodeName {
    /// Its ID in the cluster.
    pub id: u64,
    /// Its name.
    pub name: String,
}

/// What [`Directory::new`] joins.
pub struct Parts {
    /// Who answers.
    pub node: NodeName,
    /// The state machine's read side.
    pub reader: Reader,
    /// Confirms reads and takes writes.
    pub raft: Arc<RaftNode<Machine>>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Whether the disk has room.
    pub space: SpaceGate,
    /// Counts what is done for callers.
    pub work: Arc<WorkMetrics>,
}

/// A revision to answer from, and how fresh it is.
#[derive(Clone)]
pub struct Fresh {
    /// The directory at one revision.
    pub snapshot: Snapshot,
    /// The state is not older than this.
    pub age_bound: Duration,
    /// Whether this node led.
    pub role: Role,
}

/// Free bytes of the data directory's disk, and what writes need. Shared with whoever measures it.
#[derive(Debug, Clone, Default)]
pub struct SpaceGate {
    free_and_needed: Arc<(AtomicU64, AtomicU64)>,
}

impl SpaceGate {
    /// Tells what was measured.
    pub fn set(&self, free_bytes: u64, needed_bytes: u64) {
        self.free_and_needed.0.store(free_bytes, Ordering::Relaxed);
        self.free_and_needed.1.store(needed_bytes, Ordering::Relaxed);
    }

    /// Refuses what grows the directory while the disk is nearly full; removals make room and always pass.
    fn check(&self, command: &Command) -> Result<(), ApiError> {
        let free_bytes = self.free_and_needed.0.load(Ordering::Relaxed);
        let needed_bytes = self.free_and_needed.1.load(Ordering::Relaxed);
        if free_bytes < needed_bytes && !matches!(command, Command::Remove(_)) {
            return Err(ApiError::DiskFull { free_bytes, needed_bytes });
        }
        Ok(())
    }
}

impl Directory {
    /// Joins the parts.
    pub fn new(parts: Parts) -> Self {
        let Parts { node, reader, raft, clock, space, work } = parts;
        let (serving, pins) = (Serving::default(), Pins::default());
        let inner = Inner { node, reader, raft, serving, pins, clock, space, work };
        Self { inner: Arc::new(inner) }
    }

    /// The node that answers.
    pub fn node(&self) -> &NodeName {
        &self.inner.node
    }

    /// Counts what is done for callers: commands are counted here, lookups by those who answer them.
    pub fn work(&self) -> &WorkMetrics {
        &self.inner.work
    }

    /// Whether reads and writes are served.
    pub fn serving(&self) -> &Serving {
        &self.inner.serving
    }

    /// Revisions held for listings and exports.
    pub fn pins(&self) -> &Pins {
        &self.inner.pins
    }

    /// Where the state machine stands.
    pub fn position(&self) -> Position {
        *self.inner.reader.position().borrow()
    }

    /// The newest revision of this node, whatever its age: for metrics and status only.
    pub fn newest(&self) -> Snapshot {
        self.inner.reader.snapshot()
    }

    /// The leader as this node knows it.
    pub fn leader(&self) -> Option<LeaderHint> {
        self.inner.raft.leader().map(|(node_id, node)| leader_hint(node_id, &node))
    }

    /// What this node is in its cluster now.
    pub fn role(&self) -> Role {
        self.inner.raft.role()
    }

    /// Commands on their way, and their bytes.
    pub fn writes_in_flight(&self) -> (usize, usize) {
        self.inner.raft.in_flight()
    }

    /// A revision as fresh as asked for.
    ///
    /// # Errors
    /// [`ApiError`]: no quorum, the replica is behind, a token of another cluster, the node starts or stops.
    pub async fn read(&self, consistency: Consistency) -> Result<Fresh, ApiError> {
        match consistency {
            Consistency::Linearizable => self.barrier().await,
            Consistency::Local => {
                self.inner.serving.check()?;
                Ok(self.fresh())
            }
            Consistency::Bounded(age_max) => {
                self.inner.serving.check()?;
                let fresh = self.fresh();
                // A barrier makes any replica fresh; without one there is nothing to wait for.
                if fresh.age_bound <= age_max { Ok(fresh) } else { self.barrier().await }
            }
            Consistency::AtLeast(token) => {
                self.inner.serving.check()?;
                self.reach(token).await
            }
        }
    }

    /// Looks for something in a revision as fresh as asked for. That there is no such thing is said only of a state
    /// that a quorum confirmed: an older one may merely not have it yet.
    ///
    /// # Errors
    /// As [`Directory::read`], and what `find` says of the last revision it was shown.
    pub async fn find<T>(
        &self,
        consistency: Consistency,
        find: impl Fn(&Snapshot) -> Result<T, ApiError>,
    ) -> Result<(Fresh, T), ApiError> {
        let fresh = self.read(consistency).await?;
        match find(&fresh.snapshot) {
            Err(error) if consistency != Consistency::Linearizable && error.code() == Code::NotFound => {
                let confirmed = self.barrier().await?;
                let found = find(&confirmed.snapshot)?;
                Ok((confirmed, found))
            }
            found => found.map(|found| (fresh, found)),
        }
    }

    /// Passes one read-index barrier.
    ///
    /// # Errors
    /// [`ApiError`] where no quorum confirms it.
    pub async fn barrier(&self) -> Result<Fresh, ApiError> {
        #[cfg(berth_break = "read_index")]
        {
            self.inner.serving.passed_barrier(self.inner.serving.installs());
            Ok(self.fresh())
        }
        #[cfg(not(berth_break = "read_index"))]
        {
            let installs = self.inner.serving.installs();
            let point = self.inner.raft.confirm_read().await.map_err(|e| self.read_error(e))?;
            self.inner.serving.passed_barrier(installs);
            let snapshot = self.inner.reader.snapshot();
            Ok(Fresh { snapshot, age_bound: point.sent_at.elapsed(), role: point.role })
        }
    }

    async fn reach(&self, token: ReadToken) -> Result<Fresh, ApiError> {
        let cluster = self.inner.reader.snapshot().cluster();
        let Some(cluster) = cluster else {
            return Err(ApiError::NotServing { state: "it belongs to no cluster yet".to_owned() });
        };
        if cluster.id != token.cluster {
            return Err(ApiError::WrongCluster {
                asked: token.cluster.to_string(),
                actual: cluster.id.to_string(),
            });
        }
        if cluster.restore_epoch != token.restore_epoch {
            let (asked, actual) = (token.restore_epoch.into(), cluster.restore_epoch.into());
            return Err(ApiError::TokenBeforeRestore { asked, actual });
        }
        let mut position = self.inner.reader.position();
        let reached =
            tokio::time::timeout(TOKEN_WAIT_MAX, position.wait_for(|p| p.revision >= token.revision)).await;
        match reached {
            Ok(Ok(_)) => Ok(self.fresh()),
            Ok(Err(_)) => Err(stopping()),
            Err(_) => Err(ApiError::ReplicaBehind {
                asked: format!("revision {}", token.revision),
                actual: format!("revision {}", self.inner.reader.position().borrow().revision),
            }),
        }
    }

    /// What there is, with its age.
    fn fresh(&self) -> Fresh {
        let as_of = self.inner.raft.fresh_as_of();
        // The age is taken before the snapshot: a snapshot is never older than its bound says.
        let snapshot = self.inner.reader.snapshot();
        let age_bound = as_of.map_or(Duration::MAX, |at: Instant| at.elapsed());
        Fresh { snapshot, age_bound, role: self.role() }
    }

    /// Proposes a change and waits for its outcome; the revision it was made at comes with it.
    ///
    /// The command goes on even if the caller stops waiting.
    ///
    /// # Errors
    /// [`ApiError`]: the refusal, a hint to the leader, no quorum, overload, or an unknown outcome.
    pub async fn propose(&self, proposal: Proposal) -> Result<Outcome, ApiError> {
        self.try_propose(proposal).await?.map_err(ApiError::from)
    }

    /// As [`Directory::propose`], with the whole refusal: an [`ApiError`] tells the first items of a batch only.
    ///
    /// # Errors
    /// [`ApiError`]: a hint to the leader, no quorum, overload, or an unknown outcome.
    pub async fn try_propose(&self, proposal: Proposal) -> Result<Result<Outcome, Rejection>, ApiError> {
        let devices = devices_of(&proposal.command);
        let proposed = self.commit(proposal).await;
        match &proposed {
            Ok(Ok(_)) => self.inner.work.write_accepted(devices),
            Ok(Err(rejection)) => self.inner.work.write_refused(reason_of_rejection(rejection)),
            Err(error) => self.inner.work.write_refused(error.reason()),
        }
        proposed
    }

    async fn commit(&self, proposal: Proposal) -> Result<Result<Outcome, Rejection>, ApiError> {
        if let Err(unborn) = self.check_born() {
            return match self.inner.raft.leader() {
                Some((id, node)) if id != self.inner.node.id => {
                    Err(ApiError::NotLeader { leader: Some(leader_hint(id, &node)) })
                }
                _ => Err(unborn),
            };
        }
        if let Some(refused) = misplaced_secret(&proposal.command) {
            return Ok(Err(refused));
        }
        self.inner.space.check(&proposal.command)?;
        let request_id = proposal.request_id;
        let bytes = disk::encode_proposal(&proposal).map_err(|e| ApiError::invalid("request", e))?;
        // A handler that is dropped gives up waiting; the grouper has the command by then and sees it through.
        let committed = match tokio::time::timeout(WRITE_WAIT_MAX, self.inner.raft.propose(bytes)).await {
            Ok(Ok(committed)) => committed,
            Ok(Err(error)) => return Err(self.write_error(error, request_id)),
            Err(_) => return Err(unknown(request_id, "the deadline passed", true)),
        };
        Ok(committed.result)
    }

    /// Refuses where this node neither takes writes nor knows who does.
    ///
    /// # Errors
    /// [`ApiError`]: the node stops, the cluster is not born yet, no leader is known, or this node leads and has lost
    /// its quorum.
    pub fn check_writes(&self) -> Result<(), ApiError> {
        if *self.inner.serving.watch().borrow() == State::Stopping {
            return Err(stopping());
        }
        self.check_born()?;
        match self.inner.raft.leader() {
            Some(_) if self.inner.raft.lacks_quorum() => Err(leads_alone()),
            Some(_) => Ok(()),
            None => Err(ApiError::NoQuorum { cause: "no leader is known".to_owned() }),
        }
    }

    /// The birth of the cluster is the first normal entry of its log: nothing is proposed before it is applied here.
    fn check_born(&self) -> Result<(), ApiError> {
        match self.inner.reader.snapshot().cluster() {
            Some(_) => Ok(()),
            None => Err(ApiError::NotServing { state: "the cluster is being formed".to_owned() }),
        }
    }

    /// Decides a proposal on a fresh revision without writing anything.
    ///
    /// # Errors
    /// As [`Directory::propose`], save that nothing is ever in doubt.
    pub async fn dry_run(&self, proposal: Proposal) -> Result<(Fresh, Outcome), ApiError> {
        let (fresh, decided) = self.try_dry_run(proposal).await?;
        decided.map_err(ApiError::from).map(|outcome| (fresh, outcome))
    }

    /// As [`Directory::dry_run`], with the whole refusal.
    ///
    /// # Errors
    /// [`ApiError`] where no fresh revision is to be had.
    pub async fn try_dry_run(
        &self,
        proposal: Proposal,
    ) -> Result<(Fresh, Result<Outcome, Rejection>), ApiError> {
        let fresh = self.barrier().await?;
        let bytes = disk::encode_proposal(&proposal).map_err(|e| ApiError::invalid("request", e))?;
        // Through its bytes and back: the payload hash of a repeat is computed from them.
        let proposal = disk::decode_proposal(&bytes).map_err(|e| ApiError::invalid("request", e))?;
        let meta = fresh.snapshot.meta();
        let now = meta.stamped.max(berth_core::Timestamp(self.inner.clock.now_ms()));
        let question = DryRun { proposal: &proposal, revision: meta.revision.next(), now };
        let decided = fresh.snapshot.view(question).map_err(|damage| data_loss(&damage))?;
        Ok((fresh, decided))
    }

    /// The token of a revision.
    pub fn token(&self, snapshot: &Snapshot, revision: Revision) -> Option<ReadToken> {
        let cluster = snapshot.cluster()?;
        Some(ReadToken { cluster: cluster.id, restore_epoch: cluster.restore_epoch, revision })
    }

    fn read_error(&self, error: ReadError) -> ApiError {
        match error {
            ReadError::NoLeader => ApiError::NoQuorum { cause: "no leader is known".to_owned() },
            ReadError::NoQuorum(cause) => ApiError::NoQuorum { cause },
            ReadError::LeaderUnreachable { leader, why } => ApiError::NoQuorum {
                cause: format!("the leader `{}` could not be asked: {why}", leader.name),
            },
            ReadError::Behind { wanted } => ApiError::ReplicaBehind {
                asked: format!("log index {wanted}"),
                actual: format!("log index {}", self.position().applied.map_or(0, |id| id.index())),
            },
            ReadError::Overloaded => ApiError::Overloaded {
                what: "reads wait for a confirmation".to_owned(),
                limit: crate::raft::read_index::READ_WAITERS_MAX as u64,
                retry_after: Duration::from_millis(20),
            },
            ReadError::Stopped => stopping(),
        }
    }

    fn write_error(&self, error: WriteError, request_id: Option<RequestId>) -> ApiError {
        match error {
            WriteError::NotLeader { leader } => {
                let leader = leader.or_else(|| self.inner.raft.leader());
                ApiError::NotLeader { leader: leader.map(|(id, node)| leader_hint(id, &node)) }
            }
            WriteError::NoQuorum => leads_alone(),
            WriteError::Overloaded => ApiError::Overloaded {
                what: "commands are on their way".to_owned(),
                limit: crate::raft::grouper::IN_FLIGHT_COMMANDS_MAX as u64,
                retry_after: Duration::from_millis(50),
            },
            WriteError::TooLarge(bytes) => ApiError::invalid(
                "request",
                format_args!("the command takes {bytes} bytes in the log, more than one entry may; split it"),
            ),
            WriteError::Stopped => stopping(),
            WriteError::Unknown(cause) => unknown(request_id, &cause, false),
        }
    }
}

/// Devices that a command names.
fn devices_of(command: &Command) -> u64 {
    match command {
        Command::Assign(_) | Command::Remove(_) => 1,
        Command::BatchAssign(assigns) => assigns.len() as u64,
        Command::Topology(_) => 0,
    }
}

/// Decides a proposal on a view.
struct DryRun<'a> {
    proposal: &'a Proposal,
    revision: Revision,
    now: berth_core::Timestamp,
}

impl Question for DryRun<'_> {
    type Answer = Result<Outcome, Rejection>;

    fn ask(self, view: &impl View) -> Self::Answer {
        match decide(view, self.proposal, self.revision, self.now) {
            Decision::Accepted { outcome, .. } | Decision::Repeated(outcome) => Ok(outcome),
            Decision::Refused(rejection) => Err(rejection),
        }
    }
}

/// Damage met while answering: logged once under a correlation ID, which is all the caller is told.
pub fn data_loss(damage: &dyn std::error::Error) -> ApiError {
    let correlation_id = uuid::Uuid::now_v7().to_string();
    tracing::error!(%correlation_id, damage = %damage, "data is damaged; rebuild this node from its peers");
    ApiError::DataLoss { correlation_id }
}

fn leads_alone() -> ApiError {
    ApiError::NoQuorum { cause: "the leader does not hear from a quorum".to_owned() }
}

fn stopping() -> ApiError {
    ApiError::NotServing { state: "it is stopping".to_owned() }
}

fn unknown(request_id: Option<RequestId>, cause: &str, timed_out: bool) -> ApiError {
    ApiError::OutcomeUnknown {
        request_id: request_id.map(|id| id.to_string()),
        cause: cause.to_owned(),
        timed_out,
    }
}
