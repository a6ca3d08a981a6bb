//! What every test here needs: a server that answers as scripted, a clock that tests turn, a budget that counts.

mod budget;
mod clock;
mod server;

use std::path::PathBuf;
use std::sync::Arc;

use berth_azure::id::HostName;
use berth_azure::{Client, Credential, Endpoints, KeySource, Transport, dps, hub};

pub use budget::Counted;
pub use clock::TestClock;
pub use server::{Act, Seen, Server, json};

/// The documented test vector: bytes 0 to 31.
pub const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
pub const DPS: &str = "dps-a.azure-devices-provisioning.net";
pub const HUB: &str = "hub-a.azure-devices.net";

/// One server, one clock, and the client between them.
pub struct Stage {
    pub server: Server,
    pub clock: TestClock,
    pub transport: Arc<Transport>,
    pub client: Client,
    dir: tempfile::TempDir,
}

pub fn host(text: &str) -> HostName {
    HostName::new(text).unwrap()
}

impl Stage {
    /// Plain http to every host that the tests name.
    pub async fn new() -> Self {
        Self::with_connections(16).await
    }

    pub async fn with_connections(per_host_max: usize) -> Self {
        Self::plainly(Server::plain().await, per_host_max)
    }

    /// Plain http to this server.
    pub fn plainly(server: Server, per_host_max: usize) -> Self {
        let address = host(&server.address().to_string());
        let endpoints = [DPS, HUB, dps::GLOBAL_HOST, berth_azure::traffic_manager::ARM_HOST]
            .iter()
            .fold(Endpoints::public(), |endpoints, name| endpoints.plain_at(host(name), address.clone()));
        Self::over(server, endpoints, per_host_max)
    }

    pub fn over(server: Server, endpoints: Endpoints, per_host_max: usize) -> Self {
        let clock = TestClock::new();
        let transport = Transport::with_connections(endpoints, per_host_max).unwrap();
        let client = Client::new(Arc::clone(&transport), Arc::new(clock.clone()));
        Self { server, clock, transport, client, dir: tempfile::tempdir().unwrap() }
    }

    /// A file in the stage's own directory.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn credential(&self, name: &str) -> Arc<Credential> {
        let text = format!("HostName={name};SharedAccessKeyName=service;SharedAccessKey={KEY}");
        Credential::connection_string(KeySource::File(self.file(name, &text))).unwrap()
    }

    pub fn dps(&self) -> dps::Service {
        dps::Service::new(self.client.clone(), host(DPS), self.credential(DPS))
    }

    pub fn hub(&self) -> hub::Service {
        hub::Service::new(self.client.clone(), host(HUB), self.credential(HUB))
    }
}
