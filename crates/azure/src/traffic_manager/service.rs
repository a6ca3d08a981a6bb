//! Reads and changes of one profile.

use std::sync::Arc;

use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::API_VERSION;
use super::model::{Endpoint, EndpointChange, EndpointKind, Profile, out_of_range};
use crate::client::{Client, Door, Repeat, Request, Subject, knobs, path};
use crate::credential::Credential;
use crate::error::AzureError;
use crate::id::{ArmName, HostName};

/// Where a profile is in Azure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileName {
    /// The subscription's ID.
    pub subscription: ArmName,
    /// The resource group.
    pub resource_group: ArmName,
    /// The profile.
    pub profile: ArmName,
}

/// One Traffic Manager profile, over Azure Resource Manager. Cheap to clone. ARM takes bearer tokens only: see
/// [`crate::ARM_SCOPE`].
///
/// Writes carry no etag, so a repeat could undo what somebody else changed since: a write is made again only where it
/// cannot have been served. [`AzureError::outcome_unknown`] says when to read it back.
#[derive(Debug, Clone)]
pub struct Service {
    door: Door,
    name: ProfileName,
}

knobs!(Service);

#[derive(Serialize)]
struct Changed<'a> {
    properties: &'a EndpointChange,
}

impl Service {
    /// The profile of this name, at `host`: [`super::ARM_HOST`].
    pub fn new(client: Client, host: HostName, credential: Arc<Credential>, name: ProfileName) -> Self {
        Self { door: Door { client, host, credential }, name }
    }

    /// The profile with its endpoints (Traffic Manager REST API, profiles, get).
    pub async fn profile(&self) -> Result<Profile, AzureError> {
        let request = Request::get("get profile", Subject::Profile, self.at(&[]));
        self.door.send(request).await?.json("a profile")
    }

    /// Makes or replaces the profile (Traffic Manager REST API, profiles, create or update).
    pub async fn put_profile(&self, profile: &Profile) -> Result<Profile, AzureError> {
        self.write_profile("put profile", Method::PUT, profile).await
    }

    /// Changes what `profile` names and leaves the rest (Traffic Manager REST API, profiles, update). Endpoints, where
    /// they are named, are replaced as a whole: so several weights change at once.
    pub async fn patch_profile(&self, profile: &Profile) -> Result<Profile, AzureError> {
        self.write_profile("patch profile", Method::PATCH, profile).await
    }

    /// An endpoint (Traffic Manager REST API, endpoints, get).
    pub async fn endpoint(&self, kind: &EndpointKind, name: &ArmName) -> Result<Endpoint, AzureError> {
        let request =
            Request::get("get endpoint", Subject::Endpoint, self.at(&[kind.as_str(), name.as_str()]));
        self.door.send(request).await?.json("an endpoint")
    }

    /// Changes what `change` names and leaves the rest (Traffic Manager REST API, endpoints, update).
    pub async fn patch_endpoint(
        &self,
        kind: &EndpointKind,
        name: &ArmName,
        change: &EndpointChange,
    ) -> Result<Endpoint, AzureError> {
        const OPERATION: &str = "patch endpoint";
        if let Some(problem) = change.problem() {
            return Err(AzureError::invalid(OPERATION, problem));
        }
        let body = Changed { properties: change };
        self.write_endpoint(OPERATION, Method::PATCH, kind, name, &body).await
    }

    /// Makes or replaces an endpoint (Traffic Manager REST API, endpoints, create or update).
    pub async fn put_endpoint(
        &self,
        kind: &EndpointKind,
        name: &ArmName,
        endpoint: &Endpoint,
    ) -> Result<Endpoint, AzureError> {
        const OPERATION: &str = "put endpoint";
        if let Some(problem) = out_of_range(endpoint.properties.weight, endpoint.properties.priority) {
            return Err(AzureError::invalid(OPERATION, problem));
        }
        self.write_endpoint(OPERATION, Method::PUT, kind, name, endpoint).await
    }

    async fn write_profile(
        &self,
        operation: &'static str,
        method: Method,
        profile: &Profile,
    ) -> Result<Profile, AzureError> {
        for endpoint in profile.properties.endpoints.iter().flatten() {
            if let Some(problem) = out_of_range(endpoint.properties.weight, endpoint.properties.priority) {
                let name = endpoint.name.as_deref().unwrap_or("without a name");
                return Err(AzureError::invalid(operation, format!("endpoint `{name}` has {problem}")));
            }
        }
        self.write(operation, Subject::Profile, method, self.at(&[]), profile, "a profile").await
    }

    async fn write_endpoint(
        &self,
        operation: &'static str,
        method: Method,
        kind: &EndpointKind,
        name: &ArmName,
        body: &impl Serialize,
    ) -> Result<Endpoint, AzureError> {
        let at = self.at(&[kind.as_str(), name.as_str()]);
        self.write(operation, Subject::Endpoint, method, at, body, "an endpoint").await
    }

    async fn write<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        subject: Subject,
        method: Method,
        at: String,
        body: &impl Serialize,
        expected: &'static str,
    ) -> Result<T, AzureError> {
        let request = Request::new(operation, subject, method, at)
            .repeat(Repeat::IfNotServed)
            .yes(&[200, 201])
            .json(body)?;
        self.door.send(request).await?.json(expected)
    }

    fn at(&self, below: &[&str]) -> String {
        let ProfileName { subscription, resource_group, profile } = &self.name;
        let mut segments = vec![
            "subscriptions",
            subscription.as_str(),
            "resourceGroups",
            resource_group.as_str(),
            "providers",
            "Microsoft.Network",
            "trafficmanagerprofiles",
            profile.as_str(),
        ];
        segments.extend_from_slice(below);
        path(&segments, API_VERSION)
    }
}
