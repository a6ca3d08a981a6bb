//! What a caller may be told: [`ApiError`], and the one map between it and gRPC statuses.

mod facts;
mod rejection;
mod status;
#[cfg(test)]
mod tests;

use std::time::Duration;

use berth_core::{ItemRejection, Rejection};
use tonic::Code;

use crate::v1::{DriftClass, NegativeKind};

pub use status::{from_status_bytes, reason_of_rejection};

/// Domain of every [`google.rpc.ErrorInfo`](tonic_types::ErrorInfo) of ours.
pub const ERROR_DOMAIN: &str = "berth.dev";

/// Refused items of a batch that an error tells one by one: with their texts they must fit a header list of 16 KiB.
pub const TOLD_ITEMS_MAX: usize = 8;

/// A field of a request that is malformed, too long or missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path of the field, such as `items[3].device_id`.
    pub field: String,
    /// What is wrong, with the value, and what is allowed.
    pub problem: String,
}

/// Where the leader is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderHint {
    /// Its node ID.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// Address of its client listener.
    pub address: String,
}

/// Why a call was not answered as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// Fields of the request are malformed. Never empty.
    #[error("{}", told_violations(.0))]
    Invalid(Vec<FieldViolation>),
    /// The directory refused the command; nothing was changed.
    #[error(transparent)]
    Rejected(Rejection),
    /// Items of a batch were refused, so all of it was; nothing was changed.
    #[error("{refused} of the batch's items are refused{}; nothing was written", told_items(.items))]
    BatchRefused {
        /// How many.
        refused: u64,
        /// The first of them, at most [`TOLD_ITEMS_MAX`].
        items: Vec<ItemRejection>,
    },
    /// There is no hub to call for this device.
    #[error("device `{device}` {}", told_negative(*.kind))]
    NoHub {
        /// The device.
        device: String,
        /// Why.
        kind: NegativeKind,
        /// Fence of its mapping; 0 where there is none.
        epoch: u64,
        /// How long the caller may remember this.
        remember_for: Duration,
    },
    /// The directory does not have the device, and its provisioning service could not be asked.
    #[error("device `{device}` is not in the directory, and could not be looked for further ({problem}); try again in {} ms", .retry_after.as_millis())]
    Unverified {
        /// The device.
        device: String,
        /// What stood in the way.
        problem: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// The directory does not have the device, and its provisioning service has it where the directory may not or cannot
    /// follow.
    #[error("device `{device}` is not in the directory, though its provisioning service has it on `{hub}`: {}", told_drift(*.drift))]
    NotAdopted {
        /// The device.
        device: String,
        /// The hub that its provisioning service names.
        hub: String,
        /// What keeps the directory from following.
        drift: DriftClass,
        /// How long the caller may remember this.
        remember_for: Duration,
    },
    /// What may be asked of a provisioning service in a minute is spent, and so this was not asked.
    #[error("the {per_minute} questions a minute that `{place}` may be asked for this are spent; try again in {} ms", .retry_after.as_millis())]
    BudgetSpent {
        /// The scope of the provisioning service.
        place: String,
        /// Questions a minute.
        per_minute: u64,
        /// When there is leave again.
        retry_after: Duration,
    },
    /// No device is registered under this ID.
    #[error("registration ID `{registration}` is not known{}; check the ID and its scope", told_scope(.scope.as_deref()))]
    RegistrationUnknown {
        /// The registration ID.
        registration: String,
        /// The scope that was asked for.
        scope: Option<String>,
    },
    /// Several scopes know the registration ID.
    #[error("registration ID `{registration}` is known in the scopes {}; name one of them", .scopes.join(", "))]
    RegistrationAmbiguous {
        /// The registration ID.
        registration: String,
        /// The scopes that know it.
        scopes: Vec<String>,
    },
    /// No disagreement with Azure is listed for the device.
    #[error(
        "device `{device}` is not known to be in disagreement with Azure; `berth reconcile drift` lists those that are"
    )]
    DriftUnknown {
        /// The device.
        device: String,
    },
    /// The disagreement cannot be ended as asked.
    #[error("the disagreement over device `{device}` stands: {problem}")]
    DriftStands {
        /// The device.
        device: String,
        /// What stands against it, and what to do.
        problem: String,
    },
    /// A sweep is under way.
    #[error("a sweep is under way; `berth reconcile sweep --status` says how far it is")]
    SweepRunning,
    /// No node of the cluster has this ID.
    #[error("node {node_id} is not part of the cluster; `berth cluster status` lists its nodes")]
    NodeUnknown {
        /// The ID asked for.
        node_id: u64,
    },
    /// The membership does not allow the change.
    #[error("{problem}")]
    MembershipRefused {
        /// What stands against it, and what to do.
        problem: String,
    },
    /// Another node leads.
    #[error("this node is not the leader; {}", told_leader(.leader.as_ref()))]
    NotLeader {
        /// The leader, where it is known.
        leader: Option<LeaderHint>,
    },
    /// No leader has a quorum. Nothing was written by this call.
    #[error("no quorum: {cause}; try again, and check that most voters run and reach each other")]
    NoQuorum {
        /// What was missing.
        cause: String,
    },
    /// The replica is not as fresh as asked for.
    #[error("the replica is behind: {asked} was asked for, it has {actual}; try again, or ask another node")]
    ReplicaBehind {
        /// The freshness asked for.
        asked: String,
        /// The freshness there is.
        actual: String,
    },
    /// The node starts or stops.
    #[error("this node does not serve: {state}; ask another node, or try again")]
    NotServing {
        /// What it is doing.
        state: String,
    },
    /// A queue is full, and the call was turned away at once.
    #[error("too much at once: {what} (at most {limit}); try again in {} ms", .retry_after.as_millis())]
    Overloaded {
        /// What is full.
        what: String,
        /// Its bound.
        limit: u64,
        /// When to try again.
        retry_after: Duration,
    },
    /// The disk is nearly full.
    #[error(
        "the disk has {free_bytes} bytes free and needs {needed_bytes} for writes; make room on the data directory's disk"
    )]
    DiskFull {
        /// Bytes free.
        free_bytes: u64,
        /// Bytes that have to be free.
        needed_bytes: u64,
    },
    /// The write may or may not happen.
    #[error("the outcome of the write is unknown ({cause}); {}", before_repeat(.request_id.as_deref()))]
    OutcomeUnknown {
        /// The request ID of the write, where it had one.
        request_id: Option<String>,
        /// What happened to it.
        cause: String,
        /// True where the deadline passed, false where leadership or the connection was lost.
        timed_out: bool,
    },
    /// The deadline passed before the call was done. Nothing was written by it.
    #[error("the deadline passed while {waiting_for}; try again with more time")]
    DeadlineExceeded {
        /// What was waited for.
        waiting_for: String,
    },
    /// A token of another cluster.
    #[error(
        "the token is of cluster {asked}, this is cluster {actual}; check the endpoints, or drop the token"
    )]
    WrongCluster {
        /// The cluster named by the token.
        asked: String,
        /// The cluster that was asked.
        actual: String,
    },
    /// A token from before the cluster was restored.
    #[error(
        "the token is of restore epoch {asked}, the cluster is at {actual}: it was restored from a backup since; drop the token and read anew"
    )]
    TokenBeforeRestore {
        /// The restore epoch of the token.
        asked: u64,
        /// The restore epoch of the cluster.
        actual: u64,
    },
    /// The pinned revision that a page or snapshot token names is no longer held.
    #[error("the snapshot at revision {revision} is no longer held; start again from the first page")]
    SnapshotExpired {
        /// The revision.
        revision: u64,
    },
    /// The page or snapshot token is of another node.
    #[error(
        "the token names a snapshot on node {node_id}; ask that node, or start again from the first page"
    )]
    SnapshotElsewhere {
        /// The node that holds it.
        node_id: u64,
    },
    /// A bug. What happened is in the node's log, under the correlation ID.
    #[error("internal error; tell the operator the correlation ID {correlation_id}")]
    Internal {
        /// Finds the log line.
        correlation_id: String,
    },
    /// Data is damaged. What happened is in the node's log, under the correlation ID.
    #[error("data is damaged on this node; tell the operator the correlation ID {correlation_id}")]
    DataLoss {
        /// Finds the log line.
        correlation_id: String,
    },
    /// A status that Berth did not make: a proxy's, or the transport's.
    #[error("{message} ({code:?})")]
    Foreign {
        /// Its code.
        code: Code,
        /// Its message.
        message: String,
    },
}

