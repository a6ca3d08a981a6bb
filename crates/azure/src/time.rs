//! Times as Azure writes them: ISO 8601 in UTC with up to seven fractional digits, trailing zeros trimmed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Ticks of 100 ns in a second: the finest that seven fractional digits can say.
const TICKS_PER_SECOND: i64 = 10_000_000;
/// Most fractional digits that Azure writes.
const FRACTION_DIGITS_MAX: usize = 7;
const SECONDS_PER_DAY: i64 = 86_400;
/// Days from 0001-01-01 to 1970-01-01.
const DAYS_TO_UNIX_EPOCH: i64 = 719_162;
/// Longest piece of a refused text that an error repeats, in characters.
const SHOWN_CHARS_MAX: usize = 48;

/// A moment between the years 1 and 9999, in steps of 100 ns.
///
/// Azure's registration states, enrollments, identities and twins carry such times; it writes
/// [`Timestamp::NEVER`] where a thing has not happened yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Steps of 100 ns since 0001-01-01T00:00:00Z; never negative.
    ticks: i64,
}

/// Why a text is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a time: {problem}; Azure writes 2023-05-19T23:10:45.1256254Z")]
pub struct TimestampError {
    /// The text, shortened to 48 characters.
    pub value: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Timestamp {
    /// What Azure says of a thing that never happened: 0001-01-01T00:00:00Z.
    pub const NEVER: Self = Self { ticks: 0 };

    /// The moment this long after 1970-01-01T00:00:00Z, cut to 100 ns; none past the year 9999.
    pub fn from_unix(since: Duration) -> Option<Self> {
        let seconds =
            i64::try_from(since.as_secs()).ok()?.checked_add(DAYS_TO_UNIX_EPOCH * SECONDS_PER_DAY)?;
        let ticks =
            seconds.checked_mul(TICKS_PER_SECOND)?.checked_add(i64::from(since.subsec_nanos() / 100))?;
        let moment = Self { ticks };
        (moment.date().0 <= 9_999).then_some(moment)
    }

    /// Time since 1970-01-01T00:00:00Z; none for a moment before it, such as [`Timestamp::NEVER`].
    pub fn since_unix(self) -> Option<Duration> {
        let ticks = self.ticks - DAYS_TO_UNIX_EPOCH * SECONDS_PER_DAY * TICKS_PER_SECOND;
        let ticks = u64::try_from(ticks).ok()?;
        let per_second = TICKS_PER_SECOND.unsigned_abs();
        let nanos = u32::try_from(ticks % per_second * 100).ok()?;
        Some(Duration::new(ticks / per_second, nanos))
    }

    /// True for Azure's mark of what never happened.
    pub fn is_never(self) -> bool {
        self == Self::NEVER
    }

    /// Year, month and day.
    fn date(self) -> (i64, i64, i64) {
        // Counted in eras of 400 years that begin on a 1st of March, so that the leap day comes last.
        let days = self.ticks / (SECONDS_PER_DAY * TICKS_PER_SECOND) + 306;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        (year, month, day)
    }
}

/// Days from 0001-01-01 to this date.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let march_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 306
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Reads what is left of a text from its front.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl Cursor<'_> {
    /// The next `count` digits as a number.
    fn number(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.rest.split_at_checked(count)?;
        let mut value = 0;
        for digit in digits {
            if !digit.is_ascii_digit() {
                return None;
            }
            value = value * 10 + i64::from(digit - b'0');
        }
        self.rest = rest;
        Some(value)
    }

    fn skip(&mut self, expected: &[u8]) -> Option<()> {
        let (found, rest) = self.rest.split_first()?;
        expected.contains(found).then(|| self.rest = rest)
    }

    fn digits_ahead(&self) -> usize {
        self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    }
}

fn parse(text: &str) -> Result<i64, &'static str> {
    let mut cursor = Cursor { rest: text.as_bytes() };
    let (year, month, day) = date_of(&mut cursor).ok_or("the date is not YYYY-MM-DD")?;
    cursor.skip(b"Tt ").ok_or("no T between date and time")?;
    let (hour, minute, second) = clock_of(&mut cursor).ok_or("the time is not HH:MM:SS")?;
    let fraction = fraction_of(&mut cursor)?;
    let offset_minutes = offset_of(&mut cursor).ok_or("the end is neither Z nor an offset such as +00:00")?;
    if !(1..=9_999).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=days_in(year, month)).contains(&day)
    {
        return Err("there is no such date");
    }
    if hour > 23 || minute > 59 || second > 59 {
        return Err("there is no such time of day");
    }
    let days = days_before(year, month, day);
    let seconds = days * SECONDS_PER_DAY + hour * 3_600 + (minute - offset_minutes) * 60 + second;
    let ticks = seconds * TICKS_PER_SECOND + fraction;
    let end = days_before(10_000, 1, 1) * SECONDS_PER_DAY * TICKS_PER_SECOND;
    if (0..end).contains(&ticks) { Ok(ticks) } else { Err("it lies outside the years 1 to 9999 in UTC") }
}

