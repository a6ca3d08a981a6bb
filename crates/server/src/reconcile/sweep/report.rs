//! What is told of a sweep.

use std::collections::BTreeMap;

use berth_core::reconcile::DriftClass;
use berth_core::{HubName, ScopeName};

use super::seen::Listed;

/// Problems that are told of one sweep.
const PROBLEMS_MAX: usize = 32;
/// Verifications that a listing is expected to cause for each place, for the estimate of the time left.
const READS_OF_SUSPECT: u64 = 2;

/// How far a sweep is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SweepState {
    /// Under way.
    #[default]
    Running,
    /// It compared everything.
    Completed,
    /// It ended, but something could not be compared; the problems say what.
    Incomplete,
    /// The node lost its leadership. The next leader begins anew.
    Interrupted,
}

/// What a sweep does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SweepPhase {
    /// Lists what DPS and hubs have, and verifies what is odd about it.
    #[default]
    Listing,
    /// Walks over the directory for what was not listed.
    Walking,
    /// Verifies what was in disagreement before and did not come up again.
    Rechecking,
    /// It has ended.
    Ended,
}

/// What a place costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepPlan {
    /// Where.
    pub(super) place: Listed,
    /// Name of the scope or hub.
    pub name: String,
    /// Devices that the directory has there.
    pub devices: u64,
    /// Pages that have to be read, if Azure has as many.
    pub pages: u64,
    /// Pages that may be read a minute.
    pub per_minute: u64,
}

impl SweepPlan {
    /// True for a hub, false for the DPS instance of a scope.
    pub fn is_hub(&self) -> bool {
        matches!(self.place, Listed::Hub(_))
    }

    /// Names that it may show: enrollments and registrations at DPS, identities at a hub, some of them new.
    pub(super) fn weight(&self) -> u64 {
        self.devices * 2 + 1_000
    }

    /// How long its pages take, in milliseconds.
    pub fn takes_ms(&self) -> u64 {
        takes_ms(self.pages, self.per_minute)
    }
}

fn takes_ms(calls: u64, per_minute: u64) -> u64 {
    calls.saturating_mul(60_000) / per_minute.max(1)
}

/// What is told of a sweep.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SweepReport {
    /// Counts the sweeps that this node began since it started.
    pub number: u64,
    /// How far it is.
    pub state: SweepState,
    /// What it does.
    pub phase: SweepPhase,
    /// When it began and ended, in milliseconds since 1970.
    pub began_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// Only this scope's DPS instance and its linked hubs.
    pub scope: Option<ScopeName>,
    /// Only this hub.
    pub hub: Option<HubName>,
    /// Pages read.
    pub pages: u64,
    /// Pages that were expected at its beginning.
    pub pages_expected: u64,
    /// Rows that pages showed.
    pub rows: u64,
    /// Rows that could not be read.
    pub odd_rows: u64,
    /// Devices of the directory that were looked for among them.
    pub walked: u64,
    /// Devices that wait to be verified.
    pub waiting: u64,
    /// Devices that were verified, because something about them was odd.
    pub verified: u64,
    /// Disagreements that stand, by class.
    pub found: BTreeMap<DriftClass, u64>,
    /// Mappings that were changed to what Azure says.
    pub repaired: u64,
    /// Devices that were taken in.
    pub adopted: u64,
    /// Placements that were released because their device never came.
    pub released: u64,
    /// Enrollments that were rewritten, so that DPS follows.
    pub enforced: u64,
    /// Devices that could not be verified.
    pub unverified: u64,
    /// What stood in the way; at most 32 are told.
    pub problems: Vec<String>,
    /// How long the slowest place still takes, in milliseconds.
    pub(super) left_ms: u64,
}

impl SweepReport {
    /// How long it may still take, in milliseconds: a guess from the pages left and what waits to be verified.
    pub fn left_ms(&self) -> Option<u64> {
        (self.state == SweepState::Running).then_some(self.left_ms)
    }

    /// Disagreements that stand, of all classes.
    pub fn found_in_all(&self) -> u64 {
        self.found.values().sum()
    }

    /// What it is limited to.
    pub(super) fn of(&self) -> &str {
        match (&self.scope, &self.hub) {
            (Some(scope), _) => scope.as_str(),
            (None, Some(hub)) => hub.as_str(),
            (None, None) => "all",
        }
    }

    pub(super) fn problem(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }

    pub(super) fn end(&mut self, state: SweepState, now_ms: u64) {
        (self.state, self.phase, self.ended_ms, self.left_ms) = (state, SweepPhase::Ended, Some(now_ms), 0);
        self.waiting = 0;
    }

    /// Sets the guess of the time left, of places with so many pages left at so many a minute.
    pub(super) fn guess(&mut self, places: impl Iterator<Item = (u64, u64)>, reads_per_minute: u64) {
        let pages_ms = places.map(|(pages, per_minute)| takes_ms(pages, per_minute)).max().unwrap_or(0);
        self.left_ms = pages_ms + takes_ms(self.waiting * READS_OF_SUSPECT, reads_per_minute);
    }
}
