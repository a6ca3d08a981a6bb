//! Opening a data directory: lock, identity, log, pages; and fetching the pages from a peer where they are lost.

use std::io;
use std::sync::Arc;

use berth_store::disk::{DataDir, DiskError};
use berth_store::log::{LogError, LogStore, PurgeGate};
use berth_store::machine::{Machine, MachineOptions, OpenError};
use berth_store::raft::{BerthNode, LogId};
use uuid::Uuid;

use super::machine::MachineAdaptor;
use crate::config::Config;
use crate::edge::ListenError;
use crate::raft::identity::{IdentityError, SharedKeeper};
use crate::raft::node::ClusterSeed;
use crate::raft::{Clock, Dial, RaftStartError, SystemClock, TcpDial};
use crate::reconcile::Authority;

/// What a node takes from its surroundings, so that a test or a simulation can set it.
#[derive(Clone)]
pub struct Injected {
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// How peers are dialled.
    pub dial: Arc<dyn Dial>,
    /// Randomness of identities.
    pub entropy: Arc<dyn Entropy>,
    /// How the state machine is opened.
    pub machine: MachineOptions,
    /// Who is asked about devices; Azure, where the configuration says that it is, if `None`.
    pub authority: Option<Arc<dyn Authority>>,
}

impl Default for Injected {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            dial: Arc::new(TcpDial),
            entropy: Arc::new(SystemEntropy),
            machine: MachineOptions::default(),
            authority: None,
        }
    }
}

/// Randomness of identities.
pub trait Entropy: Send + Sync + 'static {
    /// Sixteen random bytes.
    fn bytes(&self) -> [u8; 16];
}

/// The system's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn bytes(&self) -> [u8; 16] {
        rand::random()
    }
}

impl dyn Entropy {
    fn uuid(&self) -> Uuid {
        uuid::Builder::from_random_bytes(self.bytes()).into_uuid()
    }

