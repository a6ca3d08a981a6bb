//! The list of devices that Azure and the directory disagree over: in the leader's memory only, and of one term.

use std::collections::BTreeMap;
use std::ops::Bound;

use berth_core::reconcile::{Drift, DriftClass};
use berth_core::{DeviceId, ScopeNo};

/// Devices whose drift is listed; beyond it the one listed longest is dropped.
pub const DRIFTS_MAX: usize = 10_000;

/// A listed drift.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Both sides.
    pub drift: Drift,
    /// The scope whose provisioning service was asked.
    pub scope: ScopeNo,
    /// Since when the two are known to disagree in this way, in milliseconds since 1970.
    pub since_ms: u64,
}

/// Drifts by device.
#[derive(Debug, Default)]
pub struct Drifts {
    by_device: BTreeMap<DeviceId, (u64, Listed)>,
    by_age: BTreeMap<u64, DeviceId>,
    next: u64,
    counts: BTreeMap<DriftClass, usize>,
    dropped: u64,
}

impl Drifts {
    /// Lists a device. Where it is listed with the same class already, it has been so since then.
    pub fn list(&mut self, device: &DeviceId, drift: &Drift, scope: ScopeNo, now_ms: u64) {
        let (mut age, mut since_ms) = (self.next, now_ms);
        match self.take(device) {
            Some((listed_at, before)) if before.drift.class == drift.class => {
                (age, since_ms) = (listed_at, before.since_ms);
            }
            _ => self.next += 1,
        }
        if self.by_device.len() >= DRIFTS_MAX
            && let Some(oldest) = self.by_age.first_key_value().map(|(_, oldest)| oldest.clone())
        {
            self.take(&oldest);
            self.dropped += 1;
        }
        *self.counts.entry(drift.class).or_default() += 1;
        self.by_age.insert(age, device.clone());
        self.by_device.insert(device.clone(), (age, Listed { drift: drift.clone(), scope, since_ms }));
    }

    /// Takes a device from the list; whether it was there.
    pub fn unlist(&mut self, device: &DeviceId) -> bool {
        self.take(device).is_some()
    }

    /// A device's drift.
    pub fn get(&self, device: &DeviceId) -> Option<&Listed> {
        self.by_device.get(device).map(|(_, listed)| listed)
    }

    /// The drifts of devices after this one, by device ID.
    pub fn after(&self, device: Option<&DeviceId>) -> impl Iterator<Item = (&DeviceId, &Listed)> {
        let from = device.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.by_device.range::<DeviceId, _>((from, Bound::Unbounded));
        rows.map(|(device, (_, listed))| (device, listed))
    }

    /// How many are listed of each class.
    pub fn counts(&self) -> impl Iterator<Item = (DriftClass, usize)> {
        DriftClass::ALL.iter().map(|class| (*class, self.counts.get(class).copied().unwrap_or_default()))
    }

    /// Devices that were dropped because the list was full.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn take(&mut self, device: &DeviceId) -> Option<(u64, Listed)> {
        let (age, listed) = self.by_device.remove(device)?;
        self.by_age.remove(&age);
        if let Some(count) = self.counts.get_mut(&listed.drift.class) {
            *count -= 1;
        }
        Some((age, listed))
    }
}

#[cfg(test)]
mod tests {
    use berth_core::reconcile::Side;

    use super::*;

    const SCOPE: ScopeNo = ScopeNo(1);

    fn device(n: usize) -> DeviceId {
        format!("d-{n:05}").parse().unwrap()
    }

    fn drift(class: DriftClass) -> Drift {
        Drift { class, ours: Side::default(), theirs: Side::default() }
    }

    #[test]
    fn the_list_is_bounded_counted_and_drops_what_was_listed_longest() {
        let mut drifts = Drifts::default();
        for n in 0..DRIFTS_MAX {
            drifts.list(&device(n), &drift(DriftClass::Pending), SCOPE, 0);
        }
        // Found again: listed for as long as before.
        drifts.list(&device(0), &drift(DriftClass::Pending), SCOPE, 9);
        assert_eq!((drifts.get(&device(0)).unwrap().since_ms, drifts.dropped()), (0, 0));
        drifts.list(&device(DRIFTS_MAX), &drift(DriftClass::Pending), SCOPE, 10);
        assert!(drifts.get(&device(0)).is_none() && drifts.get(&device(1)).is_some());
        assert_eq!(drifts.dropped(), 1);
        // Another disagreement than before begins anew.
        drifts.list(&device(5), &drift(DriftClass::Missing), SCOPE, 11);
        assert_eq!(drifts.get(&device(5)).unwrap().since_ms, 11);
        assert!(drifts.unlist(&device(6)) && !drifts.unlist(&device(6)));
        let counts: BTreeMap<_, _> = drifts.counts().collect();
        assert_eq!((counts[&DriftClass::Pending], counts[&DriftClass::Missing]), (DRIFTS_MAX - 2, 1));
        let after: Vec<_> =
            drifts.after(Some(&device(4))).take(2).map(|(device, _)| device.clone()).collect();
        assert_eq!(after, [device(5), device(7)]);
        assert_eq!(drifts.after(None).count(), DRIFTS_MAX - 1);
    }
}
