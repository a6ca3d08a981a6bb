//! The public API of a real node, over real gRPC and a real disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod devices;
mod hook;
mod imports;
mod lookups;
mod reports;
mod topology;

use std::collections::BTreeMap;

use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::device_service_client::DeviceServiceClient;
use berth_proto::v1::lookup_service_client::LookupServiceClient;
use berth_proto::v1::topology_service_client::TopologyServiceClient;
use berth_server::config::{Config, LimitSettings, Settings};
use berth_server::health::Serving;
use berth_server::run::{Injected, Node};
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::Channel;

/// A node with three hubs in two stamps, and clients of it.
struct Bench {
    lookups: LookupServiceClient<Channel>,
    devices: DeviceServiceClient<Channel>,
    topology: TopologyServiceClient<Channel>,
    node: Node,
    _dir: TempDir,
}

impl Bench {
    async fn start() -> Self {
        Self::start_with(LimitSettings::default()).await
    }

    async fn start_with(limits: LimitSettings) -> Self {
        let settings = Settings { limits, ..Settings::default() };
        Self::start_on(settings, Injected::default()).await
    }

    async fn start_on(settings: Settings, injected: Injected) -> Self {
        let mut bench = Self::open(tempfile::tempdir().unwrap(), settings, injected).await;
        // Whoever is told that writes are served need not try twice.
        bench.topology.apply(apply(start_topology())).await.unwrap();
        bench
    }

    /// Ends the node, and starts it again on its directory.
    async fn restart(self, injected: Injected) -> Self {
        let Self { node, _dir: dir, .. } = self;
        node.shutdown().await;
        Self::open(dir, Settings::default(), injected).await
    }

    async fn open(dir: TempDir, settings: Settings, injected: Injected) -> Self {
        let settings = Settings {
            data_dir: Some(dir.path().to_path_buf()),
            node_name: Some("n1".to_owned()),
            listen: Some("127.0.0.1:0".to_owned()),
            peer_listen: Some("127.0.0.1:0".to_owned()),
            http_listen: Some("127.0.0.1:0".to_owned()),
            ..settings
        };
        let config = Config::from_settings([settings]).unwrap();
        let node = Node::start(config, injected).await.unwrap();
        node.health().watch_read().wait_for(|serving| *serving == Serving::Yes).await.unwrap();
        node.health().watch_write().wait_for(|serving| *serving == Serving::Yes).await.unwrap();
        let channel = Channel::from_shared(format!("http://{}", node.addresses().client))
            .unwrap()
            .connect()
            .await
            .unwrap();
        Self {
            lookups: LookupServiceClient::new(channel.clone()),
            devices: DeviceServiceClient::new(channel.clone()),
            topology: TopologyServiceClient::new(channel),
            node,
            _dir: dir,
        }
    }

    async fn stop(self) {
        self.node.shutdown().await;
    }

    async fn assign(&mut self, device: &str, hub: &str) -> v1::AssignResponse {
        self.try_assign(assignment(device, hub)).await.unwrap()
    }

    async fn try_assign(&mut self, assignment: v1::DeviceAssignment) -> Result<v1::AssignResponse, ApiError> {
        let request = v1::AssignRequest { assignment: Some(assignment), ..v1::AssignRequest::default() };
        self.devices.assign(request).await.map(tonic::Response::into_inner).map_err(ApiError::from)
    }

    async fn get(&mut self, device: &str) -> Result<v1::Mapping, ApiError> {
        let request = v1::GetRequest {
            device: Some(v1::get_request::Device::DeviceId(device.to_owned())),
            ..v1::GetRequest::default()
        };
        let answer = self.devices.get(request).await.map_err(ApiError::from)?;
        Ok(answer.into_inner().mapping.unwrap())
    }
}

const HUB_1: &str = "hub-1.azure-devices.net";
const HUB_2: &str = "hub-2.azure-devices.net";
const HUB_3: &str = "hub-3.azure-devices.net";

fn start_topology() -> v1::DesiredTopology {
    let stamp = |name: &str, lifecycle: &str| v1::DesiredStamp {
        name: name.to_owned(),
        labels: Some(v1::DesiredLabels { labels: labels([("lifecycle", lifecycle)]) }),
        ..v1::DesiredStamp::default()
    };
    let hub = |name: &str, stamp: &str| v1::DesiredHub {
        name: name.to_owned(),
        stamp: Some(stamp.to_owned()),
        ..v1::DesiredHub::default()
    };
    let scope = |name: &str| v1::DesiredScope { name: name.to_owned(), ..v1::DesiredScope::default() };
    v1::DesiredTopology {
        stamps: vec![stamp("test-1", "test"), stamp("prod-1", "production")],
        hubs: vec![hub(HUB_1, "test-1"), hub(HUB_2, "prod-1"), hub(HUB_3, "prod-1")],
        scopes: vec![scope("0ne00000001"), scope("0ne00000002")],
        routes: vec![v1::Route {
            key: "app.example".to_owned(),
            stamp: "prod-1".to_owned(),
            ..v1::Route::default()
        }],
    }
}

fn apply(desired: v1::DesiredTopology) -> v1::ApplyRequest {
    v1::ApplyRequest { desired: Some(desired), ..v1::ApplyRequest::default() }
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn assignment(device: &str, hub: &str) -> v1::DeviceAssignment {
    v1::DeviceAssignment {
        device_id: device.to_owned(),
        hub: hub.to_owned(),
        ..v1::DeviceAssignment::default()
    }
}

fn refused<T: std::fmt::Debug>(answer: Result<tonic::Response<T>, Status>) -> (tonic::Code, ApiError) {
    let status = answer.unwrap_err();
    (status.code(), ApiError::from(&status))
}

/// A UUIDv7 of now.
fn request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}
