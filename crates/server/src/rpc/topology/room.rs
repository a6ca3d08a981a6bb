//! How full places are, and where newcomers fit.

use berth_core::capacity::{PlaceReport, hub_report, stamp_report};
use berth_core::placement::{self, PlacementRequest, Suggestion};
use berth_core::{ObjectKind, PlaceState, Rejection, ScopeName, StampNo, View};
use berth_proto::convert::{cost_message, kind_message, labels_from, state_message};
use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_store::machine::Question;

/// Most devices to suggest places for.
const SUGGEST_DEVICES_MAX: u64 = 1_000_000;
/// Most hubs that a suggestion names.
const SUGGESTIONS_MAX: usize = 100;

/// What newcomers need, as asked.
pub(super) fn wanted(asked: &v1::SuggestPlacementRequest) -> Result<PlacementRequest, ApiError> {
    let scope = match asked.scope.as_str() {
        "" => None,
        text => Some(ScopeName::parse(text).map_err(|error| ApiError::invalid("scope", error))?),
    };
    let stamp_labels = labels_from(&asked.labels).map_err(|error| ApiError::invalid("labels", error))?;
    Ok(PlacementRequest { seats: seats_from(asked.devices)?, stamp_labels, scope })
}

fn seats_from(devices: u64) -> Result<u64, ApiError> {
    match devices {
        0 => Ok(1),
        1..=SUGGEST_DEVICES_MAX => Ok(devices),
        _ => Err(ApiError::invalid(
            "devices",
            format_args!("{devices}; 1 to {SUGGEST_DEVICES_MAX} are allowed"),
        )),
    }
}

/// How full stamps and hubs are.
pub(super) struct CapacityOf {
    pub(super) stamp: Option<StampNo>,
}

impl Question for CapacityOf {
    type Answer = (Vec<v1::Usage>, Vec<v1::Usage>);

    fn ask(self, view: &impl View) -> Self::Answer {
        let topology = view.topology();
        let asked = |stamp| self.stamp.is_none_or(|asked| asked == stamp);
        let stamps = topology.stamps().filter(|stamp| asked(stamp.no)).map(|stamp| {
            let report = stamp_report(view, stamp);
            let usage = usage(ObjectKind::Stamp, stamp.name.to_string(), stamp.state, &report);
            v1::Usage {
                cost: cost_message(&stamp.cost),
                total_micros_per_month: report.cost_micros,
                micros_per_device_month: report.cost_per_device_micros,
                ..usage
            }
        });
        let hubs = topology.hubs().filter(|hub| asked(hub.stamp)).map(|hub| {
            let usage = usage(ObjectKind::Hub, hub.name.to_string(), hub.state, &hub_report(view, hub));
            let stamp = topology.stamp(hub.stamp).map(|stamp| stamp.name.to_string()).unwrap_or_default();
            v1::Usage { stamp, ..usage }
        });
        (stamps.collect(), hubs.collect())
    }
}

fn usage(kind: ObjectKind, name: String, state: PlaceState, report: &PlaceReport) -> v1::Usage {
    v1::Usage {
        name,
        kind: kind_message(kind) as i32,
        state: state_message(state) as i32,
        capacity: Some(v1::Capacity { soft: report.capacity.soft, hard: report.capacity.hard }),
        devices: report.seats.devices,
        reserved: report.seats.reserved,
        headroom: report.headroom,
        ..v1::Usage::default()
    }
}

/// Where newcomers fit.
pub(super) struct SuggestFor<'a> {
    pub(super) wanted: &'a PlacementRequest,
}

impl Question for SuggestFor<'_> {
    type Answer = Result<Vec<v1::Placement>, Rejection>;

    fn ask(self, view: &impl View) -> Self::Answer {
        let topology = view.topology();
        let message = |found: Suggestion| v1::Placement {
            hub: topology.hub(found.hub).map(|hub| hub.name.to_string()).unwrap_or_default(),
            stamp: topology.stamp(found.stamp).map(|stamp| stamp.name.to_string()).unwrap_or_default(),
            headroom: found.headroom,
            over_soft: found.over_soft,
        };
        let found = placement::suggest(view, self.wanted)?;
        Ok(found.into_iter().take(SUGGESTIONS_MAX).map(message).collect())
    }
}
