//! Which hub a device gets that DPS asks about while it registers: a pure decision over one revision.
//!
//! Whoever asks does not choose, and whoever answers has nothing left to choose: a device that the directory has keeps
//! its hub, a newcomer gets one by a command that has to be committed before it is told, and all else is refused.

use crate::placement::{PlacementRequest, suggest};
use crate::reconcile::{Drift, DriftClass, Side};
use crate::{
    Assign, DeviceId, EvidenceSource, HubName, HubNo, Labels, Mapping, Origin, Precondition, Registration,
    RegistrationId, Scope, ScopeName, Status, View,
};

/// Most hubs among which DPS lets a device be allocated: it links 50 (DPS, quotas and limits), and twice that is room
/// for the day when it links more.
pub const LINKED_HUBS_MAX: usize = 100;

/// What DPS asks (DPS, custom allocation policies), and of which instance it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocationRequest {
    /// The instance that asks.
    pub scope: ScopeName,
    /// Who registers.
    pub registration: RegistrationId,
    /// What the device will be called at its hub, where that is said; else as it registers.
    pub device: Option<DeviceId>,
    /// The hubs that DPS can assign it to; no other may be answered.
    pub linked_hubs: Vec<HubName>,
    /// The hub that DPS has assigned it to before.
    pub current_hub: Option<HubName>,
    /// Labels that a newcomer's stamp must have.
    pub stamp_labels: Labels,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allocation {
    /// The device has this hub, and keeps it.
    Held {
        /// The device, as the directory calls it.
        device: DeviceId,
        /// Its hub.
        hub: HubName,
    },
    /// The device gets a hub by this command. Its precondition is set: of two who ask at once one writes, and the other
    /// has to look again.
    Place {
        /// The hub.
        hub: HubName,
        /// The command, to be committed before the hub is told.
        assign: Box<Assign>,
    },
}

/// Why no hub is answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAllocation {
    /// The instance that asks is not in the topology.
    #[error("scope `{0}` is not known; add it to the topology, or correct it in the webhook's URL")]
    ScopeUnknown(ScopeName),
    /// None of the linked hubs is in the topology, or none of those is linked to the scope there.
    #[error(
        "none of the linked hubs ({hubs}) is one that the directory links to the scope; add them to the topology"
    )]
    HubsUnknown {
        /// The device.
        device: DeviceId,
        /// The linked hubs.
        hubs: String,
        /// What disagrees.
        drift: Box<Drift>,
    },
    /// The hub of the device is not among the linked ones.
    #[error(
        "device `{device}` is on hub `{hub}`, which is not among the linked hubs of its enrollment; link it, or move the device"
    )]
    HubNotLinked {
        /// The device.
        device: DeviceId,
        /// Its hub.
        hub: HubName,
        /// What disagrees.
        drift: Box<Drift>,
    },
    /// The directory has the registration under another device ID, or the device under another registration or scope.
    #[error(
        "the directory has device `{device}` under another scope, registration ID or device ID; one of the two has to be removed"
    )]
    Duplicate {
        /// The device, as the directory has it.
        device: DeviceId,
        /// What disagrees.
        drift: Box<Drift>,
    },
    /// No hub takes a newcomer.
    #[error(
        "none of the linked hubs takes device `{device}`: each is full, cordoned, or in a stamp without the labels asked for; raise a capacity, or uncordon one"
    )]
    NoRoom {
        /// The device.
        device: DeviceId,
    },
}

impl NoAllocation {
    /// The device and the disagreement with Azure that was found, where there is one.
    pub fn drift(&self) -> Option<(&DeviceId, &Drift)> {
        match self {
            Self::HubsUnknown { device, drift, .. }
            | Self::HubNotLinked { device, drift, .. }
            | Self::Duplicate { device, drift } => Some((device, drift)),
            Self::ScopeUnknown(_) | Self::NoRoom { .. } => None,
        }
    }
}

/// Most hubs that a refusal names.
const NAMED_MAX: usize = 4;

