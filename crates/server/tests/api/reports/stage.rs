//! A node with a scope, a clock that stands, and an authority that is told what to say.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berth_core::reconcile::{IdentitySeen, RegistrationSeen};
use berth_core::{DeviceId, HubName, RegistrationId, Scope};
use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::lookup_service_client::LookupServiceClient;
use berth_proto::v1::reconcile_service_client::ReconcileServiceClient;
use berth_proto::v1::report_response::Result as Answer;
use berth_proto::v1::topology_service_client::TopologyServiceClient;
use berth_server::config::{AzureSettings, Config, Settings};
use berth_server::health::Serving;
use berth_server::raft::Clock;
use berth_server::reconcile::{
    Authority, Cursor, EnrollmentRow, IdentityRow, Listing, RegistrationRow, Trouble,
};
use berth_server::run::{Injected, Node};
use futures_util::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::{Bench, HUB_1, HUB_2, apply, assignment, start_topology};

pub const SCOPE: &str = "0ne00000001";

/// A clock that stands until it is moved.
#[derive(Clone)]
pub struct StandingClock {
    now: Arc<AtomicU64>,
    start_ms: u64,
}

impl StandingClock {
    pub fn new() -> Self {
        let start_ms = 1_700_000_000_000;
        Self { now: Arc::new(AtomicU64::new(start_ms)), start_ms }
    }

    pub fn start_ms(&self) -> u64 {
        self.start_ms
    }

    pub fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    pub fn advance(&self, by: Duration) {
        self.now.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for StandingClock {
    fn now_ms(&self) -> u64 {
        self.now()
    }

    /// Whoever waits finds that the time has passed.
    fn sleep(&self, time: Duration) -> BoxFuture<'_, ()> {
        self.advance(time);
        Box::pin(tokio::task::yield_now())
    }
}

#[derive(Default)]
struct Script {
    registrations: HashMap<String, Result<Option<RegistrationSeen>, Trouble>>,
    identities: HashMap<String, Result<IdentitySeen, Trouble>>,
    enrolled: Vec<EnrollmentRow>,
    registered: HashMap<String, Vec<RegistrationRow>>,
    listed: HashMap<String, Vec<IdentityRow>>,
    /// What an enrollment says, where it says anything.
    enrollments: HashMap<String, RegistrationSeen>,
    /// Questions after registrations, and all questions.
    asked: (usize, usize),
}

/// Says what it was told to say, and counts.
#[derive(Clone)]
pub struct Scripted {
    script: Arc<Mutex<Script>>,
    held: watch::Sender<bool>,
    count: watch::Sender<usize>,
}

impl Scripted {
    fn new() -> Self {
        Self { script: Arc::default(), held: watch::Sender::new(false), count: watch::Sender::new(0) }
    }

    /// What is said of a registration; there are no enrollments.
    pub fn registration(&self, id: &str, said: Result<Option<RegistrationSeen>, Trouble>) {
        self.script.lock().registrations.insert(id.to_owned(), said);
    }

    pub fn identity(&self, id: &str, said: Result<IdentitySeen, Trouble>) {
        self.script.lock().identities.insert(id.to_owned(), said);
    }

    /// What is said of an enrollment.
    pub fn enrollment(&self, id: &str, said: RegistrationSeen) {
        self.script.lock().enrollments.insert(id.to_owned(), said);
    }

    /// Lists an enrollment, by the device's name at DPS and in its hub.
    pub fn enroll(&self, registration: &str, device: &str, is_disabled: bool) {
        self.script.lock().enrolled.push(EnrollmentRow {
            registration: registration.parse().unwrap(),
            device: device.parse().unwrap(),
            is_disabled,
            seen: None,
        });
    }

    /// Lists the registration of a group's device.
    pub fn group(&self, group: &str, id: &str, seen: RegistrationSeen) {
        let row = RegistrationRow { registration: id.parse().unwrap(), seen };
        self.script.lock().registered.entry(group.to_owned()).or_default().push(row);
    }

    /// Lists an identity of a hub.
    pub fn list(&self, hub: &str, device: &str, is_enabled: bool) {
        let row = IdentityRow { device: device.parse().unwrap(), is_enabled };
        self.script.lock().listed.entry(hub.to_owned()).or_default().push(row);
    }

    async fn page<T: Clone>(
        &self,
        from: Option<&Cursor>,
        rows: impl FnOnce(&Script) -> Vec<T>,
    ) -> Listing<T> {
        let all = self.answer(false, rows).await;
        let start: usize = from.map_or(0, |Cursor(at)| at.parse().unwrap());
        let end = all.len().min(start + PAGE_ROWS);
        let next = (end < all.len()).then(|| Cursor(end.to_string()));
        Listing { rows: all[start..end].to_vec(), odd: 0, next }
    }

