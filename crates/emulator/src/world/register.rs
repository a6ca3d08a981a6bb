//! Registering: which hub a device gets, and how it gets there (DPS, reprovisioning concepts).

mod arrival;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::allocation::{Linked, allocate};
use super::dps::{Dps, ENROLLMENTS_MAX, check_id, registration_conflict};
use super::enrollment::{Attestation, Enrollment, Kind, Policy, Reprovision, View};
use super::etag::Etag;
use super::fields::Object;
use super::id::Key;
use super::refusal::DpsRefusal;
use super::registration::{Failure, Pending, Registration, operation_id};
use super::{Due, World};
use crate::auth::{DeviceKey, decode_key, derive_key};
use crate::clock::Time;
use crate::config::{Allocation, Moving, RegisterWhileAssigning};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// By what a device was recognised.
#[derive(Debug, Clone)]
pub(crate) struct Attested {
    /// The group; none for an individual enrollment.
    group: Option<Key>,
    /// Its keys, as its hub will know them.
    keys: (DeviceKey, DeviceKey),
}

#[cfg(test)]
impl Attested {
    /// Somebody whom a group is to recognise.
    pub(super) fn by(group: Option<&str>, key: &str) -> Self {
        Self { group: group.map(Key::of), keys: (key.to_owned().into(), key.to_owned().into()) }
    }
}

/// What a register answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Registered {
    /// An operation is under way.
    Assigning { operation: String },
    /// The enrollment is disabled.
    Disabled,
}

/// A question to a custom allocation webhook.
#[derive(Debug, Clone)]
pub(crate) struct WebhookCall {
    pub(crate) dps: usize,
    pub(crate) key: Key,
    pub(crate) operation: u64,
    pub(crate) url: String,
    pub(crate) body: Value,
}

/// What a webhook answered, once its form was checked.
#[derive(Debug, Clone)]
pub(crate) struct WebhookAnswer {
    pub(crate) hub: String,
    pub(crate) initial_twin: Option<Object>,
    pub(crate) payload: Option<Value>,
}

impl World {
    /// Recognises a device. `verify` says whether one of two keys made its signature.
    pub(crate) fn attest(
        &self,
        dps: usize,
        id: &str,
        verify: impl Fn([&[u8]; 2]) -> bool,
    ) -> Result<Attested, DpsRefusal> {
        let dps = &self.dps[dps];
        let key = Key::of(id);
        let texts = |a: &[u8], b: &[u8]| -> (DeviceKey, DeviceKey) {
            (STANDARD.encode(a).into(), STANDARD.encode(b).into())
        };
        // An individual enrollment wins over any group.
        if let Some(enrollment) = dps.individual.get(&key) {
            let Attestation::SymmetricKey { primary, secondary } = &enrollment.attestation else {
                return Err(DpsRefusal::unauthorized());
            };
            let (a, b) = (decode_key(primary).unwrap_or_default(), decode_key(secondary).unwrap_or_default());
            return match verify([&a, &b]) {
                true => Ok(Attested { group: None, keys: (primary.clone(), secondary.clone()) }),
                false => Err(DpsRefusal::unauthorized()),
            };
        }
        // The group that the device came by last is the likeliest: its polls cost no search.
        let last = dps.registrations.get(&key).and_then(|found| {
            let pending = found.pending.as_ref().and_then(|pending| pending.group.as_deref());
            dps.symmetric_group(&Key::of(pending.or(found.group.as_deref())?))
        });
        let mut groups = 0;
        for (group, primary, secondary) in last.into_iter().chain(dps.symmetric_groups()) {
            groups += 1;
            let (a, b) = (decode_key(primary).unwrap_or_default(), decode_key(secondary).unwrap_or_default());
            // Whether DPS lower-cases the ID before it derives is not known: either derivation is taken.
            for spelling in [id, key.text()] {
                let (a, b) = (derive_key(&a, spelling), derive_key(&b, spelling));
                if verify([&a, &b]) {
                    return Ok(Attested { group: Some(Key::of(&group.id)), keys: texts(&a, &b) });
                }
                if spelling == key.text() {
                    break;
                }
            }
        }
        Err(if groups == 0 { DpsRefusal::group_not_found() } else { DpsRefusal::unauthorized() })
    }

