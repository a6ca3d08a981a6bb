//! A stream's answers, taken back when nothing of them moves any more.
//!
//! A body is only asked for frames while its reader makes room for them. A reader that stops reading would thus hold
//! pinned pages and a place in its class for as long as its connection lives. So the clock of a stream runs in a
//! task beside it, and at its end takes the stream from under the reader.
//!
//! What comes in moves a stream as well. Only its handler sees that, and tells it through [`Movement`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use hyper::body::{Body as HttpBody, Frame};
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use super::catch::trailers;
use super::method::Method;
use super::refusal;

/// What a handler tells of the messages that stream in; an extension of requests that change something by a stream.
#[derive(Debug, Clone, Default)]
pub struct Movement(Arc<Mutex<Received>>);

#[derive(Debug, Default)]
struct Received {
    last: Option<Instant>,
    unanswered: u64,
}

impl Movement {
    /// A message came in that is going to be answered.
    pub fn received(&self) {
        let mut received = self.0.lock();
        received.last = Some(Instant::now());
        received.unanswered += 1;
    }

    /// An answer went out.
    pub fn answered(&self) {
        let mut received = self.0.lock();
        received.unanswered = received.unanswered.saturating_sub(1);
    }

    fn last(&self) -> Option<Instant> {
        self.0.lock().last
    }

    /// True where nobody waits to hear what became of something.
    pub(super) fn is_settled(&self) -> bool {
        self.0.lock().unanswered == 0
    }
}

/// A stream's body under a clock.
pub(super) struct LeasedBody {
    shared: Arc<Mutex<Lease>>,
    clock: Option<AbortHandle>,
}

enum Lease {
    /// Frames move; the last did at this time.
    Held {
        inner: Body,
        moved: Instant,
        waker: Option<Waker>,
    },
    /// Time is up: the reader is told once.
    Expired(Box<Status>),
    Over,
}

impl LeasedBody {
    /// Puts a stream's body under its idle time and the caller's own deadline, whichever ends first.
    pub(super) fn wrap(
        response: Response<Body>,
        method: Method,
        total: Option<(Instant, Duration)>,
        movement: Option<Movement>,
    ) -> Response<Body> {
        let unbounded = method.idle_max.is_none() && total.is_none();
        if !method.streams || unbounded || response.body().is_end_stream() {
            return response;
        }
        response.map(|inner| {
            let shared = Arc::new(Mutex::new(Lease::Held { inner, moved: Instant::now(), waker: None }));
            let clock = tokio::spawn(watch(Arc::clone(&shared), method, total, movement)).abort_handle();
            Body::new(Self { shared, clock: Some(clock) })
        })
    }
}

async fn watch(
    shared: Arc<Mutex<Lease>>,
    method: Method,
    total: Option<(Instant, Duration)>,
    movement: Option<Movement>,
) {
    loop {
        let sent = match &*shared.lock() {
            Lease::Held { moved, .. } => *moved,
            Lease::Expired(_) | Lease::Over => return,
        };
        let moved = movement.as_ref().and_then(Movement::last).map_or(sent, |received| received.max(sent));
        let idle_end = method.idle_max.map(|idle| moved + idle);
        let total_end = total.map(|(end, _)| end);
        let Some(end) = idle_end.into_iter().chain(total_end).min() else { return };
        if end > Instant::now() {
            tokio::time::sleep_until(end).await;
            continue;
        }
        let movement = movement.as_ref();
        let status = match (total, method.idle_max) {
            (Some((due, allowed)), _) if due <= end => refusal::overdue(method, allowed, movement),
            (_, Some(idle)) => refusal::silent(method, idle, movement),
            (Some((_, allowed)), None) => refusal::overdue(method, allowed, movement),
            (None, None) => return,
        };
        expire(&shared, status);
        return;
    }
}

fn expire(shared: &Mutex<Lease>, status: Status) {
    let taken = {
        let mut lease = shared.lock();
        match &*lease {
            Lease::Held { .. } => std::mem::replace(&mut *lease, Lease::Expired(Box::new(status))),
            Lease::Expired(_) | Lease::Over => return,
        }
    };
    // Dropped outside the lock: a stream's own end may be long.
    if let Lease::Held { inner, waker, .. } = taken {
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl HttpBody for LeasedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut lease = self.shared.lock();
        match &mut *lease {
            Lease::Held { inner, moved, waker } => {
                let polled = Pin::new(inner).poll_frame(cx);
                match &polled {
                    Poll::Ready(Some(_)) => *moved = Instant::now(),
                    Poll::Ready(None) => *lease = Lease::Over,
                    Poll::Pending => match waker {
                        Some(waker) => waker.clone_from(cx.waker()),
                        None => *waker = Some(cx.waker().clone()),
                    },
                }
                polled
            }
            Lease::Expired(status) => {
                let frame = trailers(status);
                *lease = Lease::Over;
                Poll::Ready(Some(Ok(frame)))
            }
            Lease::Over => Poll::Ready(None),
        }
    }
}

