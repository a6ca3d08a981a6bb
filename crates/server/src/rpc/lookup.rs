//! LookupService: the hot path.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use berth_core::{DeviceId, DeviceIdRef, Epoch, HubNo, Mapping, ObjectKind, Rejection, RouteKey};
use berth_proto::convert::{
    Consistency, PackedIds, duration_message, evidence_of, state_message, status_message,
};
use berth_proto::error::ApiError;
use berth_proto::internal as peer;
use berth_proto::v1::lookup_request::Device;
use berth_proto::v1::lookup_response::Result as LookupAnswer;
use berth_proto::v1::lookup_service_server::LookupService;
use berth_proto::v1::lookup_stream_response::Result as StreamAnswer;
use berth_proto::v1::{
    AcceptState, BatchHub, BatchLookupRequest, BatchLookupResponse, BatchNegative, LookupRequest,
    LookupResponse, LookupResult, LookupRouteRequest, LookupRouteResponse, LookupStreamRequest,
    LookupStreamResponse, Negative, NegativeKind, ReportRequest, ReportResponse,
};
use berth_store::machine::Snapshot;
use futures_util::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};

use super::Api;
use super::names::{self, Found, Named};
use super::report::From as Bearer;
use crate::directory::{Fresh, data_loss};
use crate::edge::LookupGate;
use crate::metrics::LookupOutcome;
use crate::raft::Role;

/// Most IDs of one batch: its answer must stay within a few milliseconds and megabytes.
const BATCH_IDS_MAX: usize = 10_000;
/// Lookups of one stream that are answered at once; beyond it the stream is not read on.
const STREAM_IN_FLIGHT_MAX: usize = 256;
/// After which a caller asks again where the leadership changed while its device was looked for.
const RETRY_AFTER_CHANGE: Duration = Duration::from_secs(1);
/// IDs of a batch that are answered in a row before other calls get their turn.
const BATCH_TURN: usize = 1_024;

#[tonic::async_trait]
impl LookupService for Api {
    type LookupStreamStream = Pin<Box<dyn Stream<Item = Result<LookupStreamResponse, Status>> + Send>>;

    async fn lookup(&self, request: Request<LookupRequest>) -> Result<Response<LookupResponse>, Status> {
        Ok(Response::new(self.look_up(request.into_inner()).await?))
    }

    async fn batch_lookup(
        &self,
        request: Request<BatchLookupRequest>,
    ) -> Result<Response<BatchLookupResponse>, Status> {
        Ok(Response::new(self.look_up_batch(&request.into_inner()).await?))
    }

    async fn lookup_stream(
        &self,
        request: Request<Streaming<LookupStreamRequest>>,
    ) -> Result<Response<Self::LookupStreamStream>, Status> {
        let api = self.clone();
        let gate = request.extensions().get::<LookupGate>().cloned();
        let answers = request.into_inner().map(move |message| {
            let (api, gate) = (api.clone(), gate.clone());
            async move { Ok(api.look_up_tagged(message?, gate.as_ref()).await) }
        });
        Ok(Response::new(Box::pin(answers.buffer_unordered(STREAM_IN_FLIGHT_MAX))))
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        Ok(Response::new(self.take_report(request.into_inner(), Bearer::Client).await?))
    }

