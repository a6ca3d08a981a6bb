//! The rule itself.

use super::{
    Absence, Case, Drift, DriftClass, IdentitySeen, NEWER_BY_MS, REMEMBER_ASSIGNING_MS, REMEMBER_NEGATIVE_MS,
    RegistrationSeen, Side, Verdict, Why,
};
use crate::{
    Assign, DeviceId, EvidenceSource, HubName, HubNo, Mapping, Origin, Precondition, RepairRule, Status,
    Timestamp, Topology,
};

/// What follows from a case.
pub fn judge(topology: &Topology, case: &Case<'_>) -> Verdict {
    match case.mapping {
        Some(mapping) => Known { topology, case, mapping }.judge(),
        None => newcomer(topology, case),
    }
}

/// A device that the directory has.
struct Known<'a> {
    topology: &'a Topology,
    case: &'a Case<'a>,
    mapping: &'a Mapping,
}

impl Known<'_> {
    fn judge(&self) -> Verdict {
        match self.case.registration {
            RegistrationSeen::Assigned { hub, device, updated } => self.assigned(hub, device, *updated),
            RegistrationSeen::Assigning => self.without_hub(Status::Enrolling, Absence::Enrolling, None),
            RegistrationSeen::Unassigned => self.without_hub(Status::Unassigned, Absence::Unassigned, None),
            RegistrationSeen::Failed { updated }
                if self.mapping.status == Status::Failed || self.is_newer(*updated) =>
            {
                self.without_hub(Status::Failed, Absence::Failed, *updated)
            }
            RegistrationSeen::Failed { .. } => self.drift(DriftClass::Pending, None, Some(Status::Failed)),
            RegistrationSeen::Disabled => match self.mapping.hub {
                Some(hub) => self.at_hub(hub, true),
                None => self.without_hub(Status::Disabled, Absence::Disabled, None),
            },
            RegistrationSeen::NotEnrolled => Verdict::Negative {
                kind: Absence::Unknown,
                remember_ms: REMEMBER_NEGATIVE_MS,
                drift: Some(self.difference(DriftClass::Orphan, None, None)),
            },
        }
    }

    fn assigned(&self, hub: &HubName, device: &DeviceId, updated: Option<Timestamp>) -> Verdict {
        let drift = |class| self.drift(class, Some(hub), Some(Status::Assigned));
        if device != self.case.device {
            return drift(DriftClass::Duplicate);
        }
        let Some(found) = self.topology.hub_named(hub) else { return drift(DriftClass::HubUnknown) };
        if self.mapping.hub == Some(found.no) {
            return self.at_hub(found.no, false);
        }
        if !self.case.scope.linked_hubs.contains(&found.no) {
            return drift(DriftClass::HubNotLinked);
        }
        // A device without a hub has nothing that an old answer could undo.
        if self.mapping.hub.is_some() && !self.knows_better(updated) {
            return drift(DriftClass::Pending);
        }
        if self.case.scope.repair == RepairRule::Enforce {
            return drift(DriftClass::WrongHub);
        }
        self.write(Some(hub), Status::Assigned, EvidenceSource::Dps)
    }

    /// The hub that we name is the one to ask: DPS names it too, or has disabled the enrollment.
    fn at_hub(&self, hub: HubNo, is_barred: bool) -> Verdict {
        // What a hub said at a gateway's instance is the gateway's evidence, confirmed.
        let evidence = match self.case.why {
            Why::Report => EvidenceSource::Gateway,
            Why::ReadThrough | Why::Sweep => EvidenceSource::Dps,
        };
        match self.case.identity {
            None => Verdict::AskIdentity(hub),
            Some(IdentitySeen::Missing) => Verdict::Negative {
                kind: Absence::Missing,
                remember_ms: REMEMBER_NEGATIVE_MS,
                drift: Some(self.difference(DriftClass::Missing, None, None)),
            },
            Some(IdentitySeen::Disabled) if self.mapping.status == Status::Disabled => {
                self.negative(Absence::Disabled, REMEMBER_NEGATIVE_MS)
            }
            Some(IdentitySeen::Disabled) => self.write(None, Status::Disabled, evidence),
            // Who has taken the enrollment's word for the device agrees with it.
            Some(IdentitySeen::Enabled) if is_barred && self.mapping.status == Status::Disabled => {
                self.negative(Absence::Disabled, REMEMBER_NEGATIVE_MS)
            }
            Some(IdentitySeen::Enabled) if is_barred => {
                self.drift(DriftClass::Disabled, None, Some(Status::Disabled))
            }
            Some(IdentitySeen::Enabled) if self.mapping.status == Status::Assigned => Verdict::Confirmed,
            Some(IdentitySeen::Enabled) => self.write(None, Status::Assigned, evidence),
        }
    }

    /// DPS says that there is no hub to call now. The hub's seat stays with the device.
    fn without_hub(&self, status: Status, kind: Absence, updated: Option<Timestamp>) -> Verdict {
        let is_assigning = status == Status::Enrolling;
        let remember_ms = if is_assigning { REMEMBER_ASSIGNING_MS } else { REMEMBER_NEGATIVE_MS };
        if self.mapping.status == status {
            return self.negative(kind, remember_ms);
        }
        // Somebody put the device on its hub, and DPS's word is not known to be from later: it is told, not written.
        if self.mapping.hub.is_some() && !self.knows_better(updated) {
            let drift = (!is_assigning).then(|| self.difference(DriftClass::Pending, None, Some(status)));
            return Verdict::Negative { kind, remember_ms, drift };
        }
        self.write(None, status, EvidenceSource::Dps)
    }

    /// Whether DPS's word on the hub goes before ours.
    fn knows_better(&self, updated: Option<Timestamp>) -> bool {
        let is_hearsay = matches!(self.mapping.evidence.source, EvidenceSource::Import | EvidenceSource::Dps);
        is_hearsay || self.is_newer(updated)
    }

    /// Whether DPS's word is from later than our last change. A time from the future says that the clocks differ by
    /// more than the margin, so that nothing follows from it.
    fn is_newer(&self, updated: Option<Timestamp>) -> bool {
        let changed = self.mapping.evidence.at.0;
        let from_future = self.case.now.0.saturating_add(NEWER_BY_MS);
        updated.is_some_and(|at| at.0 > changed.saturating_add(NEWER_BY_MS) && at.0 <= from_future)
    }

    fn write(&self, hub: Option<&HubName>, status: Status, evidence: EvidenceSource) -> Verdict {
        Verdict::Write(Box::new(Assign {
            device: self.case.device.clone(),
            hub: hub.cloned(),
            status: Some(status),
            labels: None,
            scope: None,
            registration: None,
            precondition: Precondition::Epoch(self.mapping.epoch),
            origin: if hub.is_some() { Origin::Adopted } else { self.mapping.origin },
            evidence,
        }))
    }

    fn negative(&self, kind: Absence, remember_ms: u64) -> Verdict {
        Verdict::Negative { kind, remember_ms, drift: None }
    }

    fn drift(&self, class: DriftClass, hub: Option<&HubName>, status: Option<Status>) -> Verdict {
        Verdict::Drift(self.difference(class, hub, status))
    }

    fn difference(&self, class: DriftClass, hub: Option<&HubName>, status: Option<Status>) -> Drift {
        let hub_of_ours = self.mapping.hub.and_then(|no| self.topology.hub(no));
        let ours = Side { hub: hub_of_ours.map(|hub| hub.name.clone()), status: Some(self.mapping.status) };
        Drift { class, ours, theirs: Side { hub: hub.cloned(), status } }
    }
}

