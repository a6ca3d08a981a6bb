//! Stamps, hubs, scopes and routes: patches in, objects and differences out.

use std::fmt::Display;

use berth_core::{
    Cost, DiffAction, DiffEntry, Expect, Hub, HubName, HubPatch, ObjectPatch, Revision, Route, RouteKey,
    RoutePatch, Scope, ScopeName, ScopePatch, Stamp, StampName, StampPatch, Topology, TopologyEdit,
};

use super::kinds::{repair_from, repair_message, state_from, state_message, tier_from, tier_message};
use super::{Violations, kind_message, labels_from, labels_message};
use crate::error::ApiError;
use crate::v1;

/// Most objects of one declarative apply.
const DESIRED_OBJECTS_MAX: usize = 1_000;
/// Longest URL or host of a topology object, in bytes.
const TEXT_BYTES_MAX: usize = 1_024;
/// Most hubs linked to a scope: what the core takes, told before anything is decided.
const LINKED_HUBS_MAX: usize = 100;

/// A patch and what must hold of its object.
pub type ExpectedPatch = (Expect, ObjectPatch);

/// A stamp as a message.
pub fn stamp_message(stamp: &Stamp) -> v1::Stamp {
    v1::Stamp {
        name: stamp.name.to_string(),
        state: state_message(stamp.state) as i32,
        labels: labels_message(&stamp.labels),
        capacity: Some(v1::Capacity { soft: stamp.capacity.soft, hard: stamp.capacity.hard }),
        app_endpoint: stamp.app_endpoint.clone(),
        cost: cost_message(&stamp.cost),
        revision: stamp.revision.0,
    }
}

/// Cost figures as a message; nothing where none are known.
pub fn cost_message(cost: &Cost) -> Option<v1::Cost> {
    (*cost != Cost::default()).then(|| v1::Cost {
        currency: cost.currency.clone(),
        fixed_micros_per_month: cost.fixed_micros,
        device_micros_per_month: cost.per_device_micros,
    })
}

/// A hub as a message.
pub fn hub_message(topology: &Topology, hub: &Hub) -> v1::Hub {
    v1::Hub {
        name: hub.name.to_string(),
        stamp: topology.stamp(hub.stamp).map(|stamp| stamp.name.to_string()).unwrap_or_default(),
        state: state_message(hub.state) as i32,
        capacity: Some(v1::Capacity { soft: hub.capacity.soft, hard: hub.capacity.hard }),
        tier: tier_message(hub.tier) as i32,
        units: hub.units,
        revision: hub.revision.0,
    }
}

/// A scope as a message.
pub fn scope_message(topology: &Topology, scope: &Scope) -> v1::Scope {
    let linked = scope.linked_hubs.iter().filter_map(|no| topology.hub(*no));
    v1::Scope {
        name: scope.name.to_string(),
        service_host: scope.service_host.clone(),
        credential_ref: scope.credential_ref.clone(),
        linked_hubs: linked.map(|hub| hub.name.to_string()).collect(),
        budget_percent: u32::from(scope.budget_percent),
        repair: repair_message(scope.repair) as i32,
        read_through: scope.read_through,
        revision: scope.revision.0,
    }
}

/// A route as a message.
pub fn route_message(topology: &Topology, route: &Route) -> v1::Route {
    v1::Route {
        key: route.key.to_string(),
        stamp: topology.stamp(route.stamp).map(|stamp| stamp.name.to_string()).unwrap_or_default(),
        revision: route.revision.0,
    }
}

/// A line of a difference as a message.
pub fn change_message(entry: &DiffEntry) -> v1::TopologyChange {
    let kind = match entry.action {
        DiffAction::Created => v1::ChangeKind::Create,
        DiffAction::Updated => v1::ChangeKind::Update,
        DiffAction::Deleted => v1::ChangeKind::Delete,
    };
    let field = |change: &berth_core::FieldChange| v1::FieldChange {
        field: change.field.clone(),
        before: change.before.clone(),
        after: change.after.clone(),
    };
    v1::TopologyChange {
        kind: kind as i32,
        object: kind_message(entry.kind) as i32,
        name: entry.name.clone(),
        fields: entry.fields.iter().map(field).collect(),
    }
}

