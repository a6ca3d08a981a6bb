//! The nodes that a client knows, and which of them to ask next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tonic::transport::{Channel, Endpoint};

use crate::error::EndpointError;
use crate::options::Options;

/// Most nodes that are known, those learnt from leader hints included: a cluster has far fewer.
const NODES_MAX: usize = 32;
/// How long a node that could not be reached is asked last.
const REST: Duration = Duration::from_millis(500);
/// Pings on idle connections, so that a half-open one is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Time for the answer to a ping.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Flow-control window of one stream: a batch's answer fits into it.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Flow-control window of one connection: four such streams.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its client address, as given.
    pub(crate) address: String,
    channels: Vec<Channel>,
    turn: AtomicUsize,
    resting_until: Mutex<Option<Instant>>,
}

/// All nodes known, and who led last.
#[derive(Debug)]
pub(crate) struct Nodes {
    options: Options,
    known: RwLock<Vec<Arc<Node>>>,
    leader: RwLock<Option<Arc<Node>>>,
    turn: AtomicUsize,
}

impl Node {
    fn lazy(address: &str, options: &Options) -> Result<Self, EndpointError> {
        let endpoint = endpoint(address, options)?;
        let channels = (0..options.connections.max(1)).map(|_| endpoint.connect_lazy()).collect();
        Ok(Self {
            address: address.to_owned(),
            channels,
            turn: AtomicUsize::new(0),
            resting_until: Mutex::new(None),
        })
    }

    /// The next of its connections.
    pub(crate) fn channel(&self) -> Channel {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        // `lazy` makes at least one connection, so the remainder is always in range.
        self.channels[turn % self.channels.len()].clone()
    }

    /// Lets the node be asked last for a while.
    pub(crate) fn rest(&self) {
        *self.resting_until.lock() = Some(Instant::now() + REST);
    }

    /// The node answered.
    pub(crate) fn wake(&self) {
        let mut until = self.resting_until.lock();
        if until.is_some() {
            *until = None;
        }
    }

    /// True for a while after the node could not be reached.
    pub(crate) fn is_resting(&self, now: Instant) -> bool {
        self.resting_until.lock().is_some_and(|until| now < until)
    }
}

impl Nodes {
    /// Knows these addresses; connects to none of them yet.
    pub(crate) fn new<A: AsRef<str>>(addresses: &[A], options: Options) -> Result<Self, EndpointError> {
        let mut known: Vec<Arc<Node>> = Vec::new();
        for address in addresses {
            let address = address.as_ref().trim();
            if !known.iter().any(|node| node.address == address) {
                known.push(Arc::new(Node::lazy(address, &options)?));
            }
        }
        if known.is_empty() || known.len() > NODES_MAX {
            let problem = format!("list has {} addresses; it needs 1 to {NODES_MAX}", known.len());
            return Err(EndpointError { value: String::new(), problem });
        }
        // Many clients that start together shall not all ask the first node of their list.
        let turn = AtomicUsize::new(rand::random_range(0..known.len()));
        Ok(Self { options, known: RwLock::new(known), leader: RwLock::new(None), turn })
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn count(&self) -> usize {
        self.known.read().len()
    }

    /// All addresses, separated by commas.
    pub(crate) fn addresses(&self) -> String {
        let known = self.known.read();
        known.iter().map(|node| node.address.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The next node in turn, passing over resting ones while others are awake.
    pub(crate) fn any(&self) -> Arc<Node> {
        let known = self.known.read();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let in_turn = |i: usize| &known[(turn.wrapping_add(i)) % known.len()];
        let awake = (0..known.len()).map(in_turn).find(|node| !node.is_resting(now));
        Arc::clone(awake.unwrap_or_else(|| in_turn(0)))
    }

    /// The node that led last, else any.
    pub(crate) fn leader(&self) -> Arc<Node> {
        let leader = self.leader.read().clone();
        leader.unwrap_or_else(|| self.any())
    }

    /// The node at this address, known before or not. `None` where it is not an address, or too many are known.
    pub(crate) fn at(&self, address: &str) -> Option<Arc<Node>> {
        if let Some(node) = self.known.read().iter().find(|node| node.address == address) {
            return Some(Arc::clone(node));
        }
        let node = Arc::new(Node::lazy(address, &self.options).ok()?);
        let mut known = self.known.write();
        if known.len() >= NODES_MAX {
            return None;
        }
        known.push(Arc::clone(&node));
        Some(node)
    }

    /// This node leads.
    pub(crate) fn set_leader(&self, node: &Arc<Node>) {
        let is_new = self.leader.read().as_ref().is_none_or(|leader| !Arc::ptr_eq(leader, node));
        if is_new {
            *self.leader.write() = Some(Arc::clone(node));
        }
    }

    /// This node does not lead any more.
    pub(crate) fn forget_leader(&self, node: &Arc<Node>) {
        let mut leader = self.leader.write();
        if leader.as_ref().is_some_and(|leader| Arc::ptr_eq(leader, node)) {
            *leader = None;
        }
    }
}

fn endpoint(address: &str, options: &Options) -> Result<Endpoint, EndpointError> {
    let refuse = |problem: &str| EndpointError { value: address.to_owned(), problem: problem.to_owned() };
    let rest = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    if rest.contains("://") {
        return Err(refuse("has a scheme other than http"));
    }
    let (host, port) = rest.rsplit_once(':').ok_or_else(|| refuse("has no port"))?;
    if host.is_empty() {
        return Err(refuse("has no host"));
    }
    if port.parse::<u16>().is_err() {
        return Err(refuse("has no port number from 0 to 65535"));
    }
    let endpoint =
        Endpoint::from_shared(format!("http://{rest}")).map_err(|_| refuse("is not an address"))?;
    Ok(endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEP_ALIVE_INTERVAL))
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(address: &str) -> String {
        Nodes::new(&[address], Options::default()).unwrap_err().to_string()
    }

    #[test]
    fn endpoints_that_are_no_addresses_are_refused_with_the_value() {
        assert!(problem("nonsense").contains("`nonsense` has no port"));
        assert!(problem("host:port").contains("`host:port` has no port number"));
        assert!(problem(":80").contains("has no host"));
        assert!(problem("https://host:1").contains("scheme other than http"));
        assert!(Nodes::new::<&str>(&[], Options::default()).is_err());
    }

    #[tokio::test]
    async fn resting_nodes_are_passed_over_while_others_are_awake() {
        let nodes = Nodes::new(&["127.0.0.1:1", "127.0.0.1:2"], Options::default()).unwrap();
        nodes.at("127.0.0.1:1").unwrap().rest();
        assert!((0..8).all(|_| nodes.any().address == "127.0.0.1:2"));
        nodes.at("127.0.0.1:2").unwrap().rest();
        let asked: Vec<String> = (0..2).map(|_| nodes.any().address.clone()).collect();
        assert_ne!(asked[0], asked[1], "where all rest, all are asked");
    }

    #[tokio::test]
    async fn a_leader_outside_the_list_is_learnt() {
        let nodes = Nodes::new(&["127.0.0.1:1"], Options::default()).unwrap();
        let leader = nodes.at("127.0.0.1:9").unwrap();
        nodes.set_leader(&leader);
        assert_eq!(nodes.leader().address, "127.0.0.1:9");
        nodes.forget_leader(&leader);
        assert_eq!(nodes.count(), 2);
        assert!(nodes.at("no address").is_none());
    }
}
