//! Calls to peers, as openraft asks for them.
//!
//! Each peer has four connections, so that a snapshot, a full pipeline of entries or clients' calls never stand in
//! front of a heartbeat or a vote.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use berth_proto::internal as pb;
use berth_proto::internal::peer_service_client::PeerServiceClient;
use berth_store::raft::{BerthConfig, BerthNode, LogId, Snapshot, SnapshotHandle, Vote};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{
    Backoff, RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential,
};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, errors};
use parking_lot::Mutex;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::dial::{Dial, lazy_channel};
use super::identity::{SharedKeeper, is_refusal};
use super::machine::MachineView;
use super::{snapshot, wire};

/// Bytes of a message between peers: one largest entry, or many small ones, with room to spare.
pub const PEER_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Connections kept: four for each of the nodes a cluster may have, and some that have moved.
const CHANNELS_MAX: usize = 256;
/// Peers that are asked for a checkpoint, one after the other.
pub const NODES_ASKED_MAX: usize = 8;
/// How long opening a stream of entries may take. A slow start delays one follower, nothing else.
const STREAM_OPEN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the leader may take to confirm a read: it gives up by itself after its lease.
const READ_INDEX_TIMEOUT: Duration = Duration::from_millis(800);
/// How long admitting a node may take: an entry and a change of membership.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the leader may take to answer a client's call that was sent on: longer than it waits for Azure.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(6);
/// How long a peer may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);

type Client = PeerServiceClient<Channel>;

/// The connections to all peers.
pub struct Links {
    dial: Arc<dyn Dial>,
    keeper: SharedKeeper,
    view: Arc<dyn MachineView>,
    channels: Mutex<HashMap<(String, Lane), Channel>>,
    snapshot_bytes_per_second: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lane {
    /// Votes, heartbeats, read positions, hand-over, admission.
    Control,
    /// Entries.
    Entries,
    /// Snapshots.
    Snapshots,
    /// Clients' calls that are sent on.
    Forwards,
}

impl Links {
    /// Links that dial with `dial` and sign with the node's identity. Snapshots are paced to
    /// `snapshot_bytes_per_second`, if given.
    #[must_use]
    pub fn new(
        dial: Arc<dyn Dial>,
        keeper: SharedKeeper,
        view: Arc<dyn MachineView>,
        snapshot_bytes_per_second: Option<u64>,
    ) -> Self {
        Self { dial, keeper, view, channels: Mutex::default(), snapshot_bytes_per_second }
    }

    /// The node's own view of its state machine.
    #[must_use]
    pub fn view(&self) -> &Arc<dyn MachineView> {
        &self.view
    }

    /// The node's own identity.
    #[must_use]
    pub fn keeper(&self) -> &SharedKeeper {
        &self.keeper
    }

    /// Asks who is at `addr`.
    ///
    /// # Errors
    /// The peer's status, or `Unavailable` when it cannot be reached.
    pub async fn hello(&self, addr: &str) -> Result<pb::HelloResponse, Status> {
        let identity = self.keeper.identity();
        let request = pb::HelloRequest {
            name: identity.name,
            incarnation: super::identity::uuid_bytes(Some(identity.incarnation)),
        };
        let mut client = self.client(addr, Lane::Control).map_err(Status::invalid_argument)?;
        within(HELLO_TIMEOUT, client.hello(request)).await
    }

    /// Asks the node at `addr` to admit a node.
    ///
    /// # Errors
    /// The peer's status, or `Unavailable` when it cannot be reached.
    pub async fn join(&self, addr: &str, request: pb::JoinRequest) -> Result<pb::JoinResponse, Status> {
        let mut client = self.client(addr, Lane::Control).map_err(Status::invalid_argument)?;
        within(JOIN_TIMEOUT, client.join(request)).await
    }

    /// Asks the leader for a read position.
    ///
    /// # Errors
    /// The leader's status, or `Unavailable` when it cannot be reached.
    pub async fn read_index(&self, leader: u64, node: &BerthNode) -> Result<LogId, Status> {
        let mut client = self.client(&node.peer_addr, Lane::Control).map_err(Status::invalid_argument)?;
        let request = self.signed(leader, pb::ReadIndexRequest {});
        let response = within(READ_INDEX_TIMEOUT, client.read_index(request)).await?;
        response
            .at
            .as_ref()
            .map(wire::from_position)
            .ok_or_else(|| Status::internal("no position in the answer"))
    }

