//! [`ApiError`] to gRPC status and back.
//!
//! The status carries `google.rpc` details: always an ErrorInfo with the reason and every fact of the error, and beside
//! it what the code calls for (BadRequest, ResourceInfo, PreconditionFailure, QuotaFailure, RetryInfo). The way back
//! reads the ErrorInfo alone, and the BadRequest of malformed fields.

use berth_core::{ItemRejection, Rejection};
use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::facts::{Facts, clipped};
use super::{ApiError, ERROR_DOMAIN, FieldViolation, LeaderHint, TOLD_ITEMS_MAX, rejection};
use crate::v1::{DriftClass, ErrorReason, ItemError, NegativeKind};

/// Malformed fields that one error tells: they must fit a header list of 16 KiB.
const TOLD_VIOLATIONS_MAX: usize = 16;

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let message = clipped_message(error.to_string());
        if let ApiError::Foreign { code, .. } = error {
            return Status::new(code, message);
        }
        let (code, reason) = class(&error);
        let facts = told(&error);
        let mut details = ErrorDetails::with_error_info(reason_text(reason), ERROR_DOMAIN, facts.metadata());
        add_particulars(&mut details, &error, &facts, &message);
        if let Some(after) = error.retry_after() {
            details.set_retry_info(Some(after));
        }
        Status::with_error_details(code, message, details)
    }
}

impl From<Status> for ApiError {
    fn from(status: Status) -> Self {
        Self::from(&status)
    }
}

impl From<&Status> for ApiError {
    fn from(status: &Status) -> Self {
        // Told again, an error that says OK would pass for success.
        let code = Some(status.code()).filter(|code| *code != Code::Ok).unwrap_or(Code::Unknown);
        let foreign = || Self::Foreign { code, message: status.message().to_owned() };
        let Ok(details) = status.check_error_details() else { return foreign() };
        let Some(info) = details.error_info().filter(|info| info.domain == ERROR_DOMAIN) else {
            return foreign();
        };
        let mut facts = Facts::of(info.metadata.clone());
        facts.fall_back_to(status.message());
        let retry = details.retry_info().and_then(|retry| retry.retry_delay);
        let facts = facts.set_missing("retry_after_ms", retry.map(|delay| delay.as_millis()));
        let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        let violations = violations
            .iter()
            .map(|v| FieldViolation { field: v.field.clone(), problem: v.description.clone() })
            .collect();
        reason_of(&info.reason)
            .and_then(|reason| read(reason, status.code(), &facts, violations))
            .unwrap_or_else(foreign)
    }
}

impl From<ApiError> for ItemError {
    fn from(error: ApiError) -> Self {
        let status = Status::from(error);
        let details = Bytes::copy_from_slice(status.details());
        Self { code: status.code() as i32, message: status.message().to_owned(), details }
    }
}

impl From<ItemError> for ApiError {
    fn from(item: ItemError) -> Self {
        Self::from(Status::with_details(Code::from_i32(item.code), item.message, item.details))
    }
}

/// Reads the error from a serialised `google.rpc.Status`; `None` where the bytes are not one.
pub fn from_status_bytes(bytes: &[u8]) -> Option<ApiError> {
    let status = tonic_types::Status::decode(bytes).ok()?;
    let details = Bytes::copy_from_slice(bytes);
    Some(ApiError::from(Status::with_details(Code::from_i32(status.code), status.message, details)))
}

impl ApiError {
    /// The gRPC code that it is answered with.
    pub fn code(&self) -> Code {
        class(self).0
    }

    /// The reason as an ErrorInfo tells it: one of a fixed list.
    pub fn reason(&self) -> &'static str {
        reason_text(class(self).1)
    }
}

/// The reason of a refusal, as [`ApiError::reason`] tells it of the error that the refusal becomes.
pub fn reason_of_rejection(rejection: &Rejection) -> &'static str {
    reason_text(rejection::class(rejection).1)
}

