//! The life of a node: open, join, serve, stop.
//!
//! ```text
//! lock and identity ─▶ log ─▶ pages (or a peer's) ─▶ listeners ─▶ Raft ─▶ first barrier ─▶ serving
//! unready ─▶ hand over ─▶ drain ─▶ checkpoint ─▶ end
//! ```

mod chores;
mod machine;
mod open;
#[cfg(test)]
pub(crate) mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use berth_store::machine::{Handle, Machine};
use berth_store::raft::BerthNode;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use machine::MachineAdaptor;
pub use open::{Entropy, Injected, StartError};

use crate::config::Config;
use crate::directory::{Directory, NodeName, Parts, SpaceGate};
use crate::health::{self, Health, Serving};
use crate::hook::Hook;
use crate::metrics::Metrics;
use crate::raft::node::Ended;
use crate::raft::{RaftNode, RaftNodeOptions, Timing};
use crate::reconcile::{Authority, AzureAuthority, Reconciler};
use crate::rpc::{Api, ClusterApi};
use crate::{edge, http};

/// How long a stopping node gives its last checkpoint. The log has everything that it would hold.
const LAST_CHECKPOINT_WAIT: Duration = Duration::from_secs(10);

/// A running node.
pub struct Node {
    raft: Arc<RaftNode<Machine>>,
    machine: Handle,
    directory: Directory,
    health: Health,
    addresses: Addresses,
    stop: watch::Sender<bool>,
    listeners: JoinSet<()>,
    chores: JoinSet<()>,
    /// What a scrub found wrong with the state in memory.
    broken: watch::Sender<Option<String>>,
    reconciler: Reconciler,
    /// Answers what other nodes send on, for as long as the node lives.
    _api: Arc<Api>,
}

/// Where a node listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// For clients.
    pub client: SocketAddr,
    /// For peers.
    pub peer: SocketAddr,
    /// For metrics, probes and the allocation hook.
    pub http: SocketAddr,
}

