//! Refusals of the core as reason, code and facts, and back.

use berth_core::{Epoch, HubName, ObjectKind, Rejection, Revision, Timestamp};
use tonic::Code;

use super::facts::Facts;
use crate::v1::ErrorReason;

/// Code and reason of a refusal.
pub(super) fn class(rejection: &Rejection) -> (Code, ErrorReason) {
    match rejection {
        Rejection::DeviceUnknown { .. } => (Code::NotFound, ErrorReason::DeviceUnknown),
        Rejection::DeviceExists { .. } => (Code::AlreadyExists, ErrorReason::DeviceExists),
        Rejection::EpochMismatch { .. } => (Code::Aborted, ErrorReason::EpochMismatch),
        Rejection::Unknown { kind, .. } => (Code::NotFound, unknown_reason(*kind)),
        Rejection::Exists { .. } => (Code::AlreadyExists, ErrorReason::ObjectExists),
        Rejection::EtagMismatch { .. } => (Code::Aborted, ErrorReason::RevisionMismatch),
        Rejection::Closed { .. } => (Code::FailedPrecondition, ErrorReason::HubNotAccepting),
        Rejection::Full { .. } => (Code::ResourceExhausted, ErrorReason::CapacityExhausted),
        Rejection::HubRequired { .. } => (Code::InvalidArgument, ErrorReason::HubRequired),
        Rejection::ScopeRequired { .. } => (Code::InvalidArgument, ErrorReason::ScopeRequired),
        Rejection::ScopeConflict { .. } => (Code::FailedPrecondition, ErrorReason::Duplicate),
        Rejection::RegistrationTaken { .. } => (Code::AlreadyExists, ErrorReason::RegistrationTaken),
        Rejection::DuplicateInBatch { .. } => (Code::InvalidArgument, ErrorReason::DuplicateInBatch),
        // A batch stands for its first item; it never travels by this way.
        Rejection::Batch { items } => match items.first() {
            Some(item) => (class(&item.rejection).0, ErrorReason::BatchRefused),
            None => (Code::FailedPrecondition, ErrorReason::BatchRefused),
        },
        Rejection::BatchSize { .. } => (Code::InvalidArgument, ErrorReason::BatchSize),
        Rejection::LabelSetsFull { .. } => (Code::ResourceExhausted, ErrorReason::LabelSetsExhausted),
        Rejection::Invalid { .. } => (Code::InvalidArgument, ErrorReason::ObjectInvalid),
        Rejection::TooManyTwins { .. } => (Code::ResourceExhausted, ErrorReason::TooManyTwins),
        Rejection::InUse { .. } => (Code::FailedPrecondition, ErrorReason::InUse),
        Rejection::NumbersExhausted { .. } => (Code::ResourceExhausted, ErrorReason::NumbersExhausted),
        Rejection::RequestIdReused { .. } => (Code::InvalidArgument, ErrorReason::RequestIdReused),
        Rejection::RequestIdExpired { .. } => (Code::FailedPrecondition, ErrorReason::RequestIdExpired),
        Rejection::RequestIdAhead { .. } => (Code::InvalidArgument, ErrorReason::RequestIdAhead),
    }
}

fn unknown_reason(kind: ObjectKind) -> ErrorReason {
    match kind {
        ObjectKind::Stamp => ErrorReason::StampUnknown,
        ObjectKind::Hub => ErrorReason::HubUnknown,
        ObjectKind::Scope => ErrorReason::ScopeUnknown,
        ObjectKind::Route => ErrorReason::RouteUnknown,
        ObjectKind::Device => ErrorReason::DeviceUnknown,
    }
}

/// Adds the facts of a refusal.
pub(super) fn told(rejection: &Rejection, facts: Facts) -> Facts {
    match rejection {
        Rejection::DeviceUnknown { device }
        | Rejection::HubRequired { device }
        | Rejection::ScopeRequired { device } => facts.set("device", device),
        Rejection::DeviceExists { device, actual } => {
            facts.set("device", device).set("expected", "absent").set("actual", actual)
        }
        Rejection::EpochMismatch { device, expected, actual } => {
            facts.set("device", device).set("expected", expected).set("actual", actual)
        }
        Rejection::Unknown { kind: ObjectKind::Device, name } => facts.set("device", name),
        Rejection::Unknown { kind, name } | Rejection::Exists { kind, name } => {
            facts.set("kind", kind).set("name", name)
        }
        Rejection::EtagMismatch { kind, name, expected, actual } => {
            facts.set("kind", kind).set("name", name).set("expected", expected).set("actual", actual)
        }
        Rejection::Closed { hub, kind, name, state } => {
            facts.set("hub", hub).set("kind", kind).set("name", name).set("state", state)
        }
        Rejection::Full { kind, name, asked, used, reserved, hard } => facts
            .set("kind", kind)
            .set("name", name)
            .set("asked", asked)
            .set("used", used)
            .set("reserved", reserved)
            .set("hard", hard),
        Rejection::ScopeConflict { device, held, asked } => {
            facts.set("device", device).set("held", held).set("asked", asked)
        }
        Rejection::RegistrationTaken { registration, scope, holder } => {
            facts.set("registration", registration).set("scope", scope).set("holder", holder)
        }
        Rejection::TooManyTwins { device, max } => facts.set("device", device).set("max", max),
        Rejection::DuplicateInBatch { device, first } => facts.set("device", device).set("first", first),
        Rejection::Batch { items } => facts.set("refused", items.len()),
        Rejection::BatchSize { count, max } => facts.set("count", count).set("max", max),
        Rejection::LabelSetsFull { key, values } => facts.set("key", key).set("values", values),
        Rejection::Invalid { kind, name, problem } => {
            facts.set("kind", kind).set("name", name).set("problem", problem)
        }
        Rejection::InUse { kind, name, devices, reserved, hubs, routes, scopes } => facts
            .set("kind", kind)
            .set("name", name)
            .set("devices", devices)
            .set("reserved", reserved)
            .set("hubs", hubs)
            .set("routes", routes)
            .set("scopes", scopes),
        Rejection::NumbersExhausted { kind } => facts.set("kind", kind),
        Rejection::RequestIdReused { request_id } => facts.set("request_id", request_id),
        Rejection::RequestIdExpired { request_id, made, kept_since } => {
            facts.set("request_id", request_id).set("made_ms", made).set("kept_since_ms", kept_since)
        }
        Rejection::RequestIdAhead { request_id, made, now } => {
            facts.set("request_id", request_id).set("made_ms", made).set("now_ms", now)
        }
    }
}

