//! What Raft needs to know of the state machine, and of the clock.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_store::raft::{LogId, SnapshotHandle, SnapshotMeta};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::watch;
use uuid::Uuid;

/// Bytes of one part of a snapshot; peers refuse more.
pub const SNAPSHOT_PART_BYTES_MAX: usize = 1024 * 1024;

/// The data of a snapshot, in parts of at most [`SNAPSHOT_PART_BYTES_MAX`].
pub type SnapshotSource = BoxStream<'static, io::Result<Bytes>>;

/// The read side of the state machine.
///
/// To keep Raft safe an implementation sees to these:
/// - [`Self::applied`] moves after the state at that position can be read, never before;
/// - the other answers are those of the state at that position or a later one;
/// - a sink's `finish` answers only when the received state is complete, verified and synced.
pub trait MachineView: Send + Sync + 'static {
    /// The position of the state that readers see, followed as it moves.
    fn applied(&self) -> watch::Receiver<Option<LogId>>;

    /// The cluster, once its birth entry is applied.
    fn cluster_id(&self) -> Option<Uuid>;

    /// The data directory that the cluster knows a node by.
    fn incarnation_of(&self, node_id: u64) -> Option<Uuid>;

    /// The node that a data directory was admitted as.
    fn node_of(&self, incarnation: Uuid) -> Option<u64>;

    /// The highest stamp applied, in Unix milliseconds.
    fn stamp_ms(&self) -> u64;

    /// Opens a snapshot for sending.
    fn open_snapshot(&self, handle: &SnapshotHandle) -> BoxFuture<'static, io::Result<SnapshotSource>>;

    /// The last completed checkpoint, for a peer that lost its own; `None` before the first.
    fn last_snapshot(&self) -> BoxFuture<'static, io::Result<Option<(SnapshotMeta, SnapshotHandle)>>>;

    /// Prepares to receive a snapshot. Dropping the sink unfinished leaves nothing behind.
    fn receive_snapshot(&self, meta: &SnapshotMeta) -> BoxFuture<'static, io::Result<Box<dyn SnapshotSink>>>;
}

/// Where a received snapshot goes.
pub trait SnapshotSink: Send {
    /// Takes the next part.
    fn write(&mut self, part: Bytes) -> BoxFuture<'_, io::Result<()>>;

    /// Verifies and syncs what was written.
    fn finish(self: Box<Self>) -> BoxFuture<'static, io::Result<SnapshotHandle>>;
}

/// The wall clock, injected so that a test or a simulation can set it.
pub trait Clock: Send + Sync + 'static {
    /// Unix milliseconds now.
    fn now_ms(&self) -> u64;

    /// Waits until so much time has passed by this clock.
    fn sleep(&self, time: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(time))
    }
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}