    /// A register. Where a webhook has to be asked, the question comes with the answer.
    pub(crate) fn register(
        &mut self,
        dps_no: usize,
        id: &str,
        attested: Attested,
        payload: Option<Value>,
        modern: bool,
        now: Time,
    ) -> Result<(Registered, Option<WebhookCall>), DpsRefusal> {
        check_id(id, &self.switches)?;
        let key = Key::of(id);
        let dps = &self.dps[dps_no];
        let (kind, enrollment) = match &attested.group {
            None => (Kind::Individual, dps.individual.get(&key)),
            Some(group) => (Kind::Group, dps.groups.get(group)),
        };
        let Some(enrollment) = enrollment else { return Err(kind.not_found()) };
        if !enrollment.enabled {
            return Ok((Registered::Disabled, None));
        }
        let former = dps.registrations.get(&key);
        if let Some(former) = former.filter(|former| former.pending.is_some()) {
            return match self.switches.register_while_assigning {
                RegisterWhileAssigning::Conflict => Err(registration_conflict()),
                RegisterWhileAssigning::SameOperation => {
                    Ok((Registered::Assigning { operation: operation_id(former.operation) }, None))
                }
            };
        }
        if former.is_none() && dps.registrations.len() >= ENROLLMENTS_MAX {
            return Err(DpsRefusal::new(
                403,
                self.switches.forbidden_code,
                "The quota of this service is used up.",
            ));
        }
        let current = former.and_then(|former| former.hub.clone());
        let reprovision = enrollment.reprovision();
        let candidates = candidates(dps, enrollment, current.as_ref(), reprovision);
        let custom = enrollment.policy == Some(Policy::Custom);
        let choice: Vec<Arc<str>> = match custom {
            true => candidates.iter().map(|linked| Arc::clone(&linked.host)).collect(),
            false => Vec::new(),
        };
        let target = match (&current, reprovision) {
            (Some(current), Reprovision::Never) if !custom => Some(Arc::clone(current)),
            _ if custom => None,
            _ => allocate(effective(dps, enrollment), &candidates, id),
        };
        if target.is_none() && !custom {
            let message = "No IoT hub is linked to this service.";
            return Err(DpsRefusal::new(400, 400_004, message));
        }
        let individual_id = (kind == Kind::Individual).then(|| enrollment.device_id.clone()).flatten();
        let stored_id = match kind {
            Kind::Individual => enrollment.id.clone(),
            Kind::Group => former.map_or_else(|| id.into(), |former| former.id.clone()),
        };
        // A device that never moves keeps its ID too: its assignment is the old one.
        let kept_id = former
            .filter(|former| former.hub.is_some() && reprovision == Reprovision::Never)
            .map(|former| former.device_id.clone());
        let pending = Pending {
            target: target.clone(),
            device_id: kept_id.or(individual_id).unwrap_or_else(|| stored_id.clone()),
            reprovision,
            initial_twin: enrollment.initial_twin.clone(),
            iot_edge: enrollment.iot_edge,
            keys: attested.keys,
            group: (kind == Kind::Group).then(|| enrollment.id.clone()),
            payload: None,
            modern,
            taken: None,
            admitted: false,
            choice,
        };
        let question = enrollment.webhook.as_ref().filter(|_| custom).map(|webhook| {
            let body = ask(kind, enrollment, &stored_id, former, payload.as_ref(), &pending);
            (webhook.url.clone(), body)
        });
        let operation = Etag::mint(&*self.random);
        let operation_no = serial(operation);
        let etag = Etag::mint(&*self.random);
        let dps = &mut self.dps[dps_no];
        dps.remember_registration(&key, now);
        let registration = dps.registrations.entry(key.clone()).or_insert_with(|| Registration {
            id: stored_id,
            device_id: pending.device_id.clone(),
            hub: None,
            substatus: None,
            created: now,
            updated: now,
            etag,
            group: None,
            payload: None,
            failure: None,
            pending: None,
            operation: operation_no,
            polls: Default::default(),
            hidden: false,
        });
        registration.operation = operation_no;
        registration.pending = Some(Box::new(pending));
        let call = question.map(|(url, body)| WebhookCall {
            dps: dps_no,
            key: key.clone(),
            operation: operation_no,
            url,
            body,
        });
        if call.is_none() {
            self.depart(dps_no, &key, now);
        }
        Ok((Registered::Assigning { operation: operation_id(operation_no) }, call))
    }

