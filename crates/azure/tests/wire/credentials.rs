//! Who the client says it is: signatures kept and renewed, keys replaced under way, tokens kept off plain wires.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use berth_azure::id::{DeviceId, RegistrationId};
use berth_azure::{
    AzureError, Credential, CredentialError, DPS_SCOPE, KeySource, Secret, StoredToken, Token, TokenSource,
    dps,
};
use futures_util::future::BoxFuture;

use crate::bodies::body;
use crate::stage::{DPS, HUB, KEY, Stage, host, json};

/// Another key than the test vector: bytes 31 to 0.
const OTHER_KEY: &str = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

/// Hands out `token-1`, `token-2` and so on, each for an hour of the test's clock.
pub struct Tokens {
    made: AtomicU32,
}

impl Tokens {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { made: AtomicU32::new(0) })
    }
}

impl TokenSource for Tokens {
    fn token<'a>(&'a self, _scope: &'a str) -> BoxFuture<'a, Result<Token, CredentialError>> {
        Box::pin(async {
            let number = self.made.fetch_add(1, Ordering::Relaxed) + 1;
            let ends = Duration::from_secs(1_767_225_600 + 3_600);
            Ok(Token { text: Secret::new(format!("token-{number}")), ends })
        })
    }
}

fn authorizations(stage: &Stage) -> Vec<String> {
    stage.server.take_seen().iter().map(|seen| seen.header("authorization").unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_signature_is_kept_until_shortly_before_its_end() {
    let stage = Stage::new().await;
    let hub = stage.hub();
    for turn in [0, 3_299, 1, 10] {
        stage.clock.turn(Duration::from_secs(turn));
        stage.server.play([json(200, body!("hub/statistics_service.json"))]);
        hub.service_statistics().await.unwrap();
    }
    let sent = authorizations(&stage);
    assert_eq!(sent[0], sent[1]);
    assert_ne!(sent[1], sent[2], "five minutes before its end it is no longer used");
    assert_eq!(sent[2], sent[3]);
    assert!(sent[0].contains("&se=1767229200&") && sent[2].contains("&se=1767232500&"), "{sent:?}");
}

#[tokio::test]
async fn a_key_replaced_in_its_file_is_taken_up_at_the_first_refusal() {
    let stage = Stage::new().await;
    let hub = stage.hub();
    stage.server.play([
        json(200, body!("hub/statistics_service.json")),
        json(401, body!("hub/error_401.json")),
        json(200, body!("hub/statistics_service.json")),
    ]);
    hub.service_statistics().await.unwrap();
    stage.file(HUB, &format!("HostName={HUB};SharedAccessKeyName=service;SharedAccessKey={OTHER_KEY}"));
    hub.service_statistics().await.unwrap();
    let sent = authorizations(&stage);
    assert_eq!(sent[0], sent[1]);
    assert_ne!(sent[1], sent[2]);
    assert!(stage.clock.pauses().is_empty(), "nothing to wait for");
}

#[tokio::test]
async fn a_key_replaced_in_its_file_is_taken_up_by_the_next_call_where_none_is_repeated() {
    let stage = Stage::new().await;
    let hub = stage.hub().attempts(1);
    stage.server.play([
        json(200, body!("hub/statistics_service.json")),
        json(401, body!("hub/error_401.json")),
        json(200, body!("hub/statistics_service.json")),
    ]);
    hub.service_statistics().await.unwrap();
    stage.file(HUB, &format!("HostName={HUB};SharedAccessKeyName=service;SharedAccessKey={OTHER_KEY}"));
    assert!(matches!(hub.service_statistics().await, Err(AzureError::Unauthorized { .. })));
    hub.service_statistics().await.unwrap();
    let sent = authorizations(&stage);
    assert_eq!(sent[0], sent[1]);
    assert_ne!(sent[1], sent[2]);
}

#[tokio::test]
async fn a_wrong_key_is_refused_once_or_twice_and_no_more() {
    let stage = Stage::new().await;
    let hub = stage.hub();
    stage.server.play(vec![json(401, body!("hub/error_401.json")); 3]);
    let error = hub.service_statistics().await.unwrap_err();
    assert!(matches!(error, AzureError::Unauthorized { .. }) && error.code() == Some(401_002));
    assert_eq!(stage.server.take_seen().len(), 1, "the signature was made for this very call");
    let error = hub.service_statistics().await.unwrap_err();
    assert!(matches!(error, AzureError::Unauthorized { .. }));
    assert_eq!(stage.server.take_seen().len(), 2, "the signature was kept, so a new one is tried");
}

#[tokio::test]
async fn a_bearer_token_never_goes_over_plain_http() {
    let stage = Stage::new().await;
    let credential = Credential::bearer(Tokens::new(), DPS_SCOPE);
    let dps = dps::Service::new(stage.client.clone(), host(DPS), credential);
    let error = dps.registration(&RegistrationId::new("dev-1").unwrap()).await.unwrap_err();
    assert!(matches!(error, AzureError::Credential { .. }), "{error:?}");
    assert!(error.to_string().contains("plain http") && !error.to_string().contains("token-1"), "{error}");
    assert!(stage.server.seen().is_empty());
    assert_eq!(stage.server.connections().opened, 0);
}

#[tokio::test]
async fn a_stored_token_is_read_again_after_a_minute() {
    let stage = crate::tls::stage(&[DPS], |endpoints, address| endpoints.at(host(DPS), address)).await;
    let path = stage.file("token", "first\n");
    let source = StoredToken::new(KeySource::File(path), Arc::new(stage.clock.clone()));
    let credential = Credential::bearer(Arc::new(source), DPS_SCOPE);
    let dps = dps::Service::new(stage.client.clone(), host(DPS), credential);
    let id = RegistrationId::new("device-4dfe3739").unwrap();
    for (token, turn) in [("first", 0), ("second", 59), ("third", 2)] {
        stage.file("token", token);
        stage.clock.turn(Duration::from_secs(turn));
        stage.server.play([json(200, body!("dps/registration_state.json"))]);
        dps.registration(&id).await.unwrap();
    }
    assert_eq!(authorizations(&stage), ["Bearer first", "Bearer first", "Bearer third"]);

    stage.file("token", "two tokens");
    stage.clock.turn(Duration::from_secs(120));
    let error = dps.registration(&id).await.unwrap_err();
    assert!(
        matches!(error, AzureError::Credential { .. }) && !error.to_string().contains("two tokens"),
        "{error}"
    );
}

#[tokio::test]
async fn a_credential_that_went_away_is_an_error_and_nothing_is_sent() {
    let stage = Stage::new().await;
    let hub = stage.hub();
    let path = stage.file(HUB, "HostName=another.azure-devices.net;SharedAccessKeyName=p;SharedAccessKey=");
    let error = hub.service_statistics().await.unwrap_err();
    assert!(matches!(error, AzureError::Credential { .. }));
    std::fs::remove_file(path).unwrap();
    let error = hub.service_statistics().await.unwrap_err();
    assert!(error.to_string().contains("cannot be opened"), "{error}");
    assert!(stage.server.seen().is_empty());
}

#[tokio::test]
async fn no_secret_is_shown_even_where_azure_repeats_it() {
    let stage = Stage::new().await;
    let hub = stage.hub();
    let id = DeviceId::new("dev#1?x%y").unwrap();
    stage.server.play([json(200, body!("hub/identity.json"))]);
    let identity = hub.identity(&id).await.unwrap();
    let signature = authorizations(&stage).remove(0);
    let sig = signature.split("sig=").nth(1).unwrap().split('&').next().unwrap().to_owned();

    let echo = format!(r#"{{"Message":"ErrorCode:X;got {signature} for {KEY}","ExceptionMessage":"{KEY}"}}"#);
    let keyed = body!("hub/identity.json").replace("\"deviceId\":\"dev#1?x%y\",", "");
    stage.server.play([
        json(400, &echo).with("iothub-errorcode", KEY).with("x-ms-request-id", KEY),
        json(200, &keyed),
        json(200, format!("\"{KEY}\"")),
        json(200, format!(r#"{{"deviceId":"{KEY}/"}}"#)),
        // An ID as any other.
        json(200, format!(r#"{{"deviceId":"{KEY}"}}"#)),
        json(200, format!(r#"{{"deviceId":"d","status":{{"{KEY}":1}}}}"#)),
    ]);
    let mut shown = format!("{identity:?} {hub:?} {:?}", stage.client);
    for _ in 0..6 {
        let error = hub.identity(&id).await.unwrap_err();
        shown.push_str(&format!("{error} {error:?}"));
    }
    for secret in ["AAECAwQF", sig.get(..16).unwrap()] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

/// Gives a token when told to, and counts how often it was asked.
struct Slow {
    asked: AtomicU32,
    go: tokio::sync::Semaphore,
}

impl TokenSource for Slow {
    fn token<'a>(&'a self, _scope: &'a str) -> BoxFuture<'a, Result<Token, CredentialError>> {
        Box::pin(async {
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.go.acquire().await.unwrap().forget();
            let ends = Duration::from_secs(1_767_225_600 + 36_000);
            Ok(Token { text: Secret::new("slow".into()), ends })
        })
    }
}

#[tokio::test]
async fn a_token_slower_than_its_callers_is_fetched_once_and_serves_the_next() {
    let stage = crate::tls::stage(&[DPS], |endpoints, address| endpoints.at(host(DPS), address)).await;
    let source = Arc::new(Slow { asked: AtomicU32::new(0), go: tokio::sync::Semaphore::new(0) });
    let credential = Credential::bearer(source.clone(), DPS_SCOPE);
    let dps = dps::Service::new(stage.client.clone(), host(DPS), credential);
    let id = RegistrationId::new("device-4dfe3739").unwrap();
    for _ in 0..3 {
        let (dps, id) = (dps.within(Duration::from_secs(5)), id.clone());
        let call = tokio::spawn(async move { dps.registration(&id).await });
        while !call.is_finished() {
            tokio::task::yield_now().await;
            if source.asked.load(Ordering::Relaxed) > 0 {
                stage.clock.turn(Duration::from_secs(5));
            }
        }
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, AzureError::Deadline { attempts: 0, .. }), "{error:?}");
    }
    assert_eq!(source.asked.load(Ordering::Relaxed), 1, "one fetch outlives the calls that wait for it");
    source.go.add_permits(1);
    stage.server.play([json(200, body!("dps/registration_state.json"))]);
    dps.registration(&id).await.unwrap();
    assert_eq!(source.asked.load(Ordering::Relaxed), 1);
    assert_eq!(authorizations(&stage), ["Bearer slow"]);
}
