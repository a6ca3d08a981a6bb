//! The rules by which sled is contained, each by its number. What R6 asks of snapshots is in `snapshots`, what R3
//! to R5 ask of damage also in `damage`.

use super::keys::{Key, Kind};
use super::seal::STORED_BYTES_MAX;
use super::*;
use crate::log::{LogStore, PurgeGate, Watermark};
use crate::machine::{Machine, MachineOptions, OpenError};
use crate::raft::log_id;
use std::fs;

#[test]
fn r1_there_is_one_tree_with_keys_of_one_width_and_a_manifest_beside_its_pages() {
    let at = TempDir::new().unwrap();
    let mut node = Node::new(&at);
    for table in TableId::ALL {
        node.put(table, b"a key", b"a value");
    }
    node.checkpoint(b"applied 7");
    drop(node);
    let tree = raw_tree(&at.path().join("pages-1"));
    assert_eq!(tree.raw().tree_names().len(), 1);
    let keys: Vec<Key> = tree.raw().iter().keys().map(|key| Key::decode(&key.unwrap()).unwrap()).collect();
    assert_eq!(keys.len(), TableId::COUNT + 1, "one page a table, and the manifest");
}

#[test]
fn r2_a_million_of_the_longest_device_ids_are_stored_in_sealed_values_of_4_kib_at_most() {
    const IDS: u32 = 1_000_000;
    const BATCH: u32 = 10_000;
    let mut pages = Pages::new(KEY, row_hash, Vec::<u8>::new());
    for first in (0..IDS).step_by(BATCH as usize) {
        let mut working = pages.working();
        for number in first..first + BATCH {
            let key = format!("{number:0>128}").into_bytes();
            let hash = working.hash_of(TableId::Devices, &key);
            assert_eq!(working.put(TableId::Devices, hash, &key, &[1; 28]), Ok(false));
        }
        working.publish(Vec::new());
    }
    let root = Arc::clone(pages.root());
    assert_eq!(root.row_count(TableId::Devices), u64::from(IDS));
    let (mut rows, mut in_parts) = (0, 0);
    for number in 0..root.page_count(TableId::Devices) {
        let page = root.rows_in_page(TableId::Devices, number).unwrap();
        rows += page.row_count();
        let key = Key { kind: Kind::Page(TableId::Devices, number), generation: 1, part: 0 };
        seal::seal(key, page.bytes(), |key, value| {
            assert!(value.len() <= STORED_BYTES_MAX);
            assert!(seal::open(key, &value).is_ok());
            in_parts += u32::from(key.part > 0);
        });
    }
    assert_eq!(rows as u32, IDS);
    assert!(in_parts > 0, "some pages are larger than one value");
}

#[test]
fn r2_every_stored_value_is_sealed_and_of_4_kib_at_most() {
    let at = TempDir::new().unwrap();
    let mut node = Node::new(&at);
    node.change(
        (0..20_000).map(|n: u32| (TableId::Devices, format!("{n:0>128}").into_bytes(), Some(vec![1; 300]))),
    );
    let completed = node.checkpoint(&[7; 10_000]);
    drop(node);
    let tree = raw_tree(&at.path().join("pages-1"));
    let mut values = 0;
    for item in tree.raw().iter() {
        let (key, value) = item.unwrap();
        assert!(seal::open(Key::decode(&key).unwrap(), &value).is_ok());
        assert!(value.len() <= STORED_BYTES_MAX, "{}", value.len());
        values += 1;
    }
    assert!(values > completed.pages_written);
    assert_eq!(fs::read_dir(at.path().join("pages-1").join("blobs")).unwrap().count(), 0);
}

#[test]
fn r3_a_generation_older_than_the_record_outside_is_told() {
    let at = TempDir::new().unwrap();
    let mut node = Node::new(&at);
    node.put_devices(0..10, 1);
    assert_eq!(node.checkpoint(b"").generation, 1);
    let (opened, dir, model) = node.reopen(&expecting(2));
    let opened = opened.unwrap();
    assert!(matches!(&opened.source, Source::FellBack { why } if why.contains("generation 2 was lost")));
    let mut node = Node::of(&dir, opened, model);
    assert_eq!(node.checkpoint(b"").generation, 3, "a number is not given twice");
    let (opened, ..) = node.reopen(&expecting(3));
    assert!(matches!(opened.unwrap().source, Source::Newest));
}

