//! How long a device waits before it tries again: exponentially longer, with full jitter, as the device SDKs do.

use std::time::Duration;

use crate::clock::Randomness;
use crate::config::BackOffConfig;

/// The wait before attempt `attempt`, counted from 0.
pub(super) fn wait(config: &BackOffConfig, attempt: u8, random: &dyn Randomness) -> Duration {
    let doubled = config.first_ms.saturating_mul(1u64 << attempt.min(32));
    Duration::from_millis(below(doubled.min(config.max_ms).saturating_add(1), random))
}

/// A number below `end`, evenly as far as 64 bits let it; 0 where there is none.
pub(super) fn below(end: u64, random: &dyn Randomness) -> u64 {
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    u64::from_le_bytes(bytes).checked_rem(end).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededRandomness;

    #[test]
    fn waits_grow_to_their_bound_and_are_spread() {
        let config = BackOffConfig { first_ms: 1_000, max_ms: 8_000, ..BackOffConfig::default() };
        let random = SeededRandomness::new(3);
        for (attempt, most) in [(0, 1_000), (1, 2_000), (3, 8_000), (9, 8_000), (255, 8_000)] {
            let waits: Vec<_> =
                (0..500).map(|_| wait(&config, attempt, &random).as_millis() as u64).collect();
            let longest = waits.iter().max().copied().unwrap_or(0);
            assert!(longest <= most && longest > most * 9 / 10, "{attempt}: {longest}");
            assert!(waits.iter().any(|wait| *wait < most / 10));
        }
    }
}
