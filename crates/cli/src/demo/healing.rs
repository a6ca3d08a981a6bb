//! The directory beside an emulated Azure. A device that the directory does not have is found in the provisioning
//! service; devices move behind everybody's back, and what gateways report of them has the directory follow; the
//! provisioning service is away for a while, and nothing is lost; and a sweep finds what nobody has noticed.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_client::{Client, v1};
use berth_emulator::Command;
use tokio::task::JoinSet;

use super::{check, count_on, say};
use crate::args::Common;
use crate::failure::Failure;
use crate::import::{Acks, ImportArgs, perform};
use crate::screen::Screen;
use crate::stage::azure::{Called, DPS, FIELD_1, FIELD_2, QUERY_LAG, SCOPE, device_id, write_file};
use crate::stage::{Azure, Nodes, PATIENCE, client};

/// Devices that the provisioning service knows.
const DEVICES: u32 = 2_000;
/// Callers that report one device at the same time.
const REPORTERS: usize = 1_000;
/// The device that the directory does not have when it is looked up first.
const UNKNOWN: u32 = 0;
/// The device that is moved first, and reported by all.
const MOVED: u32 = 7;
/// The device that is moved while nobody can ask about it.
const MOVED_IN_THE_DARK: u32 = 8;
/// Devices that are moved while nobody calls them.
const UNNOTICED: Range<u32> = 100..112;
/// Devices that register, and that nobody looks up.
const NEW: u32 = 3;
/// The device whose identity somebody deletes.
const DELETED: u32 = 200;
/// The device that an operator has just assigned to the other hub, and that has not registered there yet.
const ASSIGNED: u32 = 201;
/// How long a sweep may take.
const SWEEP_MAX: Duration = Duration::from_secs(60);
/// Time between two looks at a sweep.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Shortest time between two reports that had nobody to ask.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// Plays the chapter; returns how many devices the directory has gained.
pub(super) async fn play(
    common: &Common,
    folder: &Path,
    azure: &Azure,
    cluster: &Client,
    nodes: &Nodes,
    screen: &mut Screen,
) -> Result<u64, Failure> {
    found_by_lookup(azure, cluster, screen).await?;
    import(common, folder, nodes, screen).await?;
    reported(azure, cluster, nodes, screen).await?;
    in_the_dark(azure, cluster, screen).await?;
    swept(azure, cluster, screen).await?;

    let all = u64::from(DEVICES + NEW);
    let moved = 2 + (UNNOTICED.end - UNNOTICED.start) + 1;
    let (first, second) = (count_on(cluster, FIELD_1).await?, count_on(cluster, FIELD_2).await?);
    check((first, second) == (all - u64::from(moved), u64::from(moved)), || {
        format!(
            "{first} and {second} devices are counted on the hubs of the field where {moved} of {all} have moved"
        )
    })?;
    Ok(all)
}

/// A device that is registered with the provisioning service, and that nobody told the directory of.
async fn found_by_lookup(azure: &Azure, cluster: &Client, screen: &mut Screen) -> Result<(), Failure> {
    azure.seed(0, DEVICES).await?;
    let request = v1::CreateScopeRequest {
        reason: "demo".to_owned(),
        scope: Some(azure.scope()),
        ..Default::default()
    };
    cluster.create_scope(request).await?;

    let (id, before) = (device_id(UNKNOWN), azure.questions());
    let begin = Instant::now();
    let found = look_up(cluster, &id).await?;
    let questions = azure.questions() - before;
    check(found.hub == FIELD_1 && questions == 1, || {
        format!("device {id} was found on {} with {questions} questions", found.hub)
    })?;
    say(
        screen,
        &format!(
            "{DEVICES} devices are registered with an emulated DPS, and the directory had none of them: a lookup of {id} asked DPS once, took it in and answered in {} ms.",
            begin.elapsed().as_millis()
        ),
    )
}

