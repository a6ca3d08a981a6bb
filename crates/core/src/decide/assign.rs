//! Assign, batch-assign and remove.

use std::collections::BTreeMap;

use super::Decided;
use crate::{
    Assign, BATCH_DEVICES_MAX, DEVICE_TWINS_MAX, Delta, DeviceId, Epoch, Evidence, Hub, HubName, HubNo,
    ItemRejection, LabelSetNo, Labels, Mapping, ObjectKind, Outcome, PlaceState, Precondition, Registration,
    RegistrationId, Rejection, Remove, Revision, ScopeNo, Seats, SoftLimit, StampNo, Status, Timestamp, View,
};

/// Most label sets: numbers are 16 bits, and 0 is the empty set.
const LABEL_SETS_MAX: usize = 65_536;

/// One device.
pub(super) fn one(view: &impl View, assign: &Assign, revision: Revision, now: Timestamp) -> Decided {
    let mut plan = Plan::new(view, revision, now);
    let change = plan.add(assign)?;
    let (delta, over_soft) = plan.finish()?;
    let (epoch, created, moved) = (change.epoch, change.kind == Kind::Created, change.kind <= Kind::Moved);
    Ok((Outcome::Assigned { revision, epoch, created, moved, over_soft }, delta))
}

/// Many devices, all or nothing.
pub(super) fn batch(view: &impl View, batch: &[Assign], revision: Revision, now: Timestamp) -> Decided {
    if batch.is_empty() || batch.len() > BATCH_DEVICES_MAX {
        return Err(Rejection::BatchSize { count: batch.len() as u64, max: BATCH_DEVICES_MAX as u64 });
    }
    let mut items = duplicates(view, batch);
    let mut plan = Plan::new(view, revision, now);
    plan.devices.reserve(batch.len());
    let mut counts = [0u32; 4];
    for (index, assign) in (0u32..).zip(batch) {
        match plan.add(assign) {
            Ok(change) => counts[change.kind as usize] += 1,
            Err(rejection) => items.push(ItemRejection { index, rejection }),
        }
    }
    if !items.is_empty() {
        items.sort_by_key(|item| item.index);
        items.dedup_by_key(|item| item.index);
        return Err(Rejection::Batch { items });
    }
    let (delta, over_soft) = plan.finish()?;
    let [created, moved, touched, unchanged] = counts;
    Ok((Outcome::BatchAssigned { revision, created, moved, touched, unchanged, over_soft }, delta))
}

/// Remove one device.
pub(super) fn remove(view: &impl View, remove: &Remove, revision: Revision) -> Decided {
    let held = view.device(&remove.device);
    check_precondition(&remove.device, remove.precondition, held.as_ref())?;
    let Some(held) = held else {
        return Err(Rejection::DeviceUnknown { device: remove.device.to_string() });
    };
    let mut delta = Delta { devices: vec![(remove.device.clone(), None)], ..Delta::default() };
    if let Some(hub) = held.hub {
        delta.hub_devices.push((hub, -1));
    }
    if let Some(scope) = held.scope {
        delta.scope_devices.push((scope, -1));
        if let Registration::Explicit(id) = held.registration {
            delta.registrations.push((scope, id, None));
        }
    }
    if held.labels != LabelSetNo::EMPTY {
        delta.label_set_devices.push((held.labels, -1));
        if view.label_set_devices(held.labels) <= 1 {
            delta.label_sets.push((held.labels, None));
        }
    }
    Ok((Outcome::Removed { revision, epoch: held.epoch }, delta))
}

/// How much of a device an assignment changes, from most to least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Created = 0,
    Moved = 1,
    Touched = 2,
    Unchanged = 3,
}

struct Change {
    epoch: Epoch,
    kind: Kind,
}

/// The effects of the items so far. An item that is refused adds nothing.
struct Plan<'v, V> {
    view: &'v V,
    revision: Revision,
    now: Timestamp,
    devices: Vec<(DeviceId, Option<Mapping>)>,
    registrations: Vec<(ScopeNo, RegistrationId, Option<DeviceId>)>,
    hub_devices: BTreeMap<HubNo, i64>,
    scope_devices: BTreeMap<ScopeNo, i64>,
    label_devices: BTreeMap<LabelSetNo, i64>,
    /// Sets that this command interns.
    new_sets: BTreeMap<Labels, LabelSetNo>,
    /// Numbers free for them, fetched in doubling portions, since finding them may mean a walk over those in use.
    free_sets: Vec<LabelSetNo>,
    /// Registrations that this command claims.
    claims: BTreeMap<(ScopeNo, String), DeviceId>,
    /// The hub of the item before, since most batches name few hubs.
    last_hub: Option<(HubName, HubNo)>,
}

