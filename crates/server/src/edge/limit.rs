//! Sheds what is too much, before anything of it is decoded: a queue would only move the wait to where nobody sees it.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use berth_proto::error::ApiError;
use http::Response;
use pin_project_lite::pin_project;
use tonic::Code;
use tonic::body::Body;
use tower::{Layer, Service};

use super::call::Call;
use super::ending::{Ended, Ending};
use super::method::{Class, Method};
use super::refusal;
use crate::config::Limits;

/// Health checks, reflection and unknown methods at once: far more than probes need, and a bound all the same.
const STANDARD_MAX: usize = 1_024;

/// A count that never passes its limit.
#[derive(Debug)]
pub struct Gate {
    used: AtomicU64,
    limit: u64,
    refused: AtomicU64,
}

/// A share of a [`Gate`], given back when dropped.
pub struct Pass {
    gate: Arc<Gate>,
    weight: u64,
}

/// The gate of the lookups, an extension of lookup streams: each lookup in a stream takes its own share of it, since
/// the stream itself holds none.
#[derive(Debug, Clone)]
pub struct LookupGate(Arc<Gate>);

/// One gate per class.
#[derive(Debug, Clone)]
pub struct Gates(Arc<[Arc<Gate>; Class::ALL.len()]>);

/// Lets a call through its class's gate, or refuses it at once.
#[derive(Debug, Clone)]
pub struct LimitLayer(pub Gates);

/// See [`LimitLayer`].
#[derive(Debug, Clone)]
pub struct Limit<S> {
    inner: S,
    gates: Gates,
}

impl Gate {
    /// A gate for so many at once.
    pub fn new(limit: usize) -> Arc<Self> {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        Arc::new(Self { used: AtomicU64::new(0), limit, refused: AtomicU64::new(0) })
    }

    /// Takes `weight` of the limit, or nothing. What weighs more than the whole limit passes an empty gate.
    pub fn enter(self: &Arc<Self>, weight: u32) -> Option<Pass> {
        let weight = u64::from(weight).min(self.limit);
        let take = |used: u64| used.checked_add(weight).filter(|used| *used <= self.limit);
        if self.used.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take).is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Pass { gate: Arc::clone(self), weight })
    }

    /// What is taken now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// What may be taken.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// How often it was full.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl LookupGate {
    /// Lets one lookup of a stream through.
    ///
    /// # Errors
    /// The same refusal that a lookup on its own gets where the class is full.
    pub fn enter(&self) -> Result<Pass, ApiError> {
        self.0.enter(1).ok_or_else(|| refusal::overloaded(Class::Lookups, self.0.limit()))
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.used.fetch_sub(self.weight, Ordering::AcqRel);
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").field("weight", &self.weight).finish_non_exhaustive()
    }
}

impl Gates {
    /// Gates with the configured limits.
    pub fn new(limits: &Limits) -> Self {
        Self(Arc::new(Class::ALL.map(|class| {
            Gate::new(match class {
                Class::Lookups => limits.lookups,
                Class::Streams => limits.streams,
                Class::Writes => limits.writes,
                Class::Bulk => limits.bulk,
                Class::Admin => limits.admin,
                Class::Standard => STANDARD_MAX,
            })
        })))
    }

    /// The gate of a class.
    pub fn of(&self, class: Class) -> &Arc<Gate> {
        let [lookups, streams, writes, bulk, admin, standard] = &*self.0;
        match class {
            Class::Lookups => lookups,
            Class::Streams => streams,
            Class::Writes => writes,
            Class::Bulk => bulk,
            Class::Admin => admin,
            Class::Standard => standard,
        }
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Limit { inner, gates: self.0.clone() }
    }
}

impl<S, B> Service<Call<B>> for Limit<S>
where
    S: Service<Call<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = LimitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call<B>) -> Self::Future {
        let method = call.method;
        if method.class == Class::Streams {
            call.request.extensions_mut().insert(LookupGate(Arc::clone(self.gates.of(Class::Lookups))));
        }
        let gate = self.gates.of(method.class);
        match gate.enter(method.weight) {
            Some(pass) => LimitFuture::Passed { inner: self.inner.call(call), pass: Some(pass), method },
            None => LimitFuture::Refused { class: method.class, limit: gate.limit() },
        }
    }
}

pin_project! {
    /// The future of [`Limit`].
    #[project = LimitFutureProjection]
    #[doc(hidden)]
    pub enum LimitFuture<F> {
        Passed { #[pin] inner: F, pass: Option<Pass>, method: Method },
        Refused { class: Class, limit: u64 },
    }
}

impl<F> Future for LimitFuture<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            LimitFutureProjection::Passed { inner, pass, method } => inner.poll(cx).map_ok(|response| {
                // A large answer holds its share until it is sent, a small one until it is made.
                match pass.take().filter(|_| method.streams || method.weight > 1) {
                    Some(pass) => Ended::wrap(response, pass),
                    None => response,
                }
            }),
            LimitFutureProjection::Refused { class, limit } => {
                Poll::Ready(Ok(refusal::answer(refusal::overloaded(*class, *limit).into())))
            }
        }
    }
}

impl Ending for Pass {
    fn ended(self, _code: Code, _message: Option<&str>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_never_passes_its_limit_and_gives_back() {
        let gate = Gate::new(3);
        let first = gate.enter(2);
        assert!(first.is_some());
        assert!(gate.enter(2).is_none());
        let second = gate.enter(1);
        assert!(second.is_some());
        assert!(gate.enter(1).is_none());
        drop(first);
        assert_eq!(gate.used(), 1);
        assert!(gate.enter(2).is_some());
        assert_eq!(gate.refused(), 2);
    }

    #[test]
    fn a_heavy_call_passes_an_empty_gate_that_is_smaller() {
        let gate = Gate::new(4);
        let pass = gate.enter(16);
        assert!(pass.is_some());
        assert!(gate.enter(1).is_none());
        drop(pass);
        assert_eq!(gate.used(), 0);
    }
}
