//! Direct methods: a question to a connected device, answered while the caller waits.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json::Unknown;

/// Shortest time for a device's answer, in seconds (IoT Hub developer guide, "Direct methods").
pub const RESPONSE_TIMEOUT_MIN_S: u32 = 5;
/// Longest time for a device's answer, in seconds.
pub const RESPONSE_TIMEOUT_MAX_S: u32 = 300;
/// Longest time for a device to connect, in seconds.
pub const CONNECT_TIMEOUT_MAX_S: u32 = 300;
/// Largest payload, in bytes (IoT Hub, quotas).
pub const PAYLOAD_BYTES_MAX: usize = 128 * 1_024;
/// What the hub takes for the response where nothing is said, in seconds.
const RESPONSE_DEFAULT_S: u32 = 30;
/// What an answer may take beyond the device's own time.
const ON_THE_WAY: Duration = Duration::from_secs(10);
/// Longest method name, in characters.
const NAME_CHARS_MAX: usize = 100;

/// A method to call (IoT Hub REST API, CloudToDeviceMethod).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MethodCall {
    /// Its name.
    pub method_name: String,
    /// What to tell the device: any JSON.
    pub payload: Value,
    /// How long the device has for its answer, in seconds: 5 to 300; the hub's default of 30 where none is given. Give
    /// the call itself more time, or its end is not known.
    #[serde(rename = "responseTimeoutInSeconds", skip_serializing_if = "Option::is_none")]
    pub response_timeout_s: Option<u32>,
    /// How long the hub waits for a device that is not connected, in seconds: up to 300, and not more than it has for
    /// its answer; not at all where none is given.
    #[serde(rename = "connectTimeoutInSeconds", skip_serializing_if = "Option::is_none")]
    pub connect_timeout_s: Option<u32>,
}

impl MethodCall {
    /// A method without a payload, by the hub's own times.
    pub fn new(name: &str) -> Self {
        Self {
            method_name: name.to_owned(),
            payload: Value::Null,
            response_timeout_s: None,
            connect_timeout_s: None,
        }
    }

    /// How long the hub may take, with some seconds for the way: no shorter wait can tell how it ended.
    pub(super) fn attempt_max(&self) -> Duration {
        let device_s =
            self.response_timeout_s.unwrap_or(RESPONSE_DEFAULT_S) + self.connect_timeout_s.unwrap_or(0);
        Duration::from_secs(u64::from(device_s)) + ON_THE_WAY
    }

    pub(super) fn problem(&self) -> Option<String> {
        if self.method_name.is_empty() || self.method_name.chars().count() > NAME_CHARS_MAX {
            return Some(format!("a method's name has 1 to {NAME_CHARS_MAX} characters"));
        }
        let response = self.response_timeout_s.unwrap_or(RESPONSE_DEFAULT_S);
        if !(RESPONSE_TIMEOUT_MIN_S..=RESPONSE_TIMEOUT_MAX_S).contains(&response) {
            return Some(format!(
                "a response timeout of {response} s; it is {RESPONSE_TIMEOUT_MIN_S} to {RESPONSE_TIMEOUT_MAX_S} s"
            ));
        }
        let connect = self.connect_timeout_s.unwrap_or(0);
        if connect > CONNECT_TIMEOUT_MAX_S || connect > response {
            return Some(format!(
                "a connect timeout of {connect} s; it is at most {CONNECT_TIMEOUT_MAX_S} s and at most the response \
                 timeout of {response} s"
            ));
        }
        let bytes = serde_json::to_vec(&self.payload).map(|bytes| bytes.len()).unwrap_or(usize::MAX);
        (bytes > PAYLOAD_BYTES_MAX)
            .then(|| format!("a payload of {bytes} bytes; at most {PAYLOAD_BYTES_MAX} are taken"))
    }
}

/// What the device answered. A status of 400 and more in here is the device's own business.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MethodAnswer {
    /// The device's status.
    pub status: i64,
    /// The device's words.
    #[serde(default)]
    pub payload: Value,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}
