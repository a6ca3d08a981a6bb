//! Who this node is, and the check that a peer's call is meant for it and comes from whom it says.
//!
//! A data directory has a random identity of its own, its *incarnation*. The cluster records it at the
//! first contact and binds it to the node ID for ever. So a wiped node that comes back with its old ID,
//! a copied directory, a node of another cluster, and an address that now belongs to somebody else are
//! all refused: each of them could otherwise vote twice, or serve what it does not have.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_proto::internal::PeerEnvelope;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;
use tonic::Status;
use tonic::metadata::{BinaryMetadataValue, MetadataMap};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::machine::MachineView;

/// The metadata that carries the envelope of a peer's call.
const ENVELOPE_KEY: &str = "berth-peer-bin";
/// The metadata that names the refusal of a peer's call.
const REFUSAL_KEY: &str = "berth-refusal";
/// The file in the data directory that keeps the identity.
const FILE_NAME: &str = "IDENTITY";
/// First line of the file; the number is its format.
const FIRST_LINE: &str = "berth identity 1";
/// Bytes of the file that are read; 64 peers with the longest addresses stay below.
const FILE_BYTES_MAX: u64 = 128 * 1024;

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The data directory's own random identity.
    pub incarnation: Uuid,
    /// The name that an operator gave the node.
    pub name: String,
    /// The node's ID, once it has one.
    pub node_id: Option<u64>,
    /// The cluster it belongs to, once it does.
    pub cluster: Option<Uuid>,
    /// Whether it has taken part: from then on an empty log means that a log was lost.
    pub settled: bool,
    /// Where its peers were last known, by node ID: whom to ask when everything else here is lost.
    pub peers: BTreeMap<u64, String>,
}

/// Why the identity of a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is not what this build writes.
    #[error(
        "{path} is damaged or was written by a newer Berth: {what}. Restore it, or replace this node with an empty data directory and --join"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The directory belongs to a node of another name.
    #[error(
        "{path} says that this data directory belongs to node {found:?}, not {asked:?}: name the right directory, or start with --node-name {found}"
    )]
    OtherName {
        /// The file.
        path: PathBuf,
        /// The name in the file.
        found: String,
        /// The name asked for.
        asked: String,
    },
}

/// Why a peer's call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The call has no envelope, or one that cannot be read.
    #[error("the call carries no peer envelope")]
    NoEnvelope,
    /// The caller belongs to another cluster.
    #[error("the caller belongs to cluster {theirs}, this node to {ours}")]
    Cluster {
        /// This node's cluster.
        ours: Uuid,
        /// The caller's.
        theirs: Uuid,
    },
    /// The call is meant for another node.
    #[error("the call is meant for node {meant}, this is node {}", ours.map_or("none yet".to_owned(), |id| id.to_string()))]
    Node {
        /// This node's ID.
        ours: Option<u64>,
        /// The ID that the caller meant.
        meant: u64,
    },
    /// The caller's data directory is not the one the cluster knows it by.
    #[error(
        "node {from} is known by data directory {known}, the caller has {theirs}: a node that lost its data must join again with --join"
    )]
    Sender {
        /// The caller's ID.
        from: u64,
        /// The incarnation on record.
        known: Uuid,
        /// The caller's incarnation.
        theirs: Uuid,
    },
    /// This node's data directory is not the one the cluster knows it by.
    #[error(
        "the cluster knows this node by data directory {known}, this one is {ours}: its former data are gone, so it must join again with --join"
    )]
    Receiver {
        /// The incarnation on record.
        known: Uuid,
        /// This node's incarnation.
        ours: Uuid,
    },
    /// The node is not in a cluster and does not expect to be taken into one by this caller.
    #[error("this node belongs to no cluster and does not expect node {from}")]
    Unexpected {
        /// The caller's ID.
        from: u64,
    },
}

