//! When a failed attempt is made again, and how long that waits.

use std::time::Duration;

use crate::error::AzureError;

/// Attempts of one call, the first among them, unless told otherwise.
pub const ATTEMPTS: u32 = 4;
/// Most attempts that may be asked for.
pub const ATTEMPTS_MAX: u32 = 16;
/// Upper end of the first wait.
pub const WAIT_FIRST: Duration = Duration::from_millis(500);
/// Upper end of every wait that Azure did not ask for.
pub const WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest `Retry-After` that is waited for within a call: DPS has been seen to ask for 120 s. A longer one goes to the
/// caller with the error.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// Doublings after which a wait no longer grows, so that the shift below cannot overflow.
const DOUBLINGS_MAX: u32 = 16;

/// What may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Anything that failed in passing: a read, or a change that carries the etag it is meant for.
    Safe,
    /// Only what cannot have had an effect: a creation, of which a repeat would meet its own first try, or a change of
    /// any version, of which a repeat could undo what somebody else did since.
    IfNotServed,
}

/// True where the failure itself allows another attempt.
pub(crate) fn may_repeat(error: &AzureError, repeat: Repeat) -> bool {
    let passing = match error {
        // Nothing but the device's coming online mends it, and the caller's deadline would pass for it.
        AzureError::NotOnline { .. } => false,
        AzureError::OverBudget { .. } | AzureError::Deadline { .. } => false,
        other => other.is_retryable(),
    };
    passing && (repeat == Repeat::Safe || !error.outcome_unknown())
}

/// The wait before the next attempt; none where there is to be no other.
///
/// `failures` is how many attempts have failed so far, `draw` a share of 0 to 1, `asked` what Azure asked for, and
/// `left` the caller's time. Full jitter: anything up to an end that doubles. What Azure asked for comes on top, so
/// that callers told the same do not come back in step.
pub(crate) fn wait(
    failures: u32,
    attempts_max: u32,
    draw: f64,
    asked: Option<Duration>,
    left: Duration,
) -> Option<Duration> {
    if failures >= attempts_max.min(ATTEMPTS_MAX) {
        return None;
    }
    let asked = asked.unwrap_or_default();
    if asked > RETRY_AFTER_MAX {
        return None;
    }
    let doublings = failures.saturating_sub(1).min(DOUBLINGS_MAX);
    let end = WAIT_FIRST.saturating_mul(1 << doublings).min(WAIT_MAX);
    let share = if draw.is_finite() { draw.clamp(0.0, 1.0) } else { 1.0 };
    let wait = asked + end.mul_f64(share);
    (wait < left).then_some(wait)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONG: Duration = Duration::from_secs(10_000);

    #[test]
    fn ends_double_up_to_the_longest() {
        let waits: Vec<u128> = (1..9)
            .filter_map(|failures| wait(failures, 16, 1.0, None, LONG))
            .map(|wait| wait.as_millis())
            .collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
    }

    #[test]
    fn azures_word_is_the_least_unless_it_is_out_of_bounds() {
        assert_eq!(wait(1, 4, 0.0, Some(Duration::from_secs(7)), LONG), Some(Duration::from_secs(7)));
        assert_eq!(wait(1, 4, 0.0, Some(Duration::from_secs(121)), LONG), None);
        assert_eq!(wait(1, 4, 0.0, Some(Duration::from_secs(7)), Duration::from_secs(7)), None);
        assert_eq!(wait(4, 4, 0.0, None, LONG), None);
    }

    proptest! {
        #[test]
        fn the_schedule_never_passes_the_deadline_nor_its_bounds(
            attempts_max in 0_u32..40,
            left_ms in 0_u64..400_000,
            draws in proptest::collection::vec(any::<f64>(), 20),
            asked in proptest::collection::vec(proptest::option::of(0_u64..200), 20),
        ) {
            let mut left = Duration::from_millis(left_ms);
            let mut sent = 0;
            for (draw, asked) in draws.iter().zip(asked) {
                sent += 1;
                let asked = asked.map(Duration::from_secs);
                let Some(wait) = wait(sent, attempts_max, *draw, asked, left) else { break };
                prop_assert!(wait < left);
                prop_assert!(wait <= RETRY_AFTER_MAX + WAIT_MAX);
                prop_assert!(wait >= asked.unwrap_or_default());
                left -= wait;
            }
            prop_assert!(sent <= attempts_max.clamp(1, ATTEMPTS_MAX));
        }
    }
}
