//! An emulator of what Berth needs of Azure: the Device Provisioning Service (DPS) with its service and device APIs,
//! IoT Hub's service API, and Traffic Manager over Azure Resource Manager.
//!
//! ```no_run
//! use std::sync::Arc;
//! use berth_emulator::{Config, Emulator, SystemRandomness, WallClock};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::from_toml(&std::fs::read_to_string("emulator.toml")?)?;
//! let running = Emulator::start(config, Arc::new(WallClock::new()), Arc::new(SystemRandomness)).await?;
//! println!("https://localhost:{}", running.https_address().port());
//! running.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The emulator answers as the services answer, including their refusals, throttles and open questions. What is not
//! known of Azure is a switch in [`Switches`], whose default is the stricter reading.
//!
//! # What is not emulated
//!
//! AMQP and MQTT; attestation by TPM and X.509 (such enrollments are stored, and no device registers by them); jobs,
//! configurations and cloud-to-device messages; ARM beyond Traffic Manager profiles and their endpoints.
//!
//! # Control
//!
//! [`Running::command`] drives time, faults and devices. The same commands are served as
//! `POST /_emulator/commands` where [`ControlConfig::enabled`] says so: the body is one [`Command`] as JSON, the
//! answer `{"result": …}`.
//!
//! Faults and counters know operations by these names, and several at once by their beginning, such as `dps` or
//! `hub.twin`:
//!
//! | Service | Operations |
//! |---|---|
//! | DPS, service API | `dps.enrollment.{get,put,delete,query,bulk,attestation}`, the same of `dps.group`, `dps.registration.{get,delete,query}` |
//! | DPS, device API | `device.{register,poll,lookup}` |
//! | IoT Hub | `hub.identity.{get,put,delete,list,modules,bulk}`, `hub.twin.{get,patch,put}`, `hub.query`, `hub.method`, `hub.statistics.{devices,service}`, `hub.purge` |
//! | Traffic Manager | `arm.profile.{get,put,patch}`, `arm.endpoint.{get,put,patch,delete}` |
//!
//! # Fleets
//!
//! A [`FleetConfig`] simulates devices: each registers through the device API, as any other caller does, connects to
//! the hub it was told, and comes back with the back-off of real devices when it is thrown off. A direct method named
//! `reprovision` makes a device register anew; all others are answered by its [`Behaviour`].
//!
//! # What is quicker than Azure
//!
//! Hubs are created with their throttles and quotas, and not with the delays of their insides: statistics are exact,
//! `connectionState` changes at once, and queries lag only by [`HubConfig::query_lag_ms`]. A move of a device whose old
//! hub is out fails where its data has to migrate, and otherwise leaves the old identity behind; the live service was
//! never seen doing either.
//!
//! # Rooms
//!
//! `world` holds the state machines, and knows neither sockets nor clocks; `auth` knows signatures and rights; `http`
//! finds the operation of a request and words its answer; `devices` are callers that live in the same process.

mod auth;
mod clock;
mod config;
mod control;
mod devices;
mod faults;
mod http;
mod running;
mod stop;
mod throttle;
mod version;
mod world;

pub use clock::{Clock, Randomness, SeededRandomness, SteppedClock, SystemRandomness, Time, Wait, WallClock};
pub use config::{
    Allocation, BackOffConfig, BearerConfig, BulkOverLimit, Config, ConfigError, ControlConfig, DpsConfig,
    EndpointConfig, ErrorBody, FailedRegistration, FleetConfig, HubConfig, IdCase, InvalidReprovisionPolicy,
    LinkedHub, MethodMissing, Moving, PolicyConfig, ProfileConfig, RegisterWhileAssigning, Right, Secret,
    Switches, ThrottleConfig, Tier, WebhookConfig, WriteToMissing, WriteWithoutKeys,
};
pub use control::{Command, CommandError};
pub use devices::Behaviour;
pub use faults::FailNext;
pub use http::TlsError;
pub use running::{Assignment, Emulator, Running, StartError};
pub use world::LoadError;