/// The patch that creates a stamp.
///
/// # Errors
/// [`ApiError::Invalid`] with the malformed fields.
pub fn new_stamp(message: Option<v1::Stamp>) -> Result<ExpectedPatch, ApiError> {
    let desired = desired_stamp(present("stamp", message)?, &Mask::values());
    one(Expect::Absent, |violations| stamp_patch(violations, "stamp", desired).map(ObjectPatch::Stamp))
}

/// The patch that updates a stamp.
///
/// # Errors
/// [`ApiError::Invalid`] with the malformed fields and unknown masks.
pub fn stamp_update(
    message: Option<v1::Stamp>,
    mask: Option<prost_types::FieldMask>,
    revision: u64,
) -> Result<ExpectedPatch, ApiError> {
    const FIELDS: &[&str] =
        &["state", "labels", "capacity", "capacity.soft", "capacity.hard", "app_endpoint", "cost"];
    let mask = Mask::read(mask, FIELDS)?;
    let desired = desired_stamp(present("stamp", message)?, &mask);
    one(expect(revision), |violations| stamp_patch(violations, "stamp", desired).map(ObjectPatch::Stamp))
}

/// The patch that creates a hub.
///
/// # Errors
/// [`ApiError::Invalid`] with the malformed fields.
pub fn new_hub(message: Option<v1::Hub>) -> Result<ExpectedPatch, ApiError> {
    let desired = desired_hub(present("hub", message)?, &Mask::values());
    one(Expect::Absent, |violations| {
        if desired.stamp.is_none() {
            violations.add("hub.stamp", "is empty; name the stamp that the hub is in");
        }
        hub_patch(violations, "hub", desired).map(ObjectPatch::Hub)
    })
}

/// The patch that updates a hub.
///
/// # Errors
/// [`ApiError::Invalid`] with the malformed fields and unknown masks.
pub fn hub_update(
    message: Option<v1::Hub>,
    mask: Option<prost_types::FieldMask>,
    revision: u64,
) -> Result<ExpectedPatch, ApiError> {
    const FIELDS: &[&str] =
        &["stamp", "state", "capacity", "capacity.soft", "capacity.hard", "tier", "units"];
    let mask = Mask::read(mask, FIELDS)?;
    let desired = desired_hub(present("hub", message)?, &mask);
    one(expect(revision), |violations| hub_patch(violations, "hub", desired).map(ObjectPatch::Hub))
}

/// The patch that creates a scope.
///
/// # Errors
/// [`ApiError::Invalid`] with the malformed fields.
pub fn new_scope(message: Option<v1::Scope>) -> Result<ExpectedPatch, ApiError> {
    let desired = desired_scope(present("scope", message)?, &Mask::values());
    one(Expect::Absent, |violations| scope_patch(violations, "scope", desired).map(ObjectPatch::Scope))
}

/// The patch that updates a scope.
///
/// # Errors
/// [`ApiError::Invalid`] with the malformed fields and unknown masks.
pub fn scope_update(
    message: Option<v1::Scope>,
    mask: Option<prost_types::FieldMask>,
    revision: u64,
) -> Result<ExpectedPatch, ApiError> {
    const FIELDS: &[&str] =
        &["service_host", "credential_ref", "linked_hubs", "budget_percent", "repair", "read_through"];
    let mask = Mask::read(mask, FIELDS)?;
    let desired = desired_scope(present("scope", message)?, &mask);
    one(expect(revision), |violations| scope_patch(violations, "scope", desired).map(ObjectPatch::Scope))
}

/// The patch that creates a route.
///
/// # Errors
/// [`ApiError::Invalid`] with the malformed fields.
pub fn new_route(message: Option<v1::Route>) -> Result<ExpectedPatch, ApiError> {
    let route = present("route", message)?;
    one(Expect::Absent, |violations| route_patch(violations, "route", route).map(ObjectPatch::Route))
}

