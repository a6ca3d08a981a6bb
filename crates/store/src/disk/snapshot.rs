//! The shared view of the disk: its figures, and snapshots of the newest completed generation.

use super::checkpoint::{Completed, keep_pace};
use super::data_dir::DataDir;
use super::keys::{self, Key, Kind};
use super::load::{as_damage, walk_pages};
use super::manifest::Manifest;
use super::stats::DiskStats;
use super::tree::{PageTree, under_watchdog};
use super::{DiskError, seal};
use crate::pages::{PAGE_BYTES_MAX, TableId, page_digest};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Snapshots sent at one time: each may hold back the removal of one more generation of pages.
pub const SNAPSHOTS_MAX: usize = 4;
/// Bytes of pages in one chunk: the largest message of the peers' snapshot connection.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;

/// Beyond the time that a scrub may take, it hangs.
const SCRUB_SLACK: Duration = Duration::from_secs(60);

const FORMAT: u8 = 1;
/// Bytes of a chunk beside its pages.
const FRAME_BYTES: usize = 1 + 4;
/// Bytes before each page of a chunk.
const PAGE_HEAD_BYTES: usize = 1 + 4 + 4;

/// A handle on the disk for everyone but the writer: figures, snapshots, scrubs. Cheap to clone.
#[derive(Clone)]
pub struct Disk {
    shared: Arc<Shared>,
}

struct Shared {
    dir: Arc<DataDir>,
    state: Mutex<State>,
}

struct State {
    tree: Arc<PageTree>,
    manifest: Option<Manifest>,
    pins: Vec<Pin>,
    pins_made: u64,
    stats: DiskStats,
    /// A scrub found damage: the next checkpoint goes to a fresh directory.
    rewrite_wanted: bool,
}

/// Keeps the pages of one generation from being removed.
struct Pin {
    number: u64,
    generation: u64,
    until: Instant,
}

/// What a scrub found whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrubbed {
    /// The generation that was read.
    pub generation: u64,
    /// Its pages.
    pub pages: u64,
    /// Its rows.
    pub rows: u64,
}

/// Why a received chunk cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkDamage {
    /// Its checksum fails.
    #[error("the checksum of {bytes} bytes does not match")]
    Checksum {
        /// Its length.
        bytes: usize,
    },
    /// Written by another release.
    #[error("chunk format {format} is unknown; this release reads format 1")]
    UnknownFormat {
        /// What it says.
        format: u8,
    },
    /// Its pages do not fill it exactly.
    #[error("its pages do not have the lengths they say")]
    WrongLength,
    /// A page of a table that this release does not have.
    #[error("it has a page of table {table}, which this release does not have")]
    UnknownTable {
        /// The table's number.
        table: u8,
    },
}

impl Disk {
    pub(crate) fn new(dir: Arc<DataDir>, tree: Arc<PageTree>, manifest: Option<Manifest>) -> Self {
        let stats = DiskStats {
            generation: manifest.as_ref().map_or(0, |manifest| manifest.generation),
            live_bytes: manifest.as_ref().map_or(0, |manifest| manifest.live_bytes),
            ..DiskStats::default()
        };
        let state = State { tree, manifest, pins: Vec::new(), pins_made: 0, stats, rewrite_wanted: false };
        Self { shared: Arc::new(Shared { dir, state: Mutex::new(state) }) }
    }

    /// The data directory.
    pub fn dir(&self) -> Arc<DataDir> {
        Arc::clone(&self.shared.dir)
    }

    /// Figures of the checkpoints so far.
    pub fn stats(&self) -> DiskStats {
        let state = self.shared.state.lock();
        DiskStats { snapshots: state.pins.len(), ..state.stats }
    }

    /// The manifest of the newest completed generation, if there is one.
    pub fn manifest(&self) -> Option<Manifest> {
        self.shared.state.lock().manifest.clone()
    }

    /// Starts to send the newest completed generation. Its pages stay for `limit`, or until the reader is
    /// dropped.
    ///
    /// # Errors
    ///
    /// [`DiskError::NoCheckpoint`] and [`DiskError::TooManySnapshots`].
    pub fn snapshot(&self, limit: Duration) -> Result<SnapshotReader, DiskError> {
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        state.drop_ended_pins(now);
        let manifest = state.manifest.clone().ok_or(DiskError::NoCheckpoint)?;
        if state.pins.len() >= SNAPSHOTS_MAX {
            return Err(DiskError::TooManySnapshots);
        }
        state.pins_made += 1;
        let pin = state.pins_made;
        state.pins.push(Pin { number: pin, generation: manifest.generation, until: now + limit });
        let tree = Arc::clone(&state.tree);
        drop(state);
        let next = Some(keys::first_of_page(TableId::Devices, 0));
        Ok(SnapshotReader { disk: self.clone(), tree, manifest, pin, next })
    }

