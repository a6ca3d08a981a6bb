//! The state machine as openraft drives it: apply, checkpoint, install.

use std::io;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use parking_lot::Mutex;

use super::checkpoint::{CheckpointError, decode_meta, encode_meta};
use super::handle::{Checkpointed, Handle, Shared};
use super::keys;
use super::meta::Meta;
use super::reader::Position;
use crate::disk::{self, CheckpointWriter, DataDir, DiskError, OpenOptions, Opened, Source};
use crate::log::{LogStore, Watermark};
use crate::pages::{Pages, Root};
use crate::raft::{
    BerthConfig, Entry, EntryPayload, LogId, Snapshot, SnapshotHandle, SnapshotMeta, StoredMembership,
};

/// Payload bytes that are applied before their root is published: bounds both the wait of the first answer and the
/// memory of unpublished pages.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// Entries that are applied before their root is published.
const GROUP_ENTRIES_MAX: usize = 64;

/// How a machine is opened.
#[derive(Debug, Clone)]
pub struct MachineOptions {
    /// Replies to remember; the same on every node of a cluster. [`berth_core::REPLIES_MAX`] outside of tests.
    pub replies_max: u64,
    /// How fast checkpoints write, bytes a second; `None` is as fast as the disk.
    pub bytes_per_second: Option<u64>,
}

impl Default for MachineOptions {
    fn default() -> Self {
        Self { replies_max: berth_core::REPLIES_MAX, bytes_per_second: None }
    }
}

/// Why the state machine could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk refused, or what it holds is damaged.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The pages are whole, but not those of a directory.
    #[error("the pages do not hold a directory: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The pages are older than where the log begins: what lies between is gone.
    #[error(
        "the pages end at log index {pages:?}, but the log begins after index {purged}: what lies between is lost here"
    )]
    Gap {
        /// Where the pages end.
        pages: Option<u64>,
        /// The last entry that the log no longer holds.
        purged: u64,
    },
    /// A checkpoint was complete here up to where neither pages nor log reach now.
    #[error(
        "a checkpoint up to log index {recorded} was complete, but the pages end at {pages:?} and the log at {log:?}: what lies between is lost here"
    )]
    Lost {
        /// Where the pages end.
        pages: Option<u64>,
        /// Where the log ends.
        log: Option<u64>,
        /// Up to where the lost checkpoint had applied the log.
        recorded: u64,
    },
}

impl OpenError {
    /// Whether the pages are damaged or lost, so that they must be fetched from a peer.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Disk(error) => error.is_damage(),
            Self::Checkpoint(_) | Self::Gap { .. } | Self::Lost { .. } => true,
        }
    }
}

/// What was found at the opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReport {
    /// The checkpoint's generation; 0 for none.
    pub generation: u64,
    /// Where replay begins.
    pub position: Option<LogId>,
    /// What was wrong with the newest checkpoint, where the one before was taken.
    pub fell_back: Option<String>,
}

/// The state machine of one node.
pub struct Machine {
    shared: Arc<Shared>,
    checkpoints: Arc<Mutex<Option<CheckpointWriter>>>,
    log: LogStore,
    options: MachineOptions,
}

/// Entries that wait for their root.
#[derive(Default)]
struct Group {
    entries: Vec<Entry>,
    responders: Vec<Option<openraft::storage::ApplyResponder<BerthConfig>>>,
    bytes: usize,
}

impl Machine {
    /// Opens the newest whole checkpoint in `dir` from which the log still leads on. Blocking.
    ///
    /// # Errors
    /// [`OpenError`]; where [`OpenError::is_damage`], the pages must be set aside ([`DataDir::quarantine`]) and then
    /// replayed from a whole log, or fetched from a peer.
    pub fn open(
        dir: &Arc<DataDir>,
        log: &LogStore,
        options: MachineOptions,
    ) -> Result<(Self, OpenReport), OpenError> {
        let (machine, report) = Self::read(dir, log, options)?;
        if let Some(purged) = log.purged().filter(|purged| report.position < Some(*purged)) {
            return Err(OpenError::Gap { pages: report.position.map(|id| id.index), purged: purged.index });
        }
        if let Some(recorded) = log.unreachable_from(report.position) {
            let (pages, end) = (report.position.map(|id| id.index), log.last().map(|id| id.index));
            return Err(OpenError::Lost { pages, log: end, recorded: recorded.index });
        }
        Ok((machine, report))
    }

