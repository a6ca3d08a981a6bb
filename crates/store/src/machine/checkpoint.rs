//! The directory at rest: what a manifest keeps beside the pages, and how the rest is read back from the rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_core::{LabelSetNo, Mapping, Revision, RouteKey, Timestamp, Topology, TopologyChange};
use berth_proto::{disk, internal};
use prost::Message;
use uuid::Uuid;

use super::keys::ObjectRow;
use super::labels::LabelSets;
use super::meta::{Cluster, Counters, Meta, NodeRecord};
use super::view::{RowDamage, decode_device};
use crate::pages::{Root, TableId};
use crate::raft::{codec, log_id};

/// Replies that a cluster can come to remember in its time: at a million a second, for half a million years.
const REPLIES_EVER_MAX: u64 = u64::MAX / 2;

/// Why a checkpoint is not the state of a directory.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The manifest's own bytes do not decode.
    #[error("the manifest's positions do not decode: {0}")]
    Meta(String),
    /// A row does not decode.
    #[error(transparent)]
    Row(#[from] RowDamage),
}

/// What the manifest keeps beside the pages.
pub(crate) fn encode_meta(meta: &Meta) -> Vec<u8> {
    let (next_stamp, next_hub, next_scope) = meta.topology.next_numbers();
    internal::CheckpointMeta {
        applied_term: meta.applied.map_or(0, |id| id.committed_leader_id().term),
        applied_index: meta.applied.map_or(0, |id| id.index),
        has_applied: meta.applied.is_some(),
        membership: codec::encode_stored_membership(&meta.membership).into(),
        revision: meta.revision.0,
        cluster_id: meta.cluster.map_or_else(Vec::new, |cluster| cluster.id.as_bytes().to_vec()).into(),
        restore_epoch: meta.cluster.map_or(0, |cluster| cluster.restore_epoch),
        stamped_ms: meta.stamped.0,
        next_stamp,
        next_hub,
        next_scope: next_scope.into(),
        forgotten_until_ms: meta.forgotten_until.map(|until| until.0),
        replies_first: meta.replies.start,
        replies_next: meta.replies.end,
    }
    .encode_to_vec()
}

/// Reads the manifest's part, and all that hangs on the rows: topology, nodes, label sets, and counters by recount.
pub(crate) fn decode_meta<M>(
    bytes: &[u8],
    rows: &Root<M>,
    replies_max: u64,
) -> Result<Meta, CheckpointError> {
    let broken = |problem: String| CheckpointError::Meta(problem);
    let kept = internal::CheckpointMeta::decode(bytes).map_err(|e| broken(e.to_string()))?;
    let membership =
        codec::decode_stored_membership(&kept.membership).map_err(|e| broken(format!("membership: {e}")))?;
    let cluster = match kept.cluster_id.len() {
        0 => None,
        _ => {
            let id = Uuid::from_slice(&kept.cluster_id).map_err(|e| broken(format!("cluster ID: {e}")))?;
            Some(Cluster { id, restore_epoch: kept.restore_epoch })
        }
    };
    let next_scope = u16::try_from(kept.next_scope).map_err(|e| broken(format!("next scope number: {e}")))?;
    let remembered = kept.replies_next.checked_sub(kept.replies_first);
    let rows_of_replies = rows.row_count(TableId::Replies);
    if remembered != Some(rows_of_replies) || kept.replies_next > REPLIES_EVER_MAX {
        let (first, next) = (kept.replies_first, kept.replies_next);
        return Err(broken(format!("replies {first} to {next}, but {rows_of_replies} rows of them")));
    }
    let mut topology = Topology::default();
    let mut nodes = BTreeMap::new();
    read_objects(rows, &mut topology, &mut nodes)?;
    topology.raise_next_numbers((kept.next_stamp, kept.next_hub, next_scope));
    let label_sets = read_label_sets(rows)?;
    let counters = recount(rows, &topology)?;
    Ok(Meta {
        applied: kept.has_applied.then(|| log_id(kept.applied_term, kept.applied_index)),
        membership,
        revision: Revision(kept.revision),
        cluster,
        stamped: Timestamp(kept.stamped_ms),
        topology: Arc::new(topology),
        nodes: Arc::new(nodes),
        forgotten_until: kept.forgotten_until_ms.map(Timestamp),
        label_sets: Arc::new(label_sets),
        counters,
        replies: kept.replies_first..kept.replies_next,
        replies_max,
    })
}

pub(crate) fn encode_node(record: &NodeRecord) -> Vec<u8> {
    internal::NodeRecord {
        incarnation: record.incarnation.as_bytes().to_vec().into(),
        name: record.name.clone(),
        peer_addr: record.peer_addr.clone(),
        client_addr: record.client_addr.clone(),
    }
    .encode_to_vec()
}

