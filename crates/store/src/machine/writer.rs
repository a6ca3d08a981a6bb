//! Applying the log: each command is decided over the working set, and a group of entries is published as one root.

use std::sync::Arc;

use berth_core::{Decision, Delta, Revision, Timestamp, TopologyChange, decide};
use berth_proto::disk;

use super::keys::{self, ObjectRow};
use super::meta::{Cluster, Meta, NodeRecord};
use super::view::{RowDamage, Sight};
use crate::pages::{HashKey, PageError, Pages, TableId, Working};
use crate::payload::{Admit, Frame, Genesis, PayloadError};
use crate::raft::{Applied, CommandResult, Entry, EntryPayload, StoredMembership};

/// Why the log cannot be applied any further. Fatal for the node: its state is no longer that of the cluster.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// An entry's frame does not decode, or is of a kind that this build does not know.
    #[error("entry {index} cannot be applied: {source}")]
    Frame {
        /// Its log index.
        index: u64,
        /// What is wrong.
        source: PayloadError,
    },
    /// A command does not decode, or is of a kind that this build does not know.
    #[error("command {command} of entry {index} cannot be applied: {source}")]
    Command {
        /// The entry's log index.
        index: u64,
        /// Its position in the entry.
        command: usize,
        /// What is wrong.
        source: disk::CodecError,
    },
    /// A row is damaged.
    #[error(transparent)]
    Damage(#[from] RowDamage),
    /// A row is past the bounds of a page, which the core's own bounds exclude.
    #[error("a row does not fit its page: {0}")]
    Page(#[from] PageError),
    /// A counter would leave its range.
    #[error("the counter of {what} {no} does not match its rows; this node must be rebuilt from its peers")]
    Counter {
        /// What is counted by.
        what: &'static str,
        /// Its number.
        no: u32,
    },
}

/// The only writer of the pages.
pub(crate) struct Writer {
    pub(crate) pages: Pages<Meta>,
}

impl Writer {
    /// Applies entries in order and publishes them as one root; one answer per entry.
    ///
    /// On an error nothing is published.
    pub(crate) fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Applied>, ApplyError> {
        let mut answers = Vec::with_capacity(entries.len());
        let mut meta = self.pages.root().meta().clone();
        let mut rest = entries;
        while !rest.is_empty() {
            // The hash key is set while no working set is open, and that is where Genesis comes: before any row.
            if let Some(genesis) = first_genesis(&rest[0], &meta)? {
                meta.applied = Some(rest[0].log_id);
                be_born(&mut meta, &genesis);
                self.pages.set_hash_key(HashKey(genesis.hash_key), meta.clone())?;
                answers.push(Applied::default());
                rest = &rest[1..];
                continue;
            }
            let mut working = self.pages.working();
            while let Some((entry, later)) = rest.split_first() {
                if first_genesis(entry, &meta)?.is_some() {
                    break;
                }
                answers.push(apply_entry(&mut working, &mut meta, entry)?);
                rest = later;
            }
            working.publish(meta.clone());
        }
        Ok(answers)
    }
}

/// The birth of the cluster, where this entry is it. A later Genesis changes nothing.
fn first_genesis(entry: &Entry, meta: &Meta) -> Result<Option<Genesis>, ApplyError> {
    if meta.cluster.is_some() {
        return Ok(None);
    }
    match &entry.payload {
        EntryPayload::Normal(payload) => match payload.frame() {
            Ok(Frame::Genesis(genesis)) => Ok(Some(genesis)),
            Ok(_) => Ok(None),
            Err(source) => Err(ApplyError::Frame { index: entry.log_id.index, source }),
        },
        _ => Ok(None),
    }
}

fn be_born(meta: &mut Meta, genesis: &Genesis) {
    meta.cluster = Some(Cluster { id: genesis.cluster_id, restore_epoch: 0 });
    meta.stamped = meta.stamped.max(Timestamp(genesis.stamp_ms));
}

fn apply_entry(
    working: &mut Working<'_, Meta>,
    meta: &mut Meta,
    entry: &Entry,
) -> Result<Applied, ApplyError> {
    let index = entry.log_id.index;
    let mut applied = Applied::default();
    match &entry.payload {
        EntryPayload::Blank => {}
        EntryPayload::Membership(membership) => {
            meta.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
        }
        EntryPayload::Normal(payload) => {
            match payload.frame().map_err(|source| ApplyError::Frame { index, source })? {
                Frame::Commands { stamp_ms, commands } => {
                    meta.stamped = meta.stamped.max(Timestamp(stamp_ms));
                    applied.results.reserve(commands.len());
                    for (command, bytes) in commands.into_iter().enumerate() {
                        let proposal = disk::decode_proposal(bytes)
                            .map_err(|source| ApplyError::Command { index, command, source })?;
                        applied.results.push(run(working, meta, &proposal)?);
                    }
                }
                Frame::Genesis(_) => {}
                Frame::Admit(admit) => take_in(working, meta, index, &admit)?,
            }
        }
    }
    meta.applied = Some(entry.log_id);
    Ok(applied)
}

fn run(
    working: &mut Working<'_, Meta>,
    meta: &mut Meta,
    proposal: &berth_core::Proposal,
) -> Result<CommandResult, ApplyError> {
    let revision = meta.revision.next();
    let sight = Sight::new(working, meta);
    let decision = decide(&sight, proposal, revision, meta.stamped);
    if let Some(damage) = sight.damage() {
        return Err(damage.into());
    }
    match decision {
        Decision::Accepted { outcome, delta } => {
            write(working, meta, &delta, revision)?;
            Ok(Ok(outcome))
        }
        Decision::Repeated(outcome) => Ok(Ok(outcome)),
        Decision::Refused(rejection) => Ok(Err(rejection)),
    }
}

/// Records a node at its first contact, and its addresses at later ones. Another incarnation under a known ID changes
/// nothing: the record that stays is how the stranger is told apart.
fn take_in(
    working: &mut Working<'_, Meta>,
    meta: &mut Meta,
    index: u64,
    admit: &Admit,
) -> Result<(), ApplyError> {
    meta.stamped = meta.stamped.max(Timestamp(admit.stamp_ms));
    let id = admit.node_id.unwrap_or(index);
    if meta.nodes.get(&id).is_some_and(|known| known.incarnation != admit.incarnation) {
        return Ok(());
    }
    let record = NodeRecord {
        incarnation: admit.incarnation,
        name: admit.name.clone(),
        peer_addr: admit.peer_addr.clone(),
        client_addr: admit.client_addr.clone(),
    };
    let value = super::checkpoint::encode_node(&record);
    put(working, TableId::Objects, &keys::numbered(ObjectRow::Node, id), &value)?;
    Arc::make_mut(&mut meta.nodes).insert(id, record);
    Ok(())
}

fn put(working: &mut Working<'_, Meta>, table: TableId, key: &[u8], value: &[u8]) -> Result<(), PageError> {
    let hash = working.hash_of(table, key);
    working.put(table, hash, key, value).map(|_| ())
}

fn remove(working: &mut Working<'_, Meta>, table: TableId, key: &[u8]) -> bool {
    let hash = working.hash_of(table, key);
    working.remove(table, hash, key)
}

/// Writes what an accepted command changes.
fn write(
    working: &mut Working<'_, Meta>,
    meta: &mut Meta,
    delta: &Delta,
    revision: Revision,
) -> Result<(), ApplyError> {
    let mut value = Vec::new();
    for (id, mapping) in &delta.devices {
        match mapping {
            Some(mapping) => {
                value.clear();
                disk::encode_mapping(mapping, &mut value).map_err(|e| RowDamage::new(TableId::Devices, e))?;
                put(working, TableId::Devices, keys::device(id), &value)?;
            }
            None => {
                remove(working, TableId::Devices, keys::device(id));
            }
        }
    }
    for (scope, id, device) in &delta.registrations {
        let key = keys::registration(*scope, id);
        match device {
            Some(device) => put(working, TableId::Registrations, &key, keys::device(device))?,
            None => {
                remove(working, TableId::Registrations, &key);
            }
        }
    }
    count(meta, delta)?;
    for (no, labels) in &delta.label_sets {
        let sets = Arc::make_mut(&mut meta.label_sets);
        match labels {
            Some(labels) => {
                put(working, TableId::LabelSets, &keys::label_set(*no), &disk::encode_label_set(labels))?;
                sets.put(*no, labels.clone());
            }
            None => {
                remove(working, TableId::LabelSets, &keys::label_set(*no));
                sets.drop(*no);
            }
        }
    }
    for change in &delta.topology {
        write_object(working, change)?;
        Arc::make_mut(&mut meta.topology).apply(change);
    }
    if let Some(id) = &delta.forget {
        remove(working, TableId::Replies, keys::reply(id));
        remove(working, TableId::ReplyOrder, &keys::reply_order(meta.replies.start));
        meta.replies.start += 1;
        meta.forgotten_until = meta.forgotten_until.max(Some(id.time()));
    }
    if let Some((id, reply)) = &delta.reply {
        put(working, TableId::Replies, keys::reply(id), &disk::encode_reply(reply))?;
        put(working, TableId::ReplyOrder, &keys::reply_order(meta.replies.end), id.as_bytes())?;
        meta.replies.end += 1;
    }
    meta.revision = revision;
    Ok(())
}

fn count(meta: &mut Meta, delta: &Delta) -> Result<(), ApplyError> {
    let wrong = |what, no| Err(ApplyError::Counter { what, no });
    for &(no, by) in &delta.hub_devices {
        if !meta.counters.hubs.add(no.0 as usize, by) {
            return wrong("hub", no.0);
        }
        let stamp = meta.topology.hub(no).map(|hub| hub.stamp);
        if let Some(stamp) = stamp.filter(|stamp| !meta.counters.stamps.add(stamp.0 as usize, by)) {
            return wrong("stamp", stamp.0);
        }
    }
    for &(no, by) in &delta.scope_devices {
        if !meta.counters.scopes.add(usize::from(no.0), by) {
            return wrong("scope", no.0.into());
        }
    }
    for &(no, by) in &delta.label_set_devices {
        if !meta.counters.label_sets.add(usize::from(no.0), by) {
            return wrong("label set", no.0.into());
        }
    }
    Ok(())
}

fn write_object(working: &mut Working<'_, Meta>, change: &TopologyChange) -> Result<(), ApplyError> {
    let objects = TableId::Objects;
    match change {
        TopologyChange::PutStamp(stamp) => {
            put(
                working,
                objects,
                &keys::numbered(ObjectRow::Stamp, stamp.no.0.into()),
                &disk::encode_stamp(stamp),
            )?;
        }
        TopologyChange::PutHub(hub) => {
            put(working, objects, &keys::numbered(ObjectRow::Hub, hub.no.0.into()), &disk::encode_hub(hub))?;
        }
        TopologyChange::PutScope(scope) => {
            put(
                working,
                objects,
                &keys::numbered(ObjectRow::Scope, scope.no.0.into()),
                &disk::encode_scope(scope),
            )?;
        }
        TopologyChange::PutRoute(route) => {
            put(working, objects, &keys::route(&route.key), &disk::encode_route(route))?
        }
        TopologyChange::DropStamp(no) => {
            remove(working, objects, &keys::numbered(ObjectRow::Stamp, no.0.into()));
        }
        TopologyChange::DropHub(no) => {
            remove(working, objects, &keys::numbered(ObjectRow::Hub, no.0.into()));
        }
        TopologyChange::DropScope(no) => {
            remove(working, objects, &keys::numbered(ObjectRow::Scope, no.0.into()));
        }
        TopologyChange::DropRoute(key) => {
            remove(working, objects, &keys::route(key));
        }
    }
    Ok(())
}
