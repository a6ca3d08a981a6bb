//! Stamps, hubs, scopes, routes and label sets: a format byte, then a protobuf message.

use berth_core::{
    Capacity, Cost, Hub, HubName, HubNo, Labels, PlaceState, RepairRule, Revision, Route, RouteKey, Scope,
    ScopeName, ScopeNo, Stamp, StampName, StampNo, Tier,
};
use prost::Message;

use super::{CodecError, legal};
use crate::internal::{DiskCapacity, DiskCost, DiskHub, DiskLabels, DiskRoute, DiskScope, DiskStamp};

/// The one format of these values so far.
pub(super) const FORMAT: u8 = 1;

/// Writes a message behind its format byte.
pub(super) fn sealed(message: &impl Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.encoded_len() + 1);
    out.push(FORMAT);
    out.extend_from_slice(&message.encode_to_vec());
    out
}

/// Reads a message behind its format byte.
pub(super) fn unsealed<M: Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Short { what }),
        Some((&FORMAT, rest)) => legal(what, M::decode(rest)),
        Some((&found, _)) => Err(CodecError::Unknown { what, found: u64::from(found) }),
    }
}

/// Writes a stamp.
pub fn encode_stamp(stamp: &Stamp) -> Vec<u8> {
    sealed(&DiskStamp {
        no: stamp.no.0,
        name: stamp.name.to_string(),
        state: u32::from(stamp.state as u8),
        labels: Some(disk_labels(&stamp.labels)),
        capacity: Some(disk_capacity(stamp.capacity)),
        app_endpoint: stamp.app_endpoint.clone(),
        cost: Some(disk_cost(&stamp.cost)),
        revision: stamp.revision.0,
    })
}

/// Reads a stamp.
///
/// # Errors
/// [`CodecError`] where the bytes are not a stamp.
pub fn decode_stamp(bytes: &[u8]) -> Result<Stamp, CodecError> {
    const WHAT: &str = "stamp";
    let disk: DiskStamp = unsealed(WHAT, bytes)?;
    Ok(Stamp {
        no: StampNo(disk.no),
        name: legal(WHAT, StampName::parse(&disk.name))?,
        state: known(WHAT, disk.state, PlaceState::from_byte)?,
        labels: core_labels(WHAT, &disk.labels.unwrap_or_default())?,
        capacity: disk.capacity.map_or_else(Capacity::default, |c| Capacity { soft: c.soft, hard: c.hard }),
        app_endpoint: disk.app_endpoint,
        cost: disk.cost.map(core_cost).unwrap_or_default(),
        revision: Revision(disk.revision),
    })
}

/// Writes a hub.
pub fn encode_hub(hub: &Hub) -> Vec<u8> {
    sealed(&DiskHub {
        no: hub.no.0,
        name: hub.name.to_string(),
        stamp: hub.stamp.0,
        state: u32::from(hub.state as u8),
        capacity: Some(disk_capacity(hub.capacity)),
        tier: u32::from(hub.tier as u8),
        units: hub.units,
        revision: hub.revision.0,
    })
}

/// Reads a hub.
///
/// # Errors
/// [`CodecError`] where the bytes are not a hub.
pub fn decode_hub(bytes: &[u8]) -> Result<Hub, CodecError> {
    const WHAT: &str = "hub";
    let disk: DiskHub = unsealed(WHAT, bytes)?;
    Ok(Hub {
        no: HubNo(disk.no),
        name: legal(WHAT, HubName::parse(&disk.name))?,
        stamp: StampNo(disk.stamp),
        state: known(WHAT, disk.state, PlaceState::from_byte)?,
        capacity: disk.capacity.map_or_else(Capacity::default, |c| Capacity { soft: c.soft, hard: c.hard }),
        tier: known(WHAT, disk.tier, Tier::from_byte)?,
        units: disk.units,
        revision: Revision(disk.revision),
    })
}