    /// An empty machine in `dir`, whose pages were set aside: to be filled from the log's beginning or by
    /// [`Machine::adopt`]. Blocking.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn rebuilding(
        dir: &Arc<DataDir>,
        log: &LogStore,
        options: MachineOptions,
    ) -> Result<Self, OpenError> {
        Self::read(dir, log, options).map(|(machine, _)| machine)
    }

    fn read(
        dir: &Arc<DataDir>,
        log: &LogStore,
        options: MachineOptions,
    ) -> Result<(Self, OpenReport), OpenError> {
        let open_options = OpenOptions {
            bytes_per_second: options.bytes_per_second,
            expected: log.watermark().map(|watermark| watermark.generation),
            ..OpenOptions::new(keys::row_hash)
        };
        let opened = disk::open(dir, &open_options)?;
        let meta = meta_of(&opened, options.replies_max)?;
        let Opened { contents, generation, source, checkpointer, .. } = opened;
        let pages = Pages::from_contents(contents, meta.clone());
        let disk = checkpointer.disk();
        let shared = Shared::new(Arc::clone(dir), disk, pages, position(&meta, 0));
        if generation > 0 {
            shared.completed(snapshot_meta(&meta), generation, 0);
        }
        let fell_back = match source {
            Source::FellBack { why } => Some(why),
            Source::New | Source::Newest => None,
        };
        let report = OpenReport { generation, position: meta.applied, fell_back };
        let checkpoints = Arc::new(Mutex::new(Some(CheckpointWriter::start(checkpointer)?)));
        let machine = Self { shared: Arc::new(shared), checkpoints, log: log.clone(), options };
        Ok((machine, report))
    }

    /// What others need of the machine while openraft owns it.
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    fn apply_group(&mut self, group: &mut Group) -> io::Result<()> {
        if group.entries.is_empty() {
            return Ok(());
        }
        let (answers, position) = {
            let mut writer = self.shared.writer.lock();
            let answers = writer.apply(&group.entries).map_err(|error| {
                tracing::error!(%error, "the log cannot be applied; this node stops");
                io::Error::other(error)
            })?;
            (answers, position(writer.pages.root().meta(), self.shared.installs()))
        };
        self.shared.published(position, group.bytes as u64);
        // The root is published: whoever is answered now finds what it wrote.
        for (responder, answer) in group.responders.drain(..).zip(answers) {
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        group.entries.clear();
        group.bytes = 0;
        Ok(())
    }

    /// Puts a received snapshot in force: on disk by one rename, in memory by one swap. Blocking.
    ///
    /// # Errors
    /// [`InstallError`]. After one of the disk the process must end.
    pub fn adopt(&mut self, meta: &SnapshotMeta, handle: &SnapshotHandle) -> Result<(), InstallError> {
        let SnapshotHandle::Received { dir } = handle else { return Err(InstallError::NotReceived) };
        let staged = self.shared.take_staged(dir).ok_or(InstallError::NotReceived)?;
        let old = {
            let mut checkpoints = self.checkpoints.lock();
            self.shared.begin_install();
            checkpoints.take()
        };
        let old = old.and_then(CheckpointWriter::stop);
        let opened = staged.adopt(old, self.options.bytes_per_second)?;
        let decoded = meta_of(&opened, self.options.replies_max)?;
        if decoded.applied != meta.last_log_id {
            return Err(InstallError::OtherPosition { announced: meta.last_log_id, found: decoded.applied });
        }
        let Opened { contents, generation, checkpointer, .. } = opened;
        *self.checkpoints.lock() = Some(CheckpointWriter::start(checkpointer)?);
        self.shared.writer.lock().pages.adopt(contents, decoded.clone());
        let installs = self.shared.installs() + 1;
        self.shared.published(position(&decoded, installs), 0);
        self.shared.completed(snapshot_meta(&decoded), generation, self.shared.bytes_applied());
        self.log.record_checkpoint_blocking(Watermark { generation, position: decoded.applied })?;
        if let Some(position) = decoded.applied {
            self.log.gate().advance(position);
        }
        Ok(())
    }
}

