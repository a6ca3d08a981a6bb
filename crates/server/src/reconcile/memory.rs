//! What was found lately, so that a report repeated ten thousand times asks Azure once: in the leader's memory only,
//! and of one term.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use berth_core::reconcile::DriftClass;
use berth_core::{DeviceId, Epoch};

use super::Finding;

/// Devices whose findings are remembered; beyond it the oldest is forgotten.
pub const DEVICES_MAX: usize = 65_536;
/// Devices whose drift is listed; beyond it the oldest is taken from the list.
pub const DRIFTS_MAX: usize = 10_000;

/// Findings by device and epoch.
#[derive(Debug)]
pub struct Memory<K> {
    known: Ageing<K, Known>,
}

impl<K> Default for Memory<K> {
    fn default() -> Self {
        Self { known: Ageing::default() }
    }
}

#[derive(Debug)]
struct Known {
    epoch: Epoch,
    from_ms: u64,
    until_ms: u64,
    finding: Finding,
}

impl<K: Clone + Eq + Hash> Memory<K> {
    /// Remembers a finding at an epoch.
    pub fn put(&mut self, device: K, epoch: Epoch, finding: Finding, for_ms: u64, now_ms: u64) {
        let until_ms = now_ms.saturating_add(for_ms);
        self.known.put(device, Known { epoch, from_ms: now_ms, until_ms, finding }, DEVICES_MAX);
    }

    /// What was found at this epoch, and for how long that still stands. A clock that was set back ends it.
    pub fn get(&self, device: &K, epoch: Epoch, now_ms: u64) -> Option<(Finding, Duration)> {
        let known = self.known.get(device).filter(|known| known.epoch == epoch)?;
        let stands = (known.from_ms..known.until_ms).contains(&now_ms);
        stands.then(|| (known.finding.clone(), Duration::from_millis(known.until_ms - now_ms)))
    }
}

/// Devices that Azure and the directory disagree over.
#[derive(Debug, Default)]
pub struct Drifts {
    listed: Ageing<DeviceId, DriftClass>,
}

impl Drifts {
    /// Lists a device, or takes it from the list.
    pub fn set(&mut self, device: &DeviceId, class: Option<DriftClass>) {
        match class {
            Some(class) => self.listed.put(device.clone(), class, DRIFTS_MAX),
            None => self.listed.remove(device),
        }
    }

    /// As what a device is listed.
    pub fn class_of(&self, device: &DeviceId) -> Option<DriftClass> {
        self.listed.get(device).copied()
    }

    /// How many are listed of each class.
    pub fn counts(&self) -> impl Iterator<Item = (DriftClass, usize)> {
        let of = |class| self.listed.by_device.values().filter(|(_, listed)| *listed == class).count();
        DriftClass::ALL.iter().map(move |class| (*class, of(*class)))
    }
}

/// Values by device, of which the oldest go first.
#[derive(Debug)]
struct Ageing<K, T> {
    by_device: HashMap<K, (u64, T)>,
    by_age: BTreeMap<u64, K>,
    next: u64,
}

impl<K, T> Default for Ageing<K, T> {
    fn default() -> Self {
        Self { by_device: HashMap::new(), by_age: BTreeMap::new(), next: 0 }
    }
}

impl<K: Clone + Eq + Hash, T> Ageing<K, T> {
    fn get(&self, device: &K) -> Option<&T> {
        self.by_device.get(device).map(|(_, value)| value)
    }

    fn put(&mut self, device: K, value: T, max: usize) {
        self.remove(&device);
        if self.by_device.len() >= max
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_device.remove(&oldest);
        }
        self.by_age.insert(self.next, device.clone());
        self.by_device.insert(device, (self.next, value));
        self.next += 1;
    }

    fn remove(&mut self, device: &K) {
        if let Some((age, _)) = self.by_device.remove(device) {
            self.by_age.remove(&age);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(n: usize) -> DeviceId {
        format!("d-{n}").parse().unwrap()
    }

    #[test]
    fn a_finding_stands_for_its_time_at_its_epoch() {
        let mut memory = Memory::default();
        memory.put(device(1), Epoch(3), Finding::Confirmed, 5_000, 1_000);
        assert!(memory.get(&device(1), Epoch(3), 5_999).is_some_and(|(_, left)| left.as_millis() == 1));
        assert!(memory.get(&device(1), Epoch(3), 6_000).is_none());
        assert!(memory.get(&device(1), Epoch(4), 1_000).is_none());
        assert!(memory.get(&device(1), Epoch(3), 999).is_none(), "the clock was set back");
    }

    #[test]
    fn both_lists_are_bounded_and_the_oldest_go_first() {
        let mut memory = Memory::default();
        for n in 0..=DEVICES_MAX {
            memory.put(device(n), Epoch(1), Finding::Confirmed, 5_000, 0);
        }
        assert!(memory.get(&device(0), Epoch(1), 0).is_none());
        assert!(memory.get(&device(1), Epoch(1), 0).is_some());
        let mut drifts = Drifts::default();
        for n in 0..=DRIFTS_MAX {
            drifts.set(&device(n), Some(DriftClass::Pending));
        }
        drifts.set(&device(5), Some(DriftClass::Missing));
        drifts.set(&device(6), None);
        let counts: BTreeMap<_, _> = drifts.counts().collect();
        assert_eq!((counts[&DriftClass::Pending], counts[&DriftClass::Missing]), (DRIFTS_MAX - 2, 1));
    }
}
