//! The leader decides and commits; other nodes send the call on to it, once.

use std::fmt;

use berth_core::allocation::{Allocation, AllocationRequest, LINKED_HUBS_MAX, NoAllocation, allocate};
use berth_core::{
    Command, DeviceId, HubName, LABELS_MAX, Labels, Proposal, RegistrationId, Rejection, ScopeName, ScopeNo,
    View,
};
use berth_proto::error::ApiError;
use berth_proto::internal as peer;
use berth_proto::internal::AllocationRefusal;
use berth_store::machine::Question;

use crate::directory::{Directory, data_loss};
use crate::raft::Role;
use crate::reconcile::Reconciler;

/// How often a decision is made anew that others had overtaken by the time it was to be committed. Each time somebody
/// else has got a hub.
const DECISIONS_MAX: usize = 16;
/// Who the hook is in the records of commands.
const ACTOR: &str = "allocation hook";

/// A hub for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocated {
    /// The hub.
    pub hub: HubName,
    /// The device got it by this call; else it had it.
    pub placed: bool,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unallocated {
    /// The directory has none for it.
    Refused {
        /// The kind.
        reason: AllocationRefusal,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Nobody can say now. It may be that the device has got a hub meanwhile.
    Failed(ApiError),
}

impl From<ApiError> for Unallocated {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

/// Gives hubs to devices that DPS asks about.
#[derive(Clone)]
pub struct Allocator {
    directory: Directory,
    reconciler: Reconciler,
}

impl fmt::Debug for Allocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allocator").field("node", self.directory.node()).finish_non_exhaustive()
    }
}

impl Allocator {
    /// Answers from `directory`; what disagrees with Azure is listed by `reconciler`.
    pub fn new(directory: Directory, reconciler: Reconciler) -> Self {
        Self { directory, reconciler }
    }

    /// The hub of a device, on any node.
    ///
    /// # Errors
    /// [`Unallocated`]. After [`Unallocated::Failed`] the same call finds what was committed, if anything was.
    pub async fn allocate(&self, request: &AllocationRequest) -> Result<Allocated, Unallocated> {
        if self.directory.role() == Role::Leader {
            return self.decide(request).await;
        }
        let call = peer::forward_request::Call::Allocate(asked(request));
        let answer = self.reconciler.forward(peer::ForwardRequest { call: Some(call) }).await?.answer;
        let Some(peer::forward_response::Answer::Allocated(allocated)) = answer else {
            return Err(no_answer("the leader gave no answer to the call"));
        };
        match allocated.result {
            Some(peer::allocated::Result::Hub(hub)) => match HubName::parse(&hub) {
                Ok(hub) => Ok(Allocated { hub, placed: allocated.placed }),
                Err(error) => Err(no_answer(&format!("the leader's answer makes no sense: {error}"))),
            },
            Some(peer::allocated::Result::Refused(refused)) => {
                Err(Unallocated::Refused { reason: refused.reason(), problem: refused.problem })
            }
            None => Err(no_answer("the leader gave no answer to the call")),
        }
    }

    /// Answers a node that sent a call on.
    ///
    /// # Errors
    /// [`ApiError`] where this node does not lead, or cannot say.
    pub async fn answer_peer(&self, asked: &peer::Allocate) -> Result<peer::Allocated, ApiError> {
        let (result, placed) = match self.decide(&request(asked)?).await {
            Ok(allocated) => (peer::allocated::Result::Hub(allocated.hub.to_string()), allocated.placed),
            Err(Unallocated::Refused { reason, problem }) => {
                let refused = peer::AllocationRefused { reason: reason as i32, problem };
                (peer::allocated::Result::Refused(refused), false)
            }
            Err(Unallocated::Failed(error)) => return Err(error),
        };
        Ok(peer::Allocated { result: Some(result), placed })
    }

    async fn decide(&self, request: &AllocationRequest) -> Result<Allocated, Unallocated> {
        for _ in 0..DECISIONS_MAX {
            let fresh = self.directory.barrier().await?;
            if fresh.role != Role::Leader {
                return Err(ApiError::NotLeader { leader: None }.into());
            }
            let decided = fresh.snapshot.view(Allocating(request)).map_err(|damage| data_loss(&damage))?;
            let (hub, assign) = match decided {
                Ok(Allocation::Held { device, hub }) => {
                    self.reconciler.settle_allocation(&device);
                    return Ok(Allocated { hub, placed: false });
                }
                Ok(Allocation::Place { hub, assign }) => (hub, assign),
                Err(refused) => {
                    let scope = fresh.snapshot.topology().scope_named(&request.scope);
                    return Err(self.refused(&refused, scope.map(|scope| scope.no)));
                }
            };
            let device = assign.device.clone();
            let proposal = Proposal {
                request_id: None,
                payload_hash: 0,
                actor: ACTOR.to_owned(),
                reason: format!("a device registered in scope {}", request.scope),
                command: Command::Assign(*assign),
            };
            match self.directory.try_propose(proposal).await? {
                Ok(_) => {
                    self.reconciler.settle_allocation(&device);
                    return Ok(Allocated { hub, placed: true });
                }
                Err(rejection) if was_overtaken(&rejection) => {
                    tracing::debug!(%rejection, "somebody else was first; deciding anew");
                }
                Err(rejection) => {
                    let (reason, problem) = (AllocationRefusal::Rejected, rejection.to_string());
                    return Err(Unallocated::Refused { reason, problem });
                }
            }
        }
        Err(no_answer("others took each place that was chosen"))
    }

