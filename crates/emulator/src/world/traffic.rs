//! Traffic Manager profiles and their endpoints (Azure Resource Manager, `Microsoft.Network/trafficManagerProfiles`).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::Object;

/// Most endpoints of a profile (Traffic Manager, limits).
const ENDPOINTS_MAX: usize = 200;

/// A refusal in ARM's envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArmRefusal {
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl ArmRefusal {
    pub(crate) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(404, "ResourceNotFound", format!("The resource '{what}' was not found."))
    }

    fn bad(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }
}

/// One endpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    name: String,
    /// `azureEndpoints`, `externalEndpoints` or `nestedEndpoints`.
    kind: String,
    properties: Object,
}

/// One profile.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Profile {
    pub(crate) subscription: String,
    pub(crate) resource_group: String,
    pub(crate) name: String,
    properties: Object,
    endpoints: Vec<Endpoint>,
}

const KINDS: [&str; 3] = ["azureEndpoints", "externalEndpoints", "nestedEndpoints"];

/// A kind as ARM spells it; none where it is none.
fn kind(text: &str) -> Option<&'static str> {
    KINDS.into_iter().find(|kind| kind.eq_ignore_ascii_case(text))
}

impl Profile {
    pub(crate) fn new(subscription: &str, resource_group: &str, name: &str, method: &str, ttl: u32) -> Self {
        let properties = json!({
            "profileStatus": "Enabled",
            "trafficRoutingMethod": method,
            "dnsConfig": {
                "relativeName": name,
                "fqdn": format!("{}.trafficmanager.net", name.to_ascii_lowercase()),
                "ttl": ttl,
            },
            "monitorConfig": {
                "profileMonitorStatus": "Online",
                "protocol": "HTTPS",
                "port": 443,
                "path": "/",
                "intervalInSeconds": 30,
                "timeoutInSeconds": 10,
                "toleratedNumberOfFailures": 3,
            },
        });
        let properties = properties.as_object().cloned().unwrap_or_default();
        let (subscription, resource_group) = (subscription.to_owned(), resource_group.to_owned());
        Self { subscription, resource_group, name: name.to_owned(), properties, endpoints: Vec::new() }
    }

    /// Whether this is the profile of that path; ARM compares without case.
    pub(crate) fn is(&self, subscription: &str, resource_group: &str, name: &str) -> bool {
        self.subscription.eq_ignore_ascii_case(subscription)
            && self.resource_group.eq_ignore_ascii_case(resource_group)
            && self.name.eq_ignore_ascii_case(name)
    }

    fn id(&self) -> String {
        let (subscription, group, name) = (&self.subscription, &self.resource_group, &self.name);
        format!(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Network/trafficManagerProfiles/{name}"
        )
    }

    /// The profile as JSON.
    pub(crate) fn show(&self) -> Value {
        let mut properties = self.properties.clone();
        let endpoints: Vec<Value> = self.endpoints.iter().map(|endpoint| self.show_one(endpoint)).collect();
        properties.insert("endpoints".to_owned(), json!(endpoints));
        json!({
            "id": self.id(),
            "name": self.name,
            "type": "Microsoft.Network/trafficManagerProfiles",
            "location": "global",
            "properties": properties,
        })
    }

    fn show_one(&self, endpoint: &Endpoint) -> Value {
        let mut properties = endpoint.properties.clone();
        let enabled = properties.get("endpointStatus") == Some(&json!("Enabled"));
        let profile_enabled = self.properties.get("profileStatus") == Some(&json!("Enabled"));
        let monitored = match (profile_enabled, enabled) {
            (false, _) => "Inactive",
            (true, false) => "Disabled",
            (true, true) => "Online",
        };
        properties.insert("endpointMonitorStatus".to_owned(), json!(monitored));
        json!({
            "id": format!("{}/{}/{}", self.id(), endpoint.kind, endpoint.name),
            "name": endpoint.name,
            "type": format!("Microsoft.Network/trafficManagerProfiles/{}", endpoint.kind),
            "properties": properties,
        })
    }

    fn position(&self, of_kind: &str, name: &str) -> Option<usize> {
        self.endpoints.iter().position(|endpoint| {
            endpoint.kind.eq_ignore_ascii_case(of_kind) && endpoint.name.eq_ignore_ascii_case(name)
        })
    }

