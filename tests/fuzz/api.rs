//! A whole node before clients that send rubbish: each call is answered, none by a panic, and the node goes on. And
//! the command line before topology files that are rubbish.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_proto::v1;
use berth_server::config::{Config, Settings};
use berth_server::health::Serving;
use berth_server::run::{Injected, Node};
use bytes::{Buf, BufMut, Bytes};
use futures_util::stream;
use prost::Message;
use rand::RngExt;
use tempfile::TempDir;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::Fuzz;
use crate::wire::{assignments, desired, packed};

/// One call takes at most this long: a node that hangs is found.
const CALL: Duration = Duration::from_secs(30);

/// A node of its own, in this process.
struct Alone {
    runtime: tokio::runtime::Runtime,
    node: Option<Node>,
    dir: TempDir,
}

impl Alone {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let anywhere = || Some("127.0.0.1:0".to_owned());
        let settings = Settings {
            data_dir: Some(dir.path().join("data")),
            listen: anywhere(),
            peer_listen: anywhere(),
            http_listen: anywhere(),
            ..Settings::default()
        };
        let config = Config::from_settings([settings]).unwrap();
        let node = runtime.block_on(async {
            let node = Node::start(config, Injected::default()).await.unwrap();
            for mut health in [node.health().watch_read(), node.health().watch_write()] {
                let serves = health.wait_for(|serving| *serving == Serving::Yes);
                tokio::time::timeout(CALL, serves).await.expect("the node serves in time").unwrap();
            }
            node
        });
        Self { runtime, node: Some(node), dir }
    }

    fn address(&self) -> String {
        self.node.as_ref().unwrap().addresses().client.to_string()
    }

    /// Sends bytes as the messages of one call, and gives the code of its end.
    fn call(&self, channel: &Channel, path: &'static str, messages: Vec<Bytes>) -> (Code, String) {
        self.runtime.block_on(async {
            let mut grpc = Grpc::new(channel.clone());
            grpc.ready().await.expect("the node takes calls");
            let call = async {
                let request = Request::new(stream::iter(messages));
                let mut answers =
                    grpc.streaming(request, PathAndQuery::from_static(path), Raw).await?.into_inner();
                while answers.message().await?.is_some() {}
                Ok::<(), Status>(())
            };
            match tokio::time::timeout(CALL, call).await.expect("a call ends") {
                Ok(()) => (Code::Ok, String::new()),
                Err(status) => (status.code(), status.message().to_owned()),
            }
        })
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            self.runtime.block_on(node.shutdown());
        }
    }
}

/// Bytes as they are, in both directions.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}

/// Calls that a client may make, with messages that are right. Those that change the membership are left out: a
/// node that let itself be removed would have obeyed.
fn calls(fuzz: &mut Fuzz) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let assignments = assignments(fuzz);
    let local = || Some(v1::Consistency { level: Some(v1::consistency::Level::Local(v1::Local {})) });
    let request_id = || uuid::Uuid::now_v7().to_string();
    let apply = v1::ApplyRequest { desired: Some(desired()), ..v1::ApplyRequest::default() };
    let assign = assignments.iter().map(|one| {
        v1::AssignRequest { request_id: request_id(), assignment: Some(one.clone()), ..Default::default() }
            .encode_to_vec()
    });
    let batch = assignments.chunks(4).map(|some| {
        v1::BatchAssignRequest {
            items: some.to_vec(),
            packed: vec![packed(&some[0])],
            ..v1::BatchAssignRequest::default()
        }
        .encode_to_vec()
    });
    let chunk = |chunk_no| {
        let chunk = v1::ImportChunk {
            chunk_no,
            rows: assignments[..3].to_vec(),
            packed_device_ids: berth_proto::convert::pack_ids(["d0", "d5"]),
        };
        v1::ImportRequest { message: Some(v1::import_request::Message::Chunk(chunk)) }.encode_to_vec()
    };
    let lookup = |device| v1::LookupRequest { consistency: local(), device: Some(device) }.encode_to_vec();
    let registration = v1::RegistrationRef { registration_id: "r0".to_owned(), scope: "0ne001".to_owned() };
    let filter = v1::ListRequest::default().encode_to_vec();
    vec![
        ("/berth.v1.TopologyService/Apply", vec![apply.encode_to_vec()]),
        ("/berth.v1.TopologyService/UpdateStamp", vec![desired().stamps[0].encode_to_vec()]),
        ("/berth.v1.TopologyService/DeleteHub", vec![desired().hubs[0].encode_to_vec()]),
        ("/berth.v1.TopologyService/SetState", vec![desired().routes[0].encode_to_vec()]),
        ("/berth.v1.TopologyService/ListHubs", vec![filter.clone()]),
        ("/berth.v1.TopologyService/SuggestPlacement", vec![assignments[0].encode_to_vec()]),
        ("/berth.v1.TopologyService/GetCapacity", vec![filter.clone()]),
        ("/berth.v1.DeviceService/Assign", assign.collect()),
        ("/berth.v1.DeviceService/BatchAssign", batch.collect()),
        ("/berth.v1.DeviceService/Import", vec![chunk(1), chunk(2)]),
        (
            "/berth.v1.DeviceService/Remove",
            vec![
                v1::RemoveRequest { device_id: "d0".to_owned(), ..v1::RemoveRequest::default() }
                    .encode_to_vec(),
            ],
        ),
        ("/berth.v1.DeviceService/List", vec![filter]),
        ("/berth.v1.DeviceService/Export", vec![v1::ExportRequest::default().encode_to_vec()]),
        (
            "/berth.v1.LookupService/Lookup",
            vec![
                lookup(v1::lookup_request::Device::DeviceId("d0".to_owned())),
                lookup(v1::lookup_request::Device::Registration(registration)),
            ],
        ),
        (
            "/berth.v1.LookupService/BatchLookup",
            vec![
                v1::BatchLookupRequest {
                    consistency: local(),
                    device_ids: vec!["d0".to_owned()],
                    packed_device_ids: berth_proto::convert::pack_ids(["d1", "d2"]),
                }
                .encode_to_vec(),
            ],
        ),
        (
            "/berth.v1.LookupService/LookupStream",
            vec![v1::LookupStreamRequest { tag: 4, ..v1::LookupStreamRequest::default() }.encode_to_vec()],
        ),
        (
            "/berth.v1.ReconcileService/ReconcileDevice",
            vec![v1::ReconcileDeviceRequest { device_id: "d0".to_owned() }.encode_to_vec()],
        ),
        (
            "/berth.v1.ReconcileService/ListDrift",
            vec![
                v1::ListDriftRequest {
                    page_size: 10,
                    page_token: "d0".to_owned(),
                    class: v1::DriftClass::Orphan as i32,
                    scope: "0ne001".to_owned(),
                }
                .encode_to_vec(),
            ],
        ),
        (
            "/berth.v1.ReconcileService/ResolveDrift",
            vec![
                v1::ResolveDriftRequest {
                    request_id: request_id(),
                    device_id: "d0".to_owned(),
                    how: v1::DriftResolution::Adopt as i32,
                    ..Default::default()
                }
                .encode_to_vec(),
            ],
        ),
        ("/berth.v1.ReconcileService/GetBudget", vec![v1::GetBudgetRequest::default().encode_to_vec()]),
        (
            "/berth.v1.ClusterService/Digest",
            vec![v1::DigestRequest { consistency: local(), recount: true }.encode_to_vec()],
        ),
    ]
}

