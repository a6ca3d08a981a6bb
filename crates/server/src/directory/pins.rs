//! Revisions held for listings and exports, so that their pages and partitions agree.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_proto::error::ApiError;
use berth_store::machine::Snapshot;
use parking_lot::Mutex;

/// Revisions held at once: each keeps the pages that were replaced since in memory.
pub const PINS_MAX: usize = 8;
/// How long a revision is held after its last use.
const PIN_AGE_MAX: Duration = Duration::from_secs(600);
/// How long a revision is safe from newcomers after its last use, so that listings which nobody goes on with do not
/// lock others out for the whole of their time.
const PIN_SAFE: Duration = Duration::from_secs(30);

/// The revisions held. Clones share them.
#[derive(Clone, Default)]
pub struct Pins {
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    next: u64,
    pins: BTreeMap<u64, (Instant, Snapshot)>,
}

/// A revision that is held under a number.
#[derive(Clone)]
pub struct Pinned {
    /// Its number on this node.
    pub pin: u64,
    /// The revision.
    pub snapshot: Snapshot,
}

impl Pins {
    /// Holds a revision. The same revision is held once, however many ask for it.
    ///
    /// # Errors
    /// [`ApiError::Overloaded`] where [`PINS_MAX`] other revisions are held, all of them in use of late.
    pub fn hold(&self, snapshot: Snapshot) -> Result<Pinned, ApiError> {
        let now = Instant::now();
        let mut held = self.held.lock();
        held.drop_old(now);
        let same = |kept: &Snapshot| kept.revision() == snapshot.revision();
        if let Some((pin, (used, kept))) = held.pins.iter_mut().find(|(_, (_, kept))| same(kept)) {
            *used = now;
            return Ok(Pinned { pin: *pin, snapshot: kept.clone() });
        }
        if held.pins.len() >= PINS_MAX && !held.drop_idlest(now) {
            return Err(ApiError::Overloaded {
                what: "revisions are held for listings and exports".to_owned(),
                limit: PINS_MAX as u64,
                retry_after: Duration::from_secs(5),
            });
        }
        held.next += 1;
        let pin = held.next;
        held.pins.insert(pin, (now, snapshot.clone()));
        Ok(Pinned { pin, snapshot })
    }

    /// A revision held before.
    pub fn find(&self, pin: u64) -> Option<Pinned> {
        let now = Instant::now();
        let mut held = self.held.lock();
        held.drop_old(now);
        let (used, snapshot) = held.pins.get_mut(&pin)?;
        *used = now;
        Some(Pinned { pin, snapshot: snapshot.clone() })
    }

    /// Lets a revision go before its time.
    pub fn release(&self, pin: u64) {
        self.held.lock().pins.remove(&pin);
    }

    /// How many revisions are held.
    pub fn count(&self) -> usize {
        self.held.lock().pins.len()
    }

    /// Lets every revision go whose time is over; called now and then, so that memory is not held by idleness.
    pub fn sweep(&self) {
        self.held.lock().drop_old(Instant::now());
    }
}

impl Held {
    fn drop_old(&mut self, now: Instant) {
        self.pins.retain(|_, (used, _)| now.duration_since(*used) < PIN_AGE_MAX);
    }

    /// Lets the revision go that was not used for longest; false where each was used of late.
    fn drop_idlest(&mut self, now: Instant) -> bool {
        let idlest =
            self.pins.iter().min_by_key(|(_, (used, _))| *used).map(|(pin, (used, _))| (*pin, *used));
        match idlest {
            Some((pin, used)) if now.duration_since(used) >= PIN_SAFE => self.pins.remove(&pin).is_some(),
            _ => false,
        }
    }
}
