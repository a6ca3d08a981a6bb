//! The disk as a whole: what was checkpointed comes back, or is refused, whatever happened in between.

mod contents;
mod damage;
mod rules;
mod snapshots;

use super::*;
use crate::pages::{HashKey, PAGE_TARGET_BYTES, Pages, TableId, page_hash};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// What the tables should hold.
type Model = BTreeMap<(TableId, Vec<u8>), Vec<u8>>;

const KEY: HashKey = HashKey([5; 16]);

fn row_hash(key: &HashKey, _table: TableId, row_key: &[u8]) -> u64 {
    page_hash(key, row_key)
}

fn options() -> OpenOptions {
    OpenOptions::new(row_hash)
}

fn expecting(newest: u64) -> OpenOptions {
    OpenOptions { expected: Some(newest), ..options() }
}

/// Tables, their disk, and what they should hold.
struct Node {
    dir: Arc<DataDir>,
    pages: Pages<Vec<u8>>,
    checkpointer: Checkpointer,
    model: Model,
}

impl Node {
    /// A node in a new directory.
    fn new(at: &TempDir) -> Self {
        let dir = Arc::new(DataDir::lock(at.path()).unwrap());
        let opened = open(&dir, &options()).unwrap();
        assert_eq!((opened.generation, &opened.source), (0, &Source::New));
        let mut node = Self::of(&dir, opened, Model::new());
        node.pages.set_hash_key(KEY, Vec::new()).unwrap();
        node
    }

    fn of(dir: &Arc<DataDir>, opened: Opened, model: Model) -> Self {
        let Opened { contents, meta, checkpointer, .. } = opened;
        let node =
            Self { dir: Arc::clone(dir), pages: Pages::from_contents(contents, meta), checkpointer, model };
        node.assert_whole();
        node
    }

    fn put(&mut self, table: TableId, key: &[u8], value: &[u8]) {
        self.change([(table, key.to_vec(), Some(value.to_vec()))]);
    }

    /// Numbered devices, all with a value of the given length and filling.
    fn put_devices(&mut self, numbers: impl IntoIterator<Item = u32>, filling: u8) {
        self.change(
            numbers
                .into_iter()
                .map(|n| (TableId::Devices, format!("device-{n}").into_bytes(), Some(vec![filling; 28]))),
        );
    }

    fn change(&mut self, changes: impl IntoIterator<Item = (TableId, Vec<u8>, Option<Vec<u8>>)>) {
        let mut working = self.pages.working();
        for (table, key, value) in changes {
            let hash = working.hash_of(table, &key);
            match value {
                Some(value) => {
                    working.put(table, hash, &key, &value).unwrap();
                    self.model.insert((table, key), value);
                }
                None => {
                    working.remove(table, hash, &key);
                    self.model.remove(&(table, key));
                }
            }
        }
        working.publish(Vec::new());
    }

    fn checkpoint(&mut self, meta: &[u8]) -> Completed {
        let root = Arc::clone(self.pages.root());
        self.checkpointer.checkpoint(&root, meta).unwrap()
    }

    /// Ends without another checkpoint, as a killed process does, and opens the directory again.
    fn reopen(self, options: &OpenOptions) -> (Result<Opened, DiskError>, Arc<DataDir>, Model) {
        let Self { dir, pages, checkpointer, model } = self;
        drop((pages, checkpointer));
        (open(&dir, options), dir, model)
    }

    fn assert_whole(&self) {
        assert_holds(&self.pages, &self.model);
    }
}

fn assert_holds(pages: &Pages<Vec<u8>>, model: &Model) {
    let root = pages.root();
    let mut rows = Model::new();
    for table in TableId::ALL {
        for page in 0..root.page_count(table) {
            for (key, value) in root.rows_in_page(table, page).iter().flat_map(|page| page.rows()) {
                rows.insert((table, key.to_vec()), value.to_vec());
            }
        }
    }
    assert_eq!(&rows, model);
    assert_eq!(root.digest(), root.recompute_digest());
}

/// The pages directory in force.
fn pages_dir(dir: &DataDir) -> std::path::PathBuf {
    let dirs = dir.pages_dirs().unwrap();
    assert_eq!(dirs.len(), 1, "{dirs:?}");
    dirs[0].clone()
}

/// Opens sled itself, as a test of what lies in it.
fn raw_tree(dir: &Path) -> tree::PageTree {
    tree::PageTree::open(dir).unwrap()
}

/// As many devices as give a table of a few pages.
const FEW_PAGES: u32 = (PAGE_TARGET_BYTES / 10) as u32;
