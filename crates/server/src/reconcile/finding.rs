//! What comes of a question.

use std::time::Duration;

use berth_core::reconcile::{Absence, Drift};
use berth_core::{DeviceId, Epoch, Status};
use berth_proto::error::ApiError;

use super::{RETRY, crowded};

/// Longest text that tells what stood in the way, in bytes.
pub(super) const PROBLEM_BYTES_MAX: usize = 256;

/// What became of a question about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Azure agrees with the directory.
    Confirmed,
    /// The directory was wrong, and has been changed.
    Changed,
    /// Azure disagrees, and the directory stands.
    Drift(Drift),
    /// There is no hub to call.
    Negative {
        /// Why.
        kind: Absence,
        /// What disagrees, where the directory says otherwise.
        drift: Option<Drift>,
    },
    /// Azure could not be asked, or gave no useful answer; the directory stands.
    NotVerified {
        /// What stood in the way.
        problem: String,
        /// What kind of thing that is.
        cause: Cause,
    },
    /// Leadership or the device changed meanwhile: the directory has newer news.
    Superseded,
}

/// Why Azure was of no help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It could not be asked, or did not answer usefully or in time.
    Away,
    /// What it may be asked in a minute is spent.
    BudgetSpent {
        /// The scope or hub.
        place: String,
        /// Questions a minute that it may be asked for this.
        per_minute: u64,
    },
    /// Too many wait for it already.
    Crowded,
}

impl Cause {
    /// What a call is refused with that has nothing to answer with instead.
    pub fn refusal(self, device: &DeviceId, problem: String, retry_after: Duration) -> ApiError {
        match self {
            Self::Away => ApiError::Unverified { device: device.to_string(), problem, retry_after },
            Self::BudgetSpent { place, per_minute } => {
                ApiError::BudgetSpent { place, per_minute, retry_after }
            }
            Self::Crowded => crowded(),
        }
    }
}

/// A finding, and when asking again makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What was found.
    pub finding: Finding,
    /// When it may be verified again; zero where there is no reason to.
    pub again_after: Duration,
}

impl Found {
    pub(super) fn not_verified(problem: impl ToString, again_after: Duration) -> Self {
        let mut problem = problem.to_string();
        let end = (0..=PROBLEM_BYTES_MAX.min(problem.len())).rev().find(|at| problem.is_char_boundary(*at));
        problem.truncate(end.unwrap_or(0));
        Self { finding: Finding::NotVerified { problem, cause: Cause::Away }, again_after }
    }

    /// Not verified, and this is why.
    pub(super) fn because(mut self, of: Cause) -> Self {
        if let Finding::NotVerified { cause, .. } = &mut self.finding {
            *cause = of;
        }
        self
    }

    pub(super) fn crowded() -> Self {
        Self::not_verified("too many calls wait for Azure", RETRY).because(Cause::Crowded)
    }

    pub(super) fn superseded() -> Self {
        Self { finding: Finding::Superseded, again_after: Duration::ZERO }
    }
}

/// A finding, and what it is about: a registration may be asked about for the sake of more than one device.
#[derive(Debug, Clone)]
pub(super) struct Landed {
    pub(super) device: DeviceId,
    pub(super) epoch: Epoch,
    pub(super) found: Found,
}

impl Landed {
    /// What it says of this device at this epoch.
    pub(super) fn about(&self, device: &DeviceId, epoch: Epoch) -> Found {
        if (&self.device, self.epoch) == (device, epoch) {
            return self.found.clone();
        }
        Found::not_verified("another question about this registration was on its way", RETRY)
    }
}

pub(super) fn negative(kind: Absence) -> Finding {
    Finding::Negative { kind, drift: None }
}

/// Why a device of this status has no hub to call.
pub(super) fn absence_of(status: Status) -> Option<Absence> {
    match status {
        Status::Assigned => None,
        Status::Unassigned => Some(Absence::Unassigned),
        Status::Enrolling => Some(Absence::Enrolling),
        Status::Disabled => Some(Absence::Disabled),
        Status::Failed => Some(Absence::Failed),
    }
}