#[test]
fn r3_the_machine_reads_the_record() {
    let at = TempDir::new().unwrap();
    let dir = Arc::new(DataDir::lock(&at.path().join("data")).unwrap());
    let log = LogStore::open(&at.path().join("log"), PurgeGate::open()).unwrap();
    let open = || Machine::open(&dir, &log, MachineOptions::default());
    assert_eq!(open().unwrap().1.fell_back, None);
    log.record_checkpoint_blocking(Watermark { generation: 7, position: None }).unwrap();
    let (_, report) = open().unwrap();
    assert!(report.fell_back.is_some_and(|why| why.contains("generation 7 was lost")));
    log.record_checkpoint_blocking(Watermark { generation: 7, position: Some(log_id(1, 4)) }).unwrap();
    let lost = open().map(|_| ()).unwrap_err();
    assert!(matches!(lost, OpenError::Lost { pages: None, log: None, recorded: 4 }), "{lost}");
    assert!(lost.is_damage() && Machine::rebuilding(&dir, &log, MachineOptions::default()).is_ok());
}

#[test]
fn r3_a_failed_sync_ends_all_checkpoints_and_the_generation_before_stays() {
    let at = TempDir::new().unwrap();
    let mut node = Node::new(&at);
    node.put_devices(0..10, 1);
    node.checkpoint(b"before");
    let before = node.model.clone();
    let Node { dir, pages, checkpointer, .. } = node;
    drop(checkpointer);
    let opened = open(&dir, &options()).unwrap();
    let mut tree = Arc::into_inner(opened.checkpointer.into_tree()).unwrap();
    tree.break_sync();
    let mut checkpointer = Checkpointer::over(&dir, tree);
    let failed = checkpointer.checkpoint(pages.root(), b"after").unwrap_err();
    assert!(matches!(failed, DiskError::Sync { .. }) && failed.is_final(), "{failed}");
    let ended = checkpointer.checkpoint(pages.root(), b"after").unwrap_err();
    assert!(matches!(ended, DiskError::Ended { .. }) && ended.is_final());
    drop(checkpointer);
    let opened = open(&dir, &expecting(1)).unwrap();
    assert_eq!(opened.meta, b"before");
    Node::of(&dir, opened, before);
}

#[test]
fn r4_one_process_works_in_a_directory_and_half_written_snapshots_of_sled_are_removed() {
    let at = TempDir::new().unwrap();
    let mut node = Node::new(&at);
    let second = DataDir::lock(at.path());
    assert!(
        matches!(&second, Err(DiskError::InUse { dir }) if dir.ends_with(at.path().file_name().unwrap()))
    );
    node.put_devices(0..10, 1);
    node.checkpoint(b"");
    let Node { dir, checkpointer, pages, model } = node;
    drop((checkpointer, pages));
    let half = at.path().join("pages-1").join("snap.00000000000FFFFF.generating");
    fs::write(&half, b"half of it").unwrap();
    fs::write(at.path().join("CURRENT.next"), b"half").unwrap();
    let opened = open(&dir, &expecting(1)).unwrap();
    assert!(!half.exists() && !at.path().join("CURRENT.next").exists());
    Node::of(&dir, opened, model);
}

#[test]
fn r5_a_scrub_reads_every_row_again() {
    let at = TempDir::new().unwrap();
    let mut node = Node::new(&at);
    node.put_devices(0..5_000, 1);
    node.put(TableId::Objects, b"stamp", b"one");
    let generation = node.checkpoint(b"").generation;
    let disk = node.checkpointer.disk();
    let scrub = || disk.scrub(snapshots::LONG, u64::MAX);
    let scrubbed = scrub().unwrap();
    assert_eq!((scrubbed.generation, scrubbed.rows), (generation, 5_001));
    assert!(!node.checkpoint(b"").rewritten);
    let tree = disk.tree();
    let (key, _) = tree.raw().iter().next().unwrap().unwrap();
    tree.raw().remove(key).unwrap();
    drop(tree);
    assert!(scrub().unwrap_err().is_damage());
    assert!(node.checkpoint(b"").rewritten, "what is damaged is written anew");
    assert_eq!(scrub().unwrap().rows, 5_001);
    assert!(!node.checkpoint(b"").rewritten, "once is enough");
}

