//! The emulated world: DPS instances, hubs and Traffic Manager profiles as state machines.
//!
//! Everything here is synchronous and takes the time as an argument. Nothing knows of sockets, of HTTP beyond status
//! numbers, or of the system's clock; what is random comes from the [`Randomness`](crate::Randomness) that the world
//! was made with. Before any operation the caller settles the world: what was due by then happens, in order.

mod allocation;
mod bulk;
mod dps;
mod enrollment;
pub(crate) mod etag;
mod fields;
mod former;
mod hub;
mod id;
mod identity;
mod page;
mod query;
mod refusal;
mod register;
mod registration;
mod saved;
mod seed;
mod traffic;
mod twin;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use dps::{Dps, Env, check_id};
pub(crate) use enrollment::Kind;
pub(crate) use fields::Object;
pub(crate) use hub::{Hub, LIST_MAX, Metered, NotConnected, Of, Throttle};
pub(crate) use id::{Key, is_registration_id};
pub(crate) use page::{Page, PageRequest};
pub(crate) use refusal::{DpsRefusal, Envelope, HubCode, HubRefusal};
pub(crate) use register::{Registered, WebhookAnswer, WebhookCall};
pub(crate) use registration::{Failure, operation_id};
pub use saved::LoadError;
pub(crate) use saved::write as write_state;
pub(crate) use seed::SEED_MAX;
pub(crate) use traffic::{ArmRefusal, Profile};
pub(crate) use twin::Twin;

use crate::auth::{Policies, Policy, Right};
use crate::clock::{Randomness, Time};
use crate::config::{Config, DpsConfig, PolicyConfig, Switches};
use crate::faults::Faults;
use crate::throttle::{Rate, Verdict};
use allocation::Linked;

/// Operations and registrations a minute of one DPS instance (DPS, limits).
const DPS_PER_MINUTE: f64 = 1_000.0;

/// Polls of one device (DPS, limits: 5 per 10 seconds).
const POLLS: (f64, Duration) = (5.0, Duration::from_secs(10));

/// Something that happens by itself.
#[derive(Debug, Clone)]
pub(crate) enum Due {
    /// An assignment ends.
    Finish { dps: usize, key: Key, operation: u64 },
    /// The old hub loses a device that the new one has had for a while.
    Remove { host: Arc<str>, device_id: Box<str>, generation: u64 },
}

/// Everything that is emulated.
pub(crate) struct World {
    pub(crate) dps: Vec<Dps>,
    pub(crate) hubs: Vec<Hub>,
    pub(crate) profiles: Vec<Profile>,
    pub(crate) throttle: Throttle,
    pub(crate) faults: Faults,
    pub(crate) switches: Arc<Switches>,
    pub(crate) random: Arc<dyn Randomness>,
    due: BTreeMap<(Time, u64), Due>,
    due_no: u64,
}

/// What a DPS instance meters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DpsMetered {
    /// A call of the service API.
    Service,
    /// A register: it counts as an operation, and as a registration.
    Register,
}

impl World {
    /// The world of a configuration that was checked.
    pub(crate) fn new(config: &Config, random: Arc<dyn Randomness>) -> Self {
        let hubs: Vec<Hub> = config
            .hubs
            .iter()
            .map(|hub| {
                let (host, lag) = (hub.host.to_ascii_lowercase(), Duration::from_millis(hub.query_lag_ms));
                Hub::new(&host, hub.tier, hub.units, lag, policies(&hub.policies))
            })
            .collect();
        let dps = config.dps.iter().map(|dps| new_dps(dps, &hubs)).collect();
        let profiles = config
            .profiles
            .iter()
            .map(|told| {
                let (group, method) = (&told.resource_group, &told.routing_method);
                let mut profile = Profile::new(&told.subscription, group, &told.name, method, told.ttl);
                for endpoint in &told.endpoints {
                    let status = if endpoint.enabled { "Enabled" } else { "Disabled" };
                    let body = serde_json::json!({ "properties": {
                        "target": endpoint.target, "weight": endpoint.weight, "endpointStatus": status,
                    }});
                    let body = body.as_object().cloned().unwrap_or_default();
                    // The configuration was checked for all that could be refused here, but for too many endpoints.
                    if profile.write_endpoint("externalEndpoints", &endpoint.name, &body, true).is_err() {
                        tracing::warn!(endpoint = %endpoint.name, "an endpoint of the configuration was left out");
                    }
                }
                profile
            })
            .collect();
        let told = &config.throttle;
        let throttle = Throttle {
            enabled: told.enabled,
            factor: told.factor,
            service_retry_after: told.service_retry_after,
            device_retry_after: told.device_retry_after,
        };
        Self {
            dps,
            hubs,
            profiles,
            throttle,
            faults: Faults::default(),
            switches: Arc::new(config.switches.clone()),
            random,
            due: BTreeMap::new(),
            due_no: 0,
        }
    }

