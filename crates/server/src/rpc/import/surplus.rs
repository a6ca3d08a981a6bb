//! Which rows of a chunk find no seat, worked out for all full places at once: a refusal names one of them, and every
//! further attempt at a chunk is an entry of the log.

use std::collections::{BTreeMap, VecDeque};

use berth_core::{Assign, Capacity, Hub, HubNo, ObjectKind, Rejection, Seats, StampNo, View};
use berth_store::machine::Question;

/// Asks which of these assignments, by position, have to go before the rest fits, and why.
pub(super) struct Surplus<'a>(pub(super) Vec<&'a Assign>);

/// Something that has seats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Hub(HubNo),
    Stamp(StampNo),
}

/// A place with what the assignments do to it.
struct Booked {
    kind: ObjectKind,
    name: String,
    capacity: Capacity,
    seats: Seats,
    /// Arrivals less departures.
    change: i64,
    /// Who arrives, by position.
    arriving: Vec<usize>,
}

impl Question for Surplus<'_> {
    type Answer = BTreeMap<usize, Rejection>;

    fn ask(self, view: &impl View) -> Self::Answer {
        let topology = view.topology();
        let (mut places, mut trips) = (BTreeMap::new(), Vec::with_capacity(self.0.len()));
        for (index, assign) in self.0.iter().enumerate() {
            let to = assign.hub.as_ref().and_then(|name| topology.hub_named(name));
            let from = view.device(&assign.device).and_then(|held| held.hub).and_then(|no| topology.hub(no));
            let trip = to.map_or_else(Vec::new, |to| trip(from, to));
            for (left, entered) in &trip {
                if let Some(left) = left {
                    booked(&mut places, view, *left).change -= 1;
                }
                let entered = booked(&mut places, view, *entered);
                entered.change += 1;
                entered.arriving.push(index);
            }
            trips.push(trip);
        }
        let mut out = BTreeMap::new();
        let mut to_look_at: VecDeque<Place> = places.keys().copied().collect();
        while let Some(place) = to_look_at.pop_front() {
            // The last come are the first to go. Whoever goes does not leave its old place, which may be full for it.
            while let Some((index, refusal)) = places.get_mut(&place).and_then(Booked::refuse_last) {
                if out.contains_key(&index) {
                    continue;
                }
                for (left, entered) in &trips[index] {
                    if let Some(left) = left {
                        booked(&mut places, view, *left).change += 1;
                        to_look_at.push_back(*left);
                    }
                    booked(&mut places, view, *entered).change -= 1;
                }
                out.insert(index, refusal);
            }
        }
        out
    }
}

/// The places that a device leaves and enters on its way to a hub.
fn trip(from: Option<&Hub>, to: &Hub) -> Vec<(Option<Place>, Place)> {
    let mut trip = Vec::new();
    if from.is_none_or(|from| from.no != to.no) {
        trip.push((from.map(|from| Place::Hub(from.no)), Place::Hub(to.no)));
    }
    if from.is_none_or(|from| from.stamp != to.stamp) {
        trip.push((from.map(|from| Place::Stamp(from.stamp)), Place::Stamp(to.stamp)));
    }
    trip
}

fn booked<'p>(places: &'p mut BTreeMap<Place, Booked>, view: &impl View, place: Place) -> &'p mut Booked {
    places.entry(place).or_insert_with(|| {
        let topology = view.topology();
        let (kind, named, seats) = match place {
            Place::Hub(no) => {
                let named = topology.hub(no).map(|hub| (hub.name.to_string(), hub.capacity));
                (ObjectKind::Hub, named, view.hub_seats(no))
            }
            Place::Stamp(no) => {
                let named = topology.stamp(no).map(|stamp| (stamp.name.to_string(), stamp.capacity));
                (ObjectKind::Stamp, named, view.stamp_seats(no))
            }
        };
        let (name, capacity) = named.unwrap_or_default();
        Booked { kind, name, capacity, seats, change: 0, arriving: Vec::new() }
    })
}

impl Booked {
    /// Takes the last arrival out where there are more than fit, with what it is told.
    fn refuse_last(&mut self) -> Option<(usize, Rejection)> {
        let asked = u64::try_from(self.change).ok().filter(|asked| *asked > 0)?;
        let hard = self.capacity.hard.filter(|hard| self.seats.taken().saturating_add(asked) > *hard)?;
        let index = self.arriving.pop()?;
        let (used, reserved) = (self.seats.devices, self.seats.reserved);
        let full = Rejection::Full { kind: self.kind, name: self.name.clone(), asked, used, reserved, hard };
        Some((index, full))
    }
}

