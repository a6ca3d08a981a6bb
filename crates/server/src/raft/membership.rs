//! Who belongs to the cluster: admitting, promoting, removing, handing over. One change at a time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use berth_proto::error::ApiError;
use berth_store::payload::Admit;
use berth_store::raft::{BerthConfig, BerthNode, LogId, Payload};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, Raft, ServerState};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::machine::{Clock, MachineView};
use super::peer_service::Machine;
use super::read_index::reached;
use super::status::leader_hint;

/// Entries that a learner may lag when it becomes a voter: it must not hold up writes by catching up.
const PROMOTE_LAG_MAX: u64 = 64;
/// How long one change of the membership may take to be agreed on.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long handing over may take: a round of votes and two syncs.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a change waits for the change before it.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);
/// Nodes of a cluster, learners included.
pub const NODES_MAX: usize = 32;

/// A node that asks to be admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applicant {
    /// The identity of its data directory.
    pub incarnation: Uuid,
    /// Its name and addresses.
    pub node: BerthNode,
}

/// Why the membership was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Another node leads.
    #[error("this node does not lead; {}", leader.as_ref().map_or("an election is under way, try again shortly".to_owned(), |(_, node)| format!("ask the leader at {}", node.client_addr)))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<(u64, BerthNode)>,
    },
    /// Another change is under way, or the cluster is still being formed.
    #[error("another change of the membership is under way: {0}; try again shortly")]
    Busy(String),
    /// No such node.
    #[error("the cluster has no node {0}; `berth cluster status` lists its nodes")]
    UnknownNode(u64),
    /// The node is another one than was meant.
    #[error(
        "the node at {peer_addr} says that its {what} is {actual:?}, not {asked:?}: nothing was changed; give what it says, or leave it out"
    )]
    OtherNode {
        /// Where it was asked.
        peer_addr: String,
        /// Which field.
        what: &'static str,
        /// What was meant.
        asked: String,
        /// What it says.
        actual: String,
    },
    /// The name is taken.
    #[error(
        "node {id} already has the name {name:?} with another data directory: remove node {id} first, or choose another name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        id: u64,
    },
    /// The node's name or an address is unusable.
    #[error("the joining node's {what} is {value:?}: give a non-empty one of at most 1,024 bytes")]
    Unusable {
        /// Which field.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// There are as many nodes as there may be.
    #[error("the cluster has {NODES_MAX} nodes, the most it may have; remove one first")]
    Full,
    /// The learner has not caught up.
    #[error("node {id} is {lag} entries behind, promote it when it is at most {PROMOTE_LAG_MAX} behind")]
    NotCaughtUp {
        /// The node.
        id: u64,
        /// How far behind it is.
        lag: u64,
    },
    /// A node that has no vote cannot lead.
    #[error("node {0} is a learner: promote it first")]
    NotVoter(u64),
    /// The last voter cannot leave.
    #[error("node {0} is the only voter; a cluster cannot do without")]
    LastVoter(u64),
    /// The hand-over did not happen in time.
    #[error("node {0} did not take over within {secs} s; the leadership may still change", secs = TRANSFER_TIMEOUT.as_secs())]
    NotTakenOver(u64),
    /// The change may have happened or may yet.
    #[error(
        "it is unknown whether the membership was changed ({0}): look at `berth cluster status` before repeating"
    )]
    Unknown(String),
    /// Raft has stopped.
    #[error("this node is stopping; ask another one")]
    Stopped,
}

/// What callers are told, be they clients or peers.
impl From<MembershipError> for ApiError {
    fn from(error: MembershipError) -> Self {
        match &error {
            MembershipError::NotLeader { leader } => {
                Self::NotLeader { leader: leader.as_ref().map(|(id, node)| leader_hint(*id, node)) }
            }
            MembershipError::Busy(cause) => {
                Self::NotServing { state: format!("a change of the membership is under way ({cause})") }
            }
            MembershipError::UnknownNode(id) => Self::NodeUnknown { node_id: *id },
            MembershipError::Stopped => Self::NotServing { state: "it is stopping".to_owned() },
            MembershipError::Unknown(_) | MembershipError::NotTakenOver(_) => {
                Self::OutcomeUnknown { request_id: None, cause: error.to_string(), timed_out: true }
            }
            MembershipError::NameTaken { .. }
            | MembershipError::OtherNode { .. }
            | MembershipError::Unusable { .. }
            | MembershipError::Full
            | MembershipError::NotCaughtUp { .. }
            | MembershipError::NotVoter(_)
            | MembershipError::LastVoter(_) => Self::MembershipRefused { problem: error.to_string() },
        }
    }
}

/// Changes the membership. Clones take turns.
pub struct Membership<SM: Machine> {
    raft: Raft<BerthConfig, SM>,
    view: Arc<dyn MachineView>,
    clock: Arc<dyn Clock>,
    turn: Arc<Mutex<()>>,
}

impl<SM: Machine> Clone for Membership<SM> {
    fn clone(&self) -> Self {
        Self {
            raft: self.raft.clone(),
            view: Arc::clone(&self.view),
            clock: Arc::clone(&self.clock),
            turn: Arc::clone(&self.turn),
        }
    }
}

