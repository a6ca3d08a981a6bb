use std::sync::Arc;
use std::time::Duration;

use berth_azure::{Budget, Ended, Outgoing, Permit, Spent};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

/// Allows so many requests, and remembers each and how it ended.
#[derive(Default)]
pub struct Counted {
    left: Mutex<u32>,
    pub asked: Mutex<Vec<(&'static str, u32)>>,
    pub ended: Mutex<Vec<Ended>>,
    /// Permits that are out now, and the most that ever were.
    pub held: Arc<Mutex<(u32, u32)>>,
}

struct Held(Arc<Mutex<(u32, u32)>>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().0 -= 1;
    }
}

impl Counted {
    pub fn of(left: u32) -> Arc<Self> {
        Arc::new(Self { left: Mutex::new(left), ..Self::default() })
    }
}

impl Budget for Counted {
    fn ask<'a>(&'a self, request: Outgoing<'a>) -> BoxFuture<'a, Result<Permit, Spent>> {
        Box::pin(async move {
            let mut left = self.left.lock();
            if *left == 0 {
                let retry_after = Some(Duration::from_secs(9));
                return Err(Spent { problem: "0 of 2 left this minute".into(), retry_after });
            }
            *left -= 1;
            self.asked.lock().push((request.operation, request.attempt));
            let mut held = self.held.lock();
            held.0 += 1;
            held.1 = held.1.max(held.0);
            Ok(Permit::holding(Held(Arc::clone(&self.held))))
        })
    }

    fn ended(&self, _request: Outgoing<'_>, ended: Ended) {
        self.ended.lock().push(ended);
    }
}
