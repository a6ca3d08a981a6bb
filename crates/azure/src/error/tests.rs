use http::HeaderMap;
use proptest::prelude::*;

use super::*;

fn refused(subject: Subject, status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> AzureError {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, value.parse().unwrap());
    }
    let place = Place { operation: "try", host: HostName::new("hub-a.azure-devices.net").unwrap() };
    let status = StatusCode::from_u16(status).unwrap();
    let now = Duration::from_secs(1_767_225_600);
    AzureError::told(place, subject, Refusal { status, headers: &map, body, now, attempts: 1 })
}

macro_rules! body {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/bodies/", $name))
    };
}

const TRACKING: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

#[test]
fn a_device_that_is_not_there_differs_from_one_that_is_not_online() {
    let plain = refused(
        Subject::Device,
        404,
        &[("iothub-errorcode", "DeviceNotFound")],
        body!("hub/error_404001.json"),
    );
    assert!(plain.is_missing(Missing::Device), "{plain:?}");
    assert_eq!(plain.code(), Some(404_001));
    let told = plain.told_by_azure().unwrap();
    assert_eq!(
        (told.message.as_str(), told.tracking_id.as_deref()),
        ("sensor-thl-001", Some("0f1e2d3c4b5a69788796a5b4c3d2e1f0-G:0"))
    );

    let nested = refused(Subject::Device, 404, &[], body!("hub/error_404001_nested.json"));
    assert!(nested.is_missing(Missing::Device), "{nested:?}");
    assert_eq!(nested.told_by_azure().unwrap().tracking_id.as_deref(), Some(TRACKING));

    for (headers, body) in [
        (&[("iothub-errorcode", "DeviceNotOnline")][..], &body!("hub/error_404103_nested.json")[..]),
        (&[], &body!("hub/error_404103_nested.json")[..]),
        (&[], &body!("hub/error_404103_older.json")[..]),
        (&[("iothub-errorcode", "DeviceNotOnline")], b"not json"),
    ] {
        let error = refused(Subject::Device, 404, headers, body);
        assert!(matches!(error, AzureError::NotOnline { .. }), "{error:?}");
        assert_eq!(error.code(), Some(404_103));
        assert!(!error.outcome_unknown());
    }
}

#[test]
fn every_envelope_is_understood() {
    let error =
        refused(Subject::Enrollment, 404, &[("x-ms-request-id", "8ad0463c")], body!("dps/error_404201.json"));
    assert!(error.is_missing(Missing::Enrollment));
    let told = error.told_by_azure().unwrap();
    assert_eq!(told.tracking_id.as_deref(), Some("8ad0463c-0000-4b7f-9c1e-2f6a5d4c3b2a"));
    assert_eq!(
        (told.request_id.as_deref(), told.message.as_str()),
        (Some("8ad0463c"), "Enrollment not found.")
    );

    let error = refused(Subject::Enrollment, 404, &[], body!("dps/error_404204.json"));
    assert!(error.is_missing(Missing::EnrollmentGroup));
    let error = refused(Subject::Enrollment, 409, &[], body!("dps/error_409201.json"));
    assert!(matches!(error, AzureError::Conflict { conflicting: Conflicting::Enrollment, .. }));
    assert!(!error.is_retryable());
    let error = refused(Subject::EnrollmentGroup, 409, &[], body!("device/error_409203.json"));
    assert!(matches!(error, AzureError::Conflict { conflicting: Conflicting::Registration, .. }));
    assert!(error.is_retryable());
    let error = refused(Subject::Enrollment, 401, &[], body!("dps/error_401002.json"));
    assert!(matches!(error, AzureError::Unauthorized { .. }));
    let error = refused(Subject::Enrollment, 429, &[("retry-after", "7")], body!("dps/error_429001.json"));
    assert!(matches!(error, AzureError::Throttled { .. }) && error.is_retryable());
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));

    let error = refused(Subject::Device, 409, &[], body!("hub/error_409301_bare.json"));
    assert!(matches!(error, AzureError::Conflict { conflicting: Conflicting::Module, .. }));
    let error = refused(Subject::Device, 409, &[], body!("hub/error_409001.json"));
    assert!(matches!(error, AzureError::Conflict { conflicting: Conflicting::Device, .. }));
    let error = refused(Subject::Device, 412, &[], body!("hub/error_412.json"));
    assert!(matches!(error, AzureError::PreconditionFailed { .. }));
    assert_eq!(error.code(), Some(412_001));
    let error = refused(Subject::Device, 401, &[], body!("hub/error_401.json"));
    assert_eq!(error.code(), Some(401_002));
    let error = refused(Subject::Other, 400, &[], body!("hub/error_400.json"));
    assert!(matches!(error, AzureError::Refused { .. }) && error.code() == Some(400_004));

    let error = refused(Subject::Profile, 404, &[], body!("arm/error_404.json"));
    assert!(error.is_missing(Missing::Profile));
    assert_eq!(error.told_by_azure().unwrap().name.as_deref(), Some("ResourceNotFound"));
    let error = refused(Subject::Profile, 403, &[], body!("arm/error_403.json"));
    assert!(matches!(error, AzureError::Forbidden { .. }));
}

