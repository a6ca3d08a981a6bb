//! Snapshots of a peer, tampered with on the way or at their source: what is installed is what was sent, or nothing
//! is; and a node that took one in goes on or says what is wrong.

use std::collections::BTreeSet;

use berth_core::StampNo;
use berth_proto::disk::{decode_hub, encode_hub, encode_proposal};
use berth_proto::internal::CheckpointMeta;
use berth_store::disk::Manifest;
use berth_store::pages::{TableId, VALUE_BYTES_MAX, row_digest};
use berth_store::payload::{Admit, Payload};
use berth_store::raft::SnapshotMeta;
use bytes::Bytes;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use prost::Message;
use rand::RngExt;
use uuid::Uuid;

use crate::Fuzz;
use crate::commands::proposals;
use crate::log::Bench;

/// A snapshot taken apart: the pages of its chunks, and the manifest behind them.
#[derive(Clone)]
struct Sent {
    meta: SnapshotMeta,
    manifest: Manifest,
    pages: Vec<(TableId, u32, Vec<u8>)>,
}

impl Sent {
    /// The parts as they travel, with checksums that are right.
    fn parts(&self) -> Vec<Vec<u8>> {
        let mut chunk = vec![1];
        for (table, number, page) in &self.pages {
            chunk.push(table.number());
            chunk.extend_from_slice(&number.to_le_bytes());
            chunk.extend_from_slice(&u32::try_from(page.len()).unwrap().to_le_bytes());
            chunk.extend_from_slice(page);
        }
        vec![sealed(chunk), self.manifest.encode()]
    }

    /// Sets the digest that the rows have.
    fn digest_again(&mut self) {
        let rows = self.pages.iter().flat_map(|(table, _, page)| {
            rows_of(page)
                .into_iter()
                .map(|(key, value)| row_digest(*table, key.len(), &[key, value].concat()))
        });
        self.manifest.digest = rows.fold(0, u128::wrapping_add);
    }
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// A machine with devices, topology, replies and nodes, and the snapshot it sends.
fn source(fuzz: &mut Fuzz) -> Sent {
    let mut bench = Bench::new();
    for node in 0..3 {
        let admit = Admit {
            stamp_ms: 2,
            node_id: Some(node),
            incarnation: Uuid::from_u128(node.into()),
            name: format!("n{node}"),
            peer_addr: "10.0.0.1:7401".to_owned(),
            client_addr: "10.0.0.1:7400".to_owned(),
        };
        bench.apply(vec![Payload::admit(&admit).unwrap()]).unwrap();
    }
    for (proposal, now) in fuzz.history(80) {
        let command = encode_proposal(&proposal).unwrap();
        bench.apply(vec![Payload::commands(now.0, &[command]).unwrap()]).unwrap();
    }
    let machine = &mut bench.machine;
    let handle = machine.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let snapshot = runtime.block_on(async {
        let mut builder = machine.get_snapshot_builder().await;
        builder.build_snapshot().await.unwrap()
    });
    let mut reader = handle.send_snapshot(&snapshot.snapshot).unwrap();
    let mut pages = Vec::new();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        let mut rest = &chunk[1..chunk.len() - 4];
        while let Some(([table, head @ ..], after)) = rest.split_first_chunk::<9>() {
            let [number, length] =
                [&head[..4], &head[4..]].map(|four| u32::from_le_bytes(four.try_into().unwrap()));
            let (page, left) = after.split_at(length as usize);
            pages.push((TableId::from_number(*table).unwrap(), number, page.to_vec()));
            rest = left;
        }
    }
    Sent { meta: snapshot.meta, manifest: reader.manifest().clone(), pages }
}

