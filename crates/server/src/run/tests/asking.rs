//! Those who wait for Azure, seen from inside a node: how many may, and when they end.

use std::future::pending;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use berth_core::reconcile::{IdentitySeen, RegistrationSeen};
use berth_core::{DeviceId, Epoch, HubName, RegistrationId, Scope};
use berth_proto::error::ApiError;
use berth_proto::internal as peer;
use berth_proto::v1;
use berth_proto::v1::device_service_client::DeviceServiceClient;
use berth_proto::v1::lookup_service_client::LookupServiceClient;
use berth_proto::v1::topology_service_client::TopologyServiceClient;
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio::sync::watch;
use tonic::Code;

use super::HUBS;
use crate::config::{Config, Settings};
use crate::raft::tests::until;
use crate::reconcile::{Authority, Cause, Finding, Found, Reconciler, Trouble};
use crate::rpc::Api;
use crate::run::{Injected, Node};

/// Calls of a node that may wait at once.
const WAITING_MAX: usize = 2_048;
/// How long any of them waits.
const WAIT_MAX: Duration = Duration::from_secs(4);
const DEVICES: [&str; 3] = ["d-0", "d-1", "d-2"];

/// An Azure that never answers, and counts who asks.
#[derive(Clone)]
struct Silent(watch::Sender<usize>);

impl Silent {
    async fn say_nothing<T>(&self) -> T {
        self.0.send_modify(|asked| *asked += 1);
        pending().await
    }
}

impl Authority for Silent {
    fn registration<'a>(
        &'a self,
        _: &'a Scope,
        _: &'a RegistrationId,
    ) -> BoxFuture<'a, Result<Option<RegistrationSeen>, Trouble>> {
        Box::pin(self.say_nothing())
    }

    fn enrollment<'a>(
        &'a self,
        _: &'a Scope,
        _: &'a RegistrationId,
    ) -> BoxFuture<'a, Result<Option<RegistrationSeen>, Trouble>> {
        Box::pin(self.say_nothing())
    }

    fn identity<'a>(
        &'a self,
        _: &'a HubName,
        _: &'a DeviceId,
    ) -> BoxFuture<'a, Result<IdentitySeen, Trouble>> {
        Box::pin(self.say_nothing())
    }
}

/// A node alone, with devices in a scope that can be asked.
pub(crate) struct Asking {
    node: Node,
    silent: Silent,
    devices: DeviceServiceClient<tonic::transport::Channel>,
    _dir: TempDir,
}

impl Asking {
    pub(crate) async fn start() -> Self {
        let (dir, silent) = (tempfile::tempdir().unwrap(), Silent(watch::Sender::new(0)));
        let any = || Some("127.0.0.1:0".to_owned());
        let settings = Settings {
            data_dir: Some(dir.path().to_path_buf()),
            listen: any(),
            peer_listen: any(),
            http_listen: any(),
            ..Settings::default()
        };
        let injected = Injected { authority: Some(Arc::new(silent.clone())), ..Injected::default() };
        let node = Node::start(Config::from_settings([settings]).unwrap(), injected).await.unwrap();
        until("it reads and writes", || {
            node.directory().serving().check().is_ok() && node.directory().check_writes().is_ok()
        })
        .await;
        let address = format!("http://{}", node.addresses().client);
        let hub = |name: &str| v1::DesiredHub {
            name: name.to_owned(),
            stamp: Some("stamp-1".to_owned()),
            ..v1::DesiredHub::default()
        };
        let scope = v1::DesiredScope {
            name: "0ne1".to_owned(),
            service_host: Some("dps.example".to_owned()),
            read_through: Some(true),
            linked_hubs: Some(v1::DesiredLinkedHubs { hubs: HUBS.map(str::to_owned).into() }),
            ..v1::DesiredScope::default()
        };
        let desired = v1::DesiredTopology {
            stamps: vec![v1::DesiredStamp { name: "stamp-1".to_owned(), ..v1::DesiredStamp::default() }],
            hubs: HUBS.into_iter().map(hub).collect(),
            scopes: vec![scope],
            ..v1::DesiredTopology::default()
        };
        let request = v1::ApplyRequest { desired: Some(desired), ..v1::ApplyRequest::default() };
        TopologyServiceClient::connect(address.clone()).await.unwrap().apply(request).await.unwrap();
        let devices = DeviceServiceClient::connect(address).await.unwrap();
        Self { node, silent, devices, _dir: dir }
    }

    pub(crate) fn api(&self) -> &Api {
        &self.node._api
    }

