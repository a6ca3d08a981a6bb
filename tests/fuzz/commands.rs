//! What `disk` reads: commands, rows, topology objects, label sets, replies; and the tokens of callers.

use berth_core::model::Model;
use berth_core::{Command, Decision, Delta, Proposal, Timestamp, TopologyChange, decide};
use berth_proto::convert::PackedIds;
use berth_proto::disk::{
    MAPPING_BYTES_MAX, REPLY_BYTES_MAX, decode_hub, decode_label_set, decode_mapping, decode_proposal,
    decode_reply, decode_route, decode_scope, decode_stamp, encode_hub, encode_label_set, encode_mapping,
    encode_proposal, encode_reply, encode_route, encode_scope, encode_stamp,
};
use berth_proto::{ReadToken, SnapshotToken};
use berth_store::pages::VALUE_BYTES_MAX;
use berth_tests::strategies::{NOW_FIRST, anonymous, command, hostile_proposal};
use proptest::prelude::any;
use rand::RngExt;

use crate::Fuzz;

/// Encodings that a test starts from.
const CORPUS: usize = 60;
/// Steps of the history that populates a directory.
const STEPS: usize = 60;
/// Replies that the directories here remember: few, so that forgetting is tried too.
pub const REPLIES: u64 = 20;
/// Longest piece of commands that is kept in a corpus: a batch of ten thousand is tried by itself elsewhere.
const KEPT_BYTES_MAX: usize = 4_096;

/// A directory in which most commands meet something.
pub fn populated(fuzz: &mut Fuzz) -> Model {
    let mut model = Model::with_replies_max(REPLIES);
    for (proposal, now) in fuzz.history(STEPS) {
        // Refusals are part of a history.
        let _ = model.propose(&proposal, now);
    }
    model
}

/// Encoded proposals, honest and hostile ones.
pub fn proposals(fuzz: &mut Fuzz) -> Vec<Vec<u8>> {
    let mut corpus = Vec::new();
    while corpus.len() < CORPUS {
        let mut proposal = match corpus.len() % 3 {
            0 => fuzz.draw(&hostile_proposal()),
            _ => anonymous(fuzz.draw(&command())),
        };
        if corpus.len() % 4 == 1 {
            proposal.request_id = Some(berth_tests::strategies::request_id(NOW_FIRST, 3));
        }
        corpus.extend(
            encode_proposal(&proposal).ok().map(Vec::from).filter(|bytes| bytes.len() < KEPT_BYTES_MAX),
        );
    }
    corpus
}

/// A stamp of a leader, now and then at the ends of time.
pub fn moment(fuzz: &mut Fuzz) -> Timestamp {
    match fuzz.random.random_range(0..20) {
        0 => Timestamp(u64::MAX),
        1 => Timestamp(0),
        _ => Timestamp(NOW_FIRST.0 + fuzz.random.random_range(0..100_000)),
    }
}

#[test]
fn commands() {
    let mut fuzz = Fuzz::new("commands", 1);
    let corpus = proposals(&mut fuzz);
    let mut model = populated(&mut fuzz);
    let (mut read, mut accepted) = (0, 0);
    for round in 0..fuzz.rounds {
        let bytes = fuzz.tampered_one(&corpus);
        let _shown = fuzz.shown("a command", &bytes);
        let Ok(proposal) = decode_proposal(&bytes) else { continue };
        read += 1;
        let again = encode_proposal(&proposal).expect("what was read can be written");
        let again = decode_proposal(&again).expect("what was written can be read");
        assert_eq!(unhashed(&again), unhashed(&proposal), "written again it is another command");
        accepted += u32::from(decided(&model, &proposal, moment(&mut fuzz)));
        // The directory moves on, and is now and then another, as tampered commands fill it with rubbish.
        let _ = model.propose(&proposal, NOW_FIRST);
        if round % 400 == 399 {
            model = populated(&mut fuzz);
        }
    }
    println!("commands: {read} read, {accepted} accepted");
    assert!(read > fuzz.rounds / 20, "too few tampered commands are still read: {read}");
}

/// A proposal without the hash, which stands for the bytes it was read from and not for its meaning.
fn unhashed(proposal: &Proposal) -> Proposal {
    Proposal { payload_hash: 0, ..proposal.clone() }
}

