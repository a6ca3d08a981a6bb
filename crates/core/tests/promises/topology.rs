//! Declarative topology: diff and write in one revision, absent fields untouched, things in use kept.

use crate::strategies::{HUBS, NOW_FIRST, ROUTES, SCOPES, STAMPS, anonymous, histories, small_world};
use berth_core::model::Model;
use berth_core::{
    Assign, Command, DiffAction, EvidenceSource, Expect, HubPatch, Labels, ObjectKind, ObjectPatch,
    ObjectRef, Origin, Outcome, PlaceState, Precondition, Rejection, Remove, RoutePatch, StampPatch,
    TopologyEdit,
};
use proptest::prelude::*;

fn world() -> Model {
    let mut model = Model::default();
    edit(&mut model, small_world()).expect("a legal topology");
    model
}

fn edit(model: &mut Model, edit: TopologyEdit) -> Result<Outcome, Rejection> {
    model.propose(&anonymous(Command::Topology(edit)), NOW_FIRST)
}

fn patches(patches: impl IntoIterator<Item = ObjectPatch>) -> TopologyEdit {
    let patches = patches.into_iter().map(|patch| (Expect::Any, patch)).collect();
    TopologyEdit { patches, deletes: Vec::new(), prune: false }
}

fn deletes(objects: impl IntoIterator<Item = ObjectRef>) -> TopologyEdit {
    let deletes = objects.into_iter().map(|object| (Expect::Any, object)).collect();
    TopologyEdit { patches: Vec::new(), deletes, prune: false }
}

fn hub(name: &str, change: impl FnOnce(&mut HubPatch)) -> ObjectPatch {
    let mut patch = HubPatch::of(name.parse().unwrap());
    change(&mut patch);
    ObjectPatch::Hub(patch)
}

fn stamp(name: &str, change: impl FnOnce(&mut StampPatch)) -> ObjectPatch {
    let mut patch = StampPatch::of(name.parse().unwrap());
    change(&mut patch);
    ObjectPatch::Stamp(patch)
}

fn assign(model: &mut Model, device: &str, hub: &str) -> Result<Outcome, Rejection> {
    let assign = Assign {
        device: device.parse().unwrap(),
        hub: Some(hub.parse().unwrap()),
        status: None,
        labels: None,
        scope: None,
        registration: None,
        precondition: Precondition::None,
        origin: Origin::Placed,
        evidence: EvidenceSource::Operator,
    };
    model.propose(&anonymous(Command::Assign(assign)), NOW_FIRST)
}

fn diff(outcome: Result<Outcome, Rejection>) -> Vec<(ObjectKind, String, DiffAction)> {
    let Ok(Outcome::TopologyEdited { diff, .. }) = outcome else { panic!("{outcome:?}") };
    diff.into_iter().map(|entry| (entry.kind, entry.name, entry.action)).collect()
}

#[test]
fn applying_the_same_twice_changes_nothing_the_second_time() {
    let mut model = world();
    let before = model.topology.clone();
    assert_eq!(diff(edit(&mut model, small_world())), []);
    assert_eq!(model.topology, before);
}

#[test]
fn a_cordon_survives_an_apply_that_does_not_speak_of_it() {
    let mut model = world();
    edit(&mut model, patches([hub(HUBS[0], |h| h.state = Some(PlaceState::Cordoned))])).unwrap();
    edit(&mut model, small_world()).unwrap();
    assert_eq!(model.topology.hub_named(&HUBS[0].parse().unwrap()).unwrap().state, PlaceState::Cordoned);
    assert!(matches!(assign(&mut model, "d1", HUBS[0]), Err(Rejection::Closed { .. })));
}

#[test]
fn a_diff_names_each_field_with_both_values() {
    let mut model = world();
    let change = patches([stamp(STAMPS[1], |s| {
        s.labels = Some(Labels::parse([("region", "west")]).unwrap());
        s.capacity_hard = Some(Some(7));
    })]);
    let Ok(Outcome::TopologyEdited { diff, .. }) = edit(&mut model, change) else { panic!("refused") };
    let fields: Vec<_> = diff[0].fields.iter().map(|f| (&*f.field, &*f.before, &*f.after)).collect();
    assert_eq!(fields, [("labels", "", "region=west"), ("capacity.hard", "", "7")]);
}

