//! The bytes of one page: how rows lie in it, are found in it, and are changed.
//!
//! ```text
//! format u8 | flags u8 | rows u16 | fingerprint u8 x rows | length (u8 or u16) x rows | row x rows
//! row = key length u8 | key | value
//! ```
//!
//! Numbers are little-endian. A length counts the bytes of a row; lengths take one byte each until a row is
//! longer than 255 bytes, then two (flag [`WIDE`]). A row is found by searching the fingerprints and adding
//! up the lengths before it: three bytes of overhead a row, and no offset to rewrite when a row grows.
//!
//! Readers of these functions meet only pages that [`check`] accepted, but none of them panics on others.

use super::{KEY_BYTES_MAX, PAGE_BYTES_MAX, VALUE_BYTES_MAX, address::fingerprint};

/// The only page format so far.
const FORMAT: u8 = 1;
/// Flag: lengths are two bytes.
const WIDE: u8 = 1;
/// Bytes before the fingerprints.
pub(crate) const HEADER_BYTES: usize = 4;
/// Most rows of one page: they are counted in two bytes.
pub(crate) const ROWS_MAX: usize = u16::MAX as usize;
/// Longest row, its own key length byte included.
const ROW_BYTES_MAX: usize = 1 + KEY_BYTES_MAX + VALUE_BYTES_MAX;

/// Why bytes are not a page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageDamage {
    /// It has no complete header.
    #[error("page of {bytes} bytes has no complete header")]
    Short {
        /// What there is.
        bytes: usize,
    },
    /// Written by another release, or not a page at all.
    #[error("page format {format} with flags {flags} is unknown; this release reads format 1")]
    UnknownFormat {
        /// First byte.
        format: u8,
        /// Second byte.
        flags: u8,
    },
    /// It is longer than [`PAGE_BYTES_MAX`].
    #[error("page of {bytes} bytes; at most {PAGE_BYTES_MAX} fit")]
    TooLarge {
        /// What there is.
        bytes: usize,
    },
    /// The rows do not fill the page exactly.
    #[error("page says {rows} rows of {expected} bytes in total, but is {bytes} bytes long")]
    WrongLength {
        /// Rows it says it has.
        rows: usize,
        /// Bytes these would take.
        expected: usize,
        /// Bytes there are.
        bytes: usize,
    },
    /// A row is too short for its key, or too long.
    #[error("row {row} of {bytes} bytes has a key of {key_bytes} bytes")]
    BadRow {
        /// Its place in the page.
        row: usize,
        /// Its length.
        bytes: usize,
        /// The length of its key, as it says.
        key_bytes: usize,
    },
    /// The page's number is past the last page of its table.
    #[error("page {page} is past the last of {pages} pages")]
    NoSuchPage {
        /// Its number.
        page: u32,
        /// How many pages the table has.
        pages: u32,
    },
    /// A row carries another fingerprint than its key's hash, or lies in a page that its hash does not name.
    #[error("row {row} of page {page} belongs elsewhere: its key hashes to page {belongs}")]
    Misplaced {
        /// Its place in the page.
        row: usize,
        /// The page it was found in.
        page: u32,
        /// The page of its hash.
        belongs: u32,
    },
}

/// Where a row lies in its page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowPlace {
    pub(crate) index: usize,
    /// First byte of the row (its key length).
    pub(crate) start: usize,
    /// First byte of the value.
    pub(crate) value: usize,
    /// First byte after the row.
    pub(crate) end: usize,
}

