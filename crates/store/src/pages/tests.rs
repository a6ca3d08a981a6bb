//! Tables against a map: through splits, publishes, abandoned changes, and roots compared long after.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

type Model = BTreeMap<(TableId, Vec<u8>), Vec<u8>>;

pub(crate) fn row_hash(key: &HashKey, _table: TableId, row_key: &[u8]) -> u64 {
    page_hash(key, &row_key.to_ascii_lowercase())
}

pub(crate) fn all_rows<M>(root: &Root<M>) -> Model {
    let mut rows = Model::new();
    for table in TableId::ALL {
        let before = rows.len();
        for page in 0..root.page_count(table) {
            if let Some(page) = root.rows_in_page(table, page) {
                for (key, value) in page.rows() {
                    let twice = rows.insert((table, key.to_vec()), value.to_vec());
                    assert_eq!(twice, None, "a row lies in two pages");
                }
            }
        }
        assert_eq!((rows.len() - before) as u64, root.row_count(table));
    }
    rows
}

fn assert_root_holds<M>(root: &Root<M>, model: &Model) {
    assert_eq!(&all_rows(root), model);
    assert_eq!(root.digest(), root.recompute_digest());
    for ((table, key), value) in model {
        let row = root.get(*table, root.hash_of(*table, key), key);
        assert_eq!(row.as_deref(), Some(&value[..]));
    }
    for table in TableId::ALL {
        // Some of these keys are there, in any number, and some are not.
        let keys: Vec<&[u8]> = model
            .keys()
            .filter(|(of, _)| *of != TableId::Devices || table == *of)
            .map(|(_, key)| &key[..])
            .collect();
        let wanted: Vec<(u64, &[u8])> = keys.iter().map(|key| (root.hash_of(table, key), *key)).collect();
        let mut told = Vec::new();
        root.get_all(table, &wanted, |value| told.push(value.map(<[u8]>::to_vec)));
        let expected: Vec<_> = keys.iter().map(|key| model.get(&(table, key.to_vec())).cloned()).collect();
        assert_eq!(told, expected);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u16, u16),
    PutMany(u16, u16),
    Remove(u8, u16),
    Publish,
    Abandon,
    Pin,
    Unpin(u8),
    Adopt,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(
        prop_oneof![
            6 => (any::<u8>(), 0_u16..400, 0_u16..300).prop_map(|(t, k, v)| Step::Put(t, k, v)),
            2 => (0_u16..400, 1_u16..120).prop_map(|(k, n)| Step::PutMany(k, n)),
            3 => (any::<u8>(), 0_u16..400).prop_map(|(t, k)| Step::Remove(t, k)),
            3 => Just(Step::Publish),
            1 => Just(Step::Abandon),
            2 => Just(Step::Pin),
            2 => any::<u8>().prop_map(Step::Unpin),
            1 => Just(Step::Adopt),
        ],
        1..120,
    )
}