fn class(error: &ApiError) -> (Code, ErrorReason) {
    match error {
        ApiError::Invalid(_) => (Code::InvalidArgument, ErrorReason::InvalidArgument),
        ApiError::Rejected(refusal) => rejection::class(refusal),
        ApiError::BatchRefused { items, .. } => {
            let code =
                items.first().map_or(Code::FailedPrecondition, |item| rejection::class(&item.rejection).0);
            (code, ErrorReason::BatchRefused)
        }
        ApiError::NoHub { kind, .. } => match kind {
            NegativeKind::Unknown | NegativeKind::Unspecified => (Code::NotFound, ErrorReason::DeviceUnknown),
            NegativeKind::Unassigned => (Code::FailedPrecondition, ErrorReason::DeviceUnassigned),
            NegativeKind::Enrolling => (Code::Unavailable, ErrorReason::DeviceEnrolling),
            NegativeKind::Disabled => (Code::FailedPrecondition, ErrorReason::DeviceDisabled),
            NegativeKind::Failed => (Code::FailedPrecondition, ErrorReason::DeviceFailed),
            NegativeKind::Missing => (Code::FailedPrecondition, ErrorReason::DeviceMissing),
        },
        ApiError::Unverified { .. } => (Code::Unavailable, ErrorReason::DeviceUnverified),
        ApiError::NotAdopted { .. } => (Code::FailedPrecondition, ErrorReason::DeviceNotAdopted),
        ApiError::BudgetSpent { .. } => (Code::ResourceExhausted, ErrorReason::BudgetSpent),
        ApiError::RegistrationUnknown { .. } => (Code::NotFound, ErrorReason::RegistrationUnknown),
        ApiError::RegistrationAmbiguous { .. } => {
            (Code::FailedPrecondition, ErrorReason::RegistrationAmbiguous)
        }
        ApiError::DriftUnknown { .. } => (Code::NotFound, ErrorReason::DriftUnknown),
        ApiError::DriftStands { .. } => (Code::FailedPrecondition, ErrorReason::DriftStands),
        ApiError::SweepRunning => (Code::FailedPrecondition, ErrorReason::SweepRunning),
        ApiError::NodeUnknown { .. } => (Code::NotFound, ErrorReason::NodeUnknown),
        ApiError::MembershipRefused { .. } => (Code::FailedPrecondition, ErrorReason::MembershipRefused),
        ApiError::NotLeader { .. } => (Code::Unavailable, ErrorReason::NotLeader),
        ApiError::NoQuorum { .. } => (Code::Unavailable, ErrorReason::NoQuorum),
        ApiError::ReplicaBehind { .. } => (Code::Unavailable, ErrorReason::ReplicaBehind),
        ApiError::NotServing { .. } => (Code::Unavailable, ErrorReason::NotServing),
        ApiError::Overloaded { .. } => (Code::ResourceExhausted, ErrorReason::Overloaded),
        ApiError::DiskFull { .. } => (Code::ResourceExhausted, ErrorReason::DiskFull),
        ApiError::OutcomeUnknown { timed_out: true, .. } => {
            (Code::DeadlineExceeded, ErrorReason::WriteOutcomeUnknown)
        }
        ApiError::OutcomeUnknown { timed_out: false, .. } => {
            (Code::Unavailable, ErrorReason::WriteOutcomeUnknown)
        }
        ApiError::DeadlineExceeded { .. } => (Code::DeadlineExceeded, ErrorReason::DeadlineExceeded),
        ApiError::WrongCluster { .. } => (Code::FailedPrecondition, ErrorReason::WrongCluster),
        ApiError::TokenBeforeRestore { .. } => (Code::FailedPrecondition, ErrorReason::TokenBeforeRestore),
        ApiError::SnapshotExpired { .. } => (Code::FailedPrecondition, ErrorReason::SnapshotExpired),
        ApiError::SnapshotElsewhere { .. } => (Code::FailedPrecondition, ErrorReason::SnapshotElsewhere),
        ApiError::Internal { .. } => (Code::Internal, ErrorReason::Internal),
        ApiError::DataLoss { .. } => (Code::DataLoss, ErrorReason::DataLoss),
        ApiError::Foreign { code, .. } => (*code, ErrorReason::Unspecified),
    }
}

