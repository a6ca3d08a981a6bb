//! What can go wrong with a call, and what that means for the next step.

use berth_proto::error::ApiError;
use tonic::{Code, Status};

use crate::node::Node;

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// An endpoint is not an address.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A node answered, and said no.
    #[error("{reason}")]
    Refused {
        /// gRPC code of the answer.
        code: Code,
        /// What the node said, typed.
        reason: Box<ApiError>,
    },
    /// No node gave an answer in time. Nothing was written.
    #[error(
        "no node answered in {attempts} attempts at {tried} ({last}); check the addresses and that the nodes run"
    )]
    Unavailable {
        /// Attempts made.
        attempts: u32,
        /// The addresses known, separated by commas.
        tried: String,
        /// What the last attempt ended with.
        last: String,
    },
    /// A write may or may not have happened.
    #[error(
        "it is not known whether the write happened ({last}); repeat it only with the same request ID {request_id}"
    )]
    OutcomeUnknown {
        /// The request ID to repeat the write with.
        request_id: String,
        /// What the last attempt ended with.
        last: String,
    },
    /// An answer breaks the protocol.
    #[error("the answer breaks the protocol: {problem}; are client and server of the same version?")]
    Protocol {
        /// What is wrong.
        problem: String,
    },
}

/// Why a text is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("endpoint `{value}` {problem}; write host:port, such as 127.0.0.1:7400")]
pub struct EndpointError {
    /// The text.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Error {
    /// True where the thing asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: Code::NotFound, .. })
    }

    /// True where the cluster could not serve the call now; the same call may go well later.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::OutcomeUnknown { .. } => true,
            Self::Refused { code, reason } => match &**reason {
                // A node said all there is to say: it is the device that cannot be reached.
                ApiError::NoHub { .. } => false,
                ApiError::Overloaded { .. } | ApiError::BudgetSpent { .. } => true,
                // Whoever cancelled a call that this client did not cancel stands between it and the node.
                ApiError::Foreign { .. } if *code == Code::Cancelled => true,
                _ => matches!(code, Code::Unavailable | Code::DeadlineExceeded),
            },
            Self::Endpoint(_) | Self::Protocol { .. } => false,
        }
    }

    /// What a node said, where one did.
    pub fn api_error(&self) -> Option<&ApiError> {
        match self {
            Self::Refused { reason, .. } => Some(reason),
            _ => None,
        }
    }
}

/// What an attempt's failure means for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The answer is final.
    Final,
    /// Another node may do better at once; nothing was written.
    Elsewhere,
    /// The same may go well a little later; nothing was written.
    Later,
    /// As `Elsewhere`, but a write may have happened.
    Unknown,
    /// The request ID does not fit the cluster's time: nothing was written by this attempt.
    RequestId,
}

/// A failed attempt, understood.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) code: Code,
    pub(crate) reason: ApiError,
    pub(crate) next: Next,
    /// True where the node could not be reached at all.
    pub(crate) unreachable: bool,
}

impl Attempt {
    pub(crate) fn failed(status: &Status, node: &Node) -> Self {
        let reason = match ApiError::from(status) {
            ApiError::Foreign { code, .. } => ApiError::Foreign { code, message: told(status, node) },
            ours => ours,
        };
        let not_connected = was_not_connected(status);
        let (next, unreachable) = match &reason {
            ApiError::NotLeader { .. } | ApiError::NotServing { .. } | ApiError::ReplicaBehind { .. } => {
                (Next::Elsewhere, false)
            }
            ApiError::NoQuorum { .. } | ApiError::Overloaded { .. } | ApiError::DeadlineExceeded { .. } => {
                (Next::Later, false)
            }
            ApiError::OutcomeUnknown { .. } => (Next::Unknown, false),
            ApiError::Rejected(
                berth_core::Rejection::RequestIdExpired { .. } | berth_core::Rejection::RequestIdAhead { .. },
            ) => (Next::RequestId, false),
            ApiError::Foreign { .. } if not_connected => (Next::Elsewhere, true),
            // The transport speaks: a connection broke, or an attempt's time was over.
            ApiError::Foreign {
                code:
                    Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded,
                ..
            } => (Next::Unknown, true),
            _ => (Next::Final, false),
        };
        Self { code: status.code(), reason, next, unreachable }
    }

    /// The failure as the caller's error.
    pub(crate) fn into_error(self) -> Error {
        Error::Refused { code: self.code, reason: Box::new(self.reason) }
    }
}

/// True where the connection was never made, so that nothing of the call has left this machine.
fn was_not_connected(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The transport's message with its deepest cause, which is the one that helps: "connection refused".
fn told(status: &Status, node: &Node) -> String {
    let mut deepest = None;
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        deepest = Some(error.to_string());
        source = error.source();
    }
    match deepest {
        Some(cause) if cause != status.message() => {
            format!("{} at {}: {cause}", status.message(), node.address)
        }
        _ => format!("{} at {}", status.message(), node.address),
    }
}
