//! Nodes that are paused, cut off and left behind: lookups are never stale, and service comes back.

use berth_tests::history::check;
use berth_tests::load::{Caller, HUBS, Load, read_at};
use berth_tests::process::{Cluster, Health, Tuning, eventually};

use crate::common::{self, binary, seed};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How often a node is sent away and asked on its return.
const ABSENCES: u32 = 25;
/// How many pauses the load runs through.
const PAUSES: u32 = 16;

/// A follower is stopped, the world moves on, and the lookup that waits for it is the first thing it sees on its
/// return. Without the read index it would answer from the past.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_of_a_node_that_was_away_are_not_stale() {
    let cluster = Cluster::start(binary(), 3, Tuning::default());
    cluster.all_ready().await;
    let caller = Caller::new(&cluster.endpoints());
    caller.create_hubs(HUBS).await;
    let mut last = write(&cluster, &caller, 0).await;
    for nth in 1..=ABSENCES {
        let leader = cluster.leader().await;
        let follower = (leader + 1 + nth as usize % 2) % 3;
        // Its connection is there before it is paused: the lookup waits in its socket.
        assert!(eventually(|| caller.look_up(follower, &[0], read_at::linearizable())).await.is_some());
        cluster.pause(follower);
        last = write(&cluster, &caller, nth % HUBS).await.max(last);
        let waiting = {
            let caller = Caller::new(&cluster.endpoints());
            tokio::spawn(async move { caller.look_up(follower, &[0], read_at::linearizable()).await })
        };
        let direct = caller.look_up(follower, &[0], read_at::linearizable());
        let (waited, direct) = {
            let resume = async {
                common::moment(&mut StdRng::seed_from_u64(u64::from(nth)), 5..60).await;
                cluster.resume(follower);
            };
            let (direct, ()) = tokio::join!(direct, resume);
            (waiting.await.expect("the lookup does not panic"), direct)
        };
        for (at, seen) in [waited, direct].into_iter().flatten() {
            let seen = seen[0].expect("the device exists");
            assert!(
                at >= last && seen.revision >= last && seen.hub == nth % HUBS,
                "absence {nth}: revision {last} was acknowledged before, the lookup shows {seen:?} at {at}"
            );
        }
    }
}

/// Puts the device on a hub through whichever node leads; gives the revision.
async fn write(cluster: &Cluster, caller: &Caller, hub: u32) -> u64 {
    use berth_tests::load::Answer;
    let request_id = uuid::Uuid::now_v7().to_string();
    let done = eventually(|| async {
        for node in 0..cluster.nodes().len() {
            if let Answer::Done(revision) = caller.write(node, &request_id, &[(0, hub)]).await {
                return Some(revision);
            }
        }
        None
    });
    done.await.unwrap_or_else(|| panic!("no node takes a write\n{}", cluster.logs()))
}

/// Leaders and followers are paused for up to two seconds under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_with_pauses_are_linearizable() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = Cluster::start(binary(), 3, Tuning::default());
    cluster.all_ready().await;
    let load = Load::start(cluster.endpoints(), seed).await;
    for nth in 0..PAUSES {
        let leader = cluster.leader().await;
        let victim = if nth % 2 == 0 { leader } else { (leader + random.random_range(1..3)) % 3 };
        let (accepted, lookups) = (load.accepted(), load.lookups());
        cluster.pause(victim);
        common::moment(&mut random, 100..2_000).await;
        cluster.resume(victim);
        let enough = eventually(|| {
            let done = load.accepted() >= accepted + 50 && load.lookups() >= lookups + 500;
            async move { done.then_some(()) }
        });
        assert!(
            enough.await.is_some(),
            "the load stands still after pause {nth}, seed {seed}\n{}",
            cluster.logs()
        );
    }
    let history = load.finish().await;
    cluster.all_ready().await;
    cluster.equal_digests().await;
    match check(&history) {
        Ok(summary) => println!("{PAUSES} pauses: {summary:?}"),
        Err(violations) => {
            violations.iter().for_each(|violation| eprintln!("{violation}"));
            panic!("the history is not linearizable, seed {seed}");
        }
    }
}

/// A node that ends in good order gives leadership away first and comes back with all it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_end_in_good_order_one_after_the_other_under_load() {
    let seed = seed();
    let mut cluster = Cluster::start(binary(), 3, Tuning::default());
    cluster.all_ready().await;
    let load = Load::start(cluster.endpoints(), seed).await;
    for _ in 0..4 {
        let leader = cluster.leader().await;
        let status = cluster.stop(leader);
        assert!(status.success(), "{status}\n{}", cluster.log(leader));
        cluster.spawn(leader);
        cluster.ready(leader, Health::Read).await;
    }
    let history = load.finish().await;
    cluster.equal_digests().await;
    if let Err(violations) = check(&history) {
        violations.iter().for_each(|violation| eprintln!("{violation}"));
        panic!("the history is not linearizable, seed {seed}");
    }
}
