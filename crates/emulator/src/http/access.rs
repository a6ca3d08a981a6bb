//! Whether a caller may do what it asks.

use super::call::Call;
use crate::auth::{Bearers, Covers, Policies, Right, SasToken};
use crate::clock::Time;

/// What became of a caller's proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It may.
    Granted,
    /// There is no proof.
    Missing,
    /// The proof does not hold.
    Unauthorized,
    /// The caller is known, and lacks the right.
    Forbidden,
}

/// What is asked, of whom.
pub(crate) struct Asked<'a> {
    pub(crate) policies: &'a Policies,
    pub(crate) bearers: &'a Bearers,
    pub(crate) right: Right,
    /// Whether a reader's role suffices.
    pub(crate) reads: bool,
    /// The service's own host; the caller's `Host` counts beside it.
    pub(crate) host: &'a str,
    pub(crate) scheme: bool,
    pub(crate) now: Time,
}

/// Checks the `Authorization` header of a service call.
pub(crate) fn check(call: &Call, asked: &Asked<'_>) -> Access {
    let Some(header) = call.header("authorization") else { return Access::Missing };
    if header.starts_with("Bearer ") {
        return match asked.bearers.read_only(header) {
            None => Access::Unauthorized,
            Some(true) if !asked.reads => Access::Forbidden,
            Some(_) => Access::Granted,
        };
    }
    let token = match SasToken::read(header) {
        Ok(token) => token,
        Err(error) => {
            tracing::debug!(%error, host = asked.host, "no token in an Authorization header");
            return Access::Unauthorized;
        }
    };
    let policy = token.policy().and_then(|name| asked.policies.get(name));
    let Some(policy) = policy else { return Access::Unauthorized };
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    let covers = Covers { roots: &[&call.host, asked.host], path: &path, scheme: asked.scheme };
    if !token.is_signed_by(policy.keys()) || token.has_expired(asked.now) || !token.covers(covers) {
        return Access::Unauthorized;
    }
    if policy.permits(asked.right) { Access::Granted } else { Access::Forbidden }
}
