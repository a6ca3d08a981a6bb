//! Waiting for states: health, leadership, equal digests.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use berth_proto::v1;
use berth_proto::v1::cluster_service_client::ClusterServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Cluster, PATIENCE};

/// Between two looks at a state that is waited for.
pub(super) const POLL: Duration = Duration::from_millis(15);
/// One look at a node takes at most this long: it may be paused.
const LOOK: Duration = Duration::from_millis(1_500);

/// What a node can be healthy for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answers lookups.
    Read,
    /// It takes writes: it leads, or knows who does.
    Write,
}

impl Health {
    fn service(self) -> &'static str {
        match self {
            Self::Read => "berth.read",
            Self::Write => "berth.write",
        }
    }
}

/// Waits until `state` gives something; `None` after [`PATIENCE`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(mut state: impl FnMut() -> F) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(reached) = state().await {
            return Some(reached);
        }
        if Instant::now() > deadline {
            return None;
        }
        tokio::time::sleep(POLL).await;
    }
}

impl Cluster {
    /// A channel to one node, connected when first used.
    pub fn channel(&self, at: usize) -> Channel {
        let uri = format!("http://{}", self.nodes()[at].client);
        let endpoint =
            Endpoint::from_shared(uri).expect("an address is a URI").timeout(LOOK).connect_timeout(LOOK);
        endpoint.connect_lazy()
    }

    /// True where the node is there and healthy for `what`.
    pub async fn healthy(&self, at: usize, what: Health) -> bool {
        let request = HealthCheckRequest { service: what.service().to_owned() };
        match HealthClient::new(self.channel(at)).check(request).await {
            Ok(answer) => answer.into_inner().status() == ServingStatus::Serving,
            Err(_) => false,
        }
    }

    /// Waits until the node is healthy for `what`.
    pub async fn ready(&self, at: usize, what: Health) {
        let reached = eventually(|| async { self.healthy(at, what).await.then_some(()) }).await;
        assert!(
            reached.is_some(),
            "{} never became healthy for {what:?}\n{}",
            self.nodes()[at].name,
            self.logs()
        );
    }

    /// Waits until every node answers lookups and there is a leader that takes writes.
    pub async fn all_ready(&self) {
        for at in 0..self.nodes().len() {
            self.ready(at, Health::Read).await;
        }
        self.leader().await;
    }

    /// What a node says of the cluster; `None` where it does not answer.
    pub async fn status(&self, at: usize) -> Option<v1::StatusResponse> {
        let mut client = ClusterServiceClient::new(self.channel(at));
        client.status(v1::StatusRequest {}).await.ok().map(tonic::Response::into_inner)
    }

    /// A figure that a node tells at `/metrics`; `None` where it does not answer or has no such figure.
    pub fn metric(&self, at: usize, name: &str) -> Option<u64> {
        let mut stream = TcpStream::connect_timeout(&self.nodes()[at].http, LOOK).ok()?;
        stream.set_read_timeout(Some(LOOK)).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: berth\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse().ok()
    }

    /// The node that leads by its own account and takes writes. Waits until there is one.
    pub async fn leader(&self) -> usize {
        let mut next = 0;
        let found = eventually(|| {
            let at = next % self.nodes().len();
            next += 1;
            async move {
                let status = self.status(at).await?;
                let leads =
                    status.leader_id == status.node_id && status.node_id != 0 && status.serving_writes;
                leads.then_some(at)
            }
        })
        .await;
        found.unwrap_or_else(|| panic!("no node leads\n{}", self.logs()))
    }

    /// Waits until every node has applied the same entries, and gives the digest that all of them have.
    pub async fn equal_digests(&self) -> String {
        let equal = eventually(|| async {
            let mut answers = Vec::new();
            for at in 0..self.nodes().len() {
                answers.push(self.digest(at, false).await?);
            }
            let same = answers.windows(2).all(|pair| pair[0].applied_index == pair[1].applied_index);
            same.then_some(answers)
        })
        .await;
        let answers = equal.unwrap_or_else(|| panic!("the nodes never met at one index\n{}", self.logs()));
        for (node, answer) in self.nodes().iter().zip(&answers) {
            assert_eq!(
                answer.digest, answers[0].digest,
                "{} differs at index {}",
                node.name, answer.applied_index
            );
        }
        answers[0].digest.clone()
    }

    /// Asks a node to count its rows anew, and checks that all kept figures agree.
    pub async fn recount(&self, at: usize) -> v1::DigestResponse {
        let name = &self.nodes()[at].name;
        let answer = eventually(|| self.digest(at, true)).await;
        let answer = answer.unwrap_or_else(|| panic!("{name} gives no digest\n{}", self.logs()));
        let recount = answer.recount.clone().unwrap_or_else(|| panic!("{name} did not recount"));
        assert!(recount.agrees, "{name}: {:?}", recount.disagreements);
        answer
    }

    async fn digest(&self, at: usize, recount: bool) -> Option<v1::DigestResponse> {
        let level = v1::consistency::Level::Linearizable(v1::Linearizable {});
        let request =
            v1::DigestRequest { consistency: Some(v1::Consistency { level: Some(level) }), recount };
        let mut client = ClusterServiceClient::new(self.channel(at));
        client.digest(request).await.ok().map(tonic::Response::into_inner)
    }
}

const _: () = assert!(POLL.as_millis() < PATIENCE.as_millis());
