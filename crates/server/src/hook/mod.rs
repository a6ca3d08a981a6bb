//! The allocation hook: DPS asks Berth which hub a registering device gets, and is told what the directory has by then
//! (DPS, custom allocation policies).
//!
//! ```text
//! POST /hooks/dps/allocate?scope=…&code=… ─▶ secret ─▶ body ─▶ leader: barrier ─▶ core decides ─▶ commit ─▶ answer
//! ```
//!
//! DPS repeats a call that is answered 429 or above, and lets a registration fail at any other refusal. So what may
//! pass by itself is answered so, a write of unknown fate among it: the repeated call meets what was committed.

mod allocate;
mod answer;
mod call;
mod secret;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::Uri;
use axum::response::Response;
use berth_azure::KeySource;
use http_body_util::{BodyExt, LengthLimitError, Limited};

pub use allocate::{Allocated, Allocator, Unallocated};
pub use call::{Call, Malformed};

use crate::edge::Gate;
use crate::metrics::HookMetrics;
use answer::Refusal;
use secret::{HookSecret, Told};

/// Where DPS calls.
pub const PATH: &str = "/hooks/dps/allocate";
/// Longest body that is read, in bytes: an enrollment with its initial twin, and what the device sent. DPS takes
/// messages of 96 KB (DPS, quotas and limits).
pub const BODY_BYTES_MAX: usize = 256 * 1_024;
/// Calls that are worked on at once; further ones are told to come again. DPS lets 1,000 devices a minute register.
const CALLS_MAX: usize = 256;
/// How long an answer may take, reading the call included. How long DPS waits is not documented; gateways of this kind
/// wait 5 s and longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// Answers DPS's calls.
#[derive(Debug)]
pub struct Hook {
    secret: Option<HookSecret>,
    /// There when the node has a directory to answer from.
    allocator: OnceLock<Allocator>,
    calls: Arc<Gate>,
    metrics: Arc<HookMetrics>,
}

impl Hook {
    /// A hook that asks for the secret in `source`; without one it is off.
    pub fn new(source: Option<KeySource>, metrics: Arc<HookMetrics>) -> Arc<Self> {
        let secret = source.map(HookSecret::new);
        Arc::new(Self { secret, allocator: OnceLock::new(), calls: Gate::new(CALLS_MAX), metrics })
    }

    /// From now on calls are answered by `allocator`; a second call changes nothing.
    pub fn serve(&self, allocator: Allocator) {
        let _ = self.allocator.set(allocator);
    }

    /// Answers one call.
    pub async fn answer(&self, request: Request) -> Response {
        let answered = match self.calls.enter(1) {
            None => Err(Refusal::Overloaded { limit: self.calls.limit() }),
            Some(_pass) => match tokio::time::timeout(ANSWER_WITHIN, self.take(request)).await {
                Ok(answered) => answered,
                Err(_) => Err(Refusal::unavailable("the answer took too long")),
            },
        };
        match answered {
            Ok(allocated) => {
                self.metrics.answered(if allocated.placed { "placed" } else { "held" });
                answer::hub(&allocated.hub)
            }
            Err(refusal) => {
                self.metrics.answered(refusal.outcome());
                // No more than its kind: its words may repeat what the caller sent.
                tracing::debug!(outcome = refusal.outcome(), "the allocation hook refused a call");
                answer::refusal(&refusal)
            }
        }
    }

    async fn take(&self, request: Request) -> Result<Allocated, Refusal> {
        let (parts, body) = request.into_parts();
        self.check_secret(&parts.uri).await?;
        let body = read(body).await?;
        let call = Call::read(parts.uri.query().unwrap_or_default(), &body)?;
        drop(body);
        let Some(allocator) = self.allocator.get() else {
            return Err(Refusal::unavailable("this node is starting"));
        };
        allocator.allocate(&call.request).await.map_err(Refusal::from)
    }

    async fn check_secret(&self, uri: &Uri) -> Result<(), Refusal> {
        let Some(secret) = &self.secret else { return Err(Refusal::Off) };
        match secret.check(call::code(uri.query().unwrap_or_default())).await {
            Told::Right => Ok(()),
            Told::Wrong => Err(Refusal::Unauthorized),
            Told::Unreadable => {
                Err(Refusal::unavailable("the secret of the hook cannot be read; see the log of the node"))
            }
        }
    }
}

async fn read(body: Body) -> Result<bytes::Bytes, Refusal> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refusal::TooLarge),
        Err(error) => Err(Malformed::new("body", format_args!("ends early: {error}")).into()),
    }
}
