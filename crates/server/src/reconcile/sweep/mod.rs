//! The sweep: all devices compared with Azure, by listings of every DPS instance and every hub, at a pace that leaves
//! reports their share.
//!
//! A listing is a hint: hubs' queries lag, and devices move meanwhile. What it shows to be odd is verified by the same
//! questions that a report causes before anything is listed or repaired. So what a sweep says was so at that moment.

mod compare;
mod left;
mod list;
mod pace;
mod report;
mod run;
mod seen;
mod settle;

use std::time::Duration;

use berth_core::{HubNo, RequestId, ScopeNo};
use parking_lot::Mutex;
use tokio::sync::Notify;

pub(super) use pace::Looked;
pub use report::{SweepPhase, SweepPlan, SweepReport, SweepState};
use seen::Listed;

use super::budget::{rate_of_hub_queries, rate_of_scope};
use super::listing::PAGE_ROWS;
use super::{Inner, Reconciler};
use berth_store::machine::Snapshot;

/// How long a new leader waits before its first sweep, beside up to as much again: it has just been elected, and the
/// leader before it may have swept.
const FIRST_AFTER: Duration = Duration::from_secs(600);
/// Between two looks at whether a sweep is due.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What to sweep, and for whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SweepOrder {
    /// Only this scope's DPS instance and the hubs linked to it.
    pub scope: Option<ScopeNo>,
    /// Only this hub.
    pub hub: Option<HubNo>,
    /// Identity of the request, so that its repeat finds the sweep that it started.
    pub request_id: Option<RequestId>,
}

/// Why no sweep was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoSweep {
    /// This node does not lead.
    NotLeader,
    /// There is one under way.
    Running,
}

/// The sweep of a node: at most one.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    slot: Mutex<Slot>,
    ordered: Notify,
}

#[derive(Debug, Default)]
struct Slot {
    /// Taken up by whoever runs sweeps.
    order: Option<SweepOrder>,
    last: Option<SweepReport>,
    request_id: Option<RequestId>,
    number: u64,
}

impl Sweeps {
    /// Changes what is told of the sweep under way.
    fn tell(&self, change: impl FnOnce(&mut SweepReport)) {
        if let Some(report) = &mut self.slot.lock().last {
            change(report);
        }
    }
}

impl Reconciler {
    /// Starts a sweep; what is told of it so far comes back. The repeat of a request finds the sweep that it started.
    ///
    /// # Errors
    /// [`NoSweep`].
    pub fn start_sweep(&self, order: SweepOrder) -> Result<SweepReport, NoSweep> {
        let inner = &self.inner;
        if inner.leading_term().is_none() {
            return Err(NoSweep::NotLeader);
        }
        let mut slot = inner.sweeps.slot.lock();
        if let Some(last) = &slot.last {
            if order.request_id.is_some() && slot.request_id == order.request_id {
                return Ok(last.clone());
            }
            if last.state == SweepState::Running {
                return Err(NoSweep::Running);
            }
        }
        slot.number += 1;
        let snapshot = inner.directory.newest();
        let report = SweepReport {
            number: slot.number,
            began_ms: inner.clock.now_ms(),
            scope: order.scope.and_then(|no| snapshot.topology().scope(no)).map(|scope| scope.name.clone()),
            hub: order.hub.and_then(|no| snapshot.topology().hub(no)).map(|hub| hub.name.clone()),
            pages_expected: inner.plan(&snapshot, &order).iter().map(|plan| plan.pages).sum(),
            ..SweepReport::default()
        };
        slot.request_id = order.request_id;
        slot.last = Some(report.clone());
        slot.order = Some(order);
        drop(slot);
        inner.sweeps.ordered.notify_one();
        Ok(report)
    }

    /// What is told of the sweep under way, or of the last one that this node began.
    pub fn sweep(&self) -> Option<SweepReport> {
        self.inner.sweeps.slot.lock().last.clone()
    }

