//! Devices: assign, get, list, remove, export.

use std::sync::Arc;

use berth_proto::v1;
use berth_proto::v1::device_service_client::DeviceServiceClient;
use tonic::Streaming;

use crate::call::{Client, Kind, Stop};
use crate::error::{Attempt, Error};
use crate::node::Node;

/// Longest page of a list or message of an export that is accepted: 10,000 devices with all their labels.
const PAGE_BYTES_MAX: usize = 32 << 20;
/// Longest batch that is sent: the server refuses more than 3 MiB of it.
const BATCH_BYTES_MAX: usize = 4 << 20;

impl Client {
    /// Creates or moves one device. A request without an ID gets one, which all its repeats carry.
    ///
    /// # Errors
    /// See [`Error`]; after [`Error::OutcomeUnknown`] repeat only with the ID that it names.
    pub async fn assign(&self, request: v1::AssignRequest) -> Result<v1::AssignResponse, Error> {
        self.write(request, |channel, request| async move {
            DeviceServiceClient::new(channel).assign(request).await
        })
        .await
    }

    /// Creates or moves up to 10,000 devices: all or nothing, at one revision.
    ///
    /// # Errors
    /// As [`Client::assign`].
    pub async fn batch_assign(
        &self,
        request: v1::BatchAssignRequest,
    ) -> Result<v1::BatchAssignResponse, Error> {
        let call = |channel, request| async move {
            let mut service = DeviceServiceClient::new(channel).max_encoding_message_size(BATCH_BYTES_MAX);
            service.batch_assign(request).await
        };
        self.write(request, call).await
    }

    /// Reads one device with everything known of it, whatever its status.
    ///
    /// # Errors
    /// [`Error::Refused`] with NOT_FOUND where there is no such device; see [`Error`] for the rest.
    pub async fn get(&self, request: v1::GetRequest) -> Result<v1::GetResponse, Error> {
        self.read(
            request,
            |channel, request| async move { DeviceServiceClient::new(channel).get(request).await },
        )
        .await
    }

    /// Removes one device.
    ///
    /// # Errors
    /// As [`Client::assign`].
    pub async fn remove(&self, request: v1::RemoveRequest) -> Result<v1::RemoveResponse, Error> {
        self.write(request, |channel, request| async move {
            DeviceServiceClient::new(channel).remove(request).await
        })
        .await
    }

    /// Lists devices page by page, all pages at one revision, on one node.
    pub fn list(&self, request: v1::ListRequest) -> DevicePages {
        DevicePages { client: self.clone(), request, node: None, is_done: false }
    }

    /// Streams all devices that the request asks for, at one revision. A request with a `snapshot_token` has to go
    /// to the node that made the token: see [`ExportStream::sibling`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn export(&self, request: v1::ExportRequest) -> Result<ExportStream, Error> {
        ExportStream::open(self, Kind::Read, request).await
    }
}

/// Pages of a list.
#[derive(Debug)]
pub struct DevicePages {
    client: Client,
    request: v1::ListRequest,
    /// The node that holds the revision that the pages are read at.
    node: Option<Arc<Node>>,
    is_done: bool,
}

impl DevicePages {
    /// The next page; `None` after the last one.
    ///
    /// # Errors
    /// See [`Error`]. Where the node of the first page is gone the list has to be started again.
    pub async fn next(&mut self) -> Result<Option<v1::ListResponse>, Error> {
        if self.is_done {
            return Ok(None);
        }
        let kind = self.node.as_ref().map_or(Kind::Read, Kind::ReadAt);
        let call = |channel, request| async move {
            DeviceServiceClient::new(channel).max_decoding_message_size(PAGE_BYTES_MAX).list(request).await
        };
        let (page, node): (v1::ListResponse, _) =
            self.client.run(kind, &self.request, call).await.map_err(Stop::into_failure)?;
        self.client.observe(&page);
        self.node = Some(node);
        self.is_done = page.next_page_token.is_empty();
        self.request.page_token.clone_from(&page.next_page_token);
        Ok(Some(page))
    }
}

/// Devices as a node exports them.
#[derive(Debug)]
pub struct ExportStream {
    client: Client,
    node: Arc<Node>,
    request: v1::ExportRequest,
    answers: Streaming<v1::ExportResponse>,
    snapshot_token: String,
    is_complete: bool,
}

impl ExportStream {
    async fn open(client: &Client, kind: Kind<'_>, request: v1::ExportRequest) -> Result<Self, Error> {
        let call = |channel, mut message: tonic::Request<v1::ExportRequest>| async move {
            // The stream outlives the time that it takes to open it.
            message.metadata_mut().remove("grpc-timeout");
            DeviceServiceClient::new(channel).max_decoding_message_size(PAGE_BYTES_MAX).export(message).await
        };
        let (answers, node) = client.run(kind, &request, call).await.map_err(Stop::into_failure)?;
        Ok(Self {
            client: client.clone(),
            node,
            snapshot_token: request.snapshot_token.clone(),
            request,
            answers,
            is_complete: false,
        })
    }

    /// The next devices; `None` after the last ones.
    ///
    /// # Errors
    /// [`Error::Refused`] where the stream broke, [`Error::Protocol`] where it ended before it was complete.
    pub async fn next(&mut self) -> Result<Option<v1::ExportResponse>, Error> {
        match self.answers.message().await {
            Ok(Some(part)) => {
                self.client.observe(&part);
                if !part.snapshot_token.is_empty() {
                    self.snapshot_token.clone_from(&part.snapshot_token);
                }
                self.is_complete |= part.complete;
                Ok(Some(part))
            }
            Ok(None) if self.is_complete => Ok(None),
            Ok(None) => {
                let problem = format!("the export from {} ended before it was complete", self.node.address);
                Err(Error::Protocol { problem })
            }
            Err(status) => Err(Attempt::failed(&status, &self.node).into_error()),
        }
    }

    /// Another partition, at the same revision on the same node; for once the first message has come.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn sibling(&self, partition: u32) -> Result<Self, Error> {
        let request = v1::ExportRequest {
            partition,
            snapshot_token: self.snapshot_token.clone(),
            ..self.request.clone()
        };
        Self::open(&self.client, Kind::ReadAt(&self.node), request).await
    }
}