#[test]
fn a_wait_is_heard_in_seconds_as_a_date_and_in_words() {
    let body = body!("hub/error_429.json");
    let words = refused(Subject::Device, 429, &[("iothub-errorcode", "ThrottlingBacklogTimeout")], body);
    assert_eq!((words.code(), words.retry_after()), (Some(429_003), Some(Duration::from_secs(10))));
    let date = refused(Subject::Device, 503, &[("retry-after", "Thu, 01 Jan 2026 00:00:30 GMT")], b"");
    assert_eq!(date.retry_after(), Some(Duration::from_secs(30)));
    let past = refused(Subject::Device, 503, &[("retry-after", "Thu, 01 Jan 1998 00:00:30 GMT")], b"");
    assert_eq!(past.retry_after(), Some(Duration::ZERO));
    for endless in ["3601", "18446744073709551615", "Fri, 01 Jan 2027 00:00:30 GMT"] {
        let error = refused(Subject::Device, 503, &[("retry-after", endless)], b"");
        assert_eq!(error.retry_after(), Some(RETRY_AFTER_TOLD_MAX), "{endless}");
    }
    for nonsense in ["soon", "-1", "1.5", ""] {
        assert_eq!(refused(Subject::Device, 503, &[("retry-after", nonsense)], b"").retry_after(), None);
    }
}

#[test]
fn the_headers_name_counts_before_the_bodys_number() {
    let body = br#"{"errorCode":404001,"message":"m"}"#;
    let error = refused(Subject::Device, 404, &[("iothub-errorcode", "DeviceNotOnline")], body);
    assert!(matches!(error, AzureError::NotOnline { .. }));
}

#[test]
fn a_number_that_contradicts_the_status_decides_nothing() {
    let body = br#"{"errorCode":404001,"message":"m"}"#;
    let error = refused(Subject::Device, 503, &[], body);
    assert!(matches!(error, AzureError::Unavailable { .. }) && error.outcome_unknown());
}

#[test]
fn a_challenge_does_not_put_its_key_into_the_error() {
    let error = refused(Subject::Registration, 401, &[], body!("device/error_401_challenge.json"));
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("AAEC"), "{shown}");
}

#[test]
fn what_is_missing_follows_from_what_was_asked_where_the_service_gives_no_number() {
    for (subject, missing) in [
        (Subject::Profile, Missing::Profile),
        (Subject::Endpoint, Missing::Endpoint),
        (Subject::Other, Missing::Other),
    ] {
        let body = br#"{"error":{"code":"ResourceNotFound","message":"m"}}"#;
        assert!(refused(subject, 404, &[], body).is_missing(missing));
    }
    for header in ["iothub-errorcode", "x-ms-error-code"] {
        let error = refused(Subject::Device, 404, &[(header, "SomethingNew")], b"");
        assert!(error.is_missing(Missing::Device), "{error:?}");
    }
    let body = br#"{"error":{"code":"ParentResourceNotFound","message":"m"}}"#;
    assert!(refused(Subject::Endpoint, 404, &[], body).is_missing(Missing::Profile));
    let body = br#"{"error":{"code":"ResourceGroupNotFound","message":"m"}}"#;
    assert!(refused(Subject::Endpoint, 404, &[], body).is_missing(Missing::ResourceGroup));
}

