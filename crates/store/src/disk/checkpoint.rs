//! Checkpoints: what changed since the last one goes to sled, then a manifest makes it current.

use super::keys::{Key, Kind};
use super::manifest::{META_BYTES_MAX, Manifest};
use super::snapshot::Disk;
use super::staging::{Staging, remove_dir};
use super::tree::{BATCH_OPS_MAX, PageTree};
use super::{DiskError, seal, tree};
use crate::pages::{READ_VERSION, Root, TableId};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of one batch: small enough that one batch does not hold up sled's own thread.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// What sled's file may become by writing changed pages into it, in percent of the live bytes. Past that, and
/// whenever much has changed, all pages go to a fresh directory instead: written in order they take about half
/// as much again as they are, where replacing them in place leaves three times as much and more. The old
/// directory stays as the generation before, so that both together come to about three times the live bytes.
const IN_PLACE_PERCENT: u64 = 200;
/// What sled writes for each changed byte until its garbage is collected, in percent.
const GROWTH_PERCENT: u64 = 150;
/// Below this size it is not worth a directory: sled's segments alone may take it.
const FRESH_BYTES_MIN: u64 = 16 << 20;

/// Writes checkpoints, one at a time. Blocking: it belongs on a thread of its own, see
/// [`super::CheckpointWriter`].
pub struct Checkpointer {
    disk: Disk,
    tree: Arc<PageTree>,
    on_disk: OnDisk,
    /// Pages that this publish or an earlier one wrote are on disk.
    written_version: u64,
    bytes_per_second: Option<u64>,
    /// The directory before the one in force, with the generation before.
    before: Option<PathBuf>,
    /// The size from which fresh directories are worth their while.
    pub(crate) fresh_bytes_min: u64,
    ended: bool,
}

/// A durable checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completed {
    /// Its generation.
    pub generation: u64,
    /// The generation before, still whole; 0 if there is none. What is needed to go on from there must be kept.
    pub previous: u64,
    /// Pages written.
    pub pages_written: u64,
    /// Bytes of pages written.
    pub bytes_written: u64,
    /// Whether all pages were written into a fresh directory, rather than the changed ones into the old.
    pub rewritten: bool,
}

/// Which page versions and manifests a tree holds.
#[derive(Default)]
pub(crate) struct OnDisk {
    /// For each page the version in force: its generation and its parts.
    pages: [Vec<(u64, u16)>; TableId::COUNT],
    /// Versions that a later one has replaced, with the generation that did.
    superseded: Vec<(StoredPage, u64)>,
    /// What a checkpoint that was never completed left. It must be gone before the next manifest.
    pub(crate) junk: Vec<StoredPage>,
    /// The manifests, oldest first.
    pub(crate) manifests: Vec<StoredPage>,
    /// The newest generation that was ever used, as far as others know.
    pub(crate) used: u64,
}

/// A stored object: its parts are removed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredPage {
    kind: Kind,
    pub(crate) generation: u64,
    parts: u16,
}

impl StoredPage {
    pub(crate) fn new(kind: Kind, generation: u64, parts: usize) -> Self {
        Self { kind, generation, parts: parts.min(seal::PARTS_MAX) as u16 }
    }

    fn keys(self) -> impl Iterator<Item = Key> {
        (0..self.parts).map(move |part| Key { kind: self.kind, generation: self.generation, part })
    }
}

impl OnDisk {
    /// Notes the version in force of a page; gives the one it replaces.
    pub(crate) fn set(&mut self, stored: StoredPage) -> Option<StoredPage> {
        let Kind::Page(table, page) = stored.kind else { return None };
        let pages = &mut self.pages[table.index()];
        if page as usize >= pages.len() {
            pages.resize(page as usize + 1, (0, 0));
        }
        let (generation, parts) =
            std::mem::replace(&mut pages[page as usize], (stored.generation, stored.parts));
        (parts > 0).then_some(StoredPage { kind: stored.kind, generation, parts })
    }

    /// Notes that `stored` was replaced by a version of generation `by`.
    pub(crate) fn supersede(&mut self, stored: StoredPage, by: u64) {
        self.superseded.push((stored, by));
    }

    /// The newest generation that any stored object belongs to.
    fn newest(&self) -> u64 {
        let stored = self.junk.iter().chain(&self.manifests).map(|stored| stored.generation).max();
        stored.unwrap_or(0).max(self.used)
    }
}

impl Checkpointer {
    pub(crate) fn new(
        disk: Disk,
        on_disk: OnDisk,
        before: Option<PathBuf>,
        bytes_per_second: Option<u64>,
    ) -> Self {
        let tree = disk.tree();
        Self {
            disk,
            tree,
            on_disk,
            written_version: READ_VERSION,
            bytes_per_second,
            before,
            fresh_bytes_min: FRESH_BYTES_MIN,
            ended: false,
        }
    }

    /// The handle for figures and snapshots.
    pub fn disk(&self) -> Disk {
        self.disk.clone()
    }

