//! Linearizable reads: one confirmation by a quorum serves every read that was waiting for it.
//!
//! One task holds at most one barrier in flight. Reads that arrive meanwhile share the next. A barrier
//! is a read position that a quorum confirmed after the reads arrived; whoever has applied up to it may
//! answer them. The leader confirms it itself, another node asks the leader and then waits until its own
//! state is there.
//!
//! A barrier costs two calls between nodes. Where readers have to wait for a processor after they were answered, the
//! barriers are spaced by about that time, so that more reads share one: then nobody waits longer than for the
//! processor anyway, and it is free for the reads themselves.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use berth_store::raft::{BerthNode, LogId};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::metrics::WorkMetrics;

/// Reads that may wait for a barrier. Further ones are told at once that the node is overloaded.
pub const READ_WAITERS_MAX: usize = 16_384;
/// How long a node that does not lead waits for its state to reach the read position.
const APPLY_WAIT_MAX: Duration = Duration::from_secs(2);

/// Delay of answered readers from which on barriers are spaced: a timer tells no shorter times.
const DELAY_MIN: Duration = Duration::from_millis(1);
/// Longest time between the beginnings of two barriers while reads wait.
const SPACING_MAX: Duration = Duration::from_millis(4);
/// The delay that is kept moves by one in so many parts to each new one.
const DELAY_SHARE: u32 = 8;

/// What a confirmed read may rely on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadPoint {
    /// The position that a quorum confirmed; the node has applied it.
    pub log_id: LogId,
    /// When the confirmation was asked for, on this node's monotonic clock: the state is not older.
    pub sent_at: Instant,
    /// Whether this node led when it asked.
    pub role: Role,
}

/// Whether the node led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It led.
    Leader,
    /// It followed with a vote.
    Follower,
    /// It followed without one.
    Learner,
}

/// Why a read could not be confirmed. A read changes nothing, so each of these may simply be repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody leads, as far as this node knows.
    #[error(
        "no leader is known: an election is under way, or a quorum of the cluster is away; try again shortly"
    )]
    NoLeader,
    /// The leader did not hear from a quorum.
    #[error("the leader could not reach a quorum: {0}; try again shortly")]
    NoQuorum(String),
    /// The leader could not be asked.
    #[error("the leader {leader} could not be asked: {why}; try again shortly")]
    LeaderUnreachable {
        /// Who leads.
        leader: BerthNode,
        /// What happened.
        why: String,
    },
    /// This node's state is behind.
    #[error("this node has not applied the log up to index {wanted} in time; ask another node or try again")]
    Behind {
        /// The index that was confirmed.
        wanted: u64,
    },
    /// Too many reads wait already.
    #[error("{READ_WAITERS_MAX} reads already wait for a confirmation; try again later")]
    Overloaded,
    /// The node is stopping.
    #[error("this node is stopping; ask another one")]
    Stopped,
}

/// Asks for read positions: openraft on the leader, a call to the leader elsewhere.
pub trait Barrier: Send + Sync + 'static {
    /// A position confirmed by a quorum after this call began.
    fn confirm(&self) -> impl Future<Output = Result<(LogId, Role), ReadError>> + Send;
}

/// An answer, and when it was given.
type Answer = (Result<ReadPoint, ReadError>, Instant);
type Waiter = oneshot::Sender<Answer>;

/// How long readers wait for a processor once they are answered: a moving mean, in microseconds.
#[derive(Debug, Default)]
struct Delay(AtomicU32);

impl Delay {
    /// Two readers at the same moment may overwrite each other, which a mean can bear.
    fn note(&self, delay: Duration) {
        // A reader that its own caller keeps waiting says little of the processor.
        let now = u32::try_from(delay.min(SPACING_MAX).as_micros()).unwrap_or(u32::MAX) / DELAY_SHARE;
        let kept = self.0.load(Ordering::Relaxed);
        self.0.store(kept - kept / DELAY_SHARE + now, Ordering::Relaxed);
    }

    /// The time from the beginning of one barrier to that of the next.
    fn spacing(&self) -> Duration {
        let delay = Duration::from_micros(self.0.load(Ordering::Relaxed).into());
        if delay < DELAY_MIN { Duration::ZERO } else { (2 * delay).min(SPACING_MAX) }
    }
}

