//! Opening: reading a generation back, believing nothing that does not verify.

use super::checkpoint::{Checkpointer, OnDisk, StoredPage};
use super::data_dir::{DataDir, Pointer};
use super::keys::{self, Key, Kind};
use super::manifest::Manifest;
use super::snapshot::Disk;
use super::staging::GENERATION_ROOM;
use super::tree::{PageTree, bytes_below, under_watchdog};
use super::{DiskError, seal};
use crate::pages::{Contents, HashKey, RowHash, TableId};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long opening may take by default, beside the time for its bytes: 10 M devices take a few seconds.
const OPEN_LIMIT: Duration = Duration::from_secs(60);
/// The slowest disk that is waited for, in bytes a second: whole pages are not set aside for being read slowly.
const SLOWEST_READ: u64 = 8 << 20;

/// How to open a data directory.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// How rows are placed in pages.
    pub row_hash: RowHash,
    /// The newest generation that was completed, as recorded outside of sled. An older one counts as fallen back to;
    /// whether the log leads on from there is the caller's to judge.
    pub expected: Option<u64>,
    /// Opening that takes longer, beside the time that a slow disk needs for the bytes, counts as damage.
    pub open_limit: Duration,
    /// Checkpoints write at most this many bytes a second; none: as fast as they can.
    pub bytes_per_second: Option<u64>,
}

/// An opened data directory.
pub struct Opened {
    /// The tables, verified.
    pub contents: Contents,
    /// What was put beside the pages; empty for a new directory.
    pub meta: Vec<u8>,
    /// The generation they are of; 0 for a new directory.
    pub generation: u64,
    /// Which generation that is.
    pub source: Source,
    /// Writes the next checkpoints. It belongs to these contents: the tables made from them are the only ones it
    /// may be given.
    pub checkpointer: Checkpointer,
}

/// Which generation was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// None: the directory is new.
    New,
    /// The newest that was completed.
    Newest,
    /// The one before, because the newest is damaged or missing.
    FellBack {
        /// What is wrong with the newest.
        why: String,
    },
}

impl OpenOptions {
    /// The usual options: nothing expected, no rate limit.
    pub fn new(row_hash: RowHash) -> Self {
        Self { row_hash, expected: None, open_limit: OPEN_LIMIT, bytes_per_second: None }
    }
}

/// Opens what is in force in the data directory, or starts a new one.
///
/// # Errors
///
/// [`DiskError::Damaged`] or [`DiskError::OpenTooSlow`] if no whole generation is there that the caller can use:
/// then the directory is to be quarantined and rebuilt. [`DiskError::Io`] if the system refuses.
pub fn open(dir: &Arc<DataDir>, options: &OpenOptions) -> Result<Opened, DiskError> {
    let started = Instant::now();
    let damaged = |why: String| DiskError::Damaged { dir: dir.path().to_path_buf(), why };
    let found = match find_in_force(dir)? {
        Some(in_force) => {
            dir.clear_leftovers(&in_force.pages, in_force.before.as_deref())?;
            let found = read_in_force(dir, &in_force, options)?;
            if in_force.created && found.loaded.is_some() {
                return Err(damaged("the file CURRENT is missing, but there are pages".to_owned()));
            }
            if in_force.repoint {
                dir.point_to(&in_force.pages, None)?;
            }
            found
        }
        None => {
            let pages = dir.new_pages_dir()?;
            let tree = PageTree::create(&pages)?;
            dir.point_to(&pages, None)?;
            Found { tree, loaded: None, newest_damage: None, before: None }
        }
    };
    let generation = found.loaded.as_ref().map_or(0, |loaded| loaded.manifest.generation);
    let source = judge(&found, generation, options.expected);
    let loaded = found.loaded.unwrap_or_else(|| Loaded::nothing(options.row_hash));
    let meta = loaded.manifest.meta.clone();
    let mut on_disk = loaded.on_disk;
    on_disk.used = on_disk.used.max(options.expected.unwrap_or(0));
    let disk = Disk::new(Arc::clone(dir), Arc::new(found.tree), (generation > 0).then_some(loaded.manifest));
    disk.note_open(started.elapsed())?;
    Ok(Opened {
        contents: loaded.contents,
        meta,
        generation,
        source,
        checkpointer: Checkpointer::new(disk, on_disk, found.before, options.bytes_per_second),
    })
}

/// What a tree holds.
pub(crate) struct Found {
    pub(crate) tree: PageTree,
    /// The newest generation that verifies; none if there is no manifest at all.
    pub(crate) loaded: Option<Loaded>,
    /// What was wrong with a newer one.
    pub(crate) newest_damage: Option<String>,
    /// Another directory, with the generation before.
    pub(crate) before: Option<PathBuf>,
}

