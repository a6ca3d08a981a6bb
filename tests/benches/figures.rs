//! Figures of whole clusters that `berth bench` cannot take from outside: how long a killed leader is missed, how
//! large the gap of a planned hand-over is, and what a device costs in memory, on disk and at a start.
//!
//! ```text
//! cargo bench -p berth-tests --bench figures                        all of them
//! cargo bench -p berth-tests --bench figures -- failover transfer   these
//! ```
//!
//! Real processes, real disk, loopback. Each figure is printed as one line.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement that cannot be made ends in a panic, and it prints what it measured"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use berth_proto::convert::pack_ids;
use berth_proto::v1;
use berth_proto::v1::cluster_service_client::ClusterServiceClient;
use berth_proto::v1::device_service_client::DeviceServiceClient;
use berth_tests::load::{Answer, Caller, Load, read_at};
use berth_tests::process::{Cluster, Health, Tuning, eventually, files_below};
use tonic::Code;

/// `berth`, as built with this bench; the variable `BERTH_BINARY` names another.
const BINARY: &str = env!("CARGO_BIN_EXE_berth_under_test");
/// Leaders that are killed.
const KILLS: usize = 20;
/// Hand-overs.
const TRANSFERS: usize = 20;
/// Devices before and after which memory is compared.
const DEVICES: [u64; 2] = [1_000_000, 3_000_000];
/// Devices of one batch.
const BATCH: u64 = 10_000;
/// Pause of a caller that was told to try again.
const PAUSE: Duration = Duration::from_millis(2);

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|arg| arg == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        if wanted("failover") {
            failover().await;
        }
        if wanted("transfer") {
            transfer().await;
        }
        if wanted("devices") {
            devices().await;
        }
    });
}

/// The program whose figures are taken.
fn binary() -> String {
    berth_tests::process::under_test(BINARY)
}

/// The settings of a node that nobody tuned.
fn as_shipped() -> Tuning {
    Tuning {
        checkpoint_seconds: 300,
        checkpoint_log_mib: 64,
        checkpoint_mib_per_second: 0,
        environment: vec![("BERTH_LOG".to_owned(), "warn".to_owned())],
        ..Tuning::default()
    }
}

/// The leader is killed under load: time to the first acknowledged write and to the first linearizable lookup.
async fn failover() {
    let mut cluster = Cluster::start(binary(), 3, as_shipped());
    cluster.all_ready().await;
    let load = Load::start(cluster.endpoints(), 1).await;
    let (mut writes, mut lookups) = (Vec::new(), Vec::new());
    for kill in 0..KILLS {
        let leader = cluster.leader().await;
        let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
        let endpoints = cluster.endpoints();
        let killed = Instant::now();
        cluster.kill(leader);
        let (write, lookup) = tokio::join!(
            first_write(&endpoints, &others, kill, killed),
            first_lookup(&endpoints, &others, killed)
        );
        writes.push(write);
        lookups.push(lookup);
        cluster.spawn(leader);
        cluster.ready(leader, Health::Read).await;
    }
    println!(
        "failover, {KILLS} leaders killed with {} writes and {} lookups around: first write {}, first linearizable lookup {}",
        load.accepted(),
        load.lookups(),
        spread(&mut writes),
        spread(&mut lookups)
    );
    load.finish().await;
}

