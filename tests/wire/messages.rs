//! Messages of the public API, and its tokens.

use berth_core::Revision;
use berth_proto::v1;
use berth_proto::{ReadToken, SnapshotToken};
use prost::Message;
use uuid::Uuid;

use crate::{Golden, check, comes_back, from_hex, text};

fn header() -> v1::ResponseHeader {
    v1::ResponseHeader {
        token: ReadToken { cluster: Uuid::from_u128(1), restore_epoch: 2, revision: Revision(300) }.encode(),
        age_bound: Some(prost_types::Duration { seconds: 1, nanos: 5 }),
        served_by: "node-1".to_owned(),
        role: v1::NodeRole::Follower as i32,
        revision: 300,
    }
}

fn labels() -> std::collections::BTreeMap<String, String> {
    [(text("ring"), text("2"))].into()
}

goldens! {
    lookup_request: v1::LookupRequest {
        consistency: Some(v1::Consistency { level: Some(v1::consistency::Level::Linearizable(v1::Linearizable {})) }),
        device: Some(v1::lookup_request::Device::DeviceId(text("device-1"))),
    } => "0a086465766963652d311a020a00";
    lookup_by_registration: v1::LookupRequest {
        consistency: Some(v1::Consistency {
            level: Some(v1::consistency::Level::Bounded(prost_types::Duration { seconds: 0, nanos: 500_000_000 })),
        }),
        device: Some(v1::lookup_request::Device::Registration(v1::RegistrationRef {
            registration_id: text("reg-1"),
            scope: text("0ne00112233"),
        })),
    } => "12140a057265672d31120b306e6530303131323233331a081a061080cab5ee01";
    lookup_response: v1::LookupResponse {
        header: Some(header()),
        result: Some(v1::lookup_response::Result::Found(v1::LookupResult {
            device_id: text("device-1"),
            hub: text("hub-1.azure-devices.net"),
            stamp: text("weu-1"),
            status: v1::MappingStatus::Assigned as i32,
            epoch: 7,
            revision: 8,
            evidence: Some(v1::Evidence {
                source: v1::EvidenceSource::Operator as i32,
                time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            }),
            hub_state: v1::AcceptState::Draining as i32,
        })),
    } => "0a320a1d010000000000000000000000000000000100000002000000000000012c1204080110051a066e6f64652d\
        31200228ac02123e0a086465766963652d3112176875622d312e617a7572652d646576696365732e6e65741a0577\
        65752d312003280730083a0a080512060880e2cfaa064003";
    negative_response: v1::LookupResponse {
        header: None,
        result: Some(v1::lookup_response::Result::Negative(v1::Negative {
            kind: v1::NegativeKind::Disabled as i32,
            remember_for: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
            confirmed: true,
            epoch: 9,
        })),
    } => "1a0a08041202081e18012009";
    batch_lookup_request: v1::BatchLookupRequest {
        consistency: Some(v1::Consistency { level: Some(v1::consistency::Level::Local(v1::Local {})) }),
        device_ids: vec![text("a")],
        packed_device_ids: berth_proto::convert::pack_ids(["b", "cc"]),
    } => "0a0222001201611a050162026363";
    batch_lookup_response: v1::BatchLookupResponse {
        header: Some(header()),
        hubs: vec![v1::BatchHub { hub: text("h.example"), stamp: text("s"), state: v1::AcceptState::Active as i32 }],
        hub_numbers: vec![1, 0, 1],
        epochs: vec![5, 0, 300],
        revisions: vec![5, 0, 301],
        negatives: vec![v1::BatchNegative {
            index: 1,
            negative: Some(v1::Negative {
                kind: v1::NegativeKind::Unknown as i32,
                remember_for: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
                confirmed: true,
                epoch: 0,
            }),
        }],
    } => "0a320a1d010000000000000000000000000000000100000002000000000000012c1204080110051a066e6f64652d\
        31200228ac0212100a09682e6578616d706c6512017318011a0301000122040500ac022a040500ad02320c080112\
        080801120208051801";
    lookup_stream_response: v1::LookupStreamResponse {
        tag: 9,
        result: Some(v1::lookup_stream_response::Result::Error(v1::ItemError {
            code: 5,
            message: text("gone"),
            details: bytes::Bytes::from_static(b"d"),
        })),
    } => "08091a0b08051204676f6e651a0164";
    report_request: v1::ReportRequest {
        device_id: text("device-1"),
        hub: text("h.example"),
        epoch: 300,
        observation: v1::HubObservation::NotFound as i32,
    } => "0a086465766963652d311209682e6578616d706c6518ac022002";
    report_response: v1::ReportResponse {
        header: None,
        result: Some(v1::report_response::Result::Negative(v1::Negative {
            kind: v1::NegativeKind::Missing as i32,
            remember_for: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            confirmed: true,
            epoch: 9,
        })),
        finding: v1::ReportFinding::Negative as i32,
        drift: v1::DriftClass::Missing as i32,
        other_hub: text("o.example"),
        retry_after: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        problem: text("p"),
    } => "1a0a08061202083c180120092006280132096f2e6578616d706c653a02083c420170";
    reconcile_device_response: v1::ReconcileDeviceResponse {
        header: None,
        mapping: None,
        finding: v1::ReportFinding::Drift as i32,
        negative: v1::NegativeKind::Missing as i32,
        drift: Some(v1::DriftRecord {
            device_id: text("d"),
            class: v1::DriftClass::Pending as i32,
            ours: Some(v1::DriftSide { hub: text("h"), status: Some(v1::MappingStatus::Assigned as i32) }),
            theirs: Some(v1::DriftSide { hub: text("o"), status: None }),
            since: Some(prost_types::Timestamp { seconds: 300, nanos: 0 }),
            scope: text("0ne1"),
            resolutions: vec![v1::DriftResolution::Adopt as i32, v1::DriftResolution::Dismiss as i32],
        }),
        problem: text("p"),
        again_after: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
        others: Vec::new(),
    } => "180520062a200a016410031a050a0168100322030a016f2a0308ac023204306e65313a0201023201703a02081e";
    list_drift_request: v1::ListDriftRequest {
        page_size: 300,
        page_token: text("d"),
        class: v1::DriftClass::Orphan as i32,
        scope: text("0ne1"),
    } => "08ac0212016418062204306e6531";
    resolve_drift_request: v1::ResolveDriftRequest {
        request_id: text("r"),
        reason: text("why"),
        validate_only: true,
        device_id: text("d"),
        how: v1::DriftResolution::Dismiss as i32,
    } => "0a0172120377687918012201642802";
    resolve_drift_response: v1::ResolveDriftResponse {
        header: None,
        end: v1::DriftEnd::Settled as i32,
        epoch: 300,
        warnings: Vec::new(),
    } => "100318ac02";
    start_sweep_request: v1::StartSweepRequest {
        request_id: text("r"),
        reason: text("why"),
        validate_only: true,
        scope: text("0ne1"),
        hub: text("h"),
    } => "0a0172120377687918012204306e65312a0168";
    start_sweep_response: v1::StartSweepResponse {
        header: None,
        sweep: None,
        plan: vec![v1::PlannedPlace {
            place: Some(v1::planned_place::Place::Hub(text("h"))),
            devices: 300,
            calls: 1,
            takes: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        }],
        calls: 1,
        takes: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
    } => "1a0c12016818ac0220012a02080520012a020805";
    sweep: v1::Sweep {
        number: 1,
        state: v1::SweepState::Incomplete as i32,
        phase: v1::SweepPhase::Rechecking as i32,
        began: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        ended: Some(prost_types::Timestamp { seconds: 2, nanos: 0 }),
        scope: text("s"),
        hub: text("h"),
        pages: 3,
        pages_expected: 4,
        rows: 5,
        odd_rows: 6,
        walked: 7,
        waiting: 8,
        verified: 9,
        found: vec![v1::DriftCount { class: v1::DriftClass::Missing as i32, count: 2 }],
        repaired: 10,
        adopted: 11,
        released: 12,
        unverified: 13,
        problems: vec![text("p")],
        left: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
        enforced: 14,
    } => "080110031803220208012a0208023201733a016840034804500558066007680870097a040801100280010a88010b90010c98010da2010170aa01020803b0010e";
    azure_budget: v1::AzureBudget {
        place: Some(v1::azure_budget::Place::Hub(text("h"))),
        share_percent: 60,
        per_minute: 300,
        left: 2,
        closed_until: Some(prost_types::Timestamp { seconds: 300, nanos: 0 }),
        read_through_per_minute: 120,
    } => "120168183c20ac022802320308ac023878";
    assign_request: v1::AssignRequest {
        request_id: text("01936d0e-8b00-7abc-8def-0123456789ab"),
        reason: text("why not"),
        validate_only: true,
        assignment: Some(v1::DeviceAssignment {
            device_id: text("device-1"),
            hub: text("h.example"),
            status: v1::MappingStatus::Assigned as i32,
            labels: Some(v1::LabelSet { labels: labels() }),
            scope: text("0ne1"),
            registration_id: text("reg-1"),
            precondition: Some(v1::Precondition { condition: Some(v1::precondition::Condition::Epoch(7)) }),
        }),
    } => "0a2430313933366430652d386230302d376162632d386465662d3031323334353637383961621207776879206e6f\
        74180122350a086465766963652d311209682e6578616d706c651803220b0a090a0472696e671201322a04306e65\
        3132057265672d313a021007";
    batch_assign_request: v1::BatchAssignRequest {
        packed: vec![v1::PackedAssignment {
            hub: text("h.example"),
            packed_device_ids: berth_proto::convert::pack_ids(["b", "cc"]),
            status: v1::MappingStatus::Disabled as i32,
            precondition: Some(v1::Precondition { condition: Some(v1::precondition::Condition::Absent(v1::Absent {})) }),
            ..v1::PackedAssignment::default()
        }],
        ..v1::BatchAssignRequest::default()
    } => "2a180a09682e6578616d706c6512050162026363180432020a00";
    mapping: v1::Mapping {
        device_id: text("device-1"),
        hub: text("h.example"),
        stamp: text("s"),
        status: v1::MappingStatus::Failed as i32,
        epoch: 1,
        revision: 2,
        origin: v1::Origin::Adopted as i32,
        evidence: None,
        labels: labels(),
        scope: text("0ne1"),
        registration_id: text("reg-1"),
    } => "0a086465766963652d311209682e6578616d706c651a017320052801300238034a090a0472696e67120132520430\
        6e65315a057265672d31";
    import_chunk: v1::ImportRequest {
        message: Some(v1::import_request::Message::Chunk(v1::ImportChunk {
            chunk_no: 3,
            rows: vec![v1::DeviceAssignment { device_id: text("a"), ..v1::DeviceAssignment::default() }],
            packed_device_ids: berth_proto::convert::pack_ids(["b"]),
        })),
    } => "120b080312030a01611a020162";
    import_response: v1::ImportResponse {
        chunk_no: 3,
        created: 1,
        moved: 2,
        touched: 3,
        unchanged: 4,
        skipped: 5,
        refused: 6,
        ..v1::ImportResponse::default()
    } => "1003180120022803300438054006";
    stamp: v1::Stamp {
        name: text("weu-1"),
        state: v1::AcceptState::Offline as i32,
        labels: labels(),
        capacity: Some(v1::Capacity { soft: Some(0), hard: None }),
        app_endpoint: text("https://a.example"),
        cost: Some(v1::Cost {
            currency: text("EUR"),
            fixed_micros_per_month: 1,
            device_micros_per_month: 2,
        }),
        revision: 9,
    } => "0a057765752d3110041a090a0472696e67120132220208002a1168747470733a2f2f612e6578616d706c6532090a\
        03455552100118023809";
    digest_response: v1::DigestResponse {
        header: None,
        applied_index: 77,
        digest: text("00ff"),
        devices: 3,
        recount: Some(v1::Recount { digest: text("00ff"), devices: 3, agrees: true, disagreements: Vec::new() }),
    } => "104d1a043030666620032a0a0a043030666610031801";
}

#[test]
fn tokens() {
    let read = ReadToken { cluster: Uuid::from_u128(0x0102), restore_epoch: 3, revision: Revision(300) };
    let snapshot = SnapshotToken { node_id: 1, pin: 2, revision: 3, page: 4, row: 5, filter: 6 };
    const READ: &str = "01 00000000000000000000000000000102 00000003 000000000000012c";
    const SNAPSHOT: &str =
        "01000000000000000100000000000000020000000000000003 00000004 00000005 0000000000000006";
    check(&[Golden::new("read token", read.encode(), READ)]);
    assert_eq!(snapshot.encode(), SNAPSHOT.replace(' ', ""));
    assert_eq!(ReadToken::decode(&from_hex(READ)), Ok(read));
    assert_eq!(SnapshotToken::decode(&SNAPSHOT.replace(' ', "")), Ok(snapshot));
}
