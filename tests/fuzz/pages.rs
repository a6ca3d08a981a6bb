//! Pages and manifests: from the disk, and from a peer's snapshot.

use berth_store::disk::Manifest;
use berth_store::pages::{
    Contents, HashKey, PageDamage, Pages, RowHash, TableId, VALUE_BYTES_MAX, page_hash,
};
use rand::RngExt;

use crate::Fuzz;

/// Rows of the tables that pages are taken from.
const ROWS: u32 = 150;
const KEY: HashKey = HashKey([3; 16]);

fn row_hash(key: &HashKey, _: TableId, row_key: &[u8]) -> u64 {
    page_hash(key, row_key)
}

/// All keys of a page are of one hash: a tampered key still lies where it belongs, so that more of the page is read.
fn one_hash(_: &HashKey, _: TableId, _: &[u8]) -> u64 {
    0
}

/// Pages of a table, with their numbers.
fn pages_of(fuzz: &mut Fuzz, row_hash: RowHash, long: bool) -> (u32, Vec<(u32, Vec<u8>)>) {
    let mut pages = Pages::new(KEY, row_hash, ());
    let mut working = pages.working();
    for row in 0..ROWS {
        let key = format!("device-{row}");
        let longest = if long { VALUE_BYTES_MAX } else { 60 };
        let value = vec![row as u8; fuzz.random.random_range(0..=longest)];
        let hash = working.hash_of(TableId::Devices, key.as_bytes());
        // A page that is full refuses; what it holds is enough.
        let _ = working.put(TableId::Devices, hash, key.as_bytes(), &value);
    }
    let root = working.publish(());
    let count = root.page_count(TableId::Devices);
    let page = |number| Some((number, root.rows_in_page(TableId::Devices, number)?.bytes().to_vec()));
    (count, (0..count).filter_map(page).collect())
}

#[test]
fn pages() {
    let mut fuzz = Fuzz::new("pages", 3);
    let mut read = 0;
    for (hash, long) in [(row_hash as RowHash, false), (row_hash, true), (one_hash, false), (one_hash, true)]
    {
        let (count, whole) = pages_of(&mut fuzz, hash, long);
        let bytes: Vec<Vec<u8>> = whole.iter().map(|(_, page)| page.clone()).collect();
        for _ in 0..fuzz.rounds {
            let (number, page) = &whole[fuzz.random.random_range(0..whole.len())];
            let other = &bytes[fuzz.random.random_range(0..bytes.len())];
            let page = fuzz.tampered(page, other);
            let _shown = fuzz.shown("a page", &page);
            let mut contents = Contents::expecting(
                KEY,
                hash,
                TableId::ALL.map(|table| if table == TableId::Devices { count } else { 1 }),
            );
            match contents.add_page(TableId::Devices, *number, &page) {
                Ok(()) => {
                    read += 1;
                    used(contents);
                }
                Err(PageDamage::NoSuchPage { .. }) => panic!("page {number} of {count} is one of the table"),
                Err(_) => {}
            }
        }
    }
    assert!(read > fuzz.rounds / 20, "too few tampered pages are still read: {read}");
}

/// Reads every row, changes it, takes it out.
fn used(contents: Contents) {
    let mut pages = Pages::from_contents(contents, ());
    let root = pages.root().clone();
    assert_eq!(root.recompute_digest(), root.digest());
    let mut keys = Vec::new();
    for number in 0..root.page_count(TableId::Devices) {
        let Some(page) = root.rows_in_page(TableId::Devices, number) else { continue };
        assert_eq!(page.rows().count(), page.row_count());
        keys.extend(page.rows().map(|(key, _)| key.to_vec()));
    }
    assert_eq!(keys.len() as u64, root.row_count(TableId::Devices));
    let mut working = pages.working();
    for key in &keys {
        let hash = working.hash_of(TableId::Devices, key);
        assert!(working.get(TableId::Devices, hash, key).is_some(), "a row that is there is not found");
        working.put(TableId::Devices, hash, key, b"another value").expect("a known key fits");
    }
    for key in &keys {
        let hash = working.hash_of(TableId::Devices, key);
        assert!(working.remove(TableId::Devices, hash, key), "a row that is there cannot be removed");
    }
    let root = working.publish(());
    assert_eq!((root.row_count(TableId::Devices), root.digest()), (0, 0));
}

#[test]
fn manifests() {
    let mut fuzz = Fuzz::new("manifests", 1);
    let manifest = Manifest {
        generation: 7,
        page_counts: [1, 2, 3, 4, 5, 6],
        row_counts: [10, 20, 30, 40, 50, 60],
        live_bytes: 1_234,
        digest: 5,
        hash_key: KEY,
        meta: vec![9; 40],
    };
    let whole = manifest.encode();
    let (sealed, _) = whole.split_at(whole.len() - 4);
    let mut read = 0;
    for round in 0..fuzz.rounds {
        let mut bytes = fuzz.tampered(if round % 2 == 0 { sealed } else { &whole }, &whole);
        if round % 2 == 0 {
            let crc = crc32c::crc32c(&bytes);
            bytes.extend_from_slice(&crc.to_le_bytes());
        }
        let _shown = fuzz.shown("a manifest", &bytes);
        if let Ok(manifest) = Manifest::decode(&bytes) {
            read += 1;
            assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        }
    }
    assert!(read > fuzz.rounds / 20, "too few tampered manifests are still read: {read}");
}
