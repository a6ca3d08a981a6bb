//! The shapes in which Azure says no.
//!
//! - DPS: `{"errorCode":404201,"trackingId":…,"message":…}`, and `x-ms-error-code` in newer versions.
//! - IoT Hub, registry and twins: `{"Message":"ErrorCode:DeviceNotFound;…","ExceptionMessage":"Tracking ID:…"}`.
//! - IoT Hub, direct methods: the same, with a JSON text like DPS's in `Message`.
//! - IoT Hub, others: like DPS's. All of the hub's carry the header `iothub-errorcode` with a name.
//! - ARM: `{"error":{"code":"ResourceNotFound","message":…}}`.

use std::time::Duration;

use http::HeaderMap;
use serde_json::{Map, Value};

use super::code;
use super::{NAME_CHARS_MAX, masked};

/// Header with IoT Hub's name of an error.
const HUB_NAME: &str = "iothub-errorcode";
/// Header with the newer DPS's code of an error.
const DPS_CODE: &str = "x-ms-error-code";
/// How deep JSON texts within JSON texts are read: direct methods have one.
const NESTING_MAX: u32 = 2;
/// Longest wait in words that is believed, in seconds.
const WORDS_WAIT_MAX_S: u64 = 600;

/// What could be read of a refusal.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) code: Option<u32>,
    pub(super) name: Option<String>,
    pub(super) message: String,
    pub(super) tracking_id: Option<String>,
    /// True where a name stands where only Azure's services put one: in their headers, or in ARM's `error.code`.
    is_named: bool,
}

impl Envelope {
    /// True where this is an error of the service itself, and of this status. A page of a proxy or a gateway has no
    /// number, or one that does not fit.
    pub(super) fn is_of_service(&self, status: u16) -> bool {
        match self.code {
            Some(code) => code / 1_000 == u32::from(status),
            None => self.is_named,
        }
    }
}

/// Reads in the order of trust: name in the header, number in the body, `ErrorCode:` before the message.
pub(super) fn read(headers: &HeaderMap, body: &[u8]) -> Envelope {
    let mut found = Envelope::default();
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(object)) => of_object(&object, 0, &mut found),
        Ok(Value::String(text)) => of_message(&text, 0, &mut found),
        _ => found.message = String::from_utf8_lossy(body.get(..4_096).unwrap_or(body)).into_owned(),
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let named = header(HUB_NAME).or_else(|| header(DPS_CODE)).filter(|name| !name.is_empty());
    if let Some(name) = named {
        found.is_named = true;
        match (name.parse().ok(), code::number_of(name)) {
            (Some(number), _) => found.code = Some(number),
            (None, number) => {
                found.name = Some(masked(name, NAME_CHARS_MAX));
                found.code = number.or(found.code);
            }
        }
    }
    if found.code.is_none() {
        found.code = found.name.as_deref().and_then(code::number_of);
    }
    found
}

/// The value of a key, however it is capitalised: the hub writes `Message`, DPS `message`.
fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn of_object(object: &Map<String, Value>, depth: u32, found: &mut Envelope) {
    if let Some(Value::Object(inner)) = field(object, "error") {
        found.is_named |= matches!(field(inner, "code"), Some(Value::String(code)) if !code.is_empty());
        return of_object(inner, depth, found);
    }
    match field(object, "errorCode").or_else(|| field(object, "code")) {
        Some(Value::Number(number)) => {
            found.code = number.as_u64().and_then(|number| u32::try_from(number).ok())
        }
        Some(Value::String(text)) => match text.parse() {
            Ok(number) => found.code = Some(number),
            Err(_) => found.name = Some(masked(text, NAME_CHARS_MAX)),
        },
        _ => {}
    }
    if let Some(Value::String(id)) = field(object, "trackingId") {
        found.tracking_id = Some(masked(id, NAME_CHARS_MAX));
    }
    if let Some(Value::String(text)) = field(object, "exceptionMessage")
        && let Some(id) = tracking_id(text)
    {
        found.tracking_id = Some(id);
    }
    if let Some(Value::String(text)) = field(object, "message") {
        of_message(text, depth, found);
    }
}

fn of_message(text: &str, depth: u32, found: &mut Envelope) {
    if depth < NESTING_MAX
        && text.trim_start().starts_with('{')
        && let Ok(Value::Object(inner)) = serde_json::from_str::<Value>(text)
    {
        return of_object(&inner, depth + 1, found);
    }
    if found.tracking_id.is_none() {
        found.tracking_id = tracking_id(text);
    }
    let Some(rest) = text.strip_prefix("ErrorCode:") else {
        found.message = text.to_owned();
        return;
    };
    let (name, message) = rest.split_once(';').unwrap_or((rest, ""));
    if found.name.is_none() {
        found.name = Some(masked(name, NAME_CHARS_MAX));
    }
    found.message = message.to_owned();
}

/// What follows `Tracking ID:`, up to its time stamp.
fn tracking_id(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("Tracking ID:")?;
    let end = rest.find("-TimeStamp").or_else(|| rest.find(|c: char| c.is_whitespace() || c == ','));
    let id = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default().trim();
    (!id.is_empty()).then(|| masked(id, NAME_CHARS_MAX))
}

/// The wait in `Wait 10 seconds and try again`.
pub(super) fn wait_in_words(message: &str) -> Option<Duration> {
    let (_, rest) = message.split_once("Wait ")?;
    let (number, rest) = rest.split_once(' ')?;
    let seconds: u64 = number.parse().ok()?;
    (rest.starts_with("second") && seconds <= WORDS_WAIT_MAX_S).then(|| Duration::from_secs(seconds))
}
