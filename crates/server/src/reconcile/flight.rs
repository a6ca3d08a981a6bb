//! Single flight: of many who ask the same at the same time, one asks and all get the answer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// Questions that are on their way at once. Further ones are turned away.
pub const FLIGHTS_MAX: usize = 256;
/// Callers that may wait for one answer at once.
pub const WAITERS_MAX: usize = 1_024;

/// Questions on their way.
pub struct Flights<K, V> {
    open: Arc<Mutex<HashMap<K, Flight<V>>>>,
}

/// Whoever waits holds a receiver, so that those who gave up do not count.
type Flight<V> = Arc<watch::Sender<Option<V>>>;

/// A place on a flight.
pub enum Boarding<K: Hash + Eq, V> {
    /// Nobody asks this yet: ask, and tell the answer.
    Pilot(Pilot<K, V>, watch::Receiver<Option<V>>),
    /// Somebody does.
    Passenger(watch::Receiver<Option<V>>),
    /// There are too many.
    Full,
}

/// Has to tell the answer; dropped without, its passengers learn that there is none.
pub struct Pilot<K: Hash + Eq, V> {
    open: Arc<Mutex<HashMap<K, Flight<V>>>>,
    key: K,
    answer: Flight<V>,
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self { open: Arc::default() }
    }
}

impl<K: Hash + Eq + Clone, V> Flights<K, V> {
    /// Joins the flight of `key`, or begins it.
    pub fn board(&self, key: K) -> Boarding<K, V> {
        let mut open = self.open.lock();
        let count = open.len();
        match open.entry(key) {
            Entry::Occupied(flight) if flight.get().receiver_count() >= WAITERS_MAX => Boarding::Full,
            Entry::Occupied(flight) => Boarding::Passenger(flight.get().subscribe()),
            Entry::Vacant(_) if count >= FLIGHTS_MAX => Boarding::Full,
            Entry::Vacant(place) => {
                let (flight, key) = (Arc::new(watch::Sender::new(None)), place.key().clone());
                let answer = flight.subscribe();
                place.insert(Arc::clone(&flight));
                Boarding::Pilot(Pilot { open: Arc::clone(&self.open), key, answer: flight }, answer)
            }
        }
    }
}

impl<K: Hash + Eq, V> Pilot<K, V> {
    /// Tells the answer to everybody aboard.
    pub fn land(self, answer: V) {
        self.answer.send_replace(Some(answer));
    }
}

impl<K: Hash + Eq, V> Drop for Pilot<K, V> {
    fn drop(&mut self) {
        self.open.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_share_one_answer_and_the_next_one_asks_anew() {
        let flights = Flights::<&str, u32>::default();
        let Boarding::Pilot(pilot, _) = flights.board("a") else { panic!("nobody asks yet") };
        let mut aboard = Vec::new();
        for _ in 0..9 {
            let Boarding::Passenger(answer) = flights.board("a") else { panic!("somebody asks") };
            aboard.push(answer);
        }
        assert!(matches!(flights.board("b"), Boarding::Pilot(..)));
        pilot.land(7);
        for mut answer in aboard {
            assert_eq!(*answer.wait_for(Option::is_some).await.unwrap(), Some(7));
        }
        assert!(matches!(flights.board("a"), Boarding::Pilot(..)));
    }

    #[tokio::test]
    async fn a_pilot_that_is_lost_strands_nobody_and_numbers_are_bounded() {
        let flights = Flights::<usize, u32>::default();
        let Boarding::Pilot(pilot, mut answer) = flights.board(0) else { panic!("nobody asks yet") };
        let board = |_| {
            let Boarding::Passenger(answer) = flights.board(0) else { panic!("there is room") };
            answer
        };
        for _ in 0..WAITERS_MAX {
            board(0);
        }
        let mut aboard: Vec<_> = (1..WAITERS_MAX).map(board).collect();
        assert!(matches!(flights.board(0), Boarding::Full));
        // Whoever gives up makes room.
        aboard.pop();
        board(0);
        drop(pilot);
        assert!(answer.wait_for(Option::is_some).await.is_err());
        let pilots: Vec<_> = (0..FLIGHTS_MAX).map(|key| flights.board(key)).collect();
        assert!(matches!(flights.board(FLIGHTS_MAX), Boarding::Full));
        drop(pilots);
        assert!(matches!(flights.board(FLIGHTS_MAX), Boarding::Pilot(..)));
    }
}
