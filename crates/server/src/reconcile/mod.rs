//! Heals the directory where Azure disagrees: asks DPS and hubs about one device at a time, has the core judge, and
//! makes what follows a command like any other.
//!
//! Only a leader asks. Its budgets, its memory and its questions on their way belong to its term and end with it: what
//! was found in an earlier term, or of an earlier epoch of a device, is dropped.

mod authority;
mod azure;
mod budget;
mod flight;
mod hook;
mod memory;
mod read_through;

use std::sync::Arc;
use std::time::Duration;

use berth_core::reconcile::{
    Absence, Case, Drift, DriftClass, IdentitySeen, REMEMBER_ASSIGNING_MS, REMEMBER_CONFIRMED_MS,
    REMEMBER_DRIFT_MS, REMEMBER_NEGATIVE_MS, RegistrationSeen, Side, Verdict, Why, judge,
};
use berth_core::{
    Assign, Command, DeviceId, Epoch, HubNo, Mapping, Outcome, Proposal, Registration, RegistrationId,
    Rejection, Scope, ScopeNo, Status, Timestamp,
};
use berth_proto::error::ApiError;
use berth_proto::internal as peer;
use berth_store::machine::{Machine, Snapshot};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

pub use authority::{Authority, Trouble};
pub use azure::AzureAuthority;

use budget::{Budgets, Place, rate_of_hub, rate_of_scope};
use flight::{Boarding, Flights};
use memory::{Drifts, Memory};

use crate::directory::Directory;
use crate::metrics::ReconcileMetrics;
use crate::raft::{Clock, RaftNode};

/// How long a report waits for Azure. The question goes on, and its answer is there for the next report.
const WAIT_MAX: Duration = Duration::from_secs(4);
/// When a report is worth repeating that waited in vain, or found too many waiting.
const RETRY: Duration = Duration::from_secs(1);
/// How long it is remembered that Azure could not be asked about a device.
const REMEMBER_TROUBLE: Duration = Duration::from_secs(5);
/// Longest text that tells what stood in the way, in bytes.
const PROBLEM_BYTES_MAX: usize = 256;
/// Who the reconciler is in the records of commands.
const ACTOR: &str = "reconciler";

/// What became of a question about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Azure agrees with the directory.
    Confirmed,
    /// The directory was wrong, and has been changed.
    Changed,
    /// Azure disagrees, and the directory stands.
    Drift(Drift),
    /// There is no hub to call.
    Negative {
        /// Why.
        kind: Absence,
        /// What disagrees, where the directory says otherwise.
        drift: Option<Drift>,
    },
    /// Azure could not be asked, or gave no useful answer; the directory stands.
    NotVerified {
        /// What stood in the way.
        problem: String,
    },
    /// Leadership or the device changed meanwhile: the directory has newer news.
    Superseded,
}

/// A finding, and when asking again makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What was found.
    pub finding: Finding,
    /// When it may be verified again; zero where there is no reason to.
    pub again_after: Duration,
}

impl Found {
    fn not_verified(problem: impl ToString, again_after: Duration) -> Self {
        let mut problem = problem.to_string();
        let end = (0..=PROBLEM_BYTES_MAX.min(problem.len())).rev().find(|at| problem.is_char_boundary(*at));
        problem.truncate(end.unwrap_or(0));
        Self { finding: Finding::NotVerified { problem }, again_after }
    }

    /// For how long, in milliseconds, it may be remembered that there was no answer; `None` where there may be one within
    /// the second.
    fn worth_remembering(&self) -> Option<u64> {
        let for_ms = u64::try_from(self.again_after.as_millis()).unwrap_or(u64::MAX);
        (for_ms >= 1_000 && matches!(self.finding, Finding::NotVerified { .. })).then_some(for_ms)
    }

    fn superseded() -> Self {
        Self { finding: Finding::Superseded, again_after: Duration::ZERO }
    }
}

/// A finding, and what it is about: a registration may be asked about for the sake of more than one device.
#[derive(Debug, Clone)]
struct Landed {
    device: DeviceId,
    epoch: Epoch,
    found: Found,
}

impl Landed {
    /// What it says of this device at this epoch.
    fn about(&self, device: &DeviceId, epoch: Epoch) -> Found {
        if (&self.device, self.epoch) == (device, epoch) {
            return self.found.clone();
        }
        Found::not_verified("another question about this registration was on its way", RETRY)
    }
}

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
    term: Mutex<OfTerm>,
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
}

