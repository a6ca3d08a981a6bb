//! Answers as JSON values, from which tables are drawn too.

use berth_client::v1;
use serde_json::{Map, Value, json};

use crate::parse::to_hex;

/// The name of an enum's value without the prefix that its .proto file needs.
macro_rules! names {
    ($($function:ident($kind:ident) strips $prefix:literal;)+) => {$(
        pub(crate) fn $function(number: i32) -> &'static str {
            let name = v1::$kind::try_from(number).map_or("UNKNOWN", |value| value.as_str_name());
            name.strip_prefix($prefix).unwrap_or(name)
        }
    )+};
}

names! {
    status(MappingStatus) strips "MAPPING_STATUS_";
    origin(Origin) strips "ORIGIN_";
    source(EvidenceSource) strips "EVIDENCE_SOURCE_";
    accept_state(AcceptState) strips "ACCEPT_STATE_";
    negative_kind(NegativeKind) strips "NEGATIVE_KIND_";
    role(NodeRole) strips "NODE_ROLE_";
    tier(HubTier) strips "HUB_TIER_";
    repair(RepairRule) strips "REPAIR_RULE_";
    change(ChangeKind) strips "CHANGE_KIND_";
    finding(ReportFinding) strips "REPORT_FINDING_";
    drift(DriftClass) strips "DRIFT_CLASS_";
    drift_end(DriftEnd) strips "DRIFT_END_";
    resolution(DriftResolution) strips "DRIFT_RESOLUTION_";
    object(TopologyKind) strips "TOPOLOGY_KIND_";
}

/// The header's fields, put into an object of their own.
pub(crate) fn header(header: Option<&v1::ResponseHeader>) -> Value {
    let Some(header) = header else { return Value::Null };
    json!({
        "token": to_hex(&header.token),
        "age_bound_ms": header.age_bound.as_ref().map(millis),
        "served_by": header.served_by,
        "role": role(header.role),
        "revision": header.revision,
    })
}

/// The revision of an answer.
pub(crate) fn revision(header: Option<&v1::ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.revision)
}

pub(crate) fn mapping(mapping: &v1::Mapping) -> Value {
    let mut fields = Map::new();
    fields.insert("device_id".into(), mapping.device_id.clone().into());
    fields.insert("hub".into(), text(&mapping.hub));
    fields.insert("stamp".into(), text(&mapping.stamp));
    fields.insert("status".into(), status(mapping.status).into());
    fields.insert("epoch".into(), mapping.epoch.into());
    fields.insert("revision".into(), mapping.revision.into());
    fields.insert("origin".into(), origin(mapping.origin).into());
    fields.insert("evidence".into(), evidence(mapping.evidence.as_ref()));
    fields.insert("labels".into(), json!(mapping.labels));
    fields.insert("scope".into(), text(&mapping.scope));
    fields.insert("registration_id".into(), text(&mapping.registration_id));
    Value::Object(fields)
}

pub(crate) fn evidence(evidence: Option<&v1::Evidence>) -> Value {
    let Some(evidence) = evidence else { return Value::Null };
    json!({
        "source": source(evidence.source),
        "time": evidence.time.as_ref().map(|time| time.to_string()),
    })
}

pub(crate) fn found(device_id: &str, found: &v1::LookupResult) -> Value {
    let device_id = if found.device_id.is_empty() { device_id } else { &found.device_id };
    json!({
        "device_id": device_id,
        "hub": found.hub,
        "stamp": found.stamp,
        "status": status(found.status),
        "epoch": found.epoch,
        "revision": found.revision,
        "hub_state": accept_state(found.hub_state),
        "evidence": evidence(found.evidence.as_ref()),
    })
}

pub(crate) fn negative(device_id: &str, negative: &v1::Negative) -> Value {
    json!({
        "device_id": device_id,
        "hub": null,
        "status": negative_kind(negative.kind),
        "epoch": if negative.epoch == 0 { Value::Null } else { negative.epoch.into() },
        "remember_for_ms": negative.remember_for.as_ref().map(millis),
        "confirmed": negative.confirmed,
    })
}

pub(crate) fn drift_record(record: &v1::DriftRecord) -> Value {
    let side = |side: Option<&v1::DriftSide>| {
        json!({
            "hub": side.map_or(Value::Null, |side| text(&side.hub)),
            "status": side.and_then(|side| side.status).map(status),
        })
    };
    json!({
        "device_id": record.device_id,
        "class": drift(record.class),
        "ours": side(record.ours.as_ref()),
        "theirs": side(record.theirs.as_ref()),
        "since": record.since.as_ref().map(ToString::to_string),
        "scope": text(&record.scope),
        "resolutions": record.resolutions.iter().copied().map(resolution).collect::<Vec<_>>(),
    })
}

