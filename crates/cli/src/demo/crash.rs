//! The leader dies under load. A writer changes one device again and again, a reader looks it up through the other
//! nodes: nothing acknowledged may be lost, no epoch may go back, and the dead node must come back from its disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use berth_client::{Client, Error, v1};
use parking_lot::Mutex;

use super::export_file::{device_id, is_disabled};
use super::{HUB_FROM, PREFIX, check, say};
use crate::failure::Failure;
use crate::present;
use crate::screen::Screen;
use crate::stage::{Nodes, PATIENCE, client};

/// The hub that the writer's device goes to and comes back from.
const HUB_OTHER: &str = "contoso-prod-1b.azure-devices.net";
/// How long writer and reader run before the leader dies, and after both have succeeded again.
const AROUND: Duration = Duration::from_millis(700);
/// Time between looks at a state that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What writer and reader share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Epoch of the last acknowledged write.
    acknowledged: AtomicU64,
    writes: AtomicU64,
    lookups: AtomicU64,
    killed: Mutex<Option<Instant>>,
    first_write: Mutex<Option<Duration>>,
    first_lookup: Mutex<Option<Duration>>,
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Notes the first success of a call that began after the kill.
    fn succeeded(&self, began: Instant, first: &Mutex<Option<Duration>>) {
        if let Some(killed) = *self.killed.lock()
            && began >= killed
        {
            first.lock().get_or_insert_with(|| killed.elapsed());
        }
    }
}

