//! What is in flight at the client listener, read from its gates at scrape time.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::edge::{Class, Gate, Gates};

/// Reads the gates of the client listener.
#[derive(Debug)]
pub(super) struct EdgeCollector {
    pub(super) gates: Gates,
    pub(super) connections: Arc<Gate>,
}

impl EdgeCollector {
    fn family(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        kind: MetricType,
        value: impl Fn(&Gate) -> u64,
    ) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for class in Class::ALL {
            let labels = [("class", class.name())];
            let encoder = family.encode_family(&labels)?;
            let value = value(self.gates.of(class));
            match kind {
                MetricType::Counter => ConstCounter::new(value).encode(encoder)?,
                _ => gauge(value).encode(encoder)?,
            }
        }
        Ok(())
    }
}

impl Collector for EdgeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let encoder = &mut encoder;
        let in_flight = ("berth_rpc_permits_in_use", "Permits in use by class; a batch takes several");
        self.family(encoder, in_flight, MetricType::Gauge, Gate::used)?;
        let limit = ("berth_rpc_permits_limit", "Permits there are by class");
        self.family(encoder, limit, MetricType::Gauge, Gate::limit)?;
        let shed = ("berth_rpc_shed", "Calls refused because their class was full");
        self.family(encoder, shed, MetricType::Counter, Gate::refused)?;

        let help = "Client connections that are open";
        let open = encoder.encode_descriptor("berth_connections_open", help, None, MetricType::Gauge)?;
        gauge(self.connections.used()).encode(open)?;
        let help = "Client connections refused because there were too many";
        let refused =
            encoder.encode_descriptor("berth_connections_refused", help, None, MetricType::Counter)?;
        ConstCounter::new(self.connections.refused()).encode(refused)
    }
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