/// Keys of many lengths; the first two differ only in case.
fn key(number: u16) -> Vec<u8> {
    let letter = if number.is_multiple_of(2) { 'd' } else { 'D' };
    format!("{letter}evice-{}{}", number / 2, "x".repeat(usize::from(number) % 60)).into_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn tables_agree_with_a_map_and_held_roots_never_change(steps in steps()) {
        let mut pages = Pages::new(HashKey([3; 16]), row_hash, 0_u64);
        let published = pages.published();
        let (mut durable, mut model) = (Model::new(), Model::new());
        let mut changes: Vec<Step> = Vec::new();
        let mut pins: Vec<(Arc<Root<u64>>, Model)> = Vec::new();
        let mut count = 0;
        for step in steps {
            match step {
                Step::Put(..) | Step::PutMany(..) | Step::Remove(..) => changes.push(step),
                Step::Publish | Step::Abandon => {
                    let mut working = pages.working();
                    for change in changes.drain(..) {
                        apply(&mut working, &mut model, change)?;
                    }
                    if matches!(step, Step::Publish) {
                        count += 1;
                        let root = working.publish(count);
                        durable = model.clone();
                        assert_root_holds(&root, &durable);
                    } else {
                        drop(working);
                        model = durable.clone();
                    }
                    let root = published.root();
                    prop_assert_eq!(*root.meta(), count);
                    assert_root_holds(&root, &durable);
                }
                Step::Pin => pins.push((published.root(), durable.clone())),
                Step::Unpin(which) if !pins.is_empty() => {
                    let (root, then) = pins.swap_remove(usize::from(which) % pins.len());
                    assert_root_holds(&root, &then);
                    drop(root);
                    if which % 2 == 0 {
                        pages.release();
                    }
                }
                Step::Unpin(_) => {}
                Step::Adopt => {
                    let root = published.root();
                    let mut contents = Contents::expecting(
                        root.hash_key(), row_hash, std::array::from_fn(|t| root.page_count(TableId::ALL[t])));
                    for table in TableId::ALL {
                        for page in 0..root.page_count(table) {
                            if let Some(view) = root.rows_in_page(table, page) {
                                prop_assert_eq!(contents.add_page(table, page, view.bytes()), Ok(()));
                            }
                        }
                    }
                    prop_assert_eq!(contents.digest(), root.digest());
                    pages.adopt(contents, count);
                    prop_assert_eq!(published.root().live_bytes(), root.live_bytes());
                }
            }
            for (root, then) in &pins {
                assert_root_holds(root, then);
            }
        }
        let ends = pins.len();
        drop(pins);
        pages.release();
        prop_assert_eq!(pages.roots_held(), 0, "{} pins ended", ends);
        prop_assert_eq!(pages.versions_kept(), 0, "{} pins ended", ends);
    }

    #[test]
    fn the_digest_and_pages_do_not_depend_on_how_changes_are_cut(
        steps in prop::collection::vec((0_u16..300, prop::option::of(0_u16..200)), 1..200), cuts: u64
    ) {
        let mut whole = Pages::new(HashKey([9; 16]), row_hash, ());
        let mut cut = Pages::new(HashKey([9; 16]), row_hash, ());
        let mut working = whole.working();
        for (number, value) in &steps {
            change(&mut working, *number, *value)?;
        }
        let whole = working.publish(());
        for (index, (number, value)) in steps.iter().enumerate() {
            let mut working = cut.working();
            change(&mut working, *number, *value)?;
            if cuts >> (index % 64) & 1 == 0 {
                working.publish(());
            } else {
                drop(working);
                let mut again = cut.working();
                change(&mut again, *number, *value)?;
                again.publish(());
            }
        }
        prop_assert_eq!(whole.digest(), cut.root().digest());
        prop_assert_eq!(all_rows(&whole), all_rows(cut.root()));
        prop_assert_eq!(whole.page_count(TableId::Devices), cut.root().page_count(TableId::Devices));
        prop_assert_eq!(whole.live_bytes(), cut.root().live_bytes());
    }
}

fn change(working: &mut Working<'_, ()>, number: u16, value: Option<u16>) -> Result<(), TestCaseError> {
    let key = key(number);
    let hash = working.hash_of(TableId::Devices, &key);
    match value {
        Some(len) => {
            let put = working.put(TableId::Devices, hash, &key, &vec![7; usize::from(len)]);
            prop_assert!(put.is_ok());
        }
        None => {
            working.remove(TableId::Devices, hash, &key);
        }
    }
    Ok(())
}

