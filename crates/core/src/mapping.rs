//! The fact that Berth exists for: which hub a device is on.

use crate::{Epoch, HubNo, LabelSetNo, RegistrationId, Revision, ScopeNo, Timestamp};

/// Where a device stands with its hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Status {
    /// Enrolled, never registered.
    Unassigned = 0,
    /// DPS says assigning, or Berth placed it and it has not registered yet.
    Enrolling = 1,
    /// On its hub.
    Assigned = 2,
    /// Its identity is disabled at the hub.
    Disabled = 3,
    /// Its registration failed.
    Failed = 4,
}

/// How a mapping came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Origin {
    /// From an export file.
    Imported = 0,
    /// By an operator, or by Berth's own placement.
    Placed = 1,
    /// Taken over from DPS.
    Adopted = 2,
    /// By a migration.
    Migrated = 3,
}

/// Who vouches for a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EvidenceSource {
    /// An import file.
    Import = 0,
    /// A DPS answer.
    Dps = 1,
    /// A gateway's report.
    Gateway = 2,
    /// The allocation hook.
    Hook = 3,
    /// A person or program through the API.
    Operator = 4,
}

macro_rules! from_byte {
    ($name:ident: $($variant:ident = $byte:literal),+) => {
        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The value numbered `byte`, where there is one.
            pub fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($byte => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}
from_byte!(Status: Unassigned = 0, Enrolling = 1, Assigned = 2, Disabled = 3, Failed = 4);
from_byte!(Origin: Imported = 0, Placed = 1, Adopted = 2, Migrated = 3);
from_byte!(EvidenceSource: Import = 0, Dps = 1, Gateway = 2, Hook = 3, Operator = 4);

impl EvidenceSource {
    /// Whether it tells what it saw, rather than decides where a device belongs.
    pub fn observes(self) -> bool {
        matches!(self, Self::Dps | Self::Gateway)
    }
}

/// Evidence of a mapping: who put the device on its hub and when, to the second. A status that was observed there leaves
/// it as it was, since it says nothing of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Evidence {
    /// Who vouches.
    pub source: EvidenceSource,
    /// When the command was stamped, in whole seconds.
    pub at: Timestamp,
}

/// The DPS identity of a device. Only devices in a scope have one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Registration {
    /// No registration ID: no scope, or an ID that DPS's alphabet cannot say.
    None,
    /// Equal to the device ID up to ASCII case; needs no row of its own.
    SameAsDevice,
    /// Another one, with a row in the registration table.
    Explicit(RegistrationId),
}

/// Device → hub, with all that a lookup answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The hub whose seat the device holds, whatever its status.
    pub hub: Option<HubNo>,
    /// Where it stands.
    pub status: Status,
    /// Fence: +1 per change of hub or status.
    pub epoch: Epoch,
    /// Revision of the last change of anything in this row.
    pub revision: Revision,
    /// How it came to be.
    pub origin: Origin,
    /// Who vouches for it.
    pub evidence: Evidence,
    /// The DPS instance it belongs to.
    pub scope: Option<ScopeNo>,
    /// Its identity there.
    pub registration: Registration,
    /// Its interned labels.
    pub labels: LabelSetNo,
}
