//! What was: the state before a recent change, for reads that lag behind or lie.

use std::borrow::Borrow;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use crate::clock::Time;

/// Most former states kept of one collection; past it the oldest are forgotten, and reads of them are fresh.
const FORMER_MAX: usize = 100_000;

/// Former states by key. Only the state before the *first* change within the lag is kept: it is what a reader that
/// lags sees until the lag is over.
#[derive(Debug)]
pub(crate) struct Former<K, V> {
    by_key: BTreeMap<K, (Time, Option<V>)>,
    order: VecDeque<(Time, K)>,
}

impl<K, V> Default for Former<K, V> {
    fn default() -> Self {
        Self { by_key: BTreeMap::new(), order: VecDeque::new() }
    }
}

impl<K: Ord + Clone, V> Former<K, V> {
    /// Remembers, for `lag` from now, that `key` was `value` before a change; none where it was not there.
    pub(crate) fn remember(&mut self, key: &K, value: impl FnOnce() -> Option<V>, lag: Duration, now: Time) {
        self.forget(now);
        if lag.is_zero() || self.get(key, now).is_some() {
            return;
        }
        while self.order.len() >= FORMER_MAX {
            if let Some((_, oldest)) = self.order.pop_front() {
                self.by_key.remove(&oldest);
            }
        }
        let until = now.plus(lag);
        self.by_key.insert(key.clone(), (until, value()));
        self.order.push_back((until, key.clone()));
    }

    /// What a reader that lags sees: none where it sees the present; some none where it sees that nothing was there.
    pub(crate) fn get(&self, key: &K, now: Time) -> Option<Option<&V>> {
        let (until, value) = self.by_key.get(key)?;
        (*until > now).then_some(value.as_ref())
    }

    /// The same, with the key as it is kept.
    pub(crate) fn get_entry<Q>(&self, key: &Q, now: Time) -> Option<(&K, Option<&V>)>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (key, (until, value)) = self.by_key.get_key_value(key)?;
        (*until > now).then_some((key, value.as_ref()))
    }

    /// All beyond `from` that a reader that lags sees otherwise than the present, by key.
    pub(crate) fn range<Q>(&self, from: Bound<&Q>, now: Time) -> impl Iterator<Item = (&K, Option<&V>)>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let held = self.by_key.range::<Q, _>((from, Bound::Unbounded));
        let held = held.filter(move |(_, (until, _))| *until > now);
        held.map(|(key, (_, value))| (key, value.as_ref()))
    }

    /// Forgets everything: whoever reads sees the present.
    pub(crate) fn clear(&mut self) {
        self.by_key.clear();
        self.order.clear();
    }

    fn forget(&mut self, now: Time) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            let Some((_, key)) = self.order.pop_front() else { return };
            if self.by_key.get(&key).is_some_and(|(until, _)| *until <= now) {
                self.by_key.remove(&key);
            }
        }
    }
}
