//! Single calls to single nodes: no retries, no redirects, so that a test sees what each node says.

use std::net::SocketAddr;
use std::time::Duration;

use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::device_service_client::DeviceServiceClient;
use berth_proto::v1::lookup_service_client::LookupServiceClient;
use berth_proto::v1::topology_service_client::TopologyServiceClient;
use tonic::transport::{Channel, Endpoint};

use crate::history::{Device, Hub, Seen};
use crate::process::eventually;

/// One call takes at most this long: a paused node must not hold its callers for ever.
const CALL: Duration = Duration::from_millis(900);
/// A connection is there within this time or not at all.
const CONNECT: Duration = Duration::from_millis(300);

/// What became of a write, as one call tells it.
#[derive(Debug)]
pub enum Answer {
    /// Done at this revision.
    Done(u64),
    /// Refused: this command has no effect.
    Refused,
    /// Not taken by this node; perhaps it knows who would.
    NotLeader(Option<usize>),
    /// It may have taken effect or not.
    Open,
}

/// Consistency levels.
pub mod read_at {
    use berth_proto::v1::{Consistency, Linearizable, Local, consistency::Level};

    /// As new as anything acknowledged before the call.
    pub fn linearizable() -> Consistency {
        Consistency { level: Some(Level::Linearizable(Linearizable {})) }
    }

    /// Whatever the node has.
    pub fn local() -> Consistency {
        Consistency { level: Some(Level::Local(Local {})) }
    }
}

/// Connections to every node.
pub struct Caller {
    endpoints: Vec<SocketAddr>,
    channels: Vec<Channel>,
}

/// The name of a device of the load.
pub fn device_id(device: Device) -> String {
    format!("device-{device:04}")
}

fn hub_name(hub: Hub) -> String {
    format!("hub-{hub}.example.net")
}

fn hub_number(name: &str) -> Option<Hub> {
    name.strip_prefix("hub-")?.strip_suffix(".example.net")?.parse().ok()
}

impl Caller {
    /// Connects to each endpoint when it is first used.
    pub fn new(endpoints: &[SocketAddr]) -> Self {
        let channel = |addr: &SocketAddr| {
            let endpoint = Endpoint::from_shared(format!("http://{addr}")).expect("an address is a URI");
            endpoint.timeout(CALL).connect_timeout(CONNECT).tcp_nodelay(true).connect_lazy()
        };
        Self { endpoints: endpoints.to_vec(), channels: endpoints.iter().map(channel).collect() }
    }

    /// Creates one stamp with `count` hubs, through whichever node takes it.
    pub async fn create_hubs(&self, count: u32) {
        let stamp = v1::DesiredStamp { name: "load".to_owned(), ..Default::default() };
        let hubs = (0..count).map(|hub| v1::DesiredHub {
            name: hub_name(hub),
            stamp: Some("load".to_owned()),
            ..Default::default()
        });
        let desired = v1::DesiredTopology { stamps: vec![stamp], hubs: hubs.collect(), ..Default::default() };
        let request = v1::ApplyRequest {
            request_id: uuid::Uuid::now_v7().to_string(),
            reason: "a place for the load".to_owned(),
            desired: Some(desired),
            ..Default::default()
        };
        let mut node = 0;
        let done = eventually(|| {
            node += 1;
            let mut client = TopologyServiceClient::new(self.channels[node % self.channels.len()].clone());
            let request = request.clone();
            async move { client.apply(request).await.ok() }
        });
        assert!(done.await.is_some(), "no node takes the topology of the load");
    }

    /// Puts devices on hubs: one by itself, several as a batch.
    pub async fn write(&self, node: usize, request_id: &str, items: &[(Device, Hub)]) -> Answer {
        let mut client = DeviceServiceClient::new(self.channels[node].clone());
        let assignment = |(device, hub): &(Device, Hub)| v1::DeviceAssignment {
            device_id: device_id(*device),
            hub: hub_name(*hub),
            ..Default::default()
        };
        let (request_id, reason) = (request_id.to_owned(), "load".to_owned());
        let answered = if let [one] = items {
            let assignment = Some(assignment(one));
            let request = v1::AssignRequest { request_id, reason, assignment, ..Default::default() };
            client.assign(request).await.map(|answer| answer.into_inner().header)
        } else {
            let items = items.iter().map(assignment).collect();
            let request = v1::BatchAssignRequest { request_id, reason, items, ..Default::default() };
            client.batch_assign(request).await.map(|answer| answer.into_inner().header)
        };
        match answered {
            Ok(header) => Answer::Done(header.map_or(0, |header| header.revision)),
            Err(status) => match ApiError::from(&status) {
                ApiError::NotLeader { leader } => {
                    let known = leader.and_then(|hint| hint.address.parse::<SocketAddr>().ok());
                    Answer::NotLeader(known.and_then(|addr| self.endpoints.iter().position(|e| *e == addr)))
                }
                ApiError::NoQuorum { .. } | ApiError::NotServing { .. } | ApiError::Overloaded { .. } => {
                    Answer::NotLeader(None)
                }
                ApiError::Rejected(_) | ApiError::BatchRefused { .. } | ApiError::Invalid(_) => {
                    Answer::Refused
                }
                _ => Answer::Open,
            },
        }
    }

    /// Looks devices up at one node: one by itself, several as a batch. `None` where the node gives no answer.
    pub async fn look_up(
        &self,
        node: usize,
        devices: &[Device],
        consistency: v1::Consistency,
    ) -> Option<(u64, Vec<Option<Seen>>)> {
        let mut client = LookupServiceClient::new(self.channels[node].clone());
        let consistency = Some(consistency);
        if let [one] = devices {
            let device = Some(v1::lookup_request::Device::DeviceId(device_id(*one)));
            let answer = match client.lookup(v1::LookupRequest { device, consistency }).await {
                Ok(answer) => answer.into_inner(),
                Err(status) => match ApiError::from(&status) {
                    // Every device of a load has a hub from the start, and is never removed.
                    lost @ ApiError::NoHub { .. } => panic!("node {} has lost a device: {lost}", node + 1),
                    _ => return None,
                },
            };
            let seen = match answer.result? {
                v1::lookup_response::Result::Found(found) => {
                    Some(Seen { hub: hub_number(&found.hub)?, epoch: found.epoch, revision: found.revision })
                }
                v1::lookup_response::Result::Negative(_) => None,
            };
            return Some((answer.header?.revision, vec![seen]));
        }
        let device_ids = devices.iter().map(|device| device_id(*device)).collect();
        let request = v1::BatchLookupRequest { consistency, device_ids, ..Default::default() };
        let answer = client.batch_lookup(request).await.ok()?.into_inner();
        let rows = answer.hub_numbers.iter().zip(&answer.epochs).zip(&answer.revisions);
        let seen = |((number, epoch), revision): ((&u32, &u64), &u64)| {
            let hub = answer.hubs.get(usize::try_from(number.checked_sub(1)?).ok()?)?;
            Some(Seen { hub: hub_number(&hub.hub)?, epoch: *epoch, revision: *revision })
        };
        let seen: Vec<Option<Seen>> = rows.map(seen).collect();
        assert_eq!(seen.len(), devices.len(), "a batch answers each ID");
        Some((answer.header?.revision, seen))
    }
}
