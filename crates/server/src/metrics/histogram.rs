//! A histogram that is counted into without a lock: the library's own takes one per observation, which two workers at
//! full speed would fight over.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Counts whole numbers into buckets.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// What a whole number is worth in the unit that is shown.
    scale: f64,
    /// One more than there are bounds: the last takes what is above them all.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// Buckets up to and with each of `bounds`, which rise; `scale` turns what is counted into the unit shown.
    pub fn new(bounds: &'static [u64], scale: f64) -> Self {
        let counts = std::iter::repeat_with(AtomicU64::default).take(bounds.len() + 1).collect();
        Self { bounds, scale, counts, sum: AtomicU64::new(0) }
    }

    /// Counts `value` once.
    pub fn observe(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let bounds = self.bounds.iter().map(|bound| scaled(*bound, self.scale)).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds
            .zip(self.counts.iter())
            .map(|(bound, count)| (bound, count.load(Ordering::Relaxed)))
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = scaled(self.sum.load(Ordering::Relaxed), self.scale);
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// Exact up to 2^53, which in nanoseconds is 104 days.
#[allow(clippy::cast_precision_loss)]
fn scaled(value: u64, scale: f64) -> f64 {
    value as f64 * scale
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn buckets_are_cumulative_and_include_their_bound() {
        #[derive(Debug)]
        struct Shared(Arc<Histogram>);
        impl EncodeMetric for Shared {
            fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
                self.0.encode(encoder)
            }
            fn metric_type(&self) -> MetricType {
                MetricType::Histogram
            }
        }
        let histogram = Arc::new(Histogram::new(&[10, 100], 1.0));
        let mut registry = Registry::default();
        registry.register("sizes", "Sizes", Shared(Arc::clone(&histogram)));
        for value in [1, 10, 11, 100, 101] {
            histogram.observe(value);
        }
        assert_eq!(histogram.count(), 5);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("sizes_bucket{le=\"10.0\"} 2"), "{text}");
        assert!(text.contains("sizes_bucket{le=\"100.0\"} 4"), "{text}");
        assert!(text.contains("sizes_bucket{le=\"+Inf\"} 5"), "{text}");
        assert!(text.contains("sizes_sum 223.0"), "{text}");
    }
}
