//! Where Raft and the store stand. Set by the sampler of [`super::Metrics`] when somebody looks.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

type Whole = Gauge<i64>;
type Real = Gauge<f64, AtomicU64>;

/// Raft, as this node sees it. Indexes are those of the log.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct RaftMetrics {
    pub term: Whole,
    /// 1 on the leader.
    pub is_leader: Whole,
    pub voters: Whole,
    pub learners: Whole,
    pub last_log_index: Whole,
    pub committed_index: Whole,
    pub applied_index: Whole,
    pub snapshot_index: Whole,
    pub purged_index: Whole,
    /// Entries that each peer lacks, by its node ID; on the leader only.
    peer_lag: Family<[(&'static str, u64); 1], Whole>,
}

/// The store of this node.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct StoreMetrics {
    pub revision: Whole,
    pub devices: Whole,
    pub hubs: Whole,
    pub stamps: Whole,
    /// Bytes of rows, without what pages add.
    pub live_bytes: Whole,
    pub pages: Whole,
    pub pinned_roots: Whole,
    pub disk_bytes: Whole,
    pub log_bytes: Whole,
    pub checkpoint_generation: Whole,
    pub checkpoint_age_seconds: Real,
    pub checkpoint_duration_seconds: Real,
    /// Times that opening fell back to the generation before a damaged one.
    pub fell_back: Counter,
    /// Times that damaged or missing pages were rebuilt from peers.
    pub rebuilt: Counter,
    /// Scrubs and what they found.
    pub scrubs: ScrubMetrics,
}

/// Counts of scrubs.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct ScrubMetrics {
    pub completed: Counter,
    pub damaged: Counter,
}

impl RaftMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let raft = Self::default();
        let registry = registry.sub_registry_with_prefix("raft");
        registry.register("term", "Current term", raft.term.clone());
        registry.register("is_leader", "1 if this node leads", raft.is_leader.clone());
        registry.register("voters", "Nodes that vote", raft.voters.clone());
        registry.register("learners", "Nodes that follow without a vote", raft.learners.clone());
        registry.register("last_log_index", "Newest entry in the log", raft.last_log_index.clone());
        registry.register(
            "committed_index",
            "Newest entry known to be committed",
            raft.committed_index.clone(),
        );
        registry.register("applied_index", "Newest entry applied", raft.applied_index.clone());
        registry.register(
            "snapshot_index",
            "Newest entry that a completed checkpoint holds",
            raft.snapshot_index.clone(),
        );
        registry.register(
            "purged_index",
            "Newest entry that the log no longer holds",
            raft.purged_index.clone(),
        );
        registry.register(
            "peer_lag_entries",
            "Entries that a peer lacks, seen by the leader",
            raft.peer_lag.clone(),
        );
        raft
    }

    /// Sets how many entries each peer lacks; peers that are not named are forgotten.
    pub fn set_peer_lag(&self, lags: impl IntoIterator<Item = (u64, u64)>) {
        self.peer_lag.clear();
        for (node, lag) in lags {
            self.peer_lag.get_or_create(&[("node", node)]).set(whole(lag));
        }
    }
}

impl StoreMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let store = Self::default();
        let registry = registry.sub_registry_with_prefix("store");
        let (bytes, seconds) = (Unit::Bytes, Unit::Seconds);
        registry.register("revision", "Revision that reads see", store.revision.clone());
        registry.register("devices", "Devices held", store.devices.clone());
        registry.register("hubs", "Hubs held", store.hubs.clone());
        registry.register("stamps", "Stamps held", store.stamps.clone());
        registry.register_with_unit("live", "Bytes of rows", bytes.clone(), store.live_bytes.clone());
        registry.register("pages", "Pages in memory", store.pages.clone());
        registry.register(
            "pinned_roots",
            "Points in time kept for lists and exports",
            store.pinned_roots.clone(),
        );
        registry.register_with_unit(
            "disk",
            "Bytes of the page store on disk",
            bytes.clone(),
            store.disk_bytes.clone(),
        );
        registry.register_with_unit("log", "Bytes of the log on disk", bytes, store.log_bytes.clone());
        let generation = store.checkpoint_generation.clone();
        registry.register("checkpoint_generation", "Number of the newest checkpoint", generation);
        let age = store.checkpoint_age_seconds.clone();
        registry.register_with_unit("checkpoint_age", "Since the newest checkpoint", seconds.clone(), age);
        let duration = store.checkpoint_duration_seconds.clone();
        registry.register_with_unit(
            "checkpoint_duration",
            "What the newest checkpoint took",
            seconds,
            duration,
        );
        let help = "Openings that fell back to the checkpoint before a damaged one";
        registry.register("fell_back", help, store.fell_back.clone());
        registry.register("rebuilt", "Rebuilds of damaged pages from peers", store.rebuilt.clone());
        let help = "Times that memory was recounted and the newest checkpoint read again";
        registry.register("scrubs", help, store.scrubs.completed.clone());
        let help = "Scrubs that found memory or disk damaged";
        registry.register("scrubs_damaged", help, store.scrubs.damaged.clone());
        store
    }
}

/// A count as a gauge's value.
pub fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
