use std::sync::Arc;
use std::time::Duration;

use berth_azure::Surroundings;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

/// A clock that jumps over pauses, and otherwise stands until a test turns it.
#[derive(Clone)]
pub struct TestClock {
    now: Arc<watch::Sender<Duration>>,
    pauses: Arc<Mutex<Vec<Duration>>>,
    draw: Arc<Mutex<f64>>,
}

impl TestClock {
    pub fn new() -> Self {
        let now = watch::Sender::new(Duration::ZERO);
        Self { now: Arc::new(now), pauses: Arc::default(), draw: Arc::new(Mutex::new(0.5)) }
    }

    pub fn turn(&self, by: Duration) {
        self.now.send_modify(|now| *now += by);
    }

    /// The share that every jitter draws.
    pub fn set_draw(&self, draw: f64) {
        *self.draw.lock() = draw;
    }

    /// Pauses made so far.
    pub fn pauses(&self) -> Vec<Duration> {
        self.pauses.lock().clone()
    }
}

impl Surroundings for TestClock {
    fn elapsed(&self) -> Duration {
        *self.now.borrow()
    }

    fn since_epoch(&self) -> Duration {
        Duration::from_secs(1_767_225_600) + self.elapsed()
    }

    fn draw(&self) -> f64 {
        *self.draw.lock()
    }

    fn pause(&self, length: Duration) -> BoxFuture<'static, ()> {
        self.pauses.lock().push(length);
        self.turn(length);
        Box::pin(std::future::ready(()))
    }

    fn until(&self, at: Duration) -> BoxFuture<'static, ()> {
        let mut now = self.now.subscribe();
        Box::pin(async move {
            // The sender lives as long as the clock, which the client holds.
            let _ = now.wait_for(|now| *now >= at).await;
        })
    }
}
