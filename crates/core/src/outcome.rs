//! What came of a command: an accepted outcome, or a refusal, both plain values.

use std::fmt;

use crate::{Epoch, HubName, PlaceState, Revision, Timestamp};

/// What an accepted command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// One device was created or changed.
    Assigned {
        /// The command's revision.
        revision: Revision,
        /// The mapping's epoch now.
        epoch: Epoch,
        /// True where the device is new.
        created: bool,
        /// True where hub or status changed (always, for a new device).
        moved: bool,
        /// Soft limits passed.
        over_soft: Vec<SoftLimit>,
    },
    /// A batch was written.
    BatchAssigned {
        /// The command's revision: created devices have it as their epoch.
        revision: Revision,
        /// Devices created.
        created: u32,
        /// Devices whose hub or status changed.
        moved: u32,
        /// Devices of which only labels, scope or registration changed.
        touched: u32,
        /// Devices that were as asked already.
        unchanged: u32,
        /// Soft limits passed.
        over_soft: Vec<SoftLimit>,
    },
    /// A device was removed.
    Removed {
        /// The command's revision.
        revision: Revision,
        /// The epoch it had.
        epoch: Epoch,
    },
    /// The topology was edited.
    TopologyEdited {
        /// The command's revision.
        revision: Revision,
        /// Objects created, updated, deleted; unchanged ones are left out.
        diff: Vec<DiffEntry>,
        /// Places whose capacity now lies below their use.
        over: Vec<SoftLimit>,
    },
}

impl Outcome {
    /// The command's revision.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Assigned { revision, .. }
            | Self::BatchAssigned { revision, .. }
            | Self::Removed { revision, .. }
            | Self::TopologyEdited { revision, .. } => *revision,
        }
    }
}

/// A limit that was passed and reported rather than refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoftLimit {
    /// Kind of place.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
    /// Seats taken there now: devices and reservations.
    pub used: u64,
    /// The limit, in devices.
    pub limit: u64,
}

/// Kind of a topology object, or of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum ObjectKind {
    Stamp = 1,
    Hub = 2,
    Scope = 3,
    Route = 4,
    Device = 5,
}

impl ObjectKind {
    /// The kind numbered `byte`, where there is one.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Stamp, Self::Hub, Self::Scope, Self::Route, Self::Device]
            .into_iter()
            .find(|k| *k as u8 == byte)
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stamp => "stamp",
            Self::Hub => "hub",
            Self::Scope => "scope",
            Self::Route => "route",
            Self::Device => "device",
        })
    }
}

/// What happened to one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum DiffAction {
    Created = 1,
    Updated = 2,
    Deleted = 3,
}

impl DiffAction {
    /// The action numbered `byte`, where there is one.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Created, Self::Updated, Self::Deleted].into_iter().find(|a| *a as u8 == byte)
    }
}

/// One line of a topology diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiffEntry {
    /// Kind of object.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
    /// What happened to it.
    pub action: DiffAction,
    /// Which fields changed.
    pub fields: Vec<FieldChange>,
}

/// A field before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// Name of the field, as in a topology file.
    pub field: String,
    /// Value before; empty for a new object.
    pub before: String,
    /// Value after; empty for a deleted object.
    pub after: String,
}

/// The remembered outcome of an accepted request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Hash of the command's bytes.
    pub payload_hash: u128,
    /// What came of it. A long diff may be cut when it is kept.
    pub outcome: Outcome,
}

/// Why one item of a batch is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemRejection {
    /// Position in the batch, from 0.
    pub index: u32,
    /// Why.
    pub rejection: Rejection,
}

