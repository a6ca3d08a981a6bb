//! The read side that the core may ask.

use crate::{
    DeviceId, HubNo, LabelSetNo, Labels, Mapping, RegistrationId, Reply, RequestId, ScopeNo, StampNo,
    Timestamp, Topology,
};

/// How many accepted requests the reply table remembers.
pub const REPLIES_MAX: u64 = 262_144;

/// How far a request ID's time may lie ahead of the leader's stamp, in milliseconds. An ID from the far future would,
/// once evicted, make every honest ID look expired.
pub const REQUEST_ID_AHEAD_MS_MAX: u64 = 10_000;

/// Most devices whose IDs are equal up to ASCII case. They share a page, whatever the key of the page hash, so
/// their number must be bounded by a rule.
pub const DEVICE_TWINS_MAX: usize = 32;

/// Seats of a hub or stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seats {
    /// Devices that hold a seat.
    pub devices: u64,
    /// Seats reserved by migrations.
    pub reserved: u64,
}

impl Seats {
    /// Seats taken: devices and reservations.
    pub fn taken(&self) -> u64 {
        self.devices.saturating_add(self.reserved)
    }
}

/// One revision of the directory, as the core sees it. Lookups use the same view.
///
/// To be correct an implementation must:
/// - answer every method from the same revision;
/// - give counters that equal a recount of the rows;
/// - find registrations without regard to ASCII case, implied ones ([`crate::Registration::SameAsDevice`]) included.
pub trait View {
    /// The mapping of a device.
    fn device(&self, id: &DeviceId) -> Option<Mapping>;

    /// How many devices have an ID that equals `id` up to ASCII case, itself included.
    fn device_twins(&self, id: &DeviceId) -> usize;

    /// The device registered as `id` in `scope`.
    fn registration(&self, scope: ScopeNo, id: &RegistrationId) -> Option<DeviceId>;

    /// Stamps, hubs, scopes, routes.
    fn topology(&self) -> &Topology;

    /// Seats of a hub.
    fn hub_seats(&self, hub: HubNo) -> Seats;

    /// Seats of a stamp: the sum over its hubs.
    fn stamp_seats(&self, stamp: StampNo) -> Seats;

    /// Devices of a scope.
    fn scope_devices(&self, scope: ScopeNo) -> u64;

    /// The number of an interned label set; [`LabelSetNo::EMPTY`] for the empty one.
    fn label_set_no(&self, labels: &Labels) -> Option<LabelSetNo>;

    /// The labels numbered `no`.
    fn label_set(&self, no: LabelSetNo) -> Option<&Labels>;

    /// Devices with the label set `no`.
    fn label_set_devices(&self, no: LabelSetNo) -> u64;

    /// Up to `count` numbers without a label set, lowest first, never 0.
    fn free_label_sets(&self, count: usize) -> Vec<LabelSetNo>;

    /// The remembered reply of a request.
    fn reply(&self, id: &RequestId) -> Option<Reply>;

    /// How many replies are remembered.
    fn replies(&self) -> u64;

    /// The reply to forget next: that of the lowest revision.
    fn oldest_reply(&self) -> Option<RequestId>;

    /// The newest time among the request IDs of forgotten replies.
    fn replies_forgotten_until(&self) -> Option<Timestamp>;

    /// How many replies to remember; the same on every replica.
    fn replies_max(&self) -> u64 {
        REPLIES_MAX
    }
}