impl<'v, V: View> Plan<'v, V> {
    fn new(view: &'v V, revision: Revision, now: Timestamp) -> Self {
        Self {
            view,
            revision,
            now,
            devices: Vec::new(),
            registrations: Vec::new(),
            hub_devices: BTreeMap::new(),
            scope_devices: BTreeMap::new(),
            label_devices: BTreeMap::new(),
            new_sets: BTreeMap::new(),
            free_sets: Vec::new(),
            claims: BTreeMap::new(),
            last_hub: None,
        }
    }

    /// Checks one item and, where it stands, adds its effects.
    fn add(&mut self, assign: &Assign) -> Result<Change, Rejection> {
        let held = self.view.device(&assign.device);
        check_precondition(&assign.device, assign.precondition, held.as_ref())?;
        if held.is_none() && self.view.device_twins(&assign.device) >= DEVICE_TWINS_MAX {
            return Err(too_many_twins(&assign.device));
        }
        let hub = match &assign.hub {
            Some(name) => Some(self.hub_no(name)?),
            None => held.as_ref().and_then(|m| m.hub),
        };
        let arrives = hub.filter(|&hub| held.as_ref().and_then(|m| m.hub) != Some(hub));
        if let Some(hub) = arrives {
            self.check_open(hub)?;
        }
        let status = wanted_status(assign.status, held.as_ref(), hub);
        if status == Status::Assigned && hub.is_none() {
            return Err(Rejection::HubRequired { device: assign.device.to_string() });
        }
        let (scope, registration) = self.identity(assign, held.as_ref())?;
        let labels = match &assign.labels {
            None => held.as_ref().map_or(LabelSetNo::EMPTY, |m| m.labels),
            Some(labels) => self.label_set(labels)?,
        };

        let kind = match &held {
            None => Kind::Created,
            Some(m) if m.hub != hub || m.status != status => Kind::Moved,
            Some(m) if m.scope != scope || m.registration != registration || m.labels != labels => {
                Kind::Touched
            }
            Some(_) => Kind::Unchanged,
        };
        let stamped = Evidence { source: assign.evidence, at: Timestamp::from_seconds(self.now.seconds()) };
        let (epoch, origin, evidence) = match (&held, kind) {
            // Stamped anew, an old word on the hub would pass for the observer's, which the next answer may undo.
            (Some(m), Kind::Moved) if m.hub == hub && assign.evidence.observes() => {
                (m.epoch.next(), m.origin, m.evidence)
            }
            (Some(m), Kind::Moved) => (m.epoch.next(), assign.origin, stamped),
            (Some(m), _) => (m.epoch, m.origin, m.evidence),
            (None, _) => (Epoch(self.revision.0), assign.origin, stamped),
        };
        if kind != Kind::Unchanged {
            let mapping = Mapping {
                hub,
                status,
                epoch,
                revision: self.revision,
                origin,
                evidence,
                scope,
                registration,
                labels,
            };
            self.write(&assign.device, held.as_ref(), mapping);
        }
        Ok(Change { epoch, kind })
    }

    /// Adds the row and all that hangs on it.
    fn write(&mut self, device: &DeviceId, held: Option<&Mapping>, mapping: Mapping) {
        let before = held.and_then(|m| m.hub);
        if before != mapping.hub {
            before.into_iter().for_each(|hub| bump(&mut self.hub_devices, hub, -1));
            mapping.hub.into_iter().for_each(|hub| bump(&mut self.hub_devices, hub, 1));
        }
        let labels_before = held.map_or(LabelSetNo::EMPTY, |m| m.labels);
        if labels_before != mapping.labels {
            bump(&mut self.label_devices, labels_before, -1);
            bump(&mut self.label_devices, mapping.labels, 1);
        }
        if let Some(scope) = mapping.scope {
            if held.and_then(|m| m.scope).is_none() {
                bump(&mut self.scope_devices, scope, 1);
            }
            let registered_before = held.map_or(&Registration::None, |m| &m.registration);
            if *registered_before != mapping.registration {
                if let Registration::Explicit(old) = registered_before {
                    self.registrations.push((scope, old.clone(), None));
                }
                if let Registration::Explicit(new) = &mapping.registration {
                    self.registrations.push((scope, new.clone(), Some(device.clone())));
                }
                if let Some(id) = registration_id(device, &mapping.registration) {
                    self.claims.insert((scope, id.folded()), device.clone());
                }
            }
        }
        self.devices.push((device.clone(), Some(mapping)));
    }

