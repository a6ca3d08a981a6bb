//! `berth scope`.

use std::convert::Infallible;

use berth_client::{Client, v1};
use clap::Args;
use serde_json::Value;

use super::Kind;
use super::flags::{Described, given};
use crate::args::ReadArgs;
use crate::device::WriteArgs;
use crate::failure::Failure;
use crate::screen::{Column, Screen};
use crate::{parse, present};

#[derive(Debug, Args)]
pub(crate) struct ScopeFields {
    /// ID scope, such as 0ne00112233
    name: String,
    /// Host name of its service API
    #[arg(long, value_name = "HOST")]
    service_host: Option<String>,
    /// Where each node finds its connection string, file:PATH or env:NAME; never the credential itself
    #[arg(long, value_name = "REFERENCE")]
    credential_ref: Option<String>,
    /// A hub that is linked to it; all hubs given replace the ones there are
    #[arg(long = "linked-hub", value_name = "HUB")]
    linked_hubs: Vec<String>,
    /// Berth's share of its operations, in percent
    #[arg(long, value_name = "PERCENT")]
    budget_percent: Option<u32>,
    /// What is done where both disagree: adopt or enforce
    #[arg(long, value_parser = parse::repair)]
    repair: Option<v1::RepairRule>,
    /// Whether a lookup of an unknown device asks the provisioning service
    #[arg(long, value_name = "BOOL")]
    read_through: Option<bool>,
    #[command(flatten)]
    write: WriteArgs,
}

impl From<ScopeFields> for Described<v1::Scope> {
    fn from(fields: ScopeFields) -> Self {
        let given = given([
            ("service_host", fields.service_host.is_some()),
            ("credential_ref", fields.credential_ref.is_some()),
            ("linked_hubs", !fields.linked_hubs.is_empty()),
            ("budget_percent", fields.budget_percent.is_some()),
            ("repair", fields.repair.is_some()),
            ("read_through", fields.read_through.is_some()),
        ]);
        let object = v1::Scope {
            name: fields.name,
            service_host: fields.service_host.unwrap_or_default(),
            credential_ref: fields.credential_ref.unwrap_or_default(),
            linked_hubs: fields.linked_hubs,
            budget_percent: fields.budget_percent.unwrap_or_default(),
            repair: fields.repair.unwrap_or_default().into(),
            read_through: fields.read_through.unwrap_or_default(),
            revision: 0,
        };
        Self { object, given, write: fields.write }
    }
}

impl Kind for v1::Scope {
    const WORD: &'static str = "scope";
    const UPDATES: &'static str = "Change what is given of a scope";
    const DELETES: &'static str = "Delete a scope that no device refers to";
    const COLUMNS: &'static [Column] = &[
        Column("SCOPE", "/name"),
        Column("SERVICE HOST", "/service_host"),
        Column("LINKED HUBS", "/linked_hubs"),
        Column("REPAIR", "/repair"),
        Column("READ THROUGH", "/read_through"),
    ];

    type List = ReadArgs;
    type New = ScopeFields;
    type Fields = ScopeFields;
    type More = Infallible;

    fn shown(&self) -> Value {
        present::scope(self)
    }

    async fn more(_: &Client, more: Infallible, _: &mut Screen) -> Result<(), Failure> {
        match more {}
    }
}
