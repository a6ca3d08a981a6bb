//! Groups commands into entries: what arrives while an entry is on its way travels in the next.
//!
//! A lone command goes out at once, alone. Under load entries fill up by themselves, and a second to
//! fourth entry goes out beside the first once enough waits to be worth one. The time of the group is
//! stamped here, by the leader, so that every replica decides with the same clock.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use berth_store::payload::{COMMAND_BYTES_MAX, FRAME_BYTES_MAX, FRAME_COMMANDS_MAX};
use berth_store::raft::{Applied, BerthNode, CommandResult, LogId, Payload};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};

use super::machine::Clock;
use crate::metrics::WorkMetrics;

/// Commands accepted and not yet answered. More are refused at once.
pub const IN_FLIGHT_COMMANDS_MAX: usize = 8_192;
/// Bytes of commands accepted and not yet answered.
pub const IN_FLIGHT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Entries on their way at once: four keep disk, network and apply busy; more only add latency.
const IN_FLIGHT_ENTRIES_MAX: usize = 4;
/// Bytes that are worth an entry beside one that is on its way.
const WORTH_BYTES: usize = 32 * 1024;
/// Commands that are worth an entry beside one that is on its way.
const WORTH_COMMANDS: usize = 500;
/// How long a command waits behind an entry that is on its way before it goes out beside it, however
/// little it is worth: a slow entry must not hold up those behind it.
const PATIENCE: Duration = Duration::from_millis(10);
/// How long a command waits for its turn at all. When four entries are stuck the quorum is gone, and a
/// command that was never sent is better refused than left in doubt.
const TURN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an entry may take. openraft keeps an accepted write for ever; its callers do not wait so long.
const ENTRY_TIMEOUT: Duration = Duration::from_secs(10);

/// What became of a command.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The position of its entry.
    pub log_id: LogId,
    /// What it came to.
    pub result: CommandResult,
}

/// Why a command has no result. The first five mean that it was not and will not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Another node leads.
    #[error("this node does not lead; {}", leader.as_ref().map_or("an election is under way, try again shortly".to_owned(), |(_, node)| format!("ask the leader at {}", node.client_addr)))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<(u64, BerthNode)>,
    },
    /// The leader has lost its quorum and takes no more writes.
    #[error("the leader does not hear from a quorum and takes no writes; try again shortly")]
    NoQuorum,
    /// Too much is on its way already.
    #[error(
        "{IN_FLIGHT_COMMANDS_MAX} commands or {IN_FLIGHT_BYTES_MAX} bytes of them are on their way; try again later"
    )]
    Overloaded,
    /// The command is larger than an entry may be.
    #[error("the command has {0} bytes, more than the {COMMAND_BYTES_MAX} that one may have; split it")]
    TooLarge(usize),
    /// The node is stopping; the command was not taken.
    #[error("this node is stopping; ask another one")]
    Stopped,
    /// It may have been done or may yet be: repeat it with the same request ID to learn.
    #[error("the fate of the write is unknown ({0}); repeat it with the same request ID")]
    Unknown(String),
}

/// Where grouped commands go.
pub trait Replicate: Send + Sync + 'static {
    /// Replicates one entry, and answers when it is applied.
    fn replicate(&self, payload: Payload) -> BoxFuture<'static, Result<(LogId, Applied), WriteError>>;
}

/// Tells the highest stamp that the state machine has seen, in Unix milliseconds.
pub type AppliedStamp = Arc<dyn Fn() -> u64 + Send + Sync>;

struct Submission {
    bytes: Bytes,
    since: Instant,
    reply: oneshot::Sender<Result<Committed, WriteError>>,
    _permit: Permit,
}

/// Takes commands. Clones share the queue.
#[derive(Clone)]
pub struct Grouper {
    queue: mpsc::Sender<Submission>,
    load: Arc<Load>,
}

#[derive(Default)]
struct Load {
    commands: AtomicUsize,
    bytes: AtomicUsize,
}

