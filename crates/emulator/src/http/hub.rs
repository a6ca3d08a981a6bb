//! The service API of an IoT hub (IoT Hub REST API, service).

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::access::{self, Access, Asked};
use super::answer::{Answer, Trace};
use super::call::{Call, NoObject, is_version_since};
use super::{Service, methods};
use crate::auth::Right;
use crate::clock::Time;
use crate::world::{HubCode, HubRefusal, Metered, Object, Of, World};

/// The first api-version that the live service was seen to take.
const VERSION_FIRST: &str = "2018-06-30";

/// Which device, or which of its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) device: String,
    pub(super) module: Option<String>,
}

impl Target {
    pub(super) fn of(&self) -> Of<'_> {
        Of { device: &self.device, module: self.module.as_deref() }
    }
}

/// What a call asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    Get(Target),
    Put(Target),
    Delete(Target),
    List,
    Modules(String),
    Bulk,
    Query,
    Twin(Target),
    PatchTwin(Target),
    PutTwin(Target),
    Method(Target),
    DeviceStatistics,
    ServiceStatistics,
    Purge(String),
}

/// Reads path and method.
pub(super) fn route(call: &Call) -> Option<Operation> {
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    let is = |text: &str, literal: &str| text.eq_ignore_ascii_case(literal);
    let device = |id: &str| Target { device: id.to_owned(), module: None };
    let module = |id: &str, module: &str| Target { device: id.to_owned(), module: Some(module.to_owned()) };
    let identity = |target: Target| match call.method {
        Method::GET => Some(Operation::Get(target)),
        Method::PUT => Some(Operation::Put(target)),
        Method::DELETE => Some(Operation::Delete(target)),
        _ => None,
    };
    let twin = |target: Target| match call.method {
        Method::GET => Some(Operation::Twin(target)),
        Method::PATCH => Some(Operation::PatchTwin(target)),
        Method::PUT => Some(Operation::PutTwin(target)),
        _ => None,
    };
    let post = call.method == Method::POST;
    match path.as_slice() {
        [a] if is(a, "devices") && call.method == Method::GET => Some(Operation::List),
        [a] if is(a, "devices") && post => Some(Operation::Bulk),
        [a, b] if is(a, "devices") && is(b, "query") && post => Some(Operation::Query),
        [a, id] if is(a, "devices") => identity(device(id)),
        [a, id, b] if is(a, "devices") && is(b, "modules") && call.method == Method::GET => {
            Some(Operation::Modules((*id).to_owned()))
        }
        [a, id, b] if is(a, "devices") && is(b, "commands") && call.method == Method::DELETE => {
            Some(Operation::Purge((*id).to_owned()))
        }
        [a, id, b, m] if is(a, "devices") && is(b, "modules") => identity(module(id, m)),
        [a, id] if is(a, "twins") => twin(device(id)),
        [a, id, b] if is(a, "twins") && is(b, "methods") && post => Some(Operation::Method(device(id))),
        [a, id, b, m] if is(a, "twins") && is(b, "modules") => twin(module(id, m)),
        [a, id, b, m, c] if is(a, "twins") && is(b, "modules") && is(c, "methods") && post => {
            Some(Operation::Method(module(id, m)))
        }
        [a, b] if is(a, "statistics") && call.method == Method::GET => match b {
            b if is(b, "devices") => Some(Operation::DeviceStatistics),
            b if is(b, "service") => Some(Operation::ServiceStatistics),
            _ => None,
        },
        _ => None,
    }
}

impl Operation {
    /// The name that faults and counters know it by.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Operation::Get(_) => "hub.identity.get",
            Operation::Put(_) => "hub.identity.put",
            Operation::Delete(_) => "hub.identity.delete",
            Operation::List => "hub.identity.list",
            Operation::Modules(_) => "hub.identity.modules",
            Operation::Bulk => "hub.identity.bulk",
            Operation::Query => "hub.query",
            Operation::Twin(_) => "hub.twin.get",
            Operation::PatchTwin(_) => "hub.twin.patch",
            Operation::PutTwin(_) => "hub.twin.put",
            Operation::Method(_) => "hub.method",
            Operation::DeviceStatistics => "hub.statistics.devices",
            Operation::ServiceStatistics => "hub.statistics.service",
            Operation::Purge(_) => "hub.purge",
        }
    }

    fn right(&self) -> Right {
        match self {
            Operation::Get(_) | Operation::List | Operation::Modules(_) | Operation::DeviceStatistics => {
                Right::RegistryRead
            }
            Operation::Put(_) | Operation::Delete(_) | Operation::Bulk => Right::RegistryWrite,
            _ => Right::ServiceConnect,
        }
    }

    fn reads(&self) -> bool {
        matches!(
            self,
            Operation::Get(_)
                | Operation::List
                | Operation::Modules(_)
                | Operation::Query
                | Operation::Twin(_)
                | Operation::DeviceStatistics
                | Operation::ServiceStatistics
        )
    }

    /// What it counts as, and how often. A bulk request counts once: no document says that it counts its devices.
    fn metered(&self, call: &Call) -> (Metered, u64) {
        match self {
            Operation::Query => (Metered::Queries, 1),
            Operation::Twin(_) => (Metered::TwinReads, 1),
            Operation::PatchTwin(_) | Operation::PutTwin(_) => (Metered::TwinUpdates, 1),
            Operation::Method(_) => (Metered::Methods, (call.body.len() as u64).div_ceil(4_096).max(1)),
            _ => (Metered::Registry, 1),
        }
    }
}

