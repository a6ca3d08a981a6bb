//! The Raft log and the vote, durable before they are acknowledged.
//!
//! A thin adaptor between openraft's storage traits and `raft-log`, one write-ahead log of checked
//! records with real syncs. What this module adds to the two:
//!
//! - opening re-checks what replay alone does not: that the log starts right after what was purged,
//!   and that the vote is not older than the last entry;
//! - damage is told apart from a torn tail. A torn tail was never acknowledged and is cut off; damage
//!   is an error that says how to replace the node, because a node that forgot an acknowledged entry
//!   or vote must not vote again;
//! - purging stops at a [`PurgeGate`], so that the previous checkpoint can still be replayed from when
//!   the newest turns out to be damaged;
//! - the [`Watermark`] of the last durable checkpoint lives beside the log, outside the page store it
//!   is there to check.

mod record;
mod storage;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use raft_log::RaftLog;
use raft_log::api::raft_log_writer::RaftLogWriter;
use tokio::sync::oneshot;

use crate::raft::{LogId, Vote, log_id};

pub use record::Watermark;
use record::{Flushed, Records};
pub use storage::LogReader;

/// How long a flush waits for company before it syncs. Longer adds latency to every commit; zero
/// would end batching.
const FLUSH_BATCH_WAIT: Duration = Duration::from_micros(50);
/// Bytes of a log file. The cache cannot evict the open file's entries, so this also bounds memory;
/// smaller files are created, and synced on Raft's own task, more often.
const CHUNK_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of recent entries kept in memory for followers and for applying.
const CACHE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Entries kept in memory: many small ones cost more than their bytes.
const CACHE_ENTRIES_MAX: usize = 100_000;
/// Bytes read at once when the log is replayed at start.
const REPLAY_BUFFER_BYTES: usize = 1024 * 1024;
/// Bytes that wait to be written before appending blocks: two large entries and their followers.
const FLUSH_QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Why the log did not open.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another process has it open.
    #[error(
        "the Raft log in {dir} is in use by another process: stop that process, or name another data directory"
    )]
    Locked {
        /// The log's directory.
        dir: PathBuf,
    },
    /// The log lost or changed something it had acknowledged.
    #[error(
        "the Raft log in {dir} is damaged: {what}. This node may have forgotten entries or votes that it had \
         acknowledged, so it must not vote again. Replace it: remove it from the cluster on a healthy node \
         (`berth cluster remove`), set its data directory aside, and start it with an empty one and `--join`"
    )]
    Damaged {
        /// The log's directory.
        dir: PathBuf,
        /// What was found.
        what: String,
    },
    /// The operating system refused.
    #[error("cannot {action} the Raft log in {dir}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The log's directory.
        dir: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// The open log. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    log: Arc<RwLock<RaftLog<Records>>>,
    gate: PurgeGate,
}

/// How far the log may be purged. The state machine moves it; the log obeys it.
///
/// It holds the position of the previous verified checkpoint: replay from there must stay possible
/// when the newest checkpoint is found damaged.
#[derive(Clone)]
pub struct PurgeGate(Arc<Mutex<Gate>>);

#[derive(Clone, Copy)]
enum Gate {
    Upto(Option<LogId>),
    Open,
}

impl LogStore {
    /// Opens the log in `dir`, creating it when there is none, and checks it.
    ///
    /// Blocks for as long as replaying the log's files takes.
    ///
    /// # Errors
    /// [`LogError`]: in use, damaged, or refused by the operating system.
    pub fn open(dir: &Path, gate: PurgeGate) -> Result<Self, LogError> {
        create_durably(dir).map_err(|source| io_error("create", dir, source))?;
        let log =
            RaftLog::<Records>::open(Arc::new(config(dir))).map_err(|error| classify(dir, "open", error))?;
        check(&log).map_err(|what| LogError::Damaged { dir: dir.to_path_buf(), what })?;
        sync_all(dir).map_err(|source| io_error("sync", dir, source))?;
        Ok(Self { log: Arc::new(RwLock::new(log)), gate })
    }

    /// Whether nothing was ever written: no vote, no entry. The log of a node that belongs to a
    /// cluster never is; finding it so means that the files were lost.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        let log = self.log.read();
        log.log_state().vote().is_none() && log.log_state().last().is_none()
    }

    /// The last entry's position, written but perhaps not yet synced.
    #[must_use]
    pub fn last(&self) -> Option<LogId> {
        self.log.read().log_state().last().map(|&(term, index)| log_id(term, index))
    }

    /// The position of a recorded checkpoint that replaying this log onto pages of `position` would not reach: to others
    /// this node has what lies between, so that it may not vote without.
    #[must_use]
    pub fn unreachable_from(&self, position: Option<LogId>) -> Option<LogId> {
        let recorded = self.watermark()?.position;
        recorded.filter(|_| recorded > position.max(self.last()))
    }

    /// The position up to which entries are gone.
    #[must_use]
    pub fn purged(&self) -> Option<LogId> {
        self.log.read().log_state().purged().map(|&(term, index)| log_id(term, index))
    }

    /// The vote, if one was ever cast.
    #[must_use]
    pub fn vote(&self) -> Option<Vote> {
        self.log.read().log_state().vote().map(|vote| vote.0)
    }

    /// The watermark of the last checkpoint that was recorded.
    #[must_use]
    pub fn watermark(&self) -> Option<Watermark> {
        self.log.read().log_state().user_data
    }

    /// Bytes of the log's files.
    #[must_use]
    pub fn on_disk_bytes(&self) -> u64 {
        self.log.read().on_disk_size()
    }

    /// Bytes of entries held in memory.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        self.log.read().stat().payload_cache_size
    }

    /// The gate that purging obeys.
    #[must_use]
    pub fn gate(&self) -> &PurgeGate {
        &self.gate
    }

    /// Records that a checkpoint is durable, and returns when the record is synced.
    ///
    /// Call it after the checkpoint's own files are synced: at the next start, a page store older than
    /// this is known to have lost data.
    ///
    /// # Errors
    /// The error of the write or the sync. After either, nothing further can be written; stop the node.
    pub async fn record_checkpoint(&self, watermark: Watermark) -> io::Result<()> {
        let (done, synced) = oneshot::channel();
        {
            let mut log = self.log.write();
            log.save_user_data(Some(watermark))?;
            log.flush(true, Some(Flushed::Waiter(done)))?;
        }
        synced.await.map_err(io::Error::other)?
    }

    /// [`Self::record_checkpoint`] for a thread that is not an async worker.
    ///
    /// # Errors
    /// As [`Self::record_checkpoint`].
    pub fn record_checkpoint_blocking(&self, watermark: Watermark) -> io::Result<()> {
        let (done, synced) = oneshot::channel();
        {
            let mut log = self.log.write();
            log.save_user_data(Some(watermark))?;
            log.flush(true, Some(Flushed::Waiter(done)))?;
        }
        synced.blocking_recv().map_err(io::Error::other)?
    }
}

