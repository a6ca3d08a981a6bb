//! ETags, and what counts as naming one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::clock::Randomness;

/// The version of one stored thing. Opaque: nothing follows from its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Etag(u64);

impl Etag {
    pub(crate) fn mint(random: &dyn Randomness) -> Self {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        Self(u64::from_le_bytes(bytes))
    }

    /// Inside quotes, as DPS's webhook bodies show it.
    pub(crate) fn quoted(self) -> String {
        let (high, low) = (self.0 >> 32, self.0 & 0xffff_ffff);
        format!("\"{high:08x}-0000-0800-0000-{low:08x}0000\"")
    }

    /// As DPS's bodies show it: base64 of the quoted text.
    pub(crate) fn dps(self) -> String {
        STANDARD.encode(self.quoted())
    }

    /// As a hub's identities show it: base64 of digits.
    pub(crate) fn hub(self) -> String {
        STANDARD.encode((self.0 & 0xffff_ffff).to_string())
    }

    /// As a hub's twins show it: base64 of eight bytes.
    pub(crate) fn twin(version: u64) -> String {
        STANDARD.encode(version.to_be_bytes())
    }
}

/// Whether an `If-Match` names any version.
pub(crate) fn is_any(if_match: &str) -> bool {
    matches!(if_match.trim(), "*" | "\"*\"")
}

/// Whether an `If-Match` names the version whose text is `etag`: as it is, or in quotes. SDKs differ.
pub(crate) fn names(if_match: &str, etag: &str) -> bool {
    let told = if_match.trim();
    if is_any(told) {
        return true;
    }
    let bare = told.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(told);
    bare == etag
}

/// The same for DPS, which also takes the quoted text that its etags are the base64 of.
pub(crate) fn names_dps(if_match: &str, etag: Etag) -> bool {
    names(if_match, &etag.dps()) || if_match.trim() == etag.quoted()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_in_every_spelling() {
        let etag = Etag(0x0a00_b742_6468_01f5);
        assert_eq!(etag.dps(), "IjBhMDBiNzQyLTAwMDAtMDgwMC0wMDAwLTY0NjgwMWY1MDAwMCI=");
        let text = etag.dps();
        for spelling in [text.clone(), format!("\"{text}\""), etag.quoted(), "*".into(), "\"*\"".into()] {
            assert!(names_dps(&spelling, etag), "{spelling}");
        }
        let unquoted = etag.quoted().replace('"', "");
        for other in [Etag(1).dps(), String::new(), "\"\"".into(), "**".into(), unquoted] {
            assert!(!names_dps(&other, etag), "{other}");
        }
        let hub = etag.hub();
        assert!(names(&hub, &hub) && names(&format!("\"{hub}\""), &hub) && names("*", &hub));
        let decoded = String::from_utf8(STANDARD.decode(&hub).unwrap()).unwrap();
        assert!(!names(&decoded, &hub) && !names(&format!("\"{decoded}\""), &hub));
        assert_eq!(Etag::twin(1), "AAAAAAAAAAE=");
    }
}
