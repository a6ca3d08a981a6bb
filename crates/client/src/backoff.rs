//! Waits between rounds of attempts: exponential, with full jitter, so that callers do not come back in step.

use std::time::Duration;

/// Doublings after which the wait no longer grows, so that the shift below cannot overflow.
const DOUBLINGS_MAX: u32 = 16;

/// Where a call stands in its waits.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    rounds: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, rounds: 0 }
    }

    /// Starts over, after progress.
    pub(crate) fn reset(&mut self) {
        self.rounds = 0;
    }

    /// The next wait: a share `draw` (0 to 1) of the current upper end, but at least what the server asked for.
    pub(crate) fn next(&mut self, draw: f64, asked: Option<Duration>) -> Duration {
        let end = self.first.saturating_mul(1 << self.rounds.min(DOUBLINGS_MAX)).min(self.longest);
        self.rounds = self.rounds.saturating_add(1);
        let jittered = end.mul_f64(draw.clamp(0.0, 1.0));
        // A server's word is obeyed up to the longest wait; the call's deadline bounds the rest.
        jittered.max(asked.unwrap_or_default().min(self.longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(100));
        let waits: Vec<u128> = (0..5).map(|_| backoff.next(1.0, None).as_millis()).collect();
        assert_eq!(waits, [20, 40, 80, 100, 100]);
        backoff.reset();
        assert_eq!(backoff.next(0.5, None), Duration::from_millis(10));
    }

    #[test]
    fn the_servers_word_counts_up_to_the_longest_wait() {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(100));
        assert_eq!(backoff.next(0.0, Some(Duration::from_millis(60))), Duration::from_millis(60));
        assert_eq!(backoff.next(0.0, Some(Duration::from_secs(60))), Duration::from_millis(100));
    }
}
