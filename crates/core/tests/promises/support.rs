//! What every step of a history must keep, checked without asking `decide`.

use std::collections::{BTreeMap, BTreeSet};

use berth_core::model::Model;
use berth_core::{
    Assign, BATCH_DEVICES_MAX, Command, DeviceId, Epoch, EvidenceSource, Hub, HubNo, LabelSetNo, Labels,
    Mapping, ObjectKind, Outcome, PlaceState, Precondition, Proposal, Registration, RegistrationId,
    Rejection, ScopeNo, Stamp, Status, Timestamp, Topology, View,
};

/// Walks a directory through a history and checks each step.
pub struct Walk {
    /// The directory.
    pub model: Model,
    /// The highest epoch each device ever had.
    epochs: BTreeMap<DeviceId, Epoch>,
    /// Every number ever given away, with the name that got it, by kind.
    numbers: BTreeMap<(ObjectKind, u32), String>,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Accepted(Outcome),
    Repeated(Outcome),
    Refused(Rejection),
}

impl Walk {
    pub fn new(replies_max: u64) -> Self {
        Self {
            model: Model::with_replies_max(replies_max),
            epochs: BTreeMap::new(),
            numbers: BTreeMap::new(),
        }
    }

    /// Proposes and checks that nothing but the allowed changed.
    pub fn step(&mut self, proposal: &Proposal, now: Timestamp) -> Step {
        let before = self.model.clone();
        let result = self.model.propose(proposal, now);
        let after = &self.model;
        let step = match result {
            Err(rejection) => {
                assert_eq!(&before, after, "a refusal changed something");
                check_refusal(&before, proposal, &rejection, now);
                Step::Refused(rejection)
            }
            Ok(outcome) if after.revision == before.revision => {
                assert_eq!(&before, after, "a repeat changed something");
                let id = proposal.request_id.expect("only requests with an ID repeat");
                assert_eq!(before.replies[&id].outcome, outcome);
                assert_eq!(before.replies[&id].payload_hash, proposal.payload_hash);
                Step::Repeated(outcome)
            }
            Ok(outcome) => {
                assert_eq!(after.revision, before.revision.next(), "revisions are dense");
                assert_eq!(outcome.revision(), after.revision);
                check_rows(&before, after, proposal, now);
                check_arrivals(&before, after);
                check_replies(&before, after, proposal);
                check_label_numbers(&before, after);
                Step::Accepted(outcome)
            }
        };
        self.check_epochs();
        self.check_numbers();
        check_state(&self.model);
        step
    }

    fn check_epochs(&mut self) {
        for (device, mapping) in &self.model.devices {
            let highest = self.epochs.entry(device.clone()).or_insert(mapping.epoch);
            assert!(
                mapping.epoch >= *highest,
                "the epoch of {device} fell from {highest} to {}",
                mapping.epoch
            );
            *highest = mapping.epoch;
            assert!(mapping.epoch.0 <= self.model.revision.0, "an epoch runs ahead of the revision");
        }
    }

    fn check_numbers(&mut self) {
        let topology = &self.model.topology;
        let stamps = topology.stamps().map(|s| ((ObjectKind::Stamp, s.no.0), s.name.to_string()));
        let hubs = topology.hubs().map(|h| ((ObjectKind::Hub, h.no.0), h.name.to_string()));
        let scopes = topology.scopes().map(|s| ((ObjectKind::Scope, s.no.0.into()), s.name.to_string()));
        let current: BTreeMap<_, _> = stamps.chain(hubs).chain(scopes).collect();
        for (key, name) in &current {
            match self.numbers.get(key) {
                Some(owner) => assert_eq!(owner, name, "number {key:?} was given twice"),
                None => assert!(
                    self.numbers.keys().all(|known| known.0 != key.0 || known.1 < key.1),
                    "number {key:?} of `{name}` is not above all former ones"
                ),
            }
        }
        // A number that is gone is marked, so that its coming back under the same name is seen too.
        for (key, name) in &mut self.numbers {
            if !current.contains_key(key) && !name.ends_with('\0') {
                name.push('\0');
            }
        }
        self.numbers.extend(
            current.into_iter().filter(|(key, _)| !self.numbers.contains_key(key)).collect::<Vec<_>>(),
        );
    }
}

