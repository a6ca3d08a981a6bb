//! What a node does beside answering: opens its gate, takes checkpoints, measures its disk, scrubs, lets go of old pins.

use std::sync::Arc;
use std::time::Duration;

use berth_store::disk::DiskError;
use berth_store::log::LogStore;
use berth_store::machine::{Handle, Machine};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::told;
use crate::config::CheckpointPace;
use crate::directory::{Directory, SpaceGate, State};
use crate::health::{Health, Serving};
use crate::metrics::{Metrics, ScrubMetrics, whole};
use crate::raft::RaftNode;
use crate::reconcile::Reconciler;

/// Between two attempts to pass the first barrier.
const BARRIER_PAUSE: Duration = Duration::from_millis(20);
/// Between two looks at whether a checkpoint is due, and at the disk.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two looks at who leads.
const LEADER_LOOK_EVERY: Duration = Duration::from_millis(50);
/// How fast a scrub reads: beside it there is always room for a checkpoint.
const SCRUB_BYTES_PER_SECOND: u64 = 64 << 20;
/// How long a scrub keeps the pages of one checkpoint from being removed.
const SCRUB_MAX: Duration = Duration::from_secs(3_600);
/// Between two rounds of letting go: an old state that nobody looks at any more holds up to all pages written since.
const LET_GO_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Chores {
    pub(super) raft: Arc<RaftNode<Machine>>,
    pub(super) machine: Handle,
    pub(super) log: LogStore,
    pub(super) directory: Directory,
    pub(super) health: Health,
    pub(super) pace: CheckpointPace,
    pub(super) ballast_bytes: u64,
    pub(super) scrub_interval: Option<Duration>,
    pub(super) scrubs: ScrubMetrics,
    pub(super) broken: watch::Sender<Option<String>>,
    pub(super) space: SpaceGate,
}

impl Chores {
    pub(super) fn spawn(self, tasks: &mut JoinSet<()>) {
        tasks.spawn(close_on_install(self.machine.clone(), self.directory.clone()));
        tasks.spawn(open_gate(self.directory.clone(), self.health.clone()));
        tasks.spawn(tell_writes(self.directory.clone(), self.health.clone()));
        if let Some(interval) = self.scrub_interval {
            let scrubbing = Scrubbing {
                raft: Arc::clone(&self.raft),
                machine: self.machine.clone(),
                directory: self.directory.clone(),
                metrics: self.scrubs,
                broken: self.broken,
            };
            tasks.spawn(scrubbing.run(interval));
        }
        tasks.spawn(take_checkpoints(Arc::clone(&self.raft), self.machine.clone(), self.pace));
        tasks.spawn(watch_disk(
            self.raft,
            self.machine.clone(),
            self.directory.clone(),
            self.ballast_bytes,
            self.space,
        ));
        tasks.spawn(let_go(self.machine, self.directory));
    }

    /// Sets the gauges whenever somebody looks.
    pub(super) fn sample_into(&self, metrics: &Metrics, reconciler: &Reconciler) {
        let sample_reconciler = reconciler.sampler();
        let (raft, machine, log) = (Arc::downgrade(&self.raft), self.machine.clone(), self.log.clone());
        let directory = self.directory.clone();
        metrics.set_sampler(Box::new(move |metrics| {
            if let Some(raft) = raft.upgrade() {
                sample_raft(metrics, &raft);
            }
            sample_store(metrics, &machine, &log, &directory);
            sample_reconciler();
        }));
    }
}

