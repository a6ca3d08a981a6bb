//! `berth capacity` and `berth suggest`: how full everything is, and where new devices would go.

use berth_client::v1;
use clap::Args;
use serde_json::{Value, json};

use crate::args::{Common, ReadArgs};
use crate::failure::{EXIT_DONE, Failure};
use crate::parse;
use crate::present;
use crate::screen::{Column, Format, Screen};

/// Flags of `berth capacity`.
#[derive(Debug, Args)]
pub(crate) struct CapacityArgs {
    /// Only this stamp and its hubs
    #[arg(long)]
    stamp: Option<String>,
    #[command(flatten)]
    read: ReadArgs,
}

/// Flags of `berth suggest`.
#[derive(Debug, Args)]
#[command(after_help = "Exit code 1 where no hub has room for all of the devices.")]
pub(crate) struct SuggestArgs {
    /// How many devices; all of them are to go to one hub
    #[arg(long, default_value_t = 1)]
    devices: u64,
    /// Only stamps with all of these labels
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<(String, String)>,
    /// Only hubs linked to this scope
    #[arg(long)]
    scope: Option<String>,
    #[command(flatten)]
    read: ReadArgs,
}

pub(crate) async fn capacity(
    common: &Common,
    args: CapacityArgs,
    screen: &mut Screen,
) -> Result<u8, Failure> {
    let request = v1::GetCapacityRequest {
        stamp: args.stamp.unwrap_or_default(),
        consistency: Some(args.read.consistency),
    };
    let answer = common.client()?.get_capacity(request).await?;
    let stamps: Vec<Value> = answer.stamps.iter().map(usage).collect();
    let hubs: Vec<Value> = answer.hubs.iter().map(usage).collect();
    if screen.format != Format::Table {
        screen.one(&json!({
            "stamps": stamps,
            "hubs": hubs,
            "header": present::header(answer.header.as_ref()),
        }))?;
        return Ok(EXIT_DONE);
    }
    screen.list(
        &[
            Column("STAMP", "/name"),
            Column("STATE", "/state"),
            Column("DEVICES", "/devices"),
            Column("RESERVED", "/reserved"),
            Column("SOFT", "/capacity/soft"),
            Column("HARD", "/capacity/hard"),
            Column("HEADROOM", "/headroom"),
            Column("COST/MONTH", "/total_per_month"),
            Column("PER DEVICE", "/per_device_month"),
            Column("", "/cost/currency"),
        ],
        &stamps,
    )?;
    screen.say("")?;
    screen.list(
        &[
            Column("HUB", "/name"),
            Column("STAMP", "/stamp"),
            Column("STATE", "/state"),
            Column("DEVICES", "/devices"),
            Column("RESERVED", "/reserved"),
            Column("SOFT", "/capacity/soft"),
            Column("HARD", "/capacity/hard"),
            Column("HEADROOM", "/headroom"),
        ],
        &hubs,
    )?;
    Ok(EXIT_DONE)
}

fn usage(usage: &v1::Usage) -> Value {
    let is_stamp = usage.kind() == v1::TopologyKind::Stamp;
    let mut row = json!({
        "name": usage.name,
        "state": present::accept_state(usage.state),
        "devices": usage.devices,
        "reserved": usage.reserved,
        "capacity": present::capacity(usage.capacity.as_ref()),
        "headroom": usage.headroom,
    });
    if is_stamp {
        row["cost"] = present::cost(usage.cost.as_ref());
        row["total_per_month"] = present::amount(usage.total_micros_per_month).into();
        row["per_device_month"] = json!(usage.micros_per_device_month.map(present::amount));
    } else {
        row["stamp"] = usage.stamp.clone().into();
    }
    row
}

pub(crate) async fn suggest(common: &Common, args: SuggestArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let request = v1::SuggestPlacementRequest {
        devices: args.devices,
        labels: args.labels.into_iter().collect(),
        scope: args.scope.unwrap_or_default(),
        consistency: Some(args.read.consistency),
    };
    let answer = common.client()?.suggest_placement(request).await?;
    let placement = |p: &v1::Placement| json!({ "hub": p.hub, "stamp": p.stamp, "headroom": p.headroom, "over_soft": p.over_soft });
    let placements: Vec<Value> = answer.placements.iter().map(placement).collect();
    if screen.format == Format::Table {
        let columns = [
            Column("HUB", "/hub"),
            Column("STAMP", "/stamp"),
            Column("HEADROOM", "/headroom"),
            Column("OVER SOFT", "/over_soft"),
        ];
        screen.list(&columns, &placements)?;
    } else {
        let header = present::header(answer.header.as_ref());
        screen.one(&json!({ "placements": placements, "header": header }))?;
    }
    if placements.is_empty() {
        let devices = args.devices;
        let problem =
            format!("no hub has room for {devices} devices; raise capacities, uncordon hubs, or add hubs");
        return Err(Failure::refused(problem));
    }
    Ok(EXIT_DONE)
}
