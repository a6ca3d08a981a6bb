//! Lookups while gateways report every device of a provisioning service. It brings up three nodes and an emulated Azure
//! in this process, since it has to count what the provisioning service is asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_client::{Client, v1};
use clap::Args;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::load::{Round, Target};
use super::report::Report;
use super::{ROUND, WARM_UP, prepare, raw, work};
use crate::args::Common;
use crate::failure::{EXIT_REFUSED, Failure};
use crate::import::{Acks, ImportArgs, perform};
use crate::present;
use crate::screen::Screen;
use crate::stage::azure::{FIELD_1, FIELD_2, device_id, write_file};
use crate::stage::{Azure, Nodes, client};

/// Reports on their way at one time.
const REPORTS_IN_FLIGHT_MAX: usize = 256;
/// Time between two groups of reports.
const TICK: Duration = Duration::from_millis(10);
/// Of so many devices one is moved unseen before it is reported.
const MOVED_EVERY: u32 = 100;
/// Devices of one preparing lookup.
const BATCH: u32 = 10_000;
/// Seconds whose budget a bucket holds.
const BURST_SECONDS: f64 = 5.0;
/// Operations a second that a scope may use unless it says otherwise: 60 percent of the 1,000 a minute that DPS takes.
const PER_SECOND: f64 = 10.0;

/// Flags of `berth bench reconcile`.
#[derive(Debug, Args)]
pub(super) struct ReconcileBench {
    /// Devices, each reported once
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=200_000))]
    devices: u32,
    /// Reports a second
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    rate: u32,
    /// Connections of the callers of lookups
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,
    /// Lookups in flight on each connection
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    in_flight: u16,
}

pub(super) async fn run(common: &Common, args: &ReconcileBench, screen: &mut Screen) -> Result<u8, Failure> {
    let folder = tempfile::Builder::new().prefix("berth-bench-").tempdir();
    let folder = folder.map_err(|e| Failure::refused(format!("cannot make a temporary folder: {e}")))?;
    let azure = Azure::start(folder.path()).await?;
    let mut nodes = Nodes::start(folder.path(), &azure.settings()).await?;
    let told = measure(common, args, folder.path(), &azure, &nodes, screen).await;
    nodes.stop().await;
    azure.stop().await;
    told
}

async fn measure(
    common: &Common,
    args: &ReconcileBench,
    folder: &std::path::Path,
    azure: &Azure,
    nodes: &Nodes,
    screen: &mut Screen,
) -> Result<u8, Failure> {
    let cluster = client(&nodes.addresses())?;
    nodes.settled(&cluster).await?;
    field(common, args.devices, folder, azure, nodes, &cluster, screen).await?;
    let devices = u64::from(args.devices);
    prepare::devices(&cluster, devices, screen).await?;
    let lanes = raw::connect(&nodes.addresses(), usize::from(args.connections)).await?;
    let linearizable = berth_client::linearizable().unwrap_or_default();
    let lookups = Target::new(lanes, usize::from(args.in_flight), work::Work::lookup(devices, linearizable))?;
    lookups.sample().await?;
    lookups.round(WARM_UP).await;

    let epochs = epochs(&cluster, args.devices).await?;
    let mut reports = Reports::new(args, epochs, nodes)?;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let (before, begin) = (azure.questions(), Instant::now());
    while reports.next < args.devices {
        alone.push(lookups.round(ROUND).await);
        let (round, reported) = tokio::join!(lookups.round(ROUND), reports.round(ROUND));
        reported?;
        beside.push(round);
    }
    let (questions, seconds) = (azure.questions() - before, begin.elapsed().as_secs_f64());
    let allowed = crate::progress::whole(PER_SECOND * (seconds + BURST_SECONDS));
    let findings = reports.findings.lock().clone();
    let report = Report::new("reconcile", &beside, 1)
        .compared("alone", &alone)
        .with("devices", args.devices)
        .with("reports", findings.values().sum::<u64>())
        .with("reports_per_second", args.rate)
        .with("findings", serde_json::to_value(&findings).unwrap_or_default())
        .with("dps_questions", questions)
        .with("dps_questions_allowed", allowed);
    let rounds: Vec<Round> = alone.into_iter().chain(beside).collect();
    let done = super::tell(&report, &rounds, screen)?;
    if questions > allowed {
        screen.complain(&format!("DPS was asked {questions} times where {allowed} are allowed"));
        return Ok(EXIT_REFUSED);
    }
    Ok(done)
}

