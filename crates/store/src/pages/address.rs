//! Linear hashing: which page a hash falls on, and which page splits next.

/// The page of `hash` in a table of `page_count` pages (at least one, at most [`super::PAGES_MAX`]).
///
/// With `n` pages and `2^level <= n < 2^(level+1)`, the pages below `n - 2^level` and their twins have split
/// already and are told apart by one more bit of the hash.
pub(crate) fn page_of(hash: u64, page_count: u32) -> u32 {
    let half = half_of(page_count);
    let wide = low_bits(hash, half * 2 - 1);
    if wide < page_count { wide } else { low_bits(hash, half - 1) }
}

/// The page whose rows are divided when a table grows from `page_count` to one page more: the new page is
/// number `page_count` and takes the rows that [`page_of`] then gives it.
pub(crate) fn split_source(page_count: u32) -> u32 {
    page_count - half_of(page_count)
}

/// One byte of the hash that page numbers do not use, to find a row within its page.
pub(crate) fn fingerprint(hash: u64) -> u8 {
    (hash >> 56) as u8
}

/// The largest power of two that is not above `page_count`.
fn half_of(page_count: u32) -> u32 {
    1 << (31 - page_count.max(1).leading_zeros())
}

fn low_bits(hash: u64, mask: u32) -> u32 {
    (hash & u64::from(mask)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn growing_by_one_page_moves_rows_only_from_the_split_page(hash: u64, count in 1_u32..5_000) {
            let before = page_of(hash, count);
            let after = page_of(hash, count + 1);
            prop_assert!(before < count);
            if before == split_source(count) {
                prop_assert!(after == before || after == count);
            } else {
                prop_assert_eq!(before, after);
            }
        }
    }

    #[test]
    fn a_table_of_one_page_takes_every_hash() {
        for hash in [0, 1, u64::MAX, 0x8000_0000_0000_0000] {
            assert_eq!(page_of(hash, 1), 0);
        }
        assert_eq!(split_source(1), 0);
        assert_eq!(split_source(2), 0);
        assert_eq!(split_source(3), 1);
        assert_eq!(split_source(4), 0);
    }
}
