//! Heals the directory where Azure disagrees: asks DPS and hubs about one device at a time, has the core judge, and
//! makes what follows a command like any other.
//!
//! Only a leader asks. Its budgets, its memory and its questions on their way belong to its term and end with it: what
//! was found in an earlier term, or of an earlier epoch of a device, is dropped.

mod ask;
mod authority;
mod azure;
mod budget;
mod drifts;
mod enforce;
mod finding;
mod flight;
mod hook;
mod listing;
mod memory;
mod operator;
mod read_through;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

use berth_core::reconcile::{
    Absence, Drift, DriftClass, REMEMBER_ASSIGNING_MS, REMEMBER_CONFIRMED_MS, REMEMBER_DRIFT_MS,
    REMEMBER_NEGATIVE_MS, Side, Verdict, Why,
};
use berth_core::{
    Assign, Command, DeviceId, Epoch, HubNo, Mapping, Outcome, Proposal, Registration, RegistrationId,
    Rejection, Scope, ScopeNo,
};
use berth_proto::error::ApiError;
use berth_proto::internal as peer;
use berth_store::machine::{Machine, Snapshot};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

pub use authority::{Authority, ENFORCE_CALLS, Enforced, Trouble};
pub use azure::AzureAuthority;
pub use drifts::{Aspect, DriftKey, Listed};
pub use enforce::Enforcement;
pub use finding::{Cause, Finding, Found};
pub use listing::{Cursor, EnrollmentRow, IdentityRow, Listing, RegistrationRow};
pub use operator::{BudgetLeft, DriftPage};
pub use sweep::{NoSweep, SweepOrder, SweepPhase, SweepPlan, SweepReport, SweepState};

use budget::Budgets;
use drifts::Drifts;
use finding::{Landed, absence_of, negative};
use flight::{Boarding, Flights};
use memory::Memory;
use sweep::Sweeps;

use crate::directory::Directory;
use crate::metrics::ReconcileMetrics;
use crate::raft::{Clock, RaftNode};

/// How long a report, or a lookup of an unknown device, waits for Azure. The question goes on, and its answer is there
/// for the next one.
const WAIT_MAX: Duration = Duration::from_secs(4);
/// The same for a lookup of a device without a hub to call: there is an answer for it even if Azure gives none.
const RECHECK_WAIT_MAX: Duration = Duration::from_secs(2);
/// Calls of a node that wait for Azure or for its leader at once. Further ones are turned away, so that devices nobody
/// knows leave room in the gates for those that need no question.
const WAITING_MAX: usize = 2_048;
/// When a report is worth repeating that waited in vain, or found too many waiting.
const RETRY: Duration = Duration::from_secs(1);
/// How long it is remembered that Azure could not be asked about a device.
const REMEMBER_TROUBLE: Duration = Duration::from_secs(5);
/// Who the reconciler is in the records of commands.
const ACTOR: &str = "reconciler";

/// Questions about one registration, in one term.
type FlightKey = (u64, ScopeNo, String);

/// Verifies devices. Cheap to clone.
#[derive(Clone)]
pub struct Reconciler {
    inner: Arc<Inner>,
}

struct Inner {
    directory: Directory,
    raft: Arc<RaftNode<Machine>>,
    authority: Arc<dyn Authority>,
    clock: Arc<dyn Clock>,
    metrics: Arc<ReconcileMetrics>,
    flights: Flights<FlightKey, Landed>,
    /// The questions on their way, which end with the node.
    under_way: Mutex<JoinSet<()>>,
    waiting: Semaphore,
    term: Mutex<OfTerm>,
    sweeps: Sweeps,
}

/// What belongs to one term of leadership.
#[derive(Default)]
struct OfTerm {
    term: u64,
    budgets: Budgets,
    memory: Memory<DeviceId>,
    /// What was found of devices that the directory does not have.
    absent: Memory<(ScopeNo, DeviceId)>,
    drifts: Drifts,
    /// Devices of which DPS was made to follow, at this epoch.
    enforced: Memory<DeviceId>,
}

/// One device, as it stood when the question began.
struct Question {
    term: u64,
    why: Why,
    device: DeviceId,
    mapping: Mapping,
    scope: Scope,
    registration: RegistrationId,
    snapshot: Snapshot,
}

