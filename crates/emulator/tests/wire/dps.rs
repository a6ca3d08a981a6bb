//! The DPS service API.

use serde_json::json;

use crate::support::*;

fn body(id: &str) -> serde_json::Value {
    json!({ "registrationId": id, "attestation": { "type": "symmetricKey" } })
}

#[tokio::test]
async fn an_enrollment_is_created_read_replaced_and_deleted() {
    let stage = Stage::new().await;
    let path = "/enrollments/dev-1";
    let created = stage.call("PUT", DPS, path, ask().body(body("dev-1"))).await.expect(200).body;
    assert_eq!(created["createdDateTimeUtc"], created["lastUpdatedDateTimeUtc"]);
    assert_eq!(created["attestation"]["symmetricKey"]["primaryKey"].as_str().unwrap().len(), 88);
    assert!(created.get("registrationState").is_none());

    let read = stage.call("GET", DPS, path, ask()).await.expect(200).body;
    assert_eq!(read["attestation"], json!({ "type": "symmetricKey" }));
    assert_eq!(read["registrationState"], json!({ "registrationId": "dev-1", "status": "unassigned" }));
    assert_eq!(read["etag"], created["etag"]);

    let keys =
        stage.call("POST", DPS, "/enrollmentS/DEV-1/attestationMechanism", ask()).await.expect(200).body;
    assert_eq!(keys, created["attestation"]);

    let clash = stage.call("PUT", DPS, path, ask().body(body("dev-1"))).await.expect(409).body;
    assert_eq!(clash["errorCode"], 409_201);

    stage.advance_ms(1_000);
    let etag = created["etag"].as_str().unwrap();
    for spelling in [etag.to_owned(), "*".to_owned()] {
        let asked = ask().with("if-match", spelling).body(body("dev-1"));
        let replaced = stage.call("PUT", DPS, path, asked).await.expect(200).body;
        assert_eq!(replaced["createdDateTimeUtc"], created["createdDateTimeUtc"]);
        assert_ne!(replaced["lastUpdatedDateTimeUtc"], created["lastUpdatedDateTimeUtc"]);
        assert_ne!(replaced["etag"], created["etag"]);
        assert_ne!(
            replaced["attestation"], created["attestation"],
            "keys that were not sent are minted anew"
        );
    }
    let stale = ask().with("if-match", format!("\"{etag}\"")).body(body("dev-1"));
    assert_eq!(stage.call("PUT", DPS, path, stale).await.expect(412).body["errorCode"], 412_001);
    stage.call("DELETE", DPS, path, ask().with("if-match", etag)).await.expect(412);
    assert_eq!(stage.call("DELETE", DPS, path, ask()).await.expect(204).text, "");
    assert_eq!(stage.call("GET", DPS, path, ask()).await.expect(404).body["errorCode"], 404_201);
    stage.call("PUT", DPS, path, ask().with("if-match", "*").body(body("dev-1"))).await.expect(404);
}

#[tokio::test]
async fn unknown_fields_are_stored_and_null_ones_are_not() {
    let stage = Stage::new().await;
    let mut sent = body("dev-1");
    sent["credentialPolicyName"] = json!("later");
    sent["capabilities"] = json!({ "iotEdge": true, "more": 1 });
    sent["deviceId"] = json!(null);
    sent["provisioningStatus"] = json!(null);
    sent["optionalDeviceInformation"] = json!({ "floor": 3 });
    let put = stage.call("PUT", DPS, "/enrollments/dev-1", ask().body(sent)).await.expect(200).body;
    assert_eq!(put["provisioningStatus"], json!(null));
    assert!(put.as_object().unwrap().contains_key("provisioningStatus"));
    let read = stage.call("GET", DPS, "/enrollments/dev-1", ask()).await.expect(200).body;
    assert_eq!(read["credentialPolicyName"], "later");
    assert_eq!(read["capabilities"], json!({ "iotEdge": true, "more": 1 }));
    assert_eq!(read["optionalDeviceInformation"], json!({ "floor": 3 }));
    assert!(read.get("deviceId").is_none());
}

