//! Damage to the files of one node: found, told, repaired or refused; never a wrong answer, and never felt elsewhere.

use std::fs;
use std::path::PathBuf;

use berth_tests::history::{Seen, check};
use berth_tests::load::{Caller, Load, read_at};
use berth_tests::process::{Cluster, Health, Tuning, copy_dir, eventually, files_below, flip_bit};

use crate::common::{binary, seed};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Devices that are looked up after each damage.
const DEVICES: std::ops::Range<u32> = 0..200;
/// How many single bits are turned.
const FLIPS: u32 = 24;
/// How many lengths of the log's last file are tried.
const CUTS: u64 = 120;

/// A cluster with some history, and its third node away.
async fn cluster_with_history(seed: u64) -> (Cluster, Vec<Option<Seen>>) {
    let mut cluster =
        Cluster::start(binary(), 3, Tuning { checkpoint_mib_per_second: 0, ..Tuning::default() });
    cluster.all_ready().await;
    let load = Load::start(cluster.endpoints(), seed).await;
    let enough = eventually(|| {
        let done = load.accepted() >= 2_000;
        async move { done.then_some(()) }
    });
    assert!(enough.await.is_some(), "too slow a load\n{}", cluster.logs());
    assert!(check(&load.finish().await).is_ok());
    cluster.equal_digests().await;
    cluster.kill(2);
    let truth = truth(&cluster).await;
    (cluster, truth)
}

/// What the whole nodes say.
async fn truth(cluster: &Cluster) -> Vec<Option<Seen>> {
    let caller = Caller::new(&cluster.endpoints());
    let devices: Vec<u32> = DEVICES.collect();
    let leader = cluster.leader().await;
    let answer = eventually(|| caller.look_up(leader, &devices, read_at::linearizable())).await;
    answer.expect("the leader answers").1
}

/// Starts the damaged node and sees what it does: true where it serves, and then rightly; false where it refuses.
async fn start_damaged(cluster: &mut Cluster, truth: &[Option<Seen>], what: &str) -> bool {
    cluster.clear_log(2);
    cluster.spawn(2);
    let serves = loop {
        if cluster.healthy(2, Health::Read).await {
            break true;
        }
        if let Some(status) = cluster.exit_status(2) {
            assert!(!status.success(), "{what}: a refusal is not a success");
            break false;
        }
        // The rest of the cluster goes on meanwhile.
        assert!(
            cluster.status(0).await.is_some() && cluster.status(1).await.is_some(),
            "{what}: felt elsewhere"
        );
    };
    if serves {
        let caller = Caller::new(&cluster.endpoints());
        let devices: Vec<u32> = DEVICES.collect();
        // From its own memory, first as it is and then at a barrier: both are right, since nothing was written since.
        for level in [read_at::local(), read_at::linearizable()] {
            let answer = eventually(|| caller.look_up(2, &devices, level.clone())).await;
            let (_, seen) = answer.unwrap_or_else(|| panic!("{what}: no answer\n{}", cluster.logs()));
            assert_eq!(seen, truth, "{what}: a wrong answer");
        }
    } else {
        let log = cluster.log(2);
        assert!(log.contains("--join"), "{what}: the refusal says how to replace the node: {log}");
        assert!(!log.contains("panicked"), "{what}: {log}");
    }
    let leader = cluster.leader().await;
    assert_ne!(leader, 2, "{what}: a damaged node leads");
    cluster.kill(2);
    serves
}

/// Single bits anywhere in the data directory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bits_are_never_believed() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut cluster, truth) = cluster_with_history(seed).await;
    let data = cluster.nodes()[2].data_dir.clone();
    let whole = data.with_extension("whole");
    copy_dir(&data, &whole);
    let mut refused = 0;
    let files: Vec<PathBuf> =
        files_below(&data).into_iter().filter(|f| fs::metadata(f).unwrap().len() > 0).collect();
    for nth in 0..FLIPS {
        // Each file in turn, small ones too: a bit drawn over all bytes would never meet them.
        let file = &files[nth as usize % files.len()];
        let bit = random.random_range(0..fs::metadata(file).unwrap().len() * 8);
        flip_bit(file, bit);
        let what = format!("bit {bit} of {} (seed {seed})", file.strip_prefix(&data).unwrap().display());
        if !start_damaged(&mut cluster, &truth, &what).await {
            refused += 1;
        }
        copy_dir(&whole, &data);
    }
    println!("{FLIPS} bits in {} files: {refused} refusals, else served rightly", files.len());
    cluster.spawn(2);
    cluster.all_ready().await;
    cluster.equal_digests().await;
}

/// The log's end cut off at many lengths: like a write that the crash tore. The node catches up, and the others
/// neither stall nor fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_cut_short_catches_up() {
    let seed = seed();
    let (mut cluster, truth) = cluster_with_history(seed).await;
    let data = cluster.nodes()[2].data_dir.clone();
    let whole = data.with_extension("whole");
    copy_dir(&data, &whole);
    let file = last_log_file(&data);
    let length = fs::metadata(&file).unwrap().len();
    let caller = Caller::new(&cluster.endpoints());
    let mut torn = 0;
    for cut in 1..=CUTS.min(length) {
        let handle = fs::OpenOptions::new().write(true).open(&file).unwrap();
        handle.set_len(length - cut).unwrap();
        drop(handle);
        let what = format!("{cut} bytes off {}", file.display());
        assert!(start_damaged(&mut cluster, &truth, &what).await, "{what}: refused\n{}", cluster.log(2));
        torn += 1;
        copy_dir(&whole, &data);
    }
    println!("{torn} lengths: each caught up");
    assert!(caller.look_up(0, &[0], read_at::linearizable()).await.is_some());
}

/// The newest file of the Raft log.
fn last_log_file(data: &std::path::Path) -> PathBuf {
    let logs: Vec<PathBuf> = files_below(data)
        .into_iter()
        .filter(|file| file.components().any(|part| part.as_os_str() == "log"))
        .filter(|file| fs::metadata(file).unwrap().len() > 0)
        .collect();
    logs.into_iter()
        .max_by_key(|file| fs::metadata(file).unwrap().modified().unwrap())
        .expect("a log on disk")
}
