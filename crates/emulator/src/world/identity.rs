//! Identities of devices and of modules (IoT Hub, identity registry).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::etag::Etag;
use super::fields::{Fields, Object, echo};
use super::refusal::HubRefusal;
use super::twin::Twin;
use crate::auth::{DeviceKey, decode_key, mint_key};
use crate::clock::{Randomness, Time};

/// How an identity proves itself to its hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Authentication {
    Sas { primary: DeviceKey, secondary: DeviceKey },
    SelfSigned { primary: Option<Box<str>>, secondary: Option<Box<str>> },
    CertificateAuthority,
    None,
}

/// One identity, with its twin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) generation: u64,
    pub(crate) etag: Etag,
    pub(crate) enabled: bool,
    pub(crate) status_reason: Option<Box<str>>,
    pub(crate) status_updated: Time,
    #[serde(skip)]
    pub(crate) connected: bool,
    pub(crate) connection_updated: Time,
    pub(crate) last_activity: Time,
    pub(crate) authentication: Authentication,
    pub(crate) iot_edge: bool,
    pub(crate) twin: Twin,
    pub(crate) modules: Option<BTreeMap<Box<str>, Identity>>,
    /// What the emulator does not know, echoed as it came.
    pub(crate) kept: Option<Box<Object>>,
}

/// Which identity: a device, or a module of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Of<'a> {
    pub(crate) device: &'a str,
    pub(crate) module: Option<&'a str>,
}

impl Identity {
    fn fresh(authentication: Authentication, twin: Twin, random: &dyn Randomness) -> Self {
        let mut generation = [0; 8];
        random.fill(&mut generation);
        Self {
            generation: u64::from_le_bytes(generation) >> 4,
            etag: Etag::mint(random),
            enabled: true,
            status_reason: None,
            status_updated: Time::NEVER,
            connected: false,
            connection_updated: Time::NEVER,
            last_activity: Time::NEVER,
            authentication,
            iot_edge: false,
            twin,
            modules: None,
            kept: None,
        }
    }

    /// The identity that DPS creates.
    pub(crate) fn of_dps(
        keys: (DeviceKey, DeviceKey),
        iot_edge: Option<bool>,
        initial_twin: Option<&Object>,
        random: &dyn Randomness,
        now: Time,
    ) -> Self {
        let authentication = Authentication::Sas { primary: keys.0, secondary: keys.1 };
        let iot_edge = iot_edge.unwrap_or(false);
        Self { iot_edge, ..Self::fresh(authentication, Twin::new(initial_twin, now), random) }
    }

    /// This identity, as another hub gets it: twin, capabilities and keys, and nothing of a connection.
    pub(crate) fn moved(self, random: &dyn Randomness, now: Time) -> Self {
        let fresh = Self::fresh(Authentication::None, Twin::new(None, now), random);
        Self {
            generation: fresh.generation,
            etag: fresh.etag,
            connected: false,
            connection_updated: Time::NEVER,
            last_activity: Time::NEVER,
            ..self
        }
    }

