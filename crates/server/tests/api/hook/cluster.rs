//! The hook of a cluster: any node takes a call, the leader alone decides, and what it told survives it.

use std::collections::BTreeMap;
use std::path::Path;

use berth_core::{DeviceId, EvidenceSource};
use berth_proto::v1::topology_service_client::TopologyServiceClient;
use berth_server::config::{AzureSettings, Config, Settings};
use berth_server::health::Serving;
use berth_server::run::{Injected, Node};
use futures_util::future::join_all;
use tempfile::TempDir;

use super::call::{Answer, allocate, body, query, try_post};
use super::{SECRET, topology};
use crate::{HUB_1, HUB_2, HUB_3, apply};

const HUBS: [&str; 3] = [HUB_1, HUB_2, HUB_3];

struct Three {
    nodes: Vec<Node>,
    settings: Vec<Settings>,
    _dirs: Vec<TempDir>,
}

impl Three {
    async fn start() -> Self {
        let peers: Vec<(String, String)> = (1..=3).map(|n| (format!("n{n}"), free_address())).collect();
        let list: Vec<String> = peers.iter().map(|(name, addr)| format!("{name}={addr}")).collect();
        let dirs: Vec<TempDir> = peers.iter().map(|_| tempfile::tempdir().unwrap()).collect();
        let settings: Vec<Settings> = peers
            .iter()
            .zip(&dirs)
            .map(|((name, addr), dir)| settings(name, addr, &list.join(","), dir.path()))
            .collect();
        let nodes = join_all(settings.iter().map(start)).await;
        let three = Self { nodes, settings, _dirs: dirs };
        three.serves().await;
        let mut done = false;
        while !done {
            let Some(leader) = three.leader() else {
                tokio::task::yield_now().await;
                continue;
            };
            let address = format!("http://{}", leader.addresses().client);
            let mut topologies = TopologyServiceClient::connect(address).await.unwrap();
            // A leader that is replaced meanwhile refuses.
            done = topologies.apply(apply(topology())).await.is_ok();
        }
        three
    }

    async fn serves(&self) {
        for node in &self.nodes {
            node.health().watch_read().wait_for(|serving| *serving == Serving::Yes).await.unwrap();
            node.health().watch_write().wait_for(|serving| *serving == Serving::Yes).await.unwrap();
        }
    }

    fn leader(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.raft().leads() && !node.raft().lacks_quorum())
    }

    async fn stop(self) {
        join_all(self.nodes.into_iter().map(Node::shutdown)).await;
    }
}

fn settings(name: &str, peer: &str, list: &str, dir: &Path) -> Settings {
    let secret = dir.join("hook-secret");
    std::fs::write(&secret, SECRET).unwrap();
    Settings {
        data_dir: Some(dir.join("data")),
        node_name: Some(name.to_owned()),
        listen: Some("127.0.0.1:0".to_owned()),
        peer_listen: Some(peer.to_owned()),
        http_listen: Some("127.0.0.1:0".to_owned()),
        bootstrap: Some(list.to_owned()),
        azure: AzureSettings {
            hook_secret: Some(format!("file:{}", secret.display())),
            ..AzureSettings::default()
        },
        ..Settings::default()
    }
}

async fn start(settings: &Settings) -> Node {
    let config = Config::from_settings([settings.clone()]).unwrap();
    Node::start(config, Injected::default()).await.unwrap()
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Calls as DPS does: again where the answer is 429 or above, until there is a hub.
async fn until_told(node: &Node, id: &str) -> Answer {
    loop {
        let answer = allocate(node.addresses().http, id, &HUBS).await;
        if answer.status < 429 {
            assert_eq!(answer.status, 200, "{answer:?}");
            return answer;
        }
        assert_eq!((answer.status, answer.reason()), (503, "UNAVAILABLE"), "{answer:?}");
        assert!(answer.head.contains("retry-after: 1"), "{answer:?}");
    }
}

fn hub_in(node: &Node, id: &str) -> Option<String> {
    let snapshot = node.directory().newest();
    let mapping = snapshot.device(&id.parse::<DeviceId>().unwrap()).unwrap()?;
    assert_eq!(mapping.evidence.source, EvidenceSource::Hook);
    mapping.hub.and_then(|no| snapshot.topology().hub(no)).map(|hub| hub.name.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_takes_the_call_and_one_decides() {
    let three = Three::start().await;
    let mut told = BTreeMap::new();
    for (n, node) in three.nodes.iter().enumerate() {
        let id = format!("pump-{n}");
        told.insert(id.clone(), until_told(node, &id).await.hub().unwrap().to_owned());
    }
    for node in &three.nodes {
        for (id, hub) in &told {
            assert_eq!(until_told(node, id).await.hub(), Some(hub.as_str()));
        }
    }
    // A refusal of the leader comes through a follower as it is.
    for node in &three.nodes {
        let refused = loop {
            let answer = allocate(node.addresses().http, "pump-9", &["stranger.example"]).await;
            if answer.status != 503 {
                break answer;
            }
        };
        assert_eq!((refused.status, refused.reason()), (422, "HUBS_UNKNOWN"), "{refused:?}");
        assert!(refused.text.contains("stranger.example"), "{refused:?}");
    }
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_leader_told_stands_when_it_is_killed() {
    let mut three = Three::start().await;
    let leader = loop {
        match three.nodes.iter().position(|node| node.raft().leads() && !node.raft().lacks_quorum()) {
            Some(at) => break at,
            None => tokio::task::yield_now().await,
        }
    };
    let killed = three.nodes.remove(leader);
    let ids: Vec<String> = (0..64).map(|n| format!("pump-{n}")).collect();
    let to = killed.addresses().http;
    let calls: Vec<_> = ids
        .iter()
        .map(|id| {
            let text = body(id, &HUBS).to_string();
            tokio::spawn(async move { try_post(to, &query(), text.as_bytes()).await })
        })
        .collect();
    // Some are committed by then, some of them not yet told, and some not begun.
    while killed.directory().newest().device_count() < 8 {
        tokio::task::yield_now().await;
    }
    killed.halt().await;
    let mut told = BTreeMap::new();
    for (id, call) in ids.iter().zip(calls) {
        match call.await.unwrap() {
            Ok(answer) if answer.status == 200 => {
                told.insert(id.clone(), answer.hub().unwrap().to_owned());
            }
            Ok(answer) => assert_eq!(answer.status, 503, "{answer:?}"),
            // The connection broke.
            Err(_) => {}
        }
    }
    let mut committed = BTreeMap::new();
    for id in &ids {
        let before = hub_in(&three.nodes[0], id);
        let hub = until_told(&three.nodes[0], id).await.hub().unwrap().to_owned();
        assert!(told.get(id).is_none_or(|told| *told == hub), "{id} was told another hub");
        assert!(before.is_none_or(|before| before == hub), "{id} was placed again");
        committed.insert(id.clone(), hub);
    }
    println!("{} of {} were told before the leader went", told.len(), ids.len());
    // It starts again on its disk, and all agree.
    let settings = three.settings[leader].clone();
    three.nodes.push(start(&settings).await);
    three.serves().await;
    for node in &three.nodes {
        for (id, hub) in &committed {
            assert_eq!(until_told(node, id).await.hub(), Some(hub.as_str()));
        }
        assert_eq!(node.directory().barrier().await.unwrap().snapshot.device_count(), ids.len() as u64);
    }
    three.stop().await;
}
