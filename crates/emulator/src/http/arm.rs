//! Traffic Manager over Azure Resource Manager, as far as weights and states need it.

use http::Method;
use serde_json::Value;

use super::Service;
use super::answer::Answer;
use super::call::Call;
use crate::world::ArmRefusal;

/// What stands between a resource group and a profile, compared without case.
const PROVIDER: [&str; 3] = ["providers", "microsoft.network", "trafficmanagerprofiles"];

/// What a call asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Operation {
    subscription: String,
    group: String,
    profile: String,
    /// Kind and name.
    endpoint: Option<(String, String)>,
    name: &'static str,
}

/// Reads path and method.
pub(super) fn route(call: &Call) -> Option<Operation> {
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    let is = |text: &str, literal: &str| text.eq_ignore_ascii_case(literal);
    let [a, subscription, b, group, c, d, e, profile, rest @ ..] = path.as_slice() else { return None };
    let provider = is(c, PROVIDER[0]) && is(d, PROVIDER[1]) && is(e, PROVIDER[2]);
    if !is(a, "subscriptions") || !is(b, "resourceGroups") || !provider {
        return None;
    }
    let endpoint = match rest {
        [] => None,
        [kind, name] => Some(((*kind).to_owned(), (*name).to_owned())),
        _ => return None,
    };
    let name = match (&call.method, endpoint.is_some()) {
        (&Method::GET, false) => "arm.profile.get",
        (&Method::PUT, false) => "arm.profile.put",
        (&Method::PATCH, false) => "arm.profile.patch",
        (&Method::GET, true) => "arm.endpoint.get",
        (&Method::PUT, true) => "arm.endpoint.put",
        (&Method::PATCH, true) => "arm.endpoint.patch",
        (&Method::DELETE, true) => "arm.endpoint.delete",
        _ => return None,
    };
    let (subscription, group) = ((*subscription).to_owned(), (*group).to_owned());
    Some(Operation { subscription, group, profile: (*profile).to_owned(), endpoint, name })
}

impl Operation {
    pub(super) fn name(&self) -> &'static str {
        self.name
    }
}

/// Answers a call of ARM.
pub(super) fn answer(service: &Service, operation: &Operation, call: &Call) -> Answer {
    act(service, operation, call).unwrap_or_else(|refusal| Answer::arm_refusal(&refusal))
}

fn act(service: &Service, operation: &Operation, call: &Call) -> Result<Answer, ArmRefusal> {
    let denied = |message: &str| ArmRefusal::new(401, "AuthenticationFailed", message);
    let header =
        call.header("authorization").ok_or_else(|| denied("The Authorization header is missing."))?;
    let read_only =
        service.bearers.read_only(header).ok_or_else(|| denied("The access token is invalid."))?;
    if read_only && call.method != Method::GET {
        let message = "The client does not have authorization to perform this action.";
        return Err(ArmRefusal::new(403, "AuthorizationFailed", message));
    }
    let version = call.parameter("api-version").unwrap_or_default();
    if !super::call::is_version_since(version, "2015-11-01") {
        let code =
            if version.is_empty() { "MissingApiVersionParameter" } else { "InvalidApiVersionParameter" };
        return Err(ArmRefusal::new(
            400,
            code,
            format!("The api-version '{version}' is missing or invalid."),
        ));
    }
    let body = || call.object().map_err(|problem| ArmRefusal::new(400, "InvalidRequestContent", problem.0));
    service.with_world(|world, _| {
        let (subscription, group, name) = (&operation.subscription, &operation.group, &operation.profile);
        let found = world.profiles.iter_mut().find(|profile| profile.is(subscription, group, name));
        let profile = found.ok_or_else(|| ArmRefusal::not_found(name))?;
        let ok = |value: Value| Ok(Answer::json(200, &value));
        let Some((kind, endpoint)) = &operation.endpoint else {
            return match call.method {
                Method::GET => ok(profile.show()),
                _ => ok(profile.write(&body()?, call.method == Method::PUT)?),
            };
        };
        match call.method {
            Method::GET => ok(profile.endpoint(kind, endpoint)?),
            Method::DELETE => {
                Ok(Answer::empty(if profile.delete_endpoint(kind, endpoint) { 200 } else { 204 }))
            }
            _ => {
                let replaces = call.method == Method::PUT;
                let (created, shown) = profile.write_endpoint(kind, endpoint, &body()?, replaces)?;
                Ok(Answer::json(if created { 201 } else { 200 }, &shown))
            }
        }
    })
}
