//! The life of a call: leave from the budget, a credential, a request, its answer, and what to do where that says no.

mod about;
mod budget;
mod pages;
mod request;
mod retry;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, USER_AGENT};
use http::{HeaderValue, Method, StatusCode};
use http_body_util::Full;

pub use budget::{Budget, Ended, Outgoing, Permit, Spent};
pub use pages::{Continuation, OddRow, PAGE_ITEMS_MAX, PAGES_MAX, Page, Query};
pub use request::{CONTINUATION_BYTES_MAX, IfMatch, REQUEST_BYTES_MAX};
pub use retry::{ATTEMPTS, ATTEMPTS_MAX, RETRY_AFTER_MAX, WAIT_FIRST, WAIT_MAX};

pub(crate) use about::{other, same};
pub(crate) use pages::pages;
pub(crate) use request::{Quoting, Reply, Request, Subject, path};
pub(crate) use retry::Repeat;

use crate::credential::Credential;
use crate::error::{AzureError, Place, Refusal};
use crate::id::HostName;
use crate::secret::CredentialError;
use crate::surroundings::Surroundings;
use crate::transport::{Answer, Bound, ERROR_BYTES_MAX, Failure, Transport};

/// Time of a call, all attempts and waits together, unless told otherwise.
pub const WITHIN: Duration = Duration::from_secs(60);
/// Longest time of a call that may be asked for: a direct method may wait 300 s for its device.
pub const WITHIN_MAX: Duration = Duration::from_secs(600);
/// Time of one attempt where nothing shorter is left: IoT Hub delays calls for many seconds before it refuses any
/// (IoT Hub, quotas and throttling, "traffic shaping").
pub const ATTEMPT_MAX: Duration = Duration::from_secs(30);
/// What the client calls itself.
const AGENT: &str = concat!("berth/", env!("CARGO_PKG_VERSION"));

/// What all services of a process share: connections, clock, and how long and how often to try.
#[derive(Clone)]
pub struct Client {
    transport: Arc<Transport>,
    surroundings: Arc<dyn Surroundings>,
    budget: Option<Arc<dyn Budget>>,
    within: Duration,
    attempts_max: u32,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("within", &self.within)
            .field("attempts_max", &self.attempts_max)
            .field("has_budget", &self.budget.is_some())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Calls over `transport`, by the clock of `surroundings`; 60 s and four attempts each, without a budget.
    pub fn new(transport: Arc<Transport>, surroundings: Arc<dyn Surroundings>) -> Self {
        Self { transport, surroundings, budget: None, within: WITHIN, attempts_max: ATTEMPTS }
    }

    /// Gives each call this long, at most [`WITHIN_MAX`].
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within.min(WITHIN_MAX);
        self
    }

    /// Lets each call send this many requests: 1, which means no repeats, to [`ATTEMPTS_MAX`].
    pub fn attempts(mut self, attempts_max: u32) -> Self {
        self.attempts_max = attempts_max.clamp(1, ATTEMPTS_MAX);
        self
    }

    /// Asks this budget before each request.
    pub fn budget(mut self, budget: Arc<dyn Budget>) -> Self {
        self.budget = Some(budget);
        self
    }

    pub(crate) fn surroundings(&self) -> &Arc<dyn Surroundings> {
        &self.surroundings
    }

    /// The end of a call's time that begins now.
    pub(crate) fn due(&self) -> Due {
        Due { at: self.surroundings.elapsed() + self.within, within: self.within }
    }
}

/// When a call must be over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    at: Duration,
    within: Duration,
}

/// One host, and who the client is there.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) client: Client,
    pub(crate) host: HostName,
    pub(crate) credential: Arc<Credential>,
}

/// A request that may be sent now.
struct Ready {
    permit: Permit,
    wire: http::Request<Full<Bytes>>,
    /// Its credential, where that was not made for it.
    was_kept: Option<HeaderValue>,
}

/// How one attempt failed.
struct Failed {
    error: AzureError,
    /// The credential that Azure refused, where it may have been an old one.
    refused: Option<HeaderValue>,
}

impl Door {
    /// Sends a request until it is answered with yes, is not to be repeated, or time is up.
    pub(crate) async fn send(&self, request: Request) -> Result<Reply, AzureError> {
        self.send_due(&request, self.client.due()).await
    }

    /// Understands as a refusal what was at first taken for an answer; none where it is not the service's own.
    pub(crate) fn refusal(&self, reply: &Reply, subject: Subject) -> Option<AzureError> {
        let Answer { status, headers, body } = &reply.answer;
        crate::error::is_of_service(*status, headers, body)
            .then(|| self.understood(subject, &[], &reply.place, &reply.answer, reply.attempts))
    }

