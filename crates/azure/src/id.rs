//! Names of things at Azure. A value of one of these types is legal by construction.
//!
//! A registration ID and a device ID are different types: the one is DPS's key, without case, the other the hub's, with
//! case, and their alphabets differ (DPS concepts, "Registration ID"; IoT Hub developer guide, "Identity registry").

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest registration ID, enrollment group ID, device ID and module ID, in characters.
pub const ID_CHARS_MAX: usize = 128;
/// Longest host name, in characters (DNS), without a port.
pub const HOST_CHARS_MAX: usize = 253;
/// Longest etag that is sent back, in bytes: Azure's are shorter than 100.
pub const ETAG_BYTES_MAX: usize = 1_024;
/// Longest ID scope, in characters: Azure's are `0ne` and eight hexadecimal digits.
pub const ID_SCOPE_CHARS_MAX: usize = 32;
/// Longest operation ID, in characters: DPS's are some 60.
pub const OPERATION_ID_CHARS_MAX: usize = 256;
/// Longest name in an ARM path, in characters (ARM, naming rules).
pub const ARM_NAME_CHARS_MAX: usize = 260;
/// Longest piece of a refused value that an error repeats, in characters.
const SHOWN_CHARS_MAX: usize = 64;

/// What stays as it is in a path: RFC 3986's unreserved characters. IDs may hold `#`, `?` and `%`.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why a text is not a legal name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{value}` {problem}")]
pub struct IdError {
    /// What it was meant to be, in words: `device ID`.
    pub kind: &'static str,
    /// The refused text, shortened to 64 characters.
    pub value: String,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

impl IdError {
    fn new(kind: &'static str, value: &str, problem: impl Into<String>) -> Self {
        let mut shown: String = value.chars().take(SHOWN_CHARS_MAX).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self { kind, value: shown, problem: problem.into() }
    }
}

/// Percent-encodes one segment of a path, or one value of a query.
pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PATH).to_string()
}

/// True for a segment that URL parsers take out of a path, so that it could name another thing.
fn is_dots(text: &str) -> bool {
    text == "." || text == ".."
}

fn check(
    kind: &'static str,
    text: &str,
    chars_max: usize,
    allowed: impl Fn(u8) -> bool,
    words: &str,
) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::new(kind, text, format!("is empty; it needs 1 to {chars_max} characters")));
    }
    if let Some(found) = text.chars().find(|found| u8::try_from(*found).map_or(true, |byte| !allowed(byte))) {
        return Err(IdError::new(kind, text, format!("contains {found:?}; allowed are {words}")));
    }
    if text.len() > chars_max {
        return Err(IdError::new(
            kind,
            text,
            format!("is {} characters long; at most {chars_max} are allowed", text.len()),
        ));
    }
    if is_dots(text) {
        return Err(IdError::new(kind, text, "means a folder in a path; it needs another character"));
    }
    Ok(())
}

/// What all names have in common: made from text by `new`, shown as text, text in JSON.
macro_rules! texts {
    ($($name:ident),*) => {$(
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(&String::deserialize(deserializer)?).map_err(D::Error::custom)
            }
        }
    )*};
}

texts!(RegistrationId, EnrollmentGroupId, DeviceId, ModuleId, HostName, IdScope, Etag, OperationId, ArmName);

fn check_dps(kind: &'static str, text: &str) -> Result<(), IdError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    check(kind, text, ID_CHARS_MAX, allowed, "ASCII letters, digits and - . _ :")?;
    if text.ends_with(|last: char| !(last.is_ascii_alphanumeric() || last == '-')) {
        return Err(IdError::new(kind, text, "does not end in a letter, a digit or a dash"));
    }
    Ok(())
}

/// Names whose case is kept and shown, but does not count.
macro_rules! without_case {
    ($($name:ident, $kind:literal);*) => {$(
        impl $name {
            /// Checks a text: 1 to 128 of ASCII letters, digits and `-._:`, the last a letter, a digit or `-`.
            pub fn new(text: &str) -> Result<Self, IdError> {
                check_dps($kind, text)?;
                Ok(Self(text.into()))
            }

            /// The form that equal names share: what to index by.
            pub fn to_lower(&self) -> String {
                self.0.to_ascii_lowercase()
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.eq_ignore_ascii_case(&other.0)
            }
        }

        impl Eq for $name {}

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.to_lower().hash(state);
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                self.to_lower().cmp(&other.to_lower())
            }
        }
    )*};
}

