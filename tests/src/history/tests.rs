use super::*;

/// A write of `items` between two moments.
fn write(span: (u64, u64), items: &[(Device, Hub)], fate: Fate) -> Op {
    Op { invoked_ns: span.0, returned_ns: span.1, act: Act::Write { items: items.to_vec(), fate } }
}

fn accepted(span: (u64, u64), items: &[(Device, Hub)], revision: u64) -> Op {
    write(span, items, Fate::Accepted { revision })
}

fn lost(invoked_ns: u64, items: &[(Device, Hub)]) -> Op {
    write((invoked_ns, u64::MAX), items, Fate::Unknown)
}

/// A linearizable lookup at `at`; what is seen is (hub, epoch, revision).
/// What a read saw of one device: its hub, epoch and revision.
type Sighting = (Device, Option<(Hub, u64, u64)>);

fn read(span: (u64, u64), at: u64, items: &[Sighting]) -> Op {
    let seen = |s: Option<(Hub, u64, u64)>| s.map(|(hub, epoch, revision)| Seen { hub, epoch, revision });
    let items = items.iter().map(|(device, s)| (*device, seen(*s))).collect();
    Op { invoked_ns: span.0, returned_ns: span.1, act: Act::Read { items, at, linearizable: true } }
}

/// Device 1 created on hub 7 at revision 10, moved to hub 8 at revision 12.
fn two_writes() -> Vec<Op> {
    vec![accepted((0, 10), &[(1, 7)], 10), accepted((20, 30), &[(1, 8)], 12)]
}

fn with(mut ops: Vec<Op>, more: impl IntoIterator<Item = Op>) -> Vec<Op> {
    ops.extend(more);
    ops
}

fn first(ops: &[Op]) -> Violation {
    check(ops).expect_err("this history is bad").remove(0)
}

#[test]
fn an_honest_history_passes() {
    let ops = with(
        two_writes(),
        [
            read((1, 2), 9, &[(1, None)]),
            read((11, 15), 10, &[(1, Some((7, 10, 10)))]),
            // Concurrent with the second write: either is right, and later revisions of others do not matter.
            read((21, 25), 11, &[(1, Some((7, 10, 10)))]),
            read((26, 29), 12, &[(1, Some((8, 11, 12)))]),
            read((40, 50), 99, &[(1, Some((8, 11, 12)))]),
        ],
    );
    assert_eq!(check(&ops), Ok(Summary { accepted: 2, unknown: 0, revealed: 0, lookups: 5 }));
}

#[test]
fn a_lost_write_is_found() {
    // Answered at 30, but the directory at revision 20 still shows the device as it was.
    let ops = with(two_writes(), [read((40, 50), 20, &[(1, Some((7, 10, 10)))])]);
    assert!(matches!(first(&ops), Violation::Value { expected: Some((12, 8)), .. }));
    // Or has never heard of it.
    let ops = with(two_writes(), [read((40, 50), 20, &[(1, None)])]);
    assert!(matches!(first(&ops), Violation::Value { seen: None, .. }));
}

#[test]
fn a_stale_lookup_is_found_even_where_it_is_honest_about_its_revision() {
    let ops = with(two_writes(), [read((40, 50), 11, &[(1, Some((7, 10, 10)))])]);
    assert!(matches!(first(&ops), Violation::RealTime { at: 11, floor: 12, write: false, .. }));
    // One that does not claim to be linearizable may be old.
    let mut ops = ops;
    if let Some(Op { act: Act::Read { linearizable, .. }, .. }) = ops.last_mut() {
        *linearizable = false;
    }
    assert!(check(&ops).is_ok());
}

#[test]
fn lookups_do_not_go_back_behind_each_other() {
    let ops = vec![read((0, 10), 50, &[]), read((11, 20), 49, &[])];
    assert!(matches!(first(&ops), Violation::RealTime { at: 49, floor: 50, .. }));
}

