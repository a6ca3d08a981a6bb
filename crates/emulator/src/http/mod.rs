//! HTTP: which service a request is for, and what it answers.
//!
//! One listener serves everything: `Host` tells the service, or, for `localhost`, the first segment of the path.

mod access;
mod answer;
mod arm;
mod call;
mod control;
mod device;
mod dps_service;
mod hub;
mod listen;
mod methods;
mod tls;
mod webhook;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc};

pub(crate) use answer::{Answer, Trace};
pub(crate) use call::Call;
pub(crate) use listen::serve;
pub(crate) use tls::Tls;
pub use tls::TlsError;

use crate::auth::{Bearers, Secret};
use crate::clock::{Clock, Randomness, Time};
use crate::config::Switches;
use crate::devices::{Behaviours, Word};
use crate::faults::FailNext;
use crate::stop::Stop;
use crate::world::{ArmRefusal, DpsRefusal, HubCode, HubRefusal, World};

/// The host of the device API, for all DPS instances (DPS, global device endpoint).
pub(crate) const GLOBAL_DEVICE_HOST: &str = "global.azure-devices-provisioning.net";

/// The host of Azure Resource Manager.
pub(crate) const ARM_HOST: &str = "management.azure.com";

/// The first segment of the control API's paths. No service has it.
pub(crate) const CONTROL_PREFIX: &str = "_emulator";

/// Everything that answers requests.
pub(crate) struct Service {
    world: Mutex<World>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Randomness>,
    pub(crate) switches: Arc<Switches>,
    pub(crate) bearers: Bearers,
    pub(crate) behaviours: Behaviours,
    pub(crate) stopping: Stop,
    /// Something is due earlier than before.
    pub(crate) rescheduled: Notify,
    /// Where simulated devices hear of lost connections, of which each has at most one, and of direct methods, each of
    /// which is a request. So the words that wait are bounded by devices and requests.
    pub(crate) words: Option<mpsc::UnboundedSender<Word>>,
    pub(crate) control: Option<Option<Secret>>,
    pub(crate) state_file: Option<std::path::PathBuf>,
    /// Held while the state file is being written.
    pub(crate) saving: Mutex<()>,
    pub(crate) questions: Semaphore,
    pub(crate) webhook_tls: Arc<rustls::ClientConfig>,
    pub(crate) webhook_timeout: Duration,
    /// Calls by operation and status.
    calls: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

/// What a service is made of.
pub(crate) struct Parts {
    pub(crate) world: World,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Randomness>,
    pub(crate) bearers: Bearers,
    pub(crate) behaviours: Behaviours,
    pub(crate) words: Option<mpsc::UnboundedSender<Word>>,
    pub(crate) control: Option<Option<Secret>>,
    pub(crate) state_file: Option<std::path::PathBuf>,
    pub(crate) webhook_tls: Arc<rustls::ClientConfig>,
    pub(crate) webhook_timeout: Duration,
}

/// What a request is for.
enum Routed {
    Dps(usize, dps_service::Operation),
    Device(usize, device::Operation),
    Hub(usize, hub::Operation),
    Arm(arm::Operation),
    Refused(Answer),
}

impl Service {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            switches: Arc::clone(&parts.world.switches),
            world: Mutex::new(parts.world),
            clock: parts.clock,
            random: parts.random,
            bearers: parts.bearers,
            behaviours: parts.behaviours,
            stopping: Stop::new(),
            rescheduled: Notify::new(),
            words: parts.words,
            control: parts.control,
            state_file: parts.state_file,
            saving: Mutex::new(()),
            questions: Semaphore::new(webhook::QUESTIONS_MAX),
            webhook_tls: parts.webhook_tls,
            webhook_timeout: parts.webhook_timeout,
            calls: Mutex::new(BTreeMap::new()),
        }
    }

    /// Does something with the world as it is now. Short: everything else waits meanwhile.
    pub(crate) fn with_world<T>(&self, act: impl FnOnce(&mut World, Time) -> T) -> T {
        let mut world = self.world.lock();
        let now = self.clock.now();
        world.settle(now);
        let due = world.next_due();
        let done = act(&mut world, now);
        let earlier = match (due, world.next_due()) {
            (None, Some(_)) => true,
            (Some(before), Some(after)) => after < before,
            _ => false,
        };
        for hub in &mut world.hubs {
            hub.thrown.drain(..).for_each(|id| self.tell(Word::Thrown(id)));
        }
        drop(world);
        if earlier {
            self.rescheduled.notify_one();
        }
        done
    }

    /// Tells the simulated devices something.
    pub(crate) fn tell(&self, word: Word) {
        if let Some(words) = &self.words {
            // Nobody listens any more where the emulator is stopping.
            let _stopping = words.send(word);
        }
    }

    /// Waits on the emulator's clock.
    pub(crate) async fn wait(&self, wait: Duration) {
        if !wait.is_zero() {
            self.clock.wait_until(self.clock.now().plus(wait)).await;
        }
    }

    /// Lets happen what happens by itself, until the emulator stops.
    pub(crate) async fn tick(self: Arc<Self>) {
        loop {
            let due = self.with_world(|world, _| world.next_due());
            let wait = async {
                match due {
                    Some(at) => self.clock.wait_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                () = self.rescheduled.notified() => {}
                () = self.stopping.cancelled() => return,
            }
        }
    }

    fn count(&self, operation: &'static str, status: u16) {
        *self.calls.lock().entry((operation, status)).or_default() += 1;
    }

    /// Calls so far, by operation and status.
    pub(crate) fn calls(&self) -> BTreeMap<(&'static str, u16), u64> {
        self.calls.lock().clone()
    }
}

