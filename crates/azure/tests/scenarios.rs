//! The scenario that Azure's own SDKs are taken through too, as steps for this client: administering a DPS, being a
//! device, and working with hubs.
//!
//! This file is a module and no test of its own: it is played wherever there is something that claims to be Azure. Take
//! it in by its path, make a [`Stage`], and call [`play`]:
//!
//! ```ignore
//! #[path = "../../crates/azure/tests/scenarios.rs"]
//! mod scenarios;
//!
//! let stage = scenarios::Stage { endpoints: Endpoints::public().all_at(address).trust_file(&ca)?, .. };
//! scenarios::play(&stage).await?;
//! ```
//!
//! What is asked of the other side: one DPS with two linked hubs, nothing in any of them whose name begins with
//! `scn-`, a policy with all rights on each, and [`Controls`] for what no client can do. A step fails with what it
//! expected and what it got; steps build on those before, so that the first failure ends the play. The steps assert
//! only what is documented or recorded of Azure: where that is open, every reading is accepted.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use berth_azure::id::{DeviceId, EnrollmentGroupId, Etag, HostName, IdScope, RegistrationId};
use berth_azure::{
    AzureError, Budget, Client, Conflicting, Credential, DeviceKey, Endpoints, IfMatch, KeySource, Missing,
    Outgoing, Page, Permit, Query, SharedKey, Spent, Surroundings, Transport, dps, hub,
};
use futures_util::TryStreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::Stream;
use serde_json::json;

/// How a simulated device behaves at its hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is connected, and answers every direct method with status 200 and the payload that it was sent.
    Echoes,
    /// It is not connected.
    Offline,
}

/// What a client cannot do: to the devices behind a hub, and to the services themselves. On failure they say why.
pub trait Controls: Send + Sync {
    /// Makes a device that exists at `hub` behave so.
    fn presence<'a>(
        &'a self,
        hub: &'a HostName,
        device: &'a DeviceId,
        presence: Presence,
    ) -> BoxFuture<'a, Result<(), String>>;

    /// From now on a registration says `assigning` to at least one poll, or to none.
    fn assign_slowly(&self, slowly: bool) -> BoxFuture<'_, Result<(), String>>;

    /// Answers the next request to `host` with 429, whatever it is, and only that one.
    fn throttle_once<'a>(&'a self, host: &'a HostName) -> BoxFuture<'a, Result<(), String>>;

    /// Lets queries of `hub` show what was done before.
    fn settle<'a>(&'a self, hub: &'a HostName) -> BoxFuture<'a, Result<(), String>>;
}

/// Where the scenario is played.
pub struct Stage {
    /// Where the hosts are, and whom to trust.
    pub endpoints: Endpoints,
    /// Clock and waits: the machine's own, or one that drives the other side's clock too.
    pub surroundings: Arc<dyn Surroundings>,
    /// Connection string of the DPS instance.
    pub dps: KeySource,
    /// The same with another key.
    pub dps_wrong_key: KeySource,
    /// Host of the device API.
    pub device_host: HostName,
    /// ID scope of the instance.
    pub id_scope: IdScope,
    /// Connection strings of the two linked hubs.
    pub hubs: [KeySource; 2],
    /// What a client cannot do.
    pub controls: Arc<dyn Controls>,
}

/// Why the play ended early.
#[derive(Debug)]
pub struct Failed {
    /// The step.
    pub step: &'static str,
    /// What it expected, and what it got.
    pub problem: String,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "step `{}`: {}", self.step, self.problem)
    }
}

impl std::error::Error for Failed {}

type Outcome = Result<(), String>;

