//! What can go wrong with a call to Azure, and what that means for the next step.

mod code;
mod envelope;
mod redact;

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

pub use code::{Conflicting, Missing};
pub(crate) use redact::{first_bytes, masked};

use crate::client::Subject;
use crate::id::HostName;
use crate::secret::CredentialError;

/// Longest message of Azure's that an error keeps, in characters.
pub const MESSAGE_CHARS_MAX: usize = 512;
/// Longest name, tracking ID or request ID that an error keeps, in characters.
pub const NAME_CHARS_MAX: usize = 128;

/// Longest `Retry-After` that is told on: no throttle of Azure's lasts as long, and a caller that obeys a longer one has
/// in effect stopped.
pub const RETRY_AFTER_TOLD_MAX: Duration = Duration::from_secs(3_600);

/// Which call failed, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The operation, in words: `get enrollment`.
    pub operation: &'static str,
    /// The host spoken to.
    pub host: HostName,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.operation, self.host)
    }
}

/// What Azure said when it said no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Which call, and where.
    pub place: Place,
    /// HTTP status of the answer.
    pub status: u16,
    /// Azure's number, such as 404201 (DPS) or 404001 (IoT Hub, common error codes), where it gave one.
    pub code: Option<u32>,
    /// Azure's name, such as `DeviceNotFound`, where it gave one.
    pub name: Option<String>,
    /// Azure's message, at most 512 characters, without control characters, and without what looks like a key.
    pub message: String,
    /// Azure's tracking ID from the body: what its support asks for.
    pub tracking_id: Option<String>,
    /// The `x-ms-request-id` of the answer.
    pub request_id: Option<String>,
    /// How long Azure asked to be left alone; at most [`RETRY_AFTER_TOLD_MAX`].
    pub retry_after: Option<Duration>,
    /// Requests sent for this call, this one among them.
    pub attempts: u32,
    /// True where an earlier request of this change may have been served, so that this answer may be about the change's
    /// own effect: an etag that fits no more, a thing already gone. Never of a read.
    pub perhaps_served: bool,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (HTTP {}", self.place, self.status)?;
        if let Some(code) = self.code {
            write!(f, ", code {code}")?;
        }
        if let Some(name) = &self.name {
            write!(f, ", {name}")?;
        }
        f.write_str(")")?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        if let Some(id) = self.tracking_id.as_ref().or(self.request_id.as_ref()) {
            write!(f, "; tracking ID {id}")?;
        }
        if let Some(wait) = self.retry_after {
            write!(f, "; retry after {} s", wait.as_secs_f64())?;
        }
        Ok(())
    }
}

