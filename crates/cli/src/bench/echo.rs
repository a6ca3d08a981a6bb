//! A bare gRPC service that takes any message and answers with so many bytes: what the transport alone can do on this
//! machine. It runs in a process of its own, as a node does.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::task::{Context, Poll};

use bytes::Bytes;
use clap::Args;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::server::{NamedService, UnaryService};
use tonic::{Request, Response, Status};

use super::raw::RawCodec;
use crate::failure::{EXIT_DONE, Failure};
use crate::screen::Screen;

/// The one path that is served.
pub(super) const ECHO_PATH: &str = "/berth.bench.Echo/Call";
/// Streams of one connection, as a node's.
const STREAMS_MAX: u32 = 256;
/// Flow-control window of one stream, as a node's.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Flow-control window of one connection, as a node's.
const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;
/// Largest request, as a node's.
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// Flags of the hidden command.
#[derive(Debug, Args)]
pub(crate) struct EchoArgs {
    /// Size of every answer
    #[arg(long)]
    response_bytes: usize,
}

/// Serves until stdin ends, that is, until the parent is gone.
pub(crate) async fn serve(args: EchoArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let failed = |error: std::io::Error| Failure::refused(format!("the echo cannot listen: {error}"));
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    writeln!(screen.raw(), "{address}")?;
    screen.flush()?;
    let (gone, parent) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        // Whatever ends the stream, the parent is gone.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = gone.send(());
    });
    let answer = Bytes::from(vec![0x5a; args.response_bytes]);
    let incoming = tokio_stream::StreamExt::map(TcpListenerStream::new(listener), |socket| {
        socket.and_then(|socket| socket.set_nodelay(true).map(|()| socket))
    });
    let serving = tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_service(Echo { answer })
        .serve_with_incoming(incoming);
    tokio::select! {
        served = serving => served.map_err(|e| Failure::refused(format!("the echo broke off: {e}")))?,
        _ = parent => {}
    }
    Ok(EXIT_DONE)
}

/// The service.
#[derive(Debug, Clone)]
struct Echo {
    answer: Bytes,
}

impl NamedService for Echo {
    const NAME: &'static str = "berth.bench.Echo";
}

impl tonic::codegen::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = Answer(self.answer.clone());
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(RawCodec).max_decoding_message_size(REQUEST_BYTES_MAX);
            Ok(grpc.unary(answer, request).await)
        })
    }
}

/// The answer to every message.
struct Answer(Bytes);

impl UnaryService<Bytes> for Answer {
    type Response = Bytes;
    type Future = std::future::Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        std::future::ready(Ok(Response::new(self.0.clone())))
    }
}

/// The echo in another process; it ends with this value.
pub(super) struct EchoProcess {
    child: Child,
    /// Held open while the echo shall live.
    _stdin: Option<ChildStdin>,
    address: String,
}

impl EchoProcess {
    /// Starts this same program as an echo.
    pub(super) fn start(response_bytes: usize) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::refused(format!("cannot start the echo to compare with: {error}"))
        };
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .args(["bench-echo", "--response-bytes", &response_bytes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(failed)?;
        let mut line = String::new();
        let read = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        read.transpose().map_err(failed)?;
        let (stdin, address) = (child.stdin.take(), line.trim().to_owned());
        let echo = Self { child, _stdin: stdin, address };
        if echo.address.is_empty() {
            return Err(Failure::refused("the echo to compare with ended at once"));
        }
        Ok(echo)
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for EchoProcess {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
