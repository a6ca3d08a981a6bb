//! The cluster: who is in it, how far each is, and changes of that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_proto::convert::{Consistency, Envelope, duration_message};
use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::cluster_service_server::{ClusterService, ClusterServiceServer};
use berth_store::log::LogStore;
use berth_store::machine::{Handle, Machine};
use berth_store::raft::LogId;
use tonic::{Request, Response, Status};

use super::Api;
use crate::directory::{Directory, Fresh, data_loss};
use crate::raft::RaftNode;

/// The cluster service of one node.
#[derive(Clone)]
pub struct ClusterApi {
    api: Api,
    directory: Directory,
    raft: Arc<RaftNode<Machine>>,
    machine: Handle,
    log: LogStore,
    started: Instant,
}

impl ClusterApi {
    /// The service over these parts of a node.
    pub fn new(
        api: Api,
        directory: Directory,
        raft: Arc<RaftNode<Machine>>,
        machine: Handle,
        log: LogStore,
    ) -> Self {
        Self { api, directory, raft, machine, log, started: Instant::now() }
    }

    /// As a gRPC service.
    pub fn service(self) -> ClusterServiceServer<Self> {
        ClusterServiceServer::new(self)
    }

    /// A header of what this node has right now, whatever its age.
    fn header_now(&self) -> v1::ResponseHeader {
        let (snapshot, role) = (self.directory.newest(), self.raft.role());
        self.api.header(&Fresh { snapshot, age_bound: Duration::MAX, role })
    }

    fn status_now(&self) -> v1::StatusResponse {
        let status = self.raft.status();
        let snapshot = self.directory.newest();
        let cluster = snapshot.cluster();
        let last = status.last_index.unwrap_or(0);
        let disk = self.machine.disk_stats();
        let nodes = status.members.iter().map(|member| {
            let role = match (status.leader == Some(member.id), member.voter) {
                (true, _) => v1::NodeRole::Leader,
                (false, true) => v1::NodeRole::Follower,
                (false, false) => v1::NodeRole::Learner,
            };
            // Only the leader knows how far the others are; it knows its own log without asking.
            let matched =
                if member.id == status.id { Some(last) } else { member.matched.map(|id| id.index()) };
            let matched_index = matched.filter(|_| status.leads);
            v1::Node {
                id: member.id,
                name: member.node.name.clone(),
                peer_address: member.node.peer_addr.clone(),
                client_address: member.node.client_addr.clone(),
                role: role as i32,
                voter: member.voter,
                matched_index,
                lag: matched_index.map(|matched| last.saturating_sub(matched)),
                last_contact: member.heard.map(duration_message),
            }
        });
        let index = |position: Option<LogId>| position.map_or(0, |id| id.index());
        v1::StatusResponse {
            header: Some(self.header_now()),
            cluster_id: cluster.map_or_else(String::new, |cluster| cluster.id.to_string()),
            node_id: status.id,
            leader_id: status.leader.unwrap_or(0),
            term: status.term,
            last_log_index: last,
            committed_index: index(status.committed),
            applied_index: index(self.directory.position().applied),
            checkpoint_index: index(status.snapshot),
            devices: snapshot.device_count(),
            nodes: nodes.collect(),
            disk: Some(v1::DiskUsage {
                pages_bytes: disk.disk_bytes,
                log_bytes: self.log.on_disk_bytes(),
                free_bytes: self.machine.free_space().map_or(0, |free| free.free_bytes),
                live_bytes: snapshot.live_bytes(),
            }),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            feature_level: FEATURE_LEVEL,
            serving_reads: self.directory.serving().check().is_ok(),
            serving_writes: self.directory.check_writes().is_ok(),
            restore_epoch: cluster.map_or(0, |cluster| cluster.restore_epoch.into()),
            uptime: Some(duration_message(self.started.elapsed())),
        }
    }

    async fn digest_at(&self, asked: v1::DigestRequest) -> Result<v1::DigestResponse, ApiError> {
        let fresh = self.directory.read(Consistency::from_message(asked.consistency.as_ref())?).await?;
        let header = self.api.header(&fresh);
        let snapshot = fresh.snapshot;
        // Both walk every page, which is too long for a worker thread.
        let counted = tokio::task::spawn_blocking(move || {
            let recount = asked.recount.then(|| snapshot.recount());
            (snapshot, recount)
        });
        let (snapshot, recount) = counted.await.map_err(|error| data_loss(&error))?;
        let digest = format!("{:032x}", snapshot.digest());
        Ok(v1::DigestResponse {
            header: Some(header),
            applied_index: snapshot.meta().applied.map_or(0, |id| id.index()),
            devices: snapshot.device_count(),
            recount: recount.map(|recount| v1::Recount {
                digest: digest.clone(),
                devices: snapshot.device_count(),
                agrees: recount.is_ok(),
                disagreements: recount.err().map(|error| error.to_string()).into_iter().collect(),
            }),
            digest,
        })
    }
}

/// The feature level of this build: what kinds of commands it knows.
const FEATURE_LEVEL: u32 = 1;

#[tonic::async_trait]
impl ClusterService for ClusterApi {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(self.status_now()))
    }

    async fn add_learner(
        &self,
        request: Request<v1::AddLearnerRequest>,
    ) -> Result<Response<v1::AddLearnerResponse>, Status> {
        let asked = request.into_inner();
        let reason = reason_of(&asked.reason)?;
        let invited = self.raft.invite(&asked.peer_address, &asked.name, &asked.client_address).await;
        let node_id = invited.map_err(ApiError::from)?;
        tracing::info!(node = node_id, reason, "took a node in");
        Ok(Response::new(v1::AddLearnerResponse { header: Some(self.header_now()), node_id }))
    }

    async fn promote(
        &self,
        request: Request<v1::PromoteRequest>,
    ) -> Result<Response<v1::PromoteResponse>, Status> {
        let asked = request.into_inner();
        let reason = reason_of(&asked.reason)?;
        self.raft.membership().promote(asked.node_id).await.map_err(ApiError::from)?;
        tracing::info!(node = asked.node_id, reason, "promoted a node");
        Ok(Response::new(v1::PromoteResponse { header: Some(self.header_now()) }))
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let asked = request.into_inner();
        let reason = reason_of(&asked.reason)?;
        self.raft.membership().remove(asked.node_id).await.map_err(ApiError::from)?;
        tracing::info!(node = asked.node_id, reason, "removed a node");
        Ok(Response::new(v1::RemoveNodeResponse { header: Some(self.header_now()) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let asked = request.into_inner();
        let reason = reason_of(&asked.reason)?;
        let leader_id = match asked.node_id {
            0 => self.raft.hand_over_to_any().await,
            to => self.raft.membership().transfer(to).await.map(|()| to),
        };
        let leader_id = leader_id.map_err(ApiError::from)?;
        tracing::info!(to = leader_id, reason, "handed the leadership over");
        Ok(Response::new(v1::TransferLeaderResponse { header: Some(self.header_now()), leader_id }))
    }

    async fn digest(
        &self,
        request: Request<v1::DigestRequest>,
    ) -> Result<Response<v1::DigestResponse>, Status> {
        Ok(Response::new(self.digest_at(request.into_inner()).await?))
    }
}

/// The reason of a change of the cluster.
fn reason_of(reason: &str) -> Result<String, ApiError> {
    Envelope::from_fields("", reason).map(|envelope| envelope.reason)
}
