//! Settings as a source gives them: each may be absent.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::azure::AzureSettings;
use super::{CheckpointPace, Config, ConfigError, Limits, RaftTimers, Start, syntax, value};

/// Longest configuration file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Settings of one source: flags and environment, or a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Settings {
    pub data_dir: Option<PathBuf>,
    pub node_name: Option<String>,
    pub listen: Option<String>,
    pub peer_listen: Option<String>,
    pub http_listen: Option<String>,
    pub advertise: Option<String>,
    pub peer_advertise: Option<String>,
    /// `N1=A1,N2=A2,…`: names and peer addresses.
    pub bootstrap: Option<String>,
    /// Peer addresses, separated by commas.
    pub join: Option<String>,
    pub insecure: Option<bool>,
    #[serde(default)]
    pub raft: RaftSettings,
    #[serde(default)]
    pub checkpoint: CheckpointSettings,
    #[serde(default)]
    pub limits: LimitSettings,
    #[serde(default)]
    pub store: StoreSettings,
    #[serde(default)]
    pub azure: AzureSettings,
}

/// Table `[raft]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct RaftSettings {
    pub heartbeat_ms: Option<u64>,
    pub election_min_ms: Option<u64>,
    pub election_max_ms: Option<u64>,
}

/// Table `[checkpoint]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct CheckpointSettings {
    pub log_mib: Option<u64>,
    pub seconds: Option<u64>,
    pub mib_per_second: Option<u64>,
}

/// Table `[limits]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct LimitSettings {
    pub lookups: Option<usize>,
    pub streams: Option<usize>,
    pub writes: Option<usize>,
    pub bulk: Option<usize>,
    pub admin: Option<usize>,
    pub connections: Option<usize>,
}

/// Table `[store]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct StoreSettings {
    pub ballast_mib: Option<u64>,
    pub scrub_hours: Option<u64>,
}

