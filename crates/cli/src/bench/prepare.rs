//! What a bench needs to be there: a stamp, hubs, devices.

use berth_client::{Client, v1};

use crate::failure::Failure;
use crate::progress::Progress;
use crate::screen::Screen;

/// Hubs that a bench spreads its devices over.
pub(super) const HUBS: u64 = 4;
/// The stamp that they belong to.
const STAMP: &str = "bench";
/// Devices of one preparing batch.
const BATCH: u64 = 10_000;

/// ID of a bench's device: 16 bytes.
pub(super) fn device_id(no: u64) -> String {
    format!("bench-{no:010}")
}

/// Host name of a bench's hub.
pub(super) fn hub(no: u64) -> String {
    format!("bench-{}.azure-devices.net", no % HUBS + 1)
}

/// Makes stamp and hubs where they are missing.
pub(super) async fn topology(client: &Client) -> Result<(), Failure> {
    let hub = |no| v1::DesiredHub { name: hub(no), stamp: Some(STAMP.to_owned()), ..Default::default() };
    let desired = v1::DesiredTopology {
        stamps: vec![v1::DesiredStamp { name: STAMP.to_owned(), ..Default::default() }],
        hubs: (0..HUBS).map(hub).collect(),
        ..Default::default()
    };
    let request =
        v1::ApplyRequest { reason: "bench".to_owned(), desired: Some(desired), ..Default::default() };
    client.apply(request).await?;
    Ok(())
}

/// Makes stamp, hubs and so many devices where they are missing.
pub(super) async fn devices(client: &Client, devices: u64, screen: &mut Screen) -> Result<(), Failure> {
    topology(client).await?;
    let mut progress = Progress::new("devices prepared", Some(devices));
    for first in (0..devices).step_by(usize::try_from(BATCH).unwrap_or(usize::MAX)) {
        let ids: Vec<String> = (first..devices.min(first + BATCH)).map(device_id).collect();
        let found = client
            .batch_lookup(v1::BatchLookupRequest { device_ids: ids.clone(), ..Default::default() })
            .await?;
        let missing = ids.iter().zip(&found.hub_numbers).filter(|(_, hub)| **hub == 0).map(|(id, _)| id);
        let missing: Vec<&String> = missing.collect();
        if !missing.is_empty() {
            let assignment = v1::PackedAssignment {
                hub: hub(first / BATCH),
                packed_device_ids: berth_client::pack_ids(missing).unwrap_or_default().into(),
                // One that is there but disabled has no hub to call either.
                status: v1::MappingStatus::Assigned.into(),
                ..Default::default()
            };
            let request = v1::BatchAssignRequest {
                reason: "bench".to_owned(),
                packed: vec![assignment],
                ..Default::default()
            };
            client.batch_assign(request).await?;
        }
        progress.at(first, screen);
    }
    progress.finish();
    Ok(())
}
