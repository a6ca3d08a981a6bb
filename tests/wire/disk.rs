//! Rows, objects, replies and commands.

use berth_core::{
    Assign, Capacity, Command, Cost, DeviceId, DiffAction, DiffEntry, Epoch, Evidence, EvidenceSource,
    Expect, FieldChange, Hub, HubName, HubNo, HubPatch, LabelSetNo, Labels, Mapping, ObjectKind, ObjectPatch,
    ObjectRef, Origin, Outcome, PlaceState, Precondition, Proposal, Registration, RegistrationId, Remove,
    RepairRule, Reply, RequestId, Revision, Route, RouteKey, RoutePatch, Scope, ScopeName, ScopeNo,
    ScopePatch, SoftLimit, Stamp, StampName, StampNo, StampPatch, Status, Tier, Timestamp, TopologyEdit,
};
use berth_proto::disk::{
    decode_hub, decode_label_set, decode_mapping, decode_proposal, decode_reply, decode_route, decode_scope,
    decode_stamp, encode_hub, encode_label_set, encode_mapping, encode_proposal, encode_reply, encode_route,
    encode_scope, encode_stamp,
};

use crate::{Golden, check, from_hex};

fn hub_name() -> HubName {
    HubName::parse("hub-1.azure-devices.net").unwrap()
}

fn stamp_name() -> StampName {
    StampName::parse("weu-1").unwrap()
}

fn scope_name() -> ScopeName {
    ScopeName::parse("0ne00112233").unwrap()
}

fn labels() -> Labels {
    Labels::parse([("ring", "2"), ("site", "köln")]).unwrap()
}

fn plain() -> Mapping {
    Mapping {
        hub: Some(HubNo(7)),
        status: Status::Assigned,
        epoch: Epoch(0x0102_0304_0506),
        revision: Revision(0x0a0b_0c0d_0e0f),
        origin: Origin::Imported,
        evidence: Evidence { source: EvidenceSource::Import, at: Timestamp::from_seconds(1_700_000_000) },
        scope: None,
        registration: Registration::None,
        labels: LabelSetNo::EMPTY,
    }
}

fn full() -> Mapping {
    Mapping {
        hub: None,
        status: Status::Enrolling,
        epoch: Epoch(1),
        revision: Revision(2),
        origin: Origin::Migrated,
        evidence: Evidence { source: EvidenceSource::Operator, at: Timestamp::from_seconds(1) },
        scope: Some(ScopeNo(3)),
        registration: Registration::Explicit(RegistrationId::parse("Reg-1").unwrap()),
        labels: LabelSetNo(515),
    }
}

const PLAIN_ROW: &str = "02 00 070000 0f0e0d0c0b0a 060504030201 00f15365";
const FULL_ROW: &str = "59 0c ffffff 020000000000 010000000000 01000000 0302 0400 05 5265672d31";

#[test]
fn device_rows() {
    let row = |mapping: &Mapping| {
        let mut out = Vec::new();
        encode_mapping(mapping, &mut out).unwrap();
        out
    };
    check(&[
        Golden::new("plain row", row(&plain()), PLAIN_ROW),
        Golden::new("full row", row(&full()), FULL_ROW),
    ]);
    assert_eq!(decode_mapping(&from_hex(PLAIN_ROW)).unwrap(), plain());
    assert_eq!(decode_mapping(&from_hex(FULL_ROW)).unwrap(), full());
}

fn stamp() -> Stamp {
    Stamp {
        no: StampNo(4),
        name: stamp_name(),
        state: PlaceState::Cordoned,
        labels: labels(),
        capacity: Capacity { soft: Some(900), hard: Some(1_000) },
        app_endpoint: "https://weu-1.example".to_owned(),
        cost: Cost { currency: "EUR".to_owned(), fixed_micros: 5_000_000, per_device_micros: 300 },
        revision: Revision(12),
    }
}

fn hub() -> Hub {
    Hub {
        no: HubNo(7),
        name: hub_name(),
        stamp: StampNo(4),
        state: PlaceState::Active,
        capacity: Capacity { soft: None, hard: Some(0) },
        tier: Tier::S2,
        units: 3,
        revision: Revision(13),
    }
}

fn scope() -> Scope {
    Scope {
        no: ScopeNo(2),
        name: scope_name(),
        service_host: "dps.azure-devices-provisioning.net".to_owned(),
        credential_ref: "dps-1".to_owned(),
        linked_hubs: vec![HubNo(7), HubNo(300)],
        budget_percent: 60,
        repair: RepairRule::Enforce,
        read_through: true,
        revision: Revision(14),
    }
}