impl Reconciler {
    /// A reconciler that asks `authority`.
    pub fn new(
        directory: Directory,
        raft: Arc<RaftNode<Machine>>,
        authority: Arc<dyn Authority>,
        clock: Arc<dyn Clock>,
        metrics: Arc<ReconcileMetrics>,
    ) -> Self {
        let inner = Inner {
            directory,
            raft,
            authority,
            clock,
            metrics,
            flights: Flights::default(),
            under_way: Mutex::default(),
            waiting: Semaphore::new(WAITING_MAX),
            term: Mutex::default(),
            sweeps: Sweeps::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Breaks off the questions on their way, and waits until they have let go of the node.
    pub async fn stop(&self) {
        let mut under_way = std::mem::take(&mut *self.inner.under_way.lock());
        under_way.shutdown().await;
    }

    /// Sends a call on to the leader, which alone asks Azure.
    ///
    /// # Errors
    /// What the leader says, or that it could not be asked.
    pub async fn forward(&self, call: peer::ForwardRequest) -> Result<peer::ForwardResponse, ApiError> {
        let Ok(_waits) = self.inner.waiting.try_acquire() else { return Err(crowded()) };
        let Some(answer) = self.inner.raft.forward(call).await else {
            return Err(ApiError::NoQuorum { cause: "no leader is known".to_owned() });
        };
        answer.map_err(|status| match ApiError::from(&status) {
            ApiError::NotLeader { .. } => ApiError::NoQuorum { cause: "the leadership changed".to_owned() },
            ApiError::Foreign { message, .. } => {
                ApiError::NoQuorum { cause: format!("the leader could not be asked: {message}") }
            }
            told => told,
        })
    }

    /// Has Azure asked about a device that a gateway says is not where its mapping says, unless that was done lately.
    pub async fn verify(&self, device: &DeviceId, epoch: Epoch) -> Found {
        self.verify_for(Why::Report, device, epoch, Instant::now() + WAIT_MAX).await
    }

    /// Whether Azure may be asked why this device has no hub to call.
    pub fn may_recheck(&self, snapshot: &Snapshot, device: &DeviceId, mapping: &Mapping) -> bool {
        whom_to_ask(snapshot, device, mapping).is_ok()
    }

    /// Has Azure asked about a device that was looked up and has no hub to call, unless that was done lately, within the
    /// share of the budget that lookups have. Says whether the directory may have news of it since: where nobody could
    /// be asked, what it has stands.
    pub async fn recheck(&self, device: &DeviceId, epoch: Epoch) -> bool {
        let found = self.verify_for(Why::ReadThrough, device, epoch, Instant::now() + RECHECK_WAIT_MAX).await;
        matches!(found.finding, Finding::Changed | Finding::Superseded)
    }

    async fn verify_for(&self, why: Why, device: &DeviceId, epoch: Epoch, deadline: Instant) -> Found {
        let inner = &self.inner;
        let Some(term) = inner.leading_term() else { return Found::superseded() };
        if let Some(found) = inner.remembered(term, device, epoch) {
            return found;
        }
        let question = match inner.question(term, why, device, epoch) {
            Ok(question) => question,
            Err(found) => return found,
        };
        let key = (term, question.scope.no, question.registration.folded());
        let fly = |inner: Arc<Inner>| async move { inner.resolve(question).await };
        self.aboard(key, (device, epoch), deadline, fly).await
    }

    /// Joins the question on its way, or begins it, and waits for what it finds of this device at this epoch.
    async fn aboard<F>(
        &self,
        key: FlightKey,
        (device, epoch): (&DeviceId, Epoch),
        deadline: Instant,
        fly: impl FnOnce(Arc<Inner>) -> F,
    ) -> Found
    where
        F: Future<Output = Found> + Send + 'static,
    {
        let inner = &self.inner;
        let Ok(_waits) = inner.waiting.try_acquire() else { return Found::crowded() };
        let mut answer = match inner.flights.board(key) {
            Boarding::Full => return Found::crowded(),
            Boarding::Passenger(answer) => {
                inner.metrics.joined();
                answer
            }
            Boarding::Pilot(pilot, answer) => {
                let (device, flight) = (device.clone(), fly(Arc::clone(inner)));
                // On its own: whoever waits may give up, and the answer is worth having all the same.
                let mut under_way = inner.under_way.lock();
                while under_way.try_join_next().is_some() {}
                under_way.spawn(async move {
                    let found = flight.await;
                    pilot.land(Landed { device, epoch, found });
                });
                answer
            }
        };
        match timeout_at(deadline, answer.wait_for(Option::is_some)).await {
            Ok(Ok(landed)) => {
                landed.as_ref().map_or_else(Found::superseded, |landed| landed.about(device, epoch))
            }
            Ok(Err(_)) => Found::not_verified("the question broke off", RETRY),
            Err(_) => Found::not_verified("Azure has not answered yet", RETRY),
        }
    }

    /// Shows how many devices are in drift; none on a node that does not lead. The reconciler may end meanwhile.
    pub fn sampler(&self) -> impl Fn() + Send + Sync + 'static {
        let inner = Arc::downgrade(&self.inner);
        move || {
            if let Some(inner) = inner.upgrade() {
                let term = inner.leading_term();
                let counts = |held: &mut OfTerm| held.drifts.counts().collect();
                let counts = term.and_then(|term| inner.of_term(term, counts));
                inner.metrics.set_drift(&counts.unwrap_or_default());
                inner.metrics.sample(inner.clock.now_ms());
            }
        }
    }
}

impl Inner {
    /// The term in which this node leads, if it does.
    fn leading_term(&self) -> Option<u64> {
        let status = self.raft.status();
        status.leads.then_some(status.term)
    }

