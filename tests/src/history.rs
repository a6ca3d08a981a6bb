//! Recorded histories of writes and lookups, and the check that they are linearizable.
//!
//! Each answer of the directory carries its own place in the total order: a write its revision, a lookup the revision
//! it was read at. So no order has to be searched for; the claimed one is verified, in O(n log n):
//! - *real time*: an operation that began after another was answered stands after it;
//! - *values*: a lookup at revision r shows what the last change at or below r made of the device, with its epoch;
//! - *sources*: every change that a lookup shows was asked for, a write of unknown outcome takes effect at most once
//!   and as a whole, and no refused write takes effect;
//! - *epochs*: each effective change adds exactly one, and a created device starts at its revision.
//!
//! The order is that of the whole directory, so what passes is linearizable per device, and a batch is one snapshot.
//! This file names only `std`.

mod check;
mod sources;

use std::fmt;

/// A device, by the number its test gives it.
pub type Device = u32;
/// A hub, by the number its test gives it.
pub type Hub = u32;

/// One operation as its caller saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// Nanoseconds from the start of the test until the call was sent.
    pub invoked_ns: u64,
    /// Nanoseconds from the start of the test until the answer was there; `u64::MAX` where none came.
    pub returned_ns: u64,
    /// What was done and answered.
    pub act: Act,
}

/// What was done and answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Devices put on hubs, all at one revision.
    Write {
        /// The devices and their new hubs; each device once.
        items: Vec<(Device, Hub)>,
        /// What came of it.
        fate: Fate,
    },
    /// Devices looked up, all at one revision.
    Read {
        /// What was seen of each device; `None` is unknown to the directory.
        items: Vec<(Device, Option<Seen>)>,
        /// The revision of the answer.
        at: u64,
        /// True where the lookup was linearizable; others may be older, but must be true at their revision.
        linearizable: bool,
    },
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Acknowledged at this revision.
    Accepted {
        /// The revision.
        revision: u64,
    },
    /// Nobody knows: no answer, or one that leaves it open.
    Unknown,
    /// Refused: without effect, now and later.
    Refused,
}

/// What a lookup said of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its hub.
    pub hub: Hub,
    /// Its epoch.
    pub epoch: u64,
    /// Revision of its last change.
    pub revision: u64,
}

/// A proof that a history is not linearizable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// An operation stands before one that was answered before it began.
    RealTime {
        /// Its place in the order.
        at: u64,
        /// The lowest place it may have.
        floor: u64,
        /// Nanoseconds from the start until it began.
        invoked_ns: u64,
        /// True for a write.
        write: bool,
    },
    /// Two writes were acknowledged at one revision.
    RevisionTwice {
        /// The revision.
        revision: u64,
    },
    /// A lookup shows a change from after the revision it claims.
    FromTheFuture {
        /// The device.
        device: Device,
        /// What was seen.
        seen: Seen,
        /// The claimed revision.
        at: u64,
    },
    /// A lookup shows a change that nobody asked for.
    NotAsked {
        /// The device.
        device: Device,
        /// What was seen.
        seen: Seen,
    },
    /// Writes of unknown outcome took effect more often than they were sent, or not as a whole.
    TooManyEffects {
        /// The revision of a change without a write of its own.
        revision: u64,
    },
    /// A lookup misses the last change at or below its revision.
    Value {
        /// The device.
        device: Device,
        /// What was seen.
        seen: Option<Seen>,
        /// The claimed revision.
        at: u64,
        /// Revision and hub of the last change known by then.
        expected: Option<(u64, Hub)>,
    },
    /// An epoch fell, stood still over a change, grew without one, or differs between two lookups of one change.
    Epoch {
        /// The device.
        device: Device,
        /// Revision and epoch of the earlier change.
        before: (u64, u64),
        /// Revision and epoch of the later one.
        after: (u64, u64),
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RealTime { at, floor, invoked_ns, write } => {
                let (what, must) = if *write { ("write", "above") } else { ("lookup", "at or above") };
                let ms = invoked_ns / 1_000_000;
                write!(
                    f,
                    "stale: a {what} begun at {ms} ms is at revision {at}, but must be {must} {floor}, \
                     which was answered before it began"
                )
            }
            Self::RevisionTwice { revision } => {
                write!(f, "two writes were acknowledged at revision {revision}")
            }
            Self::FromTheFuture { device, seen, at } => {
                write!(
                    f,
                    "device {device}: a lookup at revision {at} shows a change of revision {}",
                    seen.revision
                )
            }
            Self::NotAsked { device, seen } => {
                write!(f, "device {device}: nobody asked for hub {} at revision {}", seen.hub, seen.revision)
            }
            Self::TooManyEffects { revision } => {
                write!(
                    f,
                    "the change at revision {revision} has no write of its own: one took effect twice or in part"
                )
            }
            Self::Value { device, seen, at, expected } => {
                write!(
                    f,
                    "device {device}: a lookup at revision {at} shows {seen:?}, but the last change is {expected:?} (revision, hub)"
                )
            }
            Self::Epoch { device, before, after } => {
                write!(
                    f,
                    "device {device}: epoch {} at revision {}, then epoch {} at revision {}",
                    before.1, before.0, after.1, after.0
                )
            }
        }
    }
}

/// What a checked history held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Acknowledged writes.
    pub accepted: usize,
    /// Writes of unknown outcome.
    pub unknown: usize,
    /// Those of them that were seen to have taken effect.
    pub revealed: usize,
    /// Lookups of one device each; a batch counts as many as it has.
    pub lookups: usize,
}

/// Checks a history; the order of `ops` does not matter.
///
/// # Errors
/// The [`Violation`]s found, at most 20 of them.
pub fn check(ops: &[Op]) -> Result<Summary, Vec<Violation>> {
    check::run(ops)
}

#[cfg(test)]
mod tests;