/// Everything that holds of a directory at rest.
pub fn check_state(model: &Model) {
    let topology = &model.topology;
    let mut hubs: BTreeMap<HubNo, u64> = BTreeMap::new();
    let mut scopes: BTreeMap<ScopeNo, u64> = BTreeMap::new();
    let mut sets: BTreeMap<LabelSetNo, u64> = BTreeMap::new();
    let mut explicit: BTreeMap<(ScopeNo, String), DeviceId> = BTreeMap::new();
    let mut registered: BTreeMap<(ScopeNo, String), &DeviceId> = BTreeMap::new();
    for (device, mapping) in &model.devices {
        if let Some(hub) = mapping.hub {
            assert!(topology.hub(hub).is_some(), "{device} is on a hub that is not there");
            *hubs.entry(hub).or_default() += 1;
        }
        assert!(
            mapping.status != Status::Assigned || mapping.hub.is_some(),
            "{device} is assigned to no hub"
        );
        if mapping.labels != LabelSetNo::EMPTY {
            *sets.entry(mapping.labels).or_default() += 1;
        }
        let id = match (&mapping.registration, mapping.scope) {
            (Registration::None, _) => None,
            (_, None) => panic!("{device} is registered without a scope"),
            (Registration::SameAsDevice, Some(_)) => {
                Some(device.as_registration().expect("a legal registration"))
            }
            (Registration::Explicit(id), Some(scope)) => {
                assert!(!id.same_as(device.as_str()), "{device} has a row for what its own ID says");
                explicit.insert((scope, id.folded()), device.clone());
                Some(id.clone())
            }
        };
        if let Some(scope) = mapping.scope {
            assert!(topology.scope(scope).is_some(), "{device} is in a scope that is not there");
            *scopes.entry(scope).or_default() += 1;
            if let Some(id) = id {
                let holder = registered.insert((scope, id.folded()), device);
                assert_eq!(holder, None, "`{id}` names two devices of one scope, {device} is the second");
                for text in [id.to_string(), id.folded(), id.to_string().to_ascii_uppercase()] {
                    let id = RegistrationId::parse(&text).expect("another case of a legal ID");
                    assert_eq!(
                        model.registration(scope, &id).as_ref(),
                        Some(device),
                        "`{text}` finds its device"
                    );
                }
            }
        }
    }
    assert_eq!(model.hub_devices, hubs, "devices per hub equal a recount");
    assert_eq!(model.scope_devices, scopes, "devices per scope equal a recount");
    assert_eq!(model.label_set_devices, sets, "devices per label set equal a recount");
    assert_eq!(model.registrations, explicit, "explicit registrations are those of the rows");
    for stamp in topology.stamps() {
        let recount =
            model.devices.values().filter(|m| stamp_of(topology, m.hub) == Some(stamp.no)).count() as u64;
        assert_eq!(model.stamp_seats(stamp.no).devices, recount, "devices per stamp equal a recount");
    }
    let used: BTreeSet<LabelSetNo> = sets.keys().copied().collect();
    let interned: BTreeSet<LabelSetNo> = model.label_sets.keys().copied().collect();
    assert_eq!(interned, used, "exactly the label sets in use are interned");
    let distinct: BTreeSet<&Labels> = model.label_sets.values().collect();
    assert_eq!(distinct.len(), interned.len(), "no label set is interned twice");
    assert!(model.label_sets.values().all(|labels| !labels.is_empty()), "the empty set is not interned");
    assert!(topology.hubs().all(|hub| topology.stamp(hub.stamp).is_some()), "hubs are in stamps that exist");
    assert!(
        topology.routes().all(|route| topology.stamp(route.stamp).is_some()),
        "routes lead to stamps that exist"
    );
    let mut twins: BTreeMap<String, usize> = BTreeMap::new();
    for device in model.devices.keys() {
        *twins.entry(device.as_str().to_ascii_lowercase()).or_default() += 1;
    }
    assert!(
        twins.values().all(|&count| count <= berth_core::DEVICE_TWINS_MAX),
        "too many spellings of one ID"
    );
    let linked = |no: &HubNo| topology.hub(*no).is_some();
    assert!(
        topology.scopes().all(|scope| scope.linked_hubs.iter().all(linked)),
        "scopes link hubs that exist"
    );
    assert!(
        topology.stamps().all(|s| s.capacity.check().is_ok())
            && topology.hubs().all(|h| h.capacity.check().is_ok())
    );
    assert!(model.replies.len() as u64 <= model.replies_max, "the reply table keeps to its bound");
}

