//! What the log holds: frames, entries, memberships, its files; and applying whatever decodes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_core::model::Model;
use berth_core::{DeviceId, Mapping, Timestamp};
use berth_proto::disk::{decode_proposal, encode_proposal};
use berth_store::disk::DataDir;
use berth_store::log::{LogStore, PurgeGate};
use berth_store::machine::{Machine, MachineOptions};
use berth_store::payload::{Admit, Frame, Genesis, Payload};
use berth_store::raft::codec::{
    decode_entry, decode_membership, decode_stored_membership, encode_entry, encode_membership,
    encode_stored_membership,
};
use berth_store::raft::{BerthNode, Entry, EntryPayload, Membership, StoredMembership, Vote, log_id};
use berth_tests::process::{copy_dir, files_below};
use bytes::Bytes;
use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use rand::RngExt;
use tempfile::TempDir;
use uuid::Uuid;

use crate::Fuzz;
use crate::commands::{REPLIES, moment, proposals};

/// Entries of the log that is damaged.
const ENTRIES: u64 = 30;
/// Commands of one entry at most.
const COMMANDS_MAX: usize = 6;

/// A state machine in a directory of its own, and the log beside it.
pub struct Bench {
    pub machine: Machine,
    runtime: tokio::runtime::Runtime,
    next: u64,
    _dir: TempDir,
}

impl Bench {
    /// A machine whose cluster is born.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let data = Arc::new(DataDir::lock(dir.path()).unwrap());
        let log = LogStore::open(&dir.path().join("log"), PurgeGate::open()).unwrap();
        let options = MachineOptions { replies_max: REPLIES, ..MachineOptions::default() };
        let (machine, _) = Machine::open(&data, &log, options).unwrap();
        let mut bench = Self { machine, runtime, next: 1, _dir: dir };
        let genesis = Genesis { stamp_ms: 1, cluster_id: Uuid::from_u128(1), hash_key: [7; 16] };
        bench.apply(vec![Payload::genesis(&genesis)]).unwrap();
        bench
    }

    /// Applies payloads as one group of entries.
    pub fn apply(&mut self, payloads: Vec<Payload>) -> std::io::Result<()> {
        let first = self.next;
        self.next += payloads.len() as u64;
        let entries = (first..).zip(payloads).map(|(index, payload)| {
            Ok((Entry { log_id: log_id(1, index), payload: EntryPayload::Normal(payload) }, None))
        });
        let entries = futures_util::stream::iter(entries.collect::<Vec<_>>());
        self.runtime.block_on(self.machine.apply(entries))
    }

    /// Every mapping there is.
    pub fn devices(&self) -> BTreeMap<DeviceId, Mapping> {
        let snapshot = self.machine.handle().reader().snapshot();
        let mut devices = BTreeMap::new();
        for page in 0..snapshot.device_pages() {
            let read = snapshot.devices_in_page(page, |id, mapping| {
                devices.insert(DeviceId::parse(id).expect("a stored ID is legal"), mapping);
            });
            read.expect("every row can be read");
        }
        devices
    }
}

#[test]
fn frames() {
    let mut fuzz = Fuzz::new("frames", 1);
    let corpus = frames_of(&mut fuzz);
    let mut read = 0;
    for _ in 0..fuzz.rounds * 2 {
        let bytes = fuzz.tampered_one(&corpus);
        let _shown = fuzz.shown("a frame", &bytes);
        let payload = Payload::from_slice(&bytes).unwrap();
        let Ok(frame) = payload.frame() else { continue };
        read += 1;
        let again = match &frame {
            Frame::Commands { stamp_ms, commands } => {
                let commands: Vec<Bytes> =
                    commands.iter().map(|command| Bytes::copy_from_slice(command)).collect();
                Payload::commands(*stamp_ms, &commands)
            }
            Frame::Genesis(genesis) => Ok(Payload::genesis(genesis)),
            Frame::Admit(admit) => Payload::admit(admit),
        };
        assert_eq!(again.expect("what was read can be framed").frame().as_ref(), Ok(&frame));
    }
    assert!(read > fuzz.rounds / 20, "too few tampered frames are still read: {read}");
}

