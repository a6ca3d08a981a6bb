//! How bytes reach a peer. Injected, so that a test can cut and delay a link.

use std::io;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

/// How long a connection may take to open. A dead host must not hold a vote for longer.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
/// How often an open connection is probed when nothing else travels.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// How long a probe may stay unanswered before the connection is given up.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of one stream in flight: four entries of the usual largest size are 8 MiB, but a peer that
/// does not read them should not have them all.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes of one connection in flight.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// A connection to a peer.
pub trait PeerIo: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> PeerIo for T {}

/// Opens connections to peers.
pub trait Dial: Send + Sync + 'static {
    /// Connects to `addr`, a `host:port`.
    fn dial(&self, addr: String) -> BoxFuture<'static, io::Result<Box<dyn PeerIo>>>;
}

/// Plain TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpDial;

impl Dial for TcpDial {
    fn dial(&self, addr: String) -> BoxFuture<'static, io::Result<Box<dyn PeerIo>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(addr).await?;
            // Without it small messages wait for acknowledgements, 40 ms at a time.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn PeerIo>)
        })
    }
}

/// A channel to `addr` that connects when it is first used, and again after the connection is lost.
///
/// # Errors
/// When `addr` is not a `host:port`.
pub fn lazy_channel(dial: &std::sync::Arc<dyn Dial>, addr: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))
        .map_err(|error| format!("{addr:?} is not an address of the form host:port: {error}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let (dial, addr) = (std::sync::Arc::clone(dial), addr.to_owned());
    let connector = tower::service_fn(move |_: http::Uri| {
        let connecting = dial.dial(addr.clone());
        async move {
            // tonic's own connect timeout does not reach a connector that is not hyper's.
            match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(connected) => connected.map(TokioIo::new),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}