/// Names a device to DPS. Case does not count: `Pump-1` equals `pump-1`.
#[derive(Debug, Clone)]
pub struct RegistrationId(Box<str>);

/// Names an enrollment group of DPS. Case does not count.
#[derive(Debug, Clone)]
pub struct EnrollmentGroupId(Box<str>);

without_case!(RegistrationId, "registration ID"; EnrollmentGroupId, "enrollment group ID");

fn check_hub(kind: &'static str, text: &str) -> Result<(), IdError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-.+%_#*?!(),=@$':".contains(&byte);
    check(kind, text, ID_CHARS_MAX, allowed, "ASCII letters, digits and - . + % _ # * ? ! ( ) , = @ $ ' :")
}

/// Names an identity in an IoT hub. Case counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(Box<str>);

impl DeviceId {
    /// Checks a text: 1 to 128 of ASCII letters, digits and ``-.+%_#*?!(),=@$':``.
    pub fn new(text: &str) -> Result<Self, IdError> {
        check_hub("device ID", text)?;
        Ok(Self(text.into()))
    }
}

impl From<&RegistrationId> for DeviceId {
    /// The device ID that DPS gives where the enrollment names none. Every registration ID is a legal one.
    fn from(id: &RegistrationId) -> Self {
        Self(id.0.clone())
    }
}

/// Names a module of a device. Case counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleId(Box<str>);

impl ModuleId {
    /// Checks a text, by the rules of a device ID.
    pub fn new(text: &str) -> Result<Self, IdError> {
        check_hub("module ID", text)?;
        Ok(Self(text.into()))
    }
}

/// A host of Azure, in lower case, with a port where one was given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Box<str>);

