//! `berth report`: what was seen at a hub, and the mapping to use next.

use berth_client::v1;
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::args::Common;
use crate::failure::{EXIT_DONE, EXIT_NOT_FOUND, EXIT_REFUSED, Failure};
use crate::present;
use crate::screen::{Column, Format, Screen};

/// Flags of `berth report`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 3 where the device is unknown, 1 where it is known but has no hub to call."
)]
pub(crate) struct ReportArgs {
    /// Device ID
    id: String,
    /// Host name of the hub that was called
    #[arg(long)]
    hub: String,
    /// Epoch of the mapping that the call went by, as a lookup told it
    #[arg(long)]
    epoch: u64,
    /// What was seen at the hub
    #[arg(long, value_enum)]
    observed: Observed,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Observed {
    /// The device answered
    Ok,
    /// The hub does not know the device, or has it disabled (404001)
    NotFound,
    /// The device is not connected (404103)
    Offline,
    /// The hub's registry says that it is disabled
    Disabled,
}

const COLUMNS: [Column; 7] = [
    Column("DEVICE", "/device_id"),
    Column("FINDING", "/finding"),
    Column("HUB", "/hub"),
    Column("STATUS", "/status"),
    Column("EPOCH", "/epoch"),
    Column("DRIFT", "/drift"),
    Column("PROBLEM", "/problem"),
];

pub(crate) async fn run(common: &Common, args: ReportArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let observation = match args.observed {
        Observed::Ok => v1::HubObservation::Ok,
        Observed::NotFound => v1::HubObservation::NotFound,
        Observed::Offline => v1::HubObservation::Offline,
        Observed::Disabled => v1::HubObservation::Disabled,
    };
    let request = v1::ReportRequest {
        device_id: args.id.clone(),
        hub: args.hub,
        epoch: args.epoch,
        observation: observation.into(),
    };
    let answer = common.client()?.report(request).await?;
    let row = row_of(&args.id, &answer)?;
    if screen.format == Format::Table {
        screen.list(&COLUMNS, std::slice::from_ref(&row))?;
    } else {
        screen.one(&row)?;
    }
    Ok(match (&row["hub"], row["status"].as_str()) {
        (Value::Null, Some("UNKNOWN")) => EXIT_NOT_FOUND,
        (Value::Null, _) => EXIT_REFUSED,
        _ => EXIT_DONE,
    })
}

fn row_of(id: &str, answer: &v1::ReportResponse) -> Result<Value, Failure> {
    let mut row = match &answer.result {
        Some(v1::report_response::Result::Found(found)) => present::found(id, found),
        Some(v1::report_response::Result::Negative(negative)) => present::negative(id, negative),
        None => return Err(Failure::refused("the answer has neither a hub nor a reason for none")),
    };
    let some = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    row["finding"] = present::finding(answer.finding).into();
    row["drift"] = if answer.drift == 0 { Value::Null } else { present::drift(answer.drift).into() };
    row["other_hub"] = some(&answer.other_hub);
    row["retry_after_ms"] = answer.retry_after.as_ref().map(present::millis).into();
    row["problem"] = some(&answer.problem);
    row["header"] = present::header(answer.header.as_ref());
    Ok(row)
}
