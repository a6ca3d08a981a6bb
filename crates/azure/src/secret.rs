//! Keys: where they may come from, and how they are kept out of everything that is shown or left behind.

use std::fmt;
use std::io::Read as _;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::id::RegistrationId;

/// Largest file or variable that a key, a token or a connection string is read from, in bytes.
pub const SECRET_BYTES_MAX: u64 = 64 * 1_024;
/// Longest symmetric key, in bytes: Azure's are 16 to 64 (IoT Hub REST API, identities).
pub const KEY_BYTES_MAX: usize = 64;
/// Shortest symmetric key, in bytes.
pub const KEY_BYTES_MIN: usize = 16;

/// A text that nobody is to see: wiped when dropped, and not told by `Debug`. It has no `Display`.
///
/// It does go into JSON, as enrollments and identities carry keys: never write such an object to a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Keeps a text secret from here on.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `told` is this text. How long it takes says nothing of where the two differ: their digests are compared,
    /// and those whole.
    pub fn is(&self, told: &str) -> bool {
        // The key need not be secret: it only makes a digest of a fixed length out of either text.
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"a text that nobody is to see");
        let own = hmac::sign(&key, self.0.as_bytes());
        hmac::verify(&key, told.as_bytes(), own.as_ref()).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// Where a key, a token or a connection string is read from. There is no third place: keys do not stand in
/// configuration or on command lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file that holds it and nothing else; white space around it is ignored.
    File(PathBuf),
    /// An environment variable of this name.
    Environment(String),
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// Why a credential cannot be used. It never tells what the credential says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_name}: {problem}")]
pub struct CredentialError {
    /// Where the credential comes from, in words.
    pub source_name: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl CredentialError {
    /// An error of this source.
    pub fn new(source_name: impl fmt::Display, problem: impl Into<String>) -> Self {
        Self { source_name: source_name.to_string(), problem: problem.into() }
    }
}

impl KeySource {
    /// Reads what is there now, without white space around it.
    pub fn read(&self) -> Result<Secret, CredentialError> {
        let text = match self {
            Self::File(path) => {
                let file = std::fs::File::open(path)
                    .map_err(|error| CredentialError::new(self, format!("cannot be opened: {error}")))?;
                // Room for all of it at once, as a text that grows leaves copies behind.
                let room = usize::try_from(SECRET_BYTES_MAX).unwrap_or(0) + 1;
                let mut text = Zeroizing::new(String::with_capacity(room));
                file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| {
                    CredentialError::new(self, format!("cannot be read as text: {error}"))
                })?;
                text
            }
            Self::Environment(name) => Zeroizing::new(std::env::var(name).map_err(|error| match error {
                std::env::VarError::NotPresent => CredentialError::new(self, "is not set"),
                // The error would tell the value.
                std::env::VarError::NotUnicode(_) => CredentialError::new(self, "is not text"),
            })?),
        };
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > SECRET_BYTES_MAX {
            return Err(CredentialError::new(self, format!("is larger than {SECRET_BYTES_MAX} bytes")));
        }
        if text.trim().is_empty() {
            return Err(CredentialError::new(self, "is empty"));
        }
        Ok(Secret::new(text.trim().to_owned()))
    }
}

/// A symmetric key, decoded; wiped when dropped, and not told by `Debug`.
#[derive(Clone)]
pub struct SharedKey(Zeroizing<Vec<u8>>);

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedKey(..)")
    }
}

/// What is wrong with a key, without the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64.
    #[error("the key is not base64; copy it whole, with its `=` at the end")]
    NotBase64,
    /// Too short or too long.
    #[error("the key has {bytes} bytes; Azure's have {KEY_BYTES_MIN} to {KEY_BYTES_MAX}")]
    Length {
        /// Bytes of the decoded key.
        bytes: usize,
    },
}

