//! What DPS is answered. It looks at the status alone where no hub is told; the words are for whoever looks into it.

use std::fmt;
use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::HubName;
use berth_proto::error::ApiError;
use berth_proto::internal::AllocationRefusal;
use serde_json::{Value, json};

use super::allocate::Unallocated;
use super::call::Malformed;
use super::{BODY_BYTES_MAX, PATH};

/// When a call is worth repeating that met an election or a full queue.
const RETRY: Duration = Duration::from_secs(1);
/// When a call is worth repeating that met no room: room is made by people.
const RETRY_ROOM: Duration = Duration::from_secs(60);

/// Why a call gets no hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no secret to ask for.
    Off,
    /// The secret is missing or wrong.
    Unauthorized,
    /// It is not what DPS sends.
    Malformed(Malformed),
    /// It is longer than anything that DPS sends.
    TooLarge,
    /// Too many at once.
    Overloaded {
        /// How many are worked on.
        limit: u64,
    },
    /// The directory has no hub for the device.
    None {
        /// The kind.
        reason: AllocationRefusal,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Nobody can say now, or it is not known whether the device got a hub.
    Unavailable(String),
}

impl Refusal {
    pub(super) fn unavailable(problem: impl Into<String>) -> Self {
        Self::Unavailable(problem.into())
    }

    /// Its name in metrics.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Unauthorized => "unauthorized",
            Self::Malformed(_) => "malformed",
            Self::TooLarge => "too_large",
            Self::Overloaded { .. } => "overloaded",
            Self::Unavailable(_) => "unavailable",
            Self::None { reason, .. } => match reason {
                AllocationRefusal::ScopeUnknown => "scope_unknown",
                AllocationRefusal::HubsUnknown => "hubs_unknown",
                AllocationRefusal::HubNotLinked => "hub_not_linked",
                AllocationRefusal::Duplicate => "duplicate",
                AllocationRefusal::NoRoom => "no_room",
                AllocationRefusal::Rejected | AllocationRefusal::Unspecified => "rejected",
            },
        }
    }

    /// DPS fails a registration at 401 with a code of its own, repeats the call at 429 and above, and fails the
    /// registration at all else (DPS, custom allocation policies).
    fn status(&self) -> StatusCode {
        match self {
            Self::Off => StatusCode::NOT_FOUND,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::None { reason, .. } => match reason {
                AllocationRefusal::ScopeUnknown => StatusCode::NOT_FOUND,
                AllocationRefusal::HubsUnknown => StatusCode::UNPROCESSABLE_ENTITY,
                AllocationRefusal::NoRoom => StatusCode::TOO_MANY_REQUESTS,
                AllocationRefusal::HubNotLinked
                | AllocationRefusal::Duplicate
                | AllocationRefusal::Rejected
                | AllocationRefusal::Unspecified => StatusCode::CONFLICT,
            },
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { .. } | Self::Unavailable(_) => Some(RETRY),
            Self::None { reason: AllocationRefusal::NoRoom, .. } => Some(RETRY_ROOM),
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("the allocation hook is off; name its secret in [azure] hook_secret"),
            Self::Unauthorized => {
                write!(
                    f,
                    "the secret is missing or wrong; the webhook's URL ends in {PATH}?scope=…&code=SECRET"
                )
            }
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::TooLarge => write!(f, "the body has more than {BODY_BYTES_MAX} bytes"),
            Self::Overloaded { limit } => {
                write!(f, "{limit} calls are worked on already; try again shortly")
            }
            Self::None { problem, .. } => f.write_str(problem),
            Self::Unavailable(problem) => write!(f, "{problem}; try again"),
        }
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<Unallocated> for Refusal {
    fn from(unallocated: Unallocated) -> Self {
        match unallocated {
            Unallocated::Refused { reason, problem } => Self::None { reason, problem },
            // A correlation ID or the like is in its text.
            Unallocated::Failed(ApiError::Overloaded { limit, .. }) => Self::Overloaded { limit },
            Unallocated::Failed(error) => Self::Unavailable(error.to_string()),
        }
    }
}

/// The answer that DPS wants.
pub(super) fn hub(name: &HubName) -> Response {
    json_answer(StatusCode::OK, &json!({ "iotHubHostName": name.as_str() }))
}

/// The answer that it does not want.
pub(super) fn refusal(refusal: &Refusal) -> Response {
    let reason = refusal.outcome().to_ascii_uppercase();
    let body = json!({ "error": { "reason": reason, "message": refusal.to_string() } });
    let mut response = json_answer(refusal.status(), &body);
    if let Some(after) = refusal.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, after.as_secs().into());
    }
    response
}

fn json_answer(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], body.to_string()).into_response()
}