    /// Reads the newest completed generation again, every byte of it, at most so many bytes a second, and compares it
    /// with its manifest. After damage the next checkpoint writes all pages to a fresh directory.
    ///
    /// # Errors
    ///
    /// [`DiskError::Damaged`] if it is not what was written; else as [`Disk::snapshot`] and
    /// [`SnapshotReader::next_chunk`].
    pub fn scrub(&self, limit: Duration, bytes_per_second: u64) -> Result<Scrubbed, DiskError> {
        let (disk, dir) = (self.clone(), self.tree().dir().to_path_buf());
        // As at the opening: on damage sled may say so, panic, or never come back.
        let scrubbed =
            under_watchdog(&dir, limit + SCRUB_SLACK, move || disk.read_again(limit, bytes_per_second))
                .map_err(|error| as_damage(&dir, error));
        if scrubbed.as_ref().is_err_and(DiskError::is_damage) {
            self.shared.state.lock().rewrite_wanted = true;
        }
        scrubbed
    }

    fn read_again(&self, limit: Duration, bytes_per_second: u64) -> Result<Scrubbed, DiskError> {
        let mut reader = self.snapshot(limit)?;
        let (started, mut bytes) = (Instant::now(), 0_u64);
        let damaged = |why: String| DiskError::Damaged { dir: self.shared.dir.path().to_path_buf(), why };
        let (mut digest, mut pages, mut rows) = (0_u128, 0, 0);
        while let Some(chunk) = reader.next_chunk()? {
            for (table, number, page) in pages_of(&chunk)? {
                let (page_rows, page_digest) = page_digest(table, page)
                    .map_err(|e| damaged(format!("page {number} of table {table:?}: {e}")))?;
                digest = digest.wrapping_add(page_digest);
                rows += page_rows;
                pages += 1;
            }
            bytes += chunk.len() as u64;
            keep_pace(started, bytes, bytes_per_second);
        }
        let manifest = reader.manifest();
        if rows != manifest.row_counts.iter().sum::<u64>() || digest != manifest.digest {
            return Err(damaged(format!("generation {} no longer has the rows it had", manifest.generation)));
        }
        Ok(Scrubbed { generation: manifest.generation, pages, rows })
    }

    pub(crate) fn tree(&self) -> Arc<PageTree> {
        Arc::clone(&self.shared.state.lock().tree)
    }

    pub(crate) fn put_in_force(&self, tree: Arc<PageTree>, manifest: Manifest) {
        let mut state = self.shared.state.lock();
        state.stats.generation = manifest.generation;
        state.stats.live_bytes = manifest.live_bytes;
        // In the same directory the damage may still lie.
        state.rewrite_wanted &= Arc::ptr_eq(&state.tree, &tree);
        (state.tree, state.manifest) = (tree, Some(manifest));
    }

    /// Whether what is on disk should be written anew, all of it.
    pub(crate) fn rewrite_wanted(&self) -> bool {
        self.shared.state.lock().rewrite_wanted
    }

    /// The generations that snapshots being sent need.
    pub(crate) fn pinned(&self) -> Vec<u64> {
        let mut state = self.shared.state.lock();
        state.drop_ended_pins(Instant::now());
        state.pins.iter().map(|pin| pin.generation).collect()
    }

    pub(crate) fn note_open(&self, took: Duration) -> Result<(), DiskError> {
        let disk_bytes = self.tree().disk_bytes()?;
        let stats = &mut self.shared.state.lock().stats;
        (stats.open_took, stats.disk_bytes) = (took, disk_bytes);
        Ok(())
    }

    pub(crate) fn note_checkpoint(
        &self,
        completed: &Completed,
        disk_bytes: u64,
        live_bytes: u64,
        took: Duration,
    ) {
        let stats = &mut self.shared.state.lock().stats;
        *stats = DiskStats {
            generation: completed.generation,
            live_bytes,
            disk_bytes,
            checkpoints: stats.checkpoints + 1,
            rewrites: stats.rewrites + u64::from(completed.rewritten),
            pages_written: completed.pages_written,
            bytes_written: completed.bytes_written,
            checkpoint_took: took,
            ..*stats
        };
    }
}

impl State {
    fn drop_ended_pins(&mut self, now: Instant) {
        self.pins.retain(|pin| pin.until > now);
    }
}