    /// The same, within what is left of a longer call.
    pub(crate) async fn send_due(&self, request: &Request, due: Due) -> Result<Reply, AzureError> {
        let place = Place { operation: request.operation, host: self.host.clone() };
        let surroundings = &self.client.surroundings;
        let mut sent = 0;
        let mut last = "nothing was tried before".to_owned();
        let mut renewed = false;
        // A later answer may be about what an earlier request did.
        let mut perhaps_served = false;
        let told = |error: AzureError, perhaps_served: bool| {
            if perhaps_served { error.after_perhaps_served() } else { error }
        };
        loop {
            let failed = match self.attempt(request, &place, due, &mut sent, &last).await {
                Ok(answer) => return Ok(Reply { place, answer, attempts: sent }),
                Err(failed) => failed,
            };
            let error = failed.error;
            let left = due.at.saturating_sub(surroundings.elapsed());
            // A kept credential may have been withdrawn since: it is not used again, and once a new one is tried.
            if let Some(header) = &failed.refused {
                self.credential.refused(header);
            }
            if failed.refused.is_some() && !renewed && sent < self.client.attempts_max {
                renewed = true;
                perhaps_served |= !request.is_read && error.outcome_unknown();
                last = error.to_string();
                continue;
            }
            if !retry::may_repeat(&error, request.repeat) {
                return Err(told(error, perhaps_served));
            }
            let (draw, asked) = (surroundings.draw(), error.retry_after());
            let Some(wait) = retry::wait(sent, self.client.attempts_max, draw, asked, left) else {
                return Err(told(error, perhaps_served));
            };
            perhaps_served |= !request.is_read && error.outcome_unknown();
            tracing::debug!(operation = place.operation, host = %place.host, sent, ?wait, %error, "trying again");
            last = error.to_string();
            surroundings.pause(wait).await;
        }
    }

    /// Waits, within a longer call; false where that would last beyond it.
    pub(crate) async fn pause(&self, wait: Duration, due: Due) -> bool {
        let left = due.at.saturating_sub(self.client.surroundings.elapsed());
        if wait >= left {
            return false;
        }
        self.client.surroundings.pause(wait).await;
        true
    }

    /// The error of a longer call whose time is up while nothing is on its way.
    pub(crate) fn late(&self, operation: &'static str, due: Due, attempts: u32, last: String) -> AzureError {
        let place = Place { operation, host: self.host.clone() };
        AzureError::Deadline {
            place,
            within: due.within,
            attempts,
            in_flight: false,
            perhaps_served: false,
            last,
        }
    }

