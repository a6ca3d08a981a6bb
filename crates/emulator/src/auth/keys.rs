//! Symmetric keys: base64 texts of 16 to 64 bytes.

use std::fmt;
use std::ops::Deref;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::clock::Randomness;

/// Shortest key that a service takes, in bytes (IoT Hub, identity registry).
const KEY_BYTES_MIN: usize = 16;

/// Longest key that a service takes, in bytes (IoT Hub, identity registry).
const KEY_BYTES_MAX: usize = 64;

/// Bytes of a key that a service mints for itself.
const MINTED_BYTES: usize = 64;

/// The text of a device's key, which shows itself in answers and in the state file only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct DeviceKey(Box<str>);

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceKey(…)")
    }
}

impl Deref for DeviceKey {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<String> for DeviceKey {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

/// The bytes of a key's text; none where it is no base64, or of a length that no service takes.
pub(crate) fn decode_key(text: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(text).ok()?;
    (KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&bytes.len()).then_some(bytes)
}

/// A fresh key.
pub(crate) fn mint_key(random: &dyn Randomness) -> DeviceKey {
    let mut bytes = [0; MINTED_BYTES];
    random.fill(&mut bytes);
    STANDARD.encode(bytes).into()
}

/// The key of one device of a symmetric-key enrollment group (DPS, symmetric key attestation: group enrollments).
pub(crate) fn derive_key(group_key: &[u8], registration_id: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, group_key);
    hmac::sign(&key, registration_id.as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_key_is_the_documented_one() {
        let key: Vec<u8> = (0..32).collect();
        assert_eq!(
            STANDARD.encode(derive_key(&key, "dev-1")),
            "uPrGCZtSCJ9Nt+iY0r7te47dbsu7OCYEU9tz7kQloUs="
        );
    }

    #[test]
    fn keys_of_other_lengths_are_none() {
        assert!(decode_key(&STANDARD.encode([1; 15])).is_none());
        assert!(decode_key(&STANDARD.encode([1; 65])).is_none());
        assert!(decode_key("no base64").is_none());
        assert_eq!(decode_key(&STANDARD.encode([1; 16])).map(|key| key.len()), Some(16));
    }
}