#[test]
fn calls_of_clients() {
    let mut fuzz = Fuzz::new("calls of clients", 3);
    let alone = Alone::start();
    let channel = {
        let _inside = alone.runtime.enter();
        Channel::from_shared(format!("http://{}", alone.address())).unwrap().connect_lazy()
    };
    let calls = calls(&mut fuzz);
    let whole: Vec<Vec<u8>> = calls.iter().flat_map(|(_, messages)| messages.clone()).collect();
    let mut answered = 0;
    for round in 0..fuzz.rounds as usize {
        let (path, messages) = &calls[round % calls.len()];
        // A stream is sent whole, with one of its messages wrong; of the others one message is sent.
        let streams = path.ends_with("Import") || path.ends_with("Stream");
        let wrong = fuzz.random.random_range(0..messages.len());
        let other = &whole[fuzz.random.random_range(0..whole.len())];
        let tampered = fuzz.tampered(&messages[wrong], other);
        let _shown = fuzz.shown(path, &tampered);
        let sent = match streams {
            true => (0..messages.len())
                .map(|at| if at == wrong { tampered.clone() } else { messages[at].clone() })
                .map(Bytes::from)
                .collect(),
            false => vec![Bytes::from(tampered.clone())],
        };
        let (code, told) = alone.call(&channel, path, sent);
        // prost's own refusals come as INTERNAL too, with these words.
        let unread = told.contains("failed to decode Protobuf message");
        let refused =
            !matches!(code, Code::Internal | Code::Unknown | Code::DataLoss | Code::Unimplemented) || unread;
        assert!(refused, "{path} is answered with {code:?}: {told}");
        answered += u32::from(code == Code::Ok);
    }
    println!("calls of clients: {answered} done");
    assert!(answered > fuzz.rounds / 20, "too few calls are done");
    let recount = v1::DigestRequest { consistency: None, recount: true }.encode_to_vec();
    let (code, told) = alone.call(&channel, "/berth.v1.ClusterService/Digest", vec![recount.into()]);
    assert_eq!(code, Code::Ok, "the node no longer agrees with itself: {told}");
}

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const TOPOLOGY: &str = include_str!("../../deploy/topology.toml");

const TOPOLOGY_YAML: &str = "
stamps:
  - name: prod-1
    state: cordoned
    labels: { region: eu, ring: '2' }
    capacity: { soft: 900, hard: unlimited }
    cost: { currency: EUR, fixed_per_month: 1200.5 }
hubs:
  - { name: h1.azure-devices.net, stamp: prod-1, tier: S2, units: 3 }
";

/// A file is done, or refused in one line and with the code of a refusal.
#[test]
fn topology_files() {
    let mut fuzz = Fuzz::new("topology files", 8);
    let alone = Alone::start();
    for round in 0..fuzz.rounds {
        let (name, whole) = [("t.toml", TOPOLOGY), ("t.yaml", TOPOLOGY_YAML)][round as usize % 2];
        let bytes = fuzz.tampered(whole.as_bytes(), TOPOLOGY.as_bytes());
        let _shown = fuzz.shown("a topology file", &bytes);
        let path = alone.dir.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        let (out, err) = (Page::default(), Page::default());
        let words =
            ["berth", "apply", "--dry-run", "--endpoints", &alone.address(), "-f", path.to_str().unwrap()]
                .map(str::to_owned);
        let code = berth::run_with(words, Box::new(out), Box::new(err.clone()));
        let told = String::from_utf8(err.0.lock().unwrap().clone()).expect("errors are text");
        match code {
            0 => {}
            1 | 3 => assert!(told.starts_with("berth: ") && told.lines().count() == 1, "{told}"),
            other => panic!("exit code {other}: {told}"),
        }
    }
}
