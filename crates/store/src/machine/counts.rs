//! Counters by internal number, cheap to publish.

use std::sync::Arc;

/// Counters of one chunk: 2 KiB, what one change copies.
const CHUNK: usize = 256;

/// Counts by number. A clone shares its chunks, and a change copies one of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    chunks: Vec<Arc<[u64; CHUNK]>>,
}

impl Counts {
    pub(crate) fn get(&self, no: usize) -> u64 {
        self.chunks.get(no / CHUNK).and_then(|chunk| chunk.get(no % CHUNK)).copied().unwrap_or(0)
    }

    /// Adds `by`; false where the count would leave its range, which says that it was wrong before.
    #[must_use]
    pub(crate) fn add(&mut self, no: usize, by: i64) -> bool {
        while self.chunks.len() <= no / CHUNK {
            self.chunks.push(Arc::new([0; CHUNK]));
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
}
