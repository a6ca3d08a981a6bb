//! A bare gRPC service that answers every call with one recorded answer: what tonic alone can do on this machine. It
//! runs in a process of its own, as a node does.
//!
//! It either reads and writes the call's protobuf messages, as every gRPC service has to, or moves their bytes unread,
//! which no service that looks at its requests can reach.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll};

use berth_client::v1;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use futures_util::future::BoxFuture;
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codec::Codec;
use tonic::server::{NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

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

/// Largest answer that is recorded.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// What the echo does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Echoed {
    /// Reads the request and writes the answer, as protobuf messages
    Messages,
    /// Moves the bytes of both, unread
    Bytes,
}

/// The call that is stood in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Method {
    /// `Lookup`
    Lookup,
    /// `BatchLookup`
    BatchLookup,
}

/// Flags of the hidden command.
#[derive(Debug, Args)]
pub(crate) struct EchoArgs {
    /// What is done with a message
    #[arg(long, value_enum)]
    echoed: Echoed,
    /// The call that is stood in for
    #[arg(long, value_enum)]
    method: Method,
    /// Bytes of the answer, which stdin begins with
    #[arg(long)]
    answer_bytes: usize,
}

/// Serves until stdin ends, that is, until the parent is gone.
pub(crate) async fn serve(args: EchoArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let failed = |error: std::io::Error| Failure::refused(format!("the echo cannot listen: {error}"));
    if args.answer_bytes > ANSWER_BYTES_MAX {
        return Err(Failure::usage(format!(
            "--answer-bytes is {}; at most {ANSWER_BYTES_MAX} are allowed",
            args.answer_bytes
        )));
    }
    let mut answer = vec![0; args.answer_bytes];
    std::io::stdin().lock().read_exact(&mut answer).map_err(failed)?;
    let echo = Echo::new(args.echoed, args.method, answer.into())
        .map_err(|error| Failure::refused(format!("the recorded answer cannot be read: {error}")))?;
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
    let incoming = tokio_stream::StreamExt::map(TcpListenerStream::new(listener), |socket| {
        socket.and_then(|socket| socket.set_nodelay(true).map(|()| socket))
    });
    let serving = tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_service(echo)
        .serve_with_incoming(incoming);
    tokio::select! {
        served = serving => served.map_err(|e| Failure::refused(format!("the echo broke off: {e}")))?,
        _ = parent => {}
    }
    Ok(EXIT_DONE)
}

/// The service, by what it answers.
#[derive(Debug, Clone)]
enum Echo {
    Bytes(Arc<Bytes>),
    Lookup(Arc<v1::LookupResponse>),
    BatchLookup(Arc<v1::BatchLookupResponse>),
}

impl Echo {
    fn new(echoed: Echoed, method: Method, answer: Bytes) -> Result<Self, prost::DecodeError> {
        Ok(match (echoed, method) {
            (Echoed::Bytes, _) => Self::Bytes(Arc::new(answer)),
            (Echoed::Messages, Method::Lookup) => Self::Lookup(Arc::new(Message::decode(answer)?)),
            (Echoed::Messages, Method::BatchLookup) => Self::BatchLookup(Arc::new(Message::decode(answer)?)),
        })
    }
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
        match self {
            Self::Bytes(answer) => respond(RawCodec, answer, request),
            Self::Lookup(answer) => respond(ProstCodec::<_, v1::LookupRequest>::default(), answer, request),
            Self::BatchLookup(answer) => {
                respond(ProstCodec::<_, v1::BatchLookupRequest>::default(), answer, request)
            }
        }
    }
}

/// Answers a call by way of `codec`.
fn respond<C>(
    codec: C,
    answer: &Arc<C::Encode>,
    request: http::Request<Body>,
) -> BoxFuture<'static, Result<http::Response<Body>, Infallible>>
where
    C: Codec + Send + 'static,
    C::Encode: Clone + Send + Sync + 'static,
    C::Decode: Send + 'static,
{
    let answer = Answer(Arc::clone(answer));
    Box::pin(async move {
        let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(REQUEST_BYTES_MAX);
        Ok(grpc.unary(answer, request).await)
    })
}

/// The answer to every message.
struct Answer<T>(Arc<T>);

impl<R, T: Clone> UnaryService<R> for Answer<T> {
    type Response = T;
    type Future = std::future::Ready<Result<Response<T>, Status>>;

    fn call(&mut self, _: Request<R>) -> Self::Future {
        std::future::ready(Ok(Response::new(T::clone(&self.0))))
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
    /// Starts this same program as an echo that gives this answer to each call.
    pub(super) fn start(echoed: Echoed, method: Method, answer: &[u8]) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::refused(format!("cannot start the echo to compare with: {error}"))
        };
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .arg("bench-echo")
            .args(["--echoed", &name_of(&echoed)])
            .args(["--method", &name_of(&method)])
            .args(["--answer-bytes", &answer.len().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(failed)?;
        let mut stdin = child.stdin.take();
        stdin.as_mut().map(|stdin| stdin.write_all(answer)).transpose().map_err(failed)?;
        let mut line = String::new();
        let read = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        read.transpose().map_err(failed)?;
        let address = line.trim().to_owned();
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

/// How a value is written as a flag.
fn name_of(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

impl Drop for EchoProcess {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