#[tokio::test]
async fn an_initial_twin_that_no_hub_takes_is_refused() {
    let stage = Stage::new().await;
    let mut sent = body("dev-1");
    sent["initialTwin"] = json!({ "tags": { "a.b": 1 } });
    let refused = stage.call("PUT", DPS, "/enrollments/dev-1", ask().body(sent)).await.expect(400);
    assert_eq!(refused.body["errorCode"], 400_004);
    stage.call("GET", DPS, "/enrollments/dev-1", ask()).await.expect(404);
}

#[tokio::test]
async fn a_body_that_names_nobody_is_refused() {
    let stage = Stage::new().await;
    for path in ["/enrollments/dev-1", "/enrollmentGroups/dev-1"] {
        let nobody = json!({ "attestation": { "type": "symmetricKey" } });
        let refused = stage.call("PUT", DPS, path, ask().body(nobody)).await.expect(400);
        assert_eq!(refused.body["errorCode"], 400_004);
    }
}

#[tokio::test]
async fn a_body_that_is_told_to_be_no_json_is_refused() {
    let stage = Stage::new().await;
    let as_text = |body| ask().with("content-type", "text/plain").body(body);
    stage.call("PUT", DPS, "/enrollments/dev-1", as_text(body("dev-1"))).await.expect(415);
    stage.call("POST", DPS, "/enrollments/query", as_text(json!({ "query": "SELECT *" }))).await.expect(415);
    stage.call("GET", DPS, "/enrollments/dev-1", as_text(json!({}))).await.expect(404);
    stage.enroll("dev-1", json!({})).await;
    let token = sas(&format!("{SCOPE}/registrations/dev-1"), &key(), None, START.unix_seconds() + 99);
    let target = format!("/{SCOPE}/registrations/dev-1/register?api-version=2021-06-01");
    let asked = as_text(json!({ "registrationId": "dev-1" })).with("authorization", token);
    stage.send("PUT", GLOBAL, &target, asked).await.expect(415);
}

#[tokio::test]
async fn a_webhook_has_an_api_version_of_its_own() {
    let stage = Stage::new().await;
    for (version, status) in [("", 400), ("banana", 400), ("2018-04-01", 400), ("2018-09-01-preview", 200)] {
        let mut sent = body("dev-1");
        sent["customAllocationDefinition"] =
            json!({ "webhookUrl": "https://a.example", "apiVersion": version });
        stage.call("PUT", DPS, "/enrollments/dev-1", ask().body(sent)).await.expect(status);
    }
}

#[tokio::test]
async fn keys_of_another_attestation_are_refused() {
    let stage = Stage::new().await;
    let keys = json!({ "primaryKey": KEY, "secondaryKey": KEY });
    for attestation in [
        json!({ "type": "none", "symmetricKey": keys }),
        json!({ "type": "x509", "x509": { "clientCertificates": {} }, "symmetrickey": keys }),
        json!({ "type": "symmetricKey", "symmetricKey": keys, "tpm": { "endorsementKey": "e" } }),
    ] {
        let sent = json!({ "registrationId": "dev-1", "attestation": attestation });
        let refused = stage.call("PUT", DPS, "/enrollments/dev-1", ask().body(sent)).await.expect(400);
        assert!(refused.body["errorCode"] == 400_004 && !refused.text.contains(KEY), "{}", refused.text);
    }
    let sent = json!({ "registrationId": "dev-1", "attestation": { "type": "symmetricKey", "tpm": null } });
    stage.call("PUT", DPS, "/enrollments/dev-1", ask().body(sent)).await.expect(200);
}