/// The patch that updates a route.
///
/// # Errors
/// [`ApiError::Invalid`] with the malformed fields and unknown masks.
pub fn route_update(
    message: Option<v1::Route>,
    mask: Option<prost_types::FieldMask>,
    revision: u64,
) -> Result<ExpectedPatch, ApiError> {
    Mask::read(mask, &["stamp"])?;
    let route = present("route", message)?;
    one(expect(revision), |violations| route_patch(violations, "route", route).map(ObjectPatch::Route))
}

/// The edit that makes a topology as described.
///
/// # Errors
/// [`ApiError::Invalid`] with the malformed fields.
pub fn desired_edit(message: Option<v1::DesiredTopology>, prune: bool) -> Result<TopologyEdit, ApiError> {
    let desired = present("desired", message)?;
    let count = desired.stamps.len() + desired.hubs.len() + desired.scopes.len() + desired.routes.len();
    if count > DESIRED_OBJECTS_MAX {
        let problem = format!("{count} objects; at most {DESIRED_OBJECTS_MAX} are allowed in one call");
        return Err(ApiError::invalid("desired", problem));
    }
    let mut violations = Violations::default();
    let v = &mut violations;
    let mut patches = Vec::with_capacity(count);
    for (n, stamp) in desired.stamps.into_iter().enumerate() {
        patches.extend(stamp_patch(v, &format!("desired.stamps[{n}]"), stamp).map(ObjectPatch::Stamp));
    }
    for (n, hub) in desired.hubs.into_iter().enumerate() {
        patches.extend(hub_patch(v, &format!("desired.hubs[{n}]"), hub).map(ObjectPatch::Hub));
    }
    for (n, scope) in desired.scopes.into_iter().enumerate() {
        patches.extend(scope_patch(v, &format!("desired.scopes[{n}]"), scope).map(ObjectPatch::Scope));
    }
    for (n, route) in desired.routes.into_iter().enumerate() {
        patches.extend(route_patch(v, &format!("desired.routes[{n}]"), route).map(ObjectPatch::Route));
    }
    violations.finish()?;
    let patches = patches.into_iter().map(|patch| (Expect::Any, patch)).collect();
    Ok(TopologyEdit { patches, deletes: Vec::new(), prune })
}

/// The fields that an update changes.
enum Mask {
    /// Those that have a value.
    Values,
    /// These.
    Paths(Vec<String>),
}

impl Mask {
    fn values() -> Self {
        Self::Values
    }

    fn read(mask: Option<prost_types::FieldMask>, known: &[&str]) -> Result<Self, ApiError> {
        let paths = match mask {
            None => return Ok(Self::Values),
            Some(mask) => mask.paths,
        };
        match paths.iter().find(|path| !known.contains(&path.as_str())) {
            None => Ok(Self::Paths(paths)),
            Some(path) => {
                let path: String = path.chars().take(64).collect();
                let problem = format!("`{path}` cannot be changed; known are {}", known.join(", "));
                Err(ApiError::invalid("update_mask", problem))
            }
        }
    }

    /// True where `path` is to change: masked, or without a mask where it has a value.
    fn takes(&self, path: &str, has_value: bool) -> bool {
        match self {
            Self::Values => has_value,
            Self::Paths(paths) => paths.iter().any(|p| p == path),
        }
    }
}

fn present<T>(field: &str, message: Option<T>) -> Result<T, ApiError> {
    message.ok_or_else(|| ApiError::invalid(field, "is missing"))
}

fn expect(revision: u64) -> Expect {
    if revision == 0 { Expect::Present } else { Expect::At(Revision(revision)) }
}

fn one(
    expect: Expect,
    patch: impl FnOnce(&mut Violations) -> Option<ObjectPatch>,
) -> Result<ExpectedPatch, ApiError> {
    let mut violations = Violations::default();
    let patch = patch(&mut violations);
    violations.finish()?;
    patch.map(|patch| (expect, patch)).ok_or_else(|| ApiError::invalid("request", "is malformed"))
}

