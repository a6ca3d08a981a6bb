//! Azure Traffic Manager, over Azure Resource Manager: which of several hosts DNS answers with.
//!
//! It only answers DNS: an answer is remembered for the profile's time to live, and connections that stand are not
//! moved. It fits hosts of one's own; the names of hubs and DPS instances are in their certificates and signatures.

mod model;
mod service;

pub use model::{
    DnsConfig, Endpoint, EndpointChange, EndpointKind, EndpointProperties, EndpointStatus, MonitorStatus,
    PRIORITY_MAX, Profile, ProfileProperties, RoutingMethod, WEIGHT_MAX,
};
pub use service::{ProfileName, Service};

/// Version of the API that is asked for (Traffic Manager REST API).
pub const API_VERSION: &str = "2022-04-01";
/// The host of Azure Resource Manager.
pub const ARM_HOST: &str = "management.azure.com";