#[tokio::test]
async fn a_query_pages_without_an_empty_end() {
    let stage = Stage::new().await;
    for no in 0..25 {
        let path = format!("/enrollments/dev-{no}");
        stage.call("PUT", DPS, &path, ask().body(body(&format!("dev-{no}")))).await.expect(200);
    }
    let mut token: Option<String> = None;
    let mut seen = Vec::new();
    let mut sizes = Vec::new();
    loop {
        let mut asked = ask().with("x-ms-max-item-count", "10").body(json!({ "query": "SELECT *" }));
        if let Some(token) = &token {
            asked = asked.with("x-ms-continuation", token);
        }
        let page = stage.call("POST", DPS, "/enrollments/query", asked).await.expect(200);
        assert_eq!(page.header("x-ms-item-type"), Some("Enrollment"));
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        let rows = page.body.as_array().unwrap().clone();
        sizes.push(rows.len());
        for row in rows {
            assert!(row.get("registrationState").is_none());
            assert_eq!(row["attestation"], json!({ "type": "symmetricKey" }));
            seen.push(row["registrationId"].as_str().unwrap().to_owned());
        }
        token = page.header("x-ms-continuation").map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [10, 10, 5]);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 25);
    let bad = ask().body(json!({ "query": "DROP" }));
    stage.call("POST", DPS, "/enrollments/query", bad).await.expect(400);
    stage.call("POST", DPS, "/enrollments/query", ask().with("x-ms-continuation", "x")).await.expect(400);
}

#[tokio::test]
async fn bulk_items_succeed_or_fail_one_by_one() {
    let stage = Stage::new().await;
    let bulk = |mode: &str, items: Vec<serde_json::Value>| {
        let stage = &stage;
        let body = json!({ "mode": mode, "enrollments": items });
        async move { stage.call("POST", DPS, "/enrollments/", ask().body(body)).await }
    };
    let good = bulk("create", vec![body("a"), body("b")]).await.expect(200).body;
    assert_eq!(good, json!({ "errors": [], "isSuccessful": true }));
    let clash = bulk("create", vec![body("b"), body("c")]).await.expect(200).body;
    assert_eq!(
        clash,
        json!({ "isSuccessful": false, "errors": [
            { "registrationId": "b", "errorCode": 409_201, "errorStatus": "Enrollment already exists." },
        ] })
    );
    let without = bulk("update", vec![body("a")]).await.expect(200).body;
    assert_eq!(without["errors"][0]["errorCode"], 409_201);
    let mut whole = stage.call("GET", DPS, "/enrollments/a", ask()).await.body;
    whole["provisioningStatus"] = json!("disabled");
    assert_eq!(bulk("updateIfMatchETag", vec![whole.clone()]).await.expect(200).body["isSuccessful"], true);
    assert_eq!(bulk("update", vec![whole]).await.expect(200).body["errors"][0]["errorCode"], 412_001);
    assert_eq!(
        bulk("delete", vec![body("a"), body("b"), body("c")]).await.expect(200).body["isSuccessful"],
        true
    );
    let many = (0..11).map(|no| body(&format!("x-{no}"))).collect();
    assert_eq!(bulk("create", many).await.expect(400).body["errorCode"], 400_205);
    assert_eq!(bulk("create", vec![body("x"), body("X")]).await.expect(400).body["errorCode"], 400_206);
    stage.call("GET", DPS, "/enrollments/x", ask()).await.expect(404);
}

#[tokio::test]
async fn groups_have_the_same_operations() {
    let stage = Stage::new().await;
    let group = json!({ "enrollmentGroupId": "g-1", "attestation": { "type": "symmetricKey" } });
    let path = "/enrollmentGroups/g-1";
    let put = stage.call("PUT", DPS, path, ask().body(group.clone())).await.expect(200).body;
    assert!(put["attestation"]["symmetricKey"]["secondaryKey"].is_string());
    assert_eq!(
        stage.call("PUT", DPS, path, ask().body(group.clone())).await.expect(409).body["errorCode"],
        409_202
    );
    stage.call("POST", DPS, "/enrollmentgroups/g-1/attestationmechanism", ask()).await.expect(200);
    let rows = stage.call("POST", DPS, "/enrollmentGroups/query", ask()).await.expect(200);
    assert_eq!(rows.header("x-ms-item-type"), Some("EnrollmentGroup"));
    let empty = stage.call("POST", DPS, "/registrations/g-1/query", ask()).await.expect(200);
    assert_eq!((empty.header("x-ms-item-type"), empty.text.as_str()), (Some("DeviceRegistration"), "[]"));
    let bulk = json!({ "mode": "create", "enrollmentGroups": [group] });
    let told = stage.call("POST", DPS, "/enrollmentGroups", ask().body(bulk)).await.expect(200).body;
    assert_eq!(told["errors"][0]["enrollmentGroupId"], "g-1");
    stage.call("DELETE", DPS, path, ask()).await.expect(204);
    assert_eq!(stage.call("GET", DPS, path, ask()).await.expect(404).body["errorCode"], 404_204);
}

