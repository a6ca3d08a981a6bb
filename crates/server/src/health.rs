//! Whether the node lives, answers reads, and takes writes: for `grpc.health.v1` and for `/readyz`.
//!
//! Three names are served. The empty one says that this process runs and nothing else, so that no supervisor kills a
//! node for what its peers do. `berth.read` says that lookups are answered, `berth.write` that changes are taken.

use std::pin::Pin;
use std::sync::Arc;

use berth_proto::error::ApiError;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthRpc, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::server::{v1, v1alpha};

/// The name of reads.
pub const READ: &str = "berth.read";
/// The name of writes.
pub const WRITE: &str = "berth.write";
/// The services that reflection lists: those that clients are served.
const PUBLIC_SERVICES: [&str; 5] = [
    "berth.v1.LookupService",
    "berth.v1.DeviceService",
    "berth.v1.TopologyService",
    "berth.v1.ReconcileService",
    "berth.v1.ClusterService",
];
/// How long the name of a service may be that somebody asks about.
const NAME_BYTES_MAX: usize = 256;

/// Whether something is served, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serving {
    /// It is.
    Yes,
    /// It is not: one line that says why.
    No(String),
}

/// The node's health; clones share it.
#[derive(Debug, Clone)]
pub struct Health(Arc<States>);

#[derive(Debug)]
struct States {
    read: watch::Sender<Serving>,
    write: watch::Sender<Serving>,
    ended: watch::Sender<bool>,
}

/// Answers `grpc.health.v1`.
#[derive(Debug, Clone)]
pub struct HealthService(Health);

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// A node that lives and serves nothing yet.
    pub fn new() -> Self {
        let starting = || watch::Sender::new(Serving::No("the node is starting".to_owned()));
        Self(Arc::new(States { read: starting(), write: starting(), ended: watch::Sender::new(false) }))
    }

    /// Says whether reads are served.
    pub fn set_read(&self, serving: Serving) {
        set(&self.0.read, serving);
    }

    /// Says whether writes are taken.
    pub fn set_write(&self, serving: Serving) {
        set(&self.0.write, serving);
    }

    /// Says that the node stops: nothing is served from now on, and streams that watch health are ended, so that
    /// the listener need not wait for them.
    pub fn stop(&self) {
        self.set_read(Serving::No("the node is stopping".to_owned()));
        self.set_write(Serving::No("the node is stopping".to_owned()));
        self.0.ended.send_replace(true);
    }

    /// Whether reads are served now.
    pub fn read(&self) -> Serving {
        self.0.read.borrow().clone()
    }

    /// Whether writes are taken now.
    pub fn write(&self) -> Serving {
        self.0.write.borrow().clone()
    }

    /// Follows whether reads are served.
    pub fn watch_read(&self) -> watch::Receiver<Serving> {
        self.0.read.subscribe()
    }

    /// Follows whether writes are taken.
    pub fn watch_write(&self) -> watch::Receiver<Serving> {
        self.0.write.subscribe()
    }

    /// The gRPC service over this health.
    pub fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService(self.clone()))
    }

    fn find(&self, name: &str) -> Option<Found> {
        match name {
            "" => Some(Found::Live),
            READ => Some(Found::State(self.watch_read())),
            WRITE => Some(Found::State(self.watch_write())),
            _ => None,
        }
    }
}

enum Found {
    Live,
    State(watch::Receiver<Serving>),
}

