//! Which writes of unknown outcome took effect, and where: an assignment of revealed revisions to writes.

use std::collections::BTreeMap;

use super::{Act, Device, Fate, Hub, Op};

/// A revision that only lookups tell of, with what they showed of it.
pub(super) struct Revealed {
    /// The revision.
    pub revision: u64,
    /// Devices changed there, as far as seen.
    pub items: BTreeMap<Device, Hub>,
    /// When the first lookup that showed it was answered.
    pub first_returned_ns: u64,
}

/// Finds for each revealed revision a write of its own; gives the write's place in `ops`, and whether no other
/// write could have been it.
///
/// # Errors
/// A revision for which there is none.
pub(super) fn assign(
    ops: &[Op],
    revealed: &[Revealed],
    floor: impl Fn(u64) -> u64,
) -> Result<Vec<(usize, bool)>, u64> {
    let open: Vec<usize> = (0..ops.len()).filter(|&at| is_open(&ops[at])).collect();
    // Writes by an item they ask for, so that candidates need no walk over all writes.
    let mut by_item: BTreeMap<(Device, Hub), Vec<usize>> = BTreeMap::new();
    for &at in &open {
        if let Act::Write { items, .. } = &ops[at].act {
            items.iter().for_each(|item| by_item.entry(*item).or_default().push(at));
        }
    }
    let candidates: Vec<Vec<usize>> = revealed
        .iter()
        .map(|change| {
            let Some((device, hub)) = change.items.iter().next() else { return Vec::new() };
            let asked = by_item.get(&(*device, *hub)).map_or(&[][..], Vec::as_slice);
            let fits = |at: &usize| {
                let op = &ops[*at];
                let Act::Write { items, .. } = &op.act else { return false };
                let covers = change.items.iter().all(|(d, h)| items.contains(&(*d, *h)));
                covers && op.invoked_ns < change.first_returned_ns && floor(op.invoked_ns) < change.revision
            };
            asked.iter().copied().filter(fits).collect()
        })
        .collect();
    // Kuhn's augmenting paths: few writes stay open, and each revision has few candidates.
    let mut owner: BTreeMap<usize, usize> = BTreeMap::new();
    for (at, change) in revealed.iter().enumerate() {
        let mut tried = BTreeMap::new();
        if !augment(at, &candidates, &mut owner, &mut tried) {
            return Err(change.revision);
        }
    }
    let mut chosen: Vec<(usize, bool)> = candidates.iter().map(|c| (0, c.len() == 1)).collect();
    for (write, at) in owner {
        chosen[at].0 = write;
    }
    Ok(chosen)
}

fn augment(
    at: usize,
    candidates: &[Vec<usize>],
    owner: &mut BTreeMap<usize, usize>,
    tried: &mut BTreeMap<usize, ()>,
) -> bool {
    for &write in &candidates[at] {
        if tried.insert(write, ()).is_some() {
            continue;
        }
        let free = match owner.get(&write).copied() {
            None => true,
            Some(other) => augment(other, candidates, owner, tried),
        };
        if free {
            owner.insert(write, at);
            return true;
        }
    }
    false
}

fn is_open(op: &Op) -> bool {
    matches!(op.act, Act::Write { fate: Fate::Unknown, .. })
}