fn date_of(cursor: &mut Cursor<'_>) -> Option<(i64, i64, i64)> {
    let year = cursor.number(4)?;
    cursor.skip(b"-")?;
    let month = cursor.number(2)?;
    cursor.skip(b"-")?;
    Some((year, month, cursor.number(2)?))
}

fn clock_of(cursor: &mut Cursor<'_>) -> Option<(i64, i64, i64)> {
    let hour = cursor.number(2)?;
    cursor.skip(b":")?;
    let minute = cursor.number(2)?;
    cursor.skip(b":")?;
    Some((hour, minute, cursor.number(2)?))
}

/// Ticks of the fraction, where one follows.
fn fraction_of(cursor: &mut Cursor<'_>) -> Result<i64, &'static str> {
    if cursor.skip(b".").is_none() {
        return Ok(0);
    }
    let digits = cursor.digits_ahead();
    if digits == 0 || digits > FRACTION_DIGITS_MAX {
        return Err("the fraction has not 1 to 7 digits");
    }
    let mut ticks = cursor.number(digits).unwrap_or(0);
    for _ in digits..FRACTION_DIGITS_MAX {
        ticks *= 10;
    }
    Ok(ticks)
}

/// Minutes east of UTC. No offset at all means UTC: some of IoT Hub's "never" times end without one.
fn offset_of(cursor: &mut Cursor<'_>) -> Option<i64> {
    let Some((first, rest)) = cursor.rest.split_first() else { return Some(0) };
    cursor.rest = rest;
    let minutes = match first {
        b'Z' | b'z' => 0,
        b'+' | b'-' => {
            let hours = cursor.number(2)?;
            cursor.skip(b":")?;
            let minutes = cursor.number(2)?;
            if hours > 14 || minutes > 59 {
                return None;
            }
            let east = hours * 60 + minutes;
            if *first == b'-' { -east } else { east }
        }
        _ => return None,
    };
    cursor.rest.is_empty().then_some(minutes)
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        parse(text).map(|ticks| Self { ticks }).map_err(|problem| TimestampError {
            value: text.chars().take(SHOWN_CHARS_MAX).collect(),
            problem,
        })
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.date();
        let in_day = self.ticks % (SECONDS_PER_DAY * TICKS_PER_SECOND);
        let seconds = in_day / TICKS_PER_SECOND;
        let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        let fraction = in_day % TICKS_PER_SECOND;
        if fraction > 0 {
            let digits = format!("{fraction:07}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fractions_of_no_to_seven_digits_are_read_and_trimmed() {
        for (text, told) in [
            ("2023-05-19T23:10:45.1256254Z", "2023-05-19T23:10:45.1256254Z"),
            ("2023-05-19T23:10:45.952587Z", "2023-05-19T23:10:45.952587Z"),
            ("2023-05-19T23:10:45.9000000Z", "2023-05-19T23:10:45.9Z"),
            ("2023-05-19T23:10:45Z", "2023-05-19T23:10:45Z"),
            ("2024-02-29T00:00:00+02:00", "2024-02-28T22:00:00Z"),
            ("0001-01-01T00:00:00", "0001-01-01T00:00:00Z"),
            ("9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59.9999999Z"),
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), told);
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_its_text() {
        for text in [
            "",
            "yesterday",
            "2023-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-01-01T24:00:00Z",
            "2023-01-01T00:00:00.Z",
            "2023-01-01T00:00:00.12345678Z",
            "2023-01-01T00:00:00ZZ",
            "2023-01-01T00:00:00+0200",
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+01:00",
            "2023-01-01",
        ] {
            let refused = text.parse::<Timestamp>().unwrap_err();
            assert_eq!(refused.value, text);
        }
    }

    #[test]
    fn the_unix_epoch_is_where_it_is() {
        let epoch: Timestamp = "1970-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(epoch.since_unix(), Some(Duration::ZERO));
        let vector = Timestamp::from_unix(Duration::from_secs(1_767_225_600)).unwrap();
        assert_eq!(vector.to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(Timestamp::NEVER.since_unix(), None);
        assert!("0001-01-01T00:00:00Z".parse::<Timestamp>().unwrap().is_never());
        assert_eq!(Timestamp::from_unix(Duration::from_secs(u64::MAX)), None);
    }

    proptest! {
        #[test]
        fn every_moment_reads_back_as_it_was_written(ticks in 0..3_155_378_976_000_000_000_i64) {
            let moment = Timestamp { ticks };
            prop_assert_eq!(moment.to_string().parse::<Timestamp>().unwrap(), moment);
            if let Some(since) = moment.since_unix() {
                prop_assert_eq!(Timestamp::from_unix(since), Some(moment));
            }
        }

        #[test]
        fn days_follow_each_other(days in 0..3_652_058_i64) {
            let step = SECONDS_PER_DAY * TICKS_PER_SECOND;
            let (year, month, day) = Timestamp { ticks: days * step }.date();
            prop_assert_eq!(days_before(year, month, day), days);
            prop_assert!((1..=days_in(year, month)).contains(&day));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}", near in "[0-9TZ:.+-]{0,36}") {
            let _ = text.parse::<Timestamp>();
            let _ = near.parse::<Timestamp>();
        }
    }
}
