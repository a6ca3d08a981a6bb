//! The interned label sets, decoded.

use std::collections::{BTreeMap, BTreeSet};

use berth_core::{LabelSetNo, Labels};

/// Label sets by number and by content. At most 65,535 besides the empty one.
#[derive(Debug, Clone)]
pub(crate) struct LabelSets {
    empty: Labels,
    by_no: BTreeMap<LabelSetNo, Labels>,
    by_set: BTreeMap<Labels, LabelSetNo>,
    /// Free numbers below the highest one in use.
    gaps: BTreeSet<LabelSetNo>,
}

impl Default for LabelSets {
    fn default() -> Self {
        let (by_no, by_set, gaps) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { empty: Labels::default(), by_no, by_set, gaps }
    }
}

impl LabelSets {
    pub(crate) fn no(&self, labels: &Labels) -> Option<LabelSetNo> {
        if labels.is_empty() { Some(LabelSetNo::EMPTY) } else { self.by_set.get(labels).copied() }
    }

    pub(crate) fn get(&self, no: LabelSetNo) -> Option<&Labels> {
        if no == LabelSetNo::EMPTY { Some(&self.empty) } else { self.by_no.get(&no) }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LabelSetNo, &Labels)> {
        self.by_no.iter().map(|(no, labels)| (*no, labels))
    }

    /// Up to `count` free numbers, lowest first.
    pub(crate) fn free(&self, count: usize) -> Vec<LabelSetNo> {
        let above = self.highest().saturating_add(1)..=u16::MAX;
        // At the very top the range above must be empty, not the top number again.
        let above = above.filter(|no| *no > self.highest()).map(LabelSetNo);
        self.gaps.iter().copied().chain(above).take(count).collect()
    }

    pub(crate) fn put(&mut self, no: LabelSetNo, labels: Labels) {
        for gap in self.highest().saturating_add(1)..no.0 {
            self.gaps.insert(LabelSetNo(gap));
        }
        self.gaps.remove(&no);
        if let Some(old) = self.by_no.insert(no, labels.clone()) {
            self.by_set.remove(&old);
        }
        self.by_set.insert(labels, no);
    }

    pub(crate) fn drop(&mut self, no: LabelSetNo) {
        if let Some(labels) = self.by_no.remove(&no) {
            self.by_set.remove(&labels);
            self.gaps.insert(no);
        }
        let highest = LabelSetNo(self.highest());
        self.gaps.retain(|gap| *gap < highest);
    }

    fn highest(&self) -> u16 {
        self.by_no.last_key_value().map_or(0, |(no, _)| no.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(value: usize) -> Labels {
        Labels::parse([("ring", value.to_string())]).unwrap()
    }

    #[test]
    fn free_numbers_come_lowest_first_and_return() {
        let mut sets = LabelSets::default();
        (1..=4).for_each(|no| sets.put(LabelSetNo(no), set(no.into())));
        assert_eq!(sets.free(2), [LabelSetNo(5), LabelSetNo(6)]);
        sets.drop(LabelSetNo(2));
        assert_eq!(sets.free(2), [LabelSetNo(2), LabelSetNo(5)]);
        sets.drop(LabelSetNo(4));
        assert_eq!(sets.free(3), [LabelSetNo(2), LabelSetNo(4), LabelSetNo(5)]);
        assert_eq!(sets.no(&set(3)), Some(LabelSetNo(3)));
        assert_eq!(sets.no(&set(4)), None);
    }

    #[test]
    fn the_last_number_is_given_once() {
        let mut sets = LabelSets::default();
        sets.put(LabelSetNo(u16::MAX), set(1));
        assert_eq!(sets.free(1), [LabelSetNo(1)]);
        assert_eq!(sets.free(100_000).len(), 65_534);
    }
}