    /// From now on nothing is answered until it is released.
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    pub fn release(&self) {
        self.held.send_replace(false);
    }

    pub fn registrations(&self) -> usize {
        self.script.lock().asked.0
    }

    pub fn calls(&self) -> usize {
        self.script.lock().asked.1
    }

    /// Waits until so many questions were asked.
    pub async fn asked(&self, count: usize) {
        self.count.subscribe().wait_for(|asked| *asked >= count).await.unwrap();
    }

    async fn answer<T>(&self, of_registration: bool, say: impl FnOnce(&Script) -> T) -> T {
        let said = {
            let mut script = self.script.lock();
            script.asked.0 += usize::from(of_registration);
            script.asked.1 += 1;
            self.count.send_replace(script.asked.1);
            say(&script)
        };
        self.held.subscribe().wait_for(|held| !held).await.unwrap();
        said
    }
}

impl Authority for Scripted {
    fn registration<'a>(
        &'a self,
        scope: &'a Scope,
        id: &'a RegistrationId,
    ) -> BoxFuture<'a, Result<Option<RegistrationSeen>, Trouble>> {
        assert_eq!(scope.name.as_str(), SCOPE);
        let say = |script: &Script| script.registrations.get(id.as_str()).cloned().unwrap_or(Ok(None));
        Box::pin(self.answer(true, say))
    }

    fn enrollment<'a>(
        &'a self,
        _: &'a Scope,
        id: &'a RegistrationId,
    ) -> BoxFuture<'a, Result<Option<RegistrationSeen>, Trouble>> {
        Box::pin(self.answer(false, |script| Ok(script.enrollments.get(id.as_str()).cloned())))
    }

    fn identity<'a>(
        &'a self,
        _: &'a HubName,
        device: &'a DeviceId,
    ) -> BoxFuture<'a, Result<IdentitySeen, Trouble>> {
        let say = |script: &Script| {
            let said = script.identities.get(device.as_str()).cloned();
            said.unwrap_or_else(|| Err(Trouble::Nonsense("not in the script".to_owned())))
        };
        Box::pin(self.answer(false, say))
    }

    fn enrollments<'a>(
        &'a self,
        _: &'a Scope,
        from: Option<&Cursor>,
    ) -> BoxFuture<'a, Result<Listing<EnrollmentRow>, Trouble>> {
        let from = from.cloned();
        Box::pin(async move { Ok(self.page(from.as_ref(), |script| script.enrolled.clone()).await) })
    }

    fn groups<'a>(
        &'a self,
        _: &'a Scope,
        from: Option<&Cursor>,
    ) -> BoxFuture<'a, Result<Listing<String>, Trouble>> {
        let from = from.cloned();
        let groups = |script: &Script| script.registered.keys().cloned().collect();
        Box::pin(async move { Ok(self.page(from.as_ref(), groups).await) })
    }

    fn registrations<'a>(
        &'a self,
        _: &'a Scope,
        group: &str,
        from: Option<&Cursor>,
    ) -> BoxFuture<'a, Result<Listing<RegistrationRow>, Trouble>> {
        let (group, from) = (group.to_owned(), from.cloned());
        Box::pin(
            async move { Ok(self.page(from.as_ref(), |script| script.registered[&group].clone()).await) },
        )
    }

    fn identities<'a>(
        &'a self,
        hub: &'a HubName,
        from: Option<&Cursor>,
    ) -> BoxFuture<'a, Result<Listing<IdentityRow>, Trouble>> {
        let from = from.cloned();
        let listed = |script: &Script| script.listed.get(hub.as_str()).cloned().unwrap_or_default();
        Box::pin(async move { Ok(self.page(from.as_ref(), listed).await) })
    }
}

/// Rows of a page.
const PAGE_ROWS: usize = 2;

/// The scope as reports need it, and hubs with room in their budgets.
pub fn topology() -> v1::DesiredTopology {
    let mut topology = start_topology();
    for hub in &mut topology.hubs {
        (hub.tier, hub.units) = (Some(v1::HubTier::S3 as i32), Some(1));
    }
    topology.scopes[0] = v1::DesiredScope {
        name: SCOPE.to_owned(),
        service_host: Some("dps.example".to_owned()),
        read_through: Some(true),
        linked_hubs: Some(v1::DesiredLinkedHubs { hubs: vec![HUB_1.to_owned(), HUB_2.to_owned()] }),
        ..v1::DesiredScope::default()
    };
    topology
}