/// Checks everything that later reads of the page rely on.
pub(crate) fn check(page: &[u8]) -> Result<(), PageDamage> {
    let [format, flags, low, high, ..] = *page else {
        return Err(PageDamage::Short { bytes: page.len() });
    };
    if format != FORMAT || flags & !WIDE != 0 {
        return Err(PageDamage::UnknownFormat { format, flags });
    }
    if page.len() > PAGE_BYTES_MAX {
        return Err(PageDamage::TooLarge { bytes: page.len() });
    }
    let rows = usize::from(u16::from_le_bytes([low, high]));
    let shape = Shape { rows, width: width_of(flags) };
    let rows_at = shape.rows_at();
    let expected = match page.get(shape.lengths_at()..rows_at) {
        Some(lengths) => rows_at + sum_lengths(lengths, shape.width),
        None => rows_at,
    };
    if expected != page.len() {
        return Err(PageDamage::WrongLength { rows, expected, bytes: page.len() });
    }
    let mut start = rows_at;
    for row in 0..rows {
        let bytes = shape.length(page, row);
        let key_bytes = page.get(start).copied().map_or(0, usize::from);
        if bytes < 1 + key_bytes || bytes > ROW_BYTES_MAX || bytes - 1 - key_bytes > VALUE_BYTES_MAX {
            return Err(PageDamage::BadRow { row, bytes, key_bytes });
        }
        start += bytes;
    }
    Ok(())
}

/// An empty page.
pub(crate) fn clear(page: &mut Vec<u8>) {
    page.clear();
    page.extend_from_slice(&[FORMAT, 0, 0, 0]);
}

/// How many rows the page holds.
pub(crate) fn row_count(page: &[u8]) -> usize {
    Shape::of(page).rows
}

/// Finds the row with exactly this key.
pub(crate) fn find(page: &[u8], hash: u64, key: &[u8]) -> Option<RowPlace> {
    let mut places = Places::with_fingerprint(page, hash);
    while let Some(place) = places.next(page) {
        if page.get(place.start + 1..place.value) == Some(key) {
            return Some(place);
        }
    }
    None
}

/// Walks over the rows of a page, all of them or those with one fingerprint. It holds no borrow of the page,
/// so that iterators can own both.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    shape: Shape,
    wanted: Option<u8>,
    /// The next row to look at, and where it starts.
    index: usize,
    start: usize,
}

impl Places {
    pub(crate) fn all(page: &[u8]) -> Self {
        let shape = Shape::of(page);
        Self { shape, wanted: None, index: 0, start: shape.rows_at() }
    }

    pub(crate) fn with_fingerprint(page: &[u8], hash: u64) -> Self {
        Self { wanted: Some(fingerprint(hash)), ..Self::all(page) }
    }

    pub(crate) fn next(&mut self, page: &[u8]) -> Option<RowPlace> {
        self.next_bounds(page)?.read(page)
    }

    /// The next row, told from the head of the page alone: the row itself is not looked at.
    pub(crate) fn next_bounds(&mut self, page: &[u8]) -> Option<RowBounds> {
        if let Some(wanted) = self.wanted {
            let ahead = page.get(HEADER_BYTES + self.index..HEADER_BYTES + self.shape.rows)?;
            let skip = memchr::memchr(wanted, ahead)?;
            let width = self.shape.width;
            let lengths = self.shape.lengths_at() + self.index * width;
            self.start += sum_lengths(page.get(lengths..lengths + skip * width)?, width);
            self.index += skip;
        }
        if self.index >= self.shape.rows {
            return None;
        }
        let (index, start) = (self.index, self.start);
        self.index += 1;
        self.start += self.shape.length(page, index);
        Some(RowBounds { index, start, end: self.start })
    }
}

/// Where a row begins and ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowBounds {
    index: usize,
    start: usize,
    end: usize,
}

impl RowBounds {
    /// Asks memory for the row, of which the first and the last byte may lie apart.
    pub(crate) fn touch(self, page: &[u8]) -> u8 {
        let byte = |at: usize| page.get(at).copied().unwrap_or_default();
        byte(self.start) ^ byte(self.end.wrapping_sub(1))
    }

    /// Where its value begins.
    pub(crate) fn read(self, page: &[u8]) -> Option<RowPlace> {
        let Self { index, start, end } = self;
        let value = start + 1 + usize::from(*page.get(start)?);
        (value <= end && end <= page.len()).then_some(RowPlace { index, start, value, end })
    }
}

