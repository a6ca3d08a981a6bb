//! Sends one request and reads one answer: pooled connections, bounded in number, and bodies bounded in size.

mod dial;
mod endpoints;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

pub use endpoints::{EXTRA_AUTHORITIES_MAX, EndpointError, Endpoints, OVERRIDES_MAX, PEM_BYTES_MAX};

use crate::id::HostName;
use crate::secret::make_room;
use dial::Dialler;

/// Most connections to one host at a time, unless told otherwise: Azure's own throttles bind long before.
pub const CONNECTIONS_PER_HOST: usize = 16;
/// Most hosts one transport speaks to: hubs, DPS instances and ARM.
pub const HOSTS_MAX: usize = 1_024;
/// Largest body of an answer about one thing, in bytes: a twin near its limits of some 100 KB with its metadata.
pub const OBJECT_BYTES_MAX: usize = 1_024 * 1_024;
/// Most bytes that are read of an answer that says no; the rest is left.
pub const ERROR_BYTES_MAX: usize = 64 * 1_024;
/// Largest body of a page, in bytes: 100 twins, each near its limits of some 100 KB.
pub const BODY_BYTES_MAX: usize = 16 * 1_024 * 1_024;
/// Most bytes taken for a body before any of it has come.
const BODY_BYTES_FIRST: usize = 64 * 1_024;
/// Most bytes of an answer's head: continuation tokens are long.
const HEAD_BYTES_MAX: usize = 256 * 1_024;
/// How long a connection may take to be opened, TLS among it; an attempt has more time, so that it hears of the failure.
const OPEN_MAX: Duration = Duration::from_secs(10);
/// How long an unused connection is kept: shorter than Azure keeps it, so that few requests meet its end.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Connections to Azure, shared by all services of a process.
pub struct Transport {
    pool: Pool<Dialler, Full<Bytes>>,
    dialler: Dialler,
}

/// How much of a body is read, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// All of it, and a larger one is a failure.
    Whole(usize),
    /// Its beginning.
    Begin(usize),
}

/// Leave for one request to be under way.
pub(crate) struct Room {
    _permit: OwnedSemaphorePermit,
}

/// An answer, whole.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Wiped when dropped: attestations and identities carry keys.
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection: nothing was sent.
    Connect(String),
    /// The connection broke before the answer was whole: the request may have been served.
    Broken(String),
    /// The answer is larger than its bound, in bytes.
    TooLong(usize),
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("endpoints", self.dialler.endpoints()).finish_non_exhaustive()
    }
}

impl Transport {
    /// Connections by these endpoints, at most [`CONNECTIONS_PER_HOST`] to each host.
    pub fn new(endpoints: Endpoints) -> Result<Arc<Self>, EndpointError> {
        Self::with_connections(endpoints, CONNECTIONS_PER_HOST)
    }

    /// The same with another bound of connections to each host; at least one.
    pub fn with_connections(endpoints: Endpoints, per_host_max: usize) -> Result<Arc<Self>, EndpointError> {
        endpoints.check()?;
        let per_host_max = per_host_max.max(1);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| EndpointError::Tls { problem: error.to_string() })?
            .with_root_certificates(endpoints.roots()?)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let dialler = Dialler::new(endpoints, TlsConnector::from(Arc::new(tls)), per_host_max);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(per_host_max)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .build(dialler.clone());
        Ok(Arc::new(Self { pool, dialler }))
    }

    /// Connections opened so far; with connections kept alive it grows far slower than the requests.
    pub fn connections_opened(&self) -> u64 {
        self.dialler.opened()
    }

    /// True where requests to this host are readable on their way.
    pub(crate) fn is_plain(&self, host: &HostName) -> bool {
        self.dialler.endpoints().wire(host) == endpoints::Wire::Plain
    }

    /// Room for one more request to this host, waited for; the caller ends the wait. There are as many requests under
    /// way as there may be connections, so that none waits inside the pool, where it could not be told from one sent.
    pub(crate) async fn room(&self, host: &HostName) -> Result<Room, Failure> {
        let gate = self.dialler.gate(host).map_err(|error| Failure::Connect(error.to_string()))?;
        let permit = Arc::clone(&gate.requests).acquire_owned().await;
        Ok(Room { _permit: permit.map_err(|error| Failure::Connect(error.to_string()))? })
    }

    /// Sends a request, and reads the answer to its end. Dropping the future closes its connection.
    pub(crate) async fn exchange(
        &self,
        room: Room,
        request: Request<Full<Bytes>>,
        bound: impl Fn(StatusCode) -> Bound,
    ) -> Result<Answer, Failure> {
        let _room = room;
        let answer = dial::wanting(self.pool.request(request)).await.map_err(|error| {
            let told = chain(&error);
            if error.is_connect() { Failure::Connect(told) } else { Failure::Broken(told) }
        })?;
        let (head, body) = answer.into_parts();
        let body = read(body, bound(head.status)).await?;
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

async fn read(mut body: Incoming, bound: Bound) -> Result<Zeroizing<Vec<u8>>, Failure> {
    use hyper::body::Body as _;
    let announced = body.size_hint().lower();
    if let Bound::Whole(max) = bound
        && announced > u64::try_from(max).unwrap_or(u64::MAX)
    {
        return Err(Failure::TooLong(max));
    }
    let mut bytes =
        Zeroizing::new(Vec::with_capacity(usize::try_from(announced).unwrap_or(0).min(BODY_BYTES_FIRST)));
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Failure::Broken(format!("within the answer: {}", chain(&error))))?;
        let Ok(data) = frame.into_data() else { continue };
        let (Bound::Whole(max) | Bound::Begin(max)) = bound;
        if data.remaining() > max - bytes.len() {
            if let Bound::Whole(max) = bound {
                return Err(Failure::TooLong(max));
            }
            let room = max - bytes.len();
            make_room(&mut bytes, room);
            bytes.extend_from_slice(data.get(..room).unwrap_or_default());
            break;
        }
        make_room(&mut bytes, data.remaining());
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// An error and what caused it, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_told = cause.to_string();
        if !told.ends_with(&cause_told) {
            told.push_str(": ");
            told.push_str(&cause_told);
        }
        source = cause.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Answers every request at once, and keeps its connections.
    async fn quick() -> std::net::SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut seen = Vec::new();
                    while socket.read_buf(&mut seen).await.is_ok_and(|read| read > 0) {
                        if seen.ends_with(b"\r\n\r\n") {
                            seen.clear();
                            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
                        }
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn connects_that_nobody_needs_any_more_do_not_pile_up() {
        let host = HostName::new("hub-a.azure-devices.net").unwrap();
        let address = HostName::new(&quick().await.to_string()).unwrap();
        let endpoints = Endpoints::public().plain_at(host.clone(), address);
        let transport = Transport::with_connections(endpoints, 2).unwrap();
        let call = || async {
            let room = transport.room(&host).await.unwrap();
            let request = Request::get(format!("http://{host}/")).body(Full::default()).unwrap();
            transport.exchange(room, request, |_| Bound::Whole(64)).await.unwrap().status
        };
        for _ in 0..5 {
            let statuses = futures_util::future::join_all((0..400).map(|_| call())).await;
            assert!(statuses.iter().all(|status| *status == 200));
        }
        let none_waits = async {
            while transport.dialler.waiting() > 0 {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(5), none_waits).await;
        assert!(waited.is_ok(), "{} connects still wait", transport.dialler.waiting());
        assert!(transport.connections_opened() <= 2);
        assert!(transport.dialler.waiting_most() <= 2, "{}", transport.dialler.waiting_most());
    }
}
