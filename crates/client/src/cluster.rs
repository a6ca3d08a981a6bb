//! The cluster: what it looks like, and who is in it.

use berth_proto::v1;
use berth_proto::v1::cluster_service_client::ClusterServiceClient;

use crate::call::{Client, Kind, Stop};
use crate::error::{EndpointError, Error};

macro_rules! calls {
    ($($kind:ident $(#[$doc:meta])* $name:ident($request:ident) -> $response:ident;)+) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`Error::Refused`] with what the cluster has against it; see [`Error`] for the rest.
                pub async fn $name(&self, request: v1::$request) -> Result<v1::$response, Error> {
                    let call = |channel, request| async move {
                        ClusterServiceClient::new(channel).$name(request).await
                    };
                    self.$kind(request, call).await
                }
            )+
        }
    };
}

calls! {
    read /// Says what one of the nodes knows of the cluster.
    status(StatusRequest) -> StatusResponse;
    order /// Adds a node that follows without a vote.
    add_learner(AddLearnerRequest) -> AddLearnerResponse;
    order /// Gives a caught-up learner a vote.
    promote(PromoteRequest) -> PromoteResponse;
    order /// Removes a node for good.
    remove_node(RemoveNodeRequest) -> RemoveNodeResponse;
    order /// Hands leadership over to another voter.
    transfer_leader(TransferLeaderRequest) -> TransferLeaderResponse;
    read /// Says what one of the replicas holds.
    digest(DigestRequest) -> DigestResponse;
}

impl Client {
    /// What the node at `endpoint` knows of the cluster; no other node is asked.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn status_of(&self, endpoint: &str) -> Result<v1::StatusResponse, Error> {
        let node = self.node_at(endpoint)?;
        let call = |channel, request| async move { ClusterServiceClient::new(channel).status(request).await };
        let request = v1::StatusRequest {};
        let (answer, _) = self.run(Kind::OnceAt(&node), &request, call).await.map_err(Stop::into_failure)?;
        Ok(answer)
    }

    /// What the replica at `endpoint` holds; no other node is asked.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn digest_of(
        &self,
        endpoint: &str,
        request: v1::DigestRequest,
    ) -> Result<v1::DigestResponse, Error> {
        let node = self.node_at(endpoint)?;
        let call = |channel, request| async move { ClusterServiceClient::new(channel).digest(request).await };
        let (answer, _) = self.run(Kind::ReadAt(&node), &request, call).await.map_err(Stop::into_failure)?;
        Ok(answer)
    }

    fn node_at(&self, endpoint: &str) -> Result<std::sync::Arc<crate::node::Node>, Error> {
        self.nodes.at(endpoint).ok_or_else(|| {
            let problem = "is not an address, or too many addresses are known".to_owned();
            Error::Endpoint(EndpointError { value: endpoint.to_owned(), problem })
        })
    }
}