async fn import(common: &Common, folder: &Path, nodes: &Nodes, screen: &mut Screen) -> Result<(), Failure> {
    let file = folder.join("field.csv");
    write_file(&file, DEVICES)?;
    let common = Common { endpoints: nodes.addresses(), ..common.clone() };
    let summary = perform(&common, &ImportArgs::of_csv(file), &Acks::default(), screen).await?;
    let created = summary["created"].as_u64().unwrap_or(0);
    check(created == u64::from(DEVICES) - 1, || {
        format!("{created} devices were created from a file of {DEVICES} of which one was there")
    })
}

/// A device moves unseen; a gateway's call fails; a thousand report it at once.
async fn reported(
    azure: &Azure,
    cluster: &Client,
    nodes: &Nodes,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let id = device_id(MOVED);
    azure.move_unseen(&id).await?;
    let old = look_up(cluster, &id).await?;
    check(old.hub == FIELD_1, || format!("device {id} is on {} before anybody reported", old.hub))?;
    let called = azure.call_method(&old.hub, &id).await?;
    check(called == Called::NotFound, || format!("{FIELD_1} answers for {id}, which has moved"))?;

    let before = azure.questions();
    let report = Arc::new(report(&id, &old));
    let begin = Instant::now();
    let mut reporters = JoinSet::new();
    let clients = nodes.addresses().into_iter().map(|address| client(&[address]));
    let clients = clients.collect::<Result<Vec<_>, _>>()?;
    for client in clients.iter().cycle().take(REPORTERS) {
        let (client, report) = (client.clone(), Arc::clone(&report));
        reporters.spawn(async move { client.report((*report).clone()).await });
    }
    while let Some(answer) = reporters.join_next().await {
        let answer = answer.map_err(|e| Failure::refused(format!("a reporter broke off: {e}")))??;
        let right = matches!(&answer.result, Some(v1::report_response::Result::Found(found))
            if found.hub == FIELD_2 && found.epoch == old.epoch + 1);
        check(right, || format!("a report of {id} was answered with {answer:?}"))?;
    }
    let (took, questions) = (begin.elapsed(), azure.questions() - before);
    check(questions == 1, || format!("{REPORTERS} reports of {id} caused {questions} questions to DPS"))?;
    let called = azure.call_method(FIELD_2, &id).await?;
    check(called == Called::Answered, || format!("{id} does not answer at {FIELD_2}"))?;
    say(
        screen,
        &format!(
            "{id} moved behind everybody's back: a method call got 404001, {REPORTERS} gateways reported it at once through all nodes, DPS was asked once, each was told the right hub within {} ms, and the method call went well there.",
            took.as_millis()
        ),
    )
}

/// A device moves while the provisioning service is away.
async fn in_the_dark(azure: &Azure, cluster: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let id = device_id(MOVED_IN_THE_DARK);
    azure.move_unseen(&id).await?;
    let outage = |out| azure.command(Command::Outage { service: DPS.to_owned(), out });
    outage(true).await?;
    let old = look_up(cluster, &id).await?;
    let answer = cluster.report(report(&id, &old)).await?;
    let stands = matches!(&answer.result, Some(v1::report_response::Result::Found(found))
        if found.hub == old.hub && found.epoch == old.epoch);
    check(stands && answer.finding() == v1::ReportFinding::NotVerified, || {
        format!("a report of {id} without DPS was answered with {answer:?}")
    })?;
    let ids: Vec<String> = (0..DEVICES).map(device_id).collect();
    let request = v1::BatchLookupRequest { device_ids: ids, ..Default::default() };
    let answered = cluster.batch_lookup(request).await?.hub_numbers;
    let with_hub = answered.iter().filter(|hub| **hub != 0).count();
    check(with_hub == answered.len() && answered.len() == DEVICES as usize, || {
        format!("{with_hub} of {DEVICES} devices have a hub while DPS is away")
    })?;
    outage(false).await?;

    // As a gateway would: again when the answer says that it is worth it.
    let (begin, mut reports, mut answer) = (Instant::now(), 1, answer);
    while answer.finding() == v1::ReportFinding::NotVerified && begin.elapsed() < PATIENCE {
        let asked = answer.retry_after.map(|after| Duration::try_from(after).unwrap_or_default());
        tokio::time::sleep(asked.unwrap_or_default().clamp(REPORT_EVERY, PATIENCE)).await;
        answer = cluster.report(report(&id, &old)).await?;
        reports += 1;
    }
    let followed = matches!(&answer.result, Some(v1::report_response::Result::Found(found))
        if found.hub == FIELD_2 && found.epoch == old.epoch + 1);
    check(followed, || format!("a report of {id} after the outage was answered with {answer:?}"))?;
    say(
        screen,
        &format!(
            "DPS went down while {id} moved: a report of it was told that nobody could be asked, all {DEVICES} devices kept their answers, and report {reports}, made when the first had said, brought the directory to the new hub {:.1} s after DPS was back.",
            begin.elapsed().as_secs_f64()
        ),
    )
}

