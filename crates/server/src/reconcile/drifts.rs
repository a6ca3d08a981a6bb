//! The list of devices that Azure and the directory disagree over: in the leader's memory only, and of one term.

use std::collections::BTreeMap;
use std::ops::Bound;

use berth_core::reconcile::{Drift, DriftClass};
use berth_core::{DeviceId, HubNo, ScopeNo};

/// Drifts that are listed; beyond it the one listed longest is dropped.
pub const DRIFTS_MAX: usize = 10_000;

/// What of a device is in disagreement. Each is found and settled on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// What DPS's record and the device's own hub say.
    Own,
    /// Its enrollment is disabled.
    Barred,
    /// An identity on a hub that is not its own.
    Left(HubNo),
}

/// A drift by its device and aspect.
pub type DriftKey = (DeviceId, Aspect);

/// A listed drift.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Both sides.
    pub drift: Drift,
    /// The scope whose provisioning service was asked, where one was.
    pub scope: Option<ScopeNo>,
    /// Since when the two are known to disagree in this way, in milliseconds since 1970.
    pub since_ms: u64,
    /// When that was last found.
    pub checked_ms: u64,
}

/// Drifts by device.
#[derive(Debug, Default)]
pub struct Drifts {
    by_device: BTreeMap<DriftKey, (u64, Listed)>,
    by_age: BTreeMap<u64, DriftKey>,
    next: u64,
    counts: BTreeMap<DriftClass, usize>,
    dropped: u64,
}

impl Drifts {
    /// Lists a device. Where it is listed with the same class already, it has been so since then.
    pub fn list(
        &mut self,
        device: &DeviceId,
        aspect: Aspect,
        drift: &Drift,
        scope: Option<ScopeNo>,
        now_ms: u64,
    ) {
        let key = (device.clone(), aspect);
        let (mut age, mut since_ms) = (self.next, now_ms);
        match self.take(&key) {
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
        self.by_age.insert(age, key.clone());
        let listed = Listed { drift: drift.clone(), scope, since_ms, checked_ms: now_ms };
        self.by_device.insert(key, (age, listed));
    }

    /// Takes one aspect of a device from the list; whether it was there.
    pub fn unlist(&mut self, device: &DeviceId, aspect: Aspect) -> bool {
        self.take(&(device.clone(), aspect)).is_some()
    }

    /// Takes a device from the list; whether it was there.
    pub fn unlist_all(&mut self, device: &DeviceId) -> bool {
        let aspects: Vec<Aspect> = self.of(device).map(|(aspect, _)| aspect).collect();
        aspects.iter().filter(|aspect| self.unlist(device, **aspect)).count() > 0
    }

    /// A device's drift under one aspect.
    pub fn get(&self, device: &DeviceId, aspect: Aspect) -> Option<&Listed> {
        self.by_device.get(&(device.clone(), aspect)).map(|(_, listed)| listed)
    }

    /// All drifts of a device.
    pub fn of(&self, device: &DeviceId) -> impl Iterator<Item = (Aspect, &Listed)> {
        let rows = self.by_device.range((device.clone(), Aspect::Own)..);
        let rows = rows.take_while({
            let device = device.clone();
            move |((of, _), _)| *of == device
        });
        rows.map(|((_, aspect), (_, listed))| (*aspect, listed))
    }

    /// The drifts after this one, by device ID.
    pub fn after(&self, key: Option<&DriftKey>) -> impl Iterator<Item = (&DriftKey, &Listed)> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.by_device.range::<DriftKey, _>((from, Bound::Unbounded));
        rows.map(|(key, (_, listed))| (key, listed))
    }

    /// What was last found before then.
    pub fn unchecked_since(&self, ms: u64) -> Vec<DriftKey> {
        let rows = self.by_device.iter().filter(|(_, (_, listed))| listed.checked_ms < ms);
        rows.map(|(key, _)| key.clone()).collect()
    }

