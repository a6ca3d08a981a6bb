//! Devices: assignments in, mappings out.

use std::collections::BTreeMap;

use berth_core::{
    Assign, DeviceId, Epoch, EvidenceSource, HubName, Labels, Mapping, Origin, Precondition, Registration,
    RegistrationId, ScopeName, Topology,
};

use super::kinds::{evidence_message, origin_message, status_from, status_message};
use super::{PackedIds, Violations, labels_from, labels_message};
use crate::error::ApiError;
use crate::v1;

/// Reads the assignments of one request, and collects what is wrong with them.
#[derive(Debug)]
pub struct AssignReader {
    origin: Origin,
    evidence: EvidenceSource,
    default_hub: Option<HubName>,
    default_scope: Option<ScopeName>,
    /// Neighbours mostly name the same hub and scope: parsed once, shared after that.
    last_hub: Option<(String, HubName)>,
    last_scope: Option<(String, ScopeName)>,
    violations: Violations,
}

impl AssignReader {
    /// A reader of assignments that get this origin and evidence.
    pub fn new(origin: Origin, evidence: EvidenceSource) -> Self {
        Self {
            origin,
            evidence,
            default_hub: None,
            default_scope: None,
            last_hub: None,
            last_scope: None,
            violations: Violations::default(),
        }
    }

    /// Hub and scope of the assignments that name none; empty is none.
    #[must_use]
    pub fn with_defaults(mut self, hub: Option<HubName>, scope: Option<ScopeName>) -> Self {
        self.default_hub = hub;
        self.default_scope = scope;
        self
    }

    /// Reads one assignment; `None` where something is wrong with it.
    pub fn read(&mut self, path: impl Fn() -> String, message: &v1::DeviceAssignment) -> Option<Assign> {
        let field = |name: &str| {
            let path = path();
            if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
        };
        let device = match DeviceId::parse(&message.device_id) {
            Ok(device) => Some(device),
            Err(error) => {
                self.violations.add(field("device_id"), error);
                None
            }
        };
        let hub = self.hub(|| field("hub"), &message.hub);
        let scope = self.scope(|| field("scope"), &message.scope);
        let status = match status_from(message.status) {
            Ok(status) => Some(status),
            Err(problem) => {
                self.violations.add(field("status"), problem);
                None
            }
        };
        let labels = self.labels(|| field("labels"), message.labels.as_ref());
        let registration = match message.registration_id.as_str() {
            "" => Some(None),
            text => match RegistrationId::parse(text) {
                Ok(id) => Some(Some(id)),
                Err(error) => {
                    self.violations.add(field("registration_id"), error);
                    None
                }
            },
        };
        Some(Assign {
            device: device?,
            hub: hub?,
            status: status?,
            labels: labels?,
            scope: scope?,
            registration: registration?,
            precondition: precondition_from(message.precondition.as_ref()),
            origin: self.origin,
            evidence: self.evidence,
        })
    }

    /// Reads many assignments to one hub.
    pub fn read_packed(
        &mut self,
        path: impl Fn() -> String,
        message: &v1::PackedAssignment,
        out: &mut Vec<Assign>,
    ) {
        let template = v1::DeviceAssignment {
            device_id: "-".to_owned(),
            hub: message.hub.clone(),
            status: message.status,
            labels: message.labels.clone(),
            scope: message.scope.clone(),
            registration_id: String::new(),
            precondition: message.precondition,
        };
        if let Some(template) = self.read(&path, &template) {
            self.read_ids(
                || format!("{}.packed_device_ids", path()),
                &message.packed_device_ids,
                &template,
                out,
            );
        }
    }

    /// Reads packed IDs that are assigned to the default hub.
    pub fn read_packed_ids(&mut self, path: impl Fn() -> String, packed: &[u8], out: &mut Vec<Assign>) {
        let template = v1::DeviceAssignment { device_id: "-".to_owned(), ..v1::DeviceAssignment::default() };
        if let Some(template) = self.read(&path, &template) {
            self.read_ids(path, packed, &template, out);
        }
    }

