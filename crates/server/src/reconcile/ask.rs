//! The questions themselves: each within the budgets of its place, and none for a term that is over.

use std::time::Duration;

use berth_core::reconcile::{Case, IdentitySeen, RegistrationSeen, Verdict, Why, judge};
use berth_core::{DeviceId, Hub, HubNo, RegistrationId, Scope, Timestamp};
use futures_util::future::BoxFuture;

use super::budget::{NoLeave, Place, Rate, rate_of_hub, rate_of_read_through, rate_of_scope};
use super::finding::{Cause, Found};
use super::{Inner, Question, REMEMBER_TROUBLE, Trouble};

/// Operations that a question of DPS may need: the record of the registration, and where there is none the enrollment.
/// Leave is taken for both at once: who gets it for the first alone would ask that again and again.
const DPS_OPERATIONS: u64 = 2;
/// What the enrollment alone is asked.
const ENROLLMENT_OPERATIONS: u64 = 1;
/// What a hub is asked.
const HUB_OPERATIONS: u64 = 1;

/// Why there is no answer.
pub(super) enum NoAnswer {
    /// Nobody was asked. There is no use in remembering that: the next one learns it as cheaply.
    NotAsked(Found),
    /// Azure gave none, which is worth remembering.
    Trouble(Found),
}

impl NoAnswer {
    /// What is told, and for how long in milliseconds it is remembered.
    pub(super) fn told(self) -> (Found, Option<u64>) {
        match self {
            Self::NotAsked(found) => (found, None),
            Self::Trouble(found) => {
                let for_ms = u64::try_from(found.again_after.as_millis()).unwrap_or(u64::MAX);
                (found, Some(for_ms))
            }
        }
    }
}

impl Inner {
    pub(super) async fn ask(&self, question: &Question) -> Result<Verdict, NoAnswer> {
        let Question { term, why, scope, registration, .. } = question;
        let registration = self.ask_dps(*term, *why, scope, registration).await?;
        let topology = question.snapshot.topology();
        let verdict = |identity| {
            let case = Case {
                scope,
                device: &question.device,
                mapping: Some(&question.mapping),
                registration: &registration,
                identity,
                why: *why,
                now: Timestamp(self.clock.now_ms()),
            };
            judge(topology, &case)
        };
        match verdict(None) {
            Verdict::AskIdentity(hub) => {
                let identity = self.ask_hub(question, hub).await?;
                Ok(verdict(Some(identity)))
            }
            decided => Ok(decided),
        }
    }

    /// DPS's word on a registration: its record, and where there is none the enrollment. What is asked for the sake of
    /// lookups is within their share of the budget too.
    pub(super) async fn ask_dps(
        &self,
        term: u64,
        why: Why,
        scope: &Scope,
        registration: &RegistrationId,
    ) -> Result<RegistrationSeen, NoAnswer> {
        let all = (Place::Scope(scope.no), rate_of_scope(scope));
        let share = (Place::ReadThrough(scope.no), rate_of_read_through(scope));
        let rates = [all, share];
        let rates = if why == Why::ReadThrough { &rates[..] } else { &rates[..1] };
        let (place, name) = (all.0, scope.name.as_str());
        self.take_leave(term, rates, DPS_OPERATIONS, name, "get registration")?;
        let record = self.authority.registration(scope, registration);
        let record = self.send(term, (place, name), "get registration", record).await;
        if !matches!(record, Ok(None)) {
            self.of_term(term, |held| held.budgets.give_back(rates));
        }
        if let Some(seen) = record? {
            return Ok(seen);
        }
        let enrollment = self.authority.enrollment(scope, registration);
        let seen = self.send(term, (place, name), "get enrollment", enrollment).await?;
        Ok(seen.unwrap_or(RegistrationSeen::NotEnrolled))
    }

    pub(super) async fn ask_hub(&self, question: &Question, no: HubNo) -> Result<IdentitySeen, NoAnswer> {
        match question.snapshot.topology().hub(no) {
            Some(hub) => self.ask_identity(question.term, hub, &question.device).await,
            None => Err(NoAnswer::NotAsked(Found::superseded())),
        }
    }

