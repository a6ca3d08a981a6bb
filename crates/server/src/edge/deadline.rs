//! No call waits for ever: a unary one has a deadline, a stream an end to its silence.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Response};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::call::Call;
use super::lease::{LeasedBody, Movement};
use super::method::Method;
use super::refusal;

/// The header in which a gRPC caller says how long it waits.
const TIMEOUT: &str = "grpc-timeout";
/// Digits of a timeout, by the gRPC protocol.
const TIMEOUT_DIGITS_MAX: usize = 8;
/// How long the handler of a stream that may be silent for ever takes to answer its head.
const HEAD_MAX: Duration = Duration::from_secs(60);

/// When a call must be answered; an extension of requests that change something, so that what they wait for can be
/// given the rest of their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(pub Instant);

/// Gives every call a deadline.
#[derive(Debug, Clone, Copy)]
pub struct DeadlineLayer;

/// See [`DeadlineLayer`].
#[derive(Debug, Clone)]
pub struct DeadlineService<S> {
    inner: S,
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DeadlineService { inner }
    }
}

impl<S, B> Service<Call<B>> for DeadlineService<S>
where
    S: Service<Call<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call<B>) -> Self::Future {
        let method = call.method;
        let asked = match asked(call.request.headers()) {
            Ok(asked) => asked,
            Err(status) => return DeadlineFuture::Refused { status: Some(*status) },
        };
        let allowed = if method.streams {
            let head = method.idle_max.unwrap_or(HEAD_MAX);
            asked.map_or(head, |asked| asked.min(head))
        } else {
            asked.unwrap_or(method.class.deadline_default()).min(method.class.deadline_max())
        };
        let due = call.arrived + allowed;
        let movement = (method.mutates && method.streams).then(Movement::default);
        if let Some(movement) = &movement {
            call.request.extensions_mut().insert(movement.clone());
        } else if method.mutates {
            call.request.extensions_mut().insert(Deadline(due));
        }
        let total = asked.map(|asked| (call.arrived + asked, asked));
        let inner = self.inner.call(call);
        DeadlineFuture::Running { inner, sleep: None, due, allowed, total, method, movement }
    }
}

/// The timeout that the caller set.
fn asked(headers: &HeaderMap) -> Result<Option<Duration>, Box<Status>> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    match parse(value.as_bytes()) {
        Some(timeout) => Ok(Some(timeout)),
        None => Err(Box::new(refusal::bad_timeout(value.as_bytes()))),
    }
}

fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > TIMEOUT_DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0_u64, |count, digit| count * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(count * 3_600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

pin_project! {
    /// The future of [`DeadlineService`].
    #[project = DeadlineFutureProjection]
    #[doc(hidden)]
    #[allow(clippy::large_enum_variant)]
    pub enum DeadlineFuture<F> {
        Running {
            #[pin]
            inner: F,
            // Set up when the call first waits, which calls that are answered at once never do.
            #[pin]
            sleep: Option<Sleep>,
            due: Instant,
            allowed: Duration,
            total: Option<(Instant, Duration)>,
            method: Method,
            movement: Option<Movement>,
        },
        Refused { status: Option<Status> },
    }
}

impl<F> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            DeadlineFutureProjection::Running { inner, mut sleep, due, allowed, total, method, movement } => {
                if let Poll::Ready(answered) = inner.poll(cx) {
                    let lease = |response| LeasedBody::wrap(response, *method, *total, movement.take());
                    return Poll::Ready(answered.map(lease));
                }
                if sleep.is_none() {
                    sleep.set(Some(tokio::time::sleep_until(*due)));
                }
                match sleep.as_pin_mut().map(|sleep| sleep.poll(cx)) {
                    Some(Poll::Ready(())) => Poll::Ready(Ok(refusal::answer(refusal::overdue(
                        *method,
                        *allowed,
                        movement.as_ref(),
                    )))),
                    _ => Poll::Pending,
                }
            }
            DeadlineFutureProjection::Refused { status } => match status.take() {
                Some(status) => Poll::Ready(Ok(refusal::answer(status))),
                None => Poll::Pending,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse(b"1H"), Some(Duration::from_secs(3_600)));
        assert_eq!(parse(b"2M"), Some(Duration::from_secs(120)));
        assert_eq!(parse(b"3S"), Some(Duration::from_secs(3)));
        assert_eq!(parse(b"500m"), Some(Duration::from_millis(500)));
        assert_eq!(parse(b"7u"), Some(Duration::from_micros(7)));
        assert_eq!(parse(b"99999999n"), Some(Duration::from_nanos(99_999_999)));
        assert_eq!(parse(b"0m"), Some(Duration::ZERO));
        for wrong in [&b""[..], b"m", b"5", b"5x", b"-5m", b"+5m", b" 5m", b"5 m", b"999999999m", b"1.5S"] {
            assert_eq!(parse(wrong), None, "{}", String::from_utf8_lossy(wrong));
        }
    }
}
