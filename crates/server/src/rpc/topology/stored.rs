//! Topology objects as stored, as messages.

use berth_core::{HubName, ObjectKind, RouteKey, ScopeName, StampName};
use berth_proto::convert::{hub_message, route_message, scope_message, stamp_message};
use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_store::machine::Snapshot;

use crate::rpc::names;

pub(in crate::rpc) fn stamp(snapshot: &Snapshot, name: &str) -> Result<v1::Stamp, ApiError> {
    let name = StampName::parse(name).map_err(|error| ApiError::invalid("name", error))?;
    let found = snapshot.topology().stamp_named(&name).map(stamp_message);
    found.ok_or_else(|| names::unknown(ObjectKind::Stamp, &name))
}

pub(in crate::rpc) fn hub(snapshot: &Snapshot, name: &str) -> Result<v1::Hub, ApiError> {
    let name = HubName::parse(name).map_err(|error| ApiError::invalid("name", error))?;
    let topology = snapshot.topology();
    let found = topology.hub_named(&name).map(|hub| hub_message(topology, hub));
    found.ok_or_else(|| names::unknown(ObjectKind::Hub, &name))
}

pub(in crate::rpc) fn scope(snapshot: &Snapshot, name: &str) -> Result<v1::Scope, ApiError> {
    let name = ScopeName::parse(name).map_err(|error| ApiError::invalid("name", error))?;
    let topology = snapshot.topology();
    let found = topology.scope_named(&name).map(|scope| scope_message(topology, scope));
    found.ok_or_else(|| names::unknown(ObjectKind::Scope, &name))
}

pub(in crate::rpc) fn route(snapshot: &Snapshot, key: &str) -> Result<v1::Route, ApiError> {
    let key = RouteKey::parse(key).map_err(|error| ApiError::invalid("key", error))?;
    let topology = snapshot.topology();
    let found = topology.route(&key).map(|route| route_message(topology, route));
    found.ok_or_else(|| names::unknown(ObjectKind::Route, &key))
}
