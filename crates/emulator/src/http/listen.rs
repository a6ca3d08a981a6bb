//! Listeners and connections: HTTP/1.1, over TLS or not, until the emulator stops.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::Service;
use super::answer::{Answer, Trace};
use super::call::Call;

/// Most connections of one listener. Those beyond wait in the system's queue.
const CONNECTIONS_MAX: usize = 4_096;

/// Largest body that is read, in bytes: a bulk request of 100 devices with full twins.
const BODY_BYTES_MAX: usize = 8 * 1_024 * 1_024;

/// How long a handshake may take, and how long the head of a request.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How long requests under way may take once the emulator stops.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// How long to wait after an accept that failed, which means too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until the service stops.
pub(crate) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, service: Arc<Service>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let slot = Arc::clone(&slots);
        let accepted = async {
            let slot = slot.acquire_owned().await;
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            accepted = accepted => accepted,
            () = service.stopping.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (tls, service) = (tls.clone(), Arc::clone(&service));
                connections.spawn(async move {
                    converse(stream, tls, service).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    // What is not done by then is cut off, with the set.
    let _late = tokio::time::timeout(DRAIN_MAX, drained).await;
}

async fn converse(stream: TcpStream, tls: Option<TlsAcceptor>, service: Arc<Service>) {
    // A socket that refuses the option still works.
    let _slower = stream.set_nodelay(true);
    let Some(tls) = tls else { return speak(TokioIo::new(stream), service).await };
    match tokio::time::timeout(HANDSHAKE_MAX, tls.accept(stream)).await {
        Ok(Ok(stream)) => speak(TokioIo::new(stream), service).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

async fn speak<T>(io: T, service: Arc<Service>)
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let stopping = service.stopping.clone();
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(respond(&service, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(None);
    // The emulator's own clock dates its answers.
    http.auto_date_header(false);
    let mut connection = std::pin::pin!(http.serve_connection(io, answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn respond(service: &Arc<Service>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let trace = Trace::new(&*service.random, service.clock.now());
    let answer = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => match Call::new(head.method, &head.uri, head.headers, body.to_bytes()) {
            Some(call) => super::answer(service, &call, &trace).await,
            None => plain(400, "The request target is too long, or is not UTF-8."),
        },
        Err(error) if error.is::<LengthLimitError>() => {
            plain(413, "The request body is too large.").with("connection", "close")
        }
        Err(_) => plain(400, "The request body ended early.").with("connection", "close"),
    };
    into_response(answer, &trace)
}

/// A refusal that belongs to no service.
pub(super) fn plain(status: u16, message: &str) -> Answer {
    Answer::json(status, &serde_json::json!({ "message": message }))
}

fn into_response(answer: Answer, trace: &Trace) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let always = [
        ("date", trace.now.http_date()),
        ("strict-transport-security", "max-age=31536000; includeSubDomains".to_owned()),
        ("x-ms-request-id", trace.id.clone()),
    ];
    for (name, value) in answer.headers.into_iter().chain(always) {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}