/// The devices that are reported, in the provisioning service and in the directory; one of a hundred has moved unseen.
async fn field(
    common: &Common,
    devices: u32,
    folder: &std::path::Path,
    azure: &Azure,
    nodes: &Nodes,
    cluster: &Client,
    screen: &mut Screen,
) -> Result<(), Failure> {
    azure.seed(0, devices).await?;
    let hub = |name: &str| v1::DesiredHub {
        name: name.to_owned(),
        stamp: Some("field".to_owned()),
        ..Default::default()
    };
    let desired = v1::DesiredTopology {
        stamps: vec![v1::DesiredStamp { name: "field".to_owned(), ..Default::default() }],
        hubs: vec![hub(FIELD_1), hub(FIELD_2)],
        ..Default::default()
    };
    let reason = || "bench".to_owned();
    cluster
        .apply(v1::ApplyRequest { reason: reason(), desired: Some(desired), ..Default::default() })
        .await?;
    let scope = Some(azure.scope());
    cluster.create_scope(v1::CreateScopeRequest { reason: reason(), scope, ..Default::default() }).await?;
    let file = folder.join("field.csv");
    write_file(&file, devices)?;
    let common = Common { endpoints: nodes.addresses(), ..common.clone() };
    perform(&common, &ImportArgs::of_csv(file), &Acks::default(), screen).await?;
    for no in (0..devices).step_by(MOVED_EVERY as usize) {
        azure.place_unseen(&device_id(no)).await?;
    }
    Ok(())
}

/// The epoch of each device, as gateways have it from their lookups.
async fn epochs(cluster: &Client, devices: u32) -> Result<Arc<[u64]>, Failure> {
    let mut epochs = Vec::new();
    for first in (0..devices).step_by(BATCH as usize) {
        let device_ids = (first..devices.min(first + BATCH)).map(device_id).collect();
        let request = v1::BatchLookupRequest { device_ids, ..Default::default() };
        epochs.extend(cluster.batch_lookup(request).await?.epochs);
    }
    Ok(epochs.into())
}

/// Gateways that report one device after the other.
struct Reports {
    clients: Vec<Client>,
    epochs: Arc<[u64]>,
    per_tick: u32,
    devices: u32,
    next: u32,
    gate: Arc<Semaphore>,
    findings: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Reports {
    fn new(args: &ReconcileBench, epochs: Arc<[u64]>, nodes: &Nodes) -> Result<Self, Failure> {
        let clients = nodes.addresses().into_iter().map(|address| client(&[address]));
        Ok(Self {
            clients: clients.collect::<Result<_, _>>()?,
            epochs,
            per_tick: (args.rate / 100).max(1),
            devices: args.devices,
            next: 0,
            gate: Arc::new(Semaphore::new(REPORTS_IN_FLIGHT_MAX)),
            findings: Arc::default(),
        })
    }

    /// Reports for so long, and waits for the answers. A cluster that answers slowly is reported to slowly.
    async fn round(&mut self, length: Duration) -> Result<(), Failure> {
        let end = Instant::now() + length;
        let mut tick = tokio::time::interval(TICK);
        let mut reporters = JoinSet::new();
        while Instant::now() < end && self.next < self.devices {
            tick.tick().await;
            for no in self.next..self.devices.min(self.next + self.per_tick) {
                let permit = Arc::clone(&self.gate).acquire_owned().await;
                let permit = permit.map_err(|e| Failure::refused(format!("the reporters broke off: {e}")))?;
                let client = self.clients[no as usize % self.clients.len()].clone();
                let epoch = self.epochs.get(no as usize).copied().unwrap_or(0);
                let findings = Arc::clone(&self.findings);
                reporters.spawn(async move {
                    let request = v1::ReportRequest {
                        device_id: device_id(no),
                        hub: FIELD_1.to_owned(),
                        epoch,
                        observation: v1::HubObservation::NotFound.into(),
                    };
                    let told = match client.report(request).await {
                        Ok(answer) => present::finding(answer.finding).to_owned(),
                        Err(error) => format!("failed: {error}"),
                    };
                    *findings.lock().entry(told).or_default() += 1;
                    drop(permit);
                });
                while reporters.try_join_next().is_some() {}
            }
            self.next = self.devices.min(self.next + self.per_tick);
        }
        while reporters.join_next().await.is_some() {}
        Ok(())
    }
}
