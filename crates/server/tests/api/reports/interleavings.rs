//! Whatever happens in whatever order, at Azure, at gateways and to the node: nothing is asked beyond the budget or
//! twice at once, no epoch falls, and once Azure can be asked and devices have registered the directory is right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use berth_core::reconcile::{IdentitySeen, RegistrationSeen};
use berth_core::{DeviceId, HubName, RegistrationId, Scope, Timestamp};
use berth_proto::convert::Consistency;
use berth_proto::v1;
use berth_proto::v1::HubObservation;
use berth_server::config::Settings;
use berth_server::raft::Clock;
use berth_server::reconcile::{Authority, Trouble};
use berth_server::run::Injected;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::read_through::asked;
use super::stage::{SCOPE, StandingClock, request, topology};
use crate::{Bench, HUB_1, HUB_2, apply, assignment};

const DEVICES: [&str; 3] = ["d-0", "d-1", "d-2"];
const HUBS: [&str; 2] = [HUB_1, HUB_2];
/// Of 1,000 a minute.
const BUDGET_PERCENT: u32 = 3;
const PER_MINUTE: usize = 30;
/// What a new leader may ask at once, and what a bucket may hold: room for one question, and a call that has just begun.
const BURST: usize = 3;
/// Looks at each device, a minute apart, within which the directory has to be right.
const ROUNDS_MAX: usize = 8;
const CASES: u32 = 12;

#[derive(Debug, Clone)]
enum Step {
    /// The device registers and gets this hub.
    Register(usize, usize),
    /// DPS says this of the device from now on.
    Record(usize, Record),
    Identity(usize, IdentitySeen),
    /// An operator puts the device on a hub.
    Assign(usize, usize),
    /// A gateway says that the hub does not know the device; by an old epoch, where this is true.
    Report(usize, bool),
    LookUp(usize),
    Pass(u64),
    Away(bool),
    /// The next call to DPS is refused, for so many seconds.
    Throttle(u64),
    /// Nothing is answered until it is released.
    Hold,
    Release,
    Restart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    None,
    Unassigned,
    Assigning,
    Failed,
    Assigned(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (device, hub) = (0..DEVICES.len(), 0..HUBS.len());
    let record =
        prop::sample::select(vec![Record::None, Record::Unassigned, Record::Assigning, Record::Failed]);
    let identity =
        prop::sample::select(vec![IdentitySeen::Enabled, IdentitySeen::Disabled, IdentitySeen::Missing]);
    prop_oneof![
        4 => (device.clone(), hub.clone()).prop_map(|(device, hub)| Step::Register(device, hub)),
        2 => (device.clone(), record).prop_map(|(device, record)| Step::Record(device, record)),
        2 => (device.clone(), identity).prop_map(|(device, identity)| Step::Identity(device, identity)),
        2 => (device.clone(), hub).prop_map(|(device, hub)| Step::Assign(device, hub)),
        8 => (device.clone(), prop::bool::weighted(0.1)).prop_map(|(device, stale)| Step::Report(device, stale)),
        5 => device.prop_map(Step::LookUp),
        5 => prop::sample::select(vec![100, 2_000, 6_000, 61_000]).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Away),
        1 => (1..100u64).prop_map(Step::Throttle),
        2 => Just(Step::Hold),
        2 => Just(Step::Release),
        1 => Just(Step::Restart),
    ]
}

struct Registered {
    record: Record,
    updated: u64,
    identity: IdentitySeen,
}

/// Azure, and what was done to it.
struct World {
    devices: BTreeMap<String, Registered>,
    is_away: bool,
    throttle: Option<u64>,
    /// Calls to DPS on their way, by life of the node and registration.
    under_way: BTreeMap<(usize, String), usize>,
    /// When DPS was called, by life of the node.
    calls: BTreeMap<usize, Vec<u64>>,
    /// Until when DPS asked to be left alone, by life of the node.
    closed: BTreeMap<usize, u64>,
    faults: Vec<String>,
}

