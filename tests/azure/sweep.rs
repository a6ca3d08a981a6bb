//! A sweep of a node of Berth over the emulated Azure, over real TCP: it finds every planted drift of every class, and
//! nothing else.
//!
//! Quotas are the documented ones. Time is one clock for both, which jumps whenever the node waits: hours of a paced sweep
//! pass in seconds, and no call is made that the quotas of that time would not allow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_azure::dps::{AllocationPolicy, ProvisioningStatus, ReprovisionPolicy};
use berth_azure::hub::{DeviceStatus, Identity};
use berth_azure::id::{DeviceId, HostName, RegistrationId};
use berth_azure::{Credential, Endpoints, IfMatch, KeySource, Surroundings, Transport, dps, hub};
use berth_client::v1::{DriftClass, SweepState};
use berth_client::{Client, Options, v1};
use berth_emulator::{Clock as _, Command, Config, Emulator, FailNext, Running, SystemRandomness, WallClock};
use berth_server::config::{AzureConfig, AzureSettings, Config as NodeConfig, Settings};
use berth_server::health::Serving;
use berth_server::raft::Clock;
use berth_server::reconcile::AzureAuthority;
use berth_server::run::{Injected, Node};
use futures_util::future::BoxFuture;
use tempfile::TempDir;

use crate::KEY;

const SCOPE: &str = "0ne00000001";
const DPS: &str = "dps-a.azure-devices-provisioning.net";
/// Two hubs that the scope is linked to, one that it is not, and one that Berth does not know.
const HUBS: [&str; 4] = [
    "hub-a.azure-devices.net",
    "hub-b.azure-devices.net",
    "hub-c.azure-devices.net",
    "hub-d.azure-devices.net",
];
/// Devices that nothing is wrong with; `BERTH_SWEEP_DEVICES=200000` makes it what a large hub has.
const DEVICES: u32 = 5_000;
/// Of each kind of drift.
const PLANTED: u32 = 7;
/// How long a sweep may take by the clock on the wall.
const PATIENCE: Duration = Duration::from_secs(600);

/// One time for Azure and the node. It goes on by itself, and jumps over what the node waits for.
#[derive(Clone)]
struct Jumping(Arc<WallClock>);

impl Clock for Jumping {
    fn now_ms(&self) -> u64 {
        self.0.now().micros() / 1_000
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'_, ()> {
        self.0.advance(time);
        Box::pin(tokio::task::yield_now())
    }
}

/// The same for the client of Azure: tokens end by it, and calls take their own time.
struct Around {
    clock: Arc<WallClock>,
    start: Instant,
}

impl Surroundings for Around {
    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn since_epoch(&self) -> Duration {
        Duration::from_micros(self.clock.now().micros())
    }

    fn draw(&self) -> f64 {
        0.5
    }

    fn pause(&self, length: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(length))
    }

    fn until(&self, at: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(at.saturating_sub(self.elapsed())))
    }
}

struct World {
    clock: Arc<WallClock>,
    azure: Running,
    dps: dps::Service,
    hubs: BTreeMap<&'static str, hub::Service>,
    node: Node,
    client: Client,
    folder: TempDir,
}

fn emulator(fleet: &str) -> Config {
    let policy = format!("primary_key = \"{KEY}\"\n");
    let mut text = "listen_http = \"127.0.0.1:0\"\n".to_owned();
    for hub in HUBS {
        text += &format!("[[hubs]]\nhost = \"{hub}\"\n[[hubs.policies]]\nname = \"iothubowner\"\n{policy}");
    }
    let linked: Vec<String> = HUBS.iter().map(|hub| format!("{{ host = \"{hub}\" }}")).collect();
    text += &format!(
        "[[dps]]\nid_scope = \"{SCOPE}\"\nhost = \"{DPS}\"\nallocation = \"static\"\nassigning_ms = 0\nhubs = [{}]\n\
         [[dps.policies]]\nname = \"provisioningserviceowner\"\n{policy}{fleet}",
        linked.join(", ")
    );
    Config::from_toml(&text).unwrap()
}

