//! The core's view over pages: published roots and working sets alike.

use std::cell::Cell;

use berth_core::{
    DeviceId, HubNo, LabelSetNo, Labels, Mapping, Registration, RegistrationId, Reply, RequestId, ScopeNo,
    Seats, StampNo, Timestamp, Topology, View,
};
use berth_proto::disk;

use super::keys;
use super::meta::Meta;
use crate::pages::{Candidates, HashKey, Root, Row, TableId, Working};

/// Rows of one version, wherever they are.
pub(crate) trait Rows {
    fn key(&self) -> HashKey;
    fn get(&self, table: TableId, hash: u64, key: &[u8]) -> Option<Row<'_>>;
    fn candidates(&self, table: TableId, hash: u64) -> Candidates<'_>;
}

impl Rows for Root<Meta> {
    fn key(&self) -> HashKey {
        self.hash_key()
    }

    fn get(&self, table: TableId, hash: u64, key: &[u8]) -> Option<Row<'_>> {
        Root::get(self, table, hash, key)
    }

    fn candidates(&self, table: TableId, hash: u64) -> Candidates<'_> {
        Root::candidates(self, table, hash)
    }
}

impl Rows for Working<'_, Meta> {
    fn key(&self) -> HashKey {
        self.base().hash_key()
    }

    fn get(&self, table: TableId, hash: u64, key: &[u8]) -> Option<Row<'_>> {
        Working::get(self, table, hash, key)
    }

    fn candidates(&self, table: TableId, hash: u64) -> Candidates<'_> {
        Working::candidates(self, table, hash)
    }
}

/// A row whose bytes do not decode: memory or code is broken, since seals and digests were checked before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a row of table {table:?} does not decode ({problem}); this node must be rebuilt from its peers")]
pub struct RowDamage {
    /// Where it is.
    pub table: TableId,
    /// What the decoder says.
    pub problem: String,
}

impl RowDamage {
    pub(crate) fn new(table: TableId, problem: impl ToString) -> Self {
        Self { table, problem: problem.to_string() }
    }
}

/// The view of one revision: rows, and what is decoded beside them.
///
/// [`View`] cannot fail, so damage is remembered: whoever decides must ask [`Sight::damage`] before acting.
pub(crate) struct Sight<'a, R> {
    rows: &'a R,
    meta: &'a Meta,
    damage: Cell<Option<RowDamage>>,
}

impl<'a, R: Rows> Sight<'a, R> {
    pub(crate) fn new(rows: &'a R, meta: &'a Meta) -> Self {
        Self { rows, meta, damage: Cell::new(None) }
    }

    /// The first damage met so far.
    pub(crate) fn damage(self) -> Option<RowDamage> {
        self.damage.take()
    }

    fn whole<T>(&self, found: Result<Option<T>, RowDamage>) -> Option<T> {
        found.unwrap_or_else(|damage| {
            self.damage.set(Some(damage));
            None
        })
    }
}

/// The mapping of a device.
pub(crate) fn device(rows: &impl Rows, id: &[u8]) -> Result<Option<Mapping>, RowDamage> {
    let hash = keys::folded_hash(&rows.key(), id);
    match rows.get(TableId::Devices, hash, id) {
        None => Ok(None),
        Some(row) => decode_device(&row).map(Some),
    }
}

pub(crate) fn decode_device(value: &[u8]) -> Result<Mapping, RowDamage> {
    disk::decode_mapping(value).map_err(|e| RowDamage::new(TableId::Devices, e))
}

/// Devices registered as `id`, each with its scope and mapping.
pub(crate) fn registered(
    rows: &impl Rows,
    id: &RegistrationId,
    scope: Option<ScopeNo>,
) -> Result<Vec<(ScopeNo, DeviceId, Mapping)>, RowDamage> {
    let folded = id.folded();
    let mut found = Vec::new();
    let asked = |candidate: ScopeNo| scope.is_none_or(|scope| scope == candidate);
    let hash = keys::folded_hash(&rows.key(), folded.as_bytes());
    let mut explicit = rows.candidates(TableId::Registrations, hash);
    while let Some((key, value)) = explicit.next_row() {
        let Some((registered, scope)) = keys::parse_registration(key) else {
            return Err(RowDamage::new(TableId::Registrations, "short key"));
        };
        if registered == folded.as_bytes() && asked(scope) {
            let device_id = text_id(TableId::Registrations, value)?;
            match device(rows, value)? {
                Some(mapping) => found.push((scope, device_id, mapping)),
                None => {
                    return Err(RowDamage::new(
                        TableId::Registrations,
                        format!("device `{device_id}` is gone"),
                    ));
                }
            }
        }
    }
    let mut implied = rows.candidates(TableId::Devices, hash);
    while let Some((key, value)) = implied.next_row() {
        if !key.eq_ignore_ascii_case(folded.as_bytes()) {
            continue;
        }
        let mapping = decode_device(value)?;
        match mapping.scope {
            Some(scope) if mapping.registration == Registration::SameAsDevice && asked(scope) => {
                found.push((scope, text_id(TableId::Devices, key)?, mapping));
            }
            _ => {}
        }
    }
    // Rows of a page have no order that replicas share.
    found.sort_by_key(|(scope, ..)| *scope);
    Ok(found)
}

