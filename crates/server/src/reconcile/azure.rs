//! The real Azure as an [`Authority`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_azure::dps::{
    AllocationPolicy, AttestationKind, IndividualEnrollment, ProvisioningStatus, RegistrationState,
    RegistrationStatus,
};
use berth_azure::{
    AzureError, Client, Continuation, Credential, CredentialError, EndpointError, IfMatch, KeySource,
    Missing, Page, Query, Surroundings, System, Transport, dps, hub, id,
};
use berth_core::reconcile::{IdentitySeen, RegistrationSeen};
use berth_core::{DeviceId, HubName, RegistrationId, Scope, ScopeNo, Timestamp};
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use serde_json::Value;

use super::authority::{Authority, Enforced, Trouble};
use super::listing::{Cursor, EnrollmentRow, IdentityRow, Listing, PAGE_ROWS, RegistrationRow};
use crate::config::{AzureConfig, key_source};

/// How long a write may take: one that is slower than that may come after its leader's term.
const WRITE_WITHIN: Duration = Duration::from_secs(2);
/// What is asked of a hub's registry: so little that a page of a thousand rows is small.
const IDENTITIES: &str = "SELECT deviceId, status FROM devices";
/// How long one question may take: a hub delays reads for seconds before it refuses any (IoT Hub, quotas and throttling).
const CALL_WITHIN: Duration = Duration::from_secs(10);

/// Longest status of a registration that is repeated, in characters: those known have up to ten.
const STATUS_CHARS_MAX: usize = 20;

/// DPS instances and hubs, as the topology and the configuration name them.
pub struct AzureAuthority {
    client: Client,
    hub_credentials: BTreeMap<HubName, KeySource>,
    /// One for each scope and hub of the topology that was ever asked.
    doors: Mutex<Doors>,
}

#[derive(Default)]
struct Doors {
    scopes: BTreeMap<ScopeNo, (Scope, dps::Service)>,
    hubs: BTreeMap<HubName, hub::Service>,
}

impl AzureAuthority {
    /// Azure where the configuration says that it is. Nothing is called and no credential is read yet.
    ///
    /// # Errors
    /// [`EndpointError`] where the certificate file is unreadable or addresses make no sense.
    pub fn new(config: &AzureConfig) -> Result<Self, EndpointError> {
        Self::on(config, Arc::new(System::new()))
    }

    /// As [`AzureAuthority::new`], with the client's clock and randomness from `surroundings`.
    ///
    /// # Errors
    /// As [`AzureAuthority::new`].
    pub fn on(config: &AzureConfig, surroundings: Arc<dyn Surroundings>) -> Result<Self, EndpointError> {
        let transport = Transport::new(config.endpoints()?)?;
        // The budget is taken by the caller, for one request a question.
        let client = Client::new(transport, surroundings).within(CALL_WITHIN).attempts(1);
        Ok(Self { client, hub_credentials: config.hub_credentials.clone(), doors: Mutex::default() })
    }

    fn dps(&self, scope: &Scope) -> Result<dps::Service, Trouble> {
        if let Some((of, service)) = self.doors.lock().scopes.get(&scope.no)
            && (&of.service_host, &of.credential_ref) == (&scope.service_host, &scope.credential_ref)
        {
            return Ok(service.clone());
        }
        let refused = |problem: String| Trouble::NoAccess(format!("scope `{}`: {problem}", scope.name));
        let host = id::HostName::new(&scope.service_host).map_err(|error| refused(error.to_string()))?;
        let credential = key_source(&scope.credential_ref)
            .map_err(&refused)
            .and_then(|source| credential(source, &host).map_err(&refused))?;
        let service = dps::Service::new(self.client.clone(), host, credential);
        self.doors.lock().scopes.insert(scope.no, (scope.clone(), service.clone()));
        Ok(service)
    }

    fn hub(&self, name: &HubName) -> Result<hub::Service, Trouble> {
        if let Some(service) = self.doors.lock().hubs.get(name) {
            return Ok(service.clone());
        }
        let refused = |problem: String| Trouble::NoAccess(format!("hub `{name}`: {problem}"));
        let source = self.hub_credentials.get(name).ok_or_else(|| {
            refused("no credential is configured; name one in [azure.hub_credentials]".to_owned())
        })?;
        let host = id::HostName::new(name.as_str()).map_err(|error| refused(error.to_string()))?;
        let credential = credential(source.clone(), &host).map_err(&refused)?;
        let service = hub::Service::new(self.client.clone(), host, credential);
        self.doors.lock().hubs.insert(name.clone(), service.clone());
        Ok(service)
    }
}