/// Keeps the identity in its file and checks peers' calls against it.
pub struct Keeper {
    path: PathBuf,
    identity: Mutex<Identity>,
    /// The founders that may take this node into their cluster while it has none.
    founders: Mutex<Vec<u64>>,
    /// Set once a peer of our own cluster says that it knows us by other data.
    disowned: watch::Sender<Option<Refusal>>,
}

impl Keeper {
    /// Reads the identity in `dir`, or writes a new one with the random `incarnation` given.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn open(dir: &Path, name: &str, incarnation: Uuid) -> Result<Self, IdentityError> {
        let path = dir.join(FILE_NAME);
        let identity = match read(&path)? {
            Some(found) if found.name != name => {
                return Err(IdentityError::OtherName { path, found: found.name, asked: name.to_owned() });
            }
            Some(found) => found,
            None => {
                let new = Identity {
                    incarnation,
                    name: name.to_owned(),
                    node_id: None,
                    cluster: None,
                    settled: false,
                    peers: BTreeMap::new(),
                };
                write(&path, &new)?;
                new
            }
        };
        Ok(Self {
            path,
            identity: Mutex::new(identity),
            founders: Mutex::default(),
            disowned: watch::Sender::new(None),
        })
    }

    /// The identity now.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity.lock().clone()
    }

    /// Follows whether the cluster disowned this data directory. The node must stop then.
    #[must_use]
    pub fn disowned(&self) -> watch::Receiver<Option<Refusal>> {
        self.disowned.subscribe()
    }

    /// Changes the identity, and returns when the change is on disk.
    ///
    /// # Errors
    /// [`IdentityError::Io`]; nothing is changed then.
    pub fn change(&self, change: impl FnOnce(&mut Identity)) -> Result<(), IdentityError> {
        let mut identity = self.identity.lock();
        let mut changed = identity.clone();
        change(&mut changed);
        if changed != *identity {
            write(&self.path, &changed)?;
            *identity = changed;
        }
        Ok(())
    }

    /// While this node has no cluster, these nodes may take it into theirs.
    pub fn expect_founders(&self, founders: Vec<u64>) {
        *self.founders.lock() = founders;
    }

    /// The envelope of a call to `to`, as metadata.
    pub fn sign(&self, to: u64, view: &dyn MachineView, metadata: &mut MetadataMap) {
        let envelope = {
            let identity = self.identity.lock();
            PeerEnvelope {
                cluster: uuid_bytes(identity.cluster.or_else(|| view.cluster_id())),
                from: identity.node_id.unwrap_or_default(),
                to,
                from_incarnation: uuid_bytes(Some(identity.incarnation)),
                to_incarnation: uuid_bytes(view.incarnation_of(to)),
            }
        };
        let value = BinaryMetadataValue::from_bytes(&envelope.encode_to_vec());
        metadata.insert_bin(ENVELOPE_KEY, value);
    }

    /// Checks that a call is from whom it says and meant for this node; tells the caller's node ID.
    ///
    /// # Errors
    /// The [`Refusal`] as a status; the caller reads it with [`is_refusal`].
    pub fn check(&self, metadata: &MetadataMap, view: &dyn MachineView) -> Result<u64, Status> {
        let envelope = metadata
            .get_bin(ENVELOPE_KEY)
            .and_then(|value| value.to_bytes().ok())
            .and_then(|bytes| PeerEnvelope::decode(bytes).ok())
            .ok_or_else(|| refuse(&Refusal::NoEnvelope))?;
        self.admit(&envelope, view).map_err(|refusal| {
            if let Refusal::Receiver { .. } = &refusal {
                self.disowned.send_replace(Some(refusal.clone()));
            }
            refuse(&refusal)
        })?;
        Ok(envelope.from)
    }

    fn admit(&self, envelope: &PeerEnvelope, view: &dyn MachineView) -> Result<(), Refusal> {
        let identity = self.identity.lock().clone();
        let from = envelope.from;
        let theirs = read_uuid(&envelope.cluster).ok_or(Refusal::NoEnvelope)?;
        let sender = read_uuid(&envelope.from_incarnation).ok_or(Refusal::NoEnvelope)?;
        if let Some(ours) = identity.cluster.filter(|&ours| ours != theirs) {
            return Err(Refusal::Cluster { ours, theirs });
        }
        if identity.node_id != Some(envelope.to) {
            return Err(Refusal::Node { ours: identity.node_id, meant: envelope.to });
        }
        let ours = identity.incarnation;
        if let Some(known) = read_uuid(&envelope.to_incarnation).filter(|&known| known != ours) {
            return Err(Refusal::Receiver { known, ours });
        }
        if let Some(known) = view.incarnation_of(from).filter(|&known| known != sender) {
            return Err(Refusal::Sender { from, known, theirs: sender });
        }
        if identity.cluster.is_none() {
            if !self.founders.lock().contains(&from) {
                return Err(Refusal::Unexpected { from });
            }
            // From here on this node belongs to the founders' cluster, and must still know it after a crash.
            self.change(|identity| identity.cluster = Some(theirs)).map_err(|error| {
                tracing::error!(%error, "cannot keep the cluster's identity");
                Refusal::Unexpected { from }
            })?;
        }
        Ok(())
    }
}

