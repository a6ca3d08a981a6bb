//! What the node tells of itself, in numbers: typed, registered once, shown as OpenMetrics text.
//!
//! Names begin with `berth_` (those of a convention, `rpc_server_…` and `process_…`, keep theirs), units are base
//! units, and no label ever carries a device ID. What is counted on the hot path is counted without a lock; what
//! can be asked for is asked for when somebody looks, by the sampler.

mod edge;
mod histogram;
mod hook;
mod node;
mod process;
mod reconcile;
mod rpc;
mod work;

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use histogram::Histogram;
pub use hook::HookMetrics;
pub use node::{RaftMetrics, ScrubMetrics, StoreMetrics, whole};
pub use process::resident_bytes;
pub use reconcile::ReconcileMetrics;
pub use rpc::RpcMetrics;
pub use work::{LookupOutcome, WorkMetrics};

use crate::edge::{Gate, Gates};

/// Sets gauges from what they stand for, just before they are shown.
pub type Sampler = Box<dyn Fn(&Metrics) + Send + Sync>;

/// All metrics of a node.
pub struct Metrics {
    registry: Mutex<Registry>,
    sampler: RwLock<Option<Sampler>>,
    rpc: Arc<RpcMetrics>,
    /// Lookups, writes, groups, read rounds.
    pub work: Arc<WorkMetrics>,
    /// What is asked of Azure, and what comes of it.
    pub reconcile: Arc<ReconcileMetrics>,
    /// What DPS asks of us.
    pub hook: Arc<HookMetrics>,
    /// Where Raft stands.
    pub raft: RaftMetrics,
    /// Where the store stands.
    pub store: StoreMetrics,
}

impl Metrics {
    /// Metrics of a process that started at `started`.
    pub fn new(started: SystemTime) -> Arc<Self> {
        let mut registry = Registry::default();
        let rpc = RpcMetrics::new();
        registry.register_collector(Box::new(rpc::RpcCollector(Arc::clone(&rpc))));
        let started_unix_seconds =
            started.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        registry.register_collector(Box::new(process::ProcessCollector { started_unix_seconds }));
        let berth = registry.sub_registry_with_prefix("berth");
        berth.register("build", "What is running", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let work = Arc::new(WorkMetrics::register(berth));
        let reconcile = Arc::new(ReconcileMetrics::register(berth));
        let hook = Arc::new(HookMetrics::register(berth));
        let raft = RaftMetrics::register(berth);
        let store = StoreMetrics::register(berth);
        let (registry, sampler) = (Mutex::new(registry), RwLock::new(None));
        Arc::new(Self { registry, sampler, rpc, work, reconcile, hook, raft, store })
    }

    /// Sets what is run before each look; a second call replaces the first.
    pub fn set_sampler(&self, sampler: Sampler) {
        *self.sampler.write() = Some(sampler);
    }

    /// Durations of calls.
    pub fn rpc(&self) -> Arc<RpcMetrics> {
        Arc::clone(&self.rpc)
    }

    /// Shows what is in flight at the client listener.
    pub(crate) fn watch_edge(&self, gates: Gates, connections: Arc<Gate>) {
        self.registry.lock().register_collector(Box::new(edge::EdgeCollector { gates, connections }));
    }

    /// Everything, as OpenMetrics text.
    ///
    /// # Errors
    /// Only if a metric cannot be written, which is a bug.
    pub fn text(&self) -> Result<String, fmt::Error> {
        if let Some(sampler) = &*self.sampler.read() {
            sampler(self);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_every_family_and_ends_as_openmetrics() {
        let metrics = Metrics::new(UNIX_EPOCH);
        metrics.work.looked_up(LookupOutcome::Hit, 3);
        metrics.work.looked_up(LookupOutcome::Unknown, 1);
        metrics.work.write_accepted(10);
        metrics.work.write_refused("CAPACITY_EXHAUSTED");
        metrics.work.read_round(40);
        metrics.reconcile.called("get registration", "ok");
        metrics.reconcile.left("0ne00112233", 49);
        metrics.reconcile.joined();
        metrics.reconcile.odd_rows(2);
        metrics.reconcile.swept("all", 1_000);
        metrics.reconcile.sample(61_000);
        metrics.hook.answered("placed");
        metrics.reconcile.set_drift(&[(berth_core::reconcile::DriftClass::Pending, 3)].into());
        metrics.set_sampler(Box::new(|metrics| {
            metrics.store.devices.set(7);
            metrics.raft.set_peer_lag([(2, 5)]);
        }));
        let text = metrics.text().unwrap();
        for line in [
            "berth_lookups_total{outcome=\"hit\"} 3",
            "berth_lookups_total{outcome=\"unknown\"} 1",
            "berth_writes_accepted_total 1",
            "berth_writes_devices_total 10",
            "berth_writes_refused_total{reason=\"CAPACITY_EXHAUSTED\"} 1",
            "berth_read_index_sharers_bucket{le=\"64.0\"} 1",
            "berth_azure_calls_total{operation=\"get registration\",outcome=\"ok\"} 1",
            "berth_azure_budget_left{place=\"0ne00112233\"} 49",
            "berth_reconcile_flights_joined_total 1",
            "berth_azure_odd_rows_total 2",
            "berth_reconcile_sweep_age_seconds{of=\"all\"} 60",
            "berth_hook_allocations_total{outcome=\"placed\"} 1",
            "berth_reconcile_drift{class=\"PENDING\"} 3",
            "berth_store_devices 7",
            "berth_raft_peer_lag_entries{node=\"2\"} 5",
            concat!("berth_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "process_start_time_seconds 0.0",
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line} is missing in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_peer_that_left_is_no_longer_shown() {
        let metrics = Metrics::new(UNIX_EPOCH);
        metrics.raft.set_peer_lag([(2, 5), (3, 0)]);
        metrics.raft.set_peer_lag([(3, 1)]);
        let text = metrics.text().unwrap();
        assert!(!text.contains("node=\"2\""), "{text}");
        assert!(text.contains("node=\"3\"} 1"), "{text}");
    }
}
