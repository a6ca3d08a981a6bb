//! `berth hub`.

use berth_client::{Client, v1};
use clap::Args;
use serde_json::Value;

use super::Kind;
use super::flags::{CapacityFields, Described, ListOfStamp, given};
use super::state::{self, StateCommand};
use crate::device::WriteArgs;
use crate::failure::Failure;
use crate::screen::{Column, Screen};
use crate::{parse, present};

#[derive(Debug, Args)]
pub(crate) struct HubFields {
    /// Host name
    name: String,
    /// State: active, cordoned, draining or offline
    #[arg(long, value_parser = parse::accept_state)]
    state: Option<v1::AcceptState>,
    #[command(flatten)]
    capacity: CapacityFields,
    /// Tier: f1, b1, b2, b3, s1, s2 or s3
    #[arg(long, value_parser = parse::tier)]
    tier: Option<v1::HubTier>,
    /// Units of that tier
    #[arg(long)]
    units: Option<u32>,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NewHub {
    #[command(flatten)]
    fields: HubFields,
    /// The stamp that it belongs to
    #[arg(long)]
    stamp: String,
}

impl From<HubFields> for Described<v1::Hub> {
    fn from(fields: HubFields) -> Self {
        let given = given([
            ("capacity.soft", fields.capacity.soft.is_some()),
            ("capacity.hard", fields.capacity.hard.is_some()),
            ("state", fields.state.is_some()),
            ("tier", fields.tier.is_some()),
            ("units", fields.units.is_some()),
        ]);
        let object = v1::Hub {
            name: fields.name,
            stamp: String::new(),
            state: fields.state.unwrap_or_default().into(),
            capacity: fields.capacity.capacity(),
            tier: fields.tier.unwrap_or_default().into(),
            units: fields.units.unwrap_or_default(),
            revision: 0,
        };
        Self { object, given, write: fields.write }
    }
}

impl From<NewHub> for Described<v1::Hub> {
    fn from(new: NewHub) -> Self {
        let mut described = Self::from(new.fields);
        described.object.stamp = new.stamp;
        described
    }
}

impl Kind for v1::Hub {
    const WORD: &'static str = "hub";
    const UPDATES: &'static str = "Change what is given of a hub";
    const DELETES: &'static str = "Delete a hub that nothing refers to";
    const COLUMNS: &'static [Column] = &[
        Column("HUB", "/name"),
        Column("STAMP", "/stamp"),
        Column("STATE", "/state"),
        Column("SOFT", "/capacity/soft"),
        Column("HARD", "/capacity/hard"),
        Column("TIER", "/tier"),
        Column("UNITS", "/units"),
    ];

    type List = ListOfStamp;
    type New = NewHub;
    type Fields = HubFields;
    type More = StateCommand;

    fn shown(&self) -> Value {
        present::hub(self)
    }

    async fn more(client: &Client, more: StateCommand, screen: &mut Screen) -> Result<(), Failure> {
        state::set::<Self>(client, more, v1::set_state_request::Target::Hub, screen).await
    }
}