/// Why a command is refused. Every replica computes the same one; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The device is not in the directory.
    #[error(
        "device `{device}` is not in the directory; check the ID (it is case-sensitive) or assign it first"
    )]
    DeviceUnknown {
        /// The device.
        device: String,
    },
    /// The precondition asked for an absent device.
    #[error(
        "device `{device}` exists already at epoch {actual}; leave out the condition or name this epoch to change it"
    )]
    DeviceExists {
        /// The device.
        device: String,
        /// Its epoch.
        actual: Epoch,
    },
    /// The precondition named another epoch.
    #[error("device `{device}` is at epoch {actual}, not {expected}; look it up again and decide anew")]
    EpochMismatch {
        /// The device.
        device: String,
        /// The epoch asked for.
        expected: Epoch,
        /// The epoch it has.
        actual: Epoch,
    },
    /// A named stamp, hub, scope or route does not exist.
    #[error("{kind} `{name}` is not known; create it first or correct the name")]
    Unknown {
        /// Kind of object.
        kind: ObjectKind,
        /// The name.
        name: String,
    },
    /// An object to create exists.
    #[error("{kind} `{name}` exists already; update it instead")]
    Exists {
        /// Kind of object.
        kind: ObjectKind,
        /// The name.
        name: String,
    },
    /// The etag does not match.
    #[error(
        "{kind} `{name}` was last changed at revision {actual}, not {expected}; read it again and decide anew"
    )]
    EtagMismatch {
        /// Kind of object.
        kind: ObjectKind,
        /// The name.
        name: String,
        /// The revision asked for.
        expected: Revision,
        /// The revision of its last change.
        actual: Revision,
    },
    /// The hub or its stamp takes no newcomers.
    #[error(
        "hub `{hub}` takes no newcomers: the {kind} `{name}` is {state}; choose another hub or make it ACTIVE"
    )]
    Closed {
        /// The hub asked for.
        hub: HubName,
        /// Which of the two is closed.
        kind: ObjectKind,
        /// Its name.
        name: String,
        /// Its state.
        state: PlaceState,
    },
    /// The hard capacity would be passed.
    #[error(
        "{kind} `{name}` is full: {asked} more seats asked, {used} devices and {reserved} reserved of {hard}; raise its capacity or choose another hub"
    )]
    Full {
        /// Kind of place.
        kind: ObjectKind,
        /// Its name.
        name: String,
        /// Seats asked for.
        asked: u64,
        /// Devices there.
        used: u64,
        /// Seats reserved there.
        reserved: u64,
        /// The hard limit, in devices.
        hard: u64,
    },
    /// An assigned device needs a hub.
    #[error("device `{device}` cannot be ASSIGNED without a hub; name one")]
    HubRequired {
        /// The device.
        device: String,
    },
    /// A registration ID needs a scope.
    #[error("device `{device}` has a registration ID but no scope; name the scope it is registered in")]
    ScopeRequired {
        /// The device.
        device: String,
    },
    /// The device is held in another scope.
    #[error("device `{device}` belongs to scope `{held}`, not `{asked}`; remove it there first")]
    ScopeConflict {
        /// The device.
        device: String,
        /// The scope that holds it.
        held: String,
        /// The scope asked for.
        asked: String,
    },
    /// The registration ID names another device of the scope.
    #[error(
        "registration ID `{registration}` in scope `{scope}` belongs to device `{holder}`; a registration ID names one device"
    )]
    RegistrationTaken {
        /// The registration ID.
        registration: String,
        /// The scope.
        scope: String,
        /// The device that has it.
        holder: String,
    },
    /// Too many device IDs are equal up to letter case.
    #[error(
        "device `{device}` would be one of more than {max} devices whose IDs differ only in letter case; choose another ID"
    )]
    TooManyTwins {
        /// The device.
        device: String,
        /// Most such devices.
        max: u64,
    },
    /// A device stands twice in a batch.
    #[error(
        "device `{device}` stands in the batch twice, first at index {first}; a batch names each device once"
    )]
    DuplicateInBatch {
        /// The device.
        device: String,
        /// Where it stands first.
        first: u32,
    },
    /// Items of a batch are refused, so all of it is.
    #[error("{} of the batch's items are refused, the first at index {}: {}", .items.len(), .items.first().map_or(0, |i| i.index), .items.first().map_or_else(String::new, |i| i.rejection.to_string()))]
    Batch {
        /// The refused items, in order.
        items: Vec<ItemRejection>,
    },
    /// The batch is empty or too big.
    #[error("a batch of {count} devices; 1 to {max} are allowed")]
    BatchSize {
        /// Devices in the batch.
        count: u64,
        /// Most devices of one batch.
        max: u64,
    },
    /// There are as many label sets as can be numbered.
    #[error("no more label sets: 65,536 are in use; label `{key}` has the most values, {values}: use fewer")]
    LabelSetsFull {
        /// The key with the most values.
        key: String,
        /// How many values it has.
        values: u64,
    },
    /// A topology object has an illegal field.
    #[error("{kind} `{name}`: {problem}")]
    Invalid {
        /// Kind of object.
        kind: ObjectKind,
        /// Its name.
        name: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// A topology object is in use.
    #[error(
        "{kind} `{name}` is in use: {devices} devices, {reserved} reserved seats, {hubs} hubs, {routes} routes, {scopes} scopes; move or delete these first"
    )]
    InUse {
        /// Kind of object.
        kind: ObjectKind,
        /// Its name.
        name: String,
        /// Devices on it.
        devices: u64,
        /// Seats reserved on it.
        reserved: u64,
        /// Hubs in it.
        hubs: u64,
        /// Routes to it.
        routes: u64,
        /// Scopes linked to it.
        scopes: u64,
    },
    /// All internal numbers of a kind are given away.
    #[error(
        "no more {kind}s can be created: all internal numbers are used; rebuild the directory from an export"
    )]
    NumbersExhausted {
        /// Kind of object.
        kind: ObjectKind,
    },
    /// The request ID was used for another command.
    #[error(
        "request ID {request_id} was used for another command; a retry must repeat the same command, a new command needs a new ID"
    )]
    RequestIdReused {
        /// The request ID.
        request_id: String,
    },
    /// The request ID is too old to tell whether it was run.
    #[error(
        "request ID {request_id} is too old to tell whether it was run (made at {made} ms, replies are kept since {kept_since} ms); look up the result, then use a new ID"
    )]
    RequestIdExpired {
        /// The request ID.
        request_id: String,
        /// Time in the ID, milliseconds since the Unix epoch.
        made: Timestamp,
        /// Newest time whose reply may be forgotten, milliseconds since the Unix epoch.
        kept_since: Timestamp,
    },
    /// The request ID carries a time too far ahead of the leader's.
    #[error(
        "request ID {request_id} was made at {made} ms, ahead of the cluster's clock {now} ms; correct the caller's clock"
    )]
    RequestIdAhead {
        /// The request ID.
        request_id: String,
        /// Time in the ID, milliseconds since the Unix epoch.
        made: Timestamp,
        /// The leader's stamp, milliseconds since the Unix epoch.
        now: Timestamp,
    },
}
