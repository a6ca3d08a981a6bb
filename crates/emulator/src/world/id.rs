//! What may be an ID, and how DPS orders what it stores.

use crate::clock::mix;

/// Longest ID of either kind (DPS, service concepts; IoT Hub, identity registry).
const ID_BYTES_MAX: usize = 128;

/// Whether DPS takes `text` as a registration or enrollment group ID: letters, digits and `-._:`, the last a letter, a
/// digit or `-` (DPS, service concepts).
pub(crate) fn is_registration_id(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    (1..=ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(legal)
        && text.ends_with(|last: char| last.is_ascii_alphanumeric() || last == '-')
}

/// Whether a hub takes `text` as a device ID (IoT Hub, identity registry).
pub(crate) fn is_device_id(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-.+%_#*?!(),:=@$'".contains(&byte);
    (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(legal)
}

/// An ID of DPS as it is looked up: without case. Keys are ordered by a hash, so that the order of a query's rows is
/// neither the IDs' nor the creations', as it is neither in DPS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    hash: u64,
    id: Box<str>,
}

impl Key {
    pub(crate) fn of(id: &str) -> Self {
        let id: Box<str> = id.to_ascii_lowercase().into();
        Self { hash: hash(&id), id }
    }

    /// The ID, lower-cased.
    pub(crate) fn text(&self) -> &str {
        &self.id
    }
}

/// A fixed hash of a text: FNV-1a, mixed, the same in every run.
pub(crate) fn hash(text: &str) -> u64 {
    mix(text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registration_ids_keep_to_their_alphabet() {
        for legal in ["a", "A-b.c_d:e", "x-", &"a".repeat(128)] {
            assert!(is_registration_id(legal), "{legal}");
        }
        for illegal in ["", "a.", "a_", "a:", "a b", "ü", "a/b", "a#", &"a".repeat(129)] {
            assert!(!is_registration_id(illegal), "{illegal}");
        }
    }

    #[test]
    fn device_ids_have_a_larger_alphabet() {
        assert!(is_device_id("dev#1?x%y"));
        assert!(!is_device_id("dev/1"));
    }

    #[test]
    fn keys_compare_without_case() {
        assert_eq!(Key::of("Dev-1"), Key::of("dev-1"));
    }
}
