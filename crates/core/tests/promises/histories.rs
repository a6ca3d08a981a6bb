//! Whatever commands arrive in whatever order, the directory keeps its promises.

use crate::strategies::{Stamped, histories, hostile_proposal};
use crate::support::{Step, Walk};
use berth_core::{Command, Rejection, Timestamp, View, decide};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Rows, counters, epochs, numbers, registrations, labels, replies and capacities hold after every single step.
    #[test]
    fn every_step_keeps_every_promise(history in histories(80), replies_max in prop_oneof![Just(3u64), Just(1_000)]) {
        let mut walk = Walk::new(replies_max);
        for (proposal, now) in &history {
            walk.step(proposal, *now);
        }
    }

    /// The same history gives the same directory and the same answers.
    #[test]
    fn replicas_agree(history in histories(60)) {
        let run = |history: &[Stamped]| {
            let mut walk = Walk::new(4);
            let steps: Vec<Step> = history.iter().map(|(proposal, now)| walk.step(proposal, *now)).collect();
            (walk.model, steps)
        };
        prop_assert_eq!(run(&history), run(&history));
    }

    /// A batch is worth its items one by one where none of them stands in another's way, but for the revisions.
    #[test]
    fn an_accepted_batch_of_one_is_an_assign(history in histories(30), assign in crate::strategies::assign()) {
        let mut walk = Walk::new(4);
        for (proposal, now) in &history {
            walk.step(proposal, *now);
        }
        let now = Timestamp(crate::strategies::NOW_FIRST.0 + 10_000);
        let mut other = walk.model.clone();
        let alone = walk.step(&crate::strategies::anonymous(Command::Assign(assign.clone())), now);
        let batch = other.propose(&crate::strategies::anonymous(Command::BatchAssign(vec![assign])), now);
        prop_assert_eq!(&walk.model, &other);
        match (alone, batch) {
            (Step::Accepted(a), Ok(b)) => prop_assert_eq!(a.revision(), b.revision()),
            (Step::Refused(a), Err(Rejection::Batch { items })) => {
                prop_assert_eq!(items.len(), 1);
                prop_assert_eq!(a, items[0].rejection.clone());
            }
            (Step::Refused(a), Err(b)) => prop_assert_eq!(a, b),
            (a, b) => prop_assert!(false, "{:?} alone, {:?} as a batch", a, b),
        }
    }

    /// Decide is total: hostile commands on a lived-in directory end in a decision, and break no promise.
    #[test]
    fn hostile_commands_end_in_a_decision(
        history in histories(20),
        hostile in proptest::collection::vec(hostile_proposal(), 1..12),
        now in any::<u64>(),
        revision in any::<u64>(),
    ) {
        let mut walk = Walk::new(3);
        for (proposal, now) in &history {
            walk.step(proposal, *now);
        }
        for proposal in &hostile {
            let _ = decide(&walk.model, proposal, berth_core::Revision(revision), Timestamp(now));
            walk.step(proposal, Timestamp(now));
            let topology = walk.model.topology();
            for stamp in topology.stamps() {
                let _ = berth_core::capacity::stamp_report(&walk.model, stamp);
            }
            for hub in topology.hubs() {
                let _ = berth_core::capacity::hub_report(&walk.model, hub);
            }
        }
    }
}

/// The strategies reach what they are meant to reach: without this, a green property may have tried nothing.
#[test]
fn histories_meet_every_refusal_and_outcome() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut met = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..300 {
        let history = histories(80).new_tree(&mut runner).expect("a history").current();
        let mut walk = Walk::new(3);
        for (proposal, now) in &history {
            let (kind, text) = match walk.step(proposal, *now) {
                Step::Accepted(outcome) => ("accepted", format!("{outcome:?}")),
                Step::Repeated(outcome) => ("repeated", format!("{outcome:?}")),
                Step::Refused(rejection) => ("refused", format!("{rejection:?}")),
            };
            for name in
                text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| w.starts_with(char::is_uppercase))
            {
                *met.entry(format!("{kind} {name}")).or_default() += 1;
            }
        }
    }
    for wanted in [
        "accepted Assigned",
        "accepted BatchAssigned",
        "accepted Removed",
        "accepted TopologyEdited",
        "repeated Assigned",
        "refused DeviceUnknown",
        "refused DeviceExists",
        "refused EpochMismatch",
        "refused Unknown",
        "refused Exists",
        "refused EtagMismatch",
        "refused Closed",
        "refused Full",
        "refused HubRequired",
        "refused ScopeRequired",
        "refused ScopeConflict",
        "refused RegistrationTaken",
        "refused DuplicateInBatch",
        "refused Batch",
        "refused BatchSize",
        "refused Invalid",
        "refused InUse",
        "refused RequestIdReused",
        "refused RequestIdExpired",
        "refused RequestIdAhead",
    ] {
        assert!(met.get(wanted).copied().unwrap_or(0) >= 5, "`{wanted}` is hardly ever met: {met:?}");
    }
}
