//! Kills that are aimed: at a checkpoint being written, at a node opening its files, at a snapshot being installed.
//! The moment is told by what the node logs and by what lies in its data directory; a kill that came too late does
//! not count, and is aimed again.

use std::time::{Duration, Instant};

use berth_tests::load::{Answer, Caller, HUBS, Load};
use berth_tests::process::{Cluster, Health, PATIENCE, Tuning, eventually, pages_dirs};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::{self, binary, seed};
use crate::crash::{all_is_well, kills_wanted};

/// The steps of a node are told at the level `debug`; all else is as always.
const LOGGED: &str = "info,openraft=error,openraft_rt_tokio=error,chunked_wal=warn,raft_log=warn,sled=warn,h2=warn,\
                      hyper=warn,berth_store::machine=debug,berth_server::run=debug";
/// Kills of each kind at the least.
const KILLS_MIN: u32 = 4;
/// Each kind gets one in so many of all kills that are asked for.
const KILLS_SHARE: u32 = 15;
/// A kill that came too late is aimed again, so often for each that counts.
const AIMS_MAX: u32 = 8;
/// Devices beside those of the load: with them a checkpoint, an opening and a snapshot take long enough to aim at.
const DEVICES: std::ops::Range<u32> = 1_000..31_000;
/// Devices of one write.
const BATCH: usize = 2_500;
/// Between two looks at a state that lasts for milliseconds.
const LOOK: Duration = Duration::from_millis(1);
/// What the load must have done around a kill for it to have meant anything.
const ACCEPTED_MIN: u64 = 20;
const LOOKUPS_MIN: u64 = 200;