    fn hub_no(&mut self, name: &HubName) -> Result<HubNo, Rejection> {
        if let Some((_, no)) = self.last_hub.as_ref().filter(|(last, _)| last == name) {
            return Ok(*no);
        }
        let Some(hub) = self.view.topology().hub_named(name) else {
            return Err(Rejection::Unknown { kind: ObjectKind::Hub, name: name.to_string() });
        };
        self.last_hub = Some((name.clone(), hub.no));
        Ok(hub.no)
    }

    /// A newcomer needs an active hub in an active stamp.
    fn check_open(&self, hub: HubNo) -> Result<(), Rejection> {
        let topology = self.view.topology();
        let Some(hub) = topology.hub(hub) else { return Ok(()) };
        let closed =
            |kind, name: String, state| Err(Rejection::Closed { hub: hub.name.clone(), kind, name, state });
        if hub.state != PlaceState::Active {
            return closed(ObjectKind::Hub, hub.name.to_string(), hub.state);
        }
        match topology.stamp(hub.stamp) {
            Some(stamp) if stamp.state != PlaceState::Active => {
                closed(ObjectKind::Stamp, stamp.name.to_string(), stamp.state)
            }
            _ => Ok(()),
        }
    }

    /// The scope and registration the device will have.
    fn identity(
        &self,
        assign: &Assign,
        held: Option<&Mapping>,
    ) -> Result<(Option<ScopeNo>, Registration), Rejection> {
        let device = &assign.device;
        let held_scope = held.and_then(|m| m.scope);
        let asked = match &assign.scope {
            None => None,
            Some(name) => match self.view.topology().scope_named(name) {
                Some(scope) => Some(scope.no),
                None => return Err(Rejection::Unknown { kind: ObjectKind::Scope, name: name.to_string() }),
            },
        };
        if let (Some(held), Some(asked)) = (held_scope, asked)
            && held != asked
        {
            return Err(Rejection::ScopeConflict {
                device: device.to_string(),
                held: self.scope_name(held),
                asked: self.scope_name(asked),
            });
        }
        let Some(scope) = held_scope.or(asked) else {
            return match assign.registration {
                Some(_) => Err(Rejection::ScopeRequired { device: device.to_string() }),
                None => Ok((None, Registration::None)),
            };
        };
        let registration = match &assign.registration {
            Some(id) if id.same_as(device.as_str()) => Registration::SameAsDevice,
            Some(id) => Registration::Explicit(id.clone()),
            None => match held.filter(|m| m.scope.is_some()) {
                Some(m) => m.registration.clone(),
                None if device.as_registration().is_some() => Registration::SameAsDevice,
                None => Registration::None,
            },
        };
        let unchanged = held.is_some_and(|m| m.scope == Some(scope) && m.registration == registration);
        if !unchanged && let Some(id) = registration_id(device, &registration) {
            let holder = self.view.registration(scope, &id).filter(|holder| holder != device);
            let holder =
                holder.or_else(|| self.claims.get(&(scope, id.folded())).filter(|h| *h != device).cloned());
            if let Some(holder) = holder {
                return Err(Rejection::RegistrationTaken {
                    registration: id.to_string(),
                    scope: self.scope_name(scope),
                    holder: holder.to_string(),
                });
            }
        }
        Ok((Some(scope), registration))
    }

    fn scope_name(&self, no: ScopeNo) -> String {
        self.view.topology().scope(no).map_or_else(|| no.to_string(), |s| s.name.to_string())
    }

    /// The number of `labels`, interned now where they are new.
    fn label_set(&mut self, labels: &Labels) -> Result<LabelSetNo, Rejection> {
        if let Some(no) = self.view.label_set_no(labels).or_else(|| self.new_sets.get(labels).copied()) {
            return Ok(no);
        }
        let at = self.new_sets.len();
        if at >= self.free_sets.len() {
            self.free_sets = self.view.free_label_sets((at + 1).next_power_of_two());
        }
        match self.free_sets.get(at) {
            Some(&no) => {
                self.new_sets.insert(labels.clone(), no);
                Ok(no)
            }
            None => Err(self.label_sets_full(labels)),
        }
    }

