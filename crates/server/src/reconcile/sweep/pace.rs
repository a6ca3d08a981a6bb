//! Waiting for leave, and for Azure.

use std::time::Duration;

use berth_core::reconcile::Drift;

use super::super::budget::Place;
use super::super::{Found, Inner, Trouble};

/// Longest wait between two looks at whether the node still leads.
const STEP: Duration = Duration::from_secs(5);
/// First and longest wait for a service that is away.
const AWAY_WAIT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// How long a service that is away is waited for, from its first failure on. Then the sweep goes on without it.
const AWAY_MAX: Duration = Duration::from_secs(3_600);
/// How often an answer that makes no sense is asked for again.
const NONSENSE_MAX: u32 = 3;

/// Why a part of a sweep ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The term is over, and with it the sweep.
    Ended,
    /// This part cannot be compared; a sentence says why.
    Gap(String),
    /// What was listed together is too much; alone it may fit.
    Full,
}

/// A service that is asked: whose budget, under which name, and how often a minute.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) place: Place,
    pub(super) name: &'a str,
    pub(super) per_minute: u64,
}

/// What was found under one aspect of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::reconcile) enum Looked {
    /// Nothing disagrees.
    Agreed,
    /// It is listed now.
    Listed(Drift),
    /// It could not be looked at.
    Unsure(Found),
}

/// How long a failing service is borne with.
#[derive(Debug, Default)]
pub(super) struct Patience {
    since_ms: Option<u64>,
    wait: Duration,
    nonsense: u32,
}

impl Patience {
    /// How long to wait before asking again; none where there is no use in it.
    pub(super) fn after(&mut self, trouble: &Trouble, now_ms: u64) -> Option<Duration> {
        match trouble {
            Trouble::NoAccess(_) => None,
            Trouble::Nonsense(_) => {
                self.nonsense += 1;
                (self.nonsense < NONSENSE_MAX).then_some(AWAY_WAIT.0)
            }
            Trouble::Away(_) | Trouble::Throttled { .. } => {
                let since_ms = *self.since_ms.get_or_insert(now_ms);
                self.wait = (self.wait * 2).clamp(AWAY_WAIT.0, AWAY_WAIT.1);
                let waited = Duration::from_millis(now_ms.saturating_sub(since_ms));
                (waited < AWAY_MAX).then_some(self.wait)
            }
        }
    }
}

impl Inner {
    /// Waits, in steps that notice the end of the term.
    pub(super) async fn wait(&self, term: u64, time: Duration) -> Result<(), Stop> {
        let until_ms = self.clock.now_ms().saturating_add(super::millis(time));
        loop {
            if self.leading_term() != Some(term) {
                return Err(Stop::Ended);
            }
            let left = until_ms.saturating_sub(self.clock.now_ms());
            if left == 0 {
                return Ok(());
            }
            self.clock.sleep(Duration::from_millis(left).min(STEP)).await;
        }
    }

    /// Waits until a place has leave for so many operations beside what reports may need at once. Takes nothing.
    pub(super) async fn spare(&self, term: u64, at: At<'_>, operations: u64) -> Result<(), Stop> {
        loop {
            if self.leading_term() != Some(term) {
                return Err(Stop::Ended);
            }
            let now_ms = self.clock.now_ms();
            let spare =
                self.of_term(term, |held| held.budgets.spare((at.place, at.per_minute), operations, now_ms));
            match spare {
                None => return Err(Stop::Ended),
                Some(Ok(())) => return Ok(()),
                Some(Err(wait)) => self.clock.sleep(wait.min(STEP)).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_is_away_is_borne_with_for_an_hour() {
        let (mut patience, away) = (Patience::default(), Trouble::Away("away".to_owned()));
        let (mut now_ms, mut waits) = (1_000_000, Vec::new());
        while let Some(wait) = patience.after(&away, now_ms) {
            now_ms += super::super::millis(wait);
            waits.push(wait.as_secs());
        }
        assert_eq!(waits[..8], [5, 10, 20, 40, 80, 160, 300, 300]);
        assert!((3_600..3_900).contains(&waits.iter().sum::<u64>()), "{waits:?}");
    }

    #[test]
    fn what_cannot_get_better_is_not_waited_for() {
        let mut patience = Patience::default();
        assert_eq!(patience.after(&Trouble::NoAccess("no key".to_owned()), 0), None);
        let nonsense = Trouble::Nonsense("half a page".to_owned());
        let tries = std::iter::from_fn(|| patience.after(&nonsense, 0)).count();
        assert_eq!(tries, 2, "asked three times in all");
    }
}