/// The credential in `source`, which has to be one for `host`: what is signed for one host shall not go to another.
fn credential(source: KeySource, host: &id::HostName) -> Result<Arc<Credential>, String> {
    let credential =
        Credential::connection_string(source.clone()).map_err(|error: CredentialError| error.to_string())?;
    match credential.host() {
        Some(named) if named == host => Ok(credential),
        Some(named) => Err(format!("{source} is for host {named}, not for {host}")),
        None => Err(format!("{source} names no host")),
    }
}

impl Authority for AzureAuthority {
    fn registration<'a>(
        &'a self,
        scope: &'a Scope,
        id: &'a RegistrationId,
    ) -> BoxFuture<'a, Result<Option<RegistrationSeen>, Trouble>> {
        Box::pin(async move {
            let asked = registration_id(id)?;
            match self.dps(scope)?.registration(&asked).await {
                Ok(state) => seen(&asked, &state).map(Some),
                Err(error) if error.is_missing(Missing::Registration) => Ok(None),
                Err(error) => Err(trouble(error)),
            }
        })
    }

    fn enrollment<'a>(
        &'a self,
        scope: &'a Scope,
        id: &'a RegistrationId,
    ) -> BoxFuture<'a, Result<Option<RegistrationSeen>, Trouble>> {
        Box::pin(async move {
            let asked = registration_id(id)?;
            let enrollment = match self.dps(scope)?.enrollment(&asked).await {
                Ok(enrollment) => enrollment,
                Err(error) if error.is_missing(Missing::Enrollment) => return Ok(None),
                Err(error) => return Err(trouble(error)),
            };
            if enrollment.provisioning_status == Some(ProvisioningStatus::Disabled) {
                return Ok(Some(RegistrationSeen::Disabled));
            }
            match &enrollment.registration_state {
                Some(state) => seen(&asked, state).map(Some),
                None => Ok(Some(RegistrationSeen::Unassigned)),
            }
        })
    }

    fn identity<'a>(
        &'a self,
        hub: &'a HubName,
        device: &'a DeviceId,
    ) -> BoxFuture<'a, Result<IdentitySeen, Trouble>> {
        Box::pin(async move {
            let asked = id::DeviceId::new(device.as_str()).map_err(|e| Trouble::Nonsense(e.to_string()))?;
            match self.hub(hub)?.identity(&asked).await {
                Ok(identity) if identity.is_enabled() => Ok(IdentitySeen::Enabled),
                Ok(_) => Ok(IdentitySeen::Disabled),
                Err(error) if error.is_missing(Missing::Device) => Ok(IdentitySeen::Missing),
                Err(error) => Err(trouble(error)),
            }
        })
    }

    fn enforce<'a>(
        &'a self,
        scope: &'a Scope,
        id: &'a RegistrationId,
        hub: &'a HubName,
    ) -> BoxFuture<'a, Result<Enforced, Trouble>> {
        Box::pin(async move {
            let asked = registration_id(id)?;
            let hub =
                id::HostName::new(hub.as_str()).map_err(|error| Trouble::Nonsense(error.to_string()))?;
            let service = self.dps(scope)?;
            let mut enrollment = match service.enrollment(&asked).await {
                Ok(enrollment) => enrollment,
                Err(error) if error.is_missing(Missing::Enrollment) => {
                    return Ok(Enforced::NoLever(
                        "it has no enrollment of its own, and its group is not its alone",
                    ));
                }
                Err(error) => return Err(trouble(error)),
            };
            if let Some(settled) = without_writing(&enrollment, &hub) {
                return Ok(settled);
            }
            let Some(etag) = enrollment.etag.clone() else {
                return Err(Trouble::Nonsense(format!("enrollment `{asked}` has no etag")));
            };
            if enrollment.attestation.kind == AttestationKind::SymmetricKey {
                // A write replaces the whole object, and reads leave the keys out.
                enrollment.attestation = service.attestation(&asked).await.map_err(trouble)?;
            }
            enrollment.allocation_policy = Some(AllocationPolicy::Static);
            enrollment.iot_hubs = Some(vec![hub]);
            enrollment.iot_hub_host_name = None;
            match service.within(WRITE_WITHIN).put_enrollment(&enrollment, &IfMatch::Etag(etag)).await {
                Ok(_) => Ok(Enforced::Written),
                Err(AzureError::PreconditionFailed { .. } | AzureError::NotFound { .. }) => {
                    Ok(Enforced::Changed)
                }
                Err(error) => Err(trouble(error)),
            }
        })
    }

    fn enrollments<'a>(
        &'a self,
        scope: &'a Scope,
        from: Option<&Cursor>,
    ) -> BoxFuture<'a, Result<Listing<EnrollmentRow>, Trouble>> {
        let query = page_of("SELECT * FROM enrollments", from);
        Box::pin(async move {
            let pages = self.dps(scope)?.enrollments(query?);
            listing(pages, |enrollment| {
                let registration = &enrollment.registration_id;
                let device =
                    enrollment.device_id.as_ref().map_or(registration.as_str(), id::DeviceId::as_str);
                let state = enrollment.registration_state.as_ref();
                Some(EnrollmentRow {
                    registration: RegistrationId::parse(registration.as_str()).ok()?,
                    device: DeviceId::parse(device).ok()?,
                    is_disabled: enrollment.provisioning_status == Some(ProvisioningStatus::Disabled),
                    seen: state.map(|state| seen(registration, state)).transpose().ok()?,
                })
            })
            .await
        })
    }

    fn groups<'a>(
        &'a self,
        scope: &'a Scope,
        from: Option<&Cursor>,
    ) -> BoxFuture<'a, Result<Listing<String>, Trouble>> {
        let query = page_of("SELECT * FROM enrollmentGroups", from);
        Box::pin(async move {
            let pages = self.dps(scope)?.groups(query?);
            listing(pages, |group| Some(group.enrollment_group_id.to_string())).await
        })
    }

    fn registrations<'a>(
        &'a self,
        scope: &'a Scope,
        group: &str,
        from: Option<&Cursor>,
    ) -> BoxFuture<'a, Result<Listing<RegistrationRow>, Trouble>> {
        let query = page_of("SELECT *", from);
        let group = id::EnrollmentGroupId::new(group).map_err(|error| Trouble::Nonsense(error.to_string()));
        Box::pin(async move {
            let pages = self.dps(scope)?.registrations(&group?, query?);
            listing(pages, |state| {
                let registration = state.registration_id.as_ref()?;
                Some(RegistrationRow {
                    registration: RegistrationId::parse(registration.as_str()).ok()?,
                    seen: seen(registration, state).ok()?,
                })
            })
            .await
        })
    }

    fn identities<'a>(
        &'a self,
        hub: &'a HubName,
        from: Option<&Cursor>,
    ) -> BoxFuture<'a, Result<Listing<IdentityRow>, Trouble>> {
        let query = page_of(IDENTITIES, from);
        Box::pin(async move {
            let pages = self.hub(hub)?.rows(query?);
            listing(pages, |row: &Value| {
                let is_enabled = match row.get("status")?.as_str()? {
                    "enabled" => true,
                    "disabled" => false,
                    _ => return None,
                };
                let device = DeviceId::parse(row.get("deviceId")?.as_str()?).ok()?;
                Some(IdentityRow { device, is_enabled })
            })
            .await
        })
    }
}

