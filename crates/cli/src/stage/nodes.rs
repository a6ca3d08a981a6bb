//! Three nodes in this process, each on a runtime of its own, so that one can be aborted without the others.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use berth_client::{Client, v1};
use berth_server::config::{AzureSettings, Config, Settings};
use berth_server::health::Serving;
use berth_server::run::{Injected, Node};
use tokio::runtime::Runtime;

use super::PATIENCE;
use crate::failure::Failure;

/// Names of the nodes.
const NAMES: [&str; 3] = ["n1", "n2", "n3"];
/// Worker threads of a node's runtime; Raft has its own besides.
const WORKERS: usize = 2;
/// Tries to find free ports: another process may take one between the look and the use.
const PORT_TRIES: u32 = 5;
/// Time between looks at a state that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// All nodes.
pub(crate) struct Nodes {
    nodes: Vec<DemoNode>,
}

/// One node.
struct DemoNode {
    config: Config,
    running: Option<(Runtime, Node)>,
}

impl Nodes {
    /// Starts three nodes below `folder`, which find Azure as they are told.
    pub(crate) async fn start(folder: &Path, azure: &AzureSettings) -> Result<Self, Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut nodes = Self { nodes: configs(&folder.join(format!("try-{tries}")), azure)? };
            match nodes.start_all().await {
                Ok(()) => return Ok(nodes),
                Err(failure) => {
                    nodes.abandon();
                    if tries == PORT_TRIES {
                        return Err(failure);
                    }
                }
            }
        }
    }

    async fn start_all(&mut self) -> Result<(), Failure> {
        // A node of a bootstrap list waits for its peers, so all have to start at the same time.
        let starting = self.nodes.iter_mut().map(DemoNode::start);
        futures_util::future::try_join_all(starting).await?;
        Ok(())
    }

    /// Client addresses of all nodes, whether they run or not.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.config.listen.to_string()).collect()
    }

    /// Waits until all running nodes serve reads and one leads.
    pub(crate) async fn settled(&self, cluster: &Client) -> Result<v1::StatusResponse, Failure> {
        let begin = Instant::now();
        for node in &self.nodes {
            if let Some((_, running)) = &node.running {
                let mut read = running.health().watch_read();
                let served =
                    tokio::time::timeout(PATIENCE, read.wait_for(|serving| *serving == Serving::Yes)).await;
                if !matches!(served, Ok(Ok(_))) {
                    let name = &node.config.node_name;
                    return Err(Failure::refused(format!(
                        "node {name} did not serve within {} s",
                        PATIENCE.as_secs()
                    )));
                }
            }
        }
        loop {
            let status = cluster.status(v1::StatusRequest {}).await?;
            if status.serving_writes && status.leader_id != 0 {
                return Ok(status);
            }
            if begin.elapsed() > PATIENCE {
                return Err(Failure::refused(format!("no node led within {} s", PATIENCE.as_secs())));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Position of the node with this client address.
    pub(crate) fn position(&self, address: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.config.listen.to_string() == address)
    }

    /// Kills a node as a crash would: nothing is flushed, told or handed over, and its runtime is gone.
    pub(crate) async fn kill(&mut self, at: usize) -> Result<(), Failure> {
        let running = self.nodes.get_mut(at).and_then(|node| node.running.take());
        let Some((runtime, node)) = running else { return Err(Failure::refused("the node does not run")) };
        let halted = runtime.spawn(node.halt()).await;
        runtime.shutdown_background();
        halted.map_err(|e| Failure::refused(format!("the node could not be killed: {e}")))
    }

    /// Opens a killed node again, from its disk, and waits until it serves.
    pub(crate) async fn reopen(&mut self, at: usize) -> Result<(), Failure> {
        let Some(node) = self.nodes.get_mut(at) else {
            return Err(Failure::refused("there is no such node"));
        };
        node.start().await
    }

    /// Stops all nodes, each in order: unready, hand over, drain, checkpoint.
    pub(crate) async fn stop(&mut self) {
        let running = self.nodes.iter_mut().filter_map(|node| node.running.take());
        let stopping = running.map(|(runtime, node)| async move {
            // A node that breaks off while stopping has nothing left to lose here.
            let _ = runtime.spawn(node.shutdown()).await;
            runtime.shutdown_background();
        });
        futures_util::future::join_all(stopping).await;
    }

    /// Drops all nodes as they are.
    pub(crate) fn abandon(&mut self) {
        for node in &mut self.nodes {
            if let Some((runtime, node)) = node.running.take() {
                runtime.shutdown_background();
                drop(node);
            }
        }
    }
}

impl DemoNode {
    async fn start(&mut self) -> Result<(), Failure> {
        let refused = |problem: String| Failure::refused(format!("cannot start a node: {problem}"));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name(format!("node-{}", self.config.node_name))
            .enable_all()
            .build()
            .map_err(|e| refused(e.to_string()))?;
        let starting = runtime.spawn(Node::start(self.config.clone(), Injected::default()));
        let started = tokio::time::timeout(PATIENCE, starting).await;
        let problem = match started {
            Ok(Ok(Ok(node))) => {
                self.running = Some((runtime, node));
                return Ok(());
            }
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it did not start within {} s", PATIENCE.as_secs()),
        };
        runtime.shutdown_background();
        Err(refused(problem))
    }
}

fn configs(folder: &Path, azure: &AzureSettings) -> Result<Vec<DemoNode>, Failure> {
    let no_ports = |e: std::io::Error| Failure::refused(format!("cannot find free ports on 127.0.0.1: {e}"));
    let ports = free_addresses(3 * NAMES.len()).map_err(no_ports)?;
    let of = |node: usize| (ports[3 * node], ports[3 * node + 1], ports[3 * node + 2]);
    let named = NAMES.iter().enumerate();
    let bootstrap = named.map(|(node, name)| format!("{name}={}", of(node).1)).collect::<Vec<_>>().join(",");
    NAMES
        .iter()
        .enumerate()
        .map(|(node, name)| {
            let (client, peer, http) = of(node);
            let settings = Settings {
                data_dir: Some(folder.join(name)),
                node_name: Some((*name).to_owned()),
                listen: Some(client.to_string()),
                peer_listen: Some(peer.to_string()),
                http_listen: Some(http.to_string()),
                bootstrap: Some(bootstrap.clone()),
                azure: azure.clone(),
                ..Settings::default()
            };
            let config = Config::from_settings([settings]).map_err(|e| Failure::refused(e.to_string()))?;
            Ok(DemoNode { config, running: None })
        })
        .collect()
}

/// So many addresses that are free now.
fn free_addresses(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    // All are held until all are known, so that none is given twice.
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    held.iter().map(TcpListener::local_addr).collect()
}
