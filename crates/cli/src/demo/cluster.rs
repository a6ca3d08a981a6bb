//! Three nodes in one process, each on a runtime of its own, so that one can be killed without the others.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use berth_server::config::{Config, Settings};
use berth_server::health::Serving;
use berth_server::run::{Injected, Node};
use tokio::runtime::{Builder, Runtime};

use crate::failure::Failure;

/// Worker threads of one node beside those of Raft.
const NODE_THREADS: usize = 2;
/// How long a node may take to serve reads.
const SERVING_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long a killed node's files may stay locked by threads that are still ending.
const REOPEN_WAIT_MAX: Duration = Duration::from_secs(10);
/// Between two attempts to open them.
const REOPEN_PAUSE: Duration = Duration::from_millis(20);

/// Ports of one node.
#[derive(Debug, Clone, Copy)]
struct Ports {
    client: u16,
    peer: u16,
    http: u16,
}

/// A node and its threads.
struct Running {
    node: Node,
    threads: Runtime,
}

/// The three nodes.
pub(super) struct Trio {
    dir: PathBuf,
    ports: Vec<Ports>,
    nodes: Vec<Option<Running>>,
}

impl Trio {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, ports: Vec::new(), nodes: Vec::new() }
    }

    /// Starts all three with a static bootstrap list, and waits until each serves.
    pub(super) async fn start(&mut self) -> Result<(), Failure> {
        self.ports = free_ports(3)?;
        let starting = (0..3).map(|at| self.launch(at)).collect::<Vec<_>>();
        self.nodes = (0..3).map(|_| None).collect();
        for (at, starting) in starting.into_iter().enumerate() {
            self.nodes[at] = Some(starting.finish().await?);
        }
        for at in 0..3 {
            self.wait_serving(at).await?;
        }
        Ok(())
    }

    /// Client addresses of all nodes.
    pub(super) fn endpoints(&self) -> Vec<String> {
        self.ports.iter().map(|ports| format!("127.0.0.1:{}", ports.client)).collect()
    }

    /// Number of the node that leads, from 0.
    pub(super) fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|running| running.as_ref().is_some_and(|r| r.node.raft().leads()))
    }

    /// Ends a node's threads without flush or hand-over, as a crash would.
    pub(super) async fn kill(&mut self, at: usize) {
        if let Some(Running { node, threads }) = self.nodes.get_mut(at).and_then(Option::take) {
            node.halt().await;
            threads.shutdown_background();
        }
    }

    /// Opens a killed node from its disk, and waits until it serves.
    pub(super) async fn reopen(&mut self, at: usize) -> Result<(), Failure> {
        let began = Instant::now();
        loop {
            match self.launch(at).finish().await {
                Ok(running) => {
                    self.nodes[at] = Some(running);
                    return self.wait_serving(at).await;
                }
                // The files of the dead are locked until the last of its threads has ended.
                Err(failure) if failure.message.contains("in use") && began.elapsed() < REOPEN_WAIT_MAX => {
                    tokio::time::sleep(REOPEN_PAUSE).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Stops all nodes in order.
    pub(super) async fn stop(&mut self) {
        for running in self.nodes.iter_mut().filter_map(Option::take) {
            let Running { node, threads } = running;
            let stopping = threads.spawn(node.shutdown());
            // A node that panics while it stops is stopped all the same.
            let _ = stopping.await;
            threads.shutdown_background();
        }
    }

    async fn wait_serving(&self, at: usize) -> Result<(), Failure> {
        let Some(running) = self.nodes.get(at).and_then(Option::as_ref) else {
            return Err(Failure::refused(format!("node n{} does not run", at + 1)));
        };
        let mut read = running.node.health().watch_read();
        let waited =
            tokio::time::timeout(SERVING_WAIT_MAX, read.wait_for(|read| *read == Serving::Yes)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Failure::refused(format!(
                "node n{} does not serve after {} s",
                at + 1,
                SERVING_WAIT_MAX.as_secs()
            ))),
        }
    }

    fn launch(&self, at: usize) -> Launch {
        let list = self.ports.iter().zip(1..).map(|(ports, no)| format!("n{no}=127.0.0.1:{}", ports.peer));
        let ports = self.ports[at];
        let local = |port| Some(SocketAddr::from(([127, 0, 0, 1], port)).to_string());
        let settings = Settings {
            data_dir: Some(self.dir.join(format!("n{}", at + 1))),
            node_name: Some(format!("n{}", at + 1)),
            listen: local(ports.client),
            peer_listen: local(ports.peer),
            http_listen: local(ports.http),
            bootstrap: Some(list.collect::<Vec<_>>().join(",")),
            ..Settings::default()
        };
        let threads = Builder::new_multi_thread()
            .worker_threads(NODE_THREADS)
            .thread_name(format!("berth-n{}", at + 1))
            .enable_all()
            .build();
        let launched = threads
            .map_err(|e| Failure::refused(format!("cannot start a node's threads: {e}")))
            .and_then(|threads| {
                let config =
                    Config::from_settings([settings]).map_err(|e| Failure::refused(e.to_string()))?;
                let starting = threads.spawn(Node::start(config, Injected::default()));
                Ok((threads, starting))
            });
        Launch(launched)
    }
}

type Starting = tokio::task::JoinHandle<Result<Node, berth_server::run::StartError>>;

/// A node that starts on its threads.
struct Launch(Result<(Runtime, Starting), Failure>);

impl Launch {
    async fn finish(self) -> Result<Running, Failure> {
        let (threads, starting) = self.0?;
        match starting.await {
            Ok(Ok(node)) => Ok(Running { node, threads }),
            Ok(Err(error)) => {
                threads.shutdown_background();
                Err(Failure::refused(error.to_string()))
            }
            Err(error) => {
                threads.shutdown_background();
                Err(Failure::refused(format!("a node could not start: {error}")))
            }
        }
    }
}

/// Ports that are free now: bound all at once, then given back.
fn free_ports(nodes: usize) -> Result<Vec<Ports>, Failure> {
    let taken = |e: std::io::Error| Failure::refused(format!("cannot find free ports on 127.0.0.1: {e}"));
    let listeners: Vec<TcpListener> =
        (0..nodes * 3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>().map_err(taken)?;
    let ports: Vec<u16> = listeners
        .iter()
        .map(|l| l.local_addr().map(|a| a.port()))
        .collect::<Result<_, _>>()
        .map_err(taken)?;
    let (triples, _) = ports.as_chunks::<3>();
    Ok(triples.iter().map(|&[client, peer, http]| Ports { client, peer, http }).collect())
}
