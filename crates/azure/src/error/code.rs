//! Azure's names and numbers of errors, and what they mean.

use std::fmt;

use super::{AzureError, Told};
use crate::client::Subject;

/// What does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missing {
    /// An identity in a hub: absent, or disabled (404001).
    Device,
    /// A module of a device (404010).
    Module,
    /// A job of a hub (404002).
    Job,
    /// The hub itself (401001).
    Hub,
    /// An individual enrollment (404201).
    Enrollment,
    /// An enrollment group; for a registering device, any enrollment that fits it (404204).
    EnrollmentGroup,
    /// The record of a device's registration (404202).
    Registration,
    /// A registration under way (404203).
    Operation,
    /// A hub linked to a DPS (404210).
    LinkedHub,
    /// A Traffic Manager profile.
    Profile,
    /// An endpoint of a Traffic Manager profile.
    Endpoint,
    /// A subscription or resource group of ARM.
    ResourceGroup,
    /// Something else: see the message.
    Other,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "device",
            Self::Module => "module",
            Self::Job => "job",
            Self::Hub => "hub",
            Self::Enrollment => "enrollment",
            Self::EnrollmentGroup => "enrollment group",
            Self::Registration => "registration",
            Self::Operation => "operation",
            Self::LinkedHub => "linked hub",
            Self::Profile => "Traffic Manager profile",
            Self::Endpoint => "Traffic Manager endpoint",
            Self::ResourceGroup => "resource group",
            Self::Other => "what was asked for",
        })
    }
}

/// What exists already, or is being changed by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Conflicting {
    /// An identity of this ID exists (409001).
    Device,
    /// A module of this ID exists (409301).
    Module,
    /// An enrollment of this ID exists (409201).
    Enrollment,
    /// A group of this ID exists (409202).
    EnrollmentGroup,
    /// The device registers twice at the same moment (409203).
    Registration,
    /// Something else: see the message.
    Other,
}

impl fmt::Display for Conflicting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "device",
            Self::Module => "module",
            Self::Enrollment => "enrollment",
            Self::EnrollmentGroup => "enrollment group",
            Self::Registration => "registration",
            Self::Other => "request",
        })
    }
}

/// IoT Hub's names and numbers (IoT Hub REST API, common error codes).
const HUB_CODES: [(&str, u32); 35] = [
    ("InvalidProtocolVersion", 400_001),
    ("InvalidOperation", 400_003),
    ("ArgumentInvalid", 400_004),
    ("ArgumentNull", 400_005),
    ("IotHubFormatError", 400_006),
    ("DeviceDefinedMultipleTimes", 400_011),
    ("BulkRegistryOperationFailure", 400_013),
    ("ConnectionForcefullyClosedOnNewConnection", 400_027),
    ("IotHubNotFound", 401_001),
    ("IotHubUnauthorizedAccess", 401_002),
    ("IotHubUnauthorized", 401_003),
    ("IotHubQuotaExceeded", 403_002),
    ("DeviceMaximumQueueDepthExceeded", 403_004),
    ("DeviceNotFound", 404_001),
    ("JobNotFound", 404_002),
    ("ModuleNotFound", 404_010),
    ("DeviceNotOnline", 404_103),
    ("DeviceConnectionClosedRemotely", 404_104),
    ("DeviceAlreadyExists", 409_001),
    ("LinkCreationConflict", 409_002),
    ("ModuleAlreadyExistsOnDevice", 409_301),
    ("PreconditionFailed", 412_001),
    ("DeviceMessageLockLost", 412_002),
    ("MessageTooLarge", 413_001),
    ("TooManyDevices", 413_002),
    ("GenericTooManyRequests", 429_000),
    ("ThrottlingException", 429_001),
    ("ThrottleBacklogLimitExceeded", 429_002),
    ("ThrottlingBacklogTimeout", 429_003),
    ("ThrottlingMaxActiveJobCountExceeded", 429_004),
    ("DeviceThrottlingLimitExceeded", 429_005),
    ("ServerError", 500_001),
    ("ServiceUnavailable", 503_001),
    ("PartitionNotFound", 503_003),
    ("GatewayTimeout", 504_101),
];

/// The number that goes with a name; none for names that are not known.
pub(super) fn number_of(name: &str) -> Option<u32> {
    HUB_CODES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, number)| *number)
}

/// Decides what a refusal means: by Azure's number where it agrees with the HTTP status, else by the status.
pub(super) fn classified(subject: Subject, told: Box<Told>) -> AzureError {
    // A number that contradicts the status may come from a proxy's page, or from a call behind the call.
    let code = told.code.filter(|code| code / 1_000 == u32::from(told.status));
    match (told.status, code) {
        (401, Some(401_001)) => AzureError::NotFound { missing: Missing::Hub, told },
        (404, Some(404_103)) => AzureError::NotOnline { told },
        // The connection went while the method was with the device: it may have run.
        (404, Some(404_104)) => AzureError::Unavailable { told },
        (404, code) => AzureError::NotFound { missing: missing(subject, code, &told), told },
        (401, _) => AzureError::Unauthorized { told },
        (403, _) => AzureError::Forbidden { told },
        (409, code) => AzureError::Conflict { conflicting: conflicting(subject, code), told },
        (412, _) => AzureError::PreconditionFailed { told },
        (429, _) => AzureError::Throttled { told },
        (408 | 500..=599, _) => AzureError::Unavailable { told },
        _ => AzureError::Refused { told },
    }
}

fn missing(subject: Subject, code: Option<u32>, told: &Told) -> Missing {
    let Some(code) = code else {
        return match (told.name.as_deref(), subject) {
            (Some("ResourceGroupNotFound" | "SubscriptionNotFound"), _) => Missing::ResourceGroup,
            (Some("ParentResourceNotFound"), Subject::Endpoint) => Missing::Profile,
            (_, Subject::Device) => Missing::Device,
            (_, Subject::Enrollment) => Missing::Enrollment,
            (_, Subject::EnrollmentGroup) => Missing::EnrollmentGroup,
            (_, Subject::Registration) => Missing::Registration,
            (_, Subject::Operation) => Missing::Operation,
            (_, Subject::Profile) => Missing::Profile,
            (_, Subject::Endpoint) => Missing::Endpoint,
            (_, Subject::Other) => Missing::Other,
        };
    };
    match code {
        404_001 => Missing::Device,
        404_002 => Missing::Job,
        404_010 => Missing::Module,
        404_201 => Missing::Enrollment,
        404_202 => Missing::Registration,
        404_203 => Missing::Operation,
        404_204 => Missing::EnrollmentGroup,
        404_210 => Missing::LinkedHub,
        // Records, settings and authorities of DPS itself (404205 to 404209, 404211): nothing that a caller named.
        404_205..=404_209 | 404_211 => Missing::Other,
        // A number that is not known is about something that is not known either.
        _ => Missing::Other,
    }
}

fn conflicting(subject: Subject, code: Option<u32>) -> Conflicting {
    match code {
        Some(409_001) => Conflicting::Device,
        Some(409_301) => Conflicting::Module,
        Some(409_201) => Conflicting::Enrollment,
        Some(409_202) => Conflicting::EnrollmentGroup,
        Some(409_203) => Conflicting::Registration,
        Some(_) => Conflicting::Other,
        None => match subject {
            Subject::Device => Conflicting::Device,
            Subject::Enrollment => Conflicting::Enrollment,
            Subject::EnrollmentGroup => Conflicting::EnrollmentGroup,
            Subject::Registration | Subject::Operation => Conflicting::Registration,
            Subject::Profile | Subject::Endpoint | Subject::Other => Conflicting::Other,
        },
    }
}