fn sample_raft(metrics: &Metrics, raft: &RaftNode<Machine>) {
    let status = raft.status();
    let index = |position: Option<berth_store::raft::LogId>| whole(position.map_or(0, |id| id.index));
    let gauges = &metrics.raft;
    gauges.term.set(whole(status.term));
    gauges.is_leader.set(i64::from(status.leads));
    let voters = status.members.iter().filter(|member| member.voter).count() as u64;
    gauges.voters.set(whole(voters));
    gauges.learners.set(whole(status.members.len() as u64 - voters));
    gauges.last_log_index.set(whole(status.last_index.unwrap_or(0)));
    gauges.committed_index.set(index(status.committed));
    gauges.applied_index.set(index(status.applied));
    gauges.snapshot_index.set(index(status.snapshot));
    gauges.purged_index.set(index(status.purged));
    let last = status.last_index.unwrap_or(0);
    let others = status.members.iter().filter(|member| status.leads && member.id != status.id);
    gauges.set_peer_lag(others.map(|m| (m.id, last.saturating_sub(m.matched.map_or(0, |id| id.index)))));
}

fn sample_store(metrics: &Metrics, machine: &Handle, log: &LogStore, directory: &Directory) {
    let snapshot = directory.newest();
    let disk = machine.disk_stats();
    let gauges = &metrics.store;
    gauges.revision.set(whole(snapshot.revision().0));
    gauges.devices.set(whole(snapshot.device_count()));
    gauges.hubs.set(whole(snapshot.topology().hubs().count() as u64));
    gauges.stamps.set(whole(snapshot.topology().stamps().count() as u64));
    gauges.live_bytes.set(whole(snapshot.live_bytes()));
    gauges.pages.set(whole(snapshot.page_count()));
    gauges.pinned_roots.set(whole(directory.pins().count() as u64));
    gauges.disk_bytes.set(whole(disk.disk_bytes));
    gauges.log_bytes.set(whole(log.on_disk_bytes()));
    gauges.checkpoint_generation.set(whole(disk.generation));
    gauges.checkpoint_age_seconds.set(machine.checkpoint_age().map_or(0.0, |age| age.as_secs_f64()));
    gauges.checkpoint_duration_seconds.set(disk.checkpoint_took.as_secs_f64());
}

/// Passes one read-index barrier after the start and after each installed snapshot: until then no level is served.
async fn open_gate(directory: Directory, health: Health) {
    let mut state = directory.serving().watch();
    loop {
        while directory.serving().check().is_err() {
            if *state.borrow() == State::Stopping {
                return;
            }
            if directory.barrier().await.is_err() {
                tokio::time::sleep(BARRIER_PAUSE).await;
            }
        }
        health.set_read(Serving::Yes);
        if state.wait_for(|state| *state != State::Open).await.is_err() {
            return;
        }
        health.set_read(told(directory.serving().check()));
    }
}

async fn close_on_install(machine: Handle, directory: Directory) {
    let mut position = machine.reader().position();
    let mut installs = position.borrow_and_update().installs;
    while position.changed().await.is_ok() {
        let now = position.borrow_and_update().installs;
        if now != installs {
            installs = now;
            directory.serving().installed_snapshot();
        }
    }
}

/// Writes are served once the cluster is born, where a leader is known, since any node can say where to go; but not by
/// a leader that has lost its quorum.
async fn tell_writes(directory: Directory, health: Health) {
    let mut ticks = interval(LEADER_LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        health.set_write(told(directory.check_writes()));
    }
}

async fn take_checkpoints(raft: Arc<RaftNode<Machine>>, machine: Handle, pace: CheckpointPace) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut checkpointed = machine.checkpointed();
    let mut last = Instant::now();
    loop {
        ticks.tick().await;
        let waiting = machine.bytes_since_checkpoint();
        let due = waiting >= pace.log_bytes || (waiting > 0 && last.elapsed() >= pace.interval);
        if !due {
            continue;
        }
        checkpointed.borrow_and_update();
        if raft.checkpoint().await.is_err() || checkpointed.changed().await.is_err() {
            return;
        }
        last = Instant::now();
    }
}