fn set(state: &watch::Sender<Serving>, serving: Serving) {
    state.send_if_modified(|was| {
        let changed = *was != serving;
        *was = serving;
        changed
    });
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

fn status_of(serving: &Serving) -> ServingStatus {
    match serving {
        Serving::Yes => ServingStatus::Serving,
        Serving::No(_) => ServingStatus::NotServing,
    }
}

fn check_name(name: &str) -> Result<(), Status> {
    if name.len() > NAME_BYTES_MAX {
        let problem = format!("takes {} bytes; at most {NAME_BYTES_MAX} are read", name.len());
        return Err(ApiError::invalid("service", problem).into());
    }
    Ok(())
}

#[tonic::async_trait]
impl HealthRpc for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let name = &request.get_ref().service;
        check_name(name)?;
        match self.0.find(name) {
            Some(Found::Live) => Ok(Response::new(response(ServingStatus::Serving))),
            Some(Found::State(state)) => Ok(Response::new(response(status_of(&state.borrow())))),
            // The code is the health protocol's own; the directory's errors have no word for it.
            None => Err(Status::not_found(format!(
                "there is no service `{name}`; the names are `` (alive), `{READ}` and `{WRITE}`"
            ))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let name = &request.get_ref().service;
        check_name(name)?;
        // A watcher of an unknown name is kept: the protocol lets a service appear later.
        let states: Self::WatchStream = match self.0.find(name) {
            Some(Found::Live) => once_and_stay(ServingStatus::Serving),
            Some(Found::State(state)) => {
                Box::pin(WatchStream::new(state).map(|serving| Ok(response(status_of(&serving)))))
            }
            None => once_and_stay(ServingStatus::ServiceUnknown),
        };
        let mut ended = self.0.0.ended.subscribe();
        let ended = async move {
            // A node that is gone has ended too.
            let _ = ended.wait_for(|ended| *ended).await;
        };
        Ok(Response::new(Box::pin(states.take_until(Box::pin(ended)))))
    }
}

fn once_and_stay(status: ServingStatus) -> <HealthService as HealthRpc>::WatchStream {
    Box::pin(stream::iter([Ok(response(status))]).chain(stream::pending()))
}

/// Server reflection of the public services, in the current protocol and in the one that older tools speak.
///
/// # Errors
/// Only if the descriptors of this build cannot be read.
pub fn reflection() -> Result<
    (
        v1::ServerReflectionServer<impl v1::ServerReflection>,
        v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection>,
    ),
    tonic_reflection::server::Error,
> {
    let builder = || {
        PUBLIC_SERVICES.iter().fold(
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(berth_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET),
            |builder, service| builder.with_service_name(*service),
        )
    };
    let builder = || builder().with_service_name("grpc.health.v1.Health");
    Ok((builder().build_v1()?, builder().build_v1alpha()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(stream: &mut <HealthService as HealthRpc>::WatchStream) -> Option<i32> {
        stream.next().await.map(|answer| answer.unwrap().status)
    }

    #[tokio::test]
    async fn names_follow_what_is_set() {
        let health = Health::new();
        let service = HealthService(health.clone());
        let check = async |name: &str| {
            let request = Request::new(HealthCheckRequest { service: name.to_owned() });
            service.check(request).await.map(|answer| answer.into_inner().status())
        };
        assert_eq!(check("").await.unwrap(), ServingStatus::Serving);
        assert_eq!(check(READ).await.unwrap(), ServingStatus::NotServing);
        health.set_read(Serving::Yes);
        assert_eq!(check(READ).await.unwrap(), ServingStatus::Serving);
        assert_eq!(check(WRITE).await.unwrap(), ServingStatus::NotServing);
        assert_eq!(check("berth.reed").await.unwrap_err().code(), tonic::Code::NotFound);
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        assert_eq!(check(&long).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    }

    #[tokio::test]
    async fn watchers_see_changes_and_end_when_the_node_stops() {
        let health = Health::new();
        let service = HealthService(health.clone());
        let watch = async |name: &str| {
            let request = Request::new(HealthCheckRequest { service: name.to_owned() });
            service.watch(request).await.unwrap().into_inner()
        };
        let (mut read, mut live, mut unknown) = (watch(READ).await, watch("").await, watch("no.such").await);
        assert_eq!(next(&mut read).await, Some(ServingStatus::NotServing.into()));
        assert_eq!(next(&mut live).await, Some(ServingStatus::Serving.into()));
        assert_eq!(next(&mut unknown).await, Some(ServingStatus::ServiceUnknown.into()));
        health.set_read(Serving::Yes);
        assert_eq!(next(&mut read).await, Some(ServingStatus::Serving.into()));
        health.stop();
        while next(&mut read).await.is_some() {}
        assert_eq!(next(&mut live).await, None);
        assert_eq!(next(&mut unknown).await, None);
        assert_eq!(health.read(), Serving::No("the node is stopping".to_owned()));
    }

    #[test]
    fn reflection_reads_the_descriptors_of_this_build() {
        assert!(reflection().is_ok());
    }
}
