//! The core's types to messages and back. What a caller got wrong comes out as [`FieldViolation`]s with the path of
//! each field.

mod device;
mod kinds;
mod packed;
mod topology;

use std::fmt::Display;
use std::time::Duration;

use berth_core::{LabelError, Labels, RequestId, SoftLimit};
use uuid::Uuid;

pub use device::{
    AssignReader, assignment_message, evidence_of, filter_labels, mapping_message, precondition_from,
};
pub use kinds::{
    absence_from, absence_message, drift_from, drift_message, evidence_from, evidence_message, kind_message,
    known_kind, origin_from, origin_message, repair_from, repair_message, state_from, state_message,
    status_from, status_message, tier_from, tier_message,
};
pub use packed::{PackedIds, PackedIdsError, pack_ids};
pub use topology::{
    ExpectedPatch, change_message, cost_message, desired_edit, hub_message, hub_update, new_hub, new_route,
    new_scope, new_stamp, route_message, route_update, scope_message, scope_update, stamp_message,
    stamp_update,
};

use crate::disk::{ACTOR_BYTES_MAX, REASON_BYTES_MAX};
use crate::error::{ApiError, FieldViolation};
use crate::token::ReadToken;
use crate::v1;

/// Malformed fields that are collected before a request is given up.
const VIOLATIONS_MAX: usize = 16;
/// Oldest answer that a bounded read may ask for.
const BOUNDED_AGE_MAX: Duration = Duration::from_secs(600);

/// Collects what is wrong with a request.
#[derive(Debug, Default)]
pub struct Violations(Vec<FieldViolation>);

impl Violations {
    /// Notes that a field is wrong.
    pub fn add(&mut self, field: impl Into<String>, problem: impl Display) {
        if !self.is_full() {
            self.0.push(FieldViolation { field: field.into(), problem: problem.to_string() });
        }
    }

    /// The value, or a note that its field is wrong.
    pub fn check<T, E: Display>(&mut self, field: impl Into<String>, value: Result<T, E>) -> Option<T> {
        value.map_err(|problem| self.add(field, problem)).ok()
    }

    /// True where there is no use in looking further.
    pub fn is_full(&self) -> bool {
        self.0.len() >= VIOLATIONS_MAX
    }

    /// The error of all that was noted.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] where anything was noted.
    pub fn finish(self) -> Result<(), ApiError> {
        if self.0.is_empty() { Ok(()) } else { Err(ApiError::Invalid(self.0)) }
    }
}

/// The freshness that a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Every change acknowledged before the call began.
    #[default]
    Linearizable,
    /// At least as new as the token.
    AtLeast(ReadToken),
    /// At most this old.
    Bounded(Duration),
    /// Whatever is there.
    Local,
}

impl Consistency {
    /// Reads the freshness of a request; unset is linearizable.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] where the token is none or the age is out of range.
    pub fn from_message(message: Option<&v1::Consistency>) -> Result<Self, ApiError> {
        use v1::consistency::Level;
        match message.and_then(|m| m.level.as_ref()) {
            None | Some(Level::Linearizable(_)) => Ok(Self::Linearizable),
            Some(Level::Local(_)) => Ok(Self::Local),
            Some(Level::AtLeast(token)) => ReadToken::decode(token)
                .map(Self::AtLeast)
                .map_err(|error| ApiError::invalid("consistency.at_least", error)),
            Some(Level::Bounded(age)) => match Duration::try_from(*age) {
                Ok(age) if age <= BOUNDED_AGE_MAX => Ok(Self::Bounded(age)),
                _ => Err(ApiError::invalid(
                    "consistency.bounded",
                    format_args!("{} s is not an age from 0 to {} s", age.seconds, BOUNDED_AGE_MAX.as_secs()),
                )),
            },
        }
    }

    /// The message that asks for this freshness.
    pub fn to_message(self) -> v1::Consistency {
        use v1::consistency::Level;
        let level = match self {
            Self::Linearizable => Level::Linearizable(v1::Linearizable {}),
            Self::AtLeast(token) => Level::AtLeast(token.encode()),
            Self::Bounded(age) => Level::Bounded(duration_message(age)),
            Self::Local => Level::Local(v1::Local {}),
        };
        v1::Consistency { level: Some(level) }
    }
}

/// The envelope of a change: who asked, why, under which identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Identity of the write, where the caller gave one.
    pub request_id: Option<RequestId>,
    /// Why.
    pub reason: String,
}

impl Envelope {
    /// Reads the envelope of a change.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] where the request ID is no UUIDv7 or the reason is too long.
    pub fn from_fields(request_id: &str, reason: &str) -> Result<Self, ApiError> {
        let mut violations = Violations::default();
        let parsed = match request_id {
            "" => None,
            text => violations.check("request_id", parse_request_id(text)),
        };
        if reason.len() > REASON_BYTES_MAX {
            let problem = format!("takes {} bytes; at most {REASON_BYTES_MAX} are allowed", reason.len());
            violations.add("reason", problem);
        }
        violations.finish()?;
        Ok(Self { request_id: parsed, reason: reason.to_owned() })
    }

    /// Who asked, cut to what is kept.
    pub fn actor(name: &str) -> String {
        let end =
            (0..=ACTOR_BYTES_MAX.min(name.len())).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
        name.get(..end).unwrap_or_default().to_owned()
    }
}

/// Reads a request ID.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_request_id(text: &str) -> Result<RequestId, String> {
    let uuid = Uuid::parse_str(text).map_err(|_| {
        format!("`{}` is not a UUID; make one of version 7", text.chars().take(64).collect::<String>())
    })?;
    RequestId::from_bytes(*uuid.as_bytes()).map_err(|error| error.to_string())
}

/// Reads labels.
///
/// # Errors
/// [`LabelError`] says which label is not allowed.
pub fn labels_from(map: &std::collections::BTreeMap<String, String>) -> Result<Labels, LabelError> {
    Labels::parse(map)
}

/// Labels as a message's map.
pub fn labels_message(labels: &Labels) -> std::collections::BTreeMap<String, String> {
    labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// A passed limit as a message.
pub fn warning_message(limit: &SoftLimit) -> v1::CapacityWarning {
    v1::CapacityWarning {
        kind: kind_message(limit.kind) as i32,
        name: limit.name.clone(),
        used: limit.used,
        limit: limit.limit,
    }
}

/// A duration as a message; saturates past 292 years.
pub fn duration_message(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}
