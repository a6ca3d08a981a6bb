//! The emulator over real sockets: what a client sees on the wire.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod device;
mod dps;
mod faults;
mod fleet;
mod hub;
mod shapes;
mod support;
mod switches;
mod traffic;
