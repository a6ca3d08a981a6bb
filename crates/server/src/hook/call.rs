//! A call of DPS, read: the scope, and perhaps labels, from the URL that the enrollment has; all else from the body, of
//! which only what decides is looked at.

use std::fmt;

use berth_core::allocation::{AllocationRequest, LINKED_HUBS_MAX};
use berth_core::{DeviceId, HubName, LABELS_MAX, Labels, RegistrationId, ScopeName};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

/// Longest text that tells what is wrong with a call, in bytes: it may repeat some of it.
const PROBLEM_BYTES_MAX: usize = 300;

/// A legal call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What is asked.
    pub request: AllocationRequest,
}

/// What is wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Malformed {
    /// Where.
    pub field: &'static str,
    /// What, and what is expected.
    pub problem: String,
}

impl Malformed {
    pub(super) fn new(field: &'static str, problem: impl fmt::Display) -> Self {
        let mut problem = problem.to_string();
        let end = (0..=PROBLEM_BYTES_MAX.min(problem.len())).rev().find(|at| problem.is_char_boundary(*at));
        problem.truncate(end.unwrap_or(0));
        Self { field, problem }
    }
}

/// What DPS posts (DPS, custom allocation policies). What it does not say is absent or null.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    individual_enrollment: Option<Enrollment>,
    enrollment_group: Option<Enrollment>,
    device_runtime_context: Context,
    linked_hubs: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Enrollment {
    registration_id: Option<String>,
    device_id: Option<String>,
    reprovision_policy: Option<ReprovisionPolicy>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReprovisionPolicy {
    update_hub_assignment: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Context {
    registration_id: String,
    current_iot_hub_host_name: Option<String>,
    current_device_id: Option<String>,
}

impl Call {
    /// Reads the query of the URL, and the body.
    ///
    /// # Errors
    /// [`Malformed`] says where and what.
    pub fn read(query: &str, body: &[u8]) -> Result<Self, Malformed> {
        let scope = scope(query)?;
        let stamp_labels = labels(query)?;
        let body: Body = serde_json::from_slice(body).map_err(|error| Malformed::new("body", error))?;
        let registration = RegistrationId::parse(&body.device_runtime_context.registration_id)
            .map_err(|error| Malformed::new("deviceRuntimeContext.registrationId", error))?;
        let device = body.device(&registration)?;
        let current_hub =
            body.device_runtime_context.current_iot_hub_host_name.as_deref().map(HubName::parse);
        let current_hub = current_hub
            .transpose()
            .map_err(|error| Malformed::new("deviceRuntimeContext.currentIotHubHostName", error))?;
        let linked_hubs = linked_hubs(&body.linked_hubs)?;
        Ok(Self {
            request: AllocationRequest {
                scope,
                registration,
                device,
                linked_hubs,
                current_hub,
                stamp_labels,
            },
        })
    }
}

impl Body {
    /// What the device will be called at its hub, where the call says so: by the ID of its own enrollment, or by the one
    /// that it has and keeps.
    fn device(&self, registration: &RegistrationId) -> Result<Option<DeviceId>, Malformed> {
        let (enrollment, told) = match (&self.individual_enrollment, &self.enrollment_group) {
            (Some(own), None) => (own, own.device_id.as_deref()),
            (None, Some(group)) => (group, None),
            _ => {
                let problem = "exactly one of individualEnrollment and enrollmentGroup is needed";
                return Err(Malformed::new("body", problem));
            }
        };
        if let (Some(enrolled), Some(own)) = (&enrollment.registration_id, &self.individual_enrollment)
            && !registration.same_as(enrolled)
        {
            let id = own.registration_id.as_deref().unwrap_or_default();
            let problem = format_args!("`{id}` is not `{registration}`, which registers");
            return Err(Malformed::new("individualEnrollment.registrationId", problem));
        }
        let stays = enrollment.reprovision_policy.as_ref().and_then(|policy| policy.update_hub_assignment)
            == Some(false);
        let current = self.device_runtime_context.current_device_id.as_deref();
        let read =
            |field, text: &str| DeviceId::parse(text).map(Some).map_err(|error| Malformed::new(field, error));
        match (told, current) {
            (_, Some(current)) if stays => read("deviceRuntimeContext.currentDeviceId", current),
            (Some(told), _) => read("individualEnrollment.deviceId", told),
            // How it is spelled there, where registration IDs have no case.
            (None, Some(current)) if registration.same_as(current) => {
                read("deviceRuntimeContext.currentDeviceId", current)
            }
            (None, _) => Ok(None),
        }
    }
}

fn linked_hubs(names: &[String]) -> Result<Vec<HubName>, Malformed> {
    if names.is_empty() {
        return Err(Malformed::new("linkedHubs", "is empty; there is no hub to choose"));
    }
    if names.len() > LINKED_HUBS_MAX {
        let problem = format_args!("names {} hubs; at most {LINKED_HUBS_MAX} are taken", names.len());
        return Err(Malformed::new("linkedHubs", problem));
    }
    let hubs = names.iter().map(|name| HubName::parse(name));
    hubs.collect::<Result<_, _>>().map_err(|error| Malformed::new("linkedHubs", error))
}

fn scope(query: &str) -> Result<ScopeName, Malformed> {
    let mut scopes = values(query, "scope");
    let (Some(told), None) = (scopes.next(), scopes.next()) else {
        let problem = "the URL of the webhook has to name the ID scope of its DPS instance once, as ?scope=…";
        return Err(Malformed::new("scope", problem));
    };
    ScopeName::parse(&told.unwrap_or_default()).map_err(|error| Malformed::new("scope", error))
}

/// `label=KEY:VALUE`, as often as there are labels.
fn labels(query: &str) -> Result<Labels, Malformed> {
    let malformed = |problem: &dyn fmt::Display| Malformed::new("label", problem);
    let mut pairs = Vec::new();
    for told in values(query, "label") {
        let Some((key, value)) = told.as_deref().and_then(|told| told.split_once(':')) else {
            return Err(malformed(&"a label in the URL of the webhook is written label=KEY:VALUE"));
        };
        if pairs.len() == LABELS_MAX || pairs.iter().any(|(held, _)| held == key) {
            return Err(malformed(&format_args!("at most {LABELS_MAX} labels are taken, each key once")));
        }
        pairs.push((key.to_owned(), value.to_owned()));
    }
    Labels::parse(pairs).map_err(|error| malformed(&error))
}

/// What a call tells as the secret; a call that tells several tells none.
pub(super) fn code(query: &str) -> Option<String> {
    let mut codes = values(query, "code");
    match (codes.next(), codes.next()) {
        (Some(code), None) => code,
        _ => None,
    }
}

/// The values of a parameter, each decoded; `None` for one that is no text. A `+` is one: keys have it, blanks they have not.
fn values<'q>(query: &'q str, name: &'static str) -> impl Iterator<Item = Option<String>> + use<'q> {
    query.split('&').filter_map(move |pair| {
        let (told, value) = pair.split_once('=').unwrap_or((pair, ""));
        (told == name).then(|| percent_decode_str(value).decode_utf8().ok().map(std::borrow::Cow::into_owned))
    })
}