    /// GET of an endpoint.
    pub(crate) fn endpoint(&self, of_kind: &str, name: &str) -> Result<Value, ArmRefusal> {
        let at = self.position(of_kind, name).ok_or_else(|| ArmRefusal::not_found(name))?;
        Ok(self.show_one(&self.endpoints[at]))
    }

    /// PUT (`replaces`) or PATCH of an endpoint; whether it was created, and what it is now.
    pub(crate) fn write_endpoint(
        &mut self,
        of_kind: &str,
        name: &str,
        body: &Object,
        replaces: bool,
    ) -> Result<(bool, Value), ArmRefusal> {
        let of_kind = kind(of_kind).ok_or_else(|| ArmRefusal::not_found(of_kind))?;
        let at = self.position(of_kind, name);
        if at.is_none() && !replaces {
            return Err(ArmRefusal::not_found(name));
        }
        let former = at.map(|at| &self.endpoints[at]).filter(|_| !replaces);
        let endpoint = read_endpoint(of_kind, name, body, former)?;
        let mut next = self.endpoints.clone();
        match at {
            Some(at) => next[at] = endpoint.clone(),
            None => next.push(endpoint.clone()),
        }
        check_together(&next)?;
        self.endpoints = next;
        Ok((at.is_none(), self.show_one(&endpoint)))
    }

    /// DELETE of an endpoint; whether it was there.
    pub(crate) fn delete_endpoint(&mut self, of_kind: &str, name: &str) -> bool {
        let at = self.position(of_kind, name);
        at.map(|at| self.endpoints.remove(at)).is_some()
    }

    /// PUT or PATCH of the profile. Endpoints, where they are given, are replaced as one change.
    pub(crate) fn write(&mut self, body: &Object, replaces: bool) -> Result<Value, ArmRefusal> {
        let Some(Value::Object(patch)) = body.get("properties") else {
            return Err(ArmRefusal::bad("`properties` must be an object."));
        };
        let endpoints = match patch.get("endpoints") {
            None | Some(Value::Null) if !replaces => self.endpoints.clone(),
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(endpoints)) => endpoints
                .iter()
                .map(|endpoint| self.read_listed(endpoint, replaces))
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(ArmRefusal::bad("`properties.endpoints` must be an array.")),
        };
        check_together(&endpoints)?;
        let mut properties = self.properties.clone();
        for (name, value) in patch.iter().filter(|(name, _)| *name != "endpoints") {
            match (properties.get_mut(name), value) {
                (Some(Value::Object(inner)), Value::Object(patch)) => inner.extend(patch.clone()),
                _ => {
                    properties.insert(name.clone(), value.clone());
                }
            }
        }
        let status = properties.get("profileStatus").and_then(Value::as_str).unwrap_or_default();
        if !matches!(status, "Enabled" | "Disabled") {
            return Err(ArmRefusal::bad("`profileStatus` must be Enabled or Disabled."));
        }
        const METHODS: [&str; 6] =
            ["Performance", "Priority", "Weighted", "Geographic", "MultiValue", "Subnet"];
        let method = properties.get("trafficRoutingMethod").and_then(Value::as_str).unwrap_or_default();
        if !METHODS.contains(&method) {
            return Err(ArmRefusal::bad(format!("`trafficRoutingMethod` is `{method}`.")));
        }
        self.properties = properties;
        self.endpoints = endpoints;
        Ok(self.show())
    }

    fn read_listed(&self, endpoint: &Value, replaces: bool) -> Result<Endpoint, ArmRefusal> {
        let body = endpoint.as_object().ok_or_else(|| ArmRefusal::bad("An endpoint must be an object."))?;
        let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
        let of_kind = text("type").rsplit('/').next().and_then(kind);
        let of_kind = of_kind.ok_or_else(|| ArmRefusal::bad("An endpoint needs its `type`."))?;
        let name = text("name");
        if name.is_empty() {
            return Err(ArmRefusal::bad("An endpoint needs its `name`."));
        }
        let former = self.position(of_kind, name).map(|at| &self.endpoints[at]).filter(|_| !replaces);
        read_endpoint(of_kind, name, body, former)
    }
}

