//! Enrollments and enrollment groups: what DPS permits (DPS REST API, IndividualEnrollment and EnrollmentGroup).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::etag::Etag;
use super::fields::{Fields, Object, echo};
use super::id::is_device_id;
use super::refusal::DpsRefusal;
use super::twin::Twin;
use crate::auth::{DeviceKey, decode_key, mint_key};
use crate::clock::{Randomness, Time};
use crate::config::{InvalidReprovisionPolicy, Switches, WriteWithoutKeys};
use crate::version::is_version_since;

/// The first api-version that webhooks are asked in (DPS, custom allocation policies).
const WEBHOOK_VERSION_FIRST: &str = "2018-09-01";

/// Which of the two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Individual,
    Group,
}

impl Kind {
    /// The field that holds the ID.
    pub(crate) fn id_field(self) -> &'static str {
        match self {
            Kind::Individual => "registrationId",
            Kind::Group => "enrollmentGroupId",
        }
    }

    /// The field that holds the items of a bulk request.
    pub(crate) fn bulk_field(self) -> &'static str {
        match self {
            Kind::Individual => "enrollments",
            Kind::Group => "enrollmentGroups",
        }
    }

    /// What `x-ms-item-type` says of a query's rows.
    pub(crate) fn item_type(self) -> &'static str {
        match self {
            Kind::Individual => "Enrollment",
            Kind::Group => "EnrollmentGroup",
        }
    }

    pub(crate) fn not_found(self) -> DpsRefusal {
        match self {
            Kind::Individual => DpsRefusal::enrollment_not_found(),
            Kind::Group => DpsRefusal::group_not_found(),
        }
    }

    pub(crate) fn conflict(self) -> DpsRefusal {
        match self {
            Kind::Individual => DpsRefusal::new(409, 409_201, "Enrollment already exists."),
            Kind::Group => DpsRefusal::new(409, 409_202, "EnrollmentGroup already exists."),
        }
    }
}

/// How a device proves that it is who it says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Attestation {
    None,
    SymmetricKey {
        primary: DeviceKey,
        secondary: DeviceKey,
    },
    /// The fields of `tpm`. Stored and echoed; no device registers by it.
    Tpm(Box<Object>),
    /// The fields of `x509`. Likewise.
    X509(Box<Object>),
}

/// Who chooses the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Policy {
    Hashed,
    GeoLatency,
    Static,
    Custom,
}

impl Policy {
    fn parse(text: &str) -> Result<Self, DpsRefusal> {
        match text.to_ascii_lowercase().as_str() {
            "hashed" => Ok(Policy::Hashed),
            "geolatency" => Ok(Policy::GeoLatency),
            "static" => Ok(Policy::Static),
            "custom" => Ok(Policy::Custom),
            _ => Err(DpsRefusal::argument(format!(
                "`allocationPolicy` is `{text}`: write hashed, geoLatency, static or custom"
            ))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Policy::Hashed => "hashed",
            Policy::GeoLatency => "geoLatency",
            Policy::Static => "static",
            Policy::Custom => "custom",
        }
    }
}

/// What becomes of a device whose hub is no longer the one that its enrollment asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reprovision {
    Migrate,
    Reset,
    Never,
}

/// The custom allocation webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Webhook {
    pub(crate) url: String,
    pub(crate) api_version: String,
}

/// One enrollment of either kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Enrollment {
    pub(crate) id: Box<str>,
    pub(crate) device_id: Option<Box<str>>,
    pub(crate) attestation: Attestation,
    pub(crate) iot_edge: Option<bool>,
    pub(crate) hub: Option<Arc<str>>,
    pub(crate) hubs: Option<Arc<[Arc<str>]>>,
    pub(crate) policy: Option<Policy>,
    pub(crate) webhook: Option<Box<Webhook>>,
    pub(crate) initial_twin: Option<Box<Object>>,
    pub(crate) enabled: bool,
    pub(crate) reprovision: Option<Reprovision>,
    pub(crate) etag: Etag,
    pub(crate) created: Time,
    pub(crate) updated: Time,
    /// What the emulator does not know, echoed as it came.
    pub(crate) kept: Option<Box<Object>>,
}

/// What is shown of an enrollment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// Without keys: reads and queries.
    Read,
    /// With keys: answers to writes.
    Written,
    /// Without keys, with the inner etag, and without the webhook's query string: webhook bodies.
    Webhook,
}

