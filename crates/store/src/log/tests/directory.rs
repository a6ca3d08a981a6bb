//! openraft's conformance suite over the log and the directory together.
//!
//! The suite hands one node's snapshot straight to another. Between nodes it would travel, so here it
//! carries a handle on the node it is from, and is sent and received on the way in.

use std::io;
use std::sync::Arc;

use futures_util::Stream;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{OptionalSend, RaftSnapshotBuilder, StorageError};
use tempfile::TempDir;

use crate::disk::DataDir;
use crate::log::{LogStore, PurgeGate};
use crate::machine::{Handle, Machine, MachineOptions};
use crate::raft::{BerthConfig, LogId, Snapshot, SnapshotHandle, SnapshotMeta, StoredMembership};

type Builder = <Machine as RaftStateMachine<BerthConfig>>::SnapshotBuilder;
type ShippedSnapshot = openraft::type_config::alias::SnapshotOf<BerthConfig, Shipped>;

/// A snapshot and where it is from.
struct Shipped {
    handle: SnapshotHandle,
    from: Handle,
}

struct Directory {
    machine: Machine,
    handle: Handle,
}

struct DirectoryBuilder {
    builder: Builder,
    handle: Handle,
}

struct Node;

impl StoreBuilder<BerthConfig, LogStore, Directory, TempDir> for Node {
    async fn build(&self) -> Result<(TempDir, LogStore, Directory), StorageError<BerthConfig>> {
        let home = tempfile::tempdir().unwrap();
        let dir = Arc::new(DataDir::lock(&home.path().join("data")).unwrap());
        let log = LogStore::open(&dir.path().join("log"), PurgeGate::open()).unwrap();
        let (machine, _) = Machine::open(&dir, &log, MachineOptions::default()).unwrap();
        let handle = machine.handle();
        Ok((home, log, Directory { machine, handle }))
    }
}

#[test]
fn the_log_and_the_directory_pass_the_conformance_suite() {
    // Installing a snapshot blocks in place, which only several threads allow.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(Node)).unwrap();
}

impl Directory {
    fn shipped(&self, snapshot: Snapshot) -> ShippedSnapshot {
        ship(&self.handle, snapshot)
    }

    /// Sends a checkpoint from its node and stages it here.
    fn carry(&self, shipped: &Shipped) -> SnapshotHandle {
        let mut reader = shipped.from.send_snapshot(&shipped.handle).unwrap();
        let mut receiving = self.handle.receive_snapshot().unwrap();
        while let Some(chunk) = reader.next_chunk().unwrap() {
            receiving.write(chunk).unwrap();
        }
        receiving.write(reader.manifest().encode()).unwrap();
        receiving.finish().unwrap()
    }
}

impl RaftStateMachine<BerthConfig> for Directory {
    type SnapshotData = Shipped;
    type SnapshotBuilder = DirectoryBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.machine.applied_state().await
    }

    async fn apply<Entries>(&mut self, entries: Entries) -> io::Result<()>
    where
        Entries: Stream<Item = io::Result<EntryResponder<BerthConfig>>> + Unpin + OptionalSend,
    {
        self.machine.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> DirectoryBuilder {
        DirectoryBuilder { builder: self.machine.get_snapshot_builder().await, handle: self.handle.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, shipped: Shipped) -> io::Result<()> {
        let received = self.carry(&shipped);
        self.machine.install_snapshot(meta, received).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<ShippedSnapshot>> {
        let current = self.machine.get_current_snapshot().await?;
        Ok(current.map(|snapshot| self.shipped(snapshot)))
    }
}

impl RaftSnapshotBuilder<BerthConfig> for DirectoryBuilder {
    type SnapshotData = Shipped;

    async fn build_snapshot(&mut self) -> io::Result<ShippedSnapshot> {
        let snapshot = self.builder.build_snapshot().await?;
        Ok(ship(&self.handle, snapshot))
    }
}

fn ship(from: &Handle, snapshot: Snapshot) -> ShippedSnapshot {
    let Snapshot { meta, snapshot: handle } = snapshot;
    ShippedSnapshot { meta, snapshot: Shipped { handle, from: from.clone() } }
}
