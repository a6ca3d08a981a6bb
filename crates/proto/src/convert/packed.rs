//! Many device IDs in one bytes field: for each a byte of length, then its bytes.

use bytes::Bytes;

/// Why packed IDs cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PackedIdsError {
    /// The field ends inside an ID: nothing from there on can be told apart.
    #[error(
        "ends inside ID {index}, so that from there on nothing can be read; each ID is one byte of length, then its \
         bytes"
    )]
    Short {
        /// Position of the ID, from 0.
        index: usize,
    },
    /// An ID is empty, or is not UTF-8.
    #[error("ID {index} is empty or not text; IDs have 1 to 128 bytes")]
    Illegal {
        /// Position of the ID, from 0.
        index: usize,
    },
}

/// Reads packed IDs one by one. An illegal one is told in its place, and those behind it are read all the same; where
/// the field ends inside an ID nothing follows.
#[derive(Debug, Clone)]
pub struct PackedIds<'a> {
    rest: &'a [u8],
    index: usize,
}

impl<'a> PackedIds<'a> {
    /// The IDs packed in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, index: 0 }
    }

    /// How many IDs there are, told by their lengths alone; one that the field ends inside counts too.
    pub fn count_ids(&self) -> usize {
        let (mut rest, mut count) = (self.rest, 0);
        while let Some((length, after)) = rest.split_first() {
            rest = after.get(usize::from(*length)..).unwrap_or_default();
            count += 1;
        }
        count
    }
}

impl<'a> Iterator for PackedIds<'a> {
    type Item = Result<&'a str, PackedIdsError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.rest.split_first()?;
        let index = self.index;
        self.index += 1;
        let Some((id, rest)) = rest.split_at_checked(usize::from(*length)) else {
            self.rest = &[];
            return Some(Err(PackedIdsError::Short { index }));
        };
        self.rest = rest;
        match std::str::from_utf8(id) {
            Ok(id) if !id.is_empty() => Some(Ok(id)),
            _ => Some(Err(PackedIdsError::Illegal { index })),
        }
    }
}

/// Packs IDs. An ID of more than 255 bytes, which no device has, is left out.
pub fn pack_ids<S: AsRef<str>>(ids: impl IntoIterator<Item = S>) -> Bytes {
    let mut out = Vec::new();
    for id in ids {
        let id = id.as_ref();
        if let Ok(length) = u8::try_from(id.len()) {
            out.push(length);
            out.extend_from_slice(id.as_bytes());
        }
    }
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packed_ids_come_back(ids in proptest::collection::vec("[a-z0-9:-]{1,128}", 0..40)) {
            let packed = pack_ids(&ids);
            let read: Result<Vec<&str>, _> = PackedIds::new(&packed).collect();
            prop_assert_eq!(PackedIds::new(&packed).count_ids(), ids.len());
            prop_assert_eq!(read.unwrap(), ids);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(PackedIds::new(&bytes).count() <= bytes.len());
        }
    }

    #[test]
    fn errors_name_the_id() {
        assert_eq!(PackedIds::new(b"\x01a\x05b").last(), Some(Err(PackedIdsError::Short { index: 1 })));
        let illegal = |index| Err(PackedIdsError::Illegal { index });
        let read: Vec<_> = PackedIds::new(b"\x01a\x00\x01b\x01\xff\x01c").collect();
        assert_eq!(read, [Ok("a"), illegal(1), Ok("b"), illegal(3), Ok("c")]);
    }

    proptest! {
        #[test]
        fn every_id_that_is_counted_is_read_or_refused(bytes in proptest::collection::vec(0u8..8, 0..300)) {
            let ids = PackedIds::new(&bytes);
            prop_assert_eq!(ids.count_ids(), ids.count());
        }
    }
}
