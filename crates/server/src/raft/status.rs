//! Raft as a node sees it, for people and for metrics.

use std::time::Duration;

use berth_proto::error::LeaderHint;
use berth_store::raft::{BerthConfig, BerthNode, LogId};
use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, Raft, ServerState};

use super::peer_service::Machine;

/// Raft as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// The node's ID.
    pub id: u64,
    /// Whether it leads.
    pub leads: bool,
    /// Who leads, if known.
    pub leader: Option<u64>,
    /// The term of its vote.
    pub term: u64,
    /// The last entry in its log.
    pub last_index: Option<u64>,
    /// The last entry that it knows to be committed.
    pub committed: Option<LogId>,
    /// The last entry that it has applied.
    pub applied: Option<LogId>,
    /// The last entry in its snapshot.
    pub snapshot: Option<LogId>,
    /// The last entry that is gone from its log.
    pub purged: Option<LogId>,
    /// How long ago a quorum answered it, while it leads; zero where it is the only voter.
    pub quorum_age: Option<Duration>,
    /// Everybody in the cluster.
    pub members: Vec<MemberStatus>,
}

impl NodeStatus {
    /// Whether it leads, and no quorum has answered it for longer than this.
    #[must_use]
    pub fn is_silent_for(&self, silence_max: Duration) -> bool {
        self.leads && self.quorum_age.is_none_or(|age| age > silence_max)
    }
}

/// A leader as callers are told it: clients reach it at its client address.
#[must_use]
pub fn leader_hint(node_id: u64, node: &BerthNode) -> LeaderHint {
    LeaderHint { node_id, name: node.name.clone(), address: node.client_addr.clone() }
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its ID.
    pub id: u64,
    /// Its name and addresses.
    pub node: BerthNode,
    /// Whether it votes.
    pub voter: bool,
    /// The last entry that the leader knows it to have; only the leader knows.
    pub matched: Option<LogId>,
    /// How long ago it answered the leader; only the leader knows, and not of itself.
    pub heard: Option<Duration>,
}

impl NodeStatus {
    /// What `raft` tells now, as the node `id`.
    #[must_use]
    pub fn of<SM: Machine>(id: u64, raft: &Raft<BerthConfig, SM>) -> Self {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: std::collections::BTreeSet<u64> = membership.voter_ids().collect();
        let leads = metrics.state == ServerState::Leader;
        let is_quorum = voters.len() == 1 && voters.contains(&id);
        let quorum_age = match &metrics.last_quorum_acked {
            // Nobody is asked, so nobody answers.
            _ if is_quorum => Some(Duration::ZERO),
            acked => acked.as_ref().map(|at| at.elapsed()),
        };
        Self {
            id,
            leads,
            leader: metrics.current_leader,
            term: metrics.current_term,
            last_index: metrics.last_log_index,
            committed: metrics.local_committed,
            applied: metrics.last_applied,
            snapshot: metrics.snapshot,
            purged: metrics.purged,
            quorum_age: quorum_age.filter(|_| leads),
            members: membership
                .nodes()
                .map(|(member, node)| MemberStatus {
                    id: *member,
                    node: node.clone(),
                    voter: voters.contains(member),
                    heard: metrics
                        .heartbeat
                        .as_ref()
                        .filter(|_| *member != id)
                        .and_then(|all| all.get(member)?.as_ref())
                        .map(|at| at.elapsed()),
                    matched: metrics.replication.as_ref().and_then(|all| all.get(member)).copied().flatten(),
                })
                .collect(),
        }
    }
}