/// Whether a status is a refusal by [`Keeper::check`].
#[must_use]
pub fn is_refusal(status: &Status) -> bool {
    status.metadata().contains_key(REFUSAL_KEY)
}

/// The bytes of an optional UUID: empty for none.
#[must_use]
pub fn uuid_bytes(uuid: Option<Uuid>) -> bytes::Bytes {
    uuid.map_or_else(bytes::Bytes::new, |uuid| bytes::Bytes::copy_from_slice(uuid.as_bytes()))
}

/// Reads an optional UUID; `None` also for bytes that are not one.
#[must_use]
pub fn read_uuid(bytes: &[u8]) -> Option<Uuid> {
    Uuid::from_slice(bytes).ok()
}

/// A shared keeper.
pub type SharedKeeper = Arc<Keeper>;

fn refuse(refusal: &Refusal) -> Status {
    let mut status = Status::permission_denied(refusal.to_string());
    let kind = match refusal {
        Refusal::NoEnvelope => "no-envelope",
        Refusal::Cluster { .. } => "cluster",
        Refusal::Node { .. } => "node",
        Refusal::Sender { .. } => "sender",
        Refusal::Receiver { .. } => "receiver",
        Refusal::Unexpected { .. } => "unexpected",
    };
    status.metadata_mut().insert(REFUSAL_KEY, tonic::metadata::MetadataValue::from_static(kind));
    status
}

fn read(path: &Path) -> Result<Option<Identity>, IdentityError> {
    use io::Read as _;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("open", path, source)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|source| io_error("read", path, source))?;
    parse(&bytes).map(Some).map_err(|what| IdentityError::Damaged { path: path.to_path_buf(), what })
}

/// Replaces the file as a whole: a crash leaves the old one or the new one.
fn write(path: &Path, identity: &Identity) -> Result<(), IdentityError> {
    let fail = |source| io_error("write", path, source);
    let next = path.with_extension("next");
    let mut file = File::create(&next).map_err(fail)?;
    file.write_all(render(identity).as_bytes()).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    fs::rename(&next, path).map_err(fail)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(fail)
}

fn render(identity: &Identity) -> String {
    let mut text = format!("{FIRST_LINE}\nincarnation {}\nname {}\n", identity.incarnation, identity.name);
    // Writing to a string cannot fail.
    if let Some(id) = identity.node_id {
        let _ = writeln!(text, "node {id}");
    }
    if let Some(cluster) = identity.cluster {
        let _ = writeln!(text, "cluster {cluster}");
    }
    if identity.settled {
        text.push_str("settled yes\n");
    }
    for (id, addr) in &identity.peers {
        let _ = writeln!(text, "peer {id} {addr}");
    }
    let check = xxh3_64(text.as_bytes());
    let _ = writeln!(text, "check {check:016x}");
    text
}

