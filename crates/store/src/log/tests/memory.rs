//! The least state machine that openraft accepts: it counts, in memory.

use std::io;

use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};

use crate::raft::{
    Applied, BerthConfig, EntryPayload, LogId, Snapshot, SnapshotHandle, SnapshotMeta, StoredMembership,
};

/// Remembers its position, its membership and its last snapshot.
#[derive(Clone, Default)]
pub struct MemoryMachine {
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshot: std::sync::Arc<parking_lot::Mutex<Option<SnapshotMeta>>>,
}

impl RaftStateMachine<BerthConfig> for MemoryMachine {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Entries>(&mut self, mut entries: Entries) -> io::Result<()>
    where
        Entries: Stream<Item = io::Result<EntryResponder<BerthConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(Applied::default());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, _: SnapshotHandle) -> io::Result<()> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        *self.snapshot.lock() = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.snapshot.lock().clone().map(handle))
    }
}

impl RaftSnapshotBuilder<BerthConfig> for MemoryMachine {
    type SnapshotData = SnapshotHandle;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        *self.snapshot.lock() = Some(meta.clone());
        Ok(handle(meta))
    }
}

fn handle(meta: SnapshotMeta) -> Snapshot {
    Snapshot { meta, snapshot: SnapshotHandle::Checkpoint { generation: 0 } }
}
