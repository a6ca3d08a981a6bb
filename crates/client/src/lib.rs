//! How do services talk to Berth?
//!
//! A [`Client`] knows several nodes of one cluster. Reads go to any of them and are repeated elsewhere where a node
//! is away; writes find the leader, carry a request ID and are only ever repeated under that same ID, so that no
//! write happens twice. The client remembers the newest read token it has seen, so that a caller can ask never to
//! read below it. It keeps no mapping: what it returns is what a node has just said.
//!
//! ```no_run
//! use berth_client::{Client, Options, linearizable};
//!
//! # async fn example() -> Result<(), berth_client::Error> {
//! let client = Client::connect(&["127.0.0.1:7400", "127.0.0.1:7410"], Options::default())?;
//! let answer = client.lookup("pump-17", linearizable()).await?;
//! # Ok(())
//! # }
//! ```

mod backoff;
mod call;
mod cluster;
mod device;
mod error;
mod import;
mod lookup;
mod message;
mod mint;
mod node;
mod options;
mod reconcile;
mod session;
mod topology;

pub use berth_proto::v1;

pub use berth_proto::error::ApiError;
pub use call::Client;
pub use device::{DevicePages, ExportStream};
pub use error::{EndpointError, Error};
pub use import::{CHUNK_ROWS_MAX, CHUNKS_IN_FLIGHT_MAX, ImportTotals};
pub use lookup::LookupLane;
pub use message::pack_ids;
pub use options::{Options, at_least, bounded, linearizable, local};