fn read_endpoint(
    of_kind: &str,
    name: &str,
    body: &Object,
    former: Option<&Endpoint>,
) -> Result<Endpoint, ArmRefusal> {
    let Some(Value::Object(patch)) = body.get("properties") else {
        return Err(ArmRefusal::bad("`properties` must be an object."));
    };
    let mut properties = former.map(|former| former.properties.clone()).unwrap_or_default();
    properties.extend(patch.clone());
    properties.remove("endpointMonitorStatus");
    let name_of = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let status = properties.entry("endpointStatus").or_insert(json!("Enabled"));
    if !matches!(status.as_str(), Some("Enabled" | "Disabled")) {
        return Err(ArmRefusal::bad("`endpointStatus` must be Enabled or Disabled."));
    }
    properties.entry("weight").or_insert(json!(1));
    for field in ["weight", "priority"] {
        let Some(value) = properties.get(field).filter(|value| !value.is_null()) else { continue };
        if !value.as_u64().is_some_and(|value| (1..=1_000).contains(&value)) {
            return Err(ArmRefusal::bad(format!(
                "`{field}` must be 1 to 1000. To take no traffic, disable it."
            )));
        }
    }
    if of_kind == "externalEndpoints" && name_of(properties.get("target")).is_empty() {
        return Err(ArmRefusal::bad("An external endpoint needs its `target`."));
    }
    let name = former.map_or_else(|| name.to_owned(), |former| former.name.clone());
    Ok(Endpoint { name, kind: of_kind.to_owned(), properties })
}

/// Priorities are set on all endpoints or on none, and no two are the same.
fn check_together(endpoints: &[Endpoint]) -> Result<(), ArmRefusal> {
    if endpoints.len() > ENDPOINTS_MAX {
        return Err(ArmRefusal::bad(format!("A profile has at most {ENDPOINTS_MAX} endpoints.")));
    }
    let priority = |endpoint: &Endpoint| endpoint.properties.get("priority").and_then(Value::as_u64);
    let mut priorities: Vec<u64> = endpoints.iter().filter_map(priority).collect();
    let set = priorities.len();
    priorities.sort_unstable();
    priorities.dedup();
    if set != priorities.len() || (set != 0 && set != endpoints.len()) {
        return Err(ArmRefusal::bad("Priorities must be unique, and set on all endpoints or on none."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        value.as_object().cloned().unwrap()
    }

    fn profile() -> Profile {
        let mut profile = Profile::new("s", "g", "fleet", "Weighted", 60);
        for name in ["a", "b"] {
            let body =
                object(json!({ "properties": { "target": format!("{name}.example.com"), "weight": 5 } }));
            assert!(profile.write_endpoint("ExternalEndpoints", name, &body, true).unwrap().0);
        }
        profile
    }

    #[test]
    fn an_endpoint_is_disabled_and_reweighted() {
        let mut profile = profile();
        let mut patch = |body| profile.write_endpoint("externalEndpoints", "A", &object(body), false);
        let (created, shown) = patch(json!({ "properties": { "endpointStatus": "Disabled" } })).unwrap();
        assert!(!created);
        assert_eq!(shown["properties"]["endpointMonitorStatus"], "Disabled");
        assert_eq!(shown["properties"]["weight"], 5);
        assert_eq!(patch(json!({ "properties": { "weight": 0 } })).unwrap_err().status, 400);
        assert_eq!(patch(json!({ "properties": { "priority": 1 } })).unwrap_err().status, 400);
    }

    #[test]
    fn all_weights_move_together() {
        let mut profile = profile();
        let listed = |name: &str, weight: u32| {
            json!({
                "name": name,
                "type": "Microsoft.Network/trafficManagerProfiles/externalEndpoints",
                "properties": { "weight": weight },
            })
        };
        let body = object(json!({ "properties": { "endpoints": [listed("a", 1), listed("b", 1_000)] } }));
        let shown = profile.write(&body, false).unwrap();
        assert_eq!(shown["properties"]["endpoints"][1]["properties"]["weight"], 1_000);
        assert_eq!(shown["properties"]["endpoints"][1]["properties"]["target"], "b.example.com");
        let body = object(json!({ "properties": { "endpoints": [listed("a", 7), listed("b", 1_001)] } }));
        assert!(profile.write(&body, false).is_err());
        assert_eq!(profile.show()["properties"]["endpoints"][0]["properties"]["weight"], 1);
    }
}