    /// The webhook has answered, or failed.
    pub(crate) fn webhook_answered(
        &mut self,
        call: &WebhookCall,
        answer: Result<WebhookAnswer, Failure>,
        now: Time,
    ) {
        let random = Arc::clone(&self.random);
        let dps = &mut self.dps[call.dps];
        let Some(registration) = dps.registrations.get_mut(&call.key) else { return };
        let Some(pending) = registration.pending.as_mut() else { return };
        if registration.operation != call.operation || pending.target.is_some() {
            return;
        }
        let failure = match answer {
            Err(failure) => failure,
            Ok(answer) => match pending.choice.iter().find(|hub| hub.eq_ignore_ascii_case(&answer.hub)) {
                Some(hub) => {
                    pending.target = Some(Arc::clone(hub));
                    pending.payload = answer.payload.map(Box::new);
                    if let Some(twin) = answer.initial_twin {
                        pending.initial_twin = Some(Box::new(twin));
                    }
                    return self.depart(call.dps, &call.key, now);
                }
                None => Failure {
                    code: 400_207,
                    message: "Custom allocation failed: the IoT hub is not linked.".to_owned(),
                },
            },
        };
        fail(registration, failure, Etag::mint(&*random), now);
    }

    /// The target is known: the old hub loses the device, where that comes first, and the end is fixed.
    fn depart(&mut self, dps_no: usize, key: &Key, now: Time) {
        let dps = &mut self.dps[dps_no];
        let (assigning, moving) = (dps.assigning, dps.moving);
        let Some(registration) = dps.registrations.get_mut(key) else { return };
        let operation = registration.operation;
        let Some(pending) = registration.pending.as_mut() else { return };
        let leaves = match (&registration.hub, &pending.target) {
            (Some(from), Some(target)) if from != target && moving == Moving::Neither => {
                Some(Arc::clone(from))
            }
            _ => None,
        };
        if let Some(from) = leaves {
            let device_id = registration.device_id.clone();
            let taken =
                self.hub_mut(&from).filter(|hub| !hub.out).and_then(|hub| hub.remove(&device_id, now));
            let taken = taken.map(|identity| (from, Box::new(identity)));
            if let Some(pending) = self.pending_mut(dps_no, key) {
                pending.taken = taken;
            }
        }
        self.schedule(now.plus(assigning), Due::Finish { dps: dps_no, key: key.clone(), operation });
    }

    /// An assignment ends.
    pub(super) fn finish(&mut self, dps_no: usize, key: &Key, operation: u64, now: Time) {
        let dps = &mut self.dps[dps_no];
        let Some(registration) = dps.registrations.get_mut(key) else { return };
        if registration.operation != operation {
            return;
        }
        let Some(pending) = registration.pending.clone() else { return };
        let Some(target) = pending.target.clone() else { return };
        let from = registration.hub.clone();
        let old_id = registration.device_id.clone();
        let moves = from.as_ref().is_some_and(|from| *from != target);
        let creates = from.is_none() || moves || old_id != pending.device_id;
        if let Some(failure) = self.out_of_reach(&target, from.as_ref().filter(|_| moves), &pending) {
            return self.finish_failed(dps_no, key, *pending, failure, now);
        }
        if creates && !pending.admitted {
            let wait = self.reserve_registry(&target, now);
            if let Some(pending) = self.pending_mut(dps_no, key) {
                pending.admitted = true;
            }
            if !wait.is_zero() {
                let due = Due::Finish { dps: dps_no, key: key.clone(), operation };
                return self.schedule(now.plus(wait), due);
            }
        }
        let substatus = match &from {
            None => self.assign_first(&target, &pending, now),
            Some(from) if moves => self.move_over(dps_no, from, &target, &old_id, &pending, now),
            Some(_) if old_id != pending.device_id => self.rename(&target, &old_id, &pending, now),
            Some(_) => self.assign_again(&target, &pending, now),
        };
        let etag = Etag::mint(&*self.random);
        let dps = &mut self.dps[dps_no];
        dps.remember_registration(key, now);
        let Some(registration) = dps.registrations.get_mut(key) else { return };
        if let Some(substatus) = substatus {
            registration.substatus = Some(substatus);
        }
        registration.hub = Some(target);
        registration.device_id = pending.device_id;
        registration.payload = pending.payload;
        registration.failure = None;
        registration.hidden = false;
        registration.pending = None;
        registration.updated = now;
        registration.etag = etag;
        dps.regroup(key, pending.group.as_deref());
    }