#[test]
fn prune_deletes_what_is_not_named_and_nothing_else() {
    let mut model = world();
    let mut keep = small_world();
    keep.patches.retain(|(_, patch)| !matches!(patch, ObjectPatch::Route(_) | ObjectPatch::Scope(_)));
    keep.prune = true;
    let gone = diff(edit(&mut model, keep));
    assert_eq!(gone.len(), 3, "two scopes and a route: {gone:?}");
    assert!(gone.iter().all(|(_, _, action)| *action == DiffAction::Deleted));
    assert_eq!(model.topology.hubs().count(), 4);
}

#[test]
fn a_hub_with_devices_is_kept_with_the_count_told() {
    let mut model = world();
    assign(&mut model, "d1", HUBS[1]).unwrap();
    assign(&mut model, "d2", HUBS[1]).unwrap();
    let before = model.clone();
    let refused = edit(&mut model, deletes([ObjectRef::Hub(HUBS[1].parse().unwrap())]));
    let Err(Rejection::InUse { devices: 2, hubs: 0, scopes: 0, .. }) = refused else { panic!("{refused:?}") };
    // A prune with it among the unnamed is refused as a whole.
    let pruned = edit(&mut model, TopologyEdit { prune: true, ..TopologyEdit::default() });
    assert!(matches!(pruned, Err(Rejection::InUse { .. })), "{pruned:?}");
    assert_eq!(model, before);
}

#[test]
fn a_stamp_with_hubs_and_routes_is_kept_and_goes_with_them() {
    let mut model = world();
    let refused = edit(&mut model, deletes([ObjectRef::Stamp(STAMPS[0].parse().unwrap())]));
    let Err(Rejection::InUse { hubs: 2, routes: 1, .. }) = refused else { panic!("{refused:?}") };
    // A hub linked to scopes is kept for them.
    let refused = edit(&mut model, deletes([ObjectRef::Hub(HUBS[0].parse().unwrap())]));
    let Err(Rejection::InUse { scopes: 2, .. }) = refused else { panic!("{refused:?}") };
    // Together they go, in whatever order they are named.
    let all = deletes([
        ObjectRef::Stamp(STAMPS[0].parse().unwrap()),
        ObjectRef::Hub(HUBS[0].parse().unwrap()),
        ObjectRef::Scope(SCOPES[0].parse().unwrap()),
        ObjectRef::Hub(HUBS[2].parse().unwrap()),
        ObjectRef::Route(ROUTES[0].parse().unwrap()),
        ObjectRef::Scope(SCOPES[1].parse().unwrap()),
    ]);
    assert_eq!(diff(edit(&mut model, all)).len(), 6);
}

#[test]
fn numbers_of_deleted_hubs_are_not_given_again() {
    let mut model = world();
    let name: berth_core::HubName = HUBS[3].parse().unwrap();
    let before = model.topology.hub_named(&name).unwrap().no;
    edit(&mut model, deletes([ObjectRef::Hub(name.clone())])).unwrap();
    edit(&mut model, patches([hub(HUBS[3], |h| h.stamp = Some(STAMPS[0].parse().unwrap()))])).unwrap();
    let after = model.topology.hub_named(&name).unwrap().no;
    assert!(after > before, "{after} after {before}");
}

#[test]
fn an_edit_stands_or_falls_as_a_whole() {
    let mut model = world();
    let before = model.clone();
    let bad = patches([
        stamp("gamma", |_| {}),
        hub("h9.example.net", |h| h.stamp = Some("gamma".parse().unwrap())),
        ObjectPatch::Route(RoutePatch {
            key: "new".parse().unwrap(),
            stamp: Some("nowhere".parse().unwrap()),
        }),
    ]);
    assert!(matches!(edit(&mut model, bad), Err(Rejection::Unknown { kind: ObjectKind::Stamp, .. })));
    assert_eq!(model, before);
}

#[test]
fn an_etag_of_another_revision_is_refused() {
    let mut model = world();
    let stale = TopologyEdit {
        patches: vec![(Expect::At(berth_core::Revision(7)), hub(HUBS[0], |h| h.units = Some(2)))],
        ..TopologyEdit::default()
    };
    assert!(matches!(edit(&mut model, stale), Err(Rejection::EtagMismatch { .. })));
}

