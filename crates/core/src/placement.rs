//! Where newcomers fit: a pure ranking of hubs by state, labels, capacity and headroom.

use crate::{HubNo, Labels, ObjectKind, PlaceState, Rejection, ScopeName, StampNo, View};

/// What newcomers need.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlacementRequest {
    /// How many seats.
    pub seats: u64,
    /// Labels that the stamp must have.
    pub stamp_labels: Labels,
    /// Only hubs linked to this scope.
    pub scope: Option<ScopeName>,
}

/// A hub with room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    /// The hub.
    pub hub: HubNo,
    /// Its stamp.
    pub stamp: StampNo,
    /// Seats free until the nearest hard limit of hub or stamp; `None` is unlimited.
    pub headroom: Option<u64>,
    /// True where the newcomers would pass a soft limit of hub or stamp.
    pub over_soft: bool,
}

/// Hubs that can take the newcomers, best first: within soft limits before beyond them, then by headroom, then by name.
///
/// # Errors
/// [`Rejection::Unknown`] where the scope is not known.
pub fn suggest(view: &impl View, request: &PlacementRequest) -> Result<Vec<Suggestion>, Rejection> {
    let topology = view.topology();
    let scope = match &request.scope {
        None => None,
        Some(name) => match topology.scope_named(name) {
            Some(scope) => Some(scope),
            None => return Err(Rejection::Unknown { kind: ObjectKind::Scope, name: name.to_string() }),
        },
    };
    let mut found: Vec<Suggestion> = topology
        .hubs()
        .filter(|hub| {
            hub.state == PlaceState::Active && scope.is_none_or(|s| s.linked_hubs.contains(&hub.no))
        })
        .filter_map(|hub| {
            let stamp = topology.stamp(hub.stamp)?;
            if stamp.state != PlaceState::Active || !stamp.labels.contains_all(&request.stamp_labels) {
                return None;
            }
            let at_hub = view.hub_seats(hub.no).taken();
            let at_stamp = view.stamp_seats(stamp.no).taken();
            let free = |limit: Option<u64>, taken: u64| limit.map(|limit| limit.saturating_sub(taken));
            let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
            let headroom = least(free(hub.capacity.hard, at_hub), free(stamp.capacity.hard, at_stamp));
            let soft = least(free(hub.capacity.soft, at_hub), free(stamp.capacity.soft, at_stamp));
            let fits = headroom.is_none_or(|seats| seats >= request.seats);
            let over_soft = soft.is_some_and(|seats| seats < request.seats);
            fits.then_some(Suggestion { hub: hub.no, stamp: stamp.no, headroom, over_soft })
        })
        .collect();
    // Stable: hubs come by name, and stay so among equals.
    found.sort_by_key(|s| (s.over_soft, std::cmp::Reverse(s.headroom.unwrap_or(u64::MAX))));
    Ok(found)
}
