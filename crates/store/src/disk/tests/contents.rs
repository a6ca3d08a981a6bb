//! Checkpoint and reopen against a map, at arbitrary points.

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Change(Vec<(u8, u16, Option<u16>)>),
    Checkpoint,
    Reopen,
    Reinstall,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = (any::<u8>(), 0_u16..300, prop::option::weighted(0.8, 0_u16..400));
    prop::collection::vec(
        prop_oneof![
            4 => prop::collection::vec(change, 1..150).prop_map(Step::Change),
            3 => Just(Step::Checkpoint),
            2 => Just(Step::Reopen),
            1 => Just(Step::Reinstall),
        ],
        1..14,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_was_checkpointed_last_comes_back_and_nothing_else(steps in steps()) {
        let at = TempDir::new().unwrap();
        let mut node = Node::new(&at);
        let mut durable = (Model::new(), Vec::new(), 0_u64);
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Change(changes) => node.change(changes.into_iter().map(|(table, key, value)| (
                    TableId::ALL[usize::from(table) % TableId::COUNT],
                    format!("{key}-{}", "k".repeat(usize::from(key) % 90)).into_bytes(),
                    value.map(|len| vec![len as u8; usize::from(len)]),
                ))),
                Step::Checkpoint => {
                    let meta = vec![number as u8; number * 700];
                    let completed = node.checkpoint(&meta);
                    prop_assert_eq!(completed.previous, durable.2);
                    durable = (node.model.clone(), meta, completed.generation);
                }
                Step::Reopen => {
                    let (opened, dir, _) = node.reopen(&expecting(durable.2));
                    let opened = opened.unwrap();
                    prop_assert_eq!(&opened.meta, &durable.1);
                    prop_assert_eq!(opened.generation, durable.2);
                    prop_assert_eq!(&opened.source, if durable.2 == 0 { &Source::New } else { &Source::Newest });
                    node = Node::of(&dir, opened, durable.0.clone());
                    if durable.2 == 0 {
                        node.pages.set_hash_key(KEY, Vec::new()).unwrap();
                    }
                }
                Step::Reinstall if durable.2 > 0 => {
                    let mut reader = node.checkpointer.disk().snapshot(snapshots::LONG).unwrap();
                    let mut staging = Staging::create(&node.dir, durable.2).unwrap();
                    while let Some(chunk) = reader.next_chunk().unwrap() {
                        staging.write_chunk(&chunk).unwrap();
                    }
                    let manifest = reader.manifest().encode();
                    drop(reader);
                    let staged = staging.finish(&manifest, row_hash).unwrap();
                    let Node { dir, checkpointer, .. } = node;
                    let opened = staged.adopt(Some(checkpointer), None).unwrap();
                    durable.2 = opened.generation;
                    prop_assert_eq!(&opened.meta, &durable.1);
                    node = Node::of(&dir, opened, durable.0.clone());
                    // The generation before lies in the directory that is gone.
                    let completed = node.checkpoint(&durable.1);
                    prop_assert_eq!(completed.previous, durable.2);
                    durable.2 = completed.generation;
                }
                Step::Reinstall => {}
            }
            node.assert_whole();
        }
    }
}

#[test]
fn a_checkpoint_writes_only_the_pages_that_changed() {
    let at = TempDir::new().unwrap();
    let mut node = Node::new(&at);
    node.put_devices(0..FEW_PAGES * 10, 1);
    let first = node.checkpoint(b"one");
    assert!(first.pages_written > 20, "{first:?}");
    node.put_devices([3], 2);
    let second = node.checkpoint(b"two");
    assert_eq!((second.pages_written, second.previous), (1, first.generation));
    let (opened, dir, model) = node.reopen(&options());
    let mut node = Node::of(&dir, opened.unwrap(), model);
    assert_eq!(node.checkpoint(b"three").pages_written, 0);
}

#[test]
fn a_changed_value_larger_than_a_stored_one_is_kept_in_parts() {
    let at = TempDir::new().unwrap();
    let mut node = Node::new(&at);
    for number in 0..20_u8 {
        node.put(TableId::Objects, &[number], &[number; 4_096]);
    }
    node.checkpoint(b"");
    let (opened, dir, model) = node.reopen(&options());
    Node::of(&dir, opened.unwrap(), model);
}

#[test]
fn checkpoints_run_on_a_thread_of_their_own_and_at_most_one_waits() {
    let at = TempDir::new().unwrap();
    let mut node = Node::new(&at);
    node.put_devices(0..1_000, 1);
    let Node { pages, checkpointer, dir, model } = node;
    let writer = CheckpointWriter::start(checkpointer).unwrap();
    let waiting: Vec<_> = (0..50).filter_map(|n| writer.submit(Arc::clone(pages.root()), vec![n])).collect();
    assert!(!waiting.is_empty());
    let last = waiting.into_iter().map(|outcome| outcome.blocking_recv().unwrap().unwrap()).last().unwrap();
    assert_eq!(writer.disk().stats().generation, last.generation);
    let checkpointer = writer.stop().unwrap();
    assert_eq!(checkpointer.disk().stats().checkpoints, last.generation);
    drop((checkpointer, pages));
    Node::of(&dir, open(&dir, &expecting(last.generation)).unwrap(), model);
}