impl<SM: Machine> Membership<SM> {
    /// Changes the membership of `raft`.
    #[must_use]
    pub fn new(raft: Raft<BerthConfig, SM>, view: Arc<dyn MachineView>, clock: Arc<dyn Clock>) -> Self {
        Self { raft, view, clock, turn: Arc::default() }
    }

    /// Admits a node as a learner, and answers the cluster and the node's ID. Asking again with the same
    /// data directory answers the same ID.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn admit(&self, applicant: Applicant) -> Result<(Uuid, u64), MembershipError> {
        usable(&applicant.node)?;
        let _turn = self.turn().await?;
        self.lead()?;
        let cluster = self
            .view
            .cluster_id()
            .ok_or_else(|| MembershipError::Busy("the cluster is being formed".into()))?;
        let members = self.members();
        if let Some(stranger) = members.nodes.keys().find(|&&id| self.view.incarnation_of(id).is_none()) {
            // IDs of founders are small numbers, those of others log indexes: these must not meet.
            return Err(MembershipError::Busy(format!("founder {stranger} is not known yet")));
        }
        let known = self.view.node_of(applicant.incarnation);
        let namesake =
            members.nodes.iter().find(|(id, node)| node.name == applicant.node.name && Some(**id) != known);
        if let Some((&id, node)) = namesake {
            return Err(MembershipError::NameTaken { name: node.name.clone(), id });
        }
        if known.is_none_or(|id| !members.nodes.contains_key(&id)) && members.nodes.len() >= NODES_MAX {
            return Err(MembershipError::Full);
        }
        let id = match known {
            Some(id) => id,
            None => self.record(None, &applicant).await?.index(),
        };
        if members.nodes.get(&id) != Some(&applicant.node) {
            let change = match members.nodes.contains_key(&id) {
                // Known by other addresses: it has moved.
                true => ChangeMembers::SetNodes([(id, applicant.node)].into()),
                false => ChangeMembers::AddNodes([(id, applicant.node)].into()),
            };
            self.change(change).await?;
        }
        Ok((cluster, id))
    }

    /// Binds a founder's ID to its data directory, if it is not bound yet.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn bind_founder(&self, id: u64, applicant: &Applicant) -> Result<(), MembershipError> {
        let _turn = self.turn().await?;
        if self.view.incarnation_of(id).is_none() {
            self.record(Some(id), applicant).await?;
        }
        Ok(())
    }

    /// Gives a learner that has caught up a vote.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn promote(&self, id: u64) -> Result<(), MembershipError> {
        let _turn = self.turn().await?;
        self.lead()?;
        let members = self.members();
        if members.voters.contains(&id) && !members.joint {
            return Ok(());
        }
        if !members.nodes.contains_key(&id) {
            return Err(MembershipError::UnknownNode(id));
        }
        let lag = self.lag(id);
        if lag > PROMOTE_LAG_MAX {
            return Err(MembershipError::NotCaughtUp { id, lag });
        }
        self.change(ChangeMembers::AddVoterIds([id].into())).await
    }

    /// Removes a node. If it leads it hands over when the removal is agreed on.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        let _turn = self.turn().await?;
        self.lead()?;
        let members = self.members();
        if !members.nodes.contains_key(&id) {
            return Err(MembershipError::UnknownNode(id));
        }
        if !members.voters.contains(&id) {
            return self.change(ChangeMembers::RemoveNodes([id].into())).await;
        }
        if members.voters.len() == 1 {
            return Err(MembershipError::LastVoter(id));
        }
        self.change(ChangeMembers::RemoveVoters([id].into())).await
    }

    /// Hands the leadership to a voter, and returns when it leads.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn transfer(&self, to: u64) -> Result<(), MembershipError> {
        let _turn = self.turn().await?;
        self.lead()?;
        let members = self.members();
        if !members.nodes.contains_key(&to) {
            return Err(MembershipError::UnknownNode(to));
        }
        if !members.voters.contains(&to) {
            return Err(MembershipError::NotVoter(to));
        }
        self.raft.trigger().transfer_leader(to).await.map_err(|_| MembershipError::Stopped)?;
        let taken =
            self.raft.wait(Some(TRANSFER_TIMEOUT)).current_leader(to, "leadership is handed over").await;
        taken.map(drop).map_err(|_| MembershipError::NotTakenOver(to))
    }

    /// Entries that a node is behind the leader, as the leader knows.
    fn lag(&self, id: u64) -> u64 {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.map_or(0, |index| index + 1);
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&id)).copied().flatten();
        last.saturating_sub(matched.map_or(0, |matched| matched.index() + 1))
    }

    fn lead(&self) -> Result<(), MembershipError> {
        let leads = self.raft.metrics().borrow_watched().state == ServerState::Leader;
        let leader = super::peer_service::leader_of(&self.raft);
        if leads { Ok(()) } else { Err(MembershipError::NotLeader { leader }) }
    }

    fn members(&self) -> Members {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        Members {
            nodes: membership.nodes().map(|(id, node)| (*id, node.clone())).collect(),
            voters: membership.voter_ids().collect(),
            joint: membership.get_joint_config().len() > 1,
        }
    }

    async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, MembershipError> {
        tokio::time::timeout(TURN_TIMEOUT, self.turn.lock())
            .await
            .map_err(|_| MembershipError::Busy("an earlier change takes long".into()))
    }

    /// Writes an admission, and returns its position when this node has applied it.
    async fn record(&self, node_id: Option<u64>, applicant: &Applicant) -> Result<LogId, MembershipError> {
        let admit = Admit {
            stamp_ms: self.clock.now_ms().max(self.view.stamp_ms()),
            node_id,
            incarnation: applicant.incarnation,
            name: applicant.node.name.clone(),
            peer_addr: applicant.node.peer_addr.clone(),
            client_addr: applicant.node.client_addr.clone(),
        };
        let payload = Payload::admit(&admit)
            .map_err(|error| MembershipError::Unusable { what: "description", value: error.to_string() })?;
        let written = bounded(self.raft.client_write(payload)).await?.map_err(write_error)?;
        if reached(self.view.applied(), written.log_id).await {
            Ok(written.log_id)
        } else {
            Err(MembershipError::Unknown("the admission is not applied yet".into()))
        }
    }

    /// Ends a change that an earlier leader left half-way.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn finish_change(&self) -> Result<(), MembershipError> {
        let _turn = self.turn().await?;
        self.lead()?;
        if !self.members().joint {
            return Ok(());
        }
        tracing::warn!("a change of the membership was left half-way; finishing it");
        self.change(ChangeMembers::AddVoterIds(BTreeSet::new())).await
    }

    async fn change(&self, change: ChangeMembers<u64, BerthNode>) -> Result<(), MembershipError> {
        let raft = self.raft.clone();
        // A change takes two steps. In a task of its own both are made, though the caller may stop waiting.
        let changing = tokio::spawn(async move { raft.change_membership(change, false).await });
        let changed = bounded(changing).await?.map_err(|_| MembershipError::Stopped)?;
        changed.map(drop).map_err(write_error)
    }
}

