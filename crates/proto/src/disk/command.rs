//! Proposals in the log.
//!
//! ```text
//! byte       format = 1
//! byte       kind: 1 assign, 2 batch assign, 3 remove, 4 topology
//! byte       bit 0 set: a request ID follows
//! 16 bytes   request ID
//! 1 + n      who asked
//! 2 + n      why (length in two bytes)
//! rest       the command
//! ```
//! A batch names each combination of hub, status, labels, scope, origin, evidence and kind of precondition once, as a
//! *shape*; an item is the number of its shape, its device ID, and what its shape announces: a registration ID, an
//! epoch. So a thousand devices for one hub cost two bytes each beside their IDs. A single assignment is a batch of
//! one. The payload hash is computed from the command's bytes, never carried.

use std::collections::BTreeMap;

use berth_core::{
    Assign, BATCH_DEVICES_MAX, Command, DeviceId, Epoch, EvidenceSource, HubName, LABELS_MAX, Labels, Origin,
    Precondition, Proposal, RegistrationId, Remove, RequestId, ScopeName, Status,
};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use super::topology_edit::{decode_topology_edit, encode_topology_edit};
use super::{CodecError, Reader, legal, put_short_text, put_varint};

/// Longest text that says who asked, in bytes.
pub const ACTOR_BYTES_MAX: usize = 128;
/// Longest text that says why, in bytes.
pub const REASON_BYTES_MAX: usize = 256;

const WHAT: &str = "command";
const FORMAT: u8 = 1;
const KIND_ASSIGN: u8 = 1;
const KIND_BATCH: u8 = 2;
const KIND_REMOVE: u8 = 3;
const KIND_TOPOLOGY: u8 = 4;

const HAS_HUB: u8 = 1;
const HAS_STATUS: u8 = 1 << 1;
const HAS_LABELS: u8 = 1 << 2;
const HAS_SCOPE: u8 = 1 << 3;
const HAS_REGISTRATION: u8 = 1 << 4;
const CONDITION_SHIFT: u8 = 5;
const CONDITION_NONE: u8 = 0;
const CONDITION_ABSENT: u8 = 1;
const CONDITION_EPOCH: u8 = 2;

/// Writes a proposal. `payload_hash` is left out: the decoder computes it.
///
/// # Errors
/// [`CodecError::Illegal`] where the batch has more than 10,000 devices or a text is longer than its bound.
pub fn encode_proposal(proposal: &Proposal) -> Result<Bytes, CodecError> {
    let mut out = Vec::with_capacity(64);
    out.push(FORMAT);
    out.push(match &proposal.command {
        Command::Assign(_) => KIND_ASSIGN,
        Command::BatchAssign(_) => KIND_BATCH,
        Command::Remove(_) => KIND_REMOVE,
        Command::Topology(_) => KIND_TOPOLOGY,
    });
    out.push(u8::from(proposal.request_id.is_some()));
    if let Some(id) = &proposal.request_id {
        out.extend_from_slice(id.as_bytes());
    }
    check_length("who asked", &proposal.actor, ACTOR_BYTES_MAX)?;
    check_length("the reason", &proposal.reason, REASON_BYTES_MAX)?;
    put_short_text(&mut out, WHAT, &proposal.actor)?;
    out.extend_from_slice(&u16::try_from(proposal.reason.len()).unwrap_or_default().to_le_bytes());
    out.extend_from_slice(proposal.reason.as_bytes());
    match &proposal.command {
        Command::Assign(assign) => put_assigns(&mut out, std::slice::from_ref(assign))?,
        Command::BatchAssign(assigns) => put_assigns(&mut out, assigns)?,
        Command::Remove(remove) => put_remove(&mut out, remove)?,
        Command::Topology(edit) => encode_topology_edit(edit, &mut out),
    }
    Ok(Bytes::from(out))
}

/// Reads a proposal, with the hash of its command.
///
/// # Errors
/// [`CodecError`]; [`CodecError::is_unknown`] where a newer Berth wrote it.
pub fn decode_proposal(bytes: &[u8]) -> Result<Proposal, CodecError> {
    let mut reader = Reader::new(WHAT, bytes);
    let [format, kind, flags] = reader.array()?;
    if format != FORMAT {
        return Err(CodecError::Unknown { what: WHAT, found: u64::from(format) });
    }
    let request_id = match flags {
        0 => None,
        1 => Some(legal(WHAT, RequestId::from_bytes(reader.array()?))?),
        _ => return Err(CodecError::Unknown { what: WHAT, found: u64::from(flags) }),
    };
    let actor = reader.short_text()?.to_owned();
    check_length("who asked", &actor, ACTOR_BYTES_MAX)?;
    let reason_length = reader.u16()?;
    let reason = reader.take(usize::from(reason_length))?;
    let reason = legal(WHAT, std::str::from_utf8(reason))?.to_owned();
    check_length("the reason", &reason, REASON_BYTES_MAX)?;
    // Only a command that may be repeated has to be told apart from others.
    let payload_hash = if request_id.is_some() { command_hash(kind, reader.rest()) } else { 0 };
    let command = match kind {
        KIND_ASSIGN => Command::Assign(take_one_assign(&mut reader)?),
        KIND_BATCH => Command::BatchAssign(take_assigns(&mut reader)?),
        KIND_REMOVE => Command::Remove(take_remove(&mut reader)?),
        KIND_TOPOLOGY => {
            let edit = decode_topology_edit(reader.rest())?;
            reader = Reader::new(WHAT, &[]);
            Command::Topology(edit)
        }
        _ => return Err(CodecError::Unknown { what: WHAT, found: u64::from(kind) }),
    };
    reader.end()?;
    Ok(Proposal { request_id, payload_hash, actor, reason, command })
}