impl SharedKey {
    /// Decodes a key as Azure shows it: base64 of 16 to 64 bytes.
    pub fn decode(secret: &Secret) -> Result<Self, KeyError> {
        let bytes = Zeroizing::new(STANDARD.decode(secret.expose().trim()).map_err(|_| KeyError::NotBase64)?);
        if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&bytes.len()) {
            return Err(KeyError::Length { bytes: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// Base64 of HMAC-SHA256 of `text`.
    pub(crate) fn sign(&self, text: &str) -> String {
        STANDARD.encode(self.hmac(text.as_bytes()))
    }

    /// The key of one device of a group: HMAC-SHA256 of its registration ID under the group's key (DPS, "symmetric key
    /// attestation", group enrollments). The ID goes in lower case, so that its spelling does not change the key.
    pub fn derive(&self, registration: &RegistrationId) -> Self {
        Self(Zeroizing::new(self.hmac(registration.to_lower().as_bytes()).as_ref().to_vec()))
    }

    /// The key as Azure shows it, in base64.
    pub fn encode(&self) -> Secret {
        Secret::new(STANDARD.encode(self.0.as_slice()))
    }

    fn hmac(&self, bytes: &[u8]) -> hmac::Tag {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0), bytes)
    }
}

/// Makes room for more bytes without leaving a copy behind: a vector that grows does not wipe its old place.
pub(crate) fn make_room(bytes: &mut Zeroizing<Vec<u8>>, more: usize) {
    if bytes.capacity() - bytes.len() >= more {
        return;
    }
    let mut larger = Zeroizing::new(Vec::with_capacity((bytes.len() + more).max(bytes.capacity() * 2)));
    larger.extend_from_slice(bytes);
    *bytes = larger;
}

/// Collects what is written, and leaves no copy behind.
#[derive(Default)]
pub(crate) struct Collected(pub(crate) Zeroizing<Vec<u8>>);

impl std::io::Write for Collected {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        make_room(&mut self.0, bytes.len());
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTOR: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn a_device_key_is_derived_as_dps_does_whatever_the_spelling_of_the_id() {
        let group = SharedKey::decode(&Secret::new(VECTOR.into())).unwrap();
        for id in ["dev-1", "DEV-1"] {
            let key = group.derive(&RegistrationId::new(id).unwrap());
            assert_eq!(key.encode().expose(), "uPrGCZtSCJ9Nt+iY0r7te47dbsu7OCYEU9tz7kQloUs=");
        }
    }

    #[test]
    fn nothing_shows_a_secret() {
        let secret = Secret::new(VECTOR.into());
        let key = SharedKey::decode(&secret).unwrap();
        let shown =
            format!("{secret:?} {key:?} {:?}", SharedKey::decode(&Secret::new("not base64 at all".into())));
        assert!(!shown.contains("AAEC") && !shown.contains("not base64 at all"), "{shown}");
    }

    #[test]
    fn a_secret_is_itself_and_nothing_else() {
        let secret = Secret::new("abcd".into());
        assert!(secret.is("abcd"));
        for other in ["", "abc", "abcde", "abcD", "abcd\0", " abcd"] {
            assert!(!secret.is(other), "{other:?}");
        }
    }

    #[test]
    fn a_key_has_a_sane_length() {
        assert_eq!(
            SharedKey::decode(&Secret::new("AAEC".into())).unwrap_err(),
            KeyError::Length { bytes: 3 }
        );
        let long = Secret::new(STANDARD.encode([7; 65]));
        assert_eq!(SharedKey::decode(&long).unwrap_err(), KeyError::Length { bytes: 65 });
    }

    #[test]
    fn sources_say_what_is_wrong_and_never_what_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let source = KeySource::File(path.clone());
        assert!(source.read().unwrap_err().to_string().contains("cannot be opened"));
        std::fs::write(&path, "  \n").unwrap();
        assert!(source.read().unwrap_err().to_string().ends_with("is empty"));
        std::fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert!(source.read().unwrap_err().to_string().contains("larger than 65536"));
        std::fs::write(&path, [0xff, 0xfe, b'q']).unwrap();
        assert!(source.read().unwrap_err().to_string().contains("as text"));
        std::fs::write(&path, format!(" {VECTOR}\n")).unwrap();
        assert_eq!(source.read().unwrap().expose(), VECTOR);
        let unset = KeySource::Environment("BERTH_NO_SUCH_VARIABLE".into());
        assert_eq!(
            unset.read().unwrap_err().to_string(),
            "environment variable BERTH_NO_SUCH_VARIABLE: is not set"
        );
    }
}
