//! ReconcileService: answered by the leader, which alone asks Azure and remembers what it found.

use std::time::Duration;

use berth_core::reconcile::{Absence, Drift, Side, adopt};
use berth_core::{
    Command, DeviceId, Hub, HubName, HubNo, Mapping, Outcome, Scope, ScopeName, ScopeNo, Topology, View,
};
use berth_proto::convert::{
    Consistency, absence_message, drift_from, drift_message, duration_message, known_kind, mapping_message,
    status_message, warning_message,
};
use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::azure_budget::Place;
use berth_proto::v1::reconcile_service_server::ReconcileService;
use berth_proto::v1::{DriftEnd, DriftResolution, ReportFinding};
use berth_store::machine::{Question, Snapshot};
use tonic::{Request, Response, Status};

use super::answer::{Asked, actor_of, misfit};
use super::topology::pages::{page, page_size};
use super::{Api, names};
use crate::directory::{Fresh, data_loss};
use crate::raft::Role;
use crate::reconcile::{Aspect, BudgetLeft, DriftKey, Enforcement, Finding, Listed};

/// Drifts of a page where the caller does not say, and at most.
const DRIFTS_PAGE: (u32, u32) = (100, 1_000);

#[tonic::async_trait]
impl ReconcileService for Api {
    async fn reconcile_device(
        &self,
        request: Request<v1::ReconcileDeviceRequest>,
    ) -> Result<Response<v1::ReconcileDeviceResponse>, Status> {
        Ok(Response::new(self.compare(&request.into_inner()).await?))
    }

    async fn list_drift(
        &self,
        request: Request<v1::ListDriftRequest>,
    ) -> Result<Response<v1::ListDriftResponse>, Status> {
        Ok(Response::new(self.drift_page(&request.into_inner()).await?))
    }

    async fn resolve_drift(
        &self,
        request: Request<v1::ResolveDriftRequest>,
    ) -> Result<Response<v1::ResolveDriftResponse>, Status> {
        let actor = actor_of(&request);
        Ok(Response::new(self.end_drift(actor, &request.into_inner()).await?))
    }

    async fn start_sweep(
        &self,
        request: Request<v1::StartSweepRequest>,
    ) -> Result<Response<v1::StartSweepResponse>, Status> {
        let actor = actor_of(&request);
        Ok(Response::new(self.start(actor, &request.into_inner()).await?))
    }

    async fn get_sweep(
        &self,
        _: Request<v1::GetSweepRequest>,
    ) -> Result<Response<v1::GetSweepResponse>, Status> {
        Ok(Response::new(self.told_sweep().await?))
    }

    async fn get_budget(
        &self,
        request: Request<v1::GetBudgetRequest>,
    ) -> Result<Response<v1::GetBudgetResponse>, Status> {
        Ok(Response::new(self.budgets(&request.into_inner()).await?))
    }
}

impl Api {
    /// The newest revision, read on the leader.
    pub(super) async fn led(&self) -> Result<Fresh, ApiError> {
        let fresh = self.directory.barrier().await?;
        if fresh.role == Role::Leader { Ok(fresh) } else { Err(self.led_elsewhere()) }
    }

    pub(super) fn led_elsewhere(&self) -> ApiError {
        let own = self.directory.node().id;
        ApiError::NotLeader { leader: self.directory.leader().filter(|leader| leader.node_id != own) }
    }

