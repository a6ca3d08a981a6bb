//! Imports: numbered chunks, a few in flight, each acknowledged when it is durable; a broken stream is taken up again
//! after the last acknowledged chunk.

use std::collections::VecDeque;
use std::time::Instant;

use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::device_service_client::DeviceServiceClient;
use berth_proto::v1::import_request::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::backoff::Backoff;
use crate::call::Client;
use crate::error::{Attempt, Error, Next};

/// Rows that a chunk should have at most: large enough to amortise a disk sync, small enough to be one log entry.
pub const CHUNK_ROWS_MAX: usize = 2_000;
/// Chunks that wait for their acknowledgement at most: the server reads no further.
pub const CHUNKS_IN_FLIGHT_MAX: usize = 4;
/// Longest chunk that is sent.
const CHUNK_BYTES_MAX: usize = 4 << 20;

/// What an import did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportTotals {
    /// Chunks acknowledged.
    pub chunks: u64,
    /// Devices that are new.
    pub created: u64,
    /// Devices whose hub or status changed.
    pub moved: u64,
    /// Devices of which only labels, scope or registration ID changed.
    pub touched: u64,
    /// Devices that were as asked already.
    pub unchanged: u64,
    /// Devices left as they are because they exist.
    pub skipped: u64,
    /// Rows refused.
    pub refused: u64,
    /// True where the cluster ended the import at a refused row.
    pub stopped: bool,
}

impl ImportTotals {
    fn add(&mut self, ack: &v1::ImportResponse) {
        self.chunks += 1;
        self.created += ack.created;
        self.moved += ack.moved;
        self.touched += ack.touched;
        self.unchanged += ack.unchanged;
        self.skipped += ack.skipped;
        self.refused += ack.refused;
    }
}

impl Client {
    /// Imports the chunks that come out of `chunks`, in order, and calls `acknowledged` for each answer. An empty
    /// `import_id` is replaced by a new one. Returns once all chunks are acknowledged, or the cluster stopped the
    /// import at a refused row.
    ///
    /// A long import outlives the time for which the cluster remembers request IDs. It then goes on under a new ID,
    /// unless a chunk that is not acknowledged may have been written under the old one.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] names the import ID where nobody answered for the client's deadline: import again
    /// under this ID, from the first chunk without acknowledgement. See [`Error`] for the rest.
    pub async fn import(
        &self,
        mut start: v1::ImportStart,
        mut chunks: mpsc::Receiver<v1::ImportChunk>,
        mut acknowledged: impl FnMut(&v1::ImportResponse),
    ) -> Result<ImportTotals, Error> {
        if start.import_id.is_empty() {
            start.import_id = self.new_request_id();
        }
        let options = self.options();
        let mut backoff = Backoff::new(options.backoff_first, options.backoff_max);
        let mut run = Run::default();
        let mut stuck_since = Instant::now();
        let mut attempts = 0_u32;
        loop {
            let chunks_before = run.totals.chunks;
            let node = self.nodes.leader();
            let status = match run.stream(node.channel(), &start, &mut chunks, &mut acknowledged, self).await
            {
                Ok(()) => {
                    self.nodes.set_leader(&node);
                    return Ok(run.totals);
                }
                Err(Broken::Protocol(problem)) => return Err(Error::Protocol { problem }),
                Err(Broken::Status(status)) => *status,
            };
            if run.is_last_seen && run.waiting.is_empty() && run.totals.chunks > 0 {
                // All is acknowledged; only the stream's own end was lost.
                return Ok(run.totals);
            }
            if run.totals.chunks > chunks_before {
                (stuck_since, attempts) = (Instant::now(), 0);
                backoff.reset();
            }
            attempts += 1;
            let attempt = Attempt::failed(&status, &node);
            tracing::debug!(address = %node.address, error = %attempt.reason, "import broke off");
            if attempt.unreachable {
                node.rest();
            }
            self.nodes.forget_leader(&node);
            match attempt.next {
                Next::Final => return Err(attempt.into_error()),
                Next::RequestId if run.in_doubt > 0 => return Err(attempt.into_error()),
                Next::RequestId => {
                    self.learn_time(&attempt);
                    start.import_id = self.new_request_id();
                }
                // The server may go on with what it has read.
                Next::Unknown => run.in_doubt = run.waiting.len(),
                Next::Elsewhere | Next::Later => {}
            }
            if run.waiting.is_empty() && !run.is_last_seen {
                // A server lets a stream go on which nothing comes for long; there is no use in another one before
                // there is something to send, and nothing is in doubt.
                run.take_next(&mut chunks).await;
                (stuck_since, attempts) = (Instant::now(), 0);
                continue;
            }
            if attempts >= options.attempts_max || stuck_since.elapsed() >= self.deadline() {
                let last =
                    format!("{}; {} chunks are acknowledged and durable", attempt.reason, run.totals.chunks);
                return Err(Error::OutcomeUnknown { request_id: start.import_id, last });
            }
            let hint = match &attempt.reason {
                ApiError::NotLeader { leader: Some(leader) } => self.nodes.at(&leader.address),
                _ => None,
            };
            match hint {
                Some(leader) => self.nodes.set_leader(&leader),
                None => tokio::time::sleep(backoff.next(rand::random(), attempt.reason.retry_after())).await,
            }
        }
    }
}