/// Answers a request.
pub(crate) async fn answer(service: &Arc<Service>, call: &Call, trace: &Trace) -> Answer {
    if call.path.first().is_some_and(|first| first == CONTROL_PREFIX) {
        return control::answer(service, call).await;
    }
    let routed = service.with_world(|world, _| route(world, call, trace));
    let name = match &routed {
        Routed::Dps(_, operation) => operation.name(),
        Routed::Device(_, operation) => operation.name(),
        Routed::Hub(_, operation) => operation.name(),
        Routed::Arm(operation) => operation.name(),
        Routed::Refused(answer) => return answer.clone(),
    };
    let latency = service.with_world(|world, _| world.faults.latency(name));
    service.wait(latency).await;
    // What happened while the request waited counts: it is answered as of now.
    let trace = &Trace { id: trace.id.clone(), now: service.clock.now() };
    let fault = service.with_world(|world, _| match is_out(world, &routed) {
        true => Some(None),
        false => world.faults.take(name, &call.host).map(Some),
    });
    let answer = match fault {
        Some(fault) => failed(&routed, fault.as_ref(), trace),
        None => match &routed {
            Routed::Dps(no, operation) => dps_service::answer(service, *no, operation, call, trace),
            Routed::Device(no, operation) => device::answer(service, *no, operation, call, trace),
            // Boxed: a method may wait for minutes, and its state would be every request's.
            Routed::Hub(no, operation) => Box::pin(hub::answer(service, *no, operation, call, trace)).await,
            Routed::Arm(operation) => arm::answer(service, operation, call),
            Routed::Refused(answer) => answer.clone(),
        },
    };
    service.count(name, answer.status);
    answer
}

fn is_out(world: &World, routed: &Routed) -> bool {
    match routed {
        Routed::Dps(no, _) | Routed::Device(no, _) => world.faults.is_out(&world.dps[*no].host),
        Routed::Hub(no, _) => world.hubs[*no].out,
        Routed::Arm(_) => world.faults.is_out("arm"),
        Routed::Refused(_) => false,
    }
}

