//! The HTTP listener: metrics, probes and the allocation hook, kept apart from clients so that they answer when all else
//! is full.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tower::Service;

use crate::edge::Gate;
use crate::edge::accept::{Accepted, accept};
use crate::health::{Health, Serving};
use crate::hook::{self, Hook};
use crate::metrics::Metrics;

/// Connections of scrapers and probes, and of what stands before the hook: 1,000 calls a minute, each on a connection of
/// its own that stays open for as long as it may, are 500.
const CONNECTIONS_MAX: usize = 640;
/// How long a request's headers may take; with keep-alive also how long a connection may be idle.
const HEADERS_MAX: Duration = Duration::from_secs(30);
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Bytes that a connection buffers, headers among them.
const BUFFER_BYTES_MAX: usize = 64 * 1_024;
/// Bytes of a request's body: no route here takes one but the hook, which has a bound of its own.
const BODY_BYTES_MAX: usize = 4 * 1_024;
/// What OpenMetrics text is called.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the routes answer from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/readyz`.
    pub health: Health,
    /// For DPS.
    pub hook: Arc<Hook>,
}

/// Serves `/metrics`, `/healthz`, `/readyz` and the allocation hook on `listener` until `stop`.
pub async fn serve(listener: TcpListener, sources: Sources, stop: impl Future<Output = ()>) {
    let routes = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route(hook::PATH, post(allocate))
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(sources);
    accept(listener, Gate::new(CONNECTIONS_MAX), stop, |accepted| serve_connection(accepted, routes.clone()))
        .await;
}

async fn serve_connection(accepted: Accepted, routes: Router) {
    let (stream, peer, mut stopping, _pass) = accepted.into_parts();
    let service = hyper::service::service_fn(move |request| {
        // Routes are always ready.
        let answer = routes.clone().call(request);
        async move {
            let answered = tokio::time::timeout(ANSWER_MAX, answer).await;
            Ok::<_, Infallible>(match answered {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => {
                    (StatusCode::SERVICE_UNAVAILABLE, "the answer took too long; try again\n").into_response()
                }
            })
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut told = false;
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "an HTTP connection broke");
                }
                return;
            }
            () = stopping.wait(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn show_metrics(State(sources): State<Sources>) -> Response {
    match sources.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            (StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be written; see the node's log\n")
                .into_response()
        }
    }
}

async fn healthz() -> &'static str {
    "alive\n"
}

async fn readyz(State(sources): State<Sources>) -> Response {
    match sources.health.read() {
        Serving::Yes => "ready\n".into_response(),
        Serving::No(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response()
        }
    }
}

async fn allocate(State(sources): State<Sources>, request: Request) -> Response {
    sources.hook.answer(request).await
}

async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "there is nothing here; try /metrics, /healthz or /readyz\n").into_response()
}

#[cfg(test)]
mod tests;