    /// A hub's word on a device.
    pub(super) async fn ask_identity(
        &self,
        term: u64,
        hub: &Hub,
        device: &DeviceId,
    ) -> Result<IdentitySeen, NoAnswer> {
        let (place, name) = (Place::Hub(hub.no), hub.name.as_str());
        self.take_leave(term, &[(place, rate_of_hub(hub))], HUB_OPERATIONS, name, "get identity")?;
        let identity = self.authority.identity(&hub.name, device);
        self.send(term, (place, name), "get identity", identity).await
    }

    /// What an enrollment of its own says of a device; `None` where there is none.
    pub(super) async fn ask_enrollment(
        &self,
        term: u64,
        scope: &Scope,
        registration: &RegistrationId,
    ) -> Result<Option<RegistrationSeen>, NoAnswer> {
        let (place, name) = (Place::Scope(scope.no), scope.name.as_str());
        self.take_leave(
            term,
            &[(place, rate_of_scope(scope))],
            ENROLLMENT_OPERATIONS,
            name,
            "get enrollment",
        )?;
        let enrollment = self.authority.enrollment(scope, registration);
        self.send(term, (place, name), "get enrollment", enrollment).await
    }

    /// Leave for so many operations from each of these budgets of one place.
    pub(super) fn take_leave(
        &self,
        term: u64,
        rates: &[Rate],
        operations: u64,
        name: &str,
        operation: &'static str,
    ) -> Result<(), NoAnswer> {
        let now_ms = self.clock.now_ms();
        let leave = match self.leading_term() == Some(term) {
            true => self.of_term(term, |held| held.budgets.take(rates, operations, now_ms)),
            false => None,
        };
        let found = match leave {
            Some(Ok(left)) => {
                self.metrics.left(name, left);
                return Ok(());
            }
            None => Found::superseded(),
            Some(Err(NoLeave::Closed(_, wait))) => {
                self.metrics.called(operation, "over_budget");
                left_alone(name, wait)
            }
            Some(Err(NoLeave::Spent(place, wait))) => {
                self.metrics.called(operation, "over_budget");
                let rate = rates.iter().find(|(of, _)| *of == place);
                let per_minute = rate.map_or(0, |(_, per_minute)| *per_minute);
                let spent = format_args!("the budget of {name} is spent");
                Found::not_verified(spent, wait)
                    .because(Cause::BudgetSpent { place: name.to_owned(), per_minute })
            }
        };
        Err(NoAnswer::NotAsked(found))
    }

    /// One question, for which there is leave.
    async fn send<T>(
        &self,
        term: u64,
        (place, name): (Place, &str),
        operation: &'static str,
        call: BoxFuture<'_, Result<T, Trouble>>,
    ) -> Result<T, NoAnswer> {
        let now_ms = self.clock.now_ms();
        // Much may have happened while the question before was on its way.
        let closed = match self.leading_term() == Some(term) {
            true => self.of_term(term, |held| held.budgets.closed_for(place, now_ms)),
            false => None,
        };
        match closed {
            None => return Err(NoAnswer::NotAsked(Found::superseded())),
            Some(Some(wait)) => {
                return Err(NoAnswer::NotAsked(left_alone(name, wait)));
            }
            Some(None) => {}
        }
        let trouble = match call.await {
            Ok(answer) => {
                self.metrics.called(operation, "ok");
                return Ok(answer);
            }
            Err(trouble) => trouble,
        };
        self.metrics.called(operation, trouble.outcome());
        tracing::warn!(operation, place = name, %trouble, "Azure gave no answer about a device");
        let now_ms = self.clock.now_ms();
        if let Trouble::Throttled { retry_after, .. } = &trouble {
            let closed = self.of_term(term, |held| held.budgets.close(place, *retry_after, now_ms));
            return Err(NoAnswer::Trouble(Found::not_verified(&trouble, closed.unwrap_or_default())));
        }
        Err(NoAnswer::Trouble(Found::not_verified(&trouble, REMEMBER_TROUBLE)))
    }
}

/// What is found where a place has asked to be left alone for so long yet.
fn left_alone(name: &str, wait: Duration) -> Found {
    Found::not_verified(format_args!("{name} asked to be left alone"), wait)
}
