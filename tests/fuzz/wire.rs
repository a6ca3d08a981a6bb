//! Messages of clients and peers, as prost and the conversions read them; and errors as a client reads them.

use berth_core::{Command, EvidenceSource, ObjectPatch, Origin, TopologyEdit};
use berth_proto::convert::{
    AssignReader, Consistency, Envelope, ExpectedPatch, PackedIds, assignment_message, desired_edit,
    hub_update, new_hub, new_route, new_scope, new_stamp, pack_ids, route_update, scope_update, stamp_update,
};
use berth_proto::disk::{decode_proposal, encode_proposal};
use berth_proto::error::ApiError;
use berth_proto::{internal, v1};
use berth_store::payload::Frame;
use berth_store::raft::EntryPayload;
use berth_store::raft::codec::{decode_entry, decode_stored_membership, encode_stored_membership};
use berth_tests::strategies::{NOW_FIRST, anonymous, assign};
use bytes::Bytes;
use prost::Message;
use rand::RngExt;
use tonic::{Code, Status};

use crate::Fuzz;
use crate::commands::{decided, populated, proposals};

/// Messages of each kind that a test starts from.
const CORPUS: usize = 24;

fn consistencies() -> Vec<v1::Consistency> {
    use v1::consistency::Level;
    let token = berth_proto::ReadToken {
        cluster: uuid::Uuid::from_u128(1),
        restore_epoch: 0,
        revision: berth_core::Revision(3),
    };
    let levels = [
        Level::Linearizable(v1::Linearizable {}),
        Level::Local(v1::Local {}),
        Level::AtLeast(token.encode()),
        Level::Bounded(prost_types::Duration { seconds: 3, nanos: 5 }),
    ];
    levels.map(|level| v1::Consistency { level: Some(level) }).into()
}

/// A whole topology with every field set.
pub fn desired() -> v1::DesiredTopology {
    let limit = |devices| Some(v1::DesiredLimit { devices: Some(devices) });
    let capacity = Some(v1::DesiredCapacity { soft: limit(5), hard: limit(9) });
    v1::DesiredTopology {
        stamps: vec![v1::DesiredStamp {
            name: "alpha".to_owned(),
            state: Some(1),
            labels: Some(v1::DesiredLabels { labels: [("ring".to_owned(), "2".to_owned())].into() }),
            capacity,
            app_endpoint: Some("https://a.example".to_owned()),
            cost: Some(v1::Cost {
                currency: "EUR".to_owned(),
                fixed_micros_per_month: 1,
                device_micros_per_month: 2,
            }),
        }],
        hubs: vec![v1::DesiredHub {
            name: "h0.example.net".to_owned(),
            stamp: Some("alpha".to_owned()),
            state: Some(2),
            capacity,
            tier: Some(1),
            units: Some(3),
        }],
        scopes: vec![v1::DesiredScope {
            name: "0ne001".to_owned(),
            service_host: Some("dps.example.net".to_owned()),
            credential_ref: Some("dps-1".to_owned()),
            linked_hubs: Some(v1::DesiredLinkedHubs { hubs: vec!["h0.example.net".to_owned()] }),
            budget_percent: Some(60),
            repair: Some(1),
            read_through: Some(true),
        }],
        routes: vec![v1::Route { key: "app.example.net".to_owned(), stamp: "alpha".to_owned(), revision: 0 }],
    }
}

pub fn assignments(fuzz: &mut Fuzz) -> Vec<v1::DeviceAssignment> {
    (0..CORPUS).map(|_| assignment_message(&fuzz.draw(&assign()))).collect()
}

pub fn packed(one: &v1::DeviceAssignment) -> v1::PackedAssignment {
    v1::PackedAssignment {
        hub: one.hub.clone(),
        packed_device_ids: pack_ids(["d0", "d1", "d#7"]),
        status: one.status,
        labels: one.labels.clone(),
        scope: one.scope.clone(),
        precondition: one.precondition,
    }
}

