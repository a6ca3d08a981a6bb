//! A hub's service API.

use berth_emulator::{Behaviour, Command};
use serde_json::{Value, json};

use crate::support::*;

fn device(id: &str) -> Ask {
    ask().body(json!({ "deviceId": id }))
}

#[tokio::test]
async fn an_identity_is_created_replaced_and_deleted_by_its_etag() {
    let stage = Stage::new().await;
    let path = "/devices/dev%231%3Fx%25y";
    let id = "dev#1?x%y";
    let made = stage.call("PUT", HUB_A, path, device(id)).await.expect(200).body;
    assert_eq!(made["deviceId"], id);
    let etag = made["etag"].as_str().unwrap().to_owned();
    stage.call("PUT", HUB_A, path, device(id)).await.expect(409);
    stage.call("PUT", HUB_A, "/devices/none", device("none").with("if-match", "*")).await.expect(404);
    let stale = stage.call("PUT", HUB_A, path, device(id).with("if-match", "\"x\"")).await.expect(412);
    assert_eq!(stale.header("iothub-errorcode"), Some("PreconditionFailed"));
    let keys = made["authentication"]["symmetricKey"].clone();
    let replaced =
        stage.call("PUT", HUB_A, path, device(id).with("if-match", format!("\"{etag}\""))).await.expect(200);
    assert_ne!(replaced.body["authentication"]["symmetricKey"], keys, "left out keys are minted anew");
    assert_eq!(replaced.body["generationId"], made["generationId"]);
    let twin = stage.call("GET", HUB_A, "/twins/dev%231%3Fx%25y", ask()).await.expect(200).body;
    assert_eq!(twin["deviceEtag"], replaced.body["etag"]);
    assert_eq!(twin["etag"], "AAAAAAAAAAE=");
    let missing = stage.call("DELETE", HUB_A, path, ask()).await.expect(412);
    assert!(missing.text.contains("Etag missing"));
    stage.call("DELETE", HUB_A, path, ask().with("if-match", "\"*\"")).await.expect(204);
    stage.call("DELETE", HUB_A, path, ask().with("if-match", "*")).await.expect(404);
    stage.call("PUT", HUB_A, "/devices/a%2Fb", device("a/b")).await.expect(400);
    stage.call("PUT", HUB_A, "/devices/a", device("b")).await.expect(400);
    let one = json!({ "deviceId": "a", "authentication": { "symmetricKey": { "primaryKey": KEY } } });
    stage.call("PUT", HUB_A, "/devices/a", ask().body(one)).await.expect(400);
}

#[tokio::test]
async fn rights_are_told_apart() {
    let stage = Stage::new().await;
    let token = sas(HUB_A, &key(), Some("registryReadWrite"), START.unix_seconds() + 9_999);
    let with = || ask().with("authorization", token.clone());
    stage.send("PUT", HUB_A, "/devices/d?api-version=2021-04-12", with().body(json!({}))).await.expect(200);
    let refused = stage.send("GET", HUB_A, "/twins/d?api-version=2021-04-12", with()).await.expect(401);
    assert_eq!(refused.header("iothub-errorcode"), Some("IotHubUnauthorizedAccess"));
    let missing = stage.send("GET", HUB_A, "/devices/d?api-version=2021-04-12", ask()).await.expect(401);
    assert_eq!(missing.header("iothub-errorcode"), Some("IotHubUnauthorized"));
    let version = stage.send("GET", HUB_A, "/devices/d", with()).await.expect(400);
    assert_eq!(version.header("iothub-errorcode"), Some("InvalidProtocolVersion"));
    // A hub's token opens no other hub.
    stage.send("GET", HUB_B, "/devices/d?api-version=2021-04-12", with()).await.expect(401);
}

#[tokio::test]
async fn bulk_takes_every_spelling_and_does_each_item_by_itself() {
    let stage = Stage::new().await;
    let bulk = |items: Value| stage.call("POST", HUB_A, "/devices/", ask().body(items));
    let good = bulk(json!([
        { "id": "a", "importMode": "create", "tags": { "ring": 1 } },
        { "id": "b", "importMode": "Create", "status": "disabled" },
    ]));
    assert_eq!(good.await.expect(200).body, json!({ "isSuccessful": true, "errors": [], "warnings": [] }));
    let etag = stage.call("GET", HUB_A, "/devices/a", ask()).await.body["etag"].clone();
    bulk(json!([{ "id": "a", "importMode": "UpdateIfMatchETag", "etag": etag, "status": "disabled" }]))
        .await
        .expect(200);
    let mixed = bulk(json!([
        { "id": "a", "importMode": "deleteIfMatchETag", "eTag": etag },
        { "id": "b", "importMode": "Delete" },
        { "id": "c", "importMode": "sideways" },
    ]));
    let mixed = mixed.await.expect(400).body;
    let codes: Vec<_> = mixed["errors"].as_array().unwrap().iter().map(|error| &error["errorCode"]).collect();
    assert_eq!(codes, ["PreconditionFailed", "ArgumentInvalid"]);
    stage.call("GET", HUB_A, "/devices/b", ask()).await.expect(404);
    let twice = bulk(json!([{ "id": "t", "importMode": "create" }, { "id": "t", "importMode": "delete" }]));
    let twice = twice.await.expect(400);
    assert_eq!(twice.header("iothub-errorcode"), Some("DeviceDefinedMultipleTimes"));
    stage.call("GET", HUB_A, "/devices/t", ask()).await.expect(404);
    let twin =
        bulk(json!([{ "id": "a", "importMode": "updateTwin", "properties": { "desired": { "x": 1 } } }]));
    twin.await.expect(200);
    let twin = stage.call("GET", HUB_A, "/twins/a", ask()).await.body;
    assert_eq!((&twin["tags"]["ring"], &twin["properties"]["desired"]["x"]), (&json!(1), &json!(1)));
    let many: Vec<_> = (0..101).map(|no| json!({ "id": format!("x{no}") })).collect();
    bulk(json!(many)).await.expect(413);
}