    /// What a sweep would have to ask, for each place, by what the directory has there.
    pub fn sweep_plan(&self, snapshot: &Snapshot, order: &SweepOrder) -> Vec<SweepPlan> {
        self.inner.plan(snapshot, order)
    }

    /// Runs the sweeps that are ordered, and one every so often; never by itself where `every` is none. Does not end.
    pub async fn run_sweeps(self, every: Option<Duration>) {
        let inner = self.inner;
        let mut due: Option<(u64, u64)> = None;
        loop {
            let now_ms = inner.clock.now_ms();
            let Some(term) = inner.leading_term() else {
                due = None;
                inner.sweeps.abandon(now_ms);
                let _ = tokio::time::timeout(LOOK_EVERY, inner.sweeps.ordered.notified()).await;
                continue;
            };
            if let Some(every) = every {
                let first_ms = first_after(term, inner.directory.node().id);
                let (_, at_ms) = *due.filter(|(of, _)| *of == term).get_or_insert((term, now_ms + first_ms));
                due = Some((term, at_ms));
                if now_ms >= at_ms {
                    due = Some((term, now_ms.saturating_add(millis(every))));
                    // One that an operator has begun will do.
                    let _ = Self { inner: inner.clone() }.start_sweep(SweepOrder::default());
                }
            }
            let order = inner.sweeps.slot.lock().order.take();
            match order {
                Some(order) => inner.sweep(term, order).await,
                None => {
                    let _ = tokio::time::timeout(LOOK_EVERY, inner.sweeps.ordered.notified()).await;
                }
            }
        }
    }
}

impl Sweeps {
    /// Gives up what was ordered of a node that no longer leads.
    fn abandon(&self, now_ms: u64) {
        let mut slot = self.slot.lock();
        if slot.order.take().is_some()
            && let Some(report) = &mut slot.last
        {
            report.end(SweepState::Interrupted, now_ms);
        }
    }
}

impl Inner {
    /// The places of a sweep, scopes first: what DPS calls a device is known before its hub shows it.
    fn plan(&self, snapshot: &Snapshot, order: &SweepOrder) -> Vec<SweepPlan> {
        let topology = snapshot.topology();
        let of_scope = order.scope.and_then(|no| topology.scope(no));
        let pages = |devices: u64| devices / u64::from(PAGE_ROWS) + 1;
        let scopes = topology.scopes().filter(|scope| {
            let wanted = order.hub.is_none() && order.scope.is_none_or(|no| no == scope.no);
            wanted && !scope.service_host.is_empty()
        });
        let scopes = scopes.map(|scope| {
            let devices = snapshot.scope_devices(scope.no);
            // One more lists the groups.
            let pages = pages(devices) + 1;
            SweepPlan {
                place: Listed::Scope(scope.no),
                name: scope.name.to_string(),
                devices,
                pages,
                per_minute: rate_of_scope(scope),
            }
        });
        let hubs = topology.hubs().filter(|hub| match (order.hub, of_scope) {
            (Some(no), _) => no == hub.no,
            (None, Some(scope)) => scope.linked_hubs.contains(&hub.no),
            (None, None) => order.scope.is_none(),
        });
        let hubs = hubs.map(|hub| {
            let devices = snapshot.hub_seats(hub.no).devices;
            SweepPlan {
                place: Listed::Hub(hub.no),
                name: hub.name.to_string(),
                devices,
                pages: pages(devices),
                per_minute: rate_of_hub_queries(hub),
            }
        });
        scopes.chain(hubs).collect()
    }
}

/// When the first sweep of a term is due, in milliseconds after it began. Spread by term and node, so that clusters which
/// start together do not sweep together.
fn first_after(term: u64, node: u64) -> u64 {
    let first_ms = millis(FIRST_AFTER);
    first_ms + seen::hash(term, Listed::Hub(HubNo(0)), &node.to_string()) % first_ms
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