pub fn assigned(device: &str, hub: &str, updated_ms: Option<u64>) -> RegistrationSeen {
    RegistrationSeen::Assigned {
        hub: hub.parse().unwrap(),
        device: device.parse().unwrap(),
        updated: updated_ms.map(berth_core::Timestamp),
    }
}

pub fn hub_of(answer: &v1::ReportResponse) -> &str {
    match &answer.result {
        Some(Answer::Found(found)) => &found.hub,
        other => panic!("no hub: {other:?} in {answer:?}"),
    }
}

pub fn negative_of(answer: &v1::ReportResponse) -> v1::Negative {
    match &answer.result {
        Some(Answer::Negative(negative)) => *negative,
        other => panic!("no negative: {other:?} in {answer:?}"),
    }
}

/// One node.
pub struct Stage {
    pub bench: Bench,
    pub clock: StandingClock,
    pub authority: Scripted,
}

impl Stage {
    pub async fn start() -> Self {
        let (clock, authority) = (StandingClock::new(), Scripted::new());
        let injected = Injected {
            clock: Arc::new(clock.clone()),
            authority: Some(Arc::new(authority.clone())),
            ..Injected::default()
        };
        let azure = AzureSettings { sweep_every: Some("0".to_owned()), ..AzureSettings::default() };
        let mut bench = Bench::start_on(Settings { azure, ..Settings::default() }, injected).await;
        bench.topology.apply(apply(topology())).await.unwrap();
        Self { bench, clock, authority }
    }

    /// Puts a device of the scope on a hub; its epoch.
    pub async fn enroll(&mut self, device: &str, hub: &str) -> u64 {
        let row = v1::DeviceAssignment { scope: SCOPE.to_owned(), ..assignment(device, hub) };
        self.bench.try_assign(row).await.unwrap().epoch
    }

    pub fn request(&self, device: &str, hub: &str, epoch: u64) -> v1::ReportRequest {
        request(device, hub, epoch, v1::HubObservation::NotFound)
    }

    pub async fn report(
        &mut self,
        device: &str,
        hub: &str,
        epoch: u64,
        observation: v1::HubObservation,
    ) -> Result<v1::ReportResponse, ApiError> {
        let request = request(device, hub, epoch, observation);
        self.bench.lookups.report(request).await.map(tonic::Response::into_inner).map_err(ApiError::from)
    }

    /// The value of a line of `/metrics`; 0 where it is not there.
    pub async fn metric(&self, line: &str) -> u64 {
        metric_of(&self.bench.node, line).await
    }

    pub async fn until_metric(&self, line: &str, at_least: u64) {
        while self.metric(line).await < at_least {
            tokio::task::yield_now().await;
        }
    }

    pub async fn stop(self) {
        self.bench.stop().await;
    }
}

/// The value of a line of a node's `/metrics`; 0 where it is not there.
pub async fn metric_of(node: &Node, line: &str) -> u64 {
    let mut stream = tokio::net::TcpStream::connect(node.addresses().http).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nhost: berth\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let value = text.lines().find_map(|seen| seen.strip_prefix(line)?.strip_prefix(' '));
    value.map_or(0, |value| value.trim().parse().unwrap())
}

/// A client of one node's lookups.
pub async fn lookups_of(node: &Node) -> LookupServiceClient<Channel> {
    LookupServiceClient::connect(format!("http://{}", node.addresses().client)).await.unwrap()
}

pub fn request(device: &str, hub: &str, epoch: u64, observation: v1::HubObservation) -> v1::ReportRequest {
    v1::ReportRequest {
        device_id: device.to_owned(),
        hub: hub.to_owned(),
        epoch,
        observation: observation as i32,
    }
}

/// Three nodes that share one authority.
pub struct Three {
    pub nodes: Vec<Node>,
    pub authority: Scripted,
    _dirs: Vec<TempDir>,
}

impl Three {
    pub async fn start() -> Self {
        let authority = Scripted::new();
        let peers: Vec<(String, String)> = (1..=3).map(|n| (format!("n{n}"), free_address())).collect();
        let list: Vec<String> = peers.iter().map(|(name, addr)| format!("{name}={addr}")).collect();
        let dirs: Vec<TempDir> = peers.iter().map(|_| tempfile::tempdir().unwrap()).collect();
        let starting = peers.iter().zip(&dirs).map(|((name, addr), dir)| {
            let settings = Settings {
                data_dir: Some(dir.path().to_path_buf()),
                node_name: Some(name.clone()),
                listen: Some("127.0.0.1:0".to_owned()),
                peer_listen: Some(addr.clone()),
                http_listen: Some("127.0.0.1:0".to_owned()),
                bootstrap: Some(list.join(",")),
                ..Settings::default()
            };
            let injected = Injected { authority: Some(Arc::new(authority.clone())), ..Injected::default() };
            async move { Node::start(Config::from_settings([settings]).unwrap(), injected).await.unwrap() }
        });
        let nodes = join_all(starting).await;
        for node in &nodes {
            node.health().watch_read().wait_for(|serving| *serving == Serving::Yes).await.unwrap();
            node.health().watch_write().wait_for(|serving| *serving == Serving::Yes).await.unwrap();
        }
        Self { nodes, authority, _dirs: dirs }
    }