struct Permit {
    load: Arc<Load>,
    bytes: usize,
}

impl Grouper {
    /// Starts the task that groups, on the current runtime. It ends with the last clone.
    /// `applied_stamp_ms` tells the highest stamp that the state machine has seen.
    pub fn start<R: Replicate>(
        replicate: R,
        clock: Arc<dyn Clock>,
        applied_stamp_ms: AppliedStamp,
        work: Arc<WorkMetrics>,
    ) -> Self {
        let (queue, submissions) = mpsc::channel(IN_FLIGHT_COMMANDS_MAX);
        let pending = VecDeque::new();
        let grouping =
            Grouping { replicate, clock, applied_stamp_ms, work, stamp_ms: 0, pending, pending_bytes: 0 };
        tokio::spawn(grouping.run(submissions));
        Self { queue, load: Arc::default() }
    }

    /// Replicates one encoded command and waits for its result.
    ///
    /// Dropping the future gives up waiting, not the command.
    ///
    /// # Errors
    /// [`WriteError`]; only [`WriteError::Unknown`] leaves the command's fate open.
    pub async fn propose(&self, command: Bytes) -> Result<Committed, WriteError> {
        if command.len() > COMMAND_BYTES_MAX {
            return Err(WriteError::TooLarge(command.len()));
        }
        let permit = Permit::take(&self.load, command.len()).ok_or(WriteError::Overloaded)?;
        let (reply, answer) = oneshot::channel();
        let submission = Submission { bytes: command, since: Instant::now(), reply, _permit: permit };
        self.queue.try_send(submission).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => WriteError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => WriteError::Stopped,
        })?;
        answer.await.unwrap_or_else(|_| Err(WriteError::Unknown("this node stopped meanwhile".to_owned())))
    }

    /// Commands accepted and not yet answered, and their bytes.
    #[must_use]
    pub fn in_flight(&self) -> (usize, usize) {
        (self.load.commands.load(Ordering::Relaxed), self.load.bytes.load(Ordering::Relaxed))
    }
}