pub(super) async fn play(cluster: &Client, nodes: &mut Nodes, screen: &mut Screen) -> Result<(), Failure> {
    let status = cluster.status(v1::StatusRequest {}).await?;
    let leader = status.nodes.iter().find(|node| node.id == status.leader_id);
    let address = leader.map(|node| node.client_address.clone()).unwrap_or_default();
    let name = leader.map(|node| node.name.clone()).unwrap_or_default();
    let at =
        nodes.position(&address).ok_or_else(|| Failure::refused(format!("no node listens on {address}")))?;
    let others: Vec<String> = nodes.addresses().into_iter().filter(|other| *other != address).collect();

    // A device from the end of the file: enabled, and none of the population that moved.
    let enabled = (0..status.devices).rev().find(|no| !is_disabled(*no)).unwrap_or(0);
    let id = device_id(enabled, PREFIX);
    let begin = get(cluster, &id).await?;
    let shared = Arc::new(Shared::default());
    shared.acknowledged.store(begin.epoch, Ordering::SeqCst);
    let writer = tokio::spawn(write(client(&nodes.addresses())?, id.clone(), begin, Arc::clone(&shared)));
    let reader = tokio::spawn(read(client(&others)?, id.clone(), Arc::clone(&shared)));

    tokio::time::sleep(AROUND).await;
    *shared.killed.lock() = Some(Instant::now());
    nodes.kill(at).await?;
    let patience = Instant::now();
    while shared.first_write.lock().is_none() || shared.first_lookup.lock().is_none() {
        if writer.is_finished() || reader.is_finished() || patience.elapsed() > PATIENCE {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    tokio::time::sleep(AROUND).await;
    shared.stop.store(true, Ordering::SeqCst);
    let broke_off = |e: tokio::task::JoinError| Failure::refused(format!("a caller broke off: {e}"));
    writer.await.map_err(broke_off)??;
    reader.await.map_err(broke_off)??;
    let (write, lookup) = (*shared.first_write.lock(), *shared.first_lookup.lock());
    let (Some(write), Some(lookup)) = (write, lookup) else {
        let patience = PATIENCE.as_secs();
        return Err(Failure::refused(format!(
            "no write or no lookup went well within {patience} s of the kill"
        )));
    };
    let last = get(cluster, &id).await?;
    let acknowledged = shared.acknowledged.load(Ordering::SeqCst);
    check(last.epoch == acknowledged, || {
        format!("device {id} is at epoch {} where {acknowledged} was acknowledged", last.epoch)
    })?;
    say(
        screen,
        &format!(
            "The leader, {name}, was killed under load without a word: the next write was acknowledged after {} ms, the next linearizable lookup after {} ms; {} writes and {} lookups around it, nothing acknowledged was lost.",
            write.as_millis(),
            lookup.as_millis(),
            shared.writes.load(Ordering::SeqCst),
            shared.lookups.load(Ordering::SeqCst)
        ),
    )?;

    let begin = Instant::now();
    nodes.reopen(at).await?;
    nodes.settled(cluster).await?;
    let back = client(std::slice::from_ref(&address))?;
    let answer = back.lookup(&id, berth_client::linearizable()).await?;
    let epoch = match &answer.result {
        Some(v1::lookup_response::Result::Found(found)) => found.epoch,
        _ => 0,
    };
    check(epoch == acknowledged, || {
        format!("{name} came back with epoch {epoch} where {acknowledged} is due")
    })?;
    say(
        screen,
        &format!(
            "{name} was opened again from its disk and answered a linearizable lookup after {} ms, with what was written while it was away.",
            begin.elapsed().as_millis()
        ),
    )?;
    // The device goes home, so that the counts at the end are the ones of the import.
    assign(cluster, &id, HUB_FROM, acknowledged).await.map(drop)
}

async fn get(cluster: &Client, id: &str) -> Result<v1::Mapping, Failure> {
    let device = Some(v1::get_request::Device::DeviceId(id.to_owned()));
    let answer = cluster.get(v1::GetRequest { device, consistency: berth_client::linearizable() }).await?;
    answer.mapping.ok_or_else(|| Failure::refused(format!("device {id} has no mapping")))
}

async fn assign(client: &Client, id: &str, hub: &str, epoch: u64) -> Result<u64, Failure> {
    let condition = Some(v1::precondition::Condition::Epoch(epoch));
    let assignment = v1::DeviceAssignment {
        device_id: id.to_owned(),
        hub: hub.to_owned(),
        precondition: Some(v1::Precondition { condition }),
        ..Default::default()
    };
    let request =
        v1::AssignRequest { reason: "demo".to_owned(), assignment: Some(assignment), ..Default::default() };
    Ok(client.assign(request).await?.epoch)
}

/// Moves the device to and fro, each write on condition of the epoch that the one before left.
async fn write(client: Client, id: String, begin: v1::Mapping, shared: Arc<Shared>) -> Result<(), Failure> {
    let (mut epoch, mut hub) = (begin.epoch, begin.hub);
    while !shared.is_stopped() {
        let next = if hub == HUB_OTHER { HUB_FROM } else { HUB_OTHER };
        let began = Instant::now();
        let written = assign(&client, &id, next, epoch).await?;
        check(written == epoch + 1, || format!("a write went from epoch {epoch} to {written}"))?;
        (epoch, hub) = (written, next.to_owned());
        shared.acknowledged.store(epoch, Ordering::SeqCst);
        shared.writes.fetch_add(1, Ordering::SeqCst);
        shared.succeeded(began, &shared.first_write);
    }
    Ok(())
}

/// Looks the device up; an answer is never older than what was acknowledged before it was asked for.
async fn read(client: Client, id: String, shared: Arc<Shared>) -> Result<(), Failure> {
    let mut newest = 0;
    while !shared.is_stopped() {
        let (began, least) = (Instant::now(), shared.acknowledged.load(Ordering::SeqCst));
        let answer = match client.lookup(&id, berth_client::linearizable()).await {
            Ok(answer) => answer,
            Err(error @ (Error::Refused { .. } | Error::Unavailable { .. })) if error.is_unavailable() => {
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let revision = present::revision(answer.header.as_ref());
        let Some(v1::lookup_response::Result::Found(found)) = answer.result else {
            return Err(Failure::refused(format!("device {id} has no hub at revision {revision}")));
        };
        check(found.epoch >= least.max(newest), || {
            format!("a lookup saw epoch {} after {} was acknowledged", found.epoch, least.max(newest))
        })?;
        newest = found.epoch;
        shared.lookups.fetch_add(1, Ordering::SeqCst);
        shared.succeeded(began, &shared.first_lookup);
    }
    Ok(())
}