    pub(super) fn cluster_seed(&self) -> ClusterSeed {
        ClusterSeed { cluster_id: self.uuid(), hash_key: self.bytes() }
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A bound listener does not work.
    #[error("cannot use a listener: {0}")]
    Listener(io::Error),
    /// The data directory is in use, unreadable or damaged beyond what peers can mend.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The identity file is unreadable or another's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log is damaged or unreadable.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The pages are lost, and nobody can give them back.
    #[error(
        "DATA_LOSS: the pages of `{dir}` are damaged ({damage}) and {why}. The damaged files are kept in quarantine; \
         this node does not start empty in their place. Restore its data directory, or rebuild the directory from an export"
    )]
    PagesLost {
        /// The data directory.
        dir: String,
        /// What is damaged.
        damage: String,
        /// Why they could not be rebuilt.
        why: String,
    },
    /// The state machine does not open.
    #[error(transparent)]
    Machine(#[from] OpenError),
    /// Raft does not start.
    #[error(transparent)]
    Raft(#[from] RaftStartError),
    /// A thread of the opening ended.
    #[error("opening the data directory failed: {0}")]
    Opening(String),
    /// Azure cannot be reached as configured.
    #[error("the settings in [azure] cannot be used: {0}")]
    Azure(#[from] berth_azure::EndpointError),
    /// The reflection service cannot be built.
    #[error("the reflection service cannot be built: {0}")]
    Reflection(String),
}

/// An opened data directory.
pub(super) struct Opened {
    pub(super) keeper: SharedKeeper,
    pub(super) log: LogStore,
    pub(super) machine: Machine,
    pub(super) rebuilt: bool,
    pub(super) fell_back: bool,
}

pub(super) async fn open(
    config: &Config,
    injected: &Injected,
    own: &BerthNode,
) -> Result<Opened, StartError> {
    let (data_dir, name) = (config.data_dir.clone(), own.name.clone());
    let incarnation = injected.entropy.uuid();
    let mut options = injected.machine.clone();
    options.bytes_per_second = options.bytes_per_second.or(config.checkpoint.bytes_per_second);
    let files = tokio::task::spawn_blocking(move || open_files(&data_dir, &name, incarnation, options)).await;
    let files = files.map_err(|e| StartError::Opening(e.to_string()))??;
    let Files { keeper, log, machine, damage, fell_back } = files;
    let Some(damage) = damage else {
        return Ok(Opened { keeper, log, machine, rebuilt: false, fell_back });
    };
    let purged = log.purged();
    let machine = fetch(machine, purged, Arc::clone(&keeper), injected, &damage, &config.data_dir).await?;
    Ok(Opened { keeper, log, machine, rebuilt: true, fell_back })
}

struct Files {
    keeper: SharedKeeper,
    log: LogStore,
    machine: Machine,
    /// Set where the pages are gone, and the log alone cannot bring them back.
    damage: Option<String>,
    fell_back: bool,
}

fn open_files(
    data_dir: &std::path::Path,
    name: &str,
    incarnation: Uuid,
    options: MachineOptions,
) -> Result<Files, StartError> {
    let dir = Arc::new(DataDir::lock(data_dir)?);
    tracing::debug!(dir = %dir.path().display(), "opening the data directory");
    let keeper = Arc::new(crate::raft::identity::Keeper::open(dir.path(), name, incarnation)?);
    let log = LogStore::open(&dir.path().join("log"), PurgeGate::closed())?;
    tracing::debug!(last = index(log.last()), "opened the log");
    match Machine::open(&dir, &log, options.clone()) {
        Ok((machine, report)) => {
            if let Some(damage) = &report.fell_back {
                tracing::warn!(
                    damage,
                    "the newest checkpoint is damaged; the one before and the log replace it"
                );
            }
            tracing::info!(
                generation = report.generation,
                index = index(report.position),
                "opened the pages"
            );
            let fell_back = report.fell_back.is_some();
            Ok(Files { keeper, log, machine, damage: None, fell_back })
        }
        Err(error) if error.is_damage() => {
            let damage = error.to_string();
            if matches!(error, OpenError::Gap { pages: None, .. } | OpenError::Lost { pages: None, .. }) {
                // What was damaged was set aside at an earlier start; there is nothing here to keep.
                tracing::error!(damage, "the pages are lost");
            } else {
                let kept = dir.quarantine()?.dir.map(|aside| aside.display().to_string());
                tracing::error!(damage, kept, "the pages are damaged and were set aside");
            }
            // What the log still holds from its beginning it can replay; what was purged only peers have.
            let whole_log = log.purged().is_none() && !log.is_blank() && log.unreachable_from(None).is_none();
            let machine = Machine::rebuilding(&dir, &log, options)?;
            let damage = (!whole_log).then_some(damage);
            Ok(Files { keeper, log, machine, damage, fell_back: false })
        }
        Err(error) => Err(error.into()),
    }
}

/// A position as logs tell it; 0 before the first entry.
fn index(position: Option<LogId>) -> u64 {
    position.map_or(0, |id| id.index)
}

/// Fetches a checkpoint from a peer before Raft starts, so that log and vote stay as others rely on them.
///
/// `purged` is where the log begins: a checkpoint that ends before it leaves a gap.
async fn fetch(
    mut machine: Machine,
    purged: Option<LogId>,
    keeper: SharedKeeper,
    injected: &Injected,
    damage: &str,
    data_dir: &std::path::Path,
) -> Result<Machine, StartError> {
    let view: Arc<dyn crate::raft::MachineView> = Arc::new(MachineAdaptor::new(machine.handle()));
    let lost = |why: String| StartError::PagesLost {
        dir: data_dir.display().to_string(),
        damage: damage.to_owned(),
        why,
    };
    let links = crate::raft::network::Links::new(Arc::clone(&injected.dial), keeper, Arc::clone(&view), None);
    let (meta, handle) = crate::raft::bootstrap::fetch_checkpoint(&links, &*view, purged)
        .await
        .map_err(|error| lost(error.to_string()))?;
    let position = meta.last_log_id;
    let machine = tokio::task::spawn_blocking(move || machine.adopt(&meta, &handle).map(|()| machine))
        .await
        .map_err(|e| StartError::Opening(e.to_string()))?
        .map_err(|e| lost(e.to_string()))?;
    tracing::info!(index = index(position), "the pages were rebuilt from a peer");
    Ok(machine)
}
