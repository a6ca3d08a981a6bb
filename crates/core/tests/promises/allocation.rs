//! Which hub a registering device gets: whatever the directory holds and whatever DPS asks.

use berth_core::allocation::{Allocation, AllocationRequest, NoAllocation, allocate};
use berth_core::model::Model;
use berth_core::reconcile::DriftClass;
use berth_core::{
    Assign, Command, DeviceId, EvidenceSource, Expect, HubName, Labels, ObjectPatch, Origin, PlaceState,
    Precondition, Registration, Revision, Status, Timestamp, View,
};
use proptest::prelude::*;

use crate::strategies::{DEVICES, HUBS, NOW_FIRST, REGISTRATIONS, SCOPES, anonymous, histories};

fn request() -> impl Strategy<Value = AllocationRequest> {
    let hub = || prop::sample::select(&HUBS[..]).prop_map(|name| name.parse::<HubName>().unwrap());
    let id = prop_oneof![prop::sample::select(&REGISTRATIONS[..]), Just("d2"), Just("D4"), Just("new-1"),];
    let device = prop::option::weighted(0.4, prop::sample::select(&DEVICES[..]));
    (
        prop::sample::select(&SCOPES[..]),
        id,
        device,
        prop::collection::vec(hub(), 1..5),
        prop::option::of(hub()),
    )
        .prop_map(|(scope, id, device, linked_hubs, current_hub)| AllocationRequest {
            scope: scope.parse().unwrap(),
            registration: id.parse().unwrap(),
            device: device.map(|id| id.parse().unwrap()),
            linked_hubs,
            current_hub,
            stamp_labels: Labels::default(),
        })
}

/// A world after an arbitrary history, with its scopes linked to more than one hub.
fn world(history: &[(berth_core::Proposal, Timestamp)]) -> Model {
    let mut model = Model::default();
    for (proposal, now) in history {
        let _ = model.propose(proposal, *now);
    }
    let known: Vec<HubName> = model.topology.hubs().map(|hub| hub.name.clone()).take(3).collect();
    let patches = model.topology.scopes().map(|scope| {
        let mut patch = berth_core::ScopePatch::of(scope.name.clone());
        patch.linked_hubs = Some(known.clone());
        (Expect::Any, ObjectPatch::Scope(patch))
    });
    let edit = berth_core::TopologyEdit { patches: patches.collect(), ..Default::default() };
    if !edit.patches.is_empty() {
        model.propose(&anonymous(Command::Topology(edit)), late()).unwrap();
    }
    model
}

fn late() -> Timestamp {
    Timestamp(NOW_FIRST.0 + 1_000_000)
}

