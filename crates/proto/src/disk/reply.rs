//! Remembered replies: 16 bytes of payload hash, then the outcome, cut to a bounded size.

use berth_core::{
    DiffAction, DiffEntry, Epoch, FieldChange, ObjectKind, Outcome, Reply, Revision, SoftLimit,
};

use super::object::{known, sealed, unsealed};
use super::{CodecError, Reader};
use crate::internal::disk_outcome::Kind;
use crate::internal::{
    DiskAssigned, DiskBatchAssigned, DiskDiffEntry, DiskFieldChange, DiskOutcome, DiskRemoved, DiskSoftLimit,
    DiskTopologyEdited,
};
use prost::Message;

/// Longest encoded reply: a quarter of a million of them are kept.
pub const REPLY_BYTES_MAX: usize = 1_024;

const WHAT: &str = "reply";
const HASH_BYTES: usize = 16;

/// Writes a reply. What does not fit is cut from the end of its lists: first fields, then lines of a diff, then limits.
pub fn encode_reply(reply: &Reply) -> Vec<u8> {
    let mut disk = disk_outcome(&reply.outcome);
    let room = REPLY_BYTES_MAX - HASH_BYTES - 1;
    while disk.encoded_len() > room && cut(&mut disk) {}
    let mut out = reply.payload_hash.to_le_bytes().to_vec();
    out.extend_from_slice(&sealed(&disk));
    out
}

/// Reads a reply.
///
/// # Errors
/// [`CodecError`] where the bytes are not a reply.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, CodecError> {
    let mut reader = Reader::new(WHAT, bytes);
    let payload_hash = u128::from_le_bytes(reader.array()?);
    let outcome = core_outcome(unsealed(WHAT, reader.rest())?)?;
    Ok(Reply { payload_hash, outcome })
}

/// Drops one element; false where nothing is left to drop.
fn cut(disk: &mut DiskOutcome) -> bool {
    if let Some(Kind::TopologyEdited(edited)) = &mut disk.kind {
        if let Some(with_fields) = edited.diff.iter_mut().rev().find(|entry| !entry.fields.is_empty()) {
            with_fields.fields.clear();
            return true;
        }
        if edited.diff.pop().is_some() {
            return true;
        }
    }
    disk.limits.pop().is_some()
}

fn disk_outcome(outcome: &Outcome) -> DiskOutcome {
    let (limits, kind) = match outcome {
        Outcome::Assigned { epoch, created, moved, over_soft, .. } => {
            (over_soft, Kind::Assigned(DiskAssigned { epoch: epoch.0, created: *created, moved: *moved }))
        }
        Outcome::BatchAssigned { created, moved, touched, unchanged, over_soft, .. } => (
            over_soft,
            Kind::BatchAssigned(DiskBatchAssigned {
                created: *created,
                moved: *moved,
                touched: *touched,
                unchanged: *unchanged,
            }),
        ),
        Outcome::Removed { epoch, .. } => (&Vec::new(), Kind::Removed(DiskRemoved { epoch: epoch.0 })),
        Outcome::TopologyEdited { diff, over, .. } => {
            (over, Kind::TopologyEdited(DiskTopologyEdited { diff: diff.iter().map(disk_entry).collect() }))
        }
    };
    let limits = limits
        .iter()
        .map(|limit| DiskSoftLimit {
            kind: u32::from(limit.kind as u8),
            name: limit.name.clone(),
            used: limit.used,
            limit: limit.limit,
        })
        .collect();
    DiskOutcome { revision: outcome.revision().0, limits, kind: Some(kind) }
}

fn core_outcome(disk: DiskOutcome) -> Result<Outcome, CodecError> {
    let revision = Revision(disk.revision);
    let limits = disk.limits.into_iter().map(core_limit).collect::<Result<Vec<_>, _>>()?;
    Ok(match disk.kind.ok_or(CodecError::Unknown { what: WHAT, found: 0 })? {
        Kind::Assigned(DiskAssigned { epoch, created, moved }) => {
            Outcome::Assigned { revision, epoch: Epoch(epoch), created, moved, over_soft: limits }
        }
        Kind::BatchAssigned(DiskBatchAssigned { created, moved, touched, unchanged }) => {
            Outcome::BatchAssigned { revision, created, moved, touched, unchanged, over_soft: limits }
        }
        Kind::Removed(DiskRemoved { epoch }) => Outcome::Removed { revision, epoch: Epoch(epoch) },
        Kind::TopologyEdited(edited) => Outcome::TopologyEdited {
            revision,
            diff: edited.diff.into_iter().map(core_entry).collect::<Result<_, _>>()?,
            over: limits,
        },
    })
}

fn core_limit(disk: DiskSoftLimit) -> Result<SoftLimit, CodecError> {
    let kind = known(WHAT, disk.kind, ObjectKind::from_byte)?;
    Ok(SoftLimit { kind, name: disk.name, used: disk.used, limit: disk.limit })
}

fn disk_entry(entry: &DiffEntry) -> DiskDiffEntry {
    let field = |change: &FieldChange| DiskFieldChange {
        field: change.field.clone(),
        before: change.before.clone(),
        after: change.after.clone(),
    };
    DiskDiffEntry {
        kind: u32::from(entry.kind as u8),
        name: entry.name.clone(),
        action: u32::from(entry.action as u8),
        fields: entry.fields.iter().map(field).collect(),
    }
}

fn core_entry(disk: DiskDiffEntry) -> Result<DiffEntry, CodecError> {
    let field = |change: DiskFieldChange| FieldChange {
        field: change.field,
        before: change.before,
        after: change.after,
    };
    Ok(DiffEntry {
        kind: known(WHAT, disk.kind, ObjectKind::from_byte)?,
        name: disk.name,
        action: known(WHAT, disk.action, DiffAction::from_byte)?,
        fields: disk.fields.into_iter().map(field).collect(),
    })
}