    async fn compare(
        &self,
        asked: &v1::ReconcileDeviceRequest,
    ) -> Result<v1::ReconcileDeviceResponse, ApiError> {
        let device = device_of(&asked.device_id)?;
        let fresh = self.led().await?;
        let found = match mapping_of(&fresh.snapshot, &device)? {
            Some(mapping) => self.reconciler.verify_now(&device, mapping.epoch).await,
            None => self.reconciler.look_for(&fresh.snapshot, &device).await,
        };
        self.reconciler.look_again(&device).await;
        let fresh = self.directory.read(Consistency::Local).await?;
        let (snapshot, topology) = (&fresh.snapshot, fresh.snapshot.topology());
        let mapping = mapping_of(snapshot, &device)?;
        let mut answer = v1::ReconcileDeviceResponse {
            header: Some(self.header(&fresh)),
            again_after: (!found.again_after.is_zero()).then(|| duration_message(found.again_after)),
            ..Default::default()
        };
        let (finding, drift) = match found.finding {
            Finding::Confirmed => (ReportFinding::Confirmed, None),
            Finding::Changed => (ReportFinding::Changed, None),
            Finding::Superseded => (ReportFinding::Stale, None),
            Finding::Drift(drift) => (ReportFinding::Drift, Some(drift)),
            Finding::Negative { kind: Absence::Unknown, .. } if mapping.is_none() => {
                let (kind, device) = (absence_message(Absence::Unknown), device.to_string());
                return Err(ApiError::NoHub { device, kind, epoch: 0, remember_for: found.again_after });
            }
            Finding::Negative { kind, drift } => {
                answer.negative = absence_message(kind) as i32;
                (ReportFinding::Negative, drift)
            }
            Finding::NotVerified { problem, .. } => {
                answer.problem = problem;
                (ReportFinding::NotVerified, None)
            }
        };
        answer.finding = finding as i32;
        // What was listed says since when.
        let (own, others): (Vec<_>, Vec<_>) =
            self.reconciler.drifts_of(&device).into_iter().partition(|(aspect, _)| *aspect == Aspect::Own);
        answer.drift = drift.map(|drift| match own.first() {
            Some((_, listed)) => drift_record(topology, &device, listed),
            None => record(&device, mapping.is_some(), &drift),
        });
        answer.others = others.iter().map(|(_, listed)| drift_record(topology, &device, listed)).collect();
        answer.mapping = mapping.map(|mapping| {
            mapping_message(topology, snapshot.labels(mapping.labels), device.as_str(), &mapping)
        });
        Ok(answer)
    }

    async fn drift_page(&self, asked: &v1::ListDriftRequest) -> Result<v1::ListDriftResponse, ApiError> {
        let count = page_size(asked.page_size, DRIFTS_PAGE)?;
        let class = drift_from(asked.class).map_err(|problem| ApiError::invalid("class", problem))?;
        let after = match asked.page_token.as_str() {
            "" => None,
            token => Some(key_of(token).ok_or_else(|| {
                ApiError::invalid(
                    "page_token",
                    "is none of this list; pass one back exactly as it was received",
                )
            })?),
        };
        let fresh = self.led().await?;
        let scope = scope_of(&fresh.snapshot, &asked.scope)?;
        let takes = |listed: &Listed| {
            class.is_none_or(|class| class == listed.drift.class)
                && scope.is_none_or(|scope| Some(scope) == listed.scope)
        };
        let page = self.reconciler.drifts(after.as_ref(), count as usize, takes);
        let page = page.ok_or_else(|| self.led_elsewhere())?;
        let last = page.drifts.last().filter(|_| page.has_more);
        let topology = fresh.snapshot.topology();
        Ok(v1::ListDriftResponse {
            header: Some(self.header(&fresh)),
            next_page_token: last.map(|(key, _)| token_of(key)).unwrap_or_default(),
            drifts: page
                .drifts
                .iter()
                .map(|((device, _), listed)| drift_record(topology, device, listed))
                .collect(),
            dropped: page.dropped,
        })
    }

    async fn end_drift(
        &self,
        actor: String,
        asked: &v1::ResolveDriftRequest,
    ) -> Result<v1::ResolveDriftResponse, ApiError> {
        let change = Asked::read(actor, &asked.request_id, &asked.reason, asked.validate_only)?;
        let device = device_of(&asked.device_id)?;
        let how = known_kind("way to end a drift", asked.how);
        let how = how.map_err(|problem| ApiError::invalid("how", problem))?;
        let fresh = self.led().await?;
        match how {
            DriftResolution::Unspecified => {
                Err(ApiError::invalid("how", "is missing; say ADOPT, ENFORCE or DISMISS"))
            }
            DriftResolution::Dismiss => {
                let was_listed = match asked.validate_only {
                    true => !self.reconciler.drifts_of(&device).is_empty(),
                    false => self.reconciler.dismiss(&device),
                };
                if !was_listed {
                    return Err(self.no_drift(&device));
                }
                self.drift_ended(&fresh, &device, DriftEnd::Dismissed)
            }
            DriftResolution::Adopt => self.adopt_theirs(&fresh, &change, &device).await,
            DriftResolution::Enforce => self.enforce_ours(&fresh, &change, &device).await,
        }
    }