/// A step: its name, and what it does.
pub type Step = (&'static str, for<'a> fn(&'a Actors) -> BoxFuture<'a, Outcome>);

/// The services, as the steps use them.
pub struct Actors {
    client: Client,
    dps: dps::Service,
    stranger: dps::Service,
    hub_a: hub::Service,
    hub_b: hub::Service,
    device_host: HostName,
    id_scope: IdScope,
    controls: Arc<dyn Controls>,
}

/// The steps in their order.
pub fn steps() -> Vec<Step> {
    macro_rules! named {
        ($($step:ident),* $(,)?) => {
            vec![$((stringify!($step), (|actors| Box::pin($step(actors))) as for<'a> fn(&'a Actors) -> BoxFuture<'a, Outcome>)),*]
        };
    }
    named![
        dps_makes_keys_for_a_new_enrollment,
        dps_guards_an_enrollment_by_its_etag,
        dps_lists_enrollments_page_by_page,
        dps_changes_enrollments_in_bulk,
        dps_keeps_groups,
        dps_refuses_a_wrong_key,
        hub_keeps_identities,
        hub_changes_identities_in_bulk_and_lists_them,
        hub_keeps_twins,
        hub_calls_methods,
        hub_throttles_in_passing,
        device_registers_and_is_found,
        device_moves_when_it_registers_again,
        device_moves_by_policy,
        device_polls_while_assigning,
        device_of_a_group_has_a_key_of_its_own,
        device_is_refused,
        all_is_taken_away,
    ]
}

/// Plays every step; the names of those played, or the first that failed.
pub async fn play(stage: &Stage) -> Result<Vec<&'static str>, Failed> {
    let actors = actors(stage).map_err(|problem| Failed { step: "set up", problem })?;
    let mut played = Vec::new();
    for (step, act) in steps() {
        act(&actors).await.map_err(|problem| Failed { step, problem })?;
        played.push(step);
    }
    Ok(played)
}

/// The services of a stage.
pub fn actors(stage: &Stage) -> Result<Actors, String> {
    let transport = Transport::new(stage.endpoints.clone()).map_err(|error| error.to_string())?;
    let client = Client::new(transport, Arc::clone(&stage.surroundings));
    let service = |source: &KeySource| {
        let credential = Credential::connection_string(source.clone()).map_err(|error| error.to_string())?;
        let host = credential.host().cloned().ok_or("a connection string without a host")?;
        Ok::<_, String>((client.clone(), host, credential))
    };
    let dps = |source| {
        service(source).map(|(client, host, credential)| dps::Service::new(client, host, credential))
    };
    let hub = |source| {
        service(source).map(|(client, host, credential)| hub::Service::new(client, host, credential))
    };
    Ok(Actors {
        dps: dps(&stage.dps)?,
        stranger: dps(&stage.dps_wrong_key)?,
        hub_a: hub(&stage.hubs[0])?,
        hub_b: hub(&stage.hubs[1])?,
        device_host: stage.device_host.clone(),
        id_scope: stage.id_scope.clone(),
        controls: Arc::clone(&stage.controls),
        client,
    })
}

// --- what steps are made of ---

const ENROLLMENT: &str = "scn-Dev-1";
const GROUP: &str = "scn-group-1";
const HUB_DEVICE: &str = "scn-Hub#1";
/// More than two pages of ten.
const MANY: usize = 25;

fn registration(text: &str) -> RegistrationId {
    RegistrationId::new(text).unwrap_or_else(|error| panic!("{error}"))
}

fn device(text: &str) -> DeviceId {
    DeviceId::new(text).unwrap_or_else(|error| panic!("{error}"))
}

fn group() -> EnrollmentGroupId {
    EnrollmentGroupId::new(GROUP).unwrap_or_else(|error| panic!("{error}"))
}

fn many(at: usize) -> RegistrationId {
    registration(&format!("scn-many-{at}"))
}

fn new_enrollment(id: &RegistrationId) -> dps::IndividualEnrollment {
    dps::IndividualEnrollment::new(id.clone(), dps::Attestation::symmetric_made_by_dps())
}

fn that(holds: bool, expected: &str, got: &impl Debug) -> Outcome {
    if holds { Ok(()) } else { Err(format!("expected {expected}, got {got:?}")) }
}

/// The value of a call that must go well.
fn done<T>(what: &str, result: Result<T, AzureError>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

/// A call that must fail, and how.
fn fails<T: Debug>(what: &str, result: Result<T, AzureError>, how: impl Fn(&AzureError) -> bool) -> Outcome {
    match result {
        Err(error) if how(&error) => Ok(()),
        other => Err(format!("{what}: it should have failed, and otherwise than {other:?}")),
    }
}

/// A removal of what may not be there.
fn gone(result: Result<(), AzureError>) -> Outcome {
    match result {
        Err(AzureError::NotFound { .. }) => Ok(()),
        other => done("take away what may be there", other),
    }
}

fn etag(found: Option<&Etag>) -> Result<IfMatch, String> {
    found.cloned().map(IfMatch::Etag).ok_or_else(|| "expected an etag, got none".to_owned())
}

fn is_stale(error: &AzureError) -> bool {
    matches!(error, AzureError::PreconditionFailed { .. })
}

async fn walk<T>(stream: impl Stream<Item = Result<Page<T>, AzureError>>) -> Result<Vec<Page<T>>, String> {
    done("walk the pages", stream.try_collect().await)
}

/// Lets everything through, and counts it.
#[derive(Default)]
struct Count(AtomicU32);

impl Budget for Count {
    fn ask<'a>(&'a self, _request: Outgoing<'a>) -> BoxFuture<'a, Result<Permit, Spent>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(Permit::free()) })
    }
}