fn frames_of(fuzz: &mut Fuzz) -> Vec<Vec<u8>> {
    let commands: Vec<Bytes> = proposals(fuzz).into_iter().map(Bytes::from).collect();
    let admit = |node_id| Admit {
        stamp_ms: 5,
        node_id,
        incarnation: Uuid::from_u128(2),
        name: "n2".to_owned(),
        peer_addr: "10.0.0.2:7401".to_owned(),
        client_addr: "10.0.0.2:7400".to_owned(),
    };
    let genesis = Genesis { stamp_ms: 1, cluster_id: Uuid::from_u128(3), hash_key: [1; 16] };
    let mut frames = vec![
        Payload::genesis(&genesis),
        Payload::admit(&admit(None)).unwrap(),
        Payload::admit(&admit(Some(0))).unwrap(),
    ];
    frames.extend(commands.chunks(COMMANDS_MAX).map(|some| Payload::commands(7, some).unwrap()));
    frames.iter().map(|frame| frame.as_slice().to_vec()).collect()
}

#[test]
fn entries_and_memberships() {
    let mut fuzz = Fuzz::new("entries and memberships", 1);
    let node = |id: u64| BerthNode {
        name: format!("n{id}"),
        peer_addr: format!("10.0.0.{id}:7401"),
        client_addr: format!("10.0.0.{id}:7400"),
    };
    let nodes: BTreeMap<u64, BerthNode> = (1..5).map(|id| (id, node(id))).collect();
    let memberships = [vec![[1, 2, 3].into()], vec![[1, 2, 3].into(), [2, 3, 4].into()]]
        .map(|configs| Membership::new(configs, nodes.clone()).unwrap());
    let stored = memberships.clone().map(|m| StoredMembership::new(Some(log_id(3, 9)), m));
    let mut corpus: Vec<Vec<u8>> = memberships.iter().map(encode_membership).collect();
    corpus.extend(stored.iter().map(encode_stored_membership));
    corpus.push(encode_stored_membership(&StoredMembership::default()));
    for _ in 0..fuzz.rounds * 2 {
        let bytes = fuzz.tampered_one(&corpus);
        let _shown = fuzz.shown("a membership", &bytes);
        if let Ok(membership) = decode_membership(&bytes) {
            assert_eq!(decode_membership(&encode_membership(&membership)), Ok(membership));
        }
        if let Ok(stored) = decode_stored_membership(&bytes) {
            // What every node asks of the membership it finds.
            let voters = stored.membership().voter_ids().count();
            assert!(voters <= stored.membership().nodes().count());
            assert_eq!(decode_stored_membership(&encode_stored_membership(&stored)), Ok(stored));
        }
        let kind = fuzz.random.random_range(0..5);
        if let Ok(payload) = decode_entry(kind, &bytes) {
            let (again, body) = encode_entry(&payload);
            assert_eq!(decode_entry(again, &body), Ok(payload));
        }
    }
}

