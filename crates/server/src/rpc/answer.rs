//! What every answer starts with, and the way every change takes.

use std::time::Duration;

use berth_core::{Command, Outcome, Proposal, RequestId, Revision};
use berth_proto::convert::{Envelope, duration_message};
use berth_proto::error::ApiError;
use berth_proto::v1::{NodeRole, ResponseHeader};
use berth_store::machine::Snapshot;
use tonic::Request;

use super::Api;
use crate::directory::Fresh;
use crate::raft::Role;

/// Who asks for a change, why, and whether it is meant.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    envelope: Envelope,
    actor: String,
    validate_only: bool,
}

impl Asked {
    /// Reads the envelope fields that every change has.
    pub(super) fn read(
        actor: String,
        request_id: &str,
        reason: &str,
        validate_only: bool,
    ) -> Result<Self, ApiError> {
        Ok(Self { envelope: Envelope::from_fields(request_id, reason)?, actor, validate_only })
    }

    /// Identity of the change, where its caller gave one.
    pub(super) fn request_id(&self) -> Option<RequestId> {
        self.envelope.request_id
    }

    /// True where nothing is to be written.
    pub(super) fn validate_only(&self) -> bool {
        self.validate_only
    }

    /// The proposal of `command`.
    pub(super) fn proposal(&self, command: Command) -> Proposal {
        Proposal {
            request_id: self.envelope.request_id,
            // The decoder computes it from the command's bytes.
            payload_hash: 0,
            actor: self.actor.clone(),
            reason: self.envelope.reason.clone(),
            command,
        }
    }
}

/// Who sent a request, as far as the connection tells: its address.
pub(super) fn actor_of<T>(request: &Request<T>) -> String {
    request.remote_addr().map(|address| Envelope::actor(&address.ip().to_string())).unwrap_or_default()
}

impl Api {
    /// The header of an answer that was read at `fresh`.
    pub(super) fn header(&self, fresh: &Fresh) -> ResponseHeader {
        let role = match fresh.role {
            Role::Leader => NodeRole::Leader,
            Role::Follower => NodeRole::Follower,
            Role::Learner => NodeRole::Learner,
        };
        self.header_at(&fresh.snapshot, fresh.snapshot.revision(), fresh.age_bound, role)
    }

    /// The header of a write's answer: only the leader writes, and what it wrote is as new as can be.
    pub(super) fn written_header(&self, revision: Revision) -> ResponseHeader {
        self.header_at(&self.directory.newest(), revision, Duration::ZERO, NodeRole::Leader)
    }

    fn header_at(
        &self,
        snapshot: &Snapshot,
        revision: Revision,
        age_bound: Duration,
        role: NodeRole,
    ) -> ResponseHeader {
        ResponseHeader {
            token: self.directory.token(snapshot, revision).map(|token| token.encode()).unwrap_or_default(),
            // The longest duration says that there is no bound.
            age_bound: (age_bound != Duration::MAX).then(|| duration_message(age_bound)),
            served_by: self.directory.node().name.clone(),
            role: role as i32,
            revision: revision.0,
        }
    }

    /// Makes a change, or only decides it.
    pub(super) async fn change(
        &self,
        asked: &Asked,
        command: Command,
    ) -> Result<(ResponseHeader, Outcome), ApiError> {
        let proposal = asked.proposal(command);
        if asked.validate_only() {
            let (fresh, outcome) = self.directory.dry_run(proposal).await?;
            return Ok((self.header(&fresh), outcome));
        }
        let outcome = self.directory.propose(proposal).await?;
        Ok((self.written_header(outcome.revision()), outcome))
    }
}

/// An outcome of another command than was proposed: a bug, told as one.
pub(super) fn misfit(outcome: &Outcome) -> ApiError {
    let correlation_id = uuid::Uuid::now_v7().to_string();
    tracing::error!(%correlation_id, ?outcome, "the outcome does not belong to the command");
    ApiError::Internal { correlation_id }
}

/// A task that ended without an answer: a bug, told as one.
pub(super) fn misfit_task(error: &tokio::task::JoinError) -> ApiError {
    let correlation_id = uuid::Uuid::now_v7().to_string();
    tracing::error!(%correlation_id, %error, "a task ended without an answer");
    ApiError::Internal { correlation_id }
}
