//! Connections: kept, counted and bounded.

use std::time::Duration;

use berth_azure::AzureError;
use berth_azure::id::RegistrationId;
use futures_util::future::join_all;

use crate::bodies::body;
use crate::stage::{Act, Server, Stage, json};

fn id() -> RegistrationId {
    RegistrationId::new("device-4dfe3739").unwrap()
}

#[tokio::test]
async fn one_connection_serves_call_after_call() {
    let stage = Stage::new().await;
    stage.server.play(vec![json(200, body!("dps/registration_state.json")); 30]);
    stage.server.play(vec![json(404, body!("dps/error_404201.json")); 10]);
    let dps = stage.dps();
    for _ in 0..30 {
        dps.registration(&id()).await.unwrap();
    }
    for _ in 0..10 {
        dps.registration(&id()).await.unwrap_err();
    }
    assert_eq!((stage.transport.connections_opened(), stage.server.connections().opened), (1, 1));
}

#[tokio::test]
async fn a_connection_closed_between_calls_costs_no_call() {
    let stage = Stage::new().await;
    let good = body!("dps/registration_state.json").as_bytes().to_vec();
    stage.server.play(vec![Act::AnswerAndClose { status: 200, body: good }; 20]);
    let dps = stage.dps();
    for _ in 0..20 {
        dps.registration(&id()).await.unwrap();
    }
    assert_eq!(stage.server.seen().len(), 20);
}

#[tokio::test]
async fn a_connection_reset_between_calls_or_within_one_costs_no_read() {
    let stage = Stage::plainly(Server::resetting().await, 4);
    let good = body!("dps/registration_state.json").as_bytes().to_vec();
    stage.server.play([
        Act::AnswerAndReset { status: 200, body: good.clone() },
        json(200, &good),
        Act::Close,
        json(200, &good),
        Act::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{".to_vec()),
        json(200, &good),
    ]);
    let dps = stage.dps();
    dps.registration(&id()).await.unwrap();
    stage.server.go_on(1);
    for _ in 0..3 {
        dps.registration(&id()).await.unwrap();
    }
    assert_eq!(stage.server.connections().opened, 4, "one more after each reset");
}

#[tokio::test]
async fn no_more_connections_to_a_host_than_allowed() {
    let stage = Stage::with_connections(3).await;
    stage.server.play(vec![Act::Wait; 12]);
    let dps = stage.dps().attempts(1);
    let id = id();
    let calls = tokio::spawn(async move { join_all((0..12).map(|_| dps.registration(&id))).await });
    stage.server.has_seen(3).await;
    assert_eq!(stage.server.connections().open, 3);
    stage.server.go_on(12);
    let results = calls.await.unwrap();
    // The body is `{}`, which is no registration state: but it came.
    assert!(results.iter().all(|result| matches!(result, Err(AzureError::Nonsense { .. }))), "{results:?}");
    assert_eq!(stage.server.connections().most, 3);
}

#[tokio::test]
async fn a_call_that_waits_for_a_connection_ends_in_time() {
    let stage = Stage::with_connections(1).await;
    stage.server.play(vec![Act::Wait; 2]);
    let (first, second) = (stage.dps(), stage.dps().within(Duration::from_secs(5)));
    let first = tokio::spawn(async move { first.registration(&id()).await });
    stage.server.has_seen(1).await;
    let second = tokio::spawn(async move { second.registration(&id()).await });
    while !second.is_finished() {
        tokio::task::yield_now().await;
        stage.clock.turn(Duration::from_secs(1));
    }
    let error = second.await.unwrap().unwrap_err();
    assert!(matches!(error, AzureError::Deadline { in_flight: false, .. }), "nothing was sent: {error:?}");
    assert!(!error.outcome_unknown());
    assert_eq!(stage.server.connections().opened, 1);
    first.abort();
}