    async fn attempt(
        &self,
        request: &Request,
        place: &Place,
        due: Due,
        sent: &mut u32,
        last: &str,
    ) -> Result<Answer, Failed> {
        let surroundings = &self.client.surroundings;
        let late = |sent: u32, in_flight: bool| AzureError::Deadline {
            place: place.clone(),
            within: due.within,
            attempts: sent,
            in_flight,
            perhaps_served: false,
            last: last.to_owned(),
        };
        // Time comes first: work that is done by its end, but not looked at before, begins nothing any more.
        let ready = Box::pin(self.made_ready(request, place, *sent + 1));
        let ready = match select(surroundings.until(due.at), ready).await {
            Either::Left(_) => Err(late(*sent, false)),
            Either::Right((ready, _)) => ready,
        };
        let Ready { permit, wire, was_kept } = ready.map_err(Failed::from)?;
        let outgoing = Outgoing { operation: request.operation, host: &self.host, attempt: *sent + 1 };
        let until = due.at.min(surroundings.elapsed() + request.attempt_max);
        let unsent = |error: AzureError| {
            self.ended(outgoing, Ended::NotSent);
            Failed::from(error)
        };
        let transport = &self.client.transport;
        let room = match select(surroundings.until(until), Box::pin(transport.room(&self.host))).await {
            Either::Right((room, _)) => room,
            Either::Left(_) => {
                Err(Failure::Connect(format!("no connection was free within {:?}", request.attempt_max)))
            }
        };
        // Once more, as the last thing before it goes: leave and room may have come in the very moment.
        if surroundings.elapsed() >= due.at {
            return Err(unsent(late(*sent, false)));
        }
        *sent += 1;
        let room = room.map_err(|failure| unsent(no_answer(place.clone(), failure)))?;
        let bound = |status: StatusCode| match request.yes.contains(&status.as_u16()) {
            true => Bound::Whole(request.answer_max),
            false => Bound::Begin(ERROR_BYTES_MAX),
        };
        let exchange = Box::pin(transport.exchange(room, wire, bound));
        let answer = match select(surroundings.until(until), exchange).await {
            Either::Right((answer, _)) => answer,
            Either::Left(_) if surroundings.elapsed() < due.at => {
                Err(Failure::Broken(format!("no answer within {} s", request.attempt_max.as_secs())))
            }
            Either::Left(_) => {
                self.ended(outgoing, Ended::Unanswered);
                return Err(Failed::from(late(*sent, true)));
            }
        };
        drop(permit);
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => {
                self.ended(
                    outgoing,
                    if matches!(failure, Failure::Connect(_)) { Ended::NotSent } else { Ended::Unanswered },
                );
                return Err(Failed::from(no_answer(place.clone(), failure)));
            }
        };
        let status = answer.status.as_u16();
        tracing::debug!(operation = place.operation, host = %place.host, status, attempt = *sent, "answered");
        if request.yes.contains(&status) {
            let retry_after = crate::error::retry_after(&answer.headers, surroundings.since_epoch());
            self.ended(outgoing, Ended::Answered { status, retry_after });
            return Ok(answer);
        }
        let error = self.understood(request.subject, request.yes, place, &answer, *sent);
        let heard = crate::error::retry_after(&answer.headers, surroundings.since_epoch());
        // A throttle may say it in words only.
        let retry_after = heard.or_else(|| error.retry_after());
        self.ended(outgoing, Ended::Answered { status, retry_after });
        Err(Failed { error, refused: was_kept.filter(|_| status == 401) })
    }

    /// Leave and a credential for one request.
    async fn made_ready(&self, request: &Request, place: &Place, attempt: u32) -> Result<Ready, AzureError> {
        let unusable = |source: CredentialError| AzureError::Credential {
            place: place.clone(),
            source,
            perhaps_served: false,
        };
        if self.credential.is_bearer() && self.client.transport.is_plain(&self.host) {
            let problem = "a bearer token is not sent over plain http; use TLS or a shared access key";
            return Err(unusable(CredentialError::new("bearer token", problem)));
        }
        // Before leave is asked: what cannot be sent shall not be counted.
        let authorization =
            self.credential.authorization(&self.client.surroundings).await.map_err(unusable)?;
        let was_kept = (!authorization.is_fresh).then(|| authorization.header.clone());
        let wire = self.wire(request, authorization.header)?;
        let permit = match &self.client.budget {
            None => Permit::free(),
            Some(budget) => {
                let asked = Outgoing { operation: request.operation, host: &self.host, attempt };
                budget.ask(asked).await.map_err(|spent| AzureError::OverBudget {
                    place: place.clone(),
                    problem: spent.problem,
                    retry_after: spent.retry_after,
                    perhaps_served: false,
                })?
            }
        };
        Ok(Ready { permit, wire, was_kept })
    }

    fn wire(
        &self,
        request: &Request,
        authorization: HeaderValue,
    ) -> Result<http::Request<Full<Bytes>>, AzureError> {
        let scheme = if self.client.transport.is_plain(&self.host) { "http" } else { "https" };
        let built = http::Request::builder()
            .method(request.method.clone())
            .uri(format!("{scheme}://{}{}", self.host, request.path))
            .body(Full::new(request.body.clone()));
        let mut wire = built.map_err(|error| {
            AzureError::invalid(request.operation, format!("it makes no legal request: {error}"))
        })?;
        let headers = wire.headers_mut();
        headers.extend(request.headers.clone());
        headers.insert(AUTHORIZATION, authorization);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if request.body.is_empty() && matches!(request.method, Method::POST | Method::PUT | Method::PATCH) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Ok(wire)
    }

    fn ended(&self, request: Outgoing<'_>, ended: Ended) {
        if let Some(budget) = &self.client.budget {
            budget.ended(request, ended);
        }
    }

    fn understood(
        &self,
        subject: Subject,
        yes: &[u16],
        place: &Place,
        answer: &Answer,
        attempts: u32,
    ) -> AzureError {
        let status = answer.status.as_u16();
        if status < 400 {
            return AzureError::Nonsense {
                place: place.clone(),
                status,
                expected: "a status of this operation",
                problem: format!("HTTP {status} is none of {yes:?}"),
                begins: crate::error::first_bytes(&answer.body),
            };
        }
        let now = self.client.surroundings.since_epoch();
        let refusal =
            Refusal { status: answer.status, headers: &answer.headers, body: &answer.body, now, attempts };
        AzureError::told(place.clone(), subject, refusal)
    }
}

impl From<AzureError> for Failed {
    fn from(error: AzureError) -> Self {
        Self { error, refused: None }
    }
}

fn no_answer(place: Place, failure: Failure) -> AzureError {
    match failure {
        Failure::Connect(problem) => AzureError::Connect { place, problem, perhaps_served: false },
        Failure::Broken(problem) => AzureError::Broken { place, problem },
        Failure::TooLong(bytes_max) => AzureError::TooLong { place, bytes_max },
    }
}

/// The knobs of a call, on every service: each gives a copy, so that one call can be made otherwise than the rest.
macro_rules! knobs {
    ($name:ident) => {
        impl $name {
            /// The same with this much time for each call, at most [`crate::WITHIN_MAX`].
            pub fn within(&self, within: std::time::Duration) -> Self {
                let mut other = self.clone();
                other.door.client = other.door.client.within(within);
                other
            }

            /// The same with this many requests for each call: 1, which means no repeats, to [`crate::ATTEMPTS_MAX`].
            pub fn attempts(&self, attempts_max: u32) -> Self {
                let mut other = self.clone();
                other.door.client = other.door.client.attempts(attempts_max);
                other
            }

            /// The same with this budget, asked before each request.
            pub fn budget(&self, budget: std::sync::Arc<dyn crate::Budget>) -> Self {
                let mut other = self.clone();
                other.door.client = other.door.client.budget(budget);
                other
            }

            /// The host spoken to.
            pub fn host(&self) -> &crate::id::HostName {
                &self.door.host
            }
        }
    };
}
pub(crate) use knobs;
