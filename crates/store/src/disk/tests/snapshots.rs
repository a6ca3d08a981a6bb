//! Snapshots out and in.

use super::*;
use std::time::Duration;

/// Far longer than any test takes.
pub(super) const LONG: Duration = Duration::from_secs(3_600);

fn copy(from: &Disk, staging: &mut Staging) -> Vec<u8> {
    let mut reader = from.snapshot(LONG).unwrap();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        assert!(chunk.len() <= SNAPSHOT_CHUNK_BYTES);
        staging.write_chunk(&chunk).unwrap();
    }
    reader.manifest().encode()
}

#[test]
fn a_snapshot_installs_on_another_node_and_survives_its_restart() {
    let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut source = Node::new(&here);
    source.put_devices(0..50_000, 1);
    source.checkpoint(b"applied 7");
    let mut target = Node::new(&there);
    target.put_devices(0..10, 9);
    let before = target.checkpoint(b"applied 2").generation;
    let disk = target.checkpointer.disk();
    let held = Arc::clone(target.pages.root());

    let mut staging = Staging::create(&target.dir, before).unwrap();
    let manifest = copy(&source.checkpointer.disk(), &mut staging);
    assert!(staging.bytes_written() > SNAPSHOT_CHUNK_BYTES as u64, "more than one chunk");
    let staged = staging.finish(&manifest, row_hash).unwrap();
    assert_eq!(staged.manifest().meta, b"applied 7");
    let Node { dir, mut pages, checkpointer, .. } = target;
    let opened = staged.adopt(Some(checkpointer), None).unwrap();
    let installed = opened.generation;
    assert!(installed > before);
    pages.adopt(opened.contents, opened.meta);
    assert_eq!(held.row_count(TableId::Devices), 10, "a held root keeps what it showed");
    assert_eq!(disk.stats().generation, installed, "handles go on");
    let mut target = Node { dir, pages, checkpointer: opened.checkpointer, model: source.model.clone() };
    target.assert_whole();

    target.put_devices([7], 3);
    let after = target.checkpoint(b"applied 8");
    assert_eq!((after.pages_written, after.previous), (1, installed));
    drop(disk);
    let (opened, dir, model) = target.reopen(&expecting(after.generation));
    Node::of(&dir, opened.unwrap(), model);
}

#[test]
fn a_reader_keeps_its_generation_while_checkpoints_go_on() {
    let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut source = Node::new(&here);
    source.put_devices(0..30_000, 1);
    source.checkpoint(b"then");
    let then = source.model.clone();
    let disk = source.checkpointer.disk();
    let mut reader = disk.snapshot(LONG).unwrap();
    let target = Node::new(&there);
    let mut staging = Staging::create(&target.dir, 0).unwrap();
    let mut round = 2;
    while let Some(chunk) = reader.next_chunk().unwrap() {
        staging.write_chunk(&chunk).unwrap();
        source.put_devices(0..30_000, round);
        source.checkpoint(&[round]);
        round += 1;
    }
    assert!(round > 3, "the snapshot took more than one chunk");
    let staged = staging.finish(&reader.manifest().encode(), row_hash).unwrap();
    let opened = staged.adopt(Some(target.checkpointer), None).unwrap();
    assert_eq!(opened.meta, b"then");
    Node::of(&target.dir, opened, then);
    drop(reader);
    assert_eq!(disk.stats().snapshots, 0);
    source.checkpoint(b"now");
    drop(disk);
    let (opened, dir, model) = source.reopen(&options());
    Node::of(&dir, opened.unwrap(), model);
}

