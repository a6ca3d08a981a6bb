//! One DPS instance, and its service API.

mod registrations;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::allocation::Linked;
use super::enrollment::{Attestation, Enrollment, Kind, Surroundings, View};
use super::etag;
use super::fields::Object;
use super::former::Former;
use super::id::{Key, is_registration_id};
use super::page::{self, Page, PageRequest};
use super::refusal::DpsRefusal;
use super::registration::Registration;
use crate::auth::Policies;
use crate::clock::{Randomness, Time};
use crate::config::{Allocation, BulkOverLimit, IdCase, Moving, Switches, WriteToMissing};
use crate::throttle::Bucket;

pub(crate) use registrations::registration_conflict;

/// Most items of a bulk request (DPS REST API, bulk enrollment operation).
pub(crate) const BULK_MAX: usize = 10;

/// Most individual enrollments, and most registrations, of an instance (DPS, limits).
pub(crate) const ENROLLMENTS_MAX: usize = 1_000_000;

/// Most groups of an instance of each attestation (DPS, limits: 100 with symmetric keys, 100 with X.509).
const GROUPS_MAX: usize = 100;

/// Longest text of a query, in bytes: SDKs send a few words.
const QUERY_BYTES_MAX: usize = 4_096;

/// One DPS instance.
pub(crate) struct Dps {
    pub(crate) id_scope: String,
    pub(crate) host: String,
    pub(crate) policies: Policies,
    pub(crate) allocation: Allocation,
    pub(crate) linked: Vec<Linked>,
    pub(crate) linked_hosts: Vec<Arc<str>>,
    pub(crate) assigning: Duration,
    pub(crate) retry_after_s: u64,
    pub(crate) moving: Moving,
    pub(crate) overlap: Duration,
    pub(crate) individual: BTreeMap<Key, Enrollment>,
    pub(crate) groups: BTreeMap<Key, Enrollment>,
    pub(crate) registrations: BTreeMap<Key, Registration>,
    /// The registrations of each group that has any: a query of a group walks over no other's.
    members: BTreeMap<Key, BTreeSet<Key>>,
    /// Every call of the service API, and every register (DPS, limits).
    pub(crate) operations: Bucket,
    /// Registers (DPS, limits).
    pub(crate) registers: Bucket,
    /// How long reads tell what is no longer so.
    lie: Duration,
    pub(crate) former_registrations: Former<Key, Registration>,
    pub(crate) former_enrollments: Former<Key, Enrollment>,
}

/// What an operation of the service API needs beside the instance.
pub(crate) struct Env<'a> {
    pub(crate) now: Time,
    pub(crate) random: &'a dyn Randomness,
    pub(crate) switches: &'a Switches,
}

/// What a bulk request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Create,
    Update,
    UpdateIfMatch,
    Delete,
}

/// An instance as it was configured, with nothing in it.
pub(super) struct Plan {
    pub(super) id_scope: String,
    pub(super) host: String,
    pub(super) policies: Policies,
    pub(super) allocation: Allocation,
    pub(super) linked: Vec<Linked>,
    pub(super) assigning: Duration,
    pub(super) retry_after_s: u64,
    pub(super) moving: Moving,
    pub(super) overlap: Duration,
}

