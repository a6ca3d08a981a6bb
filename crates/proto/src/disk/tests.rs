use berth_core::{
    Assign, Capacity, Command, Cost, DeviceId, DiffAction, DiffEntry, Epoch, Evidence, EvidenceSource,
    Expect, FieldChange, Hub, HubName, HubNo, HubPatch, LabelSetNo, Labels, Mapping, ObjectKind, ObjectPatch,
    ObjectRef, Origin, Outcome, PlaceState, Precondition, Proposal, Registration, RegistrationId, Remove,
    RepairRule, Reply, RequestId, Revision, Route, RouteKey, RoutePatch, Scope, ScopeName, ScopeNo,
    ScopePatch, SoftLimit, Stamp, StampName, StampNo, StampPatch, Status, Tier, Timestamp, TopologyEdit,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn device() -> impl Strategy<Value = DeviceId> {
    "[a-zA-Z0-9+%_#*?!(),=@$':.-]{1,128}".prop_map(|text| DeviceId::parse(&text).unwrap())
}

fn registration() -> impl Strategy<Value = RegistrationId> {
    "[a-zA-Z0-9._:-]{0,127}[a-zA-Z0-9-]".prop_map(|text| RegistrationId::parse(&text).unwrap())
}

fn hub() -> impl Strategy<Value = HubName> {
    "[a-z][a-z0-9]{0,20}(\\.[a-z0-9]{1,20}){0,3}".prop_map(|text| HubName::parse(&text).unwrap())
}

fn stamp() -> impl Strategy<Value = StampName> {
    "[a-zA-Z0-9._-]{1,63}".prop_map(|text| StampName::parse(&text).unwrap())
}

fn scope() -> impl Strategy<Value = ScopeName> {
    "[0-9A-Za-z]{1,32}".prop_map(|text| ScopeName::parse(&text).unwrap())
}

fn route() -> impl Strategy<Value = RouteKey> {
    "[a-z0-9.-]{1,60}".prop_map(|text| RouteKey::parse(&text).unwrap())
}

fn labels() -> impl Strategy<Value = Labels> {
    vec(("[a-z/._-]{1,10}", "[ -~äß]{0,12}"), 0..=8).prop_map(|pairs| Labels::parse(pairs).unwrap())
}

fn request_id() -> impl Strategy<Value = RequestId> {
    any::<[u8; 16]>().prop_map(|mut bytes| {
        bytes[6] = 0x70 | bytes[6] & 0x0f;
        bytes[8] = 0x80 | bytes[8] & 0x3f;
        RequestId::from_bytes(bytes).unwrap()
    })
}

fn status() -> impl Strategy<Value = Status> {
    select(Status::ALL)
}

fn state() -> impl Strategy<Value = PlaceState> {
    select(PlaceState::ALL)
}

fn repair() -> impl Strategy<Value = RepairRule> {
    prop_oneof![Just(RepairRule::Adopt), Just(RepairRule::Enforce)]
}

fn capacity() -> impl Strategy<Value = Capacity> {
    any::<(Option<u64>, Option<u64>)>().prop_map(|(soft, hard)| Capacity { soft, hard })
}

fn cost() -> impl Strategy<Value = Cost> {
    ("[A-Z]{0,3}", any::<u64>(), any::<u64>()).prop_map(|(currency, fixed_micros, per_device_micros)| Cost {
        currency,
        fixed_micros,
        per_device_micros,
    })
}

fn mapping() -> impl Strategy<Value = Mapping> {
    let registration = prop_oneof![
        Just(Registration::None),
        Just(Registration::SameAsDevice),
        registration().prop_map(Registration::Explicit)
    ];
    let counted = (option::of(0u32..0xff_ffff), 0u64..1 << 48, 0u64..1 << 48, any::<u32>());
    let kinds = (status(), select(Origin::ALL), select(EvidenceSource::ALL));
    (counted, kinds, registration, any::<u16>(), option::of(0..u16::MAX)).prop_map(
        |((hub, epoch, revision, seconds), (status, origin, source), registration, labels, scope)| Mapping {
            hub: hub.map(HubNo),
            status,
            epoch: Epoch(epoch),
            revision: Revision(revision),
            origin,
            evidence: Evidence { source, at: Timestamp::from_seconds(seconds) },
            scope: scope.map(ScopeNo),
            registration,
            labels: LabelSetNo(labels),
        },
    )
}

fn precondition() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        Just(Precondition::None),
        Just(Precondition::Absent),
        any::<u64>().prop_map(|epoch| Precondition::Epoch(Epoch(epoch)))
    ]
}