#[test]
fn a_write_stands_after_what_was_answered_before_it() {
    let ops = vec![read((0, 10), 50, &[]), accepted((11, 20), &[(1, 7)], 50)];
    assert!(matches!(first(&ops), Violation::RealTime { at: 50, floor: 50, write: true, .. }));
}

#[test]
fn an_epoch_that_goes_back_is_found() {
    let ops = with(
        two_writes(),
        [read((11, 12), 10, &[(1, Some((7, 10, 10)))]), read((40, 50), 12, &[(1, Some((8, 9, 12)))])],
    );
    assert!(matches!(first(&ops), Violation::Epoch { after: (12, 9), .. }));
}

#[test]
fn an_epoch_that_jumps_or_stands_still_is_found() {
    for epoch in [10, 12] {
        let ops = with(two_writes(), [read((40, 50), 12, &[(1, Some((8, epoch, 12)))])]);
        assert!(matches!(first(&ops), Violation::Epoch { .. }), "epoch {epoch}");
    }
}

#[test]
fn a_torn_batch_write_is_found() {
    let ops = vec![
        accepted((0, 10), &[(1, 7), (2, 7)], 5),
        accepted((20, 30), &[(1, 8), (2, 8)], 6),
        read((21, 29), 6, &[(1, Some((8, 6, 6))), (2, Some((7, 5, 5)))]),
    ];
    assert!(matches!(first(&ops), Violation::Value { device: 2, .. }));
}

#[test]
fn a_torn_batch_lookup_is_found() {
    // Two devices move in turn; the lookup shows the second change and not the first.
    let ops = vec![
        accepted((0, 10), &[(1, 7), (2, 7)], 5),
        accepted((20, 30), &[(1, 8)], 6),
        accepted((31, 40), &[(2, 8)], 7),
        read((15, 50), 5, &[(1, Some((7, 5, 5))), (2, Some((8, 6, 7)))]),
    ];
    assert!(matches!(first(&ops), Violation::FromTheFuture { device: 2, .. }));
}

#[test]
fn a_write_without_an_answer_may_take_effect_or_not() {
    let start = vec![accepted((0, 10), &[(1, 7)], 10), lost(20, &[(1, 8)])];
    let not = with(start.clone(), [read((40, 50), 30, &[(1, Some((7, 10, 10)))])]);
    assert_eq!(check(&not).map(|s| s.revealed), Ok(0));
    // It may take effect late: not seen by one lookup, seen by the next.
    let late = with(not, [read((60, 70), 40, &[(1, Some((8, 11, 35)))])]);
    assert_eq!(check(&late).map(|s| s.revealed), Ok(1));
    // Once seen it stays.
    let gone = with(late, [read((80, 90), 45, &[(1, Some((7, 10, 10)))])]);
    assert!(matches!(first(&gone), Violation::Value { .. }));
}

#[test]
fn a_write_without_an_answer_takes_effect_once() {
    let ops = vec![
        accepted((0, 10), &[(1, 7)], 10),
        lost(20, &[(1, 8)]),
        read((30, 40), 15, &[(1, Some((8, 11, 14)))]),
        accepted((41, 50), &[(1, 9)], 16),
        read((60, 70), 20, &[(1, Some((8, 13, 18)))]),
    ];
    assert!(matches!(first(&ops), Violation::TooManyEffects { .. }));
    // Two such writes make it right.
    assert_eq!(check(&with(ops, [lost(55, &[(1, 8)])])).map(|s| s.revealed), Ok(2));
}

#[test]
fn a_write_without_an_answer_takes_effect_as_a_whole() {
    let ops = vec![
        accepted((0, 10), &[(1, 7), (2, 7)], 10),
        lost(20, &[(1, 8), (2, 8)]),
        read((30, 40), 15, &[(1, Some((8, 11, 14)))]),
        read((41, 50), 15, &[(2, Some((7, 10, 10)))]),
    ];
    assert!(matches!(first(&ops), Violation::Value { device: 2, expected: Some((14, 8)), .. }));
}

