//! A root: one version of all tables, readable for as long as it is held.

use super::address::page_of;
use super::layout::{self, PageDamage, Places, RowPlace};
use super::slot::{PageGuard, PageVersion, Slot, Spine};
use super::{HashKey, RowHash, TableId, row_digest};
use std::ops::Deref;

/// Keys that are looked for together: a thread holds up to eight pages without touching a shared counter.
const GROUP_KEYS: usize = 6;

/// One published version of all tables, with the caller's own `M` beside it.
pub struct Root<M> {
    pub(crate) version: u64,
    pub(crate) tables: [TableRoot; TableId::COUNT],
    pub(crate) digest: u128,
    pub(crate) hash_key: HashKey,
    pub(crate) row_hash: RowHash,
    pub(crate) meta: M,
}

/// One version of one table.
#[derive(Clone)]
pub(crate) struct TableRoot {
    pub(crate) spine: Spine,
    pub(crate) size: TableSize,
}

/// How much a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableSize {
    pub(crate) pages: u32,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

impl TableRoot {
    pub(crate) fn empty() -> Self {
        Self { spine: Spine::empty(), size: TableSize { pages: 1, rows: 0, bytes: 0 } }
    }
}

impl<M> Root<M> {
    /// Counts publishes of this process: later roots have higher numbers. Not stored, not the same on other
    /// nodes.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What the publisher put beside the tables.
    pub fn meta(&self) -> &M {
        &self.meta
    }

    /// The digest of all rows of all tables: equal contents have equal digests, however they are paged.
    pub fn digest(&self) -> u128 {
        self.digest
    }

    /// The key of the page hash.
    pub fn hash_key(&self) -> HashKey {
        self.hash_key
    }

    /// The hash under which `key` is stored in `table`.
    pub fn hash_of(&self, table: TableId, key: &[u8]) -> u64 {
        (self.row_hash)(&self.hash_key, table, key)
    }

    /// How many pages the table has, at least one.
    pub fn page_count(&self, table: TableId) -> u32 {
        self.tables[table.index()].size.pages
    }

    /// How many rows the table has.
    pub fn row_count(&self, table: TableId) -> u64 {
        self.tables[table.index()].size.rows
    }

    /// Bytes of all pages of all tables, without the few that memory or disk add to each page.
    pub fn live_bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.size.bytes).sum()
    }

    /// The value of `key`, without copying it.
    pub fn get(&self, table: TableId, hash: u64, key: &[u8]) -> Option<Row<'_>> {
        let page = self.page(table, page_of(hash, self.page_count(table)))?;
        let place = layout::find(page.bytes(), hash, key)?;
        Some(Row::new(page, place))
    }

    /// Looks for several keys, given with their hashes, and tells of each in this order. One key waits for memory
    /// three times, for its slot, its page and its row; here the keys wait together.
    pub fn get_all(&self, table: TableId, wanted: &[(u64, &[u8])], mut tell: impl FnMut(Option<&[u8]>)) {
        let TableRoot { spine, size } = &self.tables[table.index()];
        for group in wanted.chunks(GROUP_KEYS) {
            // Each step goes over the whole group before the next step needs what it asked memory for.
            let slots = each(|nth| spine.slot(page_of(group.get(nth)?.0, size.pages)));
            let unread = slots.map(|slot| slot.map(Slot::load));
            let pages = unread.map(|unread| unread?.at(self.version));
            let mut walks = each(|nth| {
                let page = pages[nth].as_ref()?.bytes();
                let mut places = Places::with_fingerprint(page, group.get(nth)?.0);
                let first = places.next_bounds(page)?;
                Some((places, first))
            });
            let touched = walks.iter().zip(&pages).fold(0, |touched, (walk, page)| {
                let row = walk.as_ref().zip(page.as_ref());
                touched ^ row.map_or(0, |((_, first), page)| first.touch(page.bytes()))
            });
            // Without a use the reads would be left out.
            std::hint::black_box(touched);
            for (nth, (_, key)) in group.iter().enumerate() {
                let found =
                    walks[nth].take().zip(pages[nth].as_ref()).and_then(|((mut places, first), page)| {
                        let page = page.bytes();
                        let mut next = first.read(page);
                        while let Some(place) = next {
                            match key_value(page, place) {
                                Some((there, value)) if there == *key => return Some(value),
                                _ => next = places.next(page),
                            }
                        }
                        None
                    });
                tell(found);
            }
        }
    }

    /// The rows whose keys may have this hash: those of its page with the same fingerprint. The caller
    /// compares the keys, in whatever way it hashes them.
    pub fn candidates(&self, table: TableId, hash: u64) -> Candidates<'_> {
        let page = self.page(table, page_of(hash, self.page_count(table)));
        Candidates::new(page.map(BytesHeld::Page), hash)
    }

    /// A page by its number, for scans: none if it is past the last page, or holds no rows and was never
    /// written.
    pub fn rows_in_page(&self, table: TableId, page: u32) -> Option<PageView> {
        let page = self.page(table, page)?;
        Some(PageView { page })
    }

    /// Recounts the digest from the rows.
    pub fn recompute_digest(&self) -> u128 {
        let mut digest = 0_u128;
        for table in TableId::ALL {
            for number in 0..self.page_count(table) {
                if let Some(page) = self.rows_in_page(table, number) {
                    digest = digest.wrapping_add(page.digest(table));
                }
            }
        }
        digest
    }

    /// The newest version of a page, for the writer, whose newest root this is.
    pub(crate) fn newest_page(&self, table: TableId, page: u32) -> Option<PageVersion> {
        let table = &self.tables[table.index()];
        if page >= table.size.pages {
            return None;
        }
        table.spine.slot(page)?.newest()
    }

    pub(crate) fn page(&self, table: TableId, page: u32) -> Option<PageGuard> {
        let table = &self.tables[table.index()];
        if page >= table.size.pages {
            return None;
        }
        table.spine.slot(page)?.at(self.version)
    }
}

