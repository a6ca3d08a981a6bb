//! How often Azure may be asked: a token bucket for each DPS instance and each hub.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_core::{Hub, HubNo, Scope, ScopeNo, Tier};

/// Operations of one DPS instance a minute, devices' own registrations not among them (DPS, quotas and limits).
const DPS_OPERATIONS_PER_MINUTE: u64 = 1_000;
/// Registry operations of one hub a minute and unit, in tiers F1 to S2 (IoT Hub, quotas and throttling).
const REGISTRY_OPERATIONS_PER_MINUTE: u64 = 100;
/// The same in tiers B3 and S3.
const REGISTRY_OPERATIONS_PER_MINUTE_TIER_3: u64 = 5_000;
/// Berth's share of a hub's registry operations, in percent: devices that move need the rest.
pub const HUB_PERCENT: u64 = 60;
/// Queries of one hub a minute and unit, in tiers F1 to S2 (IoT Hub, quotas and throttling).
const QUERIES_PER_MINUTE: u64 = 20;
/// The same in tiers B3 and S3.
const QUERIES_PER_MINUTE_TIER_3: u64 = 1_000;
/// Part of a full bucket, one in so many, that a sweep leaves to reports.
const LEFT_TO_REPORTS: u64 = 2;
/// Share of a scope's budget that lookups of unknown devices may use, in percent.
const READ_THROUGH_PERCENT: u64 = 20;
/// A bucket holds what comes in so many seconds.
const BURST_SECONDS: u64 = 5;
/// A new leader's bucket holds what comes in so many seconds: the leader before may just have spent its own.
const START_SECONDS: u64 = 1;
/// How long a place is left alone that throttled without saying for how long.
const THROTTLED: Duration = Duration::from_secs(10);
/// Longest time that a place is left alone, whatever it asked for.
const THROTTLED_MAX: Duration = Duration::from_secs(300);
/// What one operation costs. A bucket gains its rate a minute in each of these parts of a minute, one a millisecond.
const OPERATION: u64 = 60_000;

/// A place with a budget of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A DPS instance.
    Scope(ScopeNo),
    /// A hub.
    Hub(HubNo),
    /// A hub's queries, which have a quota of their own.
    HubQueries(HubNo),
    /// The share of a DPS instance's budget that lookups of unknown devices may use.
    ReadThrough(ScopeNo),
}

/// Operations a minute that Berth may use of a DPS instance.
pub fn rate_of_scope(scope: &Scope) -> u64 {
    DPS_OPERATIONS_PER_MINUTE * u64::from(scope.budget_percent) / 100
}

/// Of these, the operations a minute that lookups of unknown devices may use.
pub fn rate_of_read_through(scope: &Scope) -> u64 {
    rate_of_scope(scope) * READ_THROUGH_PERCENT / 100
}

/// Queries a minute that Berth may use of a hub; one of unknown tier counts as the smallest.
pub fn rate_of_hub_queries(hub: &Hub) -> u64 {
    let of_unit = match hub.tier {
        Tier::B3 | Tier::S3 => QUERIES_PER_MINUTE_TIER_3,
        _ => QUERIES_PER_MINUTE,
    };
    of_unit * u64::from(hub.units.max(1)) * HUB_PERCENT / 100
}

/// Registry operations a minute that Berth may use of a hub; one of unknown tier counts as the smallest.
pub fn rate_of_hub(hub: &Hub) -> u64 {
    let of_unit = match hub.tier {
        Tier::B3 | Tier::S3 => REGISTRY_OPERATIONS_PER_MINUTE_TIER_3,
        _ => REGISTRY_OPERATIONS_PER_MINUTE,
    };
    of_unit * u64::from(hub.units.max(1)) * HUB_PERCENT / 100
}

/// Buckets of all places that were asked in one term; there are no more than the topology has scopes and hubs.
#[derive(Debug, Default)]
pub struct Budgets {
    buckets: BTreeMap<Place, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// In parts of [`OPERATION`].
    content: u64,
    filled_ms: u64,
    closed_until_ms: u64,
}

impl Bucket {
    /// For how long nothing may be taken, in milliseconds.
    fn closed_ms(&self, now_ms: u64) -> u64 {
        let closed_ms = self.closed_until_ms.saturating_sub(now_ms);
        if closed_ms <= millis(THROTTLED_MAX) { closed_ms } else { 0 }
    }
}

impl Budgets {
    /// Takes leave for one operation, and tells how many are left.
    ///
    /// # Errors
    /// When there is leave again.
    pub fn take(&mut self, place: Place, per_minute: u64, now_ms: u64) -> Result<u64, Duration> {
        let bucket = self.fill(place, per_minute, now_ms);
        let closed_ms = bucket.closed_ms(now_ms);
        if closed_ms > 0 {
            return Err(Duration::from_millis(closed_ms));
        }
        match bucket.content.checked_sub(OPERATION) {
            Some(left) => {
                bucket.content = left;
                Ok(left / OPERATION)
            }
            None => {
                let wait_ms = (OPERATION - bucket.content).div_ceil(per_minute.max(1));
                Err(Duration::from_millis(wait_ms))
            }
        }
    }

    /// The bucket of a place, with what came in until now.
    fn fill(&mut self, place: Place, per_minute: u64, now_ms: u64) -> &mut Bucket {
        let holding = |seconds: u64| (per_minute * 1_000 * seconds).max(OPERATION);
        let bucket = self.buckets.entry(place).or_insert_with(|| Bucket {
            content: holding(START_SECONDS),
            filled_ms: now_ms,
            closed_until_ms: 0,
        });
        // A clock that was set back neither fills nor closes anything.
        let passed_ms = now_ms.saturating_sub(bucket.filled_ms);
        bucket.filled_ms = now_ms;
        let gained = passed_ms.saturating_mul(per_minute);
        bucket.content = bucket.content.saturating_add(gained).min(holding(BURST_SECONDS));
        bucket
    }