    fn leading(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.raft().leads() && !node.raft().lacks_quorum())
    }

    /// The leader, as soon as there is one.
    pub async fn leader(&self) -> &Node {
        loop {
            match self.leading() {
                Some(leader) => return leader,
                None => tokio::task::yield_now().await,
            }
        }
    }

    /// Hands the leadership from one node to another, or to any other.
    pub async fn transfer<'a>(&'a self, from: &Node, to: Option<&'a Node>) -> &'a Node {
        let any = self.nodes.iter().find(|node| node.raft().id() != from.raft().id());
        let heir = to.or(any).unwrap();
        while from.raft().leads() || !heir.raft().leads() {
            // Somebody else may lead meanwhile, on a machine that is busy.
            let _ = self.leader().await.raft().membership().transfer(heir.raft().id()).await;
            tokio::task::yield_now().await;
        }
        heir
    }

    /// Writes the topology.
    pub async fn set_up(&self) {
        loop {
            let address = format!("http://{}", self.leader().await.addresses().client);
            let mut topologies = TopologyServiceClient::connect(address).await.unwrap();
            if topologies.apply(apply(topology())).await.is_ok() {
                return;
            }
        }
    }

    pub async fn stop(self) {
        join_all(self.nodes.into_iter().map(Node::shutdown)).await;
    }

    /// Every node takes the same report; together they ask once. False where the leader changed meanwhile, and all that it
    /// knew with it.
    pub async fn play(self) -> bool {
        let began_in = self.leader().await.raft().status().term;
        let epoch = loop {
            let leader = self.leader().await;
            let channel = format!("http://{}", leader.addresses().client);
            let mut topologies = TopologyServiceClient::connect(channel.clone()).await.unwrap();
            let mut devices = v1::device_service_client::DeviceServiceClient::connect(channel).await.unwrap();
            let row = v1::DeviceAssignment { scope: SCOPE.to_owned(), ..assignment("d-1", HUB_1) };
            let assign = |row| v1::AssignRequest { assignment: Some(row), ..v1::AssignRequest::default() };
            let idle = v1::DeviceAssignment { scope: SCOPE.to_owned(), ..assignment("idle-1", "") };
            // A leader that is replaced meanwhile refuses.
            if topologies.apply(apply(topology())).await.is_ok()
                && devices.assign(assign(idle)).await.is_ok()
                && let Ok(written) = devices.assign(assign(row)).await
            {
                break written.into_inner().epoch;
            }
        };
        self.authority.registration("d-1", Ok(Some(assigned("d-1", HUB_1, None))));
        self.authority.identity("d-1", Ok(IdentitySeen::Missing));
        for node in &self.nodes {
            let mut lookups = lookups_of(node).await;
            let answer = loop {
                let asked = request("d-1", HUB_1, epoch, v1::HubObservation::NotFound);
                match lookups.report(asked).await {
                    Ok(answer) => break answer.into_inner(),
                    // An election is under way.
                    Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}"),
                }
            };
            assert_eq!(negative_of(&answer).kind(), v1::NegativeKind::Missing);
            assert_eq!(answer.header.unwrap().role(), v1::NodeRole::Leader, "the leader has answered");
        }
        self.authority.registration("new-1", Ok(Some(assigned("new-1", HUB_2, None))));
        self.authority.registration("idle-1", Ok(Some(assigned("idle-1", HUB_2, None))));
        for (node, device) in self.nodes.iter().flat_map(|node| [(node, "new-1"), (node, "idle-1")]) {
            let mut lookups = lookups_of(node).await;
            let found = loop {
                let device = Some(v1::lookup_request::Device::DeviceId(device.to_owned()));
                match lookups.lookup(v1::LookupRequest { device, consistency: None }).await {
                    Ok(answer) => break answer.into_inner().result,
                    // An election is under way, or what may be asked at once is spent.
                    Err(status) => assert!(
                        matches!(
                            status.code(),
                            tonic::Code::Unavailable
                                | tonic::Code::ResourceExhausted
                                | tonic::Code::FailedPrecondition
                        ),
                        "{status:?}"
                    ),
                }
            };
            let Some(v1::lookup_response::Result::Found(found)) = found else { panic!("{found:?}") };
            assert_eq!(found.hub, HUB_2);
        }
        let mut lists = Vec::new();
        for node in self.nodes.iter().filter(|node| !node.raft().leads()) {
            let address = format!("http://{}", node.addresses().client);
            let mut calls = ReconcileServiceClient::connect(address).await.unwrap();
            let refused = calls.list_drift(v1::ListDriftRequest::default()).await;
            let refused = refused.map(drop).map_err(|status| ApiError::from(&status));
            let Err(ApiError::NotLeader { leader: Some(leader) }) = refused else {
                lists.push(Err(format!("{refused:?}")));
                continue;
            };
            let mut calls =
                ReconcileServiceClient::connect(format!("http://{}", leader.address)).await.unwrap();
            let listed = calls.list_drift(v1::ListDriftRequest::default()).await;
            let listed = listed.map(|listed| listed.into_inner().drifts).map_err(|status| status.to_string());
            lists.push(listed.map(|rows| rows.iter().map(v1::DriftRecord::class).collect::<Vec<_>>()));
        }
        let asked = self.authority.registrations();
        let is_one_term = self.leader().await.raft().status().term == began_in;
        if is_one_term {
            assert_eq!(asked, 3, "the leader asks once for all three, of each device");
            assert_eq!(lists, vec![Ok(vec![v1::DriftClass::Missing]); 2]);
        }
        self.stop().await;
        is_one_term
    }
}