fn told(error: &ApiError) -> Facts {
    let facts = Facts::default();
    match error {
        ApiError::Invalid(violations) => facts.set("violations", violations.len()),
        ApiError::Rejected(refusal) => rejection::told(refusal, facts),
        ApiError::BatchRefused { refused, items } => {
            let all = facts.set("refused", refused);
            let all = items.iter().take(TOLD_ITEMS_MAX).enumerate().fold(all, |facts, (n, item)| {
                let (_, reason) = rejection::class(&item.rejection);
                let facts =
                    facts.under(item_prefix(n)).set("index", item.index).set("reason", reason_text(reason));
                rejection::told(&item.rejection, facts)
            });
            // Code and message are those of the first item, so the other details are too.
            all.under(item_prefix(0))
        }
        ApiError::NoHub { device, epoch, remember_for, .. } => {
            facts.set("device", device).set("epoch", epoch).set("remember_for_ms", remember_for.as_millis())
        }
        ApiError::Unverified { device, problem, retry_after } => {
            facts.set("device", device).set("problem", problem).set("retry_after_ms", retry_after.as_millis())
        }
        ApiError::NotAdopted { device, hub, drift, remember_for } => facts
            .set("device", device)
            .set("hub", hub)
            .set("drift", drift_text(*drift))
            .set("remember_for_ms", remember_for.as_millis()),
        ApiError::BudgetSpent { place, per_minute, retry_after } => facts
            .set("kind", "scope")
            .set("name", place)
            .set("per_minute", per_minute)
            .set("retry_after_ms", retry_after.as_millis()),
        ApiError::RegistrationUnknown { registration, scope } => {
            facts.set("registration", registration).set_some("scope", scope.as_ref())
        }
        ApiError::RegistrationAmbiguous { registration, scopes } => {
            facts.set("registration", registration).set("scopes", scopes.join(","))
        }
        ApiError::DriftUnknown { device } => facts.set("device", device),
        ApiError::DriftStands { device, problem } => facts.set("device", device).set("problem", problem),
        ApiError::NodeUnknown { node_id } | ApiError::SnapshotElsewhere { node_id } => {
            facts.set("node_id", node_id)
        }
        ApiError::MembershipRefused { problem } => facts.set("problem", problem),
        ApiError::NotLeader { leader } => match leader {
            None => facts,
            Some(leader) => facts
                .set("leader_id", leader.node_id)
                .set("leader_name", &leader.name)
                .set("leader_address", &leader.address),
        },
        ApiError::NoQuorum { cause } => facts.set("cause", cause),
        ApiError::ReplicaBehind { asked, actual } => facts.set("asked", asked).set("actual", actual),
        ApiError::NotServing { state } => facts.set("state", state),
        ApiError::Overloaded { what, limit, retry_after } => {
            facts.set("what", what).set("limit", limit).set("retry_after_ms", retry_after.as_millis())
        }
        ApiError::DiskFull { free_bytes, needed_bytes } => {
            facts.set("free_bytes", free_bytes).set("needed_bytes", needed_bytes)
        }
        ApiError::OutcomeUnknown { request_id, cause, .. } => {
            facts.set_some("request_id", request_id.as_ref()).set("cause", cause)
        }
        ApiError::DeadlineExceeded { waiting_for } => facts.set("waiting_for", waiting_for),
        ApiError::WrongCluster { asked, actual } => facts.set("asked", asked).set("actual", actual),
        ApiError::TokenBeforeRestore { asked, actual } => facts.set("asked", asked).set("actual", actual),
        ApiError::SnapshotExpired { revision } => facts.set("revision", revision),
        ApiError::Internal { correlation_id } | ApiError::DataLoss { correlation_id } => {
            facts.set("correlation_id", correlation_id)
        }
        ApiError::SweepRunning | ApiError::Foreign { .. } => facts,
    }
}

/// Adds the details that the code calls for, for callers that read these rather than ours.
/// What stands before the keys of the n-th refused item that is told.
fn item_prefix(n: usize) -> String {
    format!("item{n}_")
}