/// Devices that register by themselves, through a group.
fn fleet() -> String {
    format!(
        "[[fleets]]\nid_scope = \"{SCOPE}\"\ndevices = {PLANTED}\nprefix = \"grouped-\"\nenrollment_group = \"fleet\"\n\
         [fleets.back_off]\nstart_spread_ms = 1\n"
    )
}

fn topology() -> v1::DesiredTopology {
    let hubs = HUBS[..3].iter().map(|name| v1::DesiredHub {
        name: (*name).to_owned(),
        stamp: Some("s".to_owned()),
        tier: Some(v1::HubTier::S1 as i32),
        units: Some(1),
        ..Default::default()
    });
    let linked = HUBS[..2].iter().map(|name| (*name).to_owned()).collect();
    v1::DesiredTopology {
        stamps: vec![v1::DesiredStamp { name: "s".to_owned(), ..Default::default() }],
        hubs: hubs.collect(),
        scopes: vec![v1::DesiredScope {
            name: SCOPE.to_owned(),
            service_host: Some(DPS.to_owned()),
            credential_ref: None,
            linked_hubs: Some(v1::DesiredLinkedHubs { hubs: linked }),
            ..Default::default()
        }],
        routes: Vec::new(),
    }
}

impl World {
    async fn start(fleet: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(WallClock::new());
        let azure =
            Emulator::start(emulator(fleet), clock.clone(), Arc::new(SystemRandomness)).await.unwrap();
        let address = HostName::new(&azure.http_address().unwrap().to_string()).unwrap();
        let key = |host: &str, policy: &str| {
            let path = folder.path().join(host);
            let text = format!("HostName={host};SharedAccessKeyName={policy};SharedAccessKey={KEY}");
            std::fs::write(&path, text).unwrap();
            KeySource::File(path)
        };
        let dps_key = key(DPS, "provisioningserviceowner");
        let hub_keys: BTreeMap<_, _> = HUBS.iter().map(|host| (*host, key(host, "iothubowner"))).collect();

        let around = || Arc::new(Around { clock: clock.clone(), start: Instant::now() });
        let hosts = HUBS.iter().chain([&DPS]).map(|host| HostName::new(host).unwrap());
        let config = AzureConfig {
            plain_http: true,
            addresses: hosts.map(|host| (host, address.clone())).collect(),
            hub_credentials: hub_keys
                .iter()
                .map(|(host, key)| (host.parse().unwrap(), key.clone()))
                .collect(),
            ..AzureConfig::default()
        };
        let authority = AzureAuthority::on(&config, around()).unwrap();

        let endpoints: Endpoints = config.endpoints().unwrap();
        let planting = berth_azure::Client::new(Transport::new(endpoints).unwrap(), around());
        let credential = |key: &KeySource| Credential::connection_string(key.clone()).unwrap();
        let dps = dps::Service::new(planting.clone(), HostName::new(DPS).unwrap(), credential(&dps_key));
        let hubs = hub_keys.iter().map(|(host, key)| {
            (*host, hub::Service::new(planting.clone(), HostName::new(host).unwrap(), credential(key)))
        });
        let hubs = hubs.collect();

        let settings = Settings {
            data_dir: Some(folder.path().join("data")),
            listen: Some("127.0.0.1:0".to_owned()),
            peer_listen: Some("127.0.0.1:0".to_owned()),
            http_listen: Some("127.0.0.1:0".to_owned()),
            // Where time jumps, a sweep of its own would come in between.
            azure: AzureSettings { sweep_every: Some("0".to_owned()), ..AzureSettings::default() },
            ..Settings::default()
        };
        let injected = Injected {
            clock: Arc::new(Jumping(clock.clone())),
            authority: Some(Arc::new(authority)),
            ..Injected::default()
        };
        let node = Node::start(NodeConfig::from_settings([settings]).unwrap(), injected).await.unwrap();
        node.health().watch_write().wait_for(|serving| *serving == Serving::Yes).await.unwrap();
        let client = Client::connect(&[node.addresses().client.to_string()], Options::default()).unwrap();
        let mut desired = topology();
        let path = folder.path().join(DPS);
        desired.scopes[0].credential_ref = Some(format!("file:{}", path.display()));
        client.apply(v1::ApplyRequest { desired: Some(desired), ..Default::default() }).await.unwrap();
        Self { clock, azure, dps, hubs, node, client, folder }
    }