/// When a new write is acknowledged by one of these nodes.
async fn first_write(
    endpoints: &[std::net::SocketAddr],
    nodes: &[usize],
    kill: usize,
    since: Instant,
) -> Duration {
    let caller = Caller::new(endpoints);
    let request_id = uuid::Uuid::now_v7().to_string();
    loop {
        for &node in nodes {
            if let Answer::Done(_) = caller.write(node, &request_id, &[(9_000, kill as u32 % 2)]).await {
                return since.elapsed();
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// When a linearizable lookup is answered by one of these nodes.
async fn first_lookup(endpoints: &[std::net::SocketAddr], nodes: &[usize], since: Instant) -> Duration {
    let caller = Caller::new(endpoints);
    loop {
        for &node in nodes {
            if caller.look_up(node, &[0], read_at::linearizable()).await.is_some() {
                return since.elapsed();
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A sequential writer while leadership is handed over: its longest time between two acknowledgements, each time.
async fn transfer() {
    let cluster = Cluster::start(binary(), 3, as_shipped());
    cluster.all_ready().await;
    let caller = Caller::new(&cluster.endpoints());
    caller.create_hubs(2).await;
    let mut gaps = Vec::new();
    let mut plain = Vec::new();
    for _ in 0..TRANSFERS {
        let leader = cluster.leader().await;
        plain.push(longest_gap(&cluster, leader, false).await);
        gaps.push(longest_gap(&cluster, leader, true).await);
    }
    println!(
        "planned transfer, {TRANSFERS} times: largest gap of a sequential writer {}; without a transfer {}",
        spread(&mut gaps),
        spread(&mut plain)
    );
}

/// Writes one after the other for a while, with a hand-over in the middle or without.
async fn longest_gap(cluster: &Cluster, leader: usize, hand_over: bool) -> Duration {
    let over = Arc::new(AtomicBool::new(false));
    let writer = {
        let (over, caller) = (Arc::clone(&over), Caller::new(&cluster.endpoints()));
        tokio::spawn(async move {
            let (mut node, mut hub) = (leader, 0);
            let (mut last, mut longest) = (None::<Instant>, Duration::ZERO);
            while !over.load(Ordering::Relaxed) {
                let request_id = uuid::Uuid::now_v7().to_string();
                loop {
                    match caller.write(node, &request_id, &[(9_001, hub % 2)]).await {
                        Answer::Done(_) => break,
                        Answer::NotLeader(Some(known)) if known != node => node = known,
                        Answer::NotLeader(_) => tokio::time::sleep(PAUSE).await,
                        Answer::Open => {}
                        Answer::Refused => panic!("a write of the bench is refused"),
                    }
                }
                hub += 1;
                if let Some(last) = last {
                    longest = longest.max(Instant::now() - last);
                }
                last = Some(Instant::now());
            }
            longest
        })
    };
    tokio::time::sleep(Duration::from_millis(250)).await;
    if hand_over {
        let mut client = ClusterServiceClient::new(cluster.channel(leader));
        let request = v1::TransferLeaderRequest { reason: "bench".to_owned(), node_id: 0 };
        client.transfer_leader(request).await.expect("the leader hands over");
    }
    tokio::time::sleep(Duration::from_millis(250)).await;
    over.store(true, Ordering::Relaxed);
    writer.await.expect("the writer does not panic")
}

/// Memory and disk that devices take, and how long a start with them takes.
async fn devices() {
    // Sooner than as shipped, so that what is filled in is on disk soon after.
    let tuning = Tuning { checkpoint_seconds: 5, ..as_shipped() };
    let mut cluster = Cluster::start(binary(), 3, tuning);
    cluster.all_ready().await;
    Caller::new(&cluster.endpoints()).create_hubs(1).await;
    let mut resident = Vec::new();
    let mut have = 0;
    for target in DEVICES {
        fill(&cluster, have, target).await;
        have = target;
        settled(&cluster).await;
        resident.push((0..3).map(|at| cluster.resident_bytes(at)).collect::<Vec<u64>>());
        for at in 0..3 {
            let disk =
                cluster.status(at).await.and_then(|status| status.disk).expect("a status with disk usage");
            let pages: u64 = files_below(&cluster.nodes()[at].data_dir)
                .iter()
                .filter(|path| {
                    path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("pages-"))
                })
                .map(|path| std::fs::metadata(path).map_or(0, |meta| meta.len()))
                .sum();
            println!(
                "{target} devices at {}: resident {} MiB, pages on disk {} MiB, {:.2} x {} MiB live",
                cluster.nodes()[at].name,
                resident.last().map_or(0, |all| all[at]) >> 20,
                pages >> 20,
                pages as f64 / disk.live_bytes.max(1) as f64,
                disk.live_bytes >> 20
            );
        }
    }
    let more = DEVICES[1] - DEVICES[0];
    for (node, (few, many)) in cluster.nodes().iter().zip(resident[0].iter().zip(&resident[1])) {
        let bytes = *many as f64 - *few as f64;
        println!("marginal memory of a device at {}: {:.1} bytes", node.name, bytes / more as f64);
    }
    for (how, orderly) in [("ended", true), ("killed", false)] {
        let mut times = Vec::new();
        for _ in 0..3 {
            let follower = (cluster.leader().await + 1) % 3;
            if orderly {
                cluster.stop(follower);
            } else {
                cluster.kill(follower);
            }
            let started = Instant::now();
            cluster.spawn(follower);
            cluster.ready(follower, Health::Read).await;
            times.push(started.elapsed());
        }
        println!("start of a {how} node with {have} devices until it serves: {}", spread(&mut times));
    }
}

/// Assigns devices with IDs of 16 bytes.
async fn fill(cluster: &Cluster, from: u64, to: u64) {
    let leader = cluster.leader().await;
    let mut client = DeviceServiceClient::new(cluster.channel(leader));
    for first in (from..to).step_by(BATCH as usize) {
        let ids = (first..first + BATCH).map(|no| format!("device-{no:09}"));
        let packed = v1::PackedAssignment {
            hub: "hub-0.example.net".to_owned(),
            packed_device_ids: pack_ids(ids),
            ..Default::default()
        };
        let request = v1::BatchAssignRequest {
            request_id: uuid::Uuid::now_v7().to_string(),
            reason: "bench".to_owned(),
            packed: vec![packed],
            ..Default::default()
        };
        // Under one request ID it may be asked for as often as need be.
        while let Err(status) = client.batch_assign(request.clone()).await {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Waits until every node has applied everything and has a checkpoint of it, and then for the allocator to give back
/// what that took.
async fn settled(cluster: &Cluster) {
    cluster.equal_digests().await;
    for at in 0..3 {
        let done = eventually(|| async {
            let status = cluster.status(at).await?;
            (status.checkpoint_index == status.applied_index).then_some(())
        });
        done.await.expect("a checkpoint of everything");
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
}

fn spread(times: &mut [Duration]) -> String {
    times.sort();
    let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1_000.0);
    format!("median {:.1} ms, worst {:.1} ms", ms(times.get(times.len() / 2)), ms(times.last()))
}