/// Confirms reads. Clones share the barrier.
#[derive(Clone)]
pub struct ReadIndex {
    waiters: mpsc::Sender<Waiter>,
    fresh_as_of: Arc<Mutex<Option<Instant>>>,
    delay: Arc<Delay>,
}

impl ReadIndex {
    /// Starts the task that holds the barrier, on the current runtime. It ends with the last clone.
    pub fn start<B: Barrier>(
        barrier: B,
        applied: watch::Receiver<Option<LogId>>,
        work: Arc<WorkMetrics>,
    ) -> Self {
        let (waiters, queue) = mpsc::channel(READ_WAITERS_MAX);
        let fresh_as_of = Arc::new(Mutex::new(None));
        let delay = Arc::<Delay>::default();
        tokio::spawn(run(barrier, queue, applied, Arc::clone(&fresh_as_of), Arc::clone(&delay), work));
        Self { waiters, fresh_as_of, delay }
    }

    /// Waits until a read that starts now may be answered from this node's state.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn confirm(&self) -> Result<ReadPoint, ReadError> {
        let (waiter, answer) = oneshot::channel();
        self.waiters.try_send(waiter).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReadError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => ReadError::Stopped,
        })?;
        let (confirmed, answered_at) = answer.await.map_err(|_| ReadError::Stopped)?;
        self.delay.note(answered_at.elapsed());
        confirmed
    }

    /// The moment that this node's state is at least as new as: when the newest read position that it
    /// has applied was asked for. `None` before the first.
    #[must_use]
    pub fn fresh_as_of(&self) -> Option<Instant> {
        *self.fresh_as_of.lock()
    }
}

async fn run<B: Barrier>(
    barrier: B,
    mut queue: mpsc::Receiver<Waiter>,
    applied: watch::Receiver<Option<LogId>>,
    fresh_as_of: Arc<Mutex<Option<Instant>>>,
    delay: Arc<Delay>,
    work: Arc<WorkMetrics>,
) {
    let mut batch = Vec::new();
    let mut began = None::<Instant>;
    while queue.recv_many(&mut batch, READ_WAITERS_MAX).await > 0 {
        let mut waiters = std::mem::take(&mut batch);
        let since = began.map_or(SPACING_MAX, |began| began.elapsed());
        if let Some(early) = delay.spacing().checked_sub(since).filter(|early| !early.is_zero()) {
            tokio::time::sleep(early).await;
            while waiters.len() < READ_WAITERS_MAX {
                let Ok(waiter) = queue.try_recv() else { break };
                waiters.push(waiter);
            }
        }
        let sent_at = Instant::now();
        began = Some(sent_at);
        match barrier.confirm().await {
            Err(error) => answer(waiters, &Err(error)),
            Ok((log_id, role)) => {
                work.read_round(waiters.len() as u64);
                let point = ReadPoint { log_id, sent_at, role };
                if *applied.borrow() >= Some(log_id) {
                    settle(waiters, point, &fresh_as_of);
                } else {
                    // The next barrier does not wait for this one's state.
                    let (applied, fresh_as_of) = (applied.clone(), Arc::clone(&fresh_as_of));
                    tokio::spawn(async move {
                        if reached(applied, log_id).await {
                            settle(waiters, point, &fresh_as_of);
                        } else {
                            answer(waiters, &Err(ReadError::Behind { wanted: log_id.index() }));
                        }
                    });
                }
            }
        }
    }
}

fn settle(waiters: Vec<Waiter>, point: ReadPoint, fresh_as_of: &Mutex<Option<Instant>>) {
    {
        let mut fresh = fresh_as_of.lock();
        *fresh = (*fresh).max(Some(point.sent_at));
    }
    answer(waiters, &Ok(point));
}

fn answer(waiters: Vec<Waiter>, result: &Result<ReadPoint, ReadError>) {
    let now = Instant::now();
    for waiter in waiters {
        // A reader that has gone away needs no answer.
        let _ = waiter.send((result.clone(), now));
    }
}

