//! One sweep, from its beginning to its end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use berth_core::{DeviceId, RegistrationId, Revision, ScopeNo};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;

use super::super::Inner;
use super::compare::{self, Suspect};
use super::list::damaged;
use super::pace::Stop;
use super::report::{SweepPhase, SweepPlan, SweepReport, SweepState};
use super::seen::{HASHES_MAX, Listed, Seen};
use super::{SweepOrder, seen};

/// Places that are listed at once. Each has a budget of its own, so that they do not wait for each other.
const PLACES_MAX: usize = 16;
/// Devices of the directory that are looked at before others get the processor.
const STEP_DEVICES: usize = 20_000;
/// Names of devices at DPS that are not their IDs, kept of devices that the directory lacks; beyond it they are searched
/// for by their IDs only.
const ALIASES_MAX: usize = 100_000;
/// Devices that are known to have been verified in this sweep; beyond it some are verified twice.
const VERIFIED_MAX: usize = 1_000_000;

/// A sweep under way.
pub(super) struct Run {
    pub(super) inner: Arc<Inner>,
    pub(super) term: u64,
    pub(super) seed: u64,
    pub(super) began_ms: u64,
    /// What changed after this was compared by whoever changed it.
    began: Revision,
    /// Hashes held, of all places that are listed now.
    held: AtomicUsize,
    aliases: Mutex<HashMap<DeviceId, (ScopeNo, RegistrationId)>>,
    verified: Mutex<HashSet<u64>>,
    /// Pages still expected, and how many may be read a minute.
    expected: Mutex<BTreeMap<Listed, (u64, u64)>>,
}

impl Inner {
    /// Sweeps, and tells how it ended.
    pub(super) async fn sweep(self: &Arc<Self>, term: u64, order: SweepOrder) {
        let (snapshot, began_ms) = (self.directory.newest(), self.clock.now_ms());
        let plan = self.plan(&snapshot, &order);
        let run = Run {
            inner: Arc::clone(self),
            term,
            seed: seen::hash(began_ms, Listed::Scope(ScopeNo(0)), "seed"),
            began_ms,
            began: snapshot.revision(),
            held: AtomicUsize::new(0),
            aliases: Mutex::default(),
            verified: Mutex::default(),
            expected: Mutex::new(plan.iter().map(|at| (at.place, (at.pages, at.per_minute))).collect()),
        };
        drop(snapshot);
        tracing::info!(places = plan.len(), "a sweep begins");
        let ended = run.places(plan).await;
        let ended = match ended {
            Ok(()) if order.scope.is_none() && order.hub.is_none() => run.recheck().await,
            ended => ended,
        };
        let now_ms = self.clock.now_ms();
        self.sweeps.tell(|report| {
            let state = match ended {
                Err(_) => SweepState::Interrupted,
                Ok(()) if report.problems.is_empty() => SweepState::Completed,
                Ok(()) => SweepState::Incomplete,
            };
            report.end(state, now_ms);
            if state == SweepState::Completed {
                self.metrics.swept(report.of(), now_ms);
            }
            tracing::info!(
                ?state,
                pages = report.pages,
                verified = report.verified,
                found = report.found_in_all(),
                repaired = report.repaired,
                adopted = report.adopted,
                "a sweep ended"
            );
        });
    }
}

impl Run {
    pub(super) fn tell(&self, change: impl FnOnce(&mut SweepReport)) {
        self.inner.sweeps.tell(change);
    }

    /// All places, as many together as there is room for; scopes before hubs.
    async fn places(&self, plan: Vec<SweepPlan>) -> Result<(), Stop> {
        let (hubs, scopes): (Vec<_>, Vec<_>) = plan.into_iter().partition(SweepPlan::is_hub);
        for mut waiting in [scopes, hubs] {
            waiting.reverse();
            while !waiting.is_empty() {
                let mut together = Vec::new();
                let mut room = HASHES_MAX as u64;
                while together.len() < PLACES_MAX
                    && let Some(next) = waiting.pop_if(|next| together.is_empty() || next.weight() <= room)
                {
                    room = room.saturating_sub(next.weight());
                    together.push(next);
                }
                self.together(together).await?;
            }
        }
        Ok(())
    }

