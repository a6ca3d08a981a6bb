//! Damaged files: the same contents, the contents of the generation before, or a refusal. Nothing else.

use super::keys::{Key, Kind};
use super::snapshots::copy_dir;
use super::*;
use std::fs;

/// Flips and cuts tried in one run; a run by hand may take more.
const TRIES: u64 = 120;

/// Numbers that jump about, the same in each run.
struct Jumps(u64);

impl Jumps {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A directory with two whole generations, closed, and what each of them holds.
struct TwoGenerations {
    at: TempDir,
    first: (Model, u64),
    second: (Model, u64),
}

impl TwoGenerations {
    fn new() -> Self {
        let at = TempDir::new().unwrap();
        let mut node = Node::new(&at);
        node.put_devices(0..FEW_PAGES, 1);
        let first = node.checkpoint(b"first").generation;
        let then = node.model.clone();
        node.put_devices(0..FEW_PAGES / 2, 2);
        let second = node.checkpoint(b"second").generation;
        Self { at, first: (then, first), second: (node.model.clone(), second) }
    }

    fn options(&self) -> OpenOptions {
        expecting(self.second.1)
    }

    /// Opens `at` and says which of the two generations it is; panics at any other contents. That nothing is left is
    /// told too, and is for the log to bear or not.
    fn open(&self, at: &Path) -> Result<(Node, Source), DiskError> {
        let dir = Arc::new(DataDir::lock(at).unwrap());
        let opened = open(&dir, &self.options())?;
        let (source, meta) = (opened.source.clone(), opened.meta.clone());
        if opened.generation == 0 {
            assert!(matches!(&source, Source::FellBack { why } if why.contains("generation 2 was lost")));
            return Err(DiskError::NoCheckpoint);
        }
        let (model, generation) = match &meta[..] {
            b"second" => &self.second,
            b"first" => &self.first,
            other => panic!("meta {other:?}"),
        };
        assert_eq!(opened.generation, *generation);
        assert_eq!(source == Source::Newest, meta == b"second", "{source:?}");
        Ok((Node::of(&dir, opened, model.clone()), source))
    }
}

fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(files_below(&path)),
            false => files.push(path),
        }
    }
    files.retain(|path| fs::metadata(path).unwrap().len() > 0);
    files.sort();
    files
}

#[test]
fn a_flipped_bit_or_a_cut_file_never_gives_other_contents() {
    let pristine = TwoGenerations::new();
    let mut jumps = Jumps(0x2545_F491_4F6C_DD1D);
    let (mut whole, mut fell_back, mut refused) = (0, 0, 0);
    for number in 0..TRIES {
        let at = TempDir::new().unwrap();
        copy_dir(pristine.at.path(), at.path());
        let files = files_below(at.path());
        // Most of the bytes are in one file; the small ones get their share of the tries.
        let file = &files[jumps.below(files.len() as u64) as usize];
        let mut bytes = fs::read(file).unwrap();
        let what = if number % 6 == 5 {
            bytes.truncate(jumps.below(bytes.len() as u64) as usize);
            format!("{} cut to {} bytes", file.display(), bytes.len())
        } else {
            // The first half megabyte of sled's file holds nearly all that was written.
            let bit = jumps.below(8 * bytes.len().min(700_000) as u64);
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            format!("bit {bit} of {} flipped", file.display())
        };
        fs::write(file, bytes).unwrap();
        match pristine.open(at.path()) {
            Ok((mut node, source)) => {
                match source {
                    Source::Newest => whole += 1,
                    Source::FellBack { .. } => fell_back += 1,
                    Source::New => panic!("{what}: started empty"),
                }
                // What was opened can be worked with.
                node.put_devices(0..3, 9);
                let newest = node.checkpoint(b"third");
                let (opened, dir, model) = node.reopen(&expecting(newest.generation));
                Node::of(&dir, opened.unwrap_or_else(|e| panic!("{what}: {e}")), model);
            }
            Err(error) => {
                assert!(error.is_damage() || matches!(error, DiskError::NoCheckpoint), "{what}: {error}");
                refused += 1;
            }
        }
    }
    println!("{whole} whole, {fell_back} fell back, {refused} refused");
    assert!(whole > 0 && fell_back + refused > 0, "{whole} {fell_back} {refused}");
}

/// Bends one stored value of a generation under the eyes of sled, whose own checksums then match.
fn bend(at: &Path, generation: u64, manifest: bool) {
    let tree = raw_tree(&at.join("pages-1"));
    let mut bent = 0;
    for item in tree.raw().iter() {
        let (bytes, value) = item.unwrap();
        let key = Key::decode(&bytes).unwrap();
        if key.generation == generation && (key.kind == Kind::Manifest) == manifest && bent == 0 {
            let mut value = value.to_vec();
            let middle = value.len() / 2;
            value[middle] ^= 4;
            tree.raw().insert(bytes, value).unwrap();
            bent += 1;
        }
    }
    assert_eq!(bent, 1);
    tree.sync().unwrap();
}

