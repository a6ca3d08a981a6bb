//! Asking a custom allocation webhook (DPS, custom allocation policies).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Service;
use crate::world::{Failure, Twin, WebhookAnswer, WebhookCall};

/// How often DPS asks a webhook again that answers 429 or above.
const RETRIES_MAX: u32 = 10;

/// Wait before the first retry; each further one waits [`RETRY_MORE`] longer.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// How much longer each retry waits than the one before.
const RETRY_MORE: Duration = Duration::from_secs(9);

/// Largest answer that is read, in bytes: a host name, a twin and a payload.
const ANSWER_BYTES_MAX: usize = 128 * 1_024;

/// Most questions on their way at one time; those beyond wait their turn, at most one for each device that is
/// registering. A question that waits to be asked again takes no turn meanwhile: a dead webhook stops no other.
pub(super) const QUESTIONS_MAX: usize = 64;

/// Asks in the background. The device sees `assigning` meanwhile.
pub(super) fn ask(service: &Arc<Service>, question: WebhookCall) {
    let service = Arc::clone(service);
    tokio::spawn(async move {
        let answer = tokio::select! {
            answer = ask_until_told(&service, &question) => answer,
            () = service.stopping.cancelled() => return,
        };
        service.with_world(|world, now| world.webhook_answered(&question, answer, now));
    });
}

async fn ask_until_told(service: &Service, question: &WebhookCall) -> Result<WebhookAnswer, Failure> {
    let mut wait = RETRY_FIRST;
    let body = Bytes::from(question.body.to_string());
    for retry in 0..=RETRIES_MAX {
        let asked = {
            // The semaphore is never closed.
            let _turn = service.questions.acquire().await;
            let asked = post(service, &question.url, body.clone());
            tokio::time::timeout(service.webhook_timeout, asked).await
        };
        let status = match asked {
            Ok(Ok((200, answer))) => return read(&answer),
            Ok(Ok((401, _))) => {
                let message = "Custom allocation failed with status code: 401".to_owned();
                return Err(Failure { code: 400_209, message });
            }
            Ok(Ok((status, _))) if status < 429 => return Err(failed(status)),
            Ok(Ok((status, _))) => status,
            // Nobody answered: as bad as a gateway that says so.
            Ok(Err(error)) => {
                tracing::debug!(%error, "the custom allocation webhook was not reached");
                503
            }
            Err(_late) => 504,
        };
        if retry == RETRIES_MAX {
            return Err(failed(status));
        }
        service.wait(wait).await;
        wait += RETRY_MORE;
    }
    Err(failed(503))
}

fn failed(status: u16) -> Failure {
    Failure { code: 400_207, message: format!("Custom allocation failed with status code: {status}") }
}

fn read(answer: &[u8]) -> Result<WebhookAnswer, Failure> {
    let malformed = || Failure {
        code: 400_207,
        message: "Custom allocation failed: the answer of the webhook is malformed".to_owned(),
    };
    let Ok(Value::Object(mut answer)) = serde_json::from_slice(answer) else { return Err(malformed()) };
    let hub = match answer.remove("iotHubHostName") {
        Some(Value::String(hub)) if !hub.is_empty() => hub,
        None | Some(Value::Null | Value::String(_)) => {
            let message = "Custom allocation failed: no IoT hub was specified".to_owned();
            return Err(Failure { code: 400_208, message });
        }
        Some(_) => return Err(malformed()),
    };
    let initial_twin = match answer.remove("initialTwin") {
        None | Some(Value::Null) => None,
        Some(Value::Object(twin)) => {
            Twin::check_initial(&twin).map_err(|problem| Failure {
                code: 400_207,
                message: format!("Custom allocation failed: {problem}"),
            })?;
            Some(twin)
        }
        Some(_) => return Err(malformed()),
    };
    let payload = answer.remove("payload").filter(|payload| !payload.is_null());
    Ok(WebhookAnswer { hub, initial_twin, payload })
}

type Problem = Box<dyn std::error::Error + Send + Sync>;

async fn post(service: &Service, url: &str, body: Bytes) -> Result<(u16, Bytes), Problem> {
    let uri: http::Uri = url.parse()?;
    let host = uri.host().ok_or("a webhook URL without a host")?;
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let request = http::Request::post(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header("host", uri.authority().map_or(host, |authority| authority.as_str()))
        .header("content-type", "application/json; charset=utf-8")
        .body(Full::new(body))?;
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    stream.set_nodelay(true)?;
    if secure {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
        let connector = TlsConnector::from(Arc::clone(&service.webhook_tls));
        exchange(TokioIo::new(connector.connect(name, stream).await?), request).await
    } else {
        exchange(TokioIo::new(stream), request).await
    }
}

async fn exchange<T>(io: T, request: http::Request<Full<Bytes>>) -> Result<(u16, Bytes), Problem>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let driven = tokio::spawn(connection);
    let exchanged = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok((status, body))
    };
    let told = exchanged.await;
    driven.abort();
    told
}
