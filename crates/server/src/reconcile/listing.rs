//! Pages of what Azure has: rows that are hints, to be verified one by one before anything follows from them.

use berth_core::reconcile::RegistrationSeen;
use berth_core::{DeviceId, RegistrationId};

/// Rows that a page is asked for (IoT Hub, query: at most 1,000; DPS does not say, and may give fewer).
pub const PAGE_ROWS: u32 = 1_000;

/// Where a listing goes on; means something to who gave it only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub String);

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<T> {
    /// Its rows, in an order that means nothing.
    pub rows: Vec<T>,
    /// Rows that could not be read: what is missing among `rows` may be one of them.
    pub odd: usize,
    /// Where the listing goes on; none on the last page.
    pub next: Option<Cursor>,
}

/// An enrollment of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollmentRow {
    /// Its name to DPS.
    pub registration: RegistrationId,
    /// Its name in a hub.
    pub device: DeviceId,
    /// Whether it may not register.
    pub is_disabled: bool,
    /// What DPS has of its registration, where it says so: its queries leave that out (DPS REST API, query).
    pub seen: Option<RegistrationSeen>,
}

/// The record of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationRow {
    /// Its name to DPS.
    pub registration: RegistrationId,
    /// What DPS has of it.
    pub seen: RegistrationSeen,
}

/// An identity in a hub's registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityRow {
    /// The device.
    pub device: DeviceId,
    /// Whether it may connect.
    pub is_enabled: bool,
}