    async fn lookup_route(
        &self,
        request: Request<LookupRouteRequest>,
    ) -> Result<Response<LookupRouteResponse>, Status> {
        let asked = request.into_inner();
        let key = RouteKey::parse(&asked.key).map_err(|error| ApiError::invalid("key", error))?;
        let consistency = Consistency::from_message(asked.consistency.as_ref())?;
        let find = |snapshot: &Snapshot| {
            let topology = snapshot.topology();
            let found = topology.route(&key).and_then(|route| Some((route, topology.stamp(route.stamp)?)));
            let (route, stamp) = found.ok_or_else(|| names::unknown(ObjectKind::Route, &key))?;
            Ok(LookupRouteResponse {
                header: None,
                key: key.to_string(),
                stamp: stamp.name.to_string(),
                app_endpoint: stamp.app_endpoint.clone(),
                state: state_message(stamp.state) as i32,
                revision: route.revision.0,
            })
        };
        let found = self.directory.find(consistency, find).await;
        // A node that could not answer has looked nothing up.
        if found.as_ref().map_or_else(|error| error.code() == Code::NotFound, |_| true) {
            self.directory.work().route_looked_up();
        }
        let (fresh, answer) = found?;
        Ok(Response::new(LookupRouteResponse { header: Some(self.header(&fresh)), ..answer }))
    }
}

impl Api {
    async fn look_up(&self, asked: LookupRequest) -> Result<LookupResponse, ApiError> {
        let answer = self.find_hub(asked).await;
        if let Some(outcome) = outcome_of(&answer) {
            self.directory.work().looked_up(outcome, 1);
        }
        answer
    }

    async fn find_hub(&self, asked: LookupRequest) -> Result<LookupResponse, ApiError> {
        let named = match &asked.device {
            Some(Device::DeviceId(id)) => Named::device(id)?,
            Some(Device::Registration(registration)) => Named::registration(registration)?,
            None => {
                return Err(ApiError::invalid("device_id", "is missing; name a device or a registration"));
            }
        };
        let consistency = Consistency::from_message(asked.consistency.as_ref())?;
        let (fresh, found) = self.directory.find(consistency, |snapshot| named.find(snapshot)).await?;
        if let (None, Some(mapping)) = (names::negative(found.mapping.as_ref()), &found.mapping) {
            let result = result_of(&fresh.snapshot, &named, &found.name, mapping);
            return Ok(self.looked_up(&fresh, LookupAnswer::Found(result)));
        }
        if consistency != Consistency::Linearizable {
            let negative = names::negative(found.mapping.as_ref());
            let negative = negative_message(negative, found.mapping.as_ref(), false);
            return Ok(self.looked_up(&fresh, LookupAnswer::Negative(negative)));
        }
        let (fresh, found) = self.look_further(&named, fresh, found).await?;
        match (names::negative(found.mapping.as_ref()), &found.mapping) {
            (None, Some(mapping)) => {
                let result = result_of(&fresh.snapshot, &named, &found.name, mapping);
                Ok(self.looked_up(&fresh, LookupAnswer::Found(result)))
            }
            (Some(_), None) if matches!(named, Named::Registration { .. }) => Err(named.unknown()),
            (negative, mapping) => {
                let negative = negative_message(negative, mapping.as_ref(), true);
                Err(no_hub(found, &negative))
            }
        }
    }

    fn looked_up(&self, fresh: &Fresh, result: LookupAnswer) -> LookupResponse {
        LookupResponse { header: Some(self.header(fresh)), result: Some(result) }
    }

    /// What there is of a device for which a linearizable lookup has found no hub to call, after Azure was asked where it
    /// may be asked: about a device that the directory does not have, and about one whose status says that it has no hub.
    async fn look_further(
        &self,
        named: &Named,
        fresh: Fresh,
        found: Found,
    ) -> Result<(Fresh, Found), ApiError> {
        let look_again = match (named, &found.mapping) {
            (Named::Device(device), None) if self.reconciler.reads_through(&fresh.snapshot, device) => {
                self.read_through(device, fresh.role).await?;
                true
            }
            (_, None) => false,
            (_, Some(mapping)) => {
                let device = DeviceId::parse(&found.name).ok();
                let may = |device: &DeviceId| self.reconciler.may_recheck(&fresh.snapshot, device, mapping);
                match device.filter(may) {
                    Some(device) => self.recheck(&device, mapping.epoch, fresh.role).await,
                    None => false,
                }
            }
        };
        if !look_again {
            return Ok((fresh, found));
        }
        let was_unknown = found.mapping.is_none();
        let (fresh, found) =
            self.directory.find(Consistency::Linearizable, |snapshot| named.find(snapshot)).await?;
        if was_unknown && found.mapping.is_none() {
            // Whoever looked lost its term meanwhile, so that nobody has asked: this is no "not there".
            return Err(ApiError::Unverified {
                device: found.name,
                problem: "the leadership changed while it was looked for".to_owned(),
                retry_after: RETRY_AFTER_CHANGE,
            });
        }
        Ok((fresh, found))
    }

