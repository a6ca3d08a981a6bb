//! `berth route`.

use berth_client::{Client, v1};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Kind;
use super::flags::{Described, GetArgs, ListOfStamp};
use crate::device::WriteArgs;
use crate::failure::Failure;
use crate::present;
use crate::screen::{Column, Screen};

#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// Say which stamp and app endpoint serve a host or tenant
    // Beside `get` in the list of commands: both answer a key.
    #[command(display_order = 1)]
    Lookup(GetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RouteFields {
    /// Key: a host or tenant
    key: String,
    /// The stamp that serves it
    #[arg(long)]
    stamp: String,
    #[command(flatten)]
    write: WriteArgs,
}

impl From<RouteFields> for Described<v1::Route> {
    fn from(fields: RouteFields) -> Self {
        let object = v1::Route { key: fields.key, stamp: fields.stamp, revision: 0 };
        Self { object, given: vec!["stamp"], write: fields.write }
    }
}

impl Kind for v1::Route {
    const WORD: &'static str = "route";
    const KEY: &'static str = "key";
    const UPDATES: &'static str = "Point a route at another stamp";
    const DELETES: &'static str = "Delete a route";
    const COLUMNS: &'static [Column] =
        &[Column("KEY", "/key"), Column("STAMP", "/stamp"), Column("REVISION", "/revision")];

    type List = ListOfStamp;
    type New = RouteFields;
    type Fields = RouteFields;
    type More = RouteCommand;

    fn shown(&self) -> Value {
        present::route(self)
    }

    async fn more(client: &Client, more: RouteCommand, screen: &mut Screen) -> Result<(), Failure> {
        let RouteCommand::Lookup(get) = more;
        let answer = client.lookup_route(&get.name, Some(get.read.consistency)).await?;
        screen.one(&json!({
            "key": answer.key,
            "stamp": answer.stamp,
            "app_endpoint": answer.app_endpoint,
            "state": present::accept_state(answer.state),
            "revision": answer.revision,
        }))?;
        Ok(())
    }
}