/// One device, as it stood when the question began.
struct Question {
    term: u64,
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
        let (flights, term) = (Flights::default(), Mutex::default());
        Self { inner: Arc::new(Inner { directory, raft, authority, clock, metrics, flights, term }) }
    }

    /// Sends a call on to the leader, which alone asks Azure.
    ///
    /// # Errors
    /// What the leader says, or that it could not be asked.
    pub async fn forward(&self, call: peer::ForwardRequest) -> Result<peer::ForwardResponse, ApiError> {
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
        let inner = &self.inner;
        let Some(term) = inner.leading_term() else { return Found::superseded() };
        if let Some(found) = inner.remembered(term, device, epoch) {
            return found;
        }
        let question = match inner.question(term, device, epoch) {
            Ok(question) => question,
            Err(found) => return found,
        };
        let key = (term, question.scope.no, question.registration.folded());
        let mut answer = match inner.flights.board(key) {
            Boarding::Full => return Found::not_verified("too many devices are being verified", RETRY),
            Boarding::Passenger(answer) => {
                inner.metrics.joined();
                answer
            }
            Boarding::Pilot(pilot, answer) => {
                let inner = Arc::clone(inner);
                // On its own: whoever waits may give up, and the answer is worth having all the same.
                tokio::spawn(async move {
                    let (device, epoch) = (question.device.clone(), question.mapping.epoch);
                    let found = inner.resolve(question).await;
                    pilot.land(Landed { device, epoch, found });
                });
                answer
            }
        };
        match tokio::time::timeout(WAIT_MAX, answer.wait_for(Option::is_some)).await {
            Ok(Ok(landed)) => {
                landed.as_ref().map_or_else(Found::superseded, |landed| landed.about(device, epoch))
            }
            Ok(Err(_)) => Found::not_verified("the question broke off", RETRY),
            Err(_) => Found::not_verified("Azure has not answered yet", RETRY),
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
            self.metrics.set_drift(held.drifts.counts());
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
    fn question(&self, term: u64, device: &DeviceId, epoch: Epoch) -> Result<Question, Found> {
        let snapshot = self.directory.newest();
        let mapping = match snapshot.device(device) {
            Ok(Some(mapping)) if mapping.epoch == epoch => mapping,
            Ok(_) => return Err(Found::superseded()),
            Err(damage) => return Err(Found::not_verified(damage, RETRY)),
        };
        let scope = mapping.scope.and_then(|no| snapshot.topology().scope(no)).cloned();
        let Some(scope) = scope.filter(|scope| !scope.service_host.is_empty()) else {
            return Err(Found::not_verified(
                "the device is in no scope whose provisioning service may be asked",
                Duration::ZERO,
            ));
        };
        let registration = match &mapping.registration {
            Registration::Explicit(id) => Some(id.clone()),
            Registration::SameAsDevice => device.as_registration(),
            Registration::None => None,
        };
        let Some(registration) = registration else {
            return Err(Found::not_verified("the device has no registration ID", Duration::ZERO));
        };
        Ok(Question { term, device: device.clone(), mapping, scope, registration, snapshot })
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
            Err(found) => {
                if let Some(for_ms) = found.worth_remembering() {
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
                let class = drift.class;
                self.keep(&question, epoch, Finding::Drift(drift), REMEMBER_DRIFT_MS, Some(class))
            }
            Verdict::Negative { kind, remember_ms, drift } => {
                let class = drift.as_ref().map(|drift| drift.class);
                self.keep(&question, epoch, Finding::Negative { kind, drift }, remember_ms, class)
            }
            Verdict::AskIdentity(_) => Found::not_verified("the hub's answer decides nothing", RETRY),
        }
    }

    async fn ask(&self, question: &Question) -> Result<Verdict, Found> {
        let registration = self.ask_dps(question.term, &question.scope, &question.registration).await?;
        let topology = question.snapshot.topology();
        let verdict = |identity| {
            let case = Case {
                scope: &question.scope,
                device: &question.device,
                mapping: Some(&question.mapping),
                registration: &registration,
                identity,
                why: Why::Report,
                now: Timestamp(self.clock.now_ms()),
            };
            judge(topology, &case)
        };
        match verdict(None) {
            Verdict::AskIdentity(hub) => {
                let identity = self.ask_hub(question, hub).await?;
                Ok(verdict(Some(identity)))
            }
            decided => Ok(decided),
        }
    }

    /// DPS's word on a registration: its record, and where there is none the enrollment.
    async fn ask_dps(
        &self,
        term: u64,
        scope: &Scope,
        registration: &RegistrationId,
    ) -> Result<RegistrationSeen, Found> {
        let place = (Place::Scope(scope.no), scope.name.as_str(), rate_of_scope(scope));
        let record = self.authority.registration(scope, registration);
        if let Some(seen) = self.call(term, place, "get registration", record).await? {
            return Ok(seen);
        }
        let enrollment = self.authority.enrollment(scope, registration);
        let seen = self.call(term, place, "get enrollment", enrollment).await?;
        Ok(seen.unwrap_or(RegistrationSeen::NotEnrolled))
    }

    async fn ask_hub(&self, question: &Question, no: HubNo) -> Result<IdentitySeen, Found> {
        let Some(hub) = question.snapshot.topology().hub(no) else { return Err(Found::superseded()) };
        let place = (Place::Hub(no), hub.name.as_str(), rate_of_hub(hub));
        let identity = self.authority.identity(&hub.name, &question.device);
        self.call(question.term, place, "get identity", identity).await
    }

    /// One question, if the budget of its place has leave for it.
    async fn call<T>(
        &self,
        term: u64,
        (place, name, per_minute): (Place, &str, u64),
        operation: &'static str,
        call: BoxFuture<'_, Result<T, Trouble>>,
    ) -> Result<T, Found> {
        if self.leading_term() != Some(term) {
            return Err(Found::superseded());
        }
        let now_ms = self.clock.now_ms();
        let leave = self.of_term(term, |held| held.budgets.take(place, per_minute, now_ms));
        match leave {
            None => return Err(Found::superseded()),
            Some(Err(wait)) => {
                self.metrics.called(operation, "over_budget");
                return Err(Found::not_verified(format_args!("the budget of {name} is spent"), wait));
            }
            Some(Ok(left)) => self.metrics.left(name, left),
        }
        let trouble = match call.await {
            Ok(answer) => {
                self.metrics.called(operation, "ok");
                return Ok(answer);
            }
            Err(trouble) => trouble,
        };
        self.metrics.called(operation, trouble.outcome());
        tracing::warn!(operation, place = name, %trouble, "Azure gave no answer about a device");
        let now_ms = self.clock.now_ms();
        if let Trouble::Throttled { retry_after, .. } = &trouble {
            let closed = self.of_term(term, |held| held.budgets.close(place, *retry_after, now_ms));
            return Err(Found::not_verified(&trouble, closed.unwrap_or_default()));
        }
        Err(Found::not_verified(&trouble, REMEMBER_TROUBLE))
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
                let drift = Drift { class: DriftClass::WrongHub, ours, theirs: Side { hub, status } };
                let epoch = question.mapping.epoch;
                let class = Some(drift.class);
                self.keep(question, epoch, Finding::Drift(drift), REMEMBER_DRIFT_MS, class)
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
        drift: Option<DriftClass>,
    ) -> Found {
        let (device, now_ms) = (&question.device, self.clock.now_ms());
        let kept = self.of_term(question.term, |held| {
            held.memory.put(device.clone(), epoch, finding.clone(), for_ms, now_ms);
            held.drifts.set(device, drift);
            self.metrics.set_drift(held.drifts.counts());
        });
        match kept {
            Some(()) => Found { finding, again_after: Duration::from_millis(for_ms) },
            None => Found::superseded(),
        }
    }
}

/// The reconciler's command.
fn proposal(reason: &str, assign: Assign) -> Proposal {
    Proposal {
        request_id: None,
        payload_hash: 0,
        actor: ACTOR.to_owned(),
        reason: reason.to_owned(),
        command: Command::Assign(assign),
    }
}

fn negative(kind: Absence) -> Finding {
    Finding::Negative { kind, drift: None }
}

/// Why a device of this status has no hub to call.
fn absence_of(status: Status) -> Option<Absence> {
    match status {
        Status::Assigned => None,
        Status::Unassigned => Some(Absence::Unassigned),
        Status::Enrolling => Some(Absence::Enrolling),
        Status::Disabled => Some(Absence::Disabled),
        Status::Failed => Some(Absence::Failed),
    }
}
