//! What one HTTP/2 connection may ask of us. tonic passes several limits down as unlimited unless they are set.

use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// Settings of HTTP/2 connections of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2 {
    /// Calls in flight on one connection.
    pub streams_max: u32,
    /// Bytes that a caller may send of one message before we have read them.
    pub stream_window: u32,
    /// The same over all calls of the connection: with the number of connections this bounds what unread
    /// requests can hold.
    pub connection_window: u32,
}

/// Streams that a peer reset and we have not looked at yet, before the connection is closed: the bound on rapid reset.
const RESETS_PENDING_MAX: usize = 20;
/// Streams that we reset for a peer's protocol errors, before the connection is closed.
const RESETS_LOCAL_MAX: usize = 1_024;
/// Bytes of a request's headers.
const HEADER_BYTES_MAX: u32 = 16 * 1_024;
/// Silence after which the other side is pinged.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long it has to answer the ping.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

impl Http2 {
    /// For clients: many connections, small requests, a batch or an import chunk now and then.
    pub const CLIENTS: Self =
        Self { streams_max: 256, stream_window: 1_024 * 1_024, connection_window: 2 * 1_024 * 1_024 };
    /// For peers: few connections, which carry entries of up to 3 MiB and snapshots.
    pub const PEERS: Self =
        Self { streams_max: 64, stream_window: 4 * 1_024 * 1_024, connection_window: 16 * 1_024 * 1_024 };

    /// A connection builder with these settings.
    pub fn hyper(self) -> http2::Builder<TokioExecutor> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .adaptive_window(false)
            .max_concurrent_streams(self.streams_max)
            .initial_stream_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            .max_local_error_reset_streams(RESETS_LOCAL_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            // gRPC answers carry no date.
            .auto_date_header(false);
        builder
    }
}
