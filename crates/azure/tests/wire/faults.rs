//! Answers that are slow, short, wrong or broken off.

use std::time::Duration;

use berth_azure::id::RegistrationId;
use berth_azure::{ATTEMPT_MAX, AzureError};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

use crate::bodies::body;
use crate::stage::{Act, Stage, json};

/// What DPS and the hub answer to a removal.
pub fn no_content() -> Act {
    Act::Answer { status: 204, headers: vec![], body: vec![] }
}

fn id() -> RegistrationId {
    RegistrationId::new("device-4dfe3739").unwrap()
}

#[tokio::test]
async fn nonsense_is_said_to_be_nonsense_and_not_asked_for_again() {
    let stage = Stage::new().await;
    let kind = |kind: &str, body: &str| Act::Answer {
        status: 200,
        headers: vec![("content-type".into(), kind.into())],
        body: body.as_bytes().to_vec(),
    };
    let good = body!("dps/registration_state.json");
    for (act, said) in [
        (json(200, "<html>sorry</html>"), "is no JSON"),
        (json(200, ""), "ends too soon"),
        (json(200, good.get(..60).unwrap()), "ends too soon"),
        (json(200, "[]"), "a registration state"),
        (json(200, "null"), "a registration state"),
        (json(200, r#"{"status":7}"#), "line 1 column"),
        (json(200, r#"{"registrationId":"a b","status":"assigned"}"#), "registration ID"),
        (json(200, r#"{"status":"assigned","lastUpdatedDateTimeUtc":"yesterday"}"#), "is not a time"),
        (json(200, r#"{"status":"assigned","assignedHub":"a/b"}"#), "host name"),
        (kind("text/html", good), "content type is `text/html`"),
        (kind("application/jsonp", good), "content type is `application/jsonp`"),
        (Act::Answer { status: 200, headers: vec![], body: good.into() }, "content type is `none`"),
        (json(201, good), "HTTP 201 is none of [200]"),
        (json(302, "").with("location", "https://elsewhere/"), "HTTP 302"),
        (no_content(), "HTTP 204"),
    ] {
        stage.server.play([act.clone()]);
        let error = stage.dps().registration(&id()).await.unwrap_err();
        assert!(matches!(error, AzureError::Nonsense { .. }), "{act:?}: {error:?}");
        assert!(error.to_string().contains(said), "{act:?}: {error}");
        assert!(!error.is_retryable());
        assert_eq!(stage.server.take_seen().len(), 1, "{act:?}");
    }
    let kind = kind("Application/JSON ; charset=utf-8", good);
    stage.server.play([kind]);
    stage.dps().registration(&id()).await.unwrap();
}

#[tokio::test]
async fn an_error_page_of_something_in_between_is_an_error_like_any_other() {
    let stage = Stage::new().await;
    let html = b"<html><body>\r\n502 Bad Gateway\x07</body></html>".to_vec();
    let page =
        Act::Answer { status: 502, headers: vec![("content-type".into(), "text/html".into())], body: html };
    stage.server.play(vec![page; 4]);
    let error = stage.dps().registration(&id()).await.unwrap_err();
    assert!(matches!(error, AzureError::Unavailable { .. }), "{error:?}");
    let shown = error.to_string();
    assert!(shown.contains("502 Bad Gateway") && !shown.contains(['\r', '\n', '\x07']), "{shown:?}");
    assert_eq!(stage.server.seen().len(), 4);
}

#[tokio::test]
async fn half_an_answer_is_none() {
    let stage = Stage::new().await;
    let good = body!("dps/registration_state.json");
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let halves = [
        format!("{head}content-length: {}\r\n\r\n{}", good.len(), good.get(..80).unwrap()),
        format!("{head}transfer-encoding: chunked\r\n\r\n5\r\n{{\"sta"),
        format!("{head}content-len"),
        "HTT".to_owned(),
        "SSH-2.0-OpenSSH\r\n\r\n".to_owned(),
        format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\n"),
    ];
    for half in halves {
        stage.server.play(vec![Act::Bytes(half.clone().into_bytes()); 2]);
        let error = stage.dps().attempts(2).registration(&id()).await.unwrap_err();
        assert!(matches!(error, AzureError::Broken { .. }) && error.outcome_unknown(), "{half}: {error:?}");
        assert_eq!(stage.server.take_seen().len(), 2, "a read is asked again: {half}");
    }
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let stage = Stage::new().await;
    let announced =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000000000\r\n\r\n{"
            .to_vec();
    stage.server.play([Act::BytesAndSilence(announced), Act::Endless]);
    for _ in 0..2 {
        let error = stage.dps().registration(&id()).await.unwrap_err();
        assert!(
            matches!(error, AzureError::TooLong { bytes_max: berth_azure::OBJECT_BYTES_MAX, .. }),
            "{error:?}"
        );
    }
    assert_eq!(stage.server.seen().len(), 2, "and not asked for again");
}

#[tokio::test]
async fn a_head_without_end_is_cut_off() {
    let stage = Stage::new().await;
    let mut head = b"HTTP/1.1 200 OK\r\nx-long: ".to_vec();
    head.extend(vec![b'x'; 2 * 1_024 * 1_024]);
    stage.server.play([Act::Bytes(head)]);
    let error = stage.dps().attempts(1).registration(&id()).await.unwrap_err();
    assert!(matches!(error, AzureError::Broken { .. }), "{error:?}");
}

#[tokio::test]
async fn silence_ends_with_the_attempt_and_at_last_with_the_deadline() {
    let stage = Stage::new().await;
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{".to_vec();
    stage.server.play([Act::Wait, Act::BytesAndSilence(head)]);
    let dps = stage.dps();
    let call = tokio::spawn(async move { dps.registration(&id()).await });
    stage.server.has_seen(1).await;
    stage.clock.turn(ATTEMPT_MAX);
    // The first attempt has had its time, the call has not: asked again, and half answered.
    stage.server.has_seen(2).await;
    stage.clock.turn(ATTEMPT_MAX);
    let error = call.await.unwrap().unwrap_err();
    match &error {
        AzureError::Deadline { attempts: 2, in_flight: true, last, .. } => {
            assert!(last.contains("no answer within 30 s"), "{last}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_short_deadline_cuts_an_answer_short() {
    let stage = Stage::new().await;
    stage.server.play([Act::Wait]);
    let dps = stage.dps().within(Duration::from_secs(2));
    let call = tokio::spawn(async move { dps.registration(&id()).await });
    stage.server.has_seen(1).await;
    stage.clock.turn(Duration::from_secs(2));
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, AzureError::Deadline { attempts: 1, in_flight: true, .. }), "{error:?}");
    assert!(error.is_retryable() && error.outcome_unknown());
}

#[tokio::test]
async fn no_bytes_that_a_server_sends_do_more_than_fail() {
    // Printed, so that a run that fails can be repeated.
    let seed: [u8; 32] = rand_seed();
    println!("seed {seed:?}");
    let rng = proptest::test_runner::TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &seed);
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        "HTTP/1.1 [0-9]{1,4} [a-z]{0,5}\r\n([a-zA-Z-]{1,12}: [ -~]{0,20}\r\n){0,4}\r\n[ -~]{0,80}"
            .prop_map(String::into_bytes),
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n[{}\\[\\]\":,a-z0-9]{0,80}"
            .prop_map(String::into_bytes),
    ];
    let stage = Stage::new().await;
    let dps = stage.dps().attempts(1);
    for _ in 0..300 {
        let sent = bytes.new_tree(&mut runner).unwrap().current();
        stage.server.play([Act::Bytes(sent.clone())]);
        let error = dps.registration(&id()).await.unwrap_err();
        assert!(!error.to_string().is_empty(), "{sent:?}");
        assert_eq!(stage.server.take_seen().len(), 1, "{sent:?}: {error}");
    }
}

fn rand_seed() -> [u8; 32] {
    std::array::from_fn(|_| rand::random())
}

#[tokio::test]
async fn of_an_error_without_end_the_beginning_is_read_and_its_status_counts() {
    let stage = Stage::new().await;
    let mut endless = b"HTTP/1.1 503 Busy\r\ncontent-length: 1000000000000\r\n\r\n".to_vec();
    endless.extend(vec![b'x'; 70_000]);
    stage.server.play([Act::BytesAndSilence(endless), json(200, body!("dps/registration_state.json"))]);
    stage.dps().registration(&id()).await.unwrap();
    assert_eq!(stage.server.seen().len(), 2, "a 503 is tried again, however long");
}
