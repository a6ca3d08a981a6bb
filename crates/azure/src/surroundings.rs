//! Clock, waits and chance, as one trait, so that retries, tokens and deadlines can be tried without time passing.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;

/// What the client takes from the machine it runs on.
///
/// Obligations: `elapsed` never goes back; a `pause` ends no earlier than asked; `until` ends once `elapsed` has
/// reached the given time, at once where it has already; `draw` is at least 0 and below 1.
pub trait Surroundings: Send + Sync + 'static {
    /// Time since a fixed point of the implementation's choice; it never goes back.
    fn elapsed(&self) -> Duration;

    /// Time since 1970-01-01T00:00:00Z, for the end of tokens and for dates in answers.
    fn since_epoch(&self) -> Duration;

    /// A random share, at least 0 and below 1, for jitter.
    fn draw(&self) -> f64;

    /// A wait that the client itself wants: between attempts, or between polls.
    fn pause(&self, length: Duration) -> BoxFuture<'static, ()>;

    /// The end of somebody's patience: what a call in flight is raced against. Apart from [`Surroundings::pause`], so
    /// that a test's clock may jump over pauses and still let a call take its time.
    fn until(&self, at: Duration) -> BoxFuture<'static, ()>;
}

/// The machine's own clock and randomness.
#[derive(Debug, Clone)]
pub struct System {
    start: Instant,
}

impl System {
    /// Starts counting now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}

impl Surroundings for System {
    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn since_epoch(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn draw(&self) -> f64 {
        rand::random()
    }

    fn pause(&self, length: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(length))
    }

    fn until(&self, at: Duration) -> BoxFuture<'static, ()> {
        let left = at.saturating_sub(self.elapsed());
        Box::pin(tokio::time::sleep(left))
    }
}
