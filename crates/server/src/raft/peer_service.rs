//! Answers to peers' calls.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use berth_proto::error::ApiError;
use berth_proto::internal as pb;
use berth_proto::internal::peer_service_server::{PeerService, PeerServiceServer};
use berth_store::raft::{BerthConfig, BerthNode, Snapshot, SnapshotHandle};
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt};
use openraft::Raft;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use openraft::storage::RaftStateMachine;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::identity::{read_uuid, uuid_bytes};
use super::membership::{Applicant, Membership, MembershipError};
use super::network::{Links, PEER_MESSAGE_BYTES_MAX};
use super::{snapshot, wire};

/// Snapshots sent to nodes that lost their pages, at once: each reads the disk at full speed.
const FETCHES_MAX: usize = 2;
/// Clients' calls that other nodes have sent on and that are not answered yet. Further ones are turned away at once.
const FORWARDED_MAX: usize = 1_024;

/// When a call that was turned away is worth repeating.
const FORWARDED_RETRY: Duration = Duration::from_millis(200);

/// Answers clients' calls that another node has sent on. It shall not block: it runs on Raft's threads.
pub type Forwarded =
    Box<dyn Fn(pb::ForwardRequest) -> BoxFuture<'static, Result<pb::ForwardResponse, Status>> + Send + Sync>;

/// What the service of a node needs. The Raft instance comes when the node has an ID.
pub struct PeerPort<SM: Machine> {
    links: Arc<Links>,
    node: BerthNode,
    /// Hello is answered from when the node knows that it may form or join a cluster.
    may_answer: OnceLock<()>,
    running: OnceLock<Running<SM>>,
    receiving: Arc<Semaphore>,
    fetching: Arc<Semaphore>,
    forwarded: Arc<OnceLock<Forwarded>>,
    forwarding: Semaphore,
}

/// A state machine that this room can run.
pub trait Machine: RaftStateMachine<BerthConfig, SnapshotData = SnapshotHandle> {}

impl<T: RaftStateMachine<BerthConfig, SnapshotData = SnapshotHandle>> Machine for T {}

/// Raft and what changes its membership.
pub struct Running<SM: Machine> {
    /// Raft itself.
    pub raft: Raft<BerthConfig, SM>,
    /// Admits nodes.
    pub membership: Membership<SM>,
}

impl<SM: Machine> PeerPort<SM> {
    /// A port that answers nothing yet. Calls that are sent on go to `forwarded`, once that is set.
    #[must_use]
    pub fn new(links: Arc<Links>, node: BerthNode, forwarded: Arc<OnceLock<Forwarded>>) -> Self {
        Self {
            links,
            node,
            may_answer: OnceLock::new(),
            running: OnceLock::new(),
            receiving: Arc::new(Semaphore::new(1)),
            fetching: Arc::new(Semaphore::new(FETCHES_MAX)),
            forwarded,
            forwarding: Semaphore::new(FORWARDED_MAX),
        }
    }

    /// From now on Hello is answered.
    pub fn answer_hello(&self) {
        let _ = self.may_answer.set(());
    }

    /// From now on everything is answered.
    pub fn run(&self, running: Running<SM>) {
        self.answer_hello();
        let _ = self.running.set(running);
    }

    /// The port as a gRPC service.
    pub fn service(self: &Arc<Self>) -> PeerServiceServer<Self> {
        PeerServiceServer::from_arc(Arc::clone(self))
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
    }

    fn running(&self) -> Result<&Running<SM>, Status> {
        self.running.get().ok_or_else(|| Status::unavailable("this node is starting; try again shortly"))
    }

    /// Checks the envelope, and gives access to Raft.
    fn checked<T>(&self, request: &Request<T>) -> Result<&Running<SM>, Status> {
        let running = self.running()?;
        self.links.keeper().check(request.metadata(), self.links.view().as_ref())?;
        Ok(running)
    }
}

#[tonic::async_trait]
impl<SM: Machine> PeerService for PeerPort<SM> {
    type AppendStreamStream = BoxStream<'static, Result<pb::AppendResponse, Status>>;
    type FetchSnapshotStream = BoxStream<'static, Result<pb::SnapshotPart, Status>>;