    fn read_ids(
        &mut self,
        path: impl Fn() -> String,
        packed: &[u8],
        template: &Assign,
        out: &mut Vec<Assign>,
    ) {
        for (index, id) in PackedIds::new(packed).enumerate() {
            let device = match id {
                Ok(id) => DeviceId::parse(id).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match device {
                Ok(device) => out.push(Assign { device, ..template.clone() }),
                Err(problem) => self.violations.add(format!("{}[{index}]", path()), problem),
            }
            if self.violations.is_full() {
                return;
            }
        }
    }

    /// True where there is no use in reading further.
    pub fn is_full(&self) -> bool {
        self.violations.is_full()
    }

    /// The error of all that was wrong, if anything was. The reader starts afresh.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] with the paths of the malformed fields.
    pub fn take_error(&mut self) -> Result<(), ApiError> {
        std::mem::take(&mut self.violations).finish()
    }

    fn hub(&mut self, field: impl Fn() -> String, text: &str) -> Option<Option<HubName>> {
        if text.is_empty() {
            return Some(self.default_hub.clone());
        }
        if let Some((same, hub)) = &self.last_hub
            && same == text
        {
            return Some(Some(hub.clone()));
        }
        let hub = self.violations.check_lazily(field, HubName::parse(text))?;
        self.last_hub = Some((text.to_owned(), hub.clone()));
        Some(Some(hub))
    }

    fn scope(&mut self, field: impl Fn() -> String, text: &str) -> Option<Option<ScopeName>> {
        if text.is_empty() {
            return Some(self.default_scope.clone());
        }
        if let Some((same, scope)) = &self.last_scope
            && same == text
        {
            return Some(Some(scope.clone()));
        }
        let scope = self.violations.check_lazily(field, ScopeName::parse(text))?;
        self.last_scope = Some((text.to_owned(), scope.clone()));
        Some(Some(scope))
    }

    fn labels(&mut self, field: impl Fn() -> String, set: Option<&v1::LabelSet>) -> Option<Option<Labels>> {
        match set {
            None => Some(None),
            Some(set) => self.violations.check_lazily(field, labels_from(&set.labels)).map(Some),
        }
    }
}

impl Violations {
    /// Like [`Violations::check`], for paths that are costly to write.
    fn check_lazily<T, E: std::fmt::Display>(
        &mut self,
        field: impl Fn() -> String,
        value: Result<T, E>,
    ) -> Option<T> {
        match value {
            Ok(value) => Some(value),
            Err(problem) => {
                self.add(field(), problem);
                None
            }
        }
    }
}

/// Reads a precondition; unset is none.
pub fn precondition_from(message: Option<&v1::Precondition>) -> Precondition {
    use v1::precondition::Condition;
    match message.and_then(|m| m.condition.as_ref()) {
        None => Precondition::None,
        Some(Condition::Absent(_)) => Precondition::Absent,
        Some(Condition::Epoch(epoch)) => Precondition::Epoch(Epoch(*epoch)),
    }
}

fn precondition_message(precondition: Precondition) -> Option<v1::Precondition> {
    use v1::precondition::Condition;
    let condition = match precondition {
        Precondition::None => return None,
        Precondition::Absent => Condition::Absent(v1::Absent {}),
        Precondition::Epoch(epoch) => Condition::Epoch(epoch.0),
    };
    Some(v1::Precondition { condition: Some(condition) })
}

/// An assignment as a message. Origin and evidence are the server's to set.
pub fn assignment_message(assign: &Assign) -> v1::DeviceAssignment {
    v1::DeviceAssignment {
        device_id: assign.device.to_string(),
        hub: assign.hub.as_ref().map(ToString::to_string).unwrap_or_default(),
        status: assign.status.map_or(0, |status| status_message(status) as i32),
        labels: assign.labels.as_ref().map(|labels| v1::LabelSet { labels: labels_message(labels) }),
        scope: assign.scope.as_ref().map(ToString::to_string).unwrap_or_default(),
        registration_id: assign.registration.as_ref().map(ToString::to_string).unwrap_or_default(),
        precondition: precondition_message(assign.precondition),
    }
}

/// A mapping as a message, its numbers resolved to names in `topology`; `labels` are those of its label set.
pub fn mapping_message(
    topology: &Topology,
    labels: Option<&Labels>,
    device: &str,
    mapping: &Mapping,
) -> v1::Mapping {
    let hub = mapping.hub.and_then(|no| topology.hub(no));
    let stamp = hub.and_then(|hub| topology.stamp(hub.stamp));
    let scope = mapping.scope.and_then(|no| topology.scope(no));
    v1::Mapping {
        device_id: device.to_owned(),
        hub: hub.map(|hub| hub.name.to_string()).unwrap_or_default(),
        stamp: stamp.map(|stamp| stamp.name.to_string()).unwrap_or_default(),
        status: status_message(mapping.status) as i32,
        epoch: mapping.epoch.0,
        revision: mapping.revision.0,
        origin: origin_message(mapping.origin) as i32,
        evidence: Some(evidence_of(mapping)),
        labels: labels.map(labels_message).unwrap_or_default(),
        scope: scope.map(|scope| scope.name.to_string()).unwrap_or_default(),
        registration_id: match &mapping.registration {
            Registration::None => String::new(),
            Registration::SameAsDevice => device.to_owned(),
            Registration::Explicit(id) => id.to_string(),
        },
    }
}

/// The evidence of a mapping as a message.
pub fn evidence_of(mapping: &Mapping) -> v1::Evidence {
    let seconds = i64::from(mapping.evidence.at.seconds());
    v1::Evidence {
        source: evidence_message(mapping.evidence.source) as i32,
        time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
    }
}

/// Reads the labels of a filter.
///
/// # Errors
/// [`ApiError::Invalid`] where a label is not legal.
pub fn filter_labels(map: &BTreeMap<String, String>) -> Result<Labels, ApiError> {
    labels_from(map).map_err(|error| ApiError::invalid("filter.labels", error))
}
