//! Verifying what is odd: by the questions that a report causes, one device after the other, each when there is leave for
//! it.

use std::time::Duration;

use berth_core::reconcile::{Absence, Drift, RegistrationSeen, Why};
use berth_core::{
    Command, DeviceId, Hub, HubNo, Mapping, Precondition, RegistrationId, Rejection, Remove, RepairRule,
    Scope,
};
use berth_store::machine::Snapshot;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

use super::super::authority::ENFORCE_CALLS;
use super::super::budget::{Place, rate_of_hub};
use super::super::drifts::Aspect;
use super::super::enforce::Enforcement;
use super::super::{Finding, Found, RETRY, Reconciler, WAIT_MAX, proposal_of};
use super::compare::{Suspect, waits_too_long};
use super::list::{at_scope, damaged};
use super::pace::{At, Looked, Stop};
use super::report::SweepPhase;
use super::run::Run;

/// Devices that are verified side by side.
const VERIFY_MAX: usize = 8;
/// How often a device is tried that could not be verified.
const TRIES_MAX: usize = 5;
/// What one device may cost: DPS's record and enrollment, and the hub's identity.
const READS_OF_DPS: u64 = 2;

impl Run {
    /// Verifies devices, several side by side.
    pub(super) async fn settle_all(&self, suspects: Vec<Suspect>) -> Result<(), Stop> {
        self.tell(|report| report.waiting += suspects.len() as u64);
        let settling = stream::iter(suspects).map(|suspect| async move {
            let settled = self.settle(suspect).await;
            self.tell(|report| report.waiting = report.waiting.saturating_sub(1));
            match settled {
                Err(Stop::Ended) => Err(Stop::Ended),
                Err(Stop::Gap(problem)) => {
                    self.tell(|report| report.problem(problem));
                    Ok(())
                }
                Err(Stop::Full) | Ok(()) => Ok(()),
            }
        });
        settling.buffer_unordered(VERIFY_MAX).try_collect().await
    }

    async fn settle(&self, suspect: Suspect) -> Result<(), Stop> {
        let snapshot = self.inner.directory.newest();
        let mapping = snapshot.device(suspect.device()).map_err(damaged)?;
        let is_first = self.is_first(&suspect);
        match (&suspect, &mapping) {
            (Suspect::Placed(device), Some(mapping)) => self.release(&snapshot, device, mapping).await,
            (Suspect::Barred(device), Some(mapping)) => self.barred(&snapshot, device, mapping).await,
            (Suspect::At(device, hub), Some(mapping)) => {
                let is_told = if is_first { self.verify(&snapshot, device, mapping).await? } else { true };
                if is_told { self.left_at(device, *hub).await } else { Ok(()) }
            }
            (suspect, Some(mapping)) => match is_first {
                true => self.verify(&snapshot, suspect.device(), mapping).await.map(drop),
                false => Ok(()),
            },
            (Suspect::At(device, hub), None) => self.newcomer(&snapshot, device, *hub).await,
            (Suspect::Registered(device, registration, scope), None) => {
                let Some(scope) = snapshot.topology().scope(*scope) else { return Ok(()) };
                let found = self.search(device, scope, Some(registration.clone())).await?;
                self.count(&found, false);
                Ok(())
            }
            (Suspect::Known(_) | Suspect::Placed(_) | Suspect::Barred(_), None) => Ok(()),
        }
    }

    /// Verifies a device that the directory has. False where that was not possible.
    async fn verify(&self, snapshot: &Snapshot, device: &DeviceId, mapping: &Mapping) -> Result<bool, Stop> {
        self.tell(|report| report.verified += 1);
        for _ in 0..TRIES_MAX {
            self.leave_for(snapshot, mapping).await?;
            // What was found just before may be what has been put right since.
            self.inner.of_term(self.term, |held| held.memory.forget(device));
            let found = match self.inner.can_ask_dps(device, mapping) {
                true => self.reconciler().verify_for(Why::Sweep, device, mapping.epoch, deadline()).await,
                false => self.inner.verify_by_hub(self.term, device, mapping).await,
            };
            if let Some(wait) = worth_a_try(&found) {
                self.inner.wait(self.term, wait).await?;
                continue;
            }
            self.count(&found, true);
            if let Finding::Drift(drift) = &found.finding {
                self.enforce(snapshot, device, mapping, drift).await?;
            }
            return Ok(!matches!(found.finding, Finding::NotVerified { .. }));
        }
        self.tell(|report| report.unverified += 1);
        Ok(false)
    }

