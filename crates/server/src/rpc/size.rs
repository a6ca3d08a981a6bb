//! The lookup service with two size limits: a single lookup has no business being as long as a batch.

use std::convert::Infallible;
use std::task::{Context, Poll};

use berth_proto::v1::lookup_service_server::{LookupService, LookupServiceServer};
use http::Request;
use tonic::server::NamedService;
use tower::Service;

/// Path of the one method with long requests.
const BATCH_PATH: &str = "/berth.v1.LookupService/BatchLookup";

/// The lookup service under two limits.
#[derive(Debug)]
pub struct SizedLookup<T> {
    single: LookupServiceServer<T>,
    batch: LookupServiceServer<T>,
}

impl<T> SizedLookup<T> {
    /// `batch` serves BatchLookup, `single` everything else.
    pub fn new(single: LookupServiceServer<T>, batch: LookupServiceServer<T>) -> Self {
        Self { single, batch }
    }
}

impl<T> Clone for SizedLookup<T> {
    fn clone(&self) -> Self {
        Self { single: self.single.clone(), batch: self.batch.clone() }
    }
}

impl<T: LookupService> NamedService for SizedLookup<T> {
    const NAME: &'static str = LookupServiceServer::<T>::NAME;
}

impl<T, B> Service<Request<B>> for SizedLookup<T>
where
    LookupServiceServer<T>: Service<Request<B>, Error = Infallible>,
{
    type Response = <LookupServiceServer<T> as Service<Request<B>>>::Response;
    type Error = Infallible;
    type Future = <LookupServiceServer<T> as Service<Request<B>>>::Future;

    // Generated services are always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if request.uri().path() == BATCH_PATH { self.batch.call(request) } else { self.single.call(request) }
    }
}
