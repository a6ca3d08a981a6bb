//! The public API: one file per service. A handler parses, asks the directory, and maps the answer; it decides
//! nothing, and it knows nothing of Raft, pages or disks.

mod answer;
mod cluster;
mod device;
mod export;
mod import;
mod list;
mod lookup;
mod names;
mod reconcile;
mod report;
mod scan;
mod size;
mod sweep;
mod topology;

use std::sync::Arc;

use berth_core::{DeviceId, Epoch};
use berth_proto::error::ApiError;
use berth_proto::internal as peer;
use berth_proto::v1::device_service_server::DeviceServiceServer;
use berth_proto::v1::lookup_service_server::LookupServiceServer;
use berth_proto::v1::reconcile_service_server::ReconcileServiceServer;
use berth_proto::v1::topology_service_server::TopologyServiceServer;
use tokio::task::JoinSet;

pub use cluster::ClusterApi;
pub use size::SizedLookup;

use crate::directory::Directory;
use crate::hook::Allocator;
use crate::raft::Forwarded;
use crate::reconcile::Reconciler;

/// Longest request of a single lookup, in bytes: an ID, a token, and room for fields to come.
const LOOKUP_BYTES_MAX: usize = 64 * 1024;
/// Longest batch lookup, in bytes: 10,000 IDs of 128 bytes are 1.3 MB.
const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Longest other request, in bytes: a chunk or batch of 10,000 devices with all their fields.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest answer, in bytes: 10,000 results that each name another hub.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The services that answer from the directory.
#[derive(Clone)]
pub struct Api {
    directory: Directory,
    reconciler: Reconciler,
}

impl Api {
    /// Services over `directory`; what callers saw at hubs goes to `reconciler`.
    pub fn new(directory: Directory, reconciler: Reconciler) -> Self {
        Self { directory, reconciler }
    }

    /// What answers the calls that other nodes send on, on the current runtime, for as long as somebody holds these
    /// services. Raft keeps it, and the services keep Raft: held here as well, neither would ever end, and with them
    /// the lock on the data directory.
    pub fn forwarded(self: &Arc<Self>) -> Forwarded {
        let (api, runtime) = (Arc::downgrade(self), tokio::runtime::Handle::current());
        Box::new(move |request| {
            let Some(api) = api.upgrade() else {
                return Box::pin(async { Err(ApiError::NotLeader { leader: None }.into()) });
            };
            // Peers are served on Raft's own threads, which shall not wait for Azure. The task ends with its caller.
            let mut answering = JoinSet::new();
            answering.spawn_on(async move { api.answer_peer(request).await }, &runtime);
            Box::pin(async move {
                match answering.join_next().await {
                    Some(Ok(answered)) => answered.map_err(tonic::Status::from),
                    Some(Err(error)) => Err(answer::misfit_task(&error).into()),
                    None => Err(ApiError::NotLeader { leader: None }.into()),
                }
            })
        })
    }

    /// What gives hubs to devices that DPS asks about.
    pub fn allocator(&self) -> Allocator {
        Allocator::new(self.directory.clone(), self.reconciler.clone())
    }

    async fn answer_peer(&self, request: peer::ForwardRequest) -> Result<peer::ForwardResponse, ApiError> {
        let answer = match request.call {
            Some(peer::forward_request::Call::Report(report)) => {
                let answer = self.take_report(report, report::From::Peer).await?;
                peer::forward_response::Answer::Report(answer)
            }
            Some(peer::forward_request::Call::ReadThrough(search)) => {
                self.reconciler.read_through(&device_of(&search.device_id)?).await?;
                peer::forward_response::Answer::LookAgain(peer::Empty {})
            }
            Some(peer::forward_request::Call::Verify(verify)) => {
                let device = device_of(&verify.device_id)?;
                self.reconciler.recheck(&device, Epoch(verify.epoch)).await;
                peer::forward_response::Answer::LookAgain(peer::Empty {})
            }
            Some(peer::forward_request::Call::Allocate(asked)) => {
                let answer = self.allocator().answer_peer(&asked).await?;
                peer::forward_response::Answer::Allocated(answer)
            }
            None => return Err(ApiError::invalid("call", "is of a kind that this build does not know")),
        };
        Ok(peer::ForwardResponse { answer: Some(answer) })
    }

    /// The lookup service, with a small limit for single lookups and a larger one for batches.
    pub fn lookup_service(&self) -> SizedLookup<Self> {
        let server = || LookupServiceServer::new(self.clone()).max_encoding_message_size(ANSWER_BYTES_MAX);
        SizedLookup::new(
            server().max_decoding_message_size(LOOKUP_BYTES_MAX),
            server().max_decoding_message_size(BATCH_BYTES_MAX),
        )
    }

    /// The device service.
    pub fn device_service(&self) -> DeviceServiceServer<Self> {
        DeviceServiceServer::new(self.clone())
            .max_decoding_message_size(REQUEST_BYTES_MAX)
            .max_encoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The topology service.
    pub fn topology_service(&self) -> TopologyServiceServer<Self> {
        TopologyServiceServer::new(self.clone())
            .max_decoding_message_size(REQUEST_BYTES_MAX)
            .max_encoding_message_size(ANSWER_BYTES_MAX)
    }
    /// The reconcile service; its requests are as small as lookups.
    pub fn reconcile_service(&self) -> ReconcileServiceServer<Self> {
        ReconcileServiceServer::new(self.clone())
            .max_decoding_message_size(LOOKUP_BYTES_MAX)
            .max_encoding_message_size(ANSWER_BYTES_MAX)
    }
}

/// The device that a peer names.
fn device_of(text: &str) -> Result<DeviceId, ApiError> {
    DeviceId::parse(text).map_err(|error| ApiError::invalid("device_id", error))
}
