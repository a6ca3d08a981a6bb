//! The story itself: what is done, in order, and what is said of it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use berth_client::{Client, Options, v1};

use super::checks::{Checkers, Truth};
use super::cluster::Trio;
use super::export_file;
use crate::args::Common;
use crate::failure::Failure;
use crate::import::{self, Acks, ImportArgs};
use crate::screen::{Format, Screen};

/// What the IDs of the demo's devices begin with.
pub(super) const DEVICE_PREFIX: &str = "meter-";
/// The hub that the export file is of.
pub(super) const HUB_A: &str = "prod-1-hub-a.azure-devices.net";
/// The hub that a population moves to.
pub(super) const HUB_C: &str = "prod-2-hub-c.azure-devices.net";
/// Most devices of one move: what one batch may carry.
const MOVERS_MAX: u64 = 10_000;
/// How long the lookups run before the move.
const LOOK_FOR: Duration = Duration::from_secs(4);
/// Checking tasks against each node.
const LANES: usize = 8;
/// How long anything may take to come to pass.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at whether it has.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Devices that one lookup of the recount asks for.
const RECOUNT_BATCH: u64 = 5_000;

const TOPOLOGY: &str = r#"
[[stamps]]
name = "test-1"
labels = { lifecycle = "test", region = "westeurope" }

[[stamps]]
name = "prod-1"
labels = { lifecycle = "production", region = "westeurope" }
app_endpoint = "https://prod-1.example.com"
cost = { currency = "EUR", fixed_micros = 2_200_000_000, per_device_micros = 18_000 }

[[stamps]]
name = "prod-2"
labels = { lifecycle = "production", region = "northeurope" }
app_endpoint = "https://prod-2.example.com"
cost = { currency = "EUR", fixed_micros = 2_200_000_000, per_device_micros = 18_000 }

[[hubs]]
name = "test-1-hub-t.azure-devices.net"
stamp = "test-1"
tier = "S1"
units = 1

[[hubs]]
name = "prod-1-hub-a.azure-devices.net"
stamp = "prod-1"
tier = "S3"
units = 2

[[hubs]]
name = "prod-1-hub-b.azure-devices.net"
stamp = "prod-1"
tier = "S3"
units = 1

[[hubs]]
name = "prod-2-hub-c.azure-devices.net"
stamp = "prod-2"
tier = "S3"
units = 2

[[routes]]
key = "meters.example.com"
stamp = "prod-1"
"#;

/// Tells it all; an error is a check that failed.
pub(super) async fn tell(
    trio: &mut Trio,
    devices: u64,
    dir: &Path,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let whole = Instant::now();
    let truth = Arc::new(Truth {
        devices,
        movers: (devices / 10).clamp(1, MOVERS_MAX),
        move_begun: AtomicBool::new(false),
        moved_at: AtomicU64::new(0),
    });

    chapter(screen, 1, "Three nodes, one cluster")?;
    let began = Instant::now();
    trio.start().await?;
    let endpoints = trio.endpoints();
    let leader = until("a leader", || trio.leader()).await?;
    screen.say(&format!(
        "  n1, n2, n3 listen on {}; their data is in {}.",
        endpoints.join(", "),
        dir.display()
    ))?;
    screen.say(&format!(
        "  All three serve after {} ms; n{} leads.",
        began.elapsed().as_millis(),
        leader + 1
    ))?;

    chapter(screen, 2, "Three stamps and their hubs, in one revision")?;
    let client = connect(&endpoints)?;
    describe(&client, screen).await?;

    chapter(screen, 3, &format!("The export file of a hub with {} devices", grouped(devices)))?;
    import_file(&endpoints, devices, dir, screen).await?;

    chapter(screen, 4, "Lookups through every node, then a population moves under them")?;
    look_and_move(&client, &endpoints, &truth, screen).await?;

    chapter(screen, 5, "The leader is killed")?;
    kill_leader(trio, &endpoints, &truth, screen).await?;

    chapter(screen, 6, "Every device is counted again, on every node")?;
    recount(&client, &endpoints, &truth, screen).await?;

    screen.say("")?;
    screen.say(&format!("All checks passed in {:.1} s.", whole.elapsed().as_secs_f64()))?;
    screen.flush()?;
    Ok(())
}