fn apply(working: &mut Working<'_, u64>, model: &mut Model, step: Step) -> Result<(), TestCaseError> {
    match step {
        Step::Put(table, number, len) => {
            let table = TableId::ALL[usize::from(table) % TableId::COUNT];
            let (key, value) = (key(number), vec![len as u8; usize::from(len)]);
            let hash = working.hash_of(table, &key);
            let had = working.put(table, hash, &key, &value);
            let before = model.insert((table, key.clone()), value.clone());
            prop_assert_eq!(had, Ok(before.is_some()));
            let row = working.get(table, hash, &key);
            prop_assert_eq!(row.as_deref(), Some(&value[..]));
        }
        Step::PutMany(first, many) => {
            for number in first..first + many {
                apply(working, model, Step::Put(0, number, number % 50))?;
            }
        }
        Step::Remove(table, number) => {
            let table = TableId::ALL[usize::from(table) % TableId::COUNT];
            let key = key(number);
            let hash = working.hash_of(table, &key);
            prop_assert_eq!(working.remove(table, hash, &key), model.remove(&(table, key.clone())).is_some());
            prop_assert!(working.get(table, hash, &key).is_none());
        }
        _ => {}
    }
    Ok(())
}

#[test]
fn keys_that_hash_alike_are_found_by_candidates() {
    let mut pages = Pages::new(HashKey([1; 16]), row_hash, ());
    let mut working = pages.working();
    for key in [&b"Pump-1"[..], b"pump-1", b"PUMP-1"] {
        let hash = working.hash_of(TableId::Devices, key);
        assert_eq!(working.put(TableId::Devices, hash, key, key), Ok(false));
    }
    let hash = working.hash_of(TableId::Devices, b"puMP-1");
    let mut candidates = working.candidates(TableId::Devices, hash);
    let mut found = 0;
    while let Some((key, value)) = candidates.next_row() {
        assert!(key.eq_ignore_ascii_case(b"pump-1"));
        assert_eq!(key, value);
        found += 1;
    }
    assert_eq!(found, 3);
    let root = working.publish(());
    let mut candidates = root.candidates(TableId::Devices, hash);
    assert!(candidates.next_row().is_some());
}

#[test]
fn keys_and_values_over_their_bounds_are_refused_and_change_nothing() {
    let mut pages = Pages::new(HashKey([1; 16]), row_hash, ());
    let mut working = pages.working();
    let too_long = working.put(TableId::Devices, 0, &[1; 256], b"");
    assert_eq!(too_long, Err(PageError::KeyTooLong { table: TableId::Devices, bytes: 256 }));
    let too_long = working.put(TableId::Devices, 0, b"k", &[1; 4_097]);
    assert_eq!(too_long, Err(PageError::ValueTooLong { table: TableId::Devices, bytes: 4_097 }));
    let largest = working.hash_of(TableId::Devices, &[1; 255]);
    assert_eq!(working.put(TableId::Devices, largest, &[1; 255], &[2; 4_096]), Ok(false));
    let root = working.publish(());
    assert_eq!(root.get(TableId::Devices, largest, &[1; 255]).as_deref(), Some(&[2_u8; 4_096][..]));
    assert_eq!(root.row_count(TableId::Devices), 1);
}

#[test]
fn too_many_keys_of_one_hash_are_refused_not_lost() {
    const ONE_HASH: u64 = 1 << 32;
    let one_hash: RowHash = |_, _, _| ONE_HASH;
    let mut page = vec![1, 0, 0xFF, 0xFF];
    page.resize(4 + 65_535, 0);
    page.resize(4 + 2 * 65_535, 5);
    for number in 0_u32..65_535 {
        page.push(4);
        page.extend_from_slice(&number.to_be_bytes());
    }
    let mut contents = Contents::empty(HashKey([1; 16]), one_hash);
    assert_eq!(contents.add_page(TableId::Replies, 0, &page), Ok(()));
    let mut pages = Pages::from_contents(contents, ());
    let digest = pages.root().digest();
    let mut working = pages.working();
    let refused = working.put(TableId::Replies, ONE_HASH, &70_000_u32.to_be_bytes(), b"");
    assert_eq!(refused, Err(PageError::PageFull { table: TableId::Replies, page: 0, rows: 65_535 }));
    assert_eq!(working.digest(), digest);
    assert_eq!(working.put(TableId::Replies, ONE_HASH, &7_u32.to_be_bytes(), b"seven"), Ok(true));
    let root = working.publish(());
    assert_eq!(root.get(TableId::Replies, ONE_HASH, &7_u32.to_be_bytes()).as_deref(), Some(&b"seven"[..]));
    assert_eq!(root.digest(), root.recompute_digest());
}

