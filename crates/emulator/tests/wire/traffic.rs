//! Traffic Manager over ARM.

use serde_json::json;

use crate::support::*;

const PROFILE: &str =
    "/subscriptions/S-1/resourcegroups/G-1/providers/Microsoft.Network/trafficmanagerprofiles/Fleet";

#[tokio::test]
async fn endpoints_are_disabled_reweighted_and_replaced() {
    let stage = Stage::new().await;
    let endpoint = |name: &str| format!("{PROFILE}/ExternalEndpoints/{name}");
    let off = ask().body(json!({ "properties": { "endpointStatus": "Disabled" } }));
    let told = stage.call("PATCH", ARM, &endpoint("a"), off).await.expect(200).body;
    assert_eq!(told["properties"]["endpointMonitorStatus"], "Disabled");
    let weigh = ask().body(json!({ "properties": { "weight": 1_000 } }));
    stage.call("PATCH", ARM, &endpoint("b"), weigh).await.expect(200);
    let none = ask().body(json!({ "properties": { "weight": 0 } }));
    stage.call("PATCH", ARM, &endpoint("b"), none).await.expect(400);
    let new = || ask().body(json!({ "properties": { "target": "c.example.com" } }));
    stage.call("PUT", ARM, &endpoint("c"), new()).await.expect(201);
    stage.call("PUT", ARM, &endpoint("c"), new()).await.expect(200);
    let profile = stage.call("GET", ARM, PROFILE, ask()).await.expect(200).body;
    assert_eq!(profile["properties"]["dnsConfig"]["fqdn"], "fleet.trafficmanager.net");
    let weights: Vec<_> = profile["properties"]["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["properties"]["weight"].clone())
        .collect();
    assert_eq!(weights, [json!(1), json!(1_000), json!(1)]);
    let ttl = ask().body(json!({ "properties": { "dnsConfig": { "ttl": 30 } } }));
    let told = stage.call("PATCH", ARM, PROFILE, ttl).await.expect(200).body;
    assert_eq!(told["properties"]["dnsConfig"]["ttl"], 30);
    assert_eq!(told["properties"]["endpoints"].as_array().unwrap().len(), 3);
    stage.call("DELETE", ARM, &endpoint("c"), ask()).await.expect(200);
    stage.call("DELETE", ARM, &endpoint("c"), ask()).await.expect(204);
    stage.call("GET", ARM, &PROFILE.replace("Fleet", "other"), ask()).await.expect(404);
}

#[tokio::test]
async fn arm_asks_for_a_bearer_and_a_version() {
    let stage = Stage::new().await;
    let target = format!("{PROFILE}?api-version=2022-04-01");
    stage.send("GET", ARM, &target, ask()).await.expect(401);
    let with = |token: &str| ask().with("authorization", format!("Bearer {token}"));
    stage.send("GET", ARM, &target, with("nobody")).await.expect(401);
    stage.send("GET", ARM, &target, with("reader-token")).await.expect(200);
    let patch = with("reader-token").body(json!({ "properties": {} }));
    stage.send("PATCH", ARM, &target, patch).await.expect(403);
    let told = stage.send("GET", ARM, PROFILE, with("owner-token")).await.expect(400).body;
    assert_eq!(told["error"]["code"], "MissingApiVersionParameter");
}