    /// How many operations may be used at once, and until when the place is left alone, where it is. Takes nothing.
    pub fn left(&self, place: Place, per_minute: u64, now_ms: u64) -> (u64, Option<u64>) {
        let holding = |seconds: u64| (per_minute * 1_000 * seconds).max(OPERATION);
        let Some(bucket) = self.buckets.get(&place) else {
            return (holding(START_SECONDS) / OPERATION, None);
        };
        let gained = now_ms.saturating_sub(bucket.filled_ms).saturating_mul(per_minute);
        let content = bucket.content.saturating_add(gained).min(holding(BURST_SECONDS));
        (content / OPERATION, (bucket.closed_ms(now_ms) > 0).then_some(bucket.closed_until_ms))
    }

    /// Whether a place can spare so many operations: beside them, half of what its bucket may hold is left to those who
    /// cannot wait. Takes nothing.
    ///
    /// # Errors
    /// When it may be so.
    pub fn spare(
        &mut self,
        place: Place,
        per_minute: u64,
        operations: u64,
        now_ms: u64,
    ) -> Result<(), Duration> {
        let full = (per_minute * 1_000 * BURST_SECONDS).max(OPERATION);
        let needed = (full / LEFT_TO_REPORTS + operations * OPERATION).min(full);
        let bucket = self.fill(place, per_minute, now_ms);
        let closed_ms = bucket.closed_ms(now_ms);
        if closed_ms > 0 {
            return Err(Duration::from_millis(closed_ms));
        }
        match needed.saturating_sub(bucket.content) {
            0 => Ok(()),
            lacking => Err(Duration::from_millis(lacking.div_ceil(per_minute.max(1)))),
        }
    }

    /// Leaves a place alone that throttled.
    pub fn close(&mut self, place: Place, retry_after: Option<Duration>, now_ms: u64) -> Duration {
        let pause = retry_after.unwrap_or(THROTTLED).min(THROTTLED_MAX);
        if let Some(bucket) = self.buckets.get_mut(&place) {
            bucket.closed_until_ms = now_ms.saturating_add(millis(pause));
            bucket.content = 0;
        }
        pause
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: Place = Place::Scope(ScopeNo(1));

    proptest! {
        #[test]
        fn no_minute_has_more_than_its_share_and_a_burst(
            steps in prop::collection::vec(0..400u64, 1..600),
            per_minute in 1..2_000u64,
        ) {
            let (mut budgets, mut now, mut taken) = (Budgets::default(), 1_000_000, Vec::new());
            for step in steps {
                now += step;
                for _ in 0..40 {
                    if budgets.take(PLACE, per_minute, now).is_ok() {
                        taken.push(now);
                    }
                }
            }
            let burst = (per_minute * BURST_SECONDS).div_ceil(60) + 1;
            for (at, first) in taken.iter().enumerate() {
                let in_minute = taken[at..].iter().take_while(|t| **t < first + 60_000).count() as u64;
                prop_assert!(in_minute <= per_minute + burst, "{in_minute} of {per_minute}");
            }
        }

        #[test]
        fn after_the_wait_that_was_told_there_is_leave(per_minute in 1..2_000u64) {
            let (mut budgets, now) = (Budgets::default(), 5_000);
            let wait = loop {
                if let Err(wait) = budgets.take(PLACE, per_minute, now) {
                    break wait;
                }
            };
            let then = now + millis(wait);
            prop_assert!(budgets.take(PLACE, per_minute, then - 1).is_err());
            prop_assert!(budgets.take(PLACE, per_minute, then).is_ok());
        }
    }

    #[test]
    fn a_sweep_leaves_half_of_a_bucket_and_waits_for_no_longer_than_it_has_to() {
        let (mut budgets, mut now) = (Budgets::default(), 1_000_000);
        for per_minute in [1, 10, 60, 600, 3_000] {
            let place = Place::Hub(HubNo(u32::try_from(per_minute).unwrap()));
            for _ in 0..200 {
                while let Err(wait) = budgets.spare(place, per_minute, 2, now) {
                    assert!(budgets.spare(place, per_minute, 2, now + millis(wait) - 1).is_err());
                    now += millis(wait);
                }
                assert!(budgets.take(place, per_minute, now).is_ok());
                let full = per_minute * BURST_SECONDS / 60;
                let (left, _) = budgets.left(place, per_minute, now);
                assert!(left >= full / LEFT_TO_REPORTS || full <= 2, "{left} of {full}");
            }
        }
    }

    #[test]
    fn a_place_that_throttled_is_left_alone_as_long_as_it_asked() {
        let mut budgets = Budgets::default();
        assert!(budgets.take(PLACE, 600, 1_000).is_ok());
        assert_eq!(budgets.close(PLACE, Some(Duration::from_secs(30)), 1_000), Duration::from_secs(30));
        assert_eq!(budgets.take(PLACE, 600, 30_999), Err(Duration::from_millis(1)));
        assert_eq!(budgets.left(PLACE, 600, 30_999).1, Some(31_000));
        assert_eq!(budgets.left(PLACE, 600, 31_000), (50, None));
        assert!(budgets.take(PLACE, 600, 31_000).is_ok());
        assert_eq!(budgets.close(PLACE, Some(Duration::from_secs(86_400)), 31_000), THROTTLED_MAX);
        // A clock that is set back by more than that does not keep the place closed for longer.
        assert!(budgets.take(PLACE, 600, 31_000 + millis(THROTTLED_MAX)).is_ok());
    }
}
