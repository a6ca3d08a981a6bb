//! What others need of the machine while openraft owns it: reads, figures, snapshots to send and to receive.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::keys;
use super::meta::Meta;
use super::reader::{Position, Reader};
use super::writer::Writer;
use crate::disk::{
    DataDir, Disk, DiskError, DiskStats, FreeSpace, Scrubbed, SnapshotReader, Staged, Staging,
};
use crate::pages::{Pages, Published};
use crate::raft::{LogId, SnapshotHandle, SnapshotMeta};

/// How long a snapshot may take to be sent: its pages are kept for so long.
const SNAPSHOT_SEND_MAX: Duration = Duration::from_secs(600);

/// What the machine and its handles share.
pub(super) struct Shared {
    pub(super) dir: Arc<DataDir>,
    disk: Disk,
    /// Locked while entries are applied.
    pub(super) writer: Mutex<Writer>,
    published: Published<Meta>,
    position: watch::Sender<Position>,
    applied: watch::Sender<Option<LogId>>,
    checkpointed: watch::Sender<Option<LogId>>,
    checkpoint: Mutex<Option<Checkpointed>>,
    /// The one snapshot that was received and waits to be installed.
    staged: Mutex<Option<(PathBuf, Staged)>>,
    /// Installs begun: a checkpoint of what was there before the newest is not to be completed.
    installs_begun: AtomicU64,
    bytes_applied: AtomicU64,
    bytes_checkpointed: AtomicU64,
}

/// The last completed checkpoint.
#[derive(Clone)]
pub(super) struct Checkpointed {
    pub(super) meta: SnapshotMeta,
    pub(super) generation: u64,
    pub(super) at: Instant,
}

impl Shared {
    pub(super) fn new(dir: Arc<DataDir>, disk: Disk, pages: Pages<Meta>, position: Position) -> Self {
        Self {
            dir,
            disk,
            published: pages.published(),
            writer: Mutex::new(Writer { pages }),
            position: watch::Sender::new(position),
            applied: watch::Sender::new(position.applied),
            checkpointed: watch::Sender::new(None),
            checkpoint: Mutex::new(None),
            staged: Mutex::new(None),
            installs_begun: AtomicU64::new(0),
            bytes_applied: AtomicU64::new(0),
            bytes_checkpointed: AtomicU64::new(0),
        }
    }

    pub(super) fn installs(&self) -> u64 {
        self.position.borrow().installs
    }

    /// Tells that an install begins. The caller holds the lock of the checkpoint writer, as does whoever relies on
    /// [`Shared::installs_begun`].
    pub(super) fn begin_install(&self) {
        self.installs_begun.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn installs_begun(&self) -> u64 {
        self.installs_begun.load(Ordering::Relaxed)
    }

    /// Tells that the root of `position` is published.
    pub(super) fn published(&self, position: Position, bytes: u64) {
        self.bytes_applied.fetch_add(bytes, Ordering::Relaxed);
        self.position.send_replace(position);
        self.applied.send_replace(position.applied);
    }

    pub(super) fn bytes_applied(&self) -> u64 {
        self.bytes_applied.load(Ordering::Relaxed)
    }

    /// Tells that a checkpoint is complete; `bytes` had been applied when its root was taken.
    pub(super) fn completed(&self, meta: SnapshotMeta, generation: u64, bytes: u64) {
        let position = meta.last_log_id;
        *self.checkpoint.lock() = Some(Checkpointed { meta, generation, at: Instant::now() });
        self.bytes_checkpointed.store(bytes, Ordering::Relaxed);
        self.checkpointed.send_replace(position);
    }

    pub(super) fn checkpoint(&self) -> Option<Checkpointed> {
        self.checkpoint.lock().clone()
    }

    /// The received snapshot in `dir`, to be installed.
    pub(super) fn take_staged(&self, dir: &std::path::Path) -> Option<Staged> {
        let mut staged = self.staged.lock();
        match &*staged {
            Some((at, _)) if at == dir => staged.take().map(|(_, staged)| staged),
            _ => None,
        }
    }
}

/// A handle on the machine. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The door for reads.
    pub fn reader(&self) -> Reader {
        Reader::new(self.shared.published.clone(), self.shared.position.subscribe())
    }

    /// The last applied entry, followed as it moves; it moves after the state at it can be read.
    pub fn applied(&self) -> watch::Receiver<Option<LogId>> {
        self.shared.applied.subscribe()
    }

    /// The position of the last completed checkpoint, followed as it moves.
    pub fn checkpointed(&self) -> watch::Receiver<Option<LogId>> {
        self.shared.checkpointed.subscribe()
    }

