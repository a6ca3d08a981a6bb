//! The service API of DPS (DPS REST API: enrollments, enrollment groups, registrations).

use http::Method;
use serde_json::Value;

use super::Service;
use super::access::{self, Access, Asked};
use super::answer::{Answer, Trace};
use super::call::{Call, is_version_since};
use crate::auth::Right;
use crate::config::ErrorBody;
use crate::world::{DpsMetered, DpsRefusal, Kind};

/// The first api-version that is taken (DPS REST API, versions).
pub(super) const VERSION_FIRST: &str = "2018-09-01";

/// Largest body, in bytes (DPS, limits: message size 96 KB).
pub(super) const BODY_BYTES_MAX: usize = 96 * 1_024;

/// What a call asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    Get(Kind, String),
    Put(Kind, String),
    Delete(Kind, String),
    Query(Kind),
    Bulk(Kind),
    Attestation(Kind, String),
    GetRegistration(String),
    DeleteRegistration(String),
    QueryRegistrations(String),
}

/// What a path and a method stand for.
pub(super) enum Routed {
    To(Operation),
    WrongMethod,
    Nowhere,
}

/// Reads path and method. Literals compare without case: SDKs differ.
pub(super) fn route(call: &Call) -> Routed {
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    let is = |text: &str, literal: &str| text.eq_ignore_ascii_case(literal);
    let kind = match path.first() {
        Some(first) if is(first, "enrollments") => Some(Kind::Individual),
        Some(first) if is(first, "enrollmentGroups") => Some(Kind::Group),
        Some(first) if is(first, "registrations") => None,
        _ => return Routed::Nowhere,
    };
    let post = call.method == Method::POST;
    let to = |operation| Routed::To(operation);
    match (kind, &path[1..]) {
        (Some(kind), []) if post => to(Operation::Bulk(kind)),
        (Some(kind), [last]) if post && is(last, "query") => to(Operation::Query(kind)),
        (Some(kind), [id]) => match call.method {
            Method::GET => to(Operation::Get(kind, (*id).to_owned())),
            Method::PUT => to(Operation::Put(kind, (*id).to_owned())),
            Method::DELETE => to(Operation::Delete(kind, (*id).to_owned())),
            _ => Routed::WrongMethod,
        },
        (Some(kind), [id, last]) if is(last, "attestationmechanism") => match post {
            true => to(Operation::Attestation(kind, (*id).to_owned())),
            false => Routed::WrongMethod,
        },
        (None, [id]) => match call.method {
            Method::GET => to(Operation::GetRegistration((*id).to_owned())),
            Method::DELETE => to(Operation::DeleteRegistration((*id).to_owned())),
            _ => Routed::WrongMethod,
        },
        (None, [id, last]) if is(last, "query") => match post {
            true => to(Operation::QueryRegistrations((*id).to_owned())),
            false => Routed::WrongMethod,
        },
        (_, []) => Routed::WrongMethod,
        _ => Routed::Nowhere,
    }
}

impl Operation {
    /// The name that faults and counters know it by.
    pub(super) fn name(&self) -> &'static str {
        use Kind::{Group, Individual};
        match self {
            Operation::Get(Individual, _) => "dps.enrollment.get",
            Operation::Get(Group, _) => "dps.group.get",
            Operation::Put(Individual, _) => "dps.enrollment.put",
            Operation::Put(Group, _) => "dps.group.put",
            Operation::Delete(Individual, _) => "dps.enrollment.delete",
            Operation::Delete(Group, _) => "dps.group.delete",
            Operation::Query(Individual) => "dps.enrollment.query",
            Operation::Query(Group) => "dps.group.query",
            Operation::Bulk(Individual) => "dps.enrollment.bulk",
            Operation::Bulk(Group) => "dps.group.bulk",
            Operation::Attestation(Individual, _) => "dps.enrollment.attestation",
            Operation::Attestation(Group, _) => "dps.group.attestation",
            Operation::GetRegistration(_) => "dps.registration.get",
            Operation::DeleteRegistration(_) => "dps.registration.delete",
            Operation::QueryRegistrations(_) => "dps.registration.query",
        }
    }

    fn right(&self) -> Right {
        match self {
            Operation::Get(..) | Operation::Query(_) => Right::EnrollmentRead,
            // Which right the attestation mechanism needs is not told; it tells keys, so the stricter is asked for.
            Operation::Put(..) | Operation::Delete(..) | Operation::Bulk(_) | Operation::Attestation(..) => {
                Right::EnrollmentWrite
            }
            Operation::GetRegistration(_) | Operation::QueryRegistrations(_) => Right::RegistrationStatusRead,
            Operation::DeleteRegistration(_) => Right::RegistrationStatusWrite,
        }
    }

    /// Whether a body is read.
    fn has_body(&self) -> bool {
        matches!(
            self,
            Operation::Put(..) | Operation::Query(_) | Operation::Bulk(_) | Operation::QueryRegistrations(_)
        )
    }

    fn reads(&self) -> bool {
        matches!(self.right(), Right::EnrollmentRead | Right::RegistrationStatusRead)
    }
}

