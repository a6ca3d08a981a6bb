//! A topology file: stamps, hubs, scopes and routes as they are to be, in TOML or YAML. Only names are required; what
//! is left out stays as it is. An unknown key is an error, so that a typing mistake does not pass for a wish.

use std::collections::BTreeMap;

use berth_client::v1;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::parse;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopologyFile {
    #[serde(default)]
    stamps: Vec<StampEntry>,
    #[serde(default)]
    hubs: Vec<HubEntry>,
    #[serde(default)]
    scopes: Vec<ScopeEntry>,
    #[serde(default)]
    routes: Vec<RouteEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StampEntry {
    name: String,
    #[serde(default, deserialize_with = "state")]
    state: Option<v1::AcceptState>,
    labels: Option<BTreeMap<String, String>>,
    capacity: Option<CapacityEntry>,
    app_endpoint: Option<String>,
    cost: Option<CostEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HubEntry {
    name: String,
    stamp: Option<String>,
    #[serde(default, deserialize_with = "state")]
    state: Option<v1::AcceptState>,
    capacity: Option<CapacityEntry>,
    #[serde(default, deserialize_with = "tier")]
    tier: Option<v1::HubTier>,
    units: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScopeEntry {
    name: String,
    service_host: Option<String>,
    credential_ref: Option<String>,
    linked_hubs: Option<Vec<String>>,
    budget_percent: Option<u32>,
    #[serde(default, deserialize_with = "repair")]
    repair: Option<v1::RepairRule>,
    read_through: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteEntry {
    key: String,
    stamp: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CapacityEntry {
    soft: Option<LimitEntry>,
    hard: Option<LimitEntry>,
}

/// A number of devices, or the word `unlimited`.
#[derive(Debug, Clone, Copy)]
struct LimitEntry(Option<u64>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CostEntry {
    #[serde(default)]
    currency: String,
    #[serde(default)]
    fixed_per_month: Amount,
    #[serde(default)]
    per_device_month: Amount,
}

/// Money in millionths; a text such as "0.02" is exact, a number is taken as written.
#[derive(Debug, Clone, Copy, Default)]
struct Amount(u64);

/// Reads a file; `name` decides the format by its ending, and stands in errors.
pub(crate) fn read(name: &str, text: &str) -> Result<v1::DesiredTopology, String> {
    let is_yaml = [".yaml", ".yml"].iter().any(|ending| name.ends_with(ending));
    let file = if is_yaml { from_yaml(text) } else { from_toml(text) };
    file.map(desired).map_err(|(line, problem)| match line {
        Some(line) => format!("{name} line {line}: {problem}"),
        None => format!("{name}: {problem}"),
    })
}

fn from_toml(text: &str) -> Result<TopologyFile, (Option<usize>, String)> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| line_of(text, span.start));
        (line, one_line(error.message()))
    })
}

fn from_yaml(text: &str) -> Result<TopologyFile, (Option<usize>, String)> {
    if text.trim().is_empty() {
        return Ok(TopologyFile::default());
    }
    serde_yaml_ng::from_str(text).map_err(|error| {
        let line = error.location().map(|location| location.line());
        let told = error.to_string();
        let told = told.rsplit_once(" at line ").map_or(told.as_str(), |(told, _)| told);
        (line, one_line(told))
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn desired(file: TopologyFile) -> v1::DesiredTopology {
    let capacity = |entry: CapacityEntry| v1::DesiredCapacity {
        soft: entry.soft.map(|limit| v1::DesiredLimit { devices: limit.0 }),
        hard: entry.hard.map(|limit| v1::DesiredLimit { devices: limit.0 }),
    };
    let cost = |entry: CostEntry| v1::Cost {
        currency: entry.currency,
        fixed_micros_per_month: entry.fixed_per_month.0,
        device_micros_per_month: entry.per_device_month.0,
    };
    let stamp = |entry: StampEntry| v1::DesiredStamp {
        name: entry.name,
        state: entry.state.map(i32::from),
        labels: entry.labels.map(|labels| v1::DesiredLabels { labels }),
        capacity: entry.capacity.map(capacity),
        app_endpoint: entry.app_endpoint,
        cost: entry.cost.map(cost),
    };
    let hub = |entry: HubEntry| v1::DesiredHub {
        name: entry.name,
        stamp: entry.stamp,
        state: entry.state.map(i32::from),
        capacity: entry.capacity.map(capacity),
        tier: entry.tier.map(i32::from),
        units: entry.units,
    };
    let scope = |entry: ScopeEntry| v1::DesiredScope {
        name: entry.name,
        service_host: entry.service_host,
        credential_ref: entry.credential_ref,
        linked_hubs: entry.linked_hubs.map(|hubs| v1::DesiredLinkedHubs { hubs }),
        budget_percent: entry.budget_percent,
        repair: entry.repair.map(i32::from),
        read_through: entry.read_through,
    };
    let route = |entry: RouteEntry| v1::Route { key: entry.key, stamp: entry.stamp, revision: 0 };
    v1::DesiredTopology {
        stamps: file.stamps.into_iter().map(stamp).collect(),
        hubs: file.hubs.into_iter().map(hub).collect(),
        scopes: file.scopes.into_iter().map(scope).collect(),
        routes: file.routes.into_iter().map(route).collect(),
    }
}

fn state<'de, D: Deserializer<'de>>(from: D) -> Result<Option<v1::AcceptState>, D::Error> {
    parse::accept_state(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

fn tier<'de, D: Deserializer<'de>>(from: D) -> Result<Option<v1::HubTier>, D::Error> {
    parse::tier(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

fn repair<'de, D: Deserializer<'de>>(from: D) -> Result<Option<v1::RepairRule>, D::Error> {
    parse::repair(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

/// A number or a text, as both formats know them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Whole(u64),
    Number(f64),
    Text(String),
}

impl<'de> Deserialize<'de> for LimitEntry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let wrong =
            |told: String| D::Error::custom(format!("{told} is not a number of devices, nor \"unlimited\""));
        match Scalar::deserialize(from).map_err(|_| wrong("the limit".to_owned()))? {
            Scalar::Whole(devices) => Ok(Self(Some(devices))),
            Scalar::Number(number) => Err(wrong(number.to_string())),
            Scalar::Text(text) => parse::limit(&text).map(|limit| Self(limit.0)).map_err(D::Error::custom),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let scalar = Scalar::deserialize(from).map_err(|_| D::Error::custom("the amount is not a number"))?;
        let text = match scalar {
            Scalar::Whole(whole) => whole.to_string(),
            // The shortest text that reads back as this number is the one that was written.
            Scalar::Number(number) => number.to_string(),
            Scalar::Text(text) => text,
        };
        parse::micros(&text).map(Self).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = include_str!("../../../deploy/topology.toml");

    #[test]
    fn what_is_written_is_asked_for_and_what_is_left_out_is_untouched() {
        let desired = read("t.toml", FILE).unwrap();
        let stamp = &desired.stamps[0];
        assert_eq!(stamp.state(), v1::AcceptState::Cordoned);
        assert_eq!(stamp.cost.as_ref().unwrap().fixed_micros_per_month, 1_200_500_000);
        assert_eq!(stamp.cost.as_ref().unwrap().device_micros_per_month, 20_000);
        assert_eq!(stamp.app_endpoint, None);
        let hub = &desired.hubs[0];
        assert_eq!(hub.state, None);
        let capacity = hub.capacity.unwrap();
        assert_eq!((capacity.soft, capacity.hard), (None, Some(v1::DesiredLimit { devices: None })));
        assert_eq!(desired.scopes[0].linked_hubs.as_ref().unwrap().hubs, ["h1.azure-devices.net"]);
        assert_eq!(desired.routes[0].key, "contoso.example");
    }

    #[test]
    fn yaml_says_the_same() {
        let yaml = "
stamps:
  - name: prod-1
    state: cordoned
    capacity: { soft: 900, hard: unlimited }
    cost: { fixed_per_month: 1200.5 }
";
        let desired = read("t.yaml", yaml).unwrap();
        let capacity = desired.stamps[0].capacity.unwrap();
        assert_eq!(capacity.soft, Some(v1::DesiredLimit { devices: Some(900) }));
        assert_eq!(capacity.hard, Some(v1::DesiredLimit { devices: None }));
        assert_eq!(desired.stamps[0].cost.as_ref().unwrap().fixed_micros_per_month, 1_200_500_000);
    }

    #[test]
    fn mistakes_are_told_with_file_and_line() {
        let told = |name: &str, text: &str| read(name, text).unwrap_err();
        let unknown = told("t.toml", "[[stamps]]\nname = \"a\"\ncapcity = { soft = 1 }\n");
        assert!(unknown.starts_with("t.toml line 3: unknown field `capcity`"), "{unknown}");
        let state = told("t.toml", "[[hubs]]\nname = \"a\"\nstate = \"asleep\"\n");
        assert!(state.starts_with("t.toml line 3: `asleep` is no state"), "{state}");
        let syntax = told("t.toml", "[[stamps]]\nname = \n");
        assert!(syntax.starts_with("t.toml line 2: "), "{syntax}");
        assert!(!syntax.contains('\n'));
        let nameless = told("t.toml", "[[stamps]]\nstate = \"active\"\n");
        assert!(nameless.contains("missing field `name`"), "{nameless}");
        let limit = told("t.toml", "[[hubs]]\nname = \"a\"\ncapacity = { hard = \"lots\" }\n");
        assert!(limit.contains("`lots` is not a number of devices"), "{limit}");
        let yaml = told("t.yaml", "stamps:\n  - name: a\n    stat: active\n");
        assert!(yaml.starts_with("t.yaml line "), "{yaml}");
        assert!(yaml.contains("unknown field `stat`"), "{yaml}");
    }

    #[test]
    fn an_empty_file_asks_for_nothing() {
        assert_eq!(read("t.toml", "").unwrap(), v1::DesiredTopology::default());
        assert_eq!(read("t.yml", "\n").unwrap(), v1::DesiredTopology::default());
    }
}
