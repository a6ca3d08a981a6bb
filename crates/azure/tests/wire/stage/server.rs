//! An HTTP/1.1 server that does what its script says, byte for byte.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// Largest head that a test's request has, in bytes.
const HEAD_MAX: usize = 128 * 1_024;

/// What to do about one request.
#[derive(Debug, Clone)]
pub enum Act {
    /// A whole answer; the connection stays.
    Answer { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// A whole answer, after which the connection is closed without a word.
    AnswerAndClose { status: u16, body: Vec<u8> },
    /// A whole answer; when the server is told to go on, the connection is reset.
    AnswerAndReset { status: u16, body: Vec<u8> },
    /// These bytes as they are, and then the end of the connection.
    Bytes(Vec<u8>),
    /// These bytes as they are, and then nothing more.
    BytesAndSilence(Vec<u8>),
    /// The head of a chunked answer, then chunks without end.
    Endless,
    /// The end of the connection.
    Close,
    /// Nothing, until the server is told to go on: then a 200 with `{}`.
    Wait,
}

/// A JSON answer.
pub fn json(status: u16, body: impl AsRef<[u8]>) -> Act {
    let headers = vec![("content-type".into(), "application/json; charset=utf-8".into())];
    Act::Answer { status, headers, body: body.as_ref().to_vec() }
}

impl Act {
    pub fn with(mut self, name: &str, value: &str) -> Self {
        match &mut self {
            Self::Answer { headers, .. } => headers.push((name.into(), value.into())),
            other => panic!("{other:?} has no headers"),
        }
        self
    }
}

/// A request that came.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// Makes up an act for each request, instead of a script.
type Answering = Box<dyn Fn(&Seen) -> Act + Send + Sync>;

struct Script {
    acts: Mutex<VecDeque<Act>>,
    answering: Option<Answering>,
    seen: Mutex<Vec<Seen>>,
    count: watch::Sender<usize>,
    go_on: Semaphore,
    resets: bool,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default, Clone, Copy)]
pub struct Connections {
    pub opened: usize,
    pub open: usize,
    pub most: usize,
}

pub struct Server {
    address: SocketAddr,
    script: Arc<Script>,
}

struct OpenConnection(Arc<Script>);

impl OpenConnection {
    fn new(script: &Arc<Script>) -> Self {
        let mut connections = script.connections.lock();
        connections.opened += 1;
        connections.open += 1;
        connections.most = connections.most.max(connections.open);
        Self(Arc::clone(script))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.lock().open -= 1;
    }
}

impl Server {
    pub async fn plain() -> Self {
        Self::start(None, None, false).await
    }

    /// A server whose connections end with a reset wherever it ends them.
    pub async fn resetting() -> Self {
        Self::start(None, None, true).await
    }

    pub async fn tls(acceptor: TlsAcceptor) -> Self {
        Self::start(Some(acceptor), None, false).await
    }

    /// A server that makes up its answers.
    pub async fn answering(
        acceptor: TlsAcceptor,
        answer: impl Fn(&Seen) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(acceptor), Some(Box::new(answer)), false).await
    }

    async fn start(acceptor: Option<TlsAcceptor>, answering: Option<Answering>, resets: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Script {
            acts: Mutex::default(),
            answering,
            seen: Mutex::default(),
            count: watch::Sender::new(0),
            go_on: Semaphore::new(0),
            resets,
            connections: Mutex::default(),
        });
        let ours = Arc::clone(&script);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (script, acceptor) = (Arc::clone(&ours), acceptor.clone());
                if resets {
                    // What is closed with no time to linger is reset.
                    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
                }
                tokio::spawn(async move {
                    let _open = OpenConnection::new(&script);
                    match acceptor {
                        None => serve(socket, &script).await,
                        Some(acceptor) => {
                            if let Ok(tls) = acceptor.accept(socket).await {
                                serve(tls, &script).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, script }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds to the script. A request beyond its end is answered 599.
    pub fn play(&self, acts: impl IntoIterator<Item = Act>) {
        self.script.acts.lock().extend(acts);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.script.seen.lock().clone()
    }

    /// The requests since this was last asked.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.script.seen.lock())
    }

    pub fn connections(&self) -> Connections {
        *self.script.connections.lock()
    }

    /// Waits until so many requests have come in all.
    pub async fn has_seen(&self, count: usize) {
        self.script.count.subscribe().wait_for(|seen| *seen >= count).await.unwrap();
    }

    /// Lets so many of those that wait go on.
    pub fn go_on(&self, count: usize) {
        self.script.go_on.add_permits(count);
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, script: &Script) {
    let mut buffer = Vec::new();
    while let Some(seen) = request(&mut stream, &mut buffer).await {
        let made_up = script.answering.as_ref().map(|answer| answer(&seen));
        script.seen.lock().push(seen);
        let act = made_up.or_else(|| script.acts.lock().pop_front());
        script.count.send_modify(|count| *count += 1);
        let act = act.unwrap_or_else(|| json(599, "{\"message\":\"the script is at its end\"}"));
        if !perform(&mut stream, act, script).await {
            if !script.resets {
                let _ = stream.shutdown().await;
            }
            return;
        }
    }
}

/// Plays one act; false where the connection ends with it.
async fn perform<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, act: Act, script: &Script) -> bool {
    match act {
        Act::Answer { status, headers, body } => {
            stream.write_all(&whole(status, &headers, &body)).await.is_ok()
        }
        Act::AnswerAndClose { status, body } => {
            let headers = [("content-type".to_owned(), "application/json".to_owned())];
            let _ = stream.write_all(&whole(status, &headers, &body)).await;
            false
        }
        Act::AnswerAndReset { status, body } => {
            let headers = [("content-type".to_owned(), "application/json".to_owned())];
            let _ = stream.write_all(&whole(status, &headers, &body)).await;
            script.go_on.acquire().await.unwrap().forget();
            false
        }
        Act::Bytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
            false
        }
        Act::BytesAndSilence(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.flush().await;
            let mut rest = [0; 64];
            // Until the client has had enough.
            while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
            false
        }
        Act::Endless => {
            let head =
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
            let mut chunk = b"10000\r\n".to_vec();
            chunk.extend(vec![b' '; 0x10000]);
            chunk.extend(b"\r\n");
            if stream.write_all(head).await.is_ok() {
                while stream.write_all(&chunk).await.is_ok() {}
            }
            false
        }
        Act::Close => false,
        Act::Wait => {
            script.go_on.acquire().await.unwrap().forget();
            let headers = [("content-type".to_owned(), "application/json".to_owned())];
            stream.write_all(&whole(200, &headers, b"{}")).await.is_ok()
        }
    }
}

fn whole(status: u16, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status} Scripted\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend(format!("{name}: {value}\r\n").into_bytes());
    }
    if status != 204 {
        bytes.extend(format!("content-length: {}\r\n", body.len()).into_bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body);
    bytes
}

async fn request<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        assert!(buffer.len() < HEAD_MAX, "a request without an end");
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer.drain(..end + 4).collect()).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
    while buffer.len() < length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = buffer.drain(..length).collect();
    Some(Seen { method, path, headers, body })
}
