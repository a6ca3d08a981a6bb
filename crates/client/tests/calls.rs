//! The client against servers that say what a test wants them to: hints, repeats, request IDs, resumed imports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_client::{ApiError, Client, Error, Options, linearizable, v1};
use berth_proto::error::LeaderHint;
use berth_proto::v1::device_service_server::{DeviceService, DeviceServiceServer};
use berth_proto::v1::lookup_service_server::{LookupService, LookupServiceServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// What a server does with a call.
#[derive(Clone)]
enum Say {
    Done,
    Refuse(Box<ApiError>),
    /// As a connection that breaks after the call was sent.
    Break,
}

/// A server that follows a script; at its end it says `Done`.
#[derive(Clone, Default)]
struct Actor {
    script: Arc<Mutex<VecDeque<Say>>>,
    /// Request IDs of writes, in order.
    ids: Arc<Mutex<Vec<String>>>,
    /// Chunks of imports, stream by stream.
    chunks: Arc<Mutex<Vec<Vec<u64>>>>,
    /// Chunks after which an import breaks off; none once empty.
    breaks_after: Arc<Mutex<VecDeque<usize>>>,
    /// Chunks after which an import's stream is let go as silent; 0 is never.
    closes_after: Arc<AtomicUsize>,
    /// IDs of imports, stream by stream.
    import_ids: Arc<Mutex<Vec<String>>>,
    /// The cluster has forgotten replies: from this stream and chunk on, the first import's ID is refused.
    forgets: Arc<Mutex<Option<(usize, u64)>>>,
}

impl Actor {
    fn says(script: impl IntoIterator<Item = Say>) -> Self {
        Self { script: Arc::new(Mutex::new(script.into_iter().collect())), ..Self::default() }
    }

    fn ids(&self) -> Vec<String> {
        self.ids.lock().unwrap().clone()
    }

    fn next<T>(&self, done: T) -> Result<Response<T>, Status> {
        match self.script.lock().unwrap().pop_front().unwrap_or(Say::Done) {
            Say::Done => Ok(Response::new(done)),
            Say::Refuse(error) => Err((*error).into()),
            Say::Break => Err(Status::unavailable("the connection broke")),
        }
    }

    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(DeviceServiceServer::new(self.clone()))
            .add_service(LookupServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        address.to_string()
    }
}

fn header(revision: u64) -> Option<v1::ResponseHeader> {
    let token = format!("at-{revision}").into_bytes().into();
    Some(v1::ResponseHeader { token, revision, ..Default::default() })
}

#[tonic::async_trait]
impl DeviceService for Actor {
    async fn assign(
        &self,
        request: Request<v1::AssignRequest>,
    ) -> Result<Response<v1::AssignResponse>, Status> {
        self.ids.lock().unwrap().push(request.into_inner().request_id);
        self.next(v1::AssignResponse { header: header(9), epoch: 9, created: true, ..Default::default() })
    }

    async fn batch_assign(
        &self,
        _: Request<v1::BatchAssignRequest>,
    ) -> Result<Response<v1::BatchAssignResponse>, Status> {
        Err(Status::unimplemented("not in this play"))
    }

    async fn get(&self, _: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        Err(Status::unimplemented("not in this play"))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let is_first = request.into_inner().page_token.is_empty();
        let next_page_token = if is_first { "second".to_owned() } else { String::new() };
        self.next(v1::ListResponse { header: header(3), next_page_token, ..Default::default() })
    }

    async fn remove(&self, _: Request<v1::RemoveRequest>) -> Result<Response<v1::RemoveResponse>, Status> {
        Err(Status::unimplemented("not in this play"))
    }

    type ImportStream = ReceiverStream<Result<v1::ImportResponse, Status>>;

    async fn import(
        &self,
        request: Request<Streaming<v1::ImportRequest>>,
    ) -> Result<Response<Self::ImportStream>, Status> {
        let mut messages = request.into_inner();
        let (answers, stream) = mpsc::channel(8);
        let breaks_after = self.breaks_after.lock().unwrap().pop_front();
        let at = {
            let mut chunks = self.chunks.lock().unwrap();
            chunks.push(Vec::new());
            chunks.len() - 1
        };
        let chunks = Arc::clone(&self.chunks);
        let closes_after = self.closes_after.load(Ordering::Relaxed);
        let (import_ids, forgets) = (Arc::clone(&self.import_ids), *self.forgets.lock().unwrap());
        tokio::spawn(async move {
            let mut count = 0;
            while let Ok(Some(message)) = messages.message().await {
                let chunk = match message.message {
                    Some(v1::import_request::Message::Chunk(chunk)) => chunk,
                    Some(v1::import_request::Message::Start(start)) => {
                        import_ids.lock().unwrap().push(start.import_id);
                        continue;
                    }
                    None => continue,
                };
                let is_first_id = {
                    let ids = import_ids.lock().unwrap();
                    ids.first() == ids.last()
                };
                if is_first_id && forgets.is_some_and(|(stream, no)| at >= stream && chunk.chunk_no >= no) {
                    let expired = berth_core::Rejection::RequestIdExpired {
                        request_id: "0190".to_owned(),
                        made: berth_core::Timestamp(1),
                        kept_since: berth_core::Timestamp(2),
                    };
                    let _ = answers.send(Err(ApiError::Rejected(expired).into())).await;
                    return;
                }
                chunks.lock().unwrap()[at].push(chunk.chunk_no);
                count += 1;
                if breaks_after.is_some_and(|after| count > after) {
                    let _ = answers.send(Err(Status::unavailable("the connection broke"))).await;
                    return;
                }
                let created = chunk.rows.len() as u64;
                let ack = v1::ImportResponse { chunk_no: chunk.chunk_no, created, ..Default::default() };
                if answers.send(Ok(ack)).await.is_err() {
                    return;
                }
                if count == closes_after {
                    let silent = ApiError::DeadlineExceeded { waiting_for: "nothing moved".to_owned() };
                    let _ = answers.send(Err(silent.into())).await;
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type ExportStream = ReceiverStream<Result<v1::ExportResponse, Status>>;

    async fn export(&self, _: Request<v1::ExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        let (answers, stream) = mpsc::channel(1);
        // Without the last message, which says that the export is complete.
        answers.send(Ok(v1::ExportResponse::default())).await.unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tonic::async_trait]
impl LookupService for Actor {
    async fn lookup(&self, _: Request<v1::LookupRequest>) -> Result<Response<v1::LookupResponse>, Status> {
        let found = v1::LookupResult { hub: "h.x".to_owned(), ..Default::default() };
        let result = Some(v1::lookup_response::Result::Found(found));
        self.next(v1::LookupResponse { header: header(5), result })
    }

    async fn batch_lookup(
        &self,
        _: Request<v1::BatchLookupRequest>,
    ) -> Result<Response<v1::BatchLookupResponse>, Status> {
        Ok(Response::new(v1::BatchLookupResponse::default()))
    }

    type LookupStreamStream = ReceiverStream<Result<v1::LookupStreamResponse, Status>>;

    async fn lookup_stream(
        &self,
        request: Request<Streaming<v1::LookupStreamRequest>>,
    ) -> Result<Response<Self::LookupStreamStream>, Status> {
        let mut messages = request.into_inner();
        let (answers, stream) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                let answer = v1::lookup_stream_response::Result::Answer(v1::LookupResponse::default());
                let answer = v1::LookupStreamResponse { tag: message.tag, result: Some(answer) };
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn lookup_route(
        &self,
        _: Request<v1::LookupRouteRequest>,
    ) -> Result<Response<v1::LookupRouteResponse>, Status> {
        Err(Status::unimplemented("not in this play"))
    }

    async fn report(&self, _: Request<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        Err(Status::unimplemented("not in this play"))
    }
}

fn client(endpoints: &[&str]) -> Client {
    let options = Options {
        backoff_first: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        attempts_max: 6,
        ..Options::default()
    };
    Client::connect(endpoints, options).unwrap()
}

fn assign() -> v1::AssignRequest {
    let assignment = v1::DeviceAssignment { device_id: "a".to_owned(), ..Default::default() };
    v1::AssignRequest { assignment: Some(assignment), ..Default::default() }
}

fn not_leader(address: &str) -> Say {
    let leader = LeaderHint { node_id: 2, name: "n2".to_owned(), address: address.to_owned() };
    Say::Refuse(Box::new(ApiError::NotLeader { leader: Some(leader) }))
}

#[tokio::test]
async fn a_write_follows_the_leader_hint_beyond_the_list_and_stays_there() {
    let leader = Actor::default();
    let leader_address = leader.serve().await;
    let follower = Actor::says(vec![not_leader(&leader_address); 8]);
    let client = client(&[&follower.serve().await]);
    client.assign(assign()).await.unwrap();
    client.assign(assign()).await.unwrap();
    assert_eq!(follower.ids().len(), 1, "the second write knows the leader");
    assert_eq!(leader.ids().len(), 2);
    assert_eq!(leader.ids()[0], follower.ids()[0], "a redirected write keeps its request ID");
    assert_eq!(client.token().unwrap(), b"at-9");
}

#[tokio::test]
async fn a_hint_to_a_dead_leader_uses_up_no_attempts() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = gone.local_addr().unwrap().to_string();
    drop(gone);
    // Attempts at the dead leader's address are made when it is first named, and no more within its rest.
    let follower = Actor::says(vec![not_leader(&dead); 4]);
    client(&[&follower.serve().await]).assign(assign()).await.unwrap();
    assert_eq!(
        follower.ids().len(),
        5,
        "four refusals, then the write; the sixth attempt went to the dead node"
    );
}

#[tokio::test]
async fn a_write_outlives_an_election() {
    let silence = ApiError::NoQuorum { cause: "no leader is known".to_owned() };
    let node = Actor::says(vec![Say::Refuse(Box::new(silence)); 60]);
    let options = Options { backoff_max: Duration::from_millis(5), ..Options::default() };
    let client = Client::connect(&[&node.serve().await], options).unwrap();
    client.assign(assign()).await.unwrap();
    assert_eq!(node.ids().len(), 61);
}

#[tokio::test]
async fn two_nodes_that_name_each_other_do_not_keep_a_client_busy() {
    let (a, b) = (Actor::default(), Actor::default());
    let (at_a, at_b) = (a.serve().await, b.serve().await);
    a.script.lock().unwrap().extend(vec![not_leader(&at_b); 100]);
    b.script.lock().unwrap().extend(vec![not_leader(&at_a); 100]);
    let error = client(&[&at_a, &at_b]).assign(assign()).await.unwrap_err();
    assert!(matches!(error.api_error(), Some(ApiError::NotLeader { .. })), "{error}");
    assert!(error.is_unavailable());
    assert_eq!(a.ids().len() + b.ids().len(), 6);
}

#[tokio::test]
async fn a_write_of_unknown_outcome_is_repeated_under_its_own_id_only() {
    let node = Actor::says([Say::Break, Say::Break]);
    let client = client(&[&node.serve().await]);
    client.assign(assign()).await.unwrap();
    let ids = node.ids();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| *id == ids[0] && !id.is_empty()));

    node.script.lock().unwrap().extend(vec![Say::Break; 6]);
    let error = client.assign(assign()).await.unwrap_err();
    let Error::OutcomeUnknown { request_id, .. } = &error else { panic!("{error}") };
    assert_eq!(Some(request_id), node.ids().last());
    assert!(error.to_string().contains(request_id.as_str()));
}

fn expired(kept_since: u64) -> Say {
    let rejection = berth_core::Rejection::RequestIdExpired {
        request_id: "00000000-0000-7000-8000-000000000000".to_owned(),
        made: berth_core::Timestamp(1),
        kept_since: berth_core::Timestamp(kept_since),
    };
    Say::Refuse(Box::new(ApiError::Rejected(rejection)))
}

#[tokio::test]
async fn an_expired_request_id_is_replaced_by_one_that_the_cluster_takes() {
    let far = 4_000_000_000_000;
    let node = Actor::says([expired(far)]);
    let client = client(&[&node.serve().await]);
    client.assign(assign()).await.unwrap();
    let ids = node.ids();
    assert_ne!(ids[0], ids[1]);
    let time = u64::from_str_radix(&ids[1].replace('-', "")[..12], 16).unwrap();
    assert!(time > far, "the new ID is made at the cluster's time");

    // After an attempt of unknown fate a new ID could write a second time.
    node.script.lock().unwrap().extend([Say::Break, expired(far)]);
    let error = client.assign(assign()).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    // An ID that the caller chose is the caller's to replace.
    node.script.lock().unwrap().push_back(expired(far));
    let chosen = v1::AssignRequest { request_id: ids[0].clone(), ..assign() };
    let error = client.assign(chosen).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}

#[tokio::test]
async fn a_final_refusal_is_told_once() {
    let unknown = ApiError::Rejected(berth_core::Rejection::DeviceUnknown { device: "a".to_owned() });
    let node = Actor::says([Say::Refuse(Box::new(unknown))]);
    let error = client(&[&node.serve().await]).assign(assign()).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(node.ids().len(), 1);
}

#[tokio::test]
async fn reads_pass_over_nodes_that_are_away_or_behind() {
    let behind = ApiError::ReplicaBehind { asked: "7".to_owned(), actual: "5".to_owned() };
    let slow = Actor::says(vec![Say::Refuse(Box::new(behind)); 100]);
    let good = Actor::default();
    let client = client(&["127.0.0.1:1", &slow.serve().await, &good.serve().await]);
    for _ in 0..6 {
        let answer = client.lookup("a", linearizable()).await.unwrap();
        assert!(matches!(answer.result, Some(v1::lookup_response::Result::Found(_))));
    }
    assert_eq!(client.token().unwrap(), b"at-5");
}

#[tokio::test]
async fn where_nobody_is_there_the_error_names_who_was_asked() {
    let error = client(&["127.0.0.1:1"]).lookup("a", None).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    let error = client(&["127.0.0.1:1"]).assign(assign()).await.unwrap_err();
    assert!(
        matches!(error, Error::Unavailable { .. }),
        "what was never sent has no unknown outcome: {error}"
    );
}

#[tokio::test]
async fn an_import_goes_on_after_the_last_acknowledged_chunk() {
    let node = Actor::default();
    node.breaks_after.lock().unwrap().extend([3, 0, 5]);
    let client = client(&[&node.serve().await]);
    let chunks = ten_chunks();
    let mut acks = Vec::new();
    let totals =
        client.import(v1::ImportStart::default(), chunks, |ack| acks.push(ack.chunk_no)).await.unwrap();
    assert_eq!(acks, (1..=10).collect::<Vec<u64>>());
    assert_eq!((totals.created, totals.chunks, totals.stopped), (30, 10, false));
    let streams = node.chunks.lock().unwrap().clone();
    assert_eq!(streams.len(), 4);
    assert_eq!(streams[1].first(), Some(&4), "chunks 1 to 3 were acknowledged");
}

/// Ten chunks of three rows, one after the other.
fn ten_chunks() -> mpsc::Receiver<v1::ImportChunk> {
    let (sender, chunks) = mpsc::channel(2);
    tokio::spawn(async move {
        for chunk_no in 1..=10 {
            let rows = vec![v1::DeviceAssignment::default(); 3];
            if sender.send(v1::ImportChunk { chunk_no, rows, ..Default::default() }).await.is_err() {
                return;
            }
        }
    });
    chunks
}

#[tokio::test]
async fn an_import_waits_for_a_slow_source_whatever_becomes_of_its_streams() {
    let node = Actor::default();
    node.closes_after.store(1, Ordering::Relaxed);
    let options = Options { attempts_max: 1, ..Options::default() };
    let client = Client::connect(&[node.serve().await], options).unwrap();
    let (sender, chunks) = mpsc::channel(1);
    let acked = Arc::new(tokio::sync::Semaphore::new(1));
    let waits = Arc::clone(&acked);
    tokio::spawn(async move {
        for chunk_no in 1..=10 {
            waits.acquire().await.unwrap().forget();
            tokio::time::sleep(Duration::from_millis(20)).await;
            let chunk = v1::ImportChunk { chunk_no, ..Default::default() };
            sender.send(chunk).await.unwrap();
        }
    });
    // One failure is all that a chunk may have.
    let totals = client.import(v1::ImportStart::default(), chunks, |_| acked.add_permits(1)).await.unwrap();
    assert_eq!(totals.chunks, 10);
}

#[tokio::test]
async fn an_import_that_outlives_its_id_goes_on_under_another() {
    let node = Actor::default();
    *node.forgets.lock().unwrap() = Some((0, 4));
    let client = client(&[&node.serve().await]);
    let totals = client.import(v1::ImportStart::default(), ten_chunks(), |_| ()).await.unwrap();
    assert_eq!((totals.created, totals.chunks), (30, 10));
    let ids = node.import_ids.lock().unwrap().clone();
    assert!(ids.len() == 2 && ids[0] != ids[1], "{ids:?}");
    assert_eq!(node.chunks.lock().unwrap()[1].first(), Some(&4), "chunks 1 to 3 were acknowledged");
}

#[tokio::test]
async fn a_chunk_in_doubt_is_not_written_under_another_id() {
    let node = Actor::default();
    *node.forgets.lock().unwrap() = Some((1, 1));
    node.breaks_after.lock().unwrap().push_back(0);
    let client = client(&[&node.serve().await]);
    let error = client.import(v1::ImportStart::default(), ten_chunks(), |_| ()).await.unwrap_err();
    assert!(
        matches!(error.api_error(), Some(ApiError::Rejected(berth_core::Rejection::RequestIdExpired { .. }))),
        "{error}"
    );
}

#[tokio::test]
async fn pages_and_parts_come_whole_or_not_at_all() {
    let node = Actor::default();
    let client = client(&[&node.serve().await]);
    let mut pages = client.list(v1::ListRequest::default());
    assert_eq!(pages.next().await.unwrap().unwrap().next_page_token, "second");
    assert!(pages.next().await.unwrap().is_some());
    assert!(pages.next().await.unwrap().is_none());

    let mut parts = client.export(v1::ExportRequest::default()).await.unwrap();
    assert!(parts.next().await.unwrap().is_some());
    let error = parts.next().await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
}

#[tokio::test]
async fn a_stream_of_lookups_answers_every_tag() {
    let node = Actor::default();
    let client = client(&[&node.serve().await]);
    let mut lane = client.lookup_stream().await.unwrap();
    for tag in 0..10 {
        assert!(lane.send(tag, v1::LookupRequest::default()).await);
    }
    lane.finish();
    let mut tags = Vec::new();
    while let Some(answer) = lane.next().await.unwrap() {
        tags.push(answer.tag);
    }
    tags.sort_unstable();
    assert_eq!(tags, (0..10).collect::<Vec<u64>>());
}