impl Permit {
    fn take(load: &Arc<Load>, bytes: usize) -> Option<Self> {
        // Counted first and looked at afterwards: two that race may both be refused, never both admitted.
        let commands = load.commands.fetch_add(1, Ordering::Relaxed) + 1;
        let total = load.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let permit = Self { load: Arc::clone(load), bytes };
        (commands <= IN_FLIGHT_COMMANDS_MAX && total <= IN_FLIGHT_BYTES_MAX).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.load.commands.fetch_sub(1, Ordering::Relaxed);
        self.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Grouping<R> {
    replicate: R,
    clock: Arc<dyn Clock>,
    applied_stamp_ms: AppliedStamp,
    work: Arc<WorkMetrics>,
    /// The last stamp given; the next is not lower.
    stamp_ms: u64,
    pending: VecDeque<Submission>,
    pending_bytes: usize,
}

impl<R: Replicate> Grouping<R> {
    async fn run(mut self, mut submissions: mpsc::Receiver<Submission>) {
        let mut entries = FuturesUnordered::new();
        loop {
            let in_flight = entries.len();
            tokio::select! {
                biased;
                Some(()) = entries.next(), if !entries.is_empty() => {}
                received = submissions.recv() => match received {
                    Some(submission) => self.take(submission),
                    None => break,
                },
                () = self.oldest_is_due(in_flight) => {}
            }
            while let Ok(submission) = submissions.try_recv() {
                self.take(submission);
            }
            while self.may_send(entries.len()) {
                entries.push(self.next_entry());
            }
            self.refuse_overdue();
        }
        // The last clone is gone, but those who wait for an entry that is on its way still do.
        while entries.next().await.is_some() {}
    }

    fn take(&mut self, submission: Submission) {
        self.pending_bytes += submission.bytes.len();
        self.pending.push_back(submission);
    }

    fn may_send(&self, in_flight: usize) -> bool {
        match in_flight {
            0 => !self.pending.is_empty(),
            n if n < IN_FLIGHT_ENTRIES_MAX => {
                let worth = self.pending_bytes >= WORTH_BYTES || self.pending.len() >= WORTH_COMMANDS;
                worth || self.pending.front().is_some_and(|oldest| oldest.since.elapsed() >= PATIENCE)
            }
            _ => false,
        }
    }

    /// Waits until the oldest command has waited long enough to be looked at; for ever if there is none.
    async fn oldest_is_due(&self, in_flight: usize) {
        let wait = if in_flight < IN_FLIGHT_ENTRIES_MAX { PATIENCE } else { TURN_TIMEOUT };
        match self.pending.front() {
            Some(oldest) => tokio::time::sleep_until((oldest.since + wait).into()).await,
            None => std::future::pending().await,
        }
    }

    fn refuse_overdue(&mut self) {
        while self.pending.front().is_some_and(|oldest| oldest.since.elapsed() >= TURN_TIMEOUT) {
            let Some(overdue) = self.pending.pop_front() else { return };
            self.pending_bytes -= overdue.bytes.len();
            let _ = overdue.reply.send(Err(WriteError::NoQuorum));
        }
    }

    /// Packs the next entry and sends it; the future answers its commands.
    fn next_entry(&mut self) -> impl Future<Output = ()> + Send + 'static + use<R> {
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.pending.front() {
            let fits = group.is_empty() || bytes + next.bytes.len() <= FRAME_BYTES_MAX;
            if group.len() == FRAME_COMMANDS_MAX || !fits {
                break;
            }
            let Some(submission) = self.pending.pop_front() else { break };
            self.pending_bytes -= submission.bytes.len();
            // Whoever gave up before the command left this node need not have it done.
            if !submission.reply.is_closed() {
                bytes += submission.bytes.len();
                group.push(submission);
            }
        }
        if !group.is_empty() {
            self.work.grouped(group.len() as u64);
        }
        let sending =
            (!group.is_empty()).then(|| self.frame(&group).map(|payload| self.replicate.replicate(payload)));
        async move {
            let outcome = match sending {
                None => return,
                Some(Err(error)) => Err(error),
                Some(Ok(sending)) => {
                    tokio::time::timeout(ENTRY_TIMEOUT, sending).await.unwrap_or_else(|_| {
                        Err(WriteError::Unknown(format!("no answer within {} s", ENTRY_TIMEOUT.as_secs())))
                    })
                }
            };
            answer(group, outcome);
        }
    }

    fn frame(&mut self, group: &[Submission]) -> Result<Payload, WriteError> {
        self.stamp_ms = self.stamp_ms.max(self.clock.now_ms()).max((self.applied_stamp_ms)());
        let commands: Vec<Bytes> = group.iter().map(|submission| submission.bytes.clone()).collect();
        // The bounds were kept while packing; a frame that does not fit is ours to find, not to send.
        Payload::commands(self.stamp_ms, &commands)
            .map_err(|_| WriteError::TooLarge(commands.iter().map(Bytes::len).sum()))
    }
}

fn answer(group: Vec<Submission>, outcome: Result<(LogId, Applied), WriteError>) {
    match outcome {
        Err(error) => {
            for submission in group {
                let _ = submission.reply.send(Err(error.clone()));
            }
        }
        Ok((log_id, applied)) => {
            let (asked, answered) = (group.len(), applied.results.len());
            if asked != answered {
                tracing::error!(
                    asked,
                    answered,
                    index = log_id.index(),
                    "an entry has another number of results"
                );
            }
            let mut results = applied.results.into_iter();
            for submission in group {
                let result = results.next().map(|result| Committed { log_id, result });
                let result =
                    result.ok_or_else(|| WriteError::Unknown("the entry's results are incomplete".into()));
                let _ = submission.reply.send(result);
            }
        }
    }
}

#[cfg(test)]
mod tests;