#[cfg(test)]
mod tests {
    use berth_core::model::Model;
    use berth_core::{
        Command, DeviceId, EvidenceSource, Expect, HubName, HubPatch, ObjectPatch, Origin, Outcome,
        Precondition, Proposal, StampName, StampPatch, Timestamp, TopologyEdit,
    };

    use super::*;

    fn assign(device: &str, hub: &str) -> Assign {
        Assign {
            device: DeviceId::parse(device).unwrap(),
            hub: Some(HubName::parse(hub).unwrap()),
            status: None,
            labels: None,
            scope: None,
            registration: None,
            precondition: Precondition::None,
            origin: Origin::Imported,
            evidence: EvidenceSource::Import,
        }
    }

    fn propose(model: &mut Model, command: Command) -> Result<Outcome, Rejection> {
        let proposal = Proposal {
            request_id: None,
            payload_hash: 0,
            actor: String::new(),
            reason: String::new(),
            command,
        };
        model.propose(&proposal, Timestamp(1))
    }

    /// Hubs of one stamp, each with its hard capacity.
    fn directory(hubs: &[(&str, u64)], stamp_hard: Option<u64>) -> Model {
        let stamp = StampName::parse("s").unwrap();
        let of_stamp = StampPatch { capacity_hard: Some(stamp_hard), ..StampPatch::of(stamp.clone()) };
        let of_hub = |(name, hard): &(&str, u64)| HubPatch {
            stamp: Some(stamp.clone()),
            capacity_hard: Some(Some(*hard)),
            ..HubPatch::of(HubName::parse(name).unwrap())
        };
        let patches = std::iter::once(ObjectPatch::Stamp(of_stamp))
            .chain(hubs.iter().map(|hub| ObjectPatch::Hub(of_hub(hub))))
            .map(|patch| (Expect::Any, patch))
            .collect();
        let mut model = Model::default();
        let edit = TopologyEdit { patches, ..TopologyEdit::default() };
        propose(&mut model, Command::Topology(edit)).unwrap();
        model
    }

    /// Who has to go; what is left is accepted at once.
    fn surplus(model: &mut Model, rows: &[Assign]) -> Vec<usize> {
        let out = Surplus(rows.iter().collect()).ask(model);
        assert!(out.values().all(|why| matches!(why, Rejection::Full { .. })), "{out:?}");
        let fits: Vec<Assign> = rows
            .iter()
            .enumerate()
            .filter(|(at, _)| !out.contains_key(at))
            .map(|(_, row)| row.clone())
            .collect();
        if !fits.is_empty() {
            propose(model, Command::BatchAssign(fits)).unwrap();
        }
        out.into_keys().collect()
    }

    #[test]
    fn all_full_hubs_are_found_at_once() {
        let names: Vec<String> = (0..40).map(|n| format!("h{n}.example")).collect();
        let hubs: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 2)).collect();
        let mut model = directory(&hubs, None);
        let rows: Vec<Assign> = (0..120).map(|n| assign(&format!("d{n}"), &names[n / 3])).collect();
        let last_of_each: Vec<usize> = (0..40).map(|n| 3 * n + 2).collect();
        assert_eq!(surplus(&mut model, &rows), last_of_each);
    }

    #[test]
    fn a_full_stamp_keeps_what_is_in_it_moving() {
        let mut model = directory(&[("a.example", 9), ("b.example", 9)], Some(3));
        assert!(surplus(&mut model, &[assign("x", "a.example"), assign("y", "a.example")]).is_empty());
        let rows = [assign("n1", "b.example"), assign("n2", "b.example"), assign("x", "b.example")];
        assert_eq!(surplus(&mut model, &rows), [1]);
    }

    #[test]
    fn who_cannot_leave_keeps_its_seat() {
        let mut model = directory(&[("a.example", 1), ("b.example", 1), ("c.example", 1)], None);
        let there = [assign("x", "a.example"), assign("y", "b.example"), assign("w", "c.example")];
        assert!(surplus(&mut model, &there).is_empty());
        let chain = [assign("z", "a.example"), assign("x", "b.example"), assign("y", "c.example")];
        assert_eq!(surplus(&mut model, &chain), [0, 1, 2]);
    }
}
