//! Tables as they come from a disk or from a peer: checked page by page, then turned into a root.

use super::address::{fingerprint, page_of};
use super::layout::{self, PageDamage, Places};
use super::root::{Root, TableRoot, digest_at};
use super::slot::new_version;
use super::{HashKey, RowHash, TableId};

/// The version of pages that were read, not written: any root covers them.
pub(crate) const READ_VERSION: u64 = 1;

/// Tables being read. Every page is checked: its form, and that each row lies where its hash says.
pub struct Contents {
    tables: [TableRoot; TableId::COUNT],
    digest: u128,
    hash_key: HashKey,
    row_hash: RowHash,
}

impl Contents {
    /// Tables without rows.
    pub fn empty(hash_key: HashKey, row_hash: RowHash) -> Self {
        Self { tables: std::array::from_fn(|_| TableRoot::empty()), digest: 0, hash_key, row_hash }
    }

    /// Tables that will have these page counts, their pages yet to come. A count of 0 stands for 1.
    pub fn expecting(hash_key: HashKey, row_hash: RowHash, page_counts: [u32; TableId::COUNT]) -> Self {
        let mut contents = Self::empty(hash_key, row_hash);
        for (table, pages) in contents.tables.iter_mut().zip(page_counts) {
            table.size.pages = pages.max(1);
        }
        contents
    }

    /// Adds one page.
    ///
    /// # Errors
    ///
    /// If the bytes are not a page, the number is past the last page, or a row belongs into another page. Each
    /// page may be added once only.
    pub fn add_page(&mut self, table: TableId, number: u32, bytes: &[u8]) -> Result<(), PageDamage> {
        layout::check(bytes)?;
        let root = &mut self.tables[table.index()];
        if number >= root.size.pages {
            return Err(PageDamage::NoSuchPage { page: number, pages: root.size.pages });
        }
        let mut digest = 0_u128;
        let mut places = Places::all(bytes);
        while let Some(place) = places.next(bytes) {
            let hash = (self.row_hash)(&self.hash_key, table, &bytes[place.start + 1..place.value]);
            let belongs = page_of(hash, root.size.pages);
            if belongs != number || bytes[layout::HEADER_BYTES + place.index] != fingerprint(hash) {
                return Err(PageDamage::Misplaced { row: place.index, page: number, belongs });
            }
            digest = digest.wrapping_add(digest_at(table, bytes, place));
        }
        root.spine.grow(number + 1);
        if let Some(slot) = root.spine.slot(number) {
            slot.put(new_version(READ_VERSION, None, bytes));
        }
        root.size.rows += layout::row_count(bytes) as u64;
        root.size.bytes += bytes.len() as u64;
        self.digest = self.digest.wrapping_add(digest);
        Ok(())
    }

    /// The digest of all rows so far.
    pub fn digest(&self) -> u128 {
        self.digest
    }

    /// How many rows the table has so far.
    pub fn row_count(&self, table: TableId) -> u64 {
        self.tables[table.index()].size.rows
    }

    /// The key of the page hash.
    pub fn hash_key(&self) -> HashKey {
        self.hash_key
    }

    /// The rows, to be read before they are published.
    pub(crate) fn rows(&self) -> Root<()> {
        Root {
            version: READ_VERSION,
            tables: self.tables.clone(),
            digest: self.digest,
            hash_key: self.hash_key,
            row_hash: self.row_hash,
            meta: (),
        }
    }

    pub(crate) fn into_root<M>(self, version: u64, meta: M) -> Root<M> {
        Root {
            version,
            tables: self.tables,
            digest: self.digest,
            hash_key: self.hash_key,
            row_hash: self.row_hash,
            meta,
        }
    }
}
