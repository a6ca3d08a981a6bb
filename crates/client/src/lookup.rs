//! Lookups: one, many at one revision, a stream of them, and routes.

use std::sync::Arc;

use berth_proto::v1;
use berth_proto::v1::lookup_service_client::LookupServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::call::{Client, Kind, Stop};
use crate::error::{Attempt, Error};
use crate::node::Node;

/// Longest answer to a batch that is accepted: 10,000 rows take far less.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Lookups that a stream takes before it makes its caller wait: the server answers at most 256 at a time.
const LANE_QUEUE: usize = 256;

impl Client {
    /// Looks one device up by its device ID.
    ///
    /// # Errors
    /// [`Error::Refused`] with NOT_FOUND where a linearizable lookup finds no such device; see [`Error`] for the rest.
    pub async fn lookup(
        &self,
        device_id: &str,
        consistency: Option<v1::Consistency>,
    ) -> Result<v1::LookupResponse, Error> {
        let device = Some(v1::lookup_request::Device::DeviceId(device_id.to_owned()));
        self.lookup_request(v1::LookupRequest { device, consistency }).await
    }

    /// Looks one device up by its registration ID; `scope` may be empty.
    ///
    /// # Errors
    /// As [`Client::lookup`]; refused where several scopes know the ID and none is named.
    pub async fn lookup_registration(
        &self,
        registration_id: &str,
        scope: &str,
        consistency: Option<v1::Consistency>,
    ) -> Result<v1::LookupResponse, Error> {
        let reference =
            v1::RegistrationRef { registration_id: registration_id.to_owned(), scope: scope.to_owned() };
        let device = Some(v1::lookup_request::Device::Registration(reference));
        self.lookup_request(v1::LookupRequest { device, consistency }).await
    }

    /// Looks one device up as the request says.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn lookup_request(&self, request: v1::LookupRequest) -> Result<v1::LookupResponse, Error> {
        let call = |channel, request| async move { LookupServiceClient::new(channel).lookup(request).await };
        self.read(request, call).await
    }

    /// Looks up to 10,000 devices up, all at one revision, with one result per ID in the order asked.
    ///
    /// # Errors
    /// See [`Error`]; a device without a hub is not an error but a negative in the answer.
    pub async fn batch_lookup(
        &self,
        request: v1::BatchLookupRequest,
    ) -> Result<v1::BatchLookupResponse, Error> {
        let ids = request.device_ids.len();
        let is_packed = !request.packed_device_ids.is_empty();
        let call = |channel, request| async move {
            let mut service = LookupServiceClient::new(channel).max_decoding_message_size(BATCH_BYTES_MAX);
            service.batch_lookup(request).await
        };
        let answer = self.read(request, call).await?;
        let rows = answer.hub_numbers.len();
        if answer.epochs.len() != rows || answer.revisions.len() != rows || (!is_packed && rows != ids) {
            let problem = format!("{rows} results for {ids} IDs");
            return Err(Error::Protocol { problem });
        }
        Ok(answer)
    }

    /// Tells what was seen at a hub, and learns the mapping to use next. Any node takes it; repeats do no harm.
    ///
    /// # Errors
    /// [`Error::Refused`] with ABORTED where the epoch is above the mapping's, and with NOT_FOUND where there is no such
    /// device; see [`Error`] for the rest.
    pub async fn report(&self, request: v1::ReportRequest) -> Result<v1::ReportResponse, Error> {
        let call = |channel, request| async move { LookupServiceClient::new(channel).report(request).await };
        self.read(request, call).await
    }

    /// Opens a stream of tagged lookups to one node. It ends with that node; open another one then.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn lookup_stream(&self) -> Result<LookupLane, Error> {
        let node = self.nodes.any();
        let (requests, queue) = mpsc::channel(LANE_QUEUE);
        // The queue goes into exactly one attempt: a stream that has begun cannot be begun again.
        let queue = Arc::new(parking_lot::Mutex::new(Some(queue)));
        let call = |channel, message: tonic::Request<()>| {
            let queue = Arc::clone(&queue);
            async move {
                let queue = queue.lock().take();
                let queue = queue.ok_or_else(|| tonic::Status::internal("the stream was opened twice"))?;
                let (mut metadata, extensions, ()) = message.into_parts();
                // The stream outlives the time that it takes to open it.
                metadata.remove("grpc-timeout");
                let request = tonic::Request::from_parts(metadata, extensions, ReceiverStream::new(queue));
                LookupServiceClient::new(channel).lookup_stream(request).await
            }
        };
        let (answers, node) = self.run(Kind::OnceAt(&node), &(), call).await.map_err(Stop::into_failure)?;
        Ok(LookupLane { client: self.clone(), node, requests, answers })
    }

    /// Finds the app endpoint of the stamp that serves a host or tenant.
    ///
    /// # Errors
    /// [`Error::Refused`] with NOT_FOUND where there is no such route; see [`Error`] for the rest.
    pub async fn lookup_route(
        &self,
        key: &str,
        consistency: Option<v1::Consistency>,
    ) -> Result<v1::LookupRouteResponse, Error> {
        let request = v1::LookupRouteRequest { key: key.to_owned(), consistency };
        let call =
            |channel, request| async move { LookupServiceClient::new(channel).lookup_route(request).await };
        self.read(request, call).await
    }
}

/// A stream of tagged lookups to one node: answers come as they are ready, in any order.
#[derive(Debug)]
pub struct LookupLane {
    client: Client,
    node: Arc<Node>,
    requests: mpsc::Sender<v1::LookupStreamRequest>,
    answers: Streaming<v1::LookupStreamResponse>,
}

impl LookupLane {
    /// Sends a lookup; waits while 256 are queued already. False where the stream has ended.
    pub async fn send(&self, tag: u64, lookup: v1::LookupRequest) -> bool {
        self.requests.send(v1::LookupStreamRequest { tag, lookup: Some(lookup) }).await.is_ok()
    }

    /// A handle that sends lookups from another task. The stream's answers end once every handle is dropped and
    /// [`LookupLane::finish`] was called.
    pub fn sender(&self) -> mpsc::Sender<v1::LookupStreamRequest> {
        self.requests.clone()
    }

    /// Says that no further lookups come from here.
    pub fn finish(&mut self) {
        let (closed, _) = mpsc::channel(1);
        self.requests = closed;
    }

    /// The next answer; `None` once the stream has ended.
    ///
    /// # Errors
    /// [`Error::Refused`] where the stream broke. A refusal of one lookup is in its answer.
    pub async fn next(&mut self) -> Result<Option<v1::LookupStreamResponse>, Error> {
        match self.answers.message().await {
            Ok(answer) => {
                if let Some(v1::lookup_stream_response::Result::Answer(answer)) =
                    answer.as_ref().and_then(|answer| answer.result.as_ref())
                {
                    self.client.observe(answer);
                }
                Ok(answer)
            }
            Err(status) => Err(Attempt::failed(&status, &self.node).into_error()),
        }
    }
}
