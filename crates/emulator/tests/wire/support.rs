//! An emulator on a stepped clock, and a client that knows nothing of its types.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_emulator::{Clock, Command, Config, Emulator, Running, SeededRandomness, SteppedClock, Time};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ring::hmac;
use serde_json::Value;
use tokio::net::TcpStream;

/// The key of the documented test vectors.
pub const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
pub const START: Time = Time::from_unix_seconds(1_700_000_000);
pub const SCOPE: &str = "0ne00000001";
pub const DPS: &str = "dps-a.azure-devices-provisioning.net";
pub const GLOBAL: &str = "global.azure-devices-provisioning.net";
pub const HUB_A: &str = "hub-a.azure-devices.net";
pub const HUB_B: &str = "hub-b.azure-devices.net";
pub const ARM: &str = "management.azure.com";

pub const CONFIG: &str = r#"
listen_http = "127.0.0.1:0"

[[bearers]]
token = "owner-token"

[[bearers]]
token = "reader-token"
read_only = true

[[hubs]]
host = "hub-a.azure-devices.net"
[[hubs.policies]]
name = "iothubowner"
primary_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
[[hubs.policies]]
name = "registryReadWrite"
primary_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
rights = ["RegistryRead", "RegistryWrite"]

[[hubs]]
host = "hub-b.azure-devices.net"
[[hubs.policies]]
name = "iothubowner"
primary_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

[[dps]]
id_scope = "0ne00000001"
host = "dps-a.azure-devices-provisioning.net"
hubs = [{ host = "hub-a.azure-devices.net", latency_ms = 20 }, { host = "hub-b.azure-devices.net", latency_ms = 10 }]
[[dps.policies]]
name = "provisioningserviceowner"
primary_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
[[dps.policies]]
name = "reader"
primary_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
rights = ["EnrollmentRead"]

[[profiles]]
subscription = "s-1"
resource_group = "g-1"
name = "fleet"
endpoints = [{ name = "a", target = "a.example.com" }, { name = "b", target = "b.example.com", weight = 5 }]
"#;

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }
}

/// A running emulator and its clock.
pub struct Stage {
    pub running: Running,
    pub clock: Arc<SteppedClock>,
}

/// One request.
#[derive(Default, Clone)]
pub struct Ask {
    pub headers: Vec<(&'static str, String)>,
    pub body: Option<Value>,
}

pub fn ask() -> Ask {
    Ask::default()
}

impl Ask {
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }
}

/// A token over `resource`, with everything encoded as Python's SDK does it.
pub fn sas(resource: &str, key: &[u8], policy: Option<&str>, expiry: u64) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let resource = encode(resource);
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let signature = STANDARD.encode(hmac::sign(&key, format!("{resource}\n{expiry}").as_bytes()));
    let policy = policy.map(|name| format!("&skn={name}")).unwrap_or_default();
    format!("SharedAccessSignature sr={resource}&sig={}&se={expiry}{policy}", encode(&signature))
}

/// A token of a service's owner, which outlives every test.
pub fn owner(host: &str) -> String {
    let policy = if host.contains("provisioning") { "provisioningserviceowner" } else { "iothubowner" };
    sas(host, &STANDARD.decode(KEY).unwrap(), Some(policy), START.unix_seconds() + 10_000_000)
}

impl Stage {
    pub async fn new() -> Self {
        Self::with(CONFIG).await
    }

    pub async fn with(config: &str) -> Self {
        Self::of(Config::from_toml(config).unwrap()).await
    }

    /// The usual configuration, with changes.
    pub async fn changed(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::from_toml(CONFIG).unwrap();
        change(&mut config);
        Self::of(config).await
    }

    async fn of(config: Config) -> Self {
        let clock = Arc::new(SteppedClock::at(START));
        let random = Arc::new(SeededRandomness::new(1));
        let running = Emulator::start(config, Arc::clone(&clock) as Arc<dyn Clock>, random).await.unwrap();
        Self { running, clock }
    }