fn route() -> Route {
    Route { key: RouteKey::parse("app.example").unwrap(), stamp: StampNo(4), revision: Revision(15) }
}

const STAMP: &str = "01080412057765752d31180122160a0472696e670a01320a04736974650a056bc3b66c6e2a0608840710e8073215\
    68747470733a2f2f7765752d312e6578616d706c653a0d0a0345555210c096b10218ac02400c";
const HUB: &str = "01080712176875622d312e617a7572652d646576696365732e6e657418042a02100030063803400d";
const SCOPE: &str = "010802120b306e6530303131323233331a226470732e617a7572652d646576696365732d70726f766973696f6e69\
    6e672e6e657422056470732d312a0307ac02303c38014001480e";
const ROUTE: &str = "010a0b6170702e6578616d706c651004180f";
const LABELS: &str = "010a0472696e670a01320a04736974650a056bc3b66c6e";

#[test]
fn topology_objects() {
    check(&[
        Golden::new("stamp", encode_stamp(&stamp()), STAMP),
        Golden::new("hub", encode_hub(&hub()), HUB),
        Golden::new("scope", encode_scope(&scope()), SCOPE),
        Golden::new("route", encode_route(&route()), ROUTE),
        Golden::new("label set", encode_label_set(&labels()), LABELS),
    ]);
    assert_eq!(decode_stamp(&from_hex(STAMP)).unwrap(), stamp());
    assert_eq!(decode_hub(&from_hex(HUB)).unwrap(), hub());
    assert_eq!(decode_scope(&from_hex(SCOPE)).unwrap(), scope());
    assert_eq!(decode_route(&from_hex(ROUTE)).unwrap(), route());
    assert_eq!(decode_label_set(&from_hex(LABELS)).unwrap(), labels());
}

fn reply(outcome: Outcome) -> Reply {
    Reply { payload_hash: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10, outcome }
}

fn replies() -> [(&'static str, Reply, &'static str); 4] {
    let limit = SoftLimit { kind: ObjectKind::Hub, name: hub_name().to_string(), used: 901, limit: 900 };
    let entry = DiffEntry {
        kind: ObjectKind::Stamp,
        name: stamp_name().to_string(),
        action: DiffAction::Updated,
        fields: vec![FieldChange {
            field: "state".to_owned(),
            before: "ACTIVE".to_owned(),
            after: "DRAINING".to_owned(),
        }],
    };
    let revision = Revision(300);
    [
        (
            "assigned",
            reply(Outcome::Assigned {
                revision,
                epoch: Epoch(301),
                created: true,
                moved: true,
                over_soft: vec![limit.clone()],
            }),
            "100f0e0d0c0b0a0908070605040302010108ac021221080212176875622d312e617a7572652d646576696365732e\
             6e65741885072084071a0708ad0210011801",
        ),
        (
            "batch assigned",
            reply(Outcome::BatchAssigned {
                revision,
                created: 1,
                moved: 2,
                touched: 3,
                unchanged: 4,
                over_soft: Vec::new(),
            }),
            "100f0e0d0c0b0a0908070605040302010108ac0222080801100218032004",
        ),
        (
            "removed",
            reply(Outcome::Removed { revision, epoch: Epoch(9) }),
            "100f0e0d0c0b0a0908070605040302010108ac022a020809",
        ),
        (
            "topology edited",
            reply(Outcome::TopologyEdited { revision, diff: vec![entry], over: vec![limit] }),
            "100f0e0d0c0b0a0908070605040302010108ac021221080212176875622d312e617a7572652d646576696365732e\
             6e657418850720840732280a26080112057765752d31180222190a05737461746512064143544956451a08445241\
             494e494e47",
        ),
    ]
}

#[test]
fn remembered_replies() {
    let cases: Vec<Golden> =
        replies().iter().map(|(name, reply, hex)| Golden::new(name, encode_reply(reply), hex)).collect();
    check(&cases);
    for (_, reply, hex) in replies() {
        assert_eq!(decode_reply(&from_hex(hex)).unwrap(), reply);
    }
}

fn assign(device: &str) -> Assign {
    Assign {
        device: DeviceId::parse(device).unwrap(),
        hub: Some(hub_name()),
        status: None,
        labels: None,
        scope: None,
        registration: None,
        precondition: Precondition::None,
        origin: Origin::Placed,
        evidence: EvidenceSource::Operator,
    }
}

