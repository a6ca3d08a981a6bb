//! Lookups and batches through all three nodes at once, every answer checked.

use std::time::{Duration, Instant};

use berth_client::{ApiError, Client, Error, v1};
use tokio::task::JoinSet;

use super::export_file::{device_id, is_disabled};
use super::{HUB_FROM, PREFIX, say};
use crate::failure::Failure;
use crate::progress::rate;
use crate::screen::Screen;
use crate::stage::{Nodes, client};

/// How long the load lasts.
const LENGTH: Duration = Duration::from_secs(3);
/// Callers of single lookups, for each node.
const CALLERS: usize = 16;
/// Callers of batches, for each node.
const BATCHERS: usize = 2;
/// Devices of a batch.
const BATCH: u64 = 256;

/// What the callers of one node saw.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    lookups: u64,
    disabled: u64,
    batch_devices: u64,
}

pub(super) async fn play(devices: u64, nodes: &Nodes, screen: &mut Screen) -> Result<(), Failure> {
    let end = Instant::now() + LENGTH;
    let mut callers = JoinSet::new();
    for address in nodes.addresses() {
        let client = client(&[address])?;
        for _ in 0..CALLERS {
            callers.spawn(lookups(client.clone(), devices, end));
        }
        for _ in 0..BATCHERS {
            callers.spawn(batches(client.clone(), devices, end));
        }
    }
    let mut all = Seen::default();
    while let Some(seen) = callers.join_next().await {
        let seen = seen.map_err(|e| Failure::refused(format!("a caller broke off: {e}")))??;
        all.lookups += seen.lookups;
        all.disabled += seen.disabled;
        all.batch_devices += seen.batch_devices;
    }
    let seconds = LENGTH.as_secs_f64();
    say(
        screen,
        &format!(
            "Linearizable lookups through all three nodes at once: {:.0} a second singly and {:.0} devices a second in batches of {BATCH}, every answer right; {} asked for a disabled device and were told so.",
            rate(all.lookups, seconds),
            rate(all.batch_devices, seconds),
            all.disabled
        ),
    )
}

async fn lookups(client: Client, devices: u64, end: Instant) -> Result<Seen, Failure> {
    let mut seen = Seen::default();
    while Instant::now() < end {
        let no = rand::random_range(0..devices);
        let id = device_id(no, PREFIX);
        match client.lookup(&id, berth_client::linearizable()).await {
            Ok(v1::LookupResponse { result: Some(v1::lookup_response::Result::Found(found)), .. })
                if found.hub == HUB_FROM && !is_disabled(no) => {}
            Err(Error::Refused { reason, .. })
                if is_disabled(no)
                    && matches!(*reason, ApiError::NoHub { kind: v1::NegativeKind::Disabled, .. }) =>
            {
                seen.disabled += 1;
            }
            Ok(other) => return Err(Failure::refused(format!("device {id} was answered with {other:?}"))),
            Err(error) => return Err(error.into()),
        }
        seen.lookups += 1;
    }
    Ok(seen)
}

async fn batches(client: Client, devices: u64, end: Instant) -> Result<Seen, Failure> {
    let mut seen = Seen::default();
    while Instant::now() < end {
        let first = rand::random_range(0..=devices - BATCH);
        let ids = (first..first + BATCH).map(|no| device_id(no, PREFIX)).collect();
        let request = v1::BatchLookupRequest { device_ids: ids, ..Default::default() };
        let answer = client.batch_lookup(request).await?;
        for (at, hub) in answer.hub_numbers.iter().enumerate() {
            let no = first + at as u64;
            let has_hub = *hub != 0;
            if has_hub == is_disabled(no) {
                let id = device_id(no, PREFIX);
                return Err(Failure::refused(format!("a batch is wrong about device {id}")));
            }
        }
        seen.batch_devices += answer.hub_numbers.len() as u64;
    }
    Ok(seen)
}
