//! `berth demo`: a cluster in one process, over real TCP and real disk, that plays the main job and checks it: a
//! topology, an import, lookups through every node, a population that moves at one revision, a leader that dies; then,
//! beside an emulated Azure, devices that move unseen and are found again; and a recount of everything.

mod crash;
pub(crate) mod export_file;
mod healing;
mod load;
mod moving;

use std::path::{Path, PathBuf};
use std::time::Instant;

use berth_client::{Client, v1};
use clap::Args;

use crate::args::Common;
use crate::failure::{EXIT_DONE, Failure};
use crate::import::{Acks, ImportArgs, perform};
use crate::screen::{Format, Screen};
use crate::stage::{Azure, Nodes, azure, client};

/// Most devices of a demo: what one hub takes.
const DEVICES_MAX: u64 = 1_000_000;
/// Fewest devices of a demo, so that every check has something to look at.
const DEVICES_MIN: u64 = 1_000;
/// Prefix of the devices' IDs.
const PREFIX: &str = "meter-";
/// The hub that the export file is of.
const HUB_FROM: &str = "contoso-prod-1a.azure-devices.net";
/// The hub that a population moves to.
const HUB_TO: &str = "contoso-prod-2a.azure-devices.net";

/// The topology that is applied: three stamps, one of them for tests, with seven hubs.
const TOPOLOGY: &str = r#"
[[stamps]]
name = "test-1"
labels = { lifecycle = "test", region = "westeurope" }
capacity = { soft = 800, hard = 1000 }

[[stamps]]
name = "prod-1"
labels = { lifecycle = "production", region = "westeurope", ring = "1" }
capacity = { hard = 2000000 }
app_endpoint = "https://prod-1.contoso.example"
cost = { currency = "EUR", fixed_per_month = 4200, per_device_month = "0.021" }

[[stamps]]
name = "prod-2"
labels = { lifecycle = "production", region = "northeurope", ring = "2" }
capacity = { hard = 2000000 }
app_endpoint = "https://prod-2.contoso.example"
cost = { currency = "EUR", fixed_per_month = 3900, per_device_month = "0.019" }

[[hubs]]
name = "contoso-test-1.azure-devices.net"
stamp = "test-1"
tier = "S1"
units = 1

[[hubs]]
name = "contoso-prod-1a.azure-devices.net"
stamp = "prod-1"
capacity = { hard = 1000000 }
tier = "S3"
units = 4

[[hubs]]
name = "contoso-prod-1b.azure-devices.net"
stamp = "prod-1"
capacity = { hard = 1000000 }
tier = "S3"
units = 4

[[hubs]]
name = "contoso-prod-2a.azure-devices.net"
stamp = "prod-2"
capacity = { hard = 1000000 }
tier = "S3"
units = 4

[[hubs]]
name = "contoso-prod-2b.azure-devices.net"
stamp = "prod-2"
capacity = { hard = 1000000 }
tier = "S3"
units = 4

[[hubs]]
name = "contoso-field-1.azure-devices.net"
stamp = "prod-1"
capacity = { hard = 1000000 }
tier = "S2"
units = 1

[[hubs]]
name = "contoso-field-2.azure-devices.net"
stamp = "prod-2"
capacity = { hard = 1000000 }
tier = "S2"
units = 1

[[routes]]
key = "contoso.example"
stamp = "prod-1"
"#;

/// Flags of `berth demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Devices of the export file that is imported
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(DEVICES_MIN..=DEVICES_MAX))]
    devices: u64,
    /// Leave the cluster up at the end, and its files where they are
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn run(common: &Common, args: DemoArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let begin = Instant::now();
    let folder = tempfile::Builder::new().prefix("berth-demo-").tempdir();
    let folder = folder.map_err(|e| Failure::refused(format!("cannot make a temporary folder: {e}")))?;
    let azure = Azure::start(folder.path()).await?;
    let mut nodes = Nodes::start(folder.path(), &azure.settings()).await?;
    let told = play(common, &args, folder.path(), &azure, &mut nodes, screen).await;
    match told {
        Ok(()) => {
            say(screen, &format!("All checks passed in {:.1} s.", begin.elapsed().as_secs_f64()))?;
            if args.keep {
                keep(folder.keep(), &nodes, screen).await?;
            }
            nodes.stop().await;
            azure.stop().await;
            Ok(EXIT_DONE)
        }
        Err(failure) => {
            nodes.abandon();
            Err(Failure { message: format!("the demo failed: {}", failure.message), ..failure })
        }
    }
}