/// What is to be said of an enrollment that need not or must not be rewritten.
fn without_writing(enrollment: &IndividualEnrollment, hub: &id::HostName) -> Option<Enforced> {
    if enrollment.allocation_policy == Some(AllocationPolicy::Custom) {
        return Some(Enforced::NoLever("a webhook chooses its hub; let it answer with this one"));
    }
    if enrollment.reprovision_policy.as_ref().is_some_and(|policy| !policy.update_hub_assignment) {
        return Some(Enforced::NoLever("its re-provisioning policy keeps it where it is"));
    }
    let names_it_alone = enrollment.iot_hubs.as_deref() == Some(std::slice::from_ref(hub));
    let is_static = enrollment.allocation_policy == Some(AllocationPolicy::Static);
    (names_it_alone && is_static && enrollment.iot_hub_host_name.is_none()).then_some(Enforced::Already)
}

/// One page of a query, from where an earlier one ended.
fn page_of(text: &str, from: Option<&Cursor>) -> Result<Query, Trouble> {
    let query = Query::new(text).page_items(PAGE_ROWS).pages_max(1);
    let Some(Cursor(token)) = from else { return Ok(query) };
    let next = Continuation::new(token)
        .ok_or_else(|| Trouble::Nonsense("a continuation that cannot be sent back".to_owned()))?;
    Ok(query.from(next))
}