/// Why a call to Azure failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AzureError {
    /// The thing does not exist. For a device this may also mean that it is disabled (IoT Hub, 404001).
    #[error("{missing} not found: {told}")]
    NotFound {
        /// What is missing.
        missing: Missing,
        /// What Azure said.
        told: Box<Told>,
    },
    /// The device exists, but is not connected, or takes no direct methods (IoT Hub, 404103). This request did not run.
    #[error("device not online: {told}")]
    NotOnline {
        /// What Azure said.
        told: Box<Told>,
    },
    /// The thing exists already, or somebody else is changing it.
    #[error("{conflicting} in conflict: {told}")]
    Conflict {
        /// What is in conflict.
        conflicting: Conflicting,
        /// What Azure said.
        told: Box<Told>,
    },
    /// The thing has another etag by now: read it again.
    #[error("changed meanwhile; read it again: {told}")]
    PreconditionFailed {
        /// What Azure said.
        told: Box<Told>,
    },
    /// Azure does not know who is calling: a wrong key, a token past its end.
    #[error("not authenticated; check the key, its policy and this machine's clock: {told}")]
    Unauthorized {
        /// What Azure said.
        told: Box<Told>,
    },
    /// Azure knows who is calling, and does not allow this.
    #[error("not allowed: {told}")]
    Forbidden {
        /// What Azure said.
        told: Box<Told>,
    },
    /// Too many calls. This request did not run.
    #[error("throttled: {told}")]
    Throttled {
        /// What Azure said.
        told: Box<Told>,
    },
    /// The service, or something before it, failed. The request may have been served.
    #[error("service unavailable: {told}")]
    Unavailable {
        /// What Azure said.
        told: Box<Told>,
    },
    /// Azure found the request wrong. This request did not run.
    #[error("refused: {told}")]
    Refused {
        /// What Azure said.
        told: Box<Told>,
    },
    /// The answer is not what such an answer must be; also a 404 that is not the service's own.
    #[error(
        "{place} answered nonsense (HTTP {status}): expected {expected}, but {problem}; it begins {begins}"
    )]
    Nonsense {
        /// Which call, and where.
        place: Place,
        /// HTTP status of the answer.
        status: u16,
        /// What the answer must be.
        expected: &'static str,
        /// What is wrong with it.
        problem: String,
        /// Its first bytes with letters and digits masked, as they may be keys.
        begins: String,
    },
    /// The answer is larger than this client reads.
    #[error("{place} answered more than {bytes_max} bytes; of a query, ask for smaller pages")]
    TooLong {
        /// Which call, and where.
        place: Place,
        /// The bound, in bytes.
        bytes_max: usize,
    },
    /// The caller's time ran out.
    #[error("{place} had no answer within {within:?} ({attempts} requests sent): {last}")]
    Deadline {
        /// Which call, and where.
        place: Place,
        /// The time that the caller gave.
        within: Duration,
        /// Requests sent.
        attempts: u32,
        /// True where the last request was on its way when time ran out, so that it may have been served.
        in_flight: bool,
        /// True where an earlier request of this change may have been served.
        perhaps_served: bool,
        /// How the last attempt before stood.
        last: String,
    },
    /// No connection. This request was not sent.
    #[error("{place} cannot be reached: {problem}")]
    Connect {
        /// Which call, and where.
        place: Place,
        /// What is wrong.
        problem: String,
        /// True where an earlier request of this change may have been served.
        perhaps_served: bool,
    },
    /// The connection broke before the answer was whole. The request may have been served.
    #[error("{place} broke off: {problem}")]
    Broken {
        /// Which call, and where.
        place: Place,
        /// What is wrong.
        problem: String,
    },
    /// The caller's own budget has nothing left. This request was not sent.
    #[error("{place} was not sent, as the budget is spent: {problem}")]
    OverBudget {
        /// Which call, and where.
        place: Place,
        /// What the budget said.
        problem: String,
        /// When the budget has more.
        retry_after: Option<Duration>,
        /// True where an earlier request of this change may have been served.
        perhaps_served: bool,
    },
    /// The request itself is wrong. Nothing was sent.
    #[error("{operation} was not sent: {problem}")]
    Invalid {
        /// The operation, in words.
        operation: &'static str,
        /// What is wrong with the value, and what to do.
        problem: String,
    },
    /// The credential cannot be used. This request was not sent.
    #[error("{place} was not sent, as there is no credential: {source}")]
    Credential {
        /// Which call, and where.
        place: Place,
        /// What is wrong.
        source: CredentialError,
        /// True where an earlier request of this change may have been served.
        perhaps_served: bool,
    },
    /// A query has more pages than the caller allowed.
    #[error(
        "{place} has more than {pages_max} pages; allow more, or go on from the last page's continuation"
    )]
    TooManyPages {
        /// Which call, and where.
        place: Place,
        /// The bound.
        pages_max: u32,
    },
}

impl AzureError {
    pub(crate) fn invalid(operation: &'static str, problem: impl Into<String>) -> Self {
        Self::Invalid { operation, problem: problem.into() }
    }

    /// Understands an answer that says no. A 404 says that something is missing only where it comes from the service.
    pub(crate) fn told(place: Place, subject: Subject, answer: Refusal<'_>) -> Self {
        let found = envelope::read(answer.headers, answer.body);
        let status = answer.status.as_u16();
        let is_of_service = found.is_of_service(status);
        // Whatever stands in between says 404 too, and a device is not to be given up for that.
        if status == 404 && !is_of_service {
            return Self::Nonsense {
                place,
                status,
                expected: "an error of the service",
                problem: "HTTP 404 has no code of the service's".to_owned(),
                begins: first_bytes(answer.body),
            };
        }
        // What is in conflict follows from what was asked for only if the service itself said so.
        let subject = if is_of_service { subject } else { Subject::Other };
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
        let retry_after = retry_after(answer.headers, answer.now).or_else(|| {
            // IoT Hub's throttle says it in words only.
            (status == 429).then(|| envelope::wait_in_words(&found.message)).flatten()
        });
        let told = Box::new(Told {
            place,
            status,
            code: found.code,
            name: found.name,
            message: masked(&found.message, MESSAGE_CHARS_MAX),
            tracking_id: found.tracking_id,
            request_id: header("x-ms-request-id").map(|id| masked(id, NAME_CHARS_MAX)),
            retry_after,
            attempts: answer.attempts,
            perhaps_served: false,
        });
        code::classified(subject, told)
    }