/// Requests that assign: what passes the conversions is a command like any other.
#[test]
fn assignments_of_clients() {
    let mut fuzz = Fuzz::new("assignments of clients", 1);
    let model = populated(&mut fuzz);
    let single = assignments(&mut fuzz);
    let corpus: Vec<Vec<u8>> = single
        .chunks(3)
        .map(|items| v1::BatchAssignRequest {
            request_id: uuid::Uuid::now_v7().to_string(),
            reason: "because".to_owned(),
            items: items.to_vec(),
            packed: items.first().map(packed).into_iter().collect(),
            ..v1::BatchAssignRequest::default()
        })
        .map(|request| request.encode_to_vec())
        .collect();
    let mut read = 0;
    for _ in 0..fuzz.rounds {
        let bytes = fuzz.tampered_one(&corpus);
        let _shown = fuzz.shown("a batch of assignments", &bytes);
        let Ok(request) = v1::BatchAssignRequest::decode(bytes.as_slice()) else { continue };
        let envelope = Envelope::from_fields(&request.request_id, &request.reason);
        let mut reader = AssignReader::new(Origin::Placed, EvidenceSource::Operator);
        let mut assigns = Vec::new();
        for (n, item) in request.items.iter().enumerate() {
            assigns.extend(reader.read(|| format!("items[{n}]"), item));
        }
        for (n, item) in request.packed.iter().enumerate() {
            reader.read_packed(|| format!("packed[{n}]"), item, &mut assigns);
        }
        if let (Ok(()), Ok(envelope)) = (reader.take_error(), envelope) {
            read += 1;
            let command = Command::BatchAssign(assigns);
            let mut proposal = anonymous(command);
            (proposal.request_id, proposal.reason) = (envelope.request_id, envelope.reason);
            let logged = encode_proposal(&proposal).expect("what the conversions let through can be logged");
            let logged = decode_proposal(&logged).expect("what was logged can be read");
            decided(&model, &logged, NOW_FIRST);
        }
    }
    assert!(read > fuzz.rounds / 50, "too few tampered requests are still read: {read}");
}

#[test]
fn topologies_of_clients() {
    let mut fuzz = Fuzz::new("topologies of clients", 1);
    let model = populated(&mut fuzz);
    let whole = desired();
    let stamp = v1::Stamp {
        name: "alpha".to_owned(),
        state: 1,
        labels: [("ring".to_owned(), "2".to_owned())].into(),
        capacity: Some(v1::Capacity { soft: Some(1), hard: None }),
        app_endpoint: "https://a.example".to_owned(),
        cost: whole.stamps[0].cost.clone(),
        revision: 3,
    };
    let hub = v1::Hub {
        name: "h0.example.net".to_owned(),
        stamp: "alpha".to_owned(),
        units: 3,
        ..v1::Hub::default()
    };
    let scope = v1::Scope {
        name: "0ne001".to_owned(),
        linked_hubs: vec!["h0.example.net".to_owned()],
        budget_percent: 60,
        ..v1::Scope::default()
    };
    let mask = prost_types::FieldMask { paths: vec!["state".to_owned(), "capacity.soft".to_owned()] };
    let corpus = vec![
        whole.encode_to_vec(),
        stamp.encode_to_vec(),
        hub.encode_to_vec(),
        scope.encode_to_vec(),
        whole.routes[0].encode_to_vec(),
        mask.encode_to_vec(),
    ];
    let mut read = 0;
    for _ in 0..fuzz.rounds {
        let bytes = fuzz.tampered_one(&corpus);
        let _shown = fuzz.shown("a topology", &bytes);
        let mask = prost_types::FieldMask::decode(bytes.as_slice()).ok();
        let revision = fuzz.random.random_range(0..3);
        let [stamp, updated_stamp] = [(); 2].map(|()| v1::Stamp::decode(bytes.as_slice()).ok());
        let [hub, updated_hub] = [(); 2].map(|()| v1::Hub::decode(bytes.as_slice()).ok());
        let [scope, updated_scope] = [(); 2].map(|()| v1::Scope::decode(bytes.as_slice()).ok());
        let [route, updated_route] = [(); 2].map(|()| v1::Route::decode(bytes.as_slice()).ok());
        let patches: Vec<ExpectedPatch> = [
            new_stamp(stamp),
            stamp_update(updated_stamp, mask.clone(), revision),
            new_hub(hub),
            hub_update(updated_hub, mask.clone(), revision),
            new_scope(scope),
            scope_update(updated_scope, mask.clone(), revision),
            new_route(route),
            route_update(updated_route, mask, revision),
        ]
        .into_iter()
        .flatten()
        .collect();
        let single = patches.into_iter().map(|patch| TopologyEdit {
            patches: vec![patch],
            deletes: Vec::new(),
            prune: false,
        });
        let described = v1::DesiredTopology::decode(bytes.as_slice()).ok();
        let edits: Vec<TopologyEdit> =
            single.chain(desired_edit(described, fuzz.random.random()).ok()).collect();
        for edit in edits {
            read += u32::from(edit.patches.iter().any(|(_, patch)| !matches!(patch, ObjectPatch::Route(_))));
            let proposal = anonymous(Command::Topology(edit));
            let logged = encode_proposal(&proposal).expect("what the conversions let through can be logged");
            let logged = decode_proposal(&logged).expect("what was logged can be read");
            decided(&model, &logged, NOW_FIRST);
        }
    }
    assert!(read > fuzz.rounds / 50, "too few tampered topologies are still read: {read}");
}

