//! Bytes of entries and memberships, the same on disk and between peers.
//!
//! Everything starts with a format byte. Decoding never panics, and refuses lengths past their
//! bounds before it allocates.

use std::collections::{BTreeMap, BTreeSet};

use crate::payload::{PAYLOAD_BYTES_MAX, Payload, PayloadError};
use crate::raft::{BerthNode, EntryPayload, LogId, Membership, StoredMembership, log_id};

/// The only membership format so far.
const MEMBERSHIP_FORMAT: u8 = 1;
/// Nodes of a membership. Clusters have three to seven voters; the rest is room for learners.
const NODES_MAX: usize = 64;
/// Configurations of a membership: one, or two while a change is under way.
const CONFIGS_MAX: usize = 4;
/// Bytes of a name or an address; host names end at 253.
const TEXT_BYTES_MAX: usize = 1_024;

const KIND_BLANK: u8 = 0;
const KIND_NORMAL: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// Why bytes are not an entry or a membership.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end too early.
    #[error("the {0} bytes of a membership end too early")]
    Short(usize),
    /// Bytes follow the end.
    #[error("{0} bytes follow the end of a membership")]
    Trailing(usize),
    /// A newer Berth wrote it.
    #[error("membership format {0} is not known (this build knows {MEMBERSHIP_FORMAT}); upgrade this node")]
    UnknownFormat(u8),
    /// A newer Berth wrote it.
    #[error("log entry kind {0} is not known to this build; upgrade this node")]
    UnknownKind(u8),
    /// A count or a length is past its bound.
    #[error("{what} is {value}, more than {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The value found.
        value: usize,
        /// The bound.
        max: usize,
    },
    /// A text field is not UTF-8.
    #[error("a name or address in a membership is not UTF-8")]
    Text,
    /// The numbers fit but make no membership.
    #[error("not a membership: {0}")]
    Invalid(String),
    /// The payload itself is refused.
    #[error(transparent)]
    Payload(#[from] PayloadError),
}

/// The kind byte and the body of an entry.
#[must_use]
pub fn encode_entry(payload: &EntryPayload) -> (u8, bytes::Bytes) {
    match payload {
        EntryPayload::Blank => (KIND_BLANK, bytes::Bytes::new()),
        EntryPayload::Normal(payload) => (KIND_NORMAL, payload.to_bytes()),
        EntryPayload::Membership(membership) => (KIND_MEMBERSHIP, encode_membership(membership).into()),
    }
}

/// Reads an entry from its kind byte and body. A normal body is copied.
///
/// # Errors
/// [`CodecError`] when the kind is unknown or the body does not fit it.
pub fn decode_entry(kind: u8, body: &[u8]) -> Result<EntryPayload, CodecError> {
    at_most("the body of a log entry", body.len(), PAYLOAD_BYTES_MAX)?;
    match kind {
        KIND_BLANK if body.is_empty() => Ok(EntryPayload::Blank),
        KIND_BLANK => Err(CodecError::Trailing(body.len())),
        KIND_NORMAL => Ok(EntryPayload::Normal(Payload::from_slice(body)?)),
        KIND_MEMBERSHIP => Ok(EntryPayload::Membership(decode_membership(body)?)),
        kind => Err(CodecError::UnknownKind(kind)),
    }
}

