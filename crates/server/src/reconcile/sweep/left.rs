//! Disagreements that DPS's record and a device's own hub do not tell of: an identity on a hub where it does not belong,
//! an enrollment that is disabled while its device is not, and devices that no provisioning service knows.

use berth_core::reconcile::{
    Absence, Case, Drift, DriftClass, IdentitySeen, REMEMBER_DRIFT_MS, REMEMBER_NEGATIVE_MS,
    RegistrationSeen, Side, Verdict, Why, judge,
};
use berth_core::{DeviceId, Epoch, Hub, Mapping, ScopeNo, Status, Timestamp};

use super::super::drifts::Aspect;
use super::super::finding::negative;
use super::super::{Finding, Found, Inner, RETRY, whom_to_ask};
use super::pace::Looked;

impl Inner {
    /// Looks whether a hub has an identity that the directory's mapping does not name, and lists it or takes it from the
    /// list. Where the device is in drift with this very hub, that tells of it already.
    pub(in crate::reconcile) async fn look_left(&self, term: u64, device: &DeviceId, hub: &Hub) -> Looked {
        let aspect = Aspect::Left(hub.no);
        let snapshot = self.directory.newest();
        let mapping = match snapshot.device(device) {
            Ok(mapping) => mapping,
            Err(damage) => return Looked::Unsure(Found::not_verified(damage, RETRY)),
        };
        let is_home = mapping.as_ref().is_some_and(|mapping| mapping.hub == Some(hub.no));
        let own = self.of_term(term, |held| held.drifts.get(device, Aspect::Own).cloned()).flatten();
        if is_home || own.is_some_and(|own| own.drift.theirs.hub.as_ref() == Some(&hub.name)) {
            self.settle(term, device, aspect);
            return Looked::Agreed;
        }
        let status = match self.ask_identity(term, hub, device).await {
            Ok(IdentitySeen::Enabled) => Status::Assigned,
            Ok(IdentitySeen::Disabled) => Status::Disabled,
            Ok(IdentitySeen::Missing) => {
                self.settle(term, device, aspect);
                return Looked::Agreed;
            }
            Err(no_answer) => return Looked::Unsure(no_answer.told().0),
        };
        let our_hub = mapping.as_ref().and_then(|mapping| snapshot.topology().hub(mapping.hub?));
        let drift = Drift {
            class: if mapping.is_some() { DriftClass::Duplicate } else { DriftClass::Orphan },
            ours: Side {
                hub: our_hub.map(|hub| hub.name.clone()),
                status: mapping.as_ref().map(|mapping| mapping.status),
            },
            theirs: Side { hub: Some(hub.name.clone()), status: Some(status) },
        };
        let scope = mapping.and_then(|mapping| mapping.scope);
        self.list(term, device, aspect, &drift, scope)
    }

    /// Looks whether an enrollment is disabled while its device may connect, and lists it or takes it from the list.
    pub(in crate::reconcile) async fn look_barred(
        &self,
        term: u64,
        device: &DeviceId,
        epoch: Epoch,
    ) -> Looked {
        let question = match self.question(term, Why::Sweep, device, epoch) {
            Ok(question) => question,
            Err(found) => return Looked::Unsure(found),
        };
        let scope = &question.scope;
        let registration = match self.ask_enrollment(term, scope, &question.registration).await {
            Ok(seen) => seen,
            Err(no_answer) => return Looked::Unsure(no_answer.told().0),
        };
        let barred = RegistrationSeen::Disabled;
        if registration.as_ref() != Some(&barred) {
            self.settle(term, device, Aspect::Barred);
            return Looked::Agreed;
        }
        let verdict = |identity| {
            let case = Case {
                scope,
                device,
                mapping: Some(&question.mapping),
                registration: &barred,
                identity,
                why: Why::Sweep,
                now: Timestamp(self.clock.now_ms()),
            };
            judge(question.snapshot.topology(), &case)
        };
        let decided = match verdict(None) {
            Verdict::AskIdentity(hub) => match self.ask_hub(&question, hub).await {
                Ok(identity) => verdict(Some(identity)),
                Err(no_answer) => return Looked::Unsure(no_answer.told().0),
            },
            decided => decided,
        };
        match decided {
            Verdict::Drift(drift) if drift.class == DriftClass::Disabled => {
                self.list(term, device, Aspect::Barred, &drift, Some(scope.no))
            }
            // What else is to be said of the device, its record and its hub say.
            _ => {
                self.settle(term, device, Aspect::Barred);
                Looked::Agreed
            }
        }
    }

    /// Compares a device that no provisioning service can be asked about with its hub. The directory stands: who enables
    /// and disables such devices tells it so.
    pub(in crate::reconcile) async fn verify_by_hub(
        &self,
        term: u64,
        device: &DeviceId,
        mapping: &Mapping,
    ) -> Found {
        let snapshot = self.directory.newest();
        let Some(hub) = mapping.hub.and_then(|no| snapshot.topology().hub(no)) else {
            return Found::not_verified(
                "the device is in no scope whose provisioning service may be asked, and on no hub",
                std::time::Duration::ZERO,
            );
        };
        let identity = match self.ask_identity(term, hub, device).await {
            Ok(identity) => identity,
            Err(no_answer) => return no_answer.told().0,
        };
        let theirs = match identity {
            IdentitySeen::Enabled => Some(Status::Assigned),
            IdentitySeen::Disabled => Some(Status::Disabled),
            IdentitySeen::Missing => None,
        };
        let class = match theirs {
            None => DriftClass::Missing,
            Some(status) if status == mapping.status => {
                self.settle(term, device, Aspect::Own);
                let finding = match status {
                    Status::Disabled => negative(Absence::Disabled),
                    _ => Finding::Confirmed,
                };
                return Found { finding, again_after: std::time::Duration::ZERO };
            }
            Some(_) => DriftClass::Disabled,
        };
        let drift = Drift {
            class,
            ours: Side { hub: Some(hub.name.clone()), status: Some(mapping.status) },
            theirs: Side { hub: None, status: theirs },
        };
        self.list(term, device, Aspect::Own, &drift, mapping.scope);
        let (finding, for_ms) = match theirs {
            None => (Finding::Negative { kind: Absence::Missing, drift: Some(drift) }, REMEMBER_NEGATIVE_MS),
            Some(_) => (Finding::Drift(drift), REMEMBER_DRIFT_MS),
        };
        Found { finding, again_after: std::time::Duration::from_millis(for_ms) }
    }

    /// Whether there is a provisioning service that knows this device by a name.
    pub(in crate::reconcile) fn can_ask_dps(&self, device: &DeviceId, mapping: &Mapping) -> bool {
        whom_to_ask(&self.directory.newest(), device, mapping).is_ok()
    }

    fn list(
        &self,
        term: u64,
        device: &DeviceId,
        aspect: Aspect,
        drift: &Drift,
        scope: Option<ScopeNo>,
    ) -> Looked {
        let now_ms = self.clock.now_ms();
        let listed = self.of_term(term, |held| {
            held.drifts.list(device, aspect, drift, scope, now_ms);
        });
        match listed {
            Some(()) => Looked::Listed(drift.clone()),
            None => Looked::Unsure(Found::superseded()),
        }
    }
}
