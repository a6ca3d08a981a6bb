//! The content digest: a sum over rows that does not depend on their order or on how they are paged.

use super::TableId;

/// The 128-bit digest of one row. The digest of tables is the wrapping sum of their rows' digests, so that
/// one changed row costs two hashes.
///
/// `key_value` is the key followed by the value, as they lie in a page; the table and the length of the key
/// seed the hash, so that no two different rows feed it the same bytes.
pub fn row_digest(table: TableId, key_bytes: usize, key_value: &[u8]) -> u128 {
    let seed = (u64::from(table.number()) << 32) | key_bytes as u64;
    xxhash_rust::xxh3::xxh3_128_with_seed(key_value, seed)
}
