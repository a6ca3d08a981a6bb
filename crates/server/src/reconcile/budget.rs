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
const THROTTLED_MAX: Duration = Duration::from_secs(3_600);
/// Most operations that one question may need leave for at once. Every bucket has room for so many.
const OPERATIONS_MAX: u64 = 2;
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

/// A place, and its operations a minute.
pub type Rate = (Place, u64);

/// Why there is no leave, and when there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoLeave {
    /// What may be asked of this place is spent.
    Spent(Place, Duration),
    /// Azure asked for this place to be left alone.
    Closed(Place, Duration),
}

impl NoLeave {
    fn wait(&self) -> Duration {
        let (Self::Spent(_, wait) | Self::Closed(_, wait)) = self;
        *wait
    }
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

impl Budgets {
    /// Takes leave for so many operations (at most [`OPERATIONS_MAX`]) of each of these places, or of none; tells how
    /// many are left of the first.
    ///
    /// # Errors
    /// Why not, and when there may be leave.
    pub fn take(&mut self, places: &[Rate], operations: u64, now_ms: u64) -> Result<u64, NoLeave> {
        let price = operations.min(OPERATIONS_MAX) * OPERATION;
        let refusals = places.iter().filter_map(|(place, per_minute)| {
            let bucket = self.filled(*place, *per_minute, now_ms);
            if let Some(wait) = bucket.closed_for(now_ms) {
                return Some(NoLeave::Closed(*place, wait));
            }
            let missing = price.checked_sub(bucket.content).filter(|missing| *missing > 0)?;
            let wait_ms = missing.div_ceil((*per_minute).max(1));
            Some(NoLeave::Spent(*place, Duration::from_millis(wait_ms)))
        });
        if let Some(longest) = refusals.max_by_key(|refusal| refusal.wait()) {
            return Err(longest);
        }
        for (place, _) in places {
            if let Some(bucket) = self.buckets.get_mut(place) {
                bucket.content = bucket.content.saturating_sub(price);
            }
        }
        let first = places.first().and_then(|(place, _)| self.buckets.get(place));
        Ok(first.map_or(0, |bucket| bucket.content / OPERATION))
    }

    /// Gives leave for one operation back that was not needed.
    pub fn give_back(&mut self, places: &[Rate]) {
        for (place, per_minute) in places {
            if let Some(bucket) = self.buckets.get_mut(place) {
                let most = holding(*per_minute, BURST_SECONDS);
                bucket.content = bucket.content.saturating_add(OPERATION).min(most);
            }
        }
    }

    /// For how long yet a place is to be left alone.
    pub fn closed_for(&self, place: Place, now_ms: u64) -> Option<Duration> {
        self.buckets.get(&place).and_then(|bucket| bucket.closed_for(now_ms))
    }

    /// How many operations may be used at once, and until when the place is left alone, where it is. Takes nothing.
    pub fn left(&self, place: Place, per_minute: u64, now_ms: u64) -> (u64, Option<u64>) {
        let Some(bucket) = self.buckets.get(&place) else {
            return (holding(per_minute, START_SECONDS) / OPERATION, None);
        };
        let gained = now_ms.saturating_sub(bucket.filled_ms).saturating_mul(per_minute);
        let content = bucket.content.saturating_add(gained).min(holding(per_minute, BURST_SECONDS));
        match bucket.closed_for(now_ms) {
            Some(pause) => (0, Some(now_ms.saturating_add(millis(pause)))),
            None => (content / OPERATION, None),
        }
    }

    /// Whether a place can spare so many operations: beside them, half of what its bucket may hold is left to those who
    /// cannot wait. Takes nothing.
    ///
    /// # Errors
    /// When it may be so.
    pub fn spare(&mut self, (place, per_minute): Rate, operations: u64, now_ms: u64) -> Result<(), Duration> {
        let full = holding(per_minute, BURST_SECONDS);
        let needed = (full / LEFT_TO_REPORTS + operations * OPERATION).min(full);
        let bucket = self.filled(place, per_minute, now_ms);
        if let Some(wait) = bucket.closed_for(now_ms) {
            return Err(wait);
        }
        match needed.saturating_sub(bucket.content) {
            0 => Ok(()),
            lacking => Err(Duration::from_millis(lacking.div_ceil(per_minute.max(1)))),
        }
    }

    /// Leaves a place alone that throttled, for at least as long as it asked for before; tells how long that is.
    pub fn close(&mut self, place: Place, retry_after: Option<Duration>, now_ms: u64) -> Duration {
        let pause = retry_after.unwrap_or(THROTTLED).min(THROTTLED_MAX);
        let Some(bucket) = self.buckets.get_mut(&place) else { return pause };
        let pause = bucket.closed_for(now_ms).unwrap_or_default().max(pause);
        bucket.closed_until_ms = now_ms.saturating_add(millis(pause));
        bucket.content = 0;
        pause
    }