/// A device that the directory does not have: only one with a hub is taken in.
fn newcomer(topology: &Topology, case: &Case<'_>) -> Verdict {
    let negative = |kind, remember_ms| Verdict::Negative { kind, remember_ms, drift: None };
    match case.registration {
        RegistrationSeen::Assigned { hub, device, .. } => {
            let drift = |class| {
                let theirs = Side { hub: Some(hub.clone()), status: Some(Status::Assigned) };
                Verdict::Drift(Drift { class, ours: Side::default(), theirs })
            };
            if device != case.device {
                // Somebody else's registration says nothing of this device.
                return negative(Absence::Unknown, REMEMBER_NEGATIVE_MS);
            }
            let Some(found) = topology.hub_named(hub) else { return drift(DriftClass::HubUnknown) };
            if !case.scope.linked_hubs.contains(&found.no) {
                return drift(DriftClass::HubNotLinked);
            }
            Verdict::Write(Box::new(Assign {
                device: case.device.clone(),
                hub: Some(hub.clone()),
                status: Some(Status::Assigned),
                labels: None,
                scope: Some(case.scope.name.clone()),
                registration: None,
                precondition: Precondition::Absent,
                origin: Origin::Adopted,
                evidence: EvidenceSource::Dps,
            }))
        }
        RegistrationSeen::Assigning => negative(Absence::Enrolling, REMEMBER_ASSIGNING_MS),
        RegistrationSeen::Unassigned => negative(Absence::Unassigned, REMEMBER_NEGATIVE_MS),
        RegistrationSeen::Disabled => negative(Absence::Disabled, REMEMBER_NEGATIVE_MS),
        RegistrationSeen::Failed { .. } => negative(Absence::Failed, REMEMBER_NEGATIVE_MS),
        RegistrationSeen::NotEnrolled => negative(Absence::Unknown, REMEMBER_NEGATIVE_MS),
    }
}