/// Azure as one life of the node sees it.
struct Door {
    world: Arc<Mutex<World>>,
    life: usize,
    clock: StandingClock,
    held: watch::Receiver<bool>,
}

impl Door {
    async fn dps<T>(&self, id: &str, say: impl FnOnce(Record, u64) -> T) -> Result<T, Trouble> {
        let key = (self.life, id.to_owned());
        let said = {
            let (mut world, now) = (self.world.lock(), self.clock.now());
            world.calls.entry(self.life).or_default().push(now);
            if world.closed.get(&self.life).is_some_and(|until| now < *until) {
                world.faults.push(format!("DPS was called at {now}, and had asked to be left alone"));
            }
            let under_way = world.under_way.entry(key.clone()).or_default();
            *under_way += 1;
            if *under_way > 1 {
                world.faults.push(format!("DPS was asked about {id} twice at once"));
            }
            let registered = &world.devices[id];
            let said = say(registered.record, registered.updated);
            match world.throttle.take() {
                Some(seconds) => Err(Trouble::Throttled {
                    problem: "too many".to_owned(),
                    retry_after: Some(Duration::from_secs(seconds)),
                }),
                None if world.is_away => Err(Trouble::Away("no route".to_owned())),
                None => Ok(said),
            }
        };
        let _ = self.held.clone().wait_for(|held| !held).await;
        let mut world = self.world.lock();
        if let Some(under_way) = world.under_way.get_mut(&key) {
            *under_way -= 1;
        }
        if let Err(Trouble::Throttled { retry_after: Some(wait), .. }) = &said {
            let until = self.clock.now() + u64::try_from(wait.as_millis()).unwrap();
            let closed = world.closed.entry(self.life).or_default();
            *closed = until.max(*closed);
        }
        said
    }
}

impl Authority for Door {
    fn registration<'a>(
        &'a self,
        _: &'a Scope,
        id: &'a RegistrationId,
    ) -> BoxFuture<'a, Result<Option<RegistrationSeen>, Trouble>> {
        let say = |record, updated| {
            let updated = Some(Timestamp(updated));
            match record {
                Record::None | Record::Unassigned => None,
                Record::Assigning => Some(RegistrationSeen::Assigning),
                Record::Failed => Some(RegistrationSeen::Failed { updated }),
                Record::Assigned(hub) => Some(RegistrationSeen::Assigned {
                    hub: HUBS[hub].parse().unwrap(),
                    device: id.as_str().parse().unwrap(),
                    updated,
                }),
            }
        };
        Box::pin(self.dps(id.as_str(), say))
    }

    fn enrollment<'a>(
        &'a self,
        _: &'a Scope,
        id: &'a RegistrationId,
    ) -> BoxFuture<'a, Result<Option<RegistrationSeen>, Trouble>> {
        let say = |record, _| (record == Record::Unassigned).then_some(RegistrationSeen::Unassigned);
        Box::pin(self.dps(id.as_str(), say))
    }

    fn identity<'a>(
        &'a self,
        _: &'a HubName,
        device: &'a DeviceId,
    ) -> BoxFuture<'a, Result<IdentitySeen, Trouble>> {
        Box::pin(async move {
            let _ = self.held.clone().wait_for(|held| !held).await;
            Ok(self.world.lock().devices[device.as_str()].identity)
        })
    }
}

/// A node, what it asks, and what was seen of it.
struct Play {
    bench: Bench,
    clock: StandingClock,
    world: Arc<Mutex<World>>,
    held: watch::Sender<bool>,
    life: usize,
    /// Calls that wait for what is held.
    waiting: JoinSet<()>,
    epochs: BTreeMap<usize, u64>,
    /// Hubs that anybody gave a device.
    given: BTreeSet<(usize, String)>,
}

