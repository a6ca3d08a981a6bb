//! Stamps, hubs, scopes and routes: the places a device can be, and how they are named and numbered.

pub mod edit;

use std::collections::BTreeMap;

use crate::{HubName, HubNo, Labels, Revision, RouteKey, ScopeName, ScopeNo, StampName, StampNo};

/// Whether a stamp or hub takes newcomers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum PlaceState {
    /// Takes newcomers.
    #[default]
    Active = 0,
    /// Takes no newcomers; those on it stay.
    Cordoned = 1,
    /// Takes no newcomers and is being emptied.
    Draining = 2,
    /// Out of service.
    Offline = 3,
}

impl PlaceState {
    /// Every state, in order.
    pub const ALL: &'static [Self] = &[Self::Active, Self::Cordoned, Self::Draining, Self::Offline];

    /// The state numbered `byte`, where there is one.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

impl std::fmt::Display for PlaceState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Active => "ACTIVE",
            Self::Cordoned => "CORDONED",
            Self::Draining => "DRAINING",
            Self::Offline => "OFFLINE",
        })
    }
}

/// How many devices a place holds. Unset is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Capacity {
    /// Past this, arrivals are accepted and reported.
    pub soft: Option<u64>,
    /// Past this, arrivals are refused.
    pub hard: Option<u64>,
}

/// A soft limit above the hard one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("soft capacity {soft} is above hard capacity {hard}; soft must not exceed hard")]
pub struct CapacityError {
    /// The soft limit asked for, in devices.
    pub soft: u64,
    /// The hard limit asked for, in devices.
    pub hard: u64,
}

impl Capacity {
    /// Checks that soft does not exceed hard.
    ///
    /// # Errors
    /// [`CapacityError`] with both figures.
    pub fn check(&self) -> Result<(), CapacityError> {
        match (self.soft, self.hard) {
            (Some(soft), Some(hard)) if soft > hard => Err(CapacityError { soft, hard }),
            _ => Ok(()),
        }
    }
}

/// What a stamp costs, in millionths of the currency unit a month.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cost {
    /// ISO 4217 code, such as `EUR`; empty where nothing is known.
    pub currency: String,
    /// Cost of the stamp without any device, micros a month.
    pub fixed_micros: u64,
    /// Additional cost of each device, micros a month.
    pub per_device_micros: u64,
}

/// A deployment stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Internal number.
    pub no: StampNo,
    /// Name.
    pub name: StampName,
    /// Whether it takes newcomers.
    pub state: PlaceState,
    /// Labels such as region, lifecycle, ring.
    pub labels: Labels,
    /// Devices it holds, over all its hubs.
    pub capacity: Capacity,
    /// URL of its app endpoint; empty where it has none.
    pub app_endpoint: String,
    /// Cost figures.
    pub cost: Cost,
    /// Revision of its last change; its etag.
    pub revision: Revision,
}

/// Tier of an IoT hub, which sets its throttles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Tier {
    /// Not told.
    #[default]
    Unknown = 0,
    F1 = 1,
    B1 = 2,
    B2 = 3,
    B3 = 4,
    S1 = 5,
    S2 = 6,
    S3 = 7,
}

impl Tier {
    /// Every tier, in order.
    pub const ALL: &'static [Self] =
        &[Self::Unknown, Self::F1, Self::B1, Self::B2, Self::B3, Self::S1, Self::S2, Self::S3];

    /// The tier numbered `byte`, where there is one.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "",
            Self::F1 => "F1",
            Self::B1 => "B1",
            Self::B2 => "B2",
            Self::B3 => "B3",
            Self::S1 => "S1",
            Self::S2 => "S2",
            Self::S3 => "S3",
        })
    }
}

/// An IoT hub in one stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hub {
    /// Internal number.
    pub no: HubNo,
    /// Host name.
    pub name: HubName,
    /// The stamp it is in.
    pub stamp: StampNo,
    /// Whether it takes newcomers.
    pub state: PlaceState,
    /// Devices it holds.
    pub capacity: Capacity,
    /// Tier.
    pub tier: Tier,
    /// Units of that tier.
    pub units: u32,
    /// Revision of its last change; its etag.
    pub revision: Revision,
}

/// How drift of a scope is repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum RepairRule {
    /// Berth takes over what DPS says, where DPS knows better.
    #[default]
    Adopt = 0,
    /// DPS is made to follow Berth.
    Enforce = 1,
}

/// A DPS instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Internal number.
    pub no: ScopeNo,
    /// ID scope.
    pub name: ScopeName,
    /// Host of its service API; empty where Berth does not call it.
    pub service_host: String,
    /// Where its credential is found (a name, never the secret).
    pub credential_ref: String,
    /// Hubs that DPS may assign to.
    pub linked_hubs: Vec<HubNo>,
    /// Berth's share of the DPS operation budget, percent.
    pub budget_percent: u8,
    /// How drift is repaired.
    pub repair: RepairRule,
    /// Whether unknown devices are looked up in DPS.
    pub read_through: bool,
    /// Revision of its last change; its etag.
    pub revision: Revision,
}

