//! The one writer of the tables, and the handle by which everyone else reads them.

use super::contents::Contents;
use super::root::{Root, TableRoot};
use super::slot::{self, Draft, PageVersion};
use super::working::{Overlay, Working};
use super::{HashKey, PageError, RowHash, TableId};
use arc_swap::{ArcSwap, Guard};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// The tables, owned by their only writer.
pub struct Pages<M> {
    pub(crate) newest: Arc<Root<M>>,
    published: Arc<ArcSwap<Root<M>>>,
    pub(crate) overlay: Overlay,
    /// Published roots that someone may still hold, oldest first; the newest is not among them.
    held: Vec<HeldRoot<M>>,
}

/// A replaced root with a reader, and the pages of which an older version is kept for it.
struct HeldRoot<M> {
    root: Arc<Root<M>>,
    pages: Vec<(TableId, u32)>,
}

/// Reads what the writer published. Cheap to clone and to share.
pub struct Published<M> {
    newest: Arc<ArcSwap<Root<M>>>,
}

impl<M> Pages<M> {
    /// Empty tables.
    pub fn new(hash_key: HashKey, row_hash: RowHash, meta: M) -> Self {
        Self::from_contents(Contents::empty(hash_key, row_hash), meta)
    }

    /// Tables with the contents that were read from disk.
    pub fn from_contents(contents: Contents, meta: M) -> Self {
        let newest = Arc::new(contents.into_root(1, meta));
        Self {
            published: Arc::new(ArcSwap::new(Arc::clone(&newest))),
            newest,
            overlay: Overlay::new(),
            held: Vec::new(),
        }
    }

    /// The handle for readers; it stays valid through [`Pages::adopt`].
    pub fn published(&self) -> Published<M> {
        Published { newest: Arc::clone(&self.published) }
    }

    /// The newest root.
    pub fn root(&self) -> &Arc<Root<M>> {
        &self.newest
    }

    /// Starts a set of changes.
    pub fn working(&mut self) -> Working<'_, M> {
        Working::new(self)
    }

    /// How many replaced roots are still held by readers.
    pub fn roots_held(&self) -> usize {
        self.held.len()
    }

    /// Publishes other contents in place of all tables, as one step. Roots that are held keep the old ones.
    pub fn adopt(&mut self, contents: Contents, meta: M) -> Arc<Root<M>> {
        let root = contents.into_root(self.newest.version + 1, meta);
        // Old page versions now hang on the old spines, which die with the last root that holds them.
        self.held.clear();
        self.newest = Arc::new(root);
        self.published.store(Arc::clone(&self.newest));
        Arc::clone(&self.newest)
    }

    /// Sets the key of the page hash.
    ///
    /// # Errors
    ///
    /// If the tables hold rows: these were placed under the old key.
    pub fn set_hash_key(&mut self, hash_key: HashKey, meta: M) -> Result<Arc<Root<M>>, PageError> {
        let rows = self.newest.tables.iter().map(|table| table.size.rows).sum();
        if rows > 0 {
            return Err(PageError::HashKeyInUse { rows });
        }
        let row_hash = self.newest.row_hash;
        Ok(self.adopt(Contents::empty(hash_key, row_hash), meta))
    }

    pub(crate) fn publish(&mut self, meta: M) -> Arc<Root<M>> {
        let version = self.newest.version + 1;
        let mut tables = self.newest.tables.clone();
        let mut written = Vec::new();
        for (table, overlay) in tables.iter_mut().zip(&mut self.overlay.tables) {
            write_pages(table, version, &mut overlay.changed, &mut written);
            table.size = overlay.size;
        }
        let root = Arc::new(Root {
            version,
            tables,
            digest: self.overlay.digest,
            hash_key: self.newest.hash_key,
            row_hash: self.newest.row_hash,
            meta,
        });
        self.published.store(Arc::clone(&root));
        let root = std::mem::replace(&mut self.newest, Arc::clone(&root));
        self.held.push(HeldRoot { root, pages: Vec::new() });
        self.release_ended(written);
        self.overlay.discard();
        Arc::clone(&self.newest)
    }

    /// Drops the page versions that were kept for roots which nobody holds any more. Each publish does it too, but the
    /// last reader of an old root may end when nothing is published for a long time.
    pub fn release(&mut self) {
        let ended = self.take_ended();
        self.release_roots(ended);
    }

    /// Takes the roots that nobody holds any more off the list.
    fn take_ended(&mut self) -> Vec<HeldRoot<M>> {
        // The list itself keeps one count of each root. A reader cannot take a new one: the published root is
        // a newer one, and swapping that in has turned every borrow of the old one into a count.
        let (ended, held): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|held| Arc::strong_count(&held.root) == 1);
        // Pairs with the release of the last reader's count, so that its reads are over.
        fence(Ordering::Acquire);
        self.held = held;
        ended
    }

    /// Drops the page versions that were kept for roots which nobody holds any more, and those just replaced if nobody
    /// holds the root just replaced.
    fn release_ended(&mut self, written: Vec<PageVersion>) {
        let ended = self.take_ended();
        let held = self.held_versions();
        // The pages just replaced were kept for the root just replaced.
        let replaced = self.newest.version - 1;
        match held.last() {
            Some(&newest) if newest == replaced => {
                if let Some(newest) = self.held.last_mut() {
                    newest.pages = changed_pages(&self.overlay).collect();
                }
            }
            _ => {
                for (page, newest) in changed_pages(&self.overlay).zip(written) {
                    release(&mut self.held, &held, replaced, page, newest);
                }
            }
        }
        self.release_roots(ended);
    }

    fn held_versions(&self) -> Vec<u64> {
        self.held.iter().map(|held| held.root.version).collect()
    }

    fn release_roots(&mut self, ended: Vec<HeldRoot<M>>) {
        let held = self.held_versions();
        for root in ended {
            for (table, page) in root.pages {
                if let Some(newest) = self.newest.newest_page(table, page) {
                    release(&mut self.held, &held, root.root.version, (table, page), newest);
                }
            }
        }
    }
}

