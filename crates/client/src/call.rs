//! One call: which node to ask, when to ask again, and when to stop.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_proto::error::ApiError;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::backoff::Backoff;
use crate::error::{Attempt, Error, Next};
use crate::message::{Headed, Mutation};
use crate::mint::Mint;
use crate::node::{Node, Nodes};
use crate::options::Options;
use crate::session::Session;

/// Leader hints followed without a wait in between. Two nodes that name each other must not keep a client busy.
const HINTS_MAX: u32 = 4;
/// Attempts after which a call ends that has reached no node at all: the addresses are wrong, or nothing runs there.
const UNREACHED_MAX: u32 = 24;
/// New request IDs made for one write after the cluster refused the first for its time.
const REMINTS_MAX: u32 = 2;
/// How far above the newest forgotten time a new request ID is put: half of what the cluster tolerates, in ms.
const REMINT_MARGIN_MS: u64 = berth_core::REQUEST_ID_AHEAD_MS_MAX / 2;

/// Speaks to the nodes of one cluster. Cheap to clone; clones share connections and session.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) nodes: Arc<Nodes>,
    session: Arc<Session>,
    mint: Arc<Mint>,
    deadline: Duration,
}

/// What a call is, as far as its repeats are concerned.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind<'a> {
    /// May be asked of any node, any number of times.
    Read,
    /// Goes to this node only, any number of times.
    ReadAt(&'a Arc<Node>),
    /// Goes to the leader, any number of times, under this request ID.
    Write(&'a str),
    /// Goes to the leader, and is repeated only where nothing was done.
    Order,
    /// Is asked once, of this node.
    OnceAt(&'a Arc<Node>),
}

impl Client {
    /// Knows the nodes at `endpoints` (`host:port` each); connections are made when they are first needed.
    ///
    /// # Errors
    /// [`EndpointError`](crate::EndpointError) where an endpoint is not an address, or there is none.
    pub fn connect<A: AsRef<str>>(endpoints: &[A], options: Options) -> Result<Self, Error> {
        let deadline = options.deadline;
        Ok(Self {
            nodes: Arc::new(Nodes::new(endpoints, options)?),
            session: Arc::default(),
            mint: Arc::default(),
            deadline,
        })
    }

    /// The same client with another deadline for its calls.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// The newest read token that any answer carried: pass it to [`at_least`](crate::at_least) to never read below it.
    pub fn token(&self) -> Option<Vec<u8>> {
        self.session.token()
    }

    /// A new request ID, for a caller that wants to keep it beyond one call.
    pub fn new_request_id(&self) -> String {
        self.mint.next()
    }

    /// The addresses known, those learnt from leader hints included, separated by commas.
    pub fn addresses(&self) -> String {
        self.nodes.addresses()
    }

    pub(crate) fn options(&self) -> &Options {
        self.nodes.options()
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    pub(crate) fn observe(&self, answer: &impl Headed) {
        self.session.observe(answer.header());
    }

    /// A read, from any node.
    pub(crate) async fn read<Q, R, F, Fut>(&self, request: Q, call: F) -> Result<R, Error>
    where
        Q: Clone,
        R: Headed,
        F: Fn(Channel, tonic::Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let (answer, _) = self.run(Kind::Read, &request, call).await.map_err(Stop::into_failure)?;
        self.observe(&answer);
        Ok(answer)
    }

    /// A read that only the leader answers.
    pub(crate) async fn of_leader<Q, R, F, Fut>(&self, request: Q, call: F) -> Result<R, Error>
    where
        Q: Clone,
        R: Headed,
        F: Fn(Channel, tonic::Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        // Nothing is written under an ID, so that there is no fate to be unknown.
        let (answer, _) = self.run(Kind::Write(""), &request, call).await.map_err(Stop::into_failure)?;
        self.observe(&answer);
        Ok(answer)
    }

    /// A write, under one request ID. Where the caller chose none, one is made; and another one only where the
    /// cluster refused it for its time before any attempt could have written.
    pub(crate) async fn write<Q, R, F, Fut>(&self, mut request: Q, call: F) -> Result<R, Error>
    where
        Q: Mutation,
        R: Headed,
        F: Fn(Channel, tonic::Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let is_ours = request.request_id().is_empty();
        if is_ours {
            request.set_request_id(self.mint.next());
        }
        let mut remints = 0;
        loop {
            // Where nothing is written there is no fate to be unknown.
            let id = request.request_id().to_owned();
            let kind = if request.validate_only() { Kind::Write("") } else { Kind::Write(&id) };
            match self.run(kind, &request, &call).await {
                Ok((answer, _)) => {
                    self.observe(&answer);
                    return Ok(answer);
                }
                Err(Stop::RequestId(attempt)) if is_ours && remints < REMINTS_MAX => {
                    remints += 1;
                    self.learn_time(&attempt);
                    request.set_request_id(self.mint.next());
                }
                Err(stop) => return Err(stop.into_failure()),
            }
        }
    }

    /// An order to the leader that has no request ID.
    pub(crate) async fn order<Q, R, F, Fut>(&self, request: Q, call: F) -> Result<R, Error>
    where
        Q: Clone,
        R: Headed,
        F: Fn(Channel, tonic::Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let (answer, _) = self.run(Kind::Order, &request, call).await.map_err(Stop::into_failure)?;
        self.observe(&answer);
        Ok(answer)
    }

    pub(crate) fn learn_time(&self, attempt: &Attempt) {
        match &attempt.reason {
            ApiError::Rejected(berth_core::Rejection::RequestIdExpired { kept_since, .. }) => {
                self.mint.set_cluster_time(kept_since.0.saturating_add(REMINT_MARGIN_MS));
            }
            ApiError::Rejected(berth_core::Rejection::RequestIdAhead { now, .. }) => {
                self.mint.set_cluster_time(now.0);
            }
            _ => {}
        }
    }

    /// Asks until there is an answer, a final no, or no time left.
    pub(crate) async fn run<Q, R, F, Fut>(
        &self,
        kind: Kind<'_>,
        request: &Q,
        call: F,
    ) -> Result<(R, Arc<Node>), Stop>
    where
        Q: Clone,
        F: Fn(Channel, tonic::Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let options = self.options();
        let end = Instant::now() + self.deadline;
        let mut backoff = Backoff::new(options.backoff_first, options.backoff_max);
        let mut node = match kind {
            Kind::Read => self.nodes.any(),
            Kind::ReadAt(node) | Kind::OnceAt(node) => Arc::clone(node),
            Kind::Write(_) | Kind::Order => self.nodes.leader(),
        };
        let reached_max = if matches!(kind, Kind::OnceAt(_)) { 1 } else { options.attempts_max.max(1) };
        let mut attempts_max = reached_max.min(UNREACHED_MAX);
        let (mut tried_in_round, mut hints, mut is_unknown) = (0, 0, false);
        let mut last = None;
        let mut attempts = 0;
        while attempts < attempts_max {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            attempts += 1;
            // A node that hangs shall not use up the time that another could answer in.
            let time = match kind {
                Kind::Read | Kind::Write(_) if self.nodes.count() > 1 => left.min(options.attempt_timeout),
                _ => left,
            };
            let mut message = tonic::Request::new(request.clone());
            message.set_timeout(time);
            let status = match tokio::time::timeout(time, call(node.channel(), message)).await {
                Ok(Ok(answer)) => {
                    node.wake();
                    if matches!(kind, Kind::Write(_) | Kind::Order) {
                        self.nodes.set_leader(&node);
                    }
                    return Ok((answer.into_inner(), node));
                }
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!("no answer within {} ms", time.as_millis())),
            };
            let attempt = Attempt::failed(&status, &node);
            tracing::debug!(address = %node.address, error = %attempt.reason, "attempt failed");
            if attempt.unreachable {
                node.rest();
            }
            if !attempt.unreachable || attempt.next == Next::Unknown {
                attempts_max = reached_max;
            }
            if matches!(attempt.next, Next::Elsewhere | Next::Unknown) {
                self.nodes.forget_leader(&node);
            }
            let asked = attempt.reason.retry_after();
            let hint = match &attempt.reason {
                // A follower goes on naming a dead leader until it hears of another.
                ApiError::NotLeader { leader: Some(leader) } => {
                    self.nodes.at(&leader.address).filter(|leader| !leader.is_resting(Instant::now()))
                }
                _ => None,
            };
            let next = attempt.next;
            match (next, kind) {
                (Next::Final, _) => return Err(Stop::Final(attempt)),
                (Next::RequestId, Kind::Write(id)) if is_unknown => {
                    return Err(Stop::unknown(id, attempt.reason.to_string()));
                }
                (Next::RequestId, _) => return Err(Stop::RequestId(attempt)),
                (Next::Unknown, Kind::Order) => return Err(Stop::Final(unknown_order(attempt))),
                (Next::Unknown, Kind::Write(id)) => is_unknown |= !id.is_empty(),
                _ => {}
            }
            last = Some(attempt);

            let is_pinned = matches!(kind, Kind::ReadAt(_) | Kind::OnceAt(_));
            tried_in_round += 1;
            let is_hinted = hint.is_some() && hints < HINTS_MAX;
            if !is_pinned {
                node = match (&hint, kind) {
                    (Some(leader), Kind::Write(_) | Kind::Order) => Arc::clone(leader),
                    (None, Kind::Write(_) | Kind::Order) if next == Next::Later => self.nodes.leader(),
                    _ => self.nodes.any(),
                };
            }
            if is_hinted {
                hints += 1;
                continue;
            }
            let goes_on = next != Next::Later && !is_pinned && tried_in_round < self.nodes.count();
            if goes_on || attempts >= attempts_max {
                continue;
            }
            (tried_in_round, hints) = (0, 0);
            let wait = backoff.next(rand::random(), asked);
            tokio::time::sleep(wait.min(end.saturating_duration_since(Instant::now()))).await;
        }
        Err(self.given_up(kind, attempts, is_unknown, last))
    }

    fn given_up(&self, kind: Kind<'_>, attempts: u32, is_unknown: bool, last: Option<Attempt>) -> Stop {
        let told =
            last.as_ref().map_or_else(|| "no time left".to_owned(), |attempt| attempt.reason.to_string());
        match (kind, last) {
            (Kind::Write(id), _) if is_unknown => Stop::unknown(id, told),
            (_, Some(attempt)) if !matches!(attempt.reason, ApiError::Foreign { .. }) => Stop::Final(attempt),
            _ => Stop::Failed(Error::Unavailable { attempts, tried: self.nodes.addresses(), last: told }),
        }
    }
}

/// Why a call was given up.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A node said no.
    Final(Attempt),
    /// The request ID does not fit the cluster's time, and nothing was written.
    RequestId(Attempt),
    /// Nobody answered, or the fate is unknown.
    Failed(Error),
}

impl Stop {
    fn unknown(request_id: &str, last: String) -> Self {
        Self::Failed(Error::OutcomeUnknown { request_id: request_id.to_owned(), last })
    }

    pub(crate) fn into_failure(self) -> Error {
        match self {
            Self::Final(attempt) | Self::RequestId(attempt) => attempt.into_error(),
            Self::Failed(error) => error,
        }
    }
}

/// An order without a request ID whose connection broke: the caller has to look before repeating it.
fn unknown_order(attempt: Attempt) -> Attempt {
    let timed_out = attempt.code == Code::DeadlineExceeded;
    let reason = match attempt.reason {
        ApiError::Foreign { message, .. } => {
            ApiError::OutcomeUnknown { request_id: None, cause: message, timed_out }
        }
        other => other,
    };
    Attempt { reason, ..attempt }
}