impl Play {
    async fn start() -> Self {
        let (clock, held) = (StandingClock::new(), watch::Sender::new(false));
        let device = |id: &&str| {
            let registered =
                Registered { record: Record::None, updated: clock.now(), identity: IdentitySeen::Enabled };
            ((*id).to_owned(), registered)
        };
        let world = Arc::new(Mutex::new(World {
            devices: DEVICES.iter().map(device).collect(),
            is_away: false,
            throttle: None,
            under_way: BTreeMap::new(),
            calls: BTreeMap::new(),
            closed: BTreeMap::new(),
            faults: Vec::new(),
        }));
        let injected = injected(&world, 0, &clock, &held);
        let mut bench = Bench::start_on(Settings::default(), injected).await;
        let mut topology = topology();
        topology.scopes[0].budget_percent = Some(BUDGET_PERCENT);
        bench.topology.apply(apply(topology)).await.unwrap();
        let (waiting, epochs, given) = (JoinSet::new(), BTreeMap::new(), BTreeSet::new());
        Self { bench, clock, world, held, life: 0, waiting, epochs, given }
    }

    async fn take(mut self, step: Step) -> Self {
        let now = self.clock.now();
        match step {
            Step::Register(device, hub) => {
                self.given.insert((device, HUBS[hub].to_owned()));
                self.change(device, |registered| {
                    (registered.record, registered.updated) = (Record::Assigned(hub), now);
                });
            }
            Step::Record(device, record) => self.change(device, |registered| {
                (registered.record, registered.updated) = (record, now);
            }),
            Step::Identity(device, identity) => {
                self.change(device, |registered| registered.identity = identity);
            }
            Step::Assign(device, hub) => {
                self.given.insert((device, HUBS[hub].to_owned()));
                let row = assignment(DEVICES[device], HUBS[hub]);
                let row = v1::DeviceAssignment {
                    scope: SCOPE.to_owned(),
                    status: v1::MappingStatus::Assigned as i32,
                    ..row
                };
                self.bench.try_assign(row).await.unwrap();
            }
            Step::Report(device, is_stale) => self.report(device, is_stale).await,
            Step::LookUp(device) => self.look_up(device).await,
            Step::Pass(ms) => self.clock.advance(Duration::from_millis(ms)),
            Step::Away(is_away) => self.world.lock().is_away = is_away,
            Step::Throttle(seconds) => self.world.lock().throttle = Some(seconds),
            Step::Hold => {
                self.held.send_replace(true);
            }
            Step::Release => self.release().await,
            Step::Restart => {
                // A question on its way keeps the old life's directory from the new one.
                self.release().await;
                self.life += 1;
                let injected = injected(&self.world, self.life, &self.clock, &self.held);
                self.bench = self.bench.restart(injected).await;
            }
        }
        self.look_around().await;
        self
    }

    fn change(&self, device: usize, change: impl FnOnce(&mut Registered)) {
        change(self.world.lock().devices.get_mut(DEVICES[device]).unwrap());
    }

    async fn report(&mut self, device: usize, is_stale: bool) {
        let Ok(mapping) = self.bench.get(DEVICES[device]).await else { return };
        if mapping.hub.is_empty() {
            return;
        }
        let epoch = mapping.epoch - u64::from(is_stale && mapping.epoch > 0);
        let asked = request(DEVICES[device], &mapping.hub, epoch, HubObservation::NotFound);
        let mut lookups = self.bench.lookups.clone();
        self.call(async move { drop(lookups.report(asked).await) }).await;
    }

    async fn look_up(&mut self, device: usize) {
        let mut lookups = self.bench.lookups.clone();
        let asked = asked(DEVICES[device], Consistency::Linearizable);
        self.call(async move { drop(lookups.lookup(asked).await) }).await;
    }

    async fn call(&mut self, call: impl Future<Output = ()> + Send + 'static) {
        self.waiting.spawn(call);
        if !*self.held.borrow() {
            while self.waiting.join_next().await.is_some() {}
        }
    }

    async fn release(&mut self) {
        self.held.send_replace(false);
        while self.waiting.join_next().await.is_some() {}
    }

