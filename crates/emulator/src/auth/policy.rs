//! Shared access policies and what they permit.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use super::keys::decode_key;

/// A text that never shows itself: a key or a token in a config file.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a policy permits (DPS and IoT Hub, control access). Each stands for itself: none includes another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Right {
    /// DPS: the service's own settings. Opens nothing that the emulator has.
    ServiceConfig,
    /// DPS: read enrollments and groups.
    EnrollmentRead,
    /// DPS: write them, and read their keys.
    EnrollmentWrite,
    /// DPS: read registration records.
    RegistrationStatusRead,
    /// DPS: delete registration records.
    RegistrationStatusWrite,
    /// IoT Hub: read the identity registry.
    RegistryRead,
    /// IoT Hub: write it.
    RegistryWrite,
    /// IoT Hub: twins, queries, methods.
    ServiceConnect,
    /// IoT Hub: connect as a device. Opens nothing that the emulator serves over HTTP.
    DeviceConnect,
}

/// One policy: keys that were decoded, and rights.
#[derive(Clone)]
pub(crate) struct Policy {
    keys: Vec<Vec<u8>>,
    rights: Vec<Right>,
}

impl Policy {
    /// A policy of these keys; the text of the first that is none, otherwise.
    pub(crate) fn new<'a>(
        keys: impl IntoIterator<Item = &'a Secret>,
        rights: Vec<Right>,
    ) -> Result<Self, ()> {
        let keys: Option<Vec<_>> = keys.into_iter().map(|key| decode_key(key.expose())).collect();
        Ok(Self { keys: keys.ok_or(())?, rights })
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(Vec::as_slice)
    }

    pub(crate) fn permits(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }
}

/// The policies of one service, by name. Names compare as they are written.
#[derive(Clone, Default)]
pub(crate) struct Policies(BTreeMap<String, Policy>);

impl Policies {
    pub(crate) fn new(policies: BTreeMap<String, Policy>) -> Self {
        Self(policies)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Policy> {
        self.0.get(name)
    }
}

/// The bearer tokens that are taken, as tokens of Microsoft Entra ID would be.
#[derive(Clone, Default)]
pub(crate) struct Bearers(Vec<(Secret, bool)>);

impl Bearers {
    /// Tokens, each with whether it may only read.
    pub(crate) fn new(tokens: Vec<(Secret, bool)>) -> Self {
        Self(tokens)
    }

    /// Whether the header's token is known, and whether it may only read.
    pub(crate) fn read_only(&self, header: &str) -> Option<bool> {
        let told = header.strip_prefix("Bearer ")?.trim();
        // The emulator's tokens guard nothing real, yet an early end of the comparison would be a bad example.
        let mut found = None;
        for (token, read_only) in &self.0 {
            let token = token.expose().as_bytes();
            let differs = token.len() != told.len()
                || token.iter().zip(told.as_bytes()).fold(0, |sum, (a, b)| sum | (a ^ b)) != 0;
            if !differs {
                found = Some(*read_only);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_itself() {
        assert!(!format!("{:?}", Secret::new("hidden text")).contains("hidden"));
    }

    #[test]
    fn bearers_are_compared_whole() {
        let bearers = Bearers::new(vec![(Secret::new("abc"), false), (Secret::new("reader"), true)]);
        assert_eq!(bearers.read_only("Bearer abc"), Some(false));
        assert_eq!(bearers.read_only("Bearer reader"), Some(true));
        assert_eq!(bearers.read_only("Bearer ab"), None);
        assert_eq!(bearers.read_only("SharedAccessSignature abc"), None);
    }
}
