//! The data directory: who may work in it, and which pages directory is in force.

use super::stats::FreeSpace;
use super::{DiskError, tree};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

const LOCK: &str = "LOCK";
const CURRENT: &str = "CURRENT";
const CURRENT_NEXT: &str = "CURRENT.next";
const BALLAST: &str = "BALLAST";
const PAGES: &str = "pages-";
const BEFORE: &str = "before pages-";
const QUARANTINE: &str = "quarantine-";
/// Bytes written at a time when the ballast is made.
const BALLAST_STEP_BYTES: usize = 1 << 20;

/// A data directory that this process alone may work in, until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Where damaged pages were put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The directory that holds the newest of them now; none if they were missing altogether.
    pub dir: Option<PathBuf>,
}

/// What `CURRENT` says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pointer {
    Missing,
    Names {
        /// The pages directory in force.
        pages: PathBuf,
        /// The one before it, which holds the generation before.
        before: Option<PathBuf>,
    },
    Damaged,
}

impl DataDir {
    /// Makes the directory if need be, and takes its lock.
    ///
    /// # Errors
    ///
    /// [`DiskError::InUse`] if another process has it, [`DiskError::Io`] if it cannot be made or written.
    pub fn lock(path: &Path) -> Result<Self, DiskError> {
        let new = !path.exists();
        fs::create_dir_all(path).map_err(|e| DiskError::io("create", path, e))?;
        let path = path.canonicalize().map_err(|e| DiskError::io("find", path, e))?;
        if new && let Some(parent) = path.parent() {
            sync_dir(parent)?;
        }
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| DiskError::io("open", &lock_path, e))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DiskError::InUse { dir: path }),
            Err(errno) => return Err(DiskError::io("lock", &lock_path, errno.into())),
        }
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the pages directory aside, so that the next open finds none and pages can be installed afresh.
    /// Whoever calls this must know where the contents come from: another node, or a log from its beginning.
    ///
    /// # Errors
    ///
    /// [`DiskError::Io`] or [`DiskError::Sync`]. A second call goes on where the first ended.
    pub fn quarantine(&self) -> Result<Quarantined, DiskError> {
        let mut moved = None;
        let current = match self.pointer()? {
            Pointer::Names { pages, before } => std::iter::once(pages).chain(before).collect(),
            Pointer::Missing | Pointer::Damaged => self.pages_dirs()?,
        };
        for dir in current.into_iter().filter(|dir| dir.exists()) {
            let aside = self.set_aside(&dir)?;
            moved.get_or_insert(aside);
        }
        // The pointer goes last: as long as it is there, missing pages are damage and not a new node.
        sync_dir(&self.path)?;
        remove_file(&self.path.join(CURRENT))?;
        sync_dir(&self.path)?;
        Ok(Quarantined { dir: moved })
    }

    /// The space left on the file system.
    ///
    /// # Errors
    ///
    /// [`DiskError::Io`] if the system does not say.
    pub fn free_space(&self) -> Result<FreeSpace, DiskError> {
        let stat = rustix::fs::statvfs(&self.path)
            .map_err(|errno| DiskError::io("measure the free space of", &self.path, errno.into()))?;
        Ok(FreeSpace {
            free_bytes: stat.f_bavail * stat.f_frsize,
            total_bytes: stat.f_blocks * stat.f_frsize,
        })
    }

    /// Sets `bytes` of space aside, to be given back when the disk is full. Does nothing if they are there.
    ///
    /// # Errors
    ///
    /// [`DiskError::Io`], if there is no room among others; then no ballast is left.
    pub fn take_ballast(&self, bytes: u64) -> Result<(), DiskError> {
        let path = self.path.join(BALLAST);
        if fs::metadata(&path).is_ok_and(|there| there.len() == bytes) {
            return Ok(());
        }
        let written = fill(&path, bytes);
        if written.is_err() {
            remove_file(&path)?;
        }
        written.map_err(|e| DiskError::io("write", &path, e))
    }

    /// Gives the ballast back to the file system.
    ///
    /// # Errors
    ///
    /// [`DiskError::Io`] if the file cannot be removed.
    pub fn drop_ballast(&self) -> Result<(), DiskError> {
        remove_file(&self.path.join(BALLAST))
    }

    /// What `CURRENT` says.
    pub(crate) fn pointer(&self) -> Result<Pointer, DiskError> {
        let path = self.path.join(CURRENT);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Pointer::Missing),
            Err(e) => return Err(DiskError::io("read", &path, e)),
        };
        let lines: Vec<&str> =
            std::str::from_utf8(&bytes).map_or_else(|_| Vec::new(), |text| text.lines().collect());
        let (number, before) = match lines[..] {
            [_, pages, _] => (number_of(pages, PAGES), None),
            [_, pages, before, _] => (number_of(pages, PAGES), number_of(before, BEFORE)),
            _ => (None, None),
        };
        match number {
            Some(number) if pointer_text(number, before).as_bytes() == bytes => Ok(Pointer::Names {
                pages: self.pages_dir(number),
                before: before.map(|before| self.pages_dir(before)),
            }),
            _ => Ok(Pointer::Damaged),
        }
    }

    /// Puts a pages directory in force: the one step that every install, rewrite and creation ends with.
    /// `before` is the directory of the generation before, if that is another one.
    pub(crate) fn point_to(&self, pages: &Path, before: Option<&Path>) -> Result<(), DiskError> {
        let number = pages_number(pages)?;
        let before = before.map(pages_number).transpose()?;
        let (next, current) = (self.path.join(CURRENT_NEXT), self.path.join(CURRENT));
        let mut file = File::create(&next).map_err(|e| DiskError::io("create", &next, e))?;
        file.write_all(pointer_text(number, before).as_bytes())
            .map_err(|e| DiskError::io("write", &next, e))?;
        file.sync_all().map_err(|source| DiskError::Sync { path: next.clone(), source })?;
        fs::rename(&next, &current).map_err(|e| DiskError::io("rename", &next, e))?;
        sync_dir(&self.path)
    }

    /// Every pages directory there is, in force or not.
    pub(crate) fn pages_dirs(&self) -> Result<Vec<PathBuf>, DiskError> {
        let mut numbers = self.numbers(PAGES)?;
        numbers.sort_unstable();
        Ok(numbers.into_iter().map(|number| self.pages_dir(number)).collect())
    }

    /// Makes a new, empty pages directory that is not in force.
    pub(crate) fn new_pages_dir(&self) -> Result<PathBuf, DiskError> {
        loop {
            let dir = self.pages_dir(self.next_number(PAGES)?);
            match fs::create_dir(&dir) {
                Ok(()) => {
                    sync_dir(&self.path)?;
                    return Ok(dir);
                }
                // A checkpoint and an install may ask at the same time; the number is taken now.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(DiskError::io("create", &dir, e)),
            }
        }
    }

    /// Removes what a process killed at a bad moment may have left: files of an unfinished step, and pages
    /// directories that never came into force or no longer are.
    pub(crate) fn clear_leftovers(&self, in_force: &Path, before: Option<&Path>) -> Result<(), DiskError> {
        remove_file(&self.path.join(CURRENT_NEXT))?;
        for dir in self.pages_dirs()? {
            if dir == in_force || Some(&*dir) == before {
                tree::clear_leftovers(&dir)?;
            } else {
                fs::remove_dir_all(&dir).map_err(|e| DiskError::io("remove", &dir, e))?;
            }
        }
        Ok(())
    }

    /// Moves a pages directory aside, for inspection.
    pub(crate) fn set_aside(&self, pages: &Path) -> Result<PathBuf, DiskError> {
        let aside = self.path.join(format!("{QUARANTINE}{}", self.next_number(QUARANTINE)?));
        fs::rename(pages, &aside).map_err(|e| DiskError::io("move aside", pages, e))?;
        Ok(aside)
    }

    fn pages_dir(&self, number: u64) -> PathBuf {
        self.path.join(format!("{PAGES}{number}"))
    }

    fn next_number(&self, prefix: &str) -> Result<u64, DiskError> {
        let taken = self.numbers(prefix)?;
        match taken.iter().max().map_or(Some(1), |newest| newest.checked_add(1)) {
            Some(next) => Ok(next),
            // Somebody else made the directory of the last number there is; all others are free but a few.
            None => Ok((1..u64::MAX).find(|number| !taken.contains(number)).unwrap_or(u64::MAX)),
        }
    }

    fn numbers(&self, prefix: &str) -> Result<Vec<u64>, DiskError> {
        let failed = |e| DiskError::io("list", &self.path, e);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            numbers.extend(name.to_str().and_then(|name| number_of(name, prefix)));
        }
        Ok(numbers)
    }
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), DiskError> {
    let file = File::open(dir).map_err(|e| DiskError::io("open", dir, e))?;
    file.sync_all().map_err(|source| DiskError::Sync { path: dir.to_path_buf(), source })
}

