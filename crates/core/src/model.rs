//! The directory as plain maps: the model that every other [`View`] is compared with.

use std::collections::BTreeMap;

use crate::{
    Decision, Delta, DeviceId, HubNo, LabelSetNo, Labels, Mapping, Outcome, Proposal, REPLIES_MAX,
    Registration, RegistrationId, Rejection, Reply, RequestId, Revision, ScopeNo, Seats, StampNo, Timestamp,
    Topology, View, decide,
};

/// A directory in memory, slow and simple.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Revision of the last accepted command.
    pub revision: Revision,
    /// Mappings.
    pub devices: BTreeMap<DeviceId, Mapping>,
    /// Explicit registrations by scope and lower-cased ID.
    pub registrations: BTreeMap<(ScopeNo, String), DeviceId>,
    /// Stamps, hubs, scopes, routes.
    pub topology: Topology,
    /// Devices per hub.
    pub hub_devices: BTreeMap<HubNo, u64>,
    /// Devices per scope.
    pub scope_devices: BTreeMap<ScopeNo, u64>,
    /// Interned label sets.
    pub label_sets: BTreeMap<LabelSetNo, Labels>,
    /// Devices per label set.
    pub label_set_devices: BTreeMap<LabelSetNo, u64>,
    /// Replies by request.
    pub replies: BTreeMap<RequestId, Reply>,
    /// Newest time among forgotten request IDs.
    pub forgotten_until: Option<Timestamp>,
    /// How many replies to remember.
    pub replies_max: u64,
    empty: Labels,
}

impl Default for Model {
    fn default() -> Self {
        Self::with_replies_max(REPLIES_MAX)
    }
}

impl Model {
    /// An empty directory that remembers `replies_max` replies.
    pub fn with_replies_max(replies_max: u64) -> Self {
        Self {
            revision: Revision(0),
            devices: BTreeMap::new(),
            registrations: BTreeMap::new(),
            topology: Topology::default(),
            hub_devices: BTreeMap::new(),
            scope_devices: BTreeMap::new(),
            label_sets: BTreeMap::new(),
            label_set_devices: BTreeMap::new(),
            replies: BTreeMap::new(),
            forgotten_until: None,
            replies_max,
            empty: Labels::default(),
        }
    }

    /// Decides and applies one proposal.
    ///
    /// # Errors
    /// The [`Rejection`], where it is refused; nothing has changed then.
    pub fn propose(&mut self, proposal: &Proposal, now: Timestamp) -> Result<Outcome, Rejection> {
        let revision = self.revision.next();
        match decide(self, proposal, revision, now) {
            Decision::Accepted { outcome, delta } => {
                self.revision = revision;
                self.apply(&delta);
                Ok(outcome)
            }
            Decision::Repeated(outcome) => Ok(outcome),
            Decision::Refused(rejection) => Err(rejection),
        }
    }

    fn apply(&mut self, delta: &Delta) {
        for (id, mapping) in &delta.devices {
            put(&mut self.devices, id.clone(), mapping.clone());
        }
        for (scope, id, device) in &delta.registrations {
            put(&mut self.registrations, (*scope, id.folded()), device.clone());
        }
        delta.hub_devices.iter().for_each(|&(no, by)| add(&mut self.hub_devices, no, by));
        delta.scope_devices.iter().for_each(|&(no, by)| add(&mut self.scope_devices, no, by));
        delta.label_set_devices.iter().for_each(|&(no, by)| add(&mut self.label_set_devices, no, by));
        for (no, labels) in &delta.label_sets {
            put(&mut self.label_sets, *no, labels.clone());
        }
        delta.topology.iter().for_each(|change| self.topology.apply(change));
        if let Some(id) = delta.forget {
            self.replies.remove(&id);
            self.forgotten_until = self.forgotten_until.max(Some(id.time()));
        }
        if let Some((id, reply)) = &delta.reply {
            self.replies.insert(*id, reply.clone());
        }
    }
}

fn put<K: Ord, T>(map: &mut BTreeMap<K, T>, key: K, value: Option<T>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

fn add<K: Ord + Copy>(counts: &mut BTreeMap<K, u64>, key: K, by: i64) {
    let count = counts.entry(key).or_default();
    *count = count.saturating_add_signed(by);
    if *count == 0 {
        counts.remove(&key);
    }
}

impl View for Model {
    fn device(&self, id: &DeviceId) -> Option<Mapping> {
        self.devices.get(id).cloned()
    }

    fn device_twins(&self, id: &DeviceId) -> usize {
        self.devices.keys().filter(|device| device.as_str().eq_ignore_ascii_case(id.as_str())).count()
    }

    fn registration(&self, scope: ScopeNo, id: &RegistrationId) -> Option<DeviceId> {
        if let Some(device) = self.registrations.get(&(scope, id.folded())) {
            return Some(device.clone());
        }
        let implied = |m: &Mapping| m.scope == Some(scope) && m.registration == Registration::SameAsDevice;
        let found = self.devices.iter().find(|(device, m)| implied(m) && id.same_as(device.as_str()));
        found.map(|(device, _)| device.clone())
    }

    fn topology(&self) -> &Topology {
        &self.topology
    }

    fn hub_seats(&self, hub: HubNo) -> Seats {
        Seats { devices: self.hub_devices.get(&hub).copied().unwrap_or(0), reserved: 0 }
    }

    fn stamp_seats(&self, stamp: StampNo) -> Seats {
        let hubs = self.topology.hubs().filter(|hub| hub.stamp == stamp);
        Seats { devices: hubs.map(|hub| self.hub_seats(hub.no).devices).sum(), reserved: 0 }
    }

    fn scope_devices(&self, scope: ScopeNo) -> u64 {
        self.scope_devices.get(&scope).copied().unwrap_or(0)
    }

    fn label_set_no(&self, labels: &Labels) -> Option<LabelSetNo> {
        if labels.is_empty() {
            return Some(LabelSetNo::EMPTY);
        }
        self.label_sets.iter().find(|(_, set)| *set == labels).map(|(no, _)| *no)
    }

    fn label_set(&self, no: LabelSetNo) -> Option<&Labels> {
        if no == LabelSetNo::EMPTY { Some(&self.empty) } else { self.label_sets.get(&no) }
    }

    fn label_set_devices(&self, no: LabelSetNo) -> u64 {
        self.label_set_devices.get(&no).copied().unwrap_or(0)
    }

    fn free_label_sets(&self, count: usize) -> Vec<LabelSetNo> {
        (1..=u16::MAX).map(LabelSetNo).filter(|no| !self.label_sets.contains_key(no)).take(count).collect()
    }

    fn reply(&self, id: &RequestId) -> Option<Reply> {
        self.replies.get(id).cloned()
    }

    fn replies(&self) -> u64 {
        self.replies.len() as u64
    }

    fn oldest_reply(&self) -> Option<RequestId> {
        self.replies.iter().min_by_key(|(_, reply)| reply.outcome.revision()).map(|(id, _)| *id)
    }

    fn replies_forgotten_until(&self) -> Option<Timestamp> {
        self.forgotten_until
    }

    fn replies_max(&self) -> u64 {
        self.replies_max
    }
}