    /// Sends a client's call on to the leader.
    ///
    /// # Errors
    /// The leader's status, or `Unavailable` when it cannot be reached.
    pub async fn forward(
        &self,
        leader: u64,
        node: &BerthNode,
        call: pb::ForwardRequest,
    ) -> Result<pb::ForwardResponse, Status> {
        let mut client = self.client(&node.peer_addr, Lane::Forwards).map_err(Status::invalid_argument)?;
        within(FORWARD_TIMEOUT, client.forward(self.signed(leader, call))).await
    }

    /// Opens the last checkpoint of the node `peer` at `addr`, for a node that lost its pages.
    ///
    /// # Errors
    /// The peer's status, or `Unavailable` when it cannot be reached.
    pub async fn fetch_snapshot(
        &self,
        peer: u64,
        addr: &str,
    ) -> Result<tonic::Streaming<pb::SnapshotPart>, Status> {
        let mut client = self.client(addr, Lane::Snapshots).map_err(Status::invalid_argument)?;
        let request = self.signed(peer, pb::FetchSnapshotRequest {});
        within(STREAM_OPEN_TIMEOUT, client.fetch_snapshot(request)).await
    }

    fn client(&self, addr: &str, lane: Lane) -> Result<Client, String> {
        let mut channels = self.channels.lock();
        let key = (addr.to_owned(), lane);
        let channel = match channels.get(&key) {
            Some(channel) => channel.clone(),
            None => {
                if channels.len() >= CHANNELS_MAX {
                    // Addresses of nodes long gone fill this in the end. Those in use come back by themselves.
                    channels.clear();
                }
                let channel = lazy_channel(&self.dial, addr)?;
                channels.insert(key, channel.clone());
                channel
            }
        };
        Ok(PeerServiceClient::new(channel)
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX))
    }

    fn signed<T>(&self, to: u64, message: T) -> Request<T> {
        let mut request = Request::new(message);
        self.keeper.sign(to, self.view.as_ref(), request.metadata_mut());
        request
    }
}

/// Makes the callers that openraft uses.
#[derive(Clone)]
pub struct PeerNetwork(pub Arc<Links>);

/// Calls one peer.
pub struct Peer {
    links: Arc<Links>,
    target: u64,
    addr: String,
    /// Whether AppendEntries goes one by one beside the votes (heartbeats) or as a stream of its own.
    one_by_one: bool,
}

impl RaftNetworkFactory<BerthConfig> for PeerNetwork {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BerthNode) -> Peer {
        Peer { links: Arc::clone(&self.0), target, addr: node.peer_addr.clone(), one_by_one: false }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &BerthNode) -> Peer {
        let mut peer = self.new_client(target, node).await;
        peer.one_by_one = true;
        peer
    }
}