/// Whether the state reaches a position in time.
pub async fn reached(mut applied: watch::Receiver<Option<LogId>>, wanted: LogId) -> bool {
    let waiting = applied.wait_for(|applied| *applied >= Some(wanted));
    matches!(tokio::time::timeout(APPLY_WAIT_MAX, waiting).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::UNIX_EPOCH;

    use berth_store::raft::log_id;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::metrics::Metrics;

    /// Confirms one barrier per permit, each at the next index.
    #[derive(Clone)]
    struct Gated {
        permits: Arc<Semaphore>,
        rounds: Arc<AtomicUsize>,
    }

    impl Barrier for Gated {
        async fn confirm(&self) -> Result<(LogId, Role), ReadError> {
            self.permits.acquire().await.unwrap().forget();
            let round = self.rounds.fetch_add(1, Ordering::SeqCst);
            Ok((log_id(1, round as u64), Role::Leader))
        }
    }

    #[tokio::test]
    async fn reads_that_arrive_during_a_barrier_share_the_next() {
        let gated = Gated { permits: Arc::new(Semaphore::new(0)), rounds: Arc::default() };
        let applied = watch::Sender::new(Some(log_id(1, 100)));
        let metrics = Metrics::new(UNIX_EPOCH);
        let reads = ReadIndex::start(gated.clone(), applied.subscribe(), Arc::clone(&metrics.work));
        let first = tokio::spawn({
            let reads = reads.clone();
            async move { reads.confirm().await }
        });
        while gated.permits.available_permits() == 0 && reads.waiters.capacity() == READ_WAITERS_MAX {
            tokio::task::yield_now().await;
            if reads.waiters.capacity() < READ_WAITERS_MAX {
                break;
            }
            if first.is_finished() {
                break;
            }
            // The first read is taken by the task as soon as both have run.
            gated.permits.add_permits(1);
        }
        let point = first.await.unwrap().unwrap();
        assert_eq!(reads.fresh_as_of(), Some(point.sent_at));

        let many: Vec<_> = (0..50)
            .map(|_| {
                let reads = reads.clone();
                tokio::spawn(async move { reads.confirm().await })
            })
            .collect();
        gated.permits.add_permits(60);
        for read in many {
            read.await.unwrap().unwrap();
        }
        let rounds = gated.rounds.load(Ordering::SeqCst);
        assert!(rounds <= 10, "51 reads took {rounds} barriers");
        let text = metrics.text().unwrap();
        for line in [
            format!("berth_read_index_rounds_total {rounds}"),
            "berth_read_index_sharers_sum 51.0".to_owned(),
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line} is missing in:\n{text}");
        }
    }

    #[test]
    fn barriers_are_spaced_only_where_answered_readers_wait_for_a_processor() {
        let delay = Delay::default();
        for _ in 0..100 {
            delay.note(Duration::from_micros(300));
        }
        assert_eq!(delay.spacing(), Duration::ZERO);
        for _ in 0..100 {
            delay.note(Duration::from_micros(1_500));
        }
        assert!((Duration::from_millis(2)..=Duration::from_millis(3)).contains(&delay.spacing()));
        for _ in 0..100 {
            delay.note(Duration::from_secs(9_999));
        }
        assert_eq!(delay.spacing(), SPACING_MAX);
        for _ in 0..300 {
            delay.note(Duration::ZERO);
        }
        assert_eq!(delay.spacing(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_state_that_does_not_come_is_said_to_be_behind() {
        let gated = Gated { permits: Arc::new(Semaphore::new(9)), rounds: Arc::new(AtomicUsize::new(7)) };
        let applied = watch::Sender::new(Some(log_id(1, 3)));
        let work = Arc::clone(&Metrics::new(UNIX_EPOCH).work);
        let reads = ReadIndex::start(gated, applied.subscribe(), work);
        assert_eq!(reads.confirm().await, Err(ReadError::Behind { wanted: 7 }));
        assert_eq!(reads.fresh_as_of(), None, "an unconfirmed state is not fresh");
        applied.send_replace(Some(log_id(1, 20)));
        assert_eq!(reads.confirm().await.unwrap().log_id, log_id(1, 8));
    }
}