/// How a stream ended before its time.
enum Broken {
    Status(Box<tonic::Status>),
    Protocol(String),
}

/// An import over all its streams.
#[derive(Default)]
struct Run {
    /// Chunks without acknowledgement, the oldest first.
    waiting: VecDeque<v1::ImportChunk>,
    /// How many of them, the oldest, may have been written by a stream that broke.
    in_doubt: usize,
    /// True once the caller's last chunk was taken.
    is_last_seen: bool,
    totals: ImportTotals,
}

impl Run {
    /// One stream, from the oldest unacknowledged chunk on.
    async fn stream(
        &mut self,
        channel: tonic::transport::Channel,
        start: &v1::ImportStart,
        chunks: &mut mpsc::Receiver<v1::ImportChunk>,
        acknowledged: &mut impl FnMut(&v1::ImportResponse),
        client: &Client,
    ) -> Result<(), Broken> {
        // The start and all unacknowledged chunks fit, so that sending never waits.
        let (requests, queue) = mpsc::channel(CHUNKS_IN_FLIGHT_MAX + 1);
        let mut requests = Some(requests);
        let messages = self.waiting.iter().cloned().map(Message::Chunk);
        for message in std::iter::once(Message::Start(start.clone())).chain(messages) {
            if let Some(sender) = requests.as_ref() {
                // There is room for all of them, and the queue's other end is still here.
                let _ = sender.try_send(v1::ImportRequest { message: Some(message) });
            }
        }
        let mut service = DeviceServiceClient::new(channel).max_encoding_message_size(CHUNK_BYTES_MAX);
        let opening = service.import(ReceiverStream::new(queue));
        let opened = tokio::time::timeout(client.options().attempt_timeout, opening).await;
        let opened =
            opened.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("the stream did not open")));
        let mut answers: Streaming<v1::ImportResponse> = opened.map_err(boxed)?.into_inner();
        loop {
            let has_room = self.waiting.len() < CHUNKS_IN_FLIGHT_MAX && !self.is_last_seen;
            if self.is_last_seen {
                // Nothing is left to say: the server ends the stream after the last acknowledgement.
                requests = None;
            }
            tokio::select! {
                chunk = chunks.recv(), if has_room => match chunk {
                    None => self.is_last_seen = true,
                    Some(chunk) => {
                        if let Some(sender) = requests.as_ref() {
                            let message = Some(Message::Chunk(chunk.clone()));
                            // Where the stream is broken the answers' side says so.
                            let _ = sender.try_send(v1::ImportRequest { message });
                        }
                        self.waiting.push_back(chunk);
                    }
                },
                answer = answers.message() => match answer {
                    Err(status) => return Err(boxed(status)),
                    Ok(Some(ack)) => {
                        self.take(&ack)?;
                        client.observe(&ack);
                        acknowledged(&ack);
                        if ack.refused > 0 && start.on_error() != v1::OnError::Continue {
                            self.totals.stopped = true;
                            return Ok(());
                        }
                    }
                    Ok(None) if self.is_last_seen && self.waiting.is_empty() => return Ok(()),
                    Ok(None) => return Err(boxed(tonic::Status::unavailable("the stream ended early"))),
                },
            }
        }
    }

    /// Waits for the caller's next chunk, or for the news that there is none.
    async fn take_next(&mut self, chunks: &mut mpsc::Receiver<v1::ImportChunk>) {
        match chunks.recv().await {
            Some(chunk) => self.waiting.push_back(chunk),
            None => self.is_last_seen = true,
        }
    }

    /// Counts an acknowledgement; they come in order.
    fn take(&mut self, ack: &v1::ImportResponse) -> Result<(), Broken> {
        match self.waiting.pop_front() {
            Some(chunk) if chunk.chunk_no == ack.chunk_no => {
                self.totals.add(ack);
                self.in_doubt = self.in_doubt.saturating_sub(1);
                Ok(())
            }
            Some(chunk) => {
                let problem =
                    format!("chunk {} is acknowledged where {} was due", ack.chunk_no, chunk.chunk_no);
                Err(Broken::Protocol(problem))
            }
            None => Err(Broken::Protocol(format!("chunk {} is acknowledged but was not sent", ack.chunk_no))),
        }
    }
}

fn boxed(status: tonic::Status) -> Broken {
    Broken::Status(Box::new(status))
}
