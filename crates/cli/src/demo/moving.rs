//! A population moves to another hub at one revision while lookups run on every node. Every answer from before that
//! revision must name the old hub and epoch, every later one the new ones; and no lookup that began after the
//! acknowledgement may see the old.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use berth_client::{Client, v1};
use tokio::task::JoinSet;

use super::export_file::{device_id, is_disabled};
use super::{HUB_FROM, HUB_TO, PREFIX, check, say};
use crate::failure::Failure;
use crate::present;
use crate::screen::Screen;
use crate::stage::{Nodes, client};

/// Devices that move: what one batch takes at most.
const POPULATION_MAX: u64 = 10_000;
/// Callers on each node.
const CALLERS: usize = 4;
/// Answers that one caller keeps to be checked, so that memory stays bounded.
const ANSWERS_MAX: usize = 200_000;
/// How long lookups run before and after the move.
const AROUND: Duration = Duration::from_millis(700);

/// What one lookup said.
#[derive(Debug, Clone, Copy)]
struct Answer {
    device: usize,
    revision: u64,
    epoch: u64,
    is_moved: bool,
    /// True where the lookup began after the move was acknowledged.
    is_after: bool,
}

/// Plays the move; returns how many devices moved.
pub(super) async fn play(
    devices: u64,
    cluster: &Client,
    nodes: &Nodes,
    screen: &mut Screen,
) -> Result<u64, Failure> {
    let enabled = (0..devices).filter(|no| !is_disabled(*no));
    let size = usize::try_from(POPULATION_MAX.min(devices / 5)).unwrap_or(0);
    let ids: Arc<Vec<String>> = Arc::new(enabled.take(size).map(|no| device_id(no, PREFIX)).collect());
    let request = v1::BatchLookupRequest { device_ids: ids.to_vec(), ..Default::default() };
    let epochs = cluster.batch_lookup(request).await?.epochs;
    check(epochs.len() == ids.len(), || "the population could not be looked up".to_owned())?;

    let (acknowledged, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut callers = JoinSet::new();
    for address in nodes.addresses() {
        let client = client(&[address])?;
        for _ in 0..CALLERS {
            let (ids, acknowledged, stop) = (Arc::clone(&ids), Arc::clone(&acknowledged), Arc::clone(&stop));
            callers.spawn(ask(client.clone(), ids, acknowledged, stop));
        }
    }
    tokio::time::sleep(AROUND).await;
    let assignment = v1::PackedAssignment {
        hub: HUB_TO.to_owned(),
        packed_device_ids: berth_client::pack_ids(ids.iter()).unwrap_or_default().into(),
        ..Default::default()
    };
    let request =
        v1::BatchAssignRequest { reason: "demo".to_owned(), packed: vec![assignment], ..Default::default() };
    let moved = cluster.batch_assign(request).await?;
    acknowledged.store(true, Ordering::SeqCst);
    tokio::time::sleep(AROUND).await;
    stop.store(true, Ordering::SeqCst);
    let revision = present::revision(moved.header.as_ref());
    check(moved.moved == ids.len() as u64, || format!("{} of {} devices moved", moved.moved, ids.len()))?;

    let (mut before, mut after) = (0_u64, 0_u64);
    while let Some(answers) = callers.join_next().await {
        let answers = answers.map_err(|e| Failure::refused(format!("a caller broke off: {e}")))??;
        for answer in answers {
            let due = answer.revision >= revision;
            let epoch = epochs.get(answer.device).copied().unwrap_or(0) + u64::from(due);
            let is_right = answer.is_moved == due && answer.epoch == epoch && (due || !answer.is_after);
            check(is_right, || {
                let id = ids.get(answer.device).map_or("", String::as_str);
                format!(
                    "device {id} was answered with {answer:?}; it moved at revision {revision} to epoch {epoch}"
                )
            })?;
            *if due { &mut after } else { &mut before } += 1;
        }
    }
    check(before > 0 && after > 0, || format!("{before} lookups came before the move and {after} after it"))?;
    say(
        screen,
        &format!(
            "{} devices moved to {HUB_TO} at revision {revision}, all at once: {before} lookups before it saw the old hub, {after} after it the new one, epochs one higher, none in between.",
            moved.moved
        ),
    )?;
    Ok(moved.moved)
}

/// Asks for devices of the population until told to stop.
async fn ask(
    client: Client,
    ids: Arc<Vec<String>>,
    acknowledged: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
) -> Result<Vec<Answer>, Failure> {
    let mut answers = Vec::new();
    let mut newest: BTreeMap<usize, u64> = BTreeMap::new();
    while !stop.load(Ordering::SeqCst) && answers.len() < ANSWERS_MAX {
        let device = rand::random_range(0..ids.len());
        let Some(id) = ids.get(device) else { continue };
        let is_after = acknowledged.load(Ordering::SeqCst);
        let answer = client.lookup(id, berth_client::linearizable()).await?;
        let revision = present::revision(answer.header.as_ref());
        let Some(v1::lookup_response::Result::Found(found)) = answer.result else {
            return Err(Failure::refused(format!("device {id} has no hub during the move")));
        };
        check(found.hub == HUB_FROM || found.hub == HUB_TO, || {
            format!("device {id} was answered with hub {}", found.hub)
        })?;
        let last = newest.insert(device, found.epoch).unwrap_or(0);
        check(found.epoch >= last, || format!("device {id} went back from epoch {last} to {}", found.epoch))?;
        answers.push(Answer {
            device,
            revision,
            epoch: found.epoch,
            is_moved: found.hub == HUB_TO,
            is_after,
        });
    }
    Ok(answers)
}