/// What a node logs when it begins a step of its opening, and when it has done it.
const STEPS: [(&str, &str); 3] = [
    ("opening the data directory", "opened the log"),
    ("opened the log", "opened the pages"),
    ("opened the pages", "the node runs"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_aimed_kills() {
    let wanted = (kills_wanted() / KILLS_SHARE).max(KILLS_MIN);
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let environment = vec![("BERTH_LOG".to_owned(), LOGGED.to_owned())];
    let mut cluster = Cluster::start(binary(), 3, Tuning { environment, ..Tuning::default() });
    cluster.all_ready().await;
    fill(&cluster).await;
    let load = Load::start(cluster.endpoints(), seed).await;
    let started = Instant::now();
    let (mut late, mut hits) = (0, [0; 3]);
    for (kind, hit) in hits.iter_mut().enumerate() {
        let aims = wanted * AIMS_MAX;
        for aim in 0..aims {
            if *hit == wanted {
                break;
            }
            let (accepted, lookups) = (load.accepted(), load.lookups());
            let (counted, missed) = match kind {
                0 => at_a_checkpoint(&mut cluster, aim, &mut random).await,
                1 => at_an_opening(&mut cluster, *hit).await,
                _ => at_an_install(&mut cluster, wanted - *hit, &mut random).await,
            };
            (*hit, late) = (*hit + counted, late + missed);
            came_back(&cluster, &load, accepted, lookups, seed).await;
        }
        assert_eq!(*hit, wanted, "kind {kind}: too many aims came too late, seed {seed}\n{}", cluster.logs());
    }
    let seconds = started.elapsed().as_secs_f64();
    let [checkpoints, openings, installs] = hits;
    let told = format!(
        "kills at {checkpoints} checkpoints, {openings} openings and {installs} installs ({late} came too late) in {seconds:.1} s"
    );
    all_is_well(&cluster, load, &told, seed).await;
}

/// Gives the nodes something to write, to open and to send.
async fn fill(cluster: &Cluster) {
    let caller = Caller::new(&cluster.endpoints());
    caller.create_hubs(HUBS).await;
    let devices: Vec<u32> = DEVICES.collect();
    for batch in devices.chunks(BATCH) {
        let items: Vec<(u32, u32)> = batch.iter().map(|device| (*device, device % HUBS)).collect();
        let request_id = uuid::Uuid::now_v7().to_string();
        let done = eventually(|| async {
            let leader = cluster.leader().await;
            matches!(caller.write(leader, &request_id, &items).await, Answer::Done(_)).then_some(())
        });
        assert!(done.await.is_some(), "the devices cannot be created\n{}", cluster.logs());
    }
}

/// All nodes serve, nothing unfinished is left on their disks, and the load went on.
async fn came_back(cluster: &Cluster, load: &Load, accepted: u64, lookups: u64, seed: u64) {
    for at in 0..cluster.nodes().len() {
        cluster.ready(at, Health::Read).await;
    }
    let enough = eventually(|| {
        let done = load.accepted() >= accepted + ACCEPTED_MIN && load.lookups() >= lookups + LOOKUPS_MIN;
        async move { done.then_some(()) }
    });
    assert!(
        enough.await.is_some(),
        "the load stands still for {PATIENCE:?}, seed {seed}\n{}",
        cluster.logs()
    );
    let clean = eventually(|| async {
        let left = cluster.nodes().iter().any(|node| !pages_dirs(&node.data_dir).1.is_empty());
        (!left).then_some(())
    });
    assert!(
        clean.await.is_some(),
        "pages of an unfinished step stay on disk, seed {seed}\n{}",
        cluster.logs()
    );
}

/// Waits for a state that lasts for milliseconds; false where it never came.
async fn soon(mut state: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !state() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}

/// Kills a node between a checkpoint's beginning and its end. Gives the kills that count, and those that do not.
async fn at_a_checkpoint(cluster: &mut Cluster, aim: u32, random: &mut StdRng) -> (u32, u32) {
    let leader = cluster.leader().await;
    let victim = (leader + aim as usize) % cluster.nodes().len();
    cluster.clear_log(victim);
    let under_way = |log: &str| log.rfind("a checkpoint begins") > log.rfind("completed a checkpoint");
    assert!(soon(|| under_way(&cluster.log(victim))).await, "no checkpoint begins\n{}", cluster.logs());
    // Sometimes among its first pages, sometimes about its manifest; how long it takes depends on what has changed.
    common::moment(random, 0..400).await;
    cluster.kill(victim);
    let hit = under_way(&cluster.log(victim));
    cluster.spawn(victim);
    (u32::from(hit), u32::from(!hit))
}

/// Kills a node, and again in the middle of one step of its opening.
async fn at_an_opening(cluster: &mut Cluster, nth: u32) -> (u32, u32) {
    let leader = cluster.leader().await;
    let victim = (leader + 1 + nth as usize % 2) % cluster.nodes().len();
    let (begun, done) = STEPS[nth as usize % STEPS.len()];
    cluster.kill(victim);
    cluster.clear_log(victim);
    cluster.spawn(victim);
    assert!(
        soon(|| cluster.log(victim).contains(begun)).await,
        "the node never logs `{begun}`\n{}",
        cluster.logs()
    );
    cluster.kill(victim);
    let hit = !cluster.log(victim).contains(done);
    cluster.spawn(victim);
    (u32::from(hit), u32::from(!hit))
}

/// Keeps a follower away until the log that it needs is gone, then kills it while the snapshot arrives, up to
/// `most` times in a row; the last time right after the snapshot came into force.
async fn at_an_install(cluster: &mut Cluster, most: u32, random: &mut StdRng) -> (u32, u32) {
    let leader = cluster.leader().await;
    let victim = (leader + random.random_range(1..3)) % cluster.nodes().len();
    cluster.kill(victim);
    let last = cluster.metric(leader, "berth_raft_last_log_index").expect("the leader tells its figures");
    let gone = eventually(|| async {
        // Whoever leads by then sends from its own log.
        let leader = cluster.leader().await;
        (cluster.metric(leader, "berth_raft_purged_index")? > last).then_some(())
    });
    assert!(gone.await.is_some(), "the log is never purged\n{}", cluster.logs());
    let data = cluster.nodes()[victim].data_dir.clone();
    let (mut counted, mut missed) = (0, 0);
    while counted < most && missed == 0 {
        let before = std::fs::read(data.join("CURRENT")).expect("a pointer to the pages");
        let in_force = || std::fs::read(data.join("CURRENT")).is_ok_and(|now| now != before);
        let arriving = || !in_force() && !pages_dirs(&data).1.is_empty();
        let last = counted + 1 == most;
        cluster.clear_log(victim);
        cluster.spawn(victim);
        // What the kill before left is removed at the opening; only what comes after that arrives from the leader.
        let opened = || cluster.log(victim).contains("opened the pages");
        assert!(soon(opened).await, "the node never opens its pages\n{}", cluster.logs());
        if last {
            assert!(soon(in_force).await, "no snapshot comes into force\n{}", cluster.logs());
        } else {
            assert!(soon(|| arriving() || in_force()).await, "no snapshot arrives\n{}", cluster.logs());
            common::moment(random, 0..600).await;
        }
        cluster.kill(victim);
        let hit = if last { in_force() } else { arriving() };
        (counted, missed) = (counted + u32::from(hit), missed + u32::from(!hit));
    }
    cluster.spawn(victim);
    (counted, missed)
}