struct Members {
    nodes: std::collections::BTreeMap<u64, BerthNode>,
    voters: BTreeSet<u64>,
    /// Whether a change stands half-way, with the quorums of before and after.
    joint: bool,
}

async fn bounded<T>(change: impl Future<Output = T>) -> Result<T, MembershipError> {
    tokio::time::timeout(CHANGE_TIMEOUT, change)
        .await
        .map_err(|_| MembershipError::Unknown(format!("no answer within {} s", CHANGE_TIMEOUT.as_secs())))
}

fn write_error(error: RaftError<BerthConfig, ClientWriteError<BerthConfig>>) -> MembershipError {
    match error {
        RaftError::Fatal(_) => MembershipError::Stopped,
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            MembershipError::NotLeader { leader: forward.leader_id.zip(forward.leader_node) }
        }
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => {
            MembershipError::Unknown("the leadership changed meanwhile".into())
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
            ChangeMembershipError::LearnerNotFound(error) => MembershipError::UnknownNode(error.node_id),
            error => MembershipError::Busy(error.to_string()),
        },
        RaftError::APIError(ClientWriteError::PreconditionFailed(error)) => {
            MembershipError::Busy(error.to_string())
        }
    }
}

fn usable(node: &BerthNode) -> Result<(), MembershipError> {
    let fields =
        [("name", &node.name), ("peer address", &node.peer_addr), ("client address", &node.client_addr)];
    for (what, value) in fields {
        if value.is_empty() || value.len() > 1_024 || value.contains(['\n', '\r']) {
            let value = value.chars().take(80).collect();
            return Err(MembershipError::Unusable { what, value });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;

    /// A node that joins asks again where it is told that it may, and gives up at any other word.
    #[test]
    fn what_passes_is_told_as_unavailable_and_what_stays_as_refused() {
        let node = BerthNode { name: "n2".into(), peer_addr: "p:1".into(), client_addr: "c:1".into() };
        for (error, code) in [
            (MembershipError::NotLeader { leader: Some((2, node)) }, Code::Unavailable),
            (MembershipError::NotLeader { leader: None }, Code::Unavailable),
            (MembershipError::Busy("the cluster is being formed".into()), Code::Unavailable),
            (MembershipError::Stopped, Code::Unavailable),
            (MembershipError::Unknown("no answer within 10 s".into()), Code::DeadlineExceeded),
            (MembershipError::NotTakenOver(2), Code::DeadlineExceeded),
            (MembershipError::UnknownNode(9), Code::NotFound),
            (MembershipError::NameTaken { name: "n2".into(), id: 2 }, Code::FailedPrecondition),
            (MembershipError::Full, Code::FailedPrecondition),
            (MembershipError::LastVoter(1), Code::FailedPrecondition),
        ] {
            let told = ApiError::from(error);
            let status = Status::from(told.clone());
            assert_eq!(status.code(), code, "{status:?}");
            assert_eq!(ApiError::from(&status), told);
        }
    }
}
