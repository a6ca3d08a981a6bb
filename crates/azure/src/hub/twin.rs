//! Twins: what is wanted of a device, and what it reported.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::identity::{AuthenticationKind, ConnectionState, DeviceCapabilities, DeviceStatus};
use crate::client::{other, same};
use crate::id::{DeviceId, Etag, ModuleId};
use crate::json::{Unknown, none_if_empty};
use crate::time::Timestamp;

/// Properties of a twin, with `$metadata` and `$version` among them, as the hub writes them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TwinProperties {
    /// What is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<Value>,
    /// What the device reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Value>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A twin (IoT Hub REST API, Twin).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Twin {
    /// The device.
    pub device_id: DeviceId,
    /// The module, of a module's twin.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub module_id: Option<ModuleId>,
    /// This version of tags and properties.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub etag: Option<Etag>,
    /// This version of the identity.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub device_etag: Option<Etag>,
    /// Counts the changes of the twin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Whether the device may connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<DeviceStatus>,
    /// Why, in an administrator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    /// When its status last changed.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub status_update_time: Option<Timestamp>,
    /// Whether it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_state: Option<ConnectionState>,
    /// When it last did anything.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub last_activity_time: Option<Timestamp>,
    /// Messages that wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_to_device_message_count: Option<u64>,
    /// How it proves who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication_type: Option<AuthenticationKind>,
    /// Thumbprints of its certificates; the hub has been seen to capitalise their names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x509_thumbprint: Option<Value>,
    /// Its model, of a Plug and Play device.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// What it can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<DeviceCapabilities>,
    /// Tags, which the device does not see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Value>,
    /// Properties.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub properties: Option<TwinProperties>,
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

impl Twin {
    /// Whether it is this device's own, and not one of its modules'.
    pub(crate) fn check(&self, asked: &DeviceId) -> Result<(), String> {
        same(asked, &self.device_id)?;
        match &self.module_id {
            None => Ok(()),
            Some(module) => Err(other(asked, &format_args!("{asked}/{module}"))),
        }
    }
}

impl Twin {
    /// True where the hub lets the device connect.
    pub fn is_enabled(&self) -> bool {
        self.status.as_ref().is_none_or(|status| *status == DeviceStatus::Enabled)
    }
}

/// A change of a twin. In a patch, what is not named stays, and null removes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TwinChange {
    /// Tags: an object.
    pub tags: Option<Value>,
    /// Desired properties: an object.
    pub desired: Option<Value>,
}

#[derive(Serialize)]
pub(super) struct TwinBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<Desired<'a>>,
}

#[derive(Serialize)]
struct Desired<'a> {
    desired: &'a Value,
}

impl TwinChange {
    pub(super) fn body(&self) -> TwinBody<'_> {
        TwinBody {
            tags: self.tags.as_ref(),
            properties: self.desired.as_ref().map(|desired| Desired { desired }),
        }
    }

    pub(super) fn problem(&self) -> Option<&'static str> {
        let is_object = |value: &Option<Value>| value.as_ref().is_none_or(Value::is_object);
        if self.tags.is_none() && self.desired.is_none() {
            return Some("it changes neither tags nor desired properties");
        }
        if !is_object(&self.tags) || !is_object(&self.desired) {
            return Some("tags and desired properties are JSON objects");
        }
        None
    }
}
