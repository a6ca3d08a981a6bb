//! The records of the log's files: how votes, positions, entries and the watermark are written.
//!
//! `raft-log` checks a whole record with a CRC, but it must read a record's length before it can
//! check it, and it takes "the file ends too early" for a torn tail and cuts there. One flipped bit
//! in a length could so make it cut off acknowledged entries in silence. Therefore every record of
//! ours that has a length, or that could be mistaken for a longer record, starts with a head that is
//! checked by itself: a wrong head is damage, never a torn tail.

use std::io::{self, Read, Write};

use codeq::{Decode, Encode};
use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use crate::payload::PAYLOAD_BYTES_MAX;
use crate::raft::codec::{decode_entry, encode_entry};
use crate::raft::{BerthConfig, EntryPayload, LeaderId, LogId, Vote, log_id};

const ENTRY_FORMAT: u8 = 1;
const VOTE_FORMAT: u8 = 1;
const WATERMARK_FORMAT: u8 = 1;

/// Format, kind, length of the body, CRC of these.
const ENTRY_HEAD_BYTES: usize = 10;
/// Format, term, node, committed, CRC of these; padded past the size of an entry's position and head,
/// so that a vote taken for an entry meets a wrong head and not the end of the file.
const VOTE_BYTES: usize = 32;
const VOTE_CHECKED_BYTES: usize = 18;
/// Format, generation, presence, term, index, CRC of these.
const WATERMARK_BYTES: usize = 30;
const WATERMARK_CHECKED_BYTES: usize = 26;

/// The record types of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Records;

/// An entry's payload as a record.
#[derive(Clone, Debug)]
pub(super) struct StoredPayload(pub(super) EntryPayload);

/// A vote as a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd)]
pub(super) struct StoredVote(pub(super) Vote);

/// The last checkpoint known to be durable, kept outside the page store that it vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// The generation of the checkpoint's manifest.
    pub generation: u64,
    /// The position up to which the checkpoint has applied the log.
    pub position: Option<LogId>,
}

/// Who is told when a flush is on disk.
pub(super) enum Flushed {
    /// openraft, about appended entries.
    Append(IOFlushed<BerthConfig>),
    /// A task of ours that waits.
    Waiter(oneshot::Sender<io::Result<()>>),
}

impl raft_log::Types for Records {
    type LogId = (u64, u64);
    type LogPayload = StoredPayload;
    type Vote = StoredVote;
    type Callback = Flushed;
    type UserData = Watermark;

    fn log_index(id: &Self::LogId) -> u64 {
        id.1
    }

    fn payload_size(payload: &Self::LogPayload) -> u64 {
        match &payload.0 {
            EntryPayload::Normal(payload) => payload.as_slice().len() as u64,
            // A membership's few nodes, or nothing.
            EntryPayload::Blank | EntryPayload::Membership(_) => 256,
        }
    }
}

impl raft_log::Callback for Flushed {
    /// Runs on the flushing thread: hands the result over and does nothing else.
    fn send(self, result: io::Result<()>) {
        match self {
            Self::Append(callback) => callback.io_completed(result),
            // A waiter that has gone away has no use for the result.
            Self::Waiter(waiter) => drop(waiter.send(result)),
        }
    }
}

impl Encode for StoredPayload {
    fn encode<W: Write>(&self, mut out: W) -> io::Result<usize> {
        let (kind, body) = encode_entry(&self.0);
        if body.len() > PAYLOAD_BYTES_MAX {
            return Err(damage(format!("an entry body of {} bytes cannot be stored", body.len())));
        }
        let mut head = [0; ENTRY_HEAD_BYTES];
        head[0] = ENTRY_FORMAT;
        head[1] = kind;
        head[2..6].copy_from_slice(&(body.len() as u32).to_le_bytes());
        seal(&mut head, 6);
        out.write_all(&head)?;
        out.write_all(&body)?;
        Ok(head.len() + body.len())
    }
}