    async fn run(&self, command: Command) {
        let told = format!("{command:?}");
        self.azure.command(command).await.unwrap_or_else(|problem| panic!("{told}: {problem}"));
    }

    /// Devices that DPS has put on a hub. The directory does not know of them.
    async fn seed(&self, prefix: &str, hub: &str, count: u32) {
        let (dps, hub, prefix) = (DPS.to_owned(), hub.to_owned(), prefix.to_owned());
        self.run(Command::Seed { dps, hub, prefix, first: 0, count }).await;
    }

    /// Devices that both know to be on this hub.
    async fn agree(&self, prefix: &str, hub: &str, count: u32) {
        self.seed(prefix, hub, count).await;
        self.assign(prefix, hub, count).await;
    }

    async fn assign(&self, prefix: &str, hub: &str, count: u32) {
        let ids: Vec<String> = ids(prefix, count).collect();
        for some in ids.chunks(5_000) {
            let packed = v1::PackedAssignment {
                hub: hub.to_owned(),
                packed_device_ids: berth_client::pack_ids(some).unwrap().into(),
                scope: SCOPE.to_owned(),
                ..Default::default()
            };
            let request = v1::BatchAssignRequest { packed: vec![packed], ..Default::default() };
            self.client.batch_assign(request).await.unwrap();
        }
    }

    /// Moves devices behind everybody's back.
    async fn place(&self, prefix: &str, hub: &str) {
        for id in ids(prefix, PLANTED) {
            let (dps, hub) = (DPS.to_owned(), hub.to_owned());
            self.run(Command::Place { dps, registration_id: id, hub }).await;
        }
    }