impl RaftNetworkV2<BerthConfig> for Peer {
    type SnapshotData = SnapshotHandle;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<BerthConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<BerthConfig>, RPCError<BerthConfig>> {
        let request = self.links.signed(self.target, wire::append_request(request));
        let mut client = self.client(Lane::Control)?;
        let response = self.timed(RPCTypes::AppendEntries, option.soft_ttl(), client.append(request)).await?;
        wire::from_append_response(response).map_err(network_error)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<BerthConfig>, RPCError<BerthConfig>>>,
            RPCError<BerthConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<BerthConfig>> + OptionalSend + Unpin + 'static,
    {
        if self.one_by_one {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            // openraft pauses between attempts inside the input stream. A call that cannot connect fails
            // before it polls its input, and would be repeated without any pause; so poll it first.
            let Some(first) = input.next().await else {
                return Ok(Box::pin(stream::empty()) as BoxStream<'s, _>);
            };
            let requests = stream::iter([first]).chain(input).map(wire::append_request);
            let request = self.links.signed(self.target, requests);
            let mut client = self.client(Lane::Entries)?;
            let open =
                self.timed(RPCTypes::AppendEntries, STREAM_OPEN_TIMEOUT, client.append_stream(request));
            let answers = open.await?.map(|answer| match answer {
                Ok(answer) => wire::from_stream_response(answer).map_err(network_error),
                Err(status) => Err(rpc_error(&status)),
            });
            Ok(Box::pin(answers) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<BerthConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<BerthConfig>, RPCError<BerthConfig>> {
        let request = self.links.signed(self.target, wire::vote_request(&request));
        let mut client = self.client(Lane::Control)?;
        self.voted(&option, client.vote(request)).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<BerthConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<BerthConfig>, RPCError<BerthConfig>> {
        let request = self.links.signed(self.target, wire::vote_request(&request));
        let mut client = self.client(Lane::Control)?;
        self.voted(&option, client.pre_vote(request)).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<BerthConfig>, StreamingError<BerthConfig>> {
        let source = self.links.view.open_snapshot(&snapshot.snapshot).await.map_err(|error| {
            tracing::error!(%error, target = self.target, "cannot open the snapshot for a peer");
            StreamingError::Unreachable(Unreachable::new(&error))
        })?;
        let pace = self.links.snapshot_bytes_per_second;
        let parts = snapshot::parts(wire::snapshot_head(Some(&vote), &snapshot.meta), source, pace)
            .filter_map(|part| async move { part.inspect_err(log_torn).ok() });
        let request = self.links.signed(self.target, parts);
        let mut client = self.client(Lane::Snapshots)?;
        let sending =
            self.timed(RPCTypes::InstallSnapshot, option.hard_ttl(), client.install_snapshot(request));
        let response = tokio::select! {
            biased;
            closed = cancel => return Err(closed.into()),
            response = sending => response?,
        };
        let vote = wire::from_vote(response.vote.as_ref()).map_err(network_error)?;
        Ok(SnapshotResponse::new(vote))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<BerthConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<BerthConfig>, RPCError<BerthConfig>> {
        let message = self.links.signed(self.target, wire::transfer_request(&request));
        let mut client = self.client(Lane::Control)?;
        let response =
            self.timed(RPCTypes::TransferLeader, option.soft_ttl(), client.transfer_leader(message)).await?;
        wire::from_transfer_response(&request, response).map_err(network_error)
    }

    /// The configured pauses; see `timing`.
    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

impl Peer {
    fn client(&self, lane: Lane) -> Result<Client, RPCError<BerthConfig>> {
        self.links
            .client(&self.addr, lane)
            .map_err(|error| RPCError::Unreachable(Unreachable::from_string(error)))
    }

    /// The answer to a vote, or to the question that precedes one.
    async fn voted(
        &self,
        option: &RPCOption,
        call: impl Future<Output = Result<Response<pb::VoteResponse>, Status>>,
    ) -> Result<VoteResponse<BerthConfig>, RPCError<BerthConfig>> {
        let response = self.timed(RPCTypes::Vote, option.soft_ttl(), call).await?;
        wire::from_vote_response(&response).map_err(network_error)
    }

    async fn timed<T>(
        &self,
        action: RPCTypes,
        timeout: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, RPCError<BerthConfig>> {
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(rpc_error(&status)),
            Err(_) => {
                let id = self.links.keeper.identity().node_id.unwrap_or_default();
                Err(RPCError::Timeout(Timeout { action, id, target: self.target, timeout }))
            }
        }
    }
}

async fn within<T>(
    timeout: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(timeout, call).await {
        Ok(response) => response.map(Response::into_inner),
        Err(_) => Err(Status::unavailable(format!("no answer within {} ms", timeout.as_millis()))),
    }
}

/// A peer that is away, starting, or refuses us is left alone for a pause; other errors are repeated.
fn rpc_error(status: &Status) -> RPCError<BerthConfig> {
    let away = matches!(status.code(), Code::Unavailable | Code::Unimplemented) || is_refusal(status);
    if away {
        RPCError::Unreachable(Unreachable::new(status))
    } else {
        RPCError::Network(NetworkError::new(status))
    }
}

fn network_error(error: wire::WireError) -> RPCError<BerthConfig> {
    RPCError::Network(errors::NetworkError::new(&error))
}

fn log_torn(error: &std::io::Error) {
    tracing::error!(%error, "reading the snapshot for a peer failed; it will be sent again");
}
