//! The check itself: floors by real time, then values device by device.

use std::collections::{BTreeMap, BTreeSet};

use super::sources::{self, Revealed};
use super::{Act, Device, Fate, Hub, Op, Seen, Summary, Violation};

/// Most violations that are reported; one is enough to fail.
const VIOLATIONS_MAX: usize = 20;

/// A write or a lookup of one device, at its place in the order.
#[derive(Clone, Copy)]
enum Fact {
    /// A write to this hub.
    Write(Hub),
    /// What a lookup showed.
    Read(Option<Seen>),
}

pub(super) fn run(ops: &[Op]) -> Result<Summary, Vec<Violation>> {
    let mut found = Vec::new();
    let floors = Floors::new(ops);
    let mut facts: BTreeMap<Device, Vec<(u64, Fact)>> = BTreeMap::new();
    let mut writes: BTreeMap<u64, &[(Device, Hub)]> = BTreeMap::new();
    let mut summary = Summary::default();
    for op in ops {
        let floor = floors.at(op.invoked_ns);
        let invoked_ns = op.invoked_ns;
        match &op.act {
            Act::Write { items, fate: Fate::Accepted { revision } } => {
                summary.accepted += 1;
                if *revision <= floor {
                    found.push(Violation::RealTime { at: *revision, floor, invoked_ns, write: true });
                }
                if writes.insert(*revision, items).is_some() {
                    found.push(Violation::RevisionTwice { revision: *revision });
                }
                for (device, hub) in items {
                    facts.entry(*device).or_default().push((*revision, Fact::Write(*hub)));
                }
            }
            Act::Write { fate: Fate::Unknown, .. } => summary.unknown += 1,
            Act::Write { fate: Fate::Refused, .. } => {}
            Act::Read { items, at, linearizable } => {
                summary.lookups += items.len();
                if *linearizable && *at < floor {
                    found.push(Violation::RealTime { at: *at, floor, invoked_ns, write: false });
                }
                for (device, seen) in items {
                    match seen.filter(|seen| seen.revision > *at) {
                        Some(seen) => {
                            found.push(Violation::FromTheFuture { device: *device, seen, at: *at });
                        }
                        None => facts.entry(*device).or_default().push((*at, Fact::Read(*seen))),
                    }
                }
            }
        }
    }
    // Devices that a write of unknown outcome may have changed where nobody saw it, and above which place.
    let mut loose: BTreeMap<Device, u64> = BTreeMap::new();
    let revealed = revealed(ops, &writes, &mut found);
    summary.revealed = revealed.len();
    match sources::assign(ops, &revealed, |ns| floors.at(ns)) {
        Err(revision) => found.push(Violation::TooManyEffects { revision }),
        Ok(chosen) => {
            let settled: BTreeSet<usize> =
                chosen.iter().filter(|(_, certain)| *certain).map(|(write, _)| *write).collect();
            for (at, op) in ops.iter().enumerate() {
                if let Act::Write { items, fate: Fate::Unknown } = &op.act
                    && !settled.contains(&at)
                {
                    let floor = floors.at(op.invoked_ns);
                    for (device, _) in items {
                        let lowest = loose.entry(*device).or_insert(floor);
                        *lowest = floor.min(*lowest);
                    }
                }
            }
            for (change, (write, certain)) in revealed.iter().zip(chosen) {
                let Act::Write { items, .. } = &ops[write].act else { continue };
                for (device, hub) in items {
                    // Where several writes could have been it, only what was seen is certain.
                    if certain || change.items.contains_key(device) {
                        facts.entry(*device).or_default().push((change.revision, Fact::Write(*hub)));
                    }
                }
            }
        }
    }
    for (device, facts) in &mut facts {
        // A write comes before a lookup at the same revision, which shows it.
        facts.sort_by_key(|(at, fact)| (*at, matches!(fact, Fact::Read(_))));
        follow(*device, facts, loose.get(device).copied().unwrap_or(u64::MAX), &mut found);
    }
    if found.is_empty() {
        return Ok(summary);
    }
    found.truncate(VIOLATIONS_MAX);
    Err(found)
}

/// For every moment, the highest place in the order that was answered before it.
struct Floors {
    /// Times of answers, ascending, each with the highest place up to then.
    answered: Vec<(u64, u64)>,
}

