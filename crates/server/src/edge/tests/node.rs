//! A listener with a lookup service that does as the device's name says.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use berth_proto::v1::lookup_request::Device;
use berth_proto::v1::lookup_service_client::LookupServiceClient;
use berth_proto::v1::lookup_service_server::{LookupService, LookupServiceServer};
use berth_proto::v1::{
    BatchLookupRequest, BatchLookupResponse, LookupRequest, LookupResponse, LookupRouteRequest,
    LookupRouteResponse, LookupStreamRequest, LookupStreamResponse, ReportRequest, ReportResponse,
};
use futures_util::{Stream, StreamExt};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use crate::config::Limits;
use crate::edge::{Services, listen, serve_clients};
use crate::health::Health;
use crate::metrics::Metrics;

/// How long a test waits for a state before it says that it never came.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const LIMITS: Limits = Limits { lookups: 64, streams: 2, writes: 4, bulk: 2, admin: 2, connections: 16 };

/// Answers at once, waits for a permit (`wait`), or panics (`panic`).
#[derive(Clone)]
pub struct Desk(pub Arc<Semaphore>);

pub struct Node {
    pub addr: SocketAddr,
    pub metrics: Arc<Metrics>,
    /// Lets `wait` calls go, one a permit.
    pub release: Arc<Semaphore>,
    stop: Option<oneshot::Sender<()>>,
    pub served: JoinHandle<()>,
}

impl Node {
    pub fn start(limits: Limits) -> Self {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let addr = listener.local_addr().unwrap();
        let metrics = Metrics::new(SystemTime::UNIX_EPOCH);
        let release = Arc::new(Semaphore::new(0));
        let lookups = LookupServiceServer::new(Desk(Arc::clone(&release)));
        let rest = Services::new().with(Health::new().service());
        let (stop, stopped) = oneshot::channel();
        let counted = Arc::clone(&metrics);
        let served = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            serve_clients(listener, &limits, &counted, lookups, rest, stopped).await;
        });
        Self { addr, metrics, release, stop: Some(stop), served }
    }

    pub fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.addr))
            .unwrap()
            .tcp_nodelay(true)
            .connect()
            .await
            .unwrap()
    }

    pub async fn client(&self) -> LookupServiceClient<Channel> {
        LookupServiceClient::new(self.channel().await)
    }

    /// Waits until the metrics have this line.
    pub async fn wait_for(&self, line: &str) {
        let seen = async {
            while !self.metrics.text().unwrap().lines().any(|seen| seen == line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, seen).await.is_err() {
            panic!("`{line}` never came; the metrics are:\n{}", self.metrics.text().unwrap());
        }
    }
}

pub fn device(id: &str) -> LookupRequest {
    LookupRequest { device: Some(Device::DeviceId(id.to_owned())), consistency: None }
}

#[tonic::async_trait]
impl LookupService for Desk {
    async fn lookup(&self, request: Request<LookupRequest>) -> Result<Response<LookupResponse>, Status> {
        match &request.get_ref().device {
            Some(Device::DeviceId(id)) if id == "wait" => self.0.acquire().await.unwrap().forget(),
            Some(Device::DeviceId(id)) if id == "panic" => panic!("a lookup that must not be"),
            _ => {}
        }
        Ok(Response::new(LookupResponse::default()))
    }

    async fn batch_lookup(
        &self,
        _: Request<BatchLookupRequest>,
    ) -> Result<Response<BatchLookupResponse>, Status> {
        self.0.acquire().await.unwrap().forget();
        Ok(Response::new(BatchLookupResponse::default()))
    }

    type LookupStreamStream = Pin<Box<dyn Stream<Item = Result<LookupStreamResponse, Status>> + Send>>;

    async fn lookup_stream(
        &self,
        request: Request<Streaming<LookupStreamRequest>>,
    ) -> Result<Response<Self::LookupStreamStream>, Status> {
        let answers = request.into_inner().map(|asked| {
            let tag = asked?.tag;
            assert_ne!(tag, 666, "a tag that must not be");
            Ok(LookupStreamResponse { tag, result: None })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lookup_route(
        &self,
        _: Request<LookupRouteRequest>,
    ) -> Result<Response<LookupRouteResponse>, Status> {
        Err(Status::data_loss("a page is damaged"))
    }

    async fn report(&self, _: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        Ok(Response::new(ReportResponse::default()))
    }
}
