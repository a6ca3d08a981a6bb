//! `berth device`: assign, get, list and remove devices.

use berth_client::v1;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::args::{Common, ReadArgs};
use crate::failure::{EXIT_DONE, Failure};
use crate::parse;
use crate::present;
use crate::screen::{Column, Format, Screen};

/// Devices a page of a list, where no limit asks for fewer.
const PAGE_SIZE: u32 = 5_000;

/// Flags of `berth device`.
#[derive(Debug, Args)]
pub(crate) struct DeviceArgs {
    #[command(subcommand)]
    command: DeviceCommand,
}

#[derive(Debug, Subcommand)]
enum DeviceCommand {
    /// Create or move a device
    Assign(AssignArgs),
    /// Read a device with everything known of it
    Get(GetArgs),
    /// List devices, all at one revision
    List(ListArgs),
    /// Remove a device from the directory
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
struct AssignArgs {
    /// Device ID
    id: String,
    /// Host name of the hub; without it an existing device stays where it is
    #[arg(long)]
    hub: Option<String>,
    /// Only if the device has no mapping yet
    #[arg(long, conflicts_with = "if_epoch")]
    if_absent: bool,
    /// Only if the mapping is at this epoch
    #[arg(long, value_name = "EPOCH")]
    if_epoch: Option<u64>,
    /// Status to set: unassigned, enrolling, assigned, disabled or failed
    #[arg(long, value_parser = parse::status)]
    status: Option<v1::MappingStatus>,
    /// A label to set, key=value; all labels given replace the ones there are
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<(String, String)>,
    /// Take all labels away
    #[arg(long, conflicts_with = "labels")]
    no_labels: bool,
    /// Provisioning scope to set
    #[arg(long)]
    scope: Option<String>,
    /// Registration ID to set
    #[arg(long)]
    registration_id: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
}

/// What every change takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct WriteArgs {
    /// Why, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    /// Request ID (a UUID of version 7) of a write whose outcome is not known, to repeat it safely
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) request_id: String,
    /// Say what would happen, but write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
struct GetArgs {
    /// Device ID
    id: String,
    /// The ID is a registration ID
    #[arg(long)]
    registration_id: bool,
    /// Provisioning scope to find a registration ID in
    #[arg(long, requires = "registration_id")]
    scope: Option<String>,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Most devices to list; 0 lists all
    #[arg(long, default_value_t = 0)]
    limit: u64,
    #[command(flatten)]
    read: ReadArgs,
}

/// Which devices.
#[derive(Debug, Clone, Args)]
pub(crate) struct FilterArgs {
    /// Only devices on this hub
    #[arg(long)]
    hub: Option<String>,
    /// Only devices on a hub of this stamp
    #[arg(long)]
    stamp: Option<String>,
    /// Only devices with one of these statuses
    #[arg(long = "status", value_parser = parse::status)]
    statuses: Vec<v1::MappingStatus>,
    /// Only devices with all of these labels
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<(String, String)>,
    /// Only devices of this scope
    #[arg(long)]
    scope: Option<String>,
}

impl FilterArgs {
    /// The filter on the wire.
    pub(crate) fn into_filter(self) -> v1::DeviceFilter {
        v1::DeviceFilter {
            hub: self.hub.unwrap_or_default(),
            stamp: self.stamp.unwrap_or_default(),
            statuses: self.statuses.into_iter().map(i32::from).collect(),
            labels: self.labels.into_iter().collect(),
            scope: self.scope.unwrap_or_default(),
        }
    }
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// Device ID
    id: String,
    /// Only if the mapping is at this epoch
    #[arg(long, value_name = "EPOCH")]
    if_epoch: Option<u64>,
    #[command(flatten)]
    write: WriteArgs,
}

const COLUMNS: [Column; 8] = [
    Column("DEVICE", "/device_id"),
    Column("HUB", "/hub"),
    Column("STAMP", "/stamp"),
    Column("STATUS", "/status"),
    Column("EPOCH", "/epoch"),
    Column("SCOPE", "/scope"),
    Column("REGISTRATION", "/registration_id"),
    Column("LABELS", "/labels"),
];

pub(crate) async fn run(common: &Common, args: DeviceArgs, screen: &mut Screen) -> Result<u8, Failure> {
    match args.command {
        DeviceCommand::Assign(args) => assign(common, args, screen).await,
        DeviceCommand::Get(args) => get(common, args, screen).await,
        DeviceCommand::List(args) => list(common, args, screen).await,
        DeviceCommand::Remove(args) => remove(common, args, screen).await,
    }
}