    async fn sweep(&self, request: v1::StartSweepRequest) -> v1::Sweep {
        let number = self.client.start_sweep(request).await.unwrap().sweep.unwrap().number;
        let ended = async {
            loop {
                let sweep = self.client.sweep().await.unwrap().sweep.unwrap();
                assert_eq!(sweep.number, number);
                if sweep.state() != SweepState::Running {
                    return sweep;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("the sweep ends")
    }

    async fn listed(&self) -> BTreeSet<(DriftClass, String)> {
        let (mut all, mut token) = (BTreeSet::new(), String::new());
        loop {
            let request = v1::ListDriftRequest { page_size: 100, page_token: token, ..Default::default() };
            let page = self.client.list_drift(request).await.unwrap();
            all.extend(page.drifts.iter().map(|drift| (drift.class(), drift.device_id.clone())));
            token = page.next_page_token;
            if token.is_empty() {
                return all;
            }
        }
    }

    async fn mapping(&self, id: &str) -> v1::Mapping {
        let device = Some(v1::get_request::Device::DeviceId(id.to_owned()));
        let answer = self.client.get(v1::GetRequest { device, consistency: None }).await;
        answer.unwrap_or_else(|error| panic!("{id}: {error}")).mapping.unwrap()
    }

    async fn on_hub(&self, prefix: &str, hub: &str) {
        for id in ids(prefix, PLANTED) {
            assert_eq!(self.mapping(&id).await.hub, hub, "{id}");
        }
    }

    /// Calls that Azure had to refuse for their number.
    fn throttled(&self) -> u64 {
        self.azure.calls().iter().filter(|((_, status), _)| *status == 429).map(|(_, count)| count).sum()
    }

    async fn stop(self) {
        self.node.shutdown().await;
        self.azure.stop().await.unwrap();
        drop(self.folder);
    }
}

fn ids(prefix: &str, count: u32) -> impl Iterator<Item = String> + use<'_> {
    (0..count).map(move |n| format!("{prefix}{n:06}"))
}

fn device(id: &str) -> DeviceId {
    DeviceId::new(id).unwrap()
}

/// Everything that can be wrong, a few of each; what is to be listed for it.
async fn plant(world: &World) -> BTreeSet<(DriftClass, String)> {
    let [a, b, c, d] = HUBS;
    let mut expected = BTreeSet::new();
    let mut expect = |class, prefix: &str| expected.extend(ids(prefix, PLANTED).map(|id| (class, id)));
    for prefix in ["moved-", "unlinked-", "stranger-", "missing-", "twice-", "off-", "barred-", "orphan-"] {
        world.agree(prefix, a, PLANTED).await;
    }
    world.seed("new-", b, PLANTED).await;
    world.seed("pending-", b, PLANTED).await;
    // What DPS did is older than what we say of these, and newer than what we say of the others.
    world.clock.advance(Duration::from_secs(300));
    world.assign("pending-", a, PLANTED).await;
    expect(DriftClass::Pending, "pending-");
    world.place("moved-", b).await;
    world.place("unlinked-", c).await;
    expect(DriftClass::HubNotLinked, "unlinked-");
    world.place("stranger-", d).await;
    expect(DriftClass::HubUnknown, "stranger-");
    let hub_a = &world.hubs[a];
    for id in ids("missing-", PLANTED) {
        hub_a.delete_identity(&device(&id), &IfMatch::Any).await.unwrap();
    }
    expect(DriftClass::Missing, "missing-");
    for id in ids("twice-", PLANTED) {
        world.hubs[b].put_identity(&Identity::new(device(&id)), &IfMatch::Absent).await.unwrap();
    }
    expect(DriftClass::Duplicate, "twice-");
    for id in ids("off-", PLANTED) {
        let mut identity = hub_a.identity(&device(&id)).await.unwrap();
        identity.status = Some(DeviceStatus::Disabled);
        hub_a.put_identity(&identity, &IfMatch::Any).await.unwrap();
    }
    for id in ids("barred-", PLANTED) {
        let id = RegistrationId::new(&id).unwrap();
        let mut enrollment = world.dps.enrollment(&id).await.unwrap();
        enrollment.attestation = world.dps.attestation(&id).await.unwrap();
        enrollment.provisioning_status = Some(ProvisioningStatus::Disabled);
        world.dps.put_enrollment(&enrollment, &IfMatch::Any).await.unwrap();
    }
    expect(DriftClass::Disabled, "barred-");
    for id in ids("orphan-", PLANTED) {
        let id = RegistrationId::new(&id).unwrap();
        world.dps.delete_registration(&id, &IfMatch::Any).await.unwrap();
        world.dps.delete_enrollment(&id, &IfMatch::Any).await.unwrap();
    }
    expect(DriftClass::Orphan, "orphan-");
    for id in ids("alien-", PLANTED) {
        world.hubs[b].put_identity(&Identity::new(device(&id)), &IfMatch::Absent).await.unwrap();
    }
    expect(DriftClass::Orphan, "alien-");
    expected
}

fn unlimited(enabled: bool) -> Command {
    Command::Throttle { enabled, factor: 1.0 }
}

async fn grouped(world: &World) {
    let registered = async {
        while world
            .azure
            .assignments(SCOPE)
            .iter()
            .filter(|one| one.registration_id.starts_with("grouped-") && one.hub.is_some())
            .count()
            < PLANTED as usize
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, registered).await.expect("the fleet registers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_finds_every_planted_drift_and_nothing_else() {
    let devices = std::env::var("BERTH_SWEEP_DEVICES").map_or(DEVICES, |count| count.parse().unwrap());
    let world = World::start(&fleet()).await;
    world.run(unlimited(false)).await;
    grouped(&world).await;
    world.agree("fine-a-", HUBS[0], devices / 2).await;
    world.agree("fine-b-", HUBS[1], devices - devices / 2).await;
    let expected = plant(&world).await;
    world.run(unlimited(true)).await;

    let dry = v1::StartSweepRequest { validate_only: true, ..Default::default() };
    let plan = world.client.start_sweep(dry).await.unwrap();
    assert_eq!((plan.plan.len(), plan.sweep), (4, None));
    assert!(plan.calls >= u64::from(devices) / 1_000, "{}", plan.calls);

    let began = Instant::now();
    let sweep = world.sweep(v1::StartSweepRequest::default()).await;
    println!("{devices} devices in {:?}: {sweep:?}", began.elapsed());
    assert_eq!(sweep.state(), SweepState::Completed, "{:?}", sweep.problems);
    assert_eq!(world.listed().await, expected);
    let planted = u64::from(PLANTED);
    assert_eq!(sweep.found.iter().map(|found| found.count).sum::<u64>(), expected.len() as u64);
    assert_eq!((sweep.repaired, sweep.adopted), (2 * planted, 2 * planted), "moved, off; new, grouped");
    assert_eq!((sweep.unverified, sweep.odd_rows), (0, 0));
    assert_eq!(world.throttled(), 0, "{:?}", world.azure.calls());
    world.on_hub("moved-", HUBS[1]).await;
    world.on_hub("new-", HUBS[1]).await;
    world.on_hub("grouped-", HUBS[0]).await;
    for prefix in ["pending-", "unlinked-", "stranger-", "missing-", "twice-", "off-", "barred-", "orphan-"] {
        world.on_hub(prefix, HUBS[0]).await;
    }
    for id in ids("off-", PLANTED) {
        assert_eq!(world.mapping(&id).await.status(), v1::MappingStatus::Disabled);
    }

    // Once more: nothing is left to repair, and what was put right is no longer listed.
    for id in ids("twice-", PLANTED) {
        world.hubs[HUBS[1]].delete_identity(&device(&id), &IfMatch::Any).await.unwrap();
    }
    world.place("pending-", HUBS[0]).await;
    let again = world.sweep(v1::StartSweepRequest::default()).await;
    assert_eq!((again.state(), again.repaired, again.adopted), (SweepState::Completed, 0, 0));
    let settled = |class: &DriftClass| matches!(class, DriftClass::Duplicate | DriftClass::Pending);
    let left = expected.into_iter().filter(|(class, _)| !settled(class)).collect();
    assert_eq!(world.listed().await, left);
    world.stop().await;
}

fn fail(operation: &str, status: u16, body: Option<&str>, count: u32) -> Command {
    let fault = FailNext {
        operation: operation.to_owned(),
        host: None,
        status,
        code: None,
        message: None,
        retry_after_s: None,
        body: body.map(ToOwned::to_owned),
        count,
    };
    Command::FailNext { fault }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_waits_for_azure_and_says_where_that_was_in_vain() {
    let world = World::start("").await;
    world.agree("d-", HUBS[0], 50).await;
    let before = world.client.status(v1::StatusRequest {}).await.unwrap().header.unwrap().revision;

    // Away, throttling and nonsense for a while: the sweep waits, and compares everything in the end.
    for (operation, status, body, count) in [
        ("hub.query", 503, None, 4),
        ("dps.enrollment.query", 429, None, 2),
        ("dps.group.query", 200, Some("[{\"enrollmentGroupId\":"), 2),
        ("hub.query", 200, Some("no page at all"), 1),
    ] {
        world.run(fail(operation, status, body, count)).await;
        let sweep = world.sweep(v1::StartSweepRequest::default()).await;
        assert_eq!(sweep.state(), SweepState::Completed, "{operation} {status}: {:?}", sweep.problems);
        assert_eq!((sweep.verified, sweep.found.len()), (0, 0), "{operation} {status}");
    }
    // For longer than it is worth waiting for: told, and nothing follows from what was not seen.
    world.run(Command::Outage { service: HUBS[0].to_owned(), out: true }).await;
    world.run(fail("dps.enrollment.query", 200, Some("{}"), 3)).await;
    let sweep = world.sweep(v1::StartSweepRequest::default()).await;
    assert_eq!((sweep.state(), sweep.problems.len()), (SweepState::Incomplete, 2), "{:?}", sweep.problems);
    assert!(sweep.problems.iter().any(|problem| problem.contains(HUBS[0])), "{:?}", sweep.problems);
    assert_eq!((sweep.verified, sweep.repaired, sweep.found.len()), (0, 0, 0));
    let after = world.client.status(v1::StatusRequest {}).await.unwrap().header.unwrap().revision;
    assert_eq!(before, after, "nothing was written");
    // Where only verification is away, the device is not judged.
    world.run(Command::ClearFaults).await;
    world.hubs[HUBS[0]].delete_identity(&device("d-000001"), &IfMatch::Any).await.unwrap();
    world.run(fail("dps.registration.get", 503, None, 1_000)).await;
    let sweep = world.sweep(v1::StartSweepRequest::default()).await;
    assert_eq!((sweep.unverified, sweep.found.len()), (1, 0));
    assert!(world.listed().await.is_empty());
    world.run(Command::ClearFaults).await;
    world.sweep(v1::StartSweepRequest { hub: HUBS[0].to_owned(), ..Default::default() }).await;
    assert_eq!(world.listed().await, [(DriftClass::Missing, "d-000001".to_owned())].into());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dps_is_made_to_follow_where_the_scope_says_so() {
    let world = World::start("").await;
    let [a, b, ..] = HUBS;
    world.agree("d-", a, PLANTED).await;
    world.clock.advance(Duration::from_secs(300));
    let scope = v1::DesiredScope {
        name: SCOPE.to_owned(),
        repair: Some(v1::RepairRule::Enforce as i32),
        ..Default::default()
    };
    let desired = v1::DesiredTopology { scopes: vec![scope], ..Default::default() };
    world.client.apply(v1::ApplyRequest { desired: Some(desired), ..Default::default() }).await.unwrap();
    world.place("d-", b).await;
    // One of them is not to move, whatever its enrollment names.
    let stays = RegistrationId::new("d-000003").unwrap();
    let mut enrollment = world.dps.enrollment(&stays).await.unwrap();
    enrollment.attestation = world.dps.attestation(&stays).await.unwrap();
    enrollment.reprovision_policy = Some(ReprovisionPolicy::never());
    world.dps.put_enrollment(&enrollment, &IfMatch::Any).await.unwrap();
    let moves = RegistrationId::new("d-000001").unwrap();
    let keys = world.dps.attestation(&moves).await.unwrap();
    let puts = |world: &World| world.azure.calls().get(&("dps.enrollment.put", 200)).copied().unwrap_or(0);
    let before = puts(&world);

    let planted = u64::from(PLANTED);
    let sweep = world.sweep(v1::StartSweepRequest::default()).await;
    assert_eq!(
        (sweep.state(), sweep.enforced, sweep.repaired),
        (SweepState::Completed, planted - 1, 0),
        "{sweep:?}"
    );
    let all: BTreeSet<_> = ids("d-", PLANTED).map(|id| (DriftClass::WrongHub, id)).collect();
    assert_eq!(world.listed().await, all, "they stay listed until they register");
    world.on_hub("d-", a).await;
    let enrollment = world.dps.enrollment(&moves).await.unwrap();
    assert_eq!(enrollment.iot_hubs.unwrap(), [HostName::new(a).unwrap()]);
    assert_eq!(enrollment.allocation_policy, Some(AllocationPolicy::Static));
    assert_eq!(world.dps.attestation(&moves).await.unwrap(), keys);

    // No second write for the same epoch, and none by an operator's order either.
    let again = world.sweep(v1::StartSweepRequest::default()).await;
    assert_eq!((again.enforced, puts(&world) - before), (0, planted - 1));
    let order = |id: &str| v1::ResolveDriftRequest {
        device_id: id.to_owned(),
        how: v1::DriftResolution::Enforce as i32,
        ..Default::default()
    };
    let told = world.client.resolve_drift(order("d-000001")).await.unwrap();
    assert_eq!((told.end(), puts(&world) - before), (v1::DriftEnd::Enforced, planted - 1));
    let refused = world.client.resolve_drift(order("d-000003")).await.unwrap_err().to_string();
    assert!(refused.contains("re-provisioning policy"), "{refused}");
    // They register again, and both sides agree.
    world.place("d-", a).await;
    world.sweep(v1::StartSweepRequest::default()).await;
    assert!(world.listed().await.is_empty());
    world.stop().await;
}
