//! Calls that get no hub: each with its status and reason, counted, and without a trace in the directory.

use berth_proto::v1;
use berth_server::config::Settings;
use berth_server::run::Injected;
use serde_json::{Value, json};

use super::call::{self, allocate, body, post, send};
use super::{SCOPE, SECRET, Stage};
use crate::{Bench, HUB_1, HUB_2, HUB_3, apply, assignment};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_changes_nothing_and_is_counted() {
    let stage = Stage::start().await;
    let before = stage.revision();
    let right = body("pump-1", &[HUB_1]).to_string();
    let changed = |change: fn(&mut Value)| {
        let mut wrong = body("pump-1", &[HUB_1]);
        change(&mut wrong);
        wrong.to_string()
    };
    let large = format!("{right}{}", " ".repeat(300 * 1_024));
    let scope_unknown = format!("scope=0neUNKNOWN&code={SECRET}");
    let no_scope = format!("code={SECRET}");
    let good = call::query();
    let cases: Vec<(&str, String, u16, &str)> = vec![
        ("", right.clone(), 401, "UNAUTHORIZED"),
        (SCOPE, right.clone(), 401, "UNAUTHORIZED"),
        ("scope=0ne00000001&code=a/new+secret=012345678", right.clone(), 401, "UNAUTHORIZED"),
        ("scope=0ne00000001&code=a/new%20secret=0123456789", right.clone(), 401, "UNAUTHORIZED"),
        // The wrong secret goes before all else, and nothing is read for it.
        ("scope=0ne00000001&code=wrong", large.clone(), 401, "UNAUTHORIZED"),
        (&no_scope, right.clone(), 400, "MALFORMED"),
        (&scope_unknown, right.clone(), 404, "SCOPE_UNKNOWN"),
        (&good, large, 413, "TOO_LARGE"),
        (&good, String::new(), 400, "MALFORMED"),
        (&good, right[..right.len() - 1].to_owned(), 400, "MALFORMED"),
        (&good, "[]".to_owned(), 400, "MALFORMED"),
        (&good, changed(|b| b["linkedHubs"] = json!([])), 400, "MALFORMED"),
        (&good, changed(|b| b["linkedHubs"] = json!([7])), 400, "MALFORMED"),
        (
            &good,
            changed(|b| b["deviceRuntimeContext"]["registrationId"] = json!("no blanks")),
            400,
            "MALFORMED",
        ),
        (&good, changed(|b| b["deviceRuntimeContext"]["registrationId"] = json!("other")), 400, "MALFORMED"),
        (&good, changed(|b| b["linkedHubs"] = json!(["stranger.example"])), 422, "HUBS_UNKNOWN"),
    ];
    for (query, text, status, reason) in &cases {
        let answer = post(stage.http(), query, text.as_bytes()).await;
        assert_eq!((answer.status, answer.reason()), (*status, *reason), "{query}: {answer:?}");
        assert!(answer.head.contains("content-type: application/json"), "{answer:?}");
        assert!(!answer.text.contains(SECRET), "{answer:?}");
        assert!(answer.body["error"]["message"].as_str().is_some_and(|text| text.len() > 10), "{answer:?}");
    }
    // Without a length, and past the bound all the same.
    let head = format!(
        "POST /hooks/dps/allocate?{good} HTTP/1.1\r\nhost: b\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x1_0000)).repeat(5);
    let answer = send(stage.http(), head.as_bytes(), format!("{chunk}0\r\n\r\n").as_bytes()).await.unwrap();
    assert_eq!((answer.status, answer.reason()), (413, "TOO_LARGE"), "{answer:?}");
    let get = format!("GET /hooks/dps/allocate?{good} HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n");
    assert_eq!(send(stage.http(), get.as_bytes(), b"").await.unwrap().status, 405);
    // One who breaks off in the middle.
    let half =
        format!("POST /hooks/dps/allocate?{good} HTTP/1.1\r\nhost: b\r\ncontent-length: 999\r\n\r\n{{");
    {
        use tokio::io::AsyncWriteExt;
        let mut stream = tokio::net::TcpStream::connect(stage.http()).await.unwrap();
        stream.write_all(half.as_bytes()).await.unwrap();
    }

    assert_eq!(stage.revision(), before, "nothing was written");
    for (outcome, count) in
        [("unauthorized", 5), ("scope_unknown", 1), ("too_large", 2), ("hubs_unknown", 1), ("placed", 0)]
    {
        assert_eq!(stage.outcome(outcome).await, count, "{outcome}");
    }
    assert!(stage.outcome("malformed").await >= 7);
    assert_eq!(stage.metric("berth_reconcile_drift{class=\"HUB_UNKNOWN\"}").await, 1);
    // And the same call, right, is answered.
    assert_eq!(post(stage.http(), &good, right.as_bytes()).await.hub(), Some(HUB_1));
    assert_eq!(stage.metric("berth_reconcile_drift{class=\"HUB_UNKNOWN\"}").await, 0);
    stage.bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_not_linked_is_drift_until_it_is() {
    let mut stage = Stage::start().await;
    let row = v1::DeviceAssignment { scope: SCOPE.to_owned(), ..assignment("pump-1", HUB_1) };
    let epoch = stage.bench.try_assign(row).await.unwrap().epoch;
    for _ in 0..2 {
        let refused = stage.allocate("pump-1", &[HUB_2, HUB_3]).await;
        assert_eq!((refused.status, refused.reason()), (409, "HUB_NOT_LINKED"), "{refused:?}");
        assert!(refused.text.contains(HUB_1), "{refused:?}");
    }
    assert_eq!(stage.metric("berth_reconcile_drift{class=\"HUB_NOT_LINKED\"}").await, 1);
    let mapping = stage.bench.get("pump-1").await.unwrap();
    assert_eq!((mapping.hub.as_str(), mapping.epoch), (HUB_1, epoch));
    assert_eq!(stage.allocate("pump-1", &[HUB_1, HUB_2]).await.hub(), Some(HUB_1));
    assert_eq!(stage.metric("berth_reconcile_drift{class=\"HUB_NOT_LINKED\"}").await, 0);
    // Linked at DPS, and not in the topology: newcomers do not go there.
    let mut narrowed = super::topology();
    narrowed.scopes[0].linked_hubs = Some(v1::DesiredLinkedHubs { hubs: vec![HUB_2.to_owned()] });
    stage.bench.topology.apply(apply(narrowed)).await.unwrap();
    assert_eq!(stage.allocate("new-1", &[HUB_1]).await.reason(), "HUBS_UNKNOWN");
    assert_eq!(stage.allocate("new-2", &[HUB_1, HUB_2]).await.hub(), Some(HUB_2));
    // In another scope.
    let query = format!("scope=0ne00000002&code={SECRET}");
    let elsewhere = post(stage.http(), &query, body("pump-1", &[HUB_1]).to_string().as_bytes()).await;
    assert_eq!((elsewhere.status, elsewhere.reason()), (409, "DUPLICATE"), "{elsewhere:?}");
    stage.bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_exchanged_while_the_node_runs() {
    let stage = Stage::start().await;
    let path = stage.secrets.path().join("hook");
    let next = "the-next-secret-0123456789";
    let ask = async |secret: &str| {
        let query = format!("scope={SCOPE}&code={secret}");
        post(stage.http(), &query, body("pump-1", &[HUB_1]).to_string().as_bytes()).await.status
    };
    assert_eq!((ask(SECRET).await, ask(next).await), (200, 401));
    std::fs::write(&path, format!("{SECRET}\n{next}\n")).unwrap();
    assert_eq!((ask(SECRET).await, ask(next).await), (200, 200));
    // Encoded, as a careful administrator writes it.
    assert_eq!(ask("a%2Fnew%2Bsecret%3D0123456789").await, 200);
    std::fs::write(&path, next).unwrap();
    assert_eq!((ask(SECRET).await, ask(next).await), (401, 200));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(ask(next).await, 503, "DPS comes again until it is there");
    std::fs::write(&path, next).unwrap();
    assert_eq!(ask(next).await, 200);
    stage.bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_secret_the_hook_is_off() {
    let bench = Bench::start_on(Settings::default(), Injected::default()).await;
    let answer = allocate(bench.node.addresses().http, "pump-1", &[HUB_1]).await;
    assert_eq!((answer.status, answer.reason()), (404, "OFF"), "{answer:?}");
    assert!(answer.text.contains("hook_secret"), "{answer:?}");
    bench.stop().await;
}
