//! What is not known of Azure: each open question has a switch, and the default is the stricter reading, the one
//! that a client can rely on less.

use serde::Deserialize;

/// The open questions.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Switches {
    /// Whether refusals of the DPS service API with 401, 403, 412 and 429 carry the error body that its other
    /// refusals carry. Default envelope: SDKs read it where it is there.
    pub service_error_body: ErrorBody,
    /// The number in the body of a DPS 412. Default 412001.
    pub precondition_failed_code: u32,
    /// The number in the body of a DPS 403. Default 403000.
    pub forbidden_code: u32,
    /// The number for an operation that is not known. Default 404203.
    pub operation_not_found_code: u32,
    /// The number for a bulk request of too many enrollments. Default 400205.
    pub too_many_enrollments_code: u32,
    /// A PUT with If-Match of an enrollment that does not exist. Default not found.
    pub write_to_missing: WriteToMissing,
    /// A PUT of an existing symmetric-key enrollment without keys. Default: they are minted anew.
    pub write_without_keys: WriteWithoutKeys,
    /// How DPS keeps the case of registration IDs. Default: as first stored.
    pub registration_id_case: IdCase,
    /// A bulk request of more than ten enrollments. Default 400.
    pub bulk_over_limit: BulkOverLimit,
    /// Rows of a query's page where none are asked for. Default 1,000.
    pub query_page_default: usize,
    /// Most rows of a query's page. Default 1,000.
    pub query_page_max: usize,
    /// What GET of a registration whose only attempts failed answers. Default not found.
    pub failed_registration: FailedRegistration,
    /// Whether changing an enrollment's hubs makes its registration state read `unassigned` until the device registers
    /// again. All evidence says no. Default false.
    pub state_follows_enrollment: bool,
    /// The body of a direct method's 404001. Default nested.
    pub method_missing: MethodMissing,
    /// Whether a signature over `https://host/` is taken as one over `host`. Default false.
    pub accept_scheme_in_resource: bool,
    /// A register while an earlier one is under way. Default 409.
    pub register_while_assigning: RegisterWhileAssigning,
    /// `updateHubAssignment` false with `migrateDeviceData` true, which no document lists. Default 400.
    pub invalid_reprovision_policy: InvalidReprovisionPolicy,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            service_error_body: ErrorBody::Envelope,
            precondition_failed_code: 412_001,
            forbidden_code: 403_000,
            operation_not_found_code: 404_203,
            too_many_enrollments_code: 400_205,
            write_to_missing: WriteToMissing::NotFound,
            write_without_keys: WriteWithoutKeys::Regenerate,
            registration_id_case: IdCase::Preserve,
            bulk_over_limit: BulkOverLimit::BadRequest,
            query_page_default: 1_000,
            query_page_max: 1_000,
            failed_registration: FailedRegistration::NotFound,
            state_follows_enrollment: false,
            method_missing: MethodMissing::Nested,
            accept_scheme_in_resource: false,
            register_while_assigning: RegisterWhileAssigning::Conflict,
            invalid_reprovision_policy: InvalidReprovisionPolicy::BadRequest,
        }
    }
}

/// The body of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorBody {
    /// The usual one.
    Envelope,
    /// None at all.
    Empty,
}

/// A conditional write to what is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteToMissing {
    /// 404.
    NotFound,
    /// 412.
    PreconditionFailed,
    /// It is created.
    Create,
}

/// A write of a symmetric-key enrollment without keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteWithoutKeys {
    /// New keys: the device's own are lost.
    Regenerate,
    /// The stored keys stay.
    Keep,
    /// 400.
    Refuse,
}

/// What becomes of a registration ID's case. IDs compare without it in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdCase {
    /// Echoed as first stored.
    Preserve,
    /// Lower-cased.
    Lower,
    /// Upper case is refused with 400004, as before 2021.
    RefuseUpper,
}

/// A bulk request of more than ten enrollments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BulkOverLimit {
    /// 400.
    BadRequest,
    /// 413.
    PayloadTooLarge,
}

/// What GET of a failed registration answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailedRegistration {
    /// 404.
    NotFound,
    /// A state that says so.
    State,
}

/// The body of a direct method's 404001.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MethodMissing {
    /// JSON in `Message`, as for 404103.
    Nested,
    /// `ErrorCode:DeviceNotFound;…` in `Message`, as registry and twin paths answer.
    Plain,
}

/// A register while an earlier one is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegisterWhileAssigning {
    /// 409203.
    Conflict,
    /// The same operation again.
    SameOperation,
}

/// A re-provisioning policy that no document lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvalidReprovisionPolicy {
    /// 400.
    BadRequest,
    /// Taken as *never*.
    Never,
}
