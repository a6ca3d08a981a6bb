//! Table `[azure]`: where Azure is, by which credentials hubs are asked, and by which secret Azure may ask.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use berth_azure::id::HostName;
use berth_azure::{EndpointError, Endpoints, KeySource, OVERRIDES_MAX};
use berth_core::HubName;
use serde::Deserialize;

use super::{ConfigError, value};

/// How often devices are swept where nothing is said.
const SWEEP_EVERY: Duration = Duration::from_secs(24 * 3_600);
/// How often they may be.
const SWEEP_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(600)..=Duration::from_secs(720 * 3_600);

/// Table `[azure]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct AzureSettings {
    pub authority_file: Option<PathBuf>,
    pub all_at: Option<String>,
    pub addresses: Option<BTreeMap<String, String>>,
    pub plain_http: Option<bool>,
    pub hub_credentials: Option<BTreeMap<String, String>>,
    pub sweep_every: Option<String>,
    pub hook_secret: Option<String>,
}

/// Where Azure is, by which credentials hubs are asked, and by which secret Azure may ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AzureConfig {
    /// A PEM file with certificate authorities that are trusted besides the public ones.
    pub authority_file: Option<PathBuf>,
    /// Where every host is dialled that has no address of its own.
    pub all_at: Option<HostName>,
    /// Where single hosts are dialled.
    pub addresses: BTreeMap<HostName, HostName>,
    /// Speak plain http to the hosts in `addresses`.
    pub plain_http: bool,
    /// Where the connection string of each hub is kept.
    pub hub_credentials: BTreeMap<HubName, KeySource>,
    /// How long after the start of one sweep the next one starts by itself; never, where it is none.
    pub sweep_every: Option<Duration>,
    /// Where the secrets of the allocation hook are kept; without one it is off.
    pub hook_secret: Option<KeySource>,
}

impl AzureSettings {
    pub(super) fn or(self, later: Self) -> Self {
        Self {
            authority_file: self.authority_file.or(later.authority_file),
            all_at: self.all_at.or(later.all_at),
            addresses: self.addresses.or(later.addresses),
            plain_http: self.plain_http.or(later.plain_http),
            hub_credentials: self.hub_credentials.or(later.hub_credentials),
            sweep_every: self.sweep_every.or(later.sweep_every),
            hook_secret: self.hook_secret.or(later.hook_secret),
        }
    }

    pub(super) fn resolve(self) -> Result<AzureConfig, ConfigError> {
        let host = |setting: &'static str, text: &str| {
            HostName::new(text).map_err(|error| value(setting, text, error.to_string()))
        };
        let all_at = self.all_at.map(|text| host("azure.all_at", &text)).transpose()?;
        let addresses = self.addresses.unwrap_or_default();
        if addresses.len() > OVERRIDES_MAX {
            let problem = format!("at most {OVERRIDES_MAX} hosts may have addresses of their own");
            return Err(value("azure.addresses", addresses.len(), problem));
        }
        let pair =
            |(of, at): (&String, &String)| Ok((host("azure.addresses", of)?, host("azure.addresses", at)?));
        let addresses = addresses.iter().map(pair).collect::<Result<_, ConfigError>>()?;
        let credential = |(hub, reference): (&String, &String)| {
            let setting = "azure.hub_credentials";
            // What is no host name may be the connection string itself.
            let name = HubName::parse(hub).map_err(|error| {
                value(setting, "(not shown)", format!("the name of a hub {}", error.problem))
            })?;
            let source = key_source(reference).map_err(|problem| value(setting, hub, problem))?;
            Ok((name, source))
        };
        let hub_credentials = self.hub_credentials.unwrap_or_default();
        let hub_credentials = hub_credentials.iter().map(credential).collect::<Result<_, ConfigError>>()?;
        let hook_secret = self.hook_secret.map(|reference| {
            key_source(&reference).map_err(|problem| value("azure.hook_secret", "(not shown)", problem))
        });
        Ok(AzureConfig {
            authority_file: self.authority_file,
            all_at,
            addresses,
            plain_http: self.plain_http.unwrap_or(false),
            hub_credentials,
            sweep_every: sweep_every(self.sweep_every.as_deref())?,
            hook_secret: hook_secret.transpose()?,
        })
    }
}

impl AzureConfig {
    /// How each host is reached.
    ///
    /// # Errors
    /// [`EndpointError`] where the certificate file cannot be used.
    pub fn endpoints(&self) -> Result<Endpoints, EndpointError> {
        let mut endpoints = Endpoints::public();
        if let Some(file) = &self.authority_file {
            endpoints = endpoints.trust_file(file)?;
        }
        if let Some(address) = &self.all_at {
            endpoints = endpoints.all_at(address.clone());
        }
        Ok(self.addresses.iter().fold(endpoints, |endpoints, (host, address)| {
            let (host, address) = (host.clone(), address.clone());
            if self.plain_http { endpoints.plain_at(host, address) } else { endpoints.at(host, address) }
        }))
    }
}

/// Reads how often to sweep: a number and its unit, or 0.
fn sweep_every(text: Option<&str>) -> Result<Option<Duration>, ConfigError> {
    let Some(text) = text else { return Ok(Some(SWEEP_EVERY)) };
    if text == "0" {
        return Ok(None);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let seconds = match (number.parse::<u64>(), unit) {
        (Ok(hours), "h") => hours.checked_mul(3_600),
        (Ok(minutes), "m") => minutes.checked_mul(60),
        _ => None,
    };
    match seconds.map(Duration::from_secs).filter(|every| SWEEP_RANGE.contains(every)) {
        Some(every) => Ok(Some(every)),
        None => Err(value("azure.sweep_every", text, "write 10m to 720h, as in 90m or 24h, or 0 for never")),
    }
}

/// The place that a reference to a credential names: `file:PATH` or `env:NAME`.
///
/// # Errors
/// A sentence that says how to write one. It does not repeat the reference, which may be a secret put there by mistake.
pub fn key_source(reference: &str) -> Result<KeySource, String> {
    match reference.split_once(':') {
        Some(("file", path)) if !path.is_empty() => Ok(KeySource::File(path.into())),
        Some(("env", name)) if !name.is_empty() => Ok(KeySource::Environment(name.to_owned())),
        _ => Err("the reference to a credential is neither file:PATH nor env:NAME".to_owned()),
    }
}
