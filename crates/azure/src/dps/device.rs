//! The DPS device API: what a device does to learn its hub. Devices with certificates are left out: their private keys
//! belong to them, and their connections are their own.

use std::time::Duration;

use http::Method;
use serde::Serialize;
use serde_json::Value;

use super::DEVICE_API_VERSION;
use super::registration::{RegistrationOperation, RegistrationResult, RegistrationStatus};
use crate::client::{Client, Door, Due, RETRY_AFTER_MAX, Reply, Request, Subject, knobs, path};
use crate::credential::{Credential, DeviceKey};
use crate::error::{AzureError, retry_after};
use crate::id::{HostName, IdScope, OperationId, RegistrationId};
use crate::secret::CredentialError;

/// Wait between polls where DPS names none, and the shortest where it does: what its SDKs wait.
pub const POLL_WAIT: Duration = Duration::from_secs(2);
/// Most polls of one registration; at DPS's usual 3 s, half an hour.
pub const POLLS_MAX: u32 = 600;

/// One device with a shared key, as DPS sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Device {
    door: Door,
    scope: IdScope,
    registration: RegistrationId,
}

knobs!(Device);

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "registrationId")]
    registration: &'a RegistrationId,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a Value>,
}

/// What one answer says, and when to ask again.
struct Heard {
    operation: RegistrationOperation,
    ask_after: Option<Duration>,
}

impl Device {
    /// A device of the instance that `scope` names, at `host`: [`super::GLOBAL_HOST`], or the instance's own. The key is
    /// read and checked now.
    pub fn new(
        client: Client,
        host: HostName,
        scope: IdScope,
        registration: RegistrationId,
        key: DeviceKey,
    ) -> Result<Self, CredentialError> {
        let credential = Credential::device(key, &scope, &registration)?;
        Ok(Self { door: Door { client, host, credential }, scope, registration })
    }

    /// The name it registers by.
    pub fn registration_id(&self) -> &RegistrationId {
        &self.registration
    }

    /// Asks to be registered, and gives the first answer, which seldom is the last (DPS REST API, register device).
    /// `payload` goes to the custom allocation webhook. [`AzureError::NotFound`] where no enrollment fits.
    pub async fn begin(&self, payload: Option<&Value>) -> Result<RegistrationOperation, AzureError> {
        self.start(payload, self.door.client.due()).await.map(|heard| heard.operation)
    }

    /// How a registration under way stands (DPS REST API, operation status lookup). DPS allows a device five in 10 s.
    pub async fn poll(&self, id: &OperationId) -> Result<RegistrationOperation, AzureError> {
        self.ask(id, self.door.client.due()).await.map(|heard| heard.operation)
    }

    /// Registers, and polls as DPS asks until the registration is no longer under way. That it failed, or that the
    /// enrollment is disabled, is an answer: see [`RegistrationOperation::status`]. [`AzureError::Deadline`] where it
    /// is still under way when time is up; it goes on without this client.
    pub async fn register(&self, payload: Option<&Value>) -> Result<RegistrationOperation, AzureError> {
        let due = self.door.client.due();
        let mut heard = self.start(payload, due).await?;
        for polls in 0..POLLS_MAX {
            let under_way = matches!(
                heard.operation.status,
                RegistrationStatus::Assigning | RegistrationStatus::Unassigned
            );
            if !under_way {
                return Ok(heard.operation);
            }
            let wait = heard.ask_after.unwrap_or(POLL_WAIT).max(POLL_WAIT).min(RETRY_AFTER_MAX);
            if !self.door.pause(wait, due).await {
                let last = format!("still {} after {polls} polls", heard.operation.status);
                return Err(self.door.late("register device", due, polls + 1, last));
            }
            heard = match &heard.operation.operation_id {
                Some(id) => self.ask(id, due).await?,
                // Nothing to ask by: DPS's SDKs begin again.
                None => self.start(payload, due).await?,
            };
        }
        let last = format!("still {} after {POLLS_MAX} polls", heard.operation.status);
        Err(self.door.late("register device", due, POLLS_MAX + 1, last))
    }

    /// What DPS knows of this device's registration, without beginning one (DPS REST API, device registration status
    /// lookup).
    pub async fn status(&self, payload: Option<&Value>) -> Result<RegistrationResult, AzureError> {
        let segments = [self.scope.as_str(), "registrations", self.registration.as_str()];
        let at = path(&segments, DEVICE_API_VERSION);
        let request = Request::new("look up registration", Subject::Registration, Method::POST, at)
            .reads()
            .json(&Body { registration: &self.registration, payload })?;
        let reply = self.door.send(request).await?;
        reply.json_about("a registration result", |told: &RegistrationResult| {
            told.state.check(&self.registration)
        })
    }

    async fn start(&self, payload: Option<&Value>, due: Due) -> Result<Heard, AzureError> {
        let segments = [self.scope.as_str(), "registrations", self.registration.as_str(), "register"];
        // Asked twice, DPS answers for the registration already under way.
        let request = Request::new(
            "register device",
            Subject::EnrollmentGroup,
            Method::PUT,
            path(&segments, DEVICE_API_VERSION),
        )
        .yes(&[200, 202])
        .json(&Body { registration: &self.registration, payload })?;
        self.heard(&self.door.send_due(&request, due).await?)
    }

    async fn ask(&self, id: &OperationId, due: Due) -> Result<Heard, AzureError> {
        let segments =
            [self.scope.as_str(), "registrations", self.registration.as_str(), "operations", id.as_str()];
        let request =
            Request::get("poll registration", Subject::Operation, path(&segments, DEVICE_API_VERSION))
                .yes(&[200, 202]);
        self.heard(&self.door.send_due(&request, due).await?)
    }

    fn heard(&self, reply: &Reply) -> Result<Heard, AzureError> {
        let operation: RegistrationOperation =
            reply.json_about("a registration operation", |told: &RegistrationOperation| {
                match &told.registration_state {
                    Some(result) => result.state.check_as(&told.status, &self.registration),
                    None if told.status == RegistrationStatus::Assigned => {
                        Err(format!("registration `{}` is assigned to no hub", self.registration))
                    }
                    None => Ok(()),
                }
            })?;
        let now = self.door.client.surroundings().since_epoch();
        Ok(Heard { operation, ask_after: retry_after(&reply.answer.headers, now) })
    }
}
