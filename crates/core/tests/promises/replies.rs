//! The reply table: a repeat gets the first outcome, and what can no longer be told apart is never run.

use crate::strategies::{HUBS, NOW_FIRST, anonymous, request_id, small_world};
use berth_core::model::Model;
use berth_core::{
    Assign, Command, Decision, EvidenceSource, Origin, Outcome, Precondition, Proposal, REPLIES_MAX,
    REQUEST_ID_AHEAD_MS_MAX, Rejection, Remove, Timestamp, View, decide,
};

fn world(replies_max: u64) -> Model {
    let mut model = Model::with_replies_max(replies_max);
    model.propose(&anonymous(Command::Topology(small_world())), NOW_FIRST).expect("a legal topology");
    model
}

fn assign(device: &str, hub: &str) -> Command {
    Command::Assign(Assign {
        device: device.parse().unwrap(),
        hub: Some(hub.parse().unwrap()),
        status: None,
        labels: None,
        scope: None,
        registration: None,
        precondition: Precondition::None,
        origin: Origin::Placed,
        evidence: EvidenceSource::Operator,
    })
}

fn remove(device: &str) -> Command {
    Command::Remove(Remove { device: device.parse().unwrap(), precondition: Precondition::None })
}

/// `command` under an ID made `after_ms` milliseconds after the first stamp.
fn request(after_ms: u64, command: Command) -> Proposal {
    Proposal { request_id: Some(request_id(at(after_ms), 1)), ..anonymous(command) }
}

fn at(after_ms: u64) -> Timestamp {
    Timestamp(NOW_FIRST.0 + after_ms)
}

#[test]
fn a_repeat_gets_the_first_outcome_even_after_the_world_moved_on() {
    let mut model = world(8);
    let first = request(1, assign("d1", HUBS[0]));
    let outcome = model.propose(&first, at(1)).unwrap();
    model.propose(&anonymous(remove("d1")), at(2)).unwrap();
    model.propose(&anonymous(assign("d1", HUBS[1])), at(3)).unwrap();
    let before = model.clone();
    assert_eq!(model.propose(&first, at(4)), Ok(outcome));
    assert_eq!(model, before, "a repeat writes nothing");
}

#[test]
fn another_payload_under_a_used_id_is_refused() {
    let mut model = world(8);
    model.propose(&request(1, assign("d1", HUBS[0])), at(1)).unwrap();
    let other = model.propose(&request(1, assign("d1", HUBS[1])), at(2));
    assert!(matches!(other, Err(Rejection::RequestIdReused { .. })), "{other:?}");
}

#[test]
fn a_retry_after_eviction_is_refused_and_never_run_again() {
    let mut model = world(2);
    let first = request(1, remove("d1"));
    model.propose(&anonymous(assign("d1", HUBS[0])), at(0)).unwrap();
    model.propose(&first, at(1)).unwrap();
    // The device comes back; the late retry of its removal must not take it away again.
    model.propose(&request(2, assign("d1", HUBS[1])), at(2)).unwrap();
    model.propose(&request(3, assign("d2", HUBS[1])), at(3)).unwrap();
    let retry = model.propose(&first, at(4));
    assert!(matches!(retry, Err(Rejection::RequestIdExpired { .. })), "{retry:?}");
    assert!(model.device(&"d1".parse().unwrap()).is_some(), "the retry was run");
    // So is every ID as old as that one, also one never seen: it cannot be told from one that was run.
    let unseen = Proposal { request_id: Some(request_id(at(1), 9)), ..anonymous(remove("d2")) };
    assert!(matches!(model.propose(&unseen, at(5)), Err(Rejection::RequestIdExpired { .. })));
    // The younger replies are still there.
    assert!(matches!(model.propose(&request(3, assign("d2", HUBS[1])), at(6)), Ok(Outcome::Assigned { .. })));
}

#[test]
fn a_refusal_is_not_remembered() {
    let mut model = world(8);
    let early = request(1, remove("d1"));
    assert!(matches!(model.propose(&early, at(1)), Err(Rejection::DeviceUnknown { .. })));
    model.propose(&anonymous(assign("d1", HUBS[0])), at(2)).unwrap();
    assert!(matches!(model.propose(&early, at(3)), Ok(Outcome::Removed { .. })));
}

#[test]
fn an_id_from_the_far_future_is_refused() {
    // Were it accepted, its eviction would make every honest ID look expired.
    let mut model = world(8);
    let ahead = request(REQUEST_ID_AHEAD_MS_MAX + 2, assign("d1", HUBS[0]));
    assert!(matches!(model.propose(&ahead, at(1)), Err(Rejection::RequestIdAhead { .. })));
    assert!(model.propose(&ahead, at(2)).is_ok(), "exactly at the bound it is taken");
}

#[test]
fn evicting_an_id_made_ahead_of_time_expires_no_more_than_its_own_time() {
    let mut model = world(1);
    model.propose(&request(50, assign("d1", HUBS[0])), at(1)).unwrap();
    model.propose(&request(60, assign("d2", HUBS[0])), at(2)).unwrap();
    assert_eq!(model.replies_forgotten_until(), Some(at(50)));
    assert!(matches!(
        model.propose(&request(49, assign("d3", HUBS[0])), at(3)),
        Err(Rejection::RequestIdExpired { .. })
    ));
    assert!(model.propose(&request(51, assign("d3", HUBS[0])), at(4)).is_ok());
}

#[test]
fn a_remembered_diff_is_cut_to_what_a_stored_reply_can_hold() {
    let mut model = Model::with_replies_max(8);
    let edit = request(1, Command::Topology(small_world()));
    let Ok(Outcome::TopologyEdited { diff, .. }) = model.propose(&edit, at(1)) else { panic!("refused") };
    assert!(diff.len() > 4, "the first answer is whole");
    let Decision::Repeated(Outcome::TopologyEdited { diff: kept, .. }) =
        decide(&model, &edit, model.revision.next(), at(2))
    else {
        panic!("not a repeat")
    };
    assert_eq!(kept.len(), 4);
    assert!(kept.iter().zip(&diff).all(|(kept, whole)| kept.name == whole.name && kept.fields.is_empty()));
}

#[test]
fn the_table_remembers_what_the_documentation_says() {
    assert_eq!(REPLIES_MAX, 262_144);
    assert_eq!(Model::default().replies_max(), REPLIES_MAX);
}