impl Decode for StoredPayload {
    fn decode<R: Read>(mut input: R) -> io::Result<Self> {
        let head: [u8; ENTRY_HEAD_BYTES] = read_sealed(&mut input, 6, ENTRY_FORMAT, "entry")?;
        let len = u32::from_le_bytes([head[2], head[3], head[4], head[5]]) as usize;
        if len > PAYLOAD_BYTES_MAX {
            return Err(damage(format!("an entry body of {len} bytes is past {PAYLOAD_BYTES_MAX}")));
        }
        let mut body = vec![0; len];
        input.read_exact(&mut body)?;
        decode_entry(head[1], &body).map(Self).map_err(|error| damage(error.to_string()))
    }
}

impl Encode for StoredVote {
    fn encode<W: Write>(&self, mut out: W) -> io::Result<usize> {
        let mut bytes = [0; VOTE_BYTES];
        bytes[0] = VOTE_FORMAT;
        bytes[1..9].copy_from_slice(&self.0.leader_id.term.to_le_bytes());
        bytes[9..17].copy_from_slice(&self.0.leader_id.voted_for.to_le_bytes());
        bytes[17] = u8::from(self.0.committed);
        seal(&mut bytes, VOTE_CHECKED_BYTES);
        out.write_all(&bytes)?;
        Ok(bytes.len())
    }
}

impl Decode for StoredVote {
    fn decode<R: Read>(mut input: R) -> io::Result<Self> {
        let bytes: [u8; VOTE_BYTES] = read_sealed(&mut input, VOTE_CHECKED_BYTES, VOTE_FORMAT, "vote")?;
        let leader_id = LeaderId { term: u64_at(&bytes, 1), voted_for: u64_at(&bytes, 9) };
        Ok(Self(Vote { leader_id, committed: bytes[17] != 0 }))
    }
}

impl Encode for Watermark {
    fn encode<W: Write>(&self, mut out: W) -> io::Result<usize> {
        let mut bytes = [0; WATERMARK_BYTES];
        bytes[0] = WATERMARK_FORMAT;
        bytes[1..9].copy_from_slice(&self.generation.to_le_bytes());
        if let Some(position) = self.position {
            bytes[9] = 1;
            bytes[10..18].copy_from_slice(&position.committed_leader_id().term.to_le_bytes());
            bytes[18..26].copy_from_slice(&position.index().to_le_bytes());
        }
        seal(&mut bytes, WATERMARK_CHECKED_BYTES);
        out.write_all(&bytes)?;
        Ok(bytes.len())
    }
}

impl Decode for Watermark {
    fn decode<R: Read>(mut input: R) -> io::Result<Self> {
        let bytes: [u8; WATERMARK_BYTES] =
            read_sealed(&mut input, WATERMARK_CHECKED_BYTES, WATERMARK_FORMAT, "watermark")?;
        let position = (bytes[9] != 0).then(|| log_id(u64_at(&bytes, 10), u64_at(&bytes, 18)));
        Ok(Self { generation: u64_at(&bytes, 1), position })
    }
}

/// Writes the CRC of the first `checked` bytes right behind them.
fn seal(bytes: &mut [u8], checked: usize) {
    let crc = crc32c::crc32c(&bytes[..checked]);
    bytes[checked..checked + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Reads `N` bytes, the first of which is the format, and checks the CRC behind the first `checked`.
fn read_sealed<const N: usize>(
    input: &mut impl Read,
    checked: usize,
    format: u8,
    what: &str,
) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    let mut crc = [0; 4];
    crc.copy_from_slice(&bytes[checked..checked + 4]);
    if u32::from_le_bytes(crc) != crc32c::crc32c(&bytes[..checked]) {
        return Err(damage(format!("the head of a {what} record fails its check")));
    }
    if bytes[0] != format {
        return Err(damage(format!("{what} record format {} is not known to this build", bytes[0])));
    }
    Ok(bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

fn damage(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
