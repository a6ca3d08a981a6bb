//! Up to a hundred changes of identities in one call.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::identity::{Authentication, DeviceCapabilities, DeviceStatus};
use super::twin::TwinProperties;
use crate::error::AzureError;
use crate::id::{DeviceId, Etag, ModuleId};
use crate::json::{Unknown, empty_if_null, none_if_empty, words};

/// Most items of one call (IoT Hub, quotas).
pub const BULK_DEVICES_MAX: usize = 100;

words! {
    /// What is done with an item of a bulk call (IoT Hub REST API, ExportImportDevice).
    BulkDeviceMode {
        /// Makes the device; it must not exist.
        Create = "create",
        /// Replaces its identity.
        Update = "update",
        /// Replaces its identity, if it has the item's etag.
        UpdateIfMatchEtag = "updateIfMatchETag",
        /// Removes it.
        Delete = "delete",
        /// Removes it, if it has the item's etag.
        DeleteIfMatchEtag = "deleteIfMatchETag",
        /// Changes its twin.
        UpdateTwin = "updateTwin",
        /// Changes its twin, if that has the item's twin etag.
        UpdateTwinIfMatchEtag = "updateTwinIfMatchETag",
    }
}

impl BulkDeviceMode {
    /// True where the item changes only the version that it names.
    pub(super) fn goes_by_etag(&self) -> bool {
        matches!(self, Self::UpdateIfMatchEtag | Self::DeleteIfMatchEtag | Self::UpdateTwinIfMatchEtag)
    }
}

/// One change (IoT Hub REST API, ExportImportDevice).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkDevice {
    /// The device.
    pub id: DeviceId,
    /// The module, of a module's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_id: Option<ModuleId>,
    /// The version of the identity that is meant. Spelled `eTag` here, unlike elsewhere.
    #[serde(rename = "eTag", default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<Etag>,
    /// What is done.
    pub import_mode: BulkDeviceMode,
    /// Whether the device may connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<DeviceStatus>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    /// How it proves who it is. An update without it makes new keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// The version of the twin that is meant.
    #[serde(rename = "twinETag", default, skip_serializing_if = "Option::is_none")]
    pub twin_etag: Option<Etag>,
    /// Tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Value>,
    /// Properties.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub properties: Option<TwinProperties>,
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

impl BulkDevice {
    /// A change that says no more than it must.
    pub fn new(id: DeviceId, import_mode: BulkDeviceMode) -> Self {
        Self {
            id,
            module_id: None,
            etag: None,
            import_mode,
            status: None,
            status_reason: None,
            authentication: None,
            twin_etag: None,
            tags: None,
            properties: None,
            capabilities: None,
            device_scope: None,
            parent_scopes: None,
            unknown: Unknown::default(),
        }
    }
}

/// How a bulk call went, item by item. Some may have failed though others succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkDeviceResult {
    /// True where every item succeeded.
    pub is_successful: bool,
    /// The items that failed.
    #[serde(default, deserialize_with = "empty_if_null")]
    pub errors: Vec<BulkDeviceError>,
    /// The items that succeeded, but.
    #[serde(default, deserialize_with = "empty_if_null")]
    pub warnings: Vec<BulkDeviceWarning>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Why one item failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkDeviceError {
    /// The device; none where the hub names none.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub device_id: Option<DeviceId>,
    /// The module.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub module_id: Option<ModuleId>,
    /// Azure's name of the error, such as `DeviceAlreadyExists`; its number in some versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<Value>,
    /// Azure's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_status: Option<String>,
    /// What was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What there is to know of an item that succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkDeviceWarning {
    /// The device; none where the hub names none.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub device_id: Option<DeviceId>,
    /// Azure's name of the warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning_code: Option<Value>,
    /// Azure's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning_status: Option<String>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Refuses what the hub would refuse, and what would do half of what was meant.
pub(super) fn check(operation: &'static str, items: &[BulkDevice]) -> Result<(), AzureError> {
    let refuse = |problem: String| Err(AzureError::invalid(operation, problem));
    if items.is_empty() || items.len() > BULK_DEVICES_MAX {
        let count = items.len();
        return refuse(format!("there are {count} items; a hub takes 1 to {BULK_DEVICES_MAX} in a call"));
    }
    let mut seen = HashSet::new();
    for item in items {
        let lacks = match item.import_mode {
            BulkDeviceMode::UpdateIfMatchEtag | BulkDeviceMode::DeleteIfMatchEtag => item.etag.is_none(),
            BulkDeviceMode::UpdateTwinIfMatchEtag => item.twin_etag.is_none(),
            _ => false,
        };
        if lacks {
            return refuse(format!("`{}` has no etag; read it first, or use another mode", item.id));
        }
        if !seen.insert((&item.id, &item.module_id)) {
            return refuse(format!("`{}` is there twice; give each once", item.id));
        }
    }
    Ok(())
}
