//! The manifest: the small record that makes a checkpoint's pages current.

use crate::pages::{HashKey, PAGES_MAX, Root, TableId};

const FORMAT: u8 = 1;
/// Longest bytes that the state machine may put beside the pages: positions and membership take far less.
pub const META_BYTES_MAX: usize = 1 << 20;

/// What one checkpoint holds, beside its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The number of the checkpoint in its data directory.
    pub generation: u64,
    /// How many pages each table has, in the order of [`TableId::ALL`].
    pub page_counts: [u32; TableId::COUNT],
    /// How many rows each table has, in the order of [`TableId::ALL`].
    pub row_counts: [u64; TableId::COUNT],
    /// Bytes of all its pages.
    pub live_bytes: u64,
    /// The digest of all its rows.
    pub digest: u128,
    /// The key of the page hash.
    pub hash_key: HashKey,
    /// What the state machine put beside the pages.
    pub meta: Vec<u8>,
}

/// Why bytes are not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// They end too early, or go on too long.
    #[error("manifest of {bytes} bytes has not the length it says")]
    WrongLength {
        /// What there is.
        bytes: usize,
    },
    /// Written by another release.
    #[error("manifest format {format} is unknown; this release reads format 1")]
    UnknownFormat {
        /// What it says.
        format: u8,
    },
    /// It has tables that this release does not have.
    #[error("manifest of {tables} tables; this release has {}", TableId::COUNT)]
    UnknownTables {
        /// How many it has.
        tables: u8,
    },
    /// It says that a table has no page, or too many.
    #[error("table {table} of {pages} pages; there must be 1 to {PAGES_MAX}")]
    PageCount {
        /// The table's number.
        table: usize,
        /// What it says.
        pages: u32,
    },
    /// Its own checksum fails.
    #[error("the checksum of a manifest of {bytes} bytes does not match")]
    Checksum {
        /// What there is.
        bytes: usize,
    },
}

impl Manifest {
    pub(crate) fn of<M>(generation: u64, root: &Root<M>, meta: &[u8]) -> Self {
        Self {
            generation,
            page_counts: TableId::ALL.map(|table| root.page_count(table)),
            row_counts: TableId::ALL.map(|table| root.row_count(table)),
            live_bytes: root.live_bytes(),
            digest: root.digest(),
            hash_key: root.hash_key(),
            meta: meta.to_vec(),
        }
    }

    /// Its bytes, with a checksum of their own, for disk and wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + 12 * TableId::COUNT + self.meta.len());
        bytes.extend_from_slice(&[FORMAT, TableId::COUNT as u8]);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.live_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.digest.to_le_bytes());
        bytes.extend_from_slice(&self.hash_key.0);
        for (pages, rows) in self.page_counts.iter().zip(&self.row_counts) {
            bytes.extend_from_slice(&pages.to_le_bytes());
            bytes.extend_from_slice(&rows.to_le_bytes());
        }
        bytes.extend_from_slice(&(self.meta.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.meta);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads what [`Manifest::encode`] wrote. A manifest written when there were fewer tables reads as one
    /// whose newer tables are empty.
    ///
    /// # Errors
    ///
    /// If the bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let wrong_length = ManifestError::WrongLength { bytes: bytes.len() };
        let (sealed, crc) = bytes.split_last_chunk::<4>().ok_or(wrong_length.clone())?;
        let kept = cfg!(berth_break = "skip_crc") || crc32c::crc32c(sealed) == u32::from_le_bytes(*crc);
        if !kept {
            return Err(ManifestError::Checksum { bytes: bytes.len() });
        }
        let mut rest = sealed;
        let [format, tables] = take(&mut rest).ok_or(wrong_length.clone())?;
        if format != FORMAT {
            return Err(ManifestError::UnknownFormat { format });
        }
        if usize::from(tables) > TableId::COUNT {
            return Err(ManifestError::UnknownTables { tables });
        }
        let manifest = Self::decode_rest(rest, usize::from(tables)).ok_or(wrong_length)?;
        for (table, &pages) in manifest.page_counts.iter().enumerate() {
            if pages == 0 || pages > PAGES_MAX {
                return Err(ManifestError::PageCount { table, pages });
            }
        }
        Ok(manifest)
    }

    fn decode_rest(mut rest: &[u8], tables: usize) -> Option<Self> {
        let generation = u64::from_le_bytes(take(&mut rest)?);
        let live_bytes = u64::from_le_bytes(take(&mut rest)?);
        let digest = u128::from_le_bytes(take(&mut rest)?);
        let hash_key = HashKey(take(&mut rest)?);
        let (mut page_counts, mut row_counts) = ([1; TableId::COUNT], [0; TableId::COUNT]);
        for table in 0..tables {
            page_counts[table] = u32::from_le_bytes(take(&mut rest)?);
            row_counts[table] = u64::from_le_bytes(take(&mut rest)?);
        }
        let meta_bytes = u32::from_le_bytes(take(&mut rest)?) as usize;
        (rest.len() == meta_bytes).then(|| Self {
            generation,
            page_counts,
            row_counts,
            live_bytes,
            digest,
            hash_key,
            meta: rest.to_vec(),
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk::<N>()?;
    *rest = left;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(meta: Vec<u8>) -> Manifest {
        Manifest {
            generation: 7,
            page_counts: [1, 2, 3, 4, 5, 6],
            row_counts: [10, 20, 30, 40, 50, 60],
            live_bytes: 1_234,
            digest: 0x0102_0304_0506_0708_090A_0B0C_0D0E_0F10,
            hash_key: HashKey([9; 16]),
            meta,
        }
    }

    proptest! {
        #[test]
        fn a_manifest_comes_back(meta: Vec<u8>) {
            let manifest = sample(meta);
            prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            prop_assert!(Manifest::decode(&bytes).is_err());
        }

        #[test]
        fn sealed_nonsense_never_panics(mut bytes: Vec<u8>) {
            let crc = crc32c::crc32c(&bytes);
            bytes.extend_from_slice(&crc.to_le_bytes());
            let _ = Manifest::decode(&bytes);
        }
    }

    #[test]
    fn a_manifest_keeps_its_bytes() {
        let bytes = sample(b"m".to_vec()).encode();
        assert_eq!(bytes.len(), 2 + 8 + 8 + 16 + 16 + 6 * 12 + 4 + 1 + 4);
        assert_eq!(bytes[..10], [1, 6, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(crc32c::crc32c(&bytes), 0x48674BC7, "a sealed message has one residue");
    }
}