    fn hub_mut(&mut self, host: &str) -> Option<&mut Hub> {
        self.hubs.iter_mut().find(|hub| &*hub.host == host)
    }

    fn schedule(&mut self, at: Time, due: Due) {
        self.due_no += 1;
        self.due.insert((at, self.due_no), due);
    }

    /// When something happens by itself next.
    pub(crate) fn next_due(&self) -> Option<Time> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// Lets everything happen that is due by `now`, in order, each at its own time.
    pub(crate) fn settle(&mut self, now: Time) {
        while let Some(entry) = self.due.first_entry() {
            let (at, _) = *entry.key();
            if at > now {
                return;
            }
            match entry.remove() {
                Due::Finish { dps, key, operation } => self.finish(dps, &key, operation, at),
                Due::Remove { host, device_id, generation } => {
                    let Some(hub) = self.hub_mut(&host) else { continue };
                    // A device that came back meanwhile has another generation, and stays.
                    if hub.peek(&device_id).is_some_and(|identity| identity.generation == generation) {
                        hub.remove(&device_id, at);
                    }
                }
            }
        }
    }

    /// What an operation of the DPS service API needs, beside the instance.
    pub(crate) fn with_dps<T>(
        &mut self,
        dps: usize,
        now: Time,
        act: impl FnOnce(&mut Dps, &Env<'_>) -> T,
    ) -> T {
        let (random, switches) = (Arc::clone(&self.random), Arc::clone(&self.switches));
        act(&mut self.dps[dps], &Env { now, random: &*random, switches: &switches })
    }

    /// Meters a call of DPS.
    pub(crate) fn meter_dps(&mut self, dps: usize, what: DpsMetered, now: Time) -> Result<(), DpsRefusal> {
        if !self.throttle.enabled {
            return Ok(());
        }
        let rate = Rate::per(DPS_PER_MINUTE, Duration::from_secs(60), self.throttle.factor);
        let tells = match what {
            DpsMetered::Service => self.throttle.service_retry_after,
            DpsMetered::Register => self.throttle.device_retry_after,
        };
        let dps = &mut self.dps[dps];
        let mut verdict = dps.operations.take(rate, 1, now);
        if what == DpsMetered::Register && verdict == Verdict::Admitted {
            verdict = dps.registers.take(rate, 1, now);
        }
        match verdict {
            Verdict::Admitted => Ok(()),
            Verdict::Wait(wait) => Err(DpsRefusal::throttled(tells.then_some(wait))),
        }
    }

    /// Meters a poll of one device.
    pub(crate) fn meter_poll(&mut self, dps: usize, key: &Key, now: Time) -> Result<(), DpsRefusal> {
        if !self.throttle.enabled {
            return Ok(());
        }
        let rate = Rate::per(POLLS.0, POLLS.1, self.throttle.factor);
        let tells = self.throttle.device_retry_after;
        let Some(registration) = self.dps[dps].registrations.get_mut(key) else { return Ok(()) };
        match registration.polls.take(rate, 1, now) {
            Verdict::Admitted => Ok(()),
            Verdict::Wait(wait) => Err(DpsRefusal::throttled(tells.then_some(wait))),
        }
    }
}

fn policies(told: &[PolicyConfig]) -> Policies {
    let all = [
        Right::ServiceConfig,
        Right::EnrollmentRead,
        Right::EnrollmentWrite,
        Right::RegistrationStatusRead,
        Right::RegistrationStatusWrite,
        Right::RegistryRead,
        Right::RegistryWrite,
        Right::ServiceConnect,
        Right::DeviceConnect,
    ];
    let made = told.iter().filter_map(|policy| {
        let keys = std::iter::once(&policy.primary_key).chain(&policy.secondary_key);
        let rights = policy.rights.clone().unwrap_or_else(|| all.to_vec());
        // The configuration was checked: every key decodes.
        Some((policy.name.clone(), Policy::new(keys, rights).ok()?))
    });
    Policies::new(made.collect())
}

fn new_dps(told: &DpsConfig, hubs: &[Hub]) -> Dps {
    let linked: Vec<Linked> = told
        .hubs
        .iter()
        .filter_map(|link| {
            let hub = hubs.iter().find(|hub| hub.host.eq_ignore_ascii_case(&link.host))?;
            Some(Linked { host: Arc::clone(&hub.host), weight: link.weight, latency_ms: link.latency_ms })
        })
        .collect();
    Dps::new(dps::Plan {
        id_scope: told.id_scope.clone(),
        host: told.host.to_ascii_lowercase(),
        policies: policies(&told.policies),
        allocation: told.allocation,
        linked,
        assigning: Duration::from_millis(told.assigning_ms),
        retry_after_s: told.retry_after_s,
        moving: told.moving,
        overlap: Duration::from_millis(told.overlap_ms),
    })
}
