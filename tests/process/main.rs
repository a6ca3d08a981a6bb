//! Berth as its users meet it: real processes, real TCP, real disk.
//!
//! | Part | What happens to the nodes |
//! |---|---|
//! | `crash` | killed without warning, over and over, under load |
//! | `aimed` | killed in the middle of a checkpoint, of an opening, of an install |
//! | `faults` | paused, cut off, left behind |
//! | `damage` | damaged on disk |
//! | `surroundings` | a port in use, a full disk, files that are not theirs, bad input |
//!
//! `BERTH_KILLS=N` asks for more kills, `BERTH_SEED=S` for the choices of an earlier run, `BERTH_BINARY=PATH` for
//! another program than the one that was built with these tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test tells its seed and its figures")]

mod aimed;
mod common;
mod crash;
mod damage;
mod faults;
mod surroundings;