    /// Makes `root` durable, with `meta` beside it. When this returns, both are synced and the generation before
    /// is still whole.
    ///
    /// # Errors
    ///
    /// [`DiskError::MetaTooLong`] changes nothing. After any other the process must end: see
    /// [`DiskError::is_final`]; no further checkpoint is accepted.
    pub fn checkpoint<M>(&mut self, root: &Root<M>, meta: &[u8]) -> Result<Completed, DiskError> {
        if meta.len() > META_BYTES_MAX {
            return Err(DiskError::MetaTooLong { bytes: meta.len() });
        }
        if self.ended {
            return Err(DiskError::Ended { dir: self.tree.dir().to_path_buf() });
        }
        self.ended = true;
        let started = Instant::now();
        let completed = if self.prefers_fresh(root)? {
            self.write_fresh(root, meta)?
        } else {
            self.write_in_place(root, meta)?
        };
        let before_bytes = self.before.as_deref().map_or(Ok(0), tree::bytes_below)?;
        let disk_bytes = self.tree.disk_bytes()? + before_bytes;
        self.disk.note_checkpoint(&completed, disk_bytes, root.live_bytes(), started.elapsed());
        self.ended = false;
        Ok(completed)
    }

    /// Whether this checkpoint goes to a fresh directory.
    fn prefers_fresh<M>(&self, root: &Root<M>) -> Result<bool, DiskError> {
        let changed_bytes: u64 = pages_since(root, self.written_version)
            .filter_map(|(table, page)| root.rows_in_page(table, page))
            .map(|page| page.bytes().len() as u64)
            .sum();
        let in_place = self.tree.disk_bytes()? + changed_bytes.saturating_mul(GROWTH_PERCENT) / 100;
        let too_large = in_place > root.live_bytes().saturating_mul(IN_PLACE_PERCENT) / 100;
        let wanted = self.disk.rewrite_wanted() || in_place > self.fresh_bytes_min && too_large;
        // A snapshot being sent reads the directory in force, which a fresh one would soon remove.
        Ok(wanted && self.disk.pinned().is_empty())
    }

    /// Writes the changed pages beside those they replace.
    fn write_in_place<M>(&mut self, root: &Root<M>, meta: &[u8]) -> Result<Completed, DiskError> {
        let manifest = Manifest::of(self.on_disk.newest() + 1, root, meta);
        let generation = manifest.generation;
        let mut writer = PacedWriter::new(&self.tree, self.bytes_per_second);
        // A manifest of this generation must not find pages of a checkpoint that was never completed.
        for stored in std::mem::take(&mut self.on_disk.junk) {
            writer.remove(stored)?;
        }
        for (table, number) in pages_since(root, self.written_version) {
            let Some(page) = root.rows_in_page(table, number) else { continue };
            let stored = writer.put(Kind::Page(table, number), generation, page.bytes())?;
            if let Some(replaced) = self.on_disk.set(stored) {
                self.on_disk.supersede(replaced, generation);
            }
        }
        writer.flush()?;
        let (pages_written, bytes_written) = (writer.pages, writer.bytes);
        self.tree.sync()?;
        let stored = writer.put(Kind::Manifest, generation, &manifest.encode())?;
        writer.flush()?;
        self.tree.sync()?;
        let previous = self.on_disk.manifests.last().map_or(0, |stored| stored.generation);
        self.on_disk.manifests.push(stored);
        self.written_version = root.version();
        self.disk.put_in_force(Arc::clone(&self.tree), manifest);
        self.remove_unneeded(previous)?;
        self.remove_before()?;
        Ok(Completed { generation, previous, pages_written, bytes_written, rewritten: false })
    }

    /// Removes what neither the last two generations nor a snapshot being sent needs.
    fn remove_unneeded(&mut self, previous: u64) -> Result<(), DiskError> {
        let mut needed = self.disk.pinned();
        needed.push(previous);
        needed.extend(self.on_disk.manifests.last().map(|stored| stored.generation));
        let mut writer = PacedWriter::new(&self.tree, self.bytes_per_second);
        let mut kept = Vec::new();
        for (stored, by) in std::mem::take(&mut self.on_disk.superseded) {
            if needed.iter().any(|&generation| stored.generation <= generation && generation < by) {
                kept.push((stored, by));
            } else {
                writer.remove(stored)?;
            }
        }
        self.on_disk.superseded = kept;
        for stored in self.on_disk.manifests.extract_if(.., |stored| stored.generation < previous) {
            writer.remove(stored)?;
        }
        writer.flush()
    }

    /// Removes the directory before: the one in force has the generation before as well by now.
    fn remove_before(&mut self) -> Result<(), DiskError> {
        let Some(before) = self.before.take_if(|_| self.disk.pinned().is_empty()) else { return Ok(()) };
        self.disk.dir().point_to(self.tree.dir(), None)?;
        remove_dir(&before)
    }

