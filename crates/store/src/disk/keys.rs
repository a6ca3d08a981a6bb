//! Every key that sled ever sees: `table u8 | page u32 | generation u64 | part u16`, big-endian, so that the
//! versions of a page lie side by side, oldest first.

use crate::pages::TableId;

/// Bytes of every key.
pub(crate) const KEY_BYTES: usize = 15;

/// Stands where pages have their table: manifests sort after all pages.
const MANIFEST: u8 = 0xFF;

/// What a stored value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    /// The checkpoint that wrote it.
    pub(crate) generation: u64,
    /// Which part of it.
    pub(crate) part: u16,
}

/// What a stored value is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Page(TableId, u32),
    Manifest,
}

impl Key {
    pub(crate) fn encode(self) -> [u8; KEY_BYTES] {
        let (table, page) = match self.kind {
            Kind::Page(table, page) => (table.number(), page),
            Kind::Manifest => (MANIFEST, 0),
        };
        let mut key = [0; KEY_BYTES];
        key[0] = table;
        key[1..5].copy_from_slice(&page.to_be_bytes());
        key[5..13].copy_from_slice(&self.generation.to_be_bytes());
        key[13..15].copy_from_slice(&self.part.to_be_bytes());
        key
    }

    pub(crate) fn decode(key: &[u8]) -> Option<Self> {
        let key: [u8; KEY_BYTES] = key.try_into().ok()?;
        let [table, p0, p1, p2, p3, g0, g1, g2, g3, g4, g5, g6, g7, t0, t1] = key;
        let page = u32::from_be_bytes([p0, p1, p2, p3]);
        let kind = match (TableId::from_number(table), table, page) {
            (Some(table), _, page) => Kind::Page(table, page),
            (None, MANIFEST, 0) => Kind::Manifest,
            _ => return None,
        };
        let generation = u64::from_be_bytes([g0, g1, g2, g3, g4, g5, g6, g7]);
        Some(Self { kind, generation, part: u16::from_be_bytes([t0, t1]) })
    }
}

/// The first key that a page of this number or above can have.
pub(crate) fn first_of_page(table: TableId, page: u32) -> [u8; KEY_BYTES] {
    Key { kind: Kind::Page(table, page), generation: 0, part: 0 }.encode()
}

/// The first key of manifests: all pages lie below it.
pub(crate) fn first_of_manifests() -> [u8; KEY_BYTES] {
    Key { kind: Kind::Manifest, generation: 0, part: 0 }.encode()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_key() -> impl Strategy<Value = Key> {
        let kind = prop_oneof![
            (0..TableId::COUNT, any::<u32>()).prop_map(|(table, page)| Kind::Page(TableId::ALL[table], page)),
            Just(Kind::Manifest),
        ];
        (kind, any::<u64>(), any::<u16>()).prop_map(|(kind, generation, part)| Key { kind, generation, part })
    }

    proptest! {
        #[test]
        fn keys_come_back_and_sort_as_they_should(one in any_key(), other in any_key()) {
            prop_assert_eq!(Key::decode(&one.encode()), Some(one));
            prop_assert_eq!(one.cmp(&other), one.encode().cmp(&other.encode()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Some(key) = Key::decode(&bytes) {
                prop_assert_eq!(&key.encode()[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn a_key_keeps_its_bytes() {
        let key = Key { kind: Kind::Page(TableId::Replies, 0x0102_0304), generation: 5, part: 6 };
        assert_eq!(key.encode(), [2, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 6]);
    }
}
