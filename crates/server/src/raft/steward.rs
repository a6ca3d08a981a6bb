//! The small duties of a member: the leader writes the cluster's birth and binds founders to their data,
//! and everybody remembers where the peers are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_store::payload::Genesis;
use berth_store::raft::{BerthConfig, BerthNode, Payload};
use openraft::async_runtime::WatchReceiver;
use openraft::{Raft, ServerState};

use super::identity::read_uuid;
use super::machine::Clock;
use super::membership::{Applicant, Membership};
use super::network::Links;
use super::peer_service::Machine;
use super::read_index::reached;

/// Pause before a duty that could not be done is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long the birth entry may take before it is looked at again.
const GENESIS_TIMEOUT: Duration = Duration::from_secs(5);

/// Does the duties until Raft stops.
pub struct Steward<SM: Machine> {
    pub raft: Raft<BerthConfig, SM>,
    pub links: Arc<Links>,
    pub membership: Membership<SM>,
    pub clock: Arc<dyn Clock>,
    pub own: BerthNode,
    pub hash_key: [u8; 16],
}

struct Now {
    leads: bool,
    id: u64,
    nodes: BTreeMap<u64, BerthNode>,
    /// Whether a change of the membership stands half-way.
    joint: bool,
}

impl<SM: Machine> Steward<SM> {
    pub async fn run(self) {
        let mut metrics = self.raft.server_metrics();
        loop {
            // Reading marks the value as seen, so that a change during the duties is not slept through.
            let now = {
                let seen = metrics.borrow_and_update();
                let membership = seen.membership_config.membership();
                Now {
                    leads: seen.state == ServerState::Leader,
                    id: seen.id,
                    nodes: membership.nodes().map(|(id, node)| (*id, node.clone())).collect(),
                    joint: membership.get_joint_config().len() > 1,
                }
            };
            let mut done = self.remember(&now);
            if now.leads {
                done &= self.lead(&now).await;
            }
            if !done {
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether nothing is left to remember.
    fn remember(&self, now: &Now) -> bool {
        if now.nodes.is_empty() {
            return true;
        }
        // What is applied was stored here before; what the membership says may be still on its way to disk.
        if self.links.view().applied().borrow().is_none() {
            return false;
        }
        let others = now.nodes.iter().filter(|(id, _)| **id != now.id);
        let peers = others.map(|(id, node)| (*id, node.peer_addr.clone())).collect();
        let kept = self.links.keeper().change(|identity| {
            identity.peers = peers;
            identity.settled = true;
        });
        if let Err(error) = &kept {
            tracing::error!(%error, "cannot keep the peers' addresses");
        }
        kept.is_ok()
    }

    /// Whether nothing is left to do.
    async fn lead(&self, now: &Now) -> bool {
        let view = self.links.view();
        if view.cluster_id().is_none() && !self.give_birth().await {
            return false;
        }
        let mut done = true;
        if now.joint
            && let Err(error) = self.membership.finish_change().await
        {
            tracing::warn!(%error, "the membership stays half-way for now");
            done = false;
        }
        for (&id, node) in &now.nodes {
            if view.incarnation_of(id).is_none() {
                done &= self.bind(now.id, id, node).await;
            }
        }
        done
    }

    async fn give_birth(&self) -> bool {
        let Some(cluster_id) = self.links.keeper().identity().cluster else { return false };
        let genesis = Genesis { stamp_ms: self.clock.now_ms(), cluster_id, hash_key: self.hash_key };
        let writing = self.raft.client_write(Payload::genesis(&genesis));
        match tokio::time::timeout(GENESIS_TIMEOUT, writing).await {
            Ok(Ok(written)) => reached(self.links.view().applied(), written.log_id).await,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the cluster's birth is not written yet");
                false
            }
            Err(_) => false,
        }
    }

    async fn bind(&self, own_id: u64, id: u64, node: &BerthNode) -> bool {
        let (incarnation, node) = if id == own_id {
            (Some(self.links.keeper().identity().incarnation), self.own.clone())
        } else {
            let hello =
                self.links.hello(&node.peer_addr).await.ok().filter(|hello| hello.node_id == Some(id));
            (hello.and_then(|hello| read_uuid(&hello.incarnation)), node.clone())
        };
        let Some(incarnation) = incarnation else { return false };
        match self.membership.bind_founder(id, &Applicant { incarnation, node }).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, id, "a founder is not bound to its data yet");
                false
            }
        }
    }
}
