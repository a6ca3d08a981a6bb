//! Exporting devices: a stream at one revision, whole or in partitions.

use berth_proto::SnapshotToken;
use berth_proto::convert::Consistency;
use berth_proto::error::ApiError;
use berth_proto::v1::{ExportRequest, ExportResponse, ResponseHeader};
use berth_store::machine::Snapshot;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Api;
use super::list::read_token;
use super::scan::{self, Filter, Place};
use crate::directory::{Pins, data_loss};

/// Devices of one message: about 100 KB, at most 2 MiB.
const MESSAGE_DEVICES_MAX: usize = 1_000;
/// Messages that wait for a slow reader.
const MESSAGES_AHEAD_MAX: usize = 4;
/// Most partitions: each is a walk of its own over a part of the pages.
const PARTITIONS_MAX: u32 = 256;

/// The messages of an export.
pub type Answers = ReceiverStream<Result<ExportResponse, Status>>;

impl Api {
    /// Starts to export.
    pub(super) async fn start_export(&self, asked: ExportRequest) -> Result<Answers, ApiError> {
        let partitions = asked.partitions.max(1);
        if partitions > PARTITIONS_MAX {
            let problem = format!("{partitions}; at most {PARTITIONS_MAX} are allowed");
            return Err(ApiError::invalid("partitions", problem));
        }
        if asked.partition >= partitions {
            let problem = format!("{} of {partitions}; they are numbered from 0", asked.partition);
            return Err(ApiError::invalid("partition", problem));
        }
        let read = |snapshot: &Snapshot| Filter::read(snapshot, asked.filter.as_ref());
        let (fresh, filter, held) = match asked.snapshot_token.as_str() {
            "" => {
                let consistency = Consistency::from_message(asked.consistency.as_ref())?;
                let (fresh, filter) = self.directory.find(consistency, read).await?;
                let held = if partitions > 1 { Some(self.hold(&fresh.snapshot, partitions)?) } else { None };
                (fresh, filter, held)
            }
            text => {
                let token = read_token("snapshot_token", text)?;
                let fresh = self.pinned(&token)?;
                let filter = read(&fresh.snapshot)?;
                (fresh, filter, Some((token.pin, text.to_owned())))
            }
        };
        let (pin, snapshot_token) = held.unzip();
        let (sender, answers) = mpsc::channel(MESSAGES_AHEAD_MAX);
        let part = Part {
            header: self.header(&fresh),
            snapshot_token: snapshot_token.unwrap_or_default(),
            pin: pin.map(|pin| (self.directory.pins().clone(), pin)),
            filter,
            pages: part_of(fresh.snapshot.device_pages(), asked.partition, partitions),
            snapshot: fresh.snapshot,
        };
        // Ends with the part, or when nobody takes the messages any more.
        tokio::task::spawn_blocking(move || part.send(&sender));
        Ok(ReceiverStream::new(answers))
    }

    /// Holds a revision for all partitions; its number, and its token for the others.
    fn hold(&self, snapshot: &Snapshot, partitions: u32) -> Result<(u64, String), ApiError> {
        let pinned = self.directory.pins().hold(snapshot.clone(), partitions)?;
        let token = SnapshotToken {
            node_id: self.directory.node().id,
            pin: pinned.pin,
            revision: snapshot.revision().0,
            ..SnapshotToken::default()
        };
        Ok((pinned.pin, token.encode()))
    }
}

/// The pages of a partition: every page is in exactly one.
fn part_of(pages: u32, partition: u32, partitions: u32) -> std::ops::Range<u32> {
    let border =
        |n: u32| u32::try_from(u64::from(pages) * u64::from(n) / u64::from(partitions)).unwrap_or(pages);
    border(partition)..border(partition + 1)
}

/// A partition to send.
struct Part {
    header: ResponseHeader,
    snapshot_token: String,
    /// Where other partitions are read at the same revision: what holds it, and as which.
    pin: Option<(Pins, u64)>,
    filter: Filter,
    pages: std::ops::Range<u32>,
    snapshot: Snapshot,
}

impl Part {
    fn send(self, sender: &mpsc::Sender<Result<ExportResponse, Status>>) {
        let mut snapshot_token = self.snapshot_token;
        let mut next = Some(Place { page: self.pages.start, row: 0 });
        while let Some(place) = next {
            let found = scan::step(&self.snapshot, &self.filter, place, self.pages.end, MESSAGE_DEVICES_MAX);
            let message = found.map(|(devices, after)| {
                next = after;
                ExportResponse {
                    header: Some(self.header.clone()),
                    devices,
                    snapshot_token: std::mem::take(&mut snapshot_token),
                    complete: after.is_none(),
                }
            });
            let message = message.map_err(|damage| Status::from(data_loss(&damage)));
            let failed = message.is_err();
            if sender.blocking_send(message).is_err() || failed {
                return;
            }
            if let Some((pins, pin)) = &self.pin {
                // While one partition is read the others may still be waiting for their turn.
                pins.find(*pin);
            }
        }
        if let Some((pins, pin)) = &self.pin {
            pins.release(*pin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_in_exactly_one_partition() {
        for pages in [0, 1, 7, 256, 100_003] {
            for partitions in [1, 2, 3, 7, 256] {
                let parts: Vec<_> = (0..partitions).map(|n| part_of(pages, n, partitions)).collect();
                assert_eq!(parts.iter().map(ExactSizeIterator::len).sum::<usize>(), pages as usize);
                assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
                assert_eq!((parts[0].start, parts[parts.len() - 1].end), (0, pages));
            }
        }
    }
}