    /// Runs on what belongs to `term`; `None` where a later one has begun.
    fn of_term<T>(&self, term: u64, run: impl FnOnce(&mut OfTerm) -> T) -> Option<T> {
        let mut held = self.term.lock();
        if held.term < term {
            *held = OfTerm { term, ..OfTerm::default() };
        }
        (held.term == term).then(|| run(&mut held))
    }

    fn remembered(&self, term: u64, device: &DeviceId, epoch: Epoch) -> Option<Found> {
        let now_ms = self.clock.now_ms();
        let (finding, again_after) =
            self.of_term(term, |held| held.memory.get(device, epoch, now_ms)).flatten()?;
        self.metrics.remembered();
        Some(Found { finding, again_after })
    }

    /// The device as it stands now, and whom to ask about it.
    fn question(&self, term: u64, why: Why, device: &DeviceId, epoch: Epoch) -> Result<Question, Found> {
        let snapshot = self.directory.newest();
        let mapping = match snapshot.device(device) {
            Ok(Some(mapping)) if mapping.epoch == epoch => mapping,
            Ok(_) => return Err(Found::superseded()),
            Err(damage) => return Err(Found::not_verified(damage, RETRY)),
        };
        let (scope, registration) = whom_to_ask(&snapshot, device, &mapping)
            .map_err(|problem| Found::not_verified(problem, Duration::ZERO))?;
        let scope = scope.clone();
        Ok(Question { term, why, device: device.clone(), mapping, scope, registration, snapshot })
    }

    /// Asks, judges, and does what follows.
    async fn resolve(&self, question: Question) -> Found {
        // Between the look into memory and this flight another one may have landed.
        let (term, epoch) = (question.term, question.mapping.epoch);
        if let Some(found) = self.remembered(term, &question.device, epoch) {
            return found;
        }
        let verdict = match self.ask(&question).await {
            Ok(verdict) => verdict,
            Err(no_answer) => {
                let (found, remember_ms) = no_answer.told();
                if let Some(for_ms) = remember_ms {
                    let (device, now_ms) = (question.device.clone(), self.clock.now_ms());
                    self.of_term(term, |held| {
                        held.memory.put(device, epoch, found.finding.clone(), for_ms, now_ms);
                    });
                }
                return found;
            }
        };
        let changed = match self.directory.newest().device(&question.device) {
            Ok(Some(now)) => now.epoch != epoch,
            _ => true,
        };
        if changed || self.leading_term() != Some(term) {
            return Found::superseded();
        }
        match verdict {
            Verdict::Write(assign) => self.write(&question, *assign).await,
            Verdict::Confirmed => {
                self.keep(&question, epoch, Finding::Confirmed, REMEMBER_CONFIRMED_MS, None)
            }
            Verdict::Drift(drift) => {
                let finding = Finding::Drift(drift.clone());
                self.keep(&question, epoch, finding, REMEMBER_DRIFT_MS, Some(&drift))
            }
            Verdict::Negative { kind, remember_ms, drift } => {
                let finding = Finding::Negative { kind, drift: drift.clone() };
                self.keep(&question, epoch, finding, remember_ms, drift.as_ref())
            }
            Verdict::AskIdentity(_) => Found::not_verified("the hub's answer decides nothing", RETRY),
        }
    }