#[test]
fn a_change_that_nobody_asked_for_is_found() {
    let ops = with(two_writes(), [read((40, 50), 20, &[(1, Some((9, 12, 15)))])]);
    assert!(matches!(first(&ops), Violation::TooManyEffects { revision: 15 }));
    let ops = with(two_writes(), [read((40, 50), 20, &[(1, Some((9, 11, 12)))])]);
    assert!(matches!(first(&ops), Violation::NotAsked { device: 1, .. }));
}

#[test]
fn a_refused_write_that_takes_effect_is_found() {
    let refused = write((31, 35), &[(1, 9)], Fate::Refused);
    let ops = with(two_writes(), [refused, read((40, 50), 20, &[(1, Some((9, 12, 15)))])]);
    assert!(matches!(first(&ops), Violation::TooManyEffects { revision: 15 }));
}

#[test]
fn a_write_is_not_seen_before_it_is_sent() {
    let ops = vec![lost(50, &[(1, 7)]), read((10, 20), 5, &[(1, Some((7, 5, 5)))])];
    assert!(matches!(first(&ops), Violation::TooManyEffects { revision: 5 }));
}

#[test]
fn writing_the_same_hub_again_changes_nothing() {
    let ops = with(
        two_writes(),
        [accepted((31, 35), &[(1, 8)], 13), read((40, 50), 20, &[(1, Some((8, 11, 12)))])],
    );
    assert!(check(&ops).is_ok(), "{:?}", check(&ops));
}

#[test]
fn an_unseen_change_is_allowed_for() {
    // The lost write took effect at 14 and was overwritten before anybody looked: two steps of the epoch.
    let start = with(two_writes(), [lost(35, &[(1, 9)]), accepted((50, 60), &[(1, 7)], 16)]);
    let ops = with(start.clone(), [read((70, 80), 20, &[(1, Some((7, 13, 16)))])]);
    assert!(check(&ops).is_ok(), "{:?}", check(&ops));
    // A write to the hub it was on changes it back.
    let start = with(two_writes(), [lost(35, &[(1, 9)]), accepted((50, 60), &[(1, 8)], 16)]);
    for seen in [(8, 13, 16), (8, 11, 12)] {
        let ops = with(start.clone(), [read((70, 80), 20, &[(1, Some(seen))])]);
        assert!(check(&ops).is_ok(), "{:?}", check(&ops));
    }
    // But no epoch goes back.
    let ops = with(start, [read((70, 80), 20, &[(1, Some((8, 10, 16)))])]);
    assert!(matches!(first(&ops), Violation::Epoch { .. }));
}

#[test]
fn one_revision_is_not_acknowledged_twice() {
    let ops = vec![accepted((0, 10), &[(1, 7)], 10), accepted((0, 10), &[(2, 7)], 10)];
    assert!(matches!(first(&ops), Violation::RevisionTwice { revision: 10 }));
}

#[test]
fn large_histories_are_checked_in_time() {
    // 200,000 operations over 100 devices: quadratic work would take minutes.
    let mut ops = Vec::new();
    let mut last = [None; 100];
    for at in 1..=100_000u64 {
        let device = (at * 7 % 100) as usize;
        let hub = (at % 2) as Hub + if at % 3 == 0 { 2 } else { 0 };
        ops.push(accepted((at * 10, at * 10 + 5), &[(device as Device, hub)], at));
        last[device] = match last[device] {
            None => Some((hub, at, at)),
            Some((same, epoch, revision)) if same == hub => Some((same, epoch, revision)),
            Some((_, epoch, _)) => Some((hub, epoch + 1, at)),
        };
        ops.push(read((at * 10 + 6, at * 10 + 9), at, &[(device as Device, last[device])]));
    }
    assert_eq!(check(&ops).map(|s| (s.accepted, s.lookups)), Ok((100_000, 100_000)));
}
