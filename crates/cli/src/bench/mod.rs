//! `berth bench`: a load generator. It keeps so many calls in flight over so many connections, measures in rounds of
//! two seconds, and can measure a bare service of the same message sizes in turns, so that a ratio means something
//! on any machine.

pub(crate) mod echo;
mod load;
mod prepare;
mod raw;
mod reconcile;
mod report;
mod work;

use std::time::Duration;

use berth_client::{Client, v1};
use clap::{Args, Subcommand};

use crate::args::Common;
use crate::failure::{EXIT_DONE, EXIT_REFUSED, Failure};
use crate::parse;
use crate::screen::Screen;
use echo::{Echoed, Method};
use load::{Round, Target};
use report::Report;

/// Length of a round.
const ROUND: Duration = Duration::from_secs(2);
/// Length of the warm-up, which is not counted.
const WARM_UP: Duration = Duration::from_secs(1);
/// Most devices that a bench works on; what they take on the server is the operator's choice below that.
const DEVICES_MAX: u64 = 10_000_000;
/// Most calls in flight over all connections.
const IN_FLIGHT_MAX: usize = 16_384;

/// Flags of `berth bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
A bench writes: it makes a stamp and hubs called bench-…, and devices called bench-… and import-…. Use it on a test cluster.
With --compare-echo, rounds of two seconds alternate between the cluster and a bare gRPC service in another process
that takes the same requests and gives one recorded answer; the figures are medians of these rounds. It reads and writes
the messages, as every service has to; with --compare-echo=bytes it moves their bytes unread.")]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// One device a call
    Lookup(LookupBench),
    /// Many devices a call
    Batch(BatchBench),
    /// Assign devices, in batches or one by one
    Assign(AssignBench),
    /// Import a generated export file
    Import(ImportBench),
    /// Lookups while gateways report every device, on a cluster and an emulated Azure of its own
    Reconcile(reconcile::ReconcileBench),
}

/// What all of them take.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Connections
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Calls in flight on each connection
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// How long to measure
    #[arg(long, default_value_t = 16)]
    seconds: u64,
    /// Devices to work on; missing ones are assigned first
    #[arg(long, default_value_t = 100_000)]
    devices: u64,
}

#[derive(Debug, Args)]
struct LookupBench {
    #[command(flatten)]
    load: LoadArgs,
    /// How fresh the answers have to be: linearizable, local, bounded:DURATION or at-least:TOKEN
    #[arg(long, value_name = "LEVEL", default_value = "linearizable", value_parser = parse::consistency)]
    consistency: v1::Consistency,
    /// Measure a bare gRPC service of the same messages in turns
    #[arg(long, value_name = "WHAT", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "messages")]
    compare_echo: Option<Echoed>,
}

#[derive(Debug, Args)]
struct BatchBench {
    #[command(flatten)]
    lookup: LookupBench,
    /// Devices a call
    #[arg(long, default_value_t = 256)]
    batch: usize,
}

#[derive(Debug, Args)]
struct AssignBench {
    /// How long to measure
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Devices to work on; missing ones are assigned first
    #[arg(long, default_value_t = 100_000)]
    devices: u64,
    /// Devices a call; 1 makes single assignments
    #[arg(long, default_value_t = 1_000)]
    batch: usize,
    /// Callers, each with one call in flight; 8 for batches and 256 for single assignments unless given
    #[arg(long)]
    callers: Option<usize>,
    /// Connections
    #[arg(long, default_value_t = 4)]
    connections: usize,
}

#[derive(Debug, Args)]
struct ImportBench {
    /// Lines of the generated file
    #[arg(long, default_value_t = 1_000_000)]
    devices: u64,
}

pub(crate) async fn run(common: &Common, args: BenchArgs, screen: &mut Screen) -> Result<u8, Failure> {
    match args.command {
        BenchCommand::Lookup(args) => lookup(common, &args, None, screen).await,
        BenchCommand::Batch(args) => lookup(common, &args.lookup, Some(args.batch), screen).await,
        BenchCommand::Assign(args) => assign(common, &args, screen).await,
        BenchCommand::Import(args) => import(common, &args, screen).await,
        BenchCommand::Reconcile(args) => reconcile::run(common, &args, screen).await,
    }
}

