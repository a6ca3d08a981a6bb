//! The working set: changes on top of the newest root, seen by their own reads, published or dropped as one.

use super::address::{page_of, split_source};
use super::layout::{self, Places, RowPlace};
use super::root::{BytesHeld, Candidates, Root, Row, TableSize, digest_at};
use super::slot::Draft;
use super::writer::Pages;
use super::{
    KEY_BYTES_MAX, PAGE_BYTES_MAX, PAGE_TARGET_BYTES, PAGES_MAX, PageError, TableId, VALUE_BYTES_MAX,
};
use std::sync::Arc;

/// Buffers kept for the next working set: as many pages as a batch of one entry usually changes.
const SPARE_BUFFERS_MAX: usize = 4_096;
/// Largest buffer kept: a page that once was far larger does not hold its memory for ever.
const SPARE_BUFFER_BYTES_MAX: usize = 16_384;
/// Most that one more row adds to a page beside key and value: fingerprint, key length, two bytes of length,
/// and one byte for each row if lengths become two bytes wide.
const ROW_OVERHEAD_BYTES_MAX: usize = 4 + layout::ROWS_MAX;

/// Changes that are not published yet. Dropping it drops them.
///
/// A page is copied once, however many of its rows change. Pages split as rows arrive, not when they are
/// published, so that the same changes give the same pages however they are cut into working sets.
pub struct Working<'a, M> {
    pages: &'a mut Pages<M>,
}

/// The part of a working set that outlives it as spare room.
pub(crate) struct Overlay {
    pub(crate) tables: [TableOverlay; TableId::COUNT],
    pub(crate) digest: u128,
    spare: Vec<Vec<u8>>,
}

pub(crate) struct TableOverlay {
    pub(crate) size: TableSize,
    /// Changed pages, in the order of their first change.
    pub(crate) changed: Vec<(u32, Draft)>,
    /// For each page its place in `changed` plus one; 0 if unchanged.
    place: Vec<u32>,
}

impl<'a, M> Working<'a, M> {
    pub(crate) fn new(pages: &'a mut Pages<M>) -> Self {
        let root = Arc::clone(&pages.newest);
        pages.overlay.start(&root);
        Self { pages }
    }

    /// The root that the changes start from.
    pub fn base(&self) -> &Arc<Root<M>> {
        &self.pages.newest
    }

    /// The hash under which `key` is stored in `table`.
    pub fn hash_of(&self, table: TableId, key: &[u8]) -> u64 {
        self.pages.newest.hash_of(table, key)
    }

    /// The digest of all rows, changes included.
    pub fn digest(&self) -> u128 {
        self.pages.overlay.digest
    }

    /// How many rows the table has, changes included.
    pub fn row_count(&self, table: TableId) -> u64 {
        self.pages.overlay.tables[table.index()].size.rows
    }

    /// The value of `key`, changes included.
    pub fn get(&self, table: TableId, hash: u64, key: &[u8]) -> Option<Row<'_>> {
        let held = self.page_held(table, hash)?;
        let place = layout::find(held.bytes(), hash, key)?;
        Some(Row::from_held(held, place))
    }

    /// The rows whose keys may have this hash, changes included; see [`Root::candidates`].
    pub fn candidates(&self, table: TableId, hash: u64) -> Candidates<'_> {
        Candidates::new(self.page_held(table, hash), hash)
    }

    /// Sets the value of `key`; says whether it had one. `hash` must be [`Working::hash_of`] of the key.
    ///
    /// # Errors
    ///
    /// If key, value or page is over its bound; then nothing has changed.
    pub fn put(&mut self, table: TableId, hash: u64, key: &[u8], value: &[u8]) -> Result<bool, PageError> {
        if key.len() > KEY_BYTES_MAX {
            return Err(PageError::KeyTooLong { table, bytes: key.len() });
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(PageError::ValueTooLong { table, bytes: value.len() });
        }
        let number = page_of(hash, self.pages.overlay.tables[table.index()].size.pages);
        // Looked for before the page is copied: how it is copied depends on it, and where the row lies does not.
        let found = self.page_held(table, hash).and_then(|held| layout::find(held.bytes(), hash, key));
        let copy = match found {
            Some(place) if place.end - place.value == value.len() => Copied::SameLength,
            _ => Copied::OtherLength,
        };
        let Change { draft, digest, size, spare } = self.pages.change(table, number, copy);
        let before = draft.bytes().len();
        let rows = layout::row_count(draft.bytes());
        let larger = before + value.len() + key.len() + ROW_OVERHEAD_BYTES_MAX;
        if larger > PAGE_BYTES_MAX || (found.is_none() && rows >= layout::ROWS_MAX) {
            return Err(PageError::PageFull { table, page: number, rows });
        }
        let place = match found {
            Some(place) => {
                *digest = digest.wrapping_sub(digest_at(table, draft.bytes(), place));
                if place.end - place.value == value.len() {
                    draft.overwrite(place.value, value);
                    place
                } else {
                    layout::set_value(draft.grown(spare), place, value)
                }
            }
            None => {
                size.rows += 1;
                layout::append(draft.grown(spare), hash, key, value)
            }
        };
        *digest = digest.wrapping_add(digest_at(table, draft.bytes(), place));
        size.bytes = size.bytes + draft.bytes().len() as u64 - before as u64;
        while self.pages.split_one_if_large(table) {}
        Ok(found.is_some())
    }

    /// Removes `key`; says whether it was there.
    pub fn remove(&mut self, table: TableId, hash: u64, key: &[u8]) -> bool {
        if self.get(table, hash, key).is_none() {
            return false;
        }
        let number = page_of(hash, self.pages.overlay.tables[table.index()].size.pages);
        let Change { draft, digest, size, spare } = self.pages.change(table, number, Copied::OtherLength);
        let Some(place) = layout::find(draft.bytes(), hash, key) else { return false };
        let page = draft.grown(spare);
        let before = page.len() as u64;
        *digest = digest.wrapping_sub(digest_at(table, page, place));
        layout::remove(page, place);
        size.rows -= 1;
        size.bytes = size.bytes + page.len() as u64 - before;
        true
    }

    /// Makes all changes visible as the next root, in one step.
    pub fn publish(self, meta: M) -> Arc<Root<M>> {
        self.pages.publish(meta)
    }

    fn page_held(&self, table: TableId, hash: u64) -> Option<BytesHeld<'_>> {
        let overlay = &self.pages.overlay.tables[table.index()];
        let number = page_of(hash, overlay.size.pages);
        match overlay.changed_page(number) {
            Some(bytes) => Some(BytesHeld::Borrowed(bytes)),
            None => self.pages.newest.page(table, number).map(BytesHeld::Page),
        }
    }
}