impl RaftStateMachine<BerthConfig> for Machine {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let writer = self.shared.writer.lock();
        let meta = writer.pages.root().meta();
        Ok((meta.applied, meta.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<BerthConfig>, io::Error>> + Unpin + openraft::OptionalSend,
    {
        let mut group = Group::default();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            if let EntryPayload::Normal(payload) = &entry.payload {
                group.bytes += payload.as_slice().len();
            }
            group.entries.push(entry);
            group.responders.push(responder);
            if group.bytes >= GROUP_BYTES_MAX || group.entries.len() >= GROUP_ENTRIES_MAX {
                self.apply_group(&mut group)?;
                // A long replay shares its thread with heartbeats.
                tokio::task::yield_now().await;
            }
        }
        self.apply_group(&mut group)
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Builder {
            root: Arc::clone(self.shared.writer.lock().pages.root()),
            bytes: self.shared.bytes_applied(),
            installs_begun: self.shared.installs_begun(),
            shared: Arc::clone(&self.shared),
            checkpoints: Arc::clone(&self.checkpoints),
            log: self.log.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotHandle,
    ) -> Result<(), io::Error> {
        // Blocking work on Raft's own thread: nothing else may touch the state meanwhile, and all that is left to do
        // here is one rename and the decoding of what was verified before.
        let installed = tokio::task::block_in_place(|| self.adopt(meta, &snapshot));
        installed.map_err(|error| {
            tracing::error!(%error, "a received snapshot could not be installed; this node stops");
            io::Error::other(error)
        })
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.shared.checkpoint().map(current))
    }
}

/// Takes one checkpoint of the root it was made with.
pub struct Builder {
    root: Arc<Root<Meta>>,
    bytes: u64,
    installs_begun: u64,
    shared: Arc<Shared>,
    checkpoints: Arc<Mutex<Option<CheckpointWriter>>>,
    log: LogStore,
}

impl RaftSnapshotBuilder<BerthConfig> for Builder {
    type SnapshotData = SnapshotHandle;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let meta = snapshot_meta(self.root.meta());
        let submitted = {
            let checkpoints = self.checkpoints.lock();
            match &*checkpoints {
                Some(writer) if !self.overtaken() => {
                    writer.submit(Arc::clone(&self.root), encode_meta(self.root.meta()))
                }
                _ => None,
            }
        };
        let Some(outcome) = submitted else { return self.newest() };
        tracing::debug!(index = meta.last_log_id.map_or(0, |id| id.index), "a checkpoint begins");
        let completed = outcome.await.map_err(io::Error::other)?.map_err(|error| {
            tracing::error!(%error, "a checkpoint failed; this node stops");
            io::Error::other(error)
        })?;
        if self.overtaken() {
            return self.newest();
        }
        let before = self.shared.checkpoint().filter(|before| before.generation == completed.previous);
        let watermark = Watermark { generation: completed.generation, position: meta.last_log_id };
        self.log.record_checkpoint(watermark).await?;
        {
            let _no_install_begins = self.checkpoints.lock();
            if self.overtaken() {
                return self.newest();
            }
            self.shared.completed(meta.clone(), completed.generation, self.bytes);
        }
        // The log stays back to the generation before, so that one damaged generation can be replayed.
        if let Some(position) = before.and_then(|before| before.meta.last_log_id) {
            self.log.gate().advance(position);
        }
        let generation = completed.generation;
        tracing::info!(
            generation,
            index = meta.last_log_id.map_or(0, |id| id.index),
            pages = completed.pages_written,
            bytes = completed.bytes_written,
            rewritten = completed.rewritten,
            "completed a checkpoint"
        );
        Ok(Snapshot { meta, snapshot: SnapshotHandle::Checkpoint { generation } })
    }
}

impl Builder {
    /// Whether a snapshot was installed meanwhile, or is about to be: it is newer than this root, and a checkpoint
    /// itself.
    fn overtaken(&self) -> bool {
        self.shared.installs_begun() != self.installs_begun
    }

    fn newest(&self) -> Result<Snapshot, io::Error> {
        let checkpoint = self.shared.checkpoint();
        checkpoint.map(current).ok_or_else(|| io::Error::other("no checkpoint can be taken now"))
    }
}

fn current(checkpoint: Checkpointed) -> Snapshot {
    let Checkpointed { meta, generation, .. } = checkpoint;
    Snapshot { meta, snapshot: SnapshotHandle::Checkpoint { generation } }
}

/// What stands beside the pages of a checkpoint, or of none.
fn meta_of(opened: &Opened, replies_max: u64) -> Result<Meta, CheckpointError> {
    match opened.generation {
        0 => Ok(Meta::new(replies_max)),
        _ => decode_meta(&opened.meta, &opened.contents.rows(), replies_max),
    }
}

fn snapshot_meta(meta: &Meta) -> SnapshotMeta {
    SnapshotMeta { last_log_id: meta.applied, last_membership: meta.membership.clone() }
}

fn position(meta: &Meta, installs: u64) -> Position {
    Position { applied: meta.applied, revision: meta.revision, installs }
}

/// Why a received snapshot was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The pages do not hold a directory.
    #[error("the received pages do not hold a directory: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The snapshot is not the one that was received last.
    #[error("the snapshot to install is not the one that was received last")]
    NotReceived,
    /// The log could not record the checkpoint.
    #[error("the log could not record the installed checkpoint: {0}")]
    Log(#[from] io::Error),
    /// The pages are of another position than announced.
    #[error("the received pages are of position {found:?}, announced was {announced:?}")]
    OtherPosition {
        /// What the sender said.
        announced: Option<LogId>,
        /// What the pages say.
        found: Option<LogId>,
    },
}
