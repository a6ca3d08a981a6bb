//! Devices that register at the emulator, whose DPS asks a node of Berth which hub they get.

use std::sync::Arc;
use std::time::Duration;

use berth_azure::id::{HostName, RegistrationId};
use berth_azure::{Client, DeviceKey, Secret, SharedKey, Transport, dps};
use berth_azure::{Credential, IfMatch};
use berth_core::DeviceId;
use berth_emulator::Running;
use berth_proto::v1;
use berth_proto::v1::device_service_client::DeviceServiceClient;
use berth_proto::v1::topology_service_client::TopologyServiceClient;
use berth_server::config::{AzureSettings, Config, Settings};
use berth_server::health::Serving;
use berth_server::run::{Injected, Node};
use serde_json::json;
use tempfile::TempDir;

use super::scenarios::Stage;
use super::{DPS, HUBS, KEY, stage};

const SCOPE: &str = "0ne00000001";
const SECRET: &str = "a/secret+of=the-hook";

/// Azure, emulated, and a node that it asks.
struct World {
    azure: Stage,
    /// Ends with the emulator.
    _running: Arc<Running>,
    dps: dps::Service,
    client: Client,
    node: Option<Node>,
    settings: Settings,
    _folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (azure, running) = stage(&folder).await;
        azure.controls.assign_slowly(false).await.unwrap();
        let transport = Transport::new(azure.endpoints.clone()).unwrap();
        let client = Client::new(transport, Arc::clone(&azure.surroundings)).within(Duration::from_secs(60));
        let credential = Credential::connection_string(azure.dps.clone()).unwrap();
        let dps = dps::Service::new(client.clone(), HostName::new(DPS).unwrap(), credential);
        let secret = folder.path().join("hook-secret");
        std::fs::write(&secret, SECRET).unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, running.ca_pem()).unwrap();
        let hub = |name: &str, file: &str| {
            (name.to_owned(), format!("file:{}", folder.path().join(file).display()))
        };
        let settings = Settings {
            data_dir: Some(folder.path().join("data")),
            listen: Some("127.0.0.1:0".to_owned()),
            peer_listen: Some("127.0.0.1:0".to_owned()),
            http_listen: Some("127.0.0.1:0".to_owned()),
            azure: AzureSettings {
                authority_file: Some(ca),
                all_at: Some(running.https_address().to_string()),
                hub_credentials: Some([hub(HUBS[0], "hub-a"), hub(HUBS[1], "hub-b")].into()),
                hook_secret: Some(format!("file:{}", secret.display())),
                ..AzureSettings::default()
            },
            ..Settings::default()
        };
        let node = start(&settings).await;
        let mut world =
            Self { azure, _running: running, dps, client, node: Some(node), settings, _folder: folder };
        let reference = format!("file:{}", world._folder.path().join("dps").display());
        world.apply(HUBS.map(|name| (name, 100)), Some(reference)).await;
        world
    }

    fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    /// The hubs with so many seats.
    async fn apply(&mut self, hubs: [(&str, u64); 2], credential_ref: Option<String>) {
        let hub = |(name, seats): (&str, u64)| v1::DesiredHub {
            name: name.to_owned(),
            stamp: Some("prod-1".to_owned()),
            tier: Some(v1::HubTier::S3 as i32),
            units: Some(1),
            capacity: Some(v1::DesiredCapacity {
                hard: Some(v1::DesiredLimit { devices: Some(seats) }),
                ..v1::DesiredCapacity::default()
            }),
            ..v1::DesiredHub::default()
        };
        let desired = v1::DesiredTopology {
            stamps: vec![v1::DesiredStamp { name: "prod-1".to_owned(), ..v1::DesiredStamp::default() }],
            hubs: hubs.map(hub).into(),
            scopes: vec![v1::DesiredScope {
                name: SCOPE.to_owned(),
                service_host: Some(DPS.to_owned()),
                credential_ref,
                linked_hubs: Some(v1::DesiredLinkedHubs { hubs: HUBS.map(str::to_owned).into() }),
                ..v1::DesiredScope::default()
            }],
            ..v1::DesiredTopology::default()
        };
        let request = v1::ApplyRequest { desired: Some(desired), ..v1::ApplyRequest::default() };
        let address = format!("http://{}", self.node().addresses().client);
        TopologyServiceClient::connect(address).await.unwrap().apply(request).await.unwrap();
    }

    /// An enrollment whose webhook is the node, as it is reached now.
    async fn enroll(&self, id: &str, device: Option<&str>, code: &str) {
        let url =
            format!("http://{}/hooks/dps/allocate?scope={SCOPE}&code={code}", self.node().addresses().http);
        let enrollment = json!({
            "registrationId": id,
            "deviceId": device,
            "attestation": { "type": "symmetricKey", "symmetricKey": { "primaryKey": KEY, "secondaryKey": KEY } },
            "allocationPolicy": "custom",
            "customAllocationDefinition": { "webhookUrl": url, "apiVersion": "2021-10-01" },
        });
        let enrollment: dps::IndividualEnrollment = serde_json::from_value(enrollment).unwrap();
        let exists = self.dps.enrollment(&enrollment.registration_id).await.is_ok();
        let if_match = if exists { IfMatch::Any } else { IfMatch::Absent };
        self.dps.put_enrollment(&enrollment, &if_match).await.unwrap();
    }

    async fn register(&self, id: &str) -> dps::RegistrationOperation {
        let key = DeviceKey::Held(SharedKey::decode(&Secret::new(KEY.to_owned())).unwrap());
        let (host, scope) = (self.azure.device_host.clone(), self.azure.id_scope.clone());
        let id = RegistrationId::new(id).unwrap();
        let device = dps::Device::new(self.client.clone(), host, scope, id, key).unwrap();
        device.register(None).await.unwrap()
    }

    async fn assigned(&self, id: &str) -> (String, String) {
        let operation = self.register(id).await;
        let state = operation.registration_state.clone().unwrap_or_else(|| panic!("{operation:?}")).state;
        assert_eq!(operation.status, dps::RegistrationStatus::Assigned, "{operation:?}");
        (state.assigned_hub.unwrap().to_string(), state.device_id.unwrap().to_string())
    }

    fn row(&self, device: &str) -> Option<String> {
        let snapshot = self.node().directory().newest();
        let mapping = snapshot.device(&device.parse::<DeviceId>().unwrap()).unwrap()?;
        mapping.hub.and_then(|no| snapshot.topology().hub(no)).map(|hub| hub.name.to_string())
    }
}

