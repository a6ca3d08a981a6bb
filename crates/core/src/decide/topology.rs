//! Editing the topology: patches and deletions are tried on a copy, and the whole edit stands or falls.

mod fields;

use std::collections::{BTreeMap, BTreeSet};

use self::fields::{
    check_credential_ref, check_endpoint, check_host, differences, hub_fields, route_fields, scope_fields,
    stamp_fields,
};
use super::Decided;
use crate::topology::edit::{
    Expect, HubPatch, ObjectPatch, ObjectRef, RoutePatch, ScopePatch, StampPatch, TopologyEdit,
};
use crate::{
    Capacity, Cost, Delta, DiffAction, DiffEntry, FieldChange, Hub, HubNo, Labels, ObjectKind, Outcome,
    PlaceState, Rejection, RepairRule, Revision, Route, Scope, ScopeNo, Seats, SoftLimit, Stamp, StampName,
    StampNo, Tier, Topology, TopologyChange, View,
};

/// Most objects named by one edit.
const EDIT_OBJECTS_MAX: usize = 10_000;
/// Most objects of each kind: the topology is held decoded and copied on every edit.
const STAMPS_MAX: usize = 10_000;
const HUBS_MAX: usize = 20_000;
const SCOPES_MAX: usize = 1_000;
const ROUTES_MAX: usize = 100_000;
/// Most hubs linked to one scope.
const LINKED_HUBS_MAX: usize = 100;
/// Berth's share of a scope's operation budget where none is given: devices' own registrations need the rest.
const BUDGET_PERCENT_DEFAULT: u8 = 60;

/// Why an edit that holds a secret is refused.
pub(super) fn misplaced_secret(edit: &TopologyEdit) -> Option<Rejection> {
    edit.patches.iter().find_map(|(_, patch)| match patch {
        ObjectPatch::Scope(scope) => {
            let reference = scope.credential_ref.as_deref()?;
            check_credential_ref(ObjectKind::Scope, scope.name.as_str(), reference).err()
        }
        ObjectPatch::Stamp(_) | ObjectPatch::Hub(_) | ObjectPatch::Route(_) => None,
    })
}

/// Edits stamps, hubs, scopes and routes.
pub(super) fn edit(view: &impl View, edit: &TopologyEdit, revision: Revision) -> Decided {
    let named = edit.patches.len() + edit.deletes.len();
    if named > EDIT_OBJECTS_MAX {
        return Err(Rejection::BatchSize { count: named as u64, max: EDIT_OBJECTS_MAX as u64 });
    }
    check_named_once(edit)?;
    let mut draft =
        Draft { view, topology: view.topology().clone(), revision, changes: Vec::new(), diff: Vec::new() };
    // Stamps before the hubs in them, hubs before the scopes linked to them.
    for kind in [ObjectKind::Stamp, ObjectKind::Hub, ObjectKind::Scope, ObjectKind::Route] {
        for (expect, patch) in edit.patches.iter().filter(|(_, patch)| kind_of(&patch.object()) == kind) {
            draft.patch(*expect, patch)?;
        }
    }
    let mut deletes: Vec<(Expect, ObjectRef)> = edit.deletes.clone();
    if edit.prune {
        deletes.extend(draft.unnamed(edit).into_iter().map(|object| (Expect::Any, object)));
    }
    // The other way round, so that what uses a thing goes before the thing.
    deletes.sort_by(|a, b| b.1.cmp(&a.1));
    for same_kind in deletes.chunk_by(|a, b| kind_of(&a.1) == kind_of(&b.1)) {
        // Nothing is used by its own kind, so that one count serves all deletions of a kind.
        let uses = Uses::of(&draft.topology);
        for (expect, object) in same_kind {
            draft.delete(*expect, object, &uses)?;
        }
    }
    draft.check_counts()?;
    let over = draft.over();
    let Draft { changes, diff, .. } = draft;
    Ok((Outcome::TopologyEdited { revision, diff, over }, Delta { topology: changes, ..Delta::default() }))
}

