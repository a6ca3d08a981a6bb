//! The client over real connections, against a server that answers as scripted, on a clock that tests turn.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod about;
mod bodies;
mod calls;
mod credentials;
mod device;
mod faults;
mod limits;
mod paging;
mod retries;
#[path = "../scenarios.rs"]
mod scenarios;
mod stage;
mod stand_in;
mod tls;
