//! Counts and times every call by method and status, those the layers below refuse among them.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Response;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tonic::Code;
use tonic::body::Body;
use tower::{Layer, Service};

use super::call::Call;
use super::ending::{Ended, Ending, head_code};
use super::method::Method;
use crate::metrics::RpcMetrics;

/// Measures calls into [`RpcMetrics`].
#[derive(Debug, Clone)]
pub struct MeasureLayer(pub Arc<RpcMetrics>);

/// See [`MeasureLayer`].
#[derive(Debug, Clone)]
pub struct Measure<S> {
    inner: S,
    rpc: Arc<RpcMetrics>,
}

/// A call being timed; one that is dropped unfinished was cancelled by its caller.
#[derive(Debug)]
struct Timed(Option<Running>);

#[derive(Debug)]
struct Running {
    rpc: Arc<RpcMetrics>,
    method: Method,
    arrived: Instant,
}

impl<S> Layer<S> for MeasureLayer {
    type Service = Measure<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Measure { inner, rpc: Arc::clone(&self.0) }
    }
}

impl<S, B> Service<Call<B>> for Measure<S>
where
    S: Service<Call<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = MeasureFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call<B>) -> Self::Future {
        let (method, arrived) = (call.method, call.arrived);
        let timed = Timed(Some(Running { rpc: Arc::clone(&self.rpc), method, arrived }));
        MeasureFuture { inner: self.inner.call(call), timed }
    }
}

pin_project! {
    /// The future of [`Measure`].
    #[doc(hidden)]
    pub struct MeasureFuture<F> {
        #[pin]
        inner: F,
        timed: Timed,
    }
}

impl<F> Future for MeasureFuture<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.inner.poll(cx).map_ok(|response| {
            let Some(running) = this.timed.0.take() else { return response };
            if running.method.streams {
                return Ended::wrap(response, running);
            }
            // A unary answer that has its message also has its status: OK.
            running.ended(head_code(&response), None);
            response
        })
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            running.ended(Code::Cancelled, None);
        }
    }
}

impl Ending for Running {
    fn ended(self, code: Code, _message: Option<&str>) {
        self.rpc.record(self.method, code, self.arrived.elapsed());
    }
}