impl Settings {
    /// Reads a TOML file. Unknown settings are errors, so that a typing mistake does not pass for a default.
    ///
    /// # Errors
    /// [`ConfigError::Read`] or [`ConfigError::Parse`].
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let read = || {
            let bytes = std::fs::metadata(path)?.len();
            if bytes > FILE_BYTES_MAX {
                return Err(std::io::Error::other(format!(
                    "it has {bytes} bytes; at most {FILE_BYTES_MAX} are read"
                )));
            }
            std::fs::read_to_string(path)
        };
        let text = read().map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::from_toml(&text).map_err(|problem| ConfigError::Parse { path: path.to_owned(), problem })
    }

    /// Reads TOML text.
    ///
    /// # Errors
    /// Which line and setting is wrong, and what is expected there; never a value.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| syntax::problem(text, &error))
    }

    /// These settings, and `later` where they are absent.
    #[must_use]
    pub fn or(self, later: Self) -> Self {
        let (joins, founds) = (self.join.is_some(), self.bootstrap.is_some());
        Self {
            data_dir: self.data_dir.or(later.data_dir),
            node_name: self.node_name.or(later.node_name),
            listen: self.listen.or(later.listen),
            peer_listen: self.peer_listen.or(later.peer_listen),
            http_listen: self.http_listen.or(later.http_listen),
            advertise: self.advertise.or(later.advertise),
            peer_advertise: self.peer_advertise.or(later.peer_advertise),
            // A flag that says how to start replaces the file's word on it as a whole.
            bootstrap: if joins { self.bootstrap } else { self.bootstrap.or(later.bootstrap) },
            join: if founds { self.join } else { self.join.or(later.join) },
            insecure: self.insecure.or(later.insecure),
            raft: RaftSettings {
                heartbeat_ms: self.raft.heartbeat_ms.or(later.raft.heartbeat_ms),
                election_min_ms: self.raft.election_min_ms.or(later.raft.election_min_ms),
                election_max_ms: self.raft.election_max_ms.or(later.raft.election_max_ms),
            },
            checkpoint: CheckpointSettings {
                log_mib: self.checkpoint.log_mib.or(later.checkpoint.log_mib),
                seconds: self.checkpoint.seconds.or(later.checkpoint.seconds),
                mib_per_second: self.checkpoint.mib_per_second.or(later.checkpoint.mib_per_second),
            },
            limits: LimitSettings {
                lookups: self.limits.lookups.or(later.limits.lookups),
                streams: self.limits.streams.or(later.limits.streams),
                writes: self.limits.writes.or(later.limits.writes),
                bulk: self.limits.bulk.or(later.limits.bulk),
                admin: self.limits.admin.or(later.limits.admin),
                connections: self.limits.connections.or(later.limits.connections),
            },
            store: StoreSettings {
                ballast_mib: self.store.ballast_mib.or(later.store.ballast_mib),
                scrub_hours: self.store.scrub_hours.or(later.store.scrub_hours),
            },
            azure: self.azure.or(later.azure),
        }
    }

    pub(super) fn resolve(self) -> Result<Config, ConfigError> {
        let start = match (&self.bootstrap, &self.join) {
            (Some(_), Some(join)) => {
                return Err(value("join", join, "cannot be given together with `bootstrap`; choose one"));
            }
            (Some(list), None) => Start::Bootstrap(parse_bootstrap(list)?),
            (None, Some(list)) => Start::Join(list.split(',').map(|addr| addr.trim().to_owned()).collect()),
            (None, None) => Start::Single,
        };
        let timers = RaftTimers::default();
        let ms = |given: Option<u64>, default: Duration| given.map_or(default, Duration::from_millis);
        let config = Config {
            data_dir: self.data_dir.unwrap_or_else(|| PathBuf::from("berth-data")),
            node_name: self.node_name.unwrap_or_else(|| "n1".to_owned()),
            listen: parse_listen("listen", self.listen.as_deref(), 7400)?,
            peer_listen: parse_listen("peer_listen", self.peer_listen.as_deref(), 7401)?,
            http_listen: parse_listen("http_listen", self.http_listen.as_deref(), 7402)?,
            advertise: self.advertise,
            peer_advertise: self.peer_advertise,
            start,
            insecure: self.insecure.unwrap_or(false),
            raft: RaftTimers {
                heartbeat: ms(self.raft.heartbeat_ms, timers.heartbeat),
                election_min: ms(self.raft.election_min_ms, timers.election_min),
                election_max: ms(self.raft.election_max_ms, timers.election_max),
            },
            checkpoint: CheckpointPace {
                log_bytes: mib("checkpoint.log_mib", self.checkpoint.log_mib, 64, 4..=16_384)?,
                interval: Duration::from_secs(bounded(
                    "checkpoint.seconds",
                    self.checkpoint.seconds,
                    300,
                    1..=86_400,
                )?),
                bytes_per_second: match self.checkpoint.mib_per_second {
                    None | Some(0) => None,
                    given => Some(mib("checkpoint.mib_per_second", given, 0, 1..=100_000)?),
                },
            },
            limits: Limits {
                lookups: limit("limits.lookups", self.limits.lookups, 8_192)?,
                streams: limit("limits.streams", self.limits.streams, 4_096)?,
                writes: limit("limits.writes", self.limits.writes, 4_096)?,
                bulk: limit("limits.bulk", self.limits.bulk, 32)?,
                admin: limit("limits.admin", self.limits.admin, 32)?,
                connections: limit("limits.connections", self.limits.connections, 4_096)?,
            },
            ballast_bytes: mib("store.ballast_mib", self.store.ballast_mib, 0, 0..=65_536)?,
            scrub_interval: match bounded("store.scrub_hours", self.store.scrub_hours, 24, 0..=8_760)? {
                0 => None,
                hours => Some(Duration::from_secs(hours * 3_600)),
            },
            azure: self.azure.resolve()?,
        };
        config.check()
    }
}

fn parse_listen(setting: &'static str, given: Option<&str>, port: u16) -> Result<SocketAddr, ConfigError> {
    match given {
        None => Ok(SocketAddr::from(([127, 0, 0, 1], port))),
        Some(text) => text.parse().map_err(|_| {
            value(setting, text, "a listen address is IP:port, as in 127.0.0.1:7400 or [::1]:7400")
        }),
    }
}

fn parse_bootstrap(list: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let node = |part: &str| match part.trim().split_once('=') {
        Some((name, addr)) => Ok((name.trim().to_owned(), addr.trim().to_owned())),
        None => Err(value("bootstrap", part, "each node is NAME=PEER_ADDRESS, as in n1=10.0.0.4:7401")),
    };
    list.split(',').map(node).collect()
}

fn bounded(
    setting: &'static str,
    given: Option<u64>,
    default: u64,
    allowed: std::ops::RangeInclusive<u64>,
) -> Result<u64, ConfigError> {
    match given {
        None => Ok(default),
        Some(given) if allowed.contains(&given) => Ok(given),
        Some(given) => {
            Err(value(setting, given, format!("{} to {} are allowed", allowed.start(), allowed.end())))
        }
    }
}

fn mib(
    setting: &'static str,
    given: Option<u64>,
    default: u64,
    allowed: std::ops::RangeInclusive<u64>,
) -> Result<u64, ConfigError> {
    bounded(setting, given, default, allowed).map(|mib| mib * 1024 * 1024)
}

fn limit(setting: &'static str, given: Option<usize>, default: usize) -> Result<usize, ConfigError> {
    let given = given.map(|given| given as u64);
    let limit = bounded(setting, given, default as u64, 1..=1_000_000)?;
    Ok(usize::try_from(limit).unwrap_or(default))
}