/// The pages directory in force, as far as names tell.
struct InForce {
    pages: PathBuf,
    before: Option<PathBuf>,
    /// Nothing points to it yet: only an empty one is believed.
    created: bool,
    /// The pointer is to be written again.
    repoint: bool,
}

fn find_in_force(dir: &DataDir) -> Result<Option<InForce>, DiskError> {
    let damaged = |why: String| DiskError::Damaged { dir: dir.path().to_path_buf(), why };
    let (created, what) = match dir.pointer()? {
        Pointer::Names { pages, before } => {
            if !pages.exists() {
                return Err(damaged(format!("{} is missing", pages.display())));
            }
            let before = before.filter(|before| before.exists());
            return Ok(Some(InForce { pages, before, created: false, repoint: false }));
        }
        Pointer::Damaged => (false, "damaged"),
        Pointer::Missing => (true, "missing"),
    };
    match (dir.pages_dirs()?, created) {
        (none, true) if none.is_empty() => Ok(None),
        (some, _) => match only_one(some) {
            Some(pages) => Ok(Some(InForce { pages, before: None, created, repoint: true })),
            None => Err(damaged(format!("the file CURRENT is {what}"))),
        },
    }
}

/// Reads the directory in force, or the one before it if that holds nothing whole.
fn read_in_force(dir: &DataDir, in_force: &InForce, options: &OpenOptions) -> Result<Found, DiskError> {
    let read = |pages: &Path| {
        let (at, row_hash) = (pages.to_path_buf(), options.row_hash);
        let limit = options.open_limit + Duration::from_secs(bytes_below(pages)? / SLOWEST_READ);
        under_watchdog(pages, limit, move || read_newest(&at, row_hash))
            .map_err(|error| as_damage(dir.path(), error))
    };
    let newest = read(&in_force.pages);
    let Some(before) = &in_force.before else { return newest };
    let why = match newest {
        // A directory with one before it was put in force with a whole generation inside.
        Ok(found) if found.loaded.as_ref().is_some_and(|loaded| loaded.manifest.generation > 0) => {
            return Ok(Found { before: Some(before.clone()), ..found });
        }
        Ok(_) => "its newest generations are gone".to_owned(),
        Err(error) if error.is_damage() => error.to_string(),
        Err(error) => return Err(error),
    };
    let mut older = read(before)?;
    if let Some(loaded) = &mut older.loaded {
        // How many generations the damaged directory had is not known; their numbers are not used again.
        loaded.on_disk.used = loaded.manifest.generation + GENERATION_ROOM;
    }
    let why = format!("{}: {why}", in_force.pages.display());
    let why = older.newest_damage.as_ref().map_or(why.clone(), |older| format!("{why}; {older}"));
    dir.point_to(before, None)?;
    dir.set_aside(&in_force.pages)?;
    Ok(Found { newest_damage: Some(why), ..older })
}

/// One verified generation.
pub(crate) struct Loaded {
    pub(crate) manifest: Manifest,
    pub(crate) contents: Contents,
    pub(crate) on_disk: OnDisk,
}

impl Loaded {
    fn nothing(row_hash: RowHash) -> Self {
        let contents = Contents::empty(HashKey([0; 16]), row_hash);
        let manifest = Manifest {
            generation: 0,
            page_counts: [1; TableId::COUNT],
            row_counts: [0; TableId::COUNT],
            live_bytes: 0,
            digest: 0,
            hash_key: contents.hash_key(),
            meta: Vec::new(),
        };
        Self { manifest, contents, on_disk: OnDisk::default() }
    }
}

/// Opens the tree in `pages` and reads its newest whole generation.
fn read_newest(pages: &Path, row_hash: RowHash) -> Result<Found, DiskError> {
    let tree = PageTree::open(pages)?;
    let manifests = read_manifests(&tree)?;
    if manifests.is_empty() {
        if tree.is_empty() {
            return Ok(Found { tree, loaded: None, newest_damage: None, before: None });
        }
        // A first checkpoint that was cut short leaves pages without a manifest; they are overwritten by the next
        // one, and whether a checkpoint had ever been completed, the caller knows.
        let on_disk = leftovers(&tree)?;
        let mut loaded = Loaded::nothing(row_hash);
        loaded.on_disk = on_disk;
        return Ok(Found { tree, loaded: Some(loaded), newest_damage: None, before: None });
    }
    let mut newest_damage: Option<String> = None;
    let stored: Vec<StoredPage> = manifests.iter().map(|manifest| manifest.stored).collect();
    for StoredManifest { stored: StoredPage { generation, .. }, manifest } in manifests.into_iter().rev() {
        let read = manifest
            .map_err(Unreadable::Damage)
            .and_then(|manifest| read_generation(&tree, manifest, &stored, row_hash));
        match read {
            Ok(loaded) => return Ok(Found { tree, loaded: Some(loaded), newest_damage, before: None }),
            Err(Unreadable::Damage(why)) => {
                let why = format!("generation {generation}: {why}");
                newest_damage = Some(newest_damage.map_or(why.clone(), |newer| format!("{newer}; {why}")));
            }
            Err(Unreadable::Error(error)) => return Err(error),
        }
    }
    Err(DiskError::Damaged { dir: pages.to_path_buf(), why: newest_damage.unwrap_or_default() })
}

