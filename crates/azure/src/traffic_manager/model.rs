//! Profiles and endpoints (Traffic Manager REST API).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json::{Unknown, words};

/// Largest weight of an endpoint; the smallest is 1. There is no 0: disable the endpoint instead.
pub const WEIGHT_MAX: u32 = 1_000;
/// Last priority of an endpoint; the first is 1.
pub const PRIORITY_MAX: u32 = 1_000;

words! {
    /// The kinds of endpoint.
    EndpointKind {
        /// A resource of Azure.
        Azure = "AzureEndpoints",
        /// Any host by its name.
        External = "ExternalEndpoints",
        /// Another profile.
        Nested = "NestedEndpoints",
    }
}

words! {
    /// Whether an endpoint, or a profile, takes part.
    EndpointStatus {
        /// It does.
        Enabled = "Enabled",
        /// It does not.
        Disabled = "Disabled",
    }
}

words! {
    /// What the probes say of an endpoint.
    MonitorStatus {
        /// Not known yet.
        Checking = "CheckingEndpoint",
        /// Well.
        Online = "Online",
        /// Failing.
        Degraded = "Degraded",
        /// The endpoint is disabled.
        Disabled = "Disabled",
        /// The profile is disabled, or has no endpoint.
        Inactive = "Inactive",
        /// What it points at is stopped.
        Stopped = "Stopped",
        /// It always serves.
        Unmonitored = "Unmonitored",
    }
}

words! {
    /// How a profile chooses among its endpoints.
    RoutingMethod {
        /// The nearest.
        Performance = "Performance",
        /// The first that is well.
        Priority = "Priority",
        /// By weights.
        Weighted = "Weighted",
        /// By where the asker is.
        Geographic = "Geographic",
        /// All that are well.
        MultiValue = "MultiValue",
        /// By the asker's network.
        Subnet = "Subnet",
    }
}

/// An endpoint of a profile. A write replaces the whole object, and unknown fields go back as they came.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its name in the profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its type in full, such as `Microsoft.Network/trafficManagerProfiles/externalEndpoints`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What it is.
    #[serde(default)]
    pub properties: EndpointProperties,
    /// What else there is, its full ID among it.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What an endpoint is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointProperties {
    /// The host it stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Whether it takes part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_status: Option<EndpointStatus>,
    /// Its weight, 1 to 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Its turn, 1 to 1,000, unlike all others of the profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Where an external one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_location: Option<String>,
    /// What the probes say; Azure's to write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_monitor_status: Option<MonitorStatus>,
    /// Whether it serves whatever the probes say, in versions that know this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub always_serve: Option<EndpointStatus>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A profile. Several weights that change together go in one write of the profile with all its endpoints.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its region: `global`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// What it is.
    #[serde(default)]
    pub properties: ProfileProperties,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What a profile is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProfileProperties {
    /// Whether it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_status: Option<EndpointStatus>,
    /// How it chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_routing_method: Option<RoutingMethod>,
    /// Its name and how long answers are remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_config: Option<DnsConfig>,
    /// How endpoints are probed, as Azure writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor_config: Option<Value>,
    /// Its endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<Endpoint>>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A profile's name, and how long its answers are remembered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsConfig {
    /// The first part of its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_name: Option<String>,
    /// Its whole name; Azure's to write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fqdn: Option<String>,
    /// How long an answer is remembered, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A change of an endpoint; what is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointChange {
    /// Whether it takes part.
    #[serde(rename = "endpointStatus", skip_serializing_if = "Option::is_none")]
    pub status: Option<EndpointStatus>,
    /// Its weight, 1 to 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Its turn, 1 to 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Whether it serves whatever the probes say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub always_serve: Option<EndpointStatus>,
}

impl EndpointChange {
    pub(super) fn problem(&self) -> Option<String> {
        if *self == Self::default() {
            return Some("it changes nothing".to_owned());
        }
        out_of_range(self.weight, self.priority)
    }
}

/// What is wrong with a weight or a priority.
pub(super) fn out_of_range(weight: Option<u32>, priority: Option<u32>) -> Option<String> {
    if let Some(weight) = weight.filter(|weight| !(1..=WEIGHT_MAX).contains(weight)) {
        return Some(format!(
            "a weight of {weight}; it is 1 to {WEIGHT_MAX}, and none is said by disabling the endpoint"
        ));
    }
    let priority = priority.filter(|priority| !(1..=PRIORITY_MAX).contains(priority))?;
    Some(format!("a priority of {priority}; it is 1 to {PRIORITY_MAX}"))
}