/// Answers a call of the service API of instance `dps_no`.
pub(super) fn answer(
    service: &Service,
    dps_no: usize,
    operation: &Operation,
    call: &Call,
    trace: &Trace,
) -> Answer {
    match act(service, dps_no, operation, call) {
        Ok(answer) => answer,
        Err(refusal) => {
            let unknown_body = matches!(refusal.status, 401 | 403 | 412 | 429);
            let mut answer = Answer::dps_refusal(&refusal, trace);
            if unknown_body && service.switches.service_error_body == ErrorBody::Empty {
                answer.body.clear();
                answer.headers.retain(|(name, _)| *name == "retry-after");
            }
            answer
        }
    }
}

fn act(service: &Service, dps_no: usize, operation: &Operation, call: &Call) -> Result<Answer, DpsRefusal> {
    if !call.parameter("api-version").is_some_and(|version| is_version_since(version, VERSION_FIRST)) {
        return Err(DpsRefusal::new(400, 400_001, "The api-version is missing or not supported."));
    }
    service.with_world(|world, now| {
        let asked = Asked {
            policies: &world.dps[dps_no].policies,
            bearers: &service.bearers,
            right: operation.right(),
            reads: operation.reads(),
            host: &world.dps[dps_no].host,
            scheme: world.switches.accept_scheme_in_resource,
            now,
        };
        match access::check(call, &asked) {
            Access::Granted => {}
            Access::Missing => return Err(DpsRefusal::new(401, 401_000, "Unauthorized")),
            Access::Unauthorized => return Err(DpsRefusal::unauthorized()),
            Access::Forbidden => return Err(DpsRefusal::forbidden(&world.switches)),
        }
        world.meter_dps(dps_no, DpsMetered::Service, now)?;
        if call.body.len() > BODY_BYTES_MAX {
            return Err(DpsRefusal::new(413, 413_000, "The request body is too large."));
        }
        if operation.has_body() && !call.is_json() {
            return Err(DpsRefusal::media_type());
        }
        world.with_dps(dps_no, now, |dps, env| {
            let wrong = |problem: super::call::NoObject| DpsRefusal::argument(problem.0);
            let object = |object| Ok(Answer::json(200, &Value::Object(object)));
            let query = || {
                let body = call.object_or_empty().map_err(wrong)?;
                Ok::<_, DpsRefusal>(body.get("query").and_then(Value::as_str).unwrap_or_default().to_owned())
            };
            match operation {
                Operation::Get(kind, id) => object(dps.get(*kind, id, env)?),
                Operation::Put(kind, id) => {
                    let body = call.object().map_err(wrong)?;
                    object(dps.put(*kind, id, body, call.if_match(), env)?)
                }
                Operation::Delete(kind, id) => {
                    dps.delete(*kind, id, call.if_match(), env)?;
                    Ok(Answer::empty(204))
                }
                Operation::Query(kind) => Ok(Answer::page(dps.query(*kind, &query()?, &call.page(), env)?)),
                Operation::Bulk(kind) => object(dps.bulk(*kind, call.object().map_err(wrong)?, env)?),
                Operation::Attestation(kind, id) => object(dps.attestation(*kind, id)?),
                Operation::GetRegistration(id) => object(dps.get_registration(id, env)?),
                Operation::DeleteRegistration(id) => {
                    dps.delete_registration(id, call.if_match(), env)?;
                    Ok(Answer::empty(204))
                }
                Operation::QueryRegistrations(group) => {
                    Ok(Answer::page(dps.query_registrations(group, &query()?, &call.page(), env)?))
                }
            }
        })
    })
}