/// What nobody has noticed: moves, newcomers, a deleted identity; and an assignment that DPS does not know of yet.
async fn swept(azure: &Azure, cluster: &Client, screen: &mut Screen) -> Result<(), Failure> {
    for no in UNNOTICED {
        azure.place_unseen(&device_id(no)).await?;
    }
    azure.seed(DEVICES, NEW).await?;
    azure.delete_identity(FIELD_1, &device_id(DELETED)).await?;
    let assignment = v1::DeviceAssignment {
        device_id: device_id(ASSIGNED),
        hub: FIELD_2.to_owned(),
        ..Default::default()
    };
    let request =
        v1::AssignRequest { reason: "demo".to_owned(), assignment: Some(assignment), ..Default::default() };
    cluster.assign(request).await?;
    // What changes within the lag of the hubs' listings is found by the next sweep.
    tokio::time::sleep(QUERY_LAG).await;

    let (before, begin) = (azure.questions(), Instant::now());
    // The hubs of the first chapter are not emulated.
    let request =
        v1::StartSweepRequest { reason: "demo".to_owned(), scope: SCOPE.to_owned(), ..Default::default() };
    cluster.start_sweep(request).await?;
    let sweep = loop {
        let sweep = cluster.sweep().await?.sweep.unwrap_or_default();
        if sweep.state() != v1::SweepState::Running || begin.elapsed() > SWEEP_MAX {
            break sweep;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    let moved = u64::from(UNNOTICED.end - UNNOTICED.start);
    let mut found: Vec<_> = sweep.found.iter().map(|found| (found.class(), found.count)).collect();
    found.retain(|(_, count)| *count > 0);
    let due = [(v1::DriftClass::Missing, 1), (v1::DriftClass::Pending, 1)];
    let is_right = sweep.state() == v1::SweepState::Completed
        && (sweep.repaired, sweep.adopted) == (moved, u64::from(NEW))
        && found.len() == due.len()
        && due.iter().all(|due| found.contains(due));
    check(is_right, || format!("the sweep ended with {sweep:?}"))?;
    let stands = look_up(cluster, &device_id(ASSIGNED)).await?;
    check(stands.hub == FIELD_2, || format!("the fresh assignment of {} was undone", device_id(ASSIGNED)))?;
    say(
        screen,
        &format!(
            "A sweep compared {} rows of DPS and two hubs in {} pages and {:.1} s, asked about {} devices, and left the rest alone: {moved} that had moved unnoticed were repaired, {NEW} newcomers taken in, one deleted identity listed as MISSING; an assignment made seconds before, which DPS does not know of yet, stands and is listed as PENDING.",
            sweep.rows,
            sweep.pages,
            begin.elapsed().as_secs_f64(),
            azure.questions() - before
        ),
    )
}

async fn look_up(cluster: &Client, id: &str) -> Result<v1::LookupResult, Failure> {
    match cluster.lookup(id, berth_client::linearizable()).await?.result {
        Some(v1::lookup_response::Result::Found(found)) => Ok(found),
        other => Err(Failure::refused(format!("device {id} was answered with {other:?}"))),
    }
}

/// What a gateway tells of a device that its hub did not know.
fn report(id: &str, went_by: &v1::LookupResult) -> v1::ReportRequest {
    v1::ReportRequest {
        device_id: id.to_owned(),
        hub: went_by.hub.clone(),
        epoch: went_by.epoch,
        observation: v1::HubObservation::NotFound.into(),
    }
}