pub(crate) fn text_id(table: TableId, bytes: &[u8]) -> Result<DeviceId, RowDamage> {
    let text = std::str::from_utf8(bytes).map_err(|e| RowDamage::new(table, e))?;
    DeviceId::parse(text).map_err(|e| RowDamage::new(table, e))
}

impl<R: Rows> View for Sight<'_, R> {
    fn device(&self, id: &DeviceId) -> Option<Mapping> {
        self.whole(device(self.rows, keys::device(id)))
    }

    fn device_twins(&self, id: &DeviceId) -> usize {
        let hash = keys::folded_hash(&self.rows.key(), keys::device(id));
        let mut candidates = self.rows.candidates(TableId::Devices, hash);
        let mut twins = 0;
        while let Some((key, _)) = candidates.next_row() {
            twins += usize::from(key.eq_ignore_ascii_case(keys::device(id)));
        }
        twins
    }

    fn registration(&self, scope: ScopeNo, id: &RegistrationId) -> Option<DeviceId> {
        let found = self.whole(registered(self.rows, id, Some(scope)).map(Some))?;
        found.into_iter().next().map(|(_, device, _)| device)
    }

    fn topology(&self) -> &Topology {
        &self.meta.topology
    }

    fn hub_seats(&self, hub: HubNo) -> Seats {
        self.meta.hub_seats(hub)
    }

    fn stamp_seats(&self, stamp: StampNo) -> Seats {
        self.meta.stamp_seats(stamp)
    }

    fn scope_devices(&self, scope: ScopeNo) -> u64 {
        self.meta.scope_devices(scope)
    }

    fn label_set_no(&self, labels: &Labels) -> Option<LabelSetNo> {
        self.meta.label_sets.no(labels)
    }

    fn label_set(&self, no: LabelSetNo) -> Option<&Labels> {
        self.meta.label_sets.get(no)
    }

    fn label_set_devices(&self, no: LabelSetNo) -> u64 {
        self.meta.label_set_devices(no)
    }

    fn free_label_sets(&self, count: usize) -> Vec<LabelSetNo> {
        self.meta.label_sets.free(count)
    }

    fn reply(&self, id: &RequestId) -> Option<Reply> {
        let key = keys::reply(id);
        let row =
            self.rows.get(TableId::Replies, keys::row_hash(&self.rows.key(), TableId::Replies, key), key)?;
        self.whole(disk::decode_reply(&row).map(Some).map_err(|e| RowDamage::new(TableId::Replies, e)))
    }

    fn replies(&self) -> u64 {
        self.meta.reply_count()
    }

    fn oldest_reply(&self) -> Option<RequestId> {
        if self.meta.replies.is_empty() {
            return None;
        }
        let key = keys::reply_order(self.meta.replies.start);
        let hash = keys::row_hash(&self.rows.key(), TableId::ReplyOrder, &key);
        let found = match self.rows.get(TableId::ReplyOrder, hash, &key) {
            None => Err(RowDamage::new(
                TableId::ReplyOrder,
                format!("entry {} is missing", self.meta.replies.start),
            )),
            Some(row) => match <[u8; 16]>::try_from(&*row) {
                Ok(bytes) => {
                    RequestId::from_bytes(bytes).map(Some).map_err(|e| RowDamage::new(TableId::ReplyOrder, e))
                }
                Err(e) => Err(RowDamage::new(TableId::ReplyOrder, e)),
            },
        };
        self.whole(found)
    }

    fn replies_forgotten_until(&self) -> Option<Timestamp> {
        self.meta.forgotten_until
    }

    fn replies_max(&self) -> u64 {
        self.meta.replies_max
    }
}
