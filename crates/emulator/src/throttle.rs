//! How fast is too fast: the services' quotas as buckets on the emulator's clock.
//!
//! A [`Bucket`] remembers one number, the time at which it would be full again, so that hundreds of thousands of them
//! cost little. A [`Rate`] says how far apart uses may be, and how many may come at once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Time;

/// A quota: uses in a window, all of which may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Time that one use takes out of the bucket, in nanoseconds.
    interval_ns: u64,
    /// Uses that a full bucket holds.
    burst: u64,
}

impl Rate {
    /// `uses` per `window`, times `factor`; at least one use a window.
    pub(crate) fn per(uses: f64, window: Duration, factor: f64) -> Self {
        let scaled = (uses * factor).max(1.0);
        // Both casts saturate, and a bucket of no interval lets everything through.
        let interval_ns = (window.as_nanos() as f64 / scaled) as u64;
        Self { interval_ns, burst: scaled as u64 }
    }
}

/// What a bucket says of one use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may happen now.
    Admitted,
    /// It may happen after this time; nothing was taken.
    Wait(Duration),
}

/// What is left of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Bucket {
    /// When the bucket is full again, in nanoseconds since the epoch.
    full_at_ns: u64,
}

impl Bucket {
    /// Takes `uses` out, if they are there.
    pub(crate) fn take(&mut self, rate: Rate, uses: u64, now: Time) -> Verdict {
        let wait = self.wait(rate, uses, now);
        if wait.is_zero() {
            self.full_at_ns = self.after(rate, uses, now);
            return Verdict::Admitted;
        }
        Verdict::Wait(wait)
    }

    /// Takes `uses` out now and says how long to hold them back for it, if that is at most `backlog`: bursts are
    /// shaped before any is refused.
    pub(crate) fn shape(
        &mut self,
        rate: Rate,
        uses: u64,
        backlog: Duration,
        now: Time,
    ) -> Result<Duration, Duration> {
        let wait = self.wait(rate, uses, now);
        if wait > backlog {
            return Err(wait);
        }
        self.full_at_ns = self.after(rate, uses, now);
        Ok(wait)
    }

    fn after(self, rate: Rate, uses: u64, now: Time) -> u64 {
        let now_ns = now.micros().saturating_mul(1_000);
        self.full_at_ns.max(now_ns).saturating_add(rate.interval_ns.saturating_mul(uses))
    }

    fn wait(self, rate: Rate, uses: u64, now: Time) -> Duration {
        let now_ns = now.micros().saturating_mul(1_000);
        let reach_ns = now_ns.saturating_add(rate.interval_ns.saturating_mul(rate.burst));
        // Rounded up to the clock's microsecond, so that a caller who waits this long is let in.
        let missing = self.after(rate, uses, now).saturating_sub(reach_ns);
        Duration::from_micros(missing.div_ceil(1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_unix_seconds(1_000);

    #[test]
    fn a_full_bucket_holds_one_window_and_fills_again_evenly() {
        let rate = Rate::per(1_000.0, Duration::from_secs(60), 1.0);
        let mut bucket = Bucket::default();
        for use_no in 0..1_000 {
            assert_eq!(bucket.take(rate, 1, START), Verdict::Admitted, "use {use_no}");
        }
        assert_eq!(bucket.take(rate, 1, START), Verdict::Wait(Duration::from_millis(60)));
        assert_eq!(bucket.take(rate, 1, START.plus(Duration::from_millis(60))), Verdict::Admitted);
    }

    #[test]
    fn a_factor_scales_the_quota() {
        let rate = Rate::per(5.0, Duration::from_secs(10), 10.0);
        let mut bucket = Bucket::default();
        let admitted = (0..100).filter(|_| bucket.take(rate, 1, START) == Verdict::Admitted).count();
        assert_eq!(admitted, 50);
    }

    #[test]
    fn bursts_are_held_back_before_they_are_refused() {
        let rate = Rate::per(100.0, Duration::from_secs(60), 1.0);
        let mut bucket = Bucket::default();
        let backlog = Duration::from_secs(10);
        let held: Vec<_> = (0..200).map(|_| bucket.shape(rate, 1, backlog, START)).collect();
        assert!(held[..100].iter().all(|wait| *wait == Ok(Duration::ZERO)));
        assert_eq!(held[100], Ok(Duration::from_millis(600)));
        assert_eq!(held.iter().filter(|wait| wait.is_ok()).count(), 116);
    }
}
