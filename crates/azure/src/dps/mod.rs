//! The Device Provisioning Service: its service API, for who administers enrollments, and its device API, for what
//! devices do themselves.

mod attestation;
mod bulk;
mod device;
mod enrollment;
mod registration;
mod service;

pub use attestation::{Attestation, AttestationKind, SymmetricKey, Tpm};
pub use bulk::{BULK_ITEMS_MAX, BulkError, BulkMode, BulkResult};
pub use device::{Device, POLL_WAIT, POLLS_MAX};
pub use enrollment::{
    AllocationPolicy, Capabilities, CustomAllocation, EnrollmentGroup, IndividualEnrollment,
    InitialProperties, InitialTwin, ProvisioningStatus, ReprovisionPolicy,
};
pub use registration::{
    OfSymmetricKey, OfTpm, RegistrationOperation, RegistrationResult, RegistrationState, RegistrationStatus,
    Substatus,
};
pub use service::Service;

/// Version of the service API that is asked for (DPS REST API).
pub const SERVICE_API_VERSION: &str = "2021-10-01";
/// Version of the device API that is asked for: the one that Azure's SDKs for HTTP use.
pub const DEVICE_API_VERSION: &str = "2019-03-31";
/// The device API's host for all instances: the ID scope in the path picks one (DPS, "Device registration").
pub const GLOBAL_HOST: &str = "global.azure-devices-provisioning.net";
