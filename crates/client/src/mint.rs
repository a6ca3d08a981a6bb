//! Request IDs: UUIDs of version 7 that keep up with the cluster's clock where the caller's clock does not.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

/// Makes request IDs.
#[derive(Debug, Default)]
pub(crate) struct Mint {
    /// Milliseconds to add to the own clock: set where the cluster said that an ID was too old or too new.
    offset_ms: AtomicI64,
}

impl Mint {
    /// A new ID, at the caller's time as the cluster sees it.
    pub(crate) fn next(&self) -> String {
        let own = i64::try_from(own_clock_ms()).unwrap_or(i64::MAX);
        let at = own.saturating_add(self.offset_ms.load(Ordering::Relaxed)).max(0).unsigned_abs();
        id_at(at).to_string()
    }

    /// Learns the cluster's time from a refusal.
    pub(crate) fn set_cluster_time(&self, cluster_ms: u64) {
        let own = i64::try_from(own_clock_ms()).unwrap_or(i64::MAX);
        let cluster = i64::try_from(cluster_ms).unwrap_or(i64::MAX);
        self.offset_ms.store(cluster.saturating_sub(own), Ordering::Relaxed);
    }
}

/// A UUIDv7 of this time with 74 random bits.
pub(crate) fn id_at(unix_ms: u64) -> Uuid {
    let random: [u8; 10] = rand::random();
    uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid()
}

fn own_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time_of(id: &str) -> u64 {
        let (seconds, nanos) = Uuid::parse_str(id).unwrap().get_timestamp().unwrap().to_unix();
        seconds * 1_000 + u64::from(nanos) / 1_000_000
    }

    #[test]
    fn ids_are_of_version_7_and_differ() {
        let mint = Mint::default();
        let (a, b) = (mint.next(), mint.next());
        assert_ne!(a, b);
        assert_eq!(Uuid::parse_str(&a).unwrap().get_version_num(), 7);
    }

    #[test]
    fn ids_follow_the_clusters_time() {
        let mint = Mint::default();
        let ahead = own_clock_ms() + 86_400_000;
        mint.set_cluster_time(ahead);
        assert!(time_of(&mint.next()) >= ahead);
        mint.set_cluster_time(5_000);
        assert!(
            time_of(&mint.next()) < 3_600_000,
            "a cluster whose clock is behind gets IDs that are behind too"
        );
    }
}
