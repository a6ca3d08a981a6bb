//! Walks over the devices of one revision: what listings and exports share.

use std::collections::BTreeSet;

use berth_core::{HubName, HubNo, LabelSetNo, Mapping, ScopeName, ScopeNo, StampName, Status};
use berth_proto::convert::{filter_labels, mapping_message, status_from};
use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_store::machine::{RowDamage, Snapshot};
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use super::names;

/// Pages that one step looks at: about a million devices, a few tenths of a second.
const STEP_PAGES_MAX: u32 = 20_000;
/// Bytes of the devices that one step returns: with its header it stays below the longest answer.
const STEP_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Which devices, in the numbers of one revision.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    hubs: Option<BTreeSet<HubNo>>,
    statuses: Option<BTreeSet<Status>>,
    label_sets: Option<BTreeSet<LabelSetNo>>,
    scope: Option<ScopeNo>,
    /// Tells filters apart; the same on every page.
    pub(super) hash: u64,
}

impl Filter {
    /// Reads a filter against the names of one revision.
    pub(super) fn read(snapshot: &Snapshot, message: Option<&v1::DeviceFilter>) -> Result<Self, ApiError> {
        let Some(message) = message else { return Ok(Self::default()) };
        let invalid =
            |field: &str, error: &dyn std::fmt::Display| ApiError::invalid(format!("filter.{field}"), error);
        let mut filter = Self { hash: xxh3_64(&message.encode_to_vec()), ..Self::default() };
        if !message.hub.is_empty() {
            let name = HubName::parse(&message.hub).map_err(|error| invalid("hub", &error))?;
            filter.hubs = Some(BTreeSet::from([names::hub_no(snapshot, &name)?]));
        }
        if !message.stamp.is_empty() {
            let name = StampName::parse(&message.stamp).map_err(|error| invalid("stamp", &error))?;
            let stamp = names::stamp_no(snapshot, &name)?;
            let of_stamp = snapshot.topology().hubs().filter(|hub| hub.stamp == stamp).map(|hub| hub.no);
            let asked = filter.hubs.take();
            filter.hubs =
                Some(of_stamp.filter(|hub| asked.as_ref().is_none_or(|asked| asked.contains(hub))).collect());
        }
        if !message.statuses.is_empty() {
            let statuses = message.statuses.iter().map(|number| status_from(*number));
            let statuses: Result<BTreeSet<Option<Status>>, String> = statuses.collect();
            let statuses = statuses.map_err(|error| invalid("statuses", &error))?;
            filter.statuses = Some(statuses.into_iter().flatten().collect());
        }
        if !message.labels.is_empty() {
            let wanted = filter_labels(&message.labels)?;
            let sets = snapshot.label_sets().filter(|(_, labels)| labels.contains_all(&wanted));
            filter.label_sets = Some(sets.map(|(no, _)| no).collect());
        }
        if !message.scope.is_empty() {
            let name = ScopeName::parse(&message.scope).map_err(|error| invalid("scope", &error))?;
            filter.scope = Some(names::scope_no(snapshot, &name)?);
        }
        Ok(filter)
    }

    fn takes(&self, mapping: &Mapping) -> bool {
        self.hubs.as_ref().is_none_or(|hubs| mapping.hub.is_some_and(|hub| hubs.contains(&hub)))
            && self.statuses.as_ref().is_none_or(|statuses| statuses.contains(&mapping.status))
            && self.label_sets.as_ref().is_none_or(|sets| sets.contains(&mapping.labels))
            && self.scope.is_none_or(|scope| mapping.scope == Some(scope))
    }
}

/// Where a walk stands: the next row to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    pub(super) page: u32,
    pub(super) row: u32,
}

/// Looks at devices from `from` on, up to page `end`, until `count` are found or enough was done for one step.
/// Returns them, and where to go on; `None` at the end.
pub(super) fn step(
    snapshot: &Snapshot,
    filter: &Filter,
    from: Place,
    end: u32,
    count: usize,
) -> Result<(Vec<v1::Mapping>, Option<Place>), RowDamage> {
    let (mut found, mut bytes) = (Vec::new(), 0usize);
    let mut place = from;
    let last = from.page.saturating_add(STEP_PAGES_MAX).min(end);
    while place.page < last {
        let (mut row, mut next_row) = (0u32, None);
        snapshot.devices_in_page(place.page, |device, mapping| {
            let here = row;
            row += 1;
            if here < place.row || next_row.is_some() {
                return;
            }
            if found.len() >= count || bytes >= STEP_BYTES_MAX {
                next_row = Some(here);
            } else if filter.takes(&mapping) {
                let labels = snapshot.labels(mapping.labels);
                let message = mapping_message(snapshot.topology(), labels, device, &mapping);
                bytes += message.encoded_len();
                found.push(message);
            }
        })?;
        if let Some(row) = next_row {
            return Ok((found, Some(Place { page: place.page, row })));
        }
        place = Place { page: place.page + 1, row: 0 };
    }
    Ok((found, (place.page < end).then_some(place)))
}