/// Two patches of one object, or a patch and a deletion, would leave it to their order what is meant.
fn check_named_once(edit: &TopologyEdit) -> Result<(), Rejection> {
    let mut named = BTreeSet::new();
    let patched = edit.patches.iter().map(|(_, patch)| patch.object());
    for object in patched.chain(edit.deletes.iter().map(|(_, object)| object.clone())) {
        if named.contains(&object) {
            return Err(invalid(
                kind_of(&object),
                name_of(&object),
                "is named twice; name each object once in an edit",
            ));
        }
        named.insert(object);
    }
    Ok(())
}

/// How often stamps and hubs are used by other objects.
#[derive(Default)]
struct Uses {
    hubs: BTreeMap<StampNo, u64>,
    routes: BTreeMap<StampNo, u64>,
    scopes: BTreeMap<HubNo, u64>,
}

impl Uses {
    fn of(topology: &Topology) -> Self {
        let mut uses = Self::default();
        topology.hubs().for_each(|hub| *uses.hubs.entry(hub.stamp).or_default() += 1);
        topology.routes().for_each(|route| *uses.routes.entry(route.stamp).or_default() += 1);
        for hub in topology.scopes().flat_map(|scope| &scope.linked_hubs) {
            *uses.scopes.entry(*hub).or_default() += 1;
        }
        uses
    }
}

/// The topology as edited so far.
struct Draft<'v, V> {
    view: &'v V,
    topology: Topology,
    revision: Revision,
    changes: Vec<TopologyChange>,
    diff: Vec<DiffEntry>,
}

