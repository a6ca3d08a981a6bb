//! What the allocation hook finds in disagreement: listed like all other drift, on the leader.

use berth_core::reconcile::{Drift, DriftClass};
use berth_core::{DeviceId, ScopeNo};

use super::Reconciler;
use super::drifts::Aspect;

/// What the hook lists, and takes from the list when it has a hub to answer.
const OF_THE_HOOK: [DriftClass; 3] =
    [DriftClass::HubNotLinked, DriftClass::HubUnknown, DriftClass::Duplicate];

impl Reconciler {
    /// Lists a disagreement that the allocation hook met in this scope.
    pub fn list_allocation(&self, device: &DeviceId, drift: &Drift, scope: ScopeNo) {
        let inner = &self.inner;
        let Some(term) = inner.leading_term() else { return };
        let now_ms = inner.clock.now_ms();
        inner.of_term(term, |held| held.drifts.list(device, Aspect::Own, drift, Some(scope), now_ms));
    }

    /// Takes from the list what the allocation hook put there of a device, which now has an answer.
    pub fn settle_allocation(&self, device: &DeviceId) {
        let inner = &self.inner;
        let Some(term) = inner.leading_term() else { return };
        inner.of_term(term, |held| {
            let own = held.drifts.get(device, Aspect::Own);
            if own.is_some_and(|listed| OF_THE_HOOK.contains(&listed.drift.class)) {
                held.drifts.unlist(device, Aspect::Own);
            }
        });
    }
}
