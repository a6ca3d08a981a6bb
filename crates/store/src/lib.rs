//! How is it made durable and replicable?
//!
//! The store of a Berth node: the Raft log and vote, the pages that hold the directory, and the state machine
//! between them.

pub mod disk;
pub mod log;
pub mod machine;
pub mod pages;
pub mod payload;
pub mod raft;
