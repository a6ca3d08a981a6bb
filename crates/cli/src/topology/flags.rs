//! Flags that several kinds of objects take.

use berth_client::v1;
use clap::Args;

use crate::args::ReadArgs;
use crate::device::WriteArgs;
use crate::parse::{self, Limit};

/// An object as flags describe it.
pub(crate) struct Described<K> {
    pub(super) object: K,
    /// The fields that were given.
    pub(super) given: Vec<&'static str>,
    pub(super) write: WriteArgs,
}

/// The names of those fields that were given.
pub(super) fn given<const N: usize>(fields: [(&'static str, bool); N]) -> Vec<&'static str> {
    fields.into_iter().filter_map(|(field, is_given)| is_given.then_some(field)).collect()
}

#[derive(Debug, Args)]
pub(crate) struct ListOfStamp {
    /// Only those of this stamp
    #[arg(long)]
    pub(super) stamp: Option<String>,
    #[command(flatten)]
    pub(super) read: ReadArgs,
}

impl From<ReadArgs> for ListOfStamp {
    fn from(read: ReadArgs) -> Self {
        Self { stamp: None, read }
    }
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Its name, or the key of a route
    pub(super) name: String,
    #[command(flatten)]
    pub(super) read: ReadArgs,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs<F: Args> {
    #[command(flatten)]
    pub(super) fields: F,
    #[command(flatten)]
    pub(super) expected: ExpectedArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Its name, or the key of a route
    pub(super) name: String,
    #[command(flatten)]
    pub(super) expected: ExpectedArgs,
    #[command(flatten)]
    pub(super) write: WriteArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExpectedArgs {
    /// Only if its last change was this revision; 0 means whatever it was
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    pub(super) if_revision: u64,
}

#[derive(Debug, Args)]
pub(crate) struct CapacityFields {
    /// Past so many devices, arrivals are reported; a number or `unlimited`
    #[arg(long, value_name = "DEVICES", value_parser = parse::limit)]
    pub(super) soft: Option<Limit>,
    /// Past so many devices, arrivals are refused; a number or `unlimited`
    #[arg(long, value_name = "DEVICES", value_parser = parse::limit)]
    pub(super) hard: Option<Limit>,
}

impl CapacityFields {
    /// The capacity, where any of it was given.
    pub(super) fn capacity(&self) -> Option<v1::Capacity> {
        let limit = |limit: Option<Limit>| limit.and_then(|limit| limit.0);
        let is_given = self.soft.is_some() || self.hard.is_some();
        is_given.then(|| v1::Capacity { soft: limit(self.soft), hard: limit(self.hard) })
    }
}
