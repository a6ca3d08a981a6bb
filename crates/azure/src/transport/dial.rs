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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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
    /// Permits of each host spoken to; a connection holds one for its life.
    hosts: Mutex<HashMap<HostName, Arc<Semaphore>>>,
    opened: AtomicU64,
}

impl Dialler {
    pub(super) fn new(endpoints: Endpoints, tls: TlsConnector, per_host_max: usize) -> Self {
        let (hosts, opened) = (Mutex::default(), AtomicU64::new(0));
        Self { inner: Arc::new(Inner { endpoints, tls, per_host_max, hosts, opened }) }
    }

    pub(super) fn endpoints(&self) -> &Endpoints {
        &self.inner.endpoints
    }

    pub(super) fn opened(&self) -> u64 {
        self.inner.opened.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn permits(&self, host: &HostName) -> io::Result<Arc<Semaphore>> {
        let mut hosts = self.hosts.lock();
        if let Some(permits) = hosts.get(host) {
            return Ok(Arc::clone(permits));
        }
        if hosts.len() >= HOSTS_MAX {
            return Err(io::Error::other(format!(
                "{HOSTS_MAX} hosts are spoken to already; no room for {host}"
            )));
        }
        let permits = Arc::new(Semaphore::new(self.per_host_max));
        hosts.insert(host.clone(), Arc::clone(&permits));
        Ok(permits)
    }

    async fn open(&self, uri: Uri) -> io::Result<TokioIo<Link>> {
        let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let host = HostName::new(authority).map_err(io::Error::other)?;
        let permit = self.permits(&host)?.acquire_owned().await.map_err(io::Error::other)?;
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
        Box::pin(async move { inner.open(uri).await })
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