    /// The bucket of a place, with what came in since it was last looked at.
    fn filled(&mut self, place: Place, per_minute: u64, now_ms: u64) -> &mut Bucket {
        let bucket = self.buckets.entry(place).or_insert_with(|| Bucket {
            content: holding(per_minute, START_SECONDS),
            filled_ms: now_ms,
            closed_until_ms: 0,
        });
        // A clock that was set back fills nothing.
        let passed_ms = now_ms.saturating_sub(bucket.filled_ms);
        bucket.filled_ms = now_ms;
        let gained = passed_ms.saturating_mul(per_minute);
        bucket.content = bucket.content.saturating_add(gained).min(holding(per_minute, BURST_SECONDS));
        bucket
    }
}

impl Bucket {
    /// A clock that was set back keeps nothing closed for longer than anybody may ask for.
    fn closed_for(&self, now_ms: u64) -> Option<Duration> {
        let closed_ms = self.closed_until_ms.saturating_sub(now_ms);
        (1..=millis(THROTTLED_MAX)).contains(&closed_ms).then(|| Duration::from_millis(closed_ms))
    }
}

/// What comes in within so many seconds, but room for one question at the least.
fn holding(per_minute: u64, seconds: u64) -> u64 {
    (per_minute * 1_000 * seconds).max(OPERATIONS_MAX * OPERATION)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: Place = Place::Scope(ScopeNo(1));
    const SHARE: Place = Place::ReadThrough(ScopeNo(1));

    proptest! {
        #[test]
        fn no_minute_has_more_than_its_share_and_a_burst(
            steps in prop::collection::vec((0..400u64, 1..3u64, any::<bool>()), 1..600),
            per_minute in 1..2_000u64,
        ) {
            let (mut budgets, mut now, mut taken) = (Budgets::default(), 1_000_000, Vec::new());
            let places = [(PLACE, per_minute)];
            for (step, operations, needs_all) in steps {
                now += step;
                for _ in 0..40 {
                    if budgets.take(&places, operations, now).is_ok() {
                        let unused = u64::from(operations == 2 && !needs_all);
                        (0..unused).for_each(|_| budgets.give_back(&places));
                        (0..operations - unused).for_each(|_| taken.push(now));
                    }
                }
            }
            let burst = (per_minute * BURST_SECONDS).div_ceil(60).max(OPERATIONS_MAX) + 1;
            for (at, first) in taken.iter().enumerate() {
                let in_minute = taken[at..].iter().take_while(|t| **t < first + 60_000).count() as u64;
                prop_assert!(in_minute <= per_minute + burst, "{in_minute} of {per_minute}");
            }
        }

        #[test]
        fn after_the_wait_that_was_told_there_is_leave(per_minute in 1..2_000u64, operations in 1..3u64) {
            let (mut budgets, now) = (Budgets::default(), 5_000);
            let places = [(PLACE, per_minute)];
            let wait = loop {
                if let Err(no_leave) = budgets.take(&places, operations, now) {
                    let NoLeave::Spent(PLACE, wait) = no_leave else { panic!("{no_leave:?}") };
                    break wait;
                }
            };
            let then = now + millis(wait);
            prop_assert!(budgets.take(&places, operations, then - 1).is_err());
            prop_assert!(budgets.take(&places, operations, then).is_ok());
        }
    }

    #[test]
    fn what_one_of_two_places_refuses_is_taken_from_neither() {
        let mut budgets = Budgets::default();
        // Two a second, of which ten come in.
        let places = [(PLACE, 600), (SHARE, 120)];
        assert_eq!(budgets.take(&places, 2, 1_000), Ok(8));
        assert_eq!(budgets.take(&places, 2, 1_000), Err(NoLeave::Spent(SHARE, Duration::from_secs(1))));
        assert_eq!(budgets.take(&places[..1], 1, 1_000), Ok(7));
        budgets.give_back(&places);
        assert_eq!(budgets.take(&places, 1, 1_000), Ok(7));
    }

    #[test]
    fn a_sweep_leaves_half_of_a_bucket_and_waits_for_no_longer_than_it_has_to() {
        let (mut budgets, mut now) = (Budgets::default(), 1_000_000);
        for per_minute in [1, 10, 60, 600, 3_000] {
            let rate = (Place::Hub(HubNo(u32::try_from(per_minute).unwrap())), per_minute);
            for _ in 0..200 {
                while let Err(wait) = budgets.spare(rate, 2, now) {
                    assert!(budgets.spare(rate, 2, now + millis(wait) - 1).is_err());
                    now += millis(wait);
                }
                assert!(budgets.take(&[rate], 1, now).is_ok());
                let full = per_minute * BURST_SECONDS / 60;
                let (left, _) = budgets.left(rate.0, per_minute, now);
                assert!(left >= full / LEFT_TO_REPORTS || full <= 2, "{left} of {full}");
            }
        }
    }

    #[test]
    fn a_place_that_throttled_is_left_alone_as_long_as_it_asked() {
        let (mut budgets, places) = (Budgets::default(), [(PLACE, 600)]);
        assert!(budgets.take(&places, 1, 1_000).is_ok());
        assert_eq!(budgets.close(PLACE, Some(Duration::from_secs(30)), 1_000), Duration::from_secs(30));
        // Another question was on its way, and came back with less.
        assert_eq!(budgets.close(PLACE, Some(Duration::from_secs(2)), 2_000), Duration::from_secs(29));
        let closed = NoLeave::Closed(PLACE, Duration::from_millis(1));
        assert_eq!(budgets.take(&places, 1, 30_999), Err(closed));
        assert_eq!(budgets.closed_for(PLACE, 30_999), Some(Duration::from_millis(1)));
        assert_eq!(budgets.left(PLACE, 600, 30_999).1, Some(31_000));
        assert_eq!(budgets.left(PLACE, 600, 31_000), (50, None));
        assert!(budgets.take(&places, 1, 31_000).is_ok());
        assert_eq!(budgets.close(PLACE, Some(Duration::from_secs(86_400)), 31_000), THROTTLED_MAX);
        assert!(budgets.take(&places, 1, 31_000 + millis(THROTTLED_MAX)).is_ok());
        // A clock that is set back by more than that does not keep the place closed for longer.
        assert_eq!(budgets.close(PLACE, None, 9_000_000), THROTTLED);
        assert!(budgets.take(&places, 1, 9_000_000 - millis(THROTTLED_MAX)).is_ok());
        assert_eq!(budgets.closed_for(PLACE, 9_000_000 - millis(THROTTLED_MAX)), None);
    }
}