impl From<NoObject> for HubRefusal {
    fn from(problem: NoObject) -> Self {
        HubRefusal::new(HubCode::IotHubFormatError, problem.0)
    }
}

/// Answers a call of the hub `hub_no`. A call may be held back first, as bursts are.
pub(super) async fn answer(
    service: &Arc<Service>,
    hub_no: usize,
    operation: &Operation,
    call: &Call,
    trace: &Trace,
) -> Answer {
    let held = service.with_world(|world, now| admit(service, world, hub_no, operation, call, now));
    let answered = match held {
        Err(refusal) => Err(refusal),
        Ok(wait) => {
            service.wait(wait).await;
            match operation {
                Operation::Method(target) => methods::invoke(service, hub_no, target, call).await,
                _ => service.with_world(|world, now| act(world, hub_no, operation, call, now)),
            }
        }
    };
    answered.unwrap_or_else(|refusal| Answer::hub_refusal(&refusal, trace))
}

/// Checks version and access, and meters.
fn admit(
    service: &Service,
    world: &mut World,
    hub_no: usize,
    operation: &Operation,
    call: &Call,
    now: Time,
) -> Result<Duration, HubRefusal> {
    if !call.parameter("api-version").is_some_and(|version| is_version_since(version, VERSION_FIRST)) {
        let message = "The api-version is missing or not supported";
        return Err(HubRefusal::new(HubCode::InvalidProtocolVersion, message));
    }
    let throttle = world.throttle.clone();
    let scheme = world.switches.accept_scheme_in_resource;
    let hub = &mut world.hubs[hub_no];
    let asked = Asked {
        policies: &hub.policies,
        bearers: &service.bearers,
        right: operation.right(),
        reads: operation.reads(),
        host: &hub.host,
        scheme,
        now,
    };
    match access::check(call, &asked) {
        Access::Granted => {}
        Access::Missing => {
            return Err(HubRefusal::new(HubCode::IotHubUnauthorized, "Authorization header missing"));
        }
        Access::Unauthorized => {
            return Err(HubRefusal::new(HubCode::IotHubUnauthorized, "Unauthorized"));
        }
        Access::Forbidden => return Err(HubRefusal::unauthorized_access()),
    }
    let (what, uses) = operation.metered(call);
    hub.meter(what, uses, &throttle, now)
}

fn act(
    world: &mut World,
    hub_no: usize,
    operation: &Operation,
    call: &Call,
    now: Time,
) -> Result<Answer, HubRefusal> {
    let random = Arc::clone(&world.random);
    let hub = &mut world.hubs[hub_no];
    let object = |object: Object| Ok(Answer::json(200, &Value::Object(object)));
    match operation {
        Operation::Get(target) => match &target.module {
            None => object(hub.get(&target.device, now)?),
            Some(_) => object(hub.module(target.of())?),
        },
        Operation::Put(target) => {
            let (body, if_match) = (call.object()?, call.if_match());
            match &target.module {
                None => object(hub.put(&target.device, body, if_match, &*random, now)?),
                Some(module) => {
                    object(hub.put_module(&target.device, module, body, if_match, &*random, now)?)
                }
            }
        }
        Operation::Delete(target) => {
            match &target.module {
                None => hub.delete(&target.device, call.if_match(), now)?,
                Some(module) => hub.delete_module(&target.device, module, call.if_match(), now)?,
            }
            Ok(Answer::empty(204))
        }
        Operation::List => {
            let top = call.parameter("top").map_or(Ok(crate::world::LIST_MAX), str::parse);
            let top = top.map_err(|_| HubRefusal::argument("`top` must be a number"))?;
            Ok(Answer::json(200, &json!(hub.list(top))))
        }
        Operation::Modules(device) => Ok(Answer::json(200, &json!(hub.modules(device)?))),
        Operation::Bulk => {
            let Value::Array(items) = call.json()? else {
                return Err(HubRefusal::argument("The body must be an array"));
            };
            let (good, shown) = hub.bulk(&items, &*random, now)?;
            Ok(Answer::json(if good { 200 } else { 400 }, &Value::Object(shown)))
        }
        Operation::Query => {
            let body = call.object()?;
            let text = body.get("query").and_then(Value::as_str).unwrap_or_default();
            Ok(Answer::page(hub.query(text, &call.page(), now)?))
        }
        Operation::Twin(target) => object(hub.twin(target.of(), now)?),
        Operation::PatchTwin(target) => {
            object(hub.write_twin(target.of(), &call.object()?, call.if_match(), false, now)?)
        }
        Operation::PutTwin(target) => {
            object(hub.write_twin(target.of(), &call.object()?, call.if_match(), true, now)?)
        }
        Operation::DeviceStatistics => object(hub.device_statistics()),
        Operation::ServiceStatistics => {
            Ok(Answer::json(200, &json!({ "connectedDeviceCount": hub.connected() })))
        }
        Operation::Purge(device) => {
            hub.get(device, now)?;
            let shown = json!({ "deviceId": device, "totalMessagesPurged": 0, "moduleId": null });
            Ok(Answer::json(200, &shown))
        }
        Operation::Method(_) => Err(HubRefusal::new(HubCode::ServerError, "Not a call of the registry")),
    }
}
