//! The service API of one hub.

use std::sync::Arc;

use futures_util::stream::Stream;
use http::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::API_VERSION;
use super::bulk::{self, BulkDevice, BulkDeviceResult};
use super::identity::Identity;
use super::method::{MethodAnswer, MethodCall};
use super::twin::{Twin, TwinChange};
use crate::client::{
    Client, Door, IfMatch, Page, Query, Quoting, Repeat, Request, Subject, knobs, pages, path, same,
};
use crate::credential::Credential;
use crate::error::AzureError;
use crate::id::{DeviceId, HostName};
use crate::json::Unknown;

/// One hub, as a service sees it. Cheap to clone.
///
/// Every call may fail with any [`AzureError`]; each method says which of them mean something of its own.
#[derive(Debug, Clone)]
pub struct Service {
    door: Door,
}

knobs!(Service);

/// How many devices a hub has. The figures lag behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatistics {
    /// All.
    pub total_device_count: u64,
    /// Those that may connect.
    pub enabled_device_count: u64,
    /// Those that may not.
    pub disabled_device_count: u64,
}

/// How many devices are connected. The figure lags behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatistics {
    /// Those connected.
    pub connected_device_count: u64,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Serialize)]
struct QueryBody<'a> {
    query: &'a str,
}

impl Service {
    /// The hub at `host`, such as `contoso.azure-devices.net`.
    pub fn new(client: Client, host: HostName, credential: Arc<Credential>) -> Self {
        Self { door: Door { client, host, credential } }
    }

    /// An identity, keys included (IoT Hub REST API, get identity). A disabled one is given; [`AzureError::NotFound`]
    /// only where there is none.
    pub async fn identity(&self, id: &DeviceId) -> Result<Identity, AzureError> {
        let request =
            Request::get("get identity", Subject::Device, path(&["devices", id.as_str()], API_VERSION));
        self.door.send(request).await?.json_about("an identity", |told: &Identity| same(id, &told.device_id))
    }

    /// Makes or replaces an identity (IoT Hub REST API, create or update identity). [`AzureError::Conflict`] where it
    /// exists and `if_match` says that it must not; [`AzureError::NotFound`] or [`AzureError::PreconditionFailed`]
    /// where it must and does not, or has another etag.
    pub async fn put_identity(
        &self,
        identity: &Identity,
        if_match: &IfMatch,
    ) -> Result<Identity, AzureError> {
        let segments = ["devices", identity.device_id.as_str()];
        let request =
            Request::new("put identity", Subject::Device, Method::PUT, path(&segments, API_VERSION))
                .if_match(if_match, Quoting::Quoted)?
                .json(identity)?;
        let check = |told: &Identity| same(&identity.device_id, &told.device_id);
        self.door.send(request).await?.json_about("an identity", check)
    }

    /// Removes an identity and its twin. [`IfMatch::Absent`] makes no sense here.
    pub async fn delete_identity(&self, id: &DeviceId, if_match: &IfMatch) -> Result<(), AzureError> {
        const OPERATION: &str = "delete identity";
        if *if_match == IfMatch::Absent {
            return Err(AzureError::invalid(
                OPERATION,
                "what must be absent cannot be deleted; use IfMatch::Any",
            ));
        }
        let segments = ["devices", id.as_str()];
        let request = Request::new(OPERATION, Subject::Device, Method::DELETE, path(&segments, API_VERSION))
            .if_match(if_match, Quoting::Quoted)?
            .yes(&[204]);
        self.door.send(request).await.map(drop)
    }

    /// Up to a hundred changes of identities (IoT Hub REST API, bulk registry). Checked before anything is sent: 1 to
    /// 100 items, none twice, etags where the mode goes by them. That some failed is an answer: see
    /// [`BulkDeviceResult::errors`].
    pub async fn bulk(&self, items: &[BulkDevice]) -> Result<BulkDeviceResult, AzureError> {
        const OPERATION: &str = "bulk identities";
        bulk::check(OPERATION, items)?;
        let guarded = items.iter().all(|item| item.import_mode.goes_by_etag());
        let repeat = if guarded { Repeat::Safe } else { Repeat::IfNotServed };
        let request = Request::new(OPERATION, Subject::Device, Method::POST, path(&["devices"], API_VERSION))
            .repeat(repeat)
            // Some items failed: the hub says 400, with the same body.
            .yes(&[200, 400])
            .json(&items)?;
        self.door.send(request).await?.bulk(&self.door, Subject::Device)
    }