/// What reading a body needs.
pub(crate) struct Surroundings<'a> {
    pub(crate) now: Time,
    pub(crate) random: &'a dyn Randomness,
    pub(crate) switches: &'a Switches,
    /// The hubs that enrollments may name.
    pub(crate) linked: &'a [Arc<str>],
}

impl Surroundings<'_> {
    fn linked(&self, host: &str) -> Result<Arc<str>, DpsRefusal> {
        let found = self.linked.iter().find(|hub| hub.eq_ignore_ascii_case(host)).cloned();
        found.ok_or_else(|| DpsRefusal::argument(format!("IoT hub `{host}` is not linked to this service.")))
    }
}

impl Enrollment {
    /// Reads a body. `former` is what it replaces.
    pub(crate) fn read(
        kind: Kind,
        id: &str,
        body: Object,
        former: Option<&Enrollment>,
        around: &Surroundings<'_>,
    ) -> Result<Self, DpsRefusal> {
        let mut fields = Fields::of(body);
        for server_set in
            [kind.id_field(), "registrationState", "etag", "createdDateTimeUtc", "lastUpdatedDateTimeUtc"]
        {
            fields.take(server_set);
        }
        let wrong = DpsRefusal::argument;
        let device_id = match kind {
            Kind::Individual => fields.text("deviceId").map_err(wrong)?,
            Kind::Group => None,
        };
        if let Some(id) = device_id.as_deref().filter(|id| !is_device_id(id)) {
            return Err(DpsRefusal::argument(format!("Invalid deviceId `{id}`")));
        }
        let attestation = read_attestation(&mut fields, former, around)?;
        let iot_edge = match fields.object("capabilities").map_err(wrong)? {
            None => None,
            Some(object) => {
                let mut capabilities = Fields::of(object);
                let edge = capabilities.flag("iotEdge").map_err(wrong)?;
                fields.put_back("capabilities", capabilities);
                Some(edge.unwrap_or(false))
            }
        };
        let hub = fields.text("iotHubHostName").map_err(wrong)?;
        let hub = hub.filter(|host| !host.is_empty()).map(|host| around.linked(&host)).transpose()?;
        let hubs = match fields.array("iotHubs").map_err(wrong)? {
            None => None,
            Some(hubs) => Some(
                hubs.iter()
                    .map(|hub| match hub.as_str() {
                        Some(host) => around.linked(host),
                        None => Err(wrong("`iotHubs` must be an array of strings".to_owned())),
                    })
                    .collect::<Result<Arc<[_]>, _>>()?,
            ),
        };
        let policy = fields.text("allocationPolicy").map_err(wrong)?;
        let policy = policy.map(|text| Policy::parse(&text)).transpose()?;
        let webhook = read_webhook(&mut fields)?;
        if policy == Some(Policy::Custom) && webhook.is_none() {
            return Err(wrong("`allocationPolicy` custom needs `customAllocationDefinition`".to_owned()));
        }
        let initial_twin = fields.object("initialTwin").map_err(wrong)?.map(Box::new);
        initial_twin.as_deref().map_or(Ok(()), Twin::check_initial).map_err(wrong)?;
        let enabled = match fields.text("provisioningStatus").map_err(wrong)?.as_deref() {
            None => true,
            Some(text) if text.eq_ignore_ascii_case("enabled") => true,
            Some(text) if text.eq_ignore_ascii_case("disabled") => false,
            Some(text) => {
                return Err(wrong(format!("`provisioningStatus` is `{text}`: write enabled or disabled")));
            }
        };
        let reprovision = read_reprovision(&mut fields, around.switches)?;
        Ok(Self {
            id: former.map_or_else(|| id.into(), |former| former.id.clone()),
            device_id: device_id.map(Into::into),
            attestation,
            iot_edge,
            hub,
            hubs,
            policy,
            webhook,
            initial_twin,
            enabled,
            reprovision,
            etag: Etag::mint(around.random),
            created: former.map_or(around.now, |former| former.created),
            updated: around.now,
            kept: fields.rest(),
        })
    }

