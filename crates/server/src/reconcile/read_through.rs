//! Devices that the directory does not have: looked for in DPS, and taken in where DPS has given them a hub.

use std::sync::Arc;
use std::time::Duration;

use berth_core::reconcile::{
    Absence, Case, Drift, REMEMBER_DRIFT_MS, REMEMBER_NEGATIVE_MS, Side, Verdict, Why, judge,
};
use berth_core::{DeviceId, Epoch, RegistrationId, Rejection, Scope, Timestamp};
use berth_proto::convert::{absence_message, drift_message};
use berth_proto::error::ApiError;
use berth_store::machine::Snapshot;
use tokio::time::Instant;

use super::drifts::Aspect;
use super::finding::negative;
use super::{Finding, Found, Inner, RETRY, Reconciler, WAIT_MAX, class_of, proposal};

/// The epoch under which findings of devices without a mapping are remembered; no mapping has it.
const NO_EPOCH: Epoch = Epoch(0);

/// A device to look for in one DPS instance.
struct Search {
    term: u64,
    device: DeviceId,
    registration: RegistrationId,
    scope: Scope,
    snapshot: Snapshot,
    why: Why,
}

impl Reconciler {
    /// Whether a device that is not in this snapshot may be looked for in DPS.
    pub fn reads_through(&self, snapshot: &Snapshot, device: &DeviceId) -> bool {
        snapshot.topology().scopes().any(allows) && device.as_registration().is_some()
    }

