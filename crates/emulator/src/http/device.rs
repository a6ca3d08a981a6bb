//! The device API of DPS (DPS REST API, runtime registration).

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use super::answer::{Answer, Trace};
use super::call::{Call, is_version_since};
use super::dps_service::{BODY_BYTES_MAX, VERSION_FIRST};
use super::{Service, webhook};
use crate::auth::{Covers, SasToken};
use crate::world::{DpsMetered, DpsRefusal, Key, Registered, operation_id};

/// The first api-version that tells `reprovisionedToInitialAssignment`.
const VERSION_MODERN: &str = "2019-04-15";

/// What a call asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    Register { id: String },
    Poll { id: String, operation: String },
    LookUp { id: String },
}

/// Reads path and method below an ID scope; the ID scope and the operation, or none where only the method is wrong.
pub(super) fn route(call: &Call) -> Option<(String, Option<Operation>)> {
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    let is = |text: &str, literal: &str| text.eq_ignore_ascii_case(literal);
    let (scope, id, rest) = match path.as_slice() {
        [scope, literal, id, rest @ ..] if is(literal, "registrations") => (*scope, (*id).to_owned(), rest),
        _ => return None,
    };
    let operation = match rest {
        [] => (Method::POST, Operation::LookUp { id }),
        [last] if is(last, "register") => (Method::PUT, Operation::Register { id }),
        [literal, operation] if is(literal, "operations") => {
            (Method::GET, Operation::Poll { id, operation: (*operation).to_owned() })
        }
        _ => return None,
    };
    let (method, operation) = operation;
    Some((scope.to_owned(), (call.method == method).then_some(operation)))
}

impl Operation {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Operation::Register { .. } => "device.register",
            Operation::Poll { .. } => "device.poll",
            Operation::LookUp { .. } => "device.lookup",
        }
    }

    fn id(&self) -> &str {
        match self {
            Operation::Register { id } | Operation::Poll { id, .. } | Operation::LookUp { id } => id,
        }
    }
}

/// Answers a call of the device API of instance `dps_no`.
pub(super) fn answer(
    service: &Arc<Service>,
    dps_no: usize,
    operation: &Operation,
    call: &Call,
    trace: &Trace,
) -> Answer {
    act(service, dps_no, operation, call).unwrap_or_else(|refusal| Answer::dps_refusal(&refusal, trace))
}

fn act(
    service: &Arc<Service>,
    dps_no: usize,
    operation: &Operation,
    call: &Call,
) -> Result<Answer, DpsRefusal> {
    let version = call.parameter("api-version").unwrap_or_default();
    if !is_version_since(version, VERSION_FIRST) {
        return Err(DpsRefusal::new(400, 400_001, "The api-version is missing or not supported."));
    }
    let id = operation.id();
    let token = match call.header("authorization").map(SasToken::read) {
        None => return Err(DpsRefusal::new(401, 401_000, "Unauthorized")),
        Some(read) => read.map_err(|_| DpsRefusal::unauthorized())?,
    };
    if call.body.len() > BODY_BYTES_MAX {
        return Err(DpsRefusal::new(413, 413_000, "The request body is too large."));
    }
    // Whatever a poll carries is not read: an SDK sends `{}`.
    if !matches!(operation, Operation::Poll { .. }) && !call.is_json() {
        return Err(DpsRefusal::media_type());
    }
    // The time is the world's: that of the request may be earlier, and another has been here since.
    let asked = service.with_world(|world, now| {
        let scope = world.dps[dps_no].id_scope.clone();
        let path = ["registrations", id];
        let covers = Covers { roots: &[&scope], path: &path, scheme: false };
        if token.has_expired(now) || !token.covers(covers) {
            return Err(DpsRefusal::unauthorized());
        }
        crate::world::check_id(id, &world.switches)?;
        let key = Key::of(id);
        match operation {
            Operation::Poll { .. } | Operation::LookUp { .. } => world.meter_poll(dps_no, &key, now)?,
            Operation::Register { .. } => world.meter_dps(dps_no, DpsMetered::Register, now)?,
        }
        let attested = world.attest(dps_no, id, |keys| token.is_signed_by(keys))?;
        let retry_after = world.dps[dps_no].retry_after_s.to_string();
        match operation {
            Operation::Register { .. } => {
                let payload = read_body(call, id)?;
                let modern = is_version_since(version, VERSION_MODERN);
                let (registered, question) = world.register(dps_no, id, attested, payload, modern, now)?;
                let answer = match registered {
                    Registered::Disabled => Answer::json(200, &disabled(id)),
                    Registered::Assigning { operation } => {
                        let location = format!("https://{}/{scope}/registrations/{id}/register", call.host);
                        let body = json!({ "operationId": operation, "status": "assigning" });
                        Answer::json(202, &body).with("location", location).with("retry-after", retry_after)
                    }
                };
                Ok((answer, question))
            }
            Operation::Poll { operation, .. } => {
                let registration = world.dps[dps_no].registrations.get(&key);
                let registration = registration.filter(|found| operation_id(found.operation) == *operation);
                let code = world.switches.operation_not_found_code;
                let registration =
                    registration.ok_or_else(|| DpsRefusal::new(404, code, "Operation not found."))?;
                let body = Value::Object(registration.operation_status());
                match registration.status() {
                    "assigning" => Ok((Answer::json(202, &body).with("retry-after", retry_after), None)),
                    _ => Ok((Answer::json(200, &body), None)),
                }
            }
            Operation::LookUp { .. } => {
                read_body(call, id)?;
                let registration = world.dps[dps_no].registrations.get(&key);
                let registration = registration.ok_or_else(DpsRefusal::registration_not_found)?;
                Ok((Answer::json(200, &Value::Object(registration.result())), None))
            }
        }
    });
    let (answer, question) = asked?;
    if let Some(question) = question {
        webhook::ask(service, question);
    }
    Ok(answer)
}

/// The payload of a register or a look-up, whose body names the same device as its path.
fn read_body(call: &Call, id: &str) -> Result<Option<Value>, DpsRefusal> {
    let mut body = call.object_or_empty().map_err(|problem| DpsRefusal::argument(problem.0))?;
    match body.get("registrationId") {
        None | Some(Value::Null) => return Err(DpsRefusal::argument("`registrationId` is missing")),
        Some(Value::String(told)) if told.eq_ignore_ascii_case(id) => {}
        Some(_) => return Err(DpsRefusal::argument("The registration IDs of path and body differ.")),
    }
    Ok(body.remove("payload").filter(|payload| !payload.is_null()))
}

fn disabled(id: &str) -> Value {
    json!({
        "operationId": "",
        "status": "disabled",
        "registrationState": { "registrationId": id, "status": "disabled" },
    })
}