impl Actors {
    /// A device by the keys of its enrollment.
    async fn device(&self, id: &RegistrationId) -> Result<dps::Device, String> {
        let attestation = done("read the keys", self.dps.attestation(id).await)?;
        let keys = attestation.symmetric_key.ok_or("expected keys in the attestation, got none")?;
        let key = keys
            .primary_key()
            .ok_or("expected a primary key, got none")?
            .map_err(|error| error.to_string())?;
        self.device_with(id, key)
    }

    fn device_with(&self, id: &RegistrationId, key: SharedKey) -> Result<dps::Device, String> {
        let (client, host, scope) = (self.client.clone(), self.device_host.clone(), self.id_scope.clone());
        dps::Device::new(client, host, scope, id.clone(), DeviceKey::Held(key))
            .map_err(|error| error.to_string())
    }

    /// Changes an enrollment as a careful administrator does: keys in, etag on.
    async fn change(
        &self,
        id: &RegistrationId,
        change: impl FnOnce(&mut dps::IndividualEnrollment),
    ) -> Outcome {
        let mut enrollment = done("read before a change", self.dps.enrollment(id).await)?;
        enrollment.attestation = done("read the keys", self.dps.attestation(id).await)?;
        let if_match = etag(enrollment.etag.as_ref())?;
        change(&mut enrollment);
        done("write the change", self.dps.put_enrollment(&enrollment, &if_match).await).map(drop)
    }

    /// Registers a device, and says where it came to and how.
    async fn register(&self, id: &RegistrationId) -> Result<(HostName, Option<dps::Substatus>), String> {
        let operation = done("register", self.device(id).await?.register(None).await)?;
        that(operation.status == dps::RegistrationStatus::Assigned, "assigned", &operation)?;
        let state = operation.registration_state.ok_or("expected a registration state, got none")?.state;
        Ok((state.assigned_hub.ok_or("expected an assigned hub, got none")?, state.substatus))
    }
}

// --- administering a DPS ---

async fn dps_makes_keys_for_a_new_enrollment(actors: &Actors) -> Outcome {
    let id = registration(ENROLLMENT);
    let mut new = new_enrollment(&id);
    new.iot_hubs = Some(vec![actors.hub_a.host().clone()]);
    let stored = done("create", actors.dps.put_enrollment(&new, &IfMatch::Absent).await)?;
    let keys = stored
        .attestation
        .symmetric_key
        .clone()
        .ok_or("expected keys in the answer to a create, got none")?;
    that(matches!(keys.primary_key(), Some(Ok(_))), "a key of 16 to 64 bytes", &keys)?;
    that(stored.etag.is_some(), "an etag", &stored)?;
    that(stored.registration_state.is_none(), "no registration state in the answer to a write", &stored)?;
    that(
        stored.created_date_time_utc.is_some()
            && stored.created_date_time_utc == stored.last_updated_date_time_utc,
        "created and last updated at the same time",
        &stored,
    )?;
    let read = done("get", actors.dps.enrollment(&id).await)?;
    that(read.attestation.symmetric_key.is_none(), "no keys in a read", &read)?;
    let status = read.registration_state.as_ref().map(|state| &state.status);
    that(
        status == Some(&dps::RegistrationStatus::Unassigned),
        "a registration state that is unassigned",
        &read,
    )?;
    let attestation = done("get the attestation", actors.dps.attestation(&id).await)?;
    that(attestation.symmetric_key == Some(keys), "the keys of the create", &"others")?;
    // The ID's case does not count.
    let lower = done("get in lower case", actors.dps.enrollment(&registration(&id.to_lower())).await)?;
    that(lower.etag == read.etag, "the same enrollment in lower case", &lower)?;
    let never = actors.dps.registration(&id).await;
    fails("the registration of a device that never registered", never, |e| {
        e.is_missing(Missing::Registration)
    })
}

async fn dps_guards_an_enrollment_by_its_etag(actors: &Actors) -> Outcome {
    let id = registration(ENROLLMENT);
    let again = actors.dps.put_enrollment(&new_enrollment(&id), &IfMatch::Absent).await;
    fails("create what exists", again, |error| {
        matches!(error, AzureError::Conflict { conflicting: Conflicting::Enrollment, .. })
    })?;
    let mut enrollment = done("get", actors.dps.enrollment(&id).await)?;
    enrollment.attestation = done("get the attestation", actors.dps.attestation(&id).await)?;
    let old = etag(enrollment.etag.as_ref())?;
    enrollment.device_id = Some(device("scn-Pump+1"));
    let stored = done("put with the etag", actors.dps.put_enrollment(&enrollment, &old).await)?;
    that(stored.etag.is_some() && stored.etag != enrollment.etag, "another etag", &stored)?;
    that(
        stored.created_date_time_utc == enrollment.created_date_time_utc,
        "the same time of creation",
        &stored,
    )?;
    that(stored.attestation == enrollment.attestation, "the keys that were sent", &"others")?;
    fails("put with the old etag", actors.dps.put_enrollment(&enrollment, &old).await, is_stale)?;
    fails("delete with the old etag", actors.dps.delete_enrollment(&id, &old).await, is_stale)?;
    done("put whatever there is", actors.dps.put_enrollment(&enrollment, &IfMatch::Any).await)?;
    let read = done("get", actors.dps.enrollment(&id).await)?;
    that(read.device_id == Some(device("scn-Pump+1")), "the device ID that was written", &read)?;
    // Which refusal it is has not been recorded; that it is one has.
    let missing = actors.dps.put_enrollment(&new_enrollment(&registration("scn-none")), &IfMatch::Any).await;
    fails("replace what does not exist", missing, |error| {
        matches!(error, AzureError::NotFound { .. }) || is_stale(error)
    })
}

