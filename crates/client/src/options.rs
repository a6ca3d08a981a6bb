//! What a caller may choose, and the levels of freshness.

use std::time::Duration;

use berth_proto::v1;

/// How a [`Client`](crate::Client) behaves. The defaults suit a service next to its cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time for a whole call with all its repeats.
    pub deadline: Duration,
    /// Time for one attempt at one node, so that a node that hangs costs no more than this.
    pub attempt_timeout: Duration,
    /// Most attempts of one call, over all nodes. More than fit into the deadline, so that a call outlives an election; a
    /// call that reaches no node at all ends after 24.
    pub attempts_max: u32,
    /// Upper end of the first wait between rounds; each further one is twice as long.
    pub backoff_first: Duration,
    /// Upper end of any wait between rounds.
    pub backoff_max: Duration,
    /// Time to set a connection up.
    pub connect_timeout: Duration,
    /// Connections to each node; calls take turns. HTTP/2 serialises each connection's frames, so two or more help.
    pub connections: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(3),
            attempts_max: 96,
            backoff_first: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            connections: 2,
        }
    }
}

/// Every change acknowledged before the call began is in the answer. The default of every read.
pub fn linearizable() -> Option<v1::Consistency> {
    level(v1::consistency::Level::Linearizable(v1::Linearizable {}))
}

/// Whatever the node has applied so far, without asking anybody.
pub fn local() -> Option<v1::Consistency> {
    level(v1::consistency::Level::Local(v1::Local {}))
}

/// At most `age` old; a node refuses more than ten minutes.
pub fn bounded(age: Duration) -> Option<v1::Consistency> {
    level(v1::consistency::Level::Bounded(crate::message::duration(age)))
}

/// At least as new as the answer that carried `token`.
pub fn at_least(token: impl AsRef<[u8]>) -> Option<v1::Consistency> {
    level(v1::consistency::Level::AtLeast(token.as_ref().to_vec().into()))
}

fn level(level: v1::consistency::Level) -> Option<v1::Consistency> {
    Some(v1::Consistency { level: Some(level) })
}