impl ApiError {
    /// One malformed field.
    pub fn invalid(field: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self::Invalid(vec![FieldViolation { field: field.into(), problem: problem.to_string() }])
    }

    /// When the caller should try again, where trying again makes sense.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NotLeader { leader: Some(_) } => Some(Duration::ZERO),
            Self::NotLeader { leader: None } | Self::NoQuorum { .. } | Self::NotServing { .. } => {
                Some(RETRY_ELECTION)
            }
            Self::ReplicaBehind { .. } => Some(RETRY_REPLICA),
            Self::Overloaded { retry_after, .. }
            | Self::Unverified { retry_after, .. }
            | Self::BudgetSpent { retry_after, .. } => Some(*retry_after),
            Self::NoHub { kind: NegativeKind::Enrolling, remember_for, .. } => Some(*remember_for),
            Self::Rejected(Rejection::Full { .. }) | Self::DiskFull { .. } => Some(RETRY_CAPACITY),
            _ => None,
        }
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Batch { mut items } => {
                let refused = items.len() as u64;
                items.truncate(TOLD_ITEMS_MAX);
                Self::BatchRefused { refused, items }
            }
            other => Self::Rejected(other),
        }
    }
}

/// About one election.
const RETRY_ELECTION: Duration = Duration::from_millis(200);
/// About one heartbeat.
const RETRY_REPLICA: Duration = Duration::from_millis(50);
/// Room is made by people.
const RETRY_CAPACITY: Duration = Duration::from_secs(60);

