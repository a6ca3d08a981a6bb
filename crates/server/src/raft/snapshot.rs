//! Snapshots as streams of parts: one head, data, one end.

use std::io;
use std::time::Duration;

use berth_proto::internal as pb;
use berth_store::raft::{LogId, SnapshotHandle, SnapshotMeta, Vote};
use futures_util::stream::{Stream, StreamExt};
use tokio::time::Instant;
use tonic::Status;

use super::machine::{MachineView, SNAPSHOT_PART_BYTES_MAX, SnapshotSource};
use super::wire;

/// How long the next part may take to arrive before the sender is given up.
const PART_TIMEOUT: Duration = Duration::from_secs(15);

/// The parts of a snapshot, paced to `bytes_per_second` if given. An error of the source is passed on
/// and ends the stream without an end part.
pub fn parts(
    head: pb::SnapshotPart,
    mut source: SnapshotSource,
    bytes_per_second: Option<u64>,
) -> impl Stream<Item = io::Result<pb::SnapshotPart>> + Send + 'static {
    async_stream::stream! {
        yield Ok(head);
        let started = Instant::now();
        let mut sent: u64 = 0;
        while let Some(data) = source.next().await {
            let data = match data {
                Ok(data) => data,
                Err(error) => {
                    yield Err(error);
                    return;
                }
            };
            sent += data.len() as u64;
            yield Ok(pb::SnapshotPart { part: Some(pb::snapshot_part::Part::Data(data)) });
            if let Some(rate) = bytes_per_second.filter(|&rate| rate > 0) {
                let due = Duration::from_millis(sent.saturating_mul(1_000) / rate);
                tokio::time::sleep_until(started + due).await;
            }
        }
        yield Ok(pb::SnapshotPart { part: Some(pb::snapshot_part::Part::End(pb::Empty {})) });
    }
}

/// A snapshot as received: the sender's vote (if it leads), what it stands for, where it is staged.
pub struct Received {
    pub vote: Option<Vote>,
    pub meta: SnapshotMeta,
    pub handle: SnapshotHandle,
}

/// Receives a snapshot into the view's staging area, whole or not at all. One that ends before `reaches` is refused
/// before its data are read.
pub async fn receive<S>(
    view: &dyn MachineView,
    mut parts: S,
    reaches: Option<LogId>,
) -> Result<Received, Status>
where
    S: Stream<Item = Result<pb::SnapshotPart, Status>> + Unpin,
{
    use pb::snapshot_part::Part;
    let Some(Part::Head(head)) = next(&mut parts).await? else {
        return Err(Status::invalid_argument("a snapshot starts with its head"));
    };
    let meta = wire::from_snapshot_head(&head).map_err(invalid)?;
    if meta.last_log_id < reaches {
        let index = |position: Option<LogId>| position.map_or(0, |id| id.index());
        return Err(Status::failed_precondition(format!(
            "its checkpoint ends at log index {}, and the log here begins after {}; its next one may reach it",
            index(meta.last_log_id),
            index(reaches)
        )));
    }
    let vote = match &head.vote {
        Some(vote) => Some(wire::from_vote(Some(vote)).map_err(invalid)?),
        None => None,
    };
    let mut sink = view.receive_snapshot(&meta).await.map_err(local)?;
    loop {
        match next(&mut parts).await? {
            Some(Part::Data(data)) if data.len() <= SNAPSHOT_PART_BYTES_MAX => {
                sink.write(data).await.map_err(local)?;
            }
            Some(Part::Data(data)) => {
                let said = format!("a part has {} bytes, more than {SNAPSHOT_PART_BYTES_MAX}", data.len());
                return Err(Status::invalid_argument(said));
            }
            Some(Part::Head(_)) => return Err(Status::invalid_argument("a snapshot has one head")),
            Some(Part::End(_)) => break,
            None => return Err(Status::aborted("the snapshot ended early; it will be asked for again")),
        }
    }
    let handle = sink.finish().await.map_err(local)?;
    Ok(Received { vote, meta, handle })
}

async fn next<S>(parts: &mut S) -> Result<Option<pb::snapshot_part::Part>, Status>
where
    S: Stream<Item = Result<pb::SnapshotPart, Status>> + Unpin,
{
    match tokio::time::timeout(PART_TIMEOUT, parts.next()).await {
        Ok(Some(part)) => Ok(part?.part),
        Ok(None) => Ok(None),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no part of the snapshot for {} s",
            PART_TIMEOUT.as_secs()
        ))),
    }
}

fn invalid(error: wire::WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn local(error: io::Error) -> Status {
    tracing::error!(%error, "receiving a snapshot failed here");
    Status::internal("the receiver could not store the snapshot; see its log")
}
