//! What DPS asked of the allocation hook.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counters of the allocation hook, on the node that was called.
#[derive(Debug, Default)]
pub struct HookMetrics {
    calls: Family<[(&'static str, &'static str); 1], Counter>,
}

impl HookMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Calls of the allocation hook, by outcome; held and placed ones were told a hub";
        registry.register("hook_allocations", help, metrics.calls.clone());
        metrics
    }

    /// Counts a call; the outcome is of a fixed list.
    pub fn answered(&self, outcome: &'static str) {
        self.calls.get_or_create(&[("outcome", outcome)]).inc();
    }
}
