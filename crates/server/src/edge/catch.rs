//! Turns a panic of a handler into INTERNAL: without this its caller would see a broken stream, and the cause would
//! be known to nobody.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::call::Call;
use super::method::Method;
use super::refusal;

/// Catches panics of handlers and of the streams they return.
#[derive(Debug, Clone, Copy)]
pub struct CatchLayer;

/// See [`CatchLayer`].
#[derive(Debug, Clone)]
pub struct Catch<S> {
    inner: S,
}

impl<S> Layer<S> for CatchLayer {
    type Service = Catch<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Catch { inner }
    }
}

impl<S, B> Service<Call<B>> for Catch<S>
where
    S: Service<Call<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = CatchFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call<B>) -> Self::Future {
        let method = call.method;
        // Nothing of the service is used again after a panic: the layers are cloned per call.
        match catch_unwind(AssertUnwindSafe(|| self.inner.call(call))) {
            Ok(inner) => CatchFuture::Running { inner, method },
            Err(panic) => CatchFuture::Panicked { status: Some(told(method, &*panic)) },
        }
    }
}

pin_project! {
    /// The future of [`Catch`].
    #[project = CatchFutureProjection]
    #[doc(hidden)]
    pub enum CatchFuture<F> {
        Running { #[pin] inner: F, method: Method },
        Panicked { status: Option<Status> },
    }
}

impl<F> Future for CatchFuture<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            CatchFutureProjection::Running { inner, method } => {
                match catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
                    Ok(polled) => polled.map_ok(|response| CatchBody::wrap(response, *method)),
                    Err(panic) => Poll::Ready(Ok(refusal::answer(told(*method, &*panic)))),
                }
            }
            CatchFutureProjection::Panicked { status } => match status.take() {
                Some(status) => Poll::Ready(Ok(refusal::answer(status))),
                None => Poll::Pending,
            },
        }
    }
}

pin_project! {
    struct CatchBody {
        #[pin]
        inner: Option<Body>,
        method: Method,
    }
}

impl CatchBody {
    fn wrap(response: Response<Body>, method: Method) -> Response<Body> {
        if !method.streams || response.body().is_end_stream() {
            return response;
        }
        response.map(|inner| Body::new(Self { inner: Some(inner), method }))
    }
}

impl HttpBody for CatchBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        match catch_unwind(AssertUnwindSafe(|| inner.poll_frame(cx))) {
            Ok(polled) => polled,
            Err(panic) => {
                this.inner.set(None);
                Poll::Ready(Some(Ok(trailers(&told(*this.method, &*panic)))))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

/// A status as the trailers that end a stream.
pub(super) fn trailers(status: &Status) -> Frame<Bytes> {
    let mut trailers = http::HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // Details that are no legal header value are left out; the code always is one.
        trailers.insert(Status::GRPC_STATUS, http::HeaderValue::from(i32::from(status.code())));
    }
    Frame::trailers(trailers)
}

/// Logs a panic under a new correlation ID and returns what the caller is told.
fn told(method: Method, panic: &(dyn Any + Send)) -> Status {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words");
    let correlation = uuid::Uuid::now_v7().to_string();
    tracing::error!(target: "berth::rpc", method = method.name(), %correlation, panic = said, "a handler panicked");
    refusal::bug(correlation)
}
