//! What an accepted command writes.

use crate::{
    DeviceId, HubNo, LabelSetNo, Labels, Mapping, Outcome, RegistrationId, Rejection, Reply, RequestId,
    ScopeNo, TopologyChange,
};

/// What became of a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Accepted: write the delta, take the revision, answer the outcome.
    Accepted {
        /// The answer.
        outcome: Outcome,
        /// What to write.
        delta: Box<Delta>,
    },
    /// A repeat: answer the first outcome, write nothing, take no revision.
    Repeated(Outcome),
    /// Refused: write nothing, take no revision.
    Refused(Rejection),
}

/// Rows and counters to write, all at one revision. Lists are in a fixed order; each key stands at most once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// Mappings to put, or to drop where `None`.
    pub devices: Vec<(DeviceId, Option<Mapping>)>,
    /// Explicit registrations to put, or to drop where `None`.
    pub registrations: Vec<(ScopeNo, RegistrationId, Option<DeviceId>)>,
    /// Change of devices per hub; a stamp changes by the sum over its hubs.
    pub hub_devices: Vec<(HubNo, i64)>,
    /// Change of devices per scope.
    pub scope_devices: Vec<(ScopeNo, i64)>,
    /// Label sets to intern, or to drop where `None`.
    pub label_sets: Vec<(LabelSetNo, Option<Labels>)>,
    /// Change of devices per label set, the empty one left out.
    pub label_set_devices: Vec<(LabelSetNo, i64)>,
    /// Topology objects to write.
    pub topology: Vec<TopologyChange>,
    /// The reply to remember.
    pub reply: Option<(RequestId, Reply)>,
    /// The reply to forget.
    pub forget: Option<RequestId>,
}
