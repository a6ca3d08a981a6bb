//! The emulator's configuration: one TOML file, read once, checked before anything listens.

mod check;
mod switches;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

pub use crate::auth::{Right, Secret};
pub use check::ConfigError;
pub(crate) use check::host_name;
pub use switches::{
    BulkOverLimit, ErrorBody, FailedRegistration, IdCase, InvalidReprovisionPolicy, MethodMissing,
    RegisterWhileAssigning, Switches, WriteToMissing, WriteWithoutKeys,
};

/// Everything that is emulated, and where it listens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where HTTPS is served. Port 0 takes one from the system. Default 127.0.0.1:0.
    #[serde(default = "any_port")]
    pub listen: SocketAddr,
    /// Where plain HTTP is served too; nowhere by default.
    #[serde(default)]
    pub listen_http: Option<SocketAddr>,
    /// Where the PEM of the generated authority is written at the start; nowhere by default.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// More names for the certificate, beside all hosts below, `localhost` and 127.0.0.1.
    #[serde(default)]
    pub names: Vec<String>,
    /// State is read from this file at the start and written to it at the end. In memory only by default.
    #[serde(default)]
    pub state_file: Option<PathBuf>,
    /// The control API.
    #[serde(default)]
    pub control: ControlConfig,
    /// How fast is too fast.
    #[serde(default)]
    pub throttle: ThrottleConfig,
    /// What is not known of Azure.
    #[serde(default)]
    pub switches: Switches,
    /// How custom allocation webhooks are called.
    #[serde(default)]
    pub webhook: WebhookConfig,
    /// Tokens that are taken as Microsoft Entra ID's.
    #[serde(default)]
    pub bearers: Vec<BearerConfig>,
    /// IoT hubs. The first also answers as `localhost`.
    #[serde(default)]
    pub hubs: Vec<HubConfig>,
    /// DPS instances. The first also answers as `localhost`.
    #[serde(default)]
    pub dps: Vec<DpsConfig>,
    /// Traffic Manager profiles.
    #[serde(default)]
    pub profiles: Vec<ProfileConfig>,
    /// Devices that the emulator itself simulates.
    #[serde(default)]
    pub fleets: Vec<FleetConfig>,
}

/// The control API under `/_emulator/`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlConfig {
    /// Whether it is served. Default false.
    pub enabled: bool,
    /// The bearer token it asks for; none by default, for listeners that only this machine reaches.
    pub token: Option<Secret>,
}

/// Throttles and quotas (IoT Hub and DPS, quotas and throttling).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ThrottleConfig {
    /// Whether anything is throttled. Default true.
    pub enabled: bool,
    /// What the documented figures are multiplied by. Default 1.
    pub factor: f64,
    /// Whether a 429 of the DPS service API carries Retry-After. Not established; default false, the stricter.
    pub service_retry_after: bool,
    /// Whether a 429 of the device API carries Retry-After, as SDKs expect. Default true.
    pub device_retry_after: bool,
}

impl Default for ThrottleConfig {
    fn default() -> Self {
        Self { enabled: true, factor: 1.0, service_retry_after: false, device_retry_after: true }
    }
}

/// How custom allocation webhooks are called.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookConfig {
    /// How long an answer may take, in milliseconds. DPS's own figure is not established. Default 5,000.
    pub timeout_ms: u64,
    /// A PEM file of authorities to trust beside the emulator's own.
    pub ca_file: Option<PathBuf>,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self { timeout_ms: 5_000, ca_file: None }
    }
}

/// A token that is taken as Microsoft Entra ID's, by hubs, the DPS service API and ARM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BearerConfig {
    /// The token.
    pub token: Secret,
    /// Whether it stands for a reader's role. Default false.
    #[serde(default)]
    pub read_only: bool,
}

/// A shared access policy.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// Its name, as `skn` tells it.
    pub name: String,
    /// Base64 of 16 to 64 bytes.
    pub primary_key: Secret,
    /// The same; none by default.
    #[serde(default)]
    pub secondary_key: Option<Secret>,
    /// What it permits. Default: all.
    #[serde(default)]
    pub rights: Option<Vec<Right>>,
}

/// One IoT hub.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubConfig {
    /// Its host name, for example `hub-a.azure-devices.net`. Compared lower-cased.
    pub host: String,
    /// Its tier, which decides its throttles. Default S1.
    #[serde(default)]
    pub tier: Tier,
    /// Its units, which multiply them. Default 1.
    #[serde(default = "one")]
    pub units: u32,
    /// How long its queries lag behind its registry, in milliseconds. Default 0; live hubs took about 1,400.
    #[serde(default)]
    pub query_lag_ms: u64,
    /// Its policies. Without any, only bearer tokens open it.
    #[serde(default)]
    pub policies: Vec<PolicyConfig>,
}

/// Tier of an IoT hub (IoT Hub, quotas and throttling).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[allow(missing_docs)]
pub enum Tier {
    F1,
    B1,
    B2,
    B3,
    #[default]
    S1,
    S2,
    S3,
}