fn pages_number(pages: &Path) -> Result<u64, DiskError> {
    let name = pages.file_name().and_then(|name| name.to_str());
    name.and_then(|name| number_of(name, PAGES)).ok_or_else(|| {
        let source = std::io::Error::new(ErrorKind::InvalidInput, "not a pages directory");
        DiskError::io("point to", pages, source)
    })
}

/// The bytes of a pointer to `pages-<number>`: lines that people can read, and their checksum.
fn pointer_text(number: u64, before: Option<u64>) -> String {
    let before = before.map_or(String::new(), |before| format!("{BEFORE}{before}\n"));
    let text = format!("berth pages 1\n{PAGES}{number}\n{before}");
    let crc = crc32c::crc32c(text.as_bytes());
    format!("{text}crc32c {crc:08x}\n")
}

/// The number in a name like `pages-7`, if written the way we write it.
fn number_of(name: &str, prefix: &str) -> Option<u64> {
    let number: u64 = name.strip_prefix(prefix)?.parse().ok()?;
    (format!("{prefix}{number}") == name).then_some(number)
}

fn fill(path: &Path, bytes: u64) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let zeros = vec![0; BALLAST_STEP_BYTES];
    let mut left = bytes;
    while left > 0 {
        let step = zeros.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.write_all(&zeros[..step])?;
        left -= step as u64;
    }
    file.sync_all()
}

fn remove_file(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(DiskError::io("remove", path, e)),
        _ => Ok(()),
    }
}