/// The hash that tells a repeat of a command from another command under the same request ID.
fn command_hash(kind: u8, body: &[u8]) -> u128 {
    xxh3_128(body).wrapping_add(u128::from(kind))
}

fn check_length(field: &str, text: &str, max: usize) -> Result<(), CodecError> {
    if text.len() > max {
        let problem = format!("{field} takes {} bytes; at most {max} are allowed", text.len());
        return Err(CodecError::Illegal { what: WHAT, problem });
    }
    Ok(())
}

/// What many items of a batch have in common.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Shape<'a> {
    hub: Option<&'a HubName>,
    status: Option<Status>,
    labels: Option<&'a Labels>,
    scope: Option<&'a ScopeName>,
    has_registration: bool,
    condition: u8,
    origin: Origin,
    evidence: EvidenceSource,
}

impl<'a> Shape<'a> {
    fn of(assign: &'a Assign) -> Self {
        Self {
            hub: assign.hub.as_ref(),
            status: assign.status,
            labels: assign.labels.as_ref(),
            scope: assign.scope.as_ref(),
            has_registration: assign.registration.is_some(),
            condition: match assign.precondition {
                Precondition::None => CONDITION_NONE,
                Precondition::Absent => CONDITION_ABSENT,
                Precondition::Epoch(_) => CONDITION_EPOCH,
            },
            origin: assign.origin,
            evidence: assign.evidence,
        }
    }

    fn put(&self, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out.push(
            flag(self.hub.is_some(), HAS_HUB)
                | flag(self.status.is_some(), HAS_STATUS)
                | flag(self.labels.is_some(), HAS_LABELS)
                | flag(self.scope.is_some(), HAS_SCOPE)
                | flag(self.has_registration, HAS_REGISTRATION)
                | self.condition << CONDITION_SHIFT,
        );
        out.push(self.origin as u8);
        out.push(self.evidence as u8);
        if let Some(hub) = self.hub {
            put_short_text(out, WHAT, hub.as_str())?;
        }
        if let Some(status) = self.status {
            out.push(status as u8);
        }
        if let Some(labels) = self.labels {
            put_labels(out, labels)?;
        }
        if let Some(scope) = self.scope {
            put_short_text(out, WHAT, scope.as_str())?;
        }
        Ok(())
    }
}

