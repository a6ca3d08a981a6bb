//! `berth stamp`.

use berth_client::{Client, v1};
use clap::Args;
use serde_json::Value;

use super::Kind;
use super::flags::{CapacityFields, Described, given};
use super::state::{self, StateCommand};
use crate::args::ReadArgs;
use crate::device::WriteArgs;
use crate::failure::Failure;
use crate::screen::{Column, Screen};
use crate::{parse, present};

#[derive(Debug, Args)]
pub(crate) struct StampFields {
    /// Name
    name: String,
    /// State: active, cordoned, draining or offline
    #[arg(long, value_parser = parse::accept_state)]
    state: Option<v1::AcceptState>,
    /// A label, key=value; all labels given replace the ones there are
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    capacity: CapacityFields,
    /// URL of its app endpoint; empty clears it
    #[arg(long, value_name = "URL")]
    app_endpoint: Option<String>,
    /// Currency of the cost figures, such as EUR
    #[arg(long, value_name = "CODE", default_value = "", hide_default_value = true)]
    currency: String,
    /// Its cost a month without any device
    #[arg(long, value_name = "AMOUNT", value_parser = parse::micros)]
    fixed_per_month: Option<u64>,
    /// Additional cost of each device a month
    #[arg(long, value_name = "AMOUNT", value_parser = parse::micros)]
    per_device_month: Option<u64>,
    #[command(flatten)]
    write: WriteArgs,
}

impl From<StampFields> for Described<v1::Stamp> {
    fn from(fields: StampFields) -> Self {
        let has_cost = fields.fixed_per_month.is_some()
            || fields.per_device_month.is_some()
            || !fields.currency.is_empty();
        let given = given([
            ("capacity.soft", fields.capacity.soft.is_some()),
            ("capacity.hard", fields.capacity.hard.is_some()),
            ("state", fields.state.is_some()),
            ("labels", !fields.labels.is_empty()),
            ("app_endpoint", fields.app_endpoint.is_some()),
            ("cost", has_cost),
        ]);
        let object = v1::Stamp {
            name: fields.name,
            state: fields.state.unwrap_or_default().into(),
            labels: fields.labels.into_iter().collect(),
            capacity: fields.capacity.capacity(),
            app_endpoint: fields.app_endpoint.unwrap_or_default(),
            cost: has_cost.then_some(v1::Cost {
                currency: fields.currency,
                fixed_micros_per_month: fields.fixed_per_month.unwrap_or_default(),
                device_micros_per_month: fields.per_device_month.unwrap_or_default(),
            }),
            revision: 0,
        };
        Self { object, given, write: fields.write }
    }
}

impl Kind for v1::Stamp {
    const WORD: &'static str = "stamp";
    const UPDATES: &'static str = "Change what is given of a stamp";
    const DELETES: &'static str = "Delete a stamp that nothing refers to";
    const COLUMNS: &'static [Column] = &[
        Column("STAMP", "/name"),
        Column("STATE", "/state"),
        Column("SOFT", "/capacity/soft"),
        Column("HARD", "/capacity/hard"),
        Column("LABELS", "/labels"),
        Column("APP ENDPOINT", "/app_endpoint"),
    ];

    type List = ReadArgs;
    type New = StampFields;
    type Fields = StampFields;
    type More = StateCommand;

    fn shown(&self) -> Value {
        present::stamp(self)
    }

    async fn more(client: &Client, more: StateCommand, screen: &mut Screen) -> Result<(), Failure> {
        state::set::<Self>(client, more, v1::set_state_request::Target::Stamp, screen).await
    }
}