fn chapter(screen: &mut Screen, no: u32, title: &str) -> Result<(), Failure> {
    screen.say("")?;
    screen.say(&format!("{no}. {title}"))?;
    screen.flush()?;
    Ok(())
}

fn connect(endpoints: &[String]) -> Result<Client, Failure> {
    let options = Options {
        deadline: PATIENCE,
        attempts_max: 10_000,
        backoff_first: Duration::from_millis(4),
        backoff_max: Duration::from_millis(20),
        ..Options::default()
    };
    Ok(Client::connect(endpoints, options)?)
}

async fn describe(client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let desired = crate::topology_file::read("the demo's topology", TOPOLOGY).map_err(Failure::refused)?;
    let request =
        v1::ApplyRequest { desired: Some(desired), reason: "demo".to_owned(), ..Default::default() };
    let answer = client.apply(request).await?;
    let revision = answer.header.as_ref().map_or(0, |header| header.revision);
    screen.say(&format!(
        "  {} objects created at revision {revision}: one stamp for tests, two for production.",
        answer.changes.len()
    ))?;
    let route = client.lookup_route("meters.example.com", None).await?;
    check(route.app_endpoint == "https://prod-1.example.com", || {
        format!("the route leads to `{}`", route.app_endpoint)
    })?;
    screen.say(&format!("  The route meters.example.com leads to {}.", route.app_endpoint))?;
    Ok(())
}

async fn import_file(
    endpoints: &[String],
    devices: u64,
    dir: &Path,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let file = dir.join("export.txt");
    let path = file.clone();
    let written =
        tokio::task::spawn_blocking(move || export_file::write(&path, devices, DEVICE_PREFIX)).await;
    written
        .map_err(|e| Failure::refused(format!("writing the export file broke off: {e}")))?
        .map_err(|e| Failure::file("write", &file, &e))?;
    let bytes = std::fs::metadata(&file).map_err(|e| Failure::file("read", &file, &e))?.len();
    screen.say(&format!(
        "  {} written, {:.0} MB, with keys that look like keys.",
        file.display(),
        bytes as f64 / 1e6
    ))?;

    let args = ImportArgs::of_hub_export(file, HUB_A.to_owned()).with_label_tags(&["region"]);
    let common = Common { endpoints: endpoints.to_vec(), output: Format::Table, timeout: PATIENCE };
    let summary = import::perform(&common, &args, &Acks::default(), screen).await?;
    let count = |field: &str| summary[field].as_u64().unwrap_or(0);
    check(count("created") == devices && count("bad") == 0, || format!("the import says {summary}"))?;
    let rate = summary["lines_per_second"].as_f64().unwrap_or(0.0);
    screen.say(&format!(
        "  {} devices imported through the API in {:.1} s: {} a second, each chunk one revision, on disk on a majority.",
        grouped(count("created")),
        summary["seconds"].as_f64().unwrap_or(0.0),
        grouped(rate as u64)
    ))?;
    Ok(())
}

