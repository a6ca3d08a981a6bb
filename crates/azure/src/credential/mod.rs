//! Who the client says it is: a shared access signature made from a key, or a bearer token from elsewhere.

mod connection_string;
mod sas;
mod token;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::Mutex;

pub use token::{StoredToken, TOKEN_REREAD, Token, TokenSource};

pub(crate) use connection_string::ConnectionString;

use crate::id::{HostName, IdScope, RegistrationId, encoded};
use crate::secret::{CredentialError, KeySource, SharedKey};
use crate::surroundings::Surroundings;

/// Life of a shared access signature: what the SDKs of Azure use.
pub const SIGNATURE_LIFE: Duration = Duration::from_secs(3_600);
/// How long before its end a signature or a token is no longer used: clocks differ, and calls take time.
pub const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// The policy that a device signs under at DPS (DPS, "symmetric key attestation").
const DEVICE_POLICY: &str = "registration";

/// Scope of a bearer token for the DPS service API.
pub const DPS_SCOPE: &str = "https://azure-devices-provisioning.net/.default";
/// Scope of a bearer token for the IoT Hub service API.
pub const HUB_SCOPE: &str = "https://iothubs.azure.net/.default";
/// Scope of a bearer token for Azure Resource Manager.
pub const ARM_SCOPE: &str = "https://management.azure.com/.default";

/// Makes the `Authorization` of one host's calls, and keeps it until shortly before its end. Shared by clones of a
/// service; never told by `Debug`.
pub struct Credential {
    kind: Kind,
    /// An async lock, so that of many calls one fetches and the others wait for it.
    kept: Mutex<Option<Kept>>,
}

enum Kind {
    /// A connection string with the key of a policy. It is read again for each signature, so that a key changed in
    /// its file is taken up, and no key stays in memory.
    Policy { source: KeySource, host: HostName },
    /// A device's own key at DPS.
    Device { key: DeviceKey, resource: String, registration: RegistrationId },
    /// A token of Microsoft Entra ID.
    Bearer { source: Arc<dyn TokenSource>, scope: String },
}

struct Kept {
    header: HeaderValue,
    /// Time since the Unix epoch.
    ends: Duration,
}

/// Where a device's key for DPS comes from.
#[derive(Debug, Clone)]
pub enum DeviceKey {
    /// The key of its own enrollment.
    Own(KeySource),
    /// The key of its enrollment group, from which its own is derived.
    OfGroup(KeySource),
    /// A key already at hand, such as one that DPS has just made.
    Held(SharedKey),
}

/// An `Authorization` header, and whether it was made for this call.
pub(crate) struct Authorization {
    pub(crate) header: HeaderValue,
    pub(crate) is_fresh: bool,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            Kind::Policy { source, host } => write!(f, "Credential({host} by connection string in {source})"),
            Kind::Device { resource, .. } => write!(f, "Credential({resource} by device key)"),
            Kind::Bearer { scope, .. } => write!(f, "Credential({scope} by bearer token)"),
        }
    }
}

impl Credential {
    /// A policy's key, by the connection string that Azure shows:
    /// `HostName=…;SharedAccessKeyName=…;SharedAccessKey=…`. The string is read and checked now.
    pub fn connection_string(source: KeySource) -> Result<Arc<Self>, CredentialError> {
        let host = ConnectionString::read(&source)?.host;
        Ok(Self::of(Kind::Policy { source, host }))
    }

    /// A device's key at the DPS device API. A key in a file or variable is read and checked now.
    pub fn device(
        key: DeviceKey,
        scope: &IdScope,
        registration: &RegistrationId,
    ) -> Result<Arc<Self>, CredentialError> {
        key.read(registration)?;
        let resource = format!("{scope}/registrations/{registration}");
        Ok(Self::of(Kind::Device { key, resource, registration: registration.clone() }))
    }

    /// Tokens from `source` for `scope`, such as [`DPS_SCOPE`]. They are sent over TLS only.
    pub fn bearer(source: Arc<dyn TokenSource>, scope: &str) -> Arc<Self> {
        Self::of(Kind::Bearer { source, scope: scope.to_owned() })
    }

    fn of(kind: Kind) -> Arc<Self> {
        Arc::new(Self { kind, kept: Mutex::new(None) })
    }

    /// The host that a connection string names; none for other credentials.
    pub fn host(&self) -> Option<&HostName> {
        match &self.kind {
            Kind::Policy { host, .. } => Some(host),
            Kind::Device { .. } | Kind::Bearer { .. } => None,
        }
    }

    /// True where the header itself is the right to act, so that whoever sees it may use it for anything.
    pub(crate) fn is_bearer(&self) -> bool {
        matches!(self.kind, Kind::Bearer { .. })
    }

    /// The header to send now: the one kept, or a new one where that nears its end.
    pub(crate) async fn authorization(
        &self,
        surroundings: &dyn Surroundings,
    ) -> Result<Authorization, CredentialError> {
        let now = surroundings.since_epoch();
        let mut kept = self.kept.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| now + RENEW_BEFORE < kept.ends) {
            return Ok(Authorization { header: kept.header.clone(), is_fresh: false });
        }
        let made = self.make(now).await?;
        let header = made.header.clone();
        *kept = Some(made);
        Ok(Authorization { header, is_fresh: true })
    }

    /// Drops what is kept, if it is still this header: a service has just refused it.
    pub(crate) async fn refused(&self, header: &HeaderValue) {
        let mut kept = self.kept.lock().await;
        if kept.as_ref().is_some_and(|kept| kept.header == *header) {
            *kept = None;
        }
    }

    async fn make(&self, now: Duration) -> Result<Kept, CredentialError> {
        match &self.kind {
            Kind::Policy { source, host } => {
                let read = ConnectionString::read(source)?;
                if read.host != *host {
                    let problem = format!(
                        "names host {} now, but {host} when it was first read; restart to follow",
                        read.host
                    );
                    return Err(CredentialError::new(source, problem));
                }
                signed(&read.key, &encoded(host.as_str()), &read.policy, now)
            }
            Kind::Device { key, resource, registration } => {
                signed(&key.read(registration)?, &encoded(resource), DEVICE_POLICY, now)
            }
            Kind::Bearer { source, scope } => {
                let token = source.token(scope).await?;
                let text = zeroize::Zeroizing::new(format!("Bearer {}", token.text.expose()));
                Ok(Kept { header: header(&text)?, ends: token.ends })
            }
        }
    }
}

impl DeviceKey {
    fn read(&self, registration: &RegistrationId) -> Result<SharedKey, CredentialError> {
        let decoded = |source: &KeySource| {
            SharedKey::decode(&source.read()?)
                .map_err(|error| CredentialError::new(source, error.to_string()))
        };
        match self {
            Self::Own(source) => decoded(source),
            Self::OfGroup(source) => Ok(decoded(source)?.derive(registration)),
            Self::Held(key) => Ok(key.clone()),
        }
    }
}

fn signed(key: &SharedKey, resource: &str, policy: &str, now: Duration) -> Result<Kept, CredentialError> {
    let ends = now + SIGNATURE_LIFE;
    let text = zeroize::Zeroizing::new(sas::signature(key, resource, policy, ends.as_secs()));
    Ok(Kept { header: header(&text)?, ends })
}

fn header(text: &str) -> Result<HeaderValue, CredentialError> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| CredentialError::new("token", "holds characters that no header may carry"))?;
    // Keeps it out of `Debug` output of requests.
    value.set_sensitive(true);
    Ok(value)
}