/// The hubs that may take a newcomer of this request, written down once more.
fn takers(model: &Model, request: &AllocationRequest) -> Vec<HubName> {
    let Some(scope) = model.topology.scope_named(&request.scope) else { return Vec::new() };
    let has_room = |hard: Option<u64>, taken: u64| hard.is_none_or(|hard| taken < hard);
    let fits = |name: &&HubName| {
        let Some(hub) = model.topology.hub_named(name) else { return false };
        let stamp = model.topology.stamp(hub.stamp).unwrap();
        scope.linked_hubs.contains(&hub.no)
            && (hub.state, stamp.state) == (PlaceState::Active, PlaceState::Active)
            && has_room(hub.capacity.hard, model.hub_seats(hub.no).taken())
            && has_room(stamp.capacity.hard, model.stamp_seats(stamp.no).taken())
    };
    request.linked_hubs.iter().filter(fits).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    /// A device that has a hub keeps it or is refused; a newcomer gets a hub that takes it; and whoever asks again is
    /// told the same.
    #[test]
    fn what_is_answered_is_committed_and_stays(history in histories(25), request in request()) {
        let mut model = world(&history);
        let revision = model.revision;
        match allocate(&model, &request) {
            Ok(Allocation::Held { device, hub }) => {
                let mapping = model.device(&device).unwrap();
                let no = model.topology.hub_named(&hub).unwrap().no;
                prop_assert_eq!(mapping.hub, Some(no));
                prop_assert!(request.linked_hubs.contains(&hub));
            }
            Ok(Allocation::Place { hub, assign }) => {
                let before = model.device(&assign.device);
                prop_assert!(before.as_ref().is_none_or(|mapping| mapping.hub.is_none()));
                prop_assert!(takers(&model, &request).contains(&hub));
                if let Some(current) = &request.current_hub && takers(&model, &request).contains(current) {
                    prop_assert_eq!(current, &hub, "it need not have moved");
                }
                let device = assign.device.clone();
                // Nothing of a row that was there is written over but where it is.
                let written = model.propose(&anonymous(Command::Assign(*assign)), late());
                if let Err(rejection) = written {
                    // Too many devices of one spelling is all that the decision does not know of.
                    prop_assert!(matches!(rejection, berth_core::Rejection::TooManyTwins { .. }), "{rejection}");
                    return Ok(());
                }
                let mapping = model.device(&device).unwrap();
                prop_assert_eq!((mapping.status, mapping.origin), (Status::Enrolling, Origin::Placed));
                prop_assert_eq!(mapping.evidence.source, EvidenceSource::Hook);
                let scope = model.topology.scope_named(&request.scope).unwrap().no;
                prop_assert_eq!(mapping.scope, Some(scope));
                if let Some(before) = before {
                    prop_assert_eq!((mapping.labels, mapping.epoch), (before.labels, before.epoch.next()));
                } else {
                    prop_assert_eq!(model.registration(scope, &request.registration), Some(device.clone()));
                }
                prop_assert_eq!(allocate(&model, &request), Ok(Allocation::Held { device, hub }));
            }
            Err(refused) => {
                prop_assert_eq!(model.revision, revision);
                let known = model.topology.scope_named(&request.scope);
                match &refused {
                    NoAllocation::ScopeUnknown(_) => prop_assert!(known.is_none()),
                    NoAllocation::NoRoom { .. } | NoAllocation::HubsUnknown { .. } => {
                        prop_assert_eq!(takers(&model, &request), Vec::<HubName>::new());
                    }
                    NoAllocation::HubNotLinked { hub, .. } => prop_assert!(!request.linked_hubs.contains(hub)),
                    NoAllocation::Duplicate { device, .. } => {
                        let mapping = model.device(device).unwrap();
                        prop_assert!(mapping.scope.is_some());
                        prop_assert!(
                            mapping.scope != known.map(|scope| scope.no) || request.device.as_ref() != Some(device)
                                || mapping.registration != Registration::None
                        );
                    }
                }
                prop_assert_eq!(
                    refused.drift().map(|(_, drift)| drift.class),
                    match &refused {
                        NoAllocation::HubsUnknown { .. } => Some(DriftClass::HubUnknown),
                        NoAllocation::HubNotLinked { .. } => Some(DriftClass::HubNotLinked),
                        NoAllocation::Duplicate { .. } => Some(DriftClass::Duplicate),
                        _ => None,
                    }
                );
            }
        }
    }
}

fn ask(id: &str, device: Option<&str>) -> AllocationRequest {
    AllocationRequest {
        scope: SCOPES[0].parse().unwrap(),
        registration: id.parse().unwrap(),
        device: device.map(|id| id.parse().unwrap()),
        linked_hubs: vec![HUBS[0].parse().unwrap(), HUBS[1].parse().unwrap()],
        current_hub: None,
        stamp_labels: Labels::default(),
    }
}

fn small() -> Model {
    let edit = crate::strategies::small_world();
    world(&[(anonymous(Command::Topology(edit)), NOW_FIRST)])
}

fn put(model: &mut Model, device: &str, hub: Option<&str>, scope: Option<&str>, registration: Option<&str>) {
    let assign = Assign {
        device: device.parse().unwrap(),
        hub: hub.map(|name| name.parse().unwrap()),
        status: None,
        labels: Some(Labels::parse([("ring", "1")]).unwrap()),
        scope: scope.map(|name| name.parse().unwrap()),
        registration: registration.map(|id| id.parse().unwrap()),
        precondition: Precondition::None,
        origin: Origin::Imported,
        evidence: EvidenceSource::Import,
    };
    model.propose(&anonymous(Command::Assign(assign)), late()).unwrap();
}