impl Dps {
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            id_scope: plan.id_scope,
            host: plan.host,
            policies: plan.policies,
            allocation: plan.allocation,
            linked_hosts: plan.linked.iter().map(|linked| Arc::clone(&linked.host)).collect(),
            linked: plan.linked,
            assigning: plan.assigning,
            retry_after_s: plan.retry_after_s,
            moving: plan.moving,
            overlap: plan.overlap,
            individual: BTreeMap::new(),
            groups: BTreeMap::new(),
            registrations: BTreeMap::new(),
            members: BTreeMap::new(),
            operations: Default::default(),
            registers: Default::default(),
            lie: Duration::ZERO,
            former_registrations: Default::default(),
            former_enrollments: Default::default(),
        }
    }

    fn book(&self, kind: Kind) -> &BTreeMap<Key, Enrollment> {
        match kind {
            Kind::Individual => &self.individual,
            Kind::Group => &self.groups,
        }
    }

    fn book_mut(&mut self, kind: Kind) -> &mut BTreeMap<Key, Enrollment> {
        match kind {
            Kind::Individual => &mut self.individual,
            Kind::Group => &mut self.groups,
        }
    }

    /// The registration as reads see it.
    fn seen_registration(&self, key: &Key, now: Time) -> Option<&Registration> {
        let former = (!self.lie.is_zero()).then(|| self.former_registrations.get(key, now)).flatten();
        former.unwrap_or_else(|| self.registrations.get(key))
    }

    fn seen_enrollment(&self, kind: Kind, key: &Key, now: Time) -> Option<&Enrollment> {
        let lies = kind == Kind::Individual && !self.lie.is_zero();
        let former = lies.then(|| self.former_enrollments.get(key, now)).flatten();
        former.unwrap_or_else(|| self.book(kind).get(key))
    }

    /// Sets how long reads lie of changes from now on. Those before are seen at once.
    pub(crate) fn set_lie(&mut self, lie: Duration) {
        self.lie = lie;
        self.former_registrations.clear();
        self.former_enrollments.clear();
    }

    /// To be called before a registration changes.
    pub(crate) fn remember_registration(&mut self, key: &Key, now: Time) {
        let registrations = &self.registrations;
        self.former_registrations.remember(key, || registrations.get(key).cloned(), self.lie, now);
    }

    /// GET of an enrollment: without keys, an individual one with its registration state.
    pub(crate) fn get(&self, kind: Kind, id: &str, env: &Env<'_>) -> Result<Object, DpsRefusal> {
        let key = Key::of(id);
        let enrollment = self.seen_enrollment(kind, &key, env.now).ok_or_else(|| kind.not_found())?;
        let mut shown = enrollment.show(kind, View::Read);
        if kind == Kind::Individual {
            let state = self.seen_registration(&key, env.now).map(Registration::show);
            let state = state.map_or_else(
                || json!({ "registrationId": enrollment.id, "status": "unassigned" }),
                Value::Object,
            );
            shown.insert("registrationState".to_owned(), state);
        }
        Ok(shown)
    }

    /// PUT of an enrollment. Without `if_match` it is created; with one it is replaced.
    pub(crate) fn put(
        &mut self,
        kind: Kind,
        id: &str,
        body: Object,
        if_match: Option<&str>,
        env: &Env<'_>,
    ) -> Result<Object, DpsRefusal> {
        check_id(id, env.switches)?;
        let field = kind.id_field();
        match body.get(field).and_then(Value::as_str) {
            None => return Err(DpsRefusal::argument(format!("`{field}` is missing"))),
            Some(told) if !told.eq_ignore_ascii_case(id) => {
                return Err(DpsRefusal::argument(format!(
                    "`{field}` is `{told}` in the body, `{id}` in the path"
                )));
            }
            Some(_) => {}
        }
        let key = Key::of(id);
        let former = self.book(kind).get(&key);
        match (former, if_match) {
            (Some(_), None) => return Err(kind.conflict()),
            (Some(former), Some(told)) if !etag::names_dps(told, former.etag) => {
                return Err(DpsRefusal::precondition_failed(env.switches));
            }
            (None, Some(_)) => match env.switches.write_to_missing {
                WriteToMissing::NotFound => return Err(kind.not_found()),
                WriteToMissing::PreconditionFailed => {
                    return Err(DpsRefusal::precondition_failed(env.switches));
                }
                WriteToMissing::Create => {}
            },
            _ => {}
        }
        let full =
            || DpsRefusal::new(403, env.switches.forbidden_code, "The quota of this service is used up.");
        if kind == Kind::Individual && former.is_none() && self.individual.len() >= ENROLLMENTS_MAX {
            return Err(full());
        }
        let status_is_null = body.get("provisioningStatus").is_some_and(Value::is_null);
        let (now, random, switches) = (env.now, env.random, env.switches);
        let around = Surroundings { now, random, switches, linked: &self.linked_hosts };
        let lowered = (switches.registration_id_case == IdCase::Lower).then(|| id.to_ascii_lowercase());
        let id = lowered.as_deref().unwrap_or(id);
        let enrollment = Enrollment::read(kind, id, body, former, &around)?;
        let alike = |group: &Enrollment| {
            std::mem::discriminant(&group.attestation) == std::mem::discriminant(&enrollment.attestation)
        };
        let joins = kind == Kind::Group && !former.is_some_and(alike);
        if joins && self.groups.values().filter(|group| alike(group)).count() >= GROUPS_MAX {
            return Err(full());
        }
        let mut shown = enrollment.show(kind, View::Written);
        if status_is_null {
            // The answer echoes the null that was sent; what is stored is the default.
            shown.insert("provisioningStatus".to_owned(), Value::Null);
        }
        let rehomed =
            former.is_some_and(|former| former.hubs != enrollment.hubs || former.hub != enrollment.hub);
        self.remember_enrollment(kind, &key, now);
        if switches.state_follows_enrollment && rehomed && kind == Kind::Individual {
            self.remember_registration(&key, now);
            if let Some(registration) = self.registrations.get_mut(&key) {
                registration.hidden = true;
            }
        }
        self.book_mut(kind).insert(key, enrollment);
        Ok(shown)
    }

    fn remember_enrollment(&mut self, kind: Kind, key: &Key, now: Time) {
        if kind == Kind::Individual {
            let individual = &self.individual;
            self.former_enrollments.remember(key, || individual.get(key).cloned(), self.lie, now);
        }
    }

    /// DELETE of an enrollment. The device's registration and identity stay.
    pub(crate) fn delete(
        &mut self,
        kind: Kind,
        id: &str,
        if_match: Option<&str>,
        env: &Env<'_>,
    ) -> Result<(), DpsRefusal> {
        let key = Key::of(id);
        let enrollment = self.book(kind).get(&key).ok_or_else(|| kind.not_found())?;
        if if_match.is_some_and(|told| !etag::names_dps(told, enrollment.etag)) {
            return Err(DpsRefusal::precondition_failed(env.switches));
        }
        self.remember_enrollment(kind, &key, env.now);
        self.book_mut(kind).remove(&key);
        Ok(())
    }

    /// The attestation mechanism, with keys.
    pub(crate) fn attestation(&self, kind: Kind, id: &str) -> Result<Object, DpsRefusal> {
        let enrollment = self.book(kind).get(&Key::of(id)).ok_or_else(|| kind.not_found())?;
        match enrollment.attestation.show(true) {
            Value::Object(shown) => Ok(shown),
            _ => Ok(Object::new()),
        }
    }

    /// A query over enrollments. The text is only seen to be a query: no SDK sends a condition.
    pub(crate) fn query(
        &self,
        kind: Kind,
        text: &str,
        request: &PageRequest,
        env: &Env<'_>,
    ) -> Result<Page, DpsRefusal> {
        check_query(text)?;
        let from = start(request)?;
        let rows = self.book(kind).range((from, Bound::Unbounded));
        let rows = rows.map(|(key, enrollment)| {
            (key.text().to_owned(), Value::Object(enrollment.show(kind, View::Read)))
        });
        Ok(page::cut(rows, rows_max(request, env.switches), kind.item_type()))
    }

    /// A bulk request. Items succeed or fail one by one.
    pub(crate) fn bulk(&mut self, kind: Kind, body: Object, env: &Env<'_>) -> Result<Object, DpsRefusal> {
        let mode = body.get("mode").and_then(Value::as_str).unwrap_or_default();
        let mode = match mode.to_ascii_lowercase().as_str() {
            "create" => Mode::Create,
            "update" => Mode::Update,
            "updateifmatchetag" => Mode::UpdateIfMatch,
            "delete" => Mode::Delete,
            _ => {
                return Err(DpsRefusal::argument(format!(
                    "`mode` is `{mode}`: write create, update, updateIfMatchETag or delete"
                )));
            }
        };
        let Some(Value::Array(items)) = body.get(kind.bulk_field()) else {
            return Err(DpsRefusal::argument(format!("`{}` must be an array", kind.bulk_field())));
        };
        if items.len() > BULK_MAX {
            let status = match env.switches.bulk_over_limit {
                BulkOverLimit::BadRequest => 400,
                BulkOverLimit::PayloadTooLarge => 413,
            };
            let code = env.switches.too_many_enrollments_code;
            return Err(DpsRefusal::new(status, code, format!("At most {BULK_MAX} items at once.")));
        }
        let mut ids: Vec<Key> = Vec::with_capacity(items.len());
        for item in items {
            let id = item.get(kind.id_field()).and_then(Value::as_str).unwrap_or_default();
            let key = Key::of(id);
            if ids.contains(&key) {
                return Err(DpsRefusal::new(400, 400_206, format!("`{id}` is defined multiple times.")));
            }
            ids.push(key);
        }
        let mut errors = Vec::new();
        for item in items {
            let id = item.get(kind.id_field()).and_then(Value::as_str).unwrap_or_default();
            let done = match item {
                Value::Object(item) => self.bulk_item(kind, mode, id, item.clone(), env),
                _ => Err(DpsRefusal::argument("An item must be an object")),
            };
            if let Err(refusal) = done {
                let code = refusal.code;
                errors
                    .push(json!({ kind.id_field(): id, "errorCode": code, "errorStatus": refusal.message }));
            }
        }
        let mut shown = Object::new();
        shown.insert("isSuccessful".to_owned(), json!(errors.is_empty()));
        shown.insert("errors".to_owned(), json!(errors));
        Ok(shown)
    }

    fn bulk_item(
        &mut self,
        kind: Kind,
        mode: Mode,
        id: &str,
        item: Object,
        env: &Env<'_>,
    ) -> Result<(), DpsRefusal> {
        let etag = item.get("etag").and_then(Value::as_str).map(str::to_owned);
        match mode {
            Mode::Create => self.put(kind, id, item, None, env).map(drop),
            // An update without an etag is taken for a creation, and clashes: so it was recorded.
            Mode::Update => self.put(kind, id, item, etag.as_deref(), env).map(drop),
            Mode::UpdateIfMatch => {
                let etag = etag.ok_or_else(|| DpsRefusal::argument("`etag` is missing"))?;
                self.put(kind, id, item, Some(&etag), env).map(drop)
            }
            Mode::Delete => self.delete(kind, id, etag.as_deref(), env),
        }
    }

    /// The symmetric-key groups, by ID.
    pub(crate) fn symmetric_groups(&self) -> impl Iterator<Item = (&Enrollment, &str, &str)> {
        self.groups.values().filter_map(with_keys)
    }

    /// One symmetric-key group.
    pub(crate) fn symmetric_group(&self, id: &Key) -> Option<(&Enrollment, &str, &str)> {
        self.groups.get(id).and_then(with_keys)
    }
}

