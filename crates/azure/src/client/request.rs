//! One request as the services build it, and its answer as they read it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::retry::Repeat;
use super::{ATTEMPT_MAX, Door};
use crate::error::{AzureError, Place, first_bytes};
use crate::id::{Etag, encoded};
use crate::secret::Collected;
use crate::transport::{Answer, OBJECT_BYTES_MAX};

/// Largest body sent, in bytes: ten enrollments, or a hundred devices with their twins.
pub const REQUEST_BYTES_MAX: usize = 16 * 1_024 * 1_024;
/// Longest continuation token that is sent back, in bytes.
pub const CONTINUATION_BYTES_MAX: usize = 32 * 1_024;

pub(crate) const CONTINUATION: HeaderName = HeaderName::from_static("x-ms-continuation");
pub(crate) const ITEM_COUNT: HeaderName = HeaderName::from_static("x-ms-max-item-count");
pub(crate) const ITEM_TYPE: HeaderName = HeaderName::from_static("x-ms-item-type");

/// What an operation is about: where a service gives a name but no number, its 404 means that this is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Device,
    Enrollment,
    EnrollmentGroup,
    Registration,
    Operation,
    Profile,
    Endpoint,
    Other,
}

/// Which version of a thing a change is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// None: the thing must not exist yet.
    Absent,
    /// Any: the thing must exist, whoever changed it last.
    Any,
    /// This one: the thing must not have been changed since it was read.
    Etag(Etag),
}

/// How a family of services writes etags into `If-Match`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quoting {
    /// As they are (DPS, as its SDKs do).
    Bare,
    /// Within double quotes (IoT Hub, as its SDKs do).
    Quoted,
}

/// A request before it knows its host and its credential.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) operation: &'static str,
    pub(crate) subject: Subject,
    pub(crate) repeat: Repeat,
    /// True where nothing changes, whatever the method: that it was served unheard does not matter then.
    pub(crate) is_read: bool,
    pub(crate) method: Method,
    /// Path and query, encoded.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Statuses that mean yes.
    pub(crate) yes: &'static [u16],
    /// Time of one attempt.
    pub(crate) attempt_max: Duration,
    /// Largest body of an answer that says yes, in bytes.
    pub(crate) answer_max: usize,
}

impl Request {
    /// A read of `path`, answered by 200. Segments are encoded by the caller.
    pub(crate) fn get(operation: &'static str, subject: Subject, path: String) -> Self {
        Self::new(operation, subject, Method::GET, path).reads()
    }

    pub(crate) fn new(operation: &'static str, subject: Subject, method: Method, path: String) -> Self {
        Self {
            operation,
            subject,
            repeat: Repeat::Safe,
            is_read: false,
            method,
            path,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            yes: &[200],
            attempt_max: ATTEMPT_MAX,
            answer_max: OBJECT_BYTES_MAX,
        }
    }

    /// Says that nothing changes by it, though it may be a POST.
    pub(crate) fn reads(mut self) -> Self {
        self.is_read = true;
        self
    }

    /// Gives each attempt this much time.
    pub(crate) fn attempt_max(mut self, attempt_max: Duration) -> Self {
        self.attempt_max = attempt_max;
        self
    }

    /// Reads an answer of so many bytes.
    pub(crate) fn answer_max(mut self, bytes: usize) -> Self {
        self.answer_max = bytes;
        self
    }

    pub(crate) fn yes(mut self, statuses: &'static [u16]) -> Self {
        self.yes = statuses;
        self
    }

    pub(crate) fn repeat(mut self, repeat: Repeat) -> Self {
        self.repeat = repeat;
        self
    }

    /// Sends `If-Match`. Only an etag makes a change safe to repeat: what was served unheard has another etag then.
    /// Without one the request creates, and meets its own first try; with any, the repeat could undo what somebody else
    /// did since.
    pub(crate) fn if_match(mut self, if_match: &IfMatch, quoting: Quoting) -> Result<Self, AzureError> {
        let text = match (if_match, quoting) {
            (IfMatch::Absent, _) => {
                self.repeat = Repeat::IfNotServed;
                return Ok(self);
            }
            (IfMatch::Any, _) => {
                self.repeat = Repeat::IfNotServed;
                "*".to_owned()
            }
            (IfMatch::Etag(etag), Quoting::Quoted) if !etag.as_str().starts_with('"') => {
                format!("\"{etag}\"")
            }
            (IfMatch::Etag(etag), _) => etag.to_string(),
        };
        let value = HeaderValue::from_str(&text).map_err(|_| {
            AzureError::invalid(self.operation, format!("etag `{text}` does not fit a header"))
        })?;
        self.headers.insert(http::header::IF_MATCH, value);
        Ok(self)
    }

