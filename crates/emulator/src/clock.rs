//! Time and chance, as they come in: nothing else of this crate asks the system for either.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

const MICROS_PER_SECOND: u64 = 1_000_000;
const SECONDS_PER_DAY: u64 = 86_400;

/// A point in time: microseconds since the Unix epoch. Zero means *never*, and prints as the services print it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Time(u64);

impl Time {
    /// What has never happened; printed as `0001-01-01T00:00:00Z`.
    pub const NEVER: Time = Time(0);

    /// The time `micros` microseconds after the Unix epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// The time `seconds` seconds after the Unix epoch; the last time there is, past its end.
    pub const fn from_unix_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(MICROS_PER_SECOND))
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    pub const fn unix_seconds(self) -> u64 {
        self.0 / MICROS_PER_SECOND
    }

    /// This time and `by` later.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }

    /// This time and `by` earlier; never before the epoch.
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero where it is not after it.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// Year, month, day, and the second of the day. The civil calendar counted in eras of 400 years from a first of
    /// March, so that the leap day is a year's last.
    fn civil(self) -> (u64, u64, u64, u64) {
        let seconds = self.unix_seconds();
        let days = seconds / SECONDS_PER_DAY + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        (year_of_era + era * 400 + u64::from(month <= 2), month, day, seconds % SECONDS_PER_DAY)
    }

    /// The form of HTTP's `Date` header (RFC 9110).
    pub fn http_date(self) -> String {
        const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let (year, month, day, second) = self.civil();
        let weekday = DAYS.get((self.unix_seconds() / SECONDS_PER_DAY % 7) as usize).unwrap_or(&"Thu");
        let month = MONTHS.get((month - 1) as usize).unwrap_or(&"Jan");
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
    }
}

/// ISO 8601 in UTC; a fraction has its trailing zeros cut, as DPS cuts them.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Time::NEVER {
            return f.write_str("0001-01-01T00:00:00Z");
        }
        let (year, month, day, second) = self.civil();
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        let micros = self.0 % MICROS_PER_SECOND;
        if micros != 0 {
            let text = format!("{micros:06}");
            write!(f, ".{}", text.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

/// What a wait returns.
pub type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where the emulator's time comes from. Implementations keep three promises: `now` never goes back; `wait_until`
/// ends once `now` has reached the time, and soon after it; `advance` moves `now` at once, for all who wait.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Time;

    /// Ends when `now` has reached `at`.
    fn wait_until(&self, at: Time) -> Wait;

    /// Moves the clock forward by `by`.
    fn advance(&self, by: Duration);
}

/// The system's clock, which can be moved forward.
#[derive(Debug)]
pub struct WallClock {
    started: Time,
    since: Instant,
    ahead: watch::Sender<Duration>,
}

impl WallClock {
    /// A clock that shows the system's time.
    pub fn new() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let started = Time::from_micros(u64::try_from(started.as_micros()).unwrap_or(u64::MAX));
        Self { started, since: Instant::now(), ahead: watch::Sender::new(Duration::ZERO) }
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for WallClock {
    fn now(&self) -> Time {
        self.started.plus(self.since.elapsed()).plus(*self.ahead.borrow())
    }

    fn wait_until(&self, at: Time) -> Wait {
        let (started, since) = (self.started, self.since);
        let mut ahead = self.ahead.subscribe();
        Box::pin(async move {
            loop {
                let moved = *ahead.borrow_and_update();
                let left = at.since(started.plus(since.elapsed()).plus(moved));
                if left.is_zero() {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(left) => {}
                    changed = ahead.changed() => if changed.is_err() {
                        // The clock is gone, and nobody can move it any more.
                        tokio::time::sleep(left).await;
                    }
                }
            }
        })
    }

    fn advance(&self, by: Duration) {
        self.ahead.send_modify(|ahead| *ahead = ahead.saturating_add(by));
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct SteppedClock {
    now: watch::Sender<Time>,
}

impl SteppedClock {
    /// A clock that stands at `at`.
    pub fn at(at: Time) -> Self {
        Self { now: watch::Sender::new(at) }
    }
}

impl Clock for SteppedClock {
    fn now(&self) -> Time {
        *self.now.borrow()
    }

    fn wait_until(&self, at: Time) -> Wait {
        let mut now = self.now.subscribe();
        Box::pin(async move {
            // An error means that the clock is gone: nobody can reach the time any more, and nobody may wait for ever.
            let _gone = now.wait_for(|now| *now >= at).await;
        })
    }

    fn advance(&self, by: Duration) {
        self.now.send_modify(|now| *now = now.plus(by));
    }
}

/// Where keys, etags and tracking IDs come from.
pub trait Randomness: Send + Sync + 'static {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// The system's randomness.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemRandomness;

impl Randomness for SystemRandomness {
    fn fill(&self, bytes: &mut [u8]) {
        rand::rng().fill_bytes(bytes);
    }
}

/// Randomness that a seed repeats (SplitMix64). Not for keys that anybody relies on.
#[derive(Debug)]
pub struct SeededRandomness(AtomicU64);

impl SeededRandomness {
    /// The sequence that `seed` begins.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Randomness for SeededRandomness {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let state = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            let word = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15)).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// One word into another, bijectively, with every bit depending on every bit (the finish of SplitMix64).
pub(crate) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A GUID of the given bytes.
pub(crate) fn guid(bytes: [u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_the_services_print_them() {
        let shown = |micros| Time::from_micros(micros).to_string();
        assert_eq!(shown(0), "0001-01-01T00:00:00Z");
        assert_eq!(shown(1_684_537_845_125_600), "2023-05-19T23:10:45.1256Z");
        assert_eq!(shown(1_684_537_845_000_000), "2023-05-19T23:10:45Z");
        assert_eq!(shown(951_782_400_000_000), "2000-02-29T00:00:00Z");
        assert_eq!(Time::from_unix_seconds(1_684_537_845).http_date(), "Fri, 19 May 2023 23:10:45 GMT");
    }

    #[tokio::test]
    async fn a_stepped_clock_ends_waits_by_being_moved() {
        let clock = SteppedClock::at(Time::from_unix_seconds(100));
        let wait = clock.wait_until(Time::from_unix_seconds(160));
        clock.advance(Duration::from_secs(60));
        wait.await;
        assert_eq!(clock.now(), Time::from_unix_seconds(160));
    }

    #[tokio::test]
    async fn a_wall_clock_can_be_moved_ahead_of_those_who_wait() {
        let clock = WallClock::new();
        let wait = clock.wait_until(clock.now().plus(Duration::from_secs(100_000)));
        clock.advance(Duration::from_secs(100_001));
        wait.await;
    }

    #[test]
    fn a_seed_repeats_itself() {
        let draw = || {
            let mut bytes = [0; 20];
            SeededRandomness::new(7).fill(&mut bytes);
            bytes
        };
        assert_eq!(draw(), draw());
    }
}