fn with_keys(group: &Enrollment) -> Option<(&Enrollment, &str, &str)> {
    match &group.attestation {
        Attestation::SymmetricKey { primary, secondary } => Some((group, primary, secondary)),
        _ => None,
    }
}

/// Whether an ID may be written or registered.
pub(crate) fn check_id(id: &str, switches: &Switches) -> Result<(), DpsRefusal> {
    let upper = || id.bytes().any(|byte| byte.is_ascii_uppercase());
    if !is_registration_id(id) || (switches.registration_id_case == IdCase::RefuseUpper && upper()) {
        return Err(DpsRefusal::argument("Invalid RegistrationId"));
    }
    Ok(())
}

fn check_query(text: &str) -> Result<(), DpsRefusal> {
    let text = text.trim();
    let first = text.split_whitespace().next().unwrap_or("select");
    if text.len() > QUERY_BYTES_MAX || !first.eq_ignore_ascii_case("select") {
        return Err(DpsRefusal::argument("The query must begin with SELECT"));
    }
    Ok(())
}

fn start(request: &PageRequest) -> Result<Bound<Key>, DpsRefusal> {
    match &request.continuation {
        None => Ok(Bound::Unbounded),
        Some(token) => match page::continued(token) {
            Some(last) => Ok(Bound::Excluded(Key::of(&last))),
            None => Err(DpsRefusal::argument("Invalid continuation token")),
        },
    }
}

fn rows_max(request: &PageRequest, switches: &Switches) -> usize {
    request.rows_max.unwrap_or(switches.query_page_default).clamp(1, switches.query_page_max)
}
