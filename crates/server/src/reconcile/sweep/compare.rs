//! Which rows of a listing, and which devices without a row, are worth a question. Nothing else follows from them.

use berth_core::reconcile::RegistrationSeen;
use berth_core::{
    DeviceId, EvidenceSource, HubNo, Mapping, Origin, Registration, RegistrationId, Scope, Status,
};
use berth_core::{ScopeNo, Topology};

use super::super::listing::{EnrollmentRow, IdentityRow};
use super::seen::{Listed, Seen};

/// How long a placement may wait for its device to register before it is released, in milliseconds.
pub const PLACEMENT_WAITS_MS: u64 = 24 * 3_600_000;

/// A device that may be in disagreement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suspect {
    /// The directory has it: compare it.
    Known(DeviceId),
    /// A hub has an identity of it, and the directory has it elsewhere or not at all.
    At(DeviceId, HubNo),
    /// DPS has given it a hub, and the directory does not have it.
    Registered(DeviceId, RegistrationId, ScopeNo),
    /// A placement that waits for its device.
    Placed(DeviceId),
    /// Its enrollment is disabled, and the directory has it as one that may connect.
    Barred(DeviceId),
}

impl Suspect {
    /// The device.
    pub fn device(&self) -> &DeviceId {
        match self {
            Self::Known(device)
            | Self::At(device, _)
            | Self::Registered(device, ..)
            | Self::Placed(device)
            | Self::Barred(device) => device,
        }
    }
}

/// What an enrollment says against the mapping of its device.
pub fn enrollment(
    topology: &Topology,
    scope: &Scope,
    row: &EnrollmentRow,
    mapping: Option<&Mapping>,
) -> Option<Suspect> {
    if let Some(seen) = &row.seen {
        return registration(topology, scope, &row.registration, seen, &row.device, mapping);
    }
    // Whether a device that the directory lacks has a hub is for the hubs to show.
    let mapping = mapping?;
    let is_ours = mapping.scope == Some(scope.no);
    let contradicts = row.is_disabled && mapping.status == Status::Assigned;
    (is_ours && contradicts).then(|| Suspect::Barred(row.device.clone()))
}

/// What the record of a registration says against the mapping of its device.
pub fn registration(
    topology: &Topology,
    scope: &Scope,
    registration: &RegistrationId,
    seen: &RegistrationSeen,
    enrolled: &DeviceId,
    mapping: Option<&Mapping>,
) -> Option<Suspect> {
    let device = match seen {
        RegistrationSeen::Assigned { device, .. } => device,
        _ => enrolled,
    };
    let Some(mapping) = mapping else {
        let has_hub = matches!(seen, RegistrationSeen::Assigned { .. });
        return has_hub.then(|| Suspect::Registered(device.clone(), registration.clone(), scope.no));
    };
    let known = || Some(Suspect::Known(device.clone()));
    if mapping.scope != Some(scope.no) {
        // Another scope answers for it; what this one made of it, hubs show.
        return None;
    }
    match seen {
        RegistrationSeen::Assigned { hub, .. } => {
            let named = topology.hub_named(hub).map(|hub| hub.no);
            let agrees = named.is_some() && named == mapping.hub;
            // That a device is disabled in the very hub, the hub shows.
            let is_there = matches!(mapping.status, Status::Assigned | Status::Disabled);
            if agrees && is_there { None } else { known() }
        }
        RegistrationSeen::Disabled if mapping.status == Status::Disabled => None,
        RegistrationSeen::Assigning if mapping.status == Status::Enrolling => None,
        RegistrationSeen::Unassigned if matches!(mapping.status, Status::Unassigned | Status::Enrolling) => {
            None
        }
        RegistrationSeen::Failed { .. } if mapping.status == Status::Failed => None,
        _ => known(),
    }
}

/// What an identity in a hub says against the mapping of its device.
pub fn identity(hub: HubNo, row: &IdentityRow, mapping: Option<&Mapping>) -> Option<Suspect> {
    let device = || row.device.clone();
    let Some(mapping) = mapping.filter(|mapping| mapping.hub == Some(hub)) else {
        return Some(Suspect::At(device(), hub));
    };
    let agrees = match mapping.status {
        Status::Assigned => row.is_enabled,
        Status::Disabled => !row.is_enabled,
        Status::Unassigned | Status::Enrolling | Status::Failed => false,
    };
    (!agrees).then(|| Suspect::Known(device()))
}

/// What it says of a mapping that places which were listed to their end did not show it.
pub fn unseen(seen: &Seen, device: &DeviceId, mapping: &Mapping, now_ms: u64) -> Option<Suspect> {
    let registration = match &mapping.registration {
        Registration::Explicit(id) => Some(id.clone()),
        Registration::SameAsDevice => device.as_registration(),
        Registration::None => None,
    };
    let lacks_scope = mapping
        .scope
        .zip(registration)
        .is_some_and(|(scope, id)| seen.lacks(Listed::Scope(scope), &id.folded()));
    let lacks_hub = mapping.hub.is_some_and(|hub| seen.lacks(Listed::Hub(hub), device.as_str()));
    match mapping.status {
        Status::Assigned | Status::Disabled => {
            (lacks_scope || lacks_hub).then(|| Suspect::Known(device.clone()))
        }
        // These have no identity before their device registers, and those of a group no record either.
        Status::Unassigned | Status::Failed => None,
        Status::Enrolling => {
            (lacks_hub && waits_too_long(mapping, now_ms)).then(|| Suspect::Placed(device.clone()))
        }
    }
}

/// Whether a placement of the allocation hook has waited for its device for longer than it may.
pub fn waits_too_long(mapping: &Mapping, now_ms: u64) -> bool {
    let is_placement = (mapping.status, mapping.origin, mapping.evidence.source)
        == (Status::Enrolling, Origin::Placed, EvidenceSource::Hook);
    is_placement && now_ms.saturating_sub(mapping.evidence.at.0) > PLACEMENT_WAITS_MS
}