/// What follows from what DPS asks.
///
/// # Errors
/// [`NoAllocation`] says why no hub is answered.
pub fn allocate(view: &impl View, request: &AllocationRequest) -> Result<Allocation, NoAllocation> {
    let Some(scope) = view.topology().scope_named(&request.scope) else {
        return Err(NoAllocation::ScopeUnknown(request.scope.clone()));
    };
    let ask = Ask { view, request, scope };
    if let Some(device) = view.registration(scope.no, &request.registration) {
        let Some(mapping) = view.device(&device) else { return ask.place(device, None) };
        return match &request.device {
            // What the hub calls it is case-sensitive, unlike the registration ID.
            Some(told) if *told != device => Err(ask.duplicate(device, &mapping)),
            _ => ask.known(device, &mapping),
        };
    }
    let device = match &request.device {
        Some(told) => told.clone(),
        None => DeviceId::from(&request.registration),
    };
    match view.device(&device) {
        None => ask.place(device, None),
        Some(mapping) => match mapping.scope {
            Some(held) if held != scope.no || mapping.registration != Registration::None => {
                Err(ask.duplicate(device, &mapping))
            }
            _ => ask.known(device, &mapping),
        },
    }
}

struct Ask<'a, V> {
    view: &'a V,
    request: &'a AllocationRequest,
    scope: &'a Scope,
}

impl<V: View> Ask<'_, V> {
    fn known(&self, device: DeviceId, mapping: &Mapping) -> Result<Allocation, NoAllocation> {
        let hub = mapping.hub.and_then(|no| self.view.topology().hub(no)).map(|hub| hub.name.clone());
        match hub {
            Some(hub) if self.request.linked_hubs.contains(&hub) => Ok(Allocation::Held { device, hub }),
            Some(hub) => {
                let drift = self.difference(DriftClass::HubNotLinked, Some(mapping));
                Err(NoAllocation::HubNotLinked { device, hub, drift })
            }
            None => self.place(device, Some(mapping)),
        }
    }

    /// Gives a hub to a device that has none.
    fn place(&self, device: DeviceId, mapping: Option<&Mapping>) -> Result<Allocation, NoAllocation> {
        let request = self.request;
        let topology = self.view.topology();
        let linked: Vec<HubNo> = request
            .linked_hubs
            .iter()
            .filter_map(|name| topology.hub_named(name))
            .map(|hub| hub.no)
            .filter(|no| self.scope.linked_hubs.contains(no))
            .collect();
        if linked.is_empty() {
            let hubs: Vec<&str> = request.linked_hubs.iter().take(NAMED_MAX).map(HubName::as_str).collect();
            let drift = self.difference(DriftClass::HubUnknown, mapping);
            return Err(NoAllocation::HubsUnknown { device, hubs: hubs.join(", "), drift });
        }
        let wanted = PlacementRequest {
            seats: 1,
            stamp_labels: request.stamp_labels.clone(),
            scope: Some(self.scope.name.clone()),
        };
        let fitting = suggest(self.view, &wanted).unwrap_or_default();
        let mut fitting = fitting.into_iter().map(|found| found.hub).filter(|no| linked.contains(no));
        // A move would cost the device what waits for it at its hub: it stays where DPS has it, if that has room.
        let current =
            request.current_hub.as_ref().and_then(|name| topology.hub_named(name)).map(|hub| hub.no);
        let best = fitting.next();
        let stays = current.filter(|no| best == current || fitting.any(|fits| fits == *no));
        let Some(hub) = stays.or(best).and_then(|no| topology.hub(no)) else {
            return Err(NoAllocation::NoRoom { device });
        };
        let has_registration = mapping.is_some_and(|m| m.registration != Registration::None);
        let assign = Assign {
            device,
            hub: Some(hub.name.clone()),
            status: Some(Status::Enrolling),
            labels: None,
            scope: Some(self.scope.name.clone()),
            registration: (!has_registration).then(|| request.registration.clone()),
            precondition: mapping.map_or(Precondition::Absent, |m| Precondition::Epoch(m.epoch)),
            origin: Origin::Placed,
            evidence: EvidenceSource::Hook,
        };
        Ok(Allocation::Place { hub: hub.name.clone(), assign: Box::new(assign) })
    }

    fn duplicate(&self, device: DeviceId, mapping: &Mapping) -> NoAllocation {
        NoAllocation::Duplicate { device, drift: self.difference(DriftClass::Duplicate, Some(mapping)) }
    }

    fn difference(&self, class: DriftClass, mapping: Option<&Mapping>) -> Box<Drift> {
        let hub = mapping.and_then(|m| m.hub).and_then(|no| self.view.topology().hub(no));
        let ours = Side { hub: hub.map(|hub| hub.name.clone()), status: mapping.map(|m| m.status) };
        // What DPS would have it on: where it has it, or the first it may be on.
        let hub = self.request.current_hub.as_ref().or(self.request.linked_hubs.first());
        let theirs = Side { hub: hub.cloned(), status: Some(Status::Enrolling) };
        Box::new(Drift { class, ours, theirs })
    }
}