    /// The enrollment as JSON.
    pub(crate) fn show(&self, kind: Kind, view: View) -> Object {
        let mut shown = Object::new();
        let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
        put(kind.id_field(), json!(self.id));
        if let Some(id) = &self.device_id {
            put("deviceId", json!(id));
        }
        put("attestation", self.attestation.show(view == View::Written));
        if let Some(edge) = self.iot_edge {
            put("capabilities", json!({ "iotEdge": edge }));
        }
        if let Some(hub) = &self.hub {
            put("iotHubHostName", json!(hub));
        }
        if let Some(hubs) = &self.hubs {
            put("iotHubs", json!(hubs));
        }
        if let Some(policy) = self.policy {
            put("allocationPolicy", json!(policy.name()));
        }
        if let Some(webhook) = &self.webhook {
            let url = match (view, webhook.url.split_once('?')) {
                (View::Webhook, Some((path, _))) => format!("{path}?****"),
                _ => webhook.url.clone(),
            };
            let definition = json!({ "webhookUrl": url, "apiVersion": webhook.api_version });
            put("customAllocationDefinition", definition);
        }
        if let Some(twin) = &self.initial_twin {
            put("initialTwin", Value::Object((**twin).clone()));
        }
        put("provisioningStatus", json!(if self.enabled { "enabled" } else { "disabled" }));
        if let Some(reprovision) = self.reprovision {
            let (update, migrate) = match reprovision {
                Reprovision::Migrate => (true, true),
                Reprovision::Reset => (true, false),
                Reprovision::Never => (false, false),
            };
            put("reprovisionPolicy", json!({ "updateHubAssignment": update, "migrateDeviceData": migrate }));
        }
        put("etag", json!(if view == View::Webhook { self.etag.quoted() } else { self.etag.dps() }));
        put("createdDateTimeUtc", json!(self.created.to_string()));
        put("lastUpdatedDateTimeUtc", json!(self.updated.to_string()));
        echo(&mut shown, self.kept.as_deref());
        shown
    }

    /// The policy in force: entries without one behave as *migrate* since api-version 2018-09-01-preview.
    pub(crate) fn reprovision(&self) -> Reprovision {
        self.reprovision.unwrap_or(Reprovision::Migrate)
    }
}

impl Attestation {
    /// The primary key, of symmetric-key attestation.
    pub(crate) fn primary_key(&self) -> Option<&str> {
        match self {
            Attestation::SymmetricKey { primary, .. } => Some(primary),
            _ => None,
        }
    }

    /// As JSON, with keys or without.
    pub(crate) fn show(&self, keys: bool) -> Value {
        match self {
            Attestation::None => json!({ "type": "none" }),
            Attestation::SymmetricKey { primary, secondary } if keys => json!({
                "type": "symmetricKey",
                "symmetricKey": { "primaryKey": primary, "secondaryKey": secondary },
            }),
            Attestation::SymmetricKey { .. } => json!({ "type": "symmetricKey" }),
            Attestation::Tpm(tpm) => json!({ "type": "tpm", "tpm": tpm }),
            Attestation::X509(x509) => json!({ "type": "x509", "x509": x509 }),
        }
    }
}

fn read_attestation(
    fields: &mut Fields,
    former: Option<&Enrollment>,
    around: &Surroundings<'_>,
) -> Result<Attestation, DpsRefusal> {
    let wrong = DpsRefusal::argument;
    let object = fields.object("attestation").map_err(wrong)?;
    let mut attestation = Fields::of(object.ok_or_else(|| wrong("`attestation` is missing".to_owned()))?);
    let told = attestation.text("type").map_err(wrong)?.unwrap_or_default();
    let read = match told.to_ascii_lowercase().as_str() {
        "none" => Attestation::None,
        "symmetrickey" => {
            let keys = attestation.object("symmetricKey").map_err(wrong)?.unwrap_or_default();
            read_keys(Fields::of(keys), former, around)?
        }
        "tpm" => {
            let tpm = attestation.object("tpm").map_err(wrong)?.unwrap_or_default();
            if tpm.get("endorsementKey").and_then(Value::as_str).is_none_or(str::is_empty) {
                return Err(DpsRefusal::new(400, 400_201, "Invalid endorsement key."));
            }
            Attestation::Tpm(Box::new(tpm))
        }
        "x509" => match attestation.object("x509").map_err(wrong)? {
            Some(x509) if !x509.is_empty() => Attestation::X509(Box::new(x509)),
            _ => return Err(wrong("`attestation.x509` is missing".to_owned())),
        },
        _ => {
            return Err(wrong(format!(
                "`attestation.type` is `{told}`: write none, tpm, x509 or symmetricKey"
            )));
        }
    };
    // Kept, they would be shown to readers and webhooks, keys and all.
    if let Some(other) = ["symmetricKey", "tpm", "x509"].into_iter().find(|other| attestation.holds(other)) {
        return Err(wrong(format!("`attestation.{other}` does not belong to `attestation.type` {told}")));
    }
    fields.put_back("attestation", attestation);
    Ok(read)
}

