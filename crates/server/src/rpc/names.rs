//! Finding what a caller names.

use std::time::Duration;

use berth_core::{
    DeviceId, HubName, HubNo, Mapping, ObjectKind, RegistrationId, Rejection, ScopeName, ScopeNo, StampName,
    StampNo, Status,
};
use berth_proto::error::ApiError;
use berth_proto::v1::{NegativeKind, RegistrationRef};
use berth_store::machine::Snapshot;

use crate::directory::data_loss;

/// An unknown or unassigned device may turn up with the next import: a caller should ask again soon.
const REMEMBER_ABSENT: Duration = Duration::from_secs(5);
/// A device that is being assigned is there within seconds.
const REMEMBER_ENROLLING: Duration = Duration::from_secs(1);
/// Disabled and failed devices wait for people.
const REMEMBER_DISABLED: Duration = Duration::from_secs(30);

/// A device, by one of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    Device(DeviceId),
    Registration { id: RegistrationId, scope: Option<ScopeName> },
}

/// A device that was looked for.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The device ID, or the registration ID where no device has it.
    pub(super) name: String,
    pub(super) mapping: Option<Mapping>,
}

impl Named {
    pub(super) fn device(text: &str) -> Result<Self, ApiError> {
        DeviceId::parse(text).map(Self::Device).map_err(|error| ApiError::invalid("device_id", error))
    }

    pub(super) fn registration(message: &RegistrationRef) -> Result<Self, ApiError> {
        let id = RegistrationId::parse(&message.registration_id)
            .map_err(|error| ApiError::invalid("registration.registration_id", error))?;
        let scope = match message.scope.as_str() {
            "" => None,
            text => {
                Some(ScopeName::parse(text).map_err(|error| ApiError::invalid("registration.scope", error))?)
            }
        };
        Ok(Self::Registration { id, scope })
    }

    /// Looks for the device.
    pub(super) fn find(&self, snapshot: &Snapshot) -> Result<Found, ApiError> {
        match self {
            Self::Device(id) => {
                let mapping = snapshot.device(id).map_err(|damage| data_loss(&damage))?;
                Ok(Found { name: id.to_string(), mapping })
            }
            Self::Registration { id, scope } => {
                let scope = scope.as_ref().map(|name| scope_no(snapshot, name)).transpose()?;
                let mut found = snapshot.registered(id, scope).map_err(|damage| data_loss(&damage))?;
                match (found.pop(), found.is_empty()) {
                    (None, _) => Ok(Found { name: id.to_string(), mapping: None }),
                    (Some((_, device, mapping)), true) => {
                        Ok(Found { name: device.to_string(), mapping: Some(mapping) })
                    }
                    (Some(last), false) => {
                        Err(ambiguous(snapshot, id, found.iter().chain([&last]).map(|f| f.0)))
                    }
                }
            }
        }
    }

    /// The error that says that nothing has this name.
    pub(super) fn unknown(&self) -> ApiError {
        match self {
            Self::Device(id) => Rejection::DeviceUnknown { device: id.to_string() }.into(),
            Self::Registration { id, scope } => ApiError::RegistrationUnknown {
                registration: id.to_string(),
                scope: scope.as_ref().map(ToString::to_string),
            },
        }
    }
}

fn ambiguous(snapshot: &Snapshot, id: &RegistrationId, scopes: impl Iterator<Item = ScopeNo>) -> ApiError {
    let name = |no| snapshot.topology().scope(no).map(|scope| scope.name.to_string());
    let mut scopes: Vec<String> = scopes.filter_map(name).collect();
    scopes.sort();
    ApiError::RegistrationAmbiguous { registration: id.to_string(), scopes }
}

/// Why there is no hub to call, and how long that may be remembered; `None` where there is one.
pub(super) fn negative(mapping: Option<&Mapping>) -> Option<(NegativeKind, Duration)> {
    match mapping.map(|mapping| mapping.status) {
        Some(Status::Assigned) => None,
        None => Some((NegativeKind::Unknown, REMEMBER_ABSENT)),
        Some(Status::Unassigned) => Some((NegativeKind::Unassigned, REMEMBER_ABSENT)),
        Some(Status::Enrolling) => Some((NegativeKind::Enrolling, REMEMBER_ENROLLING)),
        Some(Status::Disabled) => Some((NegativeKind::Disabled, REMEMBER_DISABLED)),
        Some(Status::Failed) => Some((NegativeKind::Failed, REMEMBER_DISABLED)),
    }
}

pub(super) fn hub_no(snapshot: &Snapshot, name: &HubName) -> Result<HubNo, ApiError> {
    let hub = snapshot.topology().hub_named(name);
    hub.map(|hub| hub.no).ok_or_else(|| unknown(ObjectKind::Hub, name))
}

pub(super) fn stamp_no(snapshot: &Snapshot, name: &StampName) -> Result<StampNo, ApiError> {
    let stamp = snapshot.topology().stamp_named(name);
    stamp.map(|stamp| stamp.no).ok_or_else(|| unknown(ObjectKind::Stamp, name))
}

pub(super) fn scope_no(snapshot: &Snapshot, name: &ScopeName) -> Result<ScopeNo, ApiError> {
    let scope = snapshot.topology().scope_named(name);
    scope.map(|scope| scope.no).ok_or_else(|| unknown(ObjectKind::Scope, name))
}

/// The error of a name that no object has.
pub(super) fn unknown(kind: ObjectKind, name: impl ToString) -> ApiError {
    Rejection::Unknown { kind, name: name.to_string() }.into()
}
