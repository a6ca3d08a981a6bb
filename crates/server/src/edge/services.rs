//! The services of a listener, found by the first part of a request's path.
//!
//! A table of its own, not a route table for the web: services have plain names, and nearly every call is of the one
//! that is called without being boxed.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;
use tower::util::BoxCloneSyncService;

use super::call::Call;
use super::refusal;

type Boxed = BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>;
type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Services by name.
#[derive(Debug, Clone, Default)]
pub struct Services(Arc<Vec<(&'static str, Boxed)>>);

/// Services with one before all others.
#[derive(Debug, Clone)]
pub(super) struct Front<H> {
    hot: H,
    rest: Services,
}

impl Services {
    /// No service: every call is answered UNIMPLEMENTED.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a generated server.
    #[must_use]
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        Arc::make_mut(&mut self.0).push((S::NAME, BoxCloneSyncService::new(service)));
        self
    }

    fn find(&self, path: &str) -> Option<&Boxed> {
        let (name, _) = path.strip_prefix('/')?.split_once('/')?;
        self.0.iter().find(|(served, _)| *served == name).map(|(_, service)| service)
    }
}

impl Service<Request<Incoming>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    // Generated services are always ready; there is nothing here that fills up.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        match self.find(request.uri().path()) {
            Some(service) => service.clone().call(request),
            None => Box::pin(std::future::ready(Ok(refusal::answer(refusal::no_such_service())))),
        }
    }
}

impl<H> Front<H> {
    /// `hot` is the lookup service; `rest` has every other one.
    pub(super) fn new(hot: H, rest: Services) -> Self {
        Self { hot, rest }
    }
}

impl<H> Service<Call<Incoming>> for Front<H>
where
    H: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = FrontFuture<H::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call<Incoming>) -> Self::Future {
        if call.method.hot {
            FrontFuture::Hot { inner: self.hot.call(call.request) }
        } else {
            FrontFuture::Rest { inner: self.rest.call(call.request) }
        }
    }
}

pin_project! {
    /// The future of [`Front`].
    #[project = FrontFutureProjection]
    #[doc(hidden)]
    pub enum FrontFuture<H> {
        Hot { #[pin] inner: H },
        Rest { inner: Answer },
    }
}

impl<H> Future for FrontFuture<H>
where
    H: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            FrontFutureProjection::Hot { inner } => inner.poll(cx),
            FrontFutureProjection::Rest { inner } => inner.as_mut().poll(cx),
        }
    }
}
