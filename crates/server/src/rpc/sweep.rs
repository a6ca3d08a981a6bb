//! Sweeps, as ReconcileService tells of them.

use std::time::Duration;

use berth_core::HubName;
use berth_proto::convert::{drift_message, duration_message};
use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::planned_place::Place;

use super::answer::Asked;
use super::reconcile::{scope_of, timestamp};
use super::{Api, names};
use crate::reconcile::{NoSweep, SweepOrder, SweepPhase, SweepPlan, SweepReport, SweepState};

/// Places of a plan that are told one by one.
const PLACES_TOLD_MAX: usize = 1_000;

impl Api {
    pub(super) async fn start(
        &self,
        actor: String,
        asked: &v1::StartSweepRequest,
    ) -> Result<v1::StartSweepResponse, ApiError> {
        let change = Asked::read(actor, &asked.request_id, &asked.reason, asked.validate_only)?;
        if !asked.scope.is_empty() && !asked.hub.is_empty() {
            return Err(ApiError::invalid("hub", "is named beside a scope; name one of them, or neither"));
        }
        let fresh = self.led().await?;
        let scope = scope_of(&fresh.snapshot, &asked.scope)?;
        let hub = match asked.hub.as_str() {
            "" => None,
            name => {
                let name = HubName::parse(name).map_err(|error| ApiError::invalid("hub", error))?;
                Some(names::hub_no(&fresh.snapshot, &name)?)
            }
        };
        let order = SweepOrder { scope, hub, request_id: change.request_id() };
        let plan = self.reconciler.sweep_plan(&fresh.snapshot, &order);
        let takes_ms = plan.iter().map(SweepPlan::takes_ms).max().unwrap_or_default();
        let calls = plan.iter().map(|place| place.pages).sum();
        let sweep = match change.validate_only() {
            true => None,
            false => match self.reconciler.start_sweep(order) {
                Ok(report) => {
                    tracing::info!(who = ?change, number = report.number, "a sweep is ordered");
                    Some(sweep_message(&report))
                }
                Err(NoSweep::NotLeader) => return Err(self.led_elsewhere()),
                Err(NoSweep::Running) => return Err(ApiError::SweepRunning),
            },
        };
        Ok(v1::StartSweepResponse {
            header: Some(self.header(&fresh)),
            sweep,
            plan: plan.iter().take(PLACES_TOLD_MAX).map(place_message).collect(),
            calls,
            takes: Some(duration_message(Duration::from_millis(takes_ms))),
        })
    }

    pub(super) async fn told_sweep(&self) -> Result<v1::GetSweepResponse, ApiError> {
        let fresh = self.led().await?;
        let sweep = self.reconciler.sweep().as_ref().map(sweep_message);
        Ok(v1::GetSweepResponse { header: Some(self.header(&fresh)), sweep })
    }
}

fn place_message(plan: &SweepPlan) -> v1::PlannedPlace {
    let place = if plan.is_hub() { Place::Hub(plan.name.clone()) } else { Place::Scope(plan.name.clone()) };
    v1::PlannedPlace {
        place: Some(place),
        devices: plan.devices,
        calls: plan.pages,
        takes: Some(duration_message(Duration::from_millis(plan.takes_ms()))),
    }
}

fn sweep_message(report: &SweepReport) -> v1::Sweep {
    let state = match report.state {
        SweepState::Running => v1::SweepState::Running,
        SweepState::Completed => v1::SweepState::Completed,
        SweepState::Incomplete => v1::SweepState::Incomplete,
        SweepState::Interrupted => v1::SweepState::Interrupted,
    };
    let phase = match report.phase {
        SweepPhase::Listing => v1::SweepPhase::Listing,
        SweepPhase::Walking => v1::SweepPhase::Walking,
        SweepPhase::Rechecking => v1::SweepPhase::Rechecking,
        SweepPhase::Ended => v1::SweepPhase::Unspecified,
    };
    let found = report
        .found
        .iter()
        .map(|(class, count)| v1::DriftCount { class: drift_message(*class) as i32, count: *count });
    v1::Sweep {
        number: report.number,
        state: state as i32,
        phase: phase as i32,
        began: Some(timestamp(report.began_ms)),
        ended: report.ended_ms.map(timestamp),
        scope: report.scope.as_ref().map(ToString::to_string).unwrap_or_default(),
        hub: report.hub.as_ref().map(ToString::to_string).unwrap_or_default(),
        pages: report.pages,
        pages_expected: report.pages_expected,
        rows: report.rows,
        odd_rows: report.odd_rows,
        walked: report.walked,
        waiting: report.waiting,
        verified: report.verified,
        found: found.collect(),
        repaired: report.repaired,
        adopted: report.adopted,
        released: report.released,
        unverified: report.unverified,
        enforced: report.enforced,
        problems: report.problems.clone(),
        left: report.left_ms().map(|ms| duration_message(Duration::from_millis(ms))),
    }
}