/// Rows change only as the command says.
fn check_rows(before: &Model, after: &Model, proposal: &Proposal, now: Timestamp) {
    let assigns: BTreeMap<&DeviceId, &Assign> = match &proposal.command {
        Command::Assign(assign) => [(&assign.device, assign)].into(),
        Command::BatchAssign(batch) => {
            assert!(
                (1..=BATCH_DEVICES_MAX).contains(&batch.len()),
                "a batch of {} was accepted",
                batch.len()
            );
            let named: BTreeMap<_, _> = batch.iter().map(|assign| (&assign.device, assign)).collect();
            assert_eq!(named.len(), batch.len(), "a batch that names a device twice was accepted");
            named
        }
        Command::Remove(remove) => {
            assert!(
                before.devices.contains_key(&remove.device) && !after.devices.contains_key(&remove.device)
            );
            check_precondition(before, &remove.device, remove.precondition);
            BTreeMap::new()
        }
        Command::Topology(_) => {
            assert_eq!(before.devices, after.devices, "a topology edit touches no device");
            BTreeMap::new()
        }
    };
    if !matches!(proposal.command, Command::Topology(_)) {
        assert_eq!(before.topology, after.topology, "only topology edits change the topology");
    }
    for (device, assign) in &assigns {
        let row = after.devices.get(*device).expect("an assigned device exists");
        check_precondition(before, device, assign.precondition);
        check_assigned(before, after, assign, row, now);
    }
    let removed = match &proposal.command {
        Command::Remove(remove) => Some(&remove.device),
        _ => None,
    };
    for device in before.devices.keys().chain(after.devices.keys()) {
        if Some(device) != removed && !assigns.contains_key(device) {
            assert_eq!(before.devices.get(device), after.devices.get(device), "{device} was not named");
        }
    }
}

