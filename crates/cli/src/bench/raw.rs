//! Calls whose messages stay bytes, so that the generator spends its time on the wire rather than on messages.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::failure::{EXIT_UNAVAILABLE, Failure};

/// Time to set a connection up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer; a batch of 10,000 takes far less.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Flow-control window of one stream, as the client library's.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Flow-control window of one connection, as the client library's.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Bytes in, bytes out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Connections, spread evenly over the endpoints.
pub(super) async fn connect<A: AsRef<str>>(
    endpoints: &[A],
    connections: usize,
) -> Result<Vec<Channel>, Failure> {
    let mut channels = Vec::with_capacity(connections);
    for address in endpoints.iter().cycle().take(connections) {
        let address = address.as_ref().trim();
        let address = address.strip_prefix("http://").unwrap_or(address);
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| Failure::usage(format!("endpoint `{address}` is not an address; write host:port")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let channel = endpoint.connect().await.map_err(|error| Failure {
            code: EXIT_UNAVAILABLE,
            message: format!("cannot connect to {address}: {}", deepest(&error)),
        })?;
        channels.push(channel);
    }
    Ok(channels)
}

/// One call.
pub(super) async fn call(channel: &Channel, path: &PathAndQuery, message: Bytes) -> Result<Bytes, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
    grpc.ready().await.map_err(|error| Status::unavailable(deepest(&error)))?;
    grpc.unary(Request::new(message), path.clone(), RawCodec).await.map(tonic::Response::into_inner)
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
