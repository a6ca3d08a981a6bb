//! What the rows of the directory are keyed by, and what of a key is hashed.

use berth_core::{DeviceId, LabelSetNo, RegistrationId, RequestId, RouteKey, ScopeNo};

use crate::pages::{HashKey, TableId, page_hash};

/// Entries of the reply order that share a page hash: neighbours are written one after the other, and so touch
/// one page instead of many.
const ORDER_NEIGHBOURS_BITS: u32 = 5;

/// Kinds of rows in [`TableId::Objects`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ObjectRow {
    /// A stamp, by number.
    Stamp = 1,
    /// A hub, by number.
    Hub = 2,
    /// A scope, by number.
    Scope = 3,
    /// A route, by key.
    Route = 4,
    /// A node of the cluster and its incarnation, by node ID.
    Node = 5,
}

impl ObjectRow {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Stamp, Self::Hub, Self::Scope, Self::Route, Self::Node]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// The hash under which a key is stored.
///
/// Device IDs are hashed in lower case, so that a registration ID finds the device it equals up to case; registration
/// rows without their scope, so that one look finds the ID in every scope.
pub(crate) fn row_hash(key: &HashKey, table: TableId, row_key: &[u8]) -> u64 {
    match table {
        TableId::Devices => folded_hash(key, row_key),
        TableId::Registrations => {
            page_hash(key, row_key.get(..row_key.len().saturating_sub(2)).unwrap_or(row_key))
        }
        TableId::ReplyOrder => match <[u8; 8]>::try_from(row_key) {
            Ok(seq) => page_hash(key, &(u64::from_be_bytes(seq) >> ORDER_NEIGHBOURS_BITS).to_be_bytes()),
            Err(_) => page_hash(key, row_key),
        },
        TableId::Replies | TableId::Objects | TableId::LabelSets => page_hash(key, row_key),
    }
}

/// The hash of `bytes` in ASCII lower case.
pub(crate) fn folded_hash(key: &HashKey, bytes: &[u8]) -> u64 {
    match bytes.len() {
        // Most IDs are short; a long buffer would take longer to clear than to fill.
        0..=32 => folded_in::<32>(key, bytes),
        _ => folded_in::<255>(key, bytes),
    }
}

fn folded_in<const ROOM: usize>(key: &HashKey, bytes: &[u8]) -> u64 {
    let mut folded = [0u8; ROOM];
    match folded.get_mut(..bytes.len()) {
        Some(folded) => {
            folded.copy_from_slice(bytes);
            folded.make_ascii_lowercase();
            page_hash(key, folded)
        }
        None => page_hash(key, &bytes.to_ascii_lowercase()),
    }
}

pub(crate) fn device(id: &DeviceId) -> &[u8] {
    id.as_str().as_bytes()
}

/// Folded ID, then scope in two bytes.
pub(crate) fn registration(scope: ScopeNo, id: &RegistrationId) -> Vec<u8> {
    let mut key = id.folded().into_bytes();
    key.extend_from_slice(&scope.0.to_be_bytes());
    key
}

/// Folded ID and scope of a registration's key.
pub(crate) fn parse_registration(key: &[u8]) -> Option<(&[u8], ScopeNo)> {
    let (id, scope) = key.split_last_chunk::<2>()?;
    Some((id, ScopeNo(u16::from_be_bytes(*scope))))
}

pub(crate) fn reply(id: &RequestId) -> &[u8] {
    id.as_bytes()
}

pub(crate) fn reply_order(seq: u64) -> [u8; 8] {
    seq.to_be_bytes()
}

pub(crate) fn label_set(no: LabelSetNo) -> [u8; 2] {
    no.0.to_be_bytes()
}

pub(crate) fn numbered(kind: ObjectRow, no: u64) -> [u8; 9] {
    let mut key = [kind as u8; 9];
    key[1..].copy_from_slice(&no.to_be_bytes());
    key
}

pub(crate) fn route(key: &RouteKey) -> Vec<u8> {
    let mut bytes = vec![ObjectRow::Route as u8];
    bytes.extend_from_slice(key.as_str().as_bytes());
    bytes
}