fn check_assigned(before: &Model, after: &Model, assign: &Assign, row: &Mapping, now: Timestamp) {
    let held = before.devices.get(&assign.device);
    let topology = &after.topology;
    let hub = match &assign.hub {
        Some(name) => Some(topology.hub_named(name).expect("the hub exists").no),
        None => held.and_then(|m| m.hub),
    };
    assert_eq!(row.hub, hub, "the hub is the one asked for, or as it was");
    if let Some(status) = assign.status {
        assert_eq!(row.status, status, "the status is the one asked for");
    } else if let Some(held) = held.filter(|m| m.hub == hub || m.status == Status::Disabled) {
        assert_eq!(row.status, held.status, "the status is as it was");
    } else {
        let follows = if hub.is_some() { Status::Assigned } else { Status::Unassigned };
        assert_eq!(row.status, follows, "the status follows from the hub");
    }
    let empty = Labels::default();
    let labels = |model: &Model, no: LabelSetNo| model.label_set(no).expect("an interned set").clone();
    let held_labels = held.map_or(empty, |m| labels(before, m.labels));
    assert_eq!(labels(after, row.labels), assign.labels.clone().unwrap_or(held_labels));
    let held_scope = held.and_then(|m| m.scope);
    let asked_scope =
        assign.scope.as_ref().map(|name| topology.scope_named(name).expect("the scope exists").no);
    assert_eq!(row.scope, held_scope.or(asked_scope));
    assert!(
        held_scope.is_none() || asked_scope.is_none() || held_scope == asked_scope,
        "scopes never change"
    );
    let registration = match (&assign.registration, held.filter(|m| m.scope.is_some())) {
        _ if row.scope.is_none() => Registration::None,
        (Some(id), _) if id.same_as(assign.device.as_str()) => Registration::SameAsDevice,
        (Some(id), _) => Registration::Explicit(id.clone()),
        (None, Some(held)) => held.registration.clone(),
        (None, None) if assign.device.as_registration().is_some() => Registration::SameAsDevice,
        (None, None) => Registration::None,
    };
    assert_eq!(row.registration, registration);
    match held {
        None => {
            assert_eq!(
                (row.epoch.0, row.revision),
                (after.revision.0, after.revision),
                "a row starts at its revision"
            );
            assert_eq!((row.origin, row.evidence.source), (assign.origin, assign.evidence));
        }
        Some(held) if (held.hub, held.status) != (row.hub, row.status) => {
            assert_eq!(
                (row.epoch.0, row.revision),
                (held.epoch.0 + 1, after.revision),
                "an effective change adds one"
            );
            let is_observed = matches!(assign.evidence, EvidenceSource::Dps | EvidenceSource::Gateway);
            if is_observed && held.hub == row.hub {
                assert_eq!(
                    (row.origin, row.evidence),
                    (held.origin, held.evidence),
                    "who put it there stays"
                );
            } else {
                assert_eq!((row.origin, row.evidence.source), (assign.origin, assign.evidence));
                assert_eq!(row.evidence.at, Timestamp::from_seconds(now.seconds()));
            }
        }
        Some(held) => {
            assert_eq!((row.epoch, row.origin, row.evidence), (held.epoch, held.origin, held.evidence));
            let revision = if same_but_revision(held, row) { held.revision } else { after.revision };
            assert_eq!(row.revision, revision, "the revision is that of the last change");
        }
    }
}

fn same_but_revision(a: &Mapping, b: &Mapping) -> bool {
    Mapping { revision: b.revision, ..a.clone() } == *b
}

fn check_precondition(before: &Model, device: &DeviceId, precondition: Precondition) {
    let epoch = before.devices.get(device).map(|m| m.epoch);
    match precondition {
        Precondition::None => {}
        Precondition::Absent => assert_eq!(epoch, None, "{device} was to be absent"),
        Precondition::Epoch(expected) => assert_eq!(epoch, Some(expected), "{device} was to be at its epoch"),
    }
}

/// Who arrives finds an open hub and stamp, and never one seat too many.
fn check_arrivals(before: &Model, after: &Model) {
    let topology = &before.topology;
    for (device, row) in &after.devices {
        let Some(hub) = row.hub.filter(|hub| before.devices.get(device).and_then(|m| m.hub) != Some(*hub))
        else {
            continue;
        };
        let hub = topology.hub(hub).expect("the hub was there before");
        let stamp = topology.stamp(hub.stamp).expect("its stamp was there before");
        assert_eq!(
            (hub.state, stamp.state),
            (PlaceState::Active, PlaceState::Active),
            "{device} came to a closed place"
        );
    }
    for hub in topology.hubs() {
        let (was, is) = (before.hub_seats(hub.no).devices, after.hub_seats(hub.no).devices);
        assert!(
            is <= was || within(hub.capacity.hard, is),
            "{} went from {was} to {is} past its capacity",
            hub.name
        );
    }
    for stamp in topology.stamps() {
        let (was, is) = (before.stamp_seats(stamp.no).devices, after.stamp_seats(stamp.no).devices);
        // A hub without devices may change its stamp, which moves no seat.
        assert!(is <= was || within(stamp.capacity.hard, is), "{} went from {was} to {is}", stamp.name);
    }
}

