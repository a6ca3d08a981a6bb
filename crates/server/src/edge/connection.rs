//! The life of one gRPC connection: it shows that it speaks HTTP/2, is served, grows old, and ends.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tonic::body::Body;
use tower::Service;

use super::accept::Accepted;
use super::protocol::Http2;

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a caller may take to say it: a connection that says nothing holds a place of others.
const PREFACE_MAX: Duration = Duration::from_secs(5);
/// What callers are told who speak HTTP/1 here.
const WRONG_PROTOCOL: &[u8] =
    b"HTTP/1.1 426 Upgrade Required\r\nconnection: close\r\ncontent-type: text/plain\r\n\r\n\
    This port speaks gRPC over HTTP/2 without TLS. Metrics and probes are on the node's HTTP listener.\n";
/// After so long a client is asked to connect anew, so that load spreads over nodes that came later.
const AGE: Duration = Duration::from_secs(3_600);
/// How long a call may go on on a connection that is too old.
const AGE_GRACE: Duration = Duration::from_secs(600);

/// Who is at the other end, which decides how long they may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Clients connect anew every hour.
    Clients,
    /// Peers stay.
    Peers,
}

/// Serves one connection to its end.
pub(super) async fn serve<S>(accepted: Accepted, service: S, kind: Kind)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let (mut stream, peer, mut stopping, _pass) = accepted.into_parts();
    let preface = tokio::select! {
        preface = tokio::time::timeout(PREFACE_MAX, expect_preface(&mut stream)) => preface,
        () = stopping.wait() => return,
    };
    match preface {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "a connection was not HTTP/2"),
        Err(_) => return tracing::debug!(%peer, "a connection said nothing"),
    }
    let settings = match kind {
        Kind::Clients => Http2::CLIENTS,
        Kind::Peers => Http2::PEERS,
    };
    let io = TokioIo::new(Prefaced { pending: PREFACE, stream });
    let mut connection = pin!(settings.hyper().serve_connection(io, Ready(service)));
    let mut old = pin!(grow_old(kind, peer.port()));
    let mut told = false;
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "a connection broke");
                }
                return;
            }
            () = stopping.wait(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            age = &mut old => match age {
                Age::Old => connection.as_mut().graceful_shutdown(),
                Age::Over => return tracing::debug!(%peer, "closed an old connection with calls in flight"),
            },
        }
    }
}

/// Reads the preface, and tells callers of another protocol so.
async fn expect_preface(stream: &mut TcpStream) -> io::Result<()> {
    let mut said = [0_u8; PREFACE.len()];
    let mut read = 0;
    while let Some(free) = said.get_mut(read..).filter(|free| !free.is_empty()) {
        let more = stream.read(free).await?;
        if more == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read += more;
        if said.get(..read) != PREFACE.get(..read) {
            if said.first().is_some_and(u8::is_ascii_uppercase) {
                stream.write_all(WRONG_PROTOCOL).await?;
                stream.shutdown().await?;
                // What is left unread when a socket is closed resets it, and the caller may never see the answer.
                while stream.read(&mut said).await? > 0 {}
            }
            return Err(io::Error::other("it began with something else"));
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    Old,
    Over,
}

/// Tells twice: when a connection is old, and when the grace after that is over.
fn grow_old(kind: Kind, port: u16) -> GrowOld {
    // A tenth more or less by the caller's port, so that connections made together do not end together.
    let age = AGE.mul_f64(0.9 + 0.2 * f64::from(port % 1_000) / 1_000.0);
    let sleep = (kind == Kind::Clients).then(|| Box::pin(tokio::time::sleep(age)));
    GrowOld { sleep, old: false }
}

struct GrowOld {
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    old: bool,
}

impl Future for GrowOld {
    type Output = Age;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Age> {
        let this = &mut *self;
        let Some(sleep) = &mut this.sleep else { return Poll::Pending };
        if sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if this.old {
            this.sleep = None;
            return Poll::Ready(Age::Over);
        }
        let grace_end = tokio::time::Instant::now() + AGE_GRACE;
        sleep.as_mut().reset(grace_end);
        this.old = true;
        Poll::Ready(Age::Old)
    }
}

/// A tower service as hyper calls it. Every service of the stack is always ready: what is too much is refused by an
/// answer, never held back.
#[derive(Debug, Clone)]
struct Ready<S>(S);

impl<S> hyper::service::Service<Request<Incoming>> for Ready<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = S::Future;

    fn call(&self, request: Request<Incoming>) -> S::Future {
        self.0.clone().call(request)
    }
}

/// A connection whose preface was read and is given back.
struct Prefaced {
    pending: &'static [u8],
    stream: TcpStream,
}

impl AsyncRead for Prefaced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.pending.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let (now, later) = self.pending.split_at(self.pending.len().min(buf.remaining()));
        buf.put_slice(now);
        self.pending = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefaced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
