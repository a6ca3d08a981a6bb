//! The edge: where calls come in, are measured and bounded, before any of them is understood.
//!
//! [`serve_clients`] and [`serve_peers`] run a listener from its first connection to its last. What stands between
//! a client's connection and a service is one expression, `stack`. The edge knows methods by name and nothing of
//! what they do; what it refuses it refuses in the words of `refusal`.

pub mod accept;
mod call;
mod catch;
mod connection;
mod deadline;
mod ending;
mod lease;
mod limit;
mod measure;
mod method;
mod protocol;
mod refusal;
mod services;
mod trace;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tonic::body::Body;
use tower::{Service, ServiceBuilder};

pub use accept::{ListenError, listen};
pub use deadline::Deadline;
pub use lease::Movement;
pub use limit::{Gate, Gates, LookupGate, Pass};
pub use method::{Class, Method, Methods};
pub use protocol::Http2;
pub use services::Services;
pub use trace::TraceContext;

use crate::config::Limits;
use crate::metrics::Metrics;
use connection::Kind;
use services::Front;

/// Connections of peers: three from each of the nodes a cluster may have, and as many that are being replaced.
const PEER_CONNECTIONS_MAX: usize = 192;

/// Serves clients on `listener` until `stop`: lookups by `lookups`, a generated server, and all else by `rest`.
/// Returns when the last connection is gone, at most five seconds after `stop`.
pub async fn serve_clients<H>(
    listener: TcpListener,
    limits: &Limits,
    metrics: &Metrics,
    lookups: H,
    rest: Services,
    stop: impl Future<Output = ()>,
) where
    H: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    H::Future: Send + 'static,
{
    let gates = Gates::new(limits);
    let connections = Gate::new(limits.connections);
    metrics.watch_edge(gates.clone(), Arc::clone(&connections));
    let service = stack(gates, metrics, Front::new(lookups, rest));
    accept::accept(listener, connections, stop, |accepted| {
        connection::serve(accepted, service.clone(), Kind::Clients)
    })
    .await;
}

/// Serves peers on `listener` by `service`, a generated server, until the future is dropped; its connections are
/// closed with it. Peers' calls are bounded by their connections and pass none of the layers that clients' do: a vote
/// that is refused for load would cost a leader, and deadlines are Raft's to set.
pub async fn serve_peers<S>(listener: TcpListener, service: S)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    // Nobody drains it: a node that stops has handed over before, and its peers call it no more.
    let stop = std::future::pending();
    accept::accept(listener, Gate::new(PEER_CONNECTIONS_MAX), stop, |accepted| {
        connection::serve(accepted, service.clone(), Kind::Peers)
    })
    .await;
}

/// What a call goes through, from the outside in.
fn stack<H>(
    gates: Gates,
    metrics: &Metrics,
    services: Front<H>,
) -> impl Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
+ Clone
+ Send
+ 'static
where
    H: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    H::Future: Send + 'static,
{
    ServiceBuilder::new()
        .layer(call::ClassifyLayer) // which method, once for all
        .layer(trace::TraceLayer) // a span around everything, and what went wrong, once
        .layer(measure::MeasureLayer(metrics.rpc())) // refusals of the layers below count as well
        .layer(catch::CatchLayer) // a bug answers INTERNAL
        .layer(deadline::DeadlineLayer) // nobody waits for ever
        .layer(limit::LimitLayer(gates)) // what is too much is refused before it is decoded
        .service(services)
}