impl Node {
    /// Opens the data directory, finds the node's place in its cluster, and serves.
    ///
    /// Returns when Raft runs; reads are served once [`Node::health`] says so.
    ///
    /// # Errors
    /// [`StartError`] says what stands against it and what to do.
    pub fn start(config: Config, injected: Injected) -> BoxFuture<'static, Result<Self, StartError>> {
        // Boxed, as are the other lives' ends below: an unboxed future's machine code would be made again in each crate
        // that waits for it, and with it all of Raft's.
        Box::pin(Self::open(config, injected))
    }

    async fn open(config: Config, injected: Injected) -> Result<Self, StartError> {
        let metrics = Metrics::new(SystemTime::now());
        let health = Health::new();
        let (stop, stopping) = watch::channel(false);
        let mut listeners = JoinSet::new();

        let authority: Arc<dyn Authority> = match &injected.authority {
            Some(authority) => Arc::clone(authority),
            None => Arc::new(AzureAuthority::new(&config.azure)?),
        };
        // The ports come first: a port in use is found before anything is written.
        let client_listener = edge::listen(config.listen)?;
        let peer_listener = edge::listen(config.peer_listen)?;
        let http_listener = edge::listen(config.http_listen)?;
        let addresses = Addresses {
            client: bound(&client_listener)?,
            peer: bound(&peer_listener)?,
            http: bound(&http_listener)?,
        };
        let own = BerthNode {
            name: config.node_name.clone(),
            peer_addr: config.peer_addr(addresses.peer),
            client_addr: config.client_addr(addresses.client),
        };
        let hook = Hook::new(config.azure.hook_secret.clone(), Arc::clone(&metrics.hook));
        let sources =
            http::Sources { metrics: Arc::clone(&metrics), health: health.clone(), hook: Arc::clone(&hook) };
        listeners.spawn(http::serve(http_listener, sources, until(stopping.clone())));

        let opened = open::open(&config, &injected, &own).await?;
        if opened.rebuilt {
            metrics.store.rebuilt.inc();
        }
        if opened.fell_back {
            metrics.store.fell_back.inc();
        }
        let machine = opened.machine.handle();
        let view = Arc::new(MachineAdaptor::new(machine.clone()));
        let options = RaftNodeOptions {
            start: config.start.clone(),
            node: own,
            listener: peer_listener.into_std().map_err(StartError::Listener)?,
            timing: Timing {
                heartbeat: config.raft.heartbeat,
                election_min: config.raft.election_min,
                election_max: config.raft.election_max,
            },
            dial: Arc::clone(&injected.dial),
            clock: Arc::clone(&injected.clock),
            seed: injected.entropy.cluster_seed(),
            snapshot_bytes_per_second: config.checkpoint.bytes_per_second,
            work: Arc::clone(&metrics.work),
        };
        let raft = RaftNode::start(options, opened.keeper, opened.log.clone(), opened.machine, view).await?;
        let raft = Arc::new(raft);

        let space = SpaceGate::default();
        let directory = Directory::new(Parts {
            node: NodeName { id: raft.id(), name: config.node_name.clone() },
            reader: machine.reader(),
            raft: Arc::clone(&raft),
            clock: Arc::clone(&injected.clock),
            space: space.clone(),
            work: Arc::clone(&metrics.work),
        });
        let mut chores = JoinSet::new();
        let broken = watch::Sender::new(None);
        let parts = chores::Chores {
            raft: Arc::clone(&raft),
            machine: machine.clone(),
            log: opened.log.clone(),
            directory: directory.clone(),
            health: health.clone(),
            pace: config.checkpoint,
            ballast_bytes: config.ballast_bytes,
            scrub_interval: config.scrub_interval,
            scrubs: metrics.store.scrubs.clone(),
            broken: broken.clone(),
            space,
        };
        let reconciler = Reconciler::new(
            directory.clone(),
            Arc::clone(&raft),
            authority,
            Arc::clone(&injected.clock),
            Arc::clone(&metrics.reconcile),
        );
        parts.sample_into(&metrics, &reconciler);
        parts.spawn(&mut chores);
        chores.spawn(reconciler.clone().run_sweeps(config.azure.sweep_every));

        let api = Arc::new(Api::new(directory.clone(), reconciler.clone()));
        raft.answer_forwarded(api.forwarded());
        hook.serve(api.allocator());
        let cluster = ClusterApi::new(
            Api::clone(&api),
            directory.clone(),
            Arc::clone(&raft),
            machine.clone(),
            opened.log,
        );
        let routes = routes(&api, cluster, &health)?;
        let limits = config.limits;
        listeners.spawn({
            let lookups = api.lookup_service();
            async move {
                edge::serve_clients(client_listener, &limits, &metrics, lookups, routes, until(stopping))
                    .await;
            }
        });
        Ok(Self {
            raft,
            machine,
            directory,
            health,
            addresses,
            stop,
            listeners,
            chores,
            broken,
            reconciler,
            _api: api,
        })
    }

    /// Where the node listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What the node serves.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The directory of this node, as its handlers see it.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Raft on this node.
    pub fn raft(&self) -> &RaftNode<Machine> {
        &self.raft
    }

    /// Waits until the node has to stop by itself, and tells why.
    pub fn ended(&self) -> BoxFuture<'_, Ended> {
        Box::pin(async {
            let mut broken = self.broken.subscribe();
            let found = async {
                match broken.wait_for(Option::is_some).await.ok().and_then(|problem| problem.clone()) {
                    Some(problem) => Ended::Broken(problem),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ended = self.raft.ended() => ended,
                broken = found => broken,
            }
        })
    }

    /// Stops in order: unready, hand over, drain, checkpoint, end.
    pub fn shutdown(mut self) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.directory.serving().stop();
            self.health.stop();
            self.raft.hand_over().await;
            self.stop.send_replace(true);
            while self.listeners.join_next().await.is_some() {}
            self.reconciler.stop().await;
            self.last_checkpoint().await;
            self.chores.shutdown().await;
            self.raft.shutdown().await;
        })
    }

    /// Stops at once, as a crash would: nothing is handed over, flushed or told.
    pub fn halt(mut self) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.raft.halt().await;
            self.listeners.abort_all();
            self.chores.abort_all();
            while self.listeners.join_next().await.is_some() {}
            while self.chores.join_next().await.is_some() {}
            self.reconciler.stop().await;
        })
    }

    async fn last_checkpoint(&self) {
        let applied = self.directory.position().applied;
        let mut checkpointed = self.machine.checkpointed();
        if *checkpointed.borrow() >= applied || self.raft.checkpoint().await.is_err() {
            return;
        }
        let done = checkpointed.wait_for(|position| *position >= applied);
        if tokio::time::timeout(LAST_CHECKPOINT_WAIT, done).await.is_err() {
            tracing::warn!("the last checkpoint takes long; stopping without it, the log has what it lacks");
        }
    }
}

/// Everything but lookups.
fn routes(api: &Api, cluster: ClusterApi, health: &Health) -> Result<edge::Services, StartError> {
    let (v1, v1alpha) = health::reflection().map_err(|e| StartError::Reflection(e.to_string()))?;
    let routes = edge::Services::new()
        .with(api.device_service())
        .with(api.topology_service())
        .with(api.reconcile_service())
        .with(cluster.service())
        .with(health.service())
        .with(v1)
        .with(v1alpha);
    Ok(routes)
}

fn bound(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(StartError::Listener)
}

async fn until(mut stopping: watch::Receiver<bool>) {
    // A sender that is gone says the same.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// The serving state as health tells it.
fn told(served: Result<(), berth_proto::error::ApiError>) -> Serving {
    match served {
        Ok(()) => Serving::Yes,
        Err(error) => Serving::No(error.to_string()),
    }
}
