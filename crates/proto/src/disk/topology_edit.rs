//! Topology edits in the log: one protobuf message.

use berth_core::{
    Expect, HubName, HubPatch, ObjectKind, ObjectPatch, ObjectRef, PlaceState, Revision, RouteKey,
    RoutePatch, ScopeName, ScopePatch, StampName, StampPatch, Tier, TopologyEdit,
};
use prost::Message;

use super::object::{core_cost, core_labels, disk_cost, disk_labels, known, repair_from_byte};
use super::{CodecError, legal};
use crate::internal::disk_expect::Expect as DiskExpectKind;
use crate::internal::disk_patch::Patch;
use crate::internal::{
    DiskDelete, DiskExpect, DiskHubPatch, DiskLimit, DiskLinkedHubs, DiskPatch, DiskRoutePatch,
    DiskScopePatch, DiskStampPatch, DiskTopologyEdit,
};

const WHAT: &str = "topology edit";

/// Writes an edit behind what `out` holds.
pub(super) fn encode_topology_edit(edit: &TopologyEdit, out: &mut Vec<u8>) {
    let disk = DiskTopologyEdit {
        patches: edit.patches.iter().map(|(expect, patch)| disk_patch(*expect, patch)).collect(),
        deletes: edit.deletes.iter().map(|(expect, object)| disk_delete(*expect, object)).collect(),
        prune: edit.prune,
    };
    out.extend_from_slice(&disk.encode_to_vec());
}

/// Reads an edit.
pub(super) fn decode_topology_edit(bytes: &[u8]) -> Result<TopologyEdit, CodecError> {
    let disk = legal(WHAT, DiskTopologyEdit::decode(bytes))?;
    Ok(TopologyEdit {
        patches: disk.patches.into_iter().map(core_patch).collect::<Result<_, _>>()?,
        deletes: disk.deletes.into_iter().map(core_delete).collect::<Result<_, _>>()?,
        prune: disk.prune,
    })
}

fn disk_expect(expect: Expect) -> Option<DiskExpect> {
    let kind = match expect {
        Expect::Any => return None,
        Expect::Absent => DiskExpectKind::Absent(true),
        Expect::Present => DiskExpectKind::Present(true),
        Expect::At(revision) => DiskExpectKind::At(revision.0),
    };
    Some(DiskExpect { expect: Some(kind) })
}

fn core_expect(disk: Option<DiskExpect>) -> Result<Expect, CodecError> {
    match disk {
        None => Ok(Expect::Any),
        Some(DiskExpect { expect: Some(kind) }) => Ok(match kind {
            DiskExpectKind::Absent(_) => Expect::Absent,
            DiskExpectKind::Present(_) => Expect::Present,
            DiskExpectKind::At(revision) => Expect::At(Revision(revision)),
        }),
        // A condition that this build cannot read must not be taken for none.
        Some(DiskExpect { expect: None }) => Err(CodecError::Unknown { what: WHAT, found: 0 }),
    }
}

fn disk_patch(expect: Expect, patch: &ObjectPatch) -> DiskPatch {
    let patch = match patch {
        ObjectPatch::Stamp(p) => Patch::Stamp(DiskStampPatch {
            name: p.name.to_string(),
            state: p.state.map(|state| u32::from(state as u8)),
            labels: p.labels.as_ref().map(disk_labels),
            capacity_soft: p.capacity_soft.map(|devices| DiskLimit { devices }),
            capacity_hard: p.capacity_hard.map(|devices| DiskLimit { devices }),
            app_endpoint: p.app_endpoint.clone(),
            cost: p.cost.as_ref().map(disk_cost),
        }),
        ObjectPatch::Hub(p) => Patch::Hub(DiskHubPatch {
            name: p.name.to_string(),
            stamp: p.stamp.as_ref().map(ToString::to_string),
            state: p.state.map(|state| u32::from(state as u8)),
            capacity_soft: p.capacity_soft.map(|devices| DiskLimit { devices }),
            capacity_hard: p.capacity_hard.map(|devices| DiskLimit { devices }),
            tier: p.tier.map(|tier| u32::from(tier as u8)),
            units: p.units,
        }),
        ObjectPatch::Scope(p) => Patch::Scope(DiskScopePatch {
            name: p.name.to_string(),
            service_host: p.service_host.clone(),
            credential_ref: p.credential_ref.clone(),
            linked_hubs: p
                .linked_hubs
                .as_ref()
                .map(|hubs| DiskLinkedHubs { hubs: hubs.iter().map(ToString::to_string).collect() }),
            budget_percent: p.budget_percent.map(u32::from),
            repair: p.repair.map(|rule| u32::from(rule as u8)),
            read_through: p.read_through,
        }),
        ObjectPatch::Route(p) => Patch::Route(DiskRoutePatch {
            key: p.key.to_string(),
            stamp: p.stamp.as_ref().map(ToString::to_string),
        }),
    };
    DiskPatch { expect: disk_expect(expect), patch: Some(patch) }
}