    /// Names the key that has the most values, since that is the one to use less.
    fn label_sets_full(&self, asked: &Labels) -> Rejection {
        let mut values: BTreeMap<&str, BTreeMap<&str, ()>> = BTreeMap::new();
        let known =
            (1..LABEL_SETS_MAX).filter_map(|no| self.view.label_set(LabelSetNo(u16::try_from(no).ok()?)));
        for (key, value) in known.chain(self.new_sets.keys()).chain([asked]).flat_map(Labels::iter) {
            values.entry(key).or_default().insert(value, ());
        }
        let most = values.iter().max_by_key(|(_, values)| values.len());
        let (key, values) =
            most.map_or((String::new(), 0), |(key, values)| ((*key).to_owned(), values.len() as u64));
        Rejection::LabelSetsFull { key, values }
    }

    /// Checks capacities over the whole command and closes the delta.
    fn finish(self) -> Result<(Delta, Vec<SoftLimit>), Rejection> {
        let over_soft = self.check_capacity()?;
        let mut delta = Delta {
            devices: self.devices,
            registrations: settled(self.registrations),
            hub_devices: nonzero(self.hub_devices),
            scope_devices: nonzero(self.scope_devices),
            label_set_devices: nonzero(self.label_devices),
            ..Delta::default()
        };
        delta.label_set_devices.retain(|(no, _)| *no != LabelSetNo::EMPTY);
        for (labels, no) in self.new_sets {
            // A set named only by items that were refused or taken back is not interned.
            let used = delta.label_set_devices.binary_search_by_key(&no, |(used, _)| *used);
            if used.is_ok() {
                delta.label_sets.push((no, Some(labels)));
            }
        }
        for &(no, change) in delta.label_set_devices.iter().filter(|(_, change)| *change < 0) {
            if self.view.label_set_devices(no).saturating_add_signed(change) == 0 {
                delta.label_sets.push((no, None));
            }
        }
        delta.label_sets.sort_by_key(|(no, _)| *no);
        Ok((delta, over_soft))
    }

    fn check_capacity(&self) -> Result<Vec<SoftLimit>, Rejection> {
        let topology = self.view.topology();
        let mut over_soft = Vec::new();
        let mut stamps: BTreeMap<StampNo, i64> = BTreeMap::new();
        for (&no, &change) in &self.hub_devices {
            let Some(hub): Option<&Hub> = topology.hub(no) else { continue };
            bump(&mut stamps, hub.stamp, change);
            let seats = self.view.hub_seats(no);
            over_soft.extend(check_seats(ObjectKind::Hub, hub.name.as_str(), hub.capacity, seats, change)?);
        }
        for (no, change) in stamps {
            let Some(stamp) = topology.stamp(no) else { continue };
            let seats = self.view.stamp_seats(no);
            over_soft.extend(check_seats(
                ObjectKind::Stamp,
                stamp.name.as_str(),
                stamp.capacity,
                seats,
                change,
            )?);
        }
        Ok(over_soft)
    }
}

/// Refuses an arrival past the hard capacity; reports one past the soft.
fn check_seats(
    kind: ObjectKind,
    name: &str,
    capacity: crate::Capacity,
    seats: Seats,
    change: i64,
) -> Result<Option<SoftLimit>, Rejection> {
    let Ok(asked) = u64::try_from(change) else { return Ok(None) };
    let after = seats.taken().saturating_add(asked);
    if asked == 0 {
        return Ok(None);
    }
    if let Some(hard) = capacity.hard.filter(|&hard| after > hard) {
        let (name, used, reserved) = (name.to_owned(), seats.devices, seats.reserved);
        return Err(Rejection::Full { kind, name, asked, used, reserved, hard });
    }
    let passed = capacity.soft.filter(|&soft| after > soft);
    Ok(passed.map(|limit| SoftLimit { kind, name: name.to_owned(), used: after, limit }))
}