fn desired_capacity(mask: &Mask, capacity: Option<v1::Capacity>) -> Option<v1::DesiredCapacity> {
    let whole = mask.takes("capacity", false);
    let capacity = capacity.unwrap_or_default();
    let limit = |path: &str, devices: Option<u64>| {
        (whole || mask.takes(path, devices.is_some())).then_some(v1::DesiredLimit { devices })
    };
    let soft = limit("capacity.soft", capacity.soft);
    let hard = limit("capacity.hard", capacity.hard);
    (soft.is_some() || hard.is_some()).then_some(v1::DesiredCapacity { soft, hard })
}

fn desired_stamp(stamp: v1::Stamp, mask: &Mask) -> v1::DesiredStamp {
    let labels = mask.takes("labels", !stamp.labels.is_empty());
    let endpoint = mask.takes("app_endpoint", !stamp.app_endpoint.is_empty());
    let cost = mask.takes("cost", stamp.cost.is_some());
    v1::DesiredStamp {
        name: stamp.name,
        state: mask.takes("state", stamp.state != 0).then_some(stamp.state),
        labels: labels.then_some(v1::DesiredLabels { labels: stamp.labels }),
        capacity: desired_capacity(mask, stamp.capacity),
        app_endpoint: endpoint.then_some(stamp.app_endpoint),
        cost: cost.then(|| stamp.cost.unwrap_or_default()),
    }
}

fn desired_hub(hub: v1::Hub, mask: &Mask) -> v1::DesiredHub {
    let stamp = mask.takes("stamp", !hub.stamp.is_empty());
    v1::DesiredHub {
        name: hub.name,
        stamp: stamp.then_some(hub.stamp),
        state: mask.takes("state", hub.state != 0).then_some(hub.state),
        capacity: desired_capacity(mask, hub.capacity),
        tier: mask.takes("tier", hub.tier != 0).then_some(hub.tier),
        units: mask.takes("units", hub.units != 0).then_some(hub.units),
    }
}

fn desired_scope(scope: v1::Scope, mask: &Mask) -> v1::DesiredScope {
    let host = mask.takes("service_host", !scope.service_host.is_empty());
    let credential = mask.takes("credential_ref", !scope.credential_ref.is_empty());
    let linked = mask.takes("linked_hubs", !scope.linked_hubs.is_empty());
    v1::DesiredScope {
        name: scope.name,
        service_host: host.then_some(scope.service_host),
        credential_ref: credential.then_some(scope.credential_ref),
        linked_hubs: linked.then_some(v1::DesiredLinkedHubs { hubs: scope.linked_hubs }),
        budget_percent: mask
            .takes("budget_percent", scope.budget_percent != 0)
            .then_some(scope.budget_percent),
        repair: mask.takes("repair", scope.repair != 0).then_some(scope.repair),
        read_through: mask.takes("read_through", scope.read_through).then_some(scope.read_through),
    }
}

/// A field of the object at `path`, or a note that it is wrong; absent stays absent.
struct Fields<'a> {
    violations: &'a mut Violations,
    path: &'a str,
    sound: bool,
}

impl<'a> Fields<'a> {
    fn of(violations: &'a mut Violations, path: &'a str) -> Self {
        Self { violations, path, sound: true }
    }

    fn take<T, E: Display>(&mut self, name: &str, value: Result<T, E>) -> Option<T> {
        let value = self.violations.check(format!("{}.{name}", self.path), value);
        self.sound &= value.is_some();
        value
    }

    fn opt<V, T, E: Display>(
        &mut self,
        name: &str,
        value: Option<V>,
        read: impl FnOnce(V) -> Result<T, E>,
    ) -> Option<T> {
        value.and_then(|value| self.take(name, read(value)))
    }

    fn text(&mut self, name: &str, value: Option<String>) -> Option<String> {
        self.opt(name, value, |text| {
            if text.len() > TEXT_BYTES_MAX {
                return Err(format!("takes {} bytes; at most {TEXT_BYTES_MAX} are allowed", text.len()));
            }
            if text.chars().any(char::is_control) {
                return Err("has control characters".to_owned());
            }
            Ok(text)
        })
    }
}

