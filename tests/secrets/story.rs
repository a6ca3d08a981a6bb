//! What is asked of the nodes while they have secrets; every answer is kept.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;

use berth_proto::v1;
use berth_proto::v1::cluster_service_client::ClusterServiceClient;
use berth_proto::v1::device_service_client::DeviceServiceClient;
use berth_proto::v1::lookup_service_client::LookupServiceClient;
use berth_proto::v1::topology_service_client::TopologyServiceClient;
use berth_tests::process::{Cluster, eventually};
use prost::Message;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::azure::{Azure, THROTTLED, WRONGS};
use super::{DPS, DPS_WRONG, HUBS, Secrets, connection_string};

const SCOPE: &str = "0ne00000001";
const SCOPE_WRONG: &str = "0ne00000002";

pub struct Story<'a> {
    cluster: &'a Cluster,
    azure: &'a Azure,
    secrets: &'a Secrets,
    folder: &'a Path,
    channel: Channel,
    /// What was asked, and all bytes of the answer.
    pub said: Vec<(String, Vec<u8>)>,
}

impl<'a> Story<'a> {
    pub fn new(cluster: &'a Cluster, azure: &'a Azure, secrets: &'a Secrets, folder: &'a Path) -> Self {
        Self { cluster, azure, secrets, folder, channel: cluster.channel(0), said: Vec::new() }
    }

    pub async fn play(&mut self) {
        let leader = self.cluster.leader().await;
        self.channel = self.cluster.channel(leader);
        self.apply().await;
        self.reports().await;
        self.lookups().await;
        for at in 0..3 {
            self.hook(self.cluster.nodes()[at].http).await;
        }
        self.everything_else().await;
        for node in self.cluster.nodes() {
            for path in ["/metrics", "/healthz", "/readyz", "/nowhere"] {
                let request = format!("GET {path} HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n");
                self.http(node.http, path, request).await;
            }
        }
    }

    /// Keeps an answer, and gives it.
    fn keep<T: Message + Debug>(
        &mut self,
        question: &str,
        answer: Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        let (headers, bytes) = match &answer {
            Ok(answer) => {
                let text = format!("{:?}{:?}", answer.metadata(), answer.get_ref());
                (text, answer.get_ref().encode_to_vec())
            }
            Err(status) => {
                let text = format!("{}{:?}{:?}", status.message(), status.metadata(), status);
                (text, status.details().to_vec())
            }
        };
        self.said.push((question.to_owned(), [headers.as_bytes(), &bytes].concat()));
        answer.map(Response::into_inner)
    }

    async fn apply(&mut self) {
        let hub = |name: &&str| v1::DesiredHub {
            name: (*name).to_owned(),
            stamp: Some("s".to_owned()),
            tier: Some(v1::HubTier::S3 as i32),
            units: Some(1),
            ..v1::DesiredHub::default()
        };
        let scope = |name: &str, host: &str, file: &str, read_through| v1::DesiredScope {
            name: name.to_owned(),
            service_host: Some(host.to_owned()),
            credential_ref: Some(format!("file:{}", self.folder.join(file).display())),
            linked_hubs: Some(v1::DesiredLinkedHubs { hubs: HUBS.map(str::to_owned).into() }),
            budget_percent: Some(100),
            read_through: Some(read_through),
            ..v1::DesiredScope::default()
        };
        let desired = v1::DesiredTopology {
            stamps: vec![v1::DesiredStamp { name: "s".to_owned(), ..v1::DesiredStamp::default() }],
            hubs: HUBS.iter().map(hub).collect(),
            scopes: vec![scope(SCOPE, DPS, "dps", true), scope(SCOPE_WRONG, DPS_WRONG, "dps-wrong", false)],
            ..v1::DesiredTopology::default()
        };
        let request = v1::ApplyRequest { desired: Some(desired), ..v1::ApplyRequest::default() };
        let applied = TopologyServiceClient::new(self.channel.clone()).apply(request).await;
        self.keep("Apply", applied).unwrap();
        // A secret in the place of its name is refused, and not only when it is in the log.
        for misplaced in [self.secrets.misplaced.clone(), connection_string(DPS, &self.secrets.misplaced)] {
            let scope = v1::DesiredScope {
                name: SCOPE_WRONG.to_owned(),
                credential_ref: Some(misplaced),
                ..v1::DesiredScope::default()
            };
            let desired = v1::DesiredTopology { scopes: vec![scope], ..v1::DesiredTopology::default() };
            for validate_only in [true, false] {
                let desired = Some(desired.clone());
                let request = v1::ApplyRequest { desired, validate_only, ..v1::ApplyRequest::default() };
                let applied = TopologyServiceClient::new(self.channel.clone()).apply(request).await;
                let refused = self.keep("Apply of a secret", applied).unwrap_err();
                assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
            }
        }
    }

