//! Paged tables in memory: bytes to bytes, hashed, immutable, published by one swap.
//!
//! A *table* spreads its rows over pages by linear hashing: a keyed hash of the key names the page, and one
//! page at a time splits when the mean page grows past [`PAGE_TARGET_BYTES`]. Pages never merge: a directory
//! that shrinks keeps its page count, and small pages cost little.
//!
//! A page is an immutable byte string with the version that wrote it. A [`Root`] names one version of all
//! tables; a reader that holds a root sees that version for as long as it likes, and never waits for the
//! writer. The one writer collects changes in a [`Working`] set, which reads its own writes, and either
//! publishes all of them as the next root or drops them all.
//!
//! ```
//! use berth_store::pages::{HashKey, Pages, TableId, page_hash};
//!
//! fn row_hash(key: &HashKey, _table: TableId, row_key: &[u8]) -> u64 {
//!     page_hash(key, row_key)
//! }
//!
//! # fn main() -> Result<(), berth_store::pages::PageError> {
//! let mut pages = Pages::new(HashKey([7; 16]), row_hash, "nothing applied");
//! let published = pages.published();
//! let mut working = pages.working();
//! let hash = working.hash_of(TableId::Devices, b"pump-1");
//! working.put(TableId::Devices, hash, b"pump-1", b"hub 4")?;
//! working.publish("one command applied");
//!
//! let root = published.root();
//! let row = root.get(TableId::Devices, hash, b"pump-1");
//! assert_eq!(row.as_deref(), Some(&b"hub 4"[..]));
//! # Ok(())
//! # }
//! ```
//!
//! This module knows nothing of devices, clocks or disks: callers choose what is hashed, and `disk` makes
//! roots durable.

mod address;
mod contents;
mod digest;
mod layout;
mod root;
mod slot;
mod working;
mod writer;

#[cfg(test)]
mod tests;

pub use contents::Contents;
pub(crate) use contents::READ_VERSION;
pub use digest::row_digest;
pub use layout::PageDamage;
pub(crate) use root::page_digest;
pub use root::{Candidates, PageRows, PageView, Root, Row};
pub use working::Working;
pub use writer::{Pages, Published};

use std::hash::Hasher;

/// Longest key of a row, in bytes: its length is stored in one byte.
pub const KEY_BYTES_MAX: usize = 255;

/// Longest value of a row, in bytes: larger objects are cut by the caller, so that pages stay small.
pub const VALUE_BYTES_MAX: usize = 4_096;

/// Mean page size, in bytes, past which the next page splits. Smaller pages copy faster, larger ones waste
/// less memory on headers; at 2 KiB a row of 44 bytes takes 50 bytes of memory in all.
pub const PAGE_TARGET_BYTES: u64 = 2_048;

/// Most pages of one table: 2^30 keeps the split arithmetic within 32 bits; at 2 KiB that is 2 TiB a table.
pub const PAGES_MAX: u32 = 1 << 30;

/// Largest page, in bytes: a page is sent and stored as one object. Only many keys of one hash could reach it.
pub const PAGE_BYTES_MAX: usize = 1_000_000;

/// The tables of a node. A new one is added at the end, and [`TableId::ALL`] with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TableId {
    /// Device ID to mapping.
    Devices = 0,
    /// Registration ID to device ID, where the two differ.
    Registrations = 1,
    /// Request ID to remembered outcome.
    Replies = 2,
    /// Order in which remembered outcomes are evicted.
    ReplyOrder = 3,
    /// Stamps, hubs, scopes, routes and other small objects.
    Objects = 4,
    /// Interned label sets.
    LabelSets = 5,
}

impl TableId {
    /// Every table, in the order of its number.
    pub const ALL: [Self; 6] =
        [Self::Devices, Self::Registrations, Self::Replies, Self::ReplyOrder, Self::Objects, Self::LabelSets];

    /// How many tables there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its number, as stored.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The table with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// The secret of the page hash, fixed for the life of a cluster, so that chosen keys cannot flood one page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u8; 16]);

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Whoever knows the key can choose IDs that share a page, so it stays out of logs.
        f.write_str("HashKey(..)")
    }
}

/// Computes the hash of a row's key again when its page splits or is verified. It must give what the caller
/// passed to [`Working::put`] for the same key.
pub type RowHash = fn(&HashKey, TableId, &[u8]) -> u64;

/// SipHash-1-3 of `bytes` under `key`: the hash that places rows in pages.
pub fn page_hash(key: &HashKey, bytes: &[u8]) -> u64 {
    let mut hasher = siphasher::sip::SipHasher13::new_with_key(&key.0);
    hasher.write(bytes);
    hasher.finish()
}

/// Why a change of a table was refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// The key is longer than [`KEY_BYTES_MAX`].
    #[error("key of {bytes} bytes in table {table:?}: at most {KEY_BYTES_MAX} fit; shorten the key")]
    KeyTooLong {
        /// Where it was put.
        table: TableId,
        /// Its length.
        bytes: usize,
    },
    /// The value is longer than [`VALUE_BYTES_MAX`].
    #[error("value of {bytes} bytes in table {table:?}: at most {VALUE_BYTES_MAX} fit; store it in parts")]
    ValueTooLong {
        /// Where it was put.
        table: TableId,
        /// Its length.
        bytes: usize,
    },
    /// The page that the hash names holds as many rows, or bytes, as a page can.
    #[error(
        "page {page} of table {table:?} is full with {rows} rows: too many keys share one hash; spread what is hashed"
    )]
    PageFull {
        /// Where it was put.
        table: TableId,
        /// The page that is full.
        page: u32,
        /// The rows it holds.
        rows: usize,
    },
    /// The hash key of tables with rows cannot change.
    #[error(
        "the tables hold {rows} rows placed under another hash key; a hash key is set only while they are empty"
    )]
    HashKeyInUse {
        /// The rows they hold.
        rows: u64,
    },
}