fn stamp_patch(violations: &mut Violations, path: &str, stamp: v1::DesiredStamp) -> Option<StampPatch> {
    let mut fields = Fields::of(violations, path);
    let name = fields.take("name", StampName::parse(&stamp.name));
    let capacity = stamp.capacity.unwrap_or_default();
    let patch = StampPatch {
        name: name?,
        state: fields.opt("state", stamp.state, required_state),
        labels: fields.opt("labels", stamp.labels, |set| labels_from(&set.labels)),
        capacity_soft: capacity.soft.map(|limit| limit.devices),
        capacity_hard: capacity.hard.map(|limit| limit.devices),
        app_endpoint: fields.text("app_endpoint", stamp.app_endpoint),
        cost: fields.opt("cost", stamp.cost, cost_from),
    };
    fields.sound.then_some(patch)
}

fn hub_patch(violations: &mut Violations, path: &str, hub: v1::DesiredHub) -> Option<HubPatch> {
    let mut fields = Fields::of(violations, path);
    let name = fields.take("name", HubName::parse(&hub.name));
    let capacity = hub.capacity.unwrap_or_default();
    let patch = HubPatch {
        name: name?,
        stamp: fields.opt("stamp", hub.stamp, |name| StampName::parse(&name)),
        state: fields.opt("state", hub.state, required_state),
        capacity_soft: capacity.soft.map(|limit| limit.devices),
        capacity_hard: capacity.hard.map(|limit| limit.devices),
        tier: fields.opt("tier", hub.tier, tier_from).map(Option::unwrap_or_default),
        units: hub.units,
    };
    fields.sound.then_some(patch)
}

fn scope_patch(violations: &mut Violations, path: &str, scope: v1::DesiredScope) -> Option<ScopePatch> {
    let mut fields = Fields::of(violations, path);
    let name = fields.take("name", ScopeName::parse(&scope.name));
    let patch = ScopePatch {
        name: name?,
        service_host: fields.text("service_host", scope.service_host),
        credential_ref: fields.text("credential_ref", scope.credential_ref),
        linked_hubs: fields.opt("linked_hubs", scope.linked_hubs, linked_hubs_from),
        budget_percent: fields.opt("budget_percent", scope.budget_percent, percent_from),
        repair: fields.opt("repair", scope.repair, repair_from).map(Option::unwrap_or_default),
        read_through: scope.read_through,
    };
    fields.sound.then_some(patch)
}

fn route_patch(violations: &mut Violations, path: &str, route: v1::Route) -> Option<RoutePatch> {
    let mut fields = Fields::of(violations, path);
    let key = fields.take("key", RouteKey::parse(&route.key));
    let stamp = fields.take("stamp", StampName::parse(&route.stamp));
    Some(RoutePatch { key: key?, stamp: Some(stamp?) })
}

fn required_state(number: i32) -> Result<berth_core::PlaceState, String> {
    state_from(number)?
        .ok_or_else(|| "is not said; it is one of ACTIVE, CORDONED, DRAINING, OFFLINE".to_owned())
}

fn cost_from(cost: v1::Cost) -> Result<Cost, String> {
    let legal = cost.currency.is_empty()
        || cost.currency.len() == 3 && cost.currency.bytes().all(|byte| byte.is_ascii_uppercase());
    if !legal {
        let shown: String = cost.currency.chars().take(16).collect();
        return Err(format!("currency `{shown}` is not an ISO 4217 code such as EUR"));
    }
    Ok(Cost {
        currency: cost.currency,
        fixed_micros: cost.fixed_micros_per_month,
        per_device_micros: cost.device_micros_per_month,
    })
}

fn linked_hubs_from(linked: v1::DesiredLinkedHubs) -> Result<Vec<HubName>, String> {
    if linked.hubs.len() > LINKED_HUBS_MAX {
        return Err(format!("{} hubs; at most {LINKED_HUBS_MAX} are allowed", linked.hubs.len()));
    }
    linked.hubs.iter().map(|hub| HubName::parse(hub).map_err(|error| error.to_string())).collect()
}

fn percent_from(percent: u32) -> Result<u8, String> {
    match u8::try_from(percent) {
        // Zero in a message is the default share.
        Ok(0) => Ok(BUDGET_PERCENT_DEFAULT),
        Ok(percent @ 1..=100) => Ok(percent),
        _ => Err(format!("{percent} is not a percentage from 1 to 100")),
    }
}

