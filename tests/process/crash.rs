//! Nodes are killed without warning, over and over, under a load of writes and lookups. Afterwards every acknowledged
//! write is there, no lookup was stale, no epoch went back, and all replicas are equal.
//!
//! `BERTH_KILLS=N` asks for more kills, `BERTH_SEED=S` for the choices of an earlier run.

use std::time::Instant;

use berth_tests::history::check;
use berth_tests::load::Load;
use berth_tests::process::{Cluster, Health, PATIENCE, Tuning, eventually};

use crate::common::{self, binary, seed};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What a round must have seen for its kill to have meant anything.
const ACCEPTED_MIN: u64 = 50;
const LOOKUPS_MIN: u64 = 500;

/// Whom a round kills, and when.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Leader,
    Follower,
    /// All nodes, one right after the other.
    All,
    /// A follower, and again while it opens its files.
    WhileOpening,
    /// A follower that was away for long, and again while it takes in what it missed.
    WhileCatchingUp,
    /// The leader as soon as it has started a checkpoint.
    WhileCheckpointing,
}

const ROUNDS: [Victim; 8] = [
    Victim::Leader,
    Victim::Follower,
    Victim::WhileOpening,
    Victim::All,
    Victim::WhileCheckpointing,
    Victim::Leader,
    Victim::WhileCatchingUp,
    Victim::WhileOpening,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kills() {
    let kills_wanted = kills_wanted();
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(binary(), 3, Tuning::default());
    cluster.all_ready().await;
    let load = Load::start(cluster.endpoints(), seed).await;
    let (mut kills, mut round) = (0, 0);
    let started = Instant::now();
    while kills < kills_wanted {
        let victim = ROUNDS[round % ROUNDS.len()];
        round += 1;
        let (accepted, lookups) = (load.accepted(), load.lookups());
        let killed = strike(&mut cluster, victim, &mut random).await;
        kills += killed;
        for at in 0..cluster.nodes().len() {
            cluster.ready(at, Health::Read).await;
        }
        // A round is worth its kills only if the load went on around them.
        let enough = eventually(|| {
            let done = load.accepted() - accepted >= ACCEPTED_MIN * u64::from(killed)
                && load.lookups() - lookups >= LOOKUPS_MIN * u64::from(killed);
            async move { done.then_some(()) }
        });
        assert!(
            enough.await.is_some(),
            "round {round} ({victim:?}) is invalid: {} writes and {} lookups in {PATIENCE:?} for {killed} kills, seed {seed}\n{}",
            load.accepted() - accepted,
            load.lookups() - lookups,
            cluster.logs()
        );
    }
    let seconds = started.elapsed().as_secs_f64();
    all_is_well(&cluster, load, &format!("{kills} kills in {round} rounds and {seconds:.1} s"), seed).await;
}

/// Ends the load: its history is linearizable, and every node has the same and agrees with itself.
pub async fn all_is_well(cluster: &Cluster, load: Load, told: &str, seed: u64) {
    let history = load.finish().await;
    let digest = cluster.equal_digests().await;
    for at in 0..cluster.nodes().len() {
        cluster.recount(at).await;
    }
    match check(&history) {
        Ok(summary) => println!(
            "{told}: {} writes acknowledged, {} of unknown fate ({} of them seen), {} lookups, digest {digest} on every \
             node, seed {seed}",
            summary.accepted, summary.unknown, summary.revealed, summary.lookups
        ),
        Err(violations) => {
            violations.iter().for_each(|violation| eprintln!("{violation}"));
            panic!("the history is not linearizable, seed {seed}");
        }
    }
}

/// The kills that `BERTH_KILLS` asks for.
pub fn kills_wanted() -> u32 {
    std::env::var("BERTH_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

/// Kills and starts again; gives the number of kills.
async fn strike(cluster: &mut Cluster, victim: Victim, random: &mut StdRng) -> u32 {
    let leader = cluster.leader().await;
    let follower = (leader + random.random_range(1..3)) % 3;
    match victim {
        Victim::Leader => {
            cluster.kill(leader);
            cluster.spawn(leader);
            1
        }
        Victim::Follower => {
            cluster.kill(follower);
            cluster.spawn(follower);
            1
        }
        Victim::All => {
            let first = random.random_range(0..3);
            (0..3).for_each(|nth| cluster.kill((first + nth) % 3));
            (0..3).for_each(|at| cluster.spawn(at));
            3
        }
        Victim::WhileOpening => {
            cluster.kill(follower);
            cluster.spawn(follower);
            // Between the process's first instruction and readiness; the moment is drawn.
            common::moment(random, 0..250).await;
            cluster.kill(follower);
            cluster.spawn(follower);
            2
        }
        Victim::WhileCatchingUp => {
            cluster.kill(follower);
            let before = cluster.status(leader).await.map_or(0, |status| status.checkpoint_index);
            // Two checkpoints of the leader later the log that the follower needs may be gone.
            eventually(|| async {
                let status = cluster.status(leader).await?;
                (status.checkpoint_index > before + 100).then_some(())
            })
            .await;
            cluster.spawn(follower);
            common::moment(random, 50..600).await;
            cluster.kill(follower);
            cluster.spawn(follower);
            2
        }
        Victim::WhileCheckpointing => {
            let before = cluster.status(leader).await.map_or(0, |status| status.checkpoint_index);
            eventually(|| async {
                let status = cluster.status(leader).await?;
                (status.checkpoint_index != before).then_some(())
            })
            .await;
            // Checkpoints follow each other without a pause here: the next one is under way.
            common::moment(random, 0..1_000).await;
            cluster.kill(leader);
            cluster.spawn(leader);
            1
        }
    }
}
