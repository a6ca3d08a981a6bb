//! What follows from what Azure says: the adopt rule against one written down as a table, and what no answer may do.

use berth_core::model::Model;
use berth_core::reconcile::{
    Absence, Case, DriftClass, IdentitySeen, NEWER_BY_MS, RegistrationSeen, Verdict, Why, adopt, judge,
};
use berth_core::{
    Assign, Command, DeviceId, Epoch, Evidence, EvidenceSource, HubName, HubPatch, LabelSetNo, Mapping,
    ObjectPatch, Origin, Precondition, Registration, RepairRule, Revision, Scope, ScopeName, ScopePatch,
    StampPatch, Status, Timestamp, TopologyEdit,
};
use proptest::prelude::*;

use crate::strategies::anonymous;

/// The device's own hub, two linked ones beside it, one that is not linked, and one that nobody knows.
const HUBS: [&str; 5] = ["a.example", "b.example", "c.example", "unlinked.example", "stranger.example"];
const NOW: u64 = 1_700_000_000_000;

fn hub(text: &str) -> HubName {
    text.parse().unwrap()
}

fn world(repair: RepairRule) -> (Model, Scope) {
    let mut model = Model::default();
    let mut patches = vec![ObjectPatch::Stamp(StampPatch::of("s".parse().unwrap()))];
    for name in &HUBS[..4] {
        let mut patch = HubPatch::of(hub(name));
        patch.stamp = Some("s".parse().unwrap());
        patches.push(ObjectPatch::Hub(patch));
    }
    let name: ScopeName = "0ne1".parse().unwrap();
    let mut patch = ScopePatch::of(name.clone());
    patch.linked_hubs = Some(HUBS[..3].iter().map(|name| hub(name)).collect());
    patch.repair = Some(repair);
    patches.push(ObjectPatch::Scope(patch));
    let patches = patches.into_iter().map(|patch| (berth_core::Expect::Any, patch)).collect();
    let edit = TopologyEdit { patches, deletes: Vec::new(), prune: false };
    model.propose(&anonymous(Command::Topology(edit)), Timestamp(NOW)).unwrap();
    let scope = model.topology.scope_named(&name).unwrap().clone();
    (model, scope)
}

fn seen() -> impl Strategy<Value = RegistrationSeen> {
    let at = prop_oneof![
        Just(None),
        (0..240u64).prop_map(|s| Some(Timestamp(NOW - 120_000 + s * 1_000))),
        any::<u64>().prop_map(|ms| Some(Timestamp(ms))),
    ];
    let device = prop_oneof![4 => Just("d"), 1 => Just("D"), 1 => Just("other")];
    prop_oneof![
        6 => (0..HUBS.len(), device, at.clone()).prop_map(|(n, device, updated)| RegistrationSeen::Assigned {
            hub: hub(HUBS[n]),
            device: device.parse().unwrap(),
            updated,
        }),
        1 => Just(RegistrationSeen::Assigning),
        1 => Just(RegistrationSeen::Unassigned),
        1 => Just(RegistrationSeen::Disabled),
        1 => at.prop_map(|updated| RegistrationSeen::Failed { updated }),
        1 => Just(RegistrationSeen::NotEnrolled),
    ]
}

fn identity() -> impl Strategy<Value = Option<IdentitySeen>> {
    let said =
        prop_oneof![Just(IdentitySeen::Enabled), Just(IdentitySeen::Disabled), Just(IdentitySeen::Missing)];
    prop::option::of(said)
}

fn why() -> impl Strategy<Value = Why> {
    prop_oneof![Just(Why::Report), Just(Why::ReadThrough), Just(Why::Sweep)]
}

/// A mapping at hub `a`, or at none.
fn mapping(model: &Model) -> impl Strategy<Value = Mapping> + use<> {
    let own = model.topology.hub_named(&hub(HUBS[0])).unwrap().no;
    let scope = model.topology.scopes().next().unwrap().no;
    let statuses = prop::sample::select(Status::ALL);
    let sources = prop::sample::select(EvidenceSource::ALL);
    (prop::bool::weighted(0.8), statuses, sources, 0..121u64, 1..50u64).prop_map(
        move |(has_hub, status, source, seconds_ago, epoch)| Mapping {
            hub: has_hub.then_some(own),
            status: if has_hub || status != Status::Assigned { status } else { Status::Unassigned },
            epoch: Epoch(epoch),
            revision: Revision(epoch),
            origin: Origin::Placed,
            evidence: Evidence { source, at: Timestamp(NOW - seconds_ago * 1_000) },
            scope: Some(scope),
            registration: Registration::SameAsDevice,
            labels: LabelSetNo::EMPTY,
        },
    )
}