#[test]
fn a_page_of_something_in_between_never_says_that_a_thing_is_missing() {
    let subjects = [
        Subject::Device,
        Subject::Enrollment,
        Subject::EnrollmentGroup,
        Subject::Registration,
        Subject::Operation,
        Subject::Profile,
        Subject::Endpoint,
        Subject::Other,
    ];
    let pages: [&[u8]; 10] = [
        b"<html>404 Not Found</html>",
        b"",
        b"null",
        br#"{"message":"no Route matched with those values"}"#,
        br#"{"code":"not_found","message":"m"}"#,
        br#"{"statusCode":404,"message":"Resource not found"}"#,
        br#"{"code":404,"message":"m"}"#,
        br#"{"errorCode":500001,"message":"m"}"#,
        br#"{"Message":"ErrorCode:ServerError;m"}"#,
        br#"{"error":{"message":"m"}}"#,
    ];
    for subject in subjects {
        for page in pages {
            let error = refused(subject, 404, &[("server", "nginx")], page);
            assert!(matches!(error, AzureError::Nonsense { status: 404, .. }), "{page:?}: {error:?}");
            assert!(error.outcome_unknown() && !error.is_retryable());
        }
        let error = refused(subject, 409, &[], b"<html>");
        assert!(matches!(error, AzureError::Conflict { conflicting: Conflicting::Other, .. }), "{error:?}");
    }
    let error = refused(Subject::Device, 404, &[("iothub-errorcode", "ServerError")], b"");
    assert!(matches!(error, AzureError::Nonsense { .. }), "{error:?}");
}

#[test]
fn numbers_say_what_is_missing_whatever_was_asked_for() {
    for (code, missing) in [
        (404_001, Missing::Device),
        (404_002, Missing::Job),
        (404_010, Missing::Module),
        (404_201, Missing::Enrollment),
        (404_202, Missing::Registration),
        (404_203, Missing::Operation),
        (404_204, Missing::EnrollmentGroup),
        (404_205, Missing::Other),
        (404_206, Missing::Other),
        (404_207, Missing::Other),
        (404_208, Missing::Other),
        (404_209, Missing::Other),
        (404_210, Missing::LinkedHub),
        (404_211, Missing::Other),
        (404_777, Missing::Other),
    ] {
        let body = format!(r#"{{"errorCode":{code},"message":"m"}}"#);
        for subject in [Subject::Device, Subject::Enrollment, Subject::Registration] {
            let error = refused(subject, 404, &[], body.as_bytes());
            assert!(error.is_missing(missing), "{error:?}");
        }
    }
}

#[test]
fn a_message_tells_who_where_and_what() {
    let error = refused(Subject::Enrollment, 404, &[], body!("dps/error_404201.json"));
    assert_eq!(
        error.to_string(),
        "enrollment not found: try at hub-a.azure-devices.net (HTTP 404, code 404201): Enrollment not found.; tracking \
         ID 8ad0463c-0000-4b7f-9c1e-2f6a5d4c3b2a"
    );
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic(
        status in 400_u16..600,
        body in proptest::collection::vec(any::<u8>(), 0..200),
        text in "[{}\":,a-zA-Z0-9;\\\\ \\[\\]]{0,120}",
        name in "[ -~]{0,40}",
    ) {
        let headers = [("iothub-errorcode", name.as_str()), ("retry-after", name.as_str())];
        let _ = refused(Subject::Device, status, &headers, &body).to_string();
        let nested = format!("{{\"Message\":{}}}", serde_json::to_string(&text).unwrap());
        let _ = refused(Subject::Device, status, &headers, nested.as_bytes()).to_string();
        let _ = refused(Subject::Device, status, &[], text.as_bytes()).to_string();
    }

    #[test]
    fn an_error_is_bounded_whatever_azure_says(length in 0_usize..100_000, quoted in any::<bool>()) {
        let long = "wörd ".repeat(length / 5);
        let body = if quoted { format!("{{\"message\":\"{long}\",\"trackingId\":\"{long}\"}}") } else { long };
        let error = refused(Subject::Device, 500, &[], body.as_bytes());
        prop_assert!(error.to_string().len() < 4_096);
    }
}