/// Decides, and checks that all that is to be written can be. True where the proposal was accepted.
pub fn decided(model: &Model, proposal: &Proposal, now: Timestamp) -> bool {
    match decide(model, proposal, model.revision.next(), now) {
        Decision::Accepted { delta, .. } => {
            check_writable(&delta);
            true
        }
        Decision::Repeated(_) | Decision::Refused(_) => false,
    }
}

/// Every node must be able to write what was accepted, and to read it again: else all of them stop at this entry.
fn check_writable(delta: &Delta) {
    for (device, mapping) in &delta.devices {
        let Some(mapping) = mapping else { continue };
        let mut row = Vec::new();
        encode_mapping(mapping, &mut row).unwrap_or_else(|e| panic!("the row of {device}: {e}"));
        assert!(row.len() <= MAPPING_BYTES_MAX);
        assert_eq!(decode_mapping(&row).as_ref(), Ok(mapping));
    }
    for labels in delta.label_sets.iter().filter_map(|(_, labels)| labels.as_ref()) {
        let value = encode_label_set(labels);
        assert!(value.len() <= VALUE_BYTES_MAX, "a label set of {} bytes", value.len());
        assert_eq!(decode_label_set(&value).as_ref(), Ok(labels));
    }
    for change in &delta.topology {
        let bytes = match change {
            TopologyChange::PutStamp(stamp) => {
                let value = encode_stamp(stamp);
                assert_eq!(decode_stamp(&value).as_ref(), Ok(stamp));
                value.len()
            }
            TopologyChange::PutHub(hub) => {
                let value = encode_hub(hub);
                assert_eq!(decode_hub(&value).as_ref(), Ok(hub));
                value.len()
            }
            TopologyChange::PutScope(scope) => {
                let value = encode_scope(scope);
                assert_eq!(decode_scope(&value).as_ref(), Ok(scope));
                value.len()
            }
            TopologyChange::PutRoute(route) => {
                let value = encode_route(route);
                assert_eq!(decode_route(&value).as_ref(), Ok(route));
                value.len()
            }
            _ => 0,
        };
        assert!(bytes <= VALUE_BYTES_MAX, "a topology object of {bytes} bytes fits no row");
    }
    if let Some((_, reply)) = &delta.reply {
        let value = encode_reply(reply);
        assert!(value.len() <= REPLY_BYTES_MAX, "a reply of {} bytes", value.len());
        assert_eq!(decode_reply(&value).unwrap().payload_hash, reply.payload_hash);
    }
}

#[test]
fn rows_have_one_encoding_each() {
    let mut fuzz = Fuzz::new("rows", 1);
    let corpus: Vec<Vec<u8>> = (0..5)
        .flat_map(|_| populated(&mut fuzz).devices.into_values())
        .map(|mapping| {
            let mut row = Vec::new();
            encode_mapping(&mapping, &mut row).unwrap();
            row
        })
        .collect();
    let mut read = 0;
    for _ in 0..fuzz.rounds * 4 {
        let bytes = fuzz.tampered_one(&corpus);
        let _shown = fuzz.shown("a row", &bytes);
        if let Ok(mapping) = decode_mapping(&bytes) {
            let mut again = Vec::new();
            encode_mapping(&mapping, &mut again).expect("what was read can be written");
            // Equal mappings must have equal bytes: digests are of bytes.
            assert_eq!(again, bytes, "another encoding of {mapping:?}");
            read += 1;
        }
    }
    assert!(read > fuzz.rounds / 20, "too few tampered rows are still read: {read}");
}

/// Reads, writes again and reads again; true where the bytes were read at all.
fn comes_back<T: PartialEq + std::fmt::Debug, E: std::fmt::Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, E>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> bool {
    let Ok(read) = decode(bytes) else { return false };
    let again = decode(&encode(&read)).expect("what was written can be read");
    assert_eq!(again, read);
    true
}

