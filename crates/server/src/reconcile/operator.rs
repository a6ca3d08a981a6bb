//! What operators ask of the reconciler: one device now, the list of drift, an end to a drift, and the budgets.

use std::time::Duration;

use berth_core::reconcile::{Absence, REMEMBER_CONFIRMED_MS, Why};
use berth_core::{DeviceId, Epoch, Hub, Scope};
use berth_store::machine::Snapshot;
use tokio::time::Instant;

use super::budget::{HUB_PERCENT, Place, rate_of_hub, rate_of_read_through, rate_of_scope};
use super::drifts::{Aspect, DriftKey, Listed};
use super::sweep::Looked;
use super::{Finding, Found, Inner, Reconciler, WAIT_MAX};

/// A part of the list of drift.
#[derive(Debug, Clone, Default)]
pub struct DriftPage {
    /// Drifts by device ID.
    pub drifts: Vec<(DriftKey, Listed)>,
    /// Whether there are more after them.
    pub has_more: bool,
    /// Drifts that were dropped from the full list in this term.
    pub dropped: u64,
}

/// How often a service of Azure may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetLeft {
    /// Berth's share of what Azure allows, in percent.
    pub share_percent: u8,
    /// Operations a minute that Berth may use.
    pub per_minute: u64,
    /// Operations that may be used at once now.
    pub left: u64,
    /// Until when the place is left alone, in milliseconds since 1970.
    pub closed_until_ms: Option<u64>,
    /// Operations a minute that lookups of unknown devices may use; none of a hub's.
    pub read_through_per_minute: u64,
}

impl Reconciler {
    /// Has Azure asked about a device now, whatever was found of it lately. One that no provisioning service can be
    /// asked about is compared with its hub alone.
    pub async fn verify_now(&self, device: &DeviceId, epoch: Epoch) -> Found {
        let inner = &self.inner;
        let Some(term) = inner.leading_term() else { return Found::superseded() };
        inner.of_term(term, |held| held.memory.forget(device));
        match inner.directory.newest().device(device) {
            Ok(Some(mapping)) if mapping.epoch == epoch && !inner.can_ask_dps(device, &mapping) => {
                inner.verify_by_hub(term, device, &mapping).await
            }
            _ => self.verify_for(Why::Sweep, device, epoch, Instant::now() + WAIT_MAX).await,
        }
    }

    /// Looks again at what else is listed of a device: a disabled enrollment, identities on other hubs.
    pub async fn look_again(&self, device: &DeviceId) {
        let Some(term) = self.inner.leading_term() else { return };
        for (aspect, _) in self.drifts_of(device) {
            self.inner.look_at(term, device, aspect).await;
        }
    }

    /// Looks again at one drift of a device. What was found comes back; where it no longer stands, it is not listed.
    pub async fn verify_drift(&self, device: &DeviceId, epoch: Epoch, aspect: Aspect) -> Found {
        let Some(term) = self.inner.leading_term() else { return Found::superseded() };
        if aspect == Aspect::Own {
            return self.verify_now(device, epoch).await;
        }
        match self.inner.look_at(term, device, aspect).await {
            Looked::Agreed => Found { finding: Finding::Confirmed, again_after: Duration::ZERO },
            Looked::Listed(drift) => Found { finding: Finding::Drift(drift), again_after: Duration::ZERO },
            Looked::Unsure(found) => found,
        }
    }

    /// Looks for a device that the directory does not have in every scope that can be asked, whatever was found of it
    /// lately. The first scope that has it on a hub settles it; where none has, the answer that tells most is given.
    pub async fn look_for(&self, snapshot: &Snapshot, device: &DeviceId) -> Found {
        let Some(term) = self.inner.leading_term() else { return Found::superseded() };
        let deadline = Instant::now() + WAIT_MAX;
        let mut told: Option<Found> = None;
        for scope in snapshot.topology().scopes().filter(|scope| !scope.service_host.is_empty()) {
            self.inner.of_term(term, |held| held.absent.forget(&(scope.no, device.clone())));
            let found = self.search_scope(term, device, None, scope, deadline).await;
            if tells(&found.finding) == TELLS_MOST {
                return found;
            }
            if told.as_ref().is_none_or(|before| tells(&before.finding) < tells(&found.finding)) {
                told = Some(found);
            }
        }
        told.unwrap_or_else(|| {
            Found::not_verified("no scope names a provisioning service that could be asked", Duration::ZERO)
        })
    }

