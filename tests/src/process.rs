//! Real nodes in real processes: started, killed, paused and started again; never left behind.
//!
//! Each cluster listens on loopback addresses of its own (127.x.y.z), so that its ports are free without asking and
//! no outgoing connection can take them. Every process that was started is killed by its ID when the cluster is
//! dropped, also by a panic.

mod data;
mod watch;

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

pub use data::{copy_dir, files_below, flip_bit, pages_dirs};
pub use watch::{Health, eventually};

/// The program to start: what the environment variable `BERTH_BINARY` names, or the one that was built with the tests.
pub fn under_test(built: &str) -> String {
    std::env::var("BERTH_BINARY").unwrap_or_else(|_| built.to_owned())
}

/// How long a state is waited for before the test fails: two cores that also build may be slow.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How many lines of each node's log a failed wait shows.
const SHOWN_LINES: usize = 25;

/// Settings that tests change, as they stand in the configuration file.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// Seconds between checkpoints.
    pub checkpoint_seconds: u64,
    /// Log bytes between checkpoints, in MiB.
    pub checkpoint_log_mib: u64,
    /// Pace of a checkpoint in MiB/s; 0 is as fast as the disk.
    pub checkpoint_mib_per_second: u64,
    /// Space that each node sets aside, in MiB.
    pub ballast_mib: u64,
    /// Where the first nodes keep their data; the others under the cluster's own directory.
    pub data_dirs: Vec<PathBuf>,
    /// The environment of each node, beside what the test itself has.
    pub environment: Vec<(String, String)>,
    /// Tables that stand at the end of each node's configuration file, as they are.
    pub tables: String,
}

impl Default for Tuning {
    fn default() -> Self {
        // Checkpoints without pause and slow ones: a kill at a random moment meets one in progress.
        Self {
            checkpoint_seconds: 1,
            checkpoint_log_mib: 4,
            checkpoint_mib_per_second: 1,
            ballast_mib: 0,
            data_dirs: Vec::new(),
            environment: Vec::new(),
            tables: String::new(),
        }
    }
}

/// Nodes of one cluster under one temporary directory.
pub struct Cluster {
    nodes: Vec<Node>,
    binary: PathBuf,
    tuning: Tuning,
    host: Ipv4Addr,
    // Dropped last: the nodes keep their data in it.
    dir: TempDir,
}

/// One node: its place on disk and on the network, and its process while it runs.
pub struct Node {
    /// Its name, `n1`, `n2`, …
    pub name: String,
    /// Everything it keeps.
    pub data_dir: PathBuf,
    /// Where clients are served.
    pub client: SocketAddr,
    /// Where peers are served.
    pub peer: SocketAddr,
    /// Where metrics and probes are served.
    pub http: SocketAddr,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Cluster {
    /// Starts `count` nodes that bootstrap one cluster. `binary` is `berth`, or wraps it.
    pub fn start(binary: impl AsRef<Path>, count: usize, tuning: Tuning) -> Self {
        let mut cluster = Self::lay_out(binary, count, tuning);
        let list: Vec<String> =
            cluster.nodes.iter().map(|node| format!("{}={}", node.name, node.peer)).collect();
        let start = format!("bootstrap = \"{}\"", list.join(","));
        for at in 0..count {
            cluster.configure(at, &start);
            cluster.spawn(at);
        }
        cluster
    }

    fn lay_out(binary: impl AsRef<Path>, count: usize, tuning: Tuning) -> Self {
        let dir = TempDir::with_prefix("berth-test-").expect("a temporary directory");
        let mut cluster =
            Self { nodes: Vec::new(), binary: binary.as_ref().to_owned(), tuning, host: own_host(), dir };
        for _ in 0..count {
            cluster.add_node();
        }
        cluster
    }

    fn add_node(&mut self) -> usize {
        let at = self.nodes.len();
        let name = format!("n{}", at + 1);
        let port = 7_400 + 10 * u16::try_from(at).expect("few nodes");
        let addr = |plus: u16| SocketAddr::from((self.host, port + plus));
        let below = |what: &str| self.dir.path().join(format!("{name}{what}"));
        self.nodes.push(Node {
            data_dir: self.tuning.data_dirs.get(at).cloned().unwrap_or_else(|| below("-data")),
            config: below(".toml"),
            log: below(".log"),
            client: addr(0),
            peer: addr(1),
            http: addr(2),
            name,
            child: None,
        });
        at
    }

    /// Adds a node that asks the others to be taken in, and starts it.
    pub fn join(&mut self) -> usize {
        let peers: Vec<String> = self.nodes.iter().map(|node| node.peer.to_string()).collect();
        let at = self.add_node();
        self.configure(at, &format!("join = \"{}\"", peers.join(",")));
        self.spawn(at);
        at
    }

    fn configure(&self, at: usize, start: &str) {
        let (node, tuning) = (&self.nodes[at], &self.tuning);
        let text = format!(
            "node_name = \"{}\"\ndata_dir = {:?}\nlisten = \"{}\"\npeer_listen = \"{}\"\nhttp_listen = \"{}\"\n{start}\n\n\
             [checkpoint]\nseconds = {}\nlog_mib = {}\nmib_per_second = {}\n\n[store]\nballast_mib = {}\n\n{}",
            node.name,
            node.data_dir,
            node.client,
            node.peer,
            node.http,
            tuning.checkpoint_seconds,
            tuning.checkpoint_log_mib,
            tuning.checkpoint_mib_per_second,
            tuning.ballast_mib,
            tuning.tables,
        );
        fs::write(&node.config, text).expect("the node's configuration");
    }

    /// Starts a node that does not run; it finds its cluster in its data directory.
    pub fn spawn(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        assert!(node.child.is_none(), "{} runs already", node.name);
        let log = OpenOptions::new().create(true).append(true).open(&node.log).expect("the node's log");
        let child = Command::new(&self.binary)
            .args(["server", "--config"])
            .arg(&node.config)
            .envs(self.tuning.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn();
        node.child = Some(child.unwrap_or_else(|error| panic!("cannot start {:?}: {error}", self.binary)));
    }

    /// The nodes, running or not.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Addresses at which clients are served, in the nodes' order.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.client).collect()
    }

    /// Ends a node's process at once, as a power switch would. Returns when it is gone.
    pub fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.nodes[at].child.take() {
            // Fails only where it has exited by itself; then waiting is all there is to do.
            let _ = child.kill();
            child.wait().expect("a killed child can be waited for");
        }
    }

