//! What must hold, told as stories.

use berth_store::raft::log_id;
use bytes::Bytes;

use super::cluster::{Cluster, Home, cut_log, until};
use super::links::Cuts;
use super::machine::Disk;
use crate::raft::bootstrap::{FetchError, PlaceError};
use crate::raft::identity::Refusal;
use crate::raft::membership::MembershipError;
use crate::raft::node::{Ended, RaftStartError};
use crate::raft::{ReadError, Role, Start, WriteError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_elect_write_read_and_hand_over() {
    let mut cluster = Cluster::found().await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;

    let writes = (0..200).map(|n| cluster.node(leader).write(Box::leak(format!("c{n}").into_boxed_str())));
    futures_util::future::join_all(writes).await;
    cluster.settled(200).await;

    let point = cluster.node(leader).raft.confirm_read().await.unwrap();
    assert_eq!(point.role, Role::Leader);
    cluster.write("late").await;
    let point = cluster.node(follower).raft.confirm_read().await.unwrap();
    assert_eq!(point.role, Role::Follower);
    assert_eq!(cluster.node(follower).commands().last().map(String::as_str), Some("late"));
    assert_eq!(cluster.node(follower).raft.fresh_as_of(), Some(point.sent_at));

    let refused = cluster.node(follower).raft.propose(Bytes::from_static(b"x")).await.unwrap_err();
    let WriteError::NotLeader { leader: Some((_, hint)) } = &refused else { panic!("{refused:?}") };
    assert_eq!(hint.client_addr, format!("{}.example:7000", cluster.homes[leader].name));

    let heir = cluster.node(follower).raft.id();
    cluster.node(leader).raft.membership().transfer(heir).await.unwrap();
    cluster.until("the heir leads", |cluster| cluster.node(follower).raft.leads()).await;
    cluster.write("from the heir").await;

    cluster.take(follower).stop().await;
    let next = cluster.leader().await;
    assert_ne!(next, follower, "a leader that stops hands over");
    cluster.write("without the heir").await;
    cluster.settled(203).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_leader_is_replaced_and_comes_back_with_everything() {
    let mut cluster = Cluster::found().await;
    for n in 0..20 {
        cluster.write(&format!("before {n}")).await;
    }
    let leader = cluster.leader().await;
    cluster.take(leader).crash().await;
    for n in 0..20 {
        cluster.write(&format!("after {n}")).await;
    }
    cluster.restart(leader).await;
    cluster.settled(40).await;

    // All of them crash at once; what was acknowledged is there again.
    for place in 0..3 {
        cluster.take(place).crash().await;
    }
    for place in 0..3 {
        cluster.restart(place).await;
    }
    cluster.write("after all").await;
    cluster.settled(41).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_too_long_catches_up_by_snapshot() {
    let mut cluster = Cluster::found().await;
    let away = cluster.follower().await;
    cluster.write("first").await;
    cluster.settled(1).await;
    cluster.take(away).crash().await;
    // Both that stay, as either may lead when the third comes back.
    let staying: Vec<usize> = (0..3).filter(|place| *place != away).collect();
    for round in 0..3 {
        for n in 0..150 {
            cluster.write(&format!("{round} {n}")).await;
        }
        for &place in &staying {
            let before = cluster.node(place).raft.status().snapshot;
            cluster.node(place).raft.checkpoint().await.unwrap();
            cluster
                .until("the checkpoint is there", |cluster| {
                    cluster.node(place).raft.status().snapshot > before
                })
                .await;
        }
    }
    // Raft puts a purge off while an attempt to reach the node that is away is under way.
    cluster
        .until("the logs are purged behind the checkpoint before the last", |cluster| {
            staying
                .iter()
                .all(|&place| cluster.node(place).log.purged().is_some_and(|purged| purged.index > 150))
        })
        .await;
    cluster.restart(away).await;
    cluster.settled(451).await;
    cluster.until("it came by snapshot", |cluster| cluster.node(away).raft.status().snapshot.is_some()).await;
    cluster.write("more").await;
    cluster.settled(452).await;

    // Then it loses its pages, and its log begins behind them: a peer's checkpoint takes their place.
    cluster.take(away).crash().await;
    cluster.homes[away].disk = Disk::default();
    let refused = cluster.homes[away].start(Start::Single, &cluster.cuts).await;
    assert!(matches!(refused, Err(RaftStartError::Fatal(_))), "nothing stands in for what is lost");

    // A checkpoint that ends before the log begins would leave a gap, so the node goes on to a peer that has more.
    let (behind, third) = (staying[0], staying[1]);
    let before = cluster.node(third).raft.status().snapshot;
    cluster.node(third).raft.checkpoint().await.unwrap();
    cluster.until("it is there", |cluster| cluster.node(third).raft.status().snapshot > before).await;
    let newest = cluster.node(third).raft.status().snapshot.unwrap();
    assert!(cluster.node(behind).raft.status().snapshot < Some(newest));
    let fetched = cluster.homes[away].fetch_pages(&cluster.cuts, Some(newest)).await.unwrap();
    assert_eq!(fetched.last_log_id, Some(newest));
    let beyond = log_id(u64::from(u32::MAX), newest.index() + 1);
    let none = cluster.homes[away].fetch_pages(&cluster.cuts, Some(beyond)).await.unwrap_err();
    let FetchError::NoneFits(answers) = &none else { panic!("{none}") };
    let why = format!("ends at log index {}", newest.index());
    assert!(answers.len() == 2 && answers.iter().any(|answer| answer.contains(&why)), "{none}");
    cluster.restart(away).await;
    cluster.settled(452).await;
    cluster.write("with new pages").await;
    cluster.settled(453).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_log_lost_its_tail_catches_up_and_harms_nobody() {
    let mut cluster = Cluster::found().await;
    for n in 0..50 {
        cluster.write(&format!("c{n}")).await;
    }
    cluster.settled(50).await;
    let leader = cluster.leader().await;
    let term = cluster.node(leader).raft.status().term;
    let cut = cluster.follower().await;
    cluster.take(cut).crash().await;
    cut_log(&cluster.homes[cut].log_dir(), 700);
    cluster.restart(cut).await;
    cluster.settled(50).await;
    for n in 50..60 {
        cluster.write(&format!("c{n}")).await;
    }
    cluster.settled(60).await;
    let still = cluster.leader().await;
    assert_eq!((still, cluster.node(still).raft.status().term), (leader, term), "the leader went on leading");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_votes_and_leaves() {
    let mut cluster = Cluster::found().await;
    cluster.write("one").await;
    let follower = cluster.follower().await;
    // Nobody is at the first address; at the second is a follower, which passes it on.
    let home = Home::new("n4");
    let addrs = vec![Home::new("nobody").addr, cluster.homes[follower].addr.clone()];
    let node = home.start(Start::Join(addrs), &cluster.cuts).await.unwrap();
    let id = node.raft.id();
    assert!(id > 3, "IDs of joined nodes come from the log");
    cluster.homes.push(home);
    cluster.nodes.push(Some(node));
    cluster.settled(1).await;

    let leader = cluster.leader().await;
    let membership = cluster.node(leader).raft.membership().clone();
    assert_eq!(membership.transfer(id).await, Err(MembershipError::NotVoter(id)));
    membership.promote(id).await.unwrap();
    membership.promote(id).await.unwrap();
    cluster.write("two").await;
    cluster.settled(2).await;

    // Whoever asks for another node than is there gets none.
    let (addr, asker) = (cluster.homes[3].addr.clone(), &cluster.node(leader).raft);
    let other = asker.invite(&addr, "n5", "").await.unwrap_err();
    assert!(matches!(other, MembershipError::OtherNode { what: "name", .. }), "{other}");
    let other = asker.invite(&addr, "n4", "elsewhere:1").await.unwrap_err();
    assert!(matches!(other, MembershipError::OtherNode { what: "client address", .. }), "{other}");
    assert_eq!(asker.invite(&addr, "n4", "n4.example:7000").await, Ok(id));

    // Its name is taken for any other data directory.
    let namesake = Home::new("n4");
    let refused = namesake.start(Start::Join(vec![cluster.homes[leader].addr.clone()]), &cluster.cuts).await;
    let Err(RaftStartError::Place(PlaceError::NotAdmitted { why, .. })) = refused else { panic!("admitted") };
    assert!(why.contains("remove node"), "{why}");

    membership.remove(id).await.unwrap();
    assert_eq!(membership.remove(id).await, Err(MembershipError::UnknownNode(id)));
    cluster.take(3).crash().await;
    cluster.write("three").await;
    cluster.settled(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_alone_is_a_cluster_that_others_may_join() {
    let home = Home::new("solo");
    let cuts = Cuts::default();
    let solo = home.start(Start::Single, &cuts).await.unwrap();
    until("it leads", || solo.raft.leads()).await;
    until("it is born", || solo.machine.state().nodes.len() == 1).await;
    solo.write("alone").await;
    assert!(!solo.raft.lacks_quorum(), "it is a quorum by itself");
    assert_eq!(solo.raft.membership().remove(1).await, Err(MembershipError::LastVoter(1)));
    let second = Home::new("second");
    let joined = second.start(Start::Join(vec![home.addr.clone()]), &cuts).await.unwrap();
    until("it has the command", || joined.commands() == ["alone"]).await;
    solo.stop().await;
    joined.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_that_was_killed_before_it_noted_that_it_took_part_starts_again() {
    let home = Home::new("solo");
    let cuts = Cuts::default();
    let solo = home.start(Start::Single, &cuts).await.unwrap();
    until("it is born", || solo.machine.state().nodes.len() == 1).await;
    solo.write("kept").await;
    solo.crash().await;
    home.forget_settling();
    let solo = home.start(Start::Single, &cuts).await.unwrap();
    until("it leads", || solo.raft.leads()).await;
    solo.write("more").await;
    assert_eq!(solo.commands(), ["kept", "more"]);
    solo.stop().await;

    // So do all founders of a cluster, the first of them and those that had only followed.
    let mut cluster = Cluster::found().await;
    cluster.write("one").await;
    let list: Vec<_> = cluster.homes.iter().map(|home| (home.name.clone(), home.addr.clone())).collect();
    for place in 0..3 {
        until("it remembers having taken part", || cluster.homes[place].has_settled()).await;
        cluster.take(place).crash().await;
        cluster.homes[place].forget_settling();
    }
    for place in 0..3 {
        let node = cluster.homes[place].start(Start::Bootstrap(list.clone()), &cluster.cuts).await.unwrap();
        cluster.nodes[place] = Some(node);
    }
    cluster.write("two").await;
    cluster.settled(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_refused_under_its_old_id() {
    let mut cluster = Cluster::found().await;
    cluster.write("one").await;
    let list: Vec<_> = cluster.homes.iter().map(|home| (home.name.clone(), home.addr.clone())).collect();
    let wiped = cluster.follower().await;
    cluster.take(wiped).crash().await;
    cluster.homes[wiped].wipe();

    // It asks around and finds a cluster.
    let refused = cluster.homes[wiped].start(Start::Bootstrap(list.clone()), &cluster.cuts).await;
    assert!(matches!(refused, Err(RaftStartError::Place(PlaceError::ClusterExists { .. }))));

    // It cannot ask, but the leader finds it, and it learns that its data are not the ones known.
    cluster.homes[wiped].wipe();
    let name = cluster.homes[wiped].name.clone();
    if wiped == 0 {
        // The lowest name would wait for the others instead.
        return;
    }
    for home in &cluster.homes {
        cluster.cuts.cut(&name, &home.addr);
    }
    let node = cluster.homes[wiped].start(Start::Bootstrap(list), &cluster.cuts).await.unwrap();
    let ended = tokio::time::timeout(super::cluster::PATIENCE, node.raft.ended()).await.unwrap();
    assert!(matches!(ended, Ended::Disowned(Refusal::Receiver { .. })), "{ended:?}");
    assert!(node.machine.state().applied.is_none(), "it took nothing");
    node.crash().await;
    cluster.cuts.heal();
    cluster.write("two").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_log_is_not_replaced_by_an_empty_one() {
    let mut cluster = Cluster::found().await;
    let lost = cluster.follower().await;
    until("it remembers having taken part", || cluster.homes[lost].has_settled()).await;
    cluster.take(lost).crash().await;
    std::fs::remove_dir_all(cluster.homes[lost].log_dir()).unwrap();
    let refused = cluster.homes[lost].start(Start::Single, &cluster.cuts).await;
    let Err(error @ RaftStartError::LogLost(_)) = refused else { panic!("started") };
    assert!(error.to_string().contains("--join"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_takes_neither_writes_nor_reads() {
    let cluster = Cluster::found().await;
    cluster.write("one").await;
    let leader = cluster.leader().await;
    let name = cluster.homes[leader].name.clone();
    for home in &cluster.homes {
        cluster.cuts.cut(&name, &home.addr);
        cluster.cuts.cut(&home.name, &cluster.homes[leader].addr);
    }
    let old = cluster.node(leader);
    until("the others have a leader", || {
        cluster.live().any(|node| node.raft.id() != old.raft.id() && node.raft.leads())
    })
    .await;
    until("it knows that it leads nobody, or nobody any more", || {
        old.raft.lacks_quorum() || !old.raft.leads()
    })
    .await;
    until("the new leader hears the other", || {
        cluster
            .live()
            .any(|node| node.raft.id() != old.raft.id() && node.raft.leads() && !node.raft.lacks_quorum())
    })
    .await;
    let read = old.raft.confirm_read().await.unwrap_err();
    assert!(matches!(read, ReadError::NoQuorum(_) | ReadError::NoLeader), "{read:?}");
    let write = old.raft.propose(Bytes::from_static(b"lost")).await.unwrap_err();
    assert!(matches!(write, WriteError::NoQuorum | WriteError::NotLeader { .. }), "{write:?}");
    cluster.cuts.heal();
    until("it follows again", || !old.raft.leads()).await;
    cluster.write("two").await;
    cluster.settled(2).await;
}