async fn look_and_move(
    client: &Client,
    endpoints: &[String],
    truth: &Arc<Truth>,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let checkers = Checkers::start(endpoints, truth, LANES)?;
    tokio::time::sleep(LOOK_FOR).await;
    screen.say(&format!(
        "  {} lookups so far, all linearizable; now {} devices move from {HUB_A} to {HUB_C}.",
        grouped(checkers.seen.lookups.load(Ordering::Relaxed)),
        grouped(truth.movers)
    ))?;

    let ids: Vec<String> = (0..truth.movers).map(|no| export_file::device_id(no, DEVICE_PREFIX)).collect();
    let packed = v1::PackedAssignment {
        hub: HUB_C.to_owned(),
        packed_device_ids: berth_client::pack_ids(&ids).unwrap_or_default().into(),
        ..Default::default()
    };
    let request =
        v1::BatchAssignRequest { packed: vec![packed], reason: "demo move".to_owned(), ..Default::default() };
    truth.move_begun.store(true, Ordering::SeqCst);
    let asked = Instant::now();
    let answer = client.batch_assign(request).await?;
    let took = asked.elapsed();
    let revision = answer.header.as_ref().map_or(0, |header| header.revision);
    truth.moved_at.store(revision, Ordering::SeqCst);
    check(answer.moved == truth.movers, || format!("{} devices moved", answer.moved))?;
    tokio::time::sleep(LOOK_FOR / 4).await;

    let (seen, took_all) = checkers.stop().await;
    seen.verdict()?;
    let (lookups, rows) = (seen.lookups.load(Ordering::Relaxed), seen.batch_rows.load(Ordering::Relaxed));
    let (before, after) = (seen.before.load(Ordering::Relaxed), seen.after.load(Ordering::Relaxed));
    check(lookups > 1_000 && rows > 1_000 && before > 0 && after > 0, || {
        format!(
            "too little was seen: {lookups} lookups, {rows} batch rows, {before} before and {after} after the move"
        )
    })?;
    let failed = seen.failed_calls.load(Ordering::Relaxed);
    check(failed == 0, || format!("{failed} calls failed although nothing was broken"))?;
    let (p50, p99) = seen.percentiles();
    screen.say(&format!(
        "  They moved in one revision, {revision}, acknowledged after {:.1} ms.",
        took.as_secs_f64() * 1e3
    ))?;
    screen.say(&format!(
        "  {} lookups ({} a second, p50 {:.1} ms, p99 {:.1} ms) and {} rows in batches: {} answers before the move, {} after, none wrong.",
        grouped(lookups),
        grouped((lookups as f64 / took_all.as_secs_f64()) as u64),
        f64::from(p50) / 1e3,
        f64::from(p99) / 1e3,
        grouped(rows),
        grouped(before),
        grouped(after)
    ))?;
    Ok(())
}

async fn kill_leader(
    trio: &mut Trio,
    endpoints: &[String],
    truth: &Arc<Truth>,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let leader = until("a leader", || trio.leader()).await?;
    let survivors: Vec<String> = endpoints
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != leader)
        .map(|(_, endpoint)| endpoint.clone())
        .collect();
    let client = connect(&survivors)?;
    // Both have their connections before the fall.
    client.lookup(&export_file::device_id(0, DEVICE_PREFIX), None).await?;
    let checkers = Checkers::start(&survivors, truth, LANES / 2)?;

    let killed = Instant::now();
    trio.kill(leader).await;
    let after_kill = killed.elapsed();
    let device = export_file::device_id(0, DEVICE_PREFIX);
    let write = async { client.assign(touch(&device)).await.map(|_| killed.elapsed()) };
    let read = async { client.lookup(&device, None).await.map(|_| killed.elapsed()) };
    let (write, read) = tokio::join!(write, read);
    let (write, read) = (write?, read?);
    screen.say(&format!(
        "  n{} led, and its threads ended {} ms after the blow: no flush, no hand-over.",
        leader + 1,
        after_kill.as_millis()
    ))?;
    screen.say(&format!(
        "  First linearizable lookup after {} ms, first acknowledged write after {} ms.",
        read.as_millis(),
        write.as_millis()
    ))?;

    let opening = Instant::now();
    trio.reopen(leader).await?;
    screen.say(&format!(
        "  n{} opened its disk again and serves after {} ms.",
        leader + 1,
        opening.elapsed().as_millis()
    ))?;
    let (seen, _) = checkers.stop().await;
    seen.verdict()?;
    screen.say(&format!(
        "  {} lookups meanwhile, {} calls without an answer while nobody led, none wrong.",
        grouped(seen.lookups.load(Ordering::Relaxed)),
        seen.failed_calls.load(Ordering::Relaxed)
    ))?;
    Ok(())
}

