//! What the tests of the whole share: arbitrary histories, the linearizability check, and real processes to try.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test tells its seed and its figures")]

pub mod history;
pub mod load;
pub mod process;
pub mod strategies;
