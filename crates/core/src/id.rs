//! Typed, validated identifiers. A value of one of these types is legal by construction.

use std::fmt;
use std::sync::Arc;

/// Longest piece of a refused value that an error repeats, in characters.
const SHOWN_CHARS_MAX: usize = 64;

/// Why a text is not a legal identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{value}` {problem}")]
pub struct IdError {
    /// What it was meant to be, in words: `device ID`.
    pub kind: &'static str,
    /// The refused text, shortened to 64 characters.
    pub value: String,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl IdError {
    pub(crate) fn new(kind: &'static str, value: &str, problem: impl Into<String>) -> Self {
        let mut shown: String = value.chars().take(SHOWN_CHARS_MAX).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self { kind, value: shown, problem: problem.into() }
    }
}

/// The bytes that an identifier may have: a table, as every ID of every lookup is checked.
struct Alphabet([bool; 256]);

impl Alphabet {
    /// Letters and digits, and these.
    const fn alphanumeric_and(others: &[u8]) -> Self {
        let mut allowed = [false; 256];
        let mut byte = 0;
        while byte < 128 {
            allowed[byte as usize] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let mut other = 0;
        while other < others.len() {
            allowed[others[other] as usize] = true;
            other += 1;
        }
        Self(allowed)
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte)]
    }
}

/// The shape of one kind of identifier.
struct Shape {
    kind: &'static str,
    length_max: usize,
    alphabet: Alphabet,
    allowed_words: &'static str,
}

impl Shape {
    fn check(&self, text: &str) -> Result<(), IdError> {
        if text.is_empty() {
            return Err(IdError::new(
                self.kind,
                text,
                format!("is empty; it needs 1 to {} characters", self.length_max),
            ));
        }
        if text.len() > self.length_max {
            let problem = format!("is {} bytes long; at most {} are allowed", text.len(), self.length_max);
            return Err(IdError::new(self.kind, text, problem));
        }
        match text.bytes().position(|b| !self.alphabet.has(b)) {
            None => Ok(()),
            Some(at) => {
                let found = text.get(at..).and_then(|rest| rest.chars().next()).unwrap_or('\u{fffd}');
                let problem = format!("has {found:?} at byte {at}; allowed are {}", self.allowed_words);
                Err(IdError::new(self.kind, text, problem))
            }
        }
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $parse:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($inner);

        impl $name {
            /// Checks and wraps `text`.
            ///
            /// # Errors
            /// [`IdError`] says which character or length is not allowed.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let parse: fn(&str) -> Result<$inner, IdError> = $parse;
                parse(text).map(Self)
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }
    };
}

static DEVICE: Shape = Shape {
    kind: "device ID",
    length_max: 128,
    alphabet: Alphabet::alphanumeric_and(b"-.+%_#*?!(),=@$':"),
    allowed_words: "ASCII letters, digits and - . + % _ # * ? ! ( ) , = @ $ ' :",
};
static REGISTRATION: Shape = Shape {
    kind: "registration ID",
    length_max: 128,
    alphabet: Alphabet::alphanumeric_and(b"-._:"),
    allowed_words: "ASCII letters, digits and - . _ :",
};
static HUB: Shape = Shape {
    kind: "hub name",
    length_max: 128,
    alphabet: Alphabet::alphanumeric_and(b"-."),
    allowed_words: "ASCII letters, digits, - and .",
};
static STAMP: Shape = Shape {
    kind: "stamp name",
    length_max: 63,
    alphabet: Alphabet::alphanumeric_and(b"-._"),
    allowed_words: "ASCII letters, digits and - . _",
};
static SCOPE: Shape = Shape {
    kind: "ID scope",
    length_max: 32,
    alphabet: Alphabet::alphanumeric_and(b""),
    allowed_words: "ASCII letters and digits",
};
static ROUTE: Shape = Shape {
    kind: "route key",
    length_max: 253,
    alphabet: Alphabet::alphanumeric_and(b"!#$%&()*+,-./:;=?@[]_~"),
    allowed_words: "printable ASCII without space, quotes, \\ < > { } | ^",
};

