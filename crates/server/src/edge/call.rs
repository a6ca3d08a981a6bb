//! A request on its way through the layers, and the outermost layer, which makes it.

use std::task::{Context, Poll};

use http::Request;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::method::{Method, Methods};

/// A request with what every layer needs to know of it, found once.
#[derive(Debug)]
pub struct Call<B> {
    /// Which method it calls.
    pub method: Method,
    /// When its headers were read.
    pub arrived: Instant,
    /// The request itself.
    pub request: Request<B>,
}

/// Finds the method of a request.
#[derive(Debug, Clone, Copy)]
pub struct ClassifyLayer;

/// See [`ClassifyLayer`].
#[derive(Debug, Clone)]
pub struct Classify<S> {
    inner: S,
    methods: &'static Methods,
}

impl<S> Layer<S> for ClassifyLayer {
    type Service = Classify<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Classify { inner, methods: Methods::of_this_build() }
    }
}

impl<S, B> Service<Request<B>> for Classify<S>
where
    S: Service<Call<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = self.methods.find(request.uri().path());
        self.inner.call(Call { method, arrived: Instant::now(), request })
    }
}
