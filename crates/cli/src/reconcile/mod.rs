//! `berth reconcile`: where the directory and Azure disagree, and what is done about it.

mod sweep;

use berth_client::v1;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::args::Common;
use crate::device::WriteArgs;
use crate::failure::{EXIT_DONE, EXIT_REFUSED, Failure};
use crate::parse;
use crate::present;
use crate::screen::{Column, Format, Screen};

/// Rows a page of a list, where no limit asks for fewer.
const PAGE_SIZE: u32 = 1_000;

/// Flags of `berth reconcile`.
#[derive(Debug, Args)]
pub(crate) struct ReconcileArgs {
    #[command(subcommand)]
    command: ReconcileCommand,
}

#[derive(Debug, Subcommand)]
enum ReconcileCommand {
    /// Compare one device with Azure now
    #[command(
        after_help = "Exit codes: 3 where nobody knows the device, 1 where Azure disagrees, names no hub, or could not be asked."
    )]
    Device(DeviceArgs),
    /// Compare all devices with Azure, at a pace that leaves reports their share
    Sweep(sweep::SweepArgs),
    /// List the devices that Azure and the directory disagree over
    Drift(DriftArgs),
    /// End a disagreement
    Resolve(ResolveArgs),
    /// Say how often Azure may be asked
    Budget(BudgetArgs),
}

#[derive(Debug, Args)]
struct DeviceArgs {
    /// Device ID
    id: String,
}

#[derive(Debug, Args)]
struct DriftArgs {
    /// Only of this class, such as pending or wrong-hub
    #[arg(long, value_parser = parse::drift)]
    class: Option<v1::DriftClass>,
    /// Only of this scope
    #[arg(long)]
    scope: Option<String>,
    /// Most devices to list; 0 lists all
    #[arg(long, default_value_t = 0)]
    limit: u64,
}