fn parse(bytes: &[u8]) -> Result<Identity, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    let at = text.rfind("check ").ok_or("it has no check line")?;
    let (body, check) = text.split_at(at);
    if check.trim_end() != format!("check {:016x}", xxh3_64(body.as_bytes())) {
        return Err("its check does not match".to_owned());
    }
    let mut lines = body.lines();
    let first = lines.next().unwrap_or_default();
    if first != FIRST_LINE {
        return Err(format!("its first line is {first:?}, not {FIRST_LINE:?}"));
    }
    let (mut incarnation, mut name, mut node_id, mut cluster) = (None, None, None, None);
    let (mut settled, mut peers) = (false, BTreeMap::new());
    for line in lines {
        let (key, value) = line.split_once(' ').ok_or_else(|| format!("the line {line:?} has no value"))?;
        let wrong = |_| format!("the line {line:?} cannot be read");
        match key {
            "incarnation" => incarnation = Some(value.parse::<Uuid>().map_err(|_| wrong(()))?),
            "name" => name = Some(value.to_owned()),
            "node" => node_id = Some(value.parse().map_err(|_: std::num::ParseIntError| wrong(()))?),
            "cluster" => cluster = Some(value.parse::<Uuid>().map_err(|_| wrong(()))?),
            "settled" if value == "yes" => settled = true,
            "peer" => {
                let (id, addr) = value.split_once(' ').ok_or_else(|| wrong(()))?;
                peers.insert(id.parse().map_err(|_: std::num::ParseIntError| wrong(()))?, addr.to_owned());
            }
            _ => return Err(format!("the line {line:?} is not known")),
        }
    }
    Ok(Identity {
        incarnation: incarnation.ok_or("it has no incarnation")?,
        name: name.ok_or("it has no name")?,
        node_id,
        cluster,
        settled,
        peers,
    })
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Io { action, path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_identity_survives_and_a_change_to_it_too() {
        let dir = tempfile::tempdir().unwrap();
        let incarnation = Uuid::from_u128(7);
        let keeper = Keeper::open(dir.path(), "n1", incarnation).unwrap();
        keeper
            .change(|identity| {
                identity.node_id = Some(4);
                identity.cluster = Some(Uuid::from_u128(9));
                identity.peers.insert(2, "host:7001".into());
            })
            .unwrap();
        let again = Keeper::open(dir.path(), "n1", Uuid::from_u128(8)).unwrap();
        assert_eq!(again.identity(), keeper.identity());
        assert_eq!(again.identity().incarnation, incarnation, "a directory keeps its own");
    }

    #[test]
    fn a_directory_of_another_name_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        Keeper::open(dir.path(), "n1", Uuid::from_u128(7)).unwrap();
        let Err(error) = Keeper::open(dir.path(), "n2", Uuid::from_u128(8)) else { panic!("opened") };
        assert!(error.to_string().contains("\"n1\"") && error.to_string().contains("\"n2\""), "{error}");
    }

    proptest! {
        #[test]
        fn a_changed_file_is_damage(at in 0usize..400, bit in 0u8..8) {
            let identity = Identity { incarnation: Uuid::from_u128(1), name: "n1".into(), node_id: Some(3), cluster: None, settled: true, peers: BTreeMap::from([(2, "a:1".to_owned())]) };
            let mut bytes = render(&identity).into_bytes();
            prop_assert_eq!(parse(&bytes), Ok(identity));
            let at = at % (bytes.len() - 1);
            bytes[at] ^= 1 << bit;
            prop_assert!(parse(&bytes).is_err());
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,200}") {
            let _ = parse(text.as_bytes());
            let signed = format!("{text}\ncheck {:016x}\n", xxh3_64(format!("{text}\n").as_bytes()));
            let _ = parse(signed.as_bytes());
        }
    }
}