fn core_patch(disk: DiskPatch) -> Result<(Expect, ObjectPatch), CodecError> {
    let state = |number: Option<u32>| number.map(|n| known(WHAT, n, PlaceState::from_byte)).transpose();
    let stamp = |name: Option<String>| name.map(|n| legal(WHAT, StampName::parse(&n))).transpose();
    let patch = match disk.patch.ok_or(CodecError::Unknown { what: WHAT, found: 0 })? {
        Patch::Stamp(p) => ObjectPatch::Stamp(StampPatch {
            name: legal(WHAT, StampName::parse(&p.name))?,
            state: state(p.state)?,
            labels: p.labels.map(|labels| core_labels(WHAT, &labels)).transpose()?,
            capacity_soft: p.capacity_soft.map(|limit| limit.devices),
            capacity_hard: p.capacity_hard.map(|limit| limit.devices),
            app_endpoint: p.app_endpoint,
            cost: p.cost.map(core_cost),
        }),
        Patch::Hub(p) => ObjectPatch::Hub(HubPatch {
            name: legal(WHAT, HubName::parse(&p.name))?,
            stamp: stamp(p.stamp)?,
            state: state(p.state)?,
            capacity_soft: p.capacity_soft.map(|limit| limit.devices),
            capacity_hard: p.capacity_hard.map(|limit| limit.devices),
            tier: p.tier.map(|n| known(WHAT, n, Tier::from_byte)).transpose()?,
            units: p.units,
        }),
        Patch::Scope(p) => ObjectPatch::Scope(ScopePatch {
            name: legal(WHAT, ScopeName::parse(&p.name))?,
            service_host: p.service_host,
            credential_ref: p.credential_ref,
            linked_hubs: p
                .linked_hubs
                .map(|linked| linked.hubs.iter().map(|hub| legal(WHAT, HubName::parse(hub))).collect())
                .transpose()?,
            budget_percent: p.budget_percent.map(|n| legal(WHAT, u8::try_from(n))).transpose()?,
            repair: p.repair.map(|n| known(WHAT, n, repair_from_byte)).transpose()?,
            read_through: p.read_through,
        }),
        Patch::Route(p) => ObjectPatch::Route(RoutePatch {
            key: legal(WHAT, RouteKey::parse(&p.key))?,
            stamp: stamp(p.stamp)?,
        }),
    };
    Ok((core_expect(disk.expect)?, patch))
}

fn disk_delete(expect: Expect, object: &ObjectRef) -> DiskDelete {
    let (kind, name) = match object {
        ObjectRef::Stamp(name) => (ObjectKind::Stamp, name.to_string()),
        ObjectRef::Hub(name) => (ObjectKind::Hub, name.to_string()),
        ObjectRef::Scope(name) => (ObjectKind::Scope, name.to_string()),
        ObjectRef::Route(key) => (ObjectKind::Route, key.to_string()),
    };
    DiskDelete { expect: disk_expect(expect), kind: u32::from(kind as u8), name }
}

fn core_delete(disk: DiskDelete) -> Result<(Expect, ObjectRef), CodecError> {
    let object = match known(WHAT, disk.kind, ObjectKind::from_byte)? {
        ObjectKind::Stamp => ObjectRef::Stamp(legal(WHAT, StampName::parse(&disk.name))?),
        ObjectKind::Hub => ObjectRef::Hub(legal(WHAT, HubName::parse(&disk.name))?),
        ObjectKind::Scope => ObjectRef::Scope(legal(WHAT, ScopeName::parse(&disk.name))?),
        ObjectKind::Route => ObjectRef::Route(legal(WHAT, RouteKey::parse(&disk.name))?),
        ObjectKind::Device => return Err(CodecError::illegal(WHAT, "a device among the objects to delete")),
    };
    Ok((core_expect(disk.expect)?, object))
}
