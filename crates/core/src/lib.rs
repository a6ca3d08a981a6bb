//! What is allowed, and what changes?
//!
//! The pure core of Berth: typed identifiers, the topology of stamps and hubs, mappings, commands, and the one
//! door by which state changes, [`decide`]. Nothing here knows a clock, randomness, I/O, threads or unordered
//! iteration: every replica that decides the same command on the same state computes the same [`Decision`].
//!
//! Refusals are values ([`Rejection`]); there is no error path in `decide`.

pub mod allocation;
pub mod capacity;
mod command;
mod decide;
mod delta;
mod id;
mod label;
mod mapping;
pub mod model;
mod number;
mod outcome;
pub mod placement;
pub mod reconcile;
mod topology;
mod view;

pub use command::{Assign, BATCH_DEVICES_MAX, Command, Precondition, Proposal, Remove};
pub use decide::{decide, misplaced_secret};
pub use delta::{Decision, Delta};
pub use id::{
    DeviceId, DeviceIdRef, HubName, IdError, RegistrationId, RequestId, RouteKey, ScopeName, StampName,
};
pub use label::{LABELS_MAX, LabelError, LabelSetNo, Labels};
pub use mapping::{Evidence, EvidenceSource, Mapping, Origin, Registration, Status};
pub use number::{Epoch, HubNo, Revision, ScopeNo, StampNo, Timestamp};
pub use outcome::{
    DiffAction, DiffEntry, FieldChange, ItemRejection, ObjectKind, Outcome, Rejection, Reply, SoftLimit,
};
pub use topology::edit::{
    Expect, HubPatch, ObjectPatch, ObjectRef, RoutePatch, ScopePatch, StampPatch, TopologyEdit,
};
pub use topology::{
    Capacity, CapacityError, Cost, Hub, PlaceState, RepairRule, Route, Scope, Stamp, Tier, Topology,
    TopologyChange,
};
pub use view::{DEVICE_TWINS_MAX, REPLIES_MAX, REQUEST_ID_AHEAD_MS_MAX, Seats, View};