#[tokio::test]
async fn a_bad_body_is_refused_and_changes_nothing() {
    let stage = Stage::new().await;
    let path = "/enrollments/dev-1";
    let mut bad = vec![
        json!([]),
        json!({ "registrationId": "dev-1" }),
        json!({ "registrationId": "dev-2", "attestation": { "type": "symmetricKey" } }),
        json!({ "registrationId": "dev-1", "attestation": { "type": "magic" } }),
        json!({ "registrationId": "dev-1", "attestation": { "type": "symmetricKey", "symmetricKey": { "primaryKey": "x" } } }),
    ];
    for (field, value) in [
        ("iotHubs", json!(["unknown.azure-devices.net"])),
        ("iotHubs", json!("hub-a.azure-devices.net")),
        ("allocationPolicy", json!("custom")),
        ("allocationPolicy", json!("random")),
        ("provisioningStatus", json!("maybe")),
        ("deviceId", json!("a/b")),
        ("reprovisionPolicy", json!({ "updateHubAssignment": false, "migrateDeviceData": true })),
    ] {
        let mut sent = body("dev-1");
        sent[field] = value;
        bad.push(sent);
    }
    for sent in bad {
        let told = stage.call("PUT", DPS, path, ask().body(sent.clone())).await.expect(400).body;
        assert_eq!(told["errorCode"], 400_004, "{sent}");
    }
    stage.call("GET", DPS, path, ask()).await.expect(404);
    stage.call("PUT", DPS, "/enrollments/a%20b", ask().body(body("a b"))).await.expect(400);
    let large = json!({ "registrationId": "dev-1", "x": "x".repeat(100_000) });
    stage.call("PUT", DPS, path, ask().body(large)).await.expect(413);
}

#[tokio::test]
async fn access_is_checked_by_signature_time_resource_and_right() {
    let stage = Stage::new().await;
    let target = "/enrollments/none?api-version=2021-10-01";
    let later = START.unix_seconds() + 3_600;
    let get =
        |authorization: String| stage.send("GET", DPS, target, ask().with("authorization", authorization));
    get(sas(DPS, &key(), Some("provisioningserviceowner"), later)).await.expect(404);
    get(sas("localhost:8443", &key(), Some("provisioningserviceowner"), later)).await.expect(401);
    get(sas(&format!("{DPS}/enrollments"), &key(), Some("provisioningserviceowner"), later))
        .await
        .expect(404);
    get(sas(&format!("{DPS}/other"), &key(), Some("provisioningserviceowner"), later)).await.expect(401);
    get(sas(&format!("https://{DPS}/"), &key(), Some("provisioningserviceowner"), later)).await.expect(401);
    let wrong = get(sas(DPS, &[9; 32], Some("provisioningserviceowner"), later)).await.expect(401);
    assert_eq!(wrong.body["errorCode"], 401_002);
    assert_eq!(wrong.header("x-ms-request-id"), wrong.body["trackingId"].as_str());
    get(sas(DPS, &key(), Some("provisioningserviceowner"), START.unix_seconds() - 100)).await.expect(401);
    get(sas(DPS, &key(), Some("nobody"), later)).await.expect(401);
    get(sas(DPS, &key(), None, later)).await.expect(401);
    get("Bearer owner-token".into()).await.expect(404);
    get("Bearer other".into()).await.expect(401);
    stage.send("GET", DPS, target, ask()).await.expect(401);
    get(sas(DPS, &key(), Some("reader"), later)).await.expect(404);
    for authorization in [sas(DPS, &key(), Some("reader"), later), "Bearer reader-token".into()] {
        let asked = ask().with("authorization", authorization).body(body("none"));
        stage.send("PUT", DPS, target, asked).await.expect(403);
    }
    let reading = ask().with("authorization", sas(DPS, &key(), Some("reader"), later));
    stage.send("GET", DPS, "/registrations/none?api-version=2021-10-01", reading).await.expect(403);
}