fn held(device: &str, hub: &str) -> Result<Allocation, NoAllocation> {
    Ok(Allocation::Held { device: device.parse().unwrap(), hub: hub.parse().unwrap() })
}

#[test]
fn registration_ids_have_no_case_and_device_ids_do() {
    let mut model = small();
    put(&mut model, "Pump-1", Some(HUBS[1]), Some(SCOPES[0]), None);
    put(&mut model, "Valve#2", Some(HUBS[1]), Some(SCOPES[0]), Some("valve-2"));
    assert_eq!(allocate(&model, &ask("pump-1", None)), held("Pump-1", HUBS[1]));
    assert_eq!(allocate(&model, &ask("PUMP-1", Some("Pump-1"))), held("Pump-1", HUBS[1]));
    assert_eq!(allocate(&model, &ask("VALVE-2", Some("Valve#2"))), held("Valve#2", HUBS[1]));
    assert_eq!(allocate(&model, &ask("Valve-2", None)), held("Valve#2", HUBS[1]));
    for (id, device) in [
        // The hub would call it otherwise than the directory does.
        ("pump-1", "pump-1"),
        ("valve-2", "valve#2"),
        // The device has another registration.
        ("other", "Pump-1"),
        ("other", "Valve#2"),
    ] {
        let refused = allocate(&model, &ask(id, Some(device))).unwrap_err();
        assert!(matches!(refused, NoAllocation::Duplicate { .. }), "{id} {device}: {refused}");
    }
    let elsewhere = AllocationRequest { scope: SCOPES[1].parse().unwrap(), ..ask("Pump-1", None) };
    assert!(matches!(allocate(&model, &elsewhere), Err(NoAllocation::Duplicate { .. })));
    // Another spelling is another device, where neither has registered.
    let Ok(Allocation::Place { assign, .. }) = allocate(&model, &ask("new", Some("PUMP-1"))) else {
        panic!()
    };
    assert_eq!(assign.device, "PUMP-1".parse::<DeviceId>().unwrap());
    assert_eq!(
        (assign.precondition, assign.registration),
        (Precondition::Absent, Some("new".parse().unwrap()))
    );
}

#[test]
fn a_device_without_a_scope_keeps_its_hub_and_one_without_a_hub_gets_one() {
    let mut model = small();
    put(&mut model, "loner", Some(HUBS[1]), None, None);
    put(&mut model, "waiting", None, None, None);
    assert_eq!(allocate(&model, &ask("loner", None)), held("loner", HUBS[1]));
    let epoch = model.device(&"waiting".parse().unwrap()).unwrap().epoch;
    let Ok(Allocation::Place { assign, .. }) = allocate(&model, &ask("waiting", None)) else { panic!() };
    assert_eq!(assign.precondition, Precondition::Epoch(epoch));
    assert_eq!(assign.labels, None, "its labels stay");
    assert!(model.revision > Revision(0));
}

#[test]
fn a_newcomer_stays_where_dps_has_it_if_that_has_room() {
    let mut model = small();
    let chosen = |model: &Model, current: &str| {
        let request = AllocationRequest { current_hub: Some(current.parse().unwrap()), ..ask("new", None) };
        match allocate(model, &request) {
            Ok(Allocation::Place { hub, .. }) => hub,
            other => panic!("{other:?}"),
        }
    };
    let (first, second) = (HUBS[0].parse::<HubName>().unwrap(), HUBS[1].parse::<HubName>().unwrap());
    assert_eq!((chosen(&model, HUBS[0]), chosen(&model, HUBS[1])), (first.clone(), second.clone()));
    // One that is not linked, or not known, is no choice.
    assert!([&first, &second].contains(&&chosen(&model, "elsewhere.example")));
    for n in 0..5 {
        put(&mut model, &format!("d-{n}"), Some(HUBS[0]), None, None);
    }
    assert_eq!(chosen(&model, HUBS[0]), second, "it is full");
}