impl<V: View> Draft<'_, V> {
    fn patch(&mut self, expect: Expect, patch: &ObjectPatch) -> Result<(), Rejection> {
        match patch {
            ObjectPatch::Stamp(patch) => self.patch_stamp(expect, patch),
            ObjectPatch::Hub(patch) => self.patch_hub(expect, patch),
            ObjectPatch::Scope(patch) => self.patch_scope(expect, patch),
            ObjectPatch::Route(patch) => self.patch_route(expect, patch),
        }
    }

    fn patch_stamp(&mut self, expect: Expect, patch: &StampPatch) -> Result<(), Rejection> {
        let (kind, name) = (ObjectKind::Stamp, patch.name.as_str());
        let before = self.topology.stamp_named(&patch.name).cloned();
        check_expected(expect, kind, name, before.as_ref().map(|s| s.revision))?;
        let mut stamp = match &before {
            Some(stamp) => stamp.clone(),
            None => Stamp {
                no: StampNo(next_number(kind, self.topology.next_numbers().0.into(), u32::MAX.into())?),
                name: patch.name.clone(),
                state: PlaceState::Active,
                labels: Labels::default(),
                capacity: Capacity::default(),
                app_endpoint: String::new(),
                cost: Cost::default(),
                revision: self.revision,
            },
        };
        set(&mut stamp.state, &patch.state);
        set(&mut stamp.labels, &patch.labels);
        set(&mut stamp.capacity.soft, &patch.capacity_soft);
        set(&mut stamp.capacity.hard, &patch.capacity_hard);
        set(&mut stamp.app_endpoint, &patch.app_endpoint);
        set(&mut stamp.cost, &patch.cost);
        stamp.capacity.check().map_err(|e| invalid(kind, name, e.to_string()))?;
        check_endpoint(kind, name, &stamp.app_endpoint)?;
        let currency = &stamp.cost.currency;
        if !(currency.is_empty() || currency.len() == 3 && currency.bytes().all(|b| b.is_ascii_uppercase())) {
            return Err(invalid(
                kind,
                name,
                format!("currency {currency:?} is not three capital letters (ISO 4217)"),
            ));
        }
        let fields = differences(before.as_ref().map(stamp_fields), stamp_fields(&stamp));
        stamp.revision = self.revision;
        let created = before.is_none();
        self.put(kind, name, created, fields, TopologyChange::PutStamp(stamp));
        Ok(())
    }

    fn patch_hub(&mut self, expect: Expect, patch: &HubPatch) -> Result<(), Rejection> {
        let (kind, name) = (ObjectKind::Hub, patch.name.as_str());
        let before = self.topology.hub_named(&patch.name).cloned();
        check_expected(expect, kind, name, before.as_ref().map(|h| h.revision))?;
        let stamp = match (&patch.stamp, &before) {
            (Some(stamp), _) => self.stamp_no(stamp)?,
            (None, Some(hub)) => hub.stamp,
            (None, None) => return Err(invalid(kind, name, "needs a stamp to be created in")),
        };
        let mut hub = match &before {
            Some(hub) => hub.clone(),
            None => Hub {
                no: HubNo(next_number(
                    kind,
                    self.topology.next_numbers().1.into(),
                    Topology::HUB_NO_MAX.into(),
                )?),
                name: patch.name.clone(),
                stamp,
                state: PlaceState::Active,
                capacity: Capacity::default(),
                tier: Tier::Unknown,
                units: 0,
                revision: self.revision,
            },
        };
        if hub.stamp != stamp {
            let seats = self.view.hub_seats(hub.no);
            if seats.taken() > 0 {
                let problem = format!(
                    "cannot change its stamp while it has {} devices and reservations",
                    seats.taken()
                );
                return Err(invalid(kind, name, problem));
            }
            hub.stamp = stamp;
        }
        set(&mut hub.state, &patch.state);
        set(&mut hub.capacity.soft, &patch.capacity_soft);
        set(&mut hub.capacity.hard, &patch.capacity_hard);
        set(&mut hub.tier, &patch.tier);
        set(&mut hub.units, &patch.units);
        hub.capacity.check().map_err(|e| invalid(kind, name, e.to_string()))?;
        if hub.units > 200 {
            return Err(invalid(kind, name, format!("{} units; a hub has at most 200", hub.units)));
        }
        let fields = differences(
            before.as_ref().map(|h| hub_fields(&self.topology, h)),
            hub_fields(&self.topology, &hub),
        );
        hub.revision = self.revision;
        let created = before.is_none();
        self.put(kind, name, created, fields, TopologyChange::PutHub(hub));
        Ok(())
    }

    fn patch_scope(&mut self, expect: Expect, patch: &ScopePatch) -> Result<(), Rejection> {
        let (kind, name) = (ObjectKind::Scope, patch.name.as_str());
        let before = self.topology.scope_named(&patch.name).cloned();
        check_expected(expect, kind, name, before.as_ref().map(|s| s.revision))?;
        let mut scope = match &before {
            Some(scope) => scope.clone(),
            None => {
                let no = next_number(kind, self.topology.next_numbers().2.into(), u64::from(u16::MAX) - 1)?;
                Scope {
                    no: ScopeNo(u16::try_from(no).unwrap_or(u16::MAX)),
                    name: patch.name.clone(),
                    service_host: String::new(),
                    credential_ref: String::new(),
                    linked_hubs: Vec::new(),
                    budget_percent: BUDGET_PERCENT_DEFAULT,
                    repair: RepairRule::Adopt,
                    read_through: false,
                    revision: self.revision,
                }
            }
        };
        if let Some(names) = &patch.linked_hubs {
            let mut hubs = BTreeSet::new();
            for hub in names {
                match self.topology.hub_named(hub) {
                    Some(hub) => hubs.insert(hub.no),
                    None => return Err(Rejection::Unknown { kind: ObjectKind::Hub, name: hub.to_string() }),
                };
            }
            if hubs.len() > LINKED_HUBS_MAX {
                return Err(invalid(
                    kind,
                    name,
                    format!("{} linked hubs; at most {LINKED_HUBS_MAX}", hubs.len()),
                ));
            }
            scope.linked_hubs = hubs.into_iter().collect();
        }
        set(&mut scope.service_host, &patch.service_host);
        set(&mut scope.credential_ref, &patch.credential_ref);
        set(&mut scope.budget_percent, &patch.budget_percent);
        set(&mut scope.repair, &patch.repair);
        set(&mut scope.read_through, &patch.read_through);
        check_host(kind, name, &scope.service_host)?;
        check_credential_ref(kind, name, &scope.credential_ref)?;
        if !(1..=100).contains(&scope.budget_percent) {
            let problem = format!("budget of {} %; 1 to 100 are allowed", scope.budget_percent);
            return Err(invalid(kind, name, problem));
        }
        let fields = differences(
            before.as_ref().map(|s| scope_fields(&self.topology, s)),
            scope_fields(&self.topology, &scope),
        );
        scope.revision = self.revision;
        let created = before.is_none();
        self.put(kind, name, created, fields, TopologyChange::PutScope(scope));
        Ok(())
    }

    fn patch_route(&mut self, expect: Expect, patch: &RoutePatch) -> Result<(), Rejection> {
        let (kind, name) = (ObjectKind::Route, patch.key.as_str());
        let before = self.topology.route(&patch.key).cloned();
        check_expected(expect, kind, name, before.as_ref().map(|r| r.revision))?;
        let stamp = match (&patch.stamp, &before) {
            (Some(stamp), _) => self.stamp_no(stamp)?,
            (None, Some(route)) => route.stamp,
            (None, None) => return Err(invalid(kind, name, "needs a stamp to point at")),
        };
        let route = Route { key: patch.key.clone(), stamp, revision: self.revision };
        let fields = differences(
            before.as_ref().map(|r| route_fields(&self.topology, r)),
            route_fields(&self.topology, &route),
        );
        let created = before.is_none();
        self.put(kind, name, created, fields, TopologyChange::PutRoute(route));
        Ok(())
    }

    /// Takes up a written object, unless nothing of it changed.
    fn put(
        &mut self,
        kind: ObjectKind,
        name: &str,
        created: bool,
        fields: Vec<FieldChange>,
        change: TopologyChange,
    ) {
        if !created && fields.is_empty() {
            return;
        }
        let action = if created { DiffAction::Created } else { DiffAction::Updated };
        self.diff.push(DiffEntry { kind, name: name.to_owned(), action, fields });
        self.topology.apply(&change);
        self.changes.push(change);
    }

    fn stamp_no(&self, name: &StampName) -> Result<StampNo, Rejection> {
        match self.topology.stamp_named(name) {
            Some(stamp) => Ok(stamp.no),
            None => Err(Rejection::Unknown { kind: ObjectKind::Stamp, name: name.to_string() }),
        }
    }

    fn unnamed(&self, edit: &TopologyEdit) -> Vec<ObjectRef> {
        let patched = edit.patches.iter().map(|(_, patch)| patch.object());
        let named: BTreeSet<ObjectRef> =
            patched.chain(edit.deletes.iter().map(|(_, object)| object.clone())).collect();
        let stamps = self.topology.stamps().map(|s| ObjectRef::Stamp(s.name.clone()));
        let hubs = self.topology.hubs().map(|h| ObjectRef::Hub(h.name.clone()));
        let scopes = self.topology.scopes().map(|s| ObjectRef::Scope(s.name.clone()));
        let routes = self.topology.routes().map(|r| ObjectRef::Route(r.key.clone()));
        stamps.chain(hubs).chain(scopes).chain(routes).filter(|object| !named.contains(object)).collect()
    }

    fn delete(&mut self, expect: Expect, object: &ObjectRef, uses: &Uses) -> Result<(), Rejection> {
        let (kind, name) = (kind_of(object), name_of(object));
        let topology = &self.topology;
        let found = match object {
            ObjectRef::Stamp(name) => topology.stamp_named(name).map(|s| {
                let seats = self.view.stamp_seats(s.no);
                let (hubs, routes) = (count(&uses.hubs, s.no), count(&uses.routes, s.no));
                (
                    s.revision,
                    [seats.devices, seats.reserved, hubs, routes, 0],
                    TopologyChange::DropStamp(s.no),
                )
            }),
            ObjectRef::Hub(name) => topology.hub_named(name).map(|h| {
                let seats = self.view.hub_seats(h.no);
                let scopes = count(&uses.scopes, h.no);
                (h.revision, [seats.devices, seats.reserved, 0, 0, scopes], TopologyChange::DropHub(h.no))
            }),
            ObjectRef::Scope(name) => topology.scope_named(name).map(|s| {
                (s.revision, [self.view.scope_devices(s.no), 0, 0, 0, 0], TopologyChange::DropScope(s.no))
            }),
            ObjectRef::Route(key) => {
                topology.route(key).map(|r| (r.revision, [0; 5], TopologyChange::DropRoute(key.clone())))
            }
        };
        let Some((revision, uses, change)) = found else {
            return Err(Rejection::Unknown { kind, name: name.to_owned() });
        };
        check_expected(expect, kind, name, Some(revision))?;
        let [devices, reserved, hubs, routes, scopes] = uses;
        if uses.iter().any(|&count| count > 0) {
            return Err(Rejection::InUse {
                kind,
                name: name.to_owned(),
                devices,
                reserved,
                hubs,
                routes,
                scopes,
            });
        }
        self.diff.push(DiffEntry {
            kind,
            name: name.to_owned(),
            action: DiffAction::Deleted,
            fields: Vec::new(),
        });
        self.topology.apply(&change);
        self.changes.push(change);
        Ok(())
    }

    fn check_counts(&self) -> Result<(), Rejection> {
        let counts = [
            (ObjectKind::Stamp, self.topology.stamps().count(), STAMPS_MAX),
            (ObjectKind::Hub, self.topology.hubs().count(), HUBS_MAX),
            (ObjectKind::Scope, self.topology.scopes().count(), SCOPES_MAX),
            (ObjectKind::Route, self.topology.routes().count(), ROUTES_MAX),
        ];
        match counts.into_iter().find(|(_, count, max)| count > max) {
            None => Ok(()),
            Some((kind, count, max)) => {
                Err(invalid(kind, "*", format!("{count} of this kind; at most {max} are allowed")))
            }
        }
    }

    /// Places whose new hard capacity lies below what they hold.
    fn over(&self) -> Vec<SoftLimit> {
        let place = |kind, name: &str, capacity: Capacity, seats: Seats| {
            let limit = capacity.hard.filter(|&hard| seats.taken() > hard)?;
            Some(SoftLimit { kind, name: name.to_owned(), used: seats.taken(), limit })
        };
        let over = self.changes.iter().filter_map(|change| match change {
            TopologyChange::PutStamp(s) => {
                place(ObjectKind::Stamp, s.name.as_str(), s.capacity, self.view.stamp_seats(s.no))
            }
            TopologyChange::PutHub(h) => {
                place(ObjectKind::Hub, h.name.as_str(), h.capacity, self.view.hub_seats(h.no))
            }
            _ => None,
        });
        over.collect()
    }
}

