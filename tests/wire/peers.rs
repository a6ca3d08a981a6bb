//! What nodes say to each other, and what a checkpoint's manifest keeps: nodes of two versions share both.

use berth_proto::{internal, v1};
use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use crate::{Golden, check, comes_back, text};

const VOTE: internal::VoteState = internal::VoteState { term: 5, node: 2, committed: true };

fn uuid(number: u128) -> Bytes {
    Bytes::copy_from_slice(Uuid::from_u128(number).as_bytes())
}

fn at(term: u64, index: u64) -> Option<internal::LogPosition> {
    Some(internal::LogPosition { term, index })
}

fn entry(term: u64, index: u64, kind: u32, body: &'static [u8]) -> internal::LogEntry {
    internal::LogEntry { term, index, kind, body: Bytes::from_static(body) }
}

fn appended(result: internal::append_response::Result) -> internal::AppendResponse {
    internal::AppendResponse { result: Some(result) }
}

fn part(part: internal::snapshot_part::Part) -> internal::SnapshotPart {
    internal::SnapshotPart { part: Some(part) }
}

fn handed_over(result: internal::transfer_leader_response::Result) -> internal::TransferLeaderResponse {
    internal::TransferLeaderResponse { result: Some(result) }
}

goldens! {
    peer_envelope: internal::PeerEnvelope {
        cluster: uuid(1),
        from: 2,
        to: 3,
        from_incarnation: uuid(2),
        to_incarnation: uuid(3),
    } => "0a1000000000000000000000000000000001100218032210000000000000000000000000000000022a1000000000\
        000000000000000000000003";
    hello_request: internal::HelloRequest { name: text("node-2"), incarnation: uuid(2) }
        => "0a066e6f64652d32121000000000000000000000000000000002";
    hello_response: internal::HelloResponse {
        name: text("node-1"),
        node_id: Some(1),
        incarnation: uuid(2),
        cluster: uuid(1),
        leader: Some(3),
        client_addr: text("10.0.0.1:7400"),
    } => "0a066e6f64652d3110011a1000000000000000000000000000000002221000000000000000000000000000000001\
        2803320d31302e302e302e313a37343030";
    hello_response_before_any_cluster: internal::HelloResponse {
        name: text("node-1"),
        incarnation: uuid(2),
        ..internal::HelloResponse::default()
    } => "0a066e6f64652d311a1000000000000000000000000000000002";
    join_request: internal::JoinRequest {
        name: text("node-4"),
        incarnation: uuid(2),
        peer_addr: text("10.0.0.4:7401"),
        client_addr: text("10.0.0.4:7400"),
        forwarded: true,
    } => "0a066e6f64652d341210000000000000000000000000000000021a0d31302e302e302e343a37343031220d31302e\
        302e302e343a373430302801";
    join_response: internal::JoinResponse { cluster: uuid(1), node_id: 4 }
        => "0a10000000000000000000000000000000011004";
    vote_request: internal::VoteRequest {
        vote: Some(internal::VoteState { term: 5, node: 2, committed: false }),
        last: at(4, 300),
        leadership_transfer: true,
    } => "0a04080510021205080410ac021801";
    vote_response: internal::VoteResponse { vote: Some(VOTE), granted: true, last: at(4, 300) }
        => "0a0608051002180110011a05080410ac02";
    append_request: internal::AppendRequest {
        format: 1,
        vote: Some(VOTE),
        previous: at(4, 300),
        committed: at(3, 299),
        entries: vec![entry(4, 301, 0, b""), entry(4, 302, 1, b"\x01\x02"), entry(5, 303, 2, b"\x03")],
    } => "080112060805100218011a05080410ac022205080310ab022a05080410ad022a0b080410ae021801220201022a0a\
        080510af021802220103";
    heartbeat: internal::AppendRequest {
        format: 1,
        vote: Some(VOTE),
        previous: at(4, 300),
        committed: at(4, 300),
        entries: Vec::new(),
    } => "080112060805100218011a05080410ac022205080410ac02";
    append_stored: appended(internal::append_response::Result::Stored(internal::Empty {})) => "0a00";
    append_matched: appended(internal::append_response::Result::Matched(internal::Matched {
        upto: at(4, 300),
    })) => "12070a05080410ac02";
    append_conflict: appended(internal::append_response::Result::Conflict(internal::Conflict {
        at: at(4, 300),
    })) => "1a070a05080410ac02";
    append_higher_vote: appended(internal::append_response::Result::HigherVote(VOTE)) => "2206080510021801";
    snapshot_head: part(internal::snapshot_part::Part::Head(internal::SnapshotHead {
        format: 1,
        vote: Some(VOTE),
        last: at(4, 300),
        membership: Bytes::from_static(b"\x01\x02\x03"),
    })) => "0a16080112060805100218011a05080410ac022203010203";
    snapshot_data: part(internal::snapshot_part::Part::Data(Bytes::from_static(b"\xca\xfe"))) => "1202cafe";
    snapshot_end: part(internal::snapshot_part::Part::End(internal::Empty {})) => "1a00";
    install_snapshot_response: internal::InstallSnapshotResponse { vote: Some(VOTE) } => "0a06080510021801";
    transfer_leader_request: internal::TransferLeaderRequest { from: Some(VOTE), to: 3, last: at(4, 300) }
        => "0a0608051002180110031a05080410ac02";
    transfer_accepted: handed_over(internal::transfer_leader_response::Result::Accepted(internal::Empty {})) => "0a00";
    transfer_vote_changed: handed_over(internal::transfer_leader_response::Result::VoteChanged(VOTE))
        => "1206080510021801";
    transfer_log_not_flushed: handed_over(internal::transfer_leader_response::Result::LogNotFlushed(
        internal::Matched { upto: at(4, 300) },
    )) => "1a070a05080410ac02";
    read_index_response: internal::ReadIndexResponse { at: at(4, 300) } => "0a05080410ac02";
    checkpoint_meta: internal::CheckpointMeta {
        applied_term: 4,
        applied_index: 300,
        has_applied: true,
        membership: Bytes::from_static(b"\x01\x02"),
        revision: 299,
        cluster_id: uuid(1),
        restore_epoch: 2,
        stamped_ms: 1_700_000_000_000,
        next_stamp: 5,
        next_hub: 8,
        next_scope: 3,
        forgotten_until_ms: Some(1_699_999_990_000),
        replies_first: 6,
        replies_next: 17,
    } => "080410ac0218012202010228ab0232100000000000000000000000000000000138024080d095ffbc314805500858\
        0360f08195ffbc3168067011";
    checkpoint_meta_with_a_time_of_zero: internal::CheckpointMeta {
        has_applied: true,
        forgotten_until_ms: Some(0),
        ..internal::CheckpointMeta::default()
    } => "18016000";
    node_record: internal::NodeRecord {
        incarnation: uuid(2),
        name: text("node-1"),
        peer_addr: text("10.0.0.1:7401"),
        client_addr: text("10.0.0.1:7400"),
    } => "0a100000000000000000000000000000000212066e6f64652d311a0d31302e302e302e313a37343031220d31302e\
        302e302e313a37343030";
    read_index_request: internal::ReadIndexRequest {} => "";
    forward_request: internal::ForwardRequest {
        call: Some(internal::forward_request::Call::Report(v1::ReportRequest {
            device_id: text("d"),
            hub: text("h.example"),
            epoch: 7,
            observation: v1::HubObservation::Disabled as i32,
        })),
    } => "0a120a01641209682e6578616d706c6518072004";
    forward_read_through: internal::ForwardRequest {
        call: Some(internal::forward_request::Call::ReadThrough(internal::ReadThrough { device_id: text("d") })),
    } => "12030a0164";
    forward_verify: internal::ForwardRequest {
        call: Some(internal::forward_request::Call::Verify(internal::Verify { device_id: text("d"), epoch: 7 })),
    } => "1a050a01641007";
    forward_allocate: internal::ForwardRequest {
        call: Some(internal::forward_request::Call::Allocate(internal::Allocate {
            scope: text("s"),
            registration_id: text("r"),
            device_id: text("d"),
            linked_hubs: vec![text("h.example"), text("i.example")],
            current_hub: text("i.example"),
            stamp_labels: [(text("k"), text("v"))].into(),
        })),
    } => "2a320a01731201721a01642209682e6578616d706c652209692e6578616d706c652a09692e6578616d706c6532060a016b120176";
    forward_allocated: internal::ForwardResponse {
        answer: Some(internal::forward_response::Answer::Allocated(internal::Allocated {
            result: Some(internal::allocated::Result::Hub(text("h"))),
            placed: true,
        })),
    } => "2a050a01681801";
    forward_not_allocated: internal::ForwardResponse {
        answer: Some(internal::forward_response::Answer::Allocated(internal::Allocated {
            result: Some(internal::allocated::Result::Refused(internal::AllocationRefused {
                reason: internal::AllocationRefusal::NoRoom as i32,
                problem: text("p"),
            })),
            placed: false,
        })),
    } => "2a0712050805120170";
    forward_look_again: internal::ForwardResponse {
        answer: Some(internal::forward_response::Answer::LookAgain(internal::Empty {})),
    } => "1200";
    forward_response: internal::ForwardResponse {
        answer: Some(internal::forward_response::Answer::Report(v1::ReportResponse {
            finding: v1::ReportFinding::Confirmed as i32,
            ..v1::ReportResponse::default()
        })),
    } => "0a022003";
    fetch_snapshot_request: internal::FetchSnapshotRequest {} => "";
}