    /// Payload bytes applied since the root of the last checkpoint was taken.
    pub fn bytes_since_checkpoint(&self) -> u64 {
        self.shared.bytes_applied().saturating_sub(self.shared.bytes_checkpointed.load(Ordering::Relaxed))
    }

    /// How old the last checkpoint is; `None` before the first of this process.
    pub fn checkpoint_age(&self) -> Option<Duration> {
        self.shared.checkpoint().map(|checkpoint| checkpoint.at.elapsed())
    }

    /// Frees the pages that were kept for states which nobody looks at any more; blocking. Applying does it too, where
    /// there is something to apply.
    pub fn release_pages(&self) {
        // Whoever holds the lock is applying.
        if let Some(mut writer) = self.shared.writer.try_lock() {
            writer.pages.release();
        }
    }

    /// Figures of the page store.
    pub fn disk_stats(&self) -> DiskStats {
        self.shared.disk.stats()
    }

    /// Free space of the data directory's file system.
    ///
    /// # Errors
    /// [`DiskError::Io`] where the system does not say.
    pub fn free_space(&self) -> Result<FreeSpace, DiskError> {
        self.shared.dir.free_space()
    }

    /// Keeps a reserve file of `bytes`.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn take_ballast(&self, bytes: u64) -> Result<(), DiskError> {
        self.shared.dir.take_ballast(bytes)
    }

    /// Gives the reserve file back.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn drop_ballast(&self) -> Result<(), DiskError> {
        self.shared.dir.drop_ballast()
    }

    /// Reads the newest checkpoint again, at most so many bytes a second; blocking. After damage the next checkpoint
    /// writes all pages anew.
    ///
    /// # Errors
    /// [`DiskError::is_damage`] where the disk no longer has what was written; [`DiskError::NoCheckpoint`] before the
    /// first; others where it could not be read within `limit`.
    pub fn scrub(&self, limit: Duration, bytes_per_second: u64) -> Result<Scrubbed, DiskError> {
        self.shared.disk.scrub(limit, bytes_per_second)
    }

    /// The last completed checkpoint, as a snapshot.
    pub fn last_snapshot(&self) -> Option<(SnapshotMeta, SnapshotHandle)> {
        let checkpoint = self.shared.checkpoint()?;
        Some((checkpoint.meta, SnapshotHandle::Checkpoint { generation: checkpoint.generation }))
    }

    /// Opens a completed checkpoint for sending. Blocking, as are its reads.
    ///
    /// # Errors
    /// [`DiskError::NoCheckpoint`] where the handle is not of the newest one any more.
    pub fn send_snapshot(&self, handle: &SnapshotHandle) -> Result<SnapshotReader, DiskError> {
        let SnapshotHandle::Checkpoint { generation } = handle else { return Err(DiskError::NoCheckpoint) };
        let reader = self.shared.disk.snapshot(SNAPSHOT_SEND_MAX)?;
        if reader.manifest().generation == *generation { Ok(reader) } else { Err(DiskError::NoCheckpoint) }
    }

    /// Prepares to receive a snapshot. Blocking, as is all of [`Receiving`].
    ///
    /// # Errors
    /// [`DiskError`] where the staging directory cannot be made.
    pub fn receive_snapshot(&self) -> Result<Receiving, DiskError> {
        // An earlier one that nobody installed is given up, so that at most one waits.
        *self.shared.staged.lock() = None;
        let above = self.shared.disk.stats().generation;
        Ok(Receiving {
            shared: Arc::clone(&self.shared),
            staging: Staging::create(&self.shared.dir, above)?,
            last: None,
        })
    }
}

/// A snapshot on its way in. Dropping it unfinished leaves nothing behind.
pub struct Receiving {
    shared: Arc<Shared>,
    staging: Staging,
    /// The newest part: only at the end is it known which one was the manifest.
    last: Option<Vec<u8>>,
}

impl Receiving {
    /// Takes the next part: chunks of pages, and at last the manifest.
    ///
    /// # Errors
    /// [`DiskError`] where the part before is damaged or the disk refuses.
    pub fn write(&mut self, part: Vec<u8>) -> Result<(), DiskError> {
        match self.last.replace(part) {
            Some(chunk) => self.staging.write_chunk(&chunk),
            None => Ok(()),
        }
    }

    /// Verifies and syncs what was received.
    ///
    /// # Errors
    /// [`DiskError`] where it is not what was sent.
    pub fn finish(self) -> Result<SnapshotHandle, DiskError> {
        let manifest = self.last.unwrap_or_default();
        let staged = self.staging.finish(&manifest, keys::row_hash)?;
        let dir = staged.dir().to_path_buf();
        *self.shared.staged.lock() = Some((dir.clone(), staged));
        Ok(SnapshotHandle::Received { dir })
    }
}