impl Drop for LeasedBody {
    fn drop(&mut self) {
        if let Some(clock) = self.clock.take() {
            clock.abort();
        }
        // The clock's own hold on the stream goes only when the runtime gets to it; the stream goes now.
        let taken = std::mem::replace(&mut *self.shared.lock(), Lease::Over);
        drop(taken);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};
    use tonic::Code;

    use berth_proto::error::ApiError;

    use super::*;
    use crate::edge::Methods;

    struct Told(Option<tokio::sync::oneshot::Sender<()>>);

    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.take().unwrap().send(());
        }
    }

    fn method(idle: Duration) -> Method {
        Method { idle_max: Some(idle), ..Methods::of_this_build().find("/berth.v1.DeviceService/Export") }
    }

    /// A stream of one frame and then silence, and what hears when it is dropped.
    fn stream() -> (Response<Body>, tokio::sync::oneshot::Receiver<()>) {
        let (dropped, hears) = tokio::sync::oneshot::channel();
        let told = Told(Some(dropped));
        let frames = stream::iter([Ok::<_, Status>(Frame::data(Bytes::from_static(b"one")))]).chain(
            stream::pending().map(move |never: Result<_, Status>| {
                let _ = &told;
                never
            }),
        );
        (Response::new(Body::new(StreamBody::new(frames))), hears)
    }

    #[tokio::test]
    async fn a_silent_stream_ends_with_a_status() {
        let (response, dropped) = stream();
        let mut body = LeasedBody::wrap(response, method(Duration::from_millis(30)), None, None).into_body();
        assert!(body.frame().await.unwrap().unwrap().is_data());
        let last = body.frame().await.unwrap().unwrap();
        let status = Status::from_header_map(last.trailers_ref().unwrap()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(body.frame().await.is_none());
        dropped.await.unwrap();
    }

    #[tokio::test]
    async fn a_stream_whose_reader_stopped_reading_is_taken_back() {
        let (response, dropped) = stream();
        let body = LeasedBody::wrap(response, method(Duration::from_millis(30)), None, None).into_body();
        dropped.await.unwrap();
        drop(body);
    }

    #[tokio::test]
    async fn the_callers_own_deadline_ends_a_stream_that_still_moves() {
        let frames = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(2)).await;
            Some((Ok::<_, Status>(Frame::data(Bytes::from_static(b"more"))), ()))
        });
        let response = Response::new(Body::new(StreamBody::new(frames)));
        let allowed = Duration::from_millis(40);
        let total = Some((Instant::now() + allowed, allowed));
        let mut body = LeasedBody::wrap(response, method(Duration::from_secs(60)), total, None).into_body();
        let status = loop {
            let frame = body.frame().await.unwrap().unwrap();
            if let Some(trailers) = frame.trailers_ref() {
                break Status::from_header_map(trailers).unwrap();
            }
        };
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().contains("40 ms"), "{status:?}");
    }

    #[tokio::test]
    async fn a_dropped_body_drops_its_stream_at_once() {
        let (response, mut dropped) = stream();
        drop(LeasedBody::wrap(response, method(Duration::from_secs(60)), None, None));
        assert!(dropped.try_recv().is_ok());
    }

    fn importing(idle: Duration) -> Method {
        Method { idle_max: Some(idle), ..Methods::of_this_build().find("/berth.v1.DeviceService/Import") }
    }

    async fn end_of(body: Body) -> ApiError {
        let mut body = body;
        loop {
            let frame = body.frame().await.unwrap().unwrap();
            if let Some(trailers) = frame.trailers_ref() {
                return ApiError::from(&Status::from_header_map(trailers).unwrap());
            }
        }
    }

    #[tokio::test]
    async fn only_what_waits_for_an_answer_is_in_doubt() {
        let idle = Duration::from_millis(20);
        let movement = Movement::default();
        movement.received();
        let (response, _dropped) = stream();
        let body = LeasedBody::wrap(response, importing(idle), None, Some(movement.clone())).into_body();
        let error = end_of(body).await;
        assert!(matches!(error, ApiError::OutcomeUnknown { .. }), "{error:?}");
        movement.answered();
        let (response, _dropped) = stream();
        let body = LeasedBody::wrap(response, importing(idle), None, Some(movement)).into_body();
        let error = end_of(body).await;
        assert!(matches!(error, ApiError::DeadlineExceeded { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn what_comes_in_keeps_a_stream() {
        let movement = Movement::default();
        let (response, mut dropped) = stream();
        let method = importing(Duration::from_millis(200));
        let body = LeasedBody::wrap(response, method, None, Some(movement.clone()));
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            movement.received();
            assert!(dropped.try_recv().is_err(), "it moves all the time");
        }
        dropped.await.unwrap();
        drop(body);
    }
}