    /// How many are listed of each class.
    pub fn counts(&self) -> impl Iterator<Item = (DriftClass, usize)> {
        DriftClass::ALL.iter().map(|class| (*class, self.counts.get(class).copied().unwrap_or_default()))
    }

    /// Drifts that were dropped because the list was full.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn take(&mut self, key: &DriftKey) -> Option<(u64, Listed)> {
        let (age, listed) = self.by_device.remove(key)?;
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

    const SCOPE: Option<ScopeNo> = Some(ScopeNo(1));

    fn device(n: usize) -> DeviceId {
        format!("d-{n:05}").parse().unwrap()
    }

    fn drift(class: DriftClass) -> Drift {
        Drift { class, ours: Side::default(), theirs: Side::default() }
    }

    fn listed(drifts: &mut Drifts, n: usize, class: DriftClass, now_ms: u64) {
        drifts.list(&device(n), Aspect::Own, &drift(class), SCOPE, now_ms);
    }

    #[test]
    fn the_list_is_bounded_counted_and_drops_what_was_listed_longest() {
        let mut drifts = Drifts::default();
        for n in 0..DRIFTS_MAX {
            listed(&mut drifts, n, DriftClass::Pending, 0);
        }
        // Found again: listed for as long as before.
        listed(&mut drifts, 0, DriftClass::Pending, 9);
        let first = drifts.get(&device(0), Aspect::Own).unwrap();
        assert_eq!((first.since_ms, first.checked_ms, drifts.dropped()), (0, 9, 0));
        listed(&mut drifts, DRIFTS_MAX, DriftClass::Pending, 10);
        assert!(
            drifts.get(&device(0), Aspect::Own).is_none() && drifts.get(&device(1), Aspect::Own).is_some()
        );
        assert_eq!(drifts.dropped(), 1);
        // Another disagreement than before begins anew.
        listed(&mut drifts, 5, DriftClass::Missing, 11);
        assert_eq!(drifts.get(&device(5), Aspect::Own).unwrap().since_ms, 11);
        assert!(drifts.unlist(&device(6), Aspect::Own) && !drifts.unlist(&device(6), Aspect::Own));
        let counts: BTreeMap<_, _> = drifts.counts().collect();
        assert_eq!((counts[&DriftClass::Pending], counts[&DriftClass::Missing]), (DRIFTS_MAX - 2, 1));
        let fourth = (device(4), Aspect::Own);
        let after = drifts.after(Some(&fourth)).take(2);
        let after: Vec<_> = after.map(|((device, _), _)| device.clone()).collect();
        assert_eq!(after, [device(5), device(7)]);
        assert_eq!(drifts.after(None).count(), DRIFTS_MAX - 1);
        assert_eq!(drifts.unchecked_since(11).len(), DRIFTS_MAX - 2);
    }

    #[test]
    fn the_aspects_of_a_device_are_settled_one_by_one_or_together() {
        let mut drifts = Drifts::default();
        let aspects = [Aspect::Left(HubNo(7)), Aspect::Own, Aspect::Barred, Aspect::Left(HubNo(3))];
        for (n, aspect) in aspects.into_iter().enumerate() {
            drifts.list(&device(1), aspect, &drift(DriftClass::Duplicate), SCOPE, n as u64);
        }
        listed(&mut drifts, 0, DriftClass::Pending, 0);
        listed(&mut drifts, 2, DriftClass::Pending, 0);
        let of: Vec<_> = drifts.of(&device(1)).map(|(aspect, _)| aspect).collect();
        assert_eq!(of, [Aspect::Own, Aspect::Barred, Aspect::Left(HubNo(3)), Aspect::Left(HubNo(7))]);
        assert!(drifts.unlist(&device(1), Aspect::Own));
        assert_eq!(drifts.of(&device(1)).count(), 3);
        assert!(drifts.unlist_all(&device(1)) && !drifts.unlist_all(&device(1)));
        assert_eq!(drifts.after(None).count(), 2);
    }
}