/// The rows of a page, by the layout that pages have.
fn rows_of(page: &[u8]) -> Vec<(&[u8], &[u8])> {
    let count = usize::from(u16::from_le_bytes([page[2], page[3]]));
    let width = 1 + usize::from(page[1] & 1);
    let lengths = &page[4 + count..4 + count * (1 + width)];
    let mut rest = &page[4 + count * (1 + width)..];
    let mut rows = Vec::new();
    for length in lengths.chunks(width) {
        let length = length.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let (row, left) = rest.split_at(length);
        rows.push(row[1..].split_at(usize::from(row[0])));
        rest = left;
    }
    rows
}

/// The page with another value in one of its rows: a whole page still, with every row where it belongs.
fn with_value(page: &[u8], place: usize, value: &[u8]) -> Vec<u8> {
    let mut rows = rows_of(page);
    rows[place].1 = value;
    let mut out = vec![page[0], page[1] | 1];
    out.extend_from_slice(&page[2..4 + rows.len()]);
    for (key, value) in &rows {
        out.extend_from_slice(&u16::try_from(1 + key.len() + value.len()).unwrap().to_le_bytes());
    }
    for (key, value) in rows {
        out.push(u8::try_from(key.len()).unwrap());
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }
    out
}

/// Numbers that no cluster reaches, at places where room is made for all numbers below them.
fn far_off(sent: &Sent) -> Vec<Sent> {
    let mut all = Vec::new();
    for table in TableId::ALL {
        // A table with nothing in it but a page far off.
        let mut far = sent.clone();
        far.pages.retain(|(of, _, _)| *of != table);
        far.pages.push((table, (1 << 30) - 1, vec![1, 0, 0, 0]));
        let place = usize::from(table.number());
        (far.manifest.page_counts[place], far.manifest.row_counts[place]) = (1 << 30, 0);
        all.push(far.clone());
        // And one with nothing at all in it.
        far.pages.pop();
        all.push(far);
    }
    // Every hub is in a stamp of the highest number.
    let mut far = sent.clone();
    for (_, _, page) in far.pages.iter_mut().filter(|(table, _, _)| *table == TableId::Objects) {
        let hubs: Vec<(usize, Vec<u8>)> = rows_of(page)
            .into_iter()
            .enumerate()
            .filter_map(|(place, (key, value))| {
                Some((place, key, decode_hub(value).ok().filter(|_| key[0] == 2)?))
            })
            .map(|(place, _, hub)| (place, encode_hub(&berth_core::Hub { stamp: StampNo(u32::MAX), ..hub })))
            .collect();
        for (place, value) in hubs {
            *page = with_value(page, place, &value);
        }
    }
    all.push(far);
    let positions: [fn(&mut CheckpointMeta); 7] = [
        |meta| (meta.replies_first, meta.replies_next) = (u64::MAX, u64::MAX),
        |meta| meta.replies_first = meta.replies_next,
        |meta| meta.revision = u64::MAX,
        |meta| meta.stamped_ms = u64::MAX,
        |meta| (meta.next_stamp, meta.next_hub, meta.next_scope) = (u32::MAX, u32::MAX, u16::MAX.into()),
        |meta| meta.next_hub = (1 << 24) - 1,
        |meta| meta.forgotten_until_ms = Some(u64::MAX),
    ];
    for set in positions {
        let mut far = sent.clone();
        let mut meta = CheckpointMeta::decode(far.manifest.meta.as_slice()).unwrap();
        set(&mut meta);
        far.manifest.meta = meta.encode_to_vec();
        all.push(far);
    }
    all.iter_mut().for_each(Sent::digest_again);
    all
}

