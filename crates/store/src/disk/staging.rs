//! Pages written into a directory of their own, and put in force by one rename: how snapshots are installed, and
//! how a directory that has grown too far is rewritten.

use super::DiskError;
use super::checkpoint::{Checkpointer, OnDisk, PacedWriter, StoredPage};
use super::data_dir::{DataDir, Pointer, sync_dir};
use super::keys::Kind;
use super::load::{Loaded, Opened, Source, read_generation_whole};
use super::manifest::Manifest;
use super::snapshot::{Disk, pages_of};
use super::tree::PageTree;
use crate::pages::{PageView, RowHash, TableId};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Generations left free before that of a received directory: as many checkpoints may be completed while it
/// arrives, and it must come after them.
pub(crate) const GENERATION_ROOM: u64 = 1_000;

/// A pages directory being filled. It is not in force; if it is dropped, or the process ends, it is removed.
pub struct Staging {
    dir: Arc<DataDir>,
    tree: PageTree,
    generation: u64,
    pages: u64,
    bytes: u64,
    unused: RemoveUnused,
}

/// A filled and verified pages directory, one step from being in force.
pub struct Staged {
    dir: Arc<DataDir>,
    tree: PageTree,
    loaded: Loaded,
    unused: RemoveUnused,
}

/// Removes a directory that did not come into force.
struct RemoveUnused(Option<PathBuf>);

impl Drop for RemoveUnused {
    fn drop(&mut self) {
        if let Some(dir) = self.0.take() {
            // What stays is removed at the next open.
            if let Err(error) = fs::remove_dir_all(&dir) {
                tracing::warn!(dir = %dir.display(), %error, "cannot remove an unfinished pages directory");
            }
        }
    }
}

impl Staging {
    /// Starts an empty directory for a snapshot. Its generation will be well after `above`, the newest that this
    /// node ever completed, so that generations never go back.
    ///
    /// # Errors
    ///
    /// [`DiskError::Io`], [`DiskError::Store`] or [`DiskError::Sync`] if it cannot be made.
    pub fn create(dir: &Arc<DataDir>, above: u64) -> Result<Self, DiskError> {
        Self::of_generation(dir, above + GENERATION_ROOM)
    }

    pub(crate) fn of_generation(dir: &Arc<DataDir>, generation: u64) -> Result<Self, DiskError> {
        let path = dir.new_pages_dir()?;
        let unused = RemoveUnused(Some(path.clone()));
        let tree = PageTree::create(&path)?;
        Ok(Self { dir: Arc::clone(dir), tree, generation, pages: 0, bytes: 0, unused })
    }

    /// Writes the pages of one chunk of [`super::SnapshotReader::next_chunk`]. Writing a chunk twice does no harm.
    ///
    /// # Errors
    ///
    /// [`DiskError::Chunk`] if it is damaged; nothing of it is written then.
    pub fn write_chunk(&mut self, chunk: &[u8]) -> Result<(), DiskError> {
        let pages = pages_of(chunk)?;
        let mut writer = PacedWriter::new(&self.tree, None);
        for (table, number, page) in pages {
            writer.put(Kind::Page(table, number), self.generation, page)?;
        }
        writer.flush()?;
        (self.pages, self.bytes) = (self.pages + writer.pages, self.bytes + writer.bytes);
        Ok(())
    }

    /// Completes the directory with the manifest that was sent, syncs it, and reads it all back.
    ///
    /// # Errors
    ///
    /// [`DiskError::Manifest`] or [`DiskError::Unverified`] if what was received is not what was sent.
    pub fn finish(self, manifest: &[u8], row_hash: RowHash) -> Result<Staged, DiskError> {
        let manifest = Manifest { generation: self.generation, ..Manifest::decode(manifest)? };
        self.complete(&manifest)?;
        let Self { dir, unused, tree, .. } = self;
        let loaded = read_generation_whole(&tree, manifest, row_hash)?;
        Ok(Staged { dir, tree, loaded, unused })
    }

    /// Bytes of pages written so far.
    pub fn bytes_written(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn pages_written(&self) -> u64 {
        self.pages
    }

    pub(crate) fn put_pages(
        &mut self,
        pages: impl Iterator<Item = (TableId, u32, PageView)>,
        on_disk: &mut OnDisk,
        bytes_per_second: Option<u64>,
    ) -> Result<(), DiskError> {
        let mut writer = PacedWriter::new(&self.tree, bytes_per_second);
        for (table, number, page) in pages {
            on_disk.set(writer.put(Kind::Page(table, number), self.generation, page.bytes())?);
        }
        writer.flush()?;
        (self.pages, self.bytes) = (self.pages + writer.pages, self.bytes + writer.bytes);
        Ok(())
    }

    /// Syncs the pages, then the manifest. The directory is whole afterwards, and no longer removed when dropped.
    pub(crate) fn seal(mut self, manifest: &Manifest) -> Result<(PageTree, StoredPage), DiskError> {
        let stored = self.complete(manifest)?;
        self.unused.0 = None;
        Ok((self.tree, stored))
    }

    fn complete(&self, manifest: &Manifest) -> Result<StoredPage, DiskError> {
        self.tree.sync()?;
        let mut writer = PacedWriter::new(&self.tree, None);
        let stored = writer.put(Kind::Manifest, manifest.generation, &manifest.encode())?;
        writer.flush()?;
        self.tree.sync()?;
        sync_dir(self.tree.dir())?;
        Ok(stored)
    }
}

impl Staged {
    /// Where it lies.
    pub fn dir(&self) -> &Path {
        self.tree.dir()
    }

    /// What was received.
    pub fn manifest(&self) -> &Manifest {
        &self.loaded.manifest
    }

    /// Puts the directory in force: before the one rename in here the old pages are, after it the new ones.
    /// `old` is what wrote the old ones, if they could be opened; its handles go on with the new ones.
    ///
    /// # Errors
    ///
    /// [`DiskError::Io`] or [`DiskError::Sync`]. Then it is open which of the two is in force, and the process
    /// must end.
    pub fn adopt(
        self,
        old: Option<Checkpointer>,
        bytes_per_second: Option<u64>,
    ) -> Result<Opened, DiskError> {
        let Self { dir, loaded, mut unused, tree } = self;
        let replaced = match dir.pointer()? {
            Pointer::Names { pages, before } => std::iter::once(pages).chain(before).collect(),
            Pointer::Missing | Pointer::Damaged => Vec::new(),
        };
        unused.0 = None;
        dir.point_to(tree.dir(), None)?;
        let Loaded { manifest, contents, on_disk } = loaded;
        let (meta, generation, tree) = (manifest.meta.clone(), manifest.generation, Arc::new(tree));
        let disk = match old {
            Some(old) => {
                let disk = old.disk();
                disk.put_in_force(tree, manifest);
                disk
            }
            None => Disk::new(Arc::clone(&dir), tree, Some(manifest)),
        };
        for replaced in replaced {
            remove_dir(&replaced)?;
        }
        let checkpointer = Checkpointer::new(disk, on_disk, None, bytes_per_second);
        Ok(Opened { contents, meta, generation, source: Source::Newest, checkpointer })
    }
}

/// Removes a pages directory that is no longer in force.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), DiskError> {
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(|e| DiskError::io("remove", dir, e))?;
    }
    Ok(())
}