    async fn write(&self, question: &Question, assign: Assign) -> Found {
        let (hub, status) = (assign.hub.clone(), assign.status);
        let proposal = proposal("what Azure says of a reported device", assign);
        match self.directory.try_propose(proposal).await {
            Ok(Ok(outcome)) => {
                let Outcome::Assigned { epoch, .. } = outcome else { return Found::superseded() };
                // Reports of the new epoch need not ask again at once.
                let (known, for_ms) = match status.and_then(absence_of) {
                    None => (Finding::Confirmed, REMEMBER_CONFIRMED_MS),
                    Some(Absence::Enrolling) => (negative(Absence::Enrolling), REMEMBER_ASSIGNING_MS),
                    Some(kind) => (negative(kind), REMEMBER_NEGATIVE_MS),
                };
                self.keep(question, epoch, known, for_ms, None);
                Found { finding: Finding::Changed, again_after: Duration::ZERO }
            }
            Ok(Err(Rejection::EpochMismatch { .. } | Rejection::DeviceUnknown { .. })) => Found::superseded(),
            Ok(Err(rejection)) => {
                tracing::warn!(%rejection, "what Azure says of a device cannot be taken over");
                let hub_of = |no: HubNo| question.snapshot.topology().hub(no).map(|hub| hub.name.clone());
                let ours = Side {
                    hub: question.mapping.hub.and_then(hub_of),
                    status: Some(question.mapping.status),
                };
                let drift = Drift { class: class_of(&rejection), ours, theirs: Side { hub, status } };
                let (epoch, finding) = (question.mapping.epoch, Finding::Drift(drift.clone()));
                self.keep(question, epoch, finding, REMEMBER_DRIFT_MS, Some(&drift))
            }
            Err(error) => Found::not_verified(error, RETRY),
        }
    }

    /// Remembers what was found of a device, and lists or unlists its drift.
    fn keep(
        &self,
        question: &Question,
        epoch: Epoch,
        finding: Finding,
        for_ms: u64,
        drift: Option<&Drift>,
    ) -> Found {
        let (device, now_ms) = (&question.device, self.clock.now_ms());
        let kept = self.of_term(question.term, |held| {
            held.memory.put(device.clone(), epoch, finding.clone(), for_ms, now_ms);
            match drift {
                Some(drift) => {
                    held.drifts.list(device, Aspect::Own, drift, Some(question.scope.no), now_ms);
                }
                None => {
                    held.drifts.unlist(device, Aspect::Own);
                }
            }
        });
        match kept {
            Some(()) => Found { finding, again_after: Duration::from_millis(for_ms) },
            None => Found::superseded(),
        }
    }
}

/// The reconciler's command.
fn proposal(reason: &str, assign: Assign) -> Proposal {
    proposal_of(reason, Command::Assign(assign))
}

fn proposal_of(reason: &str, command: Command) -> Proposal {
    Proposal {
        request_id: None,
        payload_hash: 0,
        actor: ACTOR.to_owned(),
        reason: reason.to_owned(),
        command,
    }
}

/// The DPS instance that answers for a device, and the device's name there.
fn whom_to_ask<'a>(
    snapshot: &'a Snapshot,
    device: &DeviceId,
    mapping: &Mapping,
) -> Result<(&'a Scope, RegistrationId), &'static str> {
    let scope = mapping.scope.and_then(|no| snapshot.topology().scope(no));
    let scope = scope
        .filter(|scope| !scope.service_host.is_empty())
        .ok_or("the device is in no scope whose provisioning service may be asked")?;
    let registration = match &mapping.registration {
        Registration::Explicit(id) => Some(id.clone()),
        Registration::SameAsDevice => device.as_registration(),
        Registration::None => None,
    };
    Ok((scope, registration.ok_or("the device has no registration ID")?))
}

/// How Azure and the directory disagree where the directory may not take over what Azure says.
fn class_of(rejection: &Rejection) -> DriftClass {
    match rejection {
        Rejection::RegistrationTaken { .. } => DriftClass::Duplicate,
        _ => DriftClass::WrongHub,
    }
}

fn crowded() -> ApiError {
    let what = "calls that wait for the provisioning service".to_owned();
    ApiError::Overloaded { what, limit: WAITING_MAX as u64, retry_after: RETRY }
}