/// What the source itself has wrong: a value, a position, a count. All checksums and the digest are right.
fn wrong_at_its_source(fuzz: &mut Fuzz, sent: &Sent) -> Sent {
    let mut sent = sent.clone();
    match fuzz.random.random_range(0..7) {
        0 => {
            let table = fuzz.random.random_range(0..TableId::COUNT);
            let pages = sent.manifest.page_counts[table];
            sent.manifest.page_counts[table] =
                [1 << 30, pages + 1, pages * 2, 1][fuzz.random.random_range(0..4)];
        }
        1 | 2 => sent.manifest.meta = fuzz.tampered(&sent.manifest.meta.clone(), &[]),
        _ => {
            let full: Vec<usize> =
                (0..sent.pages.len()).filter(|at| !rows_of(&sent.pages[*at].2).is_empty()).collect();
            // Each table as often as the other, however many pages it has.
            let tables: BTreeSet<TableId> = full.iter().map(|at| sent.pages[*at].0).collect();
            let table = *tables.iter().nth(fuzz.random.random_range(0..tables.len())).unwrap();
            let full: Vec<usize> = full.into_iter().filter(|at| sent.pages[*at].0 == table).collect();
            let at = full[fuzz.random.random_range(0..full.len())];
            let page = sent.pages[at].2.clone();
            let rows = rows_of(&page);
            let place = fuzz.random.random_range(0..rows.len());
            let other = rows[fuzz.random.random_range(0..rows.len())].1;
            let mut value = fuzz.tampered(rows[place].1, other);
            value.truncate(VALUE_BYTES_MAX);
            sent.pages[at].2 = with_value(&page, place, &value);
        }
    }
    sent.digest_again();
    sent
}

#[test]
fn snapshots() {
    let mut fuzz = Fuzz::new("snapshots", 25);
    let sent = source(&mut fuzz);
    let commands: Vec<Bytes> = proposals(&mut fuzz).into_iter().map(Bytes::from).collect();
    let mut bench = Bench::new();
    let (mut refused, mut given_up, mut installed) = (0, 0, 0);
    let mut far_off = far_off(&sent).into_iter();
    for round in 0..fuzz.rounds {
        let far = if round == 0 { Some(sent.clone()) } else { far_off.next() };
        let whole = far.is_some();
        let wrong = far.unwrap_or_else(|| wrong_at_its_source(&mut fuzz, &sent));
        let mut parts = wrong.parts();
        if round % 4 == 3 && !whole {
            let at = fuzz.random.random_range(0..parts.len());
            parts[at] = fuzz.tampered(&parts[at], &sent.manifest.meta);
        }
        let _meta = fuzz.shown("a manifest", parts.last().unwrap());
        let mut receiving = bench.machine.handle().receive_snapshot().unwrap();
        let received = parts.iter().try_for_each(|part| receiving.write(part.clone()));
        let Ok(handle) = received.and_then(|()| receiving.finish()) else {
            refused += 1;
            assert!(round > 0, "an honest snapshot is taken");
            continue;
        };
        match bench.machine.adopt(&sent.meta, &handle) {
            Ok(()) => {
                installed += 1;
                used(&mut bench, &commands);
            }
            Err(error) => {
                given_up += 1;
                assert!(round > 0, "an honest snapshot is installed: {error}");
            }
        }
        // What was taken in is rubbish: the next one meets a node that is whole.
        bench = Bench::new();
    }
    println!("snapshots: {refused} refused, {given_up} given up at the install, {installed} installed");
}

/// Reads all there is, and goes on from there. The state may be any; each answer is one, or tells of damage.
fn used(bench: &mut Bench, commands: &[Bytes]) {
    let snapshot = bench.machine.handle().reader().snapshot();
    for page in 0..snapshot.device_pages() {
        let _ = snapshot.devices_in_page(page, |_, mapping| {
            let _ = mapping.hub.map(|hub| (snapshot.hub_seats(hub), snapshot.labels(mapping.labels)));
        });
    }
    let _ = snapshot.recount();
    for (at, command) in commands.iter().enumerate() {
        let stamp = 1_800_000_000_000 + at as u64;
        let _ = bench.apply(vec![Payload::commands(stamp, std::slice::from_ref(command)).unwrap()]);
    }
    let _ = bench.machine.handle().reader().snapshot().recount();
}