async fn start(settings: &Settings) -> Node {
    let config = Config::from_settings([settings.clone()]).unwrap();
    let node = Node::start(config, Injected::default()).await.unwrap();
    node.health().watch_read().wait_for(|serving| *serving == Serving::Yes).await.unwrap();
    node.health().watch_write().wait_for(|serving| *serving == Serving::Yes).await.unwrap();
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_land_where_berth_places_them() {
    let mut world = World::start().await;
    world.apply([(HUBS[0], 101), (HUBS[1], 100)], None).await;
    world.enroll("Pump-1", None, "a%2Fsecret%2Bof%3Dthe-hook").await;
    world.enroll("valve-2", Some("Valve#2"), SECRET).await;
    assert_eq!(world.assigned("Pump-1").await, (HUBS[0].to_owned(), "Pump-1".to_owned()));
    // The first hub is full now.
    world.apply([(HUBS[0], 1), (HUBS[1], 1)], None).await;
    assert_eq!(world.assigned("valve-2").await, (HUBS[1].to_owned(), "Valve#2".to_owned()));
    assert_eq!(world.row("Pump-1").as_deref(), Some(HUBS[0]));
    assert_eq!(world.row("Valve#2").as_deref(), Some(HUBS[1]));

    // What was placed is confirmed by Azure's word, and by nothing less.
    let address = format!("http://{}", world.node().addresses().client);
    let mut devices = DeviceServiceClient::connect(address.clone()).await.unwrap();
    let get = |id: &str| v1::GetRequest {
        device: Some(v1::get_request::Device::DeviceId(id.to_owned())),
        ..v1::GetRequest::default()
    };
    let placed = devices.get(get("Valve#2")).await.unwrap().into_inner().mapping.unwrap();
    assert_eq!((placed.status(), placed.origin()), (v1::MappingStatus::Enrolling, v1::Origin::Placed));
    let report = v1::ReportRequest {
        device_id: "Valve#2".to_owned(),
        hub: HUBS[1].to_owned(),
        epoch: placed.epoch,
        observation: v1::HubObservation::NotFound as i32,
    };
    let mut lookups = v1::lookup_service_client::LookupServiceClient::connect(address).await.unwrap();
    let answer = lookups.report(report).await.unwrap().into_inner();
    assert_eq!(answer.finding(), v1::ReportFinding::Changed, "{answer:?}");
    let confirmed = devices.get(get("Valve#2")).await.unwrap().into_inner().mapping.unwrap();
    assert_eq!((confirmed.status(), confirmed.epoch), (v1::MappingStatus::Assigned, placed.epoch + 1));

    // No room: DPS asks again and again, and the device waits; with room it lands.
    world.enroll("late-3", None, SECRET).await;
    let waiting = {
        let key = DeviceKey::Held(SharedKey::decode(&Secret::new(KEY.to_owned())).unwrap());
        let (host, scope) = (world.azure.device_host.clone(), world.azure.id_scope.clone());
        let id = RegistrationId::new("late-3").unwrap();
        let device = dps::Device::new(world.client.clone(), host, scope, id, key).unwrap();
        tokio::spawn(async move { device.register(None).await })
    };
    let refused = || {
        let metrics = world.node().addresses().http;
        async move {
            let mut stream = tokio::net::TcpStream::connect(metrics).await.unwrap();
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text.contains("berth_hook_allocations_total{outcome=\"no_room\"} 1")
        }
    };
    while !refused().await {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.row("late-3"), None);
    world.apply([(HUBS[0], 1), (HUBS[1], 9)], None).await;
    let operation = waiting.await.unwrap().unwrap();
    assert_eq!(operation.registration_state.unwrap().state.assigned_hub.unwrap().as_str(), HUBS[1]);

    // The node starts again; the device registers again, with room on either hub, and stays.
    world.node.take().unwrap().shutdown().await;
    world.node = Some(start(&world.settings).await);
    world.apply([(HUBS[0], 900), (HUBS[1], 9)], None).await;
    world.enroll("valve-2", Some("Valve#2"), SECRET).await;
    assert_eq!(world.assigned("valve-2").await, (HUBS[1].to_owned(), "Valve#2".to_owned()));
    assert_eq!(world.row("Valve#2").as_deref(), Some(HUBS[1]));
    world.node.unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_secret_and_a_hub_that_is_not_linked_fail_the_registration() {
    let world = World::start().await;
    world.enroll("pump-1", None, "wrong").await;
    let failed = world.register("pump-1").await;
    assert_eq!(failed.status, dps::RegistrationStatus::Failed, "{failed:?}");
    assert_eq!(failed.registration_state.unwrap().state.error_code, Some(400_209));
    assert_eq!(world.row("pump-1"), None);
    // The directory has the device on a hub that the enrollment does not allow.
    let address = format!("http://{}", world.node().addresses().client);
    let assignment = v1::DeviceAssignment {
        device_id: "pump-2".to_owned(),
        hub: HUBS[0].to_owned(),
        scope: SCOPE.to_owned(),
        ..v1::DeviceAssignment::default()
    };
    let assign = v1::AssignRequest { assignment: Some(assignment), ..v1::AssignRequest::default() };
    DeviceServiceClient::connect(address).await.unwrap().assign(assign).await.unwrap();
    world.enroll("pump-2", None, SECRET).await;
    let id = RegistrationId::new("pump-2").unwrap();
    let mut enrollment = world.dps.enrollment(&id).await.unwrap();
    enrollment.attestation = world.dps.attestation(&id).await.unwrap();
    enrollment.iot_hubs = Some(vec![HostName::new(HUBS[1]).unwrap()]);
    world.dps.put_enrollment(&enrollment, &IfMatch::Any).await.unwrap();
    let failed = world.register("pump-2").await;
    assert_eq!(failed.status, dps::RegistrationStatus::Failed, "{failed:?}");
    let state = failed.registration_state.unwrap().state;
    assert_eq!(state.error_code, Some(400_207));
    assert!(state.error_message.unwrap().contains("409"), "{:?}", failed.status);
    assert_eq!(world.row("pump-2").as_deref(), Some(HUBS[0]), "the mapping stands");
    world.node.unwrap().shutdown().await;
}
