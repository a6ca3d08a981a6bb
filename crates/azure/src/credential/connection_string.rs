//! Connection strings, as Azure's portal and command line show them.

use crate::id::HostName;
use crate::secret::{CredentialError, KeySource, Secret, SharedKey};

/// Most parts of a connection string: Azure's have three.
const PARTS_MAX: usize = 16;

/// A host, and the key of one of its policies.
#[derive(Debug)]
pub(crate) struct ConnectionString {
    pub(crate) host: HostName,
    pub(crate) policy: String,
    pub(crate) key: SharedKey,
}

impl ConnectionString {
    pub(crate) fn read(source: &KeySource) -> Result<Self, CredentialError> {
        let text = source.read()?;
        Self::parse(text.expose()).map_err(|problem| CredentialError::new(source, problem))
    }

    /// Parts are `name=value`, split at the first `=` only, as keys end in `=`. Names are told apart without case; a
    /// `;` at the end is fine. No problem repeats a value: it may be the key.
    fn parse(text: &str) -> Result<Self, String> {
        let (mut host, mut policy, mut key) = (None, None, None);
        for (at, part) in text.split(';').map(str::trim).filter(|part| !part.is_empty()).enumerate() {
            if at >= PARTS_MAX {
                return Err(format!("has more than {PARTS_MAX} parts"));
            }
            let Some((name, value)) = part.split_once('=') else {
                return Err(format!("part {} is not name=value", at + 1));
            };
            let slot = match name.trim().to_ascii_lowercase().as_str() {
                "hostname" => &mut host,
                "sharedaccesskeyname" => &mut policy,
                "sharedaccesskey" => &mut key,
                "deviceid" | "moduleid" => {
                    return Err("is a device's; take the one of a policy, such as iothubowner".to_owned());
                }
                _ => return Err(format!("part {} has a name that is not known", at + 1)),
            };
            if value.trim().is_empty() {
                return Err(format!("part {} has no value", at + 1));
            }
            if slot.replace(value.trim()).is_some() {
                return Err(format!("part {} says again what an earlier one says", at + 1));
            }
        }
        let missing = |name: &str| {
            format!("has no {name}; copy it whole: HostName=…;SharedAccessKeyName=…;SharedAccessKey=…")
        };
        let host = host.ok_or_else(|| missing("HostName"))?;
        let policy = policy.ok_or_else(|| missing("SharedAccessKeyName"))?;
        let key = key.ok_or_else(|| missing("SharedAccessKey"))?;
        Ok(Self {
            host: HostName::new(host).map_err(|error| format!("has a HostName that {}", error.problem))?,
            policy: policy.to_owned(),
            key: SharedKey::decode(&Secret::new(key.to_owned())).map_err(|error| error.to_string())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn case_of_names_order_and_a_last_semicolon_do_not_matter() {
        let text = format!(
            "SharedAccessKey={KEY};hostname=DPS-A.azure-devices-provisioning.net;SHAREDACCESSKEYNAME=o;"
        );
        let read = ConnectionString::parse(&text).unwrap();
        assert_eq!(read.host.as_str(), "dps-a.azure-devices-provisioning.net");
        assert_eq!(read.policy, "o");
        assert_eq!(read.key.encode().expose(), KEY);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_key() {
        for (text, said) in [
            (format!("HostName=h;SharedAccessKey={KEY}"), "has no SharedAccessKeyName"),
            (format!("{KEY};HostName=h"), "part 1 has a name"),
            ("noequals".to_owned(), "part 1 is not name=value"),
            (format!("HostName=h;HostName=g;SharedAccessKey={KEY}"), "part 2 says again"),
            (format!("HostName=h;DeviceId=d;SharedAccessKey={KEY}"), "is a device's"),
            (format!("HostName=h/x;SharedAccessKeyName=p;SharedAccessKey={KEY}"), "contains '/'"),
            ("HostName=h;SharedAccessKeyName=p;SharedAccessKey=AA*A".to_owned(), "not base64"),
            ("HostName=h;SharedAccessKeyName=;SharedAccessKey=AA*A".to_owned(), "part 2 has no value"),
            ("a=b;".repeat(20), "part 1 has a name"),
        ] {
            let problem = ConnectionString::parse(&text).unwrap_err();
            assert!(problem.contains(said), "{problem}");
            assert!(!problem.contains("AAEC") && !problem.contains("AA*A"), "{problem}");
        }
        // A key in the place of the host, as of parts that were swapped.
        let swapped = format!("HostName={KEY};SharedAccessKeyName=p;SharedAccessKey=h");
        let problem = ConnectionString::parse(&swapped).unwrap_err();
        assert!(problem.contains("HostName that contains '='") && !problem.contains("AAEC"), "{problem}");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}", parts in "([A-Za-z]{0,20}=?[A-Za-z0-9=]{0,20};){0,6}") {
            let _ = ConnectionString::parse(&text);
            let _ = ConnectionString::parse(&parts);
        }
    }
}
