//! What a caller saw at a hub: the epoch rule, the way to the leader, and the answer.

use std::time::Duration;

use berth_core::{DeviceId, Epoch, HubName, Mapping, Rejection};
use berth_proto::convert::{Consistency, absence_message, drift_message, duration_message, known_kind};
use berth_proto::error::ApiError;
use berth_proto::internal as peer;
use berth_proto::v1::report_response::Result as Answer;
use berth_proto::v1::{HubObservation, NegativeKind, ReportFinding, ReportRequest, ReportResponse};
use berth_store::machine::Snapshot;

use super::Api;
use super::lookup::{negative_message, result_of};
use super::names::{self, Named};
use crate::directory::data_loss;
use crate::raft::Role;
use crate::reconcile::{Finding, Found};

/// Who brings a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// Its caller.
    Client,
    /// Another node, which is not to be sent on.
    Peer,
}

/// A legal report.
struct Report {
    device: DeviceId,
    hub: HubName,
    epoch: Epoch,
    observation: HubObservation,
}

impl Report {
    fn read(asked: &ReportRequest) -> Result<Self, ApiError> {
        let observation = known_kind("observation", asked.observation)
            .map_err(|problem| ApiError::invalid("observation", problem))?;
        if observation == HubObservation::Unspecified {
            return Err(ApiError::invalid("observation", "is missing; say what was seen at the hub"));
        }
        Ok(Self {
            device: DeviceId::parse(&asked.device_id).map_err(|e| ApiError::invalid("device_id", e))?,
            hub: HubName::parse(&asked.hub).map_err(|e| ApiError::invalid("hub", e))?,
            epoch: Epoch(asked.epoch),
            observation,
        })
    }

    /// What can be said of the report without Azure; `None` where Azure has to be asked.
    fn without_azure(
        &self,
        snapshot: &Snapshot,
        mapping: &Mapping,
    ) -> Result<Option<ReportFinding>, ApiError> {
        if self.epoch > mapping.epoch {
            let (expected, actual) = (self.epoch, mapping.epoch);
            let device = self.device.to_string();
            return Err(Rejection::EpochMismatch { device, expected, actual }.into());
        }
        if self.epoch < mapping.epoch {
            return Ok(Some(ReportFinding::Stale));
        }
        let hub = mapping.hub.and_then(|no| snapshot.topology().hub(no)).map(|hub| &hub.name);
        if hub != Some(&self.hub) {
            let told = hub.map_or("no hub", HubName::as_str);
            let problem = format!(
                "`{}` is not the hub of epoch {}, which is {told}; report what was called",
                self.hub, self.epoch
            );
            return Err(ApiError::invalid("hub", problem));
        }
        match self.observation {
            HubObservation::NotFound | HubObservation::Disabled => Ok(None),
            // A device that is not connected is where it is all the same.
            HubObservation::Ok | HubObservation::Offline | HubObservation::Unspecified => {
                Ok(Some(ReportFinding::NothingToCheck))
            }
        }
    }
}

impl Api {
    /// Takes a report, on any node.
    pub(super) async fn take_report(
        &self,
        asked: ReportRequest,
        from: From,
    ) -> Result<ReportResponse, ApiError> {
        let report = Report::read(&asked)?;
        let fresh = self.directory.barrier().await?;
        let Some(mapping) = mapping_of(&fresh.snapshot, &report.device)? else {
            let (kind, remember_for) = names::negative(None).unwrap_or_default();
            return Err(ApiError::NoHub { device: report.device.to_string(), kind, epoch: 0, remember_for });
        };
        if let Some(finding) = report.without_azure(&fresh.snapshot, &mapping)? {
            let answer = mapped(&fresh.snapshot, &report.device, &mapping);
            let header = Some(self.header(&fresh));
            return Ok(ReportResponse {
                header,
                result: Some(answer),
                finding: finding as i32,
                ..Default::default()
            });
        }
        if fresh.role == Role::Leader {
            let found = self.reconciler.verify(&report.device, report.epoch).await;
            return self.answer_report(&report.device, report.epoch, found).await;
        }
        if from == From::Peer {
            return Err(ApiError::NotLeader { leader: None });
        }
        let call = peer::ForwardRequest { call: Some(peer::forward_request::Call::Report(asked)) };
        match self.reconciler.forward(call).await?.answer {
            Some(peer::forward_response::Answer::Report(answer)) => Ok(answer),
            _ => Err(ApiError::NoQuorum { cause: "the leader gave no answer to the report".to_owned() }),
        }
    }

