//! The same through the client of Azure: a service that speaks DPS's and IoT Hub's bodies, on a plain connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use berth_proto::v1::{DriftClass, HubObservation, NegativeKind, ReportFinding};
use berth_server::config::{AzureSettings, Settings};
use berth_server::run::Injected;
use parking_lot::Mutex;

use super::stage::{SCOPE, hub_of, negative_of, topology};
use crate::{Bench, HUB_1, HUB_2, apply, assignment};
use berth_proto::v1;

const DPS: &str = "dps.example";
/// Bytes 0 to 31.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// What is answered, by host and path.
type Answers = Arc<Mutex<BTreeMap<String, (u16, &'static str, String)>>>;

async fn azure(answers: Answers) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = move |request: Request| {
        let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        let is_signed = request.headers().get("authorization").is_some_and(|value| {
            value.to_str().is_ok_and(|text| text.starts_with("SharedAccessSignature sr="))
        });
        let request_path = request.uri().path().to_owned();
        let found = answers.lock().get(&format!("{host}{request_path}")).cloned();
        async move {
            let (status, retry_after, body) = match found {
                _ if !is_signed => (401, "", String::new()),
                Some(found) => found,
                None => {
                    let code = if request_path.contains("/enrollments/") { 404_201 } else { 404_202 };
                    (404, "", format!(r#"{{"errorCode":{code},"trackingId":"t","message":"none"}}"#))
                }
            };
            let mut headers = HeaderMap::new();
            headers.insert("content-type", "application/json; charset=utf-8".parse().unwrap());
            if !retry_after.is_empty() {
                headers.insert("retry-after", retry_after.parse().unwrap());
            }
            (StatusCode::from_u16(status).unwrap(), headers, body).into_response()
        }
    };
    let service = Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
    address
}

fn registration(id: &str, hub: &str) -> String {
    format!(
        r#"{{"registrationId":"{id}","createdDateTimeUtc":"2026-01-01T00:00:00Z","assignedHub":"{hub}","deviceId":"{id}","status":"assigned","substatus":"initialAssignment","lastUpdatedDateTimeUtc":"2026-01-01T00:00:01.1234567Z","etag":"\"1\""}}"#
    )
}

fn identity(id: &str, status: &str) -> String {
    format!(r#"{{"deviceId":"{id}","generationId":"1","etag":"MQ==","status":"{status}"}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_verified_by_dps_and_the_hub() {
    let answers = Answers::default();
    let address = azure(Arc::clone(&answers)).await;
    let dir = tempfile::tempdir().unwrap();
    let credential = |host: &str| {
        let path = dir.path().join(host);
        let text = format!("HostName={host};SharedAccessKeyName=berth;SharedAccessKey={KEY}");
        std::fs::write(&path, text).unwrap();
        format!("file:{}", path.display())
    };
    let settings = Settings {
        azure: AzureSettings {
            plain_http: Some(true),
            addresses: Some([DPS, HUB_1].map(|host| (host.to_owned(), address.clone())).into()),
            hub_credentials: Some([(HUB_1.to_owned(), credential(HUB_1))].into()),
            ..AzureSettings::default()
        },
        ..Settings::default()
    };
    let mut bench = Bench::start_on(settings, Injected::default()).await;
    let mut desired = topology();
    desired.scopes[0].credential_ref = Some(credential(DPS));
    bench.topology.apply(apply(desired)).await.unwrap();

    let put = |path: String, status: u16, retry_after: &'static str, body: String| {
        answers.lock().insert(path, (status, retry_after, body));
    };
    let of_dps = |id: &str| format!("{DPS}/registrations/{id}");
    let of_hub = |id: &str| format!("{HUB_1}/devices/{id}");
    put(of_dps("fine"), 200, "", registration("fine", HUB_1));
    put(of_hub("fine"), 200, "", identity("fine", "enabled"));
    put(of_dps("barred"), 200, "", registration("barred", HUB_1));
    put(of_hub("barred"), 200, "", identity("barred", "disabled"));
    put(of_dps("gone"), 200, "", registration("gone", HUB_1));
    let gone = r#"{"Message":"ErrorCode:DeviceNotFound;gone","ExceptionMessage":"Tracking ID:t"}"#;
    put(of_hub("gone"), 404, "", gone.to_owned());
    put(of_dps("pending"), 200, "", registration("pending", HUB_2));
    put(of_dps("half"), 200, "", r#"{"registrationId":"half","status":"assigned"}"#.to_owned());
    put(of_dps("other"), 200, "", registration("somebody-else", HUB_1));
    put(of_dps("page"), 200, "", "<html>".to_owned());
    put(
        of_dps("slow"),
        429,
        "17",
        r#"{"errorCode":429001,"trackingId":"t","message":"throttled"}"#.to_owned(),
    );

    for (device, finding, drift) in [
        ("fine", ReportFinding::Confirmed, DriftClass::Unspecified),
        ("barred", ReportFinding::Changed, DriftClass::Unspecified),
        ("gone", ReportFinding::Negative, DriftClass::Missing),
        ("pending", ReportFinding::Drift, DriftClass::Pending),
        ("half", ReportFinding::NotVerified, DriftClass::Unspecified),
        ("other", ReportFinding::NotVerified, DriftClass::Unspecified),
        ("page", ReportFinding::NotVerified, DriftClass::Unspecified),
        ("nobody", ReportFinding::Negative, DriftClass::Orphan),
        ("slow", ReportFinding::NotVerified, DriftClass::Unspecified),
    ] {
        let row = v1::DeviceAssignment { scope: SCOPE.to_owned(), ..assignment(device, HUB_1) };
        let epoch = bench.try_assign(row).await.unwrap().epoch;
        let request = v1::ReportRequest {
            device_id: device.to_owned(),
            hub: HUB_1.to_owned(),
            epoch,
            observation: HubObservation::NotFound as i32,
        };
        // The budget of a new leader may be spent for a moment.
        let answer = loop {
            let answer = bench.lookups.report(request.clone()).await.unwrap().into_inner();
            if !answer.problem.contains("budget") {
                break answer;
            }
        };
        assert_eq!((answer.finding(), answer.drift()), (finding, drift), "{device}: {answer:?}");
        assert!(!answer.problem.contains(KEY), "{}", answer.problem);
        match device {
            "barred" => assert_eq!(negative_of(&answer).kind(), NegativeKind::Disabled),
            "gone" => assert_eq!(negative_of(&answer).kind(), NegativeKind::Missing),
            "nobody" => assert_eq!(negative_of(&answer).kind(), NegativeKind::Unknown),
            "slow" => assert_eq!(answer.retry_after.unwrap().seconds, 17),
            _ => assert_eq!(hub_of(&answer), HUB_1),
        }
    }
    bench.stop().await;
}