pub(crate) fn azure_budget(budget: &v1::AzureBudget) -> Value {
    let (kind, name) = match &budget.place {
        Some(v1::azure_budget::Place::Hub(name)) => ("HUB", name.as_str()),
        Some(v1::azure_budget::Place::Scope(name)) => ("SCOPE", name.as_str()),
        None => ("UNKNOWN", ""),
    };
    let is_scope = kind == "SCOPE";
    json!({
        "kind": kind,
        "name": text(name),
        "share_percent": budget.share_percent,
        "per_minute": budget.per_minute,
        "left": budget.left,
        "closed_until": budget.closed_until.as_ref().map(ToString::to_string),
        "read_through_per_minute": is_scope.then_some(budget.read_through_per_minute),
    })
}

pub(crate) fn warnings(warnings: &[v1::CapacityWarning]) -> Value {
    let warning = |warning: &v1::CapacityWarning| {
        json!({
            "kind": object(warning.kind),
            "name": warning.name,
            "used": warning.used,
            "limit": warning.limit,
        })
    };
    warnings.iter().map(warning).collect()
}

/// Capacity warnings as sentences.
pub(crate) fn told(warning: &v1::CapacityWarning) -> String {
    let kind = object(warning.kind).to_ascii_lowercase();
    format!("{kind} `{}` holds {} devices, past its limit of {}", warning.name, warning.used, warning.limit)
}

pub(crate) fn stamp(stamp: &v1::Stamp) -> Value {
    json!({
        "name": stamp.name,
        "state": accept_state(stamp.state),
        "labels": stamp.labels,
        "capacity": capacity(stamp.capacity.as_ref()),
        "app_endpoint": text(&stamp.app_endpoint),
        "cost": cost(stamp.cost.as_ref()),
        "revision": stamp.revision,
    })
}

pub(crate) fn hub(hub: &v1::Hub) -> Value {
    json!({
        "name": hub.name,
        "stamp": hub.stamp,
        "state": accept_state(hub.state),
        "capacity": capacity(hub.capacity.as_ref()),
        "tier": if hub.tier == 0 { Value::Null } else { tier(hub.tier).into() },
        "units": if hub.units == 0 { Value::Null } else { hub.units.into() },
        "revision": hub.revision,
    })
}

pub(crate) fn scope(scope: &v1::Scope) -> Value {
    json!({
        "name": scope.name,
        "service_host": text(&scope.service_host),
        "credential_ref": text(&scope.credential_ref),
        "linked_hubs": scope.linked_hubs,
        "budget_percent": scope.budget_percent,
        "repair": repair(scope.repair),
        "read_through": scope.read_through,
        "revision": scope.revision,
    })
}

pub(crate) fn route(route: &v1::Route) -> Value {
    json!({ "key": route.key, "stamp": route.stamp, "revision": route.revision })
}

pub(crate) fn capacity(capacity: Option<&v1::Capacity>) -> Value {
    let capacity = capacity.copied().unwrap_or_default();
    json!({ "soft": capacity.soft, "hard": capacity.hard })
}

pub(crate) fn cost(cost: Option<&v1::Cost>) -> Value {
    let Some(cost) = cost else { return Value::Null };
    json!({
        "currency": text(&cost.currency),
        "fixed_per_month": amount(cost.fixed_micros_per_month),
        "per_device_month": amount(cost.device_micros_per_month),
    })
}

/// Millionths as a decimal text, without zeros at its end; a text, so that no reader rounds it.
pub(crate) fn amount(micros: u64) -> String {
    let (whole, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let told = format!("{whole}.{fraction:06}");
    told.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Milliseconds of a duration on the wire; 0 where it is negative.
pub(crate) fn millis(duration: &prost_types::Duration) -> u64 {
    let seconds = u64::try_from(duration.seconds).unwrap_or(0);
    let nanos = u64::try_from(duration.nanos).unwrap_or(0);
    seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000)
}

fn text(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_told_exactly() {
        assert_eq!(amount(20_000), "0.02");
        assert_eq!(amount(1_200_000_000), "1200");
        assert_eq!(amount(u64::MAX), "18446744073709.551615");
    }

    #[test]
    fn a_mapping_is_told_without_prefixes_and_with_nulls_for_what_is_absent() {
        let told = mapping(&v1::Mapping {
            device_id: "pump-17".into(),
            hub: "h1.example".into(),
            status: v1::MappingStatus::Assigned.into(),
            epoch: 4,
            origin: v1::Origin::Imported.into(),
            evidence: Some(v1::Evidence {
                source: v1::EvidenceSource::Import.into(),
                time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            }),
            ..Default::default()
        });
        assert_eq!(told["status"], "ASSIGNED");
        assert_eq!(told["origin"], "IMPORTED");
        assert_eq!(told["evidence"], json!({"source": "IMPORT", "time": "2023-11-14T22:13:20Z"}));
        assert_eq!(told["scope"], Value::Null);
    }
}