/// Measures lookups, singly or in batches.
async fn lookup(
    common: &Common,
    args: &LookupBench,
    batch: Option<usize>,
    screen: &mut Screen,
) -> Result<u8, Failure> {
    let load = &args.load;
    check(
        load.connections,
        load.connections.saturating_mul(load.in_flight),
        load.devices,
        batch.unwrap_or(1),
    )?;
    let client = common.client()?;
    prepare::devices(&client, load.devices, screen).await?;
    let lanes = raw::connect(&common.endpoints, load.connections).await?;
    let consistency = args.consistency.clone();
    let work = match batch {
        None => work::Work::lookup(load.devices, consistency),
        Some(batch) => work::Work::batch(load.devices, batch, consistency),
    };
    let target = Target::new(lanes, load.in_flight, work)?;
    // One answer tells how large answers are, and that the cluster answers at all.
    let sample = target.sample().await?;
    let method = if batch.is_some() { Method::BatchLookup } else { Method::Lookup };
    let echo = if let Some(echoed) = args.compare_echo {
        let echo = echo::EchoProcess::start(echoed, method, &sample.response)?;
        let lanes = raw::connect(&[echo.address()], load.connections).await?;
        let work = target.work.as_echo();
        Some((Target::new(lanes, load.in_flight, work)?, echo))
    } else {
        None
    };

    target.round(WARM_UP).await;
    if let Some((echo, _)) = &echo {
        echo.round(WARM_UP).await;
    }
    let (mut rounds, mut echo_rounds) = (Vec::new(), Vec::new());
    for _ in 0..(load.seconds / ROUND.as_secs()).max(1) {
        rounds.push(target.round(ROUND).await);
        if let Some((echo, _)) = &echo {
            echo_rounds.push(echo.round(ROUND).await);
        }
    }
    let name = if batch.is_some() { "batch" } else { "lookup" };
    let report = Report::new(name, &rounds, batch.unwrap_or(1) as u64)
        .with("connections", load.connections)
        .with("in_flight", load.in_flight)
        .with("devices", load.devices)
        .with("batch", batch.unwrap_or(1))
        .with("request_bytes", sample.request_bytes)
        .with("response_bytes", sample.response.len())
        .with("endpoints", common.endpoints.join(","))
        .compared("echo", &echo_rounds);
    tell(&report, &rounds, screen)
}

/// Measures assignments against the leader.
async fn assign(common: &Common, args: &AssignBench, screen: &mut Screen) -> Result<u8, Failure> {
    let callers = args.callers.unwrap_or(if args.batch > 1 { 8 } else { 256 });
    check(args.connections, callers, args.devices, args.batch)?;
    let client = common.client()?;
    prepare::devices(&client, args.devices, screen).await?;
    let leader = leader(&client).await?;
    let connections = args.connections.min(callers);
    let lanes = raw::connect(std::slice::from_ref(&leader), connections).await?;
    let work = work::Work::assign(args.devices, args.batch);
    let in_flight = callers.div_ceil(connections);
    let target = Target::new(lanes, in_flight, work)?;
    target.sample().await?;

    target.round(WARM_UP).await;
    let before = checkpoint(&client, &leader).await?;
    let mut seen = std::collections::BTreeSet::from([before]);
    let mut rounds = Vec::new();
    for _ in 0..(args.seconds / ROUND.as_secs()).max(1) {
        rounds.push(target.round(ROUND).await);
        seen.insert(checkpoint(&client, &leader).await?);
    }
    let report = Report::new("assign", &rounds, args.batch as u64)
        .with("connections", connections)
        .with("callers", in_flight * connections)
        .with("devices", args.devices)
        .with("batch", args.batch)
        .with("checkpoints", seen.len() - 1)
        .with("endpoints", leader);
    tell(&report, &rounds, screen)
}

/// Client address of the leader.
async fn leader(client: &Client) -> Result<String, Failure> {
    let status = client.status(v1::StatusRequest {}).await?;
    let leader = status.nodes.iter().find(|node| node.id == status.leader_id);
    leader.map(|node| node.client_address.clone()).ok_or_else(|| Failure {
        code: crate::failure::EXIT_UNAVAILABLE,
        message: "the cluster has no leader now; see `berth cluster status`".to_owned(),
    })
}

/// Index of the newest checkpoint at this node.
async fn checkpoint(client: &Client, endpoint: &str) -> Result<u64, Failure> {
    Ok(client.status_of(endpoint).await?.checkpoint_index)
}

/// Measures a whole import, reading and parsing included.
async fn import(common: &Common, args: &ImportBench, screen: &mut Screen) -> Result<u8, Failure> {
    check(1, 1, args.devices, 1)?;
    let client = common.client()?;
    prepare::topology(&client).await?;
    let report = report::import(common, args.devices, screen).await?;
    report.tell(screen)?;
    Ok(EXIT_DONE)
}

fn tell(report: &Report, rounds: &[Round], screen: &mut Screen) -> Result<u8, Failure> {
    report.tell(screen)?;
    let errors: u64 = rounds.iter().map(|round| round.errors).sum();
    if let Some(error) = rounds.iter().find_map(|round| round.first_error.as_deref()) {
        screen.complain(&format!("{errors} calls failed, the first with: {error}"));
        return Ok(EXIT_REFUSED);
    }
    Ok(EXIT_DONE)
}

fn check(connections: usize, in_flight: usize, devices: u64, batch: usize) -> Result<(), Failure> {
    let wrong = |what: &str, value: u64, most: u64| {
        Failure::usage(format!("--{what} is {value}; 1 to {most} are allowed"))
    };
    if connections == 0 || connections > 1_024 {
        return Err(wrong("connections", connections as u64, 1_024));
    }
    if in_flight == 0 || in_flight > IN_FLIGHT_MAX {
        return Err(wrong("in-flight", in_flight as u64, IN_FLIGHT_MAX as u64));
    }
    if batch == 0 || batch > 10_000 {
        return Err(wrong("batch", batch as u64, 10_000));
    }
    if devices < batch as u64 || devices > DEVICES_MAX {
        let problem = format!("--devices is {devices}; {batch} (the batch) to {DEVICES_MAX} are allowed");
        return Err(Failure::usage(problem));
    }
    Ok(())
}