async fn dps_lists_enrollments_page_by_page(actors: &Actors) -> Outcome {
    for at in 0..MANY {
        done(
            "create one of many",
            actors.dps.put_enrollment(&new_enrollment(&many(at)), &IfMatch::Absent).await,
        )?;
    }
    let pages = walk(actors.dps.enrollments(Query::all().page_items(10))).await?;
    that(pages.iter().all(|page| page.items.len() <= 10), "pages of at most 10", &pages.len())?;
    that(pages.len() >= 3, "at least three pages", &pages.len())?;
    let items: Vec<_> = pages.into_iter().flat_map(|page| page.items).collect();
    let ours: Vec<_> =
        items.iter().filter(|item| item.registration_id.to_lower().starts_with("scn-")).collect();
    let names: BTreeSet<String> = ours.iter().map(|item| item.registration_id.to_lower()).collect();
    that(names.len() == MANY + 1 && ours.len() == names.len(), "each enrollment once", &names)?;
    let bare =
        ours.iter().all(|item| item.registration_state.is_none() && item.attestation.symmetric_key.is_none());
    that(bare, "rows without keys and without registrations", &"others")
}

async fn dps_changes_enrollments_in_bulk(actors: &Actors) -> Outcome {
    let (first, second) = (registration("scn-bulk-1"), registration("scn-bulk-2"));
    let create = [new_enrollment(&first), new_enrollment(&second), new_enrollment(&many(0))];
    let result = done("bulk create", actors.dps.bulk_enrollments(&dps::BulkMode::Create, &create).await)?;
    that(!result.is_successful && result.errors.len() == 1, "one failure among three", &result)?;
    let clash = &result.errors[0];
    that(clash.registration_id == Some(many(0)), "the one that exists to fail", &result)?;
    that(clash.error_code == Some(409_201), "code 409201", &result)?;
    let mut update = Vec::new();
    for id in [&first, &second] {
        let mut enrollment = done("get before a bulk", actors.dps.enrollment(id).await)?;
        enrollment.attestation = done("get the attestation", actors.dps.attestation(id).await)?;
        enrollment.provisioning_status = Some(dps::ProvisioningStatus::Disabled);
        update.push(enrollment);
    }
    let mode = dps::BulkMode::UpdateIfMatchEtag;
    let result = done("bulk update", actors.dps.bulk_enrollments(&mode, &update).await)?;
    that(result.is_successful && result.errors.is_empty(), "no failure", &result)?;
    let read = done("get after a bulk", actors.dps.enrollment(&first).await)?;
    that(read.provisioning_status == Some(dps::ProvisioningStatus::Disabled), "disabled", &read)?;
    let result = done("bulk update with old etags", actors.dps.bulk_enrollments(&mode, &update).await)?;
    that(!result.is_successful && result.errors.len() == 2, "two failures", &result)?;
    let delete = [new_enrollment(&first), new_enrollment(&second)];
    let result = done("bulk delete", actors.dps.bulk_enrollments(&dps::BulkMode::Delete, &delete).await)?;
    that(result.is_successful, "no failure", &result)?;
    fails("get what bulk removed", actors.dps.enrollment(&first).await, |e| e.is_missing(Missing::Enrollment))
}

