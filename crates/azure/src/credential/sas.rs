//! Shared access signatures (IoT Hub developer guide, "Control access"; DPS, "Control access").

use crate::id::encoded;
use crate::secret::SharedKey;

/// `SharedAccessSignature sr=…&sig=…&se=…&skn=…`. `resource` is percent-encoded already: what is signed is the text
/// as it stands in the header, then a line feed, then the end in seconds since 1970.
pub(crate) fn signature(key: &SharedKey, resource: &str, policy: &str, ends_s: u64) -> String {
    let sig = key.sign(&format!("{resource}\n{ends_s}"));
    format!("SharedAccessSignature sr={resource}&sig={}&se={ends_s}&skn={}", encoded(&sig), encoded(policy))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;
    use crate::secret::Secret;

    const VECTOR_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const VECTOR_END: u64 = 1_767_225_600;

    fn key() -> SharedKey {
        SharedKey::decode(&Secret::new(VECTOR_KEY.into())).unwrap()
    }

    /// What a verifier does: split, decode the signature, and keep the resource as it stands.
    fn fields(header: &str) -> (String, Vec<u8>, u64, String) {
        let rest = header.strip_prefix("SharedAccessSignature ").unwrap();
        let field = |name: &str| {
            let found = rest.split('&').find_map(|part| part.strip_prefix(&format!("{name}=")));
            found.unwrap().to_owned()
        };
        let decoded =
            |text: String| percent_encoding::percent_decode_str(&text).decode_utf8().unwrap().into_owned();
        let sig = STANDARD.decode(decoded(field("sig"))).unwrap();
        (field("sr"), sig, field("se").parse().unwrap(), decoded(field("skn")))
    }

    #[test]
    fn known_signatures_come_out() {
        for (resource, sig) in [
            ("contoso.azure-devices-provisioning.net", "2E4gSZOAP1XK18dkIPqBbFn29S+bQoDXs6aciiM3cXA="),
            ("localhost%3A8443", "JqfmwBFpmu9CtjS+5lvD2415M6ZipSJL6Xab8Ed3NgM="),
            ("localhost%3a8443", "24gJlQtXj1lOkk5Ov23eWsycw+RO5omV0sSBRTDQEW0="),
            ("localhost:8443", "S8xWU4Bh81c5n9pM5HtX79X96b3UBB/MbHxdf9dyj14="),
            ("https%3A%2F%2Flocalhost%3A8443%2F", "+6DE3w3bK4rtBxf3Qc8NaS942w+CT3TyySEXL8FEoMc="),
            ("0ne00000001%2Fregistrations%2Fdev-1", "52i/PCdp/Ja0YXwxetb0KbWpF15uLQ+dhNsvl0+vivo="),
            ("0ne00000001/registrations/dev-1", "5jbGXBJ/kkKkF/BaNGc58fe3NVdC0P3nYatz5Ugrnqw="),
        ] {
            let header = signature(&key(), resource, "p", VECTOR_END);
            let (sr, found, se, skn) = fields(&header);
            assert_eq!((sr.as_str(), STANDARD.encode(found).as_str()), (resource, sig));
            assert_eq!((se, skn.as_str()), (VECTOR_END, "p"));
        }
    }

    #[test]
    fn a_resource_is_encoded_in_upper_case_as_it_is_signed() {
        assert_eq!(encoded("localhost:8443"), "localhost%3A8443");
        assert_eq!(encoded("0ne00000001/registrations/dev-1"), "0ne00000001%2Fregistrations%2Fdev-1");
        let header = signature(&key(), &encoded("localhost:8443"), "service", VECTOR_END);
        assert_eq!(
            header,
            "SharedAccessSignature sr=localhost%3A8443&sig=JqfmwBFpmu9CtjS%2B5lvD2415M6ZipSJL6Xab8Ed3NgM%3D\
             &se=1767225600&skn=service"
        );
    }

    proptest! {
        #[test]
        fn a_verifier_finds_what_was_signed(
            bytes in proptest::collection::vec(any::<u8>(), 16..=64),
            resource in "[a-zA-Z0-9./:#?&=%+ -]{1,60}",
            policy in "[a-zA-Z0-9 +&=%-]{1,30}",
            ends in 0..=u64::from(u32::MAX),
        ) {
            let key = SharedKey::decode(&Secret::new(STANDARD.encode(bytes))).unwrap();
            let header = signature(&key, &encoded(&resource), &policy, ends);
            prop_assert!(http::HeaderValue::from_str(&header).is_ok());
            let (sr, sig, se, skn) = fields(&header);
            let decoded = percent_encoding::percent_decode_str(&sr).decode_utf8().unwrap().into_owned();
            prop_assert_eq!(decoded, resource);
            prop_assert_eq!((se, skn), (ends, policy));
            prop_assert_eq!(STANDARD.encode(sig), key.sign(&format!("{sr}\n{ends}")));
        }
    }
}