/// App key (host or tenant) → stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The key.
    pub key: RouteKey,
    /// The stamp that serves it.
    pub stamp: StampNo,
    /// Revision of its last change; its etag.
    pub revision: Revision,
}

/// One object written or dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TopologyChange {
    PutStamp(Stamp),
    DropStamp(StampNo),
    PutHub(Hub),
    DropHub(HubNo),
    PutScope(Scope),
    DropScope(ScopeNo),
    PutRoute(Route),
    DropRoute(RouteKey),
}

/// Every stamp, hub, scope and route, by number and by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    stamps: BTreeMap<StampNo, Stamp>,
    stamp_names: BTreeMap<StampName, StampNo>,
    hubs: BTreeMap<HubNo, Hub>,
    hub_names: BTreeMap<HubName, HubNo>,
    scopes: BTreeMap<ScopeNo, Scope>,
    scope_names: BTreeMap<ScopeName, ScopeNo>,
    routes: BTreeMap<RouteKey, Route>,
    /// Next numbers to give away; numbers of dropped objects are never given again.
    next_stamp: u32,
    next_hub: u32,
    next_scope: u16,
}

impl Topology {
    /// The highest hub number that a row can hold.
    pub const HUB_NO_MAX: u32 = (1 << 24) - 2;

    /// The stamp numbered `no`.
    pub fn stamp(&self, no: StampNo) -> Option<&Stamp> {
        self.stamps.get(&no)
    }

    /// The stamp called `name`.
    pub fn stamp_named(&self, name: &StampName) -> Option<&Stamp> {
        self.stamp_names.get(name).and_then(|no| self.stamps.get(no))
    }

    /// The hub numbered `no`.
    pub fn hub(&self, no: HubNo) -> Option<&Hub> {
        self.hubs.get(&no)
    }

    /// The hub called `name`.
    pub fn hub_named(&self, name: &HubName) -> Option<&Hub> {
        self.hub_names.get(name).and_then(|no| self.hubs.get(no))
    }

    /// The scope numbered `no`.
    pub fn scope(&self, no: ScopeNo) -> Option<&Scope> {
        self.scopes.get(&no)
    }

    /// The scope called `name`.
    pub fn scope_named(&self, name: &ScopeName) -> Option<&Scope> {
        self.scope_names.get(name).and_then(|no| self.scopes.get(no))
    }

    /// The route of `key`.
    pub fn route(&self, key: &RouteKey) -> Option<&Route> {
        self.routes.get(key)
    }

    /// All stamps by name.
    pub fn stamps(&self) -> impl Iterator<Item = &Stamp> {
        self.stamp_names.values().filter_map(|no| self.stamps.get(no))
    }

    /// All hubs by name.
    pub fn hubs(&self) -> impl Iterator<Item = &Hub> {
        self.hub_names.values().filter_map(|no| self.hubs.get(no))
    }

    /// All scopes by name.
    pub fn scopes(&self) -> impl Iterator<Item = &Scope> {
        self.scope_names.values().filter_map(|no| self.scopes.get(no))
    }

    /// All routes by key.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.values()
    }

    /// The next numbers of stamp, hub and scope: what a checkpoint must keep beside the objects.
    pub fn next_numbers(&self) -> (u32, u32, u16) {
        (self.next_stamp, self.next_hub, self.next_scope)
    }

    /// Raises the next numbers to at least these; for reading a checkpoint.
    pub fn raise_next_numbers(&mut self, (stamp, hub, scope): (u32, u32, u16)) {
        self.next_stamp = self.next_stamp.max(stamp);
        self.next_hub = self.next_hub.max(hub);
        self.next_scope = self.next_scope.max(scope);
    }

    /// Writes or drops one object.
    pub fn apply(&mut self, change: &TopologyChange) {
        match change {
            TopologyChange::PutStamp(stamp) => {
                self.next_stamp = self.next_stamp.max(stamp.no.0.saturating_add(1));
                self.stamp_names.insert(stamp.name.clone(), stamp.no);
                self.stamps.insert(stamp.no, stamp.clone());
            }
            TopologyChange::DropStamp(no) => {
                if let Some(stamp) = self.stamps.remove(no) {
                    self.stamp_names.remove(&stamp.name);
                }
            }
            TopologyChange::PutHub(hub) => {
                self.next_hub = self.next_hub.max(hub.no.0.saturating_add(1));
                self.hub_names.insert(hub.name.clone(), hub.no);
                self.hubs.insert(hub.no, hub.clone());
            }
            TopologyChange::DropHub(no) => {
                if let Some(hub) = self.hubs.remove(no) {
                    self.hub_names.remove(&hub.name);
                }
            }
            TopologyChange::PutScope(scope) => {
                self.next_scope = self.next_scope.max(scope.no.0.saturating_add(1));
                self.scope_names.insert(scope.name.clone(), scope.no);
                self.scopes.insert(scope.no, scope.clone());
            }
            TopologyChange::DropScope(no) => {
                if let Some(scope) = self.scopes.remove(no) {
                    self.scope_names.remove(&scope.name);
                }
            }
            TopologyChange::PutRoute(route) => {
                self.routes.insert(route.key.clone(), route.clone());
            }
            TopologyChange::DropRoute(key) => {
                self.routes.remove(key);
            }
        }
    }
}
