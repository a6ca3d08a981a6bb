//! How one speaks to Azure's Device Provisioning Service (DPS), to an IoT hub, and to Traffic Manager.
//!
//! - [`dps::Service`] administers enrollments, groups and records of registrations; [`dps::Device`] does what a device
//!   does to learn its hub. [`hub::Service`] is one hub's registry, twins, queries and direct methods.
//!   [`traffic_manager::Service`] changes what DNS answers.
//! - A [`Client`] holds what they share: a [`Transport`] with its connections, and the [`Surroundings`] that give time
//!   and chance.
//! - A [`Credential`] is made from a file or an environment variable, never from a text in a configuration.
//! - Every call ends within its time, is repeated a bounded number of times where that is safe, and asks a [`Budget`]
//!   before each request. [`AzureError`] keeps what Azure said and says what it means.
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use berth_azure::id::RegistrationId;
//! use berth_azure::{Client, Credential, Endpoints, KeySource, System, Transport, dps};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(Transport::new(Endpoints::public())?, Arc::new(System::new()));
//! let credential = Credential::connection_string(KeySource::Environment("DPS_CONNECTION_STRING".into()))?;
//! let host = credential.host().cloned().ok_or("a bearer token names no host")?;
//! let dps = dps::Service::new(client, host, credential).within(Duration::from_secs(10));
//! let state = dps.registration(&RegistrationId::new("pump-1")?).await?;
//! # let _ = state;
//! # Ok(())
//! # }
//! ```
//!
//! Not here: devices with certificates, modules, jobs, and messages to devices (those go by AMQP).

mod client;
mod credential;
pub mod dps;
mod error;
pub mod hub;
pub mod id;
mod json;
mod secret;
mod surroundings;
mod time;
pub mod traffic_manager;
mod transport;

pub use client::{
    ATTEMPT_MAX, ATTEMPTS, ATTEMPTS_MAX, Budget, CONTINUATION_BYTES_MAX, Client, Continuation, Ended,
    IfMatch, OddRow, Outgoing, PAGE_ITEMS_MAX, PAGES_MAX, Page, Permit, Query, REQUEST_BYTES_MAX,
    RETRY_AFTER_MAX, Spent, WAIT_FIRST, WAIT_MAX, WITHIN, WITHIN_MAX,
};
pub use credential::{
    ARM_SCOPE, Credential, DPS_SCOPE, DeviceKey, HUB_SCOPE, RENEW_BEFORE, SIGNATURE_LIFE, StoredToken,
    TOKEN_REREAD, Token, TokenSource,
};
pub use error::{
    AzureError, Conflicting, MESSAGE_CHARS_MAX, Missing, NAME_CHARS_MAX, Place, RETRY_AFTER_TOLD_MAX, Told,
};
pub use json::Unknown;
pub use secret::{
    CredentialError, KEY_BYTES_MAX, KEY_BYTES_MIN, KeyError, KeySource, SECRET_BYTES_MAX, Secret, SharedKey,
};
pub use surroundings::{Surroundings, System};
pub use time::{Timestamp, TimestampError};
pub use transport::{
    BODY_BYTES_MAX, CONNECTIONS_PER_HOST, ERROR_BYTES_MAX, EXTRA_AUTHORITIES_MAX, EndpointError, Endpoints,
    HOSTS_MAX, OBJECT_BYTES_MAX, OVERRIDES_MAX, PEM_BYTES_MAX, Transport,
};
