//! What DPS permits: enrollments of single devices and of groups.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::attestation::Attestation;
use super::registration::RegistrationState;
use crate::client::same;
use crate::id::{DeviceId, EnrollmentGroupId, Etag, HostName, RegistrationId};
use crate::json::{Unknown, none_if_empty, words};
use crate::secret::Secret;
use crate::time::Timestamp;

words! {
    /// How DPS chooses a hub (DPS, "How to use allocation policies").
    AllocationPolicy {
        /// By a hash, spread evenly.
        Hashed = "hashed",
        /// The nearest.
        GeoLatency = "geoLatency",
        /// The one named.
        Static = "static",
        /// A webhook is asked.
        Custom = "custom",
    }
}

words! {
    /// Whether an enrollment lets devices register.
    ProvisioningStatus {
        /// It does.
        Enabled = "enabled",
        /// It does not. Devices that registered before stay in their hubs.
        Disabled = "disabled",
    }
}

/// The webhook of policy `custom` (DPS, "Custom allocation policies").
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CustomAllocation {
    /// Where DPS asks. Secret, as its query often carries a key.
    #[serde(rename = "webhookUrl")]
    pub webhook_url: Secret,
    /// Version of the request's body, 2018-09-01-preview or later.
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What happens when a device registers again and another hub is asked for (DPS, "Device reprovisioning").
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReprovisionPolicy {
    /// Whether it moves at all.
    #[serde(rename = "updateHubAssignment", default = "yes")]
    pub update_hub_assignment: bool,
    /// Whether its twin moves with it; otherwise it starts from the initial twin.
    #[serde(rename = "migrateDeviceData", default = "yes")]
    pub migrate_device_data: bool,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

fn yes() -> bool {
    true
}

impl ReprovisionPolicy {
    /// The device moves and its twin with it: what DPS does where nothing is said.
    pub fn migrate() -> Self {
        Self { update_hub_assignment: true, migrate_device_data: true, unknown: Unknown::default() }
    }

    /// The device moves and starts from the initial twin.
    pub fn reset() -> Self {
        Self { migrate_device_data: false, ..Self::migrate() }
    }

    /// The device stays where it is.
    pub fn never() -> Self {
        Self { update_hub_assignment: false, ..Self::reset() }
    }
}

/// What the device can be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Capabilities {
    /// An IoT Edge device.
    #[serde(rename = "iotEdge", default)]
    pub iot_edge: bool,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The twin of a device that a hub sees for the first time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InitialTwin {
    /// Tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Value>,
    /// Properties.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub properties: Option<InitialProperties>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Properties of an [`InitialTwin`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InitialProperties {
    /// Desired properties.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<Value>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What DPS permits one device (DPS REST API, IndividualEnrollment).
///
/// A write replaces the whole object, so read it, change it, and write it with its etag. Reads leave symmetric keys
/// out, and whether a write without keys keeps them is not documented: put the keys of
/// [`super::Service::attestation`] in before writing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndividualEnrollment {
    /// The device's name to DPS.
    pub registration_id: RegistrationId,
    /// Its name in the hub; the registration ID where none is given.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub device_id: Option<DeviceId>,
    /// What DPS knows of its registration; only in reads of one enrollment, and never sent.
    #[serde(default, skip_serializing)]
    pub registration_state: Option<RegistrationState>,
    /// Free properties, with their metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional_device_information: Option<Value>,
    /// How it proves who it is.
    pub attestation: Attestation,
    /// What it can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// One hub, the old way; [`Self::iot_hubs`] is the new one.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub iot_hub_host_name: Option<HostName>,
    /// The hubs to choose from; every linked one where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iot_hubs: Option<Vec<HostName>>,
    /// How to choose; by the instance's own policy where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation_policy: Option<AllocationPolicy>,
    /// Whom policy `custom` asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_allocation_definition: Option<CustomAllocation>,
    /// The twin to start from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_twin: Option<InitialTwin>,
    /// Whether it may register; enabled where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning_status: Option<ProvisioningStatus>,
    /// What happens when it registers again; both true where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reprovision_policy: Option<ReprovisionPolicy>,
    /// This version, by DPS. On a write the one in `If-Match` counts.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub etag: Option<Etag>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_date_time_utc: Option<Timestamp>,
    /// When it was last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated_date_time_utc: Option<Timestamp>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl IndividualEnrollment {
    /// Whether it is about this registration, and what it says of it is whole.
    pub(crate) fn check(&self, asked: &RegistrationId) -> Result<(), String> {
        same(asked, &self.registration_id)?;
        self.registration_state.as_ref().map_or(Ok(()), |state| state.check(asked))
    }

    /// An enrollment that says no more than it must.
    pub fn new(registration_id: RegistrationId, attestation: Attestation) -> Self {
        Self {
            registration_id,
            device_id: None,
            registration_state: None,
            optional_device_information: None,
            attestation,
            capabilities: None,
            iot_hub_host_name: None,
            iot_hubs: None,
            allocation_policy: None,
            custom_allocation_definition: None,
            initial_twin: None,
            provisioning_status: None,
            reprovision_policy: None,
            etag: None,
            created_date_time_utc: None,
            last_updated_date_time_utc: None,
            unknown: Unknown::default(),
        }
    }
}

/// What DPS permits the devices that share a certificate or a key (DPS REST API, EnrollmentGroup). Their device IDs are
/// their registration IDs.
///
/// What is said of [`IndividualEnrollment`] holds here too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnrollmentGroup {
    /// The group's name.
    pub enrollment_group_id: EnrollmentGroupId,
    /// How its devices prove who they are.
    pub attestation: Attestation,
    /// What they can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// One hub, the old way.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub iot_hub_host_name: Option<HostName>,
    /// The hubs to choose from; every linked one where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iot_hubs: Option<Vec<HostName>>,
    /// How to choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation_policy: Option<AllocationPolicy>,
    /// Whom policy `custom` asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_allocation_definition: Option<CustomAllocation>,
    /// The twin to start from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_twin: Option<InitialTwin>,
    /// Whether they may register.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning_status: Option<ProvisioningStatus>,
    /// What happens when one registers again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reprovision_policy: Option<ReprovisionPolicy>,
    /// This version, by DPS.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub etag: Option<Etag>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_date_time_utc: Option<Timestamp>,
    /// When it was last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated_date_time_utc: Option<Timestamp>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl EnrollmentGroup {
    /// A group that says no more than it must.
    pub fn new(enrollment_group_id: EnrollmentGroupId, attestation: Attestation) -> Self {
        Self {
            enrollment_group_id,
            attestation,
            capabilities: None,
            iot_hub_host_name: None,
            iot_hubs: None,
            allocation_policy: None,
            custom_allocation_definition: None,
            initial_twin: None,
            provisioning_status: None,
            reprovision_policy: None,
            etag: None,
            created_date_time_utc: None,
            last_updated_date_time_utc: None,
            unknown: Unknown::default(),
        }
    }
}