    /// A report of each device; DPS or the hub says something wrong of it, or nobody may be asked.
    async fn reports(&mut self) {
        for (hub, name) in HUBS.iter().enumerate() {
            self.report(&format!("fine-{hub}"), name, SCOPE).await;
        }
        self.report("fine-other-0", HUBS[0], SCOPE_WRONG).await;
        for place in ["dps", "hub"] {
            for wrong in WRONGS {
                let hub = usize::from(wrong.len() % 2 == 0);
                self.report(&format!("{place}-{wrong}-{hub}"), HUBS[hub], SCOPE).await;
            }
        }
        for hub in [0, 1] {
            self.report(&format!("hub-{THROTTLED}-{hub}"), HUBS[hub], SCOPE).await;
        }
        for asked in ["hub-file.azure-devices.net/devices/fine-0", "hub-env.azure-devices.net/devices/fine-1"]
        {
            assert!(self.azure.was_asked(asked), "{asked}");
        }
        assert!(
            !self.azure.was_asked("hub-wrong") && !self.azure.was_asked(DPS_WRONG),
            "what is wrong signs nothing"
        );
    }

    async fn report(&mut self, device: &str, hub: &str, scope: &str) {
        let assignment = v1::DeviceAssignment {
            device_id: device.to_owned(),
            hub: hub.to_owned(),
            scope: scope.to_owned(),
            ..v1::DeviceAssignment::default()
        };
        let assign = v1::AssignRequest { assignment: Some(assignment), ..v1::AssignRequest::default() };
        let assigned = DeviceServiceClient::new(self.channel.clone()).assign(assign).await;
        let epoch = self.keep("Assign", assigned).unwrap().epoch;
        let request = v1::ReportRequest {
            device_id: device.to_owned(),
            hub: hub.to_owned(),
            epoch,
            observation: v1::HubObservation::NotFound as i32,
        };
        // Whoever is to say something wrong has to be asked, for which budgets are small at first.
        let path = match (scope == SCOPE, device.starts_with("hub-")) {
            (true, true) => Some(format!("{hub}/devices/{device}")),
            (true, false) => Some(format!("{DPS}/registrations/{device}")),
            (false, _) => None,
        };
        let (azure, channel) = (self.azure, self.channel.clone());
        let question = format!("Report of {device}");
        let said = Mutex::new(Vec::new());
        let asked = eventually(|| {
            let (request, mut lookups) = (request.clone(), LookupServiceClient::new(channel.clone()));
            let (told, path) = (&said, path.clone());
            async move {
                let answer = lookups.report(request).await;
                let is_told = answer.is_ok();
                told.lock().unwrap().push(answer);
                path.map_or(is_told, |path| azure.was_asked(&path)).then_some(())
            }
        })
        .await;
        assert!(asked.is_some(), "nobody was asked for the {question}");
        for answer in said.into_inner().unwrap() {
            // Whatever is wrong, the caller is told a hub or why not.
            let _ = self.keep(&question, answer);
        }
    }

    /// Lookups of devices that nobody knows, of which DPS says something wrong.
    async fn lookups(&mut self) {
        let devices = WRONGS.iter().chain([&THROTTLED]).map(|wrong| format!("dps-{wrong}-unknown-0"));
        for device in ["fine-unknown-0".to_owned()].into_iter().chain(devices) {
            let request = v1::LookupRequest {
                device: Some(v1::lookup_request::Device::DeviceId(device.clone())),
                consistency: None,
            };
            let path = format!("{DPS}/registrations/{device}");
            let (azure, channel) = (self.azure, self.channel.clone());
            let said = Mutex::new(Vec::new());
            let asked = eventually(|| {
                let (request, mut lookups) = (request.clone(), LookupServiceClient::new(channel.clone()));
                let (told, path) = (&said, path.clone());
                async move {
                    let answer = lookups.lookup(request).await;
                    told.lock().unwrap().push(answer);
                    azure.was_asked(&path).then_some(())
                }
            })
            .await;
            assert!(asked.is_some(), "DPS was never asked about {device}");
            for answer in said.into_inner().unwrap() {
                let _ = self.keep(&format!("Lookup of {device}"), answer);
            }
        }
    }

