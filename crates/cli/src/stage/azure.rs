//! An emulated Azure in this process, over real TLS: one provisioning service and two hubs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_azure::hub::{self, MethodCall};
use berth_azure::id::{DeviceId, HostName};
use berth_azure::{Client, Credential, Endpoints, IfMatch, KeySource, Missing, System, Transport};
use berth_client::v1;
use berth_emulator::{Behaviour, Command, Config, Emulator, Running, SystemRandomness, WallClock};
use berth_server::config::AzureSettings;

use crate::failure::Failure;

/// ID scope of the provisioning service.
pub(crate) const SCOPE: &str = "0ne000DEMO1";
/// Host of the provisioning service.
pub(crate) const DPS: &str = "contoso-demo.azure-devices-provisioning.net";
/// The hub that devices are registered in at first.
pub(crate) const FIELD_1: &str = "contoso-field-1.azure-devices.net";
/// The hub that some are moved to.
pub(crate) const FIELD_2: &str = "contoso-field-2.azure-devices.net";

/// The key of every service: the documented test vector, bytes 0 to 31.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// What the IDs of its devices begin with.
const PREFIX: &str = "pump-";
/// Every service, with the policy that its connection string is of.
const POLICIES: [(&str, &str); 3] =
    [(FIELD_1, "iothubowner"), (FIELD_2, "iothubowner"), (DPS, "provisioningserviceowner")];
/// How long the listings of the hubs lag behind, and a little.
pub(crate) const QUERY_LAG: Duration = Duration::from_millis(1_500);
/// What is emulated, with Azure's own throttles.
const EMULATED: &str = r#"
listen = "127.0.0.1:0"

[[hubs]]
host = "contoso-field-1.azure-devices.net"
tier = "S2"
units = 1
query_lag_ms = 1400
[[hubs.policies]]
name = "iothubowner"
primary_key = "KEY"

[[hubs]]
host = "contoso-field-2.azure-devices.net"
tier = "S2"
units = 1
query_lag_ms = 1400
[[hubs.policies]]
name = "iothubowner"
primary_key = "KEY"

[[dps]]
id_scope = "0ne000DEMO1"
host = "contoso-demo.azure-devices-provisioning.net"
hubs = [
    { host = "contoso-field-1.azure-devices.net" },
    { host = "contoso-field-2.azure-devices.net" },
]
[[dps.policies]]
name = "provisioningserviceowner"
primary_key = "KEY"
"#;

/// An emulator that runs, and where its credentials are kept.
pub(crate) struct Azure {
    running: Running,
    folder: PathBuf,
    /// A gateway's way to the hubs.
    client: Client,
}

/// ID of the device of this number, below a million.
pub(crate) fn device_id(no: u32) -> String {
    format!("{PREFIX}{no:06}")
}

/// Writes a file for an import: so many devices, all in the first hub.
pub(crate) fn write_file(file: &Path, devices: u32) -> Result<(), Failure> {
    let lines = (0..devices).map(|no| format!("{},{FIELD_1},{SCOPE}\n", device_id(no)));
    let text = std::iter::once("device_id,hub,scope\n".to_owned()).chain(lines).collect::<String>();
    std::fs::write(file, text).map_err(|e| Failure::file("write", file, &e))
}

/// What a hub said of a direct method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Called {
    /// The device answered.
    Answered,
    /// The hub does not know the device (404001).
    NotFound,
}

impl Azure {
    /// Starts it, and writes the certificate and a connection string for each service below `folder`.
    pub(crate) async fn start(folder: &Path) -> Result<Self, Failure> {
        let refused = |problem: String| Failure::refused(format!("cannot start the emulator: {problem}"));
        let config = Config::from_toml(&EMULATED.replace("KEY", KEY)).map_err(|e| refused(e.to_string()))?;
        for (host, policy) in POLICIES {
            let text = format!("HostName={host};SharedAccessKeyName={policy};SharedAccessKey={KEY}");
            let file = credential_file(folder, host);
            std::fs::write(&file, text).map_err(|e| Failure::file("write", &file, &e))?;
        }
        let running = Emulator::start(config, Arc::new(WallClock::new()), Arc::new(SystemRandomness)).await;
        let running = running.map_err(|e| refused(e.to_string()))?;
        let authority = authority_file(folder);
        std::fs::write(&authority, running.ca_pem()).map_err(|e| Failure::file("write", &authority, &e))?;
        let address =
            HostName::new(&running.https_address().to_string()).map_err(|e| refused(e.to_string()))?;
        let endpoints = Endpoints::public().all_at(address).trust_pem(running.ca_pem().as_bytes());
        let transport = endpoints.and_then(Transport::new).map_err(|e| refused(e.to_string()))?;
        let client = Client::new(transport, Arc::new(System::new()));
        Ok(Self { running, folder: folder.to_owned(), client })
    }