/// Adds a row that the page does not hold, and says where. The caller has checked the bounds of key, value and
/// row count.
pub(crate) fn append(page: &mut Vec<u8>, hash: u64, key: &[u8], value: &[u8]) -> RowPlace {
    let bytes = 1 + key.len() + value.len();
    if bytes > usize::from(u8::MAX) {
        widen(page);
    }
    let shape = Shape::of(page);
    let old_len = page.len();
    let (lengths_at, rows_at) = (shape.lengths_at(), shape.rows_at());
    page.resize(old_len + 1 + shape.width, 0);
    page.copy_within(rows_at..old_len, rows_at + 1 + shape.width);
    page.copy_within(lengths_at..rows_at, lengths_at + 1);
    page[lengths_at] = fingerprint(hash);
    put_length(&mut page[rows_at + 1..], shape.width, bytes);
    put_row_count(page, shape.rows + 1);
    let start = page.len();
    page.push(key.len() as u8);
    page.extend_from_slice(key);
    page.extend_from_slice(value);
    RowPlace { index: shape.rows, start, value: start + 1 + key.len(), end: page.len() }
}

/// Gives the row at `place` another value, and says where it lies now.
pub(crate) fn set_value(page: &mut Vec<u8>, place: RowPlace, value: &[u8]) -> RowPlace {
    let old = place.end - place.value;
    if old == value.len() {
        page[place.value..place.end].copy_from_slice(value);
        return place;
    }
    let bytes = place.value - place.start + value.len();
    let mut place = place;
    if bytes > usize::from(u8::MAX) {
        let widened = widen(page);
        place = RowPlace {
            start: place.start + widened,
            value: place.value + widened,
            end: place.end + widened,
            ..place
        };
    }
    let shape = Shape::of(page);
    put_length(&mut page[shape.lengths_at() + place.index * shape.width..], shape.width, bytes);
    let old_len = page.len();
    if value.len() > old {
        let more = value.len() - old;
        page.resize(old_len + more, 0);
        page.copy_within(place.end..old_len, place.end + more);
    } else {
        let less = old - value.len();
        page.copy_within(place.end..old_len, place.end - less);
        page.truncate(old_len - less);
    }
    let end = place.value + value.len();
    page[place.value..end].copy_from_slice(value);
    RowPlace { end, ..place }
}

/// Takes the row at `place` out of the page.
pub(crate) fn remove(page: &mut Vec<u8>, place: RowPlace) {
    let shape = Shape::of(page);
    let length_at = shape.lengths_at() + place.index * shape.width;
    page.drain(place.start..place.end);
    page.drain(length_at..length_at + shape.width);
    page.remove(HEADER_BYTES + place.index);
    put_row_count(page, shape.rows - 1);
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    rows: usize,
    width: usize,
}

impl Shape {
    fn of(page: &[u8]) -> Self {
        match *page {
            [_, flags, low, high, ..] => {
                Self { rows: usize::from(u16::from_le_bytes([low, high])), width: width_of(flags) }
            }
            _ => Self { rows: 0, width: 1 },
        }
    }

    fn lengths_at(self) -> usize {
        HEADER_BYTES + self.rows
    }

    fn rows_at(self) -> usize {
        HEADER_BYTES + self.rows * (1 + self.width)
    }

    fn length(self, page: &[u8], row: usize) -> usize {
        let at = self.lengths_at() + row * self.width;
        if self.width == 1 {
            page.get(at).copied().map_or(0, usize::from)
        } else {
            page.get(at..at + 2).map_or(0, |two| usize::from(u16::from_le_bytes([two[0], two[1]])))
        }
    }
}

fn width_of(flags: u8) -> usize {
    if flags & WIDE == 0 { 1 } else { 2 }
}

