//! The world against a small model of DPS: maps, and nothing of etags, JSON or schedules.

mod stories;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::clock::SeededRandomness;

const HUBS: [&str; 2] = ["hub-a", "hub-b"];
const ASSIGNING_MS: u64 = 1_000;
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Migrate,
    Reset,
    Never,
}

#[derive(Debug, Clone)]
enum Step {
    /// Creates, or replaces any version.
    Put {
        device: u8,
        hub: usize,
        rule: Rule,
        enabled: bool,
        replaces: bool,
    },
    DeleteEnrollment {
        device: u8,
    },
    DeleteRegistration {
        device: u8,
    },
    DeleteIdentity {
        device: u8,
        hub: usize,
    },
    Register {
        device: u8,
    },
    Tag {
        device: u8,
        hub: usize,
        tag: u8,
    },
    /// Connects, or is cut, or the whole hub loses its connections: nobody sees it but those who count.
    Connect {
        device: u8,
        hub: usize,
        goes: Option<bool>,
    },
    Advance {
        ms: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Enrolled {
    hub: usize,
    rule: Rule,
    enabled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Moving {
    done_ms: u64,
    target: usize,
    rule: Rule,
    /// What the old hub lost, with its tag.
    taken: Option<Option<u8>>,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Registered {
    hub: Option<usize>,
    substatus: Option<&'static str>,
    moving: Option<Moving>,
}

/// The identities of both hubs, each with its tag.
type Identities = [BTreeMap<u8, Option<u8>>; 2];

#[derive(Debug, Default)]
struct Model {
    now_ms: u64,
    enrolled: BTreeMap<u8, Enrolled>,
    registered: BTreeMap<u8, Registered>,
    hubs: Identities,
}

impl Model {
    /// What a step answers, as an HTTP status; 0 where nothing is answered.
    fn step(&mut self, step: &Step) -> u16 {
        match *step {
            Step::Put { device, hub, rule, enabled, replaces } => {
                match (self.enrolled.contains_key(&device), replaces) {
                    (true, false) => return 409,
                    (false, true) => return 404,
                    _ => {}
                }
                self.enrolled.insert(device, Enrolled { hub, rule, enabled });
                200
            }
            Step::DeleteEnrollment { device } => self.enrolled.remove(&device).map_or(404, |_| 204),
            Step::DeleteRegistration { device } => match self.registered.get(&device) {
                None => 404,
                Some(found) if found.moving.is_some() => 409,
                Some(_) => {
                    self.registered.remove(&device);
                    204
                }
            },
            Step::DeleteIdentity { device, hub } => self.hubs[hub].remove(&device).map_or(404, |_| 204),
            Step::Tag { device, hub, tag } => match self.hubs[hub].get_mut(&device) {
                None => 404,
                Some(found) => {
                    *found = Some(tag);
                    200
                }
            },
            Step::Register { device } => self.register(device),
            Step::Connect { .. } => 0,
            Step::Advance { ms } => {
                self.now_ms += ms;
                let ended: Vec<u8> = self
                    .registered
                    .iter()
                    .filter_map(|(device, found)| {
                        found.moving.is_some_and(|moving| moving.done_ms <= self.now_ms).then_some(*device)
                    })
                    .collect();
                ended.into_iter().for_each(|device| self.arrive(device));
                0
            }
        }
    }

    fn register(&mut self, device: u8) -> u16 {
        let Some(enrolled) = self.enrolled.get(&device).copied() else { return 404 };
        if !enrolled.enabled {
            return 200;
        }
        let found = self.registered.entry(device).or_default();
        if found.moving.is_some() {
            return 409;
        }
        let target = match (found.hub, enrolled.rule) {
            (Some(current), Rule::Never) => current,
            _ => enrolled.hub,
        };
        let leaves = found.hub.filter(|from| *from != target);
        let taken = leaves.and_then(|from| self.hubs[from].remove(&device));
        found.moving =
            Some(Moving { done_ms: self.now_ms + ASSIGNING_MS, target, rule: enrolled.rule, taken });
        202
    }

    fn arrive(&mut self, device: u8) {
        let Some(found) = self.registered.get_mut(&device) else { return };
        let Some(moving) = found.moving.take() else { return };
        let hub = &mut self.hubs[moving.target];
        match found.hub {
            None if hub.contains_key(&device) => found.substatus = Some("reprovisionedToInitialAssignment"),
            None => {
                hub.insert(device, None);
                found.substatus = Some("initialAssignment");
            }
            Some(from) if from != moving.target => {
                let migrates = moving.rule == Rule::Migrate;
                hub.insert(device, moving.taken.flatten().filter(|_| migrates));
                found.substatus = Some(if migrates { "deviceDataMigrated" } else { "deviceDataReset" });
            }
            Some(_) if moving.rule == Rule::Reset => {
                hub.insert(device, None);
                found.substatus = Some("deviceDataReset");
            }
            Some(_) => {
                hub.entry(device).or_insert(None);
            }
        }
        found.hub = Some(moving.target);
    }
}

struct Real {
    world: World,
    now: Time,
}

fn name(device: u8) -> String {
    format!("Device-{device}")
}

fn object(value: Value) -> Object {
    value.as_object().cloned().unwrap()
}

impl Real {
    fn new(seed: u64) -> Self {
        let config = r#"
            [throttle]
            enabled = false
            [[hubs]]
            host = "hub-a"
            [[hubs]]
            host = "hub-b"
            [[dps]]
            id_scope = "0ne1"
            host = "dps"
            hubs = [{ host = "hub-a" }, { host = "hub-b" }]
        "#;
        let config = Config::from_toml(config).unwrap();
        let world = World::new(&config, Arc::new(SeededRandomness::new(seed)));
        Self { world, now: Time::from_unix_seconds(1_000) }
    }

    fn step(&mut self, step: &Step) -> u16 {
        let now = self.now;
        let status = |done: Result<u16, DpsRefusal>| done.unwrap_or_else(|refusal| refusal.status);
        let hub_status = |done: Result<u16, HubRefusal>| done.unwrap_or_else(|refusal| refusal.code.status());
        match *step {
            Step::Put { device, hub, rule, enabled, replaces } => {
                let (update, migrate) = match rule {
                    Rule::Migrate => (true, true),
                    Rule::Reset => (true, false),
                    Rule::Never => (false, false),
                };
                let id = name(device);
                let body = json!({
                    "registrationId": id,
                    "attestation": { "type": "symmetricKey",
                        "symmetricKey": { "primaryKey": KEY, "secondaryKey": KEY } },
                    "iotHubs": [HUBS[hub]],
                    "provisioningStatus": if enabled { "enabled" } else { "disabled" },
                    "reprovisionPolicy": { "updateHubAssignment": update, "migrateDeviceData": migrate },
                });
                let if_match = replaces.then_some("*");
                status(self.world.with_dps(0, now, |dps, env| {
                    dps.put(Kind::Individual, &id, object(body), if_match, env).map(|_| 200)
                }))
            }
            Step::DeleteEnrollment { device } => status(self.world.with_dps(0, now, |dps, env| {
                dps.delete(Kind::Individual, &name(device), None, env).map(|()| 204)
            })),
            Step::DeleteRegistration { device } => status(self.world.with_dps(0, now, |dps, env| {
                dps.delete_registration(&name(device), None, env).map(|()| 204)
            })),
            Step::DeleteIdentity { device, hub } => {
                hub_status(self.world.hubs[hub].delete(&name(device), Some("*"), now).map(|()| 204))
            }
            Step::Tag { device, hub, tag } => {
                let id = name(device);
                let of = Of { device: &id, module: None };
                let body = object(json!({ "tags": { "tag": tag } }));
                hub_status(self.world.hubs[hub].write_twin(of, &body, None, false, now).map(|_| 200))
            }
            Step::Connect { device, hub, goes } => {
                let throttle = self.world.throttle.clone();
                let hub = &mut self.world.hubs[hub];
                match goes {
                    Some(true) => {
                        let _absent_or_disabled = hub.connect(&name(device), &throttle, now);
                    }
                    Some(false) => {
                        hub.disconnect(&name(device), now);
                    }
                    None => {
                        hub.disconnect_all(now);
                    }
                }
                0
            }
            Step::Register { device } => {
                // The path's case is not the enrollment's.
                let id = name(device).to_uppercase();
                let attested = match self.world.attest(0, &id, |_| true) {
                    Ok(attested) => attested,
                    Err(refusal) => return refusal.status,
                };
                status(self.world.register(0, &id, attested, None, true, now).map(|(registered, _)| {
                    match registered {
                        super::Registered::Assigning { .. } => 202,
                        super::Registered::Disabled => 200,
                    }
                }))
            }
            Step::Advance { ms } => {
                self.now = now.plus(Duration::from_millis(ms));
                self.world.settle(self.now);
                0
            }
        }
    }

    /// What callers can see of it, in the model's words.
    fn seen(&self) -> (BTreeMap<u8, Registered>, Identities) {
        let no = |id: &str| id.rsplit('-').next().unwrap().parse::<u8>().unwrap();
        let registered = self.world.dps[0].registrations.values().map(|found| {
            let shown = found.show();
            let hub = found.hub.as_deref().map(|hub| HUBS.iter().position(|known| *known == hub).unwrap());
            let substatus = found.substatus.map(|_| {
                [
                    "initialAssignment",
                    "deviceDataMigrated",
                    "deviceDataReset",
                    "reprovisionedToInitialAssignment",
                ][found.substatus.unwrap() as usize]
            });
            if shown["status"] == "assigned" {
                assert_eq!(shown["assignedHub"], json!(found.hub));
                assert_eq!(shown["substatus"], json!(substatus));
            }
            assert_eq!(shown["status"] == "assigning", found.pending.is_some());
            (no(&found.id), Registered { hub, substatus, moving: None })
        });
        for hub in &self.world.hubs {
            let enabled = hub.devices.values().filter(|identity| identity.enabled).count();
            assert_eq!(hub.device_statistics()["enabledDeviceCount"], enabled);
            assert_eq!(hub.connected(), hub.devices.values().filter(|identity| identity.connected).count());
        }
        let hub = |hub: usize| {
            let devices = self.world.hubs[hub].devices.iter();
            devices
                .map(|(id, identity)| {
                    let tag = identity.find(id, &["tags", "tag"]).and_then(|tag| tag.as_u64());
                    (no(id), tag.map(|tag| tag as u8))
                })
                .collect()
        };
        (registered.collect(), [hub(0), hub(1)])
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let device = 0..4u8;
    let rule = prop_oneof![Just(Rule::Migrate), Just(Rule::Reset), Just(Rule::Never)];
    let step = prop_oneof![
        5 => (device.clone(), 0..2usize, rule, prop::bool::weighted(0.9), any::<bool>()).prop_map(
            |(device, hub, rule, enabled, replaces)| Step::Put { device, hub, rule, enabled, replaces }
        ),
        1 => device.clone().prop_map(|device| Step::DeleteEnrollment { device }),
        1 => device.clone().prop_map(|device| Step::DeleteRegistration { device }),
        1 => (device.clone(), 0..2usize).prop_map(|(device, hub)| Step::DeleteIdentity { device, hub }),
        6 => device.clone().prop_map(|device| Step::Register { device }),
        2 => (device.clone(), 0..2usize, prop::option::weighted(0.9, prop::bool::weighted(0.8)))
            .prop_map(|(device, hub, goes)| Step::Connect { device, hub, goes }),
        2 => (device, 0..2usize, any::<u8>()).prop_map(|(device, hub, tag)| Step::Tag { device, hub, tag }),
        5 => (0..1_500u64).prop_map(|ms| Step::Advance { ms }),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn dps_does_what_the_model_does(seed: u64, steps in steps()) {
        let (mut real, mut model) = (Real::new(seed), Model::default());
        for (no, step) in steps.iter().enumerate() {
            prop_assert_eq!(real.step(step), model.step(step), "step {} {:?}", no, step);
            let (registered, hubs) = real.seen();
            let mut expected = model.registered.clone();
            expected.values_mut().for_each(|found| found.moving = None);
            prop_assert_eq!(registered, expected, "step {} {:?}", no, step);
            prop_assert_eq!(&hubs, &model.hubs, "step {} {:?}", no, step);
        }
    }

    #[test]
    fn a_saved_world_is_the_same_world(seed: u64, steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut real = Real::new(seed);
        steps.iter().for_each(|step| { real.step(step); });
        write_state(&path, &real.world.saved().unwrap()).unwrap();
        let mut again = Real::new(seed);
        again.world.load(&path, real.now).unwrap();
        let end = real.now.plus(Duration::from_millis(ASSIGNING_MS));
        real.world.settle(end);
        again.world.settle(end);
        prop_assert_eq!(real.seen(), again.seen());
    }
}