async fn play(
    common: &Common,
    args: &DemoArgs,
    folder: &Path,
    azure: &Azure,
    nodes: &mut Nodes,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let cluster = client(&nodes.addresses())?;
    let status = nodes.settled(&cluster).await?;
    say(
        screen,
        &format!(
            "Three nodes run in this process, over TCP and a disk of their own each; node {} leads in term {}.",
            status.leader_id, status.term
        ),
    )?;

    let desired = crate::topology_file::read("the demo's topology", TOPOLOGY).map_err(Failure::refused)?;
    let request =
        v1::ApplyRequest { reason: "demo".to_owned(), desired: Some(desired), ..Default::default() };
    let applied = cluster.apply(request).await?;
    let revision = crate::present::revision(applied.header.as_ref());
    say(
        screen,
        &format!("{} stamps, hubs and routes were made at revision {revision}.", applied.changes.len()),
    )?;

    import(common, args, folder, nodes, screen).await?;
    load::play(args.devices, nodes, screen).await?;
    let moved = moving::play(args.devices, &cluster, nodes, screen).await?;
    crash::play(&cluster, nodes, screen).await?;
    let field = healing::play(common, folder, azure, &cluster, nodes, screen).await?;
    recount(args.devices, moved, field, &cluster, nodes, screen).await
}

async fn import(
    common: &Common,
    args: &DemoArgs,
    folder: &Path,
    nodes: &Nodes,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let file = folder.join("devices.txt");
    export_file::write(&file, args.devices, PREFIX).map_err(|e| Failure::file("write", &file, &e))?;
    let bytes = std::fs::metadata(&file).map_or(0, |metadata| metadata.len());
    let common = Common { endpoints: nodes.addresses(), ..common.clone() };
    let import =
        ImportArgs::of_hub_export(file, HUB_FROM.to_owned()).with_label_tags(&["region", "ring=site.ring"]);
    let summary = perform(&common, &import, &Acks::default(), screen).await?;
    let created = summary["created"].as_u64().unwrap_or(0);
    check(created == args.devices, || {
        format!("{created} devices were created from a file of {}", args.devices)
    })?;
    say(
        screen,
        &format!(
            "An IoT Hub export of {created} devices ({} MiB) was imported in {} s, {} lines a second, each chunk on two disks before it was acknowledged.",
            bytes >> 20,
            summary["seconds"],
            summary["lines_per_second"]
        ),
    )
}

/// Counts every device on every node, and compares the replicas.
async fn recount(
    imported: u64,
    moved: u64,
    field: u64,
    cluster: &Client,
    nodes: &Nodes,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let devices = imported + field;
    let request = v1::DigestRequest { consistency: berth_client::linearizable(), recount: true };
    let mut digests = Vec::new();
    for address in nodes.addresses() {
        let answer = cluster.digest_of(&address, request.clone()).await?;
        let recount = answer.recount.clone().unwrap_or_default();
        check(recount.agrees && recount.devices == devices, || {
            let told = recount.disagreements.join("; ");
            format!("a recount at {address} found {} of {devices} devices: {told}", recount.devices)
        })?;
        digests.push((answer.applied_index, answer.digest));
    }
    let is_equal = digests.windows(2).all(|pair| pair[0] == pair[1]);
    check(is_equal, || format!("the replicas differ: {digests:?}"))?;

    let (from, to) = (count_on(cluster, HUB_FROM).await?, count_on(cluster, HUB_TO).await?);
    check(to == moved && from + to == imported, || {
        let due = imported - moved;
        format!("{from} and {to} devices are counted on the hubs where {due} and {moved} are due")
    })?;
    let digest = digests.first().map_or("", |(_, digest)| digest.as_str());
    say(
        screen,
        &format!(
            "Every device was recounted on all three nodes: {devices} devices, of the import {from} and {to} on the two hubs, digest {digest} everywhere."
        ),
    )
}

/// How many devices are counted on a hub.
async fn count_on(cluster: &Client, hub: &str) -> Result<u64, Failure> {
    let usage = cluster.get_capacity(v1::GetCapacityRequest::default()).await?;
    Ok(usage.hubs.iter().find(|usage| usage.name == hub).map_or(0, |usage| usage.devices))
}

async fn keep(folder: PathBuf, nodes: &Nodes, screen: &mut Screen) -> Result<(), Failure> {
    let endpoints = nodes.addresses().join(",");
    say(
        screen,
        &format!("The cluster stays up; its files are in {}. Try, in another terminal:", folder.display()),
    )?;
    for line in [
        format!("  export BERTH_ENDPOINTS={endpoints}"),
        "  berth cluster status".to_owned(),
        format!("  berth lookup {}", export_file::device_id(1, PREFIX)),
        "  berth capacity".to_owned(),
        format!("  berth device list --hub {HUB_TO} --limit 5"),
        format!("  berth hub cordon {HUB_TO} --reason maintenance"),
        "  berth export --out devices.csv".to_owned(),
        format!("  berth lookup {}", azure::device_id(9)),
    ] {
        say(screen, &line)?;
    }
    say(screen, "Ctrl-C ends it.")?;
    screen.flush()?;
    tokio::signal::ctrl_c().await.map_err(|e| Failure::refused(format!("cannot wait for Ctrl-C: {e}")))
}

fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::refused(otherwise())) }
}

/// Tells a part of the story at once.
fn say(screen: &mut Screen, line: &str) -> Result<(), Failure> {
    match screen.format {
        Format::Table => screen.say(line)?,
        Format::Json | Format::Jsonl => screen.remark(line),
    }
    screen.flush()?;
    Ok(())
}
