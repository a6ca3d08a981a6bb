//! The log against openraft's conformance suite, and against cut and damaged files.

mod directory;
mod memory;

use std::path::Path;

use openraft::RaftLogReader;
use openraft::StorageError;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use proptest::prelude::*;
use tempfile::TempDir;

use self::memory::MemoryMachine;
use super::*;
use crate::payload::Payload;
use crate::raft::{BerthConfig, Entry, EntryPayload};

struct Builder;

impl StoreBuilder<BerthConfig, LogStore, MemoryMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, MemoryMachine), StorageError<BerthConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let log = LogStore::open(dir.path(), PurgeGate::open()).unwrap();
        Ok((dir, log, MemoryMachine::default()))
    }
}

#[test]
fn the_log_passes_the_conformance_suite() {
    runtime().block_on(Suite::test_all(Builder)).unwrap();
}

#[test]
fn entries_votes_commits_and_watermark_survive_a_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let watermark = Watermark { generation: 3, position: Some(log_id(1, 4)) };
    runtime().block_on(async {
        let mut log = open(dir.path());
        assert!(log.is_blank());
        fill(&mut log, 10).await;
        log.save_committed(Some(log_id(1, 7))).await.unwrap();
        log.record_checkpoint(watermark).await.unwrap();
    });
    runtime().block_on(async {
        let mut log = open(dir.path());
        assert!(!log.is_blank());
        assert_eq!(log.last(), Some(log_id(1, 9)));
        assert_eq!(log.vote(), Some(Vote::new_committed(1, 1)));
        assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 7)));
        assert_eq!(log.watermark(), Some(watermark));
        let entries = log.get_log_reader().await.try_get_log_entries(2..5).await.unwrap();
        assert_eq!(entries, (2..5).map(entry).collect::<Vec<_>>());
    });
}

#[test]
fn a_commit_the_log_cannot_know_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut log = open(dir.path());
        fill(&mut log, 5).await;
        for (asked, known) in [(4, Some(4)), (9, Some(4)), (2, Some(4))] {
            log.save_committed(Some(log_id(1, asked))).await.unwrap();
            assert_eq!(log.read_committed().await.unwrap().map(|id| id.index()), known);
        }
    });
}

#[test]
fn purging_stops_at_the_gate_except_for_an_installed_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let gate = PurgeGate::closed();
        let mut log = LogStore::open(dir.path(), gate.clone()).unwrap();
        fill(&mut log, 20).await;
        log.purge(log_id(1, 15)).await.unwrap();
        assert_eq!(log.purged(), None, "the gate is closed");

        gate.advance(log_id(1, 6));
        gate.advance(log_id(1, 3));
        log.purge(log_id(1, 15)).await.unwrap();
        assert_eq!(log.purged(), Some(log_id(1, 6)));
        log.purge(log_id(1, 5)).await.unwrap();
        assert_eq!(log.purged(), Some(log_id(1, 6)), "purging never goes back");

        log.purge(log_id(3, 40)).await.unwrap();
        assert_eq!((log.purged(), log.last()), (Some(log_id(3, 40)), Some(log_id(3, 40))));
    });
    // The vote is older than the snapshot's position, which is no damage.
    assert_eq!(open(dir.path()).last(), Some(log_id(3, 40)));
}

#[test]
fn a_long_backlog_is_read_in_bounded_batches() {
    use futures_util::TryStreamExt;
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut log = open(dir.path());
        log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
        let large = bytes::Bytes::from(vec![7; 400 * 1024]);
        let entries: Vec<_> = (0..10)
            .map(|index| Entry {
                log_id: log_id(1, index),
                payload: EntryPayload::Normal(Payload::commands(0, std::slice::from_ref(&large)).unwrap()),
            })
            .collect();
        append(&mut log, entries.clone()).await;
        let mut reader = log.get_log_reader().await;
        assert_eq!(reader.limited_get_log_entries(0, 10).await.unwrap().len(), 2);
        let streamed: Vec<Entry> = reader.entries_stream(0..10).await.try_collect().await.unwrap();
        assert_eq!(streamed, entries);
    });
}

#[test]
fn a_second_opening_says_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let _held = open(dir.path());
    assert!(matches!(LogStore::open(dir.path(), PurgeGate::closed()), Err(LogError::Locked { .. })));
}

#[test]
fn a_log_cut_at_any_byte_of_its_last_record_opens_as_a_shorter_log() {
    let dir = tempfile::tempdir().unwrap();
    let lens = write_and_measure(dir.path(), 6);
    let file = only_file(dir.path());
    let whole = std::fs::read(&file).unwrap();
    for cut in lens[5]..whole.len() as u64 {
        // Opening a cut log continues it in another file, so each cut has a directory of its own.
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(file.file_name().unwrap()), &whole[..cut as usize]).unwrap();
        let log = open(dir.path());
        assert_eq!(log.last(), Some(log_id(1, 4)), "cut at {cut} of {}", whole.len());
        assert_eq!(log.vote(), Some(Vote::new_committed(1, 1)));
    }
}

