//! The value of a device row.
//!
//! ```text
//! byte 0     bits 0-2 status, bits 3-4 origin, bits 5-6 registration (0 none, 1 same as device, 2 explicit), bit 7 = 0
//! byte 1     bits 0-2 evidence source, bit 3 set: labels and scope follow, bits 4-7 format = 0
//! 3 bytes    hub number, ff ff ff = no hub
//! 6 bytes    revision
//! 6 bytes    epoch
//! 4 bytes    evidence time, seconds since the Unix epoch
//! 2 bytes    label set       } only with bit 3 of byte 1
//! 2 bytes    scope + 1, or 0 }
//! 1 + n      length and registration ID, only where explicit
//! ```
//! Numbers are little-endian. The commonest change, another hub, patches bytes in place. Each value has exactly one
//! encoding, so that equal mappings have equal digests.

use berth_core::{
    Epoch, Evidence, EvidenceSource, HubNo, LabelSetNo, Mapping, Origin, Registration, RegistrationId,
    Revision, ScopeNo, Status, Timestamp,
};

use super::{CodecError, Reader, put_short_text};

/// Longest encoded mapping: all fixed fields and a registration ID of 128 bytes.
pub const MAPPING_BYTES_MAX: usize = 25 + 1 + 128;

const WHAT: &str = "device row";
const NO_HUB: u32 = 0x00ff_ffff;
const NUMBER_MAX: u64 = (1 << 48) - 1;
const EXTENDED: u8 = 1 << 3;

/// Writes a mapping behind what `out` holds.
///
/// # Errors
/// [`CodecError::Illegal`] where a number does not fit its field: a hub of 24 bits, an epoch or revision of 48, a
/// scope of 65,535 or more, an evidence time that is not whole seconds.
pub fn encode_mapping(mapping: &Mapping, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let registration = match &mapping.registration {
        Registration::None => 0u8,
        Registration::SameAsDevice => 1,
        Registration::Explicit(_) => 2,
    };
    let extended = mapping.labels != LabelSetNo::EMPTY || mapping.scope.is_some();
    let hub = match mapping.hub {
        None => NO_HUB,
        Some(HubNo(no)) if no < NO_HUB => no,
        Some(HubNo(no)) => {
            return Err(CodecError::illegal(WHAT, format_args!("hub number {no} needs more than 24 bits")));
        }
    };
    let seconds = mapping.evidence.at.seconds();
    if Timestamp::from_seconds(seconds) != mapping.evidence.at {
        let at = mapping.evidence.at;
        return Err(CodecError::illegal(
            WHAT,
            format_args!("evidence time {at} ms is not whole seconds before 2106"),
        ));
    }
    out.push(mapping.status as u8 | (mapping.origin as u8) << 3 | registration << 5);
    out.push(mapping.evidence.source as u8 | if extended { EXTENDED } else { 0 });
    out.extend_from_slice(&hub.to_le_bytes()[..3]);
    out.extend_from_slice(&fit48("revision", mapping.revision.0)?);
    out.extend_from_slice(&fit48("epoch", mapping.epoch.0)?);
    out.extend_from_slice(&seconds.to_le_bytes());
    if extended {
        let scope = match mapping.scope {
            None => 0,
            Some(ScopeNo(no)) => no.checked_add(1).ok_or_else(|| {
                CodecError::illegal(WHAT, format_args!("scope number {no} is out of range"))
            })?,
        };
        out.extend_from_slice(&mapping.labels.0.to_le_bytes());
        out.extend_from_slice(&scope.to_le_bytes());
    }
    if let Registration::Explicit(id) = &mapping.registration {
        put_short_text(out, WHAT, id.as_str())?;
    }
    Ok(())
}

/// Reads a mapping.
///
/// # Errors
/// [`CodecError`] where the bytes are not exactly one mapping.
pub fn decode_mapping(bytes: &[u8]) -> Result<Mapping, CodecError> {
    let mut reader = Reader::new(WHAT, bytes);
    let [kinds, source] = reader.array()?;
    if kinds >> 7 != 0 || source >> 4 != 0 {
        return Err(CodecError::Unknown { what: WHAT, found: u64::from(kinds >> 7 | (source >> 4) << 1) });
    }
    let hub = reader.u24()?;
    let revision = Revision(reader.u48()?);
    let epoch = Epoch(reader.u48()?);
    let seconds = reader.u32()?;
    let (labels, scope) = if source & EXTENDED == 0 {
        (LabelSetNo::EMPTY, None)
    } else {
        let pair = (LabelSetNo(reader.u16()?), reader.u16()?.checked_sub(1).map(ScopeNo));
        if pair == (LabelSetNo::EMPTY, None) {
            return Err(CodecError::illegal(WHAT, "neither labels nor scope where one of them is announced"));
        }
        pair
    };
    let registration = match kinds >> 5 {
        0 => Registration::None,
        1 => Registration::SameAsDevice,
        2 => Registration::Explicit(super::legal(WHAT, RegistrationId::parse(reader.short_text()?))?),
        found => return Err(CodecError::Unknown { what: WHAT, found: u64::from(found) }),
    };
    reader.end()?;
    let unknown = |found: u8| CodecError::Unknown { what: WHAT, found: u64::from(found) };
    Ok(Mapping {
        hub: (hub != NO_HUB).then_some(HubNo(hub)),
        status: Status::from_byte(kinds & 7).ok_or_else(|| unknown(kinds & 7))?,
        epoch,
        revision,
        origin: Origin::from_byte(kinds >> 3 & 3).ok_or_else(|| unknown(kinds >> 3 & 3))?,
        evidence: Evidence {
            source: EvidenceSource::from_byte(source & 7).ok_or_else(|| unknown(source & 7))?,
            at: Timestamp::from_seconds(seconds),
        },
        scope,
        registration,
        labels,
    })
}

fn fit48(field: &str, value: u64) -> Result<[u8; 6], CodecError> {
    if value > NUMBER_MAX {
        return Err(CodecError::illegal(WHAT, format_args!("{field} {value} needs more than 48 bits")));
    }
    let [a, b, c, d, e, f, _, _] = value.to_le_bytes();
    Ok([a, b, c, d, e, f])
}