/// Berth's share of a scope's operations unless told otherwise: devices' own registrations need the rest.
const BUDGET_PERCENT_DEFAULT: u8 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
        Some(prost_types::FieldMask { paths: paths.iter().map(|p| (*p).to_owned()).collect() })
    }

    fn stamp(name: &str) -> v1::Stamp {
        v1::Stamp { name: name.to_owned(), ..v1::Stamp::default() }
    }

    #[test]
    fn an_unmasked_update_changes_what_has_a_value() {
        let message = v1::Stamp {
            app_endpoint: "https://app.example".to_owned(),
            capacity: Some(v1::Capacity { soft: None, hard: Some(5) }),
            ..stamp("s")
        };
        let (expect, patch) = stamp_update(Some(message), None, 0).unwrap();
        let ObjectPatch::Stamp(patch) = patch else { panic!("{patch:?}") };
        assert_eq!(expect, Expect::Present);
        assert_eq!(patch.app_endpoint.as_deref(), Some("https://app.example"));
        assert_eq!((patch.capacity_soft, patch.capacity_hard), (None, Some(Some(5))));
        assert_eq!((patch.state, patch.labels, patch.cost), (None, None, None));
    }

    #[test]
    fn a_masked_field_without_a_value_is_cleared() {
        let fields = mask(&["labels", "capacity.hard", "app_endpoint", "cost"]);
        let (expect, patch) = stamp_update(Some(stamp("s")), fields, 9).unwrap();
        let ObjectPatch::Stamp(patch) = patch else { panic!("{patch:?}") };
        assert_eq!(expect, Expect::At(Revision(9)));
        assert_eq!(patch.labels.map(|labels| labels.len()), Some(0));
        assert_eq!((patch.capacity_soft, patch.capacity_hard), (None, Some(None)));
        assert_eq!(patch.app_endpoint.as_deref(), Some(""));
        assert_eq!(patch.cost, Some(Cost::default()));
    }

    #[test]
    fn unknown_masks_and_cleared_states_are_refused() {
        let error = stamp_update(Some(stamp("s")), mask(&["name"]), 0).unwrap_err();
        assert!(error.to_string().contains("`name` cannot be changed"), "{error}");
        let error = stamp_update(Some(stamp("s")), mask(&["state"]), 0).unwrap_err();
        assert!(error.to_string().contains("stamp.state"), "{error}");
    }

    #[test]
    fn every_malformed_field_of_a_description_is_named() {
        let desired = v1::DesiredTopology {
            stamps: vec![v1::DesiredStamp { name: "bad name".to_owned(), ..v1::DesiredStamp::default() }],
            hubs: vec![v1::DesiredHub {
                name: "h.example".to_owned(),
                state: Some(99),
                ..v1::DesiredHub::default()
            }],
            scopes: vec![v1::DesiredScope {
                name: "0ne1".to_owned(),
                budget_percent: Some(101),
                ..v1::DesiredScope::default()
            }],
            routes: vec![v1::Route { key: "k".to_owned(), ..v1::Route::default() }],
        };
        let ApiError::Invalid(violations) = desired_edit(Some(desired), false).unwrap_err() else { panic!() };
        let fields: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
        let expected = [
            "desired.stamps[0].name",
            "desired.hubs[0].state",
            "desired.scopes[0].budget_percent",
            "desired.routes[0].stamp",
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_new_hub_needs_its_stamp() {
        let hub = v1::Hub { name: "H.Example".to_owned(), ..v1::Hub::default() };
        assert!(new_hub(Some(hub.clone())).unwrap_err().to_string().contains("hub.stamp"));
        let (expect, patch) = new_hub(Some(v1::Hub { stamp: "s".to_owned(), ..hub })).unwrap();
        let ObjectPatch::Hub(patch) = patch else { panic!("{patch:?}") };
        assert_eq!((expect, patch.name.as_str()), (Expect::Absent, "h.example"));
    }
}