fn decode_node(bytes: &[u8]) -> Result<NodeRecord, RowDamage> {
    let node = internal::NodeRecord::decode(bytes).map_err(|e| RowDamage::new(TableId::Objects, e))?;
    let incarnation = Uuid::from_slice(&node.incarnation).map_err(|e| RowDamage::new(TableId::Objects, e))?;
    Ok(NodeRecord { incarnation, name: node.name, peer_addr: node.peer_addr, client_addr: node.client_addr })
}

/// Every row of a table, page by page.
pub(crate) fn for_each_row<M>(
    rows: &Root<M>,
    table: TableId,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), RowDamage>,
) -> Result<(), RowDamage> {
    for page in 0..rows.page_count(table) {
        if let Some(page) = rows.rows_in_page(table, page) {
            for (key, value) in page.rows() {
                visit(key, value)?;
            }
        }
    }
    Ok(())
}

fn read_objects<M>(
    rows: &Root<M>,
    topology: &mut Topology,
    nodes: &mut BTreeMap<u64, NodeRecord>,
) -> Result<(), RowDamage> {
    let broken = |problem: String| RowDamage::new(TableId::Objects, problem);
    for_each_row(rows, TableId::Objects, |key, value| {
        let Some((kind, name)) = key.split_first() else { return Err(broken("empty key".to_owned())) };
        let object = |e: disk::CodecError| broken(e.to_string());
        match ObjectRow::from_byte(*kind) {
            Some(ObjectRow::Stamp) => {
                topology.apply(&TopologyChange::PutStamp(disk::decode_stamp(value).map_err(object)?));
            }
            Some(ObjectRow::Hub) => {
                topology.apply(&TopologyChange::PutHub(disk::decode_hub(value).map_err(object)?))
            }
            Some(ObjectRow::Scope) => {
                topology.apply(&TopologyChange::PutScope(disk::decode_scope(value).map_err(object)?));
            }
            Some(ObjectRow::Route) => {
                let route = disk::decode_route(value).map_err(object)?;
                let key = std::str::from_utf8(name).ok().and_then(|key| RouteKey::parse(key).ok());
                if key.as_ref() != Some(&route.key) {
                    return Err(broken(format!("route `{}` lies under another key", route.key)));
                }
                topology.apply(&TopologyChange::PutRoute(route));
            }
            Some(ObjectRow::Node) => {
                let id = <[u8; 8]>::try_from(name).map_err(|e| broken(format!("node: {e}")))?;
                nodes.insert(u64::from_be_bytes(id), decode_node(value)?);
            }
            None => return Err(broken(format!("unknown kind {kind}"))),
        }
        Ok(())
    })
}

fn read_label_sets<M>(rows: &Root<M>) -> Result<LabelSets, RowDamage> {
    let mut sets = LabelSets::default();
    for_each_row(rows, TableId::LabelSets, |key, value| {
        let no = <[u8; 2]>::try_from(key).map_err(|e| RowDamage::new(TableId::LabelSets, e))?;
        let labels = disk::decode_label_set(value).map_err(|e| RowDamage::new(TableId::LabelSets, e))?;
        sets.put(LabelSetNo(u16::from_be_bytes(no)), labels);
        Ok(())
    })?;
    Ok(sets)
}

/// Counts devices by hub, stamp, scope and label set from the rows.
pub(crate) fn recount<M>(rows: &Root<M>, topology: &Topology) -> Result<Counters, RowDamage> {
    let mut counters = Counters::default();
    for_each_row(rows, TableId::Devices, |_, value| {
        let Mapping { hub, scope, labels, .. } = decode_device(value)?;
        let mut counted = true;
        if let Some(hub) = hub {
            counted &= counters.hubs.add(hub.0 as usize, 1);
            if let Some(hub) = topology.hub(hub) {
                counted &= counters.stamps.add(hub.stamp.0 as usize, 1);
            }
        }
        if let Some(scope) = scope {
            counted &= counters.scopes.add(usize::from(scope.0), 1);
        }
        if labels != LabelSetNo::EMPTY {
            counted &= counters.label_sets.add(usize::from(labels.0), 1);
        }
        if counted {
            Ok(())
        } else {
            Err(RowDamage::new(TableId::Devices, "more devices than can be counted"))
        }
    })?;
    Ok(counters)
}

/// The digest of all replicated state: rows and positions. Equal on every replica at equal applied index.
pub(crate) fn digest(root: &Root<Meta>) -> u128 {
    root.digest() ^ xxhash_rust::xxh3::xxh3_128(&encode_meta(root.meta()))
}