async fn dps_keeps_groups(actors: &Actors) -> Outcome {
    let mut new = dps::EnrollmentGroup::new(group(), dps::Attestation::symmetric_made_by_dps());
    new.iot_hubs = Some(vec![actors.hub_b.host().clone()]);
    let stored = done("create a group", actors.dps.put_group(&new, &IfMatch::Absent).await)?;
    that(stored.attestation.symmetric_key.is_some(), "keys in the answer to a create", &stored)?;
    fails("create a group that exists", actors.dps.put_group(&new, &IfMatch::Absent).await, |error| {
        matches!(error, AzureError::Conflict { conflicting: Conflicting::EnrollmentGroup, .. })
    })?;
    let mut read = done("get the group", actors.dps.group(&group()).await)?;
    that(read.attestation.symmetric_key.is_none(), "no keys in a read", &read)?;
    let attestation = done("get its attestation", actors.dps.group_attestation(&group()).await)?;
    that(attestation.symmetric_key.is_some(), "keys in the attestation", &attestation)?;
    let old = etag(read.etag.as_ref())?;
    read.attestation = attestation;
    read.provisioning_status = Some(dps::ProvisioningStatus::Enabled);
    done("put the group with its etag", actors.dps.put_group(&read, &old).await)?;
    fails("put the group with its old etag", actors.dps.put_group(&read, &old).await, is_stale)?;
    let pages = walk(actors.dps.groups(Query::all())).await?;
    let found =
        pages.iter().flat_map(|page| &page.items).filter(|item| item.enrollment_group_id == group()).count();
    that(found == 1, "the group once", &found)?;
    let pages = walk(actors.dps.registrations(&group(), Query::all())).await?;
    that(pages.iter().all(|page| page.items.is_empty()), "no registrations yet", &pages)
}

async fn dps_refuses_a_wrong_key(actors: &Actors) -> Outcome {
    let read = actors.stranger.enrollment(&registration(ENROLLMENT)).await;
    fails("read with a wrong key", read, |error| matches!(error, AzureError::Unauthorized { .. }))
}

// --- working with a hub ---

async fn hub_keeps_identities(actors: &Actors) -> Outcome {
    let (hub, id) = (&actors.hub_a, device(HUB_DEVICE));
    fails("get what is not there", hub.identity(&id).await, |error| error.is_missing(Missing::Device))?;
    let stored = done("create", hub.put_identity(&hub::Identity::new(id.clone()), &IfMatch::Absent).await)?;
    let has_keys = stored
        .authentication
        .as_ref()
        .and_then(|a| a.symmetric_key.as_ref())
        .is_some_and(|keys| keys.primary_key.as_ref().is_some_and(|key| SharedKey::decode(key).is_ok()));
    that(has_keys && stored.is_enabled(), "an enabled identity with keys", &stored)?;
    let again = hub.put_identity(&hub::Identity::new(id.clone()), &IfMatch::Absent).await;
    fails("create what exists", again, |error| {
        matches!(error, AzureError::Conflict { conflicting: Conflicting::Device, .. })
            && error.code() == Some(409_001)
    })?;
    let mut read = done("get", hub.identity(&id).await)?;
    that(read.authentication == stored.authentication, "the keys of the create", &"others")?;
    let old = etag(read.etag.as_ref())?;
    read.status = Some(hub::DeviceStatus::Disabled);
    read.status_reason = Some("scenario".into());
    let updated = done("update with the etag", hub.put_identity(&read, &old).await)?;
    that(
        !updated.is_enabled() && updated.etag != read.etag,
        "a disabled identity with another etag",
        &updated,
    )?;
    fails("update with the old etag", hub.put_identity(&read, &old).await, is_stale)?;
    let listed = done("get a disabled identity", hub.identity(&id).await)?;
    that(listed.authentication == stored.authentication, "the keys of the create", &"others")?;
    // Names differ by case.
    let other = device(&HUB_DEVICE.to_ascii_lowercase());
    fails("get in lower case", hub.identity(&other).await, |error| error.is_missing(Missing::Device))?;
    read.status = Some(hub::DeviceStatus::Enabled);
    done("enable it again", hub.put_identity(&read, &IfMatch::Any).await)?;
    let absent = hub::Identity::new(device("scn-none"));
    fails("update what is not there", hub.put_identity(&absent, &IfMatch::Any).await, |error| {
        error.is_missing(Missing::Device)
    })?;
    let nothing = hub.delete_identity(&device("scn-none"), &IfMatch::Any).await;
    fails("delete what is not there", nothing, |error| error.is_missing(Missing::Device))
}

