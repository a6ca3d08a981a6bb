//! Labels, registrations and spellings: the corners in which identity goes wrong.

use crate::strategies::{HUBS, NOW_FIRST, SCOPES, anonymous, small_world};
use berth_core::model::Model;
use berth_core::{
    Assign, Command, DEVICE_TWINS_MAX, EvidenceSource, LabelSetNo, Labels, Origin, Outcome, Precondition,
    Rejection, Remove, View,
};

fn world() -> Model {
    let mut model = Model::default();
    model.propose(&anonymous(Command::Topology(small_world())), NOW_FIRST).expect("a legal topology");
    model
}

fn device(id: &str) -> Assign {
    Assign {
        device: id.parse().unwrap(),
        hub: Some(HUBS[3].parse().unwrap()),
        status: None,
        labels: None,
        scope: None,
        registration: None,
        precondition: Precondition::None,
        origin: Origin::Placed,
        evidence: EvidenceSource::Operator,
    }
}

fn labelled(id: &str, value: &str) -> Assign {
    Assign { labels: Some(Labels::parse([("ring", value)]).unwrap()), ..device(id) }
}

fn registered(id: &str, registration: &str) -> Assign {
    let scope = Some(SCOPES[0].parse().unwrap());
    Assign { scope, registration: Some(registration.parse().unwrap()), ..device(id) }
}

fn batch(model: &mut Model, batch: Vec<Assign>) -> Result<Outcome, Rejection> {
    model.propose(&anonymous(Command::BatchAssign(batch)), NOW_FIRST)
}

fn found(model: &Model, registration: &str) -> Option<String> {
    let scope = model.topology.scope_named(&SCOPES[0].parse().unwrap()).unwrap().no;
    model.registration(scope, &registration.parse().unwrap()).map(|device| device.to_string())
}

#[test]
fn label_numbers_are_reused_lowest_first() {
    let mut model = world();
    batch(&mut model, vec![labelled("d1", "a"), labelled("d2", "b"), labelled("d3", "c")]).unwrap();
    assert_eq!(model.label_sets.len(), 3);
    let gone = Remove { device: "d2".parse().unwrap(), precondition: Precondition::None };
    let freed = model.device(&gone.device).unwrap().labels;
    model.propose(&anonymous(Command::Remove(gone)), NOW_FIRST).unwrap();
    assert_eq!(model.label_set(freed), None, "a set without devices is dropped");
    batch(&mut model, vec![labelled("d4", "d")]).unwrap();
    assert_eq!(model.device(&"d4".parse().unwrap()).unwrap().labels, freed);
}

#[test]
fn a_batch_that_hands_a_label_set_on_keeps_it() {
    let mut model = world();
    batch(&mut model, vec![labelled("d1", "a")]).unwrap();
    let sets = model.label_sets.clone();
    batch(&mut model, vec![labelled("d1", "b"), labelled("d2", "a")]).unwrap();
    let kept = sets.iter().all(|(no, labels)| model.label_sets.get(no) == Some(labels));
    assert!(kept, "the set moved from one device to the other");
}

#[test]
fn the_label_set_too_many_is_refused_naming_the_key_with_most_values() {
    let mut model = world();
    for no in 1..=u16::MAX {
        model.label_sets.insert(LabelSetNo(no), Labels::parse([("serial", no.to_string())]).unwrap());
    }
    let refused = batch(&mut model, vec![labelled("d1", "a")]);
    let Err(Rejection::Batch { items }) = refused else { panic!("{refused:?}") };
    assert_eq!(
        items[0].rejection,
        Rejection::LabelSetsFull { key: "serial".to_owned(), values: u16::MAX.into() }
    );
    let known = Labels::parse([("serial", "17")]).unwrap();
    batch(&mut model, vec![Assign { labels: Some(known), ..device("d1") }]).expect("a set that is there");
}

#[test]
fn registration_ids_find_their_device_in_any_case() {
    let mut model = world();
    batch(&mut model, vec![registered("Pump-1", "Serial-9"), registered("Pump-2", "PUMP-2")]).unwrap();
    assert_eq!(found(&model, "SERIAL-9").as_deref(), Some("Pump-1"));
    assert_eq!(found(&model, "pump-2").as_deref(), Some("Pump-2"));
    assert_eq!(found(&model, "Pump-1"), None, "an explicit registration ID replaces the implied one");
    assert_eq!(model.registrations.len(), 1, "an ID that says the same needs no row");
}

#[test]
fn two_devices_that_differ_in_case_cannot_share_an_implied_registration() {
    let mut model = world();
    let implied = |id: &str| Assign { scope: Some(SCOPES[0].parse().unwrap()), ..device(id) };
    let refused = batch(&mut model, vec![implied("pump"), implied("Pump")]);
    let Err(Rejection::Batch { items }) = refused else { panic!("{refused:?}") };
    assert!(matches!(&items[0].rejection, Rejection::RegistrationTaken { holder, .. } if holder == "pump"));
    batch(&mut model, vec![implied("pump"), registered("Pump", "other")]).expect("one of them by another ID");
}

#[test]
fn a_registration_may_change_its_letter_case() {
    let mut model = world();
    batch(&mut model, vec![registered("d1", "abc")]).unwrap();
    batch(&mut model, vec![registered("d1", "ABC")]).unwrap();
    assert_eq!(found(&model, "abc").as_deref(), Some("d1"));
    assert_eq!(model.registrations.len(), 1);
}

#[test]
fn a_registration_is_free_again_once_its_device_is_gone() {
    let mut model = world();
    batch(&mut model, vec![registered("d1", "abc")]).unwrap();
    let gone = Remove { device: "d1".parse().unwrap(), precondition: Precondition::None };
    model.propose(&anonymous(Command::Remove(gone)), NOW_FIRST).unwrap();
    assert_eq!(found(&model, "abc"), None);
    batch(&mut model, vec![registered("d2", "ABC")]).expect("it is free");
}

/// The `index`-th spelling of one long ID.
fn spelling(index: u32) -> String {
    (0..24).map(|bit| if index >> bit & 1 == 1 { 'A' } else { 'a' }).collect()
}

#[test]
fn spellings_of_one_id_are_bounded_within_and_across_commands() {
    let mut model = world();
    let some = |from: u32, to: u32| (from..to).map(|i| device(&spelling(i))).collect::<Vec<_>>();
    let max = u32::try_from(DEVICE_TWINS_MAX).unwrap();
    let refused = batch(&mut model, some(0, max + 1));
    let Err(Rejection::Batch { items }) = refused else { panic!("{refused:?}") };
    assert_eq!((items.len(), items[0].index), (1, max));
    batch(&mut model, some(0, 20)).unwrap();
    assert!(batch(&mut model, some(20, max + 1)).is_err(), "20 here and 13 more");
    batch(&mut model, some(10, max)).expect("those that are here already are not counted twice");
    let one = Command::Assign(device(&spelling(max)));
    assert!(matches!(model.propose(&anonymous(one), NOW_FIRST), Err(Rejection::TooManyTwins { .. })));
}

#[test]
fn different_ids_are_not_spellings_of_each_other() {
    let mut model = world();
    batch(&mut model, (0..60).map(|i| device(&format!("device-{i:04}"))).collect()).expect("sixty devices");
}
