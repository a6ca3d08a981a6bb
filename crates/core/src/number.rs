//! Counted things: revisions, epochs, times and the internal numbers of topology objects.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Position of an accepted command in the history of the whole directory: dense, strictly increasing from 1.
    /// Zero is the empty directory. Fits 48 bits.
    Revision(u64)
}
number! {
    /// Fence of one mapping. A row starts at the revision that created it; each change of hub or status adds 1.
    Epoch(u64)
}
number! {
    /// Milliseconds since the Unix epoch, stamped by the leader into the log; never read from a clock while applying.
    Timestamp(u64)
}
number! {
    /// Internal number of a stamp; never reused.
    StampNo(u32)
}
number! {
    /// Internal number of a hub; never reused; fits 24 bits.
    HubNo(u32)
}
number! {
    /// Internal number of a scope; never reused.
    ScopeNo(u16)
}

impl Revision {
    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Epoch {
    /// The epoch after one effective change.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Timestamp {
    /// Whole seconds since the Unix epoch, as rows keep them; saturates in 2106.
    pub fn seconds(self) -> u32 {
        u32::try_from(self.0 / 1_000).unwrap_or(u32::MAX)
    }

    /// The time of whole `seconds` since the Unix epoch.
    pub fn from_seconds(seconds: u32) -> Self {
        Self(u64::from(seconds) * 1_000)
    }
}
