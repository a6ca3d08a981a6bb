//! Declarative changes of the topology: patches in which an absent field is left untouched.

use crate::{Cost, HubName, Labels, PlaceState, RepairRule, Revision, RouteKey, ScopeName, StampName, Tier};

/// What must hold of the object that a patch names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expect {
    /// Nothing: create it or update it.
    #[default]
    Any,
    /// It does not exist yet.
    Absent,
    /// It exists.
    Present,
    /// It exists and its last change was this revision (its etag).
    At(Revision),
}

/// Stamps, hubs, scopes and routes to create, update and delete in one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopologyEdit {
    /// Objects to create or update.
    pub patches: Vec<(Expect, ObjectPatch)>,
    /// Objects to delete, with what must hold of them.
    pub deletes: Vec<(Expect, ObjectRef)>,
    /// Delete every object that no patch names.
    pub prune: bool,
}

/// A patch of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ObjectPatch {
    Stamp(StampPatch),
    Hub(HubPatch),
    Scope(ScopePatch),
    Route(RoutePatch),
}

/// The name of one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum ObjectRef {
    Stamp(StampName),
    Hub(HubName),
    Scope(ScopeName),
    Route(RouteKey),
}

/// Fields of a stamp; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StampPatch {
    /// Which stamp.
    pub name: StampName,
    /// Whether it takes newcomers.
    pub state: Option<PlaceState>,
    /// Labels, as a whole.
    pub labels: Option<Labels>,
    /// Soft capacity; `Some(None)` lifts it.
    pub capacity_soft: Option<Option<u64>>,
    /// Hard capacity; `Some(None)` lifts it.
    pub capacity_hard: Option<Option<u64>>,
    /// URL of its app endpoint.
    pub app_endpoint: Option<String>,
    /// Cost figures, as a whole.
    pub cost: Option<Cost>,
}

/// Fields of a hub; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubPatch {
    /// Which hub.
    pub name: HubName,
    /// Its stamp; needed to create it.
    pub stamp: Option<StampName>,
    /// Whether it takes newcomers.
    pub state: Option<PlaceState>,
    /// Soft capacity; `Some(None)` lifts it.
    pub capacity_soft: Option<Option<u64>>,
    /// Hard capacity; `Some(None)` lifts it.
    pub capacity_hard: Option<Option<u64>>,
    /// Tier.
    pub tier: Option<Tier>,
    /// Units.
    pub units: Option<u32>,
}

/// Fields of a scope; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopePatch {
    /// Which scope.
    pub name: ScopeName,
    /// Host of its service API.
    pub service_host: Option<String>,
    /// Name of its credential.
    pub credential_ref: Option<String>,
    /// Hubs DPS may assign to, as a whole.
    pub linked_hubs: Option<Vec<HubName>>,
    /// Berth's share of its operation budget, percent.
    pub budget_percent: Option<u8>,
    /// How drift is repaired.
    pub repair: Option<RepairRule>,
    /// Whether unknown devices are looked up there.
    pub read_through: Option<bool>,
}

/// Fields of a route; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutePatch {
    /// Which route.
    pub key: RouteKey,
    /// The stamp that serves it; needed to create it.
    pub stamp: Option<StampName>,
}

impl StampPatch {
    /// A patch that names a stamp and changes nothing.
    pub fn of(name: StampName) -> Self {
        Self {
            name,
            state: None,
            labels: None,
            capacity_soft: None,
            capacity_hard: None,
            app_endpoint: None,
            cost: None,
        }
    }
}

impl HubPatch {
    /// A patch that names a hub and changes nothing.
    pub fn of(name: HubName) -> Self {
        Self {
            name,
            stamp: None,
            state: None,
            capacity_soft: None,
            capacity_hard: None,
            tier: None,
            units: None,
        }
    }
}

impl ScopePatch {
    /// A patch that names a scope and changes nothing.
    pub fn of(name: ScopeName) -> Self {
        Self {
            name,
            service_host: None,
            credential_ref: None,
            linked_hubs: None,
            budget_percent: None,
            repair: None,
            read_through: None,
        }
    }
}

impl ObjectPatch {
    /// The object that this patch names.
    pub fn object(&self) -> ObjectRef {
        match self {
            Self::Stamp(p) => ObjectRef::Stamp(p.name.clone()),
            Self::Hub(p) => ObjectRef::Hub(p.name.clone()),
            Self::Scope(p) => ObjectRef::Scope(p.name.clone()),
            Self::Route(p) => ObjectRef::Route(p.key.clone()),
        }
    }
}