/// The bytes of a membership: configurations, then nodes with their addresses.
#[must_use]
pub fn encode_membership(membership: &Membership) -> Vec<u8> {
    let mut out = vec![MEMBERSHIP_FORMAT];
    let configs = membership.get_joint_config();
    put_count(&mut out, configs.len());
    for config in configs {
        put_count(&mut out, config.len());
        for id in config {
            out.extend_from_slice(&id.to_le_bytes());
        }
    }
    let nodes: Vec<_> = membership.nodes().collect();
    put_count(&mut out, nodes.len());
    for (id, node) in nodes {
        out.extend_from_slice(&id.to_le_bytes());
        for text in [&node.name, &node.peer_addr, &node.client_addr] {
            put_count(&mut out, text.len());
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// Reads a membership.
///
/// # Errors
/// [`CodecError`] when the bytes are not one.
pub fn decode_membership(bytes: &[u8]) -> Result<Membership, CodecError> {
    let mut reader = Reader { rest: bytes, len: bytes.len() };
    let membership = reader.membership()?;
    reader.end()?;
    Ok(membership)
}

/// The bytes of a membership with the position that set it.
#[must_use]
pub fn encode_stored_membership(stored: &StoredMembership) -> Vec<u8> {
    let mut out = Vec::new();
    put_log_id(&mut out, stored.log_id().as_ref());
    out.extend_from_slice(&encode_membership(stored.membership()));
    out
}

/// Reads a membership with the position that set it.
///
/// # Errors
/// [`CodecError`] when the bytes are not one.
pub fn decode_stored_membership(bytes: &[u8]) -> Result<StoredMembership, CodecError> {
    let mut reader = Reader { rest: bytes, len: bytes.len() };
    let position = reader.log_id()?;
    let membership = reader.membership()?;
    reader.end()?;
    Ok(StoredMembership::new(position, membership))
}

fn put_log_id(out: &mut Vec<u8>, id: Option<&LogId>) {
    out.push(u8::from(id.is_some()));
    let (term, index) = id.map_or((0, 0), |id| (id.committed_leader_id().term, id.index()));
    out.extend_from_slice(&term.to_le_bytes());
    out.extend_from_slice(&index.to_le_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    // Counts and text lengths are bounded where they enter; saturating keeps a broken one refused.
    out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
}

fn at_most(what: &'static str, value: usize, max: usize) -> Result<(), CodecError> {
    if value > max { Err(CodecError::TooLarge { what, value, max }) } else { Ok(()) }
}

struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
}

impl Reader<'_> {
    fn membership(&mut self) -> Result<Membership, CodecError> {
        let [format] = self.array()?;
        if format != MEMBERSHIP_FORMAT {
            return Err(CodecError::UnknownFormat(format));
        }
        let mut configs = Vec::new();
        for _ in 0..self.count("the number of configurations", CONFIGS_MAX)? {
            let mut voters = BTreeSet::new();
            for _ in 0..self.count("the number of voters", NODES_MAX)? {
                voters.insert(u64::from_le_bytes(self.array()?));
            }
            configs.push(voters);
        }
        let mut nodes = BTreeMap::new();
        for _ in 0..self.count("the number of nodes", NODES_MAX)? {
            let id = u64::from_le_bytes(self.array()?);
            let node = BerthNode { name: self.text()?, peer_addr: self.text()?, client_addr: self.text()? };
            nodes.insert(id, node);
        }
        if configs.is_empty() && nodes.is_empty() {
            // The membership before the first one, which a snapshot of nothing carries.
            return Ok(Membership::default());
        }
        Membership::new(configs, nodes).map_err(|error| CodecError::Invalid(error.to_string()))
    }

    fn log_id(&mut self) -> Result<Option<LogId>, CodecError> {
        let [present] = self.array()?;
        let term = u64::from_le_bytes(self.array()?);
        let index = u64::from_le_bytes(self.array()?);
        Ok((present != 0).then(|| log_id(term, index)))
    }

    fn text(&mut self) -> Result<String, CodecError> {
        let len = self.count("the length of a name or address", TEXT_BYTES_MAX)?;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| CodecError::Text)
    }

    fn count(&mut self, what: &'static str, max: usize) -> Result<usize, CodecError> {
        let count = u16::from_le_bytes(self.array()?) as usize;
        at_most(what, count, max)?;
        Ok(count)
    }

    fn take(&mut self, len: usize) -> Result<&[u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(CodecError::Short(self.len))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn end(&self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::Trailing(self.rest.len())) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(name: String) -> BerthNode {
        BerthNode { peer_addr: format!("{name}:1"), client_addr: format!("{name}:2"), name }
    }

    proptest! {
        #[test]
        fn memberships_come_back_as_they_went(voters in prop::collection::btree_set(any::<u64>(), 1..6), learners in prop::collection::btree_set(any::<u64>(), 0..6), joint: bool, position in prop::option::of((any::<u64>(), any::<u64>()))) {
            let nodes: BTreeMap<u64, BerthNode> = voters.iter().chain(&learners).map(|&id| (id, node(format!("n{id}")))).collect();
            let mut configs = vec![voters.clone()];
            if joint {
                configs.push(nodes.keys().copied().collect());
            }
            let membership = Membership::new(configs, nodes).unwrap();
            prop_assert_eq!(&decode_membership(&encode_membership(&membership)).unwrap(), &membership);
            let stored = StoredMembership::new(position.map(|(term, index)| log_id(term, index)), membership);
            prop_assert_eq!(decode_stored_membership(&encode_stored_membership(&stored)).unwrap(), stored);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), kind: u8) {
            let _ = decode_entry(kind % 4, &bytes);
            let _ = decode_stored_membership(&bytes);
            if let Some(first) = bytes.first_mut() {
                *first = MEMBERSHIP_FORMAT;
            }
            let _ = decode_membership(&bytes);
        }
    }

    #[test]
    fn the_empty_membership_of_an_empty_snapshot_is_kept() {
        let empty = StoredMembership::default();
        assert_eq!(decode_stored_membership(&encode_stored_membership(&empty)), Ok(empty));
    }

    #[test]
    fn entries_of_every_kind_come_back() {
        let normal = EntryPayload::Normal(Payload::commands(1, &[bytes::Bytes::from_static(b"x")]).unwrap());
        for payload in [EntryPayload::Blank, normal] {
            let (kind, body) = encode_entry(&payload);
            assert_eq!(decode_entry(kind, &body).unwrap(), payload);
        }
        assert_eq!(decode_entry(9, &[]), Err(CodecError::UnknownKind(9)));
    }
}
