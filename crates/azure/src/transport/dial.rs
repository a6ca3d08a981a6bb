//! Opens connections: to the address that the endpoints name, over TLS to the host that is meant, and no more of them
//! to one host than allowed.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::endpoints::{Endpoints, Wire};
use super::{HOSTS_MAX, OPEN_MAX};
use crate::id::HostName;

/// Opens connections for the pool.
#[derive(Clone)]
pub(super) struct Dialler {
    inner: Arc<Inner>,
}

struct Inner {
    endpoints: Endpoints,
    tls: TlsConnector,
    per_host_max: usize,
    hosts: Mutex<HashMap<HostName, Arc<Gate>>>,
    opened: AtomicU64,
    /// Connects that wait for leave now, and the most that ever did.
    waiting: AtomicU64,
    waiting_most: AtomicU64,
}

/// The bounds of one host.
pub(super) struct Gate {
    /// A request holds one while it is under way.
    pub(super) requests: Arc<Semaphore>,
    /// A connection holds one for its life.
    connections: Arc<Semaphore>,
}

tokio::task_local! {
    /// Closed once the request has its answer or is given up. The pool begins a connect for a request, and lets it go on
    /// by itself where another connection becomes free sooner: then nobody needs it any more.
    static WANTED: watch::Receiver<()>;
}

/// Runs a request of the pool, whose connects wait for leave no longer than it does.
pub(super) async fn wanting<F: Future>(request: F) -> F::Output {
    let (wanted, heard) = watch::channel(());
    let output = WANTED.scope(heard, request).await;
    drop(wanted);
    output
}

/// Counts a connect as waiting while it lives.
struct Waiting<'a>(&'a Inner);

impl<'a> Waiting<'a> {
    fn new(inner: &'a Inner) -> Self {
        let now = inner.waiting.fetch_add(1, Ordering::Relaxed) + 1;
        inner.waiting_most.fetch_max(now, Ordering::Relaxed);
        Self(inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dialler {
    pub(super) fn new(endpoints: Endpoints, tls: TlsConnector, per_host_max: usize) -> Self {
        let (hosts, opened) = (Mutex::default(), AtomicU64::new(0));
        let (waiting, waiting_most) = (AtomicU64::new(0), AtomicU64::new(0));
        let inner = Inner { endpoints, tls, per_host_max, hosts, opened, waiting, waiting_most };
        Self { inner: Arc::new(inner) }
    }

    pub(super) fn endpoints(&self) -> &Endpoints {
        &self.inner.endpoints
    }

    pub(super) fn opened(&self) -> u64 {
        self.inner.opened.load(Ordering::Relaxed)
    }

    /// The bounds of a host, and an error where there are too many hosts.
    pub(super) fn gate(&self, host: &HostName) -> io::Result<Arc<Gate>> {
        self.inner.gate(host)
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> u64 {
        self.inner.waiting.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn waiting_most(&self) -> u64 {
        self.inner.waiting_most.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn gate(&self, host: &HostName) -> io::Result<Arc<Gate>> {
        let mut hosts = self.hosts.lock();
        if let Some(gate) = hosts.get(host) {
            return Ok(Arc::clone(gate));
        }
        if hosts.len() >= HOSTS_MAX {
            return Err(io::Error::other(format!(
                "{HOSTS_MAX} hosts are spoken to already; no room for {host}"
            )));
        }
        let permits = || Arc::new(Semaphore::new(self.per_host_max));
        let gate = Arc::new(Gate { requests: permits(), connections: permits() });
        hosts.insert(host.clone(), Arc::clone(&gate));
        Ok(gate)
    }

    /// Leave for one more connection, waited for while the request that wants it does.
    async fn leave(
        &self,
        host: &HostName,
        wanted: Option<watch::Receiver<()>>,
    ) -> io::Result<OwnedSemaphorePermit> {
        let connections = &self.gate(host)?.connections;
        if let Ok(permit) = Arc::clone(connections).try_acquire_owned() {
            return Ok(permit);
        }
        let unwanted = || io::Error::other(format!("{host} has all its connections, and nobody waits"));
        let mut wanted = wanted.ok_or_else(unwanted)?;
        let _waiting = Waiting::new(self);
        tokio::select! {
            permit = Arc::clone(connections).acquire_owned() => permit.map_err(io::Error::other),
            // Nothing is ever sent: this is the end of the request.
            _ = wanted.changed() => Err(unwanted()),
        }
    }

    async fn open(&self, uri: Uri, wanted: Option<watch::Receiver<()>>) -> io::Result<TokioIo<Link>> {
        let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let host = HostName::new(authority).map_err(io::Error::other)?;
        let permit = self.leave(&host, wanted).await?;
        let opened = tokio::time::timeout(OPEN_MAX, self.stream(&host)).await;
        let stream = opened.map_err(|_| {
            let (name, port) = self.endpoints.address(&host);
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{name}:{port} opened nothing within {OPEN_MAX:?}"),
            )
        })??;
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(TokioIo::new(Link { stream, _permit: permit }))
    }

    async fn stream(&self, host: &HostName) -> io::Result<Stream> {
        let (name, port) = self.endpoints.address(host);
        let socket = TcpStream::connect((name.as_str(), port))
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("{name}:{port}: {error}")))?;
        socket.set_nodelay(true)?;
        Ok(match self.endpoints.wire(host) {
            Wire::Plain => Stream::Plain { socket },
            Wire::Tls => {
                let expected = ServerName::try_from(host.name().to_owned()).map_err(io::Error::other)?;
                let tls = self.tls.connect(expected, socket).await;
                let tls = tls.map_err(|error| {
                    io::Error::new(
                        error.kind(),
                        format!("TLS with {} at {name}:{port}: {error}", host.name()),
                    )
                })?;
                Stream::Tls { tls: Box::new(tls) }
            }
        })
    }
}

impl tower::Service<Uri> for Dialler {
    type Response = TokioIo<Link>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Link>>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        // The pool calls within the task of the request, and may poll elsewhere later.
        let wanted = WANTED.try_with(watch::Receiver::clone).ok();
        Box::pin(async move { inner.open(uri, wanted).await })
    }
}

/// One open connection.
pub(super) struct Link {
    stream: Stream,
    _permit: OwnedSemaphorePermit,
}

enum Stream {
    Plain { socket: TcpStream },
    Tls { tls: Box<TlsStream<TcpStream>> },
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Link {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain { socket } => Pin::new(socket).poll_read(cx, buffer),
            Stream::Tls { tls } => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain { socket } => Pin::new(socket).poll_write(cx, bytes),
            Stream::Tls { tls } => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain { socket } => Pin::new(socket).poll_flush(cx),
            Stream::Tls { tls } => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain { socket } => Pin::new(socket).poll_shutdown(cx),
            Stream::Tls { tls } => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
