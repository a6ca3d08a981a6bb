//! Answers, and the error envelopes of each service.

use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::{Randomness, Time, guid};
use crate::world::{ArmRefusal, DpsRefusal, Envelope, HubRefusal, Page};

/// What is sent back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

/// What errors need to be told: when, and as what.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    pub(crate) id: String,
    pub(crate) now: Time,
}

impl Trace {
    pub(crate) fn new(random: &dyn Randomness, now: Time) -> Self {
        let mut bytes = [0; 16];
        random.fill(&mut bytes);
        Self { id: guid(bytes), now }
    }

    fn hex(&self) -> String {
        self.id.chars().filter(|c| *c != '-').collect()
    }
}

impl Answer {
    /// No body.
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// A JSON body.
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::empty(status).with("content-type", "application/json; charset=utf-8").text(body.to_string())
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn text(mut self, body: String) -> Self {
        self.body = body.into_bytes();
        self
    }

    /// A page of a query. The continuation is absent on the last page, never empty: SDKs would ask on for ever.
    pub(crate) fn page(page: Page) -> Self {
        let answer = Self::json(200, &Value::Array(page.rows))
            .with("x-ms-item-type", page.item_type)
            .with("x-content-type-options", "nosniff");
        match page.continuation {
            Some(token) => answer.with("x-ms-continuation", token),
            None => answer,
        }
    }

    fn retry_after(self, wait: Option<Duration>) -> Self {
        match wait {
            // Whole seconds, and never too few.
            Some(wait) => self.with("retry-after", wait.as_millis().div_ceil(1_000).max(1).to_string()),
            None => self,
        }
    }

    /// A refusal of DPS.
    pub(crate) fn dps_refusal(refusal: &DpsRefusal, trace: &Trace) -> Self {
        let body = json!({
            "errorCode": refusal.code,
            "trackingId": trace.id,
            "message": refusal.message,
            "timestampUtc": trace.now.to_string(),
        });
        Self::json(refusal.status, &body)
            .with("x-ms-error-code", refusal.code.to_string())
            .retry_after(refusal.retry_after)
    }

    /// A refusal of a hub, in one of its three envelopes.
    pub(crate) fn hub_refusal(refusal: &HubRefusal, trace: &Trace) -> Self {
        let (code, name) = (refusal.code, refusal.code.name());
        let (hex, stamp) = (trace.hex(), trace.now);
        let body = match refusal.envelope {
            Envelope::Registry => json!({
                "Message": format!("ErrorCode:{name};{}", refusal.message),
                "ExceptionMessage": format!("Tracking ID:{hex}-G:0-TimeStamp:{stamp}"),
            }),
            Envelope::Nested => {
                let info = refusal.timeout.map(|timeout| {
                    let seconds = timeout.as_secs();
                    let text = format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
                    json!({ "timeout": text })
                });
                let inner = json!({
                    "errorCode": code.number(),
                    "message": refusal.message,
                    "trackingId": format!("{hex}-G2:-TimeStamp:{stamp}"),
                    "timestampUtc": stamp.to_string(),
                    "info": info,
                });
                json!({ "Message": inner.to_string(), "ExceptionMessage": "" })
            }
            Envelope::Bare => json!({
                "errorCode": code.number(),
                "message": refusal.message,
                "trackingId": trace.id,
                "timestampUtc": stamp.to_string(),
            }),
        };
        let answer = Self::json(code.status(), &body).with("iothub-errorcode", name);
        // The live service closes the connection with a throttled answer, and sends no Retry-After.
        if code.status() == 429 { answer.with("connection", "close") } else { answer }
    }

    /// A refusal of Azure Resource Manager.
    pub(crate) fn arm_refusal(refusal: &ArmRefusal) -> Self {
        let body = json!({ "error": { "code": refusal.code, "message": refusal.message } });
        Self::json(refusal.status, &body)
    }
}
