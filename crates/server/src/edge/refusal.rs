//! What the edge itself refuses, in words: the one place where its layers get their statuses.

use std::time::Duration;

use berth_proto::error::ApiError;
use http::Response;
use tonic::Status;
use tonic::body::Body;

use super::lease::Movement;
use super::method::{Class, Method};

/// When a shed call is worth repeating: a queue of this length is worked off by then, or it is still too long.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Bytes of a header's value that are told back.
const TOLD_BYTES_MAX: usize = 32;

/// The class of the call is full.
pub(super) fn overloaded(class: Class, limit: u64) -> ApiError {
    let what = format!("this node is busy with calls of class `{}`", class.name());
    ApiError::Overloaded { what, limit, retry_after: RETRY_AFTER }
}

/// The call took longer than its deadline.
pub(super) fn overdue(method: Method, allowed: Duration, movement: Option<&Movement>) -> Status {
    late(method, movement, format!("{} was under way, after {} ms", method.name(), allowed.as_millis()))
}

/// A stream moved nothing for too long.
pub(super) fn silent(method: Method, allowed: Duration, movement: Option<&Movement>) -> Status {
    late(method, movement, format!("{} moved nothing, after {} s", method.name(), allowed.as_secs()))
}

/// The `grpc-timeout` header cannot be read.
pub(super) fn bad_timeout(value: &[u8]) -> Status {
    let told = String::from_utf8_lossy(value.get(..TOLD_BYTES_MAX).unwrap_or(value));
    let problem = format!("`{told}` is no timeout; it is 1 to 8 digits and one of H M S m u n, as in 500m");
    ApiError::invalid("grpc-timeout", problem).into()
}

/// Nobody serves the path. It is gRPC's own word, as generated servers say it of a method that they lack.
pub(super) fn no_such_service() -> Status {
    Status::unimplemented("this node has no such service; server reflection lists what there is")
}

/// A handler panicked.
pub(super) fn bug(correlation_id: String) -> Status {
    ApiError::Internal { correlation_id }.into()
}

/// A status as a whole response, without a body.
pub(super) fn answer(status: Status) -> Response<Body> {
    status.into_http()
}

/// What has been answered is settled; where the handler does not tell, anything may be under way.
fn late(method: Method, movement: Option<&Movement>, what: String) -> Status {
    if method.mutates && !movement.is_some_and(Movement::is_settled) {
        ApiError::OutcomeUnknown { request_id: None, cause: what, timed_out: true }.into()
    } else {
        ApiError::DeadlineExceeded { waiting_for: what }.into()
    }
}
