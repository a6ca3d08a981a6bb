//! A disk that fills up. As long as there is some room left, writes are refused with a typed error while lookups go
//! on; without any, the node ends and says so. Either way nothing acknowledged is lost, and it goes on once there is
//! room again.

use std::fs;

use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::cluster_service_client::ClusterServiceClient;
use berth_proto::v1::device_service_client::DeviceServiceClient;
use berth_tests::history::check;
use berth_tests::load::{Answer, Caller, HUBS, Load, read_at};
use berth_tests::process::{Cluster, Health, Tuning, eventually};
use rand::RngExt;

use super::mount::Small;
use super::{REFUSED, berth, refused};
use crate::common::binary;

/// MiB of the file system that fills up. A twentieth of it must stay free for writes.
const SIZE_MIB: u32 = 192;
/// MiB that the node sets aside: with them given back there is room for writes again.
const BALLAST_MIB: u64 = 24;
/// Bytes that the filling leaves: too few for writes, enough for what is under way.
const LEFT_BYTES: u64 = 6 << 20;
/// Devices that are there before the disk is full.
const DEVICES: u32 = 300;
/// Writes that the others must take while a node is away.
const GONE_ON: u64 = 200;

/// Puts a device on a hub; gives the revision, or what the node says.
async fn assign(cluster: &Cluster, device: &str, hub: u32) -> Result<u64, ApiError> {
    let assignment = v1::DeviceAssignment {
        device_id: device.to_owned(),
        hub: format!("hub-{hub}.example.net"),
        ..v1::DeviceAssignment::default()
    };
    let request = v1::AssignRequest { assignment: Some(assignment), ..v1::AssignRequest::default() };
    let answer = DeviceServiceClient::new(cluster.channel(0)).assign(request).await;
    answer
        .map(|answer| answer.into_inner().header.map_or(0, |header| header.revision))
        .map_err(ApiError::from)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_nearly_full() {
    let Some(small) = Small::mount(SIZE_MIB) else { return };
    let tuning = Tuning { ballast_mib: BALLAST_MIB, data_dirs: vec![small.data_dir()], ..Tuning::default() };
    let mut cluster = Cluster::start(binary(), 1, tuning);
    cluster.all_ready().await;
    let ballast = small.data_dir().join("BALLAST");
    let set_aside =
        || async { fs::metadata(&ballast).is_ok_and(|file| file.len() == BALLAST_MIB << 20).then_some(()) };
    assert!(eventually(set_aside).await.is_some(), "no space is set aside\n{}", cluster.logs());
    let caller = Caller::new(&cluster.endpoints());
    caller.create_hubs(HUBS).await;
    let devices: Vec<u32> = (0..DEVICES).collect();
    let items: Vec<(u32, u32)> = devices.iter().map(|device| (*device, device % HUBS)).collect();
    let created = caller.write(0, &uuid::Uuid::now_v7().to_string(), &items).await;
    assert!(matches!(created, Answer::Done(_)), "{created:?}");
    let all_there = |what: &'static str| {
        let (caller, devices) = (&caller, &devices);
        async move {
            let (_, seen) = caller.look_up(0, devices, read_at::linearizable()).await.expect(what);
            for (device, seen) in devices.iter().zip(seen) {
                assert_eq!(seen.map(|seen| seen.hub), Some(device % HUBS), "{what}: device {device}");
            }
        }
    };

    // The space that was set aside keeps the node going once.
    small.fill(LEFT_BYTES);
    let given_back = eventually(|| async { (!ballast.exists()).then_some(()) });
    assert!(given_back.await.is_some(), "the space that was set aside is not given back\n{}", cluster.logs());
    let taken = eventually(|| async { assign(&cluster, "after-ballast", 1).await.ok() });
    assert!(taken.await.is_some(), "no writes with the ballast's room\n{}", cluster.logs());

    small.fill(LEFT_BYTES);
    let full = eventually(|| async {
        match assign(&cluster, "while-filling", 2).await {
            Err(error @ ApiError::DiskFull { .. }) => Some(error),
            Ok(_) => None,
            Err(other) => panic!("a full disk is told as {other}"),
        }
    });
    let full = full.await.unwrap_or_else(|| panic!("writes are never refused\n{}", cluster.logs()));
    let ApiError::DiskFull { free_bytes, needed_bytes } = full else { panic!("{full}") };
    assert!(free_bytes < needed_bytes && needed_bytes >= u64::from(SIZE_MIB) << 20 >> 5, "{full}");
    all_there("lookups with a full disk").await;
    let endpoint = cluster.nodes()[0].client.to_string();
    let words = [
        "device",
        "assign",
        "from-a-shell",
        "--hub",
        "hub-1.example.net",
        "--endpoints",
        &endpoint,
        "--timeout",
        "1s",
    ];
    let ended = tokio::task::block_in_place(|| berth(&words));
    refused("berth device assign", REFUSED, ended.code, &ended.err, &["bytes free", "make room"]);
    let removal = v1::RemoveRequest { device_id: "after-ballast".to_owned(), ..v1::RemoveRequest::default() };
    let removed = DeviceServiceClient::new(cluster.channel(0)).remove(removal).await;
    assert!(removed.is_ok(), "what makes room is refused: {removed:?}");

    small.empty();
    let again = eventually(|| async { assign(&cluster, "with-room-again", 3).await.ok() });
    assert!(again.await.is_some(), "writes stay refused with room again\n{}", cluster.logs());
    assert!(cluster.runs(0), "the node ended");
    all_there("with room again").await;
    assert!(cluster.stop(0).success());
    cluster.spawn(0);
    cluster.all_ready().await;
    all_there("after a start").await;
    cluster.recount(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_nearly_full_hands_over_to_one_that_has_room() {
    let Some(small) = Small::mount(SIZE_MIB) else { return };
    let mut cluster =
        Cluster::start(binary(), 3, Tuning { data_dirs: vec![small.data_dir()], ..Tuning::default() });
    cluster.all_ready().await;
    let caller = Caller::new(&cluster.endpoints());
    caller.create_hubs(HUBS).await;
    hand_over(&cluster, true).await;
    small.fill(LEFT_BYTES);
    let taken = eventually(|| async {
        let leader = cluster.leader().await;
        let written = caller.write(leader, &uuid::Uuid::now_v7().to_string(), &[(7, 1)]).await;
        (leader != 0 && matches!(written, Answer::Done(_))).then_some(())
    });
    assert!(taken.await.is_some(), "no node with room takes writes\n{}", cluster.logs());
    assert!(cluster.runs(0), "the node without room follows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_any_room() {
    let Some(small) = Small::mount(SIZE_MIB) else { return };
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut cluster =
        Cluster::start(binary(), 3, Tuning { data_dirs: vec![small.data_dir()], ..Tuning::default() });
    cluster.all_ready().await;
    let load = Load::start(cluster.endpoints(), seed).await;
    for leads in [false, true] {
        hand_over(&cluster, leads).await;
        small.fill(0);
        let what = if leads { "a leader's full disk" } else { "a follower's full disk" };
        let ended = cluster.wait_for_exit(0);
        let status = ended.unwrap_or_else(|| panic!("{what}: it goes on\n{}", cluster.logs()));
        refused(what, REFUSED, status.code(), &cluster.log(0), &["No space left on device"]);
        let accepted = load.accepted();
        let gone_on = eventually(|| async { (load.accepted() > accepted + GONE_ON).then_some(()) });
        assert!(gone_on.await.is_some(), "{what}: the others do not go on\n{}", cluster.logs());
        small.empty();
        cluster.clear_log(0);
        cluster.spawn(0);
        cluster.ready(0, Health::Read).await;
    }
    let history = load.finish().await;
    cluster.all_ready().await;
    cluster.equal_digests().await;
    cluster.recount(0).await;
    match check(&history) {
        Ok(summary) => println!("full disks: {summary:?}"),
        Err(violations) => {
            violations.iter().for_each(|violation| eprintln!("{violation}"));
            panic!("the history is not linearizable, seed {seed}");
        }
    }
}

/// Sees to it that the first node leads, or does not.
async fn hand_over(cluster: &Cluster, first_leads: bool) {
    let done = eventually(|| async {
        let leader = cluster.leader().await;
        if (leader == 0) == first_leads {
            return Some(());
        }
        let to = if first_leads { 0 } else { 1 };
        let node_id = cluster.status(to).await?.node_id;
        let request = v1::TransferLeaderRequest { reason: "a test".to_owned(), node_id };
        // Whether it has worked, the next look tells.
        let _ = ClusterServiceClient::new(cluster.channel(leader)).transfer_leader(request).await;
        None
    });
    assert!(done.await.is_some(), "leadership cannot be moved\n{}", cluster.logs());
}
