//! What the allocation hook finds in disagreement: listed like all other drift, on the leader.

use berth_core::DeviceId;
use berth_core::reconcile::{Drift, DriftClass};

use super::Reconciler;

/// What the hook lists, and takes from the list when it has a hub to answer.
const OF_THE_HOOK: [DriftClass; 3] =
    [DriftClass::HubNotLinked, DriftClass::HubUnknown, DriftClass::Duplicate];

impl Reconciler {
    /// Lists a disagreement that the allocation hook met.
    pub fn list_allocation(&self, device: &DeviceId, drift: &Drift) {
        let inner = &self.inner;
        let Some(term) = inner.leading_term() else { return };
        inner.of_term(term, |held| {
            held.drifts.set(device, Some(drift.class));
            inner.metrics.set_drift(held.drifts.counts());
        });
    }

    /// Takes from the list what the allocation hook put there of a device, which now has an answer.
    pub fn settle_allocation(&self, device: &DeviceId) {
        let inner = &self.inner;
        let Some(term) = inner.leading_term() else { return };
        inner.of_term(term, |held| {
            if held.drifts.class_of(device).is_some_and(|class| OF_THE_HOOK.contains(&class)) {
                held.drifts.set(device, None);
                inner.metrics.set_drift(held.drifts.counts());
            }
        });
    }
}
