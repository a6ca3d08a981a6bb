//! Bytes from disk, log, peers and clients, tampered with: whatever they are, reading them ends in a value or in an
//! error. No panic, no memory beyond a small multiple of what there is to read; and whatever is read is then used as
//! a node uses it: a command is decided and applied, a row written again, a snapshot installed.
//!
//! Each test starts from encodings that are right and changes them a little, so that most of a decoder is reached.
//! `BERTH_FUZZ_ROUNDS=N` asks for more than the few seconds of the default, `BERTH_SEED=S` for an earlier run again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test tells its seed and its figures")]

mod api;
mod commands;
mod files;
mod hook;
mod log;
mod mutate;
mod pages;
mod snapshots;
mod wire;

use std::sync::Once;

use berth_tests::strategies::{Stamped, histories};
use mutate::Rubbish;
use nix::sys::resource::{Resource, setrlimit};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Rounds of the cheapest decoders; costlier ones take a share of them.
const ROUNDS: u32 = 1_500;
/// Bytes of data that the whole process may have. It needs a tenth of it; a length that was believed needs more.
const MEMORY_BYTES_MAX: u64 = 3 << 30;

/// The choices of one test.
struct Fuzz {
    seed: u64,
    rounds: u32,
    random: StdRng,
    runner: TestRunner,
}

impl Fuzz {
    /// `share` is the part of the rounds that a test takes, as a divisor.
    fn new(what: &str, share: u32) -> Self {
        static LIMIT: Once = Once::new();
        LIMIT.call_once(|| {
            // An allocation past it fails, and ends the process with the size that was asked for.
            setrlimit(Resource::RLIMIT_DATA, MEMORY_BYTES_MAX, MEMORY_BYTES_MAX).unwrap();
        });
        let told = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let seed = told("BERTH_SEED").unwrap_or_else(rand::random);
        let rounds = told("BERTH_FUZZ_ROUNDS").and_then(|n| u32::try_from(n).ok()).unwrap_or(ROUNDS);
        let rounds = (rounds / share).max(1);
        println!("{what}: {rounds} rounds, seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &random.random::<[u8; 32]>());
        Self { seed, rounds, random, runner: TestRunner::new_with_rng(Config::default(), rng) }
    }

    /// One value of a strategy.
    fn draw<S: Strategy>(&mut self, strategy: &S) -> S::Value {
        strategy.new_tree(&mut self.runner).expect("a value of the strategy").current()
    }

    /// A history of a small world, cut to `steps`.
    fn history(&mut self, steps: usize) -> Vec<Stamped> {
        self.draw(&histories(steps))
    }

    /// `whole` changed a little, perhaps with a piece of `other` in it; now and then left as it is.
    fn tampered(&mut self, whole: &[u8], other: &[u8]) -> Vec<u8> {
        mutate::tampered(&mut self.random, whole, other)
    }

    /// One of some encodings, tampered with.
    fn tampered_one(&mut self, whole: &[Vec<u8>]) -> Vec<u8> {
        let one = self.random.random_range(0..whole.len());
        let other = self.random.random_range(0..whole.len());
        self.tampered(&whole[one], &whole[other])
    }

    /// Shows these bytes if the test panics before the returned value is dropped.
    fn shown<'a>(&self, what: &'static str, bytes: &'a [u8]) -> Rubbish<'a> {
        Rubbish { what, bytes, seed: self.seed }
    }
}
