//! Roots made durable: checkpoints of pages in sled, opened again only if every byte is what it was.
//!
//! A data directory holds
//!
//! | Name | What |
//! |---|---|
//! | `LOCK` | locked for as long as a process works here |
//! | `CURRENT` | names the pages directory in force, and the one before if that is still needed; sealed, replaced by one rename |
//! | `pages-<n>/` | sled: the page versions of the last two checkpoints, and their manifests |
//! | `quarantine-<n>/` | a pages directory that was found damaged, kept for inspection |
//! | `BALLAST` | optional: space to give back when the disk is full |
//!
//! (`IDENTITY` and `log/` lie beside them and belong to others.)
//!
//! A *checkpoint* takes a root and writes the pages that changed since the last one under keys of a new
//! *generation*, syncs, then writes the [`Manifest`], and syncs again. Only then are the pages removed which
//! neither this generation nor the one before needs. Whatever happens in between, one of the last two
//! generations is whole: [`open`] takes the newest that verifies, by the seal of each value and the digest of all
//! rows, and says which it was. sled's own recovery may go back in time without a word; the
//! generation that the caller recorded elsewhere ([`OpenOptions::expected`]) tells.
//!
//! ```no_run
//! use berth_store::disk::{self, DataDir, OpenOptions};
//! use berth_store::pages::{HashKey, Pages, TableId, page_hash};
//! use std::sync::Arc;
//!
//! fn row_hash(key: &HashKey, _table: TableId, row_key: &[u8]) -> u64 {
//!     page_hash(key, row_key)
//! }
//!
//! # fn main() -> Result<(), disk::DiskError> {
//! let dir = Arc::new(DataDir::lock("berth-data".as_ref())?);
//! let opened = disk::open(&dir, &OpenOptions::new(row_hash))?;
//! let applied = opened.meta.clone();
//! let mut checkpointer = opened.checkpointer;
//! let pages = Pages::from_contents(opened.contents, applied);
//! // ... changes are published ...
//! let root = pages.root();
//! let completed = checkpointer.checkpoint(root, root.meta())?;
//! println!("generation {} is durable", completed.generation);
//! # Ok(())
//! # }
//! ```
//!
//! A *snapshot* is the last completed generation, streamed out of sled in chunks ([`Disk::snapshot`]); it is
//! *installed* by [`Staging`]: into a fresh pages directory, synced, verified, then put in force by one rename of
//! `CURRENT`. In the same way a checkpoint that changes much of what there is goes to a fresh directory, and the
//! one in force until then stays as the generation before: sled is slow to give back the space of replaced pages.
//!
//! sled is used as if it might fail: one tree, one writing thread, fixed-width keys, values of at most 4 KiB,
//! no subscribers, merge operators, compression or generated IDs, and never as a proof of durability: after each
//! flush the file is synced through a descriptor of our own. An error of that sync is final
//! ([`DiskError::is_final`]): the process must end, since the kernel has dropped what it could not write.

mod checkpoint;
mod data_dir;
mod keys;
mod load;
mod manifest;
mod seal;
mod snapshot;
mod staging;
mod stats;
mod tree;
mod writer;

pub use checkpoint::{Checkpointer, Completed};
pub use data_dir::{DataDir, Quarantined};
pub use load::{OpenOptions, Opened, Source, open};
pub use manifest::{META_BYTES_MAX, Manifest, ManifestError};
pub use snapshot::{ChunkDamage, Disk, SNAPSHOT_CHUNK_BYTES, SNAPSHOTS_MAX, Scrubbed, SnapshotReader};
pub use staging::{Staged, Staging};
pub use stats::{DiskStats, FreeSpace};
pub use writer::CheckpointWriter;

use std::path::PathBuf;

/// Why the disk could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Another process works in this directory.
    #[error("data directory {} is in use by another process; stop that one, or choose another directory", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Data could not be made durable. The process must end: written data may be lost.
    #[error("cannot sync {}: {source}; stop this node: what it wrote may be lost", path.display())]
    Sync {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// sled refused an operation while running.
    #[error("the page store in {} failed to {what}: {problem}", dir.display())]
    Store {
        /// What was tried, as a verb.
        what: &'static str,
        /// Its directory.
        dir: PathBuf,
        /// What it said.
        problem: String,
        /// Whether the operating system refused, as it does when the disk is full or broken, rather than that sled
        /// found something else than it wrote.
        refused: bool,
    },
    /// What is stored is not what was stored. Nothing of it may be served.
    #[error("the pages in {} are damaged: {why}; quarantine them and rebuild from another node", dir.display())]
    Damaged {
        /// The data directory.
        dir: PathBuf,
        /// What was found.
        why: String,
    },
    /// Opening did not end within its time limit.
    #[error("opening the pages in {} took over {seconds} s; quarantine them and rebuild from another node", dir.display())]
    OpenTooSlow {
        /// The pages directory.
        dir: PathBuf,
        /// The limit.
        seconds: u64,
    },
    /// An earlier error left the disk behind the memory; nothing more is written.
    #[error("checkpoints in {} have ended after an earlier failure; restart this node", dir.display())]
    Ended {
        /// The data directory.
        dir: PathBuf,
    },
    /// The state machine's part of a manifest is too long.
    #[error("{bytes} bytes beside the pages of a checkpoint: at most {META_BYTES_MAX} fit")]
    MetaTooLong {
        /// Its length.
        bytes: usize,
    },
    /// No checkpoint is there to send.
    #[error("no checkpoint has been completed yet; make one first")]
    NoCheckpoint,
    /// Too many snapshots are being sent.
    #[error("{SNAPSHOTS_MAX} snapshots are being sent already; try again when one has ended")]
    TooManySnapshots,
    /// The snapshot took longer than it may, and its pages may be gone.
    #[error("the snapshot of generation {generation} took longer than its time limit; start a new one")]
    SnapshotExpired {
        /// The generation that was being sent.
        generation: u64,
    },
    /// A received chunk is damaged.
    #[error("a received snapshot chunk is damaged: {0}; fetch the snapshot again")]
    Chunk(#[from] ChunkDamage),
    /// A received manifest is damaged.
    #[error("the received manifest is damaged: {0}; fetch the snapshot again")]
    Manifest(#[from] ManifestError),
    /// The received pages are not those of the manifest.
    #[error("the received snapshot does not verify: {why}; fetch it again")]
    Unverified {
        /// What differs.
        why: String,
    },
}

impl DiskError {
    /// Whether the process must end now, because what it believes to be durable may not be.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Sync { .. } | Self::Store { .. } | Self::Ended { .. })
    }

    /// Whether what is stored is damaged, so that it must be rebuilt.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::OpenTooSlow { .. })
    }

    pub(crate) fn io(what: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { what, path: path.to_path_buf(), source }
    }
}

#[cfg(test)]
mod tests;
