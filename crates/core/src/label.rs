//! Labels of devices and stamps: small, ordered, bounded sets of key and value.

use std::collections::BTreeMap;
use std::fmt;

/// Most labels of one device or stamp.
pub const LABELS_MAX: usize = 8;
/// Longest label key or value, in bytes.
const LABEL_BYTES_MAX: usize = 63;

/// Number of an interned label set; 0 is the empty set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LabelSetNo(pub u16);

impl LabelSetNo {
    /// The set without labels.
    pub const EMPTY: Self = Self(0);
}

/// Why a set of labels is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// More than [`LABELS_MAX`] labels.
    #[error("{0} labels; at most {LABELS_MAX} are allowed")]
    TooMany(usize),
    /// A key is empty, too long, or has characters outside letters, digits and `- . _ /`.
    #[error("label key `{0}` needs 1 to 63 ASCII letters, digits or - . _ /")]
    Key(String),
    /// A value is too long or has control characters.
    #[error(
        "value of label `{key}` is {bytes} bytes long or has control characters; at most 63 bytes of plain text are allowed"
    )]
    Value {
        /// The label's key.
        key: String,
        /// Length of the refused value in bytes.
        bytes: usize,
    },
}

/// A set of labels, ordered by key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Labels(BTreeMap<Box<str>, Box<str>>);

impl Labels {
    /// Checks and collects labels; a later duplicate of a key wins.
    ///
    /// # Errors
    /// [`LabelError`] names the refused key, value or count.
    pub fn parse<K: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, LabelError> {
        let mut labels = BTreeMap::new();
        for (key, value) in pairs {
            let (key, value) = (key.as_ref(), value.as_ref());
            let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._/".contains(&b);
            if key.is_empty() || key.len() > LABEL_BYTES_MAX || !key.bytes().all(legal) {
                return Err(LabelError::Key(key.chars().take(LABEL_BYTES_MAX).collect()));
            }
            if value.len() > LABEL_BYTES_MAX || value.chars().any(char::is_control) {
                return Err(LabelError::Value { key: key.to_owned(), bytes: value.len() });
            }
            labels.insert(key.into(), value.into());
            if labels.len() > LABELS_MAX {
                return Err(LabelError::TooMany(labels.len()));
            }
        }
        Ok(Self(labels))
    }

    /// The labels in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (&**k, &**v))
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|v| &**v)
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many labels.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True where every label of `wanted` is here with the same value.
    pub fn contains_all(&self, wanted: &Labels) -> bool {
        wanted.iter().all(|(k, v)| self.get(k) == Some(v))
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (key, value)) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{key}={value}")?;
        }
        Ok(())
    }
}