fn add_particulars(details: &mut ErrorDetails, error: &ApiError, facts: &Facts, message: &str) {
    if let ApiError::Invalid(violations) = error {
        for violation in violations.iter().take(TOLD_VIOLATIONS_MAX) {
            details.add_bad_request_violation(
                clipped(violation.field.clone()),
                clipped(violation.problem.clone()),
            );
        }
        return;
    }
    let name = || ["device", "name", "registration", "node_id"].iter().find_map(|key| facts.text(key));
    let kind = || {
        facts.text("kind").unwrap_or_else(|| if facts.has("node_id") { "node" } else { "device" }.to_owned())
    };
    match class(error).0 {
        Code::InvalidArgument => {
            details.add_bad_request_violation(bad_field(error), message);
        }
        Code::NotFound | Code::AlreadyExists => {
            details.set_resource_info(
                format!("{ERROR_DOMAIN}/{}", kind()),
                name().unwrap_or_default(),
                "",
                message,
            );
        }
        Code::FailedPrecondition => {
            details.add_precondition_failure_violation(
                reason_text(class(error).1),
                name().unwrap_or_default(),
                message,
            );
        }
        Code::ResourceExhausted => {
            let subject = name().map_or_else(|| "node".to_owned(), |name| format!("{}:{name}", kind()));
            details.add_quota_failure_violation(subject, message);
        }
        _ => {}
    }
}

/// The field that a refused argument is about.
fn bad_field(error: &ApiError) -> &'static str {
    match error {
        ApiError::Rejected(Rejection::HubRequired { .. }) => "hub",
        ApiError::Rejected(Rejection::ScopeRequired { .. }) => "scope",
        ApiError::Rejected(Rejection::Invalid { .. }) => "desired",
        ApiError::Rejected(Rejection::RequestIdReused { .. } | Rejection::RequestIdAhead { .. }) => {
            "request_id"
        }
        _ => "items",
    }
}