    async fn hook(&mut self, to: SocketAddr) {
        let [first, second] = &self.secrets.hook;
        let encoded: String = second.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let id = format!("new-{}", to.ip()).replace('.', "-");
        let body = json!({
            "individualEnrollment": { "registrationId": id },
            "deviceRuntimeContext": { "registrationId": id },
            "linkedHubs": [HUBS[0]],
        })
        .to_string();
        // Secrets in places where nobody looks for one.
        let stray = body.replace(HUBS[0], second);
        let path = self.folder.join("hook");
        let right = std::fs::read(&path).unwrap();
        for (query, body, status) in [
            (format!("scope={SCOPE}&code={first}"), &body, 200),
            (format!("code={encoded}&scope={SCOPE}"), &body, 200),
            (format!("scope={SCOPE}&code={}", first.to_ascii_lowercase()), &body, 401),
            (format!("scope={SCOPE}&code={first}&code={second}"), &body, 401),
            (format!("scope={SCOPE}&secret={second}"), &body, 401),
            (format!("scope={SCOPE}&code={}", self.secrets.hook_wrong), &body, 401),
            (format!("scope=0neUNKNOWN&code={first}"), &body, 404),
            (format!("scope={SCOPE}&code={first}&label=a"), &body, 400),
            (format!("scope={SCOPE}&code={first}"), &"{".to_owned(), 400),
            (format!("scope={SCOPE}&code={first}"), &" ".repeat(300_000), 413),
        ] {
            let told = self.post(to, &query, body).await;
            assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{told}");
        }
        // What a caller puts into the body itself is its own: only the node's log and disk are not to have it.
        let told = self.post(to, &format!("scope={SCOPE}&code={first}"), &stray).await;
        assert!(told.starts_with("HTTP/1.1 400 "), "{told}");
        self.said.pop();
        for wrong in
            [self.secrets.hook_wrong.clone(), format!("{first}\n{second}\n{first}\n{second}\n{first}")]
        {
            std::fs::write(&path, wrong).unwrap();
            let told = self.post(to, &format!("scope={SCOPE}&code={first}"), &body).await;
            assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
        }
        std::fs::write(&path, right).unwrap();
    }

    async fn post(&mut self, to: SocketAddr, query: &str, body: &str) -> String {
        let request = format!(
            "POST /hooks/dps/allocate?{query} HTTP/1.1\r\nhost: b\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.http(to, "the hook", request).await
    }

    async fn http(&mut self, to: SocketAddr, question: &str, request: String) -> String {
        let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
        // One who is refused may find the door shut before all is said.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let told = String::from_utf8_lossy(&answer).into_owned();
        self.said.push((question.to_owned(), answer));
        told
    }

    /// All that the nodes tell of themselves and of what they hold.
    async fn everything_else(&mut self) {
        let mut topologies = TopologyServiceClient::new(self.channel.clone());
        let answer = topologies.list_scopes(v1::ListScopesRequest::default()).await;
        assert_eq!(self.keep("ListScopes", answer).unwrap().scopes.len(), 2);
        let answer = topologies.list_hubs(v1::ListHubsRequest::default()).await;
        self.keep("ListHubs", answer).unwrap();
        let answer = topologies.get_capacity(v1::GetCapacityRequest::default()).await;
        self.keep("GetCapacity", answer).unwrap();
        let list = v1::ListRequest { page_size: 1_000, ..v1::ListRequest::default() };
        let answer = DeviceServiceClient::new(self.channel.clone()).list(list).await;
        assert!(self.keep("List", answer).unwrap().devices.len() > 30);
        for at in 0..3 {
            let channel = self.cluster.channel(at);
            let answer = ClusterServiceClient::new(channel.clone()).status(v1::StatusRequest {}).await;
            self.keep("Status", answer).unwrap();
            for device in ["fine-0", "dps-e401json-1", "hub-e200name-1", "nobody"] {
                let request = v1::LookupRequest {
                    device: Some(v1::lookup_request::Device::DeviceId(device.to_owned())),
                    consistency: None,
                };
                let answer = LookupServiceClient::new(channel.clone()).lookup(request).await;
                let _ = self.keep("Lookup", answer);
            }
        }
    }
}