    async fn hello(&self, _: Request<pb::HelloRequest>) -> Result<Response<pb::HelloResponse>, Status> {
        if self.may_answer.get().is_none() {
            return Err(Status::unavailable("this node is starting; try again shortly"));
        }
        let identity = self.links.keeper().identity();
        let leader = self.running.get().and_then(|running| leader_of(&running.raft)).map(|(id, _)| id);
        Ok(Response::new(pb::HelloResponse {
            name: self.node.name.clone(),
            node_id: identity.node_id,
            incarnation: uuid_bytes(Some(identity.incarnation)),
            cluster: uuid_bytes(identity.cluster.or_else(|| self.links.view().cluster_id())),
            leader,
            client_addr: self.node.client_addr.clone(),
        }))
    }

    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinResponse>, Status> {
        let running = self.running()?;
        let request = request.into_inner();
        let incarnation = applicant(&request)?;
        match running.membership.admit(incarnation).await {
            Ok((cluster, node_id)) => {
                Ok(Response::new(pb::JoinResponse { cluster: uuid_bytes(Some(cluster)), node_id }))
            }
            Err(MembershipError::NotLeader { leader: Some((_, leader)) }) if !request.forwarded => {
                let passed_on = pb::JoinRequest { forwarded: true, ..request };
                self.links.join(&leader.peer_addr, passed_on).await.map(Response::new)
            }
            Err(error) => Err(ApiError::from(error).into()),
        }
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteResponse>, Status> {
        let running = self.checked(&request)?;
        let request = wire::from_vote_request(request.get_ref()).map_err(invalid)?;
        let response = running.raft.vote(request).await.map_err(fatal)?;
        Ok(Response::new(wire::vote_response(&response)))
    }

    async fn pre_vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        let running = self.checked(&request)?;
        let request = wire::from_vote_request(request.get_ref()).map_err(invalid)?;
        let response = running.raft.pre_vote(request).await.map_err(fatal)?;
        Ok(Response::new(wire::vote_response(&response)))
    }

    async fn append(
        &self,
        request: Request<pb::AppendRequest>,
    ) -> Result<Response<pb::AppendResponse>, Status> {
        let running = self.checked(&request)?;
        let request = wire::from_append_request(request.into_inner()).map_err(invalid)?;
        let response = running.raft.append_entries(request).await.map_err(fatal)?;
        Ok(Response::new(wire::append_response(response)))
    }

