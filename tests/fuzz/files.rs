//! Small files of a node: its identity, the pointer to its pages, its configuration.

use std::fs;
use std::sync::Arc;

use berth_server::config::{Config, Settings};
use berth_server::raft::identity::Keeper;
use berth_store::disk::{self, DataDir, OpenOptions};
use berth_store::pages::{HashKey, TableId, page_hash};
use rand::RngExt;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::Fuzz;

const CONFIGURATION: &str = include_str!("../../deploy/berth.toml");

/// What is read as an identity is written again as the same.
#[test]
fn identities() {
    let mut fuzz = Fuzz::new("identities", 3);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("IDENTITY");
    let keeper = Keeper::open(dir.path(), "n1", Uuid::from_u128(7)).unwrap();
    keeper
        .change(|identity| {
            (identity.node_id, identity.cluster) = (Some(3), Some(Uuid::from_u128(9)));
            identity.peers.extend([(1, "10.0.0.1:7401".to_owned()), (2, "10.0.0.2:7401".to_owned())]);
        })
        .unwrap();
    let whole = fs::read(&file).unwrap();
    let body = &whole[..whole.windows(6).rposition(|six| six == b"check ").unwrap()];
    let mut read = 0;
    for round in 0..fuzz.rounds {
        let mut bytes = fuzz.tampered(if round % 4 == 0 { &whole } else { body }, &whole);
        if round % 4 != 0 {
            let check = xxh3_64(&bytes);
            bytes.extend_from_slice(format!("check {check:016x}\n").as_bytes());
        }
        let _shown = fuzz.shown("an identity", &bytes);
        fs::write(&file, &bytes).unwrap();
        match Keeper::open(dir.path(), "n1", Uuid::from_u128(8)) {
            Ok(keeper) => {
                read += 1;
                keeper.change(|identity| identity.settled = !identity.settled).unwrap();
                let again =
                    Keeper::open(dir.path(), "n1", Uuid::from_u128(8)).expect("what was written can be read");
                assert_eq!(again.identity(), keeper.identity());
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!(read > fuzz.rounds / 50, "too few tampered identities are still read: {read}");
}

fn row_hash(key: &HashKey, _: TableId, row_key: &[u8]) -> u64 {
    page_hash(key, row_key)
}

/// Whatever `CURRENT` says, the directory opens with what it holds, or is told to be damaged.
#[test]
fn pointers() {
    let mut fuzz = Fuzz::new("pointers", 40);
    let dir = tempfile::tempdir().unwrap();
    let data = Arc::new(DataDir::lock(dir.path()).unwrap());
    let options = OpenOptions::new(row_hash);
    drop(disk::open(&data, &options).unwrap());
    let file = dir.path().join("CURRENT");
    let whole = fs::read_to_string(&file).unwrap();
    let body = &whole[..whole.rfind("crc32c").unwrap()];
    for round in 0..fuzz.rounds {
        // Another number is what a file of another time would say.
        let number = ["1", "2", "18446744073709551615", "01", "-1"][fuzz.random.random_range(0..5)];
        let text = body.replace("pages-1", &format!("pages-{number}"));
        let mut bytes =
            if round % 3 == 0 { text.into_bytes() } else { fuzz.tampered(body.as_bytes(), whole.as_bytes()) };
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(format!("crc32c {crc:08x}\n").as_bytes());
        let _shown = fuzz.shown("a pointer", &bytes);
        fs::write(&file, &bytes).unwrap();
        match disk::open(&data, &options) {
            Ok(opened) => assert_eq!(opened.generation, 0),
            Err(error) => assert!(error.is_damage(), "{error}"),
        }
        assert!(dir.path().join("pages-1").exists(), "the pages are gone");
    }
}

#[test]
fn configurations() {
    let mut fuzz = Fuzz::new("configurations", 4);
    let whole: String = CONFIGURATION
        .lines()
        .map(|line| {
            line.strip_prefix('#').filter(|rest| rest.starts_with(char::is_alphabetic)).unwrap_or(line)
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    for _ in 0..fuzz.rounds {
        let bytes = fuzz.tampered(whole.as_bytes(), whole.as_bytes());
        let _shown = fuzz.shown("a configuration", &bytes);
        let Ok(text) = std::str::from_utf8(&bytes) else { continue };
        // What is asked for too much of is refused here, and not by whoever makes room for it later.
        if let Ok(settings) = Settings::from_toml(text) {
            let _ = Config::from_settings([settings]);
        }
    }
}
