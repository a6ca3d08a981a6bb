//! One span per call, in the trace of its caller, and one line per error that is ours.
//!
//! Span and request line are of level debug: while that level is off a call costs one comparison here.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use http::{HeaderMap, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Level, Span};

use super::call::Call;
use super::ending::{Ended, Ending, head_code};
use super::method::Method;

/// The W3C header that carries a caller's trace.
const TRACEPARENT: &str = "traceparent";
/// Causes of an error that are told; longer chains are loops.
const CAUSES_MAX: usize = 16;

/// A caller's trace as W3C writes it: the trace's ID, the caller's span, and whether the caller records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// ID of the whole trace; not zero.
    pub trace_id: u128,
    /// ID of the caller's span; not zero.
    pub parent_id: u64,
    /// The caller records this trace.
    pub sampled: bool,
}

/// Puts every call in a span.
#[derive(Debug, Clone, Copy)]
pub struct TraceLayer;

/// See [`TraceLayer`].
#[derive(Debug, Clone)]
pub struct Trace<S> {
    inner: S,
}

impl TraceContext {
    /// The caller's trace, if the headers carry a valid one.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        headers.get(TRACEPARENT)?.to_str().ok()?.parse().ok()
    }
}

impl FromStr for TraceContext {
    type Err = ();

    /// Reads `00-<32 hex>-<16 hex>-<2 hex>`; later versions may append fields, which are ignored.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('-');
        let mut hex = |digits: usize| {
            parts
                .next()
                .filter(|part| part.len() == digits && part.bytes().all(|b| b"0123456789abcdef".contains(&b)))
                .ok_or(())
        };
        let (version, trace, parent, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return Err(());
        }
        let trace_id = u128::from_str_radix(trace, 16).map_err(|_| ())?;
        let parent_id = u64::from_str_radix(parent, 16).map_err(|_| ())?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| ())?;
        if trace_id == 0 || parent_id == 0 {
            return Err(());
        }
        Ok(Self { trace_id, parent_id, sampled: flags & 1 == 1 })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.parent_id, u8::from(self.sampled))
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Trace { inner }
    }
}

impl<S, B> Service<Call<B>> for Trace<S>
where
    S: Service<Call<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = TraceFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call<B>) -> Self::Future {
        let (method, arrived) = (call.method, call.arrived);
        // Only changes carry their trace on, through the log to where they are applied.
        if method.mutates
            && let Some(context) = TraceContext::from_headers(call.request.headers())
        {
            call.request.extensions_mut().insert(context);
        }
        let span = if tracing::enabled!(target: "berth::rpc", Level::DEBUG) {
            span(method, call.request.headers())
        } else {
            Span::none()
        };
        let inner = span.in_scope(|| self.inner.call(call));
        TraceFuture { inner, span, method, arrived }
    }
}

fn span(method: Method, headers: &HeaderMap) -> Span {
    let span = tracing::debug_span!(
        target: "berth::rpc",
        "call",
        rpc.method = method.name(),
        trace_id = tracing::field::Empty,
        parent_id = tracing::field::Empty,
    );
    if let Some(context) = TraceContext::from_headers(headers) {
        span.record("trace_id", tracing::field::display(format_args!("{:032x}", context.trace_id)));
        span.record("parent_id", tracing::field::display(format_args!("{:016x}", context.parent_id)));
    }
    span
}

pin_project! {
    /// The future of [`Trace`].
    #[doc(hidden)]
    pub struct TraceFuture<F> {
        #[pin]
        inner: F,
        span: Span,
        method: Method,
        arrived: Instant,
    }
}

impl<F> Future for TraceFuture<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let entered = this.span.enter();
        let polled = this.inner.poll(cx);
        drop(entered);
        polled.map_ok(|response| {
            if this.span.is_none() && !this.method.streams && head_code(&response) == Code::Ok {
                return response;
            }
            let line = Line { span: this.span.clone(), method: *this.method, arrived: *this.arrived };
            if this.method.streams && !response.headers().contains_key(Status::GRPC_STATUS) {
                return Ended::wrap(response, line);
            }
            let status = response.extensions().get::<Status>();
            line.write(head_code(&response), status.map(Status::message), status.and_then(|s| s.source()));
            response
        })
    }
}

/// What is written when a call is over.
struct Line {
    span: Span,
    method: Method,
    arrived: Instant,
}

impl Line {
    fn write(&self, code: Code, message: Option<&str>, source: Option<&(dyn Error + 'static)>) {
        let method = self.method.name();
        let message = message.unwrap_or_default();
        if matches!(code, Code::Internal | Code::DataLoss | Code::Unknown) {
            let causes = Causes(source);
            tracing::error!(target: "berth::rpc", parent: &self.span, method, ?code, message, %causes, "call failed");
        } else if !self.span.is_none() {
            let micros = u64::try_from(self.arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
            tracing::debug!(target: "berth::rpc", parent: &self.span, method, ?code, message, micros, "call");
        }
    }
}

impl Ending for Line {
    fn ended(self, code: Code, message: Option<&str>) {
        self.write(code, message, None);
    }
}

/// The causes of an error, outermost first.
struct Causes<'a>(Option<&'a (dyn Error + 'static)>);

impl<'a> fmt::Display for Causes<'a> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chain = std::iter::successors(self.0, |error: &&'a (dyn Error + 'static)| (*error).source())
            .take(CAUSES_MAX);
        for (at, error) in chain.enumerate() {
            write!(f, "{}{error}", if at == 0 { "" } else { ": " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_traceparent_round_trips() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context: TraceContext = text.parse().unwrap();
        assert!(context.sampled);
        assert_eq!(context.to_string(), text);
    }

    #[test]
    fn an_invalid_traceparent_is_no_trace() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert!(text.parse::<TraceContext>().is_err(), "{text}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(later.parse::<TraceContext>().is_ok());
    }
}
