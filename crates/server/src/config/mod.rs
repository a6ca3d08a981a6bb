//! One validated struct, read once: flag, then `BERTH_*` environment, then file, then default.

mod azure;
mod settings;
mod syntax;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::raft::Start;
pub use azure::{AzureConfig, AzureSettings, key_source};
pub use settings::{CheckpointSettings, LimitSettings, RaftSettings, Settings, StoreSettings};

/// Longest name of a node.
const NODE_NAME_BYTES_MAX: usize = 63;
/// Most nodes of a static bootstrap list.
const BOOTSTRAP_NODES_MAX: usize = 9;
/// Most addresses that a node asks to be taken in: as many as a cluster has nodes.
const JOIN_ADDRS_MAX: usize = crate::raft::membership::NODES_MAX;

/// How a node runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Name of the node, unique in its cluster.
    pub node_name: String,
    /// Where clients are served; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where peers are served.
    pub peer_listen: SocketAddr,
    /// Where metrics, probes and the allocation hook are served.
    pub http_listen: SocketAddr,
    /// What clients are told to reach this node by; the listen address where not given.
    pub advertise: Option<String>,
    /// What peers are told to reach this node by; the peer listen address where not given.
    pub peer_advertise: Option<String>,
    /// How the node finds its cluster, if its data directory knows none.
    pub start: Start,
    /// Listen on addresses other than loopback although there is no authentication.
    pub insecure: bool,
    /// Raft's timers.
    pub raft: RaftTimers,
    /// When checkpoints are taken.
    pub checkpoint: CheckpointPace,
    /// How much is let in at once.
    pub limits: Limits,
    /// Bytes of a file kept as a reserve that can be deleted when the disk is full; 0 keeps none.
    pub ballast_bytes: u64,
    /// How often what is in memory and on disk is counted and read again; `None` is never.
    pub scrub_interval: Option<Duration>,
    /// Where Azure is, by which credentials hubs are asked, and by which secret Azure may ask.
    pub azure: AzureConfig,
}

/// Raft's timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftTimers {
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout, and the leader lease that followers honour.
    pub election_max: Duration,
}

/// When checkpoints are taken: whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointPace {
    /// After so many bytes of log.
    pub log_bytes: u64,
    /// After so long, if anything changed.
    pub interval: Duration,
    /// How fast pages are written, bytes a second; `None` is as fast as the disk.
    pub bytes_per_second: Option<u64>,
}

/// How much is let in at once. Past a limit a call is refused with `RESOURCE_EXHAUSTED` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Lookups and batch lookups.
    pub lookups: usize,
    /// Lookup streams that are open.
    pub streams: usize,
    /// Changes of devices and topology.
    pub writes: usize,
    /// Import, export and list streams.
    pub bulk: usize,
    /// Cluster administration.
    pub admin: usize,
    /// Client connections.
    pub connections: usize,
}

/// Why settings make no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML of the known settings.
    #[error("the configuration file `{path}` is wrong: {problem}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where, and what is expected there.
        problem: String,
    },
    /// A value is not allowed.
    #[error("setting `{setting}` is `{value}`: {problem}")]
    Value {
        /// The setting, as in the file.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        problem: String,
    },
}

impl Default for RaftTimers {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(40),
            election_min: Duration::from_millis(100),
            election_max: Duration::from_millis(200),
        }
    }
}

impl Config {
    /// Joins settings, earlier ones first, over the defaults, and checks the whole.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the first setting that is not allowed.
    pub fn from_settings(sources: impl IntoIterator<Item = Settings>) -> Result<Self, ConfigError> {
        let settings = sources.into_iter().fold(Settings::default(), Settings::or);
        settings.resolve()
    }

    /// What clients reach this node by, once it listens on `bound`.
    pub fn client_addr(&self, bound: SocketAddr) -> String {
        self.advertise.clone().unwrap_or_else(|| bound.to_string())
    }