#[test]
fn a_zeroed_tail_opens_as_a_shorter_log() {
    let dir = tempfile::tempdir().unwrap();
    let lens = write_and_measure(dir.path(), 6);
    let file = only_file(dir.path());
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[lens[5] as usize..].fill(0);
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(open(dir.path()).last(), Some(log_id(1, 4)));
}

#[test]
fn a_flipped_bit_anywhere_is_damage_and_never_a_shorter_log() {
    let dir = tempfile::tempdir().unwrap();
    write_and_measure(dir.path(), 4);
    let file = only_file(dir.path());
    let whole = std::fs::read(&file).unwrap();
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            std::fs::write(&file, &bytes).unwrap();
            match LogStore::open(dir.path(), PurgeGate::closed()) {
                Err(LogError::Damaged { .. }) => {}
                Err(error) => panic!("byte {at} bit {bit}: {error}"),
                Ok(log) => {
                    let found = (log.last(), log.vote());
                    panic!("byte {at} bit {bit} went unnoticed: {found:?} of {} bytes", whole.len());
                }
            }
            assert_eq!(std::fs::read(&file).unwrap(), bytes, "a damaged log must not be altered");
        }
    }
}

#[test]
fn a_last_vote_with_a_flipped_bit_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut log = open(dir.path());
        fill(&mut log, 2).await;
        log.save_vote(&Vote::new(2, 3)).await.unwrap();
    });
    let file = only_file(dir.path());
    let whole = std::fs::read(&file).unwrap();
    for at in whole.len() - 44..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            std::fs::write(&file, &bytes).unwrap();
            let opened = LogStore::open(dir.path(), PurgeGate::closed());
            assert!(matches!(opened, Err(LogError::Damaged { .. })), "byte {at} bit {bit}");
        }
    }
}

#[test]
fn damage_says_how_to_replace_the_node() {
    let dir = tempfile::tempdir().unwrap();
    write_and_measure(dir.path(), 4);
    let file = only_file(dir.path());
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&file, &bytes).unwrap();
    let Err(error) = LogStore::open(dir.path(), PurgeGate::closed()) else { panic!("opened") };
    let said = error.to_string();
    assert!(said.contains("must not vote") && said.contains("--join"), "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_log_cut_anywhere_keeps_a_prefix(entries in 1u64..12, cut in 0.0f64..1.0) {
        let dir = tempfile::tempdir().unwrap();
        write_and_measure(dir.path(), entries);
        let file = only_file(dir.path());
        let whole = std::fs::read(&file).unwrap();
        let keep = (whole.len() as f64 * cut) as usize;
        std::fs::write(&file, &whole[..keep]).unwrap();
        let log = open(dir.path());
        let last = log.last().map(|id| id.index());
        prop_assert!(last.is_none_or(|last| last < entries));
        // A vote is written before the first entry, so a prefix with entries has it.
        prop_assert!(last.is_none() || log.vote().is_some());
    }

    #[test]
    fn arbitrary_bytes_in_place_of_the_log_never_panic(bytes in prop::collection::vec(any::<u8>(), 1..400)) {
        let dir = tempfile::tempdir().unwrap();
        write_and_measure(dir.path(), 2);
        std::fs::write(only_file(dir.path()), &bytes).unwrap();
        // Short rubbish may look like a torn first record; anything else is refused.
        if let Ok(log) = LogStore::open(dir.path(), PurgeGate::closed()) {
            prop_assert!(log.is_blank());
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn open(dir: &Path) -> LogStore {
    LogStore::open(dir, PurgeGate::closed()).unwrap()
}

fn entry(index: u64) -> Entry {
    let payload = if index == 0 {
        EntryPayload::Blank
    } else {
        let command = bytes::Bytes::from(vec![index as u8; 5]);
        EntryPayload::Normal(Payload::commands(index, &[command]).unwrap())
    };
    Entry { log_id: log_id(1, index), payload }
}

async fn append(log: &mut LogStore, entries: Vec<Entry>) {
    log.blocking_append(entries).await.unwrap();
}

async fn fill(log: &mut LogStore, entries: u64) {
    log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    append(log, (0..entries).map(entry).collect()).await;
}

/// Writes a log of `entries` entries in one file, and tells the file's length before each of them.
fn write_and_measure(dir: &Path, entries: u64) -> Vec<u64> {
    runtime().block_on(async {
        let mut log = open(dir);
        log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
        let mut lens = Vec::new();
        for index in 0..entries {
            lens.push(std::fs::metadata(only_file(dir)).unwrap().len());
            append(&mut log, vec![entry(index)]).await;
        }
        lens
    })
}

fn only_file(dir: &Path) -> PathBuf {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "wal"))
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}