#[derive(Debug, Args)]
struct ResolveArgs {
    /// Device ID
    id: String,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct HowArgs {
    /// The directory takes Azure's side
    #[arg(long)]
    adopt: bool,
    /// The provisioning service is made to follow: the device's own enrollment is rewritten
    #[arg(long)]
    enforce: bool,
    /// Take it from the list; it comes back when it is found again
    #[arg(long)]
    dismiss: bool,
}

#[derive(Debug, Args)]
struct BudgetArgs {
    /// Only of this scope
    #[arg(long, conflicts_with = "hub")]
    scope: Option<String>,
    /// Only of this hub
    #[arg(long)]
    hub: Option<String>,
}

const DEVICE_COLUMNS: [Column; 7] = [
    Column("DEVICE", "/device_id"),
    Column("FINDING", "/finding"),
    Column("HUB", "/mapping/hub"),
    Column("STATUS", "/mapping/status"),
    Column("EPOCH", "/mapping/epoch"),
    Column("DRIFT", "/drift/class"),
    Column("PROBLEM", "/problem"),
];

const DRIFT_COLUMNS: [Column; 8] = [
    Column("DEVICE", "/device_id"),
    Column("CLASS", "/class"),
    Column("OUR HUB", "/ours/hub"),
    Column("OUR STATUS", "/ours/status"),
    Column("THEIR HUB", "/theirs/hub"),
    Column("THEIR STATUS", "/theirs/status"),
    Column("SINCE", "/since"),
    Column("SCOPE", "/scope"),
];

const BUDGET_COLUMNS: [Column; 7] = [
    Column("KIND", "/kind"),
    Column("NAME", "/name"),
    Column("SHARE %", "/share_percent"),
    Column("PER MINUTE", "/per_minute"),
    Column("LEFT", "/left"),
    Column("CLOSED UNTIL", "/closed_until"),
    Column("READ-THROUGH", "/read_through_per_minute"),
];

pub(crate) async fn run(common: &Common, args: ReconcileArgs, screen: &mut Screen) -> Result<u8, Failure> {
    match args.command {
        ReconcileCommand::Device(args) => device(common, args, screen).await,
        ReconcileCommand::Sweep(args) => sweep::run(common, args, screen).await,
        ReconcileCommand::Drift(args) => drift(common, args, screen).await,
        ReconcileCommand::Resolve(args) => resolve(common, args, screen).await,
        ReconcileCommand::Budget(args) => budget(common, args, screen).await,
    }
}

async fn device(common: &Common, args: DeviceArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let request = v1::ReconcileDeviceRequest { device_id: args.id.clone() };
    let answer = common.client()?.reconcile_device(request).await?;
    let negative = answer.negative;
    let row = json!({
        "device_id": args.id,
        "finding": present::finding(answer.finding),
        "negative": if negative == 0 { Value::Null } else { present::negative_kind(negative).into() },
        "mapping": answer.mapping.as_ref().map(present::mapping),
        "drift": answer.drift.as_ref().map(present::drift_record),
        "others": answer.others.iter().map(present::drift_record).collect::<Vec<_>>(),
        "problem": if answer.problem.is_empty() { Value::Null } else { answer.problem.clone().into() },
        "again_after_ms": answer.again_after.as_ref().map(present::millis),
        "header": present::header(answer.header.as_ref()),
    });
    if screen.format == Format::Table {
        screen.list(&DEVICE_COLUMNS, std::slice::from_ref(&row))?;
    } else {
        screen.one(&row)?;
    }
    let has_hub = answer.mapping.is_some_and(|mapping| mapping.status() == v1::MappingStatus::Assigned);
    Ok(match v1::ReportFinding::try_from(answer.finding).unwrap_or_default() {
        v1::ReportFinding::Drift | v1::ReportFinding::Negative | v1::ReportFinding::NotVerified => {
            EXIT_REFUSED
        }
        _ if has_hub => EXIT_DONE,
        _ => EXIT_REFUSED,
    })
}

async fn drift(common: &Common, args: DriftArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let (client, limit) = (common.client()?, if args.limit == 0 { u64::MAX } else { args.limit });
    let mut request = v1::ListDriftRequest {
        class: args.class.unwrap_or_default().into(),
        scope: args.scope.unwrap_or_default(),
        ..Default::default()
    };
    let mut rows: Vec<Value> = Vec::new();
    loop {
        let left = limit - rows.len() as u64;
        request.page_size = u32::try_from(left).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
        let page = client.list_drift(request.clone()).await?;
        rows.extend(page.drifts.iter().map(present::drift_record));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || rows.len() as u64 >= limit {
            if page.dropped > 0 {
                let dropped = page.dropped;
                screen.complain(&format!("warning: the list was full, {dropped} others are no longer in it"));
            }
            screen.list(&DRIFT_COLUMNS, &rows)?;
            return Ok(EXIT_DONE);
        }
    }
}

async fn resolve(common: &Common, args: ResolveArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let how = match (args.how.adopt, args.how.enforce) {
        (true, _) => v1::DriftResolution::Adopt,
        (false, true) => v1::DriftResolution::Enforce,
        (false, false) => v1::DriftResolution::Dismiss,
    };
    let request = v1::ResolveDriftRequest {
        request_id: args.write.request_id,
        reason: args.write.reason,
        validate_only: args.write.dry_run,
        device_id: args.id.clone(),
        how: how.into(),
    };
    let answer = common.client()?.resolve_drift(request).await?;
    for warning in &answer.warnings {
        screen.complain(&format!("warning: {}", present::told(warning)));
    }
    let done = match answer.end() {
        v1::DriftEnd::Adopted => "the directory takes Azure's side",
        v1::DriftEnd::Enforced => {
            "the enrollment names the directory's hub; the device has to register again"
        }
        v1::DriftEnd::Settled => "Azure and the directory agree by now",
        v1::DriftEnd::Dismissed | v1::DriftEnd::Unspecified => "no longer listed",
    };
    let would = if args.write.dry_run { "would be: " } else { "" };
    screen.say(&format!("{}: {would}{done}, epoch {}", args.id, answer.epoch))?;
    if screen.format != Format::Table {
        screen.one(&json!({
            "device_id": args.id,
            "end": present::drift_end(answer.end),
            "epoch": if answer.epoch == 0 { Value::Null } else { answer.epoch.into() },
            "dry_run": args.write.dry_run,
            "warnings": present::warnings(&answer.warnings),
            "header": present::header(answer.header.as_ref()),
        }))?;
    }
    Ok(EXIT_DONE)
}

async fn budget(common: &Common, args: BudgetArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let client = common.client()?;
    let mut request = v1::GetBudgetRequest {
        scope: args.scope.unwrap_or_default(),
        hub: args.hub.unwrap_or_default(),
        page_size: PAGE_SIZE,
        ..Default::default()
    };
    let mut rows: Vec<Value> = Vec::new();
    loop {
        let page = client.budget(request.clone()).await?;
        rows.extend(page.budgets.iter().map(present::azure_budget));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            screen.list(&BUDGET_COLUMNS, &rows)?;
            return Ok(EXIT_DONE);
        }
    }
}