#[test]
fn a_damaged_newest_generation_falls_back_and_goes_on_from_there() {
    for manifest in [false, true] {
        let pristine = TwoGenerations::new();
        bend(pristine.at.path(), pristine.second.1, manifest);
        let (mut node, source) = pristine.open(pristine.at.path()).unwrap();
        assert!(matches!(&source, Source::FellBack { why } if why.contains("generation 2")), "{source:?}");
        // Nothing of the damaged generation may come back under a later one.
        let third = node.checkpoint(b"third");
        assert_eq!((third.generation, third.previous), (pristine.second.1 + 1, pristine.first.1));
        let (opened, dir, model) = node.reopen(&expecting(third.generation));
        let opened = opened.unwrap();
        assert_eq!((&opened.meta[..], &opened.source), (&b"third"[..], &Source::Newest));
        Node::of(&dir, opened, model);
    }
}

#[test]
fn two_damaged_generations_are_refused_and_quarantined_and_never_read_as_empty() {
    let pristine = TwoGenerations::new();
    for (_, generation) in [&pristine.first, &pristine.second] {
        bend(pristine.at.path(), *generation, true);
    }
    let refused = pristine.open(pristine.at.path()).err().unwrap();
    assert!(matches!(&refused, DiskError::Damaged { why, .. } if why.contains("generation 1")), "{refused}");
    let dir = Arc::new(DataDir::lock(pristine.at.path()).unwrap());
    assert!(open(&dir, &options()).is_err(), "also without knowing what to expect");
    let aside = dir.quarantine().unwrap().dir.unwrap();
    assert!(aside.join("db").exists());
    let empty = open(&dir, &pristine.options()).unwrap().source;
    assert!(matches!(empty, Source::FellBack { why } if why.contains("was lost")), "not empty by accident");
    drop(dir);
    let dir = Arc::new(DataDir::lock(pristine.at.path()).unwrap());
    assert_eq!(open(&dir, &options()).unwrap().source, Source::New);
}

#[test]
fn pages_of_a_checkpoint_that_was_never_completed_are_not_read_then_or_later() {
    let pristine = TwoGenerations::new();
    let tree = raw_tree(&pristine.at.path().join("pages-1"));
    let old = tree
        .raw()
        .iter()
        .map(|item| item.unwrap())
        .map(|(key, value)| (Key::decode(&key).unwrap(), value))
        .find(|(key, _)| key.generation == pristine.first.1 && matches!(key.kind, Kind::Page(..)))
        .unwrap();
    let page = seal::join(old.0, &[old.1]).unwrap();
    let mut batch = sled::Batch::default();
    seal::seal(Key { generation: pristine.second.1 + 1, ..old.0 }, &page, |key, value| {
        batch.insert(&key.encode(), value);
    });
    tree.apply(batch).unwrap();
    tree.sync().unwrap();
    drop(tree);
    let (mut node, source) = pristine.open(pristine.at.path()).unwrap();
    assert_eq!(source, Source::Newest);
    let third = node.checkpoint(b"third").generation;
    assert_eq!(third, pristine.second.1 + 2, "its generation is not used again");
    let (opened, dir, model) = node.reopen(&expecting(third));
    Node::of(&dir, opened.unwrap(), model);
}

#[test]
fn a_damaged_pointer_is_repaired_only_where_there_is_no_choice() {
    let pristine = TwoGenerations::new();
    let current = pristine.at.path().join("CURRENT");
    let text = fs::read_to_string(&current).unwrap();
    assert!(text.starts_with("berth pages 1\npages-1\ncrc32c "), "{text}");
    fs::write(&current, text.replace("pages-1", "pages-2")).unwrap();
    let (node, source) = pristine.open(pristine.at.path()).unwrap();
    assert_eq!(source, Source::Newest);
    assert_eq!(fs::read_to_string(&current).unwrap(), text);
    drop(node);
    fs::write(&current, "").unwrap();
    copy_dir(&pristine.at.path().join("pages-1"), &pristine.at.path().join("pages-2"));
    assert!(pristine.open(pristine.at.path()).err().unwrap().is_damage());
}

#[test]
fn pages_without_a_pointer_and_a_pointer_without_pages_are_damage() {
    let pristine = TwoGenerations::new();
    let (current, pages) = (pristine.at.path().join("CURRENT"), pristine.at.path().join("pages-1"));
    let text = fs::read(&current).unwrap();
    fs::remove_file(&current).unwrap();
    assert!(pristine.open(pristine.at.path()).err().unwrap().is_damage());
    let dir = Arc::new(DataDir::lock(pristine.at.path()).unwrap());
    assert!(open(&dir, &options()).err().unwrap().is_damage(), "also without knowing what to expect");
    drop(dir);
    fs::write(&current, text).unwrap();
    fs::remove_dir_all(pages).unwrap();
    assert!(pristine.open(pristine.at.path()).err().unwrap().is_damage());
}

#[test]
fn a_directory_whose_creation_was_cut_short_starts_anew() {
    let at = TempDir::new().unwrap();
    drop(Node::new(&at));
    fs::remove_file(at.path().join("CURRENT")).unwrap();
    drop(Node::new(&at));
    assert!(at.path().join("CURRENT").exists());
}