    /// Reads a body. A write replaces: what is left out is gone, and left out keys are minted anew.
    pub(crate) fn read(
        body: Object,
        former: Option<&Identity>,
        random: &dyn Randomness,
        now: Time,
    ) -> Result<Self, HubRefusal> {
        let wrong = HubRefusal::argument;
        let mut fields = Fields::of(body);
        for server_set in [
            "deviceId",
            "moduleId",
            "id",
            "importMode",
            "generationId",
            "etag",
            "eTag",
            "connectionState",
            "connectionStateUpdatedTime",
            "statusUpdatedTime",
            "lastActivityTime",
            "cloudToDeviceMessageCount",
            "twinETag",
            "tags",
            "properties",
        ] {
            fields.take(server_set);
        }
        let enabled = match fields.text("status").map_err(wrong)?.as_deref() {
            None => true,
            Some(text) if text.eq_ignore_ascii_case("enabled") => true,
            Some(text) if text.eq_ignore_ascii_case("disabled") => false,
            Some(text) => return Err(wrong(format!("`status` is `{text}`: write enabled or disabled"))),
        };
        let status_reason = fields.text("statusReason").map_err(wrong)?.map(Into::into);
        let authentication = fields.object("authentication").map_err(wrong)?.unwrap_or_default();
        let authentication = read_authentication(Fields::of(authentication), random)?;
        let iot_edge = match fields.object("capabilities").map_err(wrong)? {
            None => false,
            Some(capabilities) => Fields::of(capabilities).flag("iotEdge").map_err(wrong)?.unwrap_or(false),
        };
        let mut identity = match former {
            Some(former) => former.clone(),
            None => Self::fresh(Authentication::None, Twin::new(None, now), random),
        };
        if former.is_some() && identity.enabled != enabled {
            identity.status_updated = now;
        }
        identity.etag = Etag::mint(random);
        identity.enabled = enabled;
        identity.status_reason = status_reason;
        identity.authentication = authentication;
        identity.iot_edge = iot_edge;
        identity.kept = fields.rest();
        Ok(identity)
    }

    fn connection(&self) -> &'static str {
        if self.connected { "Connected" } else { "Disconnected" }
    }

    fn status(&self) -> &'static str {
        if self.enabled { "enabled" } else { "disabled" }
    }

    /// Device or module as the registry shows it.
    pub(crate) fn show(&self, of: Of<'_>) -> Object {
        let mut shown = Object::new();
        let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
        put("deviceId", json!(of.device));
        put("generationId", json!(self.generation.to_string()));
        put("etag", json!(self.etag.hub()));
        put("connectionState", json!(self.connection()));
        put("connectionStateUpdatedTime", json!(self.connection_updated.to_string()));
        put("lastActivityTime", json!(self.last_activity.to_string()));
        put("cloudToDeviceMessageCount", json!(0));
        put("authentication", self.authentication.show());
        match of.module {
            Some(module) => {
                put("moduleId", json!(module));
                put("managedBy", Value::Null);
            }
            None => {
                put("status", json!(self.status()));
                put("statusReason", json!(self.status_reason));
                put("statusUpdatedTime", json!(self.status_updated.to_string()));
                put("capabilities", json!({ "iotEdge": self.iot_edge }));
            }
        }
        echo(&mut shown, self.kept.as_deref());
        shown
    }

    /// The twin, with what it shows of the identity.
    pub(crate) fn show_twin(&self, of: Of<'_>) -> Object {
        let mut shown = Object::new();
        let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
        put("deviceId", json!(of.device));
        if let Some(module) = of.module {
            put("moduleId", json!(module));
        }
        put("etag", json!(self.twin.etag()));
        put("deviceEtag", json!(self.etag.hub()));
        put("status", json!(self.status()));
        if let Some(reason) = &self.status_reason {
            put("statusReason", json!(reason));
        }
        put("statusUpdateTime", json!(self.status_updated.to_string()));
        put("connectionState", json!(self.connection()));
        put("lastActivityTime", json!(self.last_activity.to_string()));
        put("cloudToDeviceMessageCount", json!(0));
        put("authenticationType", json!(self.authentication.name()));
        let (primary, secondary) = match &self.authentication {
            Authentication::SelfSigned { primary, secondary } => (primary.as_deref(), secondary.as_deref()),
            _ => (None, None),
        };
        // Capitalised on the live service, whatever the documents say.
        put("x509Thumbprint", json!({ "PrimaryThumbprint": primary, "SecondaryThumbprint": secondary }));
        put("modelId", json!(""));
        put("version", json!(self.twin.version + 1));
        if of.module.is_none() {
            put("capabilities", json!({ "iotEdge": self.iot_edge }));
        }
        put("tags", self.twin.tags());
        put("properties", self.twin.properties());
        shown
    }

    /// A value of the twin by its path, for queries.
    pub(crate) fn find(&self, device: &str, path: &[&str]) -> Option<Value> {
        Some(match path {
            ["deviceId"] => json!(device),
            ["etag"] => json!(self.twin.etag()),
            ["deviceEtag"] => json!(self.etag.hub()),
            ["status"] => json!(self.status()),
            ["statusReason"] => json!(self.status_reason.as_deref()?),
            ["connectionState"] => json!(self.connection()),
            ["lastActivityTime"] => json!(self.last_activity.to_string()),
            ["authenticationType"] => json!(self.authentication.name()),
            ["version"] => json!(self.twin.version + 1),
            ["capabilities"] => json!({ "iotEdge": self.iot_edge }),
            ["capabilities", "iotEdge"] => json!(self.iot_edge),
            _ => return self.twin.find(path),
        })
    }
}

