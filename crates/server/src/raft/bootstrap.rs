//! How a node gets its ID and its cluster: from its data directory, by founding, or by joining.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_proto::error::ApiError;
use berth_proto::internal as pb;
use berth_store::raft::{BerthNode, LogId, SnapshotHandle, SnapshotMeta};
use tonic::Code;
use uuid::Uuid;

use super::identity::{IdentityError, read_uuid, uuid_bytes};
use super::machine::MachineView;
use super::network::{Links, NODES_ASKED_MAX};
use super::snapshot;

/// How long founding waits for all listed nodes to be up.
const FOUND_TIMEOUT: Duration = Duration::from_secs(600);
/// How long joining keeps asking.
const JOIN_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// The ID of the first founder, and of a node that is alone.
const SINGLE_ID: u64 = 1;
/// Attempts after which the wait is told again.
const TELL_EVERY: u32 = 100;

/// How a node with an empty data directory comes to its cluster. One with data needs none of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// It is a cluster of one.
    Single,
    /// It founds a cluster together with others: all names and peer addresses, its own among them.
    Bootstrap(Vec<(String, String)>),
    /// It asks these peer addresses, in this order, to be taken in.
    Join(Vec<String>),
}

/// Why a node has no place in a cluster.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Founding would split an existing cluster.
    #[error(
        "node {name} at {addr} already belongs to cluster {cluster}: a second cluster must not be founded beside it. Start with --join {addr} instead of --bootstrap"
    )]
    ClusterExists {
        /// Who said so.
        name: String,
        /// Where it is.
        addr: String,
        /// Its cluster.
        cluster: Uuid,
    },
    /// The list of founders is unusable.
    #[error("--bootstrap {0}")]
    List(String),
    /// The node at a listed address has another name.
    #[error(
        "--bootstrap says that {addr} is node {listed}, but node {found} answers there: correct the list"
    )]
    WrongName {
        /// The address.
        addr: String,
        /// The name in the list.
        listed: String,
        /// The name that answered.
        found: String,
    },
    /// Not all founders came up.
    #[error("the founders {missing:?} did not answer within {} minutes; start them, then start this node again", FOUND_TIMEOUT.as_secs() / 60)]
    Missing {
        /// Who is missing.
        missing: Vec<String>,
    },
    /// The cluster does not admit this node.
    #[error("nobody at {addr} admits this node: {why}")]
    NotAdmitted {
        /// Whom was asked.
        addr: String,
        /// Its answer.
        why: String,
    },
    /// The identity cannot be kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Why no peer's checkpoint takes the place of lost pages.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The node was alone.
    #[error("no other node has a copy")]
    NoPeers,
    /// What each peer that was asked answered.
    #[error(
        "no peer gave a checkpoint to go on from ({}); start this node again when a peer is up that has one",
        .0.join("; ")
    )]
    NoneFits(Vec<String>),
}

/// A node's place: its ID, and the founding membership if it is the one to write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node's ID.
    pub node_id: u64,
    /// Set on the node that founds.
    pub found: Option<BTreeMap<u64, BerthNode>>,
}

/// Finds the node's place. `founded` is a fresh random cluster ID, used if this node founds one; `begun` says that
/// the node's log holds a vote or entries.
/// `answer_hello` is called as soon as the node may say who it is.
///
/// # Errors
/// [`PlaceError`].
pub async fn place(
    links: &Links,
    start: &Start,
    own: &BerthNode,
    founded: Uuid,
    begun: bool,
    answer_hello: impl FnOnce(),
) -> Result<Place, PlaceError> {
    let keeper = links.keeper();
    let identity = keeper.identity();
    // A node that was stopped before it took part starts over in the same way, and under the same ID. One that has
    // voted or holds entries took part, though it may have had no time to note it.
    if let (Some(node_id), true) = (identity.node_id, identity.settled || begun) {
        answer_hello();
        return Ok(Place { node_id, found: None });
    }
    let founded = identity.cluster.unwrap_or(founded);
    match start {
        Start::Single => match identity.node_id {
            // It was to join, and the cluster may already count on it.
            Some(node_id) if node_id != SINGLE_ID => {
                answer_hello();
                Ok(Place { node_id, found: None })
            }
            _ => {
                keeper.change(|identity| {
                    identity.node_id = Some(SINGLE_ID);
                    identity.cluster = Some(founded);
                })?;
                answer_hello();
                Ok(Place { node_id: SINGLE_ID, found: Some([(SINGLE_ID, own.clone())].into()) })
            }
        },
        Start::Bootstrap(list) => bootstrap(links, list, own, founded, answer_hello).await,
        Start::Join(addrs) => {
            answer_hello();
            join(links, addrs, own).await
        }
    }
}

