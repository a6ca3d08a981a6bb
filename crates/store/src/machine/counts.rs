//! Counters by internal number, cheap to publish.

use std::sync::Arc;

/// Counters of one chunk: 2 KiB, what one change copies.
const CHUNK: usize = 256;
/// Numbers that are counted: those of hubs take three bytes in a row, and all others are fewer. A higher one was made
/// up, and would ask for the memory of all below it.
const NUMBERS_MAX: usize = 1 << 24;

/// Counts by number. A clone shares its chunks, and a change copies one of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    chunks: Vec<Arc<[u64; CHUNK]>>,
}

impl Counts {
    pub(crate) fn get(&self, no: usize) -> u64 {
        self.chunks.get(no / CHUNK).and_then(|chunk| chunk.get(no % CHUNK)).copied().unwrap_or(0)
    }

    /// Adds `by`; false where the count would leave its range, which says that it was wrong before, or where there is
    /// no such number.
    #[must_use]
    pub(crate) fn add(&mut self, no: usize, by: i64) -> bool {
        if no >= NUMBERS_MAX {
            return false;
        }
        if self.chunks.len() <= no / CHUNK {
            // Chunks without a count are one and the same.
            self.chunks.resize(no / CHUNK + 1, Arc::new([0; CHUNK]));
        }
        let count =
            self.chunks.get_mut(no / CHUNK).and_then(|chunk| Arc::make_mut(chunk).get_mut(no % CHUNK));
        match count {
            Some(count) => match count.checked_add_signed(by) {
                Some(sum) => {
                    *count = sum;
                    true
                }
                None => false,
            },
            None => false,
        }
    }

    /// All counts above zero with their numbers, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, u64)> {
        let counts = self.chunks.iter().flat_map(|chunk| chunk.iter().copied());
        counts.enumerate().filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_its_counts() {
        let mut counts = Counts::default();
        assert!(counts.add(300, 5));
        let before = counts.clone();
        assert!(counts.add(300, -2));
        assert_eq!((before.get(300), counts.get(300), counts.get(1)), (5, 3, 0));
        assert_eq!(counts.iter().collect::<Vec<_>>(), [(300, 3)]);
    }

    #[test]
    fn a_count_never_wraps() {
        let mut counts = Counts::default();
        assert!(!counts.add(0, -1));
        assert_eq!(counts.get(0), 0);
    }

    #[test]
    fn a_number_past_the_last_is_not_counted() {
        let mut counts = Counts::default();
        assert!(!counts.add(u32::MAX as usize, 1));
        assert!(counts.add(NUMBERS_MAX - 1, 1));
        assert_eq!(counts.iter().collect::<Vec<_>>(), [(NUMBERS_MAX - 1, 1)]);
    }
}