/// The refusal that reason and facts tell; `None` where they do not tell one.
pub(super) fn read(reason: ErrorReason, facts: &Facts) -> Option<Rejection> {
    let device = || facts.text("device");
    let name = || facts.text("name");
    let kind = || facts.kind("kind");
    Some(match reason {
        ErrorReason::DeviceUnknown => Rejection::DeviceUnknown { device: device()? },
        ErrorReason::DeviceExists => {
            Rejection::DeviceExists { device: device()?, actual: Epoch(facts.number("actual")?) }
        }
        ErrorReason::EpochMismatch => Rejection::EpochMismatch {
            device: device()?,
            expected: Epoch(facts.number("expected")?),
            actual: Epoch(facts.number("actual")?),
        },
        ErrorReason::StampUnknown
        | ErrorReason::HubUnknown
        | ErrorReason::ScopeUnknown
        | ErrorReason::RouteUnknown => Rejection::Unknown { kind: kind()?, name: name()? },
        ErrorReason::ObjectExists => Rejection::Exists { kind: kind()?, name: name()? },
        ErrorReason::RevisionMismatch => Rejection::EtagMismatch {
            kind: kind()?,
            name: name()?,
            expected: Revision(facts.number("expected")?),
            actual: Revision(facts.number("actual")?),
        },
        ErrorReason::HubNotAccepting => Rejection::Closed {
            hub: HubName::parse(&facts.text("hub")?).ok()?,
            kind: kind()?,
            name: name()?,
            state: facts.state("state")?,
        },
        ErrorReason::CapacityExhausted => Rejection::Full {
            kind: kind()?,
            name: name()?,
            asked: facts.number("asked")?,
            used: facts.number("used")?,
            reserved: facts.number("reserved")?,
            hard: facts.number("hard")?,
        },
        ErrorReason::HubRequired => Rejection::HubRequired { device: device()? },
        ErrorReason::ScopeRequired => Rejection::ScopeRequired { device: device()? },
        ErrorReason::Duplicate => Rejection::ScopeConflict {
            device: device()?,
            held: facts.text("held")?,
            asked: facts.text("asked")?,
        },
        ErrorReason::RegistrationTaken => Rejection::RegistrationTaken {
            registration: facts.text("registration")?,
            scope: facts.text("scope")?,
            holder: facts.text("holder")?,
        },
        ErrorReason::TooManyTwins => Rejection::TooManyTwins { device: device()?, max: facts.number("max")? },
        ErrorReason::DuplicateInBatch => {
            Rejection::DuplicateInBatch { device: device()?, first: facts.parsed("first")? }
        }
        ErrorReason::BatchSize => {
            Rejection::BatchSize { count: facts.number("count")?, max: facts.number("max")? }
        }
        ErrorReason::LabelSetsExhausted => {
            Rejection::LabelSetsFull { key: facts.text("key")?, values: facts.number("values")? }
        }
        ErrorReason::ObjectInvalid => {
            Rejection::Invalid { kind: kind()?, name: name()?, problem: facts.text("problem")? }
        }
        ErrorReason::InUse => Rejection::InUse {
            kind: kind()?,
            name: name()?,
            devices: facts.number("devices")?,
            reserved: facts.number("reserved")?,
            hubs: facts.number("hubs")?,
            routes: facts.number("routes")?,
            scopes: facts.number("scopes")?,
        },
        ErrorReason::NumbersExhausted => Rejection::NumbersExhausted { kind: kind()? },
        ErrorReason::RequestIdReused => Rejection::RequestIdReused { request_id: facts.text("request_id")? },
        ErrorReason::RequestIdExpired => Rejection::RequestIdExpired {
            request_id: facts.text("request_id")?,
            made: Timestamp(facts.number("made_ms")?),
            kept_since: Timestamp(facts.number("kept_since_ms")?),
        },
        ErrorReason::RequestIdAhead => Rejection::RequestIdAhead {
            request_id: facts.text("request_id")?,
            made: Timestamp(facts.number("made_ms")?),
            now: Timestamp(facts.number("now_ms")?),
        },
        _ => return None,
    })
}