    /// Sends JSON.
    pub(crate) fn json(mut self, body: &impl Serialize) -> Result<Self, AzureError> {
        let mut collected = Collected::default();
        serde_json::to_writer(&mut collected, body)
            .map_err(|error| AzureError::invalid(self.operation, format!("the body is no JSON: {error}")))?;
        let bytes = collected.0;
        if bytes.len() > REQUEST_BYTES_MAX {
            let problem = format!("the body has {} bytes; at most {REQUEST_BYTES_MAX} are sent", bytes.len());
            return Err(AzureError::invalid(self.operation, problem));
        }
        // Owned by what wipes it when the last reader is gone.
        self.body = Bytes::from_owner(bytes);
        self.headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(self)
    }

    pub(crate) fn header(mut self, name: HeaderName, text: &str) -> Result<Self, AzureError> {
        let value = HeaderValue::from_str(text)
            .map_err(|_| AzureError::invalid(self.operation, format!("`{name}` does not fit a header")))?;
        self.headers.insert(name, value);
        Ok(self)
    }
}

/// `/a/b?api-version=…` of these segments, each encoded.
pub(crate) fn path(segments: &[&str], api_version: &str) -> String {
    let mut path = String::new();
    for segment in segments {
        path.push('/');
        path.push_str(&encoded(segment));
    }
    path.push_str("?api-version=");
    path.push_str(&encoded(api_version));
    path
}

/// An answer that says yes.
pub(crate) struct Reply {
    pub(crate) place: Place,
    pub(crate) answer: Answer,
    /// Requests sent for it.
    pub(crate) attempts: u32,
}

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        self.answer.status.as_u16()
    }

    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.answer.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Reads the body as JSON, which it must be and must say it is.
    pub(crate) fn json<'a, T: Deserialize<'a>>(&'a self, expected: &'static str) -> Result<T, AzureError> {
        let kind = self.header(&http::header::CONTENT_TYPE).unwrap_or("none");
        let is_json =
            kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
        if !is_json {
            let kind = crate::error::masked(kind, 64);
            return Err(self.nonsense(expected, format!("the content type is `{kind}`")));
        }
        serde_json::from_slice(&self.answer.body).map_err(|error| {
            // The text of such an error may repeat a value of the body.
            let kind = match error.classify() {
                serde_json::error::Category::Eof => "ends too soon".to_owned(),
                serde_json::error::Category::Syntax => "is no JSON".to_owned(),
                _ => crate::error::masked(&error.to_string(), 160),
            };
            self.nonsense(expected, format!("at line {} column {} it {kind}", error.line(), error.column()))
        })
    }

    /// Reads the body as JSON about what was asked for: `check` says what is wrong with it.
    pub(crate) fn json_about<T: DeserializeOwned>(
        &self,
        expected: &'static str,
        check: impl FnOnce(&T) -> Result<(), String>,
    ) -> Result<T, AzureError> {
        let found = self.json(expected)?;
        match check(&found) {
            Ok(()) => Ok(found),
            Err(problem) => Err(self.nonsense(expected, problem)),
        }
    }

    /// Reads the result of a bulk call, of which 400 is an answer too where items failed. The same status may refuse the
    /// whole, so that nothing ran, but only where the service itself says so: else nobody knows what ran.
    pub(crate) fn bulk<T: DeserializeOwned>(&self, door: &Door, subject: Subject) -> Result<T, AzureError> {
        self.json("the result of a bulk operation").map_err(|nonsense| {
            let refusal = (self.status() == 400).then(|| door.refusal(self, subject)).flatten();
            refusal.unwrap_or(nonsense)
        })
    }

    pub(crate) fn nonsense(&self, expected: &'static str, problem: String) -> AzureError {
        AzureError::Nonsense {
            place: self.place.clone(),
            status: self.status(),
            expected,
            problem,
            begins: first_bytes(&self.answer.body),
        }
    }
}