#[test]
fn objects_and_replies() {
    let mut fuzz = Fuzz::new("objects and replies", 1);
    let (mut objects, mut replies) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let model = populated(&mut fuzz);
        objects.extend(model.topology.stamps().map(encode_stamp));
        objects.extend(model.topology.hubs().map(encode_hub));
        objects.extend(model.topology.scopes().map(encode_scope));
        objects.extend(model.topology.routes().map(encode_route));
        objects.extend(model.label_sets.values().map(encode_label_set));
        replies.extend(model.replies.values().map(encode_reply));
    }
    let mut read = 0;
    for _ in 0..fuzz.rounds {
        let bytes = fuzz.tampered_one(&objects);
        let _shown = fuzz.shown("an object", &bytes);
        // Each reader meets the others' objects too: a row under the wrong key is such a case.
        let reads = [
            comes_back(&bytes, decode_stamp, encode_stamp),
            comes_back(&bytes, decode_hub, encode_hub),
            comes_back(&bytes, decode_scope, encode_scope),
            comes_back(&bytes, decode_route, encode_route),
            comes_back(&bytes, decode_label_set, encode_label_set),
        ];
        read += u32::from(reads.contains(&true));
    }
    assert!(read > fuzz.rounds / 20, "too few tampered objects are still read: {read}");
    for _ in 0..fuzz.rounds {
        let bytes = fuzz.tampered_one(&replies);
        let _shown = fuzz.shown("a reply", &bytes);
        if let Ok(reply) = decode_reply(&bytes) {
            let written = encode_reply(&reply);
            // A reply that is too long is cut once, and then stays as it is.
            let cut = decode_reply(&written).expect("what was written can be read");
            assert_eq!(encode_reply(&cut), written);
        }
    }
}

#[test]
fn tokens_and_packed_ids() {
    let mut fuzz = Fuzz::new("tokens and packed IDs", 1);
    for _ in 0..fuzz.rounds {
        let (numbers, cluster) = fuzz.draw(&(any::<[u64; 4]>(), any::<u128>()));
        let revision = berth_core::Revision(numbers[0]);
        let read = ReadToken { cluster: uuid::Uuid::from_u128(cluster), restore_epoch: 7, revision };
        let [node_id, pin, revision, filter] = numbers;
        let snapshot = SnapshotToken { node_id, pin, revision, page: 3, row: 4, filter };
        let (read, snapshot) = (read.encode(), snapshot.encode());

        let bytes = fuzz.tampered(&read, snapshot.as_bytes());
        let _shown = fuzz.shown("a read token", &bytes);
        if let Ok(token) = ReadToken::decode(&bytes) {
            assert_eq!(token.encode(), bytes);
        }
        let bytes = fuzz.tampered(snapshot.as_bytes(), &read);
        let _shown = fuzz.shown("a snapshot token", &bytes);
        if let Ok(text) = std::str::from_utf8(&bytes)
            && let Ok(token) = SnapshotToken::decode(text)
        {
            assert_eq!(token.encode(), text.to_ascii_lowercase());
        }
        let packed = berth_proto::convert::pack_ids(["d0", "device-1", "x"]);
        let bytes = fuzz.tampered(&packed, &read);
        let _shown = fuzz.shown("packed IDs", &bytes);
        let ids: Vec<_> = PackedIds::new(&bytes).collect();
        assert!(ids.len() <= PackedIds::new(&bytes).count_ids());
        if ids.iter().all(Result::is_ok) {
            assert_eq!(berth_proto::convert::pack_ids(ids.into_iter().flatten()), bytes);
        }
    }
}

/// The largest batch there may be, and one more.
#[test]
fn batches_at_their_bound() {
    let mut fuzz = Fuzz::new("batches at their bound", 100);
    let model = populated(&mut fuzz);
    let one = loop {
        if let Command::BatchAssign(batch) = fuzz.draw(&command())
            && let Some(one) = batch.first()
        {
            break one.clone();
        }
    };
    let batch = |count| anonymous(Command::BatchAssign(vec![one.clone(); count]));
    assert!(encode_proposal(&batch(berth_core::BATCH_DEVICES_MAX + 1)).is_err());
    let whole = Vec::from(encode_proposal(&batch(berth_core::BATCH_DEVICES_MAX)).unwrap());
    for _ in 0..fuzz.rounds {
        let bytes = fuzz.tampered(&whole, &[]);
        if let Ok(proposal) = decode_proposal(&bytes) {
            decided(&model, &proposal, NOW_FIRST);
        }
    }
}