impl<M: std::fmt::Debug> std::fmt::Debug for Root<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root")
            .field("version", &self.version)
            .field("rows", &self.tables.iter().map(|table| table.size.rows).sum::<u64>())
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}

/// The bytes of a page, wherever they are.
pub(crate) enum BytesHeld<'a> {
    /// A published page.
    Page(PageGuard),
    /// A page being changed.
    Borrowed(&'a [u8]),
}

impl BytesHeld<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Page(page) => page.bytes(),
            Self::Borrowed(bytes) => bytes,
        }
    }
}

/// The value of one row; it keeps its page alive.
pub struct Row<'a> {
    held: BytesHeld<'a>,
    start: usize,
    end: usize,
}

impl<'a> Row<'a> {
    fn new(page: PageGuard, place: RowPlace) -> Self {
        Self { held: BytesHeld::Page(page), start: place.value, end: place.end }
    }

    pub(crate) fn from_held(held: BytesHeld<'a>, place: RowPlace) -> Self {
        Self { held, start: place.value, end: place.end }
    }
}

impl Deref for Row<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.held.bytes().get(self.start..self.end).unwrap_or_default()
    }
}

impl std::fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Row({} bytes)", self.end - self.start)
    }
}

/// The rows of a page that may have a given hash. Call [`Candidates::next_row`] until it says none; the rows
/// borrow from here, so this is not an `Iterator`.
pub struct Candidates<'a> {
    held: Option<BytesHeld<'a>>,
    places: Places,
}

impl<'a> Candidates<'a> {
    pub(crate) fn new(held: Option<BytesHeld<'a>>, hash: u64) -> Self {
        let bytes = held.as_ref().map_or(&[][..], BytesHeld::bytes);
        let places = Places::with_fingerprint(bytes, hash);
        Self { held, places }
    }

    /// The next row: its key and its value.
    pub fn next_row(&mut self) -> Option<(&[u8], &[u8])> {
        let bytes = self.held.as_ref()?.bytes();
        let place = self.places.next(bytes)?;
        key_value(bytes, place)
    }
}

/// One page of a scan; it keeps the page alive.
pub struct PageView {
    page: PageGuard,
}

impl PageView {
    /// The publish that wrote this page.
    pub fn version(&self) -> u64 {
        self.page.version()
    }

    /// The page as it is stored.
    pub fn bytes(&self) -> &[u8] {
        self.page.bytes()
    }

    /// How many rows it holds.
    pub fn row_count(&self) -> usize {
        layout::row_count(self.bytes())
    }

    /// Its rows, as (key, value), in no particular order.
    pub fn rows(&self) -> PageRows<'_> {
        PageRows::new(self.bytes())
    }

    fn digest(&self, table: TableId) -> u128 {
        digest_of(table, self.bytes())
    }
}

/// The rows of one page, as (key, value).
#[derive(Clone)]
pub struct PageRows<'a> {
    bytes: &'a [u8],
    places: Places,
}

impl<'a> PageRows<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, places: Places::all(bytes) }
    }
}

impl<'a> Iterator for PageRows<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let place = self.places.next(self.bytes)?;
        key_value(self.bytes, place)
    }
}

/// The digest of all rows of one page.
pub(crate) fn digest_of(table: TableId, bytes: &[u8]) -> u128 {
    let mut places = Places::all(bytes);
    let mut digest = 0_u128;
    while let Some(place) = places.next(bytes) {
        digest = digest.wrapping_add(digest_at(table, bytes, place));
    }
    digest
}

/// Checks a page that comes from elsewhere: how many rows it has, and the digest of all of them.
pub(crate) fn page_digest(table: TableId, bytes: &[u8]) -> Result<(u64, u128), PageDamage> {
    layout::check(bytes)?;
    Ok((layout::row_count(bytes) as u64, digest_of(table, bytes)))
}

/// The digest of the row at `place`.
pub(crate) fn digest_at(table: TableId, bytes: &[u8], place: RowPlace) -> u128 {
    let key_value = bytes.get(place.start + 1..place.end).unwrap_or_default();
    row_digest(table, place.value - place.start - 1, key_value)
}

fn each<T>(of: impl FnMut(usize) -> Option<T>) -> [Option<T>; GROUP_KEYS] {
    std::array::from_fn(of)
}

fn key_value(bytes: &[u8], place: RowPlace) -> Option<(&[u8], &[u8])> {
    Some((bytes.get(place.start + 1..place.value)?, bytes.get(place.value..place.end)?))
}