impl Floors {
    fn new(ops: &[Op]) -> Self {
        let place = |op: &Op| match &op.act {
            Act::Write { fate: Fate::Accepted { revision }, .. } => Some(*revision),
            Act::Read { at, .. } => Some(*at),
            Act::Write { .. } => None,
        };
        let mut answered: Vec<(u64, u64)> =
            ops.iter().filter_map(|op| Some((op.returned_ns, place(op)?))).collect();
        answered.sort_unstable();
        let mut highest = 0;
        for (_, place) in &mut answered {
            highest = highest.max(*place);
            *place = highest;
        }
        Self { answered }
    }

    fn at(&self, ns: u64) -> u64 {
        let before = self.answered.partition_point(|(returned, _)| *returned < ns);
        before.checked_sub(1).map_or(0, |last| self.answered[last].1)
    }
}

/// Changes that lookups showed and no acknowledged write accounts for.
fn revealed(
    ops: &[Op],
    writes: &BTreeMap<u64, &[(Device, Hub)]>,
    found: &mut Vec<Violation>,
) -> Vec<Revealed> {
    let mut changes: BTreeMap<u64, Revealed> = BTreeMap::new();
    for op in ops {
        let Act::Read { items, .. } = &op.act else { continue };
        for (device, seen) in items.iter().filter_map(|(device, seen)| Some((*device, (*seen)?))) {
            match writes.get(&seen.revision) {
                Some(items) if items.contains(&(device, seen.hub)) => {}
                Some(_) => found.push(Violation::NotAsked { device, seen }),
                None => {
                    let change = changes.entry(seen.revision).or_insert_with(|| Revealed {
                        revision: seen.revision,
                        items: BTreeMap::new(),
                        first_returned_ns: op.returned_ns,
                    });
                    change.first_returned_ns = change.first_returned_ns.min(op.returned_ns);
                    let before = change.items.insert(device, seen.hub);
                    if before.is_some_and(|hub| hub != seen.hub) {
                        found.push(Violation::NotAsked { device, seen });
                    }
                }
            }
        }
    }
    changes.into_values().collect()
}

/// What is known of a device at one place of the order.
#[derive(Clone, Copy)]
struct Known {
    hub: Hub,
    /// Revision of its last change.
    revision: u64,
    /// Another revision that its last change may have, where an unseen change may have come between.
    or_revision: Option<u64>,
    /// Its epoch, once a lookup told it or it follows from the one before.
    epoch: Option<u64>,
    /// It cannot be lower than this.
    epoch_min: u64,
}

impl Known {
    /// After a write to `hub` at `at`. `loose`: unseen changes may have come between.
    fn after(before: Option<Self>, hub: Hub, at: u64, loose: bool) -> Self {
        let new = |epoch, epoch_min| Self { hub, revision: at, or_revision: None, epoch, epoch_min };
        match before {
            // To the hub it is on already: nothing changes, not even the revision.
            Some(now) if now.hub == hub && !loose => now,
            Some(now) if now.hub == hub => Self { or_revision: Some(at), epoch: None, ..now },
            Some(now) => new(now.epoch.filter(|_| !loose).map(|e| e + 1), now.epoch_min + 1),
            // A created device starts at its revision.
            None if loose => new(None, 1),
            None => new(Some(at), at),
        }
    }
}

/// Follows one device through its facts in order. Above the place `loose` unseen changes may have come between.
fn follow(device: Device, facts: &[(u64, Fact)], loose: u64, found: &mut Vec<Violation>) {
    let mut known: Option<Known> = None;
    for (at, fact) in facts {
        let seen = match *fact {
            Fact::Write(hub) => {
                known = Some(Known::after(known, hub, *at, *at > loose));
                continue;
            }
            Fact::Read(seen) => seen,
        };
        let agrees = match (&known, seen) {
            (None, None) => true,
            (Some(now), Some(seen)) => {
                now.hub == seen.hub
                    && (now.revision == seen.revision || now.or_revision == Some(seen.revision))
            }
            _ => false,
        };
        if !agrees {
            let expected = known.map(|now| (now.revision, now.hub));
            found.push(Violation::Value { device, seen, at: *at, expected });
            continue;
        }
        let (Some(now), Some(seen)) = (&mut known, seen) else { continue };
        if now.epoch.is_some_and(|epoch| epoch != seen.epoch) || seen.epoch < now.epoch_min {
            let before = (now.revision, now.epoch.unwrap_or(now.epoch_min));
            found.push(Violation::Epoch { device, before, after: (seen.revision, seen.epoch) });
        }
        (now.revision, now.or_revision) = (seen.revision, None);
        (now.epoch, now.epoch_min) = (Some(seen.epoch), now.epoch_min.max(seen.epoch));
    }
}
