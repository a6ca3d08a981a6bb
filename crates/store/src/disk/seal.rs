//! Sealed values: what is stored can be told from what was stored.
//!
//! ```text
//! format u8 | parts u16 | payload | crc32c u32 over key, format, parts and payload
//! ```
//!
//! The key is under the seal, so that a value cannot be taken for another page's or generation's. A failed
//! seal is damage; it is never read as "not there".

use super::keys::Key;

/// Largest value that sled is given, in bytes: far below the size at which it moves values into files that it
/// never syncs.
pub(crate) const STORED_BYTES_MAX: usize = 4_096;
/// Largest payload of one part.
pub(crate) const PART_BYTES_MAX: usize = STORED_BYTES_MAX - HEAD_BYTES - CRC_BYTES;
/// Most parts of one object: keeps a part's number in 16 bits and a page or manifest below 4 MiB.
pub(crate) const PARTS_MAX: usize = 1_024;

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 3;
const CRC_BYTES: usize = 4;

/// Into how many parts an object of this size is cut: at least one.
pub(crate) fn parts_of(bytes: usize) -> usize {
    bytes.div_ceil(PART_BYTES_MAX).max(1)
}

/// Cuts an object into sealed values. `key.part` is ignored.
pub(crate) fn seal(key: Key, object: &[u8], mut put: impl FnMut(Key, Vec<u8>)) {
    let parts = parts_of(object.len());
    for part in 0..parts {
        let from = part * PART_BYTES_MAX;
        let payload = &object[from..object.len().min(from + PART_BYTES_MAX)];
        let key = Key { part: part as u16, ..key };
        let mut value = Vec::with_capacity(HEAD_BYTES + payload.len() + CRC_BYTES);
        value.push(FORMAT);
        value.extend_from_slice(&(parts as u16).to_le_bytes());
        value.extend_from_slice(payload);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&key.encode()), &value);
        value.extend_from_slice(&crc.to_le_bytes());
        put(key, value);
    }
}

/// Opens the seal of one part: how many parts there are, and its payload.
pub(crate) fn open(key: Key, value: &[u8]) -> Result<(usize, &[u8]), SealError> {
    let (sealed, crc) =
        value.split_last_chunk::<CRC_BYTES>().ok_or(SealError::Short { bytes: value.len() })?;
    let kept = cfg!(berth_break = "skip_crc")
        || crc32c::crc32c_append(crc32c::crc32c(&key.encode()), sealed) == u32::from_le_bytes(*crc);
    if !kept {
        return Err(SealError::Broken { bytes: value.len() });
    }
    let [format, low, high, payload @ ..] = sealed else {
        return Err(SealError::Short { bytes: value.len() });
    };
    if *format != FORMAT {
        return Err(SealError::UnknownFormat { format: *format });
    }
    Ok((usize::from(u16::from_le_bytes([*low, *high])), payload))
}

/// Puts an object together from its parts, in order of their numbers.
pub(crate) fn join<V: AsRef<[u8]>>(key: Key, values: &[V]) -> Result<Vec<u8>, SealError> {
    let mut object = Vec::new();
    for (part, value) in values.iter().enumerate() {
        let (parts, payload) = open(Key { part: part as u16, ..key }, value.as_ref())?;
        if parts != values.len() {
            return Err(SealError::MissingParts { found: values.len(), parts });
        }
        object.extend_from_slice(payload);
    }
    if values.is_empty() {
        return Err(SealError::MissingParts { found: 0, parts: 1 });
    }
    Ok(object)
}

/// Why a stored value is damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SealError {
    #[error("a value of {bytes} bytes is too short for its seal")]
    Short { bytes: usize },
    #[error("the checksum of a value of {bytes} bytes does not match")]
    Broken { bytes: usize },
    #[error("value format {format} is unknown; this release reads format 1")]
    UnknownFormat { format: u8 },
    #[error("{found} of {parts} parts are there")]
    MissingParts { found: usize, parts: usize },
}

#[cfg(test)]
mod tests {
    use super::super::keys::Kind;
    use super::*;
    use crate::pages::TableId;
    use proptest::prelude::*;

    fn key() -> Key {
        Key { kind: Kind::Page(TableId::Devices, 7), generation: 3, part: 0 }
    }

    fn sealed(object: &[u8]) -> Vec<Vec<u8>> {
        let mut values = Vec::new();
        seal(key(), object, |_, value| values.push(value));
        values
    }

    proptest! {
        #[test]
        fn sealed_objects_come_back_and_no_value_is_over_its_bound(
            object in prop::collection::vec(any::<u8>(), 0..20_000)
        ) {
            let values = sealed(&object);
            prop_assert!(values.iter().all(|value| value.len() <= STORED_BYTES_MAX));
            prop_assert_eq!(join(key(), &values), Ok(object));
        }

        #[test]
        fn any_flipped_bit_breaks_a_seal(object in prop::collection::vec(any::<u8>(), 0..600), at: usize, bit in 0..8) {
            let mut values = sealed(&object);
            let at = at % values[0].len();
            values[0][at] ^= 1_u8 << bit;
            prop_assert!(join(key(), &values).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(open(key(), &bytes).is_err());
        }
    }

    #[test]
    fn a_value_under_another_key_is_damage_and_so_is_a_missing_part() {
        let values = sealed(&[5; 9_000]);
        assert_eq!(values.len(), 3);
        let other = Key { generation: 4, ..key() };
        assert_eq!(join(other, &values), Err(SealError::Broken { bytes: 4_096 }));
        assert_eq!(join(key(), &values[..2]), Err(SealError::MissingParts { found: 2, parts: 3 }));
        assert_eq!(join::<Vec<u8>>(key(), &[]), Err(SealError::MissingParts { found: 0, parts: 1 }));
    }
}