async fn assign(common: &Common, args: AssignArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let labels = (!args.labels.is_empty() || args.no_labels)
        .then(|| v1::LabelSet { labels: args.labels.into_iter().collect() });
    let condition = match (args.if_absent, args.if_epoch) {
        (true, _) => Some(v1::precondition::Condition::Absent(v1::Absent {})),
        (false, epoch) => epoch.map(v1::precondition::Condition::Epoch),
    };
    let assignment = v1::DeviceAssignment {
        device_id: args.id.clone(),
        hub: args.hub.unwrap_or_default(),
        status: args.status.unwrap_or_default().into(),
        labels,
        scope: args.scope.unwrap_or_default(),
        registration_id: args.registration_id.unwrap_or_default(),
        precondition: condition.map(|condition| v1::Precondition { condition: Some(condition) }),
    };
    let request = v1::AssignRequest {
        request_id: args.write.request_id,
        reason: args.write.reason,
        validate_only: args.write.dry_run,
        assignment: Some(assignment),
    };
    let answer = common.client()?.assign(request).await?;
    for warning in &answer.warnings {
        screen.complain(&format!("warning: {}", present::told(warning)));
    }
    let done = match (answer.created, answer.moved) {
        (true, _) => "created",
        (false, true) => "changed",
        (false, false) => "kept its hub and status",
    };
    let would = if args.write.dry_run { "would be: " } else { "" };
    let revision = present::revision(answer.header.as_ref());
    screen.say(&format!("{}: {would}{done}, epoch {}, revision {revision}", args.id, answer.epoch))?;
    if screen.format != Format::Table {
        screen.one(&json!({
            "device_id": args.id,
            "epoch": answer.epoch,
            "created": answer.created,
            "moved": answer.moved,
            "dry_run": args.write.dry_run,
            "warnings": present::warnings(&answer.warnings),
            "header": present::header(answer.header.as_ref()),
        }))?;
    }
    Ok(EXIT_DONE)
}

async fn get(common: &Common, args: GetArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let device = if args.registration_id {
        v1::get_request::Device::Registration(v1::RegistrationRef {
            registration_id: args.id,
            scope: args.scope.unwrap_or_default(),
        })
    } else {
        v1::get_request::Device::DeviceId(args.id)
    };
    let request = v1::GetRequest { device: Some(device), consistency: Some(args.read.consistency) };
    let answer = common.client()?.get(request).await?;
    let mapping = answer.mapping.ok_or_else(|| Failure::refused("the answer has no mapping"))?;
    let mut row = present::mapping(&mapping);
    if screen.format != Format::Table {
        row["header"] = present::header(answer.header.as_ref());
    }
    screen.one(&row)?;
    Ok(EXIT_DONE)
}

async fn list(common: &Common, args: ListArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let limit = if args.limit == 0 { u64::MAX } else { args.limit };
    let mut pages = common.client()?.list(v1::ListRequest {
        page_size: u32::try_from(limit).unwrap_or(PAGE_SIZE).min(PAGE_SIZE),
        filter: Some(args.filter.into_filter()),
        consistency: Some(args.read.consistency),
        ..Default::default()
    });
    let mut rows: Vec<Value> = Vec::new();
    let mut listed = 0;
    while listed < limit
        && let Some(page) = pages.next().await?
    {
        let room = usize::try_from(limit - listed).unwrap_or(usize::MAX);
        let devices = page.devices.iter().take(room).map(present::mapping);
        listed += page.devices.len().min(room) as u64;
        if screen.format == Format::Jsonl {
            screen.list(&COLUMNS, &devices.collect::<Vec<_>>())?;
        } else {
            rows.extend(devices);
        }
    }
    if screen.format != Format::Jsonl {
        screen.list(&COLUMNS, &rows)?;
    }
    Ok(EXIT_DONE)
}

async fn remove(common: &Common, args: RemoveArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let condition = args.if_epoch.map(v1::precondition::Condition::Epoch);
    let request = v1::RemoveRequest {
        request_id: args.write.request_id,
        reason: args.write.reason,
        validate_only: args.write.dry_run,
        device_id: args.id.clone(),
        precondition: condition.map(|condition| v1::Precondition { condition: Some(condition) }),
    };
    let answer = common.client()?.remove(request).await?;
    let done = if args.write.dry_run { "would be removed" } else { "removed" };
    screen.say(&format!("{}: {done}, its last epoch was {}", args.id, answer.epoch))?;
    if screen.format != Format::Table {
        screen.one(&json!({
            "device_id": args.id,
            "epoch": answer.epoch,
            "dry_run": args.write.dry_run,
            "header": present::header(answer.header.as_ref()),
        }))?;
    }
    Ok(EXIT_DONE)
}
