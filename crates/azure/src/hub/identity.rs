//! Identities: who may connect to a hub.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{DeviceId, Etag};
use crate::json::{Unknown, none_if_empty, words};
use crate::secret::Secret;
use crate::time::Timestamp;

words! {
    /// Whether a device may connect.
    DeviceStatus {
        /// It may.
        Enabled = "enabled",
        /// It may not; direct methods and twin reads then answer as if it did not exist (404001).
        Disabled = "disabled",
    }
}

words! {
    /// Whether a device is connected, as far as the hub has heard.
    ConnectionState {
        /// It is.
        Connected = "Connected",
        /// It is not.
        Disconnected = "Disconnected",
    }
}

words! {
    /// How a device proves who it is to its hub.
    AuthenticationKind {
        /// By a shared key.
        Sas = "sas",
        /// By the thumbprint of its certificate.
        SelfSigned = "selfSigned",
        /// By a certificate of a known authority.
        CertificateAuthority = "certificateAuthority",
        /// Not at all.
        None = "none",
    }
}

/// Two shared keys. Empty texts ask the hub to make them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Keys {
    /// The first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_key: Option<Secret>,
    /// The second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary_key: Option<Secret>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// How a device proves who it is (IoT Hub REST API, AuthenticationMechanism).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    /// The kind.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<AuthenticationKind>,
    /// Its keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symmetric_key: Option<Keys>,
    /// Thumbprints of its certificates, as the hub writes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x509_thumbprint: Option<Value>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Authentication {
    /// Shared keys that the hub makes.
    pub fn made_by_hub() -> Self {
        let empty = || Some(Secret::new(String::new()));
        let keys = Keys { primary_key: empty(), secondary_key: empty(), unknown: Unknown::default() };
        Self {
            kind: Some(AuthenticationKind::Sas),
            symmetric_key: Some(keys),
            x509_thumbprint: None,
            unknown: Unknown::default(),
        }
    }
}

/// What the device can be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceCapabilities {
    /// An IoT Edge device.
    #[serde(default)]
    pub iot_edge: bool,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A device as its hub's registry has it (IoT Hub REST API, Device).
///
/// A write replaces the whole object; one without `authentication` makes new keys, which locks the device out. So read
/// it, change it, and write it with its etag.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Its name.
    pub device_id: DeviceId,
    /// Tells this identity from one of the same name that was removed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation_id: Option<String>,
    /// This version; connecting does not change it.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub etag: Option<Etag>,
    /// Whether it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_state: Option<ConnectionState>,
    /// Whether it may connect; enabled where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<DeviceStatus>,
    /// Why, in an administrator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    /// When it last connected or disconnected.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub connection_state_updated_time: Option<Timestamp>,
    /// When its status last changed.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub status_updated_time: Option<Timestamp>,
    /// When it last did anything.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub last_activity_time: Option<Timestamp>,
    /// Messages that wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_to_device_message_count: Option<u64>,
    /// How it proves who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// What it can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<DeviceCapabilities>,
    /// Its place below an edge device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_scope: Option<String>,
    /// The places above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_scopes: Option<Vec<String>>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Identity {
    /// A device with keys that the hub makes.
    pub fn new(device_id: DeviceId) -> Self {
        Self {
            device_id,
            generation_id: None,
            etag: None,
            connection_state: None,
            status: None,
            status_reason: None,
            connection_state_updated_time: None,
            status_updated_time: None,
            last_activity_time: None,
            cloud_to_device_message_count: None,
            authentication: Some(Authentication::made_by_hub()),
            capabilities: None,
            device_scope: None,
            parent_scopes: None,
            unknown: Unknown::default(),
        }
    }

    /// True where the hub lets it connect.
    pub fn is_enabled(&self) -> bool {
        self.status.as_ref().is_none_or(|status| *status == DeviceStatus::Enabled)
    }
}