    /// Twins, page by page, by a query such as `SELECT * FROM devices` (IoT Hub REST API, query). The index lags: a
    /// device may be missing for seconds after it was made, and be there long after it was removed.
    pub fn twins(&self, query: Query) -> impl Stream<Item = Result<Page<Twin>, AzureError>> + Send + use<> {
        self.query(query, &["Twin"], "twins")
    }

    /// Rows of any query, such as a projection, page by page.
    pub fn rows(&self, query: Query) -> impl Stream<Item = Result<Page<Value>, AzureError>> + Send + use<> {
        self.query(query, &["Raw", "Twin", "DeviceJob"], "rows")
    }

    /// A twin (IoT Hub REST API, get twin).
    pub async fn twin(&self, id: &DeviceId) -> Result<Twin, AzureError> {
        let request = Request::get("get twin", Subject::Device, path(&["twins", id.as_str()], API_VERSION));
        self.door.send(request).await?.json_about("a twin", |told: &Twin| told.check(id))
    }

    /// Changes what `change` names and leaves the rest (IoT Hub REST API, update twin). [`IfMatch::Absent`] asks for no
    /// version at all, as a twin always exists.
    pub async fn patch_twin(
        &self,
        id: &DeviceId,
        change: &TwinChange,
        if_match: &IfMatch,
    ) -> Result<Twin, AzureError> {
        self.change_twin("patch twin", Method::PATCH, id, change, if_match).await
    }

    /// Replaces tags and desired properties (IoT Hub REST API, replace twin).
    pub async fn replace_twin(
        &self,
        id: &DeviceId,
        change: &TwinChange,
        if_match: &IfMatch,
    ) -> Result<Twin, AzureError> {
        self.change_twin("replace twin", Method::PUT, id, change, if_match).await
    }

    /// Calls a method on a device (IoT Hub REST API, invoke method). [`AzureError::NotOnline`] where it is not
    /// connected, [`AzureError::NotFound`] where it does not exist or is disabled: it did not run in either case. Where
    /// [`AzureError::outcome_unknown`], it may have run, and is not repeated.
    pub async fn invoke(&self, id: &DeviceId, call: &MethodCall) -> Result<MethodAnswer, AzureError> {
        const OPERATION: &str = "invoke method";
        if let Some(problem) = call.problem() {
            return Err(AzureError::invalid(OPERATION, problem));
        }
        let segments = ["twins", id.as_str(), "methods"];
        let request = Request::new(OPERATION, Subject::Device, Method::POST, path(&segments, API_VERSION))
            .repeat(Repeat::IfNotServed)
            .attempt_max(call.attempt_max())
            .json(call)?;
        self.door.send(request).await?.json("a method's answer")
    }

    /// How many devices there are (IoT Hub REST API, get device statistics).
    pub async fn device_statistics(&self) -> Result<DeviceStatistics, AzureError> {
        self.read("get device statistics", &["statistics", "devices"], "device statistics").await
    }

    /// How many devices are connected (IoT Hub REST API, get service statistics).
    pub async fn service_statistics(&self) -> Result<ServiceStatistics, AzureError> {
        self.read("get service statistics", &["statistics", "service"], "service statistics").await
    }

    async fn read<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        segments: &[&str],
        expected: &'static str,
    ) -> Result<T, AzureError> {
        let request = Request::get(operation, Subject::Device, path(segments, API_VERSION));
        self.door.send(request).await?.json(expected)
    }

    async fn change_twin(
        &self,
        operation: &'static str,
        method: Method,
        id: &DeviceId,
        change: &TwinChange,
        if_match: &IfMatch,
    ) -> Result<Twin, AzureError> {
        if let Some(problem) = change.problem() {
            return Err(AzureError::invalid(operation, problem));
        }
        let segments = ["twins", id.as_str()];
        let request = Request::new(operation, Subject::Device, method, path(&segments, API_VERSION))
            .if_match(if_match, Quoting::Quoted)?
            .json(&change.body())?;
        self.door.send(request).await?.json_about("a twin", |told: &Twin| told.check(id))
    }

    fn query<T: DeserializeOwned + Send>(
        &self,
        query: Query,
        item_types: &'static [&'static str],
        expected: &'static str,
    ) -> impl Stream<Item = Result<Page<T>, AzureError>> + Send + use<T> {
        let text = query.text.clone();
        pages(self.door.clone(), query, item_types, expected, move || {
            let at = path(&["devices", "query"], API_VERSION);
            // A query changes nothing, though it is a POST.
            Request::new("query devices", Subject::Other, Method::POST, at)
                .reads()
                .json(&QueryBody { query: &text })
        })
    }
}
