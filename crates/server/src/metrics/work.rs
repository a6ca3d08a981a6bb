//! What the node did for its callers: lookups by outcome, writes, grouping, freshness rounds.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::histogram::Histogram;

/// Bounds of sizes: of an entry in commands, of a round in sharers.
const SIZES: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_000];

/// What a lookup of one device came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupOutcome {
    /// Here is its hub.
    Hit,
    /// There is no such device.
    Unknown,
    /// It exists and must not be reached now: disabled, enrolling, unassigned or failed.
    Unavailable,
    /// The request names no one device: it is malformed, or ambiguous.
    Refused,
}

/// Counters of the client-facing work.
#[derive(Debug)]
pub struct WorkMetrics {
    lookups: Arc<ByOutcome>,
    routes: Counter,
    writes: Counter,
    devices: Counter,
    writes_refused: Family<[(&'static str, &'static str); 1], Counter>,
    group_commands: Arc<Histogram>,
    read_rounds: Counter,
    read_sharers: Arc<Histogram>,
}

impl LookupOutcome {
    const ALL: [Self; 4] = [Self::Hit, Self::Unknown, Self::Unavailable, Self::Refused];

    fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Unknown => "unknown",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
        }
    }
}

impl WorkMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let work = Self {
            lookups: Arc::default(),
            routes: Counter::default(),
            writes: Counter::default(),
            devices: Counter::default(),
            writes_refused: Family::default(),
            group_commands: Arc::new(Histogram::new(&SIZES, 1.0)),
            read_rounds: Counter::default(),
            read_sharers: Arc::new(Histogram::new(&SIZES, 1.0)),
        };
        registry.register("lookups", "Devices looked up, by outcome", Shared(Arc::clone(&work.lookups)));
        registry.register("route_lookups", "Routes looked up", work.routes.clone());
        registry.register(
            "writes_accepted",
            "Commands that changed something or confirmed it",
            work.writes.clone(),
        );
        registry.register("writes_devices", "Devices that accepted commands named", work.devices.clone());
        registry.register(
            "writes_refused",
            "Commands refused or in doubt, by reason",
            work.writes_refused.clone(),
        );
        let help = "Client commands sent in one entry";
        registry.register("write_group_commands", help, Shared(Arc::clone(&work.group_commands)));
        registry.register(
            "read_index_rounds",
            "Rounds that confirmed how fresh reads are",
            work.read_rounds.clone(),
        );
        let help = "Reads that shared one round";
        registry.register("read_index_sharers", help, Shared(Arc::clone(&work.read_sharers)));
        work
    }

    /// Counts `devices` looked up with one outcome.
    pub fn looked_up(&self, outcome: LookupOutcome, devices: u64) {
        let [hit, unknown, unavailable, refused] = &self.lookups.0;
        let counter = match outcome {
            LookupOutcome::Hit => hit,
            LookupOutcome::Unknown => unknown,
            LookupOutcome::Unavailable => unavailable,
            LookupOutcome::Refused => refused,
        };
        counter.fetch_add(devices, Ordering::Relaxed);
    }

    /// Counts a route looked up.
    pub fn route_looked_up(&self) {
        self.routes.inc();
    }

    /// Counts a command that was accepted and the devices it named.
    pub fn write_accepted(&self, devices: u64) {
        self.writes.inc();
        self.devices.inc_by(devices);
    }

    /// Counts a command that was refused or is in doubt; `reason` is that of the error sent, which is one of a fixed
    /// list.
    pub fn write_refused(&self, reason: &'static str) {
        self.writes_refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts an entry that was sent with so many client commands.
    pub fn grouped(&self, commands: u64) {
        self.group_commands.observe(commands);
    }

    /// Counts a round of the read index that so many reads shared.
    pub fn read_round(&self, sharers: u64) {
        self.read_rounds.inc();
        self.read_sharers.observe(sharers);
    }
}

/// Lookups by outcome. Not a family: those take a lock per count.
#[derive(Debug, Default)]
struct ByOutcome([AtomicU64; LookupOutcome::ALL.len()]);

impl EncodeMetric for ByOutcome {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        for (outcome, count) in LookupOutcome::ALL.iter().zip(&self.0) {
            let labels = [("outcome", outcome.name())];
            ConstCounter::new(count.load(Ordering::Relaxed)).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// One metric, held by its owner and by the registry.
#[derive(Debug)]
struct Shared<M>(Arc<M>);

impl<M: EncodeMetric> EncodeMetric for Shared<M> {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        self.0.metric_type()
    }
}
