//! Raft on the wire and in time: peers, elections, reads, grouped writes, and the life of a node.
//!
//! openraft decides; this module connects it. It knows nothing of devices: commands are bytes here, and
//! what they do is the state machine's business, which it sees through [`MachineView`].
//!
//! - [`node`] starts and stops Raft on threads of its own, and changes the membership.
//! - [`grouper`] packs commands into entries; [`read_index`] confirms reads.
//! - [`network`] calls peers and [`peer_service`] answers them; [`identity`] keeps strangers out.
//! - [`bootstrap`] forms a new cluster or joins one.

pub mod bootstrap;
pub mod dial;
pub mod grouper;
pub mod identity;
pub mod machine;
pub mod membership;
pub mod network;
pub mod node;
pub mod peer_service;
pub mod read_index;
mod snapshot;
pub mod status;
mod steward;
pub mod timing;
mod wire;

#[cfg(test)]
pub(crate) mod tests;

pub use bootstrap::Start;
pub use dial::{Dial, PeerIo, TcpDial};
pub use grouper::{Committed, WriteError};
pub use identity::Identity;
pub use machine::{Clock, MachineView, SnapshotSink, SnapshotSource, SystemClock};
pub use membership::MembershipError;
pub use node::{ClusterSeed, Ended, RaftNode, RaftNodeOptions, RaftStartError};
pub use peer_service::Forwarded;
pub use read_index::{ReadError, ReadPoint, Role};
pub use status::{MemberStatus, NodeStatus, leader_hint};
pub use timing::Timing;