    /// Drifts after this one that `takes` takes; `None` where this node does not lead.
    pub fn drifts(
        &self,
        after: Option<&DriftKey>,
        count: usize,
        takes: impl Fn(&Listed) -> bool,
    ) -> Option<DriftPage> {
        let term = self.inner.leading_term()?;
        self.inner.of_term(term, |held| {
            let mut rows = held.drifts.after(after).filter(|(_, listed)| takes(listed));
            let drifts = rows.by_ref().take(count).map(|(key, listed)| (key.clone(), listed.clone()));
            let drifts: Vec<_> = drifts.collect();
            DriftPage { drifts, has_more: rows.next().is_some(), dropped: held.drifts.dropped() }
        })
    }

    /// The drifts of a device, where any are listed and this node leads.
    pub fn drifts_of(&self, device: &DeviceId) -> Vec<(Aspect, Listed)> {
        let Some(term) = self.inner.leading_term() else { return Vec::new() };
        let of = self.inner.of_term(term, |held| {
            held.drifts.of(device).map(|(aspect, listed)| (aspect, listed.clone())).collect()
        });
        of.unwrap_or_default()
    }

    /// Takes a device from the list of drift; whether it was there.
    pub fn dismiss(&self, device: &DeviceId) -> bool {
        let Some(term) = self.inner.leading_term() else { return false };
        self.inner.of_term(term, |held| held.drifts.unlist_all(device)).unwrap_or_default()
    }

    /// Notes that the directory has taken Azure's side of a device, at this epoch.
    pub fn adopted(&self, device: &DeviceId, aspect: Aspect, epoch: Epoch) {
        let Some(term) = self.inner.leading_term() else { return };
        let now_ms = self.inner.clock.now_ms();
        self.inner.of_term(term, |held| {
            held.memory.put(device.clone(), epoch, Finding::Confirmed, REMEMBER_CONFIRMED_MS, now_ms);
        });
        self.inner.settle(term, device, aspect);
    }

    /// How often the provisioning service of a scope may be asked; `None` where this node does not lead.
    pub fn budget_of_scope(&self, scope: &Scope) -> Option<BudgetLeft> {
        let share = (scope.budget_percent, rate_of_scope(scope));
        let budget = self.inner.budget(Place::Scope(scope.no), share)?;
        Some(BudgetLeft { read_through_per_minute: rate_of_read_through(scope), ..budget })
    }

    /// How often a hub may be asked; `None` where this node does not lead.
    pub fn budget_of_hub(&self, hub: &Hub) -> Option<BudgetLeft> {
        let percent = u8::try_from(HUB_PERCENT).unwrap_or(u8::MAX);
        self.inner.budget(Place::Hub(hub.no), (percent, rate_of_hub(hub)))
    }
}

impl Inner {
    /// Takes one aspect of a device from the list of drift; whether it was there.
    pub(super) fn settle(&self, term: u64, device: &DeviceId, aspect: Aspect) -> bool {
        self.of_term(term, |held| held.drifts.unlist(device, aspect)).unwrap_or_default()
    }

    /// Looks again at a drift that is not of the device's own record and hub.
    async fn look_at(&self, term: u64, device: &DeviceId, aspect: Aspect) -> Looked {
        let snapshot = self.directory.newest();
        match (aspect, snapshot.device(device)) {
            (Aspect::Left(no), _) => match snapshot.topology().hub(no) {
                Some(hub) => self.look_left(term, device, hub).await,
                None => {
                    self.settle(term, device, aspect);
                    Looked::Agreed
                }
            },
            (Aspect::Barred, Ok(Some(mapping))) => self.look_barred(term, device, mapping.epoch).await,
            _ => Looked::Agreed,
        }
    }

    fn budget(&self, place: Place, (share_percent, per_minute): (u8, u64)) -> Option<BudgetLeft> {
        let (term, now_ms) = (self.leading_term()?, self.clock.now_ms());
        let (left, closed_until_ms) =
            self.of_term(term, |held| held.budgets.left(place, per_minute, now_ms))?;
        Some(BudgetLeft { share_percent, per_minute, left, closed_until_ms, read_through_per_minute: 0 })
    }
}

/// A finding that leaves nothing to be looked for.
const TELLS_MOST: u8 = 4;

/// How much a finding of one scope says of a device that may be in another one.
fn tells(finding: &Finding) -> u8 {
    match finding {
        Finding::Negative { kind: Absence::Unknown, drift: None } => 0,
        Finding::Negative { .. } => 1,
        // Where one scope could not be asked, it is not known that the device is nowhere.
        Finding::NotVerified { .. } => 2,
        Finding::Drift(_) => 3,
        Finding::Changed | Finding::Confirmed | Finding::Superseded => TELLS_MOST,
    }
}