    /// What peers reach this node by, once it listens on `bound`.
    pub fn peer_addr(&self, bound: SocketAddr) -> String {
        self.peer_advertise.clone().unwrap_or_else(|| bound.to_string())
    }

    fn check(self) -> Result<Self, ConfigError> {
        check_name("node_name", &self.node_name)?;
        for (setting, addr, advertised) in [
            ("listen", self.listen, Some(&self.advertise)),
            ("peer_listen", self.peer_listen, Some(&self.peer_advertise)),
            ("http_listen", self.http_listen, None),
        ] {
            if !addr.ip().is_loopback() && !self.insecure {
                let problem = "there is no authentication yet, so listeners bind loopback; add `insecure = true` \
                               (or --insecure) where the network itself keeps strangers out";
                return Err(value(setting, addr, problem));
            }
            if addr.ip().is_unspecified() && advertised.is_some_and(Option::is_none) {
                let problem = "an unspecified address tells nobody how to reach this node; set `advertise` and \
                               `peer_advertise`";
                return Err(value(setting, addr, problem));
            }
        }
        for (setting, addr) in [("advertise", &self.advertise), ("peer_advertise", &self.peer_advertise)] {
            if let Some(addr) = addr {
                check_addr(setting, addr)?;
            }
        }
        self.check_start()?;
        let timers = self.raft;
        if timers.heartbeat.is_zero() || timers.heartbeat * 2 > timers.election_min {
            let problem = "must be above 0 and at most half of raft.election_min_ms";
            return Err(value("raft.heartbeat_ms", timers.heartbeat.as_millis(), problem));
        }
        if timers.election_min >= timers.election_max || timers.election_max > Duration::from_secs(60) {
            let problem = "must be above raft.election_min_ms and at most 60000";
            return Err(value("raft.election_max_ms", timers.election_max.as_millis(), problem));
        }
        Ok(self)
    }

    fn check_start(&self) -> Result<(), ConfigError> {
        match &self.start {
            Start::Single => Ok(()),
            Start::Join(addrs) => {
                if addrs.len() > JOIN_ADDRS_MAX {
                    return Err(value(
                        "join",
                        addrs.len(),
                        format!("at most {JOIN_ADDRS_MAX} addresses are allowed"),
                    ));
                }
                addrs.iter().try_for_each(|addr| check_addr("join", addr))
            }
            Start::Bootstrap(nodes) => {
                if nodes.is_empty() || nodes.len() > BOOTSTRAP_NODES_MAX {
                    let problem = format!("1 to {BOOTSTRAP_NODES_MAX} nodes are allowed");
                    return Err(value("bootstrap", nodes.len(), problem));
                }
                for (at, (name, addr)) in nodes.iter().enumerate() {
                    check_name("bootstrap", name)?;
                    check_addr("bootstrap", addr)?;
                    if nodes.iter().take(at).any(|(other, _)| other == name) {
                        return Err(value("bootstrap", name, "stands in the list twice"));
                    }
                }
                if !nodes.iter().any(|(name, _)| *name == self.node_name) {
                    let names = nodes.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
                    let problem =
                        format!("is not in the bootstrap list ({names}); name this node by --node-name");
                    return Err(value("node_name", &self.node_name, problem));
                }
                Ok(())
            }
        }
    }
}

pub(crate) fn value(setting: &'static str, value: impl ToString, problem: impl Into<String>) -> ConfigError {
    ConfigError::Value { setting, value: value.to_string(), problem: problem.into() }
}

fn check_name(setting: &'static str, name: &str) -> Result<(), ConfigError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if name.is_empty() || name.len() > NODE_NAME_BYTES_MAX || !name.bytes().all(legal) {
        return Err(value(setting, name, "a node's name has 1 to 63 letters, digits or - . _"));
    }
    Ok(())
}

fn check_addr(setting: &'static str, addr: &str) -> Result<(), ConfigError> {
    let port = addr
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(port) if port > 0 => Ok(()),
        _ => Err(value(setting, addr, "an address is host:port, as in 10.0.0.4:7401")),
    }
}

#[cfg(test)]
mod tests;
