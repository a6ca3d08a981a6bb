//! openraft's storage traits over the log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use openraft::storage::{IOFlushed, LeaderBoundedStreamError, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::RwLock;
use raft_log::RaftLog;
use raft_log::api::raft_log_writer::RaftLogWriter;
use tokio::sync::oneshot;

use super::record::{Flushed, Records, StoredPayload, StoredVote};
use super::{LogStore, PurgeGate};
use crate::raft::{BerthConfig, Entry, EntryPayload, LeaderId, LogId, Vote, log_id};

/// Bytes of entries read at once, for a peer or for applying: with one largest entry still a peer
/// message, and all that applying holds beside the cache.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// Reads the log beside the store. Clones of a reader share the log.
#[derive(Clone)]
pub struct LogReader {
    log: Arc<RwLock<RaftLog<Records>>>,
}

impl RaftLogStorage<BerthConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<BerthConfig>> {
        Ok(LogState { last_purged_log_id: self.purged(), last_log_id: self.last() })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { log: Arc::clone(&self.log) }
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = StoredVote(*vote);
        self.synced(|log| log.save_vote(vote).map(drop)).await
    }

    /// Remembers the commit without a flush of its own: the next append carries it to disk, and a
    /// leader repeats it after a restart.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut log = self.log.write();
        let Some(committed) = committed.as_ref().map(pair) else { return Ok(()) };
        let state = log.log_state();
        // A snapshot's position may lie above the log until the log is purged to it; the log would
        // refuse to know of a commit beyond its end, or of one it has passed.
        if Some(&committed) > state.last() || Some(&committed) <= state.committed() {
            return Ok(());
        }
        log.commit(committed).map(drop)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.log.read().log_state().committed().map(|&(term, index)| log_id(term, index)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<BerthConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut log = self.log.write();
        log.append(entries.into_iter().map(|entry| (pair(&entry.log_id), StoredPayload(entry.payload))))?;
        #[cfg(berth_break = "ack_before_sync")]
        let callback = {
            callback.io_completed(Ok(()));
            IOFlushed::noop()
        };
        log.flush(true, Some(Flushed::Append(callback)))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let index = last.map_or(0, |last| last.index() + 1);
        // Nothing lies behind: the log would look for the entry before, which may not be there.
        if self.last().is_none_or(|end| end.index() < index) {
            return Ok(());
        }
        self.synced(|log| log.truncate(index).map(drop)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let Some(upto) = purge_target(&self.gate, self.last(), upto) else { return Ok(()) };
        self.synced(|log| log.purge(pair(&upto)).map(drop)).await
    }
}

impl LogStore {
    /// Writes, and returns when what was written is on disk.
    async fn synced(&self, write: impl FnOnce(&mut RaftLog<Records>) -> io::Result<()>) -> io::Result<()> {
        let (done, synced) = oneshot::channel();
        {
            let mut log = self.log.write();
            write(&mut log)?;
            log.flush(true, Some(Flushed::Waiter(done)))?;
        }
        synced.await.map_err(io::Error::other)?
    }
}

impl RaftLogReader<BerthConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = limits(&range);
        self.read(from, to, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.read().log_state().vote().map(|vote| vote.0))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, READ_BYTES_MAX)
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = limits(&range);
        Box::pin(self.clone().batches(from, to))
    }

    async fn leader_bounded_stream<RB>(
        &mut self,
        leader: LeaderId,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, LeaderBoundedStreamError<BerthConfig>>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // Both looks at the vote and the reading happen under one lock, so one look is enough.
        let (from, to) = limits(&range);
        let log = self.log.read();
        let vote = log.log_state().vote().map(|vote| vote.0);
        let led = vote.is_some_and(|vote| vote.committed && vote.leader_id == leader);
        let items: Vec<_> = if led {
            match read(&log, from, to, usize::MAX) {
                Ok(entries) => entries.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(LeaderBoundedStreamError::IoError(error))],
            }
        } else {
            vec![Err(openraft::errors::LeaderChanged::new(leader, vote).into())]
        };
        stream::iter(items)
    }
}

impl LogReader {
    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        read(&self.log.read(), from, to, bytes_max)
    }

    /// The entries of a range, read a bounded batch at a time: a backlog of large entries is never in
    /// memory as a whole.
    fn batches(self, from: u64, to: u64) -> impl Stream<Item = io::Result<Entry>> + Send {
        stream::unfold(Some((self, from)), move |state| async move {
            let (reader, at) = state?;
            if at >= to {
                return None;
            }
            match reader.read(at, to, READ_BYTES_MAX) {
                Ok(entries) => {
                    let next = entries.last().map(|entry| (reader, entry.log_id.index() + 1));
                    Some((stream::iter(entries.into_iter().map(Ok).collect::<Vec<_>>()), next))
                }
                Err(error) => Some((stream::iter(vec![Err(error)]), None)),
            }
        })
        .flatten()
    }
}

fn read(log: &RaftLog<Records>, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    for item in log.read(from, to) {
        let ((term, index), StoredPayload(payload)) = item?;
        bytes += match &payload {
            EntryPayload::Normal(payload) => payload.as_slice().len(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        };
        if !entries.is_empty() && bytes > bytes_max {
            break;
        }
        entries.push(Entry { log_id: log_id(term, index), payload });
    }
    Ok(entries)
}

/// How far to purge when asked to purge up to `wanted`.
///
/// Within the log the gate decides. Above the log's end the request comes from an installed snapshot:
/// the log has to jump there, or the next entry would leave a hole.
fn purge_target(gate: &PurgeGate, last: Option<LogId>, wanted: LogId) -> Option<LogId> {
    if Some(wanted) > last { Some(wanted) } else { gate.clamp(wanted) }
}

fn pair(id: &LogId) -> (u64, u64) {
    (id.committed_leader_id().term, id.index())
}

fn limits(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(&from) => from,
        Bound::Excluded(&from) => from.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(&to) => to.saturating_add(1),
        Bound::Excluded(&to) => to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to.max(from))
}