#[test]
fn lookups_of_clients() {
    let mut fuzz = Fuzz::new("lookups of clients", 1);
    let corpus: Vec<Vec<u8>> = consistencies()
        .into_iter()
        .map(|consistency| v1::BatchLookupRequest {
            consistency: Some(consistency),
            device_ids: vec!["d0".to_owned()],
            packed_device_ids: pack_ids(["d1", "d2"]),
        })
        .map(|request| request.encode_to_vec())
        .collect();
    for _ in 0..fuzz.rounds {
        let bytes = fuzz.tampered_one(&corpus);
        let _shown = fuzz.shown("a batch of lookups", &bytes);
        let Ok(request) = v1::BatchLookupRequest::decode(bytes.as_slice()) else { continue };
        if let Ok(consistency) = Consistency::from_message(request.consistency.as_ref()) {
            assert_eq!(Consistency::from_message(Some(&consistency.to_message())).unwrap(), consistency);
        }
        assert!(PackedIds::new(&request.packed_device_ids).count() <= request.packed_device_ids.len());
    }
}

/// Errors of a node, as a client reads them: from the details that it finds, or without.
#[test]
fn errors_of_nodes() {
    let mut fuzz = Fuzz::new("errors of nodes", 1);
    let errors = [
        ApiError::NotServing { state: "it starts".to_owned() },
        ApiError::DiskFull { free_bytes: 1, needed_bytes: 2 },
        ApiError::invalid("device_id", "is wrong"),
        ApiError::NoQuorum { cause: "nobody leads".to_owned() },
        ApiError::NotLeader { leader: None },
    ];
    let statuses: Vec<Status> = errors.into_iter().map(Status::from).collect();
    let corpus: Vec<Vec<u8>> = statuses.iter().map(|status| status.details().to_vec()).collect();
    for _ in 0..fuzz.rounds {
        let bytes = fuzz.tampered_one(&corpus);
        let _shown = fuzz.shown("the details of an error", &bytes);
        let code = Code::from_i32(fuzz.random.random_range(0..17));
        let status = Status::with_details(code, "told", Bytes::from(bytes.clone()));
        let read = ApiError::from(&status);
        let told = Status::from(read.clone());
        assert_ne!(told.code(), Code::Ok, "{read}");
        // What was understood once is understood alike by the next, though it may be told at more length.
        assert_eq!(std::mem::discriminant(&ApiError::from(&told)), std::mem::discriminant(&read), "{read}");
    }
}

/// Messages between nodes: appended entries down to their commands, heads of snapshots, envelopes.
#[test]
fn messages_of_peers() {
    let mut fuzz = Fuzz::new("messages of peers", 1);
    let model = populated(&mut fuzz);
    let commands: Vec<Bytes> = proposals(&mut fuzz).into_iter().map(Bytes::from).collect();
    let at = |index| Some(internal::LogPosition { term: 4, index });
    let vote = internal::VoteState { term: 5, node: 2, committed: true };
    let mut corpus: Vec<Vec<u8>> = commands
        .chunks(4)
        .zip(1..)
        .map(|(some, index)| {
            let payload = berth_store::payload::Payload::commands(9, some).unwrap();
            let entry = internal::LogEntry { term: 4, index, kind: 1, body: payload.to_bytes() };
            internal::AppendRequest {
                format: 1,
                vote: Some(vote),
                previous: at(index - 1),
                committed: at(index - 1),
                entries: vec![entry],
            }
            .encode_to_vec()
        })
        .collect();
    let membership = encode_stored_membership(&berth_store::raft::StoredMembership::default());
    corpus.push(
        internal::SnapshotHead { format: 1, vote: Some(vote), last: at(9), membership: membership.into() }
            .encode_to_vec(),
    );
    let mut read = 0;
    for _ in 0..fuzz.rounds {
        let bytes = fuzz.tampered_one(&corpus);
        let _shown = fuzz.shown("a message of a peer", &bytes);
        if let Ok(head) = internal::SnapshotHead::decode(bytes.as_slice()) {
            let _ = decode_stored_membership(&head.membership);
        }
        let _ = internal::VoteRequest::decode(bytes.as_slice());
        let _ = internal::PeerEnvelope::decode(bytes.as_slice());
        let Ok(request) = internal::AppendRequest::decode(bytes.as_slice()) else { continue };
        for entry in request.entries {
            let kind = u8::try_from(entry.kind).unwrap_or(u8::MAX);
            let Ok(EntryPayload::Normal(payload)) = decode_entry(kind, &entry.body) else { continue };
            let Ok(Frame::Commands { commands, .. }) = payload.frame() else { continue };
            for proposal in commands.into_iter().filter_map(|command| decode_proposal(command).ok()) {
                read += 1;
                decided(&model, &proposal, NOW_FIRST);
            }
        }
    }
    assert!(read > fuzz.rounds / 50, "too few tampered commands are still read: {read}");
}
