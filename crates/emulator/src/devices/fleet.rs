//! Fleets: many devices that register through the device API, hold a connection, and come back when they lose it.
//!
//! One task moves them all, by one heap of times. A device is a few words: its ID follows from its number, and what it
//! waits for is in the heap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{HeaderMap, HeaderValue, Method, Uri};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::back_off::{below, wait};
use super::{Word, signing};
use crate::clock::Time;
use crate::config::{BackOffConfig, FleetConfig};
use crate::http::{Answer, Call, GLOBAL_DEVICE_HOST, Service, Trace};
use crate::world::{Key, Kind, NotConnected, World};

/// The direct method that tells a simulated device to register anew.
pub(crate) const REPROVISION_METHOD: &str = "reprovision";

/// Most calls of simulated devices under way at one time. Past it devices wait for each other.
const CALLS_MAX: usize = 256;

/// The api-version that simulated devices speak.
const VERSION: &str = "2021-06-01";

/// Wait before a poll where the service does not say, as Node's SDK waits.
const POLL_DEFAULT: Duration = Duration::from_secs(2);

/// What a device is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Registering,
    Polling,
    Connecting,
    Connected,
}

/// One device.
#[derive(Debug)]
struct Device {
    state: State,
    /// Attempts that failed since the last that did not.
    attempts: u8,
    /// The number of the hub that DPS named.
    hub: u16,
    /// Counts what the device was told to do: an older time in the heap is void.
    turn: u32,
    operation: Option<Box<str>>,
}

struct Fleet {
    dps_no: usize,
    id_scope: String,
    prefix: String,
    group: Option<Key>,
    back_off: BackOffConfig,
    devices: Vec<Device>,
}

/// Which device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct No {
    fleet: u16,
    device: u32,
}

/// What became of a step.
enum Done {
    Answered(Answer),
    Connected,
    NotConnected(NotConnected),
    /// It cannot even sign.
    Unenrolled,
}

/// All fleets of an emulator.
pub(crate) struct Fleets {
    service: Arc<Service>,
    fleets: Vec<Fleet>,
    due: BinaryHeap<Reverse<(Time, No, u32)>>,
}

impl Fleets {
    /// Enrolls all fleets, where they are not yet enrolled, and spreads their starts.
    pub(crate) fn new(service: Arc<Service>, configs: &[FleetConfig]) -> Self {
        let mut made = Self { service, fleets: Vec::new(), due: BinaryHeap::new() };
        for config in configs {
            made.add(config);
        }
        made
    }

    fn add(&mut self, config: &FleetConfig) {
        let service = Arc::clone(&self.service);
        let found = service.with_world(|world, now| {
            let no = world.dps.iter().position(|dps| dps.id_scope.eq_ignore_ascii_case(&config.id_scope))?;
            enroll(world, no, config, now);
            Some((no, world.dps[no].id_scope.clone()))
        });
        // The configuration was checked: there is such an instance.
        let Some((dps_no, id_scope)) = found else { return };
        let fleet_no = u16::try_from(self.fleets.len()).unwrap_or(u16::MAX);
        let (now, spread) = (service.clock.now(), config.back_off.start_spread_ms);
        for device in 0..config.devices {
            let at = now.plus(Duration::from_millis(below(spread + 1, &*service.random)));
            self.due.push(Reverse((at, No { fleet: fleet_no, device }, 0)));
        }
        let new = || Device { state: State::Registering, attempts: 0, hub: 0, turn: 0, operation: None };
        self.fleets.push(Fleet {
            dps_no,
            id_scope,
            prefix: config.prefix.clone(),
            group: config.enrollment_group.as_deref().map(Key::of),
            back_off: config.back_off.clone(),
            devices: (0..config.devices).map(|_| new()).collect(),
        });
    }