    pub fn advance_ms(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }

    pub async fn command(&self, command: Command) -> Value {
        self.running.command(command).await.unwrap()
    }

    /// A request as it is, over a connection of its own.
    pub async fn send(&self, method: &str, host: &str, target: &str, ask: Ask) -> Reply {
        let stream = TcpStream::connect(self.running.http_address().unwrap()).await.unwrap();
        exchange(TokioIo::new(stream), method, host, target, ask).await
    }

    /// A call of the DPS service API, or of a hub, by its owner.
    pub async fn call(&self, method: &str, host: &str, path: &str, ask: Ask) -> Reply {
        let version = match host {
            ARM => "2022-04-01",
            DPS => "2021-10-01",
            _ => "2021-04-12",
        };
        let authorization = if host == ARM { "Bearer owner-token".to_owned() } else { owner(host) };
        let ask = match ask.headers.iter().any(|(name, _)| *name == "authorization") {
            true => ask,
            false => ask.with("authorization", authorization),
        };
        self.send(method, host, &format!("{path}?api-version={version}"), ask).await
    }

    /// A call of the device API, signed with `key`. The body tells the device, unless it tells another or null.
    pub async fn device(&self, method: &str, id: &str, rest: &str, key: &[u8], mut body: Value) -> Reply {
        if let Some(body) = body.as_object_mut() {
            body.entry("registrationId").or_insert_with(|| id.into());
        }
        let token = sas(
            &format!("{SCOPE}/registrations/{id}"),
            key,
            Some("registration"),
            START.unix_seconds() + 10_000_000,
        );
        let target = format!("/{SCOPE}/registrations/{id}{rest}?api-version=2021-06-01");
        self.send(method, GLOBAL, &target, ask().with("authorization", token).body(body)).await
    }

    /// Registers a device to its end, and tells the result.
    pub async fn register(&self, id: &str, key: &[u8]) -> Value {
        let body = serde_json::json!({ "registrationId": id });
        let begun = self.device("PUT", id, "/register", key, body).await;
        if begun.status == 200 {
            return begun.body;
        }
        let operation = begun.expect(202).body["operationId"].as_str().unwrap().to_owned();
        loop {
            self.advance_ms(3_000);
            let rest = format!("/operations/{operation}");
            let polled = self.device("GET", id, &rest, key, serde_json::json!({})).await;
            if polled.status == 200 {
                return polled.body;
            }
            assert_eq!(polled.status, 202, "{}", polled.text);
        }
    }

    /// Enrolls a device with the known key.
    pub async fn enroll(&self, id: &str, more: Value) -> Value {
        let mut body = serde_json::json!({
            "registrationId": id,
            "attestation": { "type": "symmetricKey", "symmetricKey": { "primaryKey": KEY, "secondaryKey": KEY } },
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let known = self.call("GET", DPS, &format!("/enrollments/{id}"), ask()).await.status == 200;
        let asked = if known { ask().with("if-match", "*") } else { ask() };
        self.call("PUT", DPS, &format!("/enrollments/{id}"), asked.body(body)).await.expect(200).body
    }
}

pub fn key() -> Vec<u8> {
    STANDARD.decode(KEY).unwrap()
}

/// One request over `io`.
pub async fn exchange<T>(io: T, method: &str, host: &str, target: &str, ask: Ask) -> Reply
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(target).header("host", host);
    let kind_told = ask.headers.iter().any(|(name, _)| *name == "content-type");
    if ask.body.is_some() && !kind_told {
        request = request.header("content-type", "application/json; charset=utf-8");
    }
    for (name, value) in &ask.headers {
        request = request.header(*name, value);
    }
    let body = ask.body.map(|body| body.to_string()).unwrap_or_default();
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Reply { status: head.status.as_u16(), headers: head.headers, body, text }
}