/// Sends one generation in chunks. Dropping it lets its pages go.
pub struct SnapshotReader {
    disk: Disk,
    tree: Arc<PageTree>,
    manifest: Manifest,
    pin: u64,
    /// Where the next chunk starts; none after the last.
    next: Option<[u8; keys::KEY_BYTES]>,
}

impl SnapshotReader {
    /// What is being sent. It goes after the last chunk.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The next chunk of pages, at most [`SNAPSHOT_CHUNK_BYTES`] long unless it is a single larger page; none
    /// after the last. Each call reads the disk and blocks for that long.
    ///
    /// # Errors
    ///
    /// [`DiskError::SnapshotExpired`] past the time limit, [`DiskError::Damaged`] if a page does not verify.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, DiskError> {
        let Some(from) = self.next else { return Ok(None) };
        let generation = self.manifest.generation;
        let mut chunk = vec![FORMAT];
        let (mut next, mut damage) = (None, None);
        walk_pages(&self.tree, from, |(table, page), versions| {
            if page >= self.manifest.page_counts[table.index()] {
                return Ok(true);
            }
            let Some(version) = versions.iter().rev().find(|version| version.generation <= generation) else {
                return Ok(true);
            };
            let key = Key { kind: Kind::Page(table, page), generation: version.generation, part: 0 };
            let bytes = match seal::join(key, &version.parts) {
                Ok(bytes) => bytes,
                Err(e) => {
                    damage = Some(format!("page {page} of table {table:?}: {e}"));
                    return Ok(false);
                }
            };
            let full = chunk.len() + PAGE_HEAD_BYTES + bytes.len() + FRAME_BYTES > SNAPSHOT_CHUNK_BYTES;
            if full && chunk.len() > 1 {
                next = Some(keys::first_of_page(table, page));
                return Ok(false);
            }
            chunk.push(table.number());
            chunk.extend_from_slice(&page.to_le_bytes());
            chunk.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            chunk.extend_from_slice(&bytes);
            Ok(true)
        })?;
        // Only now is it known that the pages were still kept while they were read.
        let mut state = self.disk.shared.state.lock();
        state.drop_ended_pins(Instant::now());
        if !state.pins.iter().any(|pin| pin.number == self.pin) {
            return Err(DiskError::SnapshotExpired { generation });
        }
        drop(state);
        if let Some(why) = damage {
            return Err(DiskError::Damaged { dir: self.disk.shared.dir.path().to_path_buf(), why });
        }
        self.next = next;
        if chunk.len() == 1 {
            return Ok(None);
        }
        let crc = crc32c::crc32c(&chunk);
        chunk.extend_from_slice(&crc.to_le_bytes());
        Ok(Some(chunk))
    }
}

impl Drop for SnapshotReader {
    fn drop(&mut self) {
        self.disk.shared.state.lock().pins.retain(|pin| pin.number != self.pin);
    }
}

/// A page of a chunk: its table, its number, its bytes.
type ChunkPage<'a> = (TableId, u32, &'a [u8]);

/// The pages of a chunk.
pub(crate) fn pages_of(chunk: &[u8]) -> Result<Vec<ChunkPage<'_>>, ChunkDamage> {
    let damaged = ChunkDamage::Checksum { bytes: chunk.len() };
    let (sealed, crc) = chunk.split_last_chunk::<4>().ok_or(damaged.clone())?;
    if crc32c::crc32c(sealed) != u32::from_le_bytes(*crc) {
        return Err(damaged);
    }
    let (&format, mut rest) = sealed.split_first().ok_or(damaged)?;
    if format != FORMAT {
        return Err(ChunkDamage::UnknownFormat { format });
    }
    let mut pages = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<PAGE_HEAD_BYTES>() {
        let [table, p0, p1, p2, p3, l0, l1, l2, l3] = *head;
        let bytes = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if bytes > PAGE_BYTES_MAX || bytes > after.len() {
            return Err(ChunkDamage::WrongLength);
        }
        let (page, left) = after.split_at(bytes);
        let table = TableId::from_number(table).ok_or(ChunkDamage::UnknownTable { table })?;
        pages.push((table, u32::from_le_bytes([p0, p1, p2, p3]), page));
        rest = left;
    }
    if rest.is_empty() { Ok(pages) } else { Err(ChunkDamage::WrongLength) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_of_arbitrary_bytes_never_panic(mut bytes: Vec<u8>) {
            prop_assert!(pages_of(&bytes).is_err());
            let crc = crc32c::crc32c(&bytes);
            bytes.extend_from_slice(&crc.to_le_bytes());
            let _ = pages_of(&bytes);
        }
    }
}