#[test]
fn lowering_capacity_below_use_is_accepted_and_reported() {
    let mut model = world();
    for device in ["d1", "d2", "d3"] {
        assign(&mut model, device, HUBS[3]).unwrap();
    }
    let lower = patches([hub(HUBS[3], |h| h.capacity_hard = Some(Some(2)))]);
    let Ok(Outcome::TopologyEdited { over, .. }) = edit(&mut model, lower) else { panic!("refused") };
    assert_eq!((over[0].used, over[0].limit), (3, 2));
    let Err(Rejection::Full { asked: 1, used: 3, hard: 2, .. }) = assign(&mut model, "d4", HUBS[3]) else {
        panic!("a seat too many")
    };
    // Those on it may leave and are not seen as arrivals when they change otherwise.
    assign(&mut model, "d1", HUBS[3]).expect("it is there already");
    let gone = Command::Remove(Remove { device: "d1".parse().unwrap(), precondition: Precondition::None });
    model.propose(&anonymous(gone), NOW_FIRST).unwrap();
}

#[test]
fn soft_limits_are_reported_and_let_pass() {
    let mut model = world();
    assign(&mut model, "d1", HUBS[0]).unwrap();
    assign(&mut model, "d2", HUBS[0]).unwrap();
    let Ok(Outcome::Assigned { over_soft, .. }) = assign(&mut model, "d3", HUBS[0]) else {
        panic!("refused")
    };
    assert_eq!((over_soft[0].kind, over_soft[0].used, over_soft[0].limit), (ObjectKind::Hub, 3, 2));
}

#[test]
fn an_object_is_named_once_in_an_edit() {
    let mut model = world();
    let before = model.clone();
    let twice = patches([hub(HUBS[0], |h| h.units = Some(1)), hub(HUBS[0], |h| h.units = Some(2))]);
    assert!(matches!(edit(&mut model, twice), Err(Rejection::Invalid { .. })));
    let mut both = patches([hub(HUBS[3], |h| h.units = Some(1))]);
    both.deletes.push((Expect::Any, ObjectRef::Hub(HUBS[3].parse().unwrap())));
    assert!(matches!(edit(&mut model, both), Err(Rejection::Invalid { .. })));
    assert_eq!(model, before);
}

proptest! {
    /// What is written is what was asked: an accepted edit asked again is without effect.
    #[test]
    fn an_accepted_edit_is_idempotent(history in histories(30), asked in crate::strategies::edit()) {
        let mut walk = crate::support::Walk::new(4);
        for (proposal, now) in &history {
            walk.step(proposal, *now);
        }
        let asked = TopologyEdit { deletes: Vec::new(), prune: false, ..asked };
        let any = |(_, patch): &(Expect, ObjectPatch)| (Expect::Any, patch.clone());
        let again = TopologyEdit { patches: asked.patches.iter().map(any).collect(), ..asked.clone() };
        if edit(&mut walk.model, asked).is_ok() {
            let before = walk.model.topology.clone();
            prop_assert_eq!(diff(edit(&mut walk.model, again)), vec![]);
            prop_assert_eq!(before, walk.model.topology);
        }
    }

    /// The delta of an accepted command names each key once.
    #[test]
    fn a_delta_names_each_key_once(history in histories(40)) {
        use berth_core::{Decision, TopologyChange, decide};
        let mut model = Model::with_replies_max(4);
        for (proposal, now) in &history {
            if let Decision::Accepted { delta, .. } = decide(&model, proposal, model.revision.next(), *now) {
                let once = |keys: Vec<String>| {
                    let count = keys.len();
                    let distinct: std::collections::BTreeSet<String> = keys.into_iter().collect();
                    distinct.len() == count
                };
                let key = |change: &TopologyChange| match change {
                    TopologyChange::PutStamp(s) => format!("stamp {}", s.no),
                    TopologyChange::DropStamp(no) => format!("stamp {no}"),
                    TopologyChange::PutHub(h) => format!("hub {}", h.no),
                    TopologyChange::DropHub(no) => format!("hub {no}"),
                    TopologyChange::PutScope(s) => format!("scope {}", s.no),
                    TopologyChange::DropScope(no) => format!("scope {no}"),
                    TopologyChange::PutRoute(r) => format!("route {}", r.key),
                    TopologyChange::DropRoute(key) => format!("route {key}"),
                };
                prop_assert!(once(delta.topology.iter().map(key).collect()), "{:?}", delta.topology);
                prop_assert!(once(delta.devices.iter().map(|(id, _)| id.to_string()).collect()));
                prop_assert!(once(delta.hub_devices.iter().map(|(no, _)| no.to_string()).collect()));
                prop_assert!(once(delta.label_sets.iter().map(|(no, _)| no.0.to_string()).collect()));
                prop_assert!(once(delta.label_set_devices.iter().map(|(no, _)| no.0.to_string()).collect()));
            }
            let _ = model.propose(proposal, *now);
        }
    }
}
