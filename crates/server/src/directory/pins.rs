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
/// How long a revision is held after everybody is done with it: a last page whose answer was lost is asked for again.
const PIN_DONE_AGE_MAX: Duration = Duration::from_secs(30);
/// How long a revision that is being read is safe from newcomers after its last use, so that listings which nobody
/// goes on with do not lock others out for the whole of their time.
const PIN_SAFE: Duration = Duration::from_secs(30);
/// How long one is safe that nobody came back to yet: whoever goes on with a listing does so at once, and most callers
/// of a first page want no second.
const PIN_SAFE_FIRST: Duration = Duration::from_secs(2);

/// The revisions held. Clones share them.
#[derive(Clone, Default)]
pub struct Pins {
    held: Arc<Mutex<Held<Snapshot>>>,
}

struct Held<S> {
    next: u64,
    pins: BTreeMap<u64, Pin<S>>,
}

struct Pin<S> {
    kept: S,
    used: Instant,
    /// Whether anybody came back to it.
    is_followed: bool,
    /// Listings and partitions that are still to end.
    readers: u32,
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
    /// Holds a revision for so many readers: one listing, or the partitions of an export. The same revision is held
    /// once, however many ask for it.
    ///
    /// # Errors
    /// [`ApiError::Overloaded`] where [`PINS_MAX`] other revisions are held, all of them in use of late.
    pub fn hold(&self, snapshot: Snapshot, readers: u32) -> Result<Pinned, ApiError> {
        let same = |kept: &Snapshot| kept.revision() == snapshot.revision();
        let held = self.held.lock().hold(Instant::now(), snapshot.clone(), same, readers);
        match held {
            Some((pin, snapshot)) => Ok(Pinned { pin, snapshot }),
            None => Err(ApiError::Overloaded {
                what: "revisions are held for listings and exports".to_owned(),
                limit: PINS_MAX as u64,
                retry_after: PIN_SAFE_FIRST,
            }),
        }
    }

    /// A revision held before.
    pub fn find(&self, pin: u64) -> Option<Pinned> {
        let snapshot = self.held.lock().find(Instant::now(), pin)?;
        Some(Pinned { pin, snapshot })
    }

    /// A reader is done: a revision that has no other makes room for whoever needs it.
    pub fn release(&self, pin: u64) {
        self.held.lock().release(Instant::now(), pin);
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

impl<S> Default for Held<S> {
    fn default() -> Self {
        Self { next: 0, pins: BTreeMap::new() }
    }
}

impl<S: Clone> Held<S> {
    fn hold(&mut self, now: Instant, new: S, same: impl Fn(&S) -> bool, readers: u32) -> Option<(u64, S)> {
        self.drop_old(now);
        if let Some((number, pin)) = self.pins.iter_mut().find(|(_, pin)| same(&pin.kept)) {
            pin.used = now;
            pin.readers = pin.readers.saturating_add(readers);
            return Some((*number, pin.kept.clone()));
        }
        if self.pins.len() >= PINS_MAX && !self.drop_freest(now) {
            return None;
        }
        self.next += 1;
        self.pins.insert(self.next, Pin { kept: new.clone(), used: now, is_followed: false, readers });
        Some((self.next, new))
    }

    fn find(&mut self, now: Instant, number: u64) -> Option<S> {
        self.drop_old(now);
        let pin = self.pins.get_mut(&number)?;
        (pin.used, pin.is_followed) = (now, true);
        // Whoever is back after its end was counted out too early.
        pin.readers = pin.readers.max(1);
        Some(pin.kept.clone())
    }

    fn release(&mut self, now: Instant, number: u64) {
        if let Some(pin) = self.pins.get_mut(&number) {
            pin.used = now;
            pin.readers = pin.readers.saturating_sub(1);
        }
    }

    fn drop_old(&mut self, now: Instant) {
        self.pins.retain(|_, pin| {
            let age_max = if pin.readers == 0 { PIN_DONE_AGE_MAX } else { PIN_AGE_MAX };
            now.duration_since(pin.used) < age_max
        });
    }

    /// Lets the revision go that has been free for longest; false where each was used of late.
    fn drop_freest(&mut self, now: Instant) -> bool {
        let free = self.pins.iter().filter(|(_, pin)| pin.safe_until() <= now);
        let first = free.min_by_key(|(_, pin)| pin.safe_until()).map(|(number, _)| *number);
        first.is_some_and(|number| self.pins.remove(&number).is_some())
    }
}

impl<S> Pin<S> {
    /// Until when no newcomer may take its place.
    fn safe_until(&self) -> Instant {
        match (self.readers, self.is_followed) {
            (0, _) => self.used,
            (_, true) => self.used + PIN_SAFE,
            (_, false) => self.used + PIN_SAFE_FIRST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(held: &mut Held<u64>, now: Instant, revision: u64) -> Option<u64> {
        held.hold(now, revision, |kept| *kept == revision, 1).map(|(number, _)| number)
    }

    fn full(now: Instant) -> Held<u64> {
        let mut held = Held::default();
        for revision in 0..PINS_MAX as u64 {
            assert!(hold(&mut held, now, revision).is_some());
        }
        assert_eq!(hold(&mut held, now, 100), None);
        held
    }

    #[test]
    fn what_is_done_makes_room_at_once_and_can_be_asked_again_until_then() {
        let now = Instant::now();
        let mut held = full(now);
        held.release(now, 3);
        assert_eq!(held.find(now, 3), Some(2));
        assert_eq!(hold(&mut held, now, 100), None, "it is read again");
        held.release(now, 3);
        assert!(hold(&mut held, now, 100).is_some());
        assert_eq!(held.find(now, 3), None);
    }

    #[test]
    fn a_revision_with_another_reader_is_not_done() {
        let now = Instant::now();
        let mut held = full(now);
        assert_eq!(hold(&mut held, now, 0), Some(1));
        held.release(now, 1);
        assert_eq!(hold(&mut held, now, 100), None);
        held.release(now, 1);
        assert!(hold(&mut held, now, 100).is_some());
    }

    #[test]
    fn what_nobody_came_back_to_gives_way_before_what_is_read() {
        let now = Instant::now();
        let mut held = full(now);
        for number in 2..=PINS_MAX as u64 {
            assert!(held.find(now, number).is_some());
        }
        let later = now + PIN_SAFE_FIRST;
        assert!(hold(&mut held, later, 100).is_some());
        assert_eq!(held.find(later, 1), None);
        assert_eq!(hold(&mut held, later, 101), None);
        assert!(hold(&mut held, now + PIN_SAFE, 101).is_some());
    }

    #[test]
    fn nothing_is_held_for_ever() {
        let now = Instant::now();
        let mut held = full(now);
        held.release(now, 1);
        held.drop_old(now + PIN_DONE_AGE_MAX);
        assert_eq!(held.pins.len(), PINS_MAX - 1);
        held.drop_old(now + PIN_AGE_MAX);
        assert!(held.pins.is_empty());
    }
}