    /// Moves the devices until the emulator stops.
    pub(crate) async fn run(mut self, mut words: mpsc::UnboundedReceiver<Word>) {
        let mut steps = FuturesUnordered::new();
        let service = Arc::clone(&self.service);
        loop {
            let now = service.clock.now();
            while steps.len() < CALLS_MAX {
                let Some(no) = self.next_due(now) else { break };
                steps.push(self.step(no));
            }
            let next = self.due.peek().map(|Reverse((at, ..))| *at);
            let full = steps.len() >= CALLS_MAX;
            let waits = async {
                match next {
                    Some(at) if !full => service.clock.wait_until(at).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((no, turn, done)) = steps.next(), if !steps.is_empty() => self.take(no, turn, done),
                Some(word) = words.recv() => self.hear(word),
                () = waits => {}
                () = service.stopping.cancelled() => return,
            }
        }
    }

    fn device(&mut self, no: No) -> &mut Device {
        &mut self.fleets[no.fleet as usize].devices[no.device as usize]
    }

    fn next_due(&mut self, now: Time) -> Option<No> {
        while let Some(Reverse((at, no, turn))) = self.due.peek().copied() {
            if at > now {
                return None;
            }
            self.due.pop();
            if self.device(no).turn == turn {
                return Some(no);
            }
        }
        None
    }

    /// Lets the device go on after `after`, and voids whatever it waited for.
    fn again(&mut self, no: No, after: Duration) {
        let at = self.service.clock.now().plus(after);
        let device = self.device(no);
        device.turn += 1;
        let turn = device.turn;
        self.due.push(Reverse((at, no, turn)));
    }

    fn back_off(&mut self, no: No) {
        let attempts = self.device(no).attempts;
        let after = wait(&self.fleets[no.fleet as usize].back_off, attempts, &*self.service.random);
        self.device(no).attempts = attempts.saturating_add(1);
        self.again(no, after);
    }

    /// What the device does now: a call of the device API, the way a real one's goes, or a connection to its hub.
    fn step(&self, no: No) -> impl Future<Output = (No, u32, Done)> + use<> {
        let fleet = &self.fleets[no.fleet as usize];
        let device = &fleet.devices[no.device as usize];
        let id = id(&fleet.prefix, no.device);
        let (state, turn, hub) = (device.state, device.turn, device.hub as usize);
        let path = match (state, &device.operation) {
            (State::Polling, Some(operation)) => format!("operations/{operation}"),
            _ => "register".to_owned(),
        };
        let target = format!("/{}/registrations/{id}/{path}?api-version={VERSION}", fleet.id_scope);
        let service = Arc::clone(&self.service);
        let (dps_no, group) = (fleet.dps_no, fleet.group.clone());
        async move {
            let done = match state {
                State::Connecting | State::Connected => service.with_world(|world, now| {
                    let throttle = world.throttle.clone();
                    match world.hubs[hub].connect(&id, &throttle, now) {
                        Ok(()) => Done::Connected,
                        Err(problem) => Done::NotConnected(problem),
                    }
                }),
                State::Registering | State::Polling => {
                    let method = if state == State::Polling { Method::GET } else { Method::PUT };
                    call(&service, method, &target, dps_no, group.as_ref(), &id).await
                }
            };
            (no, turn, done)
        }
    }

    /// Goes on by what a step brought.
    fn take(&mut self, no: No, turn: u32, done: Done) {
        if self.device(no).turn != turn {
            // It was told something else meanwhile.
            return;
        }
        match done {
            Done::Connected => {
                let device = self.device(no);
                device.state = State::Connected;
                device.attempts = 0;
                device.turn += 1;
            }
            Done::NotConnected(problem) => {
                let hub_attempts = self.fleets[no.fleet as usize].back_off.hub_attempts;
                let device = self.device(no);
                // Too many connections at once say nothing of where the device belongs.
                let gives_up =
                    device.attempts >= hub_attempts && !matches!(problem, NotConnected::Throttled(_));
                if gives_up {
                    device.state = State::Registering;
                    device.attempts = 0;
                    return self.again(no, Duration::ZERO);
                }
                self.back_off(no);
            }
            Done::Unenrolled => self.back_off(no),
            Done::Answered(answer) => self.take_answer(no, &answer),
        }
    }

    fn take_answer(&mut self, no: No, answer: &Answer) {
        let told = answer.headers.iter().find(|(name, _)| *name == "retry-after");
        let told = told.and_then(|(_, seconds)| seconds.parse().ok()).map(Duration::from_secs);
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        match answer.status {
            202 => {
                let operation = body.get("operationId").and_then(Value::as_str).map(Box::from);
                let device = self.device(no);
                device.state = State::Polling;
                device.operation = operation;
                self.again(no, told.unwrap_or(POLL_DEFAULT));
            }
            200 => {
                let hub = body["registrationState"]["assignedHub"].as_str().unwrap_or_default();
                let hub_no = self
                    .service
                    .with_world(|world, _| world.hubs.iter().position(|known| *known.host == *hub));
                let hub_no =
                    hub_no.filter(|_| body["status"] == "assigned").and_then(|no| u16::try_from(no).ok());
                self.device(no).operation = None;
                let Some(hub_no) = hub_no else {
                    self.device(no).state = State::Registering;
                    return self.back_off(no);
                };
                let device = self.device(no);
                device.hub = hub_no;
                device.state = State::Connecting;
                device.attempts = 0;
                self.again(no, Duration::ZERO);
            }
            // A poll that came too early is made again; all else begins anew, after a while.
            429 if self.device(no).state == State::Polling => self.again(no, told.unwrap_or(POLL_DEFAULT)),
            _ => {
                self.device(no).state = State::Registering;
                self.back_off(no);
            }
        }
    }

    fn hear(&mut self, word: Word) {
        let (Word::Thrown(id) | Word::Reprovision(id)) = &word;
        let Some(no) = self.no(id) else { return };
        match word {
            Word::Thrown(_) if self.device(no).state == State::Connected => {
                let device = self.device(no);
                device.state = State::Connecting;
                device.attempts = 0;
                self.back_off(no);
            }
            // It is on its way already.
            Word::Thrown(_) => {}
            Word::Reprovision(id) => {
                let device = self.device(no);
                let hub = device.hub as usize;
                device.state = State::Registering;
                device.attempts = 0;
                self.again(no, Duration::ZERO);
                self.service.with_world(|world, now| world.hubs[hub].disconnect(&id, now));
            }
        }
    }

    /// The device of an ID; none where it is no fleet's.
    fn no(&self, id: &str) -> Option<No> {
        self.fleets.iter().enumerate().find_map(|(no, fleet)| {
            let device = id.strip_prefix(fleet.prefix.as_str())?.parse::<u32>().ok()?;
            let fleet_no = u16::try_from(no).ok()?;
            ((device as usize) < fleet.devices.len()).then_some(No { fleet: fleet_no, device })
        })
    }
}

fn id(prefix: &str, device: u32) -> String {
    format!("{prefix}{device:06}")
}

/// Creates what the fleet registers by, as an operator would have: it counts against no quota.
fn enroll(world: &mut World, dps_no: usize, config: &FleetConfig, now: Time) {
    world.with_dps(dps_no, now, |dps, env| {
        let mut put = |kind: Kind, id: &str| {
            let body = json!({ kind.id_field(): id, "attestation": { "type": "symmetricKey" } });
            let body = body.as_object().cloned().unwrap_or_default();
            // What is there already stays as it is.
            if let Err(refusal) = dps.put(kind, id, body, None, env)
                && refusal.status != 409
            {
                tracing::warn!(id, refusal = %refusal.message, "a fleet was not enrolled");
            }
        };
        match &config.enrollment_group {
            Some(group) => put(Kind::Group, group),
            None => (0..config.devices).for_each(|device| put(Kind::Individual, &id(&config.prefix, device))),
        }
    });
}

async fn call(
    service: &Arc<Service>,
    method: Method,
    target: &str,
    dps_no: usize,
    group: Option<&Key>,
    id: &str,
) -> Done {
    let signed = service.with_world(|world, now| signing::authorization(world, dps_no, group, id, now));
    let Some(signed) = signed.and_then(|text| HeaderValue::try_from(text).ok()) else {
        return Done::Unenrolled;
    };
    let mut headers = HeaderMap::new();
    headers.insert(http::header::AUTHORIZATION, signed);
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(http::header::HOST, HeaderValue::from_static(GLOBAL_DEVICE_HOST));
    let body = Bytes::from(json!({ "registrationId": id }).to_string());
    let trace = Trace::new(&*service.random, service.clock.now());
    let read = target.parse::<Uri>().ok().and_then(|uri| Call::new(method, &uri, headers, body));
    match read {
        Some(call) => Done::Answered(crate::http::answer(service, &call, &trace).await),
        None => Done::Unenrolled,
    }
}