    /// Where the scope's rule says so, DPS is made to follow.
    async fn enforce(
        &self,
        snapshot: &Snapshot,
        device: &DeviceId,
        mapping: &Mapping,
        drift: &Drift,
    ) -> Result<(), Stop> {
        let scope = mapping.scope.and_then(|no| snapshot.topology().scope(no));
        let Some(scope) = scope.filter(|scope| scope.repair == RepairRule::Enforce && drift.is_enforceable())
        else {
            return Ok(());
        };
        self.inner.spare(self.term, at_scope(scope), ENFORCE_CALLS).await?;
        match self.inner.enforce(self.term, device, mapping.epoch).await {
            Enforcement::Written => self.tell(|report| report.enforced += 1),
            // What has no lever stays listed; who asks for it by name is told why.
            Enforcement::Already | Enforcement::NoLever(_) => {}
            Enforcement::NotNow { .. } => self.tell(|report| report.unverified += 1),
        }
        Ok(())
    }

    /// Looks for a device that the directory does not have.
    async fn search(
        &self,
        device: &DeviceId,
        scope: &Scope,
        registration: Option<RegistrationId>,
    ) -> Result<Found, Stop> {
        let mut last = Found::not_verified("it was not asked", Duration::ZERO);
        for _ in 0..TRIES_MAX {
            self.inner.spare(self.term, at_scope(scope), READS_OF_DPS).await?;
            last = self
                .reconciler()
                .search_scope(self.term, device, registration.clone(), scope, deadline())
                .await;
            match worth_a_try(&last) {
                Some(wait) => self.inner.wait(self.term, wait).await?,
                None => break,
            }
        }
        Ok(last)
    }

    /// A hub has an identity of a device that the directory lacks: DPS's word on it, and where DPS has none, drift.
    async fn newcomer(&self, snapshot: &Snapshot, device: &DeviceId, hub: HubNo) -> Result<(), Stop> {
        self.tell(|report| report.verified += 1);
        let is_asked = |scope: &&Scope| !scope.service_host.is_empty() && scope.linked_hubs.contains(&hub);
        for scope in snapshot.topology().scopes().filter(is_asked) {
            let Some(registration) = self.registration_in(scope.no, device) else { continue };
            let found = self.search(device, scope, Some(registration)).await?;
            if matches!(found.finding, Finding::Negative { kind: Absence::Unknown, drift: None }) {
                continue;
            }
            self.count(&found, false);
            return match found.finding {
                // DPS has it elsewhere, so that this is what it left behind.
                Finding::Changed | Finding::Superseded => self.left_at(device, hub).await,
                _ => Ok(()),
            };
        }
        self.left_at(device, hub).await
    }

    /// Sees whether a hub has an identity that the directory's mapping does not name.
    async fn left_at(&self, device: &DeviceId, hub: HubNo) -> Result<(), Stop> {
        let snapshot = self.inner.directory.newest();
        let Some(hub) = snapshot.topology().hub(hub) else { return Ok(()) };
        for _ in 0..TRIES_MAX {
            self.leave_of_hub(hub).await?;
            let looked = self.inner.look_left(self.term, device, hub).await;
            if self.is_settled(looked).await? {
                return Ok(());
            }
        }
        self.tell(|report| report.unverified += 1);
        Ok(())
    }

    /// An enrollment is disabled, and its device is not.
    async fn barred(&self, snapshot: &Snapshot, device: &DeviceId, mapping: &Mapping) -> Result<(), Stop> {
        self.tell(|report| report.verified += 1);
        for _ in 0..TRIES_MAX {
            self.leave_for(snapshot, mapping).await?;
            let looked = self.inner.look_barred(self.term, device, mapping.epoch).await;
            if self.is_settled(looked).await? {
                return Ok(());
            }
        }
        self.tell(|report| report.unverified += 1);
        Ok(())
    }

    /// Counts what was found. False where it has to be looked at again, once what stood in the way may be over.
    async fn is_settled(&self, looked: Looked) -> Result<bool, Stop> {
        match looked {
            Looked::Agreed => {}
            Looked::Listed(drift) => self.tell(|report| *report.found.entry(drift.class).or_default() += 1),
            Looked::Unsure(found) => {
                if let Some(wait) = worth_a_try(&found) {
                    self.inner.wait(self.term, wait).await?;
                    return Ok(false);
                }
                self.count(&found, true);
            }
        }
        Ok(true)
    }

