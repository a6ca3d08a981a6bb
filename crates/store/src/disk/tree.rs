//! sled, held at arm's length: one tree, opened under a watchdog, synced by ourselves.

use super::DiskError;
use super::data_dir::sync_dir;
use super::keys::{KEY_BYTES, Key};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Memory that sled may use for its cache. It is only read at open and for snapshots.
const CACHE_BYTES: u64 = 16 << 20;
/// How often a value that a walk met is looked at once more. sled looks at its limit only after 64 uses of nodes of one
/// of its cache's 256 parts, and a walk uses a node once for all of its 16 values: without more uses a walk over
/// 3 M devices leaves every node in memory.
const USES_OF_A_VALUE: usize = 2;
/// How often sled's own thread flushes and collects garbage. It must run: without it the file only grows.
const FLUSH_MS: u64 = 200;
/// Longest wait for sled to let go of its file after an earlier use in this process has ended: its memory is
/// reclaimed late.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Pause between two tries to get that file.
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// The system's answer to a read at an impossible offset.
const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();
/// Operations of one batch: enough to be worth its cost, few enough not to hold readers up.
pub(crate) const BATCH_OPS_MAX: usize = 256;

/// One sled tree and its directory.
pub(crate) struct PageTree {
    db: sled::Db,
    dir: PathBuf,
    /// Our own descriptor of sled's file: syncing it reaches the same inode, and its errors reach us.
    file: File,
}

impl PageTree {
    /// Opens the tree in `dir`, or makes it.
    pub(crate) fn open(dir: &Path) -> Result<Self, DiskError> {
        let until = Instant::now() + LOCK_WAIT;
        let config = || {
            sled::Config::new()
                .path(dir)
                .cache_capacity(CACHE_BYTES)
                .flush_every_ms(Some(FLUSH_MS))
                .mode(sled::Mode::LowSpace)
        };
        let db = loop {
            match config().open() {
                Ok(db) => break db,
                Err(e) if e.to_string().contains("could not acquire lock") => {
                    if Instant::now() >= until {
                        return Err(DiskError::InUse { dir: dir.to_path_buf() });
                    }
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(e) => return Err(store_error("open", dir, &e)),
            }
        };
        let path = dir.join("db");
        let file = File::open(&path).map_err(|e| DiskError::io("open", &path, e))?;
        Ok(Self { db, dir: dir.to_path_buf(), file })
    }

    /// Makes a new tree in an empty directory, and makes the files themselves durable.
    pub(crate) fn create(dir: &Path) -> Result<Self, DiskError> {
        let tree = Self::open(dir)?;
        tree.sync()?;
        let conf = dir.join("conf");
        let file = File::open(&conf).map_err(|e| DiskError::io("open", &conf, e))?;
        file.sync_all().map_err(|source| DiskError::Sync { path: conf, source })?;
        sync_dir(dir)?;
        Ok(tree)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Applies some changes. They are durable after the next [`PageTree::sync`].
    pub(crate) fn apply(&self, batch: sled::Batch) -> Result<(), DiskError> {
        self.db.apply_batch(batch).map_err(|e| store_error("write", &self.dir, &e))
    }

    /// Makes everything written so far durable. sled's own flush only starts the writing on Linux.
    pub(crate) fn sync(&self) -> Result<(), DiskError> {
        self.db.flush().map_err(|e| store_error("flush", &self.dir, &e))?;
        rustix::fs::fdatasync(&self.file)
            .map_err(|errno| DiskError::Sync { path: self.dir.join("db"), source: errno.into() })
    }

    /// Bytes of sled's files.
    pub(crate) fn disk_bytes(&self) -> Result<u64, DiskError> {
        self.db.size_on_disk().map_err(|e| store_error("measure its size", &self.dir, &e))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.db.is_empty()
    }

    /// Walks over values in the order of their keys, from `from` on, until `visit` says to stop. A key that is
    /// not ours is damage.
    pub(crate) fn walk(
        &self,
        from: [u8; KEY_BYTES],
        mut visit: impl FnMut(Key, sled::IVec) -> Result<bool, DiskError>,
    ) -> Result<(), DiskError> {
        for item in self.db.range(from..) {
            let (raw, value) = item.map_err(|e| store_error("read", &self.dir, &e))?;
            for _ in 0..USES_OF_A_VALUE {
                self.db.contains_key(&raw).map_err(|e| store_error("read", &self.dir, &e))?;
            }
            let Some(key) = Key::decode(&raw) else {
                return Err(DiskError::Damaged {
                    dir: self.dir.clone(),
                    why: format!("a stored key of {} bytes is none of ours", raw.len()),
                });
            };
            if !visit(key, value)? {
                break;
            }
        }
        Ok(())
    }
}

/// Runs `work` on a thread of its own and gives up on it after `limit`. sled may panic or hang on damaged files;
/// either is reported as damage of `dir`.
pub(crate) fn under_watchdog<T: Send + 'static>(
    dir: &Path,
    limit: Duration,
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    let (done, wait) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("berth-open".to_owned()).spawn(move || {
        // Nobody listens any more if the time was up; then there is nobody to tell.
        let _ = done.send(work());
    });
    let thread = thread.map_err(|e| DiskError::io("start a thread to open", dir, e))?;
    match wait.recv_timeout(limit) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Err(DiskError::OpenTooSlow { dir: dir.to_path_buf(), seconds: limit.as_secs() })
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            let panic = thread.join().err();
            let said = panic.as_ref().and_then(|p| {
                p.downcast_ref::<&str>()
                    .map(|s| (*s).to_owned())
                    .or_else(|| p.downcast_ref::<String>().cloned())
            });
            let why = format!("the page store panicked: {}", said.unwrap_or_default());
            Err(DiskError::Damaged { dir: dir.to_path_buf(), why })
        }
    }
}

