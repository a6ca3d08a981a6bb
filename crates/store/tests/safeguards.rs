//! Safeguards that `.ci/break-it` takes out one by one: each of these tests must then fail.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_store::disk::{self, DataDir, OpenOptions};
use berth_store::log::{LogStore, PurgeGate};
use berth_store::pages::{HashKey, Pages, TableId, page_hash};
use berth_store::payload::Payload;
use berth_store::raft::{BerthConfig, Entry, EntryPayload, Vote, log_id};
use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftLogStorageExt};
use openraft::type_config::TypeConfigExt;

/// Bytes of one entry, and how many: enough that writing them takes longer than looking at the file.
const ENTRY_BYTES: usize = 2 * 1024 * 1024;
const ENTRIES: u64 = 8;

/// What a process killed at the moment of the acknowledgement leaves behind has all that was acknowledged.
#[test]
fn an_acknowledged_append_is_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut log = LogStore::open(dir.path(), PurgeGate::closed()).unwrap();
        log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
        log.blocking_append([Entry { log_id: log_id(1, 0), payload: EntryPayload::Blank }]).await.unwrap();
        let before = std::fs::metadata(only_log_file(dir.path())).unwrap().len();
        let (done, acknowledged) = BerthConfig::oneshot();
        let large = (1..=ENTRIES).map(|index| {
            let command = Bytes::from(vec![index as u8; ENTRY_BYTES]);
            Entry {
                log_id: log_id(1, index),
                payload: EntryPayload::Normal(Payload::commands(index, &[command]).unwrap()),
            }
        });
        log.append(large.collect::<Vec<_>>(), IOFlushed::signal(done)).await.unwrap();
        acknowledged.await.unwrap().unwrap();
        let after = std::fs::metadata(only_log_file(dir.path())).unwrap().len();
        let written = after - before;
        assert!(written >= ENTRIES * ENTRY_BYTES as u64, "acknowledged with {written} bytes in the file");
    });
}

fn only_log_file(dir: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(dir)
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "wal"));
    let only = files.next().unwrap();
    assert_eq!(files.next(), None);
    only
}

/// sled checks its own files; what it was told to keep, only the seal can tell from something else.
#[test]
fn an_altered_value_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let data = Arc::new(DataDir::lock(dir.path()).unwrap());
    let options = OpenOptions::new(|key: &HashKey, _: TableId, row: &[u8]| page_hash(key, row));
    let opened = disk::open(&data, &options).unwrap();
    let mut checkpointer = opened.checkpointer;
    let mut pages = Pages::from_contents(opened.contents, opened.meta);
    pages.set_hash_key(HashKey([5; 16]), Vec::new()).unwrap();
    checkpointer.checkpoint(pages.root(), b"applied up to 41").unwrap();
    let tree_dir = only_pages_dir(dir.path());
    drop((checkpointer, pages));

    let altered = alter(&tree_dir, b"applied up to 41", b"applied up to 42");
    assert_eq!(altered, 1, "the manifest of the only checkpoint");
    if let Ok(opened) = disk::open(&data, &options) {
        assert_ne!(opened.meta, b"applied up to 42", "an altered value was believed");
    }
}

fn only_pages_dir(data: &Path) -> PathBuf {
    let mut found = std::fs::read_dir(data)
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("pages-"));
    let only = found.next().unwrap();
    assert_eq!(found.next(), None);
    only
}

/// Replaces some bytes by others in every value that has them; tells in how many.
fn alter(tree: &Path, from: &[u8], to: &[u8]) -> usize {
    // sled lets go of its file a moment after its last user.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let db = loop {
        match sled::open(tree) {
            Ok(db) => break db,
            Err(error) => assert!(std::time::Instant::now() < until, "{error}"),
        }
        std::thread::yield_now();
    };
    let mut altered = 0;
    for item in db.iter() {
        let (key, value) = item.unwrap();
        let Some(at) = value.windows(from.len()).position(|window| window == from) else { continue };
        let mut other = value.to_vec();
        other[at..at + to.len()].copy_from_slice(to);
        db.insert(key, other).unwrap();
        altered += 1;
    }
    db.flush().unwrap();
    altered
}