#[tokio::test]
async fn versions_methods_and_hosts_are_checked() {
    let stage = Stage::new().await;
    let with = |host: &'static str| ask().with("authorization", owner(host));
    for version in ["2018-11-01", "2019-03-31", "2026-04-01"] {
        let target = format!("/enrollments/none?api-version={version}&more=1");
        stage.send("GET", DPS, &target, with(DPS)).await.expect(404);
    }
    for target in ["/enrollments/none", "/enrollments/none?api-version=banana"] {
        stage.send("GET", DPS, target, with(DPS)).await.expect(400);
    }
    stage.call("PUT", DPS, "/enrollments", ask()).await.expect(405);
    stage.call("GET", DPS, "/elsewhere", ask()).await.expect(404);
    stage.send("GET", "unknown.example.com", "/", ask()).await.expect(404);
    let ported = format!("{}:8443", DPS.to_uppercase());
    let answer =
        stage.send("GET", &ported, "/enrollments/none?api-version=2021-10-01", with(DPS)).await.expect(404);
    assert!(answer.header("strict-transport-security").is_some());
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(answer.header("date"), Some("Tue, 14 Nov 2023 22:13:20 GMT"));
    let local = sas("localhost:8443", &key(), Some("provisioningserviceowner"), START.unix_seconds() + 9);
    let asked = ask().with("authorization", local);
    stage.send("GET", "localhost:8443", "/enrollments/none?api-version=2021-10-01", asked).await.expect(404);
}

#[tokio::test]
async fn https_is_served_for_every_configured_host() {
    use hyper_util::rt::TokioIo;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName};
    let stage = Stage::new().await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(stage.running.ca_pem().as_bytes()).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    for host in [DPS, HUB_A, HUB_B, GLOBAL, "localhost", "127.0.0.1"] {
        let stream = tokio::net::TcpStream::connect(stage.running.https_address()).await.unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        exchange(TokioIo::new(stream), "GET", host, "/nothing", ask()).await;
    }
    let stream = tokio::net::TcpStream::connect(stage.running.https_address()).await.unwrap();
    let name = ServerName::try_from("other.example.com").unwrap();
    assert!(connector.connect(name, stream).await.is_err());
    stage.running.stop().await.unwrap();
}

#[tokio::test]
async fn connections_are_kept_and_bodies_come_in_every_form() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stage = Stage::new().await;
    let mut stream = tokio::net::TcpStream::connect(stage.running.http_address().unwrap()).await.unwrap();
    let token = owner(DPS);
    let body = body("dev-1").to_string();
    let (first, rest) = body.split_at(7);
    let head = |method: &str, target: &str| {
        format!(
            "{method} {target}?api-version=2021-10-01 HTTP/1.1\r\nhost: {DPS}\r\nauthorization: {token}\r\n"
        )
    };
    let chunked = format!(
        "{}content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{rest}\r\n0\r\n\r\n",
        head("PUT", "/enrollments/dev-1/"),
        first.len(),
        rest.len(),
    );
    // A body of a GET is read and ignored, and an empty POST has no body at all.
    let get = format!("{}content-length: 2\r\n\r\n{{}}", head("GET", "/ENROLLMENTS/dev-1"));
    let post =
        format!("{}content-length: 0\r\n\r\n", head("POST", "/enrollments/dev-1/attestationmechanism"));
    let last = format!("{}connection: close\r\n\r\n", head("DELETE", "/enrollments/dev-1"));
    stream.write_all([chunked, get, post, last].concat().as_bytes()).await.unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).await.unwrap();
    let statuses: Vec<&str> = told.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "200", "200", "204"], "{told}");
}