/// What is to come of an answer that names a hub for a device that has one, by the letter of the rule, as a table.
fn table(
    own: bool,
    linked: bool,
    known: bool,
    exact: bool,
    hearsay: bool,
    gap_s: Option<i64>,
    ahead_s: i64,
) -> &'static str {
    match (exact, known, own, linked, hearsay, gap_s) {
        (false, ..) => "DUPLICATE",
        (_, false, ..) => "HUB_UNKNOWN",
        (_, _, true, ..) => "ask",
        (_, _, _, false, ..) => "HUB_NOT_LINKED",
        (_, _, _, _, true, _) => "adopt",
        (_, _, _, _, false, Some(gap)) if gap > 60 && ahead_s <= 60 => "adopt",
        _ => "PENDING",
    }
}

fn outcome(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Confirmed => "confirmed",
        Verdict::AskIdentity(_) => "ask",
        Verdict::Write(_) => "adopt",
        Verdict::Drift(drift) => drift.class.name(),
        Verdict::Negative { .. } => "negative",
    }
}

proptest! {
    #[test]
    fn the_adopt_rule_is_the_table(
        at in 0..HUBS.len(),
        exact: bool,
        source in prop::sample::select(EvidenceSource::ALL),
        changed_s_ago in 0..400i64,
        updated_s_ago in prop::option::of(-200..400i64),
        enforce: bool,
    ) {
        let (model, scope) = world(if enforce { RepairRule::Enforce } else { RepairRule::Adopt });
        let seconds_ago = |seconds: i64| Timestamp(NOW.saturating_add_signed(-seconds * 1_000));
        let device: DeviceId = "d".parse().unwrap();
        let mapping = Mapping {
            hub: Some(model.topology.hub_named(&hub(HUBS[0])).unwrap().no),
            status: Status::Assigned,
            epoch: Epoch(7),
            revision: Revision(7),
            origin: Origin::Placed,
            evidence: Evidence { source, at: seconds_ago(changed_s_ago) },
            scope: Some(scope.no),
            registration: Registration::SameAsDevice,
            labels: LabelSetNo::EMPTY,
        };
        let registration = RegistrationSeen::Assigned {
            hub: hub(HUBS[at]),
            device: if exact { device.clone() } else { "e".parse().unwrap() },
            updated: updated_s_ago.map(seconds_ago),
        };
        let case = Case {
            scope: &scope,
            device: &device,
            mapping: Some(&mapping),
            registration: &registration,
            identity: None,
            why: Why::Report,
            now: Timestamp(NOW),
        };
        let hearsay = matches!(source, EvidenceSource::Import | EvidenceSource::Dps);
        let gap = updated_s_ago.map(|updated| changed_s_ago - updated);
        let ahead = updated_s_ago.map_or(0, |updated| -updated);
        let expected = table(at == 0, at < 3, at < 4, exact, hearsay, gap, ahead);
        let expected = if enforce && expected == "adopt" { "WRONG_HUB" } else { expected };
        let verdict = judge(&model.topology, &case);
        prop_assert_eq!(outcome(&verdict), expected, "{:?}", verdict);
        if let Verdict::Write(assign) = verdict {
            prop_assert_eq!(assign.precondition, Precondition::Epoch(Epoch(7)));
            prop_assert_eq!(assign.hub, Some(hub(HUBS[at])));
            prop_assert_eq!((assign.origin, assign.evidence), (Origin::Adopted, EvidenceSource::Dps));
        }
    }

    #[test]
    fn a_fresh_assignment_survives_every_older_answer(
        registration in seen(),
        identity in identity(),
        why in why(),
        source in prop::sample::select(&[EvidenceSource::Operator, EvidenceSource::Hook, EvidenceSource::Gateway][..]),
    ) {
        let (model, scope) = world(RepairRule::Adopt);
        let device: DeviceId = "d".parse().unwrap();
        let changed = Timestamp(NOW - 1_000);
        let mapping = Mapping {
            hub: Some(model.topology.hub_named(&hub(HUBS[0])).unwrap().no),
            status: Status::Assigned,
            epoch: Epoch(3),
            revision: Revision(3),
            origin: Origin::Placed,
            evidence: Evidence { source, at: changed },
            scope: Some(scope.no),
            registration: Registration::SameAsDevice,
            labels: LabelSetNo::EMPTY,
        };
        let older = match &registration {
            RegistrationSeen::Assigned { updated, .. } | RegistrationSeen::Failed { updated } => {
                updated.is_none_or(|at| at.0 <= changed.0 + NEWER_BY_MS)
            }
            _ => true,
        };
        prop_assume!(older);
        let case = Case {
            scope: &scope, device: &device, mapping: Some(&mapping), registration: &registration, identity, why,
            now: Timestamp(NOW),
        };
        if let Verdict::Write(assign) = judge(&model.topology, &case) {
            prop_assert_eq!(assign.hub, None, "{:?} moved a fresh assignment", registration);
            prop_assert_eq!(assign.status, Some(Status::Disabled), "DPS's old word took its hub from a device");
        }
    }

    #[test]
    fn no_sequence_of_older_answers_undoes_an_assignment(
        answers in prop::collection::vec((seen(), identity(), why(), 0..400_000u64), 1..20),
        source in prop::sample::select(&[EvidenceSource::Operator, EvidenceSource::Hook][..]),
        was_hearsay: bool,
    ) {
        let (mut model, scope) = world(RepairRule::Adopt);
        let device: DeviceId = "d".parse().unwrap();
        let assign = |named: &str, evidence| Assign {
            device: device.clone(),
            hub: Some(hub(named)),
            status: Some(Status::Assigned),
            labels: None,
            scope: Some(scope.name.clone()),
            registration: None,
            precondition: Precondition::None,
            origin: Origin::Placed,
            evidence,
        };
        let mut now = NOW;
        if was_hearsay {
            let earlier = assign(HUBS[1], EvidenceSource::Dps);
            model.propose(&anonymous(Command::Assign(earlier)), Timestamp(NOW - 5_000)).unwrap();
        }
        model.propose(&anonymous(Command::Assign(assign(HUBS[0], source))), Timestamp(now)).unwrap();
        let assigned = model.devices[&device].clone();
        for (mut registration, identity, why, passed) in answers {
            now += passed;
            if let RegistrationSeen::Assigned { updated, .. } | RegistrationSeen::Failed { updated } = &mut registration {
                *updated = updated.map(|at| Timestamp(at.0.min(NOW + NEWER_BY_MS)));
            }
            let before = model.devices[&device].clone();
            let case = Case {
                scope: &scope, device: &device, mapping: Some(&before), registration: &registration, identity, why,
                now: Timestamp(now),
            };
            if let Verdict::Write(assign) = judge(&model.topology, &case) {
                model.propose(&anonymous(Command::Assign(*assign)), Timestamp(now)).unwrap();
            }
            let after = &model.devices[&device];
            prop_assert_eq!(after.hub, assigned.hub, "{:?} moved it", registration);
            prop_assert_eq!((after.evidence, after.origin), (assigned.evidence, assigned.origin));
            prop_assert!(matches!(after.status, Status::Assigned | Status::Disabled), "{:?}", after.status);
        }
    }

    #[test]
    fn an_observed_status_leaves_who_vouches_for_the_hub(
        start in mapping(&world(RepairRule::Adopt).0),
        status in prop::sample::select(Status::ALL),
        evidence in prop::sample::select(EvidenceSource::ALL),
    ) {
        let (mut model, scope) = world(RepairRule::Adopt);
        let device: DeviceId = "d".parse().unwrap();
        let assign = |status, origin, evidence| Assign {
            device: device.clone(),
            hub: start.hub.map(|_| hub(HUBS[0])),
            status: Some(status),
            labels: None,
            scope: Some(scope.name.clone()),
            registration: None,
            precondition: Precondition::None,
            origin,
            evidence,
        };
        let first = assign(start.status, start.origin, start.evidence.source);
        model.propose(&anonymous(Command::Assign(first)), Timestamp(NOW)).unwrap();
        let later = NOW + 3_600_000;
        let second = assign(status, Origin::Adopted, evidence);
        let done = model.propose(&anonymous(Command::Assign(second)), Timestamp(later));
        let after = &model.devices[&device];
        let stands = done.is_err() || status == start.status || evidence.observes();
        let (origin, source, at) = match stands {
            true => (start.origin, start.evidence.source, NOW),
            false => (Origin::Adopted, evidence, later),
        };
        prop_assert_eq!((after.origin, after.evidence), (origin, Evidence { source, at: Timestamp(at) }));
    }

    #[test]
    fn whatever_is_seen_epochs_only_grow_and_hubs_come_from_answers_alone(
        answers in prop::collection::vec((seen(), identity(), why(), 0..90_000u64), 1..20),
        start in mapping(&world(RepairRule::Adopt).0),
    ) {
        let (mut model, scope) = world(RepairRule::Adopt);
        let device: DeviceId = "d".parse().unwrap();
        let first = Assign {
            device: device.clone(),
            hub: start.hub.map(|_| hub(HUBS[0])),
            status: Some(start.status),
            labels: None,
            scope: Some(scope.name.clone()),
            registration: None,
            precondition: Precondition::Absent,
            origin: start.origin,
            evidence: start.evidence.source,
        };
        let mut now = NOW;
        model.propose(&anonymous(Command::Assign(first)), Timestamp(now)).unwrap();
        for (registration, identity, why, passed) in answers {
            now += passed;
            let before = model.devices[&device].clone();
            let case = Case {
                scope: &scope, device: &device, mapping: Some(&before), registration: &registration, identity, why,
                now: Timestamp(now),
            };
            let verdict = judge(&model.topology, &case);
            if let Verdict::Write(assign) = &verdict {
                prop_assert_eq!(assign.precondition, Precondition::Epoch(before.epoch));
                model.propose(&anonymous(Command::Assign((**assign).clone())), Timestamp(now)).unwrap();
            }
            let after = &model.devices[&device];
            let wrote = matches!(verdict, Verdict::Write(_));
            prop_assert_eq!(after.epoch.0, before.epoch.0 + u64::from(wrote), "{:?}", verdict);
            if after.hub != before.hub {
                let named = after.hub.and_then(|no| model.topology.hub(no)).map(|hub| hub.name.clone());
                let RegistrationSeen::Assigned { hub, device: named_device, .. } = &registration else {
                    panic!("{registration:?} moved the device")
                };
                prop_assert_eq!(named.as_ref(), Some(hub));
                prop_assert_eq!(named_device, &device, "an answer for another device moved this one");
            }
        }
    }

    #[test]
    fn a_newcomer_is_taken_in_only_under_its_exact_name(registration in seen(), identity in identity(), why in why()) {
        let (mut model, scope) = world(RepairRule::Adopt);
        let device: DeviceId = "d".parse().unwrap();
        let case = Case {
            scope: &scope, device: &device, mapping: None, registration: &registration, identity, why,
            now: Timestamp(NOW),
        };
        let verdict = judge(&model.topology, &case);
        let fits = matches!(&registration, RegistrationSeen::Assigned { hub, device: named, .. }
            if *named == device && HUBS[..3].contains(&hub.as_str()));
        prop_assert_eq!(matches!(verdict, Verdict::Write(_)), fits, "{:?}", verdict);
        if let Verdict::Write(assign) = verdict {
            prop_assert_eq!(assign.precondition, Precondition::Absent);
            model.propose(&anonymous(Command::Assign(*assign)), Timestamp(NOW)).unwrap();
            prop_assert_eq!(model.devices[&device].scope, Some(scope.no));
        }
    }
}

