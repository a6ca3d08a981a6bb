//! What callers ask for, in the order of the log.

use crate::topology::edit::TopologyEdit;
use crate::{
    DeviceId, Epoch, EvidenceSource, HubName, Labels, Origin, RegistrationId, RequestId, ScopeName, Status,
};

/// Most devices of one batch command: what one entry of the log may carry.
pub const BATCH_DEVICES_MAX: usize = 10_000;

/// A command with its envelope: who asked, why, and under which identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Identity of the write; a repeat gets the first outcome. Without one, nothing is remembered.
    pub request_id: Option<RequestId>,
    /// Hash of the command's bytes, to tell a repeat from another command under the same ID.
    pub payload_hash: u128,
    /// Who asked.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// What.
    pub command: Command,
}

/// A change to the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Create or change one device.
    Assign(Assign),
    /// Create or change up to [`BATCH_DEVICES_MAX`] devices: all or nothing, one revision.
    BatchAssign(Vec<Assign>),
    /// Remove one device.
    Remove(Remove),
    /// Change stamps, hubs, scopes and routes: diff and write in one command.
    Topology(TopologyEdit),
}

/// What must hold for a command to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// The device is not in the directory.
    Absent,
    /// The device is in the directory at exactly this epoch.
    Epoch(Epoch),
}

/// Create a device, or change the given fields of one; fields left out stay as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assign {
    /// The device.
    pub device: DeviceId,
    /// Its hub; left out: unchanged, or none for a new device.
    pub hub: Option<HubName>,
    /// Its status; left out: `ASSIGNED` once it has a hub, but a disabled device stays disabled.
    pub status: Option<Status>,
    /// Its labels, as a whole.
    pub labels: Option<Labels>,
    /// Its DPS instance. A device changes its scope only through remove and create.
    pub scope: Option<ScopeName>,
    /// Its identity in that scope; left out for a new device: its device ID, where DPS's alphabet allows it.
    pub registration: Option<RegistrationId>,
    /// What must hold.
    pub precondition: Precondition,
    /// How the mapping comes to be.
    pub origin: Origin,
    /// Who vouches for it. Where an observer ([`EvidenceSource::observes`]) changes the status of a device that stays on
    /// its hub, whoever vouched for the hub still does, since the same time.
    pub evidence: EvidenceSource,
}

/// Remove a device from the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remove {
    /// The device.
    pub device: DeviceId,
    /// What must hold.
    pub precondition: Precondition,
}