fn within(hard: Option<u64>, seats: u64) -> bool {
    hard.is_none_or(|hard| seats <= hard)
}

fn check_replies(before: &Model, after: &Model, proposal: &Proposal) {
    assert!(after.forgotten_until >= before.forgotten_until, "what is forgotten stays forgotten");
    match proposal.request_id {
        None => assert_eq!(before.replies, after.replies),
        Some(id) => {
            assert!(!before.replies.contains_key(&id), "an accepted command had not run before");
            assert!(before.forgotten_until.is_none_or(|until| id.time() > until), "{id} may have run before");
            assert_eq!(after.replies[&id].outcome.revision(), after.revision);
            let gone: Vec<_> =
                before.replies.iter().filter(|(id, _)| !after.replies.contains_key(id)).collect();
            let full = before.replies.len() as u64 == before.replies_max;
            assert_eq!(gone.len(), usize::from(full), "one is forgotten exactly when the table is full");
            for (id, reply) in gone {
                assert!(after.forgotten_until.is_some_and(|until| until >= id.time()));
                let oldest = before.replies.values().map(|r| r.outcome.revision()).min();
                assert_eq!(Some(reply.outcome.revision()), oldest, "the oldest is forgotten first");
            }
        }
    }
}

/// New label sets take the lowest numbers that were free.
fn check_label_numbers(before: &Model, after: &Model) {
    let new: Vec<LabelSetNo> = after
        .label_sets
        .iter()
        .filter(|(no, labels)| before.label_sets.get(no) != Some(labels))
        .map(|(no, _)| *no)
        .collect();
    let free = (1..=u16::MAX).map(LabelSetNo).filter(|no| !before.label_sets.contains_key(no));
    assert_eq!(new, free.take(new.len()).collect::<Vec<_>>(), "lowest free numbers first");
}

