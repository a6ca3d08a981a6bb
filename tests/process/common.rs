//! What the process tests share.

use std::ops::Range;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

/// The program that is started.
pub fn binary() -> String {
    berth_tests::process::under_test(env!("CARGO_BIN_EXE_berth_under_test"))
}

/// The seed of this run: told by `BERTH_SEED`, or fresh. It is printed, so that a failure can be repeated.
pub fn seed() -> u64 {
    let told = std::env::var("BERTH_SEED").ok().and_then(|text| text.parse().ok());
    let seed = told.unwrap_or_else(rand::random);
    println!("seed {seed}");
    seed
}

/// Lets a drawn number of milliseconds pass: the moment of a fault is what is tried, not a state to wait for.
pub async fn moment(random: &mut StdRng, ms: Range<u64>) {
    tokio::time::sleep(Duration::from_millis(random.random_range(ms))).await;
}
