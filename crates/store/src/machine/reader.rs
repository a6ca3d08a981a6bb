//! Reading the directory: by any thread, at one revision, without waiting for the writer.

use std::sync::Arc;

use berth_core::{
    DeviceId, DeviceIdRef, HubNo, LabelSetNo, Labels, Mapping, RegistrationId, Revision, ScopeNo, Seats,
    StampNo, Topology, View,
};
use tokio::sync::watch;

use super::checkpoint;
use super::keys;
use super::meta::{Cluster, Meta};
use super::view::{self, RowDamage, Sight};
use crate::pages::{Published, Root, TableId};
use crate::raft::LogId;

/// Where the state machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The last applied entry.
    pub applied: Option<LogId>,
    /// The last accepted command.
    pub revision: Revision,
    /// Snapshots installed by this process.
    pub installs: u64,
}

/// The door for reads. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    published: Published<Meta>,
    position: watch::Receiver<Position>,
}

impl Reader {
    pub(crate) fn new(published: Published<Meta>, position: watch::Receiver<Position>) -> Self {
        Self { published, position }
    }

    /// The newest revision, to look at for as long as one answer takes. Holding it longer keeps replaced pages in
    /// memory.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { root: self.published.root() }
    }

    /// Where the state machine stands; changes after each published root.
    pub fn position(&self) -> watch::Receiver<Position> {
        self.position.clone()
    }
}

/// The directory at one revision.
#[derive(Clone)]
pub struct Snapshot {
    root: Arc<Root<Meta>>,
}

/// A question to the core's view: a closure cannot be generic over the view, this can.
pub trait Question {
    /// What is answered.
    type Answer;

    /// Answers from `view`.
    fn ask(self, view: &impl View) -> Self::Answer;
}

/// Why a recount does not agree with what is kept beside the rows.
#[derive(Debug, thiserror::Error)]
pub enum RecountError {
    /// A row does not decode.
    #[error(transparent)]
    Row(#[from] RowDamage),
    /// The digest of the rows is another.
    #[error(
        "the rows' digest is {counted:032x}, kept is {kept:032x}; this node must be rebuilt from its peers"
    )]
    Digest {
        /// Counted from the rows.
        counted: u128,
        /// Kept incrementally.
        kept: u128,
    },
    /// A counter is another.
    #[error(
        "the counters of hubs, stamps, scopes or label sets differ from a recount; this node must be rebuilt from its peers"
    )]
    Counters,
}

impl Snapshot {
    /// Positions, membership, topology and the like.
    pub fn meta(&self) -> &Meta {
        self.root.meta()
    }

    /// Revision of the last accepted command.
    pub fn revision(&self) -> Revision {
        self.root.meta().revision
    }

    /// The cluster, once it is born.
    pub fn cluster(&self) -> Option<Cluster> {
        self.root.meta().cluster
    }

