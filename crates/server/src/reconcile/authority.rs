//! What the reconciler asks of Azure. A trait, so that a test can script the answers.

use std::time::Duration;

use berth_core::reconcile::{IdentitySeen, RegistrationSeen};
use berth_core::{DeviceId, HubName, RegistrationId, Scope};
use futures_util::future::BoxFuture;

use super::listing::{Cursor, EnrollmentRow, IdentityRow, Listing, RegistrationRow};

/// Answers to one question each.
///
/// Obligations: each call sends at most one request, as its caller has taken leave from a budget for exactly one; it
/// ends by itself within some seconds; no error tells a secret.
pub trait Authority: Send + Sync + 'static {
    /// How DPS has a registration; `None` where it has no record of one.
    fn registration<'a>(
        &'a self,
        scope: &'a Scope,
        id: &'a RegistrationId,
    ) -> BoxFuture<'a, Result<Option<RegistrationSeen>, Trouble>>;

    /// What an enrollment of its own says of a device; `None` where there is none.
    fn enrollment<'a>(
        &'a self,
        scope: &'a Scope,
        id: &'a RegistrationId,
    ) -> BoxFuture<'a, Result<Option<RegistrationSeen>, Trouble>>;

    /// How a hub's registry has a device.
    fn identity<'a>(
        &'a self,
        hub: &'a HubName,
        device: &'a DeviceId,
    ) -> BoxFuture<'a, Result<IdentitySeen, Trouble>>;

    /// Has a device assigned to this hub when it registers again: its own enrollment is rewritten, if it is as it was read.
    /// Sends up to [`ENFORCE_CALLS`] requests, one after the other; the last of them writes.
    fn enforce<'a>(
        &'a self,
        _scope: &'a Scope,
        _id: &'a RegistrationId,
        _hub: &'a HubName,
    ) -> BoxFuture<'a, Result<Enforced, Trouble>> {
        Box::pin(std::future::ready(Err(Trouble::NoAccess("this authority changes nothing".to_owned()))))
    }

    /// A page of the enrollments of single devices. Where an authority offers no listings, nothing is swept.
    fn enrollments<'a>(
        &'a self,
        _scope: &'a Scope,
        _from: Option<&Cursor>,
    ) -> BoxFuture<'a, Result<Listing<EnrollmentRow>, Trouble>> {
        Box::pin(std::future::ready(Err(no_listings())))
    }

    /// A page of the names of enrollment groups.
    fn groups<'a>(
        &'a self,
        _scope: &'a Scope,
        _from: Option<&Cursor>,
    ) -> BoxFuture<'a, Result<Listing<String>, Trouble>> {
        Box::pin(std::future::ready(Err(no_listings())))
    }

    /// A page of the registrations of an enrollment group.
    fn registrations<'a>(
        &'a self,
        _scope: &'a Scope,
        _group: &str,
        _from: Option<&Cursor>,
    ) -> BoxFuture<'a, Result<Listing<RegistrationRow>, Trouble>> {
        Box::pin(std::future::ready(Err(no_listings())))
    }

    /// A page of the identities in a hub's registry.
    fn identities<'a>(
        &'a self,
        _hub: &'a HubName,
        _from: Option<&Cursor>,
    ) -> BoxFuture<'a, Result<Listing<IdentityRow>, Trouble>> {
        Box::pin(std::future::ready(Err(no_listings())))
    }
}

fn no_listings() -> Trouble {
    Trouble::NoAccess("this authority offers no listings".to_owned())
}

/// Requests that [`Authority::enforce`] may send: the enrollment, its keys, and the enrollment written.
pub const ENFORCE_CALLS: u64 = 3;

/// What came of making DPS follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enforced {
    /// The enrollment was rewritten.
    Written,
    /// It named this hub already, and no other.
    Already,
    /// Somebody else changed it meanwhile. Nothing was written.
    Changed,
    /// It is not a matter of this device's enrollment; why, for people.
    NoLever(&'static str),
}

/// Why there is no answer. The directory stands in each case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Azure has too much to do.
    #[error("Azure throttles: {problem}")]
    Throttled {
        /// What Azure said.
        problem: String,
        /// How long it asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// Azure cannot be reached, or failed.
    #[error("Azure is away: {0}")]
    Away(String),
    /// The answer is not what such an answer must be.
    #[error("Azure's answer makes no sense: {0}")]
    Nonsense(String),
    /// There is no credential for this, or Azure does not take it.
    #[error("Azure may not be asked: {0}")]
    NoAccess(String),
}

impl Trouble {
    /// Its name in metrics.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Throttled { .. } => "throttled",
            Self::Away(_) => "away",
            Self::Nonsense(_) => "nonsense",
            Self::NoAccess(_) => "no_access",
        }
    }
}
