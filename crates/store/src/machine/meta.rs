//! What the directory holds beside its rows: decoded topology, counters, positions.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_core::{HubNo, LabelSetNo, Revision, ScopeNo, Seats, StampNo, Timestamp, Topology};
use uuid::Uuid;

use super::counts::Counts;
use super::labels::LabelSets;
use crate::raft::{LogId, StoredMembership};

/// Which cluster this is, told by its Genesis entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    /// Random at birth.
    pub id: Uuid,
    /// Raised by every restore from a backup, so that tokens from before it are told apart.
    pub restore_epoch: u32,
}

/// A node that the cluster has admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Identity of its data directory.
    pub incarnation: Uuid,
    /// Its name.
    pub name: String,
    /// Where peers reach it.
    pub peer_addr: String,
    /// Where clients reach it.
    pub client_addr: String,
}

/// One revision of everything but the rows. A clone shares all that is large.
#[derive(Debug, Clone, Default)]
pub struct Meta {
    /// Position of the last applied entry.
    pub applied: Option<LogId>,
    /// The membership as of `applied`.
    pub membership: StoredMembership,
    /// Revision of the last accepted command.
    pub revision: Revision,
    /// The cluster, once Genesis is applied.
    pub cluster: Option<Cluster>,
    /// The highest stamp applied.
    pub stamped: Timestamp,
    /// Stamps, hubs, scopes, routes.
    pub topology: Arc<Topology>,
    /// Nodes by ID.
    pub nodes: Arc<BTreeMap<u64, NodeRecord>>,
    /// Newest time among the request IDs of forgotten replies.
    pub forgotten_until: Option<Timestamp>,
    pub(crate) label_sets: Arc<LabelSets>,
    pub(crate) counters: Counters,
    /// Sequence numbers of remembered replies: first kept, and next to give.
    pub(crate) replies: std::ops::Range<u64>,
    pub(crate) replies_max: u64,
}

/// Devices by hub, stamp, scope and label set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    pub(crate) hubs: Counts,
    pub(crate) stamps: Counts,
    pub(crate) scopes: Counts,
    pub(crate) label_sets: Counts,
}

impl Counters {
    /// True where every count is the same, whatever room is kept for numbers without devices.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        let pairs = [
            (&self.hubs, &other.hubs),
            (&self.stamps, &other.stamps),
            (&self.scopes, &other.scopes),
            (&self.label_sets, &other.label_sets),
        ];
        pairs.into_iter().all(|(a, b)| a.iter().eq(b.iter()))
    }
}

impl Meta {
    pub(crate) fn new(replies_max: u64) -> Self {
        Self { replies_max, ..Self::default() }
    }

    pub(crate) fn hub_seats(&self, hub: HubNo) -> Seats {
        Seats { devices: self.counters.hubs.get(hub.0 as usize), reserved: 0 }
    }

    pub(crate) fn stamp_seats(&self, stamp: StampNo) -> Seats {
        Seats { devices: self.counters.stamps.get(stamp.0 as usize), reserved: 0 }
    }

    pub(crate) fn scope_devices(&self, scope: ScopeNo) -> u64 {
        self.counters.scopes.get(usize::from(scope.0))
    }

    pub(crate) fn label_set_devices(&self, no: LabelSetNo) -> u64 {
        self.counters.label_sets.get(usize::from(no.0))
    }

    /// How many replies are remembered.
    pub fn reply_count(&self) -> u64 {
        self.replies.end - self.replies.start
    }
}
