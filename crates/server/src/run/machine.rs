//! The state machine as Raft's wiring sees it.

use std::io;

use berth_store::machine::{Handle, Receiving};
use berth_store::raft::{LogId, SnapshotHandle, SnapshotMeta};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use crate::raft::machine::SNAPSHOT_PART_BYTES_MAX;
use crate::raft::{MachineView, SnapshotSink, SnapshotSource};

/// Parts of a snapshot that are read ahead of the wire.
const PARTS_AHEAD_MAX: usize = 2;

/// Gives Raft's wiring what it asks of the state machine.
pub struct MachineAdaptor {
    machine: Handle,
}

impl MachineAdaptor {
    /// An adaptor for `machine`.
    pub fn new(machine: Handle) -> Self {
        Self { machine }
    }
}

impl MachineView for MachineAdaptor {
    fn applied(&self) -> watch::Receiver<Option<LogId>> {
        self.machine.applied()
    }

    fn cluster_id(&self) -> Option<Uuid> {
        self.machine.reader().snapshot().cluster().map(|cluster| cluster.id)
    }

    fn incarnation_of(&self, node_id: u64) -> Option<Uuid> {
        self.machine.reader().snapshot().meta().nodes.get(&node_id).map(|node| node.incarnation)
    }

    fn node_of(&self, incarnation: Uuid) -> Option<u64> {
        let snapshot = self.machine.reader().snapshot();
        let nodes = &snapshot.meta().nodes;
        nodes.iter().find(|(_, node)| node.incarnation == incarnation).map(|(id, _)| *id)
    }

    fn stamp_ms(&self) -> u64 {
        self.machine.reader().snapshot().meta().stamped.0
    }

    fn open_snapshot(&self, handle: &SnapshotHandle) -> BoxFuture<'static, io::Result<SnapshotSource>> {
        let (machine, handle) = (self.machine.clone(), handle.clone());
        blocking(move || {
            let mut reader = machine.send_snapshot(&handle).map_err(io::Error::other)?;
            let (parts, ahead) = mpsc::channel(PARTS_AHEAD_MAX);
            // Reads block, so they have a thread of their own for as long as the snapshot travels.
            tokio::task::spawn_blocking(move || {
                loop {
                    let (part, ended) = match reader.next_chunk() {
                        Ok(Some(chunk)) => (Ok(Bytes::from(chunk)), false),
                        Ok(None) => (Ok(Bytes::from(reader.manifest().encode())), true),
                        Err(error) => (Err(io::Error::other(error)), true),
                    };
                    let part = part.and_then(|part| {
                        let fits = part.len() <= SNAPSHOT_PART_BYTES_MAX;
                        if fits {
                            Ok(part)
                        } else {
                            Err(io::Error::other("a part of the snapshot is too large to send"))
                        }
                    });
                    let ended = ended || part.is_err();
                    // A receiver that has gone away wants no more.
                    if parts.blocking_send(part).is_err() || ended {
                        return;
                    }
                }
            });
            Ok(ReceiverStream::new(ahead).boxed())
        })
    }

    fn last_snapshot(&self) -> BoxFuture<'static, io::Result<Option<(SnapshotMeta, SnapshotHandle)>>> {
        let last = self.machine.last_snapshot();
        async move { Ok(last) }.boxed()
    }

    fn receive_snapshot(
        &self,
        _meta: &SnapshotMeta,
    ) -> BoxFuture<'static, io::Result<Box<dyn SnapshotSink>>> {
        let machine = self.machine.clone();
        blocking(move || {
            let receiving = machine.receive_snapshot().map_err(io::Error::other)?;
            Ok(Box::new(Sink { receiving: Some(receiving) }) as Box<dyn SnapshotSink>)
        })
    }
}

/// A snapshot on its way to disk.
struct Sink {
    /// Away while a part is being written.
    receiving: Option<Receiving>,
}

impl SnapshotSink for Sink {
    fn write(&mut self, part: Bytes) -> BoxFuture<'_, io::Result<()>> {
        async move {
            let mut receiving = self.receiving.take().ok_or_else(broken)?;
            let written = blocking(move || {
                receiving.write(part.into()).map_err(io::Error::other)?;
                Ok(receiving)
            });
            self.receiving = Some(written.await?);
            Ok(())
        }
        .boxed()
    }

    fn finish(mut self: Box<Self>) -> BoxFuture<'static, io::Result<SnapshotHandle>> {
        async move {
            let receiving = self.receiving.take().ok_or_else(broken)?;
            blocking(move || receiving.finish().map_err(io::Error::other)).await
        }
        .boxed()
    }
}

fn broken() -> io::Error {
    io::Error::other("an earlier part of this snapshot could not be written")
}

/// Runs file work off the async workers.
fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> BoxFuture<'static, io::Result<T>> {
    async move { tokio::task::spawn_blocking(work).await.map_err(io::Error::other)? }.boxed()
}