async fn hub_changes_identities_in_bulk_and_lists_them(actors: &Actors) -> Outcome {
    let hub = &actors.hub_a;
    let item = |at: usize, mode| hub::BulkDevice::new(device(&format!("scn-bulk-{at}")), mode);
    let mut create: Vec<_> = (0..MANY).map(|at| item(at, hub::BulkDeviceMode::Create)).collect();
    let result = done("bulk create", hub.bulk(&create).await)?;
    that(result.is_successful && result.errors.is_empty(), "no failure", &result)?;
    create.truncate(1);
    create.push(item(MANY, hub::BulkDeviceMode::Create));
    let result = done("bulk create with a clash", hub.bulk(&create).await)?;
    that(!result.is_successful && result.errors.len() == 1, "one failure among two", &result)?;
    that(result.errors[0].device_id == device("scn-bulk-0"), "the one that exists to fail", &result)?;
    actors.controls.settle(hub.host()).await?;
    let pages = walk(hub.twins(Query::new("SELECT * FROM devices").page_items(10))).await?;
    that(
        pages.iter().all(|page| page.items.len() <= 10) && pages.len() >= 3,
        "pages of at most 10",
        &pages.len(),
    )?;
    let found: Vec<_> = pages
        .iter()
        .flat_map(|page| &page.items)
        .map(|twin| twin.device_id.to_string())
        .filter(|id| id.starts_with("scn-bulk-"))
        .collect();
    let names: BTreeSet<_> = found.iter().collect();
    that(names.len() == MANY + 1 && found.len() == names.len(), "each device once", &found)?;
    let statistics = done("statistics", hub.device_statistics().await)?;
    let sum = statistics.enabled_device_count + statistics.disabled_device_count;
    that(statistics.total_device_count == sum, "figures that add up", &statistics)?;
    done("service statistics", hub.service_statistics().await)?;
    let delete: Vec<_> = (0..=MANY).map(|at| item(at, hub::BulkDeviceMode::Delete)).collect();
    let result = done("bulk delete", hub.bulk(&delete).await)?;
    that(result.is_successful, "no failure", &result)
}

async fn hub_keeps_twins(actors: &Actors) -> Outcome {
    let (hub, id) = (&actors.hub_a, device(HUB_DEVICE));
    let twin = done("get the twin", hub.twin(&id).await)?;
    let old = etag(twin.etag.as_ref())?;
    let change = hub::TwinChange {
        tags: Some(json!({"stamp": "a", "gone": 1})),
        desired: Some(json!({"interval": 0.1, "deep": {"a": 1, "b": 2}})),
    };
    done("patch the twin", hub.patch_twin(&id, &change, &old).await)?;
    fails("patch with the old etag", hub.patch_twin(&id, &change, &old).await, is_stale)?;
    let change =
        hub::TwinChange { tags: Some(json!({"gone": null})), desired: Some(json!({"deep": {"a": null}})) };
    done("patch whatever there is", hub.patch_twin(&id, &change, &IfMatch::Any).await)?;
    let twin = done("get the twin", hub.twin(&id).await)?;
    that(twin.tags == Some(json!({"stamp": "a"})), "null to remove a tag", &twin.tags)?;
    let desired = twin.properties.and_then(|properties| properties.desired).unwrap_or_default();
    that(desired["interval"] == 0.1 && desired["deep"] == json!({"b": 2}), "merged properties", &desired)?;
    let change = hub::TwinChange { tags: Some(json!({"new": true})), desired: Some(json!({})) };
    let twin = done("replace the twin", hub.replace_twin(&id, &change, &IfMatch::Any).await)?;
    that(twin.tags == Some(json!({"new": true})), "nothing but the new tags", &twin.tags)?;
    fails("the twin of nobody", hub.twin(&device("scn-none")).await, |error| {
        error.is_missing(Missing::Device)
    })
}

async fn hub_calls_methods(actors: &Actors) -> Outcome {
    let (hub, id) = (&actors.hub_a, device(HUB_DEVICE));
    let call = hub::MethodCall {
        payload: json!({"n": 7}),
        response_timeout_s: Some(5),
        ..hub::MethodCall::new("echo")
    };
    actors.controls.presence(hub.host(), &id, Presence::Echoes).await?;
    let answer = done("call a device that is online", hub.invoke(&id, &call).await)?;
    that(answer.status == 200 && answer.payload == json!({"n": 7}), "the echo", &answer)?;
    actors.controls.presence(hub.host(), &id, Presence::Offline).await?;
    let count = Arc::new(Count::default());
    let offline = hub.budget(count.clone()).invoke(&id, &call).await;
    fails(
        "call a device that is offline",
        offline,
        |error| matches!(error, AzureError::NotOnline { told } if told.code == Some(404_103) && told.name.as_deref() == Some("DeviceNotOnline")),
    )?;
    that(count.0.load(Ordering::Relaxed) == 1, "one request", &count.0)?;
    fails("call nobody", hub.invoke(&device("scn-none"), &call).await, |error| {
        error.is_missing(Missing::Device) && error.code() == Some(404_001)
    })?;
    // A disabled device answers as if it did not exist.
    let mut identity = done("get", hub.identity(&id).await)?;
    identity.status = Some(hub::DeviceStatus::Disabled);
    done("disable", hub.put_identity(&identity, &IfMatch::Any).await)?;
    fails("call a disabled device", hub.invoke(&id, &call).await, |error| error.code() == Some(404_001))
}