/// Why a generation cannot be used.
enum Unreadable {
    /// It is damaged; another may not be.
    Damage(String),
    /// Nothing can be read.
    Error(DiskError),
}

/// A manifest as it is stored, and what it says.
struct StoredManifest {
    stored: StoredPage,
    manifest: Result<Manifest, String>,
}

/// Every manifest in the tree, oldest first.
fn read_manifests(tree: &PageTree) -> Result<Vec<StoredManifest>, DiskError> {
    let mut versions = Vec::new();
    tree.walk(keys::first_of_manifests(), |key, value| {
        Version::add(&mut versions, key, value);
        Ok(true)
    })?;
    let read = |version: Version| {
        let key = Key { kind: Kind::Manifest, generation: version.generation, part: 0 };
        let manifest = seal::join(key, &version.parts)
            .map_err(|e| e.to_string())
            .and_then(|bytes| Manifest::decode(&bytes).map_err(|e| e.to_string()))
            .and_then(|manifest| match manifest.generation == version.generation {
                true => Ok(manifest),
                false => Err(format!("its manifest is of generation {}", manifest.generation)),
            });
        StoredManifest { stored: version.stored(Kind::Manifest), manifest }
    };
    Ok(versions.into_iter().map(read).collect())
}

/// One version of an object, as a walk meets it.
pub(crate) struct Version {
    pub(crate) generation: u64,
    /// Its values, in order of their part numbers.
    pub(crate) parts: Vec<sled::IVec>,
    /// The last part number, which is one less than the number of parts unless one is missing.
    last_part: u16,
}

impl Version {
    fn add(versions: &mut Vec<Self>, key: Key, value: sled::IVec) {
        match versions.last_mut() {
            Some(newest) if newest.generation == key.generation => {
                newest.parts.push(value);
                newest.last_part = key.part;
            }
            _ => versions.push(Self { generation: key.generation, parts: vec![value], last_part: key.part }),
        }
    }

    fn stored(&self, kind: Kind) -> StoredPage {
        StoredPage::new(kind, self.generation, usize::from(self.last_part) + 1)
    }
}

/// Reads, for each page, its newest version not above the manifest's generation, and checks the whole against
/// the manifest.
fn read_generation(
    tree: &PageTree,
    manifest: Manifest,
    manifests: &[StoredPage],
    row_hash: RowHash,
) -> Result<Loaded, Unreadable> {
    let mut contents = Contents::expecting(manifest.hash_key, row_hash, manifest.page_counts);
    let mut on_disk = OnDisk::default();
    let (older, newer) =
        manifests.split_at(manifests.partition_point(|stored| stored.generation <= manifest.generation));
    on_disk.manifests = older.to_vec();
    on_disk.junk = newer.to_vec();
    let mut damage = None;
    let mut found = [0_u32; TableId::COUNT];
    walk_pages(tree, keys::first_of_page(TableId::Devices, 0), |(table, page), versions| {
        let kind = Kind::Page(table, page);
        let (older, newer) =
            versions.split_at(versions.partition_point(|v| v.generation <= manifest.generation));
        on_disk.junk.extend(newer.iter().map(|version| version.stored(kind)));
        for pair in older.windows(2) {
            on_disk.supersede(pair[0].stored(kind), pair[1].generation);
        }
        let Some(version) = older.last() else { return Ok(true) };
        // A split writes both halves, so that no page is left out. Without this a number that was made up would
        // ask for the memory of all pages below it.
        let next = &mut found[table.index()];
        if page != *next {
            damage = Some(format!("page {next} of table {table:?} is missing, page {page} is there"));
            return Ok(false);
        }
        *next += 1;
        let key = Key { kind, generation: version.generation, part: 0 };
        let added = seal::join(key, &version.parts)
            .map_err(|e| e.to_string())
            .and_then(|bytes| contents.add_page(table, page, &bytes).map_err(|e| e.to_string()));
        if let Err(why) = added {
            damage = Some(format!(
                "page {page} of table {table:?}, written by generation {}: {why}",
                key.generation
            ));
            return Ok(false);
        }
        on_disk.set(version.stored(kind));
        Ok(true)
    })
    .map_err(Unreadable::Error)?;
    if let Some(why) = damage {
        return Err(Unreadable::Damage(why));
    }
    verify(&contents, &found, &manifest).map_err(Unreadable::Damage)?;
    Ok(Loaded { manifest, contents, on_disk })
}

