//! Direct methods, answered by simulated devices (IoT Hub, direct methods).

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Service;
use super::answer::Answer;
use super::call::Call;
use super::hub::Target;
use crate::config::MethodMissing;
use crate::devices::{Behaviour, REPROVISION_METHOD, Word};
use crate::world::{HubCode, HubRefusal};

/// Largest request, in bytes (IoT Hub, quotas and throttling: method payloads of 128 KB).
const BODY_BYTES_MAX: usize = 128 * 1_024;

/// How long a device may take to answer, in seconds: least, most, and where the caller does not say.
const RESPONSE_SECONDS: (u64, u64, u64) = (5, 300, 30);

/// How long the hub waits at most for a device to connect, in seconds.
const CONNECT_SECONDS_MAX: u64 = 300;

/// How often the hub looks whether an awaited device has connected.
const CONNECT_POLL: Duration = Duration::from_millis(500);

struct Invocation {
    name: String,
    payload: Value,
    response: Duration,
    connect: Duration,
}

fn read(call: &Call) -> Result<Invocation, HubRefusal> {
    let bad = |problem: &str| HubRefusal::nested(HubCode::ArgumentInvalid, problem);
    if call.body.len() > BODY_BYTES_MAX {
        return Err(HubRefusal::nested(HubCode::MessageTooLarge, "The request is too large"));
    }
    let body = call.object().map_err(|problem| bad(&problem.0))?;
    let name = body.get("methodName").and_then(Value::as_str).unwrap_or_default().to_owned();
    if name.is_empty() {
        return Err(bad("`methodName` is missing"));
    }
    let seconds = |name: &str, default: u64| match body.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value.as_u64().ok_or_else(|| bad(&format!("`{name}` must be a number of seconds"))),
    };
    let response = seconds("responseTimeoutInSeconds", RESPONSE_SECONDS.2)?;
    let connect = seconds("connectTimeoutInSeconds", 0)?;
    if !(RESPONSE_SECONDS.0..=RESPONSE_SECONDS.1).contains(&response) {
        return Err(bad("`responseTimeoutInSeconds` must be 5 to 300"));
    }
    if connect > CONNECT_SECONDS_MAX || connect > response {
        return Err(bad("`connectTimeoutInSeconds` must be at most 300, and at most the response timeout"));
    }
    let payload = body.get("payload").cloned().unwrap_or(Value::Null);
    let (response, connect) = (Duration::from_secs(response), Duration::from_secs(connect));
    Ok(Invocation { name, payload, response, connect })
}

/// Calls a method of a device.
pub(super) async fn invoke(
    service: &Arc<Service>,
    hub_no: usize,
    target: &Target,
    call: &Call,
) -> Result<Answer, HubRefusal> {
    let invocation = read(call)?;
    let deadline = service.clock.now().plus(invocation.connect);
    let behaviour = loop {
        let found = service.with_world(|world, now| {
            let hub = &world.hubs[hub_no];
            let identity = hub.seen(&target.device, now).filter(|identity| identity.enabled);
            let found = match identity {
                None => Err(HubRefusal::device_not_found(&target.device)),
                Some(identity) => identity.one_of(target.of()).map(|_| identity.connected),
            };
            found.map_err(|refusal| match world.switches.method_missing {
                MethodMissing::Plain => refusal,
                MethodMissing::Nested => HubRefusal::nested(refusal.code, refusal.message),
            })
        })?;
        let now = service.clock.now();
        if found {
            break service.behaviours.of(&target.device);
        }
        if now >= deadline {
            return Err(not_online(invocation.connect));
        }
        service.clock.wait_until(now.plus(CONNECT_POLL).min(deadline)).await;
    };
    let (status, payload, takes) = match behaviour {
        Behaviour::Echo => (200, invocation.payload, Duration::ZERO),
        Behaviour::Slow { ms } => (200, invocation.payload, Duration::from_millis(ms)),
        Behaviour::Fails { status } => (status, Value::Null, Duration::ZERO),
        Behaviour::Silent => (200, Value::Null, Duration::MAX),
        Behaviour::Offline => return Err(not_online(invocation.connect)),
    };
    service.wait(takes.min(invocation.response)).await;
    if takes > invocation.response {
        // The method may have run all the same: nobody can tell.
        let message = "Timed out waiting for the response from device.";
        let refusal = HubRefusal::nested(HubCode::GatewayTimeout, message);
        return Err(HubRefusal { timeout: Some(invocation.response), ..refusal });
    }
    if invocation.name == REPROVISION_METHOD && status == 200 {
        service.tell(Word::Reprovision(target.device.as_str().into()));
    }
    Ok(Answer::json(200, &json!({ "status": status, "payload": payload })))
}

fn not_online(waited: Duration) -> HubRefusal {
    let message = "The operation failed because the requested device isn't online or hasn't registered the direct method callback.";
    HubRefusal { timeout: Some(waited), ..HubRefusal::nested(HubCode::DeviceNotOnline, message) }
}
