//! What listings showed, as hashes: so that many millions of devices are joined with the directory in little memory.

use std::collections::BTreeSet;

use berth_core::{HubNo, ScopeNo};
use xxhash_rust::xxh3::Xxh3;

/// Hashes that are held at once, of all places that are listed together: 64 MiB. Azure lets a hub have 1,000,000 devices
/// and a DPS instance as many registrations beside as many enrollments (quotas and limits), so that each fits alone.
pub const HASHES_MAX: usize = 8 * 1024 * 1024;

/// A service of Azure that is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Listed {
    /// The DPS instance of a scope, and the registrations that it has.
    Scope(ScopeNo),
    /// A hub, and its identities.
    Hub(HubNo),
}

/// The hash of a name at a place. Two names that share one, once in many millions of devices among a million million, hide
/// each other's absence until the next sweep, whose seed is another.
pub fn hash(seed: u64, place: Listed, name: &str) -> u64 {
    let mut hasher = Xxh3::with_seed(seed);
    let (kind, no) = match place {
        Listed::Scope(ScopeNo(no)) => (0u8, u32::from(no)),
        Listed::Hub(HubNo(no)) => (1, no),
    };
    hasher.update(&[kind]);
    hasher.update(&no.to_le_bytes());
    hasher.update(name.as_bytes());
    hasher.digest()
}

/// The names that some places showed.
#[derive(Debug)]
pub struct Seen {
    seed: u64,
    places: BTreeSet<Listed>,
    /// Sorted.
    hashes: Vec<u64>,
}

impl Seen {
    /// What these places showed.
    pub fn new(seed: u64, shown: impl IntoIterator<Item = (Listed, Vec<u64>)>) -> Self {
        let (mut places, mut hashes) = (BTreeSet::new(), Vec::new());
        for (place, mut of_place) in shown {
            places.insert(place);
            hashes.append(&mut of_place);
        }
        hashes.sort_unstable();
        Self { seed, places, hashes }
    }

    /// Whether no place was listed to its end.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// True where the place was listed to its end, and did not show this name.
    pub fn lacks(&self, place: Listed, name: &str) -> bool {
        self.places.contains(&place) && self.hashes.binary_search(&hash(self.seed, place, name)).is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_listed_place_did_not_show_is_lacking() {
        let (a, b, other) = (Listed::Hub(HubNo(1)), Listed::Scope(ScopeNo(1)), Listed::Hub(HubNo(2)));
        let of = |place, names: &[&str]| (place, names.iter().map(|name| hash(9, place, name)).collect());
        let seen = Seen::new(9, [of(a, &["d-1", "d-3"]), of(b, &["d-2"])]);
        assert!(!seen.lacks(a, "d-1") && !seen.lacks(a, "d-3") && !seen.lacks(b, "d-2"));
        assert!(seen.lacks(a, "d-2") && seen.lacks(b, "d-1") && seen.lacks(a, "D-1"));
        assert!(!seen.lacks(other, "d-1"), "it was not listed");
        assert!(Seen::new(9, []).is_empty());
    }
}
