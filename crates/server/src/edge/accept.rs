//! Takes connections in: so many at most, set up for small messages, and none left behind at the end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::limit::{Gate, Pass};

/// Connections that the kernel holds ready while we are busy.
const BACKLOG: u32 = 1_024;
/// First pause after a failed accept: out of file descriptors, the next attempt fails at once.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// Longest pause; by then a connection may have closed and left its descriptor.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long calls in flight may take to finish when the listener stops.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Silence on a connection after which the kernel asks whether the other side is there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
/// Pauses between its questions.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// Unanswered questions that end the connection.
const KEEPALIVE_TRIES: u32 = 3;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else has it.
    #[error(
        "cannot listen on {addr}: the port is in use, perhaps by another node of Berth; stop that program, or choose \
         another address (port 0 takes a free one)"
    )]
    InUse {
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The system refuses.
    #[error("cannot listen on {addr}: {source}")]
    Refused {
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// A connection's view of the listener's life.
#[derive(Debug, Clone)]
pub struct Stopping(watch::Receiver<bool>);

/// A connection that was taken in, set up so that small messages are not delayed.
#[derive(Debug)]
pub struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    stopping: Stopping,
    pass: Pass,
}

/// Listens on `addr`.
///
/// # Errors
/// [`ListenError`] with the address and what to do.
pub fn listen(addr: SocketAddr) -> Result<TcpListener, ListenError> {
    let open = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A node that restarts takes its port back from connections that linger in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { addr, source },
        _ => ListenError::Refused { addr, source },
    })
}

/// Runs `serve` for every connection until `stop`; then no more are taken, those there are told, and what has not
/// ended five seconds later is cut. Connections past the limit of `gate` are closed at once.
pub async fn accept<S, F>(listener: TcpListener, gate: Arc<Gate>, stop: impl Future<Output = ()>, serve: S)
where
    S: Fn(Accepted) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let (tell, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    let mut backoff = BACKOFF_MIN;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff = BACKOFF_MIN;
                let Some(pass) = gate.enter(1) else {
                    tracing::debug!(%peer, limit = gate.limit(), "refused a connection: the limit is reached");
                    continue;
                };
                if let Err(error) = set_up(&stream) {
                    tracing::debug!(%peer, %error, "a connection was gone before it was set up");
                    continue;
                }
                let stopping = Stopping(stopping.clone());
                connections.spawn(serve(Accepted { stream, peer, stopping, pass }));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, pause_ms = backoff.as_millis(), "cannot take a connection in; pausing");
                tokio::select! {
                    () = &mut stop => break,
                    () = tokio::time::sleep(backoff) => {}
                }
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
    drop(listener);
    drain(connections, &tell).await;
}

async fn drain(mut connections: JoinSet<()>, tell: &watch::Sender<bool>) {
    tell.send_replace(true);
    let ended = tokio::time::timeout(DRAIN_MAX, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if ended.await.is_err() {
        tracing::info!(connections = connections.len(), "closing connections that did not end by themselves");
        connections.shutdown().await;
    }
}

fn set_up(stream: &TcpStream) -> io::Result<()> {
    // Small answers must not wait for a full segment: with Nagle's algorithm they take 40 ms.
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// The other side gave up before we took it in; the listener is well.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked");
    }
}

impl Accepted {
    /// Its parts; the last is its place among the listener's connections, to be held as long as it lives.
    pub fn into_parts(self) -> (TcpStream, SocketAddr, Stopping, Pass) {
        (self.stream, self.peer, self.stopping, self.pass)
    }
}

impl Stopping {
    /// Waits until the listener stops.
    pub async fn wait(&mut self) {
        // A listener that is gone has stopped too.
        let _ = self.0.wait_for(|stopping| *stopping).await;
    }
}
