//! What the reconciler asked of Azure, what it did not have to ask, and what it found.

use std::collections::BTreeMap;

use berth_core::reconcile::DriftClass;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::whole;

/// Counters of the reconciler; those of a node that does not lead stand still.
#[derive(Debug, Default)]
pub struct ReconcileMetrics {
    calls: Family<[(&'static str, &'static str); 2], Counter>,
    budget: Family<[(&'static str, String); 1], Gauge<i64>>,
    joined: Counter,
    remembered: Counter,
    drift: Family<[(&'static str, &'static str); 1], Gauge<i64>>,
    odd_rows: Counter,
    /// When the last complete sweep of all, a scope or a hub ended, in milliseconds since 1970.
    swept_ms: Mutex<BTreeMap<String, u64>>,
    sweep_age: Family<[(&'static str, String); 1], Gauge<i64>>,
}

impl ReconcileMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Questions to Azure, by operation and outcome; those over budget were not sent";
        registry.register("azure_calls", help, metrics.calls.clone());
        let help = "Operations that may be used at once, as of the last question, by scope and hub";
        registry.register("azure_budget_left", help, metrics.budget.clone());
        let help = "Reports that shared the question of another";
        registry.register("reconcile_flights_joined", help, metrics.joined.clone());
        let help = "Reports answered by what was found shortly before";
        registry.register("reconcile_remembered", help, metrics.remembered.clone());
        let help = "Devices known to be in disagreement with Azure, by class; on the leader only";
        registry.register("reconcile_drift", help, metrics.drift.clone());
        let help = "Rows of Azure's listings that could not be read";
        registry.register("azure_odd_rows", help, metrics.odd_rows.clone());
        let help = "Time since the last complete sweep that this node ran ended, by what it was limited to";
        registry.register("reconcile_sweep_age_seconds", help, metrics.sweep_age.clone());
        metrics
    }

    /// Counts a question; operation and outcome are of fixed lists.
    pub fn called(&self, operation: &'static str, outcome: &'static str) {
        self.calls.get_or_create(&[("operation", operation), ("outcome", outcome)]).inc();
    }

    /// Sets what is left for a scope or hub.
    pub fn left(&self, place: &str, operations: u64) {
        self.budget.get_or_create(&[("place", place.to_owned())]).set(whole(operations));
    }

    /// Counts a report that waited for another's answer.
    pub fn joined(&self) {
        self.joined.inc();
    }

    /// Counts a report that needed no question.
    pub fn remembered(&self) {
        self.remembered.inc();
    }

    /// Counts rows of a listing that could not be read.
    pub fn odd_rows(&self, count: u64) {
        self.odd_rows.inc_by(count);
    }

    /// Notes that a sweep has compared everything: of `all`, of a scope, or of a hub.
    pub fn swept(&self, of: &str, now_ms: u64) {
        self.swept_ms.lock().insert(of.to_owned(), now_ms);
    }

    /// Sets the ages of what has one.
    pub(crate) fn sample(&self, now_ms: u64) {
        for (of, at_ms) in &*self.swept_ms.lock() {
            let age = now_ms.saturating_sub(*at_ms) / 1_000;
            self.sweep_age.get_or_create(&[("of", of.clone())]).set(whole(age));
        }
    }

    /// Sets how many devices are in drift; a class that is not named has none.
    pub fn set_drift(&self, counts: &BTreeMap<DriftClass, usize>) {
        for class in DriftClass::ALL {
            let count = counts.get(class).copied().unwrap_or_default();
            self.drift.get_or_create(&[("class", class.name())]).set(whole(count as u64));
        }
    }
}