#[test]
fn the_hash_key_changes_only_while_there_are_no_rows() {
    let mut pages = Pages::new(HashKey([0; 16]), row_hash, ());
    assert!(pages.set_hash_key(HashKey([4; 16]), ()).is_ok());
    assert_eq!(pages.published().root().hash_key(), HashKey([4; 16]));
    let mut working = pages.working();
    let hash = working.hash_of(TableId::Devices, b"a");
    assert_eq!(working.put(TableId::Devices, hash, b"a", b""), Ok(false));
    working.publish(());
    let refused = pages.set_hash_key(HashKey([5; 16]), ());
    assert_eq!(refused.err(), Some(PageError::HashKeyInUse { rows: 1 }));
}

#[test]
fn contents_refuse_rows_in_a_page_that_their_hash_does_not_name() {
    let mut pages = Pages::new(HashKey([2; 16]), row_hash, ());
    let mut working = pages.working();
    for number in 0..400_u16 {
        let key = key(number);
        let hash = working.hash_of(TableId::Devices, &key);
        assert!(working.put(TableId::Devices, hash, &key, b"v").is_ok());
    }
    let root = working.publish(());
    let count = root.page_count(TableId::Devices);
    assert!(count > 4);
    let mut contents = Contents::expecting(root.hash_key(), row_hash, [count; TableId::COUNT]);
    let first = root.rows_in_page(TableId::Devices, 0).map(|page| page.bytes().to_vec()).unwrap();
    assert!(matches!(contents.add_page(TableId::Devices, 1, &first), Err(PageDamage::Misplaced { .. })));
    assert!(matches!(contents.add_page(TableId::Devices, count, &first), Err(PageDamage::NoSuchPage { .. })));
    assert_eq!(contents.add_page(TableId::Devices, 0, &first), Ok(()));
}

/// Readers compare whole roots while the writer publishes, splits and forgets.
#[test]
fn readers_on_other_threads_always_see_one_publish() {
    const KEYS: u32 = 3_000;
    let mut pages = Pages::new(HashKey([6; 16]), row_hash, 0_u32);
    let published = pages.published();
    let over = AtomicBool::new(false);
    let put_round = |pages: &mut Pages<u32>, round: u32| {
        let mut working = pages.working();
        for number in 0..KEYS {
            let key = number.to_be_bytes();
            let hash = working.hash_of(TableId::Devices, &key);
            working.put(TableId::Devices, hash, &key, &round.to_be_bytes()).unwrap();
        }
        working.publish(round);
    };
    put_round(&mut pages, 0);
    std::thread::scope(|scope| {
        for reader in 0..3_u32 {
            let (published, over) = (published.clone(), &over);
            scope.spawn(move || {
                let mut last = 0;
                let mut rounds = 0_u32;
                while !over.load(Ordering::Relaxed) || rounds < 3 {
                    rounds += 1;
                    let root = published.root();
                    assert!(*root.meta() >= last, "a reader went back");
                    last = *root.meta();
                    for number in (reader..KEYS).step_by(7) {
                        let key = number.to_be_bytes();
                        let row = root.get(TableId::Devices, root.hash_of(TableId::Devices, &key), &key);
                        assert_eq!(row.as_deref(), Some(&last.to_be_bytes()[..]));
                    }
                }
            });
        }
        for round in 1..200 {
            put_round(&mut pages, round);
        }
        over.store(true, Ordering::Relaxed);
    });
    put_round(&mut pages, 200);
    assert_eq!(pages.roots_held(), 0);
}
