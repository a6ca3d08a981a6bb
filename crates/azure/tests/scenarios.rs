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

#[path = "scenarios/device.rs"]
mod device_api;
#[path = "scenarios/dps_service.rs"]
mod dps_service;
#[path = "scenarios/hub_service.rs"]
mod hub_service;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use berth_azure::id::{DeviceId, EnrollmentGroupId, Etag, HostName, IdScope, RegistrationId};
use berth_azure::{
    AzureError, Budget, Client, Credential, DeviceKey, Endpoints, IfMatch, KeySource, Missing, Outgoing,
    Page, Permit, SharedKey, Spent, Surroundings, Transport, dps, hub,
};
use futures_util::TryStreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::Stream;

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
        ($($room:ident $step:ident),* $(,)?) => {
            vec![$((
                stringify!($step),
                (|actors| Box::pin($room::$step(actors))) as for<'a> fn(&'a Actors) -> BoxFuture<'a, Outcome>,
            )),*]
        };
    }
    named![
        dps_service dps_makes_keys_for_a_new_enrollment,
        dps_service dps_guards_an_enrollment_by_its_etag,
        dps_service dps_lists_enrollments_page_by_page,
        dps_service dps_changes_enrollments_in_bulk,
        dps_service dps_keeps_groups,
        dps_service dps_refuses_a_wrong_key,
        hub_service hub_keeps_identities,
        hub_service hub_changes_identities_in_bulk_and_lists_them,
        hub_service hub_keeps_twins,
        hub_service hub_calls_methods,
        hub_service hub_throttles_in_passing,
        device_api device_registers_and_is_found,
        device_api device_moves_when_it_registers_again,
        device_api device_moves_by_policy,
        device_api device_polls_while_assigning,
        device_api device_of_a_group_has_a_key_of_its_own,
        device_api device_is_refused,
        self all_is_taken_away,
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