fn assign() -> impl Strategy<Value = Assign> {
    let fields = (option::of(hub()), option::of(status()), option::of(labels()), option::of(scope()));
    let kinds = (select(Origin::ALL), select(EvidenceSource::ALL));
    (device(), fields, option::of(registration()), precondition(), kinds).prop_map(
        |(device, (hub, status, labels, scope), registration, precondition, (origin, evidence))| Assign {
            device,
            hub,
            status,
            labels,
            scope,
            registration,
            precondition,
            origin,
            evidence,
        },
    )
}

fn patch() -> impl Strategy<Value = ObjectPatch> {
    let limit = || option::of(any::<Option<u64>>());
    let of_stamp = (
        stamp(),
        option::of(state()),
        option::of(labels()),
        limit(),
        limit(),
        option::of(".{0,20}"),
        option::of(cost()),
    )
        .prop_map(|(name, state, labels, capacity_soft, capacity_hard, app_endpoint, cost)| {
            let patch = StampPatch { name, state, labels, capacity_soft, capacity_hard, app_endpoint, cost };
            ObjectPatch::Stamp(patch)
        });
    let of_hub = (
        hub(),
        option::of(stamp()),
        option::of(state()),
        limit(),
        limit(),
        option::of(select(Tier::ALL)),
        option::of(any::<u32>()),
    )
        .prop_map(|(name, stamp, state, capacity_soft, capacity_hard, tier, units)| {
            ObjectPatch::Hub(HubPatch { name, stamp, state, capacity_soft, capacity_hard, tier, units })
        });
    let of_scope = (
        scope(),
        option::of(".{0,20}"),
        option::of(".{0,20}"),
        option::of(vec(hub(), 0..4)),
        option::of(any::<u8>()),
        option::of(repair()),
        any::<Option<bool>>(),
    )
        .prop_map(
            |(name, service_host, credential_ref, linked_hubs, budget_percent, repair, read_through)| {
                ObjectPatch::Scope(ScopePatch {
                    name,
                    service_host,
                    credential_ref,
                    linked_hubs,
                    budget_percent,
                    repair,
                    read_through,
                })
            },
        );
    let of_route =
        (route(), option::of(stamp())).prop_map(|(key, stamp)| ObjectPatch::Route(RoutePatch { key, stamp }));
    prop_oneof![of_stamp, of_hub, of_scope, of_route]
}

fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![
        Just(Expect::Any),
        Just(Expect::Absent),
        Just(Expect::Present),
        any::<u64>().prop_map(|revision| Expect::At(Revision(revision)))
    ]
}