impl PurgeGate {
    /// A gate behind which nothing may be purged yet.
    #[must_use]
    pub fn closed() -> Self {
        Self(Arc::new(Mutex::new(Gate::Upto(None))))
    }

    /// A gate that holds nothing back: for stores whose snapshots do not live in checkpoints.
    #[must_use]
    pub fn open() -> Self {
        Self(Arc::new(Mutex::new(Gate::Open)))
    }

    /// Lets the log be purged up to and including `position`. The gate never moves back.
    pub fn advance(&self, position: LogId) {
        let mut gate = self.0.lock();
        if let Gate::Upto(now) = &mut *gate {
            *now = (*now).max(Some(position));
        }
    }

    /// The position up to which the log may be purged now, if it may at all; `wanted` when open.
    #[must_use]
    pub fn clamp(&self, wanted: LogId) -> Option<LogId> {
        match *self.0.lock() {
            Gate::Open => Some(wanted),
            Gate::Upto(limit) => limit.map(|limit| limit.min(wanted)),
        }
    }
}

fn config(dir: &Path) -> raft_log::Config {
    let mut config = raft_log::Config::new(dir.display());
    config.log_cache_max_items = Some(CACHE_ENTRIES_MAX);
    config.log_cache_capacity = Some(CACHE_BYTES_MAX);
    config.wal.chunk_max_size = Some(CHUNK_BYTES_MAX);
    config.wal.read_buffer_size = Some(REPLAY_BUFFER_BYTES);
    config.wal.flush_batch_wait = Some(FLUSH_BATCH_WAIT);
    config.wal.flush_queue_max_bytes = Some(FLUSH_QUEUE_BYTES_MAX);
    config
}

/// Makes durable what was found. A process that was killed may have left votes and entries that are in the system's
/// cache alone; Raft answers for what it finds in its log without writing it again.
fn sync_all(dir: &Path) -> io::Result<()> {
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        if file.file_type()?.is_file() {
            std::fs::File::open(file.path())?.sync_all()?;
        }
    }
    std::fs::File::open(dir)?.sync_all()
}

/// Creates the directory and syncs the one above it, so that the name survives a power cut.
fn create_durably(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(dir)?;
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn classify(dir: &Path, action: &'static str, error: io::Error) -> LogError {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::WouldBlock => LogError::Locked { dir: dir.to_path_buf() },
        // Replay reports refused records as `Other`, broken bytes as the first two.
        Kind::InvalidData | Kind::UnexpectedEof | Kind::InvalidInput | Kind::Other => {
            LogError::Damaged { dir: dir.to_path_buf(), what: error.to_string() }
        }
        _ => io_error(action, dir, error),
    }
}

fn io_error(action: &'static str, dir: &Path, source: io::Error) -> LogError {
    LogError::Io { action, dir: dir.to_path_buf(), source }
}

/// Replay proves that indexes follow each other and that terms do not fall. It does not prove that
/// the front of the log is there, nor that the vote kept up with the entries.
fn check(log: &RaftLog<Records>) -> Result<(), String> {
    let state = log.log_state();
    let (Some(&(last_term, last)), purged) = (state.last(), state.purged().copied()) else {
        return Ok(());
    };
    if purged == Some((last_term, last)) {
        return Ok(());
    }
    let first = match purged {
        Some((_, purged)) => purged + 1,
        // A log may begin above 0 only where something was purged; openraft's first entry is 0.
        None => {
            log.read(0, u64::MAX).next().transpose().map_err(|e| e.to_string())?.map_or(0, |(id, _)| id.1)
        }
    };
    for index in [first, last] {
        match log.read(index, index + 1).next() {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(format!("entry {index} cannot be read: {error}")),
            None => return Err(format!("entry {index} is missing (the log should hold {first} to {last})")),
        }
    }
    match state.vote().map(|vote| vote.0.leader_id.term) {
        Some(term) if term >= last_term => Ok(()),
        Some(term) => {
            Err(format!("its vote is of term {term}, older than its last entry's term {last_term}"))
        }
        None => Err(format!("it holds entries up to {last} but no vote")),
    }
}
