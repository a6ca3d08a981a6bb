//! DeviceService.

use berth_core::{Command, DeviceId, EvidenceSource, Origin, Outcome, Remove};
use berth_proto::convert::{AssignReader, Consistency, mapping_message, precondition_from, warning_message};
use berth_proto::error::ApiError;
use berth_proto::v1::device_service_server::DeviceService;
use berth_proto::v1::get_request::Device;
use berth_proto::v1::{
    AssignRequest, AssignResponse, BatchAssignRequest, BatchAssignResponse, ExportRequest, GetRequest,
    GetResponse, ImportRequest, ListRequest, ListResponse, RemoveRequest, RemoveResponse,
};
use berth_store::machine::Snapshot;
use tonic::{Request, Response, Status, Streaming};

use super::answer::{Asked, actor_of, misfit};
use super::names::Named;
use super::{Api, export, import};
use crate::edge::Movement;

#[tonic::async_trait]
impl DeviceService for Api {
    type ImportStream = import::Answers;
    type ExportStream = export::Answers;

    async fn assign(&self, request: Request<AssignRequest>) -> Result<Response<AssignResponse>, Status> {
        let actor = actor_of(&request);
        let asked = request.into_inner();
        let change = Asked::read(actor, &asked.request_id, &asked.reason, asked.validate_only)?;
        let mut reader = AssignReader::new(Origin::Placed, EvidenceSource::Operator);
        let assign = reader.read(|| "assignment".to_owned(), &asked.assignment.unwrap_or_default());
        reader.take_error()?;
        let assign = assign.ok_or_else(|| ApiError::invalid("assignment", "is malformed"))?;
        let (header, outcome) = self.change(&change, Command::Assign(assign)).await?;
        let Outcome::Assigned { epoch, created, moved, over_soft, .. } = &outcome else {
            return Err(misfit(&outcome).into());
        };
        Ok(Response::new(AssignResponse {
            header: Some(header),
            epoch: epoch.0,
            created: *created,
            moved: *moved,
            warnings: over_soft.iter().map(warning_message).collect(),
        }))
    }

    async fn batch_assign(
        &self,
        request: Request<BatchAssignRequest>,
    ) -> Result<Response<BatchAssignResponse>, Status> {
        let actor = actor_of(&request);
        let asked = request.into_inner();
        let change = Asked::read(actor, &asked.request_id, &asked.reason, asked.validate_only)?;
        let command = Command::BatchAssign(read_batch(&asked)?);
        let (header, outcome) = self.change(&change, command).await?;
        let Outcome::BatchAssigned { created, moved, touched, unchanged, over_soft, .. } = &outcome else {
            return Err(misfit(&outcome).into());
        };
        Ok(Response::new(BatchAssignResponse {
            header: Some(header),
            created: u64::from(*created),
            moved: u64::from(*moved),
            touched: u64::from(*touched),
            unchanged: u64::from(*unchanged),
            warnings: over_soft.iter().map(warning_message).collect(),
        }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let asked = request.into_inner();
        let named = match &asked.device {
            Some(Device::DeviceId(id)) => Named::device(id)?,
            Some(Device::Registration(registration)) => Named::registration(registration)?,
            None => Err(ApiError::invalid("device_id", "is missing; name a device or a registration"))?,
        };
        let consistency = Consistency::from_message(asked.consistency.as_ref())?;
        let find = |snapshot: &Snapshot| {
            let found = named.find(snapshot)?;
            found.mapping.map(|mapping| (found.name, mapping)).ok_or_else(|| named.unknown())
        };
        let (fresh, (name, mapping)) = self.directory.find(consistency, find).await?;
        let labels = fresh.snapshot.labels(mapping.labels);
        let mapping = mapping_message(fresh.snapshot.topology(), labels, &name, &mapping);
        Ok(Response::new(GetResponse { header: Some(self.header(&fresh)), mapping: Some(mapping) }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Ok(Response::new(self.list_devices(request.into_inner()).await?))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveResponse>, Status> {
        let actor = actor_of(&request);
        let asked = request.into_inner();
        let change = Asked::read(actor, &asked.request_id, &asked.reason, asked.validate_only)?;
        let device =
            DeviceId::parse(&asked.device_id).map_err(|error| ApiError::invalid("device_id", error))?;
        let precondition = precondition_from(asked.precondition.as_ref());
        let (header, outcome) =
            self.change(&change, Command::Remove(Remove { device, precondition })).await?;
        let Outcome::Removed { epoch, .. } = &outcome else { return Err(misfit(&outcome).into()) };
        Ok(Response::new(RemoveResponse { header: Some(header), epoch: epoch.0 }))
    }

    async fn import(
        &self,
        request: Request<Streaming<ImportRequest>>,
    ) -> Result<Response<Self::ImportStream>, Status> {
        let actor = actor_of(&request);
        let movement = request.extensions().get::<Movement>().cloned().unwrap_or_default();
        Ok(Response::new(self.start_import(actor, request.into_inner(), movement).await?))
    }

    async fn export(&self, request: Request<ExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        Ok(Response::new(self.start_export(request.into_inner()).await?))
    }
}

/// Reads a batch: `items`, then `packed`. Its size is the core's to judge.
fn read_batch(asked: &BatchAssignRequest) -> Result<Vec<berth_core::Assign>, ApiError> {
    let mut reader = AssignReader::new(Origin::Placed, EvidenceSource::Operator);
    let mut assigns = Vec::with_capacity(asked.items.len());
    for (n, item) in asked.items.iter().enumerate() {
        assigns.extend(reader.read(|| format!("items[{n}]"), item));
        if reader.is_full() {
            break;
        }
    }
    for (n, packed) in asked.packed.iter().enumerate() {
        reader.read_packed(|| format!("packed[{n}]"), packed, &mut assigns);
    }
    reader.take_error()?;
    check_batch_size(assigns.len())?;
    Ok(assigns)
}

/// Refuses an empty or too large batch in the core's own words, before it is encoded.
pub(super) fn check_batch_size(count: usize) -> Result<(), ApiError> {
    let max = berth_core::BATCH_DEVICES_MAX;
    if count == 0 || count > max {
        return Err(berth_core::Rejection::BatchSize { count: count as u64, max: max as u64 }.into());
    }
    Ok(())
}