impl Three {
    /// The leader sweeps, and another node is made leader before it is answered.
    pub async fn lose_the_leader_of_a_sweep(self, row: v1::DeviceAssignment) {
        let row = v1::DeviceAssignment { scope: SCOPE.to_owned(), ..row };
        let device = row.device_id.clone();
        let sweeping = loop {
            let leader = self.leader().await;
            let channel = format!("http://{}", leader.addresses().client);
            let mut topologies =
                v1::topology_service_client::TopologyServiceClient::connect(channel.clone()).await.unwrap();
            let mut devices =
                v1::device_service_client::DeviceServiceClient::connect(channel.clone()).await.unwrap();
            let mut calls = ReconcileServiceClient::connect(channel).await.unwrap();
            let assign = v1::AssignRequest { assignment: Some(row.clone()), ..v1::AssignRequest::default() };
            // DPS names another hub, and does not know better.
            self.authority.registration(&device, Ok(Some(assigned(&device, HUB_2, None))));
            self.authority.hold();
            if topologies.apply(apply(topology())).await.is_ok()
                && devices.assign(assign).await.is_ok()
                && calls.start_sweep(v1::StartSweepRequest::default()).await.is_ok()
            {
                break leader;
            }
        };
        self.authority.asked(1).await;
        let led = sweeping.raft().status();
        let heir = led.members.iter().find(|member| member.id != led.id).unwrap().id;
        let heir = self.nodes.iter().find(|node| node.raft().status().id == heir).unwrap();
        self.transfer(sweeping, Some(heir)).await;
        self.leader().await;
        self.authority.release();
        // The new leader knows of no sweep, and runs one of its own.
        let mut calls = sweeps_of(heir).await;
        let none = calls.get_sweep(v1::GetSweepRequest {}).await.unwrap().into_inner();
        assert_eq!(none.sweep, None);
        calls.start_sweep(v1::StartSweepRequest::default()).await.unwrap();
        let done = loop {
            let sweep = calls.get_sweep(v1::GetSweepRequest {}).await.unwrap().into_inner().sweep.unwrap();
            if sweep.state() != v1::SweepState::Running {
                break sweep;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!((done.state(), done.found.len(), done.repaired), (v1::SweepState::Completed, 1, 0));
        // Back in its place, the old one says that its own was cut short, and has found nothing.
        self.transfer(heir, Some(sweeping)).await;
        self.leader().await;
        let told = sweeps_of(sweeping).await.get_sweep(v1::GetSweepRequest {}).await.unwrap().into_inner();
        let told = told.sweep.unwrap();
        assert_eq!(
            (told.state(), told.pages, told.verified),
            (v1::SweepState::Interrupted, 1, 0),
            "{told:?}"
        );
        join_all(self.nodes.into_iter().map(Node::shutdown)).await;
    }
}

async fn sweeps_of(node: &Node) -> ReconcileServiceClient<tonic::transport::Channel> {
    ReconcileServiceClient::connect(format!("http://{}", node.addresses().client)).await.unwrap()
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}
