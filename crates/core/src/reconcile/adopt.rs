//! Taking Azure's side of a drift because somebody says so.

use super::{Drift, DriftClass};
use crate::{Assign, DeviceId, EvidenceSource, Mapping, Origin, Precondition};

impl Drift {
    /// Whether Azure's side is one that the directory could take.
    pub fn is_adoptable(&self) -> bool {
        let says_where =
            matches!(self.class, DriftClass::WrongHub | DriftClass::Pending | DriftClass::Disabled);
        says_where && self.theirs.status.is_some()
    }

    /// Whether DPS could be made to name our hub: it names another one.
    pub fn is_enforceable(&self) -> bool {
        let names_other = matches!(
            self.class,
            DriftClass::WrongHub | DriftClass::Pending | DriftClass::HubUnknown | DriftClass::HubNotLinked
        );
        names_other && self.ours.hub.is_some() && self.theirs.hub.is_some()
    }
}

/// The command by which the directory takes Azure's side, at the epoch of this mapping. `None` where Azure names nothing
/// that a mapping could say: a hub that the directory or the scope does not have, another device, or nothing at all. What
/// is to become of such a device is for its operator to say, by an assignment or a removal.
pub fn adopt(device: &DeviceId, mapping: &Mapping, drift: &Drift) -> Option<Assign> {
    if !drift.is_adoptable() {
        return None;
    }
    let (hub, status) = (drift.theirs.hub.clone(), drift.theirs.status?);
    Some(Assign {
        device: device.clone(),
        origin: if hub.is_some() { Origin::Adopted } else { mapping.origin },
        hub,
        status: Some(status),
        labels: None,
        scope: None,
        registration: None,
        precondition: Precondition::Epoch(mapping.epoch),
        evidence: EvidenceSource::Dps,
    })
}