    /// Asks a node to end in good order, and waits until it has.
    pub fn stop(&mut self, at: usize) -> ExitStatus {
        self.signal(at, Signal::SIGTERM);
        self.wait_for_exit(at)
            .unwrap_or_else(|| panic!("{} did not end\n{}", self.nodes[at].name, self.logs()))
    }

    /// Stops a node's process without ending it.
    pub fn pause(&self, at: usize) {
        self.signal(at, Signal::SIGSTOP);
    }

    /// Lets a paused node go on.
    pub fn resume(&self, at: usize) {
        self.signal(at, Signal::SIGCONT);
    }

    /// True while the node's process is there.
    pub fn runs(&mut self, at: usize) -> bool {
        self.exit_status(at).is_none() && self.nodes[at].child.is_some()
    }

    /// Resident memory of the node's process.
    pub fn resident_bytes(&self, at: usize) -> u64 {
        let node = &self.nodes[at];
        let child = node.child.as_ref().unwrap_or_else(|| panic!("{} does not run", node.name));
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("a process of ours");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident size");
        1_024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB")
    }

    /// How the node's process ended, where it ended by itself.
    pub fn exit_status(&mut self, at: usize) -> Option<ExitStatus> {
        let child = self.nodes[at].child.as_mut()?;
        child.try_wait().expect("a child of ours can be asked for")
    }

    /// Waits until a node's process ended by itself; `None` where it still runs after [`PATIENCE`].
    pub fn wait_for_exit(&mut self, at: usize) -> Option<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.exit_status(at) {
                self.nodes[at].child = None;
                return Some(status);
            }
            std::thread::sleep(watch::POLL);
        }
        None
    }

    fn signal(&self, at: usize, signal: Signal) {
        let node = &self.nodes[at];
        let child = node.child.as_ref().unwrap_or_else(|| panic!("{} does not run", node.name));
        let pid = i32::try_from(child.id()).expect("a process ID");
        kill(Pid::from_raw(pid), signal)
            .unwrap_or_else(|error| panic!("cannot signal {}: {error}", node.name));
    }

    /// All that a node has logged since it was first started.
    pub fn log(&self, at: usize) -> String {
        fs::read(&self.nodes[at].log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of every node's log, for a failing test to show.
    pub fn logs(&self) -> String {
        let mut shown = String::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let log = self.log(at);
            let lines: Vec<&str> = log.lines().collect();
            shown += &format!("--- {} ({} lines)\n", node.name, lines.len());
            for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
                shown += line.get(..400).unwrap_or(line);
                shown.push('\n');
            }
        }
        shown
    }

    /// Forgets what a node has logged, so that a later look sees only what is new.
    pub fn clear_log(&self, at: usize) {
        File::create(&self.nodes[at].log).expect("the node's log");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for at in 0..self.nodes.len() {
            self.kill(at);
        }
    }
}

/// A loopback address of this cluster alone: by process and by cluster in the process.
fn own_host() -> Ipv4Addr {
    static CLUSTERS: AtomicU16 = AtomicU16::new(0);
    let pid = std::process::id();
    let nth = CLUSTERS.fetch_add(1, Ordering::Relaxed);
    let mixed = pid.wrapping_mul(0x9e37_79b1).wrapping_add(u32::from(nth).wrapping_mul(0x85eb_ca6b));
    let [_, a, b, c] = mixed.to_be_bytes();
    // Neither 127.0.x.x, where everything else listens, nor a last byte that looks like a network.
    Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254))
}