/// Writes a scope.
pub fn encode_scope(scope: &Scope) -> Vec<u8> {
    sealed(&DiskScope {
        no: u32::from(scope.no.0),
        name: scope.name.to_string(),
        service_host: scope.service_host.clone(),
        credential_ref: scope.credential_ref.clone(),
        linked_hubs: scope.linked_hubs.iter().map(|hub| hub.0).collect(),
        budget_percent: u32::from(scope.budget_percent),
        repair: u32::from(scope.repair as u8),
        read_through: scope.read_through,
        revision: scope.revision.0,
    })
}

/// Reads a scope.
///
/// # Errors
/// [`CodecError`] where the bytes are not a scope.
pub fn decode_scope(bytes: &[u8]) -> Result<Scope, CodecError> {
    const WHAT: &str = "scope";
    let disk: DiskScope = unsealed(WHAT, bytes)?;
    Ok(Scope {
        no: ScopeNo(legal(WHAT, u16::try_from(disk.no))?),
        name: legal(WHAT, ScopeName::parse(&disk.name))?,
        service_host: disk.service_host,
        credential_ref: disk.credential_ref,
        linked_hubs: disk.linked_hubs.into_iter().map(HubNo).collect(),
        budget_percent: legal(WHAT, u8::try_from(disk.budget_percent))?,
        repair: known(WHAT, disk.repair, repair_from_byte)?,
        read_through: disk.read_through,
        revision: Revision(disk.revision),
    })
}

/// Writes a route.
pub fn encode_route(route: &Route) -> Vec<u8> {
    sealed(&DiskRoute { key: route.key.to_string(), stamp: route.stamp.0, revision: route.revision.0 })
}

/// Reads a route.
///
/// # Errors
/// [`CodecError`] where the bytes are not a route.
pub fn decode_route(bytes: &[u8]) -> Result<Route, CodecError> {
    const WHAT: &str = "route";
    let disk: DiskRoute = unsealed(WHAT, bytes)?;
    Ok(Route {
        key: legal(WHAT, RouteKey::parse(&disk.key))?,
        stamp: StampNo(disk.stamp),
        revision: Revision(disk.revision),
    })
}

/// Writes a label set.
pub fn encode_label_set(labels: &Labels) -> Vec<u8> {
    sealed(&disk_labels(labels))
}

/// Reads a label set.
///
/// # Errors
/// [`CodecError`] where the bytes are not a label set.
pub fn decode_label_set(bytes: &[u8]) -> Result<Labels, CodecError> {
    const WHAT: &str = "label set";
    core_labels(WHAT, &unsealed(WHAT, bytes)?)
}

pub(super) fn disk_labels(labels: &Labels) -> DiskLabels {
    DiskLabels { pairs: labels.iter().flat_map(|(key, value)| [key.to_owned(), value.to_owned()]).collect() }
}

pub(super) fn core_labels(what: &'static str, disk: &DiskLabels) -> Result<Labels, CodecError> {
    let (pairs, odd) = disk.pairs.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(CodecError::illegal(what, "a label key without a value"));
    }
    legal(what, Labels::parse(pairs.iter().map(|[key, value]| (key, value))))
}

fn disk_capacity(capacity: Capacity) -> DiskCapacity {
    DiskCapacity { soft: capacity.soft, hard: capacity.hard }
}

pub(super) fn disk_cost(cost: &Cost) -> DiskCost {
    DiskCost {
        currency: cost.currency.clone(),
        fixed_micros: cost.fixed_micros,
        per_device_micros: cost.per_device_micros,
    }
}

pub(super) fn core_cost(disk: DiskCost) -> Cost {
    Cost {
        currency: disk.currency,
        fixed_micros: disk.fixed_micros,
        per_device_micros: disk.per_device_micros,
    }
}

/// The value that a number of a closed list stands for.
pub(super) fn known<T>(
    what: &'static str,
    number: u32,
    from_byte: impl Fn(u8) -> Option<T>,
) -> Result<T, CodecError> {
    let unknown = CodecError::Unknown { what, found: u64::from(number) };
    u8::try_from(number).ok().and_then(from_byte).ok_or(unknown)
}

pub(super) fn repair_from_byte(byte: u8) -> Option<RepairRule> {
    [RepairRule::Adopt, RepairRule::Enforce].into_iter().find(|rule| *rule as u8 == byte)
}