fn check_precondition(
    device: &DeviceId,
    precondition: Precondition,
    held: Option<&Mapping>,
) -> Result<(), Rejection> {
    match (precondition, held) {
        (Precondition::None, _) | (Precondition::Absent, None) => Ok(()),
        (Precondition::Absent, Some(m)) => {
            Err(Rejection::DeviceExists { device: device.to_string(), actual: m.epoch })
        }
        (Precondition::Epoch(_), None) => Err(Rejection::DeviceUnknown { device: device.to_string() }),
        #[cfg(not(berth_break = "epoch_check"))]
        (Precondition::Epoch(expected), Some(m)) if m.epoch != expected => {
            Err(Rejection::EpochMismatch { device: device.to_string(), expected, actual: m.epoch })
        }
        (Precondition::Epoch(_), Some(_)) => Ok(()),
    }
}

/// The status asked for, or the one that follows: a device that gets a hub is assigned, but stays disabled if it was.
fn wanted_status(asked: Option<Status>, held: Option<&Mapping>, hub: Option<HubNo>) -> Status {
    let moved = held.is_none_or(|m| m.hub != hub);
    match (asked, held) {
        (Some(status), _) => status,
        (None, Some(m)) if m.status == Status::Disabled || !moved => m.status,
        (None, _) if hub.is_some() => Status::Assigned,
        (None, Some(m)) => m.status,
        (None, None) => Status::Unassigned,
    }
}

fn registration_id(device: &DeviceId, registration: &Registration) -> Option<RegistrationId> {
    match registration {
        Registration::None => None,
        Registration::SameAsDevice => device.as_registration(),
        Registration::Explicit(id) => Some(id.clone()),
    }
}

fn bump<K: Ord>(counts: &mut BTreeMap<K, i64>, key: K, by: i64) {
    *counts.entry(key).or_default() += by;
}

fn nonzero<K: Ord>(counts: BTreeMap<K, i64>) -> Vec<(K, i64)> {
    counts.into_iter().filter(|(_, change)| *change != 0).collect()
}

/// Drops first, then puts: a registration that changes only its letter case must end as put.
fn settled(
    mut registrations: Vec<(ScopeNo, RegistrationId, Option<DeviceId>)>,
) -> Vec<(ScopeNo, RegistrationId, Option<DeviceId>)> {
    registrations.sort_by_key(|(_, _, device)| device.is_some());
    registrations
}

fn too_many_twins(device: &DeviceId) -> Rejection {
    Rejection::TooManyTwins { device: device.to_string(), max: DEVICE_TWINS_MAX as u64 }
}

/// Devices that stand in the batch more than once, or as one of too many spellings of one ID.
fn duplicates(view: &impl View, batch: &[Assign]) -> Vec<ItemRejection> {
    // Sorting short hashes is several times cheaper than sorting texts; equal hashes are then compared as texts.
    let mut order: Vec<(u64, u32)> =
        batch.iter().zip(0u32..).map(|(a, i)| (folded_mix(a.device.as_str()), i)).collect();
    order.sort_unstable();
    let device = |at: u32| batch.get(at as usize).map(|a| &a.device);
    let mut found = Vec::new();
    for group in order.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
        let mut first: BTreeMap<&DeviceId, u32> = BTreeMap::new();
        let mut twins: BTreeMap<String, usize> = BTreeMap::new();
        for &(_, index) in group {
            let Some(id) = device(index) else { continue };
            if let Some(&first) = first.get(id) {
                let rejection = Rejection::DuplicateInBatch { device: id.to_string(), first };
                found.push(ItemRejection { index, rejection });
                continue;
            }
            first.insert(id, index);
            if view.device(id).is_none() {
                let folded = id.as_str().to_ascii_lowercase();
                let count = twins.entry(folded).or_insert_with(|| view.device_twins(id));
                *count += 1;
                if *count > DEVICE_TWINS_MAX {
                    found.push(ItemRejection { index, rejection: too_many_twins(id) });
                }
            }
        }
    }
    found
}

/// A cheap unkeyed hash without regard to ASCII case, only to bring equal IDs together.
fn folded_mix(text: &str) -> u64 {
    let (words, rest) = text.as_bytes().as_chunks::<8>();
    let mut tail = [0u8; 8];
    tail[..rest.len()].copy_from_slice(rest);
    let mut hash = text.len() as u64;
    for mut word in words.iter().copied().chain([tail]) {
        word.make_ascii_lowercase();
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    hash ^ (hash >> 32)
}