/// Fetches the last checkpoint of a known peer into the staging area of `view`, for a node that lost its
/// pages and kept its log: its applied position jumps ahead while log and vote stay. Entries up to `purged` are gone
/// from that log, so a checkpoint that ends before them is passed over: entries would be missing behind it.
///
/// # Errors
/// [`FetchError`] tells what each peer answered.
pub async fn fetch_checkpoint(
    links: &Links,
    view: &dyn MachineView,
    purged: Option<LogId>,
) -> Result<(SnapshotMeta, SnapshotHandle), FetchError> {
    let peers = links.keeper().identity().peers;
    if peers.is_empty() {
        return Err(FetchError::NoPeers);
    }
    let mut answers = Vec::new();
    for (peer, addr) in peers.into_iter().take(NODES_ASKED_MAX) {
        let received = match links.fetch_snapshot(peer, &addr).await {
            Ok(parts) => snapshot::receive(view, parts, purged).await,
            Err(status) => Err(status),
        };
        match received {
            Ok(received) => return Ok((received.meta, received.handle)),
            Err(status) => {
                tracing::warn!(peer, addr, status = %status.message(), "this peer gave no usable checkpoint");
                answers.push(format!("node {peer} at {addr}: {}", status.message()));
            }
        }
    }
    Err(FetchError::NoneFits(answers))
}

async fn bootstrap(
    links: &Links,
    list: &[(String, String)],
    own: &BerthNode,
    founded: Uuid,
    answer_hello: impl FnOnce(),
) -> Result<Place, PlaceError> {
    let founders = founders(list, own)?;
    let node_id = founders
        .iter()
        .find_map(|(id, (name, _))| (*name == own.name).then_some(*id))
        .ok_or_else(|| PlaceError::List(format!("does not name this node, {:?}", own.name)))?;

    let keeper = links.keeper();
    // Before this node says that it is ready: does any of them belong to a cluster? Whoever is not up yet
    // is asked again by the founder, who waits for all.
    for (name, addr) in founders.values().filter(|(name, _)| *name != own.name) {
        if let Ok(hello) = links.hello(addr).await {
            stranger_check(name, addr, keeper.identity().cluster, &hello)?;
        }
    }
    keeper.change(|identity| {
        identity.node_id = Some(node_id);
        identity.peers = founders
            .iter()
            .filter(|(id, _)| **id != node_id)
            .map(|(id, (_, addr))| (*id, addr.clone()))
            .collect();
    })?;
    keeper.expect_founders(founders.keys().copied().filter(|id| *id != node_id).collect());
    answer_hello();
    let lowest = founders.keys().next().copied();
    if lowest != Some(node_id) {
        return Ok(Place { node_id, found: None });
    }

    let mut nodes = BTreeMap::from([(node_id, own.clone())]);
    let ready = tokio::time::timeout(FOUND_TIMEOUT, async {
        let mut attempt = 0u32;
        while nodes.len() < founders.len() {
            for (id, (name, addr)) in &founders {
                if nodes.contains_key(id) {
                    continue;
                }
                if let Ok(hello) = links.hello(addr).await {
                    stranger_check(name, addr, Some(founded), &hello)?;
                    let node = BerthNode {
                        name: name.clone(),
                        peer_addr: addr.clone(),
                        client_addr: hello.client_addr.clone(),
                    };
                    nodes.insert(*id, node);
                } else if attempt.is_multiple_of(TELL_EVERY) {
                    tracing::info!(node = name, addr, "waiting for a founder to come up");
                }
            }
            attempt = attempt.wrapping_add(1);
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        Ok::<_, PlaceError>(())
    })
    .await;
    match ready {
        Ok(done) => done?,
        Err(_) => {
            let missing = founders.into_iter().filter(|(id, _)| !nodes.contains_key(id));
            return Err(PlaceError::Missing { missing: missing.map(|(_, (name, _))| name).collect() });
        }
    }
    keeper.change(|identity| identity.cluster = Some(founded))?;
    Ok(Place { node_id, found: Some(nodes) })
}

/// The founders by ID: names in order, from 1.
fn founders(
    list: &[(String, String)],
    own: &BerthNode,
) -> Result<BTreeMap<u64, (String, String)>, PlaceError> {
    let mut names: Vec<_> = list.to_vec();
    names.sort();
    if let Some(pair) = names.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(PlaceError::List(format!("names {:?} twice", pair[0].0)));
    }
    if names.len() > super::membership::NODES_MAX {
        let max = super::membership::NODES_MAX;
        return Err(PlaceError::List(format!("names {} nodes, more than {max}", names.len())));
    }
    let numbered = (1..).zip(names).map(|(id, (name, addr))| {
        // How others reach this node is its own word.
        let addr = if name == own.name { own.peer_addr.clone() } else { addr };
        (id, (name, addr))
    });
    Ok(numbered.collect())
}

