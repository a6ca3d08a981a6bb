//! How a device proves who it is.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json::{Unknown, words};
use crate::secret::{KeyError, Secret, SharedKey};

words! {
    /// The kinds of attestation (DPS REST API, AttestationMechanism).
    AttestationKind {
        /// None.
        None = "none",
        /// A trusted platform module.
        Tpm = "tpm",
        /// A certificate.
        X509 = "x509",
        /// A shared key.
        SymmetricKey = "symmetricKey",
    }
}

/// How the devices of an enrollment prove who they are (DPS REST API, AttestationMechanism).
///
/// Queries and reads of an enrollment leave symmetric keys out; [`super::Service::attestation`] gives them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attestation {
    /// The kind.
    #[serde(rename = "type")]
    pub kind: AttestationKind,
    /// The keys, of kind `symmetricKey`.
    #[serde(rename = "symmetricKey", default, skip_serializing_if = "Option::is_none")]
    pub symmetric_key: Option<SymmetricKey>,
    /// The module's keys, of kind `tpm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<Tpm>,
    /// Certificates, of kind `x509`, as Azure writes them: this client sends back what it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x509: Option<Value>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Attestation {
    /// Shared keys, made by DPS when the enrollment is created.
    pub fn symmetric_made_by_dps() -> Self {
        Self {
            kind: AttestationKind::SymmetricKey,
            symmetric_key: None,
            tpm: None,
            x509: None,
            unknown: Unknown::default(),
        }
    }

    /// These shared keys.
    pub fn symmetric(primary: Secret, secondary: Secret) -> Self {
        let keys =
            SymmetricKey { primary: Some(primary), secondary: Some(secondary), unknown: Unknown::default() };
        Self { symmetric_key: Some(keys), ..Self::symmetric_made_by_dps() }
    }
}

/// Two shared keys, each in base64 of 16 to 64 bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SymmetricKey {
    /// The first.
    #[serde(rename = "primaryKey", default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<Secret>,
    /// The second, so that the first can be replaced without a gap.
    #[serde(rename = "secondaryKey", default, skip_serializing_if = "Option::is_none")]
    pub secondary: Option<Secret>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl SymmetricKey {
    /// The first key, decoded; none where Azure left it out.
    pub fn primary_key(&self) -> Option<Result<SharedKey, KeyError>> {
        self.primary.as_ref().map(SharedKey::decode)
    }
}

/// Public keys of a trusted platform module, in base64.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tpm {
    /// The endorsement key.
    #[serde(rename = "endorsementKey")]
    pub endorsement_key: String,
    /// The storage root key.
    #[serde(rename = "storageRootKey", default, skip_serializing_if = "Option::is_none")]
    pub storage_root_key: Option<String>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}