#[tokio::test]
async fn queries_lag_behind_the_registry() {
    let stage = Stage::new().await;
    stage.command(Command::QueryLag { hub: HUB_A.into(), ms: 1_400 }).await;
    let ids = || async {
        let body = ask().body(json!({ "query": "SELECT deviceId FROM devices" }));
        let page = stage.call("POST", HUB_A, "/devices/query", body).await.expect(200);
        assert_eq!(page.header("x-ms-item-type"), Some("Raw"));
        page.body.as_array().unwrap().iter().map(|row| row["deviceId"].clone()).collect::<Vec<_>>()
    };
    stage.call("PUT", HUB_A, "/devices/a", device("a")).await.expect(200);
    stage.call("GET", HUB_A, "/devices/a", ask()).await.expect(200);
    assert!(ids().await.is_empty());
    stage.advance_ms(1_400);
    assert_eq!(ids().await, ["a"]);
    stage.call("DELETE", HUB_A, "/devices/a", ask().with("if-match", "*")).await.expect(204);
    stage.call("GET", HUB_A, "/devices/a", ask()).await.expect(404);
    assert_eq!(ids().await, ["a"]);
    stage.advance_ms(1_400);
    assert!(ids().await.is_empty());
}

#[tokio::test]
async fn devices_answer_methods_as_they_were_told_to() {
    let stage = Stage::new().await;
    stage.call("PUT", HUB_A, "/devices/d", device("d")).await.expect(200);
    let body = |more: Value| {
        let mut body = json!({ "methodName": "m", "payload": [1], "responseTimeoutInSeconds": 5 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ask().body(body)
    };
    let invoke = |more: Value| stage.call("POST", HUB_A, "/twins/d/methods", body(more));
    let offline = invoke(json!({})).await.expect(404);
    assert_eq!(offline.header("iothub-errorcode"), Some("DeviceNotOnline"));
    stage.command(Command::Connect { hub: HUB_A.into(), device: "d".into() }).await;
    assert_eq!(invoke(json!({})).await.expect(200).body, json!({ "status": 200, "payload": [1] }));
    let module = || stage.call("POST", HUB_A, "/twins/d/modules/m/methods", body(json!({})));
    assert_eq!(module().await.expect(404).header("iothub-errorcode"), Some("ModuleNotFound"));
    let made = json!({ "deviceId": "d", "moduleId": "m" });
    stage.call("PUT", HUB_A, "/devices/d/modules/m", ask().body(made)).await.expect(200);
    module().await.expect(200);
    let behave = |behaviour| stage.command(Command::Behave { device: "d".into(), behaviour });
    behave(Behaviour::Fails { status: 500 }).await;
    assert_eq!(invoke(json!({})).await.expect(200).body["status"], 500);
    behave(Behaviour::Offline).await;
    invoke(json!({})).await.expect(404);
    behave(Behaviour::Slow { ms: 3_000 }).await;
    let slow = invoke(json!({}));
    let (slow, ()) = tokio::join!(slow, async {
        // The clock stands until the request is held, and then the device has taken its time.
        while stage
            .command(Command::Calls)
            .await
            .get("hub.method 200")
            .is_none_or(|count| count.as_u64() < Some(4))
        {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            stage.advance_ms(500);
        }
    });
    slow.expect(200);
    behave(Behaviour::Silent).await;
    let (late, ()) = tokio::join!(invoke(json!({})), async {
        while stage.command(Command::Calls).await.get("hub.method 504").is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            stage.advance_ms(500);
        }
    });
    assert_eq!(late.expect(504).header("iothub-errorcode"), Some("GatewayTimeout"));
    for bad in [
        json!({ "methodName": "" }),
        json!({ "responseTimeoutInSeconds": 4 }),
        json!({ "responseTimeoutInSeconds": 301 }),
        json!({ "connectTimeoutInSeconds": 6 }),
    ] {
        let refused = invoke(bad.clone()).await.expect(400);
        assert_eq!(refused.header("iothub-errorcode"), Some("ArgumentInvalid"), "{bad}");
    }
    let disabled = json!({ "deviceId": "d", "status": "disabled" });
    stage.call("PUT", HUB_A, "/devices/d", ask().with("if-match", "*").body(disabled)).await.expect(200);
    let gone = invoke(json!({})).await.expect(404);
    assert_eq!(gone.header("iothub-errorcode"), Some("DeviceNotFound"), "disabled counts as not found");
}

#[tokio::test]
async fn bursts_are_held_back_and_then_refused() {
    let stage = Stage::new().await;
    let mut sent = 0;
    let refused = loop {
        let get = stage.call("GET", HUB_A, "/devices/none", ask());
        let held = async {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        };
        // Where the clock stands, a request that is held back does not return.
        tokio::select! {
            reply = get => match reply.status {
                404 => sent += 1,
                429 => break Some(reply),
                other => panic!("{other}"),
            },
            () = held => {
                if sent == 100 {
                    break None;
                }
                panic!("held back after {sent}");
            }
        }
    };
    assert!(refused.is_none(), "the first after a minute's worth is held back, not refused");
    assert_eq!(sent, 100);
    stage.command(Command::Throttle { enabled: true, factor: 0.01 }).await;
    let refused = stage.call("GET", HUB_A, "/devices/none", ask()).await.expect(429);
    assert_eq!(refused.header("iothub-errorcode"), Some("ThrottlingBacklogTimeout"));
    assert_eq!((refused.header("retry-after"), refused.header("connection")), (None, Some("close")));
}
