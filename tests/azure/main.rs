//! Berth's client of Azure and Berth's emulator of Azure, which share no line of code, over real TCP and TLS: the
//! scenario that Azure's own SDKs are taken through as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
// The scenario offers more than one caller needs.
#[allow(dead_code)]
#[path = "../../crates/azure/tests/scenarios.rs"]
mod scenarios;
mod sweep;

mod hook;

use std::path::Path;
use std::sync::Arc;

use berth_azure::id::{DeviceId, HostName, IdScope};
use berth_azure::{Endpoints, KeySource, System};
use berth_emulator::{Behaviour, Command, Config, Emulator, FailNext, Running, SystemRandomness, WallClock};
use futures_util::future::BoxFuture;
use scenarios::{Controls, Presence, Stage};
use serde_json::Value;
use tempfile::TempDir;

const DPS: &str = "dps-a.azure-devices-provisioning.net";
const HUBS: [&str; 2] = ["hub-a.azure-devices.net", "hub-b.azure-devices.net"];
/// Bytes 0 to 31, as in documented test vectors, and bytes 31 to 0.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER_KEY: &str = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";
/// What the scenarios of the SDKs run against too.
const CONFIG: &str = include_str!("../sdk/emulator.toml");
/// How long an assignment takes where it is to be slow: longer than a device waits before its first poll.
const SLOW_MS: u64 = 2_500;

struct Levers(Arc<Running>);

impl Levers {
    fn run(&self, commands: Vec<Command>) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            for command in commands {
                let told = format!("{command:?}");
                self.0.command(command).await.map_err(|problem| format!("{told}: {problem}"))?;
            }
            Ok(())
        })
    }
}

impl Controls for Levers {
    fn presence<'a>(
        &'a self,
        hub: &'a HostName,
        device: &'a DeviceId,
        presence: Presence,
    ) -> BoxFuture<'a, Result<(), String>> {
        let (hub, device) = (hub.to_string(), device.to_string());
        match presence {
            Presence::Echoes => self.run(vec![
                Command::Connect { hub, device: device.clone() },
                Command::Behave { device, behaviour: Behaviour::Echo },
            ]),
            // One that never connected has no connection to cut.
            Presence::Offline => Box::pin(async {
                let _ = self.0.command(Command::Disconnect { hub, device }).await;
                Ok(())
            }),
        }
    }

    fn assign_slowly(&self, slowly: bool) -> BoxFuture<'_, Result<(), String>> {
        let ms = if slowly { SLOW_MS } else { 0 };
        self.run(vec![Command::Assigning { dps: DPS.to_owned(), ms }])
    }

    fn throttle_once<'a>(&'a self, host: &'a HostName) -> BoxFuture<'a, Result<(), String>> {
        let operation = if host.as_str() == DPS { "dps" } else { "hub" };
        let fault = FailNext {
            operation: operation.to_owned(),
            host: Some(host.to_string()),
            status: 429,
            code: None,
            message: None,
            retry_after_s: None,
            body: None,
            count: 1,
        };
        self.run(vec![Command::FailNext { fault }])
    }

    fn settle<'a>(&'a self, hub: &'a HostName) -> BoxFuture<'a, Result<(), String>> {
        self.run(vec![Command::QueryLag { hub: hub.to_string(), ms: 0 }])
    }
}

/// A connection string in a file of its own.
fn connection_string(folder: &Path, name: &str, host: &str, policy: &str, key: &str) -> KeySource {
    let path = folder.join(name);
    std::fs::write(&path, format!("HostName={host};SharedAccessKeyName={policy};SharedAccessKey={key}"))
        .unwrap();
    KeySource::File(path)
}

async fn stage(folder: &TempDir) -> (Stage, Arc<Running>) {
    let config = Config::from_toml(CONFIG).unwrap();
    let running = Emulator::start(config, Arc::new(WallClock::new()), Arc::new(SystemRandomness)).await;
    let running = Arc::new(running.unwrap());
    let address = HostName::new(&running.https_address().to_string()).unwrap();
    let key = |name, host, policy, key| connection_string(folder.path(), name, host, policy, key);
    let stage = Stage {
        endpoints: Endpoints::public().all_at(address).trust_pem(running.ca_pem().as_bytes()).unwrap(),
        surroundings: Arc::new(System::new()),
        dps: key("dps", DPS, "provisioningserviceowner", KEY),
        dps_wrong_key: key("stranger", DPS, "provisioningserviceowner", OTHER_KEY),
        device_host: HostName::new(berth_azure::dps::GLOBAL_HOST).unwrap(),
        id_scope: IdScope::new("0ne00000001").unwrap(),
        hubs: [key("hub-a", HUBS[0], "iothubowner", KEY), key("hub-b", HUBS[1], "iothubowner", KEY)],
        controls: Arc::new(Levers(Arc::clone(&running))),
    };
    (stage, running)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_plays_the_scenario_of_the_sdks() {
    let folder = tempfile::tempdir().unwrap();
    let (stage, running) = stage(&folder).await;
    let played = scenarios::play(&stage).await.unwrap_or_else(|failed| panic!("{failed}"));
    assert_eq!(played.len(), scenarios::steps().len());
    let status = running.command(Command::Status).await.unwrap();
    assert!(matches!(status, Value::Object(_)), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_ends_the_scenario_where_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let (stage, running) = stage(&folder).await;
    running.command(Command::Outage { service: HUBS[0].to_owned(), out: true }).await.unwrap();
    let failed = scenarios::play(&stage).await.expect_err("a hub that is out went unseen");
    assert_eq!(failed.step, "hub_keeps_identities", "{failed}");
}