#[test]
fn what_the_hub_says_decides_where_both_name_it() {
    let (model, scope) = world(RepairRule::Adopt);
    let device: DeviceId = "d".parse().unwrap();
    let own = model.topology.hub_named(&hub(HUBS[0])).unwrap().no;
    let mapping = |status| Mapping {
        hub: Some(own),
        status,
        epoch: Epoch(5),
        revision: Revision(5),
        origin: Origin::Imported,
        evidence: Evidence { source: EvidenceSource::Import, at: Timestamp(NOW) },
        scope: Some(scope.no),
        registration: Registration::SameAsDevice,
        labels: LabelSetNo::EMPTY,
    };
    let same = RegistrationSeen::Assigned { hub: hub(HUBS[0]), device: device.clone(), updated: None };
    let verdict = |status, registration: &RegistrationSeen, identity| {
        let mapping = mapping(status);
        let case = Case {
            scope: &scope,
            device: &device,
            mapping: Some(&mapping),
            registration,
            identity,
            why: Why::Report,
            now: Timestamp(NOW),
        };
        judge(&model.topology, &case)
    };
    assert_eq!(verdict(Status::Assigned, &same, None), Verdict::AskIdentity(own));
    assert_eq!(verdict(Status::Assigned, &same, Some(IdentitySeen::Enabled)), Verdict::Confirmed);
    let missing = verdict(Status::Assigned, &same, Some(IdentitySeen::Missing));
    assert!(
        matches!(&missing, Verdict::Negative { kind: Absence::Missing, drift: Some(drift), .. } if drift.class == DriftClass::Missing),
        "{missing:?}"
    );
    for (status, identity, wanted) in [
        (Status::Assigned, IdentitySeen::Disabled, Some(Status::Disabled)),
        (Status::Disabled, IdentitySeen::Enabled, Some(Status::Assigned)),
        (Status::Enrolling, IdentitySeen::Enabled, Some(Status::Assigned)),
        (Status::Disabled, IdentitySeen::Disabled, None),
    ] {
        let written = match verdict(status, &same, Some(identity)) {
            Verdict::Write(assign) => {
                assert_eq!((assign.hub.clone(), assign.evidence), (None, EvidenceSource::Gateway));
                assign.status
            }
            Verdict::Negative { kind: Absence::Disabled, .. } => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(written, wanted, "{status:?} and {identity:?}");
    }
    // A disabled enrollment keeps a device from registering, not from its hub.
    let barred = verdict(Status::Assigned, &RegistrationSeen::Disabled, Some(IdentitySeen::Enabled));
    assert!(matches!(&barred, Verdict::Drift(drift) if drift.class == DriftClass::Disabled), "{barred:?}");
}

proptest! {
    #[test]
    fn a_drift_is_adopted_only_as_azure_says_it(
        registration in seen(),
        said in identity(),
        enforced in any::<bool>(),
        row in mapping(&world(RepairRule::Adopt).0),
    ) {
        let rule = if enforced { RepairRule::Enforce } else { RepairRule::Adopt };
        let (mut model, scope) = world(rule);
        let device: DeviceId = "d".parse().unwrap();
        let case = Case {
            scope: &scope,
            device: &device,
            mapping: Some(&row),
            registration: &registration,
            identity: said,
            why: Why::Sweep,
            now: Timestamp(NOW),
        };
        let drift = match judge(&model.topology, &case) {
            Verdict::Drift(drift) | Verdict::Negative { drift: Some(drift), .. } => drift,
            _ => return Ok(()),
        };
        let taken = adopt(&device, &row, &drift);
        prop_assert_eq!(taken.is_some(), drift.is_adoptable());
        let Some(assign) = taken else { return Ok(()) };
        prop_assert_eq!(assign.precondition, Precondition::Epoch(row.epoch));
        prop_assert_eq!((&assign.hub, assign.status), (&drift.theirs.hub, drift.theirs.status));
        // The directory takes it as it takes any other change, and the two agree then.
        model.devices.insert(device.clone(), row.clone());
        prop_assert!(model.propose(&anonymous(Command::Assign(assign)), Timestamp(NOW)).is_ok());
        let row = model.devices[&device].clone();
        let case = Case { mapping: Some(&row), ..case };
        let again = judge(&model.topology, &case);
        prop_assert!(!matches!(again, Verdict::Drift(ref drift) if drift.is_adoptable()), "{:?}", again);
    }
}