#[test]
fn readers_are_bounded_in_number_and_time() {
    let at = TempDir::new().unwrap();
    let mut node = Node::new(&at);
    let disk = node.checkpointer.disk();
    assert!(matches!(disk.snapshot(LONG), Err(DiskError::NoCheckpoint)));
    node.put_devices(0..100, 1);
    node.checkpoint(b"");
    let mut expired = disk.snapshot(Duration::ZERO).unwrap();
    assert!(matches!(expired.next_chunk(), Err(DiskError::SnapshotExpired { generation: 1 })));
    let readers: Vec<_> = (0..SNAPSHOTS_MAX).map(|_| disk.snapshot(LONG).unwrap()).collect();
    assert!(matches!(disk.snapshot(LONG), Err(DiskError::TooManySnapshots)));
    drop(readers);
    assert!(disk.snapshot(LONG).is_ok());
}

#[test]
fn a_received_snapshot_that_lacks_or_bends_anything_is_refused_and_leaves_nothing() {
    let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut source = Node::new(&here);
    source.put_devices(0..50_000, 1);
    source.checkpoint(b"");
    let target = Node::new(&there);
    let before = pages_dir(&target.dir);
    let mut reader = source.checkpointer.disk().snapshot(LONG).unwrap();
    let first = reader.next_chunk().unwrap().unwrap();

    let mut staging = Staging::create(&target.dir, 0).unwrap();
    let mut bent = first.clone();
    bent[100] ^= 1;
    assert!(matches!(staging.write_chunk(&bent), Err(DiskError::Chunk(ChunkDamage::Checksum { .. }))));
    staging.write_chunk(&first).unwrap();
    let missing = staging.finish(&reader.manifest().encode(), row_hash);
    assert!(matches!(missing, Err(DiskError::Unverified { .. })));
    assert_eq!(pages_dir(&target.dir), before);

    let mut staging = Staging::create(&target.dir, 0).unwrap();
    staging.write_chunk(&first).unwrap();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        staging.write_chunk(&chunk).unwrap();
    }
    let mut manifest = reader.manifest().clone();
    manifest.digest ^= 1;
    assert!(matches!(staging.finish(&manifest.encode(), row_hash), Err(DiskError::Unverified { .. })));
    assert_eq!(pages_dir(&target.dir), before);
}

/// A process may be killed between any two steps of an install. Each state it can leave is made here by hand.
#[test]
fn an_install_cut_short_leaves_the_old_pages_or_the_new_ones() {
    let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut source = Node::new(&here);
    source.put_devices(0..5_000, 1);
    source.checkpoint(b"new");
    let mut target = Node::new(&there);
    target.put_devices(0..10, 9);
    target.checkpoint(b"old");
    let old = pages_dir(&target.dir);

    // Killed while the pages arrive, and after they are complete but before the rename.
    for complete in [false, true] {
        let (opened, dir, model) = {
            let mut staging = Staging::create(&target.dir, 1).unwrap();
            let manifest = copy(&source.checkpointer.disk(), &mut staging);
            if complete {
                let staged = staging.finish(&manifest, row_hash).unwrap();
                std::mem::forget(staged);
            } else {
                std::mem::forget(staging);
            }
            assert_eq!(target.dir.pages_dirs().unwrap().len(), 2);
            target.reopen(&expecting(1))
        };
        let opened = opened.unwrap();
        assert_eq!(opened.meta, b"old");
        assert_eq!(pages_dir(&dir), old, "the unfinished directory is removed");
        target = Node::of(&dir, opened, model);
    }

    // Killed after the rename, before the old directory is removed.
    let mut staging = Staging::create(&target.dir, 1).unwrap();
    let manifest = copy(&source.checkpointer.disk(), &mut staging);
    let staged = staging.finish(&manifest, row_hash).unwrap();
    let new = staged.manifest().generation;
    let kept = there.path().join("kept");
    drop(target.checkpointer);
    copy_dir(&old, &kept);
    drop(staged.adopt(None, None).unwrap());
    copy_dir(&kept, &old);
    let opened = open(&target.dir, &expecting(new)).unwrap();
    assert_eq!(opened.meta, b"new");
    assert_ne!(pages_dir(&target.dir), old);
    Node::of(&target.dir, opened, source.model.clone());
}

pub(super) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