text_id! {
    /// ID of a device in its hub's identity registry: case-sensitive, 1 to 128 characters of the hub's alphabet
    /// (Azure: iot-hub-devguide-identity-registry; `:` is accepted in practice).
    DeviceId(Box<str>), |text| DEVICE.check(text).map(|()| text.into())
}
text_id! {
    /// ID of a registration in DPS: 1 to 128 characters of DPS's alphabet, the last one alphanumeric or `-`
    /// (Azure: concepts-service). Case-insensitive: kept as first written, compared by [`RegistrationId::folded`].
    RegistrationId(Box<str>), |text| {
        REGISTRATION.check(text)?;
        match text.bytes().last() {
            Some(last) if last.is_ascii_alphanumeric() || last == b'-' => Ok(text.into()),
            _ => Err(IdError::new("registration ID", text, "must end in a letter, a digit or -")),
        }
    }
}
text_id! {
    /// Host name of an IoT hub, lower-cased: DNS names compare without case.
    HubName(Arc<str>), |text| {
        HUB.check(text)?;
        let part_is_legal = |part: &str| !part.is_empty() && part.len() <= 63 && !part.starts_with('-') && !part.ends_with('-');
        if !text.split('.').all(part_is_legal) {
            let problem = "is not a host name: parts between dots need 1 to 63 characters and neither start nor end with -";
            return Err(IdError::new("hub name", text, problem));
        }
        Ok(text.to_ascii_lowercase().into())
    }
}
text_id! {
    /// Name of a deployment stamp: 1 to 63 characters, case-sensitive.
    StampName(Arc<str>), |text| STAMP.check(text).map(|()| text.into())
}
text_id! {
    /// ID scope of a DPS instance, such as `0ne00112233`.
    ScopeName(Arc<str>), |text| SCOPE.check(text).map(|()| text.into())
}
text_id! {
    /// Key of a route: a host or a tenant, lower-cased, 1 to 253 characters.
    RouteKey(Arc<str>), |text| ROUTE.check(text).map(|()| text.to_ascii_lowercase().into())
}

impl RegistrationId {
    /// The form by which registration IDs compare: ASCII lower case.
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }

    /// True where `other` names the same registration.
    pub fn same_as(&self, other: &str) -> bool {
        self.0.eq_ignore_ascii_case(other)
    }
}

/// A device ID that is not kept: what a lookup needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceIdRef<'a>(&'a str);

impl<'a> DeviceIdRef<'a> {
    /// Checks `text` as [`DeviceId::parse`] does.
    ///
    /// # Errors
    /// [`IdError`] says which character or length is not allowed.
    pub fn parse(text: &'a str) -> Result<Self, IdError> {
        DEVICE.check(text).map(|()| Self(text))
    }

    /// The text.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// The text's bytes, each an ASCII character.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0.as_bytes()
    }
}

impl<'a> From<&'a DeviceId> for DeviceIdRef<'a> {
    fn from(id: &'a DeviceId) -> Self {
        Self(&id.0)
    }
}

impl From<&RegistrationId> for DeviceId {
    /// What DPS calls a device at its hub unless an enrollment says otherwise; its alphabet is the narrower one.
    fn from(id: &RegistrationId) -> Self {
        Self(id.0.clone())
    }
}

impl DeviceId {
    /// This ID as a registration ID, where DPS's narrower alphabet allows it.
    pub fn as_registration(&self) -> Option<RegistrationId> {
        RegistrationId::parse(&self.0).ok()
    }
}

/// Identity of a write, chosen by the caller: a UUIDv7, so that it carries the time it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// Checks that `bytes` are a UUID of version 7 and RFC 9562's variant.
    ///
    /// # Errors
    /// [`IdError`] where another version or variant is found.
    pub fn from_bytes(bytes: [u8; 16]) -> Result<Self, IdError> {
        if bytes[6] >> 4 != 7 || bytes[8] >> 6 != 0b10 {
            let value = Self(bytes).to_string();
            return Err(IdError::new(
                "request ID",
                &value,
                "is not a UUID of version 7; make one with a UUIDv7 library",
            ));
        }
        Ok(Self(bytes))
    }

    /// The 16 bytes in network order.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The time in the ID: milliseconds since the Unix epoch, 48 bits.
    pub fn time(&self) -> crate::Timestamp {
        let mut ms = [0u8; 8];
        ms[2..].copy_from_slice(&self.0[..6]);
        crate::Timestamp(u64::from_be_bytes(ms))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}