fn told_violations(violations: &[FieldViolation]) -> String {
    let mut told = match violations.first() {
        None => return "the request is malformed".to_owned(),
        Some(first) => format!("{}: {}", first.field, first.problem),
    };
    if violations.len() > 1 {
        told.push_str(&format!(" (and {} more)", violations.len() - 1));
    }
    told
}

fn told_items(items: &[ItemRejection]) -> String {
    items
        .first()
        .map_or_else(String::new, |item| format!(", the first at index {}: {}", item.index, item.rejection))
}

fn told_negative(kind: NegativeKind) -> &'static str {
    match kind {
        NegativeKind::Unspecified => "has no hub to call",
        NegativeKind::Unknown => "is not in the directory; check the ID (it is case-sensitive)",
        NegativeKind::Unassigned => "is enrolled but never registered; it has no hub until it does",
        NegativeKind::Enrolling => "is being assigned; ask again shortly",
        NegativeKind::Disabled => "is disabled at its hub; enable it there or assign it anew",
        NegativeKind::Failed => "failed to register; look at its provisioning and assign it anew",
        NegativeKind::Missing => "has no identity at its hub; have it register again, or remove it",
    }
}

fn told_drift(class: DriftClass) -> &'static str {
    match class {
        DriftClass::HubUnknown => {
            "the topology has no such hub; add it, or have the device register elsewhere"
        }
        DriftClass::HubNotLinked => {
            "that hub is not linked to the scope; link it, or have the device register elsewhere"
        }
        DriftClass::Duplicate => "its registration ID is another device's; remove one of the two",
        DriftClass::WrongHub => "that hub takes no more devices; open it or make room there",
        DriftClass::Unspecified
        | DriftClass::Missing
        | DriftClass::Pending
        | DriftClass::Disabled
        | DriftClass::Orphan => "the directory does not follow; assign the device",
    }
}

fn told_scope(scope: Option<&str>) -> String {
    scope.map_or_else(String::new, |scope| format!(" in scope `{scope}`"))
}

fn told_leader(leader: Option<&LeaderHint>) -> String {
    match leader {
        Some(leader) => format!("ask node {} (`{}`) at {}", leader.node_id, leader.name, leader.address),
        None => "no leader is known yet; try again".to_owned(),
    }
}

fn before_repeat(request_id: Option<&str>) -> String {
    match request_id {
        Some(id) => format!("repeat it only with the same request ID {id}"),
        None => "repeat it only with the same request ID, or look first where it had none".to_owned(),
    }
}
