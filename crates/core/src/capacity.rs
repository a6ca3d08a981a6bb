//! How full places are and what they cost.

use crate::{Capacity, Cost, Hub, Seats, Stamp, View};

/// Use, room and cost of one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceReport {
    /// Seats taken.
    pub seats: Seats,
    /// Limits.
    pub capacity: Capacity,
    /// Seats free until the hard limit; `None` is unlimited.
    pub headroom: Option<u64>,
    /// True where the soft limit is passed.
    pub over_soft: bool,
    /// Cost a month in micros of the stamp's currency; zero where no figures are known.
    pub cost_micros: u64,
    /// Cost a device and month in micros; `None` without devices.
    pub cost_per_device_micros: Option<u64>,
}

/// The report of a stamp.
pub fn stamp_report(view: &impl View, stamp: &Stamp) -> PlaceReport {
    let seats = view.stamp_seats(stamp.no);
    report(seats, stamp.capacity, stamp.cost.fixed_micros, &stamp.cost)
}

/// The report of a hub. Its cost is that of its devices; the fixed part belongs to the stamp.
pub fn hub_report(view: &impl View, hub: &Hub) -> PlaceReport {
    let cost = view.topology().stamp(hub.stamp).map(|s| s.cost.clone()).unwrap_or_default();
    report(view.hub_seats(hub.no), hub.capacity, 0, &cost)
}

fn report(seats: Seats, capacity: Capacity, fixed_micros: u64, cost: &Cost) -> PlaceReport {
    let cost_micros = fixed_micros.saturating_add(cost.per_device_micros.saturating_mul(seats.devices));
    PlaceReport {
        seats,
        capacity,
        headroom: capacity.hard.map(|hard| hard.saturating_sub(seats.taken())),
        over_soft: capacity.soft.is_some_and(|soft| seats.taken() > soft),
        cost_micros,
        cost_per_device_micros: cost_micros.checked_div(seats.devices),
    }
}
