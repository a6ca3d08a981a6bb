//! Registration records: what DPS reports of a device (DPS REST API, DeviceRegistrationState).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::enrollment::Reprovision;
use super::etag::Etag;
use super::fields::Object;
use super::hub::Identity;
use crate::auth::DeviceKey;
use crate::clock::{Time, guid, mix};
use crate::throttle::Bucket;

/// How the last assignment came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Substatus {
    InitialAssignment,
    DeviceDataMigrated,
    DeviceDataReset,
    ReprovisionedToInitialAssignment,
}

impl Substatus {
    fn name(self) -> &'static str {
        match self {
            Substatus::InitialAssignment => "initialAssignment",
            Substatus::DeviceDataMigrated => "deviceDataMigrated",
            Substatus::DeviceDataReset => "deviceDataReset",
            Substatus::ReprovisionedToInitialAssignment => "reprovisionedToInitialAssignment",
        }
    }
}

/// Why the last attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) code: u32,
    pub(crate) message: String,
}

/// An assignment under way, with all that it needs of an enrollment that may change meanwhile.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pending {
    /// Where the device goes; none while the webhook is being asked.
    pub(crate) target: Option<Arc<str>>,
    pub(crate) device_id: Box<str>,
    pub(crate) reprovision: Reprovision,
    pub(crate) initial_twin: Option<Box<Object>>,
    pub(crate) iot_edge: Option<bool>,
    /// Primary and secondary key of the identity to be.
    pub(crate) keys: (DeviceKey, DeviceKey),
    pub(crate) group: Option<Box<str>>,
    /// What the webhook sent for the device.
    pub(crate) payload: Option<Box<Value>>,
    /// Whether the api-version knows `reprovisionedToInitialAssignment`.
    pub(crate) modern: bool,
    /// What the old hub has already lost, with its host.
    pub(crate) taken: Option<(Arc<str>, Box<Identity>)>,
    /// Whether the target's registry has been metered for it.
    pub(crate) admitted: bool,
    /// The hubs that the webhook may choose from; empty where none is asked.
    pub(crate) choice: Vec<Arc<str>>,
}

/// What DPS knows of one device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Registration {
    pub(crate) id: Box<str>,
    pub(crate) device_id: Box<str>,
    pub(crate) hub: Option<Arc<str>>,
    pub(crate) substatus: Option<Substatus>,
    pub(crate) created: Time,
    pub(crate) updated: Time,
    pub(crate) etag: Etag,
    /// The group it came by; none for an individual enrollment.
    pub(crate) group: Option<Box<str>>,
    pub(crate) payload: Option<Box<Value>>,
    pub(crate) failure: Option<Box<Failure>>,
    pub(crate) pending: Option<Box<Pending>>,
    /// The last operation, from which its ID follows.
    pub(crate) operation: u64,
    /// Not saved: it counts in the time of a clock that is another after the start.
    #[serde(skip)]
    pub(crate) polls: Bucket,
    /// Reads `unassigned` since its enrollment was changed; only where a switch says so.
    pub(crate) hidden: bool,
}

/// The ID of an operation: a small number, 16 digits, a GUID, with points between them, as recorded.
pub(crate) fn operation_id(operation: u64) -> String {
    let halves = (u128::from(mix(operation ^ 1)) << 64) | u128::from(mix(operation ^ 2));
    format!("5.{:016x}.{}", mix(operation), guid(halves.to_be_bytes()))
}

impl Registration {
    pub(crate) fn status(&self) -> &'static str {
        match self {
            _ if self.pending.is_some() => "assigning",
            _ if self.failure.is_some() => "failed",
            _ if self.hub.is_none() || self.hidden => "unassigned",
            _ => "assigned",
        }
    }

    /// DeviceRegistrationState. Absent fields are left out, never null.
    pub(crate) fn show(&self) -> Object {
        let mut shown = Object::new();
        let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
        let status = self.status();
        put("registrationId", json!(self.id));
        put("status", json!(status));
        if status == "unassigned" {
            return shown;
        }
        put("createdDateTimeUtc", json!(self.created.to_string()));
        if let Some(hub) = &self.hub {
            put("assignedHub", json!(hub));
            put("deviceId", json!(self.device_id));
        }
        if let (Some(substatus), "assigned") = (self.substatus, status) {
            put("substatus", json!(substatus.name()));
        }
        if let (Some(failure), "failed") = (&self.failure, status) {
            put("errorCode", json!(failure.code));
            put("errorMessage", json!(failure.message));
        }
        put("lastUpdatedDateTimeUtc", json!(self.updated.to_string()));
        put("etag", json!(self.etag.dps()));
        if let (Some(payload), "assigned") = (&self.payload, status) {
            put("payload", (**payload).clone());
        }
        shown
    }

    /// RegistrationOperationStatus, which the device API answers to a poll: the operation and what has come of it.
    pub(crate) fn operation_status(&self) -> Object {
        let mut shown = Object::new();
        shown.insert("operationId".to_owned(), json!(operation_id(self.operation)));
        shown.insert("status".to_owned(), json!(self.status()));
        shown.insert("registrationState".to_owned(), Value::Object(self.result()));
        shown
    }

    /// DeviceRegistrationResult, which the device API answers to a look-up: the state and how the device was attested.
    pub(crate) fn result(&self) -> Object {
        let mut state = match self.status() {
            "assigning" => {
                let mut state = Object::new();
                state.insert("registrationId".to_owned(), json!(self.id));
                state.insert("status".to_owned(), json!("assigning"));
                state
            }
            _ => self.show(),
        };
        if self.status() == "assigned" {
            let attested = match &self.group {
                Some(group) => json!({ "enrollmentGroupId": group }),
                None => json!({}),
            };
            state.insert("symmetricKey".to_owned(), attested);
        }
        state
    }
}
