//! How long Raft waits for what, and how much it lets wait.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

/// Entries of one AppendEntries request: with entries of 2 MiB the bytes decide, with small ones this.
const REQUEST_ENTRIES_MAX: u64 = 300;
/// Entries of one write to the log.
const APPEND_ENTRIES_MAX: u64 = 512;
/// Calls that may wait for Raft's own task. The grouper has at most four entries in flight; the rest are
/// reads, votes, membership and metrics.
const API_QUEUE_MAX: u64 = 1_024;
/// Notices that may wait for Raft's own task; each peer has a handful in flight.
const NOTICE_QUEUE_MAX: u64 = 4_096;
/// Commands that may wait for the state machine.
const MACHINE_QUEUE_MAX: u64 = 256;
/// Entries that a follower may lag before it gets a snapshot, if its log is still here. Far above what
/// accumulates between two checkpoints, so that a snapshot is sent when entries are gone and not before.
const LAG_ENTRIES_MAX: u64 = 1_000_000;
/// Entries kept behind a snapshot for followers that are a little late. They may be 2 MiB each.
const KEPT_ENTRIES: u64 = 256;
/// How long a snapshot may take to travel and be installed: 10 M devices at a slow 3 MB/s.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(180);
/// Pauses between attempts to reach a peer: a restarted peer is found within 200 ms.
const BACKOFF: &str = "20ms 40ms ...200ms";

/// The timers that decide how soon a dead leader is replaced. All nodes of a cluster should agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often the leader shows that it lives.
    pub heartbeat: Duration,
    /// The shortest silence after which a follower may stand for election.
    pub election_min: Duration,
    /// The longest. A follower first honours the leader's lease of this length, then waits its own
    /// turn: failover takes `election_max + (election_min..election_max)` and one round of voting.
    pub election_max: Duration,
}

impl Default for Timing {
    /// Replaces a dead leader of a local network in 0.3 to 0.4 s.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(40),
            election_min: Duration::from_millis(100),
            election_max: Duration::from_millis(200),
        }
    }
}

impl Timing {
    /// openraft's configuration with these timers.
    ///
    /// # Errors
    /// What openraft finds wrong with them, such as heartbeats that are slower than elections.
    pub fn config(&self) -> Result<Arc<Config>, openraft::ConfigError> {
        let config = Config {
            cluster_name: "berth".to_owned(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            enable_pre_vote: Some(true),
            // A node that was restarted asks for votes like any other: what it had applied may be behind.
            enable_leader_restore: Some(false),
            // A follower whose disk lost acknowledged entries comes back with a shorter log. Refusing that
            // would stop the leader, which has done nothing wrong; so the leader starts over with it.
            // What a quorum had accepted stays accepted.
            allow_log_reversion: Some(true),
            max_payload_entries: REQUEST_ENTRIES_MAX,
            max_append_entries: Some(APPEND_ENTRIES_MAX),
            api_channel_size: Some(API_QUEUE_MAX),
            notification_channel_size: Some(NOTICE_QUEUE_MAX),
            state_machine_channel_size: Some(MACHINE_QUEUE_MAX),
            // Checkpoints follow bytes and time, which the state machine knows; openraft counts entries.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: KEPT_ENTRIES,
            replication_lag_threshold: LAG_ENTRIES_MAX,
            install_snapshot_timeout: millis(SNAPSHOT_TIMEOUT),
            backoff: BACKOFF.to_owned(),
            ..Config::default()
        };
        config.validate().map(Arc::new)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
