//! The DPS service API: enrollments, groups, and the records of registrations.

use std::sync::Arc;

use futures_util::stream::Stream;
use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::SERVICE_API_VERSION;
use super::attestation::Attestation;
use super::bulk::{self, BulkMode, BulkResult};
use super::enrollment::{EnrollmentGroup, IndividualEnrollment};
use super::registration::RegistrationState;
use crate::client::{
    Client, Door, IfMatch, Page, Query, Quoting, Repeat, Request, Subject, knobs, pages, path, same,
};
use crate::credential::Credential;
use crate::error::AzureError;
use crate::id::{EnrollmentGroupId, HostName, RegistrationId};

const ENROLLMENTS: &str = "enrollments";
const GROUPS: &str = "enrollmentGroups";
const REGISTRATIONS: &str = "registrations";

/// One DPS instance, as its administrator sees it. Cheap to clone.
///
/// Every call may fail with any [`AzureError`]; each method says which of them mean something of its own. Which
/// rights a call needs stands in DPS's documentation, "Control access".
#[derive(Debug, Clone)]
pub struct Service {
    door: Door,
}

knobs!(Service);

#[derive(Serialize)]
struct QueryBody<'a> {
    query: &'a str,
}

#[derive(Serialize)]
struct Bulk<'a> {
    mode: &'a BulkMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    enrollments: Option<&'a [IndividualEnrollment]>,
    #[serde(rename = "enrollmentGroups", skip_serializing_if = "Option::is_none")]
    groups: Option<&'a [EnrollmentGroup]>,
}

impl Service {
    /// The instance at `host`, such as `contoso.azure-devices-provisioning.net`.
    pub fn new(client: Client, host: HostName, credential: Arc<Credential>) -> Self {
        Self { door: Door { client, host, credential } }
    }

    /// An enrollment, with what DPS knows of its registration, and without keys (DPS REST API, get).
    /// [`AzureError::NotFound`] where there is none.
    pub async fn enrollment(&self, id: &RegistrationId) -> Result<IndividualEnrollment, AzureError> {
        let segments = [ENROLLMENTS, id.as_str()];
        let check = |told: &IndividualEnrollment| told.check(id);
        self.read("get enrollment", Subject::Enrollment, &segments, "an enrollment", check).await
    }

    /// Makes or replaces an enrollment, and gives it as stored, keys included (DPS REST API, create or update).
    /// [`AzureError::Conflict`] where it exists and `if_match` says that it must not;
    /// [`AzureError::PreconditionFailed`] where it has another etag.
    pub async fn put_enrollment(
        &self,
        enrollment: &IndividualEnrollment,
        if_match: &IfMatch,
    ) -> Result<IndividualEnrollment, AzureError> {
        let segments = [ENROLLMENTS, enrollment.registration_id.as_str()];
        let request = self.put("put enrollment", Subject::Enrollment, &segments, enrollment, if_match)?;
        let check = |told: &IndividualEnrollment| told.check(&enrollment.registration_id);
        self.door.send(request).await?.json_about("an enrollment", check)
    }

    /// Removes an enrollment; the hub's identity stays (DPS REST API, delete). [`IfMatch::Absent`] makes no sense here.
    pub async fn delete_enrollment(&self, id: &RegistrationId, if_match: &IfMatch) -> Result<(), AzureError> {
        self.remove("delete enrollment", Subject::Enrollment, &[ENROLLMENTS, id.as_str()], if_match).await
    }

    /// How an enrollment's device proves who it is, keys included (DPS REST API, get attestation mechanism).
    pub async fn attestation(&self, id: &RegistrationId) -> Result<Attestation, AzureError> {
        let segments = [ENROLLMENTS, id.as_str(), "attestationmechanism"];
        self.mechanism("get attestation", Subject::Enrollment, &segments).await
    }

