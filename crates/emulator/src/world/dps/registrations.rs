//! The records of registrations, as DPS's service API shows them, and to which group each belongs.

use std::ops::Bound;

use serde_json::Value;

use super::super::etag;
use super::super::fields::Object;
use super::super::id::Key;
use super::super::page::{self, Page, PageRequest};
use super::super::refusal::DpsRefusal;
use super::super::registration::Registration;
use super::{Dps, Env, check_query, rows_max, start};
use crate::config::FailedRegistration;

impl Dps {
    /// GET of a registration.
    pub(crate) fn get_registration(&self, id: &str, env: &Env<'_>) -> Result<Object, DpsRefusal> {
        let registration = self.seen_registration(&Key::of(id), env.now);
        let registration = registration.ok_or_else(DpsRefusal::registration_not_found)?;
        let only_failed = registration.hub.is_none() && registration.pending.is_none();
        if only_failed && env.switches.failed_registration == FailedRegistration::NotFound {
            return Err(DpsRefusal::registration_not_found());
        }
        Ok(registration.show())
    }

    /// DELETE of a registration. The identity in the hub stays.
    pub(crate) fn delete_registration(
        &mut self,
        id: &str,
        if_match: Option<&str>,
        env: &Env<'_>,
    ) -> Result<(), DpsRefusal> {
        let key = Key::of(id);
        let registration = self.registrations.get(&key).ok_or_else(DpsRefusal::registration_not_found)?;
        if if_match.is_some_and(|told| !etag::names_dps(told, registration.etag)) {
            return Err(DpsRefusal::precondition_failed(env.switches));
        }
        if registration.pending.is_some() {
            // What it moves would be lost with it.
            return Err(registration_conflict());
        }
        self.remember_registration(&key, env.now);
        self.regroup(&key, None);
        self.registrations.remove(&key);
        Ok(())
    }

    /// Puts a registration into a group, or into none, out of the one where it was.
    pub(crate) fn regroup(&mut self, key: &Key, group: Option<&str>) {
        let Some(registration) = self.registrations.get_mut(key) else { return };
        let former = std::mem::replace(&mut registration.group, group.map(Into::into));
        if let Some(former) = former.as_deref().map(Key::of)
            && let Some(members) = self.members.get_mut(&former)
        {
            members.remove(key);
            if members.is_empty() {
                self.members.remove(&former);
            }
        }
        if let Some(group) = group {
            self.members.entry(Key::of(group)).or_default().insert(key.clone());
        }
    }

    #[cfg(test)]
    pub(in crate::world) fn groups_with_members(&self) -> Vec<&str> {
        self.members.keys().map(Key::text).collect()
    }

    /// Takes a registration over as it is, in place of the one that was there.
    pub(crate) fn restore(&mut self, key: Key, mut registration: Registration) {
        self.regroup(&key, None);
        let group = registration.group.take();
        self.registrations.insert(key.clone(), registration);
        self.regroup(&key, group.as_deref());
    }

    /// The registrations of an enrollment group.
    pub(crate) fn query_registrations(
        &self,
        group: &str,
        text: &str,
        request: &PageRequest,
        env: &Env<'_>,
    ) -> Result<Page, DpsRefusal> {
        check_query(text)?;
        if !self.groups.contains_key(&Key::of(group)) {
            return Err(DpsRefusal::group_not_found());
        }
        let from = start(request)?;
        let members = self.members.get(&Key::of(group)).into_iter();
        let members = members.flat_map(|members| members.range((from.clone(), Bound::Unbounded)));
        let rows = members.filter_map(|key| Some((key, self.registrations.get(key)?)));
        let rows =
            rows.map(|(key, registration)| (key.text().to_owned(), Value::Object(registration.show())));
        Ok(page::cut(rows, rows_max(request, env.switches), "DeviceRegistration"))
    }
}

/// Two registers of one device at a time.
pub(crate) fn registration_conflict() -> DpsRefusal {
    DpsRefusal::new(409, 409_203, "Precondition failed.")
}
