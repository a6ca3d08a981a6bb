//! The life of an emulator: its start, its handle, its end.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::auth::Bearers;
use crate::clock::{Clock, Randomness, Time};
use crate::config::{Config, ConfigError};
use crate::control::{Command, CommandError};
use crate::devices::{Behaviours, Fleets};
use crate::http::{ARM_HOST, GLOBAL_DEVICE_HOST, Parts, Service, Tls, TlsError, serve};
use crate::world::{LoadError, World};

/// Why an emulator did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration does not hold together.
    #[error("the configuration is refused: {0}")]
    Config(#[from] ConfigError),
    /// An address is taken, or not this machine's.
    #[error("{address} cannot be listened on: choose another, or port 0")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS could not be set up.
    #[error("TLS could not be set up: {0}")]
    Tls(#[from] TlsError),
    /// A file could not be read or written.
    #[error("{path} could not be read or written")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The state file was refused.
    #[error("{0}")]
    State(#[from] LoadError),
}

/// The emulator, before it runs.
#[derive(Debug)]
pub struct Emulator;

/// An emulator that runs until it is stopped; dropping it stops it too, without saving its state.
pub struct Running {
    service: Arc<Service>,
    tasks: JoinSet<()>,
    https: SocketAddr,
    http: Option<SocketAddr>,
    ca_pem: String,
}

/// What DPS knows of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The registration ID, as it was first stored.
    pub registration_id: String,
    /// The device ID in its hub.
    pub device_id: String,
    /// The hub of its last assignment; none where none ended well.
    pub hub: Option<String>,
    /// `unassigned`, `assigning`, `assigned` or `failed`.
    pub status: &'static str,
    /// When the record last changed.
    pub updated: Time,
}

impl Emulator {
    /// Starts everything that `config` names. All time comes from `clock`, all keys, etags and IDs from `random`; the
    /// certificates, which no test can foresee, come from the system's randomness.
    pub async fn start(
        config: Config,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Randomness>,
    ) -> Result<Running, StartError> {
        config.check()?;
        let file = |path: &PathBuf, source| StartError::File { path: path.clone(), source };
        let trusted = match &config.webhook.ca_file {
            None => None,
            Some(path) => Some(std::fs::read(path).map_err(|source| file(path, source))?),
        };
        let tls = Tls::new(names(&config), trusted.as_deref())?;
        if let Some(path) = &config.ca_file {
            std::fs::write(path, &tls.ca_pem).map_err(|source| file(path, source))?;
        }
        let mut world = World::new(&config, Arc::clone(&random));
        if let Some(path) = &config.state_file {
            world.load(path, clock.now())?;
        }
        let (https, https_address) = bind(config.listen).await?;
        let plain = match config.listen_http {
            None => None,
            Some(address) => Some(bind(address).await?),
        };
        let bearers = config.bearers.iter().map(|bearer| (bearer.token.clone(), bearer.read_only));
        let fleets = config.fleets.iter().map(|fleet| (fleet.prefix.clone(), fleet.behaviour));
        let (words, heard) = match config.fleets.is_empty() {
            true => (None, None),
            false => {
                let (words, heard) = mpsc::unbounded_channel();
                (Some(words), Some(heard))
            }
        };
        let service = Arc::new(Service::new(Parts {
            world,
            clock,
            random,
            bearers: Bearers::new(bearers.collect()),
            behaviours: Behaviours::new(fleets.collect()),
            words,
            control: config.control.enabled.then(|| config.control.token.clone()),
            state_file: config.state_file.clone(),
            webhook_tls: tls.client,
            webhook_timeout: Duration::from_millis(config.webhook.timeout_ms),
        }));
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&service).tick());
        tasks.spawn(serve(https, Some(TlsAcceptor::from(tls.server)), Arc::clone(&service)));
        let http = plain.as_ref().map(|(_, address)| *address);
        if let Some((listener, _)) = plain {
            tasks.spawn(serve(listener, None, Arc::clone(&service)));
        }
        if let Some(heard) = heard {
            tasks.spawn(Fleets::new(Arc::clone(&service), &config.fleets).run(heard));
        }
        Ok(Running { service, tasks, https: https_address, http, ca_pem: tls.ca_pem })
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// The names that the certificate is for.
fn names(config: &Config) -> Vec<String> {
    let fixed = ["localhost", "127.0.0.1", "::1", GLOBAL_DEVICE_HOST, ARM_HOST].map(str::to_owned);
    let told = config.names.iter().chain(config.hubs.iter().map(|hub| &hub.host));
    let told = told.chain(config.dps.iter().map(|dps| &dps.host)).map(|name| name.to_ascii_lowercase());
    let mut names: Vec<String> = fixed.into_iter().chain(told).collect();
    names.sort_unstable();
    names.dedup();
    names
}

impl Running {
    /// Where HTTPS is served.
    pub fn https_address(&self) -> SocketAddr {
        self.https
    }

    /// Where plain HTTP is served, if it is.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http
    }

    /// The authority to trust, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Drives time, faults and devices; what the command tells, as JSON.
    pub async fn command(&self, command: Command) -> Result<Value, CommandError> {
        command.run(&self.service).await
    }

    /// What DPS knows of each device that ever registered with an ID scope; nothing for an unknown one. For checks, it
    /// sees past lies, lags and outages.
    pub fn assignments(&self, id_scope: &str) -> Vec<Assignment> {
        self.service.with_world(|world, _| {
            let dps = world.dps.iter().find(|dps| dps.id_scope.eq_ignore_ascii_case(id_scope));
            let registrations = dps.into_iter().flat_map(|dps| dps.registrations.values());
            registrations
                .map(|found| Assignment {
                    registration_id: found.id.to_string(),
                    device_id: found.device_id.to_string(),
                    hub: found.hub.as_deref().map(str::to_owned),
                    status: found.status(),
                    updated: found.updated,
                })
                .collect()
        })
    }

    /// The devices of a hub, each with whether it is enabled; none for an unknown hub. Sees past lies and lags too.
    pub fn identities(&self, hub: &str) -> Vec<(String, bool)> {
        self.service.with_world(|world, _| {
            let hub = world.hubs.iter().find(|known| known.host.eq_ignore_ascii_case(hub));
            let devices = hub.into_iter().flat_map(|hub| &hub.devices);
            devices.map(|(id, identity)| (id.to_string(), identity.enabled)).collect()
        })
    }

    /// How many calls were answered so far, by operation and status.
    pub fn calls(&self) -> BTreeMap<(&'static str, u16), u64> {
        self.service.calls()
    }

    #[cfg(test)]
    pub(crate) fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Stops: connections are closed once their requests are answered, or after two seconds, and then the state is
    /// saved where a file is configured.
    pub async fn stop(mut self) -> Result<(), CommandError> {
        self.service.stopping.cancel();
        while self.tasks.join_next().await.is_some() {}
        if self.service.state_file.is_some() {
            Command::Save.run(&self.service).await?;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.service.stopping.cancel();
    }
}