#[cfg(test)]
impl<M> Pages<M> {
    /// How many replaced page versions are still in memory.
    pub(crate) fn versions_kept(&self) -> usize {
        let pages = self.newest.tables.iter().flat_map(|table| {
            (0..table.size.pages).filter_map(|page| table.spine.slot(page).and_then(slot::Slot::newest))
        });
        pages.map(|page| slot::versions_behind(&page)).sum()
    }
}

impl<M> Published<M> {
    /// The newest root, to keep. Hold it only as long as one view is needed: what it covers stays in memory.
    pub fn root(&self) -> Arc<Root<M>> {
        self.newest.load_full()
    }

    /// The newest root, for a short look.
    pub fn glance(&self) -> Guard<Arc<Root<M>>> {
        self.newest.load()
    }
}

impl<M> Clone for Published<M> {
    fn clone(&self) -> Self {
        Self { newest: Arc::clone(&self.newest) }
    }
}

fn changed_pages(overlay: &Overlay) -> impl Iterator<Item = (TableId, u32)> {
    let tables = TableId::ALL.into_iter().zip(&overlay.tables);
    tables.flat_map(|(table, overlay)| overlay.changed.iter().map(move |(page, _)| (table, *page)))
}

fn release<M>(
    held: &mut [HeldRoot<M>],
    versions: &[u64],
    ended: u64,
    page: (TableId, u32),
    newest: PageVersion,
) {
    if let Some(next) = slot::release(newest, ended, versions).and_then(|place| held.get_mut(place)) {
        next.pages.push(page);
    }
}

/// Puts the changed pages into their slots, where readers of older roots find what they replace behind them.
fn write_pages(
    table: &mut TableRoot,
    version: u64,
    changed: &mut [(u32, Draft)],
    written: &mut Vec<PageVersion>,
) {
    let Some(last) = changed.iter().map(|(page, _)| *page).max() else { return };
    table.spine.grow(last + 1);
    written.reserve(changed.len());
    for (page, draft) in changed {
        if let Some(slot) = table.spine.slot(*page) {
            let next = draft.finish(version);
            written.push(next.clone());
            slot.put(next);
        }
    }
}
