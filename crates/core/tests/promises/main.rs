//! What the core promises, tried on arbitrary histories and on the situations that are easy to get wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod allocation;
mod histories;
mod identity;
mod reconcile;
mod replies;
#[allow(dead_code, reason = "these strategies serve other test targets too")]
#[path = "../../../../tests/src/strategies.rs"]
mod strategies;
mod support;
mod topology;
