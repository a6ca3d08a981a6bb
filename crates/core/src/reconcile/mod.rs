//! When reality disagrees: what follows from what Azure says of one device.
//!
//! [`judge`] is pure: all that was seen comes in, and one [`Verdict`] comes out. Whoever asks Azure carries no rule of
//! its own. The provisioning service (DPS) names a device's old hub until the device registers again, whatever was
//! decided meanwhile: so its word is taken over only where it is known to be the newer one, and is drift otherwise.

mod adopt;
mod judge;

pub use adopt::adopt;
pub use judge::judge;

use crate::{Assign, DeviceId, HubName, HubNo, Mapping, Scope, Status, Timestamp};

/// By how much a registration has to be newer than our mapping to undo it, in milliseconds: clocks differ, and a
/// mapping's time is kept to the second.
pub const NEWER_BY_MS: u64 = 60_000;
/// How long it is remembered that Azure agrees, in milliseconds: a hub that keeps saying otherwise is not asked about
/// with each message.
pub const REMEMBER_CONFIRMED_MS: u64 = 5_000;
/// How long drift is remembered, in milliseconds: it ends when the device registers again, or by people.
pub const REMEMBER_DRIFT_MS: u64 = 30_000;
/// How long a missing, disabled, failed or unregistered device is remembered, in milliseconds, until somebody's report
/// has it verified again.
pub const REMEMBER_NEGATIVE_MS: u64 = 60_000;
/// How long it is remembered that a device is being assigned, in milliseconds: that takes seconds.
pub const REMEMBER_ASSIGNING_MS: u64 = 2_000;

/// What DPS says of a registration (DPS REST API, DeviceRegistrationState and IndividualEnrollment).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrationSeen {
    /// It has a hub.
    Assigned {
        /// The hub.
        hub: HubName,
        /// The device's name there.
        device: DeviceId,
        /// When the registration last changed, where DPS says so.
        updated: Option<Timestamp>,
    },
    /// It is being given a hub.
    Assigning,
    /// Enrolled, never registered.
    Unassigned,
    /// The enrollment is disabled; a device that registered before stays in its hub.
    Disabled,
    /// The last attempt to register failed.
    Failed {
        /// When, where DPS says so.
        updated: Option<Timestamp>,
    },
    /// DPS knows neither a registration nor an enrollment of its own.
    NotEnrolled,
}

/// What a hub's registry says of an identity (IoT Hub REST API, get identity).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentitySeen {
    /// It may connect.
    Enabled,
    /// It may not.
    Disabled,
    /// There is none.
    Missing,
}

/// Why Azure was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A gateway was told by a hub that the device is not there.
    Report,
    /// A device that the directory does not have was looked up.
    ReadThrough,
    /// An operator wants to know, or all devices are compared.
    Sweep,
}

/// All that a verdict rests on.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The DPS instance that was asked.
    pub scope: &'a Scope,
    /// The device.
    pub device: &'a DeviceId,
    /// What the directory has.
    pub mapping: Option<&'a Mapping>,
    /// What DPS said.
    pub registration: &'a RegistrationSeen,
    /// What the hub said, where it was asked.
    pub identity: Option<IdentitySeen>,
    /// Why they were asked.
    pub why: Why,
    /// The leader's time.
    pub now: Timestamp,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Azure agrees with the directory.
    Confirmed,
    /// It depends on what this hub's registry says of the device: ask it, and judge again.
    AskIdentity(HubNo),
    /// The directory has to change so. The precondition is always set: what changed meanwhile is not overwritten.
    Write(Box<Assign>),
    /// Azure disagrees, and the directory stands.
    Drift(Drift),
    /// There is no hub to call.
    Negative {
        /// Why.
        kind: Absence,
        /// How long that may be remembered, in milliseconds.
        remember_ms: u64,
        /// What disagrees, where the directory says otherwise.
        drift: Option<Drift>,
    },
}

/// Why there is no hub to call, though nothing is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// DPS does not know the device.
    Unknown,
    /// Enrolled, never registered.
    Unassigned,
    /// Being assigned.
    Enrolling,
    /// Disabled.
    Disabled,
    /// Its registration failed.
    Failed,
    /// DPS names a hub that has no such identity.
    Missing,
}

/// How Azure and the directory disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DriftClass {
    /// The hub that both name has no such identity.
    Missing,
    /// DPS names another hub, and knows better, but the directory may not or cannot follow.
    WrongHub,
    /// DPS names another hub or none, and the directory's word is the newer one: the device has not registered since.
    Pending,
    /// The registration is that of another device, or a hub other than the device's own has an identity of it too.
    Duplicate,
    /// Disabled on one side only.
    Disabled,
    /// DPS does not know the device: one that the directory has, or one that only a hub has.
    Orphan,
    /// DPS names a hub that the directory does not have.
    HubUnknown,
    /// DPS names a hub that is not among the hubs linked to the scope.
    HubNotLinked,
}

impl DriftClass {
    /// Every class, in order.
    pub const ALL: &'static [Self] = &[
        Self::Missing,
        Self::WrongHub,
        Self::Pending,
        Self::Duplicate,
        Self::Disabled,
        Self::Orphan,
        Self::HubUnknown,
        Self::HubNotLinked,
    ];

    /// Its name, as operators know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "MISSING",
            Self::WrongHub => "WRONG_HUB",
            Self::Pending => "PENDING",
            Self::Duplicate => "DUPLICATE",
            Self::Disabled => "DISABLED",
            Self::Orphan => "ORPHAN",
            Self::HubUnknown => "HUB_UNKNOWN",
            Self::HubNotLinked => "HUB_NOT_LINKED",
        }
    }
}

/// A disagreement, with both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// Of which kind.
    pub class: DriftClass,
    /// What the directory says.
    pub ours: Side,
    /// What Azure says.
    pub theirs: Side,
}

/// What one side says of a device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Side {
    /// The hub that it names.
    pub hub: Option<HubName>,
    /// The status that it gives; none where it does not know the device.
    pub status: Option<Status>,
}
