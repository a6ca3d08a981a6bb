//! Shared access signatures (IoT Hub and DPS, control access: security tokens).
//!
//! What is signed is the text of `sr` as it stands in the header, a line feed, and `se`. SDKs differ in how they
//! encode `sr`, so the raw text is what is verified; only then is it decoded to see what it covers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use ring::hmac;
use thiserror::Error;

use crate::clock::Time;

/// How long after its end a token is still taken: clocks of devices and services are never quite the same.
const EXPIRY_SKEW_SECONDS: u64 = 60;

const SCHEME: &str = "SharedAccessSignature";

/// Why an `Authorization` header holds no signature that can be checked. No text of the header stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum SasError {
    /// Another scheme, or none.
    #[error("the Authorization header does not begin with `SharedAccessSignature `")]
    Scheme,
    /// A field is missing.
    #[error("the token has no field `{0}`")]
    Missing(&'static str),
    /// A field stands there twice.
    #[error("the token has the field `{0}` twice")]
    Twice(&'static str),
    /// The signature is no URL-encoded base64.
    #[error("the field `sig` is not base64")]
    Signature,
    /// The expiry is no number of seconds.
    #[error("the field `se` is not a number of seconds")]
    Expiry,
    /// The resource does not decode to text.
    #[error("the field `sr` does not decode to UTF-8")]
    Resource,
}

/// A token that was read, and not yet believed.
#[derive(Clone)]
pub(crate) struct SasToken {
    signed: Vec<u8>,
    signature: Vec<u8>,
    expiry: u64,
    resource: String,
    policy: Option<String>,
}

/// What a token has to cover.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Covers<'a> {
    /// Hosts under which the resource is known, lower-cased, without a port; for the device API the one ID scope.
    pub(crate) roots: &'a [&'a str],
    /// The path below the root, segment by segment.
    pub(crate) path: &'a [&'a str],
    /// Whether `https://` before the host and a slash after it are taken as if they were not there.
    pub(crate) scheme: bool,
}

/// The `Authorization` header of a token over `resource`, which is signed and sent as it is written.
pub(crate) fn sign(resource: &str, key: &[u8], expiry: u64, policy: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let signature = STANDARD.encode(hmac::sign(&key, format!("{resource}\n{expiry}").as_bytes()));
    let signature = utf8_percent_encode(&signature, NON_ALPHANUMERIC);
    format!("{SCHEME} sr={resource}&sig={signature}&se={expiry}&skn={policy}")
}

impl SasToken {
    /// Reads an `Authorization` header. A raw `+` in `sig` stays a plus sign: it is base64's, not a form's space.
    pub(crate) fn read(header: &str) -> Result<Self, SasError> {
        let fields = header.strip_prefix(SCHEME).and_then(|rest| rest.strip_prefix(' '));
        let (mut sr, mut sig, mut se, mut skn) = (None, None, None, None);
        for field in fields.ok_or(SasError::Scheme)?.trim().split('&') {
            let Some((name, value)) = field.split_once('=') else { continue };
            let (slot, name) = match name {
                "sr" => (&mut sr, "sr"),
                "sig" => (&mut sig, "sig"),
                "se" => (&mut se, "se"),
                "skn" => (&mut skn, "skn"),
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(SasError::Twice(name));
            }
        }
        let sr = sr.ok_or(SasError::Missing("sr"))?;
        let sig = sig.ok_or(SasError::Missing("sig"))?;
        let se = se.ok_or(SasError::Missing("se"))?;
        let base64: Vec<u8> = percent_decode_str(sig).collect();
        let decoded = |text| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
        Ok(Self {
            signed: format!("{sr}\n{se}").into_bytes(),
            signature: STANDARD.decode(base64).map_err(|_| SasError::Signature)?,
            expiry: se.parse().map_err(|_| SasError::Expiry)?,
            resource: decoded(sr).map_err(|_| SasError::Resource)?,
            policy: skn.filter(|name| !name.is_empty()).and_then(|name| decoded(name).ok()),
        })
    }