    /// Has the leader look for a device that the directory does not have. Where this goes well, it has news of it.
    async fn read_through(&self, device: &DeviceId, role: Role) -> Result<(), ApiError> {
        if role == Role::Leader {
            return self.reconciler.read_through(device).await.map_err(|error| match error {
                ApiError::NotLeader { .. } => {
                    ApiError::NoQuorum { cause: "the leadership changed".to_owned() }
                }
                told => told,
            });
        }
        let search = peer::ReadThrough { device_id: device.to_string() };
        let call = peer::ForwardRequest { call: Some(peer::forward_request::Call::ReadThrough(search)) };
        self.reconciler.forward(call).await.map(drop)
    }

    /// Has the leader verify a device without a hub to call. Says whether the directory may have news of it: where it
    /// could not be verified, what the directory has stands.
    async fn recheck(&self, device: &DeviceId, epoch: Epoch, role: Role) -> bool {
        if role == Role::Leader {
            return self.reconciler.recheck(device, epoch).await;
        }
        let verify = peer::Verify { device_id: device.to_string(), epoch: epoch.0 };
        let call = peer::ForwardRequest { call: Some(peer::forward_request::Call::Verify(verify)) };
        self.reconciler.forward(call).await.is_ok()
    }

    async fn look_up_batch(&self, asked: &BatchLookupRequest) -> Result<BatchLookupResponse, ApiError> {
        let count = check_batch(asked)?;
        let consistency = Consistency::from_message(asked.consistency.as_ref())?;
        let fresh = self.directory.read(consistency).await?;
        let mut batch = Batch::new(&fresh.snapshot, consistency == Consistency::Linearizable, count);
        let mut named = Vec::with_capacity(count.min(BATCH_TURN));
        for (turn, ids) in asked.device_ids.chunks(BATCH_TURN).enumerate() {
            for (n, id) in ids.iter().enumerate() {
                let id = DeviceIdRef::parse(id);
                named.push(id.map_err(|e| illegal("device_ids", turn * BATCH_TURN + n, e))?);
            }
            batch.add(&mut named)?;
            others_turn(ids.len()).await;
        }
        let mut packed = PackedIds::new(&asked.packed_device_ids).enumerate();
        loop {
            for (n, id) in packed.by_ref().take(BATCH_TURN) {
                let id = id.map_err(|e| illegal("packed_device_ids", n, e))?;
                let id = DeviceIdRef::parse(id);
                named.push(id.map_err(|e| illegal("packed_device_ids", n, e))?);
            }
            let taken = named.len();
            if taken == 0 {
                break;
            }
            batch.add(&mut named)?;
            others_turn(taken).await;
        }
        self.count_batch(&batch.answer);
        Ok(BatchLookupResponse { header: Some(self.header(&fresh)), ..batch.answer })
    }

    /// Counts the devices of a batch: each outcome that occurs is added once.
    fn count_batch(&self, answer: &BatchLookupResponse) {
        let kinds = answer.negatives.iter().filter_map(|n| n.negative.as_ref()).map(Negative::kind);
        let unknown = kinds.filter(|kind| negative_outcome(*kind) == LookupOutcome::Unknown).count();
        let negatives = answer.negatives.len();
        for (outcome, devices) in [
            (LookupOutcome::Hit, answer.epochs.len() - negatives),
            (LookupOutcome::Unknown, unknown),
            (LookupOutcome::Unavailable, negatives - unknown),
        ] {
            if devices > 0 {
                self.directory.work().looked_up(outcome, devices as u64);
            }
        }
    }