fn proposals() -> [(&'static str, Proposal, &'static str); 4] {
    let request_id =
        RequestId::from_bytes([1, 2, 3, 4, 5, 6, 0x77, 8, 0x89, 10, 11, 12, 13, 14, 15, 16]).unwrap();
    let proposal = |request_id, command| Proposal {
        request_id,
        payload_hash: 0,
        actor: "127.0.0.1".to_owned(),
        reason: "why not".to_owned(),
        command,
    };
    let full = Assign {
        status: Some(Status::Disabled),
        labels: Some(labels()),
        scope: Some(scope_name()),
        registration: Some(RegistrationId::parse("reg-1").unwrap()),
        precondition: Precondition::Epoch(Epoch(300)),
        ..assign("device-3")
    };
    let edit = TopologyEdit {
        patches: vec![
            (
                Expect::Absent,
                ObjectPatch::Stamp(StampPatch {
                    state: Some(PlaceState::Active),
                    labels: Some(labels()),
                    capacity_soft: Some(None),
                    capacity_hard: Some(Some(1_000)),
                    app_endpoint: Some(String::new()),
                    cost: Some(Cost::default()),
                    ..StampPatch::of(stamp_name())
                }),
            ),
            (
                Expect::Any,
                ObjectPatch::Hub(HubPatch {
                    stamp: Some(stamp_name()),
                    tier: Some(Tier::S1),
                    units: Some(2),
                    ..HubPatch::of(hub_name())
                }),
            ),
            (
                Expect::Present,
                ObjectPatch::Scope(ScopePatch {
                    linked_hubs: Some(vec![hub_name()]),
                    budget_percent: Some(60),
                    repair: Some(RepairRule::Adopt),
                    read_through: Some(false),
                    ..ScopePatch::of(scope_name())
                }),
            ),
            (
                Expect::At(Revision(9)),
                ObjectPatch::Route(RoutePatch {
                    key: RouteKey::parse("app.example").unwrap(),
                    stamp: Some(stamp_name()),
                }),
            ),
        ],
        deletes: vec![(Expect::Present, ObjectRef::Hub(hub_name()))],
        prune: true,
    };
    let remove =
        Remove { device: DeviceId::parse("device-1").unwrap(), precondition: Precondition::Epoch(Epoch(5)) };
    [
        (
            "assign",
            proposal(Some(request_id), Command::Assign(assign("device-1"))),
            "0101010102030405067708890a0b0c0d0e0f10093132372e302e302e310700776879206e6f740101010417687562\
             2d312e617a7572652d646576696365732e6e65740100086465766963652d31",
        ),
        (
            "batch assign",
            proposal(None, Command::BatchAssign(vec![assign("device-1"), assign("device-2"), full])),
            "010200093132372e302e302e310700776879206e6f7402010104176875622d312e617a7572652d64657669636573\
             2e6e65745f0104176875622d312e617a7572652d646576696365732e6e657403020472696e670132047369746505\
             6bc3b66c6e0b306e6530303131323233330300086465766963652d3100086465766963652d320108646576696365\
             2d33057265672d31ac02",
        ),
        (
            "remove",
            proposal(None, Command::Remove(remove)),
            "010300093132372e302e302e310700776879206e6f74086465766963652d310205",
        ),
        (
            "topology",
            proposal(None, Command::Topology(edit)),
            "010400093132372e302e302e310700776879206e6f740a320a020801122c0a057765752d3110001a160a0472696e\
             670a01320a04736974650a056bc3b66c6e22002a0308e80732003a000a261a240a176875622d312e617a7572652d\
             646576696365732e6e657412057765752d31300538020a340a021001222e0a0b306e65303031313232333322190a\
             176875622d312e617a7572652d646576696365732e6e6574283c300038000a1a0a0218092a140a0b6170702e6578\
             616d706c6512057765752d31121f0a02100110021a176875622d312e617a7572652d646576696365732e6e657418\
             01",
        ),
    ]
}

#[test]
fn proposals_in_the_log() {
    let cases: Vec<Golden> = proposals()
        .iter()
        .map(|(name, proposal, hex)| Golden::new(name, encode_proposal(proposal).unwrap(), hex))
        .collect();
    check(&cases);
    for (_, proposal, hex) in proposals() {
        let read = decode_proposal(&from_hex(hex)).unwrap();
        assert_eq!(Proposal { payload_hash: 0, ..read }, proposal);
    }
}

#[test]
fn the_payload_hash_stays() {
    let [(_, _, assign), ..] = proposals();
    assert_eq!(
        decode_proposal(&from_hex(assign)).unwrap().payload_hash,
        0x2a3f_b36c_bd0f_a025_b86b_e67d_c576_0815
    );
}
