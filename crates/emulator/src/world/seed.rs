//! Making and moving devices without anybody's calls: fleets for tests and demonstrations, and what happens behind
//! the back of those who watch.

use std::sync::Arc;

use serde_json::json;

use super::enrollment::Kind;
use super::etag::Etag;
use super::fields::Object;
use super::hub::Identity;
use super::registration::{Registration, Substatus};
use super::{DpsRefusal, Key, World};
use crate::auth::mint_key;
use crate::clock::Time;

/// Most devices that are made at one time: the world stands still meanwhile.
pub(crate) const SEED_MAX: u32 = 200_000;

impl World {
    /// Enrolls `count` devices individually and assigns them to the hub, as if each had registered. Their IDs are the
    /// prefix and a number of six digits. How many were made; those that are enrolled already stay as they are.
    pub(crate) fn seed(
        &mut self,
        dps_no: usize,
        host: &Arc<str>,
        prefix: &str,
        numbers: std::ops::Range<u32>,
        now: Time,
    ) -> Result<usize, DpsRefusal> {
        let mut made = 0;
        for number in numbers {
            let id = format!("{prefix}{number:06}");
            let attestation = json!({ "type": "symmetricKey" });
            let body = json!({ "registrationId": id, "attestation": attestation, "iotHubs": [host] });
            let body = body.as_object().cloned().unwrap_or_default();
            let put = self.with_dps(dps_no, now, |dps, env| dps.put(Kind::Individual, &id, body, None, env));
            match put {
                Ok(_) => made += 1,
                Err(refusal) if refusal.status == 409 => continue,
                Err(refusal) => return Err(refusal),
            }
            self.assign(dps_no, &id, host, now);
        }
        Ok(made)
    }

    fn assign(&mut self, dps_no: usize, id: &str, host: &Arc<str>, now: Time) {
        let random = Arc::clone(&self.random);
        let key = Key::of(id);
        let keys = match self.dps[dps_no].individual.get(&key).map(|found| &found.attestation) {
            Some(super::enrollment::Attestation::SymmetricKey { primary, secondary }) => {
                (primary.clone(), secondary.clone())
            }
            _ => return,
        };
        let identity = Identity::of_dps(keys, None, None, &*random, now);
        if let Some(hub) = self.hub_mut(host) {
            hub.insert(id, identity, now);
        }
        let registration = Registration {
            id: id.into(),
            device_id: id.into(),
            hub: Some(Arc::clone(host)),
            substatus: Some(Substatus::InitialAssignment),
            created: now,
            updated: now,
            etag: Etag::mint(&*random),
            group: None,
            payload: None,
            failure: None,
            pending: None,
            operation: 0,
            polls: Default::default(),
            hidden: false,
        };
        let dps = &mut self.dps[dps_no];
        dps.remember_registration(&key, now);
        dps.restore(key, registration);
    }

    /// Moves a device to another hub at once, as if its enrollment had been changed and it had registered again, and
    /// nobody had seen either. False where it has no assignment, or is being assigned, or the hub is not linked.
    pub(crate) fn place(&mut self, dps_no: usize, id: &str, host: &str, now: Time) -> bool {
        let random = Arc::clone(&self.random);
        let key = Key::of(id);
        let dps = &self.dps[dps_no];
        let Some(host) = dps.linked_hosts.iter().find(|linked| ***linked == *host).cloned() else {
            return false;
        };
        let found = dps.registrations.get(&key).filter(|found| found.pending.is_none());
        let Some((from, device_id)) =
            found.and_then(|found| Some((found.hub.clone()?, found.device_id.clone())))
        else {
            return false;
        };
        if from != host {
            let moved = self.hub_mut(&from).and_then(|hub| hub.remove(&device_id, now));
            let moved = moved.map(|identity| identity.moved(&*random, now));
            let fresh = || {
                Identity::of_dps(
                    (mint_key(&*random), mint_key(&*random)),
                    None,
                    None::<&Object>,
                    &*random,
                    now,
                )
            };
            let identity = moved.unwrap_or_else(fresh);
            if let Some(hub) = self.hub_mut(&host) {
                hub.insert(&device_id, identity, now);
            }
        }
        let dps = &mut self.dps[dps_no];
        dps.remember_registration(&key, now);
        if let Some(enrollment) = dps.individual.get_mut(&key) {
            enrollment.hubs = Some(Arc::from([Arc::clone(&host)]));
            enrollment.etag = Etag::mint(&*random);
            enrollment.updated = now;
        }
        if let Some(registration) = dps.registrations.get_mut(&key) {
            registration.hub = Some(host);
            registration.substatus = Some(Substatus::DeviceDataMigrated);
            registration.updated = now;
            registration.etag = Etag::mint(&*random);
        }
        true
    }
}
