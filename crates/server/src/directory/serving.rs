//! Whether this node answers: not before its first read-index barrier, and not while it stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_proto::error::ApiError;
use tokio::sync::watch;

/// What a node serves. Clones share it.
#[derive(Clone)]
pub struct Serving {
    state: watch::Sender<State>,
    /// Snapshots installed so far: each closes the gate until the next barrier, lest a node goes back behind what it
    /// once served.
    installs: Arc<AtomicU64>,
}

/// The gate's position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No barrier was passed since the start or the last snapshot.
    Waiting,
    /// Reads are served.
    Open,
    /// The node stops.
    Stopping,
}

impl Default for Serving {
    fn default() -> Self {
        Self { state: watch::Sender::new(State::Waiting), installs: Arc::default() }
    }
}

impl Serving {
    /// The gate, followed as it moves.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Closes the gate for good.
    pub fn stop(&self) {
        self.state.send_replace(State::Stopping);
    }

    /// Closes the gate until the next barrier, since a snapshot was installed.
    pub fn installed_snapshot(&self) {
        self.installs.fetch_add(1, Ordering::SeqCst);
        self.state.send_if_modified(|state| {
            let closes = *state == State::Open;
            if closes {
                *state = State::Waiting;
            }
            closes
        });
    }

    /// Snapshots installed so far; ask before a barrier begins.
    pub(super) fn installs(&self) -> u64 {
        self.installs.load(Ordering::SeqCst)
    }

    /// Opens the gate, unless a snapshot came while the barrier was under way.
    pub(super) fn passed_barrier(&self, installs_before: u64) {
        if *self.state.borrow() == State::Open {
            return;
        }
        self.state.send_if_modified(|state| {
            let opens = *state == State::Waiting && self.installs() == installs_before;
            if opens {
                *state = State::Open;
            }
            opens
        });
    }

    /// Refuses while the gate is closed.
    ///
    /// # Errors
    /// [`ApiError::NotServing`] says why.
    pub fn check(&self) -> Result<(), ApiError> {
        let state = match *self.state.borrow() {
            State::Open => return Ok(()),
            State::Waiting => "it has not confirmed its state with a quorum since it started",
            State::Stopping => "it is stopping",
        };
        Err(ApiError::NotServing { state: state.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_opens_with_a_barrier_that_no_snapshot_overtook() {
        let serving = Serving::default();
        assert!(serving.check().is_err());
        let before = serving.installs();
        serving.installed_snapshot();
        serving.passed_barrier(before);
        assert!(serving.check().is_err(), "a barrier from before the snapshot opened the gate");
        serving.passed_barrier(serving.installs());
        assert!(serving.check().is_ok());
        serving.installed_snapshot();
        assert!(serving.check().is_err());
    }

    #[test]
    fn a_stopping_node_stays_closed() {
        let serving = Serving::default();
        serving.stop();
        serving.passed_barrier(serving.installs());
        assert!(serving.check().is_err());
    }
}