async fn hub_throttles_in_passing(actors: &Actors) -> Outcome {
    let (hub, id) = (&actors.hub_a, device(HUB_DEVICE));
    actors.controls.throttle_once(hub.host()).await?;
    let count = Arc::new(Count::default());
    done("a read that is throttled once", hub.budget(count.clone()).identity(&id).await)?;
    that(count.0.load(Ordering::Relaxed) == 2, "two requests, both asked for", &count.0)?;
    actors.controls.throttle_once(hub.host()).await?;
    let once = hub.attempts(1).identity(&id).await;
    fails("a read that is not repeated", once, |error| {
        matches!(error, AzureError::Throttled { .. }) && error.is_retryable()
    })
}

// --- being a device ---

async fn device_registers_and_is_found(actors: &Actors) -> Outcome {
    let id = registration(ENROLLMENT);
    let before = done("get the enrollment", actors.dps.enrollment(&id).await)?;
    let (at, substatus) = actors.register(&id).await?;
    that(at == *actors.hub_a.host(), "hub a", &at)?;
    that(substatus == Some(dps::Substatus::Initial), "an initial assignment", &substatus)?;
    let state = done("get the registration", actors.dps.registration(&id).await)?;
    that(state.status == dps::RegistrationStatus::Assigned, "assigned", &state)?;
    // The enrollment gives the hub another name than DPS has.
    let name = before.device_id.ok_or("expected a device ID in the enrollment, got none")?;
    that(state.device_id.as_ref() == Some(&name), "the device ID of the enrollment", &state)?;
    let identity = done("get the identity at hub a", actors.hub_a.identity(&name).await)?;
    that(identity.is_enabled(), "an enabled identity", &identity)?;
    let looked = done("look up", actors.device(&id).await?.status(None).await)?;
    that(looked.state.assigned_hub == state.assigned_hub, "the same by look-up", &looked)?;
    let (at, _) = actors.register(&id).await?;
    that(at == *actors.hub_a.host(), "hub a again", &at)
}

async fn device_moves_when_it_registers_again(actors: &Actors) -> Outcome {
    let id = registration(ENROLLMENT);
    let name = device("scn-Pump+1");
    let tags = hub::TwinChange { tags: Some(json!({"came": "along"})), desired: None };
    done("tag the twin", actors.hub_a.patch_twin(&name, &tags, &IfMatch::Any).await)?;
    let to = actors.hub_b.host().clone();
    actors
        .change(&id, |enrollment| {
            enrollment.iot_hubs = Some(vec![to]);
            enrollment.reprovision_policy = Some(dps::ReprovisionPolicy::migrate());
        })
        .await?;
    let state = done("get the registration before", actors.dps.registration(&id).await)?;
    that(
        state.assigned_hub.as_ref() == Some(actors.hub_a.host()),
        "the old hub until it registers again",
        &state,
    )?;
    let (at, substatus) = actors.register(&id).await?;
    that(at == *actors.hub_b.host(), "hub b", &at)?;
    that(substatus == Some(dps::Substatus::Migrated), "its twin to move along", &substatus)?;
    fails("get it from its old hub", actors.hub_a.identity(&name).await, |error| {
        error.is_missing(Missing::Device)
    })?;
    let twin = done("get its twin from its new hub", actors.hub_b.twin(&name).await)?;
    that(twin.tags.as_ref().is_some_and(|tags| tags["came"] == "along"), "its tags", &twin.tags)
}

async fn device_moves_by_policy(actors: &Actors) -> Outcome {
    let id = registration(ENROLLMENT);
    let name = device("scn-Pump+1");
    let (a, b) = (actors.hub_a.host().clone(), actors.hub_b.host().clone());
    let to = a.clone();
    actors
        .change(&id, |enrollment| {
            enrollment.iot_hubs = Some(vec![to]);
            enrollment.reprovision_policy = Some(dps::ReprovisionPolicy::reset());
            enrollment.initial_twin = serde_json::from_value(json!({"tags": {"fresh": true}})).ok();
        })
        .await?;
    let (at, substatus) = actors.register(&id).await?;
    that(at == a && substatus == Some(dps::Substatus::Reset), "a reset at hub a", &(&at, &substatus))?;
    let twin = done("get its twin", actors.hub_a.twin(&name).await)?;
    that(twin.tags == Some(json!({"fresh": true})), "the initial twin", &twin.tags)?;
    actors
        .change(&id, |enrollment| {
            enrollment.iot_hubs = Some(vec![b]);
            enrollment.reprovision_policy = Some(dps::ReprovisionPolicy::never());
        })
        .await?;
    let (at, _) = actors.register(&id).await?;
    that(at == a, "hub a, as it never moves", &at)?;
    // DPS forgets; the hub does not.
    done("forget the registration", actors.dps.delete_registration(&id, &IfMatch::Any).await)?;
    done("the identity stays", actors.hub_a.identity(&name).await)?;
    fails("the registration is gone", actors.dps.registration(&id).await, |e| {
        e.is_missing(Missing::Registration)
    })
}