/// Removes half-written snapshots of sled's own bookkeeping. sled would take one for a whole one and refuse to
/// open; the older snapshot beside it is complete, since it is removed only after the rename.
pub(crate) fn clear_leftovers(dir: &Path) -> Result<(), DiskError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(DiskError::io("list", dir, e)),
    };
    for entry in entries {
        let path = entry.map_err(|e| DiskError::io("list", dir, e))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(&path).map_err(|e| DiskError::io("remove", &path, e))?;
        }
    }
    Ok(())
}

/// Bytes of all files of a directory that is not open.
pub(crate) fn bytes_below(dir: &Path) -> Result<u64, DiskError> {
    let failed = |e| DiskError::io("measure the size of", dir, e);
    let mut bytes = 0;
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let about = entry.metadata().map_err(failed)?;
        bytes += if about.is_dir() { bytes_below(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}

fn store_error(what: &'static str, dir: &Path, error: &sled::Error) -> DiskError {
    let refused = match error {
        // Read at a place that cannot be: the bytes that named it are damaged, not the disk.
        sled::Error::Io(error) => error.raw_os_error().is_some_and(|code| code != EINVAL),
        _ => false,
    };
    DiskError::Store { what, dir: dir.to_path_buf(), problem: error.to_string(), refused }
}

#[cfg(test)]
impl PageTree {
    /// sled itself, for tests that damage it.
    pub(crate) fn raw(&self) -> &sled::Db {
        &self.db
    }

    /// Lets every sync fail from now on: a pipe cannot be synced.
    pub(crate) fn break_sync(&mut self) {
        let (reader, _) = std::io::pipe().unwrap();
        self.file = File::from(std::os::fd::OwnedFd::from(reader));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_panics_or_hangs_is_reported_as_damage() {
        let dir = Path::new("nowhere");
        let panicked = under_watchdog::<()>(dir, LOCK_WAIT, || panic!("node is torn"));
        assert!(matches!(panicked, Err(DiskError::Damaged { why, .. }) if why.contains("node is torn")));
        let (release, held) = mpsc::channel::<()>();
        let hung = under_watchdog(dir, Duration::from_millis(10), move || {
            let _ = held.recv();
            Ok(())
        });
        assert!(matches!(hung, Err(DiskError::OpenTooSlow { .. })));
        drop(release);
        assert!(matches!(under_watchdog(dir, LOCK_WAIT, || Ok(7)), Ok(7)));
    }
}