    /// Enrollments, page by page, without keys and without registrations (DPS REST API, query).
    pub fn enrollments(
        &self,
        query: Query,
    ) -> impl Stream<Item = Result<Page<IndividualEnrollment>, AzureError>> + Send + use<> {
        self.query(
            "query enrollments",
            query,
            [ENROLLMENTS, "query"].map(str::to_owned),
            &["Enrollment"],
            "enrollments",
        )
    }

    /// Up to ten changes of enrollments (DPS REST API, bulk). Checked before anything is sent: 1 to 10 items, none
    /// twice, an etag on each where the mode goes by it.
    pub async fn bulk_enrollments(
        &self,
        mode: &BulkMode,
        enrollments: &[IndividualEnrollment],
    ) -> Result<BulkResult, AzureError> {
        const OPERATION: &str = "bulk enrollments";
        let items = enrollments.iter().map(|one| (one.registration_id.to_lower(), one.etag.as_ref()));
        bulk::check(OPERATION, mode, items)?;
        let body = Bulk { mode, enrollments: Some(enrollments), groups: None };
        self.bulk(OPERATION, Subject::Enrollment, ENROLLMENTS, mode, &body).await
    }

    /// A group, without keys (DPS REST API, get).
    pub async fn group(&self, id: &EnrollmentGroupId) -> Result<EnrollmentGroup, AzureError> {
        let check = |told: &EnrollmentGroup| same(id, &told.enrollment_group_id);
        let segments = [GROUPS, id.as_str()];
        self.read("get group", Subject::EnrollmentGroup, &segments, "an enrollment group", check).await
    }

    /// Makes or replaces a group, and gives it as stored, keys included; see [`Service::put_enrollment`].
    pub async fn put_group(
        &self,
        group: &EnrollmentGroup,
        if_match: &IfMatch,
    ) -> Result<EnrollmentGroup, AzureError> {
        let segments = [GROUPS, group.enrollment_group_id.as_str()];
        let request = self.put("put group", Subject::EnrollmentGroup, &segments, group, if_match)?;
        let check = |told: &EnrollmentGroup| same(&group.enrollment_group_id, &told.enrollment_group_id);
        self.door.send(request).await?.json_about("an enrollment group", check)
    }

    /// Removes a group; its devices stay in their hubs.
    pub async fn delete_group(&self, id: &EnrollmentGroupId, if_match: &IfMatch) -> Result<(), AzureError> {
        self.remove("delete group", Subject::EnrollmentGroup, &[GROUPS, id.as_str()], if_match).await
    }

    /// How a group's devices prove who they are, keys included.
    pub async fn group_attestation(&self, id: &EnrollmentGroupId) -> Result<Attestation, AzureError> {
        let segments = [GROUPS, id.as_str(), "attestationmechanism"];
        self.mechanism("get group attestation", Subject::EnrollmentGroup, &segments).await
    }

    /// Groups, page by page, without keys.
    pub fn groups(
        &self,
        query: Query,
    ) -> impl Stream<Item = Result<Page<EnrollmentGroup>, AzureError>> + Send + use<> {
        self.query(
            "query groups",
            query,
            [GROUPS, "query"].map(str::to_owned),
            &["EnrollmentGroup"],
            "enrollment groups",
        )
    }

    /// Up to ten changes of groups; see [`Service::bulk_enrollments`].
    pub async fn bulk_groups(
        &self,
        mode: &BulkMode,
        groups: &[EnrollmentGroup],
    ) -> Result<BulkResult, AzureError> {
        const OPERATION: &str = "bulk groups";
        let items = groups.iter().map(|one| (one.enrollment_group_id.to_lower(), one.etag.as_ref()));
        bulk::check(OPERATION, mode, items)?;
        let body = Bulk { mode, enrollments: None, groups: Some(groups) };
        self.bulk(OPERATION, Subject::EnrollmentGroup, GROUPS, mode, &body).await
    }

    /// The record of a registration (DPS REST API, registration state, get). [`AzureError::NotFound`] of
    /// [`crate::Missing::Registration`] where the device never registered.
    pub async fn registration(&self, id: &RegistrationId) -> Result<RegistrationState, AzureError> {
        let segments = [REGISTRATIONS, id.as_str()];
        let check = |told: &RegistrationState| told.check_record(id);
        self.read("get registration", Subject::Registration, &segments, "a registration state", check).await
    }

