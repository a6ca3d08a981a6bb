//! Who the client says it is: a shared access signature made from a key, or a bearer token from elsewhere.

mod connection_string;
mod sas;
mod token;

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, FutureExt as _, Shared, select};
use http::HeaderValue;
use parking_lot::Mutex;

pub use token::{StoredToken, TOKEN_REREAD, Token, TokenSource};

pub(crate) use connection_string::ConnectionString;

use crate::id::{HostName, IdScope, RegistrationId, encoded};
use crate::secret::{CredentialError, KeySource, SharedKey};
use crate::surroundings::Surroundings;

/// Life of a shared access signature: what the SDKs of Azure use.
pub const SIGNATURE_LIFE: Duration = Duration::from_secs(3_600);
/// How long before its end a signature or a token is no longer used: clocks differ, and calls take time.
pub const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// How long a source of tokens may take: longer than any call waits for it, and not for ever.
const FETCH_MAX: Duration = Duration::from_secs(120);
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
    /// Never held over a wait.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: Option<Kept>,
    /// A token on its way: of many calls one begins to fetch, and the others wait for the same.
    fetching: Option<Fetching>,
}

/// Goes on though the calls that wait for it have no more time: else a source slower than its callers would be asked
/// for ever and never heard.
type Fetching = Shared<BoxFuture<'static, Result<Kept, CredentialError>>>;

enum Kind {
    /// A connection string with the key of a policy. It is read again for each signature, so that a key changed in
    /// its file is taken up, and no key stays in memory.
    Policy { source: KeySource, host: HostName },
    /// A device's own key at DPS.
    Device { key: DeviceKey, resource: String, registration: RegistrationId },
    /// A token of Microsoft Entra ID.
    Bearer { source: Arc<dyn TokenSource>, scope: String },
}

#[derive(Clone)]
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
        Arc::new(Self { kind, state: Mutex::default() })
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
        self: &Arc<Self>,
        surroundings: &Arc<dyn Surroundings>,
    ) -> Result<Authorization, CredentialError> {
        let now = surroundings.since_epoch();
        let fetching = {
            let mut state = self.state.lock();
            if let Some(kept) = state.kept.as_ref().filter(|kept| now + RENEW_BEFORE < kept.ends) {
                return Ok(Authorization { header: kept.header.clone(), is_fresh: false });
            }
            match &self.kind {
                Kind::Bearer { source, scope } => {
                    let begin = || self.fetch(source, scope, surroundings);
                    Some(state.fetching.get_or_insert_with(begin).clone())
                }
                Kind::Policy { .. } | Kind::Device { .. } => None,
            }
        };
        let made = match fetching {
            Some(fetching) => fetching.await?,
            None => {
                let made = self.sign(now)?;
                self.state.lock().kept = Some(made.clone());
                made
            }
        };
        Ok(Authorization { header: made.header, is_fresh: true })
    }

    /// Drops what is kept, if it is still this header: a service has just refused it.
    pub(crate) fn refused(&self, header: &HeaderValue) {
        let mut state = self.state.lock();
        if state.kept.as_ref().is_some_and(|kept| kept.header == *header) {
            state.kept = None;
        }
    }

    /// Begins to fetch a token, in a task of its own.
    fn fetch(
        self: &Arc<Self>,
        source: &Arc<dyn TokenSource>,
        scope: &str,
        surroundings: &Arc<dyn Surroundings>,
    ) -> Fetching {
        let (source, scope) = (Arc::clone(source), scope.to_owned());
        let too_late = surroundings.until(surroundings.elapsed() + FETCH_MAX);
        let this = Arc::downgrade(self);
        let ours = Weak::clone(&this);
        let task = tokio::spawn(async move {
            let made = match select(too_late, source.token(&scope)).await {
                Either::Left(_) => {
                    let problem = format!("gave no token within {} s", FETCH_MAX.as_secs());
                    Err(CredentialError::new("bearer token", problem))
                }
                Either::Right((token, _)) => token.and_then(|token| {
                    let text = zeroize::Zeroizing::new(format!("Bearer {}", token.text.expose()));
                    Ok(Kept { header: header(&text)?, ends: token.ends })
                }),
            };
            settle(&ours, made.as_ref().ok());
            made
        });
        let heard = async move {
            task.await.unwrap_or_else(|_| {
                settle(&this, None);
                Err(CredentialError::new("bearer token", "its source came to a sudden end; see its log"))
            })
        };
        heard.boxed().shared()
    }

    fn sign(&self, now: Duration) -> Result<Kept, CredentialError> {
        match &self.kind {
            Kind::Policy { source, host } => {
                let read = ConnectionString::read(source)?;
                if read.host != *host {
                    // What it names now may be no host but a key in the wrong place.
                    let problem =
                        format!("names another host now than {host}, as when first read; restart to follow");
                    return Err(CredentialError::new(source, problem));
                }
                signed(&read.key, &encoded(host.as_str()), &read.policy, now)
            }
            Kind::Device { key, resource, registration } => {
                signed(&key.read(registration)?, &encoded(resource), DEVICE_POLICY, now)
            }
            Kind::Bearer { .. } => Err(CredentialError::new("bearer token", "is not signed but fetched")),
        }
    }
}

/// The end of a fetch: what it gave is kept, and the next one may begin.
fn settle(credential: &Weak<Credential>, made: Option<&Kept>) {
    let Some(credential) = credential.upgrade() else { return };
    let mut state = credential.state.lock();
    state.fetching = None;
    if let Some(made) = made {
        state.kept = Some(made.clone());
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