    /// No epoch falls, and nobody is where nobody put it.
    async fn look_around(&mut self) {
        for (device, id) in DEVICES.iter().enumerate() {
            let Ok(mapping) = self.bench.get(id).await else {
                assert!(!self.epochs.contains_key(&device), "{id} is gone");
                continue;
            };
            let before = self.epochs.insert(device, mapping.epoch);
            assert!(before.is_none_or(|before| before <= mapping.epoch), "{id} fell from {before:?}");
            let stands = mapping.hub.is_empty() || self.given.contains(&(device, mapping.hub.clone()));
            assert!(stands, "nobody put {id} on {}", mapping.hub);
        }
    }

    /// All is well with Azure and with each device, which registers once more; now the directory has to be right.
    async fn settle(mut self, hubs: &[usize]) {
        self.release().await;
        {
            let mut world = self.world.lock();
            (world.is_away, world.throttle) = (false, None);
        }
        self.clock.advance(Duration::from_secs(100));
        for (device, hub) in hubs.iter().enumerate() {
            self = self.take(Step::Register(device, *hub)).await;
            self = self.take(Step::Identity(device, IdentitySeen::Enabled)).await;
        }
        self.clock.advance(Duration::from_secs(61));
        let mut wrong = Vec::new();
        for _ in 0..ROUNDS_MAX {
            wrong.clear();
            for (device, hub) in hubs.iter().enumerate() {
                // Gateways report what is not where they were told; whoever has no hub looks up.
                let wanted = |mapping: &v1::Mapping| {
                    mapping.hub == HUBS[*hub] && mapping.status() == v1::MappingStatus::Assigned
                };
                match self.bench.get(DEVICES[device]).await {
                    Ok(mapping) if wanted(&mapping) => {}
                    Ok(mapping) if mapping.status() == v1::MappingStatus::Assigned => {
                        wrong.push((DEVICES[device], HUBS[*hub], Some(mapping)));
                        self.report(device, false).await;
                    }
                    other => {
                        wrong.push((DEVICES[device], HUBS[*hub], other.ok()));
                        self.look_up(device).await;
                    }
                }
            }
            if wrong.is_empty() {
                break;
            }
            self.clock.advance(Duration::from_secs(61));
        }
        assert!(wrong.is_empty(), "the directory is not right: {wrong:?}");
        self.look_around().await;
        {
            let world = self.world.lock();
            assert!(world.faults.is_empty(), "{:?}", world.faults);
            for calls in world.calls.values() {
                for (at, first) in calls.iter().enumerate() {
                    let in_minute = calls[at..].iter().take_while(|call| **call < first + 60_000).count();
                    assert!(in_minute <= PER_MINUTE + BURST, "{in_minute} calls in a minute: {calls:?}");
                }
            }
        }
        self.bench.stop().await;
    }
}

fn injected(
    world: &Arc<Mutex<World>>,
    life: usize,
    clock: &StandingClock,
    held: &watch::Sender<bool>,
) -> Injected {
    let (world, held) = (Arc::clone(world), held.subscribe());
    let door = Door { world, life, clock: clock.clone(), held };
    let clock: Arc<dyn Clock> = Arc::new(clock.clone());
    Injected { clock, authority: Some(Arc::new(door)), ..Injected::default() }
}

/// `BERTH_SEED=S` repeats the choices of an earlier run.
#[test]
#[allow(clippy::print_stdout, reason = "a test tells its seed")]
fn whatever_the_order_the_directory_ends_up_right() {
    let seed = std::env::var("BERTH_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| uuid::Uuid::now_v7().as_u64_pair().1);
    println!("seed {seed}");
    let config = Config {
        cases: CASES,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let steps = prop::collection::vec(step(), 1..60);
    let hubs = prop::collection::vec(0..HUBS.len(), DEVICES.len());
    let outcome = TestRunner::new(config).run(&(steps, hubs), |(steps, hubs)| {
        runtime.block_on(async {
            let mut play = Play::start().await;
            for step in steps {
                play = play.take(step).await;
            }
            play.settle(&hubs).await;
        });
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("BERTH_SEED={seed}: {failure}");
    }
}
