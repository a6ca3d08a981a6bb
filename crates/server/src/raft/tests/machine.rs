//! A state machine that keeps every command it was given, in order. Its snapshots stay when it is dropped,
//! as checkpoints on a disk would; its state does not.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use berth_core::Rejection;
use berth_store::log::{LogStore, Watermark};
use berth_store::payload::Frame;
use berth_store::raft::{
    Applied, BerthConfig, EntryPayload, LogId, Snapshot, SnapshotHandle, SnapshotMeta, StoredMembership,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use crate::raft::machine::{MachineView, SnapshotSink, SnapshotSource};

/// What a machine knows.
#[derive(Clone, Default)]
pub struct State {
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
    pub cluster: Option<Uuid>,
    pub nodes: BTreeMap<u64, Uuid>,
    pub stamp_ms: u64,
    pub commands: Vec<Vec<u8>>,
}

/// The checkpoints of a node: what survives a restart.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<Checkpoints>>);

#[derive(Default)]
struct Checkpoints {
    /// The last one, by generation.
    last: Option<(u64, SnapshotMeta, State)>,
    /// States received and not yet installed, by staging name.
    staged: BTreeMap<String, State>,
    generations: u64,
}

#[derive(Clone)]
pub struct MemoryMachine {
    state: Arc<Mutex<State>>,
    disk: Disk,
    applied: Arc<watch::Sender<Option<LogId>>>,
    log: LogStore,
}

impl MemoryMachine {
    /// Opens the last checkpoint, as a node does at start.
    pub fn open(disk: Disk, log: LogStore) -> Self {
        let state = disk.0.lock().last.as_ref().map(|(_, _, state)| state.clone()).unwrap_or_default();
        let applied = Arc::new(watch::Sender::new(state.applied));
        Self { state: Arc::new(Mutex::new(state)), disk, applied, log }
    }

    pub fn state(&self) -> State {
        self.state.lock().clone()
    }
}

impl RaftStateMachine<BerthConfig> for MemoryMachine {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.state.lock();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<Entries>(&mut self, mut entries: Entries) -> io::Result<()>
    where
        Entries: Stream<Item = io::Result<EntryResponder<BerthConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let mut results = Vec::new();
            {
                let mut state = self.state.lock();
                state.applied = Some(entry.log_id);
                match &entry.payload {
                    EntryPayload::Blank => {}
                    EntryPayload::Membership(membership) => {
                        state.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                    }
                    EntryPayload::Normal(payload) => match payload.frame().map_err(io::Error::other)? {
                        Frame::Commands { stamp_ms, commands } => {
                            assert!(stamp_ms >= state.stamp_ms, "stamps do not fall");
                            state.stamp_ms = stamp_ms;
                            for command in commands {
                                state.commands.push(command.to_vec());
                                let device = format!("{}", state.commands.len());
                                results.push(Err(Rejection::DeviceUnknown { device }));
                            }
                        }
                        Frame::Genesis(genesis) => {
                            state.cluster.get_or_insert(genesis.cluster_id);
                        }
                        Frame::Admit(admit) => {
                            let id = admit.node_id.unwrap_or(entry.log_id.index());
                            state.nodes.entry(id).or_insert(admit.incarnation);
                        }
                    },
                }
            }
            self.applied.send_replace(Some(entry.log_id));
            if let Some(responder) = responder {
                responder.send(Applied { results });
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        // A view of this moment: later changes are not in it.
        Self { state: Arc::new(Mutex::new(self.state())), ..self.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, handle: SnapshotHandle) -> io::Result<()> {
        let installed = {
            let mut disk = self.disk.0.lock();
            let state = match handle {
                SnapshotHandle::Received { dir } => disk.staged.remove(&dir.display().to_string()),
                SnapshotHandle::Checkpoint { .. } => disk.last.as_ref().map(|(_, _, state)| state.clone()),
            };
            let mut state = state.ok_or_else(|| io::Error::other("no such snapshot"))?;
            state.applied = meta.last_log_id;
            state.membership = meta.last_membership.clone();
            disk.generations += 1;
            disk.last = Some((disk.generations, meta.clone(), state.clone()));
            state
        };
        *self.state.lock() = installed;
        self.applied.send_replace(meta.last_log_id);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let disk = self.disk.0.lock();
        Ok(disk.last.as_ref().map(|(generation, meta, _)| Snapshot {
            meta: meta.clone(),
            snapshot: SnapshotHandle::Checkpoint { generation: *generation },
        }))
    }
}

impl RaftSnapshotBuilder<BerthConfig> for MemoryMachine {
    type SnapshotData = SnapshotHandle;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let state = self.state();
        let meta = SnapshotMeta { last_log_id: state.applied, last_membership: state.membership.clone() };
        let (generation, before) = {
            let mut disk = self.disk.0.lock();
            let before = disk.last.as_ref().and_then(|(_, meta, _)| meta.last_log_id);
            disk.generations += 1;
            disk.last = Some((disk.generations, meta.clone(), state));
            (disk.generations, before)
        };
        self.log.record_checkpoint(Watermark { generation, position: meta.last_log_id }).await?;
        if let Some(before) = before {
            self.log.gate().advance(before);
        }
        Ok(Snapshot { meta, snapshot: SnapshotHandle::Checkpoint { generation } })
    }
}

impl MachineView for MemoryMachine {
    fn applied(&self) -> watch::Receiver<Option<LogId>> {
        self.applied.subscribe()
    }

    fn cluster_id(&self) -> Option<Uuid> {
        self.state.lock().cluster
    }

    fn incarnation_of(&self, node_id: u64) -> Option<Uuid> {
        self.state.lock().nodes.get(&node_id).copied()
    }

    fn node_of(&self, incarnation: Uuid) -> Option<u64> {
        self.state.lock().nodes.iter().find_map(|(id, known)| (*known == incarnation).then_some(*id))
    }

    fn stamp_ms(&self) -> u64 {
        self.state.lock().stamp_ms
    }

    fn open_snapshot(&self, _: &SnapshotHandle) -> BoxFuture<'static, io::Result<SnapshotSource>> {
        let last = self.disk.0.lock().last.as_ref().map(|(_, _, state)| state.clone());
        Box::pin(async move {
            let parts = pack(&last.ok_or_else(|| io::Error::other("no snapshot"))?);
            Ok(stream::iter(parts.into_iter().map(Ok)).boxed())
        })
    }

    fn last_snapshot(&self) -> BoxFuture<'static, io::Result<Option<(SnapshotMeta, SnapshotHandle)>>> {
        let last = self.disk.0.lock().last.as_ref().map(|(generation, meta, _)| {
            (meta.clone(), SnapshotHandle::Checkpoint { generation: *generation })
        });
        Box::pin(async move { Ok(last) })
    }

    fn receive_snapshot(&self, _: &SnapshotMeta) -> BoxFuture<'static, io::Result<Box<dyn SnapshotSink>>> {
        let sink = Staging { disk: self.disk.clone(), parts: Vec::new() };
        Box::pin(async move { Ok(Box::new(sink) as Box<dyn SnapshotSink>) })
    }
}