fn count<K: Ord>(counts: &BTreeMap<K, u64>, key: K) -> u64 {
    counts.get(&key).copied().unwrap_or(0)
}

fn kind_of(object: &ObjectRef) -> ObjectKind {
    match object {
        ObjectRef::Stamp(_) => ObjectKind::Stamp,
        ObjectRef::Hub(_) => ObjectKind::Hub,
        ObjectRef::Scope(_) => ObjectKind::Scope,
        ObjectRef::Route(_) => ObjectKind::Route,
    }
}

fn name_of(object: &ObjectRef) -> &str {
    match object {
        ObjectRef::Stamp(name) => name.as_str(),
        ObjectRef::Hub(name) => name.as_str(),
        ObjectRef::Scope(name) => name.as_str(),
        ObjectRef::Route(key) => key.as_str(),
    }
}

fn check_expected(
    expect: Expect,
    kind: ObjectKind,
    name: &str,
    actual: Option<Revision>,
) -> Result<(), Rejection> {
    let name = || name.to_owned();
    match (expect, actual) {
        (Expect::Any, _) | (Expect::Absent, None) | (Expect::Present, Some(_)) => Ok(()),
        (Expect::Absent, Some(_)) => Err(Rejection::Exists { kind, name: name() }),
        (Expect::Present | Expect::At(_), None) => Err(Rejection::Unknown { kind, name: name() }),
        (Expect::At(expected), Some(actual)) if expected != actual => {
            Err(Rejection::EtagMismatch { kind, name: name(), expected, actual })
        }
        (Expect::At(_), Some(_)) => Ok(()),
    }
}

fn next_number(kind: ObjectKind, next: u64, max: u64) -> Result<u32, Rejection> {
    match u32::try_from(next) {
        Ok(no) if next < max => Ok(no),
        _ => Err(Rejection::NumbersExhausted { kind }),
    }
}

fn set<T: Clone>(field: &mut T, patch: &Option<T>) {
    if let Some(value) = patch {
        field.clone_from(value);
    }
}

fn invalid(kind: ObjectKind, name: &str, problem: impl Into<String>) -> Rejection {
    Rejection::Invalid { kind, name: name.to_owned(), problem: problem.into() }
}