    /// Puts a device on one of the hubs; its epoch.
    pub(crate) async fn assign(&mut self, device: &str, hub: usize) -> Epoch {
        let row = v1::DeviceAssignment {
            device_id: device.to_owned(),
            hub: HUBS[hub].to_owned(),
            scope: "0ne1".to_owned(),
            ..v1::DeviceAssignment::default()
        };
        let request = v1::AssignRequest { assignment: Some(row), ..v1::AssignRequest::default() };
        Epoch(self.devices.assign(request).await.unwrap().into_inner().epoch)
    }

    pub(crate) async fn stop(self) {
        self.node.shutdown().await;
    }

    /// Nobody yet, and devices to wait for.
    async fn crowd(&mut self) -> Crowd {
        let mut devices = Vec::new();
        for device in DEVICES {
            devices.push((DeviceId::parse(device).unwrap(), self.assign(device, 0).await));
        }
        Crowd { reconciler: self.node.reconciler.clone(), devices, waiting: Vec::new() }
    }
}

/// Calls that wait, and are not waited for.
struct Crowd {
    reconciler: Reconciler,
    devices: Vec<(DeviceId, Epoch)>,
    waiting: Vec<BoxFuture<'static, Found>>,
}

impl Crowd {
    /// One more; what it is told if it may not wait.
    fn join(&mut self) -> Result<(), Found> {
        let (device, epoch) = self.devices[self.waiting.len() % DEVICES.len()].clone();
        let reconciler = self.reconciler.clone();
        let mut call: BoxFuture<'static, Found> =
            Box::pin(async move { reconciler.verify(&device, epoch).await });
        match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => self.waiting.push(call),
            Poll::Ready(found) => return Err(found),
        }
        Ok(())
    }

    fn fill(&mut self, count: usize) {
        while self.waiting.len() < count {
            self.join().unwrap();
        }
    }
}

fn search(device: &str) -> peer::ForwardRequest {
    let search = peer::ReadThrough { device_id: device.to_owned() };
    peer::ForwardRequest { call: Some(peer::forward_request::Call::ReadThrough(search)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_so_many_wait_and_the_others_are_told_when_to_come() {
    let mut stage = Asking::start().await;
    let mut crowd = stage.crowd().await;
    crowd.fill(WAITING_MAX);
    // A report is answered with what the directory has.
    let refused = crowd.join().unwrap_err();
    let Finding::NotVerified { cause: Cause::Crowded, .. } = refused.finding else { panic!("{refused:?}") };
    assert_eq!(refused.again_after, Duration::from_secs(1));
    // A lookup of a device that the directory does not have is refused, here and where it would be sent on.
    let address = format!("http://{}", stage.node.addresses().client);
    let device = Some(v1::lookup_request::Device::DeviceId("new-1".to_owned()));
    let asked = v1::LookupRequest { device, consistency: None };
    let mut lookups = LookupServiceClient::connect(address).await.unwrap();
    let status = lookups.lookup(asked).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let sent_on = crowd.reconciler.forward(search("new-1")).await.unwrap_err();
    for error in [ApiError::from(&status), sent_on] {
        assert!(matches!(error, ApiError::Overloaded { limit: 2_048, .. }), "{error:?}");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
    }
    assert_eq!(*stage.silent.0.borrow(), DEVICES.len(), "one question a device");
    // Whoever gives up makes room for one.
    crowd.waiting.pop();
    crowd.join().unwrap();
    crowd.join().unwrap_err();
    drop(crowd);
    stage.stop().await;
}

/// On a machine that stalls the call may have ended by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_sent_on_ends_with_its_caller() {
    let mut stage = Asking::start().await;
    let mut crowd = stage.crowd().await;
    let forwarded = stage.node._api.forwarded();
    let begun = Instant::now();
    let mut call = forwarded(search("new-1"));
    assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    stage.silent.0.subscribe().wait_for(|asked| *asked == 1).await.unwrap();
    crowd.fill(WAITING_MAX - 1);
    crowd.join().expect_err("the call waits as well");
    drop(call);
    until("there is room for one more", || crowd.join().is_ok()).await;
    assert!(begun.elapsed() < WAIT_MAX, "the call waited on for {:?}", begun.elapsed());
    drop(crowd);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_asked_about_an_epoch_that_is_over() {
    let mut stage = Asking::start().await;
    let (device, then) = (DeviceId::parse("d-0").unwrap(), stage.assign("d-0", 0).await);
    stage.assign("d-0", 1).await;
    let found = stage.node.reconciler.verify(&device, then).await;
    assert_eq!(found.finding, Finding::Superseded);
    assert_eq!(*stage.silent.0.borrow(), 0);
    stage.stop().await;
}