    /// Forgets a registration; the hub's identity stays, and the device may register again.
    pub async fn delete_registration(
        &self,
        id: &RegistrationId,
        if_match: &IfMatch,
    ) -> Result<(), AzureError> {
        self.remove("delete registration", Subject::Registration, &[REGISTRATIONS, id.as_str()], if_match)
            .await
    }

    /// Registrations of a group's devices, page by page (DPS REST API, registration state, query).
    pub fn registrations(
        &self,
        group: &EnrollmentGroupId,
        query: Query,
    ) -> impl Stream<Item = Result<Page<RegistrationState>, AzureError>> + Send + use<> {
        let segments = [REGISTRATIONS, group.as_str(), "query"].map(str::to_owned);
        self.query("query registrations", query, segments, &["DeviceRegistration"], "registration states")
    }

    async fn read<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        subject: Subject,
        segments: &[&str],
        expected: &'static str,
        check: impl FnOnce(&T) -> Result<(), String>,
    ) -> Result<T, AzureError> {
        let request = Request::get(operation, subject, path(segments, SERVICE_API_VERSION));
        self.door.send(request).await?.json_about(expected, check)
    }

    fn put(
        &self,
        operation: &'static str,
        subject: Subject,
        segments: &[&str],
        body: &impl Serialize,
        if_match: &IfMatch,
    ) -> Result<Request, AzureError> {
        Request::new(operation, subject, Method::PUT, path(segments, SERVICE_API_VERSION))
            .if_match(if_match, Quoting::Bare)?
            .json(body)
    }

    async fn remove(
        &self,
        operation: &'static str,
        subject: Subject,
        segments: &[&str],
        if_match: &IfMatch,
    ) -> Result<(), AzureError> {
        if *if_match == IfMatch::Absent {
            return Err(AzureError::invalid(
                operation,
                "what must be absent cannot be deleted; use IfMatch::Any",
            ));
        }
        let request = Request::new(operation, subject, Method::DELETE, path(segments, SERVICE_API_VERSION))
            .if_match(if_match, Quoting::Bare)?
            .yes(&[204]);
        self.door.send(request).await.map(drop)
    }

    async fn mechanism(
        &self,
        operation: &'static str,
        subject: Subject,
        segments: &[&str],
    ) -> Result<Attestation, AzureError> {
        let request =
            Request::new(operation, subject, Method::POST, path(segments, SERVICE_API_VERSION)).reads();
        self.door.send(request).await?.json("an attestation mechanism")
    }

    async fn bulk(
        &self,
        operation: &'static str,
        subject: Subject,
        collection: &str,
        mode: &BulkMode,
        body: &Bulk<'_>,
    ) -> Result<BulkResult, AzureError> {
        // Only what goes by etags cannot undo what somebody else did since an unheard first try.
        let repeat = if *mode == BulkMode::UpdateIfMatchEtag { Repeat::Safe } else { Repeat::IfNotServed };
        let request =
            Request::new(operation, subject, Method::POST, path(&[collection], SERVICE_API_VERSION))
                .repeat(repeat)
                .yes(&[200, 400])
                .json(body)?;
        self.door.send(request).await?.bulk(&self.door, subject)
    }

    fn query<T: DeserializeOwned + Send, const N: usize>(
        &self,
        operation: &'static str,
        query: Query,
        segments: [String; N],
        item_types: &'static [&'static str],
        expected: &'static str,
    ) -> impl Stream<Item = Result<Page<T>, AzureError>> + Send + use<T, N> {
        let text = query.text.clone();
        pages(self.door.clone(), query, item_types, expected, move || {
            let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
            // A query changes nothing, though it is a POST.
            Request::new(
                operation,
                Subject::EnrollmentGroup,
                Method::POST,
                path(&segments, SERVICE_API_VERSION),
            )
            .reads()
            .json(&QueryBody { query: &text })
        })
    }
}