fn sum_lengths(lengths: &[u8], width: usize) -> usize {
    if width == 1 {
        // Sixteen-bit lanes let the compiler add many lengths at a time; 255 x 257 still fits a lane.
        lengths.chunks(256).map(|some| usize::from(some.iter().map(|&l| u16::from(l)).sum::<u16>())).sum()
    } else {
        lengths.chunks_exact(2).map(|two| usize::from(u16::from_le_bytes([two[0], two[1]]))).sum()
    }
}

fn put_length(at: &mut [u8], width: usize, bytes: usize) {
    let le = (bytes as u16).to_le_bytes();
    at[..width].copy_from_slice(&le[..width]);
}

fn put_row_count(page: &mut [u8], rows: usize) {
    page[2..4].copy_from_slice(&(rows as u16).to_le_bytes());
}

/// Makes every length two bytes; says by how many bytes the rows moved.
fn widen(page: &mut Vec<u8>) -> usize {
    let shape = Shape::of(page);
    if shape.width == 2 {
        return 0;
    }
    let (lengths_at, rows_at, old_len) = (shape.lengths_at(), shape.rows_at(), page.len());
    page.resize(old_len + shape.rows, 0);
    page.copy_within(rows_at..old_len, rows_at + shape.rows);
    for row in (0..shape.rows).rev() {
        let length = page[lengths_at + row];
        page[lengths_at + 2 * row] = length;
        page[lengths_at + 2 * row + 1] = 0;
    }
    page[1] |= WIDE;
    shape.rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// All rows of a page.
    fn rows(page: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut places = Places::all(page);
        let mut found = BTreeMap::new();
        while let Some(p) = places.next(page) {
            found.insert(page[p.start + 1..p.value].to_vec(), page[p.value..p.end].to_vec());
        }
        found
    }

    fn hash(key: &[u8]) -> u64 {
        xxhash_rust::xxh3::xxh3_64(key)
    }

    proptest! {
        #[test]
        fn a_page_holds_what_a_map_holds(
            changes in prop::collection::vec(
                (prop::collection::vec(0_u8..4, 0..4), prop::option::of(0_usize..600)), 0..80)
        ) {
            let mut page = Vec::new();
            clear(&mut page);
            let mut model = BTreeMap::new();
            for (key, value) in changes {
                let place = find(&page, hash(&key), &key);
                prop_assert_eq!(place.is_some(), model.contains_key(&key));
                match (value, place) {
                    (Some(len), place) => {
                        let value = vec![len as u8; len];
                        let place = match place {
                            Some(place) => set_value(&mut page, place, &value),
                            None => append(&mut page, hash(&key), &key, &value),
                        };
                        prop_assert_eq!(find(&page, hash(&key), &key), Some(place));
                        model.insert(key, value);
                    }
                    (None, Some(place)) => {
                        remove(&mut page, place);
                        model.remove(&key);
                    }
                    (None, None) => {}
                }
                prop_assert_eq!(check(&page), Ok(()));
                prop_assert_eq!(row_count(&page), model.len());
                prop_assert_eq!(&rows(&page), &model);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic_a_reader(bytes in prop::collection::vec(any::<u8>(), 0..300), key: Vec<u8>) {
            let _ = check(&bytes);
            let _ = find(&bytes, hash(&key), &key);
            let _ = rows_or_fewer(&bytes);
        }

        #[test]
        fn a_damaged_page_never_panics_a_reader(at in 0_usize..4_000, flip in 1_u8..) {
            let mut page = Vec::new();
            clear(&mut page);
            for n in 0_u32..60 {
                append(&mut page, hash(&n.to_le_bytes()), &n.to_le_bytes(), &[n as u8; 44]);
            }
            let at = at % page.len();
            page[at] ^= flip;
            let _ = check(&page);
            let _ = rows_or_fewer(&page);
            let _ = find(&page, hash(&[1, 0, 0, 0]), &[1, 0, 0, 0]);
        }
    }

    fn rows_or_fewer(page: &[u8]) -> usize {
        let mut places = Places::all(page);
        let mut count = 0;
        while places.next(page).is_some() {
            count += 1;
        }
        count
    }
}
