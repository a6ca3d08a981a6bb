//! What is sent: requests as bytes, made anew or taken from a pool.

use berth_client::v1;
use bytes::Bytes;
use http::uri::PathAndQuery;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use super::echo::ECHO_PATH;
use super::prepare::{HUBS, device_id, hub};

/// Batch requests made in advance: enough that pages are hit all over, few enough that they fit the cache.
const BATCH_POOL: usize = 128;

/// A kind of request.
#[derive(Debug, Clone)]
pub(super) struct Work {
    pub(super) path: PathAndQuery,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// One ID at random, and what stands behind it in the message.
    Lookup { devices: u64, rest: Vec<u8> },
    /// A message of the pool.
    Pool(Vec<Bytes>),
    /// So many devices to a hub, under a new request ID.
    Assign { devices: u64, batch: usize },
}

/// A caller's own randomness and buffers.
pub(super) struct Hand {
    random: SmallRng,
    buffer: Vec<u8>,
}

impl Hand {
    pub(super) fn new() -> Self {
        Self { random: SmallRng::seed_from_u64(rand::random()), buffer: Vec::new() }
    }
}

impl Work {
    pub(super) fn lookup(devices: u64, consistency: v1::Consistency) -> Self {
        let rest = v1::LookupRequest { device: None, consistency: Some(consistency) }.encode_to_vec();
        Self { path: lookup_path("Lookup"), kind: Kind::Lookup { devices, rest } }
    }

    pub(super) fn batch(devices: u64, batch: usize, consistency: v1::Consistency) -> Self {
        let mut random = SmallRng::seed_from_u64(rand::random());
        let message = |_| {
            let ids = distinct(&mut random, devices, batch).map(device_id);
            let request = v1::BatchLookupRequest {
                consistency: Some(consistency.clone()),
                packed_device_ids: packed(ids).into(),
                ..Default::default()
            };
            Bytes::from(request.encode_to_vec())
        };
        Self { path: lookup_path("BatchLookup"), kind: Kind::Pool((0..BATCH_POOL).map(message).collect()) }
    }

    pub(super) fn assign(devices: u64, batch: usize) -> Self {
        let method = if batch == 1 { "Assign" } else { "BatchAssign" };
        let path = PathAndQuery::from_maybe_shared(format!("/berth.v1.DeviceService/{method}"));
        let path = path.unwrap_or_else(|_| PathAndQuery::from_static("/"));
        Self { path, kind: Kind::Assign { devices, batch } }
    }

    /// The same messages, sent to the echo.
    pub(super) fn as_echo(&self) -> Self {
        Self { path: PathAndQuery::from_static(ECHO_PATH), kind: self.kind.clone() }
    }

    /// The next message.
    pub(super) fn next(&self, hand: &mut Hand) -> Bytes {
        match &self.kind {
            Kind::Lookup { devices, rest } => {
                let id = device_id(hand.random.random_range(0..*devices));
                hand.buffer.clear();
                // Field 1, a text; its length is below 128, so that it takes one byte.
                hand.buffer.push(0x0a);
                hand.buffer.push(u8::try_from(id.len()).unwrap_or(0));
                hand.buffer.extend_from_slice(id.as_bytes());
                hand.buffer.extend_from_slice(rest);
                Bytes::copy_from_slice(&hand.buffer)
            }
            Kind::Pool(pool) => pool[hand.random.random_range(0..pool.len())].clone(),
            Kind::Assign { devices, batch: 1 } => {
                let request = v1::AssignRequest {
                    request_id: Uuid::now_v7().to_string(),
                    assignment: Some(v1::DeviceAssignment {
                        device_id: device_id(hand.random.random_range(0..*devices)),
                        hub: hub(hand.random.random_range(0..HUBS)),
                        ..Default::default()
                    }),
                    ..Default::default()
                };
                request.encode_to_vec().into()
            }
            Kind::Assign { devices, batch } => {
                let hub = hub(hand.random.random_range(0..HUBS));
                let ids = distinct(&mut hand.random, *devices, *batch).map(device_id);
                let assignment =
                    v1::PackedAssignment { hub, packed_device_ids: packed(ids).into(), ..Default::default() };
                let request = v1::BatchAssignRequest {
                    request_id: Uuid::now_v7().to_string(),
                    packed: vec![assignment],
                    ..Default::default()
                };
                request.encode_to_vec().into()
            }
        }
    }

    /// What is wrong with an answer, where something is.
    pub(super) fn check(&self, answer: &Bytes) -> Option<String> {
        match &self.kind {
            _ if self.path.as_str() == ECHO_PATH => None,
            Kind::Lookup { .. } => match v1::LookupResponse::decode(answer.clone()) {
                Ok(v1::LookupResponse { result: Some(v1::lookup_response::Result::Found(_)), .. }) => None,
                Ok(_) => Some("a device has no hub".to_owned()),
                Err(error) => Some(format!("an answer cannot be read: {error}")),
            },
            Kind::Pool(_) => match v1::BatchLookupResponse::decode(answer.clone()) {
                Ok(answer) if answer.negatives.is_empty() && !answer.hub_numbers.contains(&0) => None,
                Ok(answer) => Some(format!("{} devices of a batch have no hub", answer.negatives.len())),
                Err(error) => Some(format!("an answer cannot be read: {error}")),
            },
            Kind::Assign { .. } => answer.is_empty().then(|| "an answer is empty".to_owned()),
        }
    }
}

fn lookup_path(method: &'static str) -> PathAndQuery {
    match method {
        "Lookup" => PathAndQuery::from_static("/berth.v1.LookupService/Lookup"),
        _ => PathAndQuery::from_static("/berth.v1.LookupService/BatchLookup"),
    }
}

/// So many different devices, scattered: a walk in steps that share no factor with their number.
fn distinct(random: &mut SmallRng, devices: u64, count: usize) -> impl Iterator<Item = u64> + use<> {
    let start = random.random_range(0..devices);
    let mut step = random.random_range(1..=devices);
    while gcd(step, devices) != 1 {
        step = step % devices + 1;
    }
    (0..count as u64).map(move |i| (start + i * step) % devices)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn packed(ids: impl Iterator<Item = String>) -> Vec<u8> {
    let mut packed = Vec::new();
    for id in ids {
        packed.push(u8::try_from(id.len()).unwrap_or(0));
        packed.extend_from_slice(id.as_bytes());
    }
    packed
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_batch_never_holds_a_device_twice() {
        let mut random = SmallRng::seed_from_u64(7);
        for devices in [1_000, 1_001, 1_024, 30_030] {
            let ids: BTreeSet<u64> = distinct(&mut random, devices, 1_000).collect();
            assert_eq!(ids.len(), 1_000);
            assert!(ids.iter().all(|id| *id < devices));
        }
    }

    #[test]
    fn a_lookup_made_by_hand_is_one_on_the_wire() {
        let work = Work::lookup(10, berth_client::linearizable().unwrap());
        let read = v1::LookupRequest::decode(work.next(&mut Hand::new())).unwrap();
        let Some(v1::lookup_request::Device::DeviceId(id)) = read.device else { panic!("a device ID") };
        assert!(id.starts_with("bench-") && id.len() == 16);
        assert_eq!(read.consistency, berth_client::linearizable());
    }
}