    async fn answer_report(
        &self,
        device: &DeviceId,
        epoch: Epoch,
        mut found: Found,
    ) -> Result<ReportResponse, ApiError> {
        let fresh = self.directory.read(Consistency::Local).await?;
        let Some(mapping) = mapping_of(&fresh.snapshot, device)? else {
            let (kind, remember_for) = names::negative(None).unwrap_or_default();
            return Err(ApiError::NoHub { device: device.to_string(), kind, epoch: 0, remember_for });
        };
        // The device may have changed after it was verified, and what was found is not about what it is now.
        if mapping.epoch != epoch && found.finding != Finding::Changed {
            found = Found { finding: Finding::Superseded, again_after: Duration::ZERO };
        }
        let again_after = (!found.again_after.is_zero()).then(|| duration_message(found.again_after));
        let mut answer = ReportResponse {
            header: Some(self.header(&fresh)),
            result: Some(mapped(&fresh.snapshot, device, &mapping)),
            retry_after: again_after,
            ..ReportResponse::default()
        };
        let (finding, drift) = match found.finding {
            Finding::Confirmed => (ReportFinding::Confirmed, None),
            Finding::Changed => (ReportFinding::Changed, None),
            Finding::Superseded => (ReportFinding::Stale, None),
            Finding::Drift(drift) => (ReportFinding::Drift, Some(drift)),
            Finding::Negative { kind, drift } => {
                let negative = Some((absence_message(kind), found.again_after.max(Duration::from_secs(1))));
                answer.result = Some(Answer::Negative(negative_message(negative, Some(&mapping), true)));
                (ReportFinding::Negative, drift)
            }
            Finding::NotVerified { problem, .. } => {
                answer.problem = problem;
                (ReportFinding::NotVerified, None)
            }
        };
        answer.finding = finding as i32;
        if let Some(drift) = drift {
            answer.drift = drift_message(drift.class) as i32;
            answer.other_hub = drift.theirs.hub.map(|hub| hub.to_string()).unwrap_or_default();
        }
        Ok(answer)
    }
}

fn mapping_of(snapshot: &Snapshot, device: &DeviceId) -> Result<Option<Mapping>, ApiError> {
    snapshot.device(device).map_err(|damage| data_loss(&damage))
}

/// The mapping as an answer: a hub to call, or why there is none.
fn mapped(snapshot: &Snapshot, device: &DeviceId, mapping: &Mapping) -> Answer {
    match names::negative(Some(mapping)) {
        None => Answer::Found(result_of(snapshot, &Named::Device(device.clone()), device.as_str(), mapping)),
        Some((kind, remember_for)) => {
            let negative: Option<(NegativeKind, Duration)> = Some((kind, remember_for));
            Answer::Negative(negative_message(negative, Some(mapping), true))
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_core::reconcile::{Absence, Drift, DriftClass, Side};

    use super::*;
    use crate::reconcile::Cause;
    use crate::run::tests::asking::Asking;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_was_found_of_an_epoch_is_not_said_of_the_next_one() {
        let mut stage = Asking::start().await;
        let (device, then) = (DeviceId::parse("d-1").unwrap(), stage.assign("d-1", 0).await);
        let drift = Drift { class: DriftClass::Pending, ours: Side::default(), theirs: Side::default() };
        let findings = [
            (Finding::Confirmed, ReportFinding::Confirmed),
            (Finding::Drift(drift.clone()), ReportFinding::Drift),
            (Finding::Negative { kind: Absence::Missing, drift: Some(drift) }, ReportFinding::Negative),
            (
                Finding::NotVerified { problem: "no route".to_owned(), cause: Cause::Away },
                ReportFinding::NotVerified,
            ),
        ];
        let found =
            |finding: &Finding| Found { finding: finding.clone(), again_after: Duration::from_secs(5) };
        for (finding, told) in &findings {
            let answer = stage.api().answer_report(&device, then, found(finding)).await.unwrap();
            assert_eq!((answer.finding(), answer.retry_after.is_some()), (*told, true), "{answer:?}");
        }
        // It is moved after that was found, and before it is told.
        let now = stage.assign("d-1", 1).await;
        for (finding, _) in &findings {
            let answer = stage.api().answer_report(&device, then, found(finding)).await.unwrap();
            assert_eq!((answer.finding(), answer.retry_after), (ReportFinding::Stale, None), "{answer:?}");
            assert!(
                answer.problem.is_empty() && answer.other_hub.is_empty() && answer.drift == 0,
                "{answer:?}"
            );
            let Some(Answer::Found(mapped)) = answer.result else { panic!("{answer:?}") };
            assert_eq!((mapped.hub.as_str(), mapped.epoch), ("hub-2.azure-devices.net", now.0));
        }
        // Who changed it knows of the change.
        let changed = Found { finding: Finding::Changed, again_after: Duration::ZERO };
        let answer = stage.api().answer_report(&device, then, changed).await.unwrap();
        assert_eq!(answer.finding(), ReportFinding::Changed);
        stage.stop().await;
    }
}