    /// What Azure said, where it said anything.
    pub fn told_by_azure(&self) -> Option<&Told> {
        match self {
            Self::NotFound { told, .. }
            | Self::NotOnline { told }
            | Self::Conflict { told, .. }
            | Self::PreconditionFailed { told }
            | Self::Unauthorized { told }
            | Self::Forbidden { told }
            | Self::Throttled { told }
            | Self::Unavailable { told }
            | Self::Refused { told } => Some(told),
            _ => None,
        }
    }

    /// Azure's number, such as 404001.
    pub fn code(&self) -> Option<u32> {
        self.told_by_azure().and_then(|told| told.code)
    }

    /// True where this thing is missing.
    pub fn is_missing(&self, what: Missing) -> bool {
        matches!(self, Self::NotFound { missing, .. } if *missing == what)
    }

    /// True where the same call may go well later, though nobody changes anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotOnline { .. }
            | Self::Throttled { .. }
            | Self::Unavailable { .. }
            | Self::Deadline { .. }
            | Self::Connect { .. }
            | Self::Broken { .. }
            | Self::OverBudget { .. } => true,
            // DPS says so where one device registers twice at a time.
            Self::Conflict { conflicting, .. } => *conflicting == Conflicting::Registration,
            Self::NotFound { .. }
            | Self::PreconditionFailed { .. }
            | Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::Refused { .. }
            | Self::Nonsense { .. }
            | Self::TooLong { .. }
            | Self::Invalid { .. }
            | Self::Credential { .. }
            | Self::TooManyPages { .. } => false,
        }
    }

    /// How long to wait before asking again, where Azure or the budget said. Of Azure's word no more than
    /// [`RETRY_AFTER_TOLD_MAX`] is told; the budget's own comes as it is.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::OverBudget { retry_after, .. } => *retry_after,
            _ => self.told_by_azure().and_then(|told| told.retry_after),
        }
    }

    /// True where the call may have had its effect all the same, by its last request or by one before: a change must be
    /// read back before it is repeated. So [`AzureError::PreconditionFailed`] may tell of the change's own first try, and
    /// [`AzureError::NotFound`] of a removal's.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Broken { .. } | Self::Nonsense { .. } | Self::TooLong { .. } => {
                true
            }
            Self::Deadline { in_flight, perhaps_served, .. } => *in_flight || *perhaps_served,
            Self::Connect { perhaps_served, .. }
            | Self::OverBudget { perhaps_served, .. }
            | Self::Credential { perhaps_served, .. } => *perhaps_served,
            Self::Invalid { .. } | Self::TooManyPages { .. } => false,
            _ => self.told_by_azure().is_some_and(|told| told.perhaps_served),
        }
    }

    /// The same, after an earlier request of the same change that may have been served.
    pub(crate) fn after_perhaps_served(mut self) -> Self {
        match &mut self {
            Self::NotFound { told, .. }
            | Self::NotOnline { told }
            | Self::Conflict { told, .. }
            | Self::PreconditionFailed { told }
            | Self::Unauthorized { told }
            | Self::Forbidden { told }
            | Self::Throttled { told }
            | Self::Unavailable { told }
            | Self::Refused { told } => told.perhaps_served = true,
            Self::Deadline { perhaps_served, .. }
            | Self::Connect { perhaps_served, .. }
            | Self::OverBudget { perhaps_served, .. }
            | Self::Credential { perhaps_served, .. } => *perhaps_served = true,
            Self::Nonsense { .. }
            | Self::TooLong { .. }
            | Self::Broken { .. }
            | Self::Invalid { .. }
            | Self::TooManyPages { .. } => {}
        }
        self
    }
}

/// True where an answer that says no is an error of the service itself, and not a page of something in between.
pub(crate) fn is_of_service(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> bool {
    envelope::read(headers, body).is_of_service(status.as_u16())
}

/// An answer that says no, and what is needed to understand it.
pub(crate) struct Refusal<'a> {
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
    /// Time since the Unix epoch.
    pub(crate) now: Duration,
    pub(crate) attempts: u32,
}

/// `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3); at most [`RETRY_AFTER_TOLD_MAX`].
pub(crate) fn retry_after(headers: &HeaderMap, now: Duration) -> Option<Duration> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_TOLD_MAX));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let at = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(at.saturating_sub(now).min(RETRY_AFTER_TOLD_MAX))
}

#[cfg(test)]
mod tests;