/// The error that reason, code and facts tell; `None` where they do not tell one that this build knows.
fn read(reason: ErrorReason, code: Code, facts: &Facts, violations: Vec<FieldViolation>) -> Option<ApiError> {
    let no_hub = |kind: NegativeKind| {
        Some(ApiError::NoHub {
            device: facts.text("device")?,
            kind,
            epoch: facts.number("epoch")?,
            remember_for: facts.millis("remember_for_ms")?,
        })
    };
    Some(match reason {
        ErrorReason::InvalidArgument if violations.is_empty() => ApiError::Invalid(vec![FieldViolation {
            field: "request".to_owned(),
            problem: facts.told("problem")?,
        }]),
        ErrorReason::InvalidArgument => ApiError::Invalid(violations),
        ErrorReason::BatchRefused => ApiError::BatchRefused {
            refused: facts.number("refused")?,
            items: (0..TOLD_ITEMS_MAX).map_while(|n| read_item(n, facts)).collect(),
        },
        ErrorReason::DeviceUnknown if facts.has("remember_for_ms") => no_hub(NegativeKind::Unknown)?,
        ErrorReason::DeviceUnassigned => no_hub(NegativeKind::Unassigned)?,
        ErrorReason::DeviceEnrolling => no_hub(NegativeKind::Enrolling)?,
        ErrorReason::DeviceDisabled => no_hub(NegativeKind::Disabled)?,
        ErrorReason::DeviceFailed => no_hub(NegativeKind::Failed)?,
        ErrorReason::DeviceMissing => no_hub(NegativeKind::Missing)?,
        ErrorReason::DeviceUnverified => ApiError::Unverified {
            device: facts.text("device")?,
            problem: facts.told("problem")?,
            retry_after: facts.millis("retry_after_ms")?,
        },
        ErrorReason::DeviceNotAdopted => ApiError::NotAdopted {
            device: facts.text("device")?,
            hub: facts.text("hub")?,
            drift: drift_of(&facts.text("drift")?),
            remember_for: facts.millis("remember_for_ms")?,
        },
        ErrorReason::BudgetSpent => ApiError::BudgetSpent {
            place: facts.text("name")?,
            per_minute: facts.number("per_minute")?,
            retry_after: facts.millis("retry_after_ms")?,
        },
        ErrorReason::RegistrationUnknown => ApiError::RegistrationUnknown {
            registration: facts.text("registration")?,
            scope: facts.text("scope"),
        },
        ErrorReason::RegistrationAmbiguous => ApiError::RegistrationAmbiguous {
            registration: facts.text("registration")?,
            scopes: facts.text("scopes")?.split(',').map(ToOwned::to_owned).collect(),
        },
        ErrorReason::DriftUnknown => ApiError::DriftUnknown { device: facts.text("device")? },
        ErrorReason::DriftStands => {
            ApiError::DriftStands { device: facts.text("device")?, problem: facts.told("problem")? }
        }
        ErrorReason::SweepRunning => ApiError::SweepRunning,
        ErrorReason::NodeUnknown => ApiError::NodeUnknown { node_id: facts.number("node_id")? },
        ErrorReason::MembershipRefused => ApiError::MembershipRefused { problem: facts.told("problem")? },
        ErrorReason::NotLeader => ApiError::NotLeader { leader: read_leader(facts) },
        ErrorReason::NoQuorum => ApiError::NoQuorum { cause: facts.told("cause")? },
        ErrorReason::ReplicaBehind => {
            ApiError::ReplicaBehind { asked: facts.text("asked")?, actual: facts.text("actual")? }
        }
        ErrorReason::NotServing => ApiError::NotServing { state: facts.told("state")? },
        ErrorReason::Overloaded => ApiError::Overloaded {
            what: facts.told("what")?,
            limit: facts.number("limit")?,
            retry_after: facts.millis("retry_after_ms")?,
        },
        ErrorReason::DiskFull => ApiError::DiskFull {
            free_bytes: facts.number("free_bytes")?,
            needed_bytes: facts.number("needed_bytes")?,
        },
        ErrorReason::WriteOutcomeUnknown => ApiError::OutcomeUnknown {
            request_id: facts.text("request_id"),
            cause: facts.told("cause")?,
            timed_out: code == Code::DeadlineExceeded,
        },
        ErrorReason::DeadlineExceeded => {
            ApiError::DeadlineExceeded { waiting_for: facts.told("waiting_for")? }
        }
        ErrorReason::WrongCluster => {
            ApiError::WrongCluster { asked: facts.text("asked")?, actual: facts.text("actual")? }
        }
        ErrorReason::TokenBeforeRestore => {
            ApiError::TokenBeforeRestore { asked: facts.number("asked")?, actual: facts.number("actual")? }
        }
        ErrorReason::SnapshotExpired => ApiError::SnapshotExpired { revision: facts.number("revision")? },
        ErrorReason::SnapshotElsewhere => ApiError::SnapshotElsewhere { node_id: facts.number("node_id")? },
        ErrorReason::Internal => ApiError::Internal { correlation_id: facts.text("correlation_id")? },
        ErrorReason::DataLoss => ApiError::DataLoss { correlation_id: facts.text("correlation_id")? },
        other => ApiError::Rejected(rejection::read(other, facts)?),
    })
}

fn read_item(n: usize, facts: &Facts) -> Option<ItemRejection> {
    let facts = facts.clone().under(item_prefix(n));
    let rejection = rejection::read(reason_of(&facts.text("reason")?)?, &facts)?;
    Some(ItemRejection { index: facts.parsed("index")?, rejection })
}

fn read_leader(facts: &Facts) -> Option<LeaderHint> {
    Some(LeaderHint {
        node_id: facts.number("leader_id")?,
        name: facts.text("leader_name")?,
        address: facts.text("leader_address")?,
    })
}

const REASON_PREFIX: &str = "ERROR_REASON_";

fn reason_text(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix(REASON_PREFIX).unwrap_or(name)
}

fn reason_of(text: &str) -> Option<ErrorReason> {
    ErrorReason::from_str_name(&format!("{REASON_PREFIX}{text}"))
}

const DRIFT_PREFIX: &str = "DRIFT_CLASS_";

fn drift_text(class: DriftClass) -> &'static str {
    let name = class.as_str_name();
    name.strip_prefix(DRIFT_PREFIX).unwrap_or(name)
}

/// The class of this name; one that a newer Berth knows is unspecified here.
fn drift_of(text: &str) -> DriftClass {
    DriftClass::from_str_name(&format!("{DRIFT_PREFIX}{text}")).unwrap_or_default()
}

/// Longest message of a status, in bytes: it travels percent-encoded in a header.
const MESSAGE_BYTES_MAX: usize = 1_000;

fn clipped_message(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}
