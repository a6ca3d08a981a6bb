//! One word to all tasks: stop.

use tokio::sync::watch;

/// Tells tasks to stop, and lets them wait for it.
#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Sender<bool>);

impl Stop {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Tells all.
    pub(crate) fn cancel(&self) {
        self.0.send_replace(true);
    }

    /// Ends once it was told.
    pub(crate) async fn cancelled(&self) {
        // The sender lives in `self`, so the channel cannot close meanwhile.
        let mut told = self.0.subscribe();
        let _closed = told.wait_for(|stopped| *stopped).await;
    }
}
