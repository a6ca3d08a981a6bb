//! Figures of the disk, for metrics and status.

use std::time::Duration;

/// Writes are refused when less than this share of the file system is free, as a divisor: one twentieth.
const FREE_SHARE: u64 = 20;
/// Writes are refused when less than this many times the live bytes is free: room for one rewrite beside a
/// checkpoint.
const FREE_LIVE: u64 = 2;

/// What the checkpoints of this process have done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// The newest durable generation; 0 before the first checkpoint of a directory.
    pub generation: u64,
    /// Bytes of pages in it.
    pub live_bytes: u64,
    /// Bytes of sled's files after it.
    pub disk_bytes: u64,
    /// How many checkpoints this process has completed.
    pub checkpoints: u64,
    /// How many times it rewrote the pages directory to shrink it.
    pub rewrites: u64,
    /// Pages written by the last checkpoint.
    pub pages_written: u64,
    /// Bytes of pages written by the last checkpoint.
    pub bytes_written: u64,
    /// How long the last checkpoint took.
    pub checkpoint_took: Duration,
    /// How long opening took.
    pub open_took: Duration,
    /// Snapshots being sent now.
    pub snapshots: usize,
}

impl DiskStats {
    /// Bytes on disk for each live byte, times 100: 320 stands for 3.2.
    pub fn amplification_percent(&self) -> u64 {
        self.disk_bytes.saturating_mul(100) / self.live_bytes.max(1)
    }
}

/// How much of a file system is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSpace {
    /// Bytes that this process may still write.
    pub free_bytes: u64,
    /// Bytes of the whole file system.
    pub total_bytes: u64,
}

impl FreeSpace {
    /// The least that must stay free for a directory of `live_bytes`: 5 % of the file system, or twice the live
    /// bytes, whichever is more.
    pub fn needed_bytes(&self, live_bytes: u64) -> u64 {
        (self.total_bytes / FREE_SHARE).max(live_bytes.saturating_mul(FREE_LIVE))
    }

    /// Whether new writes must be refused, so that checkpoints and rewrites still fit.
    pub fn is_short(&self, live_bytes: u64) -> bool {
        self.free_bytes < self.needed_bytes(live_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_short_below_a_share_of_the_disk_or_twice_the_live_bytes() {
        let space = FreeSpace { free_bytes: 100, total_bytes: 1_000 };
        assert!(!space.is_short(50));
        assert!(space.is_short(51));
        assert!(FreeSpace { free_bytes: 49, total_bytes: 1_000 }.is_short(0));
    }
}
