//! Text fields of topology objects: which values are legal, and what a diff shows of them.

use super::invalid;
use crate::{FieldChange, Hub, ObjectKind, Rejection, RepairRule, Route, Scope, Stamp, Topology};

/// Longest URL, host or reference in a topology object, in bytes: an object fits one stored value.
const TEXT_BYTES_MAX: usize = 1_024;
fn check_text(kind: ObjectKind, name: &str, field: &str, text: &str) -> Result<(), Rejection> {
    if text.len() > TEXT_BYTES_MAX || !text.bytes().all(|b| b.is_ascii_graphic()) {
        let problem = format!(
            "{field} has {} bytes; up to {TEXT_BYTES_MAX} printable ASCII characters without spaces are allowed",
            text.len()
        );
        return Err(invalid(kind, name, problem));
    }
    Ok(())
}

pub(super) fn check_endpoint(kind: ObjectKind, name: &str, url: &str) -> Result<(), Rejection> {
    check_text(kind, name, "app_endpoint", url)?;
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    if !url.is_empty() && host.is_none_or(str::is_empty) {
        return Err(invalid(kind, name, format!("app_endpoint `{url}` is not a URL; write https://host/…")));
    }
    Ok(())
}

pub(super) fn check_host(kind: ObjectKind, name: &str, host: &str) -> Result<(), Rejection> {
    check_text(kind, name, "service_host", host)?;
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:".contains(&b)) {
        return Err(invalid(
            kind,
            name,
            format!("service_host `{host}` is not a host name; leave out scheme and path"),
        ));
    }
    Ok(())
}

/// A reference names a secret and never is one. What looks like a key is refused without repeating it.
pub(super) fn check_credential_ref(kind: ObjectKind, name: &str, reference: &str) -> Result<(), Rejection> {
    check_text(kind, name, "credential_ref", reference)?;
    let lower = reference.to_ascii_lowercase();
    if lower.contains("sharedaccesskey") || lower.contains("sig=") || lower.ends_with('=') {
        let problem = "credential_ref holds what looks like a secret; name the file or environment variable that holds it";
        return Err(invalid(kind, name, problem));
    }
    Ok(())
}

/// Fields by name, with their values as a diff shows them.
pub(super) type Fields = Vec<(&'static str, String)>;

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(String::new, |limit| limit.to_string())
}

pub(super) fn stamp_fields(stamp: &Stamp) -> Fields {
    vec![
        ("state", stamp.state.to_string()),
        ("labels", stamp.labels.to_string()),
        ("capacity.soft", shown(stamp.capacity.soft)),
        ("capacity.hard", shown(stamp.capacity.hard)),
        ("app_endpoint", stamp.app_endpoint.clone()),
        ("cost.currency", stamp.cost.currency.clone()),
        ("cost.fixed_micros", stamp.cost.fixed_micros.to_string()),
        ("cost.per_device_micros", stamp.cost.per_device_micros.to_string()),
    ]
}

pub(super) fn hub_fields(topology: &Topology, hub: &Hub) -> Fields {
    vec![
        ("stamp", topology.stamp(hub.stamp).map_or_else(String::new, |s| s.name.to_string())),
        ("state", hub.state.to_string()),
        ("capacity.soft", shown(hub.capacity.soft)),
        ("capacity.hard", shown(hub.capacity.hard)),
        ("tier", hub.tier.to_string()),
        ("units", hub.units.to_string()),
    ]
}

pub(super) fn scope_fields(topology: &Topology, scope: &Scope) -> Fields {
    let hubs = scope.linked_hubs.iter().filter_map(|no| topology.hub(*no)).map(|h| h.name.as_str());
    vec![
        ("service_host", scope.service_host.clone()),
        ("credential_ref", scope.credential_ref.clone()),
        ("linked_hubs", hubs.collect::<Vec<_>>().join(",")),
        ("budget_percent", scope.budget_percent.to_string()),
        ("repair", if scope.repair == RepairRule::Adopt { "adopt" } else { "enforce" }.to_owned()),
        ("read_through", scope.read_through.to_string()),
    ]
}

pub(super) fn route_fields(topology: &Topology, route: &Route) -> Fields {
    vec![("stamp", topology.stamp(route.stamp).map_or_else(String::new, |s| s.name.to_string()))]
}

pub(super) fn differences(before: Option<Fields>, after: Fields) -> Vec<FieldChange> {
    let before = before.unwrap_or_else(|| after.iter().map(|(field, _)| (*field, String::new())).collect());
    let pairs = before.into_iter().zip(after).filter(|(before, after)| before.1 != after.1);
    pairs
        .map(|((field, before), (_, after))| FieldChange { field: field.to_owned(), before, after })
        .collect()
}