/// The first of these pages, and nothing more: each costs a request.
async fn listing<T, R>(
    pages: impl Stream<Item = Result<Page<T>, AzureError>>,
    read: impl Fn(&T) -> Option<R>,
) -> Result<Listing<R>, Trouble> {
    let first = std::pin::pin!(pages).next().await;
    let page = match first {
        Some(Ok(page)) => page,
        Some(Err(error)) => return Err(trouble(error)),
        None => return Err(Trouble::Nonsense("a listing without a page".to_owned())),
    };
    let rows: Vec<R> = page.items.iter().filter_map(read).collect();
    let odd = page.odd.len() + page.items.len() - rows.len();
    Ok(Listing { rows, odd, next: page.next.map(|next| Cursor(next.as_str().to_owned())) })
}

fn registration_id(id: &RegistrationId) -> Result<id::RegistrationId, Trouble> {
    id::RegistrationId::new(id.as_str()).map_err(|error| Trouble::Nonsense(error.to_string()))
}

/// A registration as the core knows it. Half an answer is none.
fn seen(asked: &id::RegistrationId, state: &RegistrationState) -> Result<RegistrationSeen, Trouble> {
    // The client has looked at this where one registration was asked for; the states of a listing are first seen here.
    if state.registration_id.as_ref().is_some_and(|told| told != asked) {
        return Err(Trouble::Nonsense(format!("the state of registration `{asked}` is that of another")));
    }
    let lacks = |what: &str| Trouble::Nonsense(format!("registration `{asked}` is assigned, without {what}"));
    let illegal = |error: berth_core::IdError| Trouble::Nonsense(error.to_string());
    let updated = state.last_updated_date_time_utc.and_then(|at| at.since_unix());
    let updated = updated.map(|at| Timestamp(u64::try_from(at.as_millis()).unwrap_or(u64::MAX)));
    Ok(match &state.status {
        RegistrationStatus::Assigned => {
            let hub = state.assigned_hub.as_ref().ok_or_else(|| lacks("a hub"))?;
            let device = state.device_id.as_ref().ok_or_else(|| lacks("a device ID"))?;
            RegistrationSeen::Assigned {
                hub: HubName::parse(hub.as_str()).map_err(illegal)?,
                device: DeviceId::parse(device.as_str()).map_err(illegal)?,
                updated,
            }
        }
        RegistrationStatus::Assigning => RegistrationSeen::Assigning,
        RegistrationStatus::Unassigned => RegistrationSeen::Unassigned,
        RegistrationStatus::Disabled => RegistrationSeen::Disabled,
        RegistrationStatus::Failed => RegistrationSeen::Failed { updated },
        RegistrationStatus::Other(word) => {
            // A word like the known ones; anything else may be what the service was shown.
            let is_plain =
                word.len() <= STATUS_CHARS_MAX && word.bytes().all(|byte| byte.is_ascii_lowercase());
            let shown = if is_plain { format!(" `{word}`") } else { String::new() };
            return Err(Trouble::Nonsense(format!("registration `{asked}` has an unknown status{shown}")));
        }
    })
}

fn trouble(error: AzureError) -> Trouble {
    let problem = error.to_string();
    match error {
        AzureError::Throttled { told } => Trouble::Throttled { problem, retry_after: told.retry_after },
        AzureError::Unauthorized { .. } | AzureError::Forbidden { .. } | AzureError::Credential { .. } => {
            Trouble::NoAccess(problem)
        }
        AzureError::Unavailable { told } if told.retry_after.is_some() => {
            Trouble::Throttled { problem, retry_after: told.retry_after }
        }
        AzureError::Unavailable { .. }
        | AzureError::Deadline { .. }
        | AzureError::Connect { .. }
        | AzureError::Broken { .. } => Trouble::Away(problem),
        _ => Trouble::Nonsense(problem),
    }
}
