//! What DPS reports: how the registration of a device stands.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::client::same;
use crate::id::{DeviceId, EnrollmentGroupId, Etag, HostName, OperationId, RegistrationId};
use crate::json::{Unknown, none_if_empty, words};
use crate::secret::Secret;
use crate::time::Timestamp;

words! {
    /// How a registration stands (DPS REST API, DeviceRegistrationState).
    RegistrationStatus {
        /// Enrolled, never registered.
        Unassigned = "unassigned",
        /// Under way: ask again.
        Assigning = "assigning",
        /// Done: the state names the hub.
        Assigned = "assigned",
        /// It failed: the state has code and message.
        Failed = "failed",
        /// The enrollment is disabled.
        Disabled = "disabled",
    }
}

words! {
    /// How a device came to its hub, of those assigned (DPS, "Device reprovisioning").
    Substatus {
        /// For the first time.
        Initial = "initialAssignment",
        /// It moved, and its twin with it.
        Migrated = "deviceDataMigrated",
        /// It moved, and started from the initial twin.
        Reset = "deviceDataReset",
        /// DPS held it for new, but the hub had the identity already.
        ReprovisionedToInitial = "reprovisionedToInitialAssignment",
    }
}

/// What DPS knows of a device's registration (DPS REST API, DeviceRegistrationState). It names the old hub until the
/// device registers again, whatever the enrollment says by then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistrationState {
    /// The device's name to DPS; the device API leaves it out at times.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub registration_id: Option<RegistrationId>,
    /// When it first registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_date_time_utc: Option<Timestamp>,
    /// The hub it is assigned to. A newer hub may be named by its device host, not by its classic name.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub assigned_hub: Option<HostName>,
    /// Its name there.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub device_id: Option<DeviceId>,
    /// How the registration stands.
    pub status: RegistrationStatus,
    /// How it came to its hub; only of those assigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub substatus: Option<Substatus>,
    /// Why it failed, by number, such as 400207.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<u32>,
    /// Why it failed, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// When this last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated_date_time_utc: Option<Timestamp>,
    /// This version, by DPS.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub etag: Option<Etag>,
    /// What the custom allocation webhook sent to the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl RegistrationState {
    /// Whether it is about this registration and whole: one that is assigned is so to a hub, as a device.
    pub(crate) fn check(&self, asked: &RegistrationId) -> Result<(), String> {
        self.check_as(&self.status, asked)
    }

    /// The same of a part of an answer that has a status of its own.
    pub(crate) fn check_as(&self, status: &RegistrationStatus, asked: &RegistrationId) -> Result<(), String> {
        if let Some(told) = &self.registration_id {
            same(asked, told)?;
        }
        match status {
            RegistrationStatus::Assigned if self.assigned_hub.is_none() => {
                Err(format!("registration `{asked}` is assigned to no hub"))
            }
            RegistrationStatus::Assigned if self.device_id.is_none() => {
                Err(format!("registration `{asked}` is assigned as no device"))
            }
            _ => Ok(()),
        }
    }

    /// The same of DPS's own record, which always names its registration.
    pub(crate) fn check_record(&self, asked: &RegistrationId) -> Result<(), String> {
        match self.registration_id {
            Some(_) => self.check(asked),
            None => Err(format!("it is about no registration, and `{asked}` was asked for")),
        }
    }
}

/// The same as a device is told (DPS REST API, DeviceRegistrationResult), with what only it may know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistrationResult {
    /// Of a device with a shared key: its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symmetric_key: Option<OfSymmetricKey>,
    /// Of a device with a trusted platform module: its key in the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<OfTpm>,
    /// Of a device with a certificate, as Azure writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x509: Option<Value>,
    /// How the registration stands.
    #[serde(flatten)]
    pub state: RegistrationState,
}

/// What DPS tells a device that registered by a shared key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfSymmetricKey {
    /// Its group; none for a device with an enrollment of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrollment_group_id: Option<EnrollmentGroupId>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What DPS tells a device that registered by a trusted platform module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfTpm {
    /// The key of its identity in the hub, encrypted for the module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication_key: Option<Secret>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A registration, under way or done (DPS REST API, RegistrationOperationStatus). That it failed or is disabled is an
/// answer, not an error: see [`RegistrationStatus`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistrationOperation {
    /// Its name, to ask again by; none where there is nothing to ask, as for a disabled enrollment.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<OperationId>,
    /// How it stands.
    pub status: RegistrationStatus,
    /// What is known so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration_state: Option<RegistrationResult>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}
