//! The types that Raft is run with, and the names by which the rest of the workspace calls them.
//!
//! openraft is generic over what it replicates. This module fixes those choices once:
//! one leader per term, log IDs that are `(term, index)`, node IDs that come from the log,
//! and payloads that are owned bytes.

pub mod codec;

use std::fmt;
use std::path::PathBuf;

use berth_core::{Outcome, Rejection};
use openraft::impls::leader_id_std::LeaderId as StdLeaderId;
use openraft::type_config::alias::{
    CommittedLeaderIdOf, EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf,
};

pub use crate::payload::Payload;

openraft::declare_raft_types!(
    /// openraft's view of Berth: what an entry holds, what applying it answers, who the nodes are.
    pub BerthConfig:
        D = Payload,
        R = Applied,
        NodeId = u64,
        Node = BerthNode,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

/// A position in the Raft log: `(term, index)`.
pub type LogId = LogIdOf<BerthConfig>;
/// One entry of the Raft log.
pub type Entry = EntryOf<BerthConfig>;
/// What an entry carries: nothing, a [`Payload`], or a membership.
pub type EntryPayload = openraft::type_config::alias::PayloadOf<BerthConfig>;
/// A vote: the leader voted for, and whether a quorum granted it.
pub type Vote = VoteOf<BerthConfig>;
/// The leader part of a vote.
pub type LeaderId = StdLeaderId<u64, u64>;
/// Voters and learners with their addresses.
pub type Membership = openraft::Membership<u64, BerthNode>;
/// A membership with the position of the entry that set it.
pub type StoredMembership = StoredMembershipOf<BerthConfig>;
/// Position and membership that a snapshot stands for.
pub type SnapshotMeta = SnapshotMetaOf<BerthConfig>;
/// A snapshot as openraft hands it around: its meta and a [`SnapshotHandle`].
pub type Snapshot = SnapshotOf<BerthConfig, SnapshotHandle>;

/// Builds a log ID from its two numbers.
#[must_use]
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderIdOf::<BerthConfig>::new(term), index)
}

/// A node of the cluster as the membership records it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BerthNode {
    /// The name that an operator gave it, unique in the cluster.
    pub name: String,
    /// Where its peers reach it, as `host:port`.
    pub peer_addr: String,
    /// Where clients reach it, as `host:port`; handed out as the leader hint.
    pub client_addr: String,
}

impl fmt::Display for BerthNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (peers {}, clients {})", self.name, self.peer_addr, self.client_addr)
    }
}

/// What one command of an entry came to: an outcome, or a refusal with its reason.
pub type CommandResult = Result<Outcome, Rejection>;

/// What applying one entry answers: one result per command, in the order of the entry.
///
/// Entries without commands (blank, membership, genesis, admit) answer with no results.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// One result per command.
    pub results: Vec<CommandResult>,
}

/// Where the data of a snapshot is. It names files; it never holds pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotHandle {
    /// A completed checkpoint of this node, to be streamed from its pages.
    Checkpoint {
        /// The generation of its manifest.
        generation: u64,
    },
    /// A snapshot received from a peer: complete, verified and synced, ready to be adopted.
    Received {
        /// The directory it was staged in.
        dir: PathBuf,
    },
}
