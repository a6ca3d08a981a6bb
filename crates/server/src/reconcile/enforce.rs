//! Making DPS follow: a device's own enrollment is rewritten so that the device is assigned to the directory's hub when it
//! registers again. Until it does, the two stay in disagreement.

use std::time::Duration;

use berth_core::reconcile::Why;
use berth_core::{DeviceId, Epoch};

use super::authority::{ENFORCE_CALLS, Enforced, Trouble};
use super::budget::{Place, rate_of_scope};
use super::{Finding, Found, Inner, RETRY, Reconciler};

/// A write starts only while a quorum has answered this leader so lately: another one would not know of it.
const QUORUM_AGE_MAX: Duration = Duration::from_millis(500);
/// How long it is known that the enrollment of a device was rewritten at an epoch, in milliseconds. Who forgets it reads
/// the enrollment again, and finds it as it should be.
const REMEMBER_ENFORCED_MS: u64 = 24 * 3_600_000;

/// What came of making DPS follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enforcement {
    /// The enrollment was rewritten.
    Written,
    /// It says so already: the device has only to register.
    Already,
    /// There is no way; why, for people.
    NoLever(String),
    /// It could not be done now.
    NotNow {
        /// What stood in the way.
        problem: String,
        /// When to try again.
        retry_after: Duration,
    },
}

impl Reconciler {
    /// Makes DPS follow the directory over a device, at this epoch.
    pub async fn enforce(&self, device: &DeviceId, epoch: Epoch) -> Enforcement {
        match self.inner.leading_term() {
            Some(term) => self.inner.enforce(term, device, epoch).await,
            None => not_now("the leadership changed", RETRY),
        }
    }
}

impl Inner {
    /// As [`Reconciler::enforce`], in one term. At most one write takes effect for a device and epoch: this term remembers
    /// it, and another one finds the enrollment written.
    pub(super) async fn enforce(&self, term: u64, device: &DeviceId, epoch: Epoch) -> Enforcement {
        let now_ms = self.clock.now_ms();
        let done = self.of_term(term, |held| held.enforced.get(device, epoch, now_ms)).flatten();
        if done.is_some() {
            return Enforcement::Already;
        }
        let question = match self.question(term, Why::Sweep, device, epoch) {
            Ok(question) => question,
            Err(found) => return not_done(found),
        };
        let hub = question.mapping.hub.filter(|hub| question.scope.linked_hubs.contains(hub));
        let Some(hub) = hub.and_then(|no| question.snapshot.topology().hub(no)) else {
            let problem = "the device has no hub that its scope is linked to; link it first";
            return Enforcement::NoLever(problem.to_owned());
        };
        let scope = &question.scope;
        let place = Place::Scope(scope.no);
        for _ in 0..ENFORCE_CALLS {
            let rate = [(place, rate_of_scope(scope))];
            if let Err(no_answer) = self.take_leave(term, &rate, 1, scope.name.as_str(), "put enrollment") {
                return not_done(no_answer.told().0);
            }
        }
        let status = self.raft.status();
        if status.term != term || !status.leads || status.is_silent_for(QUORUM_AGE_MAX) {
            return not_now("no quorum has answered the leader just now", RETRY);
        }
        let enforced = match self.authority.enforce(scope, &question.registration, &hub.name).await {
            Ok(enforced) => {
                self.metrics.called("put enrollment", "ok");
                enforced
            }
            Err(trouble) => {
                self.metrics.called("put enrollment", trouble.outcome());
                tracing::warn!(place = %scope.name, %trouble, "DPS could not be made to follow");
                let now_ms = self.clock.now_ms();
                let wait = match &trouble {
                    Trouble::Throttled { retry_after, .. } => {
                        self.of_term(term, |held| held.budgets.close(place, *retry_after, now_ms))
                    }
                    _ => None,
                };
                return not_now(trouble, wait.unwrap_or(super::REMEMBER_TROUBLE));
            }
        };
        let enforcement = match enforced {
            Enforced::Written => Enforcement::Written,
            Enforced::Already => Enforcement::Already,
            Enforced::NoLever(why) => return Enforcement::NoLever(why.to_owned()),
            Enforced::Changed => return not_now("somebody else changed the enrollment meanwhile", RETRY),
        };
        let (device, now_ms) = (device.clone(), self.clock.now_ms());
        self.of_term(term, |held| {
            held.enforced.put(device, epoch, Finding::Confirmed, REMEMBER_ENFORCED_MS, now_ms);
        });
        enforcement
    }
}

fn not_now(problem: impl ToString, retry_after: Duration) -> Enforcement {
    not_done(Found::not_verified(problem, retry_after))
}

fn not_done(found: Found) -> Enforcement {
    match found.finding {
        Finding::NotVerified { problem, .. } if found.again_after.is_zero() => Enforcement::NoLever(problem),
        Finding::NotVerified { problem, .. } => {
            Enforcement::NotNow { problem, retry_after: found.again_after }
        }
        _ => Enforcement::NotNow { problem: "the device changed meanwhile".to_owned(), retry_after: RETRY },
    }
}