fn read_keys(
    mut keys: Fields,
    former: Option<&Enrollment>,
    around: &Surroundings<'_>,
) -> Result<Attestation, DpsRefusal> {
    let mut key = |name: &str| match keys.text(name).map_err(DpsRefusal::argument)? {
        Some(text) if text.is_empty() => Ok(None),
        // The text is not told: it is a key, if a bad one.
        Some(text) if decode_key(&text).is_none() => {
            Err(DpsRefusal::argument(format!("`{name}` is not base64 of 16 to 64 bytes")))
        }
        other => Ok(other.map(DeviceKey::from)),
    };
    let (primary, secondary) = (key("primaryKey")?, key("secondaryKey")?);
    let stored = match former.map(|former| &former.attestation) {
        Some(Attestation::SymmetricKey { primary, secondary }) => Some((primary, secondary)),
        _ => None,
    };
    let without = primary.is_none() || secondary.is_none();
    let mint = || mint_key(around.random);
    Ok(match (stored, around.switches.write_without_keys) {
        (Some(_), WriteWithoutKeys::Refuse) if without => {
            return Err(DpsRefusal::argument("`attestation.symmetricKey` must hold both keys on update"));
        }
        (Some((first, second)), WriteWithoutKeys::Keep) => Attestation::SymmetricKey {
            primary: primary.unwrap_or_else(|| first.clone()),
            secondary: secondary.unwrap_or_else(|| second.clone()),
        },
        _ => Attestation::SymmetricKey {
            primary: primary.unwrap_or_else(mint),
            secondary: secondary.unwrap_or_else(mint),
        },
    })
}

fn read_webhook(fields: &mut Fields) -> Result<Option<Box<Webhook>>, DpsRefusal> {
    let wrong = DpsRefusal::argument;
    let Some(object) = fields.object("customAllocationDefinition").map_err(wrong)? else { return Ok(None) };
    let mut definition = Fields::of(object);
    let url = definition.text("webhookUrl").map_err(wrong)?.unwrap_or_default();
    if !(url.starts_with("https://") || url.starts_with("http://")) {
        return Err(wrong("`customAllocationDefinition.webhookUrl` must be a URL".to_owned()));
    }
    let api_version = definition.text("apiVersion").map_err(wrong)?.unwrap_or_default();
    if !is_version_since(&api_version, WEBHOOK_VERSION_FIRST) {
        return Err(wrong(format!(
            "`customAllocationDefinition.apiVersion` must be {WEBHOOK_VERSION_FIRST}-preview or later"
        )));
    }
    fields.put_back("customAllocationDefinition", definition);
    Ok(Some(Box::new(Webhook { url, api_version })))
}

fn read_reprovision(fields: &mut Fields, switches: &Switches) -> Result<Option<Reprovision>, DpsRefusal> {
    let wrong = DpsRefusal::argument;
    let Some(object) = fields.object("reprovisionPolicy").map_err(wrong)? else { return Ok(None) };
    let mut policy = Fields::of(object);
    let update = policy.flag("updateHubAssignment").map_err(wrong)?.unwrap_or(true);
    let migrate = policy.flag("migrateDeviceData").map_err(wrong)?.unwrap_or(true);
    fields.put_back("reprovisionPolicy", policy);
    Ok(Some(match (update, migrate) {
        (true, true) => Reprovision::Migrate,
        (true, false) => Reprovision::Reset,
        (false, false) => Reprovision::Never,
        (false, true) => match switches.invalid_reprovision_policy {
            InvalidReprovisionPolicy::Never => Reprovision::Never,
            InvalidReprovisionPolicy::BadRequest => {
                return Err(wrong(
                    "`reprovisionPolicy` cannot migrate device data without updating the hub assignment"
                        .to_owned(),
                ));
            }
        },
    }))
}