    /// Takes Azure's side, where Azure says what it said when that was listed.
    async fn adopt_theirs(
        &self,
        fresh: &Fresh,
        change: &Asked,
        device: &DeviceId,
    ) -> Result<v1::ResolveDriftResponse, ApiError> {
        // With the adoption the drift has gone from the list: a repeat finds its outcome in the directory.
        let earlier = |id| fresh.snapshot.view(EarlierOutcome(id)).map_err(|damage| data_loss(&damage));
        if let Some(outcome) = change.request_id().map(earlier).transpose()?.flatten() {
            return Ok(adopted(self.written_header(outcome.revision()), &outcome)?.0);
        }
        let mut drifts = self.reconciler.drifts_of(device);
        // Where there are several, the one that can be taken over is meant.
        drifts.sort_by_key(|(_, listed)| !listed.drift.is_adoptable());
        let (aspect, listed) = drifts.into_iter().next().ok_or_else(|| self.no_drift(device))?;
        let Some(mapping) = mapping_of(&fresh.snapshot, device)? else {
            let problem = "the directory does not have the device; have its hub added and linked first";
            return Err(stands(device, problem));
        };
        let Some(assign) = adopt(device, &mapping, &listed.drift) else {
            let problem = format!(
                "Azure says {}, which the directory cannot take over; assign or remove the device, or dismiss this",
                told(&listed.drift)
            );
            return Err(stands(device, problem));
        };
        if !change.validate_only() {
            let found = self.reconciler.verify_drift(device, mapping.epoch, aspect).await;
            let drift = match found.finding {
                Finding::Drift(drift) | Finding::Negative { drift: Some(drift), .. } => drift,
                Finding::NotVerified { problem, cause } => {
                    return Err(cause.refusal(device, problem, found.again_after));
                }
                Finding::Confirmed
                | Finding::Changed
                | Finding::Superseded
                | Finding::Negative { drift: None, .. } => {
                    let now = self.directory.read(Consistency::Local).await?;
                    return self.drift_ended(&now, device, DriftEnd::Settled);
                }
            };
            if (drift.class, &drift.theirs) != (listed.drift.class, &listed.drift.theirs) {
                let problem = format!("Azure says by now {}; look at it again first", told(&drift));
                return Err(stands(device, problem));
            }
        }
        let (header, outcome) = self.change(change, Command::Assign(assign)).await?;
        let (answer, epoch) = adopted(header, &outcome)?;
        if !change.validate_only() {
            self.reconciler.adopted(device, aspect, epoch);
        }
        Ok(answer)
    }

    /// Makes the provisioning service follow the directory.
    async fn enforce_ours(
        &self,
        fresh: &Fresh,
        change: &Asked,
        device: &DeviceId,
    ) -> Result<v1::ResolveDriftResponse, ApiError> {
        let drifts = self.reconciler.drifts_of(device);
        let (_, listed) = drifts.first().ok_or_else(|| self.no_drift(device))?;
        let mapping = mapping_of(&fresh.snapshot, device)?;
        let Some(mapping) = mapping.filter(|_| listed.drift.is_enforceable()) else {
            let problem = "the provisioning service names no other hub than the directory, so there is nothing to rewrite";
            return Err(stands(device, problem));
        };
        if change.validate_only() {
            return self.drift_ended(fresh, device, DriftEnd::Enforced);
        }
        let found = self.reconciler.verify_now(device, mapping.epoch).await;
        match found.finding {
            Finding::Drift(drift) if drift.is_enforceable() => {}
            Finding::NotVerified { problem, cause } => {
                return Err(cause.refusal(device, problem, found.again_after));
            }
            _ => {
                let now = self.directory.read(Consistency::Local).await?;
                return self.drift_ended(&now, device, DriftEnd::Settled);
            }
        }
        match self.reconciler.enforce(device, mapping.epoch).await {
            Enforcement::Written | Enforcement::Already => {
                self.drift_ended(fresh, device, DriftEnd::Enforced)
            }
            Enforcement::NoLever(problem) => Err(stands(device, problem)),
            Enforcement::NotNow { problem, retry_after } => {
                Err(ApiError::Unverified { device: device.to_string(), problem, retry_after })
            }
        }
    }