/// One DPS instance.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpsConfig {
    /// Its ID scope, for example `0ne00000001`.
    pub id_scope: String,
    /// The host of its service API, for example `dps-a.azure-devices-provisioning.net`. Compared lower-cased.
    pub host: String,
    /// How enrollments that do not say otherwise choose a hub. Default hashed.
    #[serde(default)]
    pub allocation: Allocation,
    /// The hubs it may assign devices to.
    #[serde(default)]
    pub hubs: Vec<LinkedHub>,
    /// Its policies. Without any, only bearer tokens open its service API.
    #[serde(default)]
    pub policies: Vec<PolicyConfig>,
    /// How long an assignment takes, in milliseconds. Default 1,000.
    #[serde(default = "second_ms")]
    pub assigning_ms: u64,
    /// What `Retry-After` of an operation under way says, in seconds. Default 3, as recorded.
    #[serde(default = "three")]
    pub retry_after_s: u64,
    /// Where a device is while it moves from hub to hub. Default neither: the old hub loses it first.
    #[serde(default)]
    pub moving: Moving,
    /// How long, in milliseconds, both hubs know a device where `moving` is `both`, after its assignment. Default 0.
    #[serde(default)]
    pub overlap_ms: u64,
}

/// A hub that a DPS instance is linked to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkedHub {
    /// The hub's host name.
    pub host: String,
    /// Its share of hashed allocation, 1 to 1,000. Default 1.
    #[serde(default = "one")]
    pub weight: u32,
    /// How far it is from the devices, in milliseconds: geo-latency allocation takes the nearest. Default 0.
    #[serde(default)]
    pub latency_ms: u32,
}

/// How a hub is chosen (DPS REST API, `allocationPolicy`; custom stands in enrollments only).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Allocation {
    /// By a hash of the registration ID, in proportion to the weights.
    #[default]
    Hashed,
    /// The nearest by `latency_ms`.
    GeoLatency,
    /// The enrollment's first hub, or the first linked one.
    Static,
}

/// Where a device is while DPS moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moving {
    /// The old hub loses it when the move begins, the new one gets it when it ends.
    #[default]
    Neither,
    /// One instant.
    Atomic,
    /// The old hub loses it only some time after the new one got it.
    Both,
}

/// One Traffic Manager profile.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileConfig {
    /// The subscription's ID.
    pub subscription: String,
    /// The resource group.
    pub resource_group: String,
    /// The profile's name, and the first label of its DNS name.
    pub name: String,
    /// How it spreads. Default Weighted.
    #[serde(default = "weighted")]
    pub routing_method: String,
    /// Time to live of its answers, in seconds. Default 60.
    #[serde(default = "sixty")]
    pub ttl: u32,
    /// Its endpoints.
    #[serde(default)]
    pub endpoints: Vec<EndpointConfig>,
}

/// One external endpoint of a profile.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// Its name.
    pub name: String,
    /// The host it stands for.
    pub target: String,
    /// 1 to 1,000. Default 1.
    #[serde(default = "one")]
    pub weight: u32,
    /// Whether it is enabled. Default true.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// Devices that the emulator itself simulates.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetConfig {
    /// The ID scope they register with.
    pub id_scope: String,
    /// How many: at most 1,000,000.
    pub devices: u32,
    /// Their registration IDs are this and a number of six digits. Default `sim-`.
    #[serde(default = "sim")]
    pub prefix: String,
    /// Their symmetric-key enrollment group, which is created at the start if it is not there. Without one, each has
    /// an individual enrollment, which is created likewise.
    #[serde(default)]
    pub enrollment_group: Option<String>,
    /// How they answer direct methods. Default echo.
    #[serde(default)]
    pub behaviour: crate::devices::Behaviour,
    /// How they come back.
    #[serde(default)]
    pub back_off: BackOffConfig,
}

/// How devices come back after a connection that was lost or a registration that failed: exponentially, with full
/// jitter, as the device SDKs do.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackOffConfig {
    /// The starts of the fleet are spread over this time, in milliseconds. Default 60,000.
    pub start_spread_ms: u64,
    /// The first wait, in milliseconds. Default 1,000.
    pub first_ms: u64,
    /// The longest wait, in milliseconds. Default 120,000.
    pub max_ms: u64,
    /// How often a device tries its hub again before it asks DPS anew. Default 3.
    pub hub_attempts: u8,
}

impl Default for BackOffConfig {
    fn default() -> Self {
        Self { start_spread_ms: 60_000, first_ms: 1_000, max_ms: 120_000, hub_attempts: 3 }
    }
}

impl Config {
    /// Reads and checks a TOML text. An unknown key is an error.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            line: error
                .span()
                .map_or(0, |span| text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1),
            problem: syntax_problem(text, &error),
        })?;
        config.check()?;
        Ok(config)
    }
}

/// What is wrong with a text, without any value of it: a value may be a key.
fn syntax_problem(text: &str, error: &toml::de::Error) -> String {
    let message = error.message();
    // These tell names of fields, and no value.
    if ["unknown field", "missing field"].iter().any(|start| message.starts_with(start)) {
        return message.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = text[before.rfind('\n').map_or(0, |end| end + 1)..].lines().next().unwrap_or_default();
    // The names of fields are small letters: a line inside of a longer text is not taken for one.
    let named =
        |name: &&str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    match line.split_once('=').map(|(name, _)| name.trim()).filter(named) {
        Some(name) => format!("`{name}` holds what it may not: see the type and the words of this field"),
        None => "this is not TOML, or a value of another type than its field has".to_owned(),
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn one() -> u32 {
    1
}

fn three() -> u64 {
    3
}

fn sixty() -> u32 {
    60
}

fn second_ms() -> u64 {
    1_000
}

fn yes() -> bool {
    true
}

fn weighted() -> String {
    "Weighted".to_owned()
}

fn sim() -> String {
    "sim-".to_owned()
}