fn object_ref() -> impl Strategy<Value = ObjectRef> {
    prop_oneof![
        stamp().prop_map(ObjectRef::Stamp),
        hub().prop_map(ObjectRef::Hub),
        scope().prop_map(ObjectRef::Scope),
        route().prop_map(ObjectRef::Route)
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let remove = (device(), precondition())
        .prop_map(|(device, precondition)| Command::Remove(Remove { device, precondition }));
    let edit = (vec((expect(), patch()), 0..5), vec((expect(), object_ref()), 0..5), any::<bool>())
        .prop_map(|(patches, deletes, prune)| Command::Topology(TopologyEdit { patches, deletes, prune }));
    prop_oneof![
        assign().prop_map(Command::Assign),
        vec(assign(), 0..30).prop_map(Command::BatchAssign),
        remove,
        edit
    ]
}

fn proposal() -> impl Strategy<Value = Proposal> {
    (option::of(request_id()), "[ -~]{0,128}", "[ -~]{0,256}", command()).prop_map(
        |(request_id, actor, reason, command)| Proposal {
            request_id,
            payload_hash: 0,
            actor,
            reason,
            command,
        },
    )
}

fn soft_limit() -> impl Strategy<Value = SoftLimit> {
    let kind = prop_oneof![Just(ObjectKind::Stamp), Just(ObjectKind::Hub)];
    (kind, "[a-z.]{1,60}", any::<u64>(), any::<u64>()).prop_map(|(kind, name, used, limit)| SoftLimit {
        kind,
        name,
        used,
        limit,
    })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let field = ("[a-z_]{1,12}", ".{0,20}", ".{0,20}").prop_map(|(field, before, after)| FieldChange {
        field,
        before,
        after,
    });
    let kind = select(&[ObjectKind::Stamp, ObjectKind::Hub, ObjectKind::Scope, ObjectKind::Route][..]);
    let action = select(&[DiffAction::Created, DiffAction::Updated, DiffAction::Deleted][..]);
    let entry = (kind, "[a-z.]{1,40}", action, vec(field, 0..4))
        .prop_map(|(kind, name, action, fields)| DiffEntry { kind, name, action, fields });
    let revision = || any::<u64>().prop_map(Revision);
    prop_oneof![
        (revision(), any::<u64>(), any::<bool>(), any::<bool>(), vec(soft_limit(), 0..3)).prop_map(
            |(revision, epoch, created, moved, over_soft)| Outcome::Assigned {
                revision,
                epoch: Epoch(epoch),
                created,
                moved,
                over_soft
            }
        ),
        (revision(), any::<[u32; 4]>(), vec(soft_limit(), 0..40)).prop_map(
            |(revision, [created, moved, touched, unchanged], over_soft)| Outcome::BatchAssigned {
                revision,
                created,
                moved,
                touched,
                unchanged,
                over_soft
            }
        ),
        (revision(), any::<u64>())
            .prop_map(|(revision, epoch)| Outcome::Removed { revision, epoch: Epoch(epoch) }),
        (revision(), vec(entry, 0..30), vec(soft_limit(), 0..5))
            .prop_map(|(revision, diff, over)| Outcome::TopologyEdited { revision, diff, over }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_mapping_comes_back(mapping in mapping()) {
        let mut bytes = Vec::new();
        encode_mapping(&mapping, &mut bytes).unwrap();
        prop_assert!(bytes.len() <= MAPPING_BYTES_MAX);
        prop_assert_eq!(decode_mapping(&bytes).unwrap(), mapping);
    }

    #[test]
    fn a_mapping_has_one_encoding(bytes in vec(any::<u8>(), 21..40)) {
        if let Ok(mapping) = decode_mapping(&bytes) {
            let mut again = Vec::new();
            encode_mapping(&mapping, &mut again).unwrap();
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn a_proposal_comes_back(proposal in proposal()) {
        let bytes = encode_proposal(&proposal).unwrap();
        let mut read = decode_proposal(&bytes).unwrap();
        prop_assert_eq!(read.payload_hash != 0, proposal.request_id.is_some());
        read.payload_hash = 0;
        prop_assert_eq!(read, proposal);
    }

    #[test]
    fn the_payload_hash_is_of_the_command_alone(
        a in proposal(), actor in "[a-z]{0,9}", id in request_id(), other in request_id()
    ) {
        let first = Proposal { request_id: Some(id), ..a.clone() };
        let again = Proposal { request_id: Some(other), actor, reason: String::new(), ..a };
        let hash = |p: &Proposal| decode_proposal(&encode_proposal(p).unwrap()).unwrap().payload_hash;
        prop_assert_eq!(hash(&first), hash(&again));
    }

    #[test]
    fn a_damaged_proposal_is_an_error_or_a_proposal(
        proposal in proposal(), flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        let mut bytes = encode_proposal(&proposal).unwrap().to_vec();
        for (at, to) in flips {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        let _ = decode_proposal(&bytes);
        for end in 0..bytes.len().min(200) {
            let _ = decode_proposal(&bytes[..end]);
        }
    }

    #[test]
    fn a_reply_comes_back_or_is_cut(hash in any::<u128>(), outcome in outcome()) {
        let reply = Reply { payload_hash: hash, outcome };
        let bytes = encode_reply(&reply);
        prop_assert!(bytes.len() <= REPLY_BYTES_MAX);
        let read = decode_reply(&bytes).unwrap();
        prop_assert_eq!(read.payload_hash, reply.payload_hash);
        prop_assert_eq!(read.outcome.revision(), reply.outcome.revision());
        if disk_len(&reply) <= REPLY_BYTES_MAX {
            prop_assert_eq!(read, reply);
        }
    }

    #[test]
    fn topology_objects_come_back(
        (no, revision) in any::<(u32, u64)>(), name in stamp(), hub_name in hub(), scope_name in scope(), key in route(),
        state in state(), labels in labels(), capacity in capacity(), cost in cost(), text in ".{0,40}",
        tier in select(Tier::ALL), linked in vec(any::<u32>(), 0..5), repair in repair(), percent in any::<u8>()
    ) {
        let revision = Revision(revision);
        let stamp = Stamp {
            no: StampNo(no), name, state, labels: labels.clone(), capacity, app_endpoint: text.clone(), cost, revision,
        };
        prop_assert_eq!(&decode_stamp(&encode_stamp(&stamp)).unwrap(), &stamp);
        let hub = Hub { no: HubNo(no), name: hub_name, stamp: StampNo(no), state, capacity, tier, units: no, revision };
        prop_assert_eq!(&decode_hub(&encode_hub(&hub)).unwrap(), &hub);
        let scope = Scope {
            no: ScopeNo((no & 0xffff) as u16), name: scope_name, service_host: text.clone(), credential_ref: text,
            linked_hubs: linked.into_iter().map(HubNo).collect(), budget_percent: percent, repair,
            read_through: no & 1 == 1, revision,
        };
        prop_assert_eq!(&decode_scope(&encode_scope(&scope)).unwrap(), &scope);
        let route = Route { key, stamp: StampNo(no), revision };
        prop_assert_eq!(&decode_route(&encode_route(&route)).unwrap(), &route);
        prop_assert_eq!(&decode_label_set(&encode_label_set(&labels)).unwrap(), &labels);
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in vec(any::<u8>(), 0..400), kind in 0u8..6) {
        for _ in 0..2 {
            let _ = decode_mapping(&bytes);
            let _ = decode_proposal(&bytes);
            let _ = decode_reply(&bytes);
            let _ = decode_stamp(&bytes);
            let _ = decode_hub(&bytes);
            let _ = decode_scope(&bytes);
            let _ = decode_route(&bytes);
            let _ = decode_label_set(&bytes);
            // The second time past the first checks.
            for (at, byte) in [1, kind, 0].into_iter().enumerate() {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
        }
    }
}

fn disk_len(reply: &Reply) -> usize {
    // What an uncut reply would take: encode its lists one by one is what the decoder compares, so encode a copy whose
    // bound cannot be met and see whether anything was lost.
    let bytes = encode_reply(reply);
    if decode_reply(&bytes).unwrap().outcome == reply.outcome { bytes.len() } else { usize::MAX }
}

#[test]
fn a_batch_for_one_hub_costs_two_bytes_a_device_beside_its_id() {
    let assigns: Vec<Assign> = (0..1_000)
        .map(|n| Assign {
            device: DeviceId::parse(&format!("device-{n:09}")).unwrap(),
            hub: Some(HubName::parse("hub-1.azure-devices.net").unwrap()),
            status: None,
            labels: None,
            scope: None,
            registration: None,
            precondition: Precondition::None,
            origin: Origin::Placed,
            evidence: EvidenceSource::Operator,
        })
        .collect();
    let proposal = Proposal {
        request_id: None,
        payload_hash: 0,
        actor: String::new(),
        reason: String::new(),
        command: Command::BatchAssign(assigns),
    };
    let bytes = encode_proposal(&proposal).unwrap();
    assert!(bytes.len() < 1_000 * 18 + 64, "{} bytes", bytes.len());
}

#[test]
fn a_batch_past_its_bound_is_refused_on_both_sides() {
    let assign = Assign {
        device: DeviceId::parse("d").unwrap(),
        hub: None,
        status: None,
        labels: None,
        scope: None,
        registration: None,
        precondition: Precondition::None,
        origin: Origin::Placed,
        evidence: EvidenceSource::Operator,
    };
    let mut proposal = Proposal {
        request_id: None,
        payload_hash: 0,
        actor: String::new(),
        reason: String::new(),
        command: Command::BatchAssign(vec![assign; 10_000]),
    };
    let bytes = encode_proposal(&proposal).unwrap().to_vec();
    let at = bytes.windows(2).position(|pair| pair == [0x90, 0x4e]).unwrap();
    let mut longer = bytes.clone();
    longer[at] += 1;
    let error = decode_proposal(&longer).unwrap_err().to_string();
    assert!(error.contains("10001") && error.contains("10000"), "{error}");
    let Command::BatchAssign(assigns) = &mut proposal.command else { unreachable!() };
    assigns.push(assigns[0].clone());
    assert!(encode_proposal(&proposal).unwrap_err().to_string().contains("10001"));
}

#[test]
fn a_newer_command_is_told_apart_from_a_damaged_one() {
    let newer_format = decode_proposal(&[2, 1, 0, 0, 0, 0]).unwrap_err();
    let newer_kind = decode_proposal(&[1, 9, 0, 0, 0, 0]).unwrap_err();
    let damaged = decode_proposal(&[1, 1, 0]).unwrap_err();
    assert!(newer_format.is_unknown() && newer_kind.is_unknown() && !damaged.is_unknown());
}

#[test]
fn numbers_that_do_not_fit_a_row_are_refused() {
    let mapping = Mapping {
        hub: Some(HubNo(0xff_ffff)),
        status: Status::Assigned,
        epoch: Epoch(1),
        revision: Revision(1),
        origin: Origin::Placed,
        evidence: Evidence { source: EvidenceSource::Operator, at: Timestamp(1_000) },
        scope: None,
        registration: Registration::None,
        labels: LabelSetNo::EMPTY,
    };
    let refused = |mapping: &Mapping| encode_mapping(mapping, &mut Vec::new()).unwrap_err().to_string();
    assert!(refused(&mapping).contains("16777215"));
    assert!(refused(&Mapping { hub: None, epoch: Epoch(1 << 48), ..mapping.clone() }).contains("epoch"));
    let late = Evidence { source: EvidenceSource::Operator, at: Timestamp(1_001) };
    assert!(refused(&Mapping { hub: None, evidence: late, ..mapping }).contains("1001 ms"));
}