/// A write that changes nothing that the checks look at.
fn touch(device: &str) -> v1::AssignRequest {
    let labels = v1::LabelSet { labels: [("touched".to_owned(), "after-the-fall".to_owned())].into() };
    let assignment =
        v1::DeviceAssignment { device_id: device.to_owned(), labels: Some(labels), ..Default::default() };
    v1::AssignRequest { assignment: Some(assignment), reason: "demo".to_owned(), ..Default::default() }
}

async fn recount(
    client: &Client,
    endpoints: &[String],
    truth: &Arc<Truth>,
    screen: &mut Screen,
) -> Result<(), Failure> {
    // A node that was away may still be catching up: equal positions first, then equal digests.
    let began = Instant::now();
    let mut digests = Vec::new();
    loop {
        digests.clear();
        for endpoint in endpoints {
            let request = v1::DigestRequest { recount: true, ..Default::default() };
            digests.push(client.digest_of(endpoint, request).await?);
        }
        let applied = digests.first().map(|digest| digest.applied_index);
        if digests.iter().all(|digest| Some(digest.applied_index) == applied) {
            break;
        }
        check(began.elapsed() < PATIENCE, || "the nodes do not come to the same position".to_owned())?;
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    let first = digests.first().map(|digest| digest.digest.clone()).unwrap_or_default();
    for (digest, endpoint) in digests.iter().zip(endpoints) {
        check(digest.digest == first && digest.devices == truth.devices, || {
            format!("{endpoint} has {} devices and digest {}, not {first}", digest.devices, digest.digest)
        })?;
        let recount = digest.recount.clone().unwrap_or_default();
        check(recount.agrees, || {
            format!("the recount on {endpoint} differs: {}", recount.disagreements.join("; "))
        })?;
    }
    screen.say(&format!(
        "  Log index {} on all three, digest {first}, counters equal a recount.",
        digests.first().map_or(0, |digest| digest.applied_index)
    ))?;

    let counting = Instant::now();
    for endpoint in endpoints {
        let node = connect(std::slice::from_ref(endpoint))?;
        let mut from = 0;
        while from < truth.devices {
            let numbers = from..truth.devices.min(from + RECOUNT_BATCH);
            from = numbers.end;
            look_each(&node, truth, numbers).await?;
        }
    }
    screen.say(&format!(
        "  {} devices looked up on each node in {:.1} s: every one where it belongs.",
        grouped(truth.devices),
        counting.elapsed().as_secs_f64()
    ))?;
    Ok(())
}

async fn look_each(node: &Client, truth: &Truth, numbers: std::ops::Range<u64>) -> Result<(), Failure> {
    let device_ids = numbers.clone().map(|no| export_file::device_id(no, DEVICE_PREFIX)).collect();
    let answer = node.batch_lookup(v1::BatchLookupRequest { device_ids, ..Default::default() }).await?;
    for (no, hub) in numbers.zip(&answer.hub_numbers) {
        let hub =
            hub.checked_sub(1).and_then(|hub| answer.hubs.get(hub as usize)).map(|hub| hub.hub.as_str());
        // A disabled device keeps its seat, but there is no hub to call.
        let disabled = export_file::is_disabled(no);
        let right = if disabled {
            hub.is_none() || hub == Some(truth.hub_of(no))
        } else {
            hub == Some(truth.hub_of(no))
        };
        check(right, || {
            format!(
                "{} is on {hub:?}, not on {}",
                export_file::device_id(no, DEVICE_PREFIX),
                truth.hub_of(no)
            )
        })?;
    }
    Ok(())
}

/// Waits until there is something.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T, Failure> {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        check(began.elapsed() < PATIENCE, || {
            format!("there is no sign of {what} after {} s", PATIENCE.as_secs())
        })?;
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// A check of the story: where it fails, the story ends.
fn check(holds: bool, problem: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::refused(format!("a check failed: {}", problem()))) }
}

/// A number with its thousands set apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
