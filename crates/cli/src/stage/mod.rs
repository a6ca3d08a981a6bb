//! A cluster and an Azure in this process, for a demo or a bench that has none of its own.

pub(crate) mod azure;
mod nodes;

use std::time::Duration;

use berth_client::{Client, Options};

use crate::failure::Failure;

pub(crate) use azure::Azure;
pub(crate) use nodes::Nodes;

/// How long any step may wait for the cluster.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A client of these nodes, with the patience of a demo.
pub(crate) fn client(addresses: &[String]) -> Result<Client, Failure> {
    let options = Options { deadline: PATIENCE, ..Options::default() };
    Ok(Client::connect(addresses, options)?)
}