    async fn look_up_tagged(
        &self,
        message: LookupStreamRequest,
        gate: Option<&LookupGate>,
    ) -> LookupStreamResponse {
        let answered = match gate.map(LookupGate::enter).transpose() {
            Ok(_pass) => self.look_up(message.lookup.unwrap_or_default()).await,
            Err(full) => Err(full),
        };
        let result = match answered {
            Ok(answer) => StreamAnswer::Answer(answer),
            Err(error) => StreamAnswer::Error(error.into()),
        };
        LookupStreamResponse { tag: message.tag, result: Some(result) }
    }
}

/// What a lookup came to; `None` where the node could not answer, which says nothing of the device.
fn outcome_of(answer: &Result<LookupResponse, ApiError>) -> Option<LookupOutcome> {
    match answer {
        Ok(answer) => match answer.result.as_ref()? {
            LookupAnswer::Found(_) => Some(LookupOutcome::Hit),
            LookupAnswer::Negative(negative) => Some(negative_outcome(negative.kind())),
        },
        Err(ApiError::NoHub { kind, .. }) => Some(negative_outcome(*kind)),
        // A scope that is not there knows no device.
        Err(ApiError::RegistrationUnknown { .. } | ApiError::Rejected(Rejection::Unknown { .. })) => {
            Some(LookupOutcome::Unknown)
        }
        Err(ApiError::RegistrationAmbiguous { .. } | ApiError::Invalid(_)) => Some(LookupOutcome::Refused),
        Err(_) => None,
    }
}

fn negative_outcome(kind: NegativeKind) -> LookupOutcome {
    match kind {
        NegativeKind::Unknown | NegativeKind::Unspecified => LookupOutcome::Unknown,
        NegativeKind::Unassigned
        | NegativeKind::Enrolling
        | NegativeKind::Disabled
        | NegativeKind::Failed
        | NegativeKind::Missing => LookupOutcome::Unavailable,
    }
}

pub(super) fn result_of(snapshot: &Snapshot, named: &Named, device: &str, mapping: &Mapping) -> LookupResult {
    let topology = snapshot.topology();
    let hub = mapping.hub.and_then(|no| topology.hub(no));
    let stamp = hub.and_then(|hub| topology.stamp(hub.stamp));
    LookupResult {
        device_id: match named {
            Named::Device(_) => String::new(),
            Named::Registration { .. } => device.to_owned(),
        },
        hub: hub.map(|hub| hub.name.to_string()).unwrap_or_default(),
        stamp: stamp.map(|stamp| stamp.name.to_string()).unwrap_or_default(),
        status: status_message(mapping.status) as i32,
        epoch: mapping.epoch.0,
        revision: mapping.revision.0,
        evidence: Some(evidence_of(mapping)),
        hub_state: hub.map_or(AcceptState::Unspecified, |hub| state_message(hub.state)) as i32,
    }
}

pub(super) fn negative_message(
    negative: Option<(NegativeKind, std::time::Duration)>,
    mapping: Option<&Mapping>,
    confirmed: bool,
) -> Negative {
    let (kind, remember_for) = negative.unwrap_or_default();
    Negative {
        kind: kind as i32,
        remember_for: Some(duration_message(remember_for)),
        confirmed,
        epoch: mapping.map_or(0, |mapping| mapping.epoch.0),
    }
}

fn no_hub(found: Found, negative: &Negative) -> ApiError {
    let remember_for = negative.remember_for.and_then(|d| d.try_into().ok()).unwrap_or_default();
    ApiError::NoHub { device: found.name, kind: negative.kind(), epoch: negative.epoch, remember_for }
}