    /// Releases a placement whose device never registered.
    async fn release(&self, snapshot: &Snapshot, device: &DeviceId, mapping: &Mapping) -> Result<(), Stop> {
        self.leave_for(snapshot, mapping).await?;
        let now_ms = self.inner.clock.now_ms();
        if !waits_too_long(mapping, now_ms) || !self.inner.can_ask_dps(device, mapping) {
            return Ok(());
        }
        let inner = &self.inner;
        let Ok(question) = inner.question(self.term, Why::Sweep, device, mapping.epoch) else {
            return Ok(());
        };
        match inner.ask_dps(self.term, Why::Sweep, &question.scope, &question.registration).await {
            Ok(RegistrationSeen::Unassigned | RegistrationSeen::NotEnrolled) => {}
            Ok(_) => return self.verify(snapshot, device, mapping).await.map(drop),
            // The next sweep comes by again.
            Err(_) => {
                self.tell(|report| report.unverified += 1);
                return Ok(());
            }
        }
        let precondition = Precondition::Epoch(mapping.epoch);
        let command = Command::Remove(Remove { device: device.clone(), precondition });
        let proposal = proposal_of("its device has not registered for a day after it was placed", command);
        match inner.directory.try_propose(proposal).await {
            Ok(Ok(_)) => self.tell(|report| report.released += 1),
            Ok(Err(Rejection::EpochMismatch { .. } | Rejection::DeviceUnknown { .. })) => {}
            Ok(Err(_)) | Err(_) => self.tell(|report| report.unverified += 1),
        }
        Ok(())
    }

    /// Verifies what was in disagreement before this sweep and did not come up in it.
    pub(super) async fn recheck(&self) -> Result<(), Stop> {
        self.tell(|report| report.phase = SweepPhase::Rechecking);
        let before = self.inner.of_term(self.term, |held| held.drifts.unchecked_since(self.began_ms));
        let snapshot = self.inner.directory.newest();
        let mut suspects = Vec::new();
        for (device, aspect) in before.ok_or(Stop::Ended)? {
            let has_mapping = snapshot.device(&device).map_err(damaged)?.is_some();
            match aspect {
                Aspect::Left(hub) => suspects.push(Suspect::At(device, hub)),
                Aspect::Barred if has_mapping => suspects.push(Suspect::Barred(device)),
                Aspect::Own if has_mapping => suspects.push(Suspect::Known(device)),
                Aspect::Own => self.recheck_absent(&snapshot, &device).await?,
                Aspect::Barred => {
                    self.inner.settle(self.term, &device, Aspect::Barred);
                }
            }
        }
        self.settle_all(suspects).await
    }

    /// A drift of a device that the directory does not have.
    async fn recheck_absent(&self, snapshot: &Snapshot, device: &DeviceId) -> Result<(), Stop> {
        let listed = self.inner.of_term(self.term, |held| held.drifts.get(device, Aspect::Own).cloned());
        let scope = listed.flatten().and_then(|listed| listed.scope);
        let Some(scope) = scope.and_then(|no| snapshot.topology().scope(no)) else {
            self.inner.settle(self.term, device, Aspect::Own);
            return Ok(());
        };
        let registration = self.registration_in(scope.no, device);
        let found = self.search(device, scope, registration).await?;
        if !matches!(found.finding, Finding::Drift(_) | Finding::NotVerified { .. }) {
            self.inner.settle(self.term, device, Aspect::Own);
        }
        self.count(&found, false);
        Ok(())
    }

    /// Waits until what a device may cost can be spared.
    async fn leave_for(&self, snapshot: &Snapshot, mapping: &Mapping) -> Result<(), Stop> {
        let topology = snapshot.topology();
        if let Some(scope) = mapping.scope.and_then(|no| topology.scope(no)) {
            self.inner.spare(self.term, at_scope(scope), READS_OF_DPS).await?;
        }
        match mapping.hub.and_then(|no| topology.hub(no)) {
            Some(hub) => self.leave_of_hub(hub).await,
            None => Ok(()),
        }
    }

    async fn leave_of_hub(&self, hub: &Hub) -> Result<(), Stop> {
        let at = At { place: Place::Hub(hub.no), name: hub.name.as_str(), per_minute: rate_of_hub(hub) };
        self.inner.spare(self.term, at, 1).await
    }

    fn reconciler(&self) -> Reconciler {
        Reconciler { inner: std::sync::Arc::clone(&self.inner) }
    }

    /// Counts what was found of a device that the directory had, or of one that it had not.
    fn count(&self, found: &Found, was_known: bool) {
        self.tell(|report| match &found.finding {
            Finding::Changed if was_known => report.repaired += 1,
            Finding::Changed => report.adopted += 1,
            Finding::Drift(drift) | Finding::Negative { drift: Some(drift), .. } => {
                *report.found.entry(drift.class).or_default() += 1;
            }
            Finding::NotVerified { .. } => report.unverified += 1,
            Finding::Confirmed | Finding::Superseded | Finding::Negative { drift: None, .. } => {}
        });
    }
}

/// How long to wait before asking again; none where that is of no use.
fn worth_a_try(found: &Found) -> Option<Duration> {
    let waits = matches!(found.finding, Finding::NotVerified { .. }) && !found.again_after.is_zero();
    waits.then(|| found.again_after.max(RETRY))
}

/// Until when one question is waited for.
fn deadline() -> Instant {
    Instant::now() + WAIT_MAX
}
