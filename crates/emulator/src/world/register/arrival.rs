//! How a device comes to the hub that it was given: for the first time, again, under another name, or from another hub.

use std::sync::Arc;

use super::super::enrollment::Reprovision;
use super::super::hub::Identity;
use super::super::registration::{Pending, Substatus};
use super::super::{Due, World};
use crate::clock::Time;
use crate::config::Moving;

impl World {
    fn fresh(&self, pending: &Pending, now: Time) -> Identity {
        let (keys, twin) = (pending.keys.clone(), pending.initial_twin.as_deref());
        Identity::of_dps(keys, pending.iot_edge, twin, &*self.random, now)
    }

    pub(super) fn assign_first(
        &mut self,
        target: &Arc<str>,
        pending: &Pending,
        now: Time,
    ) -> Option<Substatus> {
        let fresh = self.fresh(pending, now);
        let hub = self.hub_mut(target)?;
        if hub.contains(&pending.device_id) {
            // DPS took it for a first registration, and the hub knew better: it keeps what it has.
            return Some(match pending.modern {
                true => Substatus::ReprovisionedToInitialAssignment,
                false => Substatus::InitialAssignment,
            });
        }
        hub.insert(&pending.device_id, fresh, now);
        Some(Substatus::InitialAssignment)
    }

    pub(super) fn assign_again(
        &mut self,
        target: &Arc<str>,
        pending: &Pending,
        now: Time,
    ) -> Option<Substatus> {
        let fresh = self.fresh(pending, now);
        let hub = self.hub_mut(target)?;
        if pending.reprovision == Reprovision::Reset {
            hub.remove(&pending.device_id, now);
            hub.insert(&pending.device_id, fresh, now);
            return Some(Substatus::DeviceDataReset);
        }
        if !hub.contains(&pending.device_id) {
            // The identity was deleted behind DPS's back, and a registration brings it again.
            hub.insert(&pending.device_id, fresh, now);
        }
        None
    }

    /// The enrollment names another device ID, and the hub stays: the identity goes from the old ID to the new one.
    pub(super) fn rename(
        &mut self,
        target: &Arc<str>,
        old_id: &str,
        pending: &Pending,
        now: Time,
    ) -> Option<Substatus> {
        let fresh = self.fresh(pending, now);
        let random = Arc::clone(&self.random);
        let hub = self.hub_mut(target)?;
        let old = hub.remove(old_id, now);
        // Whoever had the new ID before loses it, and its connection.
        hub.remove(&pending.device_id, now);
        let (identity, substatus) = match (pending.reprovision, old) {
            (Reprovision::Reset, _) => (fresh, Substatus::DeviceDataReset),
            (_, Some(old)) => (old.moved(&*random, now), Substatus::DeviceDataMigrated),
            (_, None) => (fresh, Substatus::DeviceDataMigrated),
        };
        hub.insert(&pending.device_id, identity, now);
        Some(substatus)
    }

    pub(super) fn move_over(
        &mut self,
        dps_no: usize,
        from: &Arc<str>,
        target: &Arc<str>,
        old_id: &str,
        pending: &Pending,
        now: Time,
    ) -> Option<Substatus> {
        let fresh = self.fresh(pending, now);
        let random = Arc::clone(&self.random);
        let (moving, overlap) = (self.dps[dps_no].moving, self.dps[dps_no].overlap);
        let old = match (&pending.taken, moving) {
            (Some((_, identity)), _) => Some((**identity).clone()),
            (None, Moving::Both) => {
                let old = self.hub_mut(from).and_then(|hub| hub.peek(old_id).cloned());
                let (host, device_id) = (Arc::clone(from), old_id.into());
                if let Some(generation) = old.as_ref().map(|old| old.generation) {
                    self.schedule(now.plus(overlap), Due::Remove { host, device_id, generation });
                }
                old
            }
            // A hub that is out keeps what it has: the device is known twice when it comes back.
            (None, _) => self.hub_mut(from).filter(|hub| !hub.out).and_then(|hub| hub.remove(old_id, now)),
        };
        let identity = match (pending.reprovision, old) {
            (Reprovision::Migrate, Some(old)) => old.moved(&*random, now),
            _ => fresh,
        };
        let hub = self.hub_mut(target)?;
        hub.insert(&pending.device_id, identity, now);
        Some(match pending.reprovision {
            Reprovision::Reset => Substatus::DeviceDataReset,
            _ => Substatus::DeviceDataMigrated,
        })
    }
}