/// How many IDs are asked for.
fn check_batch(asked: &BatchLookupRequest) -> Result<usize, ApiError> {
    let count = asked.device_ids.len() + PackedIds::new(&asked.packed_device_ids).count_ids();
    if count > BATCH_IDS_MAX || count == 0 && asked.packed_device_ids.is_empty() {
        let field = if asked.device_ids.is_empty() { "packed_device_ids" } else { "device_ids" };
        return Err(ApiError::invalid(field, format_args!("{count} IDs; 1 to {BATCH_IDS_MAX} are allowed")));
    }
    Ok(count)
}

/// An ID of a batch that cannot be one.
fn illegal(field: &str, index: usize, problem: impl std::fmt::Display) -> ApiError {
    ApiError::invalid(format!("{field}[{index}]"), problem)
}

/// Lets others go on after a full turn.
async fn others_turn(done: usize) {
    if done == BATCH_TURN {
        tokio::task::yield_now().await;
    }
}

/// The answer to a batch, as it grows.
struct Batch<'a> {
    snapshot: &'a Snapshot,
    confirmed: bool,
    answer: BatchLookupResponse,
    hub_numbers: BTreeMap<HubNo, u32>,
    /// Neighbours are mostly on the same hub.
    last_hub: Option<(HubNo, u32)>,
}

impl<'a> Batch<'a> {
    fn new(snapshot: &'a Snapshot, confirmed: bool, count: usize) -> Self {
        let answer = BatchLookupResponse {
            hub_numbers: Vec::with_capacity(count),
            epochs: Vec::with_capacity(count),
            revisions: Vec::with_capacity(count),
            ..BatchLookupResponse::default()
        };
        Self { snapshot, confirmed, answer, hub_numbers: BTreeMap::new(), last_hub: None }
    }

    /// Looks these devices up, and takes them out of the list.
    fn add(&mut self, named: &mut Vec<DeviceIdRef<'_>>) -> Result<(), ApiError> {
        let snapshot = self.snapshot;
        let added = snapshot.devices(named.drain(..), |mapping| self.put(mapping.as_ref()));
        added.map_err(|damage| data_loss(&damage))
    }

    fn put(&mut self, mapping: Option<&Mapping>) {
        let negative = names::negative(mapping);
        let hub = mapping.filter(|_| negative.is_none()).and_then(|mapping| mapping.hub);
        if negative.is_some() {
            let index = u32::try_from(self.answer.epochs.len()).unwrap_or(u32::MAX);
            let negative = negative_message(negative, mapping, self.confirmed);
            self.answer.negatives.push(BatchNegative { index, negative: Some(negative) });
        }
        let number = hub.map_or(0, |hub| self.number_of(hub));
        self.answer.hub_numbers.push(number);
        self.answer.epochs.push(mapping.map_or(0, |mapping| mapping.epoch.0));
        self.answer.revisions.push(mapping.map_or(0, |mapping| mapping.revision.0));
    }

    /// Number of a hub in the answer's table; a new one is added.
    fn number_of(&mut self, hub: HubNo) -> u32 {
        if let Some((last, number)) = self.last_hub
            && last == hub
        {
            return number;
        }
        let hubs = &mut self.answer.hubs;
        let topology = self.snapshot.topology();
        let number = *self.hub_numbers.entry(hub).or_insert_with(|| {
            let found = topology.hub(hub);
            let stamp = found.and_then(|hub| topology.stamp(hub.stamp));
            hubs.push(BatchHub {
                hub: found.map(|hub| hub.name.to_string()).unwrap_or_default(),
                stamp: stamp.map(|stamp| stamp.name.to_string()).unwrap_or_default(),
                state: found.map_or(AcceptState::Unspecified, |hub| state_message(hub.state)) as i32,
            });
            u32::try_from(hubs.len()).unwrap_or(u32::MAX)
        });
        self.last_hub = Some((hub, number));
        number
    }
}
