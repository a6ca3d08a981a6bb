//! Devices that the directory does not have: looked for in DPS, and taken in where DPS has given them a hub.

use std::sync::Arc;
use std::time::Duration;

use berth_core::reconcile::{
    Absence, Case, REMEMBER_DRIFT_MS, REMEMBER_NEGATIVE_MS, RegistrationSeen, Verdict, Why, judge,
};
use berth_core::{DeviceId, Epoch, RegistrationId, Rejection, Scope, Timestamp};
use berth_proto::convert::absence_message;
use berth_proto::error::ApiError;
use berth_store::machine::Snapshot;

use super::budget::{Place, rate_of_read_through};
use super::drifts::Aspect;
use super::flight::Boarding;
use super::{Finding, Found, Inner, Landed, RETRY, Reconciler, WAIT_MAX, negative, proposal};

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
    /// [`ApiError::NoHub`] where DPS knows of no hub, [`ApiError::Unverified`] where it could not be asked,
    /// [`ApiError::NotLeader`] where this node does not lead.
    pub async fn read_through(&self, device: &DeviceId) -> Result<(), ApiError> {
        let Some(term) = self.inner.leading_term() else { return Err(ApiError::NotLeader { leader: None }) };
        let snapshot = self.inner.directory.newest();
        let Some(registration) = device.as_registration() else { return Err(unknown(device)) };
        let scopes: Vec<Scope> =
            snapshot.topology().scopes().filter(|scope| allows(scope)).cloned().collect();
        let (mut trouble, mut no_hub_there, mut nowhere) = (None, None, None);
        for scope in scopes {
            let (of, registration, snapshot) = (device.clone(), registration.clone(), snapshot.clone());
            let found = self
                .search(Search { term, device: of, registration, scope, snapshot, why: Why::ReadThrough })
                .await;
            let remember_for = found.again_after;
            let no_hub = |kind| ApiError::NoHub {
                device: device.to_string(),
                kind: absence_message(kind),
                epoch: 0,
                remember_for,
            };
            match found.finding {
                Finding::Changed | Finding::Confirmed | Finding::Superseded => return Ok(()),
                Finding::Negative { kind: Absence::Unknown, .. } => nowhere = Some(no_hub(Absence::Unknown)),
                // Another scope may have a hub for it: a device on its way from test to production is in both.
                Finding::Negative { kind, .. } => no_hub_there = Some(no_hub(kind)),
                // It is somewhere, but not where the directory could follow.
                Finding::Drift(_) => nowhere = Some(no_hub(Absence::Unknown)),
                Finding::NotVerified { problem } => {
                    let device = device.to_string();
                    trouble = Some(ApiError::Unverified { device, problem, retry_after: remember_for });
                }
            }
        }
        // Where one scope could not be asked, it is not known that the device is nowhere.
        Err(trouble.or(no_hub_there).or(nowhere).unwrap_or_else(|| unknown(device)))
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
    ) -> Found {
        let Some(registration) = registration.or_else(|| device.as_registration()) else {
            let problem = "its ID is not one that a provisioning service knows devices by";
            return Found::not_verified(problem, Duration::ZERO);
        };
        let (device, scope, snapshot) = (device.clone(), scope.clone(), self.inner.directory.newest());
        self.search(Search { term, device, registration, scope, snapshot, why: Why::Sweep }).await
    }

    async fn search(&self, search: Search) -> Found {
        let (inner, device) = (&self.inner, search.device.clone());
        if let Some(found) = inner.known_absent(&search) {
            return found;
        }
        let key = (search.term, search.scope.no, search.registration.folded());
        let mut answer = match inner.flights.board(key) {
            Boarding::Full => return Found::not_verified("too many devices are being looked for", RETRY),
            Boarding::Passenger(answer) => {
                inner.metrics.joined();
                answer
            }
            Boarding::Pilot(pilot, answer) => {
                let inner = Arc::clone(inner);
                let device = search.device.clone();
                tokio::spawn(async move {
                    let found = inner.find(search).await;
                    pilot.land(Landed { device, epoch: NO_EPOCH, found });
                });
                answer
            }
        };
        match tokio::time::timeout(WAIT_MAX, answer.wait_for(Option::is_some)).await {
            Ok(Ok(landed)) => {
                landed.as_ref().map_or_else(Found::superseded, |landed| landed.about(&device, NO_EPOCH))
            }
            Ok(Err(_)) => Found::not_verified("the question broke off", RETRY),
            Err(_) => Found::not_verified("the provisioning service has not answered yet", RETRY),
        }
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
        let registration = match self.look_in_dps(&search).await {
            Ok(registration) => registration,
            Err(found) => {
                if let Some(for_ms) = found.worth_remembering() {
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
                let proposal = proposal("what Azure says of a device that was looked up", *assign);
                match self.directory.try_propose(proposal).await {
                    Ok(Ok(_)) => {
                        self.settle(search.term, &search.device, Aspect::Own);
                        Found { finding: Finding::Changed, again_after: Duration::ZERO }
                    }
                    Ok(Err(Rejection::DeviceExists { .. })) => Found::superseded(),
                    Ok(Err(rejection)) => {
                        tracing::warn!(%rejection, "a device that DPS knows cannot be taken in");
                        self.keep_absent(&search, negative(Absence::Unknown), REMEMBER_DRIFT_MS)
                    }
                    Err(error) => Found::not_verified(error, RETRY),
                }
            }
            Verdict::Drift(drift) => {
                let now_ms = self.clock.now_ms();
                self.of_term(search.term, |held| {
                    held.drifts.list(&search.device, Aspect::Own, &drift, Some(search.scope.no), now_ms);
                    self.metrics.set_drift(held.drifts.counts());
                });
                self.keep_absent(&search, Finding::Drift(drift), REMEMBER_DRIFT_MS)
            }
            Verdict::Negative { kind, remember_ms, drift } => {
                self.keep_absent(&search, Finding::Negative { kind, drift }, remember_ms)
            }
            // A device without a mapping is never confirmed, and no hub is asked about it.
            Verdict::Confirmed | Verdict::AskIdentity(_) => {
                self.keep_absent(&search, negative(Absence::Unknown), REMEMBER_NEGATIVE_MS)
            }
        }
    }

    /// DPS's word, within the share of its budget that lookups of unknown devices may use.
    async fn look_in_dps(&self, search: &Search) -> Result<RegistrationSeen, Found> {
        let Search { scope, registration, term, why, .. } = search;
        if *why != Why::ReadThrough {
            return self.ask_dps(*term, scope, registration).await;
        }
        let (per_minute, now_ms) = (rate_of_read_through(scope), self.clock.now_ms());
        let share = Place::ReadThrough(scope.no);
        match self.of_term(*term, |held| held.budgets.take(share, per_minute, now_ms)) {
            None => return Err(Found::superseded()),
            Some(Err(wait)) => {
                self.metrics.called("get registration", "over_budget");
                let problem = format!("the budget of {} for unknown devices is spent", scope.name);
                return Err(Found::not_verified(problem, wait));
            }
            Some(Ok(_)) => {}
        }
        self.ask_dps(*term, scope, registration).await
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
