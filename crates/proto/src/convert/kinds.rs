//! Closed lists: states, statuses, tiers and the like.

use berth_core::reconcile::{Absence, DriftClass};
use berth_core::{EvidenceSource, ObjectKind, Origin, PlaceState, RepairRule, Status, Tier};

use crate::v1;

/// Ties the values of a core enum to those of its message enum, and reads numbers of the wire.
macro_rules! same {
    ($to:ident, $from:ident, $core:ident, $wire:ident, $what:literal: $($variant:ident = $message:ident),+ $(,)?) => {
        #[doc = concat!("The message's value of a ", $what, ".")]
        pub fn $to(value: $core) -> v1::$wire {
            match value {
                $($core::$variant => v1::$wire::$message,)+
            }
        }

        #[doc = concat!("Reads a ", $what, "; unspecified is `None`.")]
        ///
        /// # Errors
        /// A sentence that names the unknown number.
        pub fn $from(number: i32) -> Result<Option<$core>, String> {
            match known_kind::<v1::$wire>($what, number)? {
                $(v1::$wire::$message => Ok(Some($core::$variant)),)+
                #[allow(unreachable_patterns)]
                _ => Ok(None),
            }
        }
    };
}

/// Reads a number of a closed list.
///
/// # Errors
/// A sentence that names the unknown number.
pub fn known_kind<E: TryFrom<i32>>(what: &str, number: i32) -> Result<E, String> {
    E::try_from(number)
        .map_err(|_| format!("{number} is not a known {what}; the caller may be newer than the server"))
}

same!(status_message, status_from, Status, MappingStatus, "mapping status":
    Unassigned = Unassigned, Enrolling = Enrolling, Assigned = Assigned, Disabled = Disabled, Failed = Failed);
same!(origin_message, origin_from, Origin, Origin, "origin":
    Imported = Imported, Placed = Placed, Adopted = Adopted, Migrated = Migrated);
same!(evidence_message, evidence_from, EvidenceSource, EvidenceSource, "evidence source":
    Import = Import, Dps = Dps, Gateway = Gateway, Hook = Hook, Operator = Operator);
same!(state_message, state_from, PlaceState, AcceptState, "state":
    Active = Active, Cordoned = Cordoned, Draining = Draining, Offline = Offline);
same!(tier_message, tier_from, Tier, HubTier, "hub tier":
    Unknown = Unspecified, F1 = F1, B1 = B1, B2 = B2, B3 = B3, S1 = S1, S2 = S2, S3 = S3);
same!(drift_message, drift_from, DriftClass, DriftClass, "drift class":
    Missing = Missing, WrongHub = WrongHub, Pending = Pending, Duplicate = Duplicate, Disabled = Disabled,
    Orphan = Orphan, HubUnknown = HubUnknown, HubNotLinked = HubNotLinked);
same!(absence_message, absence_from, Absence, NegativeKind, "reason for no hub":
    Unknown = Unknown, Unassigned = Unassigned, Enrolling = Enrolling, Disabled = Disabled, Failed = Failed,
    Missing = Missing);
same!(repair_message, repair_from, RepairRule, RepairRule, "repair rule": Adopt = Adopt, Enforce = Enforce);

/// The message's value of a kind of object; devices are not of the topology.
pub fn kind_message(kind: ObjectKind) -> v1::TopologyKind {
    match kind {
        ObjectKind::Stamp => v1::TopologyKind::Stamp,
        ObjectKind::Hub => v1::TopologyKind::Hub,
        ObjectKind::Scope => v1::TopologyKind::Scope,
        ObjectKind::Route => v1::TopologyKind::Route,
        ObjectKind::Device => v1::TopologyKind::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_comes_back() {
        for status in Status::ALL {
            assert_eq!(status_from(status_message(*status) as i32), Ok(Some(*status)));
        }
        for origin in Origin::ALL {
            assert_eq!(origin_from(origin_message(*origin) as i32), Ok(Some(*origin)));
        }
        for source in EvidenceSource::ALL {
            assert_eq!(evidence_from(evidence_message(*source) as i32), Ok(Some(*source)));
        }
        for state in PlaceState::ALL {
            assert_eq!(state_from(state_message(*state) as i32), Ok(Some(*state)));
        }
        for tier in Tier::ALL {
            assert_eq!(tier_from(tier_message(*tier) as i32), Ok(Some(*tier)));
        }
        for class in DriftClass::ALL {
            assert_eq!(drift_from(drift_message(*class) as i32), Ok(Some(*class)));
        }
        assert_eq!(absence_from(absence_message(Absence::Missing) as i32), Ok(Some(Absence::Missing)));
        assert_eq!(status_from(0), Ok(None));
        assert!(status_from(99).unwrap_err().contains("99"));
    }
}
