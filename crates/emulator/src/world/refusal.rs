//! Refusals: what a service says when it does not do what it is asked.

use std::time::Duration;

use crate::config::Switches;

/// A refusal of DPS, of either of its APIs (DPS REST API, error details).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DpsRefusal {
    pub(crate) status: u16,
    pub(crate) code: u32,
    pub(crate) message: String,
    pub(crate) retry_after: Option<Duration>,
}

impl DpsRefusal {
    pub(crate) fn new(status: u16, code: u32, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    /// 400004, the family of arguments that are none.
    pub(crate) fn argument(message: impl Into<String>) -> Self {
        Self::new(400, 400_004, message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, 401_002, "Unauthorized")
    }

    /// A body that is told to be no JSON (DPS, troubleshooting).
    pub(crate) fn media_type() -> Self {
        Self::new(415, 415_000, "The content type must be application/json.")
    }

    pub(crate) fn forbidden(switches: &Switches) -> Self {
        Self::new(403, switches.forbidden_code, "The policy does not permit this operation.")
    }

    pub(crate) fn enrollment_not_found() -> Self {
        Self::new(404, 404_201, "Enrollment not found.")
    }

    pub(crate) fn group_not_found() -> Self {
        Self::new(404, 404_204, "Not Found.")
    }

    pub(crate) fn registration_not_found() -> Self {
        Self::new(404, 404_202, "Device registration not found.")
    }

    pub(crate) fn precondition_failed(switches: &Switches) -> Self {
        Self::new(412, switches.precondition_failed_code, "Precondition failed.")
    }

    pub(crate) fn throttled(retry_after: Option<Duration>) -> Self {
        let message = "Operations are being throttled for this tenant.";
        Self { retry_after, ..Self::new(429, 429_001, message) }
    }
}

/// How a hub wraps a refusal. There are three ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Envelope {
    /// `{"Message":"ErrorCode:Name;text","ExceptionMessage":"Tracking ID:…"}`: registry and twins.
    Registry,
    /// The same, with a JSON text in `Message`: direct methods.
    Nested,
    /// `{"errorCode":…,"message":…}`: modules.
    Bare,
}

/// What a hub can refuse with (IoT Hub, common error codes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[rustfmt::skip]
pub(crate) enum HubCode {
    InvalidProtocolVersion, ArgumentInvalid, ArgumentNull, IotHubFormatError, DeviceDefinedMultipleTimes,
    BulkRegistryOperationFailure, IotHubNotFound, IotHubUnauthorizedAccess, IotHubUnauthorized, DeviceNotFound,
    ModuleNotFound, DeviceNotOnline, DeviceAlreadyExists, ModuleAlreadyExistsOnDevice, PreconditionFailed,
    MessageTooLarge, TooManyDevices, ThrottlingBacklogTimeout, ServerError, ServiceUnavailable, GatewayTimeout,
}

impl HubCode {
    /// The number, whose first three digits are the HTTP status.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::InvalidProtocolVersion => 400_001,
            Self::ArgumentInvalid => 400_004,
            Self::ArgumentNull => 400_005,
            Self::IotHubFormatError => 400_006,
            Self::DeviceDefinedMultipleTimes => 400_011,
            Self::BulkRegistryOperationFailure => 400_013,
            Self::IotHubNotFound => 401_001,
            Self::IotHubUnauthorizedAccess => 401_002,
            Self::IotHubUnauthorized => 401_003,
            Self::DeviceNotFound => 404_001,
            Self::ModuleNotFound => 404_010,
            Self::DeviceNotOnline => 404_103,
            Self::DeviceAlreadyExists => 409_001,
            Self::ModuleAlreadyExistsOnDevice => 409_301,
            Self::PreconditionFailed => 412_001,
            Self::MessageTooLarge => 413_001,
            Self::TooManyDevices => 413_002,
            Self::ThrottlingBacklogTimeout => 429_003,
            Self::ServerError => 500_001,
            Self::ServiceUnavailable => 503_001,
            Self::GatewayTimeout => 504_101,
        }
    }

    pub(crate) fn status(self) -> u16 {
        // Six digits by the match above: the quotient has three.
        (self.number() / 1_000) as u16
    }

    /// The name in `iothub-errorcode` and in messages.
    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }

    /// The code of a number, for faults that are asked for by number.
    pub(crate) fn of_number(number: u32) -> Option<Self> {
        #[rustfmt::skip]
        const ALL: [HubCode; 21] = [
            HubCode::InvalidProtocolVersion, HubCode::ArgumentInvalid, HubCode::ArgumentNull,
            HubCode::IotHubFormatError, HubCode::DeviceDefinedMultipleTimes, HubCode::BulkRegistryOperationFailure,
            HubCode::IotHubNotFound, HubCode::IotHubUnauthorizedAccess, HubCode::IotHubUnauthorized,
            HubCode::DeviceNotFound, HubCode::ModuleNotFound, HubCode::DeviceNotOnline, HubCode::DeviceAlreadyExists,
            HubCode::ModuleAlreadyExistsOnDevice, HubCode::PreconditionFailed, HubCode::MessageTooLarge,
            HubCode::TooManyDevices, HubCode::ThrottlingBacklogTimeout, HubCode::ServerError,
            HubCode::ServiceUnavailable, HubCode::GatewayTimeout,
        ];
        ALL.into_iter().find(|code| code.number() == number)
    }
}

/// A refusal of a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HubRefusal {
    pub(crate) code: HubCode,
    pub(crate) message: String,
    pub(crate) envelope: Envelope,
    /// `info` of the nested envelope.
    pub(crate) timeout: Option<Duration>,
}

impl HubRefusal {
    pub(crate) fn new(code: HubCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), envelope: Envelope::Registry, timeout: None }
    }

    pub(crate) fn nested(code: HubCode, message: impl Into<String>) -> Self {
        Self { envelope: Envelope::Nested, ..Self::new(code, message) }
    }

    pub(crate) fn argument(message: impl Into<String>) -> Self {
        Self::new(HubCode::ArgumentInvalid, message)
    }

    pub(crate) fn device_not_found(id: &str) -> Self {
        Self::new(HubCode::DeviceNotFound, id)
    }

    pub(crate) fn device_exists(id: &str) -> Self {
        Self::new(HubCode::DeviceAlreadyExists, format!("A device with ID '{id}' is already registered."))
    }

    pub(crate) fn stale() -> Self {
        Self::new(HubCode::PreconditionFailed, "PreconditionFailed, ETag may be invalid.")
    }

    pub(crate) fn unauthorized_access() -> Self {
        Self::new(HubCode::IotHubUnauthorizedAccess, "Unauthorized")
    }
}