#[test]
fn r7_much_change_goes_to_a_fresh_directory_and_the_one_before_stays_to_fall_back_on() {
    let at = TempDir::new().unwrap();
    let mut node = Node::new(&at);
    node.checkpointer.fresh_bytes_min = 0;
    let mut before = Model::new();
    for round in 1..5_u8 {
        before = node.model.clone();
        node.put_devices(0..5_000, round);
        let completed = node.checkpoint(&[round]);
        // The first has a fresh directory to itself anyway.
        assert_eq!(completed.rewritten, round > 1);
        assert_eq!((completed.generation, completed.previous), (u64::from(round), u64::from(round) - 1));
        let stats = node.checkpointer.disk().stats();
        assert_eq!((stats.rewrites, stats.generation), (u64::from(round) - 1, completed.generation));
        assert_eq!(node.dir.pages_dirs().unwrap().len(), if round > 1 { 2 } else { 1 });
    }
    let (opened, dir, model) = node.reopen(&expecting(4));
    let opened = opened.unwrap();
    assert_eq!((&opened.meta[..], &opened.source), (&[4][..], &Source::Newest));
    let node = Node::of(&dir, opened, model);
    drop((node.pages, node.checkpointer));

    let newest = dir.pages_dirs().unwrap().pop().unwrap();
    fs::write(newest.join("db"), b"nothing is left").unwrap();
    let opened = open(&dir, &expecting(4)).unwrap();
    assert!(matches!(opened.source, Source::FellBack { .. }), "{:?}", opened.source);
    assert_eq!(opened.meta, [3]);
    assert!(!newest.exists() && at.path().join("quarantine-1").exists());
    let mut node = Node::of(&dir, opened, before);
    let next = node.checkpoint(b"next");
    assert_eq!(next.previous, 3);
    assert!(next.generation > 4, "no generation is used twice");
    let (opened, dir, model) = node.reopen(&expecting(next.generation));
    Node::of(&dir, opened.unwrap(), model);
}

#[test]
fn r7_the_directory_before_goes_once_the_one_in_force_holds_two_generations_and_no_snapshot_needs_it() {
    let at = TempDir::new().unwrap();
    let mut node = Node::new(&at);
    node.put_devices(0..5_000, 1);
    node.checkpoint(b"one");
    let reader = node.checkpointer.disk().snapshot(snapshots::LONG).unwrap();
    node.checkpointer.fresh_bytes_min = 0;
    node.put_devices(0..5_000, 2);
    assert!(!node.checkpoint(b"two").rewritten, "a snapshot being sent keeps the directory");
    drop(reader);
    node.put_devices(0..5_000, 3);
    assert!(node.checkpoint(b"three").rewritten);
    assert_eq!(node.dir.pages_dirs().unwrap().len(), 2);
    node.checkpointer.fresh_bytes_min = u64::MAX;
    node.put_devices(0..10, 4);
    let completed = node.checkpoint(b"four");
    assert!(!completed.rewritten);
    pages_dir(&node.dir);
    let (opened, dir, model) = node.reopen(&expecting(completed.generation));
    Node::of(&dir, opened.unwrap(), model);
}

#[test]
fn r9_garbage_is_collected_so_that_checkpoints_do_not_grow_the_files_without_bound() {
    let at = TempDir::new().unwrap();
    let mut node = Node::new(&at);
    node.checkpointer.fresh_bytes_min = u64::MAX;
    let mut sizes = Vec::new();
    for round in 0..24_u8 {
        node.put_devices(0..60_000, round);
        node.checkpoint(&[round]);
        let stats = node.checkpointer.disk().stats();
        assert_eq!(stats.rewrites, 0, "all in one directory");
        sizes.push(stats.amplification_percent());
    }
    let (early, late) = (sizes[4..10].iter().max().unwrap(), sizes[18..].iter().max().unwrap());
    assert!(late * 10 <= early * 15, "bytes on disk for each 100 live ones: {sizes:?}");
}

#[test]
fn r10_free_space_is_measured_and_the_ballast_can_be_given_back() {
    let at = TempDir::new().unwrap();
    let dir = DataDir::lock(at.path()).unwrap();
    let space = dir.free_space().unwrap();
    assert!(space.free_bytes > 0 && space.free_bytes <= space.total_bytes);
    assert!(space.is_short(space.free_bytes / 2 + 1));
    let ballast = at.path().join("BALLAST");
    dir.take_ballast(3_000_000).unwrap();
    dir.take_ballast(3_000_000).unwrap();
    assert_eq!(fs::metadata(&ballast).unwrap().len(), 3_000_000);
    dir.drop_ballast().unwrap();
    dir.drop_ballast().unwrap();
    assert!(!ballast.exists());
}