    fn refused(&self, refused: &NoAllocation, scope: Option<ScopeNo>) -> Unallocated {
        tracing::warn!(%refused, "a device that registers gets no hub");
        if let (Some((device, drift)), Some(scope)) = (refused.drift(), scope) {
            self.reconciler.list_allocation(device, drift, scope);
        }
        let reason = match refused {
            NoAllocation::ScopeUnknown(_) => AllocationRefusal::ScopeUnknown,
            NoAllocation::HubsUnknown { .. } => AllocationRefusal::HubsUnknown,
            NoAllocation::HubNotLinked { .. } => AllocationRefusal::HubNotLinked,
            NoAllocation::Duplicate { .. } => AllocationRefusal::Duplicate,
            NoAllocation::NoRoom { .. } => AllocationRefusal::NoRoom,
        };
        Unallocated::Refused { reason, problem: refused.to_string() }
    }
}

/// What the core says of a call, on one revision.
struct Allocating<'a>(&'a AllocationRequest);

impl Question for Allocating<'_> {
    type Answer = Result<Allocation, NoAllocation>;

    fn ask(self, view: &impl View) -> Self::Answer {
        allocate(view, self.0)
    }
}

/// Whether the directory changed between the decision and its commit, so that another look decides otherwise.
fn was_overtaken(rejection: &Rejection) -> bool {
    matches!(
        rejection,
        Rejection::DeviceExists { .. }
            | Rejection::DeviceUnknown { .. }
            | Rejection::EpochMismatch { .. }
            | Rejection::RegistrationTaken { .. }
            | Rejection::ScopeConflict { .. }
            | Rejection::Unknown { .. }
            | Rejection::Closed { .. }
            | Rejection::Full { .. }
    )
}

fn no_answer(cause: &str) -> Unallocated {
    Unallocated::Failed(ApiError::NoQuorum { cause: cause.to_owned() })
}

/// A call as it travels between nodes.
fn asked(request: &AllocationRequest) -> peer::Allocate {
    let text = |id: Option<String>| id.unwrap_or_default();
    let labels = request.stamp_labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    peer::Allocate {
        scope: request.scope.to_string(),
        registration_id: request.registration.to_string(),
        device_id: text(request.device.as_ref().map(DeviceId::to_string)),
        linked_hubs: request.linked_hubs.iter().map(HubName::to_string).collect(),
        current_hub: text(request.current_hub.as_ref().map(HubName::to_string)),
        stamp_labels: labels.collect(),
    }
}

/// Reads it again: what another node sends is checked like anything else.
fn request(asked: &peer::Allocate) -> Result<AllocationRequest, ApiError> {
    let invalid = |field: &'static str| move |error: &dyn fmt::Display| ApiError::invalid(field, error);
    let told = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    if asked.linked_hubs.is_empty() || asked.linked_hubs.len() > LINKED_HUBS_MAX {
        let problem = format_args!("{} hubs; 1 to {LINKED_HUBS_MAX} are allowed", asked.linked_hubs.len());
        return Err(ApiError::invalid("linked_hubs", problem));
    }
    if asked.stamp_labels.len() > LABELS_MAX {
        return Err(ApiError::invalid("stamp_labels", format_args!("at most {LABELS_MAX} are allowed")));
    }
    let linked: Result<Vec<_>, _> = asked.linked_hubs.iter().map(|name| HubName::parse(name)).collect();
    Ok(AllocationRequest {
        scope: ScopeName::parse(&asked.scope).map_err(|e| invalid("scope")(&e))?,
        registration: RegistrationId::parse(&asked.registration_id)
            .map_err(|e| invalid("registration_id")(&e))?,
        device: told(&asked.device_id)
            .map(|id| DeviceId::parse(&id))
            .transpose()
            .map_err(|e| invalid("device_id")(&e))?,
        linked_hubs: linked.map_err(|e| invalid("linked_hubs")(&e))?,
        current_hub: told(&asked.current_hub)
            .map(|name| HubName::parse(&name))
            .transpose()
            .map_err(|e| invalid("current_hub")(&e))?,
        stamp_labels: Labels::parse(&asked.stamp_labels).map_err(|e| invalid("stamp_labels")(&e))?,
    })
}