impl<M> Drop for Working<'_, M> {
    fn drop(&mut self) {
        // After a publish nothing is left to drop.
        self.pages.overlay.discard();
    }
}

/// What the first change to a page will do to its length.
#[derive(Clone, Copy)]
enum Copied {
    /// Nothing: it is made in the very allocation that will be published.
    SameLength,
    /// The bytes become more or fewer, in a buffer.
    OtherLength,
}

/// A page that is about to change, and the figures that change with it.
struct Change<'a> {
    draft: &'a mut Draft,
    digest: &'a mut u128,
    size: &'a mut TableSize,
    spare: &'a mut Vec<Vec<u8>>,
}

impl<M> Pages<M> {
    fn change(&mut self, table: TableId, number: u32, copy: Copied) -> Change<'_> {
        let newest = &self.newest;
        let Overlay { tables, digest, spare } = &mut self.overlay;
        let TableOverlay { size, changed, place } = &mut tables[table.index()];
        let at = number as usize;
        if at >= place.len() {
            place.resize((at + 1).next_power_of_two(), 0);
        }
        if place[at] == 0 {
            let draft = match newest.newest_page(table, number) {
                Some(page) => match copy {
                    Copied::SameLength => Draft::of(newest.version + 1, page),
                    Copied::OtherLength => Draft::growing(page, spare),
                },
                None => {
                    let mut draft = Draft::empty(spare);
                    layout::clear(draft.grown(spare));
                    size.bytes += draft.bytes().len() as u64;
                    draft
                }
            };
            changed.push((number, draft));
            place[at] = changed.len() as u32;
        }
        let index = place[at] as usize - 1;
        Change { draft: &mut changed[index].1, digest, size, spare }
    }

    /// Splits the page whose turn it is if the mean page is past its target.
    fn split_one_if_large(&mut self, table: TableId) -> bool {
        let size = self.overlay.tables[table.index()].size;
        if size.bytes <= PAGE_TARGET_BYTES * u64::from(size.pages) || size.pages >= PAGES_MAX {
            return false;
        }
        let (source, target) = (split_source(size.pages), size.pages);
        let (row_hash, hash_key) = (self.newest.row_hash, self.newest.hash_key);
        let mut stay = self.overlay.spare.pop().unwrap_or_default();
        layout::clear(&mut stay);
        let Change { draft, spare, .. } = self.change(table, target, Copied::OtherLength);
        let mut moved = std::mem::take(draft.grown(spare));
        let Change { draft, size, spare, .. } = self.change(table, source, Copied::OtherLength);
        let page = draft.bytes();
        let mut places = Places::all(page);
        while let Some(RowPlace { start, value, end, .. }) = places.next(page) {
            let key = &page[start + 1..value];
            let hash = row_hash(&hash_key, table, key);
            let half = if page_of(hash, target + 1) == target { &mut moved } else { &mut stay };
            layout::append(half, hash, key, &page[value..end]);
        }
        // The empty page that `change` made for the target is counted already.
        size.bytes =
            size.bytes + (stay.len() + moved.len()) as u64 - page.len() as u64 - layout::HEADER_BYTES as u64;
        size.pages += 1;
        std::mem::swap(draft.grown(spare), &mut stay);
        spare.push(stay);
        let Change { draft, spare, .. } = self.change(table, target, Copied::OtherLength);
        *draft.grown(spare) = moved;
        true
    }
}

impl Overlay {
    pub(crate) fn new() -> Self {
        Self { tables: std::array::from_fn(|_| TableOverlay::new()), digest: 0, spare: Vec::new() }
    }

    fn start<M>(&mut self, root: &Root<M>) {
        self.digest = root.digest;
        for (overlay, table) in self.tables.iter_mut().zip(&root.tables) {
            overlay.size = table.size;
        }
    }

    /// Forgets all changes, keeping their buffers.
    pub(crate) fn discard(&mut self) {
        for table in &mut self.tables {
            for (number, draft) in table.changed.drain(..) {
                let buffer = draft.into_spare();
                if let Some(place) = table.place.get_mut(number as usize) {
                    *place = 0;
                }
                let worth = 1..=SPARE_BUFFER_BYTES_MAX;
                if self.spare.len() < SPARE_BUFFERS_MAX && worth.contains(&buffer.capacity()) {
                    self.spare.push(buffer);
                }
            }
        }
    }
}

impl TableOverlay {
    fn new() -> Self {
        Self { size: TableSize { pages: 1, rows: 0, bytes: 0 }, changed: Vec::new(), place: Vec::new() }
    }

    fn changed_page(&self, number: u32) -> Option<&[u8]> {
        let place = *self.place.get(number as usize)? as usize;
        Some(self.changed.get(place.checked_sub(1)?)?.1.bytes())
    }
}