    /// What a node's configuration says of Azure.
    pub(crate) fn settings(&self) -> AzureSettings {
        let reference = |host: &str| (host.to_owned(), credential_ref(&self.folder, host));
        AzureSettings {
            authority_file: Some(authority_file(&self.folder)),
            all_at: Some(self.running.https_address().to_string()),
            hub_credentials: Some([FIELD_1, FIELD_2].into_iter().map(reference).collect()),
            ..AzureSettings::default()
        }
    }

    /// The provisioning service as the directory's scope.
    pub(crate) fn scope(&self) -> v1::Scope {
        v1::Scope {
            name: SCOPE.to_owned(),
            service_host: DPS.to_owned(),
            credential_ref: credential_ref(&self.folder, DPS),
            linked_hubs: vec![FIELD_1.to_owned(), FIELD_2.to_owned()],
            read_through: true,
            ..Default::default()
        }
    }

    /// Has the provisioning service know so many devices from this number on, all in the first hub; their IDs are
    /// [`device_id`]'s.
    pub(crate) async fn seed(&self, first: u32, count: u32) -> Result<(), Failure> {
        let (dps, hub, prefix) = (DPS.to_owned(), FIELD_1.to_owned(), PREFIX.to_owned());
        self.command(Command::Seed { dps, hub, prefix, first, count }).await
    }

    /// Drives it.
    pub(crate) async fn command(&self, command: Command) -> Result<(), Failure> {
        let told = format!("{command:?}");
        let done = self.running.command(command).await;
        done.map(drop).map_err(|e| Failure::refused(format!("the emulator refuses {told}: {e}")))
    }

    /// Moves a device to the second hub as if it had registered anew, and nobody had seen it.
    pub(crate) async fn place_unseen(&self, device: &str) -> Result<(), Failure> {
        let (dps, hub) = (DPS.to_owned(), FIELD_2.to_owned());
        self.command(Command::Place { dps, registration_id: device.to_owned(), hub }).await
    }

    /// The same with a device that is connected there at once, and answers.
    pub(crate) async fn move_unseen(&self, device: &str) -> Result<(), Failure> {
        self.place_unseen(device).await?;
        let hub = FIELD_2.to_owned();
        self.command(Command::Connect { hub, device: device.to_owned() }).await?;
        self.command(Command::Behave { device: device.to_owned(), behaviour: Behaviour::Echo }).await
    }

    /// Questions about single devices that the provisioning service has answered or refused so far.
    pub(crate) fn questions(&self) -> u64 {
        let asked = ["dps.registration.get", "dps.enrollment.get"];
        let calls = self.running.calls();
        calls.iter().filter(|((operation, _), _)| asked.contains(operation)).map(|(_, count)| count).sum()
    }

    /// A hub, as a gateway has it.
    fn hub(&self, name: &str) -> Result<hub::Service, Failure> {
        let failed = |e: &dyn std::fmt::Display| Failure::refused(format!("{name} cannot be called: {e}"));
        let host = HostName::new(name).map_err(|e| failed(&e))?;
        let source = KeySource::File(credential_file(&self.folder, name));
        let credential = Credential::connection_string(source).map_err(|e| failed(&e))?;
        Ok(hub::Service::new(self.client.clone(), host, credential))
    }

    /// Deletes a device's identity at a hub, as people do by mistake.
    pub(crate) async fn delete_identity(&self, hub: &str, device: &str) -> Result<(), Failure> {
        let failed =
            |e: &dyn std::fmt::Display| Failure::refused(format!("deleting {device} at {hub} failed: {e}"));
        let device = DeviceId::new(device).map_err(|e| failed(&e))?;
        self.hub(hub)?.delete_identity(&device, &IfMatch::Any).await.map_err(|e| failed(&e))
    }

    /// Calls a direct method of a device at a hub, as a gateway does.
    pub(crate) async fn call_method(&self, hub: &str, device: &str) -> Result<Called, Failure> {
        let failed =
            |e: &dyn std::fmt::Display| Failure::refused(format!("calling {device} at {hub} failed: {e}"));
        let device = DeviceId::new(device).map_err(|e| failed(&e))?;
        match self.hub(hub)?.invoke(&device, &MethodCall::new("ping")).await {
            Ok(_) => Ok(Called::Answered),
            Err(error) if error.is_missing(Missing::Device) => Ok(Called::NotFound),
            Err(error) => Err(failed(&error)),
        }
    }

    pub(crate) async fn stop(self) {
        // It has no state to save, so that there is nothing to fail.
        let _ = self.running.stop().await;
    }
}

fn authority_file(folder: &Path) -> PathBuf {
    folder.join("azure.pem")
}

fn credential_file(folder: &Path, host: &str) -> PathBuf {
    folder.join(format!("{host}.txt"))
}

fn credential_ref(folder: &Path, host: &str) -> String {
    format!("file:{}", credential_file(folder, host).display())
}