    fn drift_ended(
        &self,
        fresh: &Fresh,
        device: &DeviceId,
        end: DriftEnd,
    ) -> Result<v1::ResolveDriftResponse, ApiError> {
        let epoch = mapping_of(&fresh.snapshot, device)?.map_or(0, |mapping| mapping.epoch.0);
        let header = Some(self.header(fresh));
        Ok(v1::ResolveDriftResponse { header, end: end as i32, epoch, warnings: Vec::new() })
    }

    /// The error of a device without drift; of a node that has lost its leadership, and with it the list, that it has.
    fn no_drift(&self, device: &DeviceId) -> ApiError {
        match self.directory.role() {
            Role::Leader => ApiError::DriftUnknown { device: device.to_string() },
            Role::Follower | Role::Learner => self.led_elsewhere(),
        }
    }

    async fn budgets(&self, asked: &v1::GetBudgetRequest) -> Result<v1::GetBudgetResponse, ApiError> {
        let fresh = self.led().await?;
        let topology = fresh.snapshot.topology();
        let wanted_scope = scope_of(&fresh.snapshot, &asked.scope)?;
        let wanted_hub = match asked.hub.as_str() {
            "" => None,
            name => {
                let name = HubName::parse(name).map_err(|error| ApiError::invalid("hub", error))?;
                Some(names::hub_no(&fresh.snapshot, &name)?)
            }
        };
        let mut places: Vec<(String, Asking<'_>)> = Vec::new();
        if wanted_scope.is_none() {
            let hubs = topology.hubs().filter(|hub| wanted_hub.is_none_or(|no| no == hub.no));
            places.extend(hubs.map(|hub| (format!("hub {}", hub.name), Asking::Hub(hub))));
        }
        if wanted_hub.is_none() {
            let scopes = topology.scopes().filter(|scope| wanted_scope.is_none_or(|no| no == scope.no));
            places.extend(scopes.map(|scope| (format!("scope {}", scope.name), Asking::Scope(scope))));
        }
        places.sort_by(|(one, _), (other, _)| one.cmp(other));
        let all = places.iter().map(|(name, place)| (name.as_str(), place));
        let message = |place: &Asking<'_>| self.budget_message(place).unwrap_or_default();
        let (budgets, next) = page(all, asked.page_size, &asked.page_token, |_| true, message)?;
        if budgets.iter().any(|budget| budget.place.is_none()) {
            return Err(self.led_elsewhere());
        }
        Ok(v1::GetBudgetResponse { header: Some(self.header(&fresh)), budgets, next_page_token: next })
    }

    fn budget_message(&self, place: &Asking<'_>) -> Option<v1::AzureBudget> {
        let (place, budget) = match place {
            Asking::Hub(hub) => (Place::Hub(hub.name.to_string()), self.reconciler.budget_of_hub(hub)?),
            Asking::Scope(scope) => {
                (Place::Scope(scope.name.to_string()), self.reconciler.budget_of_scope(scope)?)
            }
        };
        let BudgetLeft { share_percent, per_minute, left, closed_until_ms, read_through_per_minute } = budget;
        Some(v1::AzureBudget {
            place: Some(place),
            share_percent: share_percent.into(),
            per_minute,
            left,
            closed_until: closed_until_ms.map(timestamp),
            read_through_per_minute,
        })
    }
}

/// A service of Azure that is asked.
enum Asking<'a> {
    Hub(&'a Hub),
    Scope(&'a Scope),
}

/// What came of a command under this request ID.
struct EarlierOutcome(berth_core::RequestId);

impl Question for EarlierOutcome {
    type Answer = Option<Outcome>;

    fn ask(self, view: &impl View) -> Self::Answer {
        view.reply(&self.0).map(|reply| reply.outcome)
    }
}

fn adopted(
    header: v1::ResponseHeader,
    outcome: &Outcome,
) -> Result<(v1::ResolveDriftResponse, berth_core::Epoch), ApiError> {
    let Outcome::Assigned { epoch, over_soft, .. } = outcome else { return Err(misfit(outcome)) };
    let warnings = over_soft.iter().map(warning_message).collect();
    let end = DriftEnd::Adopted as i32;
    Ok((v1::ResolveDriftResponse { header: Some(header), end, epoch: epoch.0, warnings }, *epoch))
}

fn stands(device: &DeviceId, problem: impl Into<String>) -> ApiError {
    ApiError::DriftStands { device: device.to_string(), problem: problem.into() }
}

/// What Azure says, in a few words.
fn told(drift: &Drift) -> String {
    match (&drift.theirs.hub, drift.theirs.status) {
        (Some(hub), _) => format!("{}: hub `{hub}`", drift.class.name()),
        (None, Some(status)) => {
            let status = status_message(status).as_str_name();
            format!("{}: {}", drift.class.name(), status.trim_start_matches("MAPPING_STATUS_"))
        }
        (None, None) => format!("{}: nothing of it", drift.class.name()),
    }
}

/// A place in the list of drift, as a page token.
fn token_of((device, aspect): &DriftKey) -> String {
    match aspect {
        Aspect::Own => device.to_string(),
        Aspect::Barred => format!("{device} b"),
        Aspect::Left(HubNo(no)) => format!("{device} {no}"),
    }
}

fn key_of(token: &str) -> Option<DriftKey> {
    // No device ID has a space.
    let (device, aspect) = match token.split_once(' ') {
        None => (token, Aspect::Own),
        Some((device, "b")) => (device, Aspect::Barred),
        Some((device, no)) => (device, Aspect::Left(HubNo(no.parse().ok()?))),
    };
    Some((DeviceId::parse(device).ok()?, aspect))
}

fn device_of(id: &str) -> Result<DeviceId, ApiError> {
    DeviceId::parse(id).map_err(|error| ApiError::invalid("device_id", error))
}

fn mapping_of(snapshot: &Snapshot, device: &DeviceId) -> Result<Option<Mapping>, ApiError> {
    snapshot.device(device).map_err(|damage| data_loss(&damage))
}

/// The scope of a filter; none is named by nothing.
pub(super) fn scope_of(snapshot: &Snapshot, name: &str) -> Result<Option<ScopeNo>, ApiError> {
    if name.is_empty() {
        return Ok(None);
    }
    let name = ScopeName::parse(name).map_err(|error| ApiError::invalid("scope", error))?;
    names::scope_no(snapshot, &name).map(Some)
}

fn drift_record(topology: &Topology, device: &DeviceId, listed: &Listed) -> v1::DriftRecord {
    let scope = listed.scope.and_then(|no| topology.scope(no)).map(|scope| scope.name.to_string());
    let has_mapping = listed.drift.ours.status.is_some();
    v1::DriftRecord {
        since: Some(timestamp(listed.since_ms)),
        scope: scope.unwrap_or_default(),
        ..record(device, has_mapping, &listed.drift)
    }
}

fn record(device: &DeviceId, has_mapping: bool, drift: &Drift) -> v1::DriftRecord {
    let side = |side: &Side| v1::DriftSide {
        hub: side.hub.as_ref().map(ToString::to_string).unwrap_or_default(),
        status: side.status.map(|status| status_message(status) as i32),
    };
    let mut resolutions = vec![DriftResolution::Dismiss as i32];
    if has_mapping && drift.is_adoptable() {
        resolutions.insert(0, DriftResolution::Adopt as i32);
    }
    if has_mapping && drift.is_enforceable() {
        resolutions.push(DriftResolution::Enforce as i32);
    }
    v1::DriftRecord {
        device_id: device.to_string(),
        class: drift_message(drift.class) as i32,
        ours: Some(side(&drift.ours)),
        theirs: Some(side(&drift.theirs)),
        resolutions,
        ..Default::default()
    }
}

pub(super) fn timestamp(ms: u64) -> prost_types::Timestamp {
    let since = Duration::from_millis(ms);
    prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}