    async fn append_stream(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let running = self.checked(&request)?;
        // A request that cannot be read ends the stream: what follows it depends on it.
        let requests = request
            .into_inner()
            .map(readable)
            .take_while(|request| std::future::ready(request.is_some()))
            .filter_map(std::future::ready);
        let answers = running.raft.stream_append(Box::pin(requests)).map(|answer| match answer {
            Ok(answer) => Ok(wire::stream_response(&answer)),
            Err(error) => Err(Status::unavailable(error.to_string())),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotPart>>,
    ) -> Result<Response<pb::InstallSnapshotResponse>, Status> {
        let running = self.checked(&request)?;
        let turn = Arc::clone(&self.receiving)
            .try_acquire_owned()
            .map_err(|_| Status::unavailable("this node is already receiving a snapshot"))?;
        let (view, raft) = (Arc::clone(self.links.view()), running.raft.clone());
        // A caller that gives up must not end the turn while its snapshot is still being stored or installed: the
        // next one would take its place under the install.
        let installing = tokio::spawn(async move {
            let _turn = turn;
            let received = snapshot::receive(view.as_ref(), request.into_inner(), None).await?;
            let vote =
                received.vote.ok_or_else(|| Status::invalid_argument("the snapshot names no leader"))?;
            let snapshot = Snapshot { meta: received.meta, snapshot: received.handle };
            let installed = raft.install_full_snapshot(vote, snapshot).await;
            installed.map_err(|error| Status::unavailable(error.to_string()))
        });
        let response = installing
            .await
            .map_err(|error| Status::unavailable(format!("receiving the snapshot broke off: {error}")))??;
        Ok(Response::new(pb::InstallSnapshotResponse { vote: Some(wire::vote(&response.vote)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let running = self.checked(&request)?;
        let request = wire::from_transfer_request(request.get_ref()).map_err(invalid)?;
        let response = running
            .raft
            .handle_transfer_leader(request)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(wire::transfer_response(&response)))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexResponse>, Status> {
        let running = self.checked(&request)?;
        let linearizer =
            running.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(|error| match error {
                RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => {
                    Status::failed_precondition("this node does not lead")
                }
                error => Status::unavailable(error.to_string()),
            })?;
        let at = wire::position(linearizer.read_log_id().log_id());
        Ok(Response::new(pb::ReadIndexResponse { at: Some(at) }))
    }

    async fn forward(
        &self,
        request: Request<pb::ForwardRequest>,
    ) -> Result<Response<pb::ForwardResponse>, Status> {
        self.checked(&request)?;
        let Some(forwarded) = self.forwarded.get() else {
            return Err(Status::unavailable("this node is starting; try again shortly"));
        };
        let Ok(_turn) = self.forwarding.try_acquire() else {
            return Err(ApiError::Overloaded {
                what: "calls that other nodes sent on".to_owned(),
                limit: FORWARDED_MAX as u64,
                retry_after: FORWARDED_RETRY,
            }
            .into());
        };
        forwarded(request.into_inner()).await.map(Response::new)
    }

    async fn fetch_snapshot(
        &self,
        request: Request<pb::FetchSnapshotRequest>,
    ) -> Result<Response<Self::FetchSnapshotStream>, Status> {
        self.checked(&request)?;
        let turn = Arc::clone(&self.fetching)
            .try_acquire_owned()
            .map_err(|_| Status::unavailable("this node already sends as many snapshots as it may"))?;
        let view = self.links.view();
        let (meta, handle) = view
            .last_snapshot()
            .await
            .map_err(unreadable)?
            .ok_or_else(|| Status::unavailable("this node has no checkpoint yet; ask another one"))?;
        let source = view.open_snapshot(&handle).await.map_err(unreadable)?;
        let parts = snapshot::parts(wire::snapshot_head(None, &meta), source, None);
        let parts = parts.map(move |part| {
            let _turn = &turn;
            part.map_err(unreadable)
        });
        Ok(Response::new(Box::pin(parts)))
    }
}

/// Who leads, as far as this node knows, and how the membership describes it.
#[must_use]
pub fn leader_of<SM: Machine>(raft: &Raft<BerthConfig, SM>) -> Option<(u64, BerthNode)> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let leader = metrics.current_leader?;
    let node = metrics.membership_config.membership().get_node(&leader)?;
    Some((leader, node.clone()))
}

fn readable(
    request: Result<pb::AppendRequest, Status>,
) -> Option<openraft::raft::AppendEntriesRequest<BerthConfig>> {
    // The sender going away is an ordinary end.
    let request = request.ok()?;
    wire::from_append_request(request)
        .inspect_err(|error| tracing::error!(%error, "a leader's entries cannot be read"))
        .ok()
}

fn applicant(request: &pb::JoinRequest) -> Result<Applicant, Status> {
    let incarnation: Uuid = read_uuid(&request.incarnation)
        .ok_or_else(|| Status::invalid_argument("the incarnation of the joining node is not a UUID"))?;
    Ok(Applicant {
        incarnation,
        node: BerthNode {
            name: request.name.clone(),
            peer_addr: request.peer_addr.clone(),
            client_addr: request.client_addr.clone(),
        },
    })
}

fn invalid(error: wire::WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn fatal(error: RaftError<BerthConfig>) -> Status {
    Status::unavailable(format!("Raft has stopped on this node: {error}"))
}

fn unreadable(error: io::Error) -> Status {
    tracing::error!(%error, "reading a snapshot for a peer failed");
    Status::internal("the snapshot could not be read; see the log of this node")
}