    /// Looks for a device that the directory does not have, in the scopes that allow it. Where this goes well, the
    /// directory has news of the device: look again.
    ///
    /// # Errors
    /// [`ApiError::NoHub`] where DPS knows of no hub, [`ApiError::NotAdopted`] where the directory may not follow it,
    /// [`ApiError::Unverified`], [`ApiError::BudgetSpent`] or [`ApiError::Overloaded`] where it could not be asked, and
    /// [`ApiError::NotLeader`] where this node does not lead.
    pub async fn read_through(&self, device: &DeviceId) -> Result<(), ApiError> {
        let deadline = Instant::now() + WAIT_MAX;
        let Some(term) = self.inner.leading_term() else { return Err(ApiError::NotLeader { leader: None }) };
        let snapshot = self.inner.directory.newest();
        let Some(registration) = device.as_registration() else { return Err(unknown(device)) };
        let scopes: Vec<Scope> =
            snapshot.topology().scopes().filter(|scope| allows(scope)).cloned().collect();
        let (mut trouble, mut elsewhere, mut no_hub_there) = (None, None, None);
        for scope in scopes {
            let (of, registration, snapshot) = (device.clone(), registration.clone(), snapshot.clone());
            let why = Why::ReadThrough;
            let found =
                self.search(Search { term, why, device: of, registration, scope, snapshot }, deadline).await;
            let (name, remember_for) = (device.to_string(), found.again_after);
            match found.finding {
                Finding::Changed | Finding::Confirmed | Finding::Superseded => return Ok(()),
                Finding::Negative { kind: Absence::Unknown, .. } => {}
                // Another scope may have a hub for it: a device on its way from test to production is in both.
                Finding::Negative { kind, .. } => {
                    let kind = absence_message(kind);
                    no_hub_there = Some(ApiError::NoHub { device: name, kind, epoch: 0, remember_for });
                }
                // It is somewhere, but not where the directory could follow.
                Finding::Drift(drift) => {
                    let hub = drift.theirs.hub.map(|hub| hub.to_string()).unwrap_or_default();
                    let drift = drift_message(drift.class);
                    elsewhere = Some(ApiError::NotAdopted { device: name, hub, drift, remember_for });
                }
                Finding::NotVerified { problem, cause } => {
                    trouble = Some(cause.refusal(device, problem, remember_for));
                }
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        if trouble.is_none() && elsewhere.is_none() {
            self.inner.settle(term, device, Aspect::Own);
        }
        // Where one scope could not be asked, it is not known that the device is nowhere.
        Err(trouble.or(elsewhere).or(no_hub_there).unwrap_or_else(|| unknown(device)))
    }

    /// Looks for a device that the directory does not have in one scope, whether or not lookups may cause that, unless
    /// it was done lately.
    /// `registration` is its name there, where that is not its ID.
    pub(super) async fn search_scope(
        &self,
        term: u64,
        device: &DeviceId,
        registration: Option<RegistrationId>,
        scope: &Scope,
        deadline: Instant,
    ) -> Found {
        let Some(registration) = registration.or_else(|| device.as_registration()) else {
            let problem = "its ID is not one that a provisioning service knows devices by";
            return Found::not_verified(problem, Duration::ZERO);
        };
        let (device, scope, snapshot) = (device.clone(), scope.clone(), self.inner.directory.newest());
        self.search(Search { term, why: Why::Sweep, device, registration, scope, snapshot }, deadline).await
    }

    async fn search(&self, search: Search, deadline: Instant) -> Found {
        if let Some(found) = self.inner.known_absent(&search) {
            return found;
        }
        let (key, device) =
            ((search.term, search.scope.no, search.registration.folded()), search.device.clone());
        let fly = |inner: Arc<Inner>| async move { inner.find(search).await };
        self.aboard(key, (&device, NO_EPOCH), deadline, fly).await
    }
}

impl Inner {
    fn known_absent(&self, search: &Search) -> Option<Found> {
        let (device, now_ms) = (&search.device, self.clock.now_ms());
        let known = self
            .of_term(search.term, |held| {
                held.absent.get(&(search.scope.no, device.clone()), NO_EPOCH, now_ms)
            })
            .flatten();
        known.map(|(finding, again_after)| {
            self.metrics.remembered();
            Found { finding, again_after }
        })
    }

    async fn find(&self, search: Search) -> Found {
        if let Some(found) = self.known_absent(&search) {
            return found;
        }
        // An earlier question may have brought it since it was looked up.
        if let Ok(Some(_)) = self.directory.newest().device(&search.device) {
            return Found::superseded();
        }
        let asked = self.ask_dps(search.term, search.why, &search.scope, &search.registration).await;
        let registration = match asked {
            Ok(registration) => registration,
            Err(no_answer) => {
                let (found, remember_ms) = no_answer.told();
                if let Some(for_ms) = remember_ms {
                    self.keep_absent(&search, found.finding.clone(), for_ms);
                }
                return found;
            }
        };
        if self.leading_term() != Some(search.term) {
            return Found::superseded();
        }
        let case = Case {
            scope: &search.scope,
            device: &search.device,
            mapping: None,
            registration: &registration,
            identity: None,
            why: search.why,
            now: Timestamp(self.clock.now_ms()),
        };
        match judge(search.snapshot.topology(), &case) {
            Verdict::Write(mut assign) => {
                if !search.registration.same_as(search.device.as_str()) {
                    assign.registration = Some(search.registration.clone());
                }
                let theirs = Side { hub: assign.hub.clone(), status: assign.status };
                let proposal = proposal("what Azure says of a device that was looked up", *assign);
                match self.directory.try_propose(proposal).await {
                    Ok(Ok(_)) => {
                        self.settle(search.term, &search.device, Aspect::Own);
                        Found { finding: Finding::Changed, again_after: Duration::ZERO }
                    }
                    Ok(Err(Rejection::DeviceExists { .. })) => Found::superseded(),
                    Ok(Err(rejection)) => {
                        tracing::warn!(%rejection, "a device that DPS knows cannot be taken in");
                        let drift = Drift { class: class_of(&rejection), ours: Side::default(), theirs };
                        self.keep_elsewhere(&search, drift)
                    }
                    Err(error) => Found::not_verified(error, RETRY),
                }
            }
            Verdict::Drift(drift) => self.keep_elsewhere(&search, drift),
            Verdict::Negative { kind, remember_ms, drift } => {
                self.keep_absent(&search, Finding::Negative { kind, drift }, remember_ms)
            }
            // A device without a mapping is never confirmed, and no hub is asked about it.
            Verdict::Confirmed | Verdict::AskIdentity(_) => {
                self.keep_absent(&search, negative(Absence::Unknown), REMEMBER_NEGATIVE_MS)
            }
        }
    }

    /// Lists a device that DPS has where the directory does not follow.
    fn keep_elsewhere(&self, search: &Search, drift: Drift) -> Found {
        let now_ms = self.clock.now_ms();
        self.of_term(search.term, |held| {
            held.drifts.list(&search.device, Aspect::Own, &drift, Some(search.scope.no), now_ms);
        });
        self.keep_absent(search, Finding::Drift(drift), REMEMBER_DRIFT_MS)
    }

    fn keep_absent(&self, search: &Search, finding: Finding, for_ms: u64) -> Found {
        let (device, now_ms) = (&search.device, self.clock.now_ms());
        let kept = self.of_term(search.term, |held| {
            held.absent.put((search.scope.no, device.clone()), NO_EPOCH, finding.clone(), for_ms, now_ms);
        });
        match kept {
            Some(()) => Found { finding, again_after: Duration::from_millis(for_ms) },
            None => Found::superseded(),
        }
    }
}

fn allows(scope: &Scope) -> bool {
    scope.read_through && !scope.service_host.is_empty()
}

fn unknown(device: &DeviceId) -> ApiError {
    let remember_for = Duration::from_millis(REMEMBER_NEGATIVE_MS);
    ApiError::NoHub {
        device: device.to_string(),
        kind: absence_message(Absence::Unknown),
        epoch: 0,
        remember_for,
    }
}