fn stranger_check(
    listed: &str,
    addr: &str,
    ours: Option<Uuid>,
    hello: &pb::HelloResponse,
) -> Result<(), PlaceError> {
    let (name, addr) = (hello.name.clone(), addr.to_owned());
    if let Some(cluster) = read_uuid(&hello.cluster).filter(|&theirs| Some(theirs) != ours) {
        return Err(PlaceError::ClusterExists { name, addr, cluster });
    }
    if name != listed {
        return Err(PlaceError::WrongName { addr, listed: listed.to_owned(), found: name });
    }
    Ok(())
}

/// Asks each of `addrs` in turn, round after round, until one admits this node.
async fn join(links: &Links, addrs: &[String], own: &BerthNode) -> Result<Place, PlaceError> {
    let keeper = links.keeper();
    let request = pb::JoinRequest {
        name: own.name.clone(),
        incarnation: uuid_bytes(Some(keeper.identity().incarnation)),
        peer_addr: own.peer_addr.clone(),
        client_addr: own.client_addr.clone(),
        forwarded: false,
    };
    let mut last = String::new();
    let asking = async {
        let mut attempt = 0u32;
        loop {
            let mut strangers = 0;
            for addr in addrs {
                let status = match links.join(addr, request.clone()).await {
                    Ok(answer) => return Ok((addr, answer)),
                    Err(status) => status,
                };
                last = format!("{addr}: {}", status.message());
                // Starting, electing, forming, or slow: what was asked may even have been done, and asking
                // again with the same data directory is answered alike, whoever is asked.
                if !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) {
                    // A cluster's refusal would be the same at its other nodes; a stranger's says nothing of them.
                    if !matches!(ApiError::from(&status), ApiError::Foreign { .. }) {
                        return Err(not_admitted(addr, status.message().to_owned()));
                    }
                    strangers += 1;
                }
                if attempt.is_multiple_of(TELL_EVERY) {
                    tracing::info!(addr, why = status.message(), "waiting to be admitted");
                }
            }
            if strangers == addrs.len() {
                return Err(not_admitted(&addrs.join(", "), format!("the last answer was {last}")));
            }
            attempt = attempt.wrapping_add(1);
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    };
    let (addr, answer) = match tokio::time::timeout(JOIN_TIMEOUT, asking).await {
        Ok(answer) => answer?,
        Err(_) => {
            let why = format!("no answer for {} s; the last was {last}", JOIN_TIMEOUT.as_secs());
            return Err(not_admitted(&addrs.join(", "), why));
        }
    };
    let cluster = read_uuid(&answer.cluster)
        .ok_or_else(|| not_admitted(addr, "its answer names no cluster".to_owned()))?;
    keeper.change(|identity| {
        identity.node_id = Some(answer.node_id);
        identity.cluster = Some(cluster);
    })?;
    Ok(Place { node_id: answer.node_id, found: None })
}

fn not_admitted(addr: &str, why: String) -> PlaceError {
    PlaceError::NotAdmitted { addr: addr.to_owned(), why }
}