struct Staging {
    disk: Disk,
    parts: Vec<Bytes>,
}

impl SnapshotSink for Staging {
    fn write(&mut self, part: Bytes) -> BoxFuture<'_, io::Result<()>> {
        self.parts.push(part);
        Box::pin(async { Ok(()) })
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, io::Result<SnapshotHandle>> {
        Box::pin(async move {
            let state = unpack(&self.parts);
            let mut disk = self.disk.0.lock();
            let name = format!("staged-{}", disk.staged.len());
            disk.staged.insert(name.clone(), state);
            Ok(SnapshotHandle::Received { dir: name.into() })
        })
    }
}

/// One part with the facts, then one a command.
fn pack(state: &State) -> Vec<Bytes> {
    let mut head = state.stamp_ms.to_le_bytes().to_vec();
    head.extend_from_slice(state.cluster.unwrap_or_default().as_bytes());
    for (id, incarnation) in &state.nodes {
        head.extend_from_slice(&id.to_le_bytes());
        head.extend_from_slice(incarnation.as_bytes());
    }
    let commands = state.commands.iter().map(|command| Bytes::copy_from_slice(command));
    std::iter::once(Bytes::from(head)).chain(commands).collect()
}

fn unpack(parts: &[Bytes]) -> State {
    let (head, commands) = parts.split_first().unwrap();
    let nodes = head[24..]
        .chunks(24)
        .map(|row| (u64::from_le_bytes(row[..8].try_into().unwrap()), Uuid::from_slice(&row[8..]).unwrap()));
    State {
        stamp_ms: u64::from_le_bytes(head[..8].try_into().unwrap()),
        cluster: Some(Uuid::from_slice(&head[8..24]).unwrap()).filter(|id| !id.is_nil()),
        nodes: nodes.collect(),
        commands: commands.iter().map(|command| command.to_vec()).collect(),
        ..State::default()
    }
}