/// A refusal tells the truth about the state that it was decided on.
fn check_refusal(before: &Model, proposal: &Proposal, rejection: &Rejection, now: Timestamp) {
    let topology = &before.topology;
    let row = |device: &str| before.devices.get(&DeviceId::parse(device).expect("a legal ID"));
    assert!(!rejection.to_string().is_empty());
    match rejection {
        Rejection::DeviceUnknown { device } => assert_eq!(row(device), None),
        Rejection::DeviceExists { device, actual } => assert_eq!(row(device).map(|m| m.epoch), Some(*actual)),
        Rejection::EpochMismatch { device, expected, actual } => {
            assert_eq!(row(device).map(|m| m.epoch), Some(*actual));
            assert_ne!(expected, actual);
        }
        Rejection::Closed { hub, .. } => {
            let hub = topology.hub_named(hub).expect("a closed hub exists");
            let stamp = topology.stamp(hub.stamp).expect("its stamp exists");
            assert!(hub.state != PlaceState::Active || stamp.state != PlaceState::Active);
        }
        Rejection::Full { kind, name, asked, used, hard, .. } => {
            assert!(*asked > 0 && used + asked > *hard, "{kind} `{name}` is not full");
            let places = match kind {
                ObjectKind::Hub => topology
                    .hubs()
                    .map(|h: &Hub| (h.name.to_string(), h.capacity, before.hub_seats(h.no)))
                    .collect::<Vec<_>>(),
                _ => topology
                    .stamps()
                    .map(|s: &Stamp| (s.name.to_string(), s.capacity, before.stamp_seats(s.no)))
                    .collect(),
            };
            let (_, capacity, seats) =
                places.into_iter().find(|p| p.0 == *name).expect("the full place exists");
            assert_eq!((capacity.hard, seats.devices), (Some(*hard), *used));
        }
        Rejection::Unknown { kind, name } => {
            let edit = matches!(proposal.command, Command::Topology(_));
            let known = match kind {
                ObjectKind::Stamp => topology.stamps().any(|s| s.name.as_str() == name),
                ObjectKind::Hub => topology.hubs().any(|h| h.name.as_str() == name),
                ObjectKind::Scope => topology.scopes().any(|s| s.name.as_str() == name),
                ObjectKind::Route => topology.routes().any(|r| r.key.as_str() == name),
                ObjectKind::Device => true,
            };
            assert!(!known || edit, "{kind} `{name}` is known");
        }
        Rejection::ScopeConflict { device, held, asked } => {
            let scope =
                row(device).and_then(|m| m.scope).and_then(|no| topology.scope(no)).expect("it has a scope");
            assert_eq!(scope.name.as_str(), held);
            assert_ne!(held, asked);
        }
        Rejection::RegistrationTaken { holder, registration, .. } => {
            let named = |assign: &Assign| assign.device.as_str() == holder;
            let in_command = match &proposal.command {
                Command::BatchAssign(batch) => batch.iter().any(named),
                _ => false,
            };
            assert!(
                row(holder).is_some() || in_command,
                "`{registration}` is taken by a device that is not there"
            );
        }
        Rejection::Batch { items } => {
            let Command::BatchAssign(batch) = &proposal.command else { panic!("not a batch") };
            assert!(
                !items.is_empty() && items.windows(2).all(|w| w[0].index < w[1].index),
                "items come in order, once"
            );
            for item in items {
                let assign = batch.get(item.index as usize).expect("the item is in the batch");
                if let Rejection::DuplicateInBatch { device, first } = &item.rejection {
                    assert_eq!(assign.device.as_str(), device);
                    assert!(*first < item.index && batch[*first as usize].device == assign.device);
                } else {
                    check_refusal(before, proposal, &item.rejection, now);
                }
            }
        }
        Rejection::TooManyTwins { device, max } => {
            let in_command = match &proposal.command {
                Command::BatchAssign(batch) => {
                    batch.iter().filter(|a| a.device.as_str().eq_ignore_ascii_case(device)).count()
                }
                _ => 1,
            };
            let here = before.devices.keys().filter(|d| d.as_str().eq_ignore_ascii_case(device)).count();
            assert!((here + in_command) as u64 > *max, "`{device}` has room among its spellings");
        }
        Rejection::BatchSize { count, max } => assert!(*count == 0 || count > max),
        Rejection::RequestIdReused { .. } => {
            let id = proposal.request_id.expect("an ID");
            assert_ne!(before.replies[&id].payload_hash, proposal.payload_hash);
        }
        Rejection::RequestIdExpired { made, kept_since, .. } => {
            assert!(made <= kept_since && before.forgotten_until == Some(*kept_since));
            assert!(!before.replies.contains_key(&proposal.request_id.expect("an ID")));
        }
        Rejection::RequestIdAhead { made, now: told, .. } => {
            assert!(*told == now && made.0 > now.0 + berth_core::REQUEST_ID_AHEAD_MS_MAX);
        }
        Rejection::InUse { devices, reserved, hubs, routes, scopes, .. } => {
            assert!(devices + reserved + hubs + routes + scopes > 0);
        }
        Rejection::HubRequired { .. }
        | Rejection::ScopeRequired { .. }
        | Rejection::DuplicateInBatch { .. }
        | Rejection::LabelSetsFull { .. }
        | Rejection::Exists { .. }
        | Rejection::EtagMismatch { .. }
        | Rejection::Invalid { .. }
        | Rejection::NumbersExhausted { .. } => {}
    }
}

fn stamp_of(topology: &Topology, hub: Option<HubNo>) -> Option<berth_core::StampNo> {
    topology.hub(hub?).map(|hub| hub.stamp)
}