    /// The mapping of a device.
    ///
    /// # Errors
    /// [`RowDamage`] where its row does not decode.
    pub fn device<'a>(&self, id: impl Into<DeviceIdRef<'a>>) -> Result<Option<Mapping>, RowDamage> {
        view::device(&*self.root, id.into().as_str().as_bytes())
    }

    /// The mappings of many devices, told in the order of the IDs.
    ///
    /// # Errors
    /// [`RowDamage`] where a row does not decode; what was told before stands.
    pub fn devices<'a>(
        &self,
        ids: impl IntoIterator<Item = DeviceIdRef<'a>>,
        mut tell: impl FnMut(Option<Mapping>),
    ) -> Result<(), RowDamage> {
        let hash_key = self.root.hash_key();
        let wanted: Vec<(u64, &[u8])> = ids
            .into_iter()
            .map(|id| id.as_bytes())
            .map(|id| (keys::folded_hash(&hash_key, id), id))
            .collect();
        let mut damage = None;
        self.root.get_all(TableId::Devices, &wanted, |value| {
            match value.map(view::decode_device).transpose() {
                Ok(mapping) if damage.is_none() => tell(mapping),
                Ok(_) => {}
                Err(error) => damage = damage.take().or(Some(error)),
            }
        });
        damage.map_or(Ok(()), Err)
    }

    /// The devices registered as `id`: in `scope`, or in any scope.
    ///
    /// # Errors
    /// [`RowDamage`] where a row does not decode.
    pub fn registered(
        &self,
        id: &RegistrationId,
        scope: Option<ScopeNo>,
    ) -> Result<Vec<(ScopeNo, DeviceId, Mapping)>, RowDamage> {
        view::registered(&*self.root, id, scope)
    }

    /// This revision as the core sees it, and whether damage was met on the way.
    ///
    /// # Errors
    /// [`RowDamage`] where a row that the answer needed does not decode.
    pub fn view<Q: Question>(&self, question: Q) -> Result<Q::Answer, RowDamage> {
        let sight = Sight::new(&*self.root, self.root.meta());
        let answer = question.ask(&sight);
        match sight.damage() {
            None => Ok(answer),
            Some(damage) => Err(damage),
        }
    }

    /// How many devices there are.
    pub fn device_count(&self) -> u64 {
        self.root.row_count(TableId::Devices)
    }

    /// How many pages of devices there are: what [`Snapshot::devices_in_page`] may be asked for.
    pub fn device_pages(&self) -> u32 {
        self.root.page_count(TableId::Devices)
    }

    /// The devices of one page, in an order that is this node's own.
    ///
    /// # Errors
    /// [`RowDamage`] where a row does not decode.
    pub fn devices_in_page(&self, page: u32, mut visit: impl FnMut(&str, Mapping)) -> Result<(), RowDamage> {
        let Some(page) = self.root.rows_in_page(TableId::Devices, page) else { return Ok(()) };
        for (key, value) in page.rows() {
            let id = std::str::from_utf8(key).map_err(|e| RowDamage::new(TableId::Devices, e))?;
            visit(id, view::decode_device(value)?);
        }
        Ok(())
    }

    /// Stamps, hubs, scopes, routes.
    pub fn topology(&self) -> &Topology {
        &self.root.meta().topology
    }

    /// The labels of a set.
    pub fn labels(&self, no: LabelSetNo) -> Option<&Labels> {
        self.root.meta().label_sets.get(no)
    }

    /// Interned label sets, with their numbers.
    pub fn label_sets(&self) -> impl Iterator<Item = (LabelSetNo, &Labels)> {
        self.root.meta().label_sets.iter()
    }

    /// Seats of a hub.
    pub fn hub_seats(&self, hub: HubNo) -> Seats {
        self.root.meta().hub_seats(hub)
    }

    /// Devices of a scope.
    pub fn scope_devices(&self, scope: ScopeNo) -> u64 {
        self.root.meta().scope_devices(scope)
    }

    /// Seats of a stamp.
    pub fn stamp_seats(&self, stamp: StampNo) -> Seats {
        self.root.meta().stamp_seats(stamp)
    }

    /// The digest of all replicated state: equal on every replica at equal applied index.
    pub fn digest(&self) -> u128 {
        checkpoint::digest(&self.root)
    }

    /// How many pages there are, of all tables.
    pub fn page_count(&self) -> u64 {
        TableId::ALL.iter().map(|table| u64::from(self.root.page_count(*table))).sum()
    }

    /// Bytes of all live pages.
    pub fn live_bytes(&self) -> u64 {
        self.root.live_bytes()
    }

    /// Recounts digest and counters from the rows.
    ///
    /// # Errors
    /// [`RecountError`] says what differs from what is kept.
    pub fn recount(&self) -> Result<(), RecountError> {
        let (counted, kept) = (self.root.recompute_digest(), self.root.digest());
        if counted != kept {
            return Err(RecountError::Digest { counted, kept });
        }
        let counters = checkpoint::recount(&self.root, self.topology())?;
        if counters.same_as(&self.root.meta().counters) { Ok(()) } else { Err(RecountError::Counters) }
    }
}
