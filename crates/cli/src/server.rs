//! `berth server`: runs a node until it is told to stop.

use std::path::PathBuf;

use berth_server::config::{Config, Settings};
use berth_server::health::Serving;
use berth_server::notify::Notifier;
use berth_server::run::{Injected, Node};
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{EXIT_DONE, Failure};

/// Flags of `berth server`. Each stands above the environment, that above the file, that above the default.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Configuration file, in TOML
    #[arg(long, env = "BERTH_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything is kept [default: berth-data]
    #[arg(long, env = "BERTH_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address for clients [default: 127.0.0.1:7400]
    #[arg(long, env = "BERTH_LISTEN", value_name = "ADDR")]
    listen: Option<String>,
    /// Address for peers [default: 127.0.0.1:7401]
    #[arg(long, env = "BERTH_PEER_LISTEN", value_name = "ADDR")]
    peer_listen: Option<String>,
    /// Address for metrics and probes [default: 127.0.0.1:7402]
    #[arg(long, env = "BERTH_HTTP_LISTEN", value_name = "ADDR")]
    http_listen: Option<String>,
    /// Name of the node, unique in its cluster [default: n1]
    #[arg(long, env = "BERTH_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    /// Begin a cluster of these nodes, this one among them; the addresses are peer addresses
    #[arg(long, env = "BERTH_BOOTSTRAP", value_name = "N1=A1,N2=A2,…", conflicts_with = "join")]
    bootstrap: Option<String>,
    /// Join the cluster of a node with this peer address
    #[arg(long, env = "BERTH_JOIN", value_name = "ADDR")]
    join: Option<String>,
    /// What clients are told to reach this node by
    #[arg(long, env = "BERTH_ADVERTISE", value_name = "ADDR")]
    advertise: Option<String>,
    /// What peers are told to reach this node by
    #[arg(long, env = "BERTH_PEER_ADVERTISE", value_name = "ADDR")]
    peer_advertise: Option<String>,
    /// Listen on addresses other than loopback although there is no authentication
    #[arg(long, env = "BERTH_INSECURE")]
    insecure: bool,
}

impl ServerArgs {
    /// Flags and environment as settings.
    fn settings(&self) -> Settings {
        Settings {
            data_dir: self.data_dir.clone(),
            node_name: self.node_name.clone(),
            listen: self.listen.clone(),
            peer_listen: self.peer_listen.clone(),
            http_listen: self.http_listen.clone(),
            advertise: self.advertise.clone(),
            peer_advertise: self.peer_advertise.clone(),
            bootstrap: self.bootstrap.clone(),
            join: self.join.clone(),
            insecure: self.insecure.then_some(true),
            ..Settings::default()
        }
    }

    fn config(&self) -> Result<Config, Failure> {
        let wrong = |error: berth_server::config::ConfigError| Failure::usage(error.to_string());
        let mut sources = vec![self.settings()];
        if let Some(file) = &self.config {
            sources.push(Settings::from_file(file).map_err(wrong)?);
        }
        Config::from_settings(sources).map_err(wrong)
    }
}

pub(crate) async fn run(args: Box<ServerArgs>) -> Result<u8, Failure> {
    let config = args.config()?;
    crate::logging::start().map_err(Failure::usage)?;
    let refused = |error: &dyn std::fmt::Display| Failure::refused(error.to_string());
    // Listened for from the start: a node that waits for its peers must be stoppable too.
    let mut signals = Signals::new().map_err(|error| refused(&error))?;
    let notifier = Notifier::new(std::env::var_os("NOTIFY_SOCKET"));
    let data_dir = config.data_dir.display().to_string();
    let node = tokio::select! {
        node = Node::start(config, Injected::default()) => node.map_err(|error| refused(&error))?,
        name = signals.next() => {
            tracing::info!(signal = name, "stopping before the node had started");
            return Ok(EXIT_DONE);
        }
    };
    let addresses = node.addresses();
    tracing::info!(
        node = node.raft().id(),
        clients = %addresses.client,
        peers = %addresses.peer,
        http = %addresses.http,
        data_dir,
        "the node runs"
    );
    let mut read = node.health().watch_read();
    let ready = async {
        // The sender lives as long as the node.
        let _ = read.wait_for(|serving| *serving == Serving::Yes).await;
        tracing::info!("the node serves");
        notifier.ready();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = ready => Ok(EXIT_DONE),
        name = signals.next() => {
            tracing::info!(signal = name, "stopping");
            notifier.stopping();
            node.shutdown().await;
            tracing::info!("stopped");
            Ok(EXIT_DONE)
        }
        ended = node.ended() => {
            notifier.stopping();
            let told = ended.to_string();
            // What a failed disk holds is not to be written to again.
            node.halt().await;
            Err(Failure::refused(told))
        }
    }
}

/// The signals that ask a process to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