/// The answer of a service that is out, or of a fault.
fn failed(routed: &Routed, fault: Option<&FailNext>, trace: &Trace) -> Answer {
    let status = fault.map_or(503, |fault| fault.status);
    let code = fault.and_then(|fault| fault.code).unwrap_or(match fault {
        Some(fault) => u32::from(fault.status) * 1_000,
        None => 503_001,
    });
    let message = fault.and_then(|fault| fault.message.clone());
    let message = message.unwrap_or_else(|| "Service Unavailable".to_owned());
    let mut answer = match routed {
        Routed::Dps(..) | Routed::Device(..) => {
            Answer::dps_refusal(&DpsRefusal::new(status, code, message), trace)
        }
        Routed::Hub(_, operation) => {
            let code = HubCode::of_number(code).unwrap_or(match status {
                429 => HubCode::ThrottlingBacklogTimeout,
                401 => HubCode::IotHubUnauthorizedAccess,
                404 => HubCode::DeviceNotFound,
                503 => HubCode::ServiceUnavailable,
                _ => HubCode::ServerError,
            });
            let refusal = match operation {
                hub::Operation::Method(_) => HubRefusal::nested(code, message),
                _ => HubRefusal::new(code, message),
            };
            let mut answer = Answer::hub_refusal(&refusal, trace);
            answer.status = status;
            answer
        }
        _ => Answer::arm_refusal(&ArmRefusal::new(status, "ServiceUnavailable", message)),
    };
    if let Some(body) = fault.and_then(|fault| fault.body.clone()) {
        answer = answer.text(body);
    }
    match fault.and_then(|fault| fault.retry_after_s) {
        Some(seconds) => answer.with("retry-after", seconds.to_string()),
        None => answer,
    }
}

/// Finds the service by `Host`, and the operation by path and method.
fn route(world: &World, call: &Call, trace: &Trace) -> Routed {
    let hub_no = world.hubs.iter().position(|hub| *hub.host == *call.host);
    let dps_no = world.dps.iter().position(|dps| dps.host == call.host);
    let local = matches!(call.host.as_str(), "localhost" | "127.0.0.1" | "::1");
    let first = call.path.first().map(|first| first.to_ascii_lowercase()).unwrap_or_default();
    if let Some(no) = hub_no.or((local && is_hub_path(&first) && !world.hubs.is_empty()).then_some(0)) {
        return match hub::route(call) {
            Some(operation) => Routed::Hub(no, operation),
            None => Routed::Refused(Answer::hub_refusal(
                &HubRefusal::argument("No operation of this path and method"),
                trace,
            )),
        };
    }
    if call.host == ARM_HOST || (local && first == "subscriptions") {
        return match arm::route(call) {
            Some(operation) => Routed::Arm(operation),
            None => Routed::Refused(Answer::arm_refusal(&ArmRefusal::not_found(&call.path.join("/")))),
        };
    }
    let refuse = |refusal: DpsRefusal| Routed::Refused(Answer::dps_refusal(&refusal, trace));
    if (dps_no.is_some() || call.host == GLOBAL_DEVICE_HOST || local)
        && let Some((scope, operation)) = device::route(call)
    {
        let no = world.dps.iter().position(|dps| dps.id_scope.eq_ignore_ascii_case(&scope));
        return match (no, operation) {
            (Some(no), Some(operation)) => Routed::Device(no, operation),
            (_, None) => refuse(DpsRefusal::new(405, 405_000, "The method is not allowed here.")),
            (None, _) => refuse(DpsRefusal::new(404, 404_208, format!("ID scope {scope} was not found."))),
        };
    }
    if let Some(no) = dps_no.or((local && !world.dps.is_empty()).then_some(0)) {
        return match dps_service::route(call) {
            dps_service::Routed::To(operation) => Routed::Dps(no, operation),
            dps_service::Routed::WrongMethod => {
                refuse(DpsRefusal::new(405, 405_000, "The method is not allowed here."))
            }
            dps_service::Routed::Nowhere => refuse(DpsRefusal::new(404, 404_000, "Not Found.")),
        };
    }
    Routed::Refused(listen::plain(404, "No service of this host: add it to the emulator's configuration."))
}

fn is_hub_path(first: &str) -> bool {
    matches!(first, "devices" | "twins" | "statistics")
}