async fn device_polls_while_assigning(actors: &Actors) -> Outcome {
    actors.controls.assign_slowly(true).await?;
    let id = many(1);
    let begun = done("begin", actors.device(&id).await?.begin(None).await)?;
    that(begun.status == dps::RegistrationStatus::Assigning, "assigning", &begun)?;
    that(begun.operation_id.is_some(), "an operation ID", &begun)?;
    let id = many(2);
    let count = Arc::new(Count::default());
    let device = actors.device(&id).await?.within(Duration::from_secs(120)).budget(count.clone());
    let operation = done("register slowly", device.register(None).await)?;
    that(operation.status == dps::RegistrationStatus::Assigned, "assigned in the end", &operation)?;
    that(count.0.load(Ordering::Relaxed) >= 2, "at least one poll", &count.0)?;
    actors.controls.assign_slowly(false).await
}

async fn device_of_a_group_has_a_key_of_its_own(actors: &Actors) -> Outcome {
    let attestation = done("get the group's keys", actors.dps.group_attestation(&group()).await)?;
    let keys = attestation.symmetric_key.ok_or("expected keys, got none")?;
    let key = keys.primary_key().ok_or("expected a key, got none")?.map_err(|error| error.to_string())?;
    let id = registration("scn-member-1");
    let member = actors.device_with(&id, key.derive(&id))?;
    let operation = done("register a member", member.register(None).await)?;
    let result = operation.registration_state.ok_or("expected a registration state, got none")?;
    that(result.state.assigned_hub.as_ref() == Some(actors.hub_b.host()), "the group's hub", &result)?;
    that(
        result.state.device_id == Some(DeviceId::from(&id)),
        "its registration ID for a device ID",
        &result,
    )?;
    let pages = walk(actors.dps.registrations(&group(), Query::all())).await?;
    let found =
        pages.iter().flat_map(|page| &page.items).filter(|s| s.registration_id.as_ref() == Some(&id)).count();
    that(found == 1, "the member among the group's registrations", &pages)
}

async fn device_is_refused(actors: &Actors) -> Outcome {
    let (id, other) = (many(3), many(4));
    actors
        .change(&id, |enrollment| enrollment.provisioning_status = Some(dps::ProvisioningStatus::Disabled))
        .await?;
    let device = actors.device(&id).await?;
    let operation = done("register a disabled device", device.register(None).await)?;
    that(operation.status == dps::RegistrationStatus::Disabled, "disabled", &operation)?;
    let keys = done("get a key", actors.dps.attestation(&id).await)?
        .symmetric_key
        .ok_or("expected keys, got none")?;
    let key = keys.primary_key().ok_or("expected a key, got none")?.map_err(|error| error.to_string())?;
    let imposter = actors.device_with(&other, key.clone())?;
    fails("register with another's key", imposter.register(None).await, |error| {
        matches!(error, AzureError::Unauthorized { .. })
    })?;
    let stranger = actors.device_with(&registration("scn-stranger"), key)?;
    fails("register without an enrollment", stranger.register(None).await, |error| {
        matches!(error, AzureError::NotFound { .. } | AzureError::Unauthorized { .. })
    })
}

async fn all_is_taken_away(actors: &Actors) -> Outcome {
    let id = registration(ENROLLMENT);
    done("delete the enrollment", actors.dps.delete_enrollment(&id, &IfMatch::Any).await)?;
    fails("get it", actors.dps.enrollment(&id).await, |error| error.is_missing(Missing::Enrollment))?;
    for at in 0..MANY {
        done("delete one of many", actors.dps.delete_enrollment(&many(at), &IfMatch::Any).await)?;
    }
    done("delete the group", actors.dps.delete_group(&group(), &IfMatch::Any).await)?;
    fails("get the group", actors.dps.group(&group()).await, |error| {
        error.is_missing(Missing::EnrollmentGroup)
    })?;
    // What registering left behind.
    for (id, name) in [
        (ENROLLMENT, "scn-Pump+1"),
        ("scn-member-1", "scn-member-1"),
        ("scn-many-1", "scn-many-1"),
        ("scn-many-2", "scn-many-2"),
    ] {
        gone(actors.dps.delete_registration(&registration(id), &IfMatch::Any).await)?;
        gone(actors.hub_a.delete_identity(&device(name), &IfMatch::Any).await)?;
        gone(actors.hub_b.delete_identity(&device(name), &IfMatch::Any).await)?;
    }
    let name = device(HUB_DEVICE);
    let read = done("get the hub's device", actors.hub_a.identity(&name).await)?;
    done("delete it by its etag", actors.hub_a.delete_identity(&name, &etag(read.etag.as_ref())?).await)?;
    fails("get it", actors.hub_a.identity(&name).await, |error| error.is_missing(Missing::Device))
}
