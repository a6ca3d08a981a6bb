//! What a configuration must hold before anything listens.

use std::collections::BTreeSet;

use thiserror::Error;

use super::{Config, PolicyConfig};
use crate::auth::decode_key;

/// Most hubs of one configuration: a DPS instance is linked to at most 50 (DPS, limits), and a few instances do.
const HUBS_MAX: usize = 1_000;

/// Most simulated devices of one fleet: as many as a DPS instance holds registrations (DPS, limits).
const FLEET_DEVICES_MAX: u32 = 1_000_000;

/// The longest that anything may be made to take, in milliseconds: a day.
const WAIT_MS_MAX: u64 = 86_400_000;

/// Why a configuration is refused. No text holds a key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// No TOML, an unknown key, or a value of another type.
    #[error("line {line}: {problem}")]
    Syntax {
        /// Where, counted from 1; 0 where the parser does not say.
        line: usize,
        /// What.
        problem: String,
    },
    /// A host name that is none.
    #[error("`{host}` is no host name: write letters, digits, `-` and `.`, without a scheme or a port")]
    Host {
        /// As it was written.
        host: String,
    },
    /// Two services of one host, or two DPS instances of one ID scope.
    #[error("`{name}` stands there twice: each host and each ID scope belongs to one service")]
    Twice {
        /// The host or ID scope.
        name: String,
    },
    /// An ID scope that could not stand in a path.
    #[error("`{id_scope}` is no ID scope: write letters and digits, for example 0ne00000001")]
    IdScope {
        /// As it was written.
        id_scope: String,
    },
    /// A hub that is linked and not emulated.
    #[error("DPS `{id_scope}` is linked to `{host}`, which is no hub of this file: add it under [[hubs]]")]
    UnknownHub {
        /// The DPS instance.
        id_scope: String,
        /// The hub.
        host: String,
    },
    /// A key that no service takes.
    #[error("policy `{policy}` of `{host}` has a key that is not base64 of 16 to 64 bytes")]
    Key {
        /// The service.
        host: String,
        /// The policy.
        policy: String,
    },
    /// A number out of its bounds.
    #[error("`{field}` is {value}: write {least} to {most}")]
    OutOfBounds {
        /// Which.
        field: &'static str,
        /// As it was written.
        value: String,
        /// The least it may be.
        least: String,
        /// The most it may be.
        most: String,
    },
    /// A fleet of a DPS instance that is not emulated.
    #[error("a fleet registers with `{id_scope}`, which is no ID scope of this file: add it under [[dps]]")]
    UnknownScope {
        /// The ID scope.
        id_scope: String,
    },
    /// A fleet's prefix that makes no registration ID.
    #[error(
        "the fleet prefix `{prefix}` makes no registration ID: write at most 100 letters, digits, - . _ :"
    )]
    Prefix {
        /// As it was written.
        prefix: String,
    },
}

/// A host name, lower-cased; none where it is none.
pub(crate) fn host_name(text: &str) -> Option<String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let whole = !text.is_empty() && text.len() <= 253 && text.bytes().all(legal);
    (whole && !text.starts_with(['.', '-']) && !text.ends_with(['.', '-'])).then(|| text.to_ascii_lowercase())
}

fn bounded<T: PartialOrd + ToString>(
    field: &'static str,
    value: T,
    least: T,
    most: T,
) -> Result<(), ConfigError> {
    // Not a number compares with nothing, and is out of bounds.
    if value >= least && value <= most {
        return Ok(());
    }
    let (value, least, most) = (value.to_string(), least.to_string(), most.to_string());
    Err(ConfigError::OutOfBounds { field, value, least, most })
}