fn put_assigns(out: &mut Vec<u8>, assigns: &[Assign]) -> Result<(), CodecError> {
    if assigns.len() > BATCH_DEVICES_MAX {
        let problem =
            format!("a batch of {} devices; at most {BATCH_DEVICES_MAX} are allowed", assigns.len());
        return Err(CodecError::Illegal { what: WHAT, problem });
    }
    let mut shapes: Vec<Shape<'_>> = Vec::new();
    let mut numbers: BTreeMap<Shape<'_>, u64> = BTreeMap::new();
    let mut items = Vec::with_capacity(assigns.len() * 24);
    let mut last: Option<(Shape<'_>, u64)> = None;
    for assign in assigns {
        let shape = Shape::of(assign);
        // Neighbours mostly look alike: compare before searching.
        let number = match last {
            Some((same, number)) if same == shape => number,
            _ => *numbers.entry(shape).or_insert_with(|| {
                shapes.push(shape);
                shapes.len() as u64 - 1
            }),
        };
        last = Some((shape, number));
        put_varint(&mut items, number);
        put_short_text(&mut items, WHAT, assign.device.as_str())?;
        if let Some(registration) = &assign.registration {
            put_short_text(&mut items, WHAT, registration.as_str())?;
        }
        if let Precondition::Epoch(epoch) = assign.precondition {
            put_varint(&mut items, epoch.0);
        }
    }
    put_varint(out, shapes.len() as u64);
    for shape in &shapes {
        shape.put(out)?;
    }
    put_varint(out, assigns.len() as u64);
    out.extend_from_slice(&items);
    Ok(())
}

/// A shape as read: what its items get.
struct OwnedShape {
    hub: Option<HubName>,
    status: Option<Status>,
    labels: Option<Labels>,
    scope: Option<ScopeName>,
    has_registration: bool,
    condition: u8,
    origin: Origin,
    evidence: EvidenceSource,
}

fn take_shape(reader: &mut Reader<'_>) -> Result<OwnedShape, CodecError> {
    let unknown = |found: u8| CodecError::Unknown { what: WHAT, found: u64::from(found) };
    let [flags, origin, evidence] = reader.array()?;
    let condition = flags >> CONDITION_SHIFT;
    if condition > CONDITION_EPOCH {
        return Err(unknown(flags));
    }
    let hub = match flags & HAS_HUB {
        0 => None,
        _ => Some(legal(WHAT, HubName::parse(reader.short_text()?))?),
    };
    let status = match flags & HAS_STATUS {
        0 => None,
        _ => {
            let byte = reader.u8()?;
            Some(Status::from_byte(byte).ok_or_else(|| unknown(byte))?)
        }
    };
    let labels = match flags & HAS_LABELS {
        0 => None,
        _ => Some(take_labels(reader)?),
    };
    let scope = match flags & HAS_SCOPE {
        0 => None,
        _ => Some(legal(WHAT, ScopeName::parse(reader.short_text()?))?),
    };
    Ok(OwnedShape {
        hub,
        status,
        labels,
        scope,
        has_registration: flags & HAS_REGISTRATION != 0,
        condition,
        origin: Origin::from_byte(origin).ok_or_else(|| unknown(origin))?,
        evidence: EvidenceSource::from_byte(evidence).ok_or_else(|| unknown(evidence))?,
    })
}

fn take_assigns(reader: &mut Reader<'_>) -> Result<Vec<Assign>, CodecError> {
    let shape_count = reader.count(BATCH_DEVICES_MAX)?;
    let mut shapes = Vec::new();
    for _ in 0..shape_count {
        shapes.push(take_shape(reader)?);
    }
    let count = reader.count(BATCH_DEVICES_MAX)?;
    let mut assigns = Vec::with_capacity(count);
    for _ in 0..count {
        let number = reader.varint()?;
        let shape = usize::try_from(number)
            .ok()
            .and_then(|number| shapes.get(number))
            .ok_or_else(|| CodecError::illegal(WHAT, format_args!("shape {number} of {shape_count}")))?;
        let device = legal(WHAT, DeviceId::parse(reader.short_text()?))?;
        let registration = match shape.has_registration {
            false => None,
            true => Some(legal(WHAT, RegistrationId::parse(reader.short_text()?))?),
        };
        let precondition = match shape.condition {
            CONDITION_NONE => Precondition::None,
            CONDITION_ABSENT => Precondition::Absent,
            _ => Precondition::Epoch(Epoch(reader.varint()?)),
        };
        assigns.push(Assign {
            device,
            hub: shape.hub.clone(),
            status: shape.status,
            labels: shape.labels.clone(),
            scope: shape.scope.clone(),
            registration,
            precondition,
            origin: shape.origin,
            evidence: shape.evidence,
        });
    }
    Ok(assigns)
}

fn take_one_assign(reader: &mut Reader<'_>) -> Result<Assign, CodecError> {
    let mut assigns = take_assigns(reader)?;
    match (assigns.pop(), assigns.is_empty()) {
        (Some(assign), true) => Ok(assign),
        _ => Err(CodecError::illegal(WHAT, "a single assignment that does not hold exactly one")),
    }
}

fn put_labels(out: &mut Vec<u8>, labels: &Labels) -> Result<(), CodecError> {
    put_varint(out, labels.len() as u64);
    for (key, value) in labels.iter() {
        put_short_text(out, WHAT, key)?;
        put_short_text(out, WHAT, value)?;
    }
    Ok(())
}

fn take_labels(reader: &mut Reader<'_>) -> Result<Labels, CodecError> {
    let count = reader.count(LABELS_MAX)?;
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        pairs.push((reader.short_text()?, reader.short_text()?));
    }
    legal(WHAT, Labels::parse(pairs))
}

fn put_remove(out: &mut Vec<u8>, remove: &Remove) -> Result<(), CodecError> {
    put_short_text(out, WHAT, remove.device.as_str())?;
    match remove.precondition {
        Precondition::None => out.push(CONDITION_NONE),
        Precondition::Absent => out.push(CONDITION_ABSENT),
        Precondition::Epoch(epoch) => {
            out.push(CONDITION_EPOCH);
            put_varint(out, epoch.0);
        }
    }
    Ok(())
}

fn take_remove(reader: &mut Reader<'_>) -> Result<Remove, CodecError> {
    let device = legal(WHAT, DeviceId::parse(reader.short_text()?))?;
    let precondition = match reader.u8()? {
        CONDITION_NONE => Precondition::None,
        CONDITION_ABSENT => Precondition::Absent,
        CONDITION_EPOCH => Precondition::Epoch(Epoch(reader.varint()?)),
        found => return Err(CodecError::Unknown { what: WHAT, found: u64::from(found) }),
    };
    Ok(Remove { device, precondition })
}
