//! The metadata of an error: typed values as texts under stable keys.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use berth_core::{ObjectKind, PlaceState};

/// Longest text that an error repeats, in bytes: eight refused items with three texts each must fit a header list.
pub(super) const TEXT_BYTES_MAX: usize = 300;

/// Values under keys, with a prefix in front of each key.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    values: BTreeMap<String, String>,
    prefix: String,
    /// What stands for a text that another writer left out.
    message: Option<String>,
}

impl Facts {
    pub(super) fn of(values: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { values: values.into_iter().collect(), ..Self::default() }
    }

    /// Lets `message` stand for texts that are missing.
    pub(super) fn fall_back_to(&mut self, message: &str) {
        self.message = Some(message.to_owned());
    }

    pub(super) fn set_missing(self, key: &str, value: Option<impl Display>) -> Self {
        if self.has(key) { self } else { self.set_some(key, value) }
    }

    /// The text, or the message that stands for it.
    pub(super) fn told(&self, key: &str) -> Option<String> {
        self.text(key).or_else(|| self.message.clone())
    }

    /// The same facts, with another prefix for what is set and got from now on.
    pub(super) fn under(mut self, prefix: String) -> Self {
        self.prefix = prefix;
        self
    }

    pub(super) fn set(mut self, key: &str, value: impl Display) -> Self {
        self.values.insert(format!("{}{key}", self.prefix), clipped(value.to_string()));
        self
    }

    pub(super) fn set_some(self, key: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.set(key, value),
            None => self,
        }
    }

    /// The facts as the metadata of an ErrorInfo.
    pub(super) fn metadata(&self) -> HashMap<String, String> {
        self.values.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.text(key).is_some()
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.values.get(&format!("{}{key}", self.prefix)).cloned()
    }

    pub(super) fn parsed<T: FromStr>(&self, key: &str) -> Option<T> {
        self.text(key).and_then(|text| text.parse().ok())
    }

    pub(super) fn number(&self, key: &str) -> Option<u64> {
        self.parsed(key)
    }

    pub(super) fn millis(&self, key: &str) -> Option<Duration> {
        self.number(key).map(Duration::from_millis)
    }

    pub(super) fn kind(&self, key: &str) -> Option<ObjectKind> {
        let text = self.text(key)?;
        (0..=u8::MAX).filter_map(ObjectKind::from_byte).find(|kind| kind.to_string() == text)
    }

    pub(super) fn state(&self, key: &str) -> Option<PlaceState> {
        let text = self.text(key)?;
        PlaceState::ALL.iter().copied().find(|state| state.to_string() == text)
    }
}

/// The text, cut at a character boundary to what an error may carry.
pub(super) fn clipped(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX - 3).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