    /// Puts back what the old hub has lost, and records why it came to nothing.
    fn finish_failed(&mut self, dps_no: usize, key: &Key, pending: Pending, failure: Failure, now: Time) {
        if let Some((from, identity)) = pending.taken {
            let device_id = self.dps[dps_no].registrations.get(key).map(|found| found.device_id.clone());
            if let (Some(hub), Some(device_id)) = (self.hub_mut(&from), device_id) {
                hub.insert(&device_id, *identity, now);
            }
        }
        let etag = Etag::mint(&*self.random);
        if let Some(registration) = self.dps[dps_no].registrations.get_mut(key) {
            fail(registration, failure, etag, now);
        }
    }

    /// Why the hubs cannot be reached, as DPS passes it on.
    fn out_of_reach(&self, target: &Arc<str>, from: Option<&Arc<str>>, pending: &Pending) -> Option<Failure> {
        let out = |host: &Arc<str>| self.hubs.iter().any(|hub| hub.host == *host && hub.out);
        let migrates = pending.reprovision == Reprovision::Migrate && pending.taken.is_none();
        let host = match from {
            _ if out(target) => target,
            Some(from) if migrates && out(from) => from,
            _ => return None,
        };
        let message =
            format!("IoT hub {host} is unavailable. ErrorCode:ServiceUnavailable;Service Unavailable");
        Some(Failure { code: 500_001, message })
    }

    /// Reserves one registry operation of the hub for DPS; how long DPS waits for it.
    fn reserve_registry(&mut self, host: &str, now: Time) -> Duration {
        let throttle = self.throttle.clone();
        self.hub_mut(host).map_or(Duration::ZERO, |hub| hub.reserve_registry(&throttle, now))
    }

    fn pending_mut(&mut self, dps_no: usize, key: &Key) -> Option<&mut Pending> {
        self.dps[dps_no].registrations.get_mut(key)?.pending.as_deref_mut()
    }
}

fn fail(registration: &mut Registration, failure: Failure, etag: Etag, now: Time) {
    registration.failure = Some(Box::new(failure));
    registration.pending = None;
    registration.updated = now;
    registration.etag = etag;
}

/// A number of an operation, out of what was drawn for it.
fn serial(etag: Etag) -> u64 {
    super::id::hash(&etag.quoted())
}

/// The hubs among which an enrollment lets a device be.
fn candidates<'a>(
    dps: &'a Dps,
    enrollment: &Enrollment,
    current: Option<&Arc<str>>,
    reprovision: Reprovision,
) -> Vec<&'a Linked> {
    let named = |host: &Arc<str>| dps.linked.iter().find(|linked| linked.host == *host);
    if let (Some(current), Reprovision::Never) = (current, reprovision) {
        return named(current).into_iter().collect();
    }
    match (&enrollment.hubs, &enrollment.hub) {
        (Some(hubs), _) if !hubs.is_empty() => hubs.iter().filter_map(named).collect(),
        (_, Some(hub)) => named(hub).into_iter().collect(),
        _ => dps.linked.iter().collect(),
    }
}

fn effective(dps: &Dps, enrollment: &Enrollment) -> Allocation {
    match enrollment.policy {
        Some(Policy::Hashed) => Allocation::Hashed,
        Some(Policy::GeoLatency) => Allocation::GeoLatency,
        Some(Policy::Static) => Allocation::Static,
        Some(Policy::Custom) | None => dps.allocation,
    }
}

/// What the webhook is asked (DPS, custom allocation concepts).
fn ask(
    kind: Kind,
    enrollment: &Enrollment,
    id: &str,
    former: Option<&Registration>,
    payload: Option<&Value>,
    pending: &Pending,
) -> Value {
    let mut context = json!({ "registrationId": id });
    if let Some((former, hub)) = former.and_then(|former| Some((former, former.hub.as_ref()?))) {
        context["currentIotHubHostName"] = json!(hub);
        context["currentDeviceId"] = json!(former.device_id);
    }
    context["symmetricKey"] = json!({});
    if let Some(payload) = payload {
        context["payload"] = payload.clone();
    }
    let field = match kind {
        Kind::Individual => "individualEnrollment",
        Kind::Group => "enrollmentGroup",
    };
    json!({
        field: enrollment.show(kind, View::Webhook),
        "deviceRuntimeContext": context,
        "linkedHubs": pending.choice,
    })
}