/// Whatever command can be read can be applied: an entry that cannot would stop every node of the cluster, for good.
/// And the directory on its pages goes the way of the model.
#[test]
fn applying() {
    let mut fuzz = Fuzz::new("applying", 4);
    let corpus = proposals(&mut fuzz);
    let mut bench = Bench::new();
    let mut model = Model::with_replies_max(REPLIES);
    let mut stamped = Timestamp(1);
    let mut history = Vec::new().into_iter();
    for round in 0..fuzz.rounds {
        if history.len() == 0 {
            history = fuzz.history(60).into_iter();
        }
        let now = match round % 16 {
            0 => moment(&mut fuzz),
            _ => Timestamp(stamped.0.saturating_add(7)),
        };
        // Some entries are honest, so that the tampered ones meet a directory with something in it.
        let tampered = if round % 3 == 0 { 0 } else { fuzz.random.random_range(0..COMMANDS_MAX) };
        let mut commands: Vec<Bytes> =
            history.next().iter().map(|(p, _)| encode_proposal(p).unwrap()).collect();
        commands.extend((0..tampered).map(|_| fuzz.tampered_one(&corpus).into()));
        if round % 3 == 1 {
            commands.retain(|bytes| decode_proposal(bytes).is_ok());
        }
        let read: Vec<_> = commands.iter().map(|bytes| decode_proposal(bytes)).collect();
        let payload = Payload::commands(now.0, &commands).unwrap();
        let _shown = fuzz.shown("an entry", payload.as_slice());
        let before = bench.machine.handle().reader().snapshot().revision();
        if read.iter().all(Result::is_ok) {
            bench.apply(vec![payload.clone()]).expect("an entry that can be read can be applied");
            stamped = stamped.max(now);
            for proposal in read.into_iter().flatten() {
                // Both refuse the same: the revisions below would differ if not.
                let _ = model.propose(&proposal, stamped);
            }
        } else {
            bench.apply(vec![payload.clone()]).expect_err("an entry that cannot be read is not passed over");
            assert_eq!(
                bench.machine.handle().reader().snapshot().revision(),
                before,
                "half an entry was applied"
            );
        }
        let snapshot = bench.machine.handle().reader().snapshot();
        assert_eq!(snapshot.revision(), model.revision, "the pages and the model decided differently");
    }
    let snapshot = bench.machine.handle().reader().snapshot();
    assert_eq!(bench.devices(), model.devices);
    assert_eq!(snapshot.topology(), &model.topology);
    snapshot.recount().expect("the counters agree with the rows");
    println!("applying: {} revisions, {} devices", model.revision.0, model.devices.len());
    assert!(model.revision.0 > u64::from(fuzz.rounds) / 20, "too little was accepted: {:?}", model.revision);
}

/// Files of the log: what opens holds nothing that was not written.
#[test]
fn files_of_the_log() {
    let mut fuzz = Fuzz::new("files of the log", 15);
    let dir = tempfile::tempdir().unwrap();
    let (whole, tried) = (dir.path().join("whole"), dir.path().join("tried"));
    let frames = frames_of(&mut fuzz);
    let written: Vec<Entry> = (0..ENTRIES)
        .map(|index| {
            let payload = match index {
                0 => EntryPayload::Membership(Membership::default()),
                _ => {
                    EntryPayload::Normal(Payload::from_slice(&frames[index as usize % frames.len()]).unwrap())
                }
            };
            Entry { log_id: log_id(1, index), payload }
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut log = LogStore::open(&whole, PurgeGate::open()).unwrap();
        log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
        log.blocking_append(written.clone()).await.unwrap();
        log.save_committed(Some(log_id(1, ENTRIES - 5))).await.unwrap();
    });
    let file = log_file(&whole);
    let bytes = fs::read(&file).unwrap();
    let name = file.strip_prefix(&whole).unwrap().to_owned();
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..fuzz.rounds {
        copy_dir(&whole, &tried);
        let damaged = fuzz.tampered(&bytes, &bytes);
        let _shown = fuzz.shown("a log file", &damaged);
        fs::write(tried.join(&name), &damaged).unwrap();
        match LogStore::open(&tried, PurgeGate::open()) {
            Ok(mut log) => {
                opened += 1;
                let end = log.last().map_or(0, |last| last.index() + 1);
                let read = runtime.block_on(async {
                    log.get_log_reader().await.try_get_log_entries(0..end.min(ENTRIES * 2)).await
                });
                for entry in read.expect("an open log can be read") {
                    assert_eq!(Some(&entry), written.get(entry.log_id.index() as usize), "never written");
                }
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("--join"), "the refusal says what to do: {error}");
            }
        }
    }
    println!("files of the log: {opened} opened, {refused} refused");
}

fn log_file(dir: &Path) -> PathBuf {
    let mut files = files_below(dir);
    files.retain(|file| file.extension().is_some_and(|end| end == "wal"));
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}