impl Authentication {
    fn name(&self) -> &'static str {
        match self {
            Authentication::Sas { .. } => "sas",
            Authentication::SelfSigned { .. } => "selfSigned",
            Authentication::CertificateAuthority => "certificateAuthority",
            Authentication::None => "none",
        }
    }

    fn show(&self) -> Value {
        let (mut keys, mut thumbprints) = ((None, None), (None, None));
        match self {
            Authentication::Sas { primary, secondary } => keys = (Some(primary), Some(secondary)),
            Authentication::SelfSigned { primary, secondary } => {
                thumbprints = (primary.as_ref(), secondary.as_ref());
            }
            _ => {}
        }
        json!({
            "symmetricKey": { "primaryKey": keys.0, "secondaryKey": keys.1 },
            "x509Thumbprint": { "primaryThumbprint": thumbprints.0, "secondaryThumbprint": thumbprints.1 },
            "type": self.name(),
        })
    }
}

fn read_authentication(mut fields: Fields, random: &dyn Randomness) -> Result<Authentication, HubRefusal> {
    let wrong = HubRefusal::argument;
    let mut keys = Fields::of(fields.object("symmetricKey").map_err(wrong)?.unwrap_or_default());
    let mut key = |name: &str| match keys.text(name).map_err(wrong)? {
        // Empty means: generate it. So Node's SDK creates every device.
        Some(text) if text.is_empty() => Ok(None),
        Some(text) if decode_key(&text).is_none() => {
            Err(wrong(format!("`{name}` is not base64 of 16 to 64 bytes")))
        }
        other => Ok(other.map(DeviceKey::from)),
    };
    let keys = (key("primaryKey")?, key("secondaryKey")?);
    let mut thumbprints = Fields::of(fields.object("x509Thumbprint").map_err(wrong)?.unwrap_or_default());
    let mut thumbprint = |name: &str| {
        let text = thumbprints.text(name).map_err(wrong)?;
        Ok::<_, HubRefusal>(text.filter(|text| !text.is_empty()).map(Box::<str>::from))
    };
    let thumbprints = (thumbprint("primaryThumbprint")?, thumbprint("secondaryThumbprint")?);
    let told = fields.text("type").map_err(wrong)?.unwrap_or_default().to_ascii_lowercase();
    let told = match told.as_str() {
        "" if thumbprints.0.is_some() || thumbprints.1.is_some() => "selfsigned",
        "" => "sas",
        told => told,
    };
    Ok(match told {
        "sas" => match keys {
            (Some(primary), Some(secondary)) => Authentication::Sas { primary, secondary },
            (None, None) => Authentication::Sas { primary: mint_key(random), secondary: mint_key(random) },
            _ => return Err(wrong("`symmetricKey` must hold both keys, or neither".to_owned())),
        },
        "selfsigned" => Authentication::SelfSigned { primary: thumbprints.0, secondary: thumbprints.1 },
        "certificateauthority" => Authentication::CertificateAuthority,
        "none" => Authentication::None,
        other => return Err(wrong(format!("`authentication.type` is `{other}`: no hub knows it"))),
    })
}