    /// Lists places side by side, and walks over the directory for what they did not show.
    async fn together(&self, places: Vec<SweepPlan>) -> Result<(), Stop> {
        self.tell(|report| report.phase = SweepPhase::Listing);
        self.held.store(0, Ordering::Relaxed);
        let mut listing = FuturesUnordered::new();
        for at in &places {
            listing.push(async move { (at, self.list(at.place).await) });
        }
        let (mut shown, mut alone) = (Vec::new(), Vec::new());
        while let Some((at, listed)) = listing.next().await {
            match listed {
                Ok(hashes) => shown.push((at.place, hashes)),
                Err(Stop::Full) if places.len() > 1 => alone.push(at),
                Err(Stop::Full) => self.gap(at, "it shows more than any such service may have"),
                Err(Stop::Gap(problem)) => self.gap(at, &problem),
                Err(Stop::Ended) => return Err(Stop::Ended),
            }
        }
        drop(listing);
        self.walk(Seen::new(self.seed, shown)).await?;
        for at in alone {
            self.held.store(0, Ordering::Relaxed);
            match self.list(at.place).await {
                Ok(hashes) => self.walk(Seen::new(self.seed, [(at.place, hashes)])).await?,
                Err(Stop::Full) => self.gap(at, "it shows more than any such service may have"),
                Err(Stop::Gap(problem)) => self.gap(at, &problem),
                Err(Stop::Ended) => return Err(Stop::Ended),
            }
        }
        Ok(())
    }

    /// Walks over all devices for those that places which were listed to their end did not show. Each step looks at the
    /// newest revision: where a page splits meanwhile, its rows move to a page that is still to come.
    async fn walk(&self, seen: Seen) -> Result<(), Stop> {
        if seen.is_empty() {
            return Ok(());
        }
        self.tell(|report| report.phase = SweepPhase::Walking);
        let mut page = 0;
        loop {
            let snapshot = self.inner.directory.newest();
            let (mut suspects, mut looked, now_ms) = (Vec::new(), 0, self.inner.clock.now_ms());
            while page < snapshot.device_pages() && looked < STEP_DEVICES {
                let visited = snapshot.devices_in_page(page, |device, mapping| {
                    looked += 1;
                    // What changed since then is newer than what was listed.
                    if mapping.revision <= self.began
                        && let Ok(device) = DeviceId::parse(device)
                    {
                        suspects.extend(compare::unseen(&seen, &device, &mapping, now_ms));
                    }
                });
                if let Err(Stop::Gap(problem)) = visited.map_err(damaged) {
                    self.tell(|report| report.problem(problem));
                }
                page += 1;
            }
            let is_last = page >= snapshot.device_pages();
            drop(snapshot);
            self.tell(|report| report.walked += looked as u64);
            self.settle_all(suspects).await?;
            if is_last {
                return Ok(());
            }
            if self.inner.leading_term() != Some(self.term) {
                return Err(Stop::Ended);
            }
            tokio::task::yield_now().await;
        }
    }

    fn gap(&self, at: &SweepPlan, problem: &str) {
        let kind = if at.is_hub() { "hub" } else { "scope" };
        let problem = format!("{kind} `{}` could not be compared: {problem}", at.name);
        tracing::warn!(%problem, "a sweep has a gap");
        self.tell(|report| report.problem(problem));
        self.expected.lock().remove(&at.place);
    }

    /// Notes more hashes that are held.
    pub(super) fn make_room(&self, more: usize) -> Result<(), Stop> {
        let held = self.held.fetch_add(more, Ordering::Relaxed) + more;
        if held > HASHES_MAX { Err(Stop::Full) } else { Ok(()) }
    }

    /// Notes that a page was read.
    pub(super) fn page_read(&self, of: Listed) {
        let mut expected = self.expected.lock();
        if let Some((pages, _)) = expected.get_mut(&of) {
            *pages = pages.saturating_sub(1);
        }
        let reads = expected.values().map(|(_, per_minute)| *per_minute).min().unwrap_or(1);
        self.tell(|report| report.guess(expected.values().copied(), reads));
    }

    /// Notes under which name DPS enrolls a device that the directory lacks, where that is not its ID.
    pub(super) fn note_alias(&self, device: &DeviceId, scope: ScopeNo, registration: &RegistrationId) {
        if registration.same_as(device.as_str()) {
            return;
        }
        let mut aliases = self.aliases.lock();
        if aliases.len() < ALIASES_MAX {
            aliases.insert(device.clone(), (scope, registration.clone()));
        }
    }

    /// Under which name a scope enrolls a device.
    pub(super) fn registration_in(&self, scope: ScopeNo, device: &DeviceId) -> Option<RegistrationId> {
        match self.aliases.lock().get(device) {
            Some((of, registration)) if *of == scope => Some(registration.clone()),
            _ => device.as_registration(),
        }
    }

    /// True the first time that a device comes up in this sweep.
    pub(super) fn is_first(&self, suspect: &Suspect) -> bool {
        let mut verified = self.verified.lock();
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(seen::hash(self.seed, Listed::Scope(ScopeNo(0)), suspect.device().as_str()))
    }
}