impl HostName {
    /// Checks a text: a DNS name or an IPv4 address, with `:port` if need be; no scheme, no path.
    pub fn new(text: &str) -> Result<Self, IdError> {
        const KIND: &str = "host name";
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        check(KIND, name, HOST_CHARS_MAX, allowed, "letters, digits, - and .")
            .map_err(|error| IdError::new(KIND, text, error.problem))?;
        let whole = name
            .split('.')
            .all(|label| (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-'));
        if !whole {
            return Err(IdError::new(
                KIND,
                text,
                "has an empty, too long or dashed-off part between its dots",
            ));
        }
        if port.is_some_and(|port| {
            !port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().is_err()
        }) {
            return Err(IdError::new(KIND, text, "has a port that is no number up to 65535"));
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// The name without its port.
    pub fn name(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }

    /// The port, where one was given.
    pub fn port(&self) -> Option<u16> {
        self.0.split_once(':').and_then(|(_, port)| port.parse().ok())
    }
}

/// Names one DPS instance to devices: `0ne` and eight hexadecimal digits. Case is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdScope(Box<str>);

impl IdScope {
    /// Checks a text: 1 to 32 ASCII letters and digits.
    pub fn new(text: &str) -> Result<Self, IdError> {
        check(
            "ID scope",
            text,
            ID_SCOPE_CHARS_MAX,
            |byte| byte.is_ascii_alphanumeric(),
            "ASCII letters and digits",
        )?;
        Ok(Self(text.into()))
    }
}

/// A version of an object at Azure. Opaque: it is only ever sent back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Etag(Box<str>);

impl Etag {
    /// Checks a text: 1 to 1,024 visible ASCII characters, as it must fit a header; not `*`, which means any version.
    pub fn new(text: &str) -> Result<Self, IdError> {
        check("etag", text, ETAG_BYTES_MAX, |byte| byte.is_ascii_graphic(), "visible ASCII characters")?;
        if text.trim_matches('"') == "*" {
            return Err(IdError::new("etag", text, "stands for any version; say so with IfMatch::Any"));
        }
        Ok(Self(text.into()))
    }
}

/// Names a registration under way at DPS. Opaque.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(Box<str>);

impl OperationId {
    /// Checks a text: 1 to 256 visible ASCII characters.
    pub fn new(text: &str) -> Result<Self, IdError> {
        check(
            "operation ID",
            text,
            OPERATION_ID_CHARS_MAX,
            |b| b.is_ascii_graphic(),
            "visible ASCII characters",
        )?;
        Ok(Self(text.into()))
    }
}

/// A name in a path of Azure Resource Manager: a subscription, a resource group, a profile, an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArmName(Box<str>);

impl ArmName {
    /// Checks a text: 1 to 260 ASCII letters, digits and `-_.()`, not ending in a dot.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.()".contains(&byte);
        check("ARM name", text, ARM_NAME_CHARS_MAX, allowed, "ASCII letters, digits and - _ . ( )")?;
        if text.ends_with('.') {
            return Err(IdError::new("ARM name", text, "ends in a dot"));
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn registration_ids_do_not_count_case_and_device_ids_do() {
        assert_eq!(RegistrationId::new("Pump-1").unwrap(), RegistrationId::new("pump-1").unwrap());
        assert_ne!(DeviceId::new("Pump-1").unwrap(), DeviceId::new("pump-1").unwrap());
        assert_eq!(RegistrationId::new("Pump-1").unwrap().as_str(), "Pump-1");
    }

    #[test]
    fn each_alphabet_is_its_own() {
        for legal in ["a", "dev:1", "a-", "A.b_c"] {
            RegistrationId::new(legal).unwrap();
        }
        for illegal in ["", "a.", "a_", "a:", "a b", "dev#1", "dév", "."] {
            assert!(RegistrationId::new(illegal).is_err(), "{illegal}");
        }
        for legal in ["dev#1?x%y", "a.", "it's(1),=@$!*+"] {
            DeviceId::new(legal).unwrap();
        }
        for illegal in ["", "a b", "a/b", "..", ".", "a\"b"] {
            assert!(DeviceId::new(illegal).is_err(), "{illegal}");
        }
        assert!(DeviceId::new(&"x".repeat(129)).unwrap_err().to_string().contains("at most 128"));
        assert_eq!(encoded("dev#1?x%y"), "dev%231%3Fx%25y");
        assert_eq!(encoded("a:b"), "a%3Ab");
    }

    #[test]
    fn hosts_are_lower_case_and_hold_no_more_than_a_name_and_a_port() {
        let host = HostName::new("Hub-A.Azure-Devices.NET").unwrap();
        assert_eq!(host.as_str(), "hub-a.azure-devices.net");
        let local = HostName::new("localhost:8443").unwrap();
        assert_eq!((local.name(), local.port()), ("localhost", Some(8443)));
        for illegal in
            ["", "https://x", "a/b", "a..b", "-a", "a:b", "a:99999", "a@b", "a:1:2", "a:+1", ".", "a:"]
        {
            assert!(HostName::new(illegal).is_err(), "{illegal}");
        }
    }

    #[test]
    fn an_etag_fits_a_header_and_is_never_a_star() {
        assert!(Etag::new("IjBhMDBiNzQyLTAwMDAtMDgwMC0wMDAwLTY0NjgwMWY1MDAwMCI=").is_ok());
        assert!(Etag::new("AAAAAAAAAAE=").is_ok());
        for illegal in ["", "*", "\"*\"", "a\r\nb", "a b", "é"] {
            assert!(Etag::new(illegal).is_err(), "{illegal:?}");
        }
    }

    proptest! {
        #[test]
        fn an_encoded_id_is_one_segment_and_decodes_to_itself(text in "[!-~]{1,128}") {
            if let Ok(id) = DeviceId::new(&text) {
                let path = encoded(id.as_str());
                prop_assert!(!path.contains(['/', '?', '#', '&', '=', ' ']));
                let back = percent_encoding::percent_decode_str(&path).decode_utf8().unwrap().into_owned();
                prop_assert_eq!(back, text);
            }
        }

        #[test]
        fn no_text_makes_a_check_panic(text in "\\PC{0,140}") {
            let _ = (RegistrationId::new(&text), DeviceId::new(&text), HostName::new(&text), Etag::new(&text));
            let _ = (IdScope::new(&text), OperationId::new(&text), ArmName::new(&text));
        }
    }
}