/// Reads the only generation of a tree that was just filled with what was received.
pub(crate) fn read_generation_whole(
    tree: &PageTree,
    manifest: Manifest,
    row_hash: RowHash,
) -> Result<Loaded, DiskError> {
    let stored: Vec<StoredPage> = read_manifests(tree)?.into_iter().map(|manifest| manifest.stored).collect();
    read_generation(tree, manifest, &stored, row_hash).map_err(|unreadable| match unreadable {
        Unreadable::Damage(why) => DiskError::Unverified { why },
        Unreadable::Error(error) => error,
    })
}

/// Compares what was read with what the manifest says.
fn verify(contents: &Contents, found: &[u32; TableId::COUNT], manifest: &Manifest) -> Result<(), String> {
    for ((table, &expected), &found) in TableId::ALL.into_iter().zip(&manifest.page_counts).zip(found) {
        // The only page of a table that never had a row was never written.
        if found != expected && (found, expected) != (0, 1) {
            return Err(format!("table {table:?} has {found} of {expected} pages"));
        }
    }
    for (table, expected) in TableId::ALL.into_iter().zip(manifest.row_counts) {
        let found = contents.row_count(table);
        if found != expected {
            return Err(format!("table {table:?} has {found} of {expected} rows"));
        }
    }
    if contents.digest() != manifest.digest {
        return Err(format!(
            "the digest of its rows is {:032x}, not {:032x}",
            contents.digest(),
            manifest.digest
        ));
    }
    Ok(())
}

/// Everything in a tree without a manifest: to be removed before the first one is written.
fn leftovers(tree: &PageTree) -> Result<OnDisk, DiskError> {
    let mut on_disk = OnDisk::default();
    walk_pages(tree, keys::first_of_page(TableId::Devices, 0), |(table, page), versions| {
        on_disk.junk.extend(versions.iter().map(|version| version.stored(Kind::Page(table, page))));
        Ok(true)
    })?;
    Ok(on_disk)
}

/// Calls `visit` for each page from `from` on with its versions, oldest first, until it says to stop.
pub(crate) fn walk_pages(
    tree: &PageTree,
    from: [u8; keys::KEY_BYTES],
    mut visit: impl FnMut((TableId, u32), &[Version]) -> Result<bool, DiskError>,
) -> Result<(), DiskError> {
    let mut current: Option<(TableId, u32)> = None;
    let mut versions = Vec::new();
    let mut stopped = false;
    tree.walk(from, |key, value| {
        let Kind::Page(table, page) = key.kind else { return Ok(false) };
        if current != Some((table, page)) {
            if let Some(of) = current.replace((table, page)) {
                stopped = !visit(of, &versions)?;
            }
            if stopped {
                return Ok(false);
            }
            versions.clear();
        }
        Version::add(&mut versions, key, value);
        Ok(true)
    })?;
    if let (Some(of), false) = (current, stopped) {
        visit(of, &versions)?;
    }
    Ok(())
}

/// Says how the generation that was found came to be the one.
fn judge(found: &Found, generation: u64, expected: Option<u64>) -> Source {
    match (&found.newest_damage, expected.filter(|newest| generation < *newest)) {
        (Some(why), _) => Source::FellBack { why: why.clone() },
        (None, Some(newest)) => Source::FellBack { why: format!("generation {newest} was lost") },
        (None, None) if generation == 0 => Source::New,
        (None, None) => Source::Newest,
    }
}

fn only_one(dirs: Vec<PathBuf>) -> Option<PathBuf> {
    <[PathBuf; 1]>::try_from(dirs).ok().map(|[dir]| dir)
}

/// An error of sled while opening is about the bytes it found, unless the system refused: whole pages are not set
/// aside for a full disk.
pub(crate) fn as_damage(dir: &Path, error: DiskError) -> DiskError {
    match error {
        DiskError::Store { what, problem, refused: false, .. } => DiskError::Damaged {
            dir: dir.to_path_buf(),
            why: format!("the page store failed to {what}: {problem}"),
        },
        DiskError::Damaged { why, .. } => DiskError::Damaged { dir: dir.to_path_buf(), why },
        other => other,
    }
}