impl Config {
    /// Checks what types cannot say.
    pub fn check(&self) -> Result<(), ConfigError> {
        bounded("throttle.factor", self.throttle.factor, 0.000_001, 1_000_000.0)?;
        bounded("webhook.timeout_ms", self.webhook.timeout_ms, 1, WAIT_MS_MAX)?;
        bounded("switches.query_page_default", self.switches.query_page_default, 1, 10_000)?;
        bounded("switches.query_page_max", self.switches.query_page_max, 1, 10_000)?;
        bounded("hubs", self.hubs.len(), 0, HUBS_MAX)?;
        let mut names = BTreeSet::new();
        let mut once = |name: String| match names.insert(name.clone()) {
            true => Ok(()),
            false => Err(ConfigError::Twice { name }),
        };
        let host = |text: &str| host_name(text).ok_or_else(|| ConfigError::Host { host: text.to_owned() });
        for name in &self.names {
            host(name)?;
        }
        for hub in &self.hubs {
            once(host(&hub.host)?)?;
            bounded("hubs.units", hub.units, 1, 200)?;
            bounded("hubs.query_lag_ms", hub.query_lag_ms, 0, WAIT_MS_MAX)?;
            check_policies(&hub.host, &hub.policies)?;
        }
        for dps in &self.dps {
            once(host(&dps.host)?)?;
            once(dps.id_scope.to_ascii_lowercase())?;
            let legal = |byte: u8| byte.is_ascii_alphanumeric();
            if dps.id_scope.is_empty() || dps.id_scope.len() > 64 || !dps.id_scope.bytes().all(legal) {
                return Err(ConfigError::IdScope { id_scope: dps.id_scope.clone() });
            }
            bounded("dps.hubs", dps.hubs.len(), 0, 50)?;
            bounded("dps.assigning_ms", dps.assigning_ms, 0, WAIT_MS_MAX)?;
            bounded("dps.overlap_ms", dps.overlap_ms, 0, WAIT_MS_MAX)?;
            bounded("dps.retry_after_s", dps.retry_after_s, 0, WAIT_MS_MAX / 1_000)?;
            for linked in &dps.hubs {
                bounded("dps.hubs.weight", linked.weight, 1, 1_000)?;
                if !self.hubs.iter().any(|hub| hub.host.eq_ignore_ascii_case(&linked.host)) {
                    let (id_scope, host) = (dps.id_scope.clone(), linked.host.clone());
                    return Err(ConfigError::UnknownHub { id_scope, host });
                }
            }
            check_policies(&dps.host, &dps.policies)?;
        }
        for profile in &self.profiles {
            bounded("profiles.ttl", profile.ttl, 0, i32::MAX as u32)?;
            for endpoint in &profile.endpoints {
                bounded("profiles.endpoints.weight", endpoint.weight, 1, 1_000)?;
            }
        }
        for fleet in &self.fleets {
            bounded("fleets.devices", fleet.devices, 0, FLEET_DEVICES_MAX)?;
            bounded("fleets.back_off.first_ms", fleet.back_off.first_ms, 1, WAIT_MS_MAX)?;
            bounded("fleets.back_off.max_ms", fleet.back_off.max_ms, 1, WAIT_MS_MAX)?;
            bounded("fleets.back_off.start_spread_ms", fleet.back_off.start_spread_ms, 0, WAIT_MS_MAX)?;
            if !self.dps.iter().any(|dps| dps.id_scope.eq_ignore_ascii_case(&fleet.id_scope)) {
                return Err(ConfigError::UnknownScope { id_scope: fleet.id_scope.clone() });
            }
            let made = crate::world::is_registration_id(&format!("{}000000", fleet.prefix));
            if !made || fleet.prefix.len() > 100 {
                return Err(ConfigError::Prefix { prefix: fleet.prefix.clone() });
            }
        }
        Ok(())
    }
}

fn check_policies(host: &str, policies: &[PolicyConfig]) -> Result<(), ConfigError> {
    for policy in policies {
        let keys = std::iter::once(&policy.primary_key).chain(&policy.secondary_key);
        if keys.into_iter().any(|key| decode_key(key.expose()).is_none()) {
            return Err(ConfigError::Key { host: host.to_owned(), policy: policy.name.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#"
        [[hubs]]
        host = "Hub-A.azure-devices.net"
        [[dps]]
        id_scope = "0ne00000001"
        host = "dps-a.azure-devices-provisioning.net"
        hubs = [{ host = "hub-a.azure-devices.net", weight = 2 }]
        [[dps.policies]]
        name = "provisioningserviceowner"
        primary_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    "#;

    fn problem(text: &str) -> ConfigError {
        Config::from_toml(text).unwrap_err()
    }

    #[test]
    fn a_sound_file_is_taken_and_shows_no_key() {
        let config = Config::from_toml(SOUND).unwrap();
        assert!(!format!("{config:?}").contains("AAECAw"));
    }

    #[test]
    fn the_sample_is_taken() {
        Config::from_toml(include_str!("../../../../deploy/emulator.toml")).unwrap();
    }

    #[test]
    fn mistakes_are_named() {
        assert!(matches!(problem("listen = 1"), ConfigError::Syntax { line: 1, .. }));
        for hidden in [
            "listen_http = 'topsecret'",
            "[throttle]\nfactor = 'topsecret'",
            "hubs = ['topsecret']",
            "[[hubs]]\nhost = 'hub'\nunits = 'topsecret'",
            "[switches]\nmethod_missing = 'topsecret'",
            "[[bearers]]\nread_only = 'topsecret'",
            "[control]\nenabled = 'topsecret'",
            "listen = 'topsecret",
        ] {
            let told = problem(hidden).to_string();
            assert!(told.starts_with("line ") && !told.contains("topsecret"), "{told}");
        }
        assert!(problem("[throttle]\nfactor = 'x'").to_string().contains("`factor`"));
        assert!(problem("nonesuch = 1").to_string().contains("`nonesuch`"));
        assert!(matches!(problem("[throttle]\nfactor = 0.0"), ConfigError::OutOfBounds { .. }));
        assert!(matches!(problem("[throttle]\nfactor = nan"), ConfigError::OutOfBounds { .. }));
        let twice = SOUND.replace("dps-a.azure-devices-provisioning.net", "hub-a.azure-devices.net");
        assert!(matches!(problem(&twice), ConfigError::Twice { .. }));
        let unlinked = SOUND.replace("host = \"hub-a", "host = \"hub-b");
        assert!(matches!(problem(&unlinked), ConfigError::UnknownHub { .. }));
        let port = SOUND.replace("Hub-A.azure-devices.net", "hub-a:8443");
        assert!(matches!(problem(&port), ConfigError::Host { .. }));
    }

    #[test]
    fn a_bad_key_is_not_told() {
        let told = problem(&SOUND.replace("AAECAwQF", "!!hidden")).to_string();
        assert!(told.contains("provisioningserviceowner") && !told.contains("hidden"), "{told}");
    }
}