    /// The policy that the token names.
    pub(crate) fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
    }

    /// Whether one of `keys` made the signature. Compared in constant time.
    pub(crate) fn is_signed_by<'a>(&self, keys: impl IntoIterator<Item = &'a [u8]>) -> bool {
        keys.into_iter().any(|key| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, key);
            hmac::verify(&key, &self.signed, &self.signature).is_ok()
        })
    }

    /// Whether the token has ended.
    pub(crate) fn has_expired(&self, now: Time) -> bool {
        self.expiry.saturating_add(EXPIRY_SKEW_SECONDS) < now.unix_seconds()
    }

    /// Whether the token's resource is what is asked for, or a whole-segment prefix of it.
    pub(crate) fn covers(&self, asked: Covers<'_>) -> bool {
        let mut resource = self.resource.as_str();
        if asked.scheme {
            resource = resource.strip_prefix("https://").unwrap_or(resource).trim_end_matches('/');
        }
        let mut segments = resource.split('/');
        let root = segments.next().unwrap_or_default();
        let root = root.split_once(':').map_or(root, |(host, _port)| host);
        if !asked.roots.iter().any(|known| known.eq_ignore_ascii_case(root)) {
            return false;
        }
        let mut path = asked.path.iter();
        segments.all(|segment| path.next().is_some_and(|asked| asked.eq_ignore_ascii_case(segment)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Vec<u8> {
        (0..32).collect()
    }

    /// The documented test vectors: raw `sr`, and the signature over it and 1767225600.
    const VECTORS: [(&str, &str); 7] = [
        ("contoso.azure-devices-provisioning.net", "2E4gSZOAP1XK18dkIPqBbFn29S+bQoDXs6aciiM3cXA="),
        ("localhost%3A8443", "JqfmwBFpmu9CtjS+5lvD2415M6ZipSJL6Xab8Ed3NgM="),
        ("localhost%3a8443", "24gJlQtXj1lOkk5Ov23eWsycw+RO5omV0sSBRTDQEW0="),
        ("localhost:8443", "S8xWU4Bh81c5n9pM5HtX79X96b3UBB/MbHxdf9dyj14="),
        ("https%3A%2F%2Flocalhost%3A8443%2F", "+6DE3w3bK4rtBxf3Qc8NaS942w+CT3TyySEXL8FEoMc="),
        ("0ne00000001%2Fregistrations%2Fdev-1", "52i/PCdp/Ja0YXwxetb0KbWpF15uLQ+dhNsvl0+vivo="),
        ("0ne00000001/registrations/dev-1", "5jbGXBJ/kkKkF/BaNGc58fe3NVdC0P3nYatz5Ugrnqw="),
    ];

    fn read(sr: &str, sig: &str) -> SasToken {
        SasToken::read(&format!("SharedAccessSignature sr={sr}&sig={sig}&se=1767225600&skn=owner")).unwrap()
    }

    /// The ways in which SDKs write a signature.
    fn spellings(sig: &str) -> [String; 4] {
        let upper = sig.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        let lower = sig.replace('+', "%2b").replace('/', "%2f").replace('=', "%3d");
        let slashes = sig.replace('+', "%2B").replace('=', "%3D");
        [upper, lower, slashes, sig.to_owned()]
    }

    #[test]
    fn every_vector_verifies_in_every_spelling() {
        for (sr, sig) in VECTORS {
            for spelling in spellings(sig) {
                assert!(read(sr, &spelling).is_signed_by([key().as_slice()]), "{sr} {spelling}");
            }
        }
    }

    #[test]
    fn what_is_signed_here_verifies_here() {
        let token = SasToken::read(&sign("localhost%3A8443", &key(), 1_767_225_600, "owner")).unwrap();
        assert!(token.is_signed_by([key().as_slice()]));
        assert_eq!(token.policy(), Some("owner"));
    }

    #[test]
    fn another_key_resource_or_expiry_does_not_verify() {
        let (sr, sig) = VECTORS[0];
        assert!(!read(sr, sig).is_signed_by([[1; 32].as_slice()]));
        assert!(!read("Contoso.azure-devices-provisioning.net", sig).is_signed_by([key().as_slice()]));
        let later = SasToken::read(&format!("SharedAccessSignature sr={sr}&sig={sig}&se=1767225601"));
        assert!(!later.unwrap().is_signed_by([key().as_slice()]));
    }

    #[test]
    fn fields_stand_in_any_order_and_once() {
        let token = SasToken::read("SharedAccessSignature skn=a%20b&se=5&sig=AAAA&sr=x").unwrap();
        assert_eq!(token.policy(), Some("a b"));
        let problem = |text: &str| SasToken::read(text).err();
        assert_eq!(problem("SharedAccessSignature sr=x&sr=y&sig=AAAA&se=5"), Some(SasError::Twice("sr")));
        assert_eq!(problem("SharedAccessSignature sr=x&se=5"), Some(SasError::Missing("sig")));
        assert_eq!(problem("SharedAccessSignature sr=x&sig=AAAA&se=-5"), Some(SasError::Expiry));
        assert_eq!(problem("SharedAccessSignature sr=x&sig=A&se=5"), Some(SasError::Signature));
        assert_eq!(problem("Bearer abc"), Some(SasError::Scheme));
    }

    #[test]
    fn a_token_ends() {
        let token = read(VECTORS[0].0, VECTORS[0].1);
        assert!(!token.has_expired(Time::from_unix_seconds(1_767_225_600 + EXPIRY_SKEW_SECONDS)));
        assert!(token.has_expired(Time::from_unix_seconds(1_767_225_601 + EXPIRY_SKEW_SECONDS)));
    }

    #[test]
    fn a_shorter_resource_covers_longer_ones_by_whole_segments() {
        let covers = |sr: &str, path: &[&str]| {
            read(sr, "AAAA").covers(Covers { roots: &["hub-a.net"], path, scheme: false })
        };
        assert!(covers("HUB-a.net%3A8443", &["devices", "d1"]));
        assert!(covers("hub-a.net/devices/d1", &["devices", "d1"]));
        assert!(covers("hub-a.net%2Fdevices", &["devices", "d1"]));
        assert!(!covers("hub-a.net/devices/d", &["devices", "d1"]));
        assert!(!covers("hub-a.net/devices/d1/x", &["devices", "d1"]));
        assert!(!covers("hub-b.net", &["devices"]));
    }

    #[test]
    fn a_scheme_is_cut_only_where_it_is_allowed() {
        let covers = |scheme| {
            read("https%3A%2F%2Flocalhost%3A8443%2F", "AAAA").covers(Covers {
                roots: &["localhost"],
                path: &[],
                scheme,
            })
        };
        assert!(covers(true));
        assert!(!covers(false));
    }
}