    /// Writes the whole root into a fresh directory and puts that in force, as an install does. The old one
    /// stays, with the generation before.
    fn write_fresh<M>(&mut self, root: &Root<M>, meta: &[u8]) -> Result<Completed, DiskError> {
        let dir = self.disk.dir();
        let manifest = Manifest::of(self.on_disk.newest() + 1, root, meta);
        let mut staging = Staging::of_generation(&dir, manifest.generation)?;
        let mut on_disk = OnDisk::default();
        let pages = pages_since(root, 0)
            .filter_map(|(table, number)| root.rows_in_page(table, number).map(|page| (table, number, page)));
        staging.put_pages(pages, &mut on_disk, self.bytes_per_second)?;
        let completed = Completed {
            generation: manifest.generation,
            // What a scrub found damaged is nothing to fall back on: the log stays as far back as it is.
            previous: match self.on_disk.manifests.last() {
                Some(stored) if !self.disk.rewrite_wanted() => stored.generation,
                _ => 0,
            },
            pages_written: staging.pages_written(),
            bytes_written: staging.bytes_written(),
            rewritten: true,
        };
        let (tree, stored) = staging.seal(&manifest)?;
        on_disk.manifests.push(stored);
        let tree = Arc::new(tree);
        let old = std::mem::replace(&mut self.tree, Arc::clone(&tree));
        let old_dir = old.dir().to_path_buf();
        dir.point_to(self.tree.dir(), Some(&old_dir))?;
        self.on_disk = on_disk;
        self.written_version = root.version();
        self.disk.put_in_force(tree, manifest);
        drop(old);
        if let Some(older) = self.before.replace(old_dir) {
            remove_dir(&older)?;
        }
        Ok(completed)
    }
}

#[cfg(test)]
impl Checkpointer {
    /// The tree, for tests that damage it.
    pub(crate) fn into_tree(self) -> Arc<PageTree> {
        self.tree
    }

    /// A checkpointer that believes the tree to be empty.
    pub(crate) fn over(dir: &Arc<super::DataDir>, tree: PageTree) -> Self {
        let disk = Disk::new(Arc::clone(dir), Arc::new(tree), None);
        let mut on_disk = OnDisk::default();
        on_disk.manifests.push(StoredPage::new(Kind::Manifest, 1, 1));
        Self { written_version: 0, ..Self::new(disk, on_disk, None, None) }
    }
}

/// The pages that a publish after `version` wrote, in the order of their keys.
fn pages_since<M>(root: &Root<M>, version: u64) -> impl Iterator<Item = (TableId, u32)> {
    TableId::ALL
        .into_iter()
        .flat_map(move |table| (0..root.page_count(table)).map(move |page| (table, page)))
        .filter(move |&(table, page)| {
            root.rows_in_page(table, page).is_some_and(|page| page.version() > version)
        })
}

/// Waits until so many bytes since `started` are no more than so many a second.
pub(crate) fn keep_pace(started: Instant, bytes: u64, bytes_per_second: u64) {
    let due = Duration::from_millis(bytes.saturating_mul(1_000) / bytes_per_second.max(1));
    std::thread::sleep(due.saturating_sub(started.elapsed()));
}

/// Writes in bounded batches, no faster than it may.
pub(crate) struct PacedWriter<'a> {
    tree: &'a PageTree,
    batch: sled::Batch,
    batch_ops: usize,
    batch_bytes: usize,
    /// Objects and bytes written.
    pub(crate) pages: u64,
    pub(crate) bytes: u64,
    bytes_per_second: Option<u64>,
    started: Instant,
}

impl<'a> PacedWriter<'a> {
    pub(crate) fn new(tree: &'a PageTree, bytes_per_second: Option<u64>) -> Self {
        Self {
            tree,
            batch: sled::Batch::default(),
            batch_ops: 0,
            batch_bytes: 0,
            pages: 0,
            bytes: 0,
            bytes_per_second,
            started: Instant::now(),
        }
    }

    pub(crate) fn put(
        &mut self,
        kind: Kind,
        generation: u64,
        object: &[u8],
    ) -> Result<StoredPage, DiskError> {
        let key = Key { kind, generation, part: 0 };
        seal::seal(key, object, |key, value| {
            self.batch.insert(&key.encode(), value);
            self.batch_ops += 1;
        });
        self.batch_bytes += object.len();
        self.pages += 1;
        self.bytes += object.len() as u64;
        self.flush_if_full()?;
        Ok(StoredPage::new(kind, generation, seal::parts_of(object.len())))
    }

    pub(crate) fn remove(&mut self, stored: StoredPage) -> Result<(), DiskError> {
        for key in stored.keys() {
            self.batch.remove(&key.encode());
            self.batch_ops += 1;
        }
        self.flush_if_full()
    }

    pub(crate) fn flush(&mut self) -> Result<(), DiskError> {
        if self.batch_ops == 0 {
            return Ok(());
        }
        self.tree.apply(std::mem::take(&mut self.batch))?;
        (self.batch_ops, self.batch_bytes) = (0, 0);
        if let Some(rate) = self.bytes_per_second {
            keep_pace(self.started, self.bytes, rate);
        }
        Ok(())
    }

    fn flush_if_full(&mut self) -> Result<(), DiskError> {
        if self.batch_ops >= BATCH_OPS_MAX || self.batch_bytes >= BATCH_BYTES_MAX {
            self.flush()
        } else {
            Ok(())
        }
    }
}
