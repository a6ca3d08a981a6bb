//! How does a node run?
//!
//! [`run::Node`] is the life of one: it opens a data directory, finds its cluster, serves clients, peers and probes,
//! and stops in order. Everything it takes from its surroundings is in [`config::Config`] and [`run::Injected`].

pub mod config;
pub mod directory;
pub mod edge;
pub mod health;
pub mod hook;
pub mod http;
pub mod metrics;
pub mod notify;
pub mod raft;
pub mod reconcile;
pub mod rpc;
pub mod run;