async fn watch_disk(
    raft: Arc<RaftNode<Machine>>,
    machine: Handle,
    directory: Directory,
    ballast_bytes: u64,
    space: SpaceGate,
) {
    let mut handed_over = false;
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut ballast =
        ballast_bytes > 0 && blocking(machine.clone(), move |m| m.take_ballast(ballast_bytes)).await;
    loop {
        ticks.tick().await;
        let live_bytes = directory.newest().live_bytes();
        let free = match machine.free_space() {
            Ok(free) => free,
            Err(error) => {
                tracing::warn!(%error, "the free space of the data directory is not known");
                continue;
            }
        };
        space.set(free.free_bytes, free.needed_bytes(live_bytes));
        let short = free.is_short(live_bytes);
        if short && ballast {
            tracing::error!(
                free_bytes = free.free_bytes,
                "the disk is nearly full; the ballast file is given back"
            );
            ballast = !blocking(machine.clone(), Handle::drop_ballast).await;
        } else if short && raft.leads() && !handed_over {
            // A follower only writes what a leader lets in; another node may have room to lead. Once for each shortage:
            // where all are short of room, a leadership that goes round helps nobody.
            tracing::warn!(
                free_bytes = free.free_bytes,
                "the disk is nearly full; the leadership is handed over"
            );
            handed_over = true;
            raft.hand_over().await;
        }
        handed_over &= short;
    }
}

/// Runs a slow file operation off the async workers; true where it succeeded.
async fn blocking(
    machine: Handle,
    work: impl FnOnce(&Handle) -> Result<(), berth_store::disk::DiskError> + Send + 'static,
) -> bool {
    let done = tokio::task::spawn_blocking(move || work(&machine)).await;
    match done {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the ballast file cannot be changed");
            false
        }
        Err(_) => false,
    }
}

/// Looks for damage that nobody has met yet: recounts what is in memory, and reads the newest checkpoint again.
struct Scrubbing {
    raft: Arc<RaftNode<Machine>>,
    machine: Handle,
    directory: Directory,
    metrics: ScrubMetrics,
    broken: watch::Sender<Option<String>>,
}

impl Scrubbing {
    async fn run(self, every: Duration) {
        // Nodes that were started together take their turns.
        tokio::time::sleep(every / 2 + every / 16 * u32::try_from(self.raft.id() % 8).unwrap_or(0)).await;
        loop {
            let snapshot = self.directory.newest();
            // The snapshot goes with the recount: what it holds on to is not needed while the disk is read.
            let Ok(memory) = tokio::task::spawn_blocking(move || snapshot.recount()).await else { return };
            if let Err(problem) = memory {
                self.metrics.damaged.inc();
                tracing::error!(%problem, "the state in memory contradicts itself; this node stops");
                // Not one more answer from it: the process ends, and its next start reads the disk.
                self.directory.serving().stop();
                self.broken.send_replace(Some(problem.to_string()));
                return;
            }
            let machine = self.machine.clone();
            let disk = tokio::task::spawn_blocking(move || machine.scrub(SCRUB_MAX, SCRUB_BYTES_PER_SECOND));
            let Ok(disk) = disk.await else { return };
            self.metrics.completed.inc();
            match disk {
                Ok(whole) => tracing::info!(
                    generation = whole.generation,
                    pages = whole.pages,
                    rows = whole.rows,
                    "memory and disk were read again and are whole"
                ),
                Err(DiskError::NoCheckpoint) => {}
                Err(problem) if problem.is_damage() => {
                    self.metrics.damaged.inc();
                    tracing::error!(%problem, "the newest checkpoint is damaged; all pages are written anew");
                    if self.raft.checkpoint().await.is_err() {
                        return;
                    }
                }
                Err(problem) => tracing::warn!(%problem, "the newest checkpoint could not be read again"),
            }
            tokio::time::sleep(every).await;
        }
    }
}

async fn let_go(machine: Handle, directory: Directory) {
    let mut ticks = interval(LET_GO_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        directory.pins().sweep();
        let machine = machine.clone();
        if tokio::task::spawn_blocking(move || machine.release_pages()).await.is_err() {
            return;
        }
    }
}
