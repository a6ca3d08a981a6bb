//! Durations of calls by method and status, as OpenTelemetry names them.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use tonic::Code;

use super::histogram::Histogram;
use crate::edge::{Method, Methods};

/// Codes that gRPC has.
const CODES: usize = 17;
/// Bounds of the buckets, nanoseconds: 100 µs to 10 s in steps of about 2.5.
const BOUNDS_NS: [u64; 16] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// `rpc_server_call_duration_seconds` by `rpc_method` and `rpc_response_status_code`.
#[derive(Debug)]
pub struct RpcMetrics {
    /// One row per method of the table; a cell comes to be with its first call.
    rows: Box<[[OnceLock<Histogram>; CODES]]>,
}

/// Collects from the shared [`RpcMetrics`].
#[derive(Debug)]
pub(super) struct RpcCollector(pub(super) Arc<RpcMetrics>);

impl RpcMetrics {
    pub(super) fn new() -> Arc<Self> {
        let rows = Methods::of_this_build().names().map(|_| [const { OnceLock::new() }; CODES]).collect();
        Arc::new(Self { rows })
    }

    /// Counts one call that is over.
    pub fn record(&self, method: Method, code: Code, took: Duration) {
        let cell = usize::try_from(i32::from(code))
            .ok()
            .and_then(|code| self.rows.get(usize::from(method.index)).and_then(|row| row.get(code)));
        if let Some(cell) = cell {
            let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            cell.get_or_init(|| Histogram::new(&BOUNDS_NS, 1e-9)).observe(nanos);
        }
    }

    /// How many calls of a method ended with a code.
    pub fn count(&self, method: Method, code: Code) -> u64 {
        usize::try_from(i32::from(code))
            .ok()
            .and_then(|code| self.rows.get(usize::from(method.index))?.get(code)?.get())
            .map_or(0, Histogram::count)
    }
}

impl Collector for RpcCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "rpc_server_call_duration",
            "How long calls took, from their headers to their status",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (row, method) in self.0.rows.iter().zip(Methods::of_this_build().names()) {
            for (code, cell) in row.iter().enumerate() {
                let Some(histogram) = cell.get() else { continue };
                let labels = [("rpc_method", method), ("rpc_response_status_code", code_name(code))];
                histogram.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// The code's name as the gRPC protocol writes it.
fn code_name(code: usize) -> &'static str {
    const NAMES: [&str; CODES] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(code).copied().unwrap_or("UNKNOWN")
}
