//! Bearer tokens of Microsoft Entra ID: fetched by somebody else, handed in by a trait.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::RENEW_BEFORE;
use crate::secret::{CredentialError, KeySource, Secret};
use crate::surroundings::Surroundings;

/// How long a token read from a file or variable is used before it is read again. Its own end is not known.
pub const TOKEN_REREAD: Duration = Duration::from_secs(60);

/// A token and its end.
#[derive(Debug, Clone)]
pub struct Token {
    /// What follows `Bearer `.
    pub text: Secret,
    /// When it ends, as time since 1970-01-01T00:00:00Z. It is used until five minutes before.
    pub ends: Duration,
}

/// Hands out tokens.
///
/// Obligations: a token is valid for the scope asked for; one that a service refused is not handed out again if the
/// source can know; no error repeats a token.
pub trait TokenSource: Send + Sync + 'static {
    /// A token for this scope, such as `https://iothubs.azure.net/.default`.
    fn token<'a>(&'a self, scope: &'a str) -> BoxFuture<'a, Result<Token, CredentialError>>;
}

/// A token that another program keeps fresh in a file, or that stands in a variable. The scope asked for is not
/// checked: one such source serves one service.
pub struct StoredToken {
    source: KeySource,
    surroundings: Arc<dyn Surroundings>,
}

impl StoredToken {
    /// Reads from `source` each time a token is wanted, at most once a minute.
    pub fn new(source: KeySource, surroundings: Arc<dyn Surroundings>) -> Self {
        Self { source, surroundings }
    }
}

impl std::fmt::Debug for StoredToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoredToken({})", self.source)
    }
}

impl TokenSource for StoredToken {
    fn token<'a>(&'a self, _scope: &'a str) -> BoxFuture<'a, Result<Token, CredentialError>> {
        Box::pin(async {
            let text = self.source.read()?;
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
            if !text.expose().bytes().all(legal) {
                return Err(CredentialError::new(&self.source, "holds more than one bare bearer token"));
            }
            // The caller stops using it the margin before its end.
            Ok(Token { text, ends: self.surroundings.since_epoch() + RENEW_BEFORE + TOKEN_REREAD })
        })
    }
}
