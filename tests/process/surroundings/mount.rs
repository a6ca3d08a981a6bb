//! Small file systems of their own.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Bytes written at a time: large first, then what is left of it in small pieces.
const STEPS: [usize; 3] = [1 << 20, 64 << 10, 4 << 10];

/// A file system in memory of a bounded size; gone when dropped.
pub struct Small {
    dir: TempDir,
}

impl Small {
    /// Mounts one; `None` where this machine refuses that, which is told.
    pub fn mount(mib: u32) -> Option<Self> {
        let dir = TempDir::with_prefix("berth-small-").expect("a temporary directory");
        let size = format!("size={mib}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        match mounted {
            Ok(Output { status, .. }) if status.success() => Some(Self { dir }),
            told => {
                println!("SKIPPED: no file system can be mounted here: {told:?}");
                None
            }
        }
    }

    /// A data directory in it, which is yet to be made.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Allows no more writing.
    pub fn make_read_only(&self) {
        let done = Command::new("mount").args(["-o", "remount,ro"]).arg(self.dir.path()).status();
        assert!(done.expect("mount runs").success());
    }

    /// Fills it until `left_bytes` are free, and never fewer on the way; with none left, up to the last page.
    pub fn fill(&self, left_bytes: u64) {
        let mut file =
            OpenOptions::new().create(true).append(true).open(self.filling()).expect("the filling");
        for step in STEPS {
            let zeros = vec![0; step];
            // Without anything to leave, the file system says itself when it is full.
            while left_bytes == 0 || self.free_bytes() >= left_bytes + step as u64 {
                if file.write_all(&zeros).is_err() {
                    break;
                }
            }
        }
    }

    fn free_bytes(&self) -> u64 {
        let space = rustix::fs::statvfs(self.dir.path()).expect("a file system tells its room");
        space.f_bavail * space.f_frsize
    }

    /// Gives the room back.
    pub fn empty(&self) {
        File::create(self.filling()).expect("the filling");
    }

    fn filling(&self) -> PathBuf {
        self.dir.path().join("filling")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: a process that a failing test left is not waited for.
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}
