//! What goes over the wire: methods, paths, headers and bodies, and what comes of the answers.

use berth_azure::id::{ArmName, DeviceId, EnrollmentGroupId, Etag, RegistrationId};
use berth_azure::{ARM_SCOPE, AzureError, Conflicting, Credential, IfMatch, Missing, Query, Secret};
use berth_azure::{dps, hub, traffic_manager};
use futures_util::TryStreamExt as _;
use serde_json::{Value, json as value};

use crate::bodies::body;
use crate::credentials::Tokens;
use crate::stage::{DPS, HUB, KEY, Seen, Stage, host, json};

fn registration(text: &str) -> RegistrationId {
    RegistrationId::new(text).unwrap()
}

fn device(text: &str) -> DeviceId {
    DeviceId::new(text).unwrap()
}

fn group(text: &str) -> EnrollmentGroupId {
    EnrollmentGroupId::new(text).unwrap()
}

fn etag(text: &str) -> IfMatch {
    IfMatch::Etag(Etag::new(text).unwrap())
}

/// The only request since the last one asked for.
fn one(stage: &Stage) -> Seen {
    let mut seen = stage.server.take_seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    seen.remove(0)
}

fn line(seen: &Seen) -> String {
    format!("{} {}", seen.method, seen.path)
}

fn is_json(seen: &Seen, expected: &str) {
    let sent: Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(sent, serde_json::from_str::<Value>(expected).unwrap());
    assert_eq!(seen.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn enrollments_are_read_written_and_removed() {
    let stage = Stage::new().await;
    let dps = stage.dps();

    let recorded = body!("dps/enrollment_get.json");
    stage.server.play([json(200, recorded.replace("device-4dfe3739", "dev:1")), json(200, recorded)]);
    dps.enrollment(&registration("Dev:1")).await.unwrap();
    let seen = one(&stage);
    assert_eq!(line(&seen), "GET /enrollments/Dev%3A1?api-version=2021-10-01");
    assert_eq!(seen.header("host"), Some(DPS));
    assert_eq!(seen.header("accept"), Some("application/json"));
    assert!(seen.header("user-agent").unwrap().starts_with("berth/"));
    let signature = seen.header("authorization").unwrap();
    assert!(signature.starts_with(&format!("SharedAccessSignature sr={DPS}&sig=")), "{signature}");
    assert!(signature.ends_with("&se=1767229200&skn=service"), "{signature}");
    assert_eq!((seen.header("if-match"), seen.header("content-length")), (None, None));
    let read = dps.enrollment(&registration("device-4dfe3739")).await.unwrap();
    one(&stage);

    // Read, change, write: what this client does not know goes back.
    let mut changed = read.clone();
    changed.iot_hubs = Some(vec![host("hub-b.azure-devices.net")]);
    stage.server.play([json(200, body!("dps/enrollment_put_reply.json"))]);
    let stored = dps.put_enrollment(&changed, &IfMatch::Etag(read.etag.unwrap())).await.unwrap();
    let seen = one(&stage);
    assert_eq!(line(&seen), "PUT /enrollments/device-4dfe3739?api-version=2021-10-01");
    assert_eq!(seen.header("if-match"), Some("IjBhMDBiNzQyLTAwMDAtMDgwMC0wMDAwLTY0NjgwMWY1MDAwMCI="));
    let sent: Value = serde_json::from_slice(&seen.body).unwrap();
    let mut expected: Value = serde_json::from_str(body!("dps/enrollment_get.json")).unwrap();
    expected.as_object_mut().unwrap().remove("registrationState");
    expected["iotHubs"] = value!(["hub-b.azure-devices.net"]);
    assert_eq!(sent, expected);
    assert_eq!(stored.attestation.symmetric_key.unwrap().primary.unwrap().expose(), KEY);

    let stored = body!("dps/enrollment_put_reply.json").replace("device-4dfe3739", "dev-1");
    stage.server.play([json(200, &stored)]);
    let new =
        dps::IndividualEnrollment::new(registration("dev-1"), dps::Attestation::symmetric_made_by_dps());
    dps.put_enrollment(&new, &IfMatch::Absent).await.unwrap();
    let seen = one(&stage);
    assert_eq!(String::from_utf8(seen.body.clone()).unwrap(), body!("dps/enrollment_create_request.json"));
    assert_eq!(seen.header("if-match"), None);

    stage.server.play([json(200, &stored)]);
    let keys = dps::Attestation::symmetric(Secret::new(KEY.into()), Secret::new(KEY.into()));
    let mut full = dps::IndividualEnrollment::new(registration("dev-1"), keys);
    full.device_id = Some(device("pump-1"));
    full.capabilities = Some(serde_json::from_value(value!({"iotEdge": true})).unwrap());
    full.iot_hubs = Some(vec![host("hub-b.azure-devices.net")]);
    full.allocation_policy = Some(dps::AllocationPolicy::Static);
    full.initial_twin = Some(
        serde_json::from_value(
            value!({"tags": {"ring": "canary"}, "properties": {"desired": {"interval": 30}}}),
        )
        .unwrap(),
    );
    full.provisioning_status = Some(dps::ProvisioningStatus::Enabled);
    full.reprovision_policy = Some(dps::ReprovisionPolicy::reset());
    dps.put_enrollment(&full, &IfMatch::Any).await.unwrap();
    let seen = one(&stage);
    assert_eq!(String::from_utf8(seen.body.clone()).unwrap(), body!("dps/enrollment_put_request.json"));
    assert_eq!(seen.header("if-match"), Some("*"));

    stage.server.play([crate::faults::no_content()]);
    dps.delete_enrollment(&registration("dev-1"), &etag("ImEi")).await.unwrap();
    let seen = one(&stage);
    assert_eq!(line(&seen), "DELETE /enrollments/dev-1?api-version=2021-10-01");
    assert_eq!((seen.header("if-match"), seen.body.len()), (Some("ImEi"), 0));

    stage.server.play([json(200, body!("dps/attestation.json"))]);
    let attestation = dps.attestation(&registration("dev-1")).await.unwrap();
    let seen = one(&stage);
    assert_eq!(line(&seen), "POST /enrollments/dev-1/attestationmechanism?api-version=2021-10-01");
    assert_eq!((seen.header("content-length"), seen.header("content-type")), (Some("0"), None));
    assert_eq!(attestation.kind, dps::AttestationKind::SymmetricKey);

    let nothing_sent = dps.delete_enrollment(&registration("dev-1"), &IfMatch::Absent).await.unwrap_err();
    assert!(matches!(nothing_sent, AzureError::Invalid { .. }));
    assert!(stage.server.take_seen().is_empty());
}

#[tokio::test]
async fn groups_and_registrations_have_their_own_paths() {
    let stage = Stage::new().await;
    let dps = stage.dps();
    stage.server.play([
        json(200, body!("dps/group_get.json")),
        json(200, body!("dps/group_get.json")),
        crate::faults::no_content(),
        json(200, body!("dps/attestation.json")),
        json(200, body!("dps/registration_state.json")),
        crate::faults::no_content(),
    ]);
    let read = dps.group(&group("group-1")).await.unwrap();
    assert_eq!(read.reprovision_policy, Some(dps::ReprovisionPolicy::never()));
    dps.put_group(&read, &IfMatch::Any).await.unwrap();
    dps.delete_group(&group("group-1"), &IfMatch::Any).await.unwrap();
    dps.group_attestation(&group("group-1")).await.unwrap();
    let state = dps.registration(&registration("device-4dfe3739")).await.unwrap();
    assert_eq!(state.device_id, Some(device("device-4dfe3739")));
    dps.delete_registration(&registration("dev-1"), &etag("ImEi")).await.unwrap();
    let lines: Vec<String> = stage.server.take_seen().iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "GET /enrollmentGroups/group-1?api-version=2021-10-01",
            "PUT /enrollmentGroups/group-1?api-version=2021-10-01",
            "DELETE /enrollmentGroups/group-1?api-version=2021-10-01",
            "POST /enrollmentGroups/group-1/attestationmechanism?api-version=2021-10-01",
            "GET /registrations/device-4dfe3739?api-version=2021-10-01",
            "DELETE /registrations/dev-1?api-version=2021-10-01",
        ]
    );
}

#[tokio::test]
async fn bulk_is_checked_before_and_read_after() {
    let stage = Stage::new().await;
    let dps = stage.dps();
    let item = |id: &str| {
        dps::IndividualEnrollment::new(registration(id), dps::Attestation::symmetric_made_by_dps())
    };

    let eleven: Vec<_> = (0..11).map(|n| item(&format!("dev-{n}"))).collect();
    for (mode, items, said) in [
        (dps::BulkMode::Create, eleven, "11 items"),
        (dps::BulkMode::Create, vec![], "no items"),
        (dps::BulkMode::Create, vec![item("Dev-1"), item("dev-1")], "twice"),
        (dps::BulkMode::UpdateIfMatchEtag, vec![item("dev-1")], "has no etag"),
    ] {
        let error = dps.bulk_enrollments(&mode, &items).await.unwrap_err();
        assert!(matches!(error, AzureError::Invalid { .. }) && error.to_string().contains(said), "{error}");
    }
    assert!(stage.server.seen().is_empty());

    stage.server.play([json(200, body!("dps/bulk_reply_failed.json"))]);
    let mut with_etag = item("dev-1");
    with_etag.etag = Some(Etag::new("ImEi").unwrap());
    let result = dps.bulk_enrollments(&dps::BulkMode::UpdateIfMatchEtag, &[with_etag]).await.unwrap();
    assert!(!result.is_successful && result.errors.len() == 2);
    let seen = one(&stage);
    assert_eq!(line(&seen), "POST /enrollments?api-version=2021-10-01");
    assert_eq!(String::from_utf8(seen.body).unwrap(), body!("dps/bulk_request.json"));

    let items = [item("dev-1")];
    stage.server.play([
        json(400, r#"{"errorCode":400004,"message":"m"}"#),
        json(400, "<html>400 Bad Request</html>"),
        json(200, r#"{"isSuccessful":false,"errors":[{"registrationId":"","errorCode":409201}]}"#),
        json(200, r#"{"isSuccessful":true,"errors":null}"#),
        json(200, body!("dps/bulk_reply.json")),
    ]);
    let refused = dps.bulk_enrollments(&dps::BulkMode::Create, &items).await.unwrap_err();
    assert!(matches!(refused, AzureError::Refused { .. }) && !refused.outcome_unknown(), "{refused:?}");
    let page = dps.bulk_enrollments(&dps::BulkMode::Create, &items).await.unwrap_err();
    assert!(matches!(page, AzureError::Nonsense { .. }) && page.outcome_unknown(), "{page:?}");
    let result = dps.bulk_enrollments(&dps::BulkMode::Create, &items).await.unwrap();
    assert_eq!(result.errors[0].registration_id, None);
    assert!(dps.bulk_enrollments(&dps::BulkMode::Create, &items).await.unwrap().is_successful);
    stage.server.take_seen();

    let one_group = dps::EnrollmentGroup::new(group("group-1"), dps::Attestation::symmetric_made_by_dps());
    assert!(dps.bulk_groups(&dps::BulkMode::Create, &[one_group]).await.unwrap().is_successful);
    let seen = one(&stage);
    assert_eq!(line(&seen), "POST /enrollmentGroups?api-version=2021-10-01");
    assert_eq!(String::from_utf8(seen.body).unwrap(), body!("dps/bulk_groups_request.json"));
}

#[tokio::test]
async fn identities_twins_and_statistics() {
    let stage = Stage::new().await;
    let hub = stage.hub();

    stage.server.play([json(200, body!("hub/identity.json"))]);
    let identity = hub.identity(&device("dev#1?x%y")).await.unwrap();
    let seen = one(&stage);
    assert_eq!(line(&seen), "GET /devices/dev%231%3Fx%25y?api-version=2021-04-12");
    assert_eq!(seen.header("host"), Some(HUB));
    assert!(!identity.is_enabled());

    let made = body!("hub/identity.json").replace("dev#1?x%y", "dev-1");
    stage.server.play([json(200, made), json(200, body!("hub/identity.json"))]);
    hub.put_identity(&hub::Identity::new(device("dev-1")), &IfMatch::Absent).await.unwrap();
    let seen = one(&stage);
    is_json(&seen, body!("hub/identity_create_request.json"));
    assert_eq!(
        (line(&seen).as_str(), seen.header("if-match")),
        ("PUT /devices/dev-1?api-version=2021-04-12", None)
    );
    hub.put_identity(&identity, &etag("MTIzNDU2")).await.unwrap();
    let seen = one(&stage);
    assert_eq!(seen.header("if-match"), Some("\"MTIzNDU2\""));
    is_json(&seen, body!("hub/identity.json"));

    stage.server.play([crate::faults::no_content()]);
    hub.delete_identity(&device("dev-1"), &IfMatch::Any).await.unwrap();
    let seen = one(&stage);
    assert_eq!(
        (line(&seen).as_str(), seen.header("if-match")),
        ("DELETE /devices/dev-1?api-version=2021-04-12", Some("*"))
    );

    stage.server.play([
        json(200, body!("hub/twin.json")),
        json(200, body!("hub/twin.json")),
        json(200, body!("hub/twin.json")),
        json(200, body!("hub/statistics_devices.json")),
        json(200, body!("hub/statistics_service.json")),
    ]);
    let twin = hub.twin(&device("dev-1")).await.unwrap();
    assert_eq!(twin.version, Some(2));
    let change =
        hub::TwinChange { tags: Some(value!({"stamp": null})), desired: Some(value!({"interval": 60})) };
    hub.patch_twin(&device("dev-1"), &change, &etag("AAAAAAAAAAE=")).await.unwrap();
    hub.replace_twin(&device("dev-1"), &change, &IfMatch::Absent).await.unwrap();
    assert_eq!(hub.device_statistics().await.unwrap().disabled_device_count, 3);
    assert_eq!(hub.service_statistics().await.unwrap().connected_device_count, 5);
    let seen = stage.server.take_seen();
    let lines: Vec<String> = seen.iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "GET /twins/dev-1?api-version=2021-04-12",
            "PATCH /twins/dev-1?api-version=2021-04-12",
            "PUT /twins/dev-1?api-version=2021-04-12",
            "GET /statistics/devices?api-version=2021-04-12",
            "GET /statistics/service?api-version=2021-04-12",
        ]
    );
    is_json(&seen[1], body!("hub/twin_patch_request.json"));
    assert_eq!((seen[1].header("if-match"), seen[2].header("if-match")), (Some("\"AAAAAAAAAAE=\""), None));

    for bad in [
        hub::TwinChange::default(),
        hub::TwinChange { tags: Some(value!([1])), desired: None },
        hub::TwinChange { tags: None, desired: Some(value!(null)) },
    ] {
        let error = hub.patch_twin(&device("dev-1"), &bad, &IfMatch::Any).await.unwrap_err();
        assert!(matches!(error, AzureError::Invalid { .. }));
    }
}

#[tokio::test]
async fn a_hubs_bulk_says_400_where_items_failed_and_where_all_is_wrong() {
    let stage = Stage::new().await;
    let hub = stage.hub();
    let items: Vec<hub::BulkDevice> = serde_json::from_str(body!("hub/bulk_request.json")).unwrap();

    stage.server.play([json(400, body!("hub/bulk_reply_failed.json"))]);
    let result = hub.bulk(&items).await.unwrap();
    assert!(!result.is_successful && result.warnings.len() == 1);
    let seen = one(&stage);
    assert_eq!(line(&seen), "POST /devices?api-version=2021-04-12");
    assert_eq!(String::from_utf8(seen.body).unwrap(), body!("hub/bulk_request.json"));

    stage.server.play([json(400, body!("hub/error_400.json")).with("iothub-errorcode", "ArgumentInvalid")]);
    let error = hub.bulk(&items).await.unwrap_err();
    assert!(matches!(error, AzureError::Refused { .. }) && error.code() == Some(400_004), "{error:?}");

    // What is neither a result nor the hub's own error tells nothing of what ran.
    for body in ["<html>400 Bad Request</html>", "", r#"{"message":"bad request"}"#, r#"{"errors":[]}"#] {
        stage.server.play([json(400, body)]);
        let error = hub.bulk(&items).await.unwrap_err();
        assert!(matches!(error, AzureError::Nonsense { status: 400, .. }), "{error:?}");
        assert!(error.outcome_unknown());
    }
    let nulls = r#"{"isSuccessful":false,"errors":[{"deviceId":null,"errorCode":"X"},{"deviceId":""}],"warnings":null}"#;
    stage.server.play([json(400, nulls), json(200, r#"{"isSuccessful":true,"errors":null}"#)]);
    let result = hub.bulk(&items).await.unwrap();
    assert!(result.errors.len() == 2 && result.errors[0].device_id.is_none() && result.warnings.is_empty());
    assert!(hub.bulk(&items).await.unwrap().is_successful);

    stage.server.take_seen();
    let many = |n: usize| -> Vec<hub::BulkDevice> {
        (0..n).map(|n| hub::BulkDevice::new(device(&format!("d{n}")), hub::BulkDeviceMode::Delete)).collect()
    };
    let lacking = vec![hub::BulkDevice::new(device("d"), hub::BulkDeviceMode::UpdateTwinIfMatchEtag)];
    for bad in [many(0), many(101), [many(1), many(1)].concat(), lacking] {
        assert!(matches!(hub.bulk(&bad).await.unwrap_err(), AzureError::Invalid { .. }));
    }
    assert!(stage.server.seen().is_empty());
}

#[tokio::test]
async fn a_method_is_answered_by_the_device_or_refused_by_the_hub() {
    let stage = Stage::new().await;
    let hub = stage.hub();
    let call = hub::MethodCall {
        payload: value!({"delay": 5}),
        response_timeout_s: Some(30),
        connect_timeout_s: Some(0),
        ..hub::MethodCall::new("reboot")
    };

    stage.server.play([json(200, body!("hub/method_reply.json"))]);
    let answer = hub.invoke(&device("dev-1"), &call).await.unwrap();
    assert_eq!((answer.status, answer.payload), (418, value!({"said": "no"})));
    let seen = one(&stage);
    assert_eq!(line(&seen), "POST /twins/dev-1/methods?api-version=2021-04-12");
    assert_eq!(String::from_utf8(seen.body).unwrap(), body!("hub/method_request.json"));

    stage.server.play([
        json(404, body!("hub/error_404103_nested.json")).with("iothub-errorcode", "DeviceNotOnline"),
        json(404, body!("hub/error_404001_nested.json")).with("iothub-errorcode", "DeviceNotFound"),
    ]);
    let offline = hub.invoke(&device("dev-1"), &call).await.unwrap_err();
    assert!(matches!(offline, AzureError::NotOnline { .. }) && !offline.outcome_unknown());
    let absent = hub.invoke(&device("dev-1"), &call).await.unwrap_err();
    assert!(absent.is_missing(Missing::Device) && !absent.is_retryable());
    assert_eq!(stage.server.take_seen().len(), 2, "neither is repeated");

    let with = |response: u32, connect: u32| hub::MethodCall {
        response_timeout_s: Some(response),
        connect_timeout_s: Some(connect),
        ..hub::MethodCall::new("reboot")
    };
    let large = hub::MethodCall { payload: "x".repeat(hub::PAYLOAD_BYTES_MAX).into(), ..with(30, 0) };
    for bad in [with(4, 0), with(301, 0), with(300, 301), with(10, 11), hub::MethodCall::new(""), large] {
        let error = hub.invoke(&device("dev-1"), &bad).await.unwrap_err();
        assert!(matches!(error, AzureError::Invalid { .. }), "{error}");
    }
    assert!(stage.server.seen().is_empty());
}

#[tokio::test]
async fn queries_say_what_they_ask() {
    let stage = Stage::new().await;
    stage.server.play([
        json(200, "[]").with("x-ms-item-type", "Enrollment"),
        json(200, "[]").with("x-ms-item-type", "enrollmentgroup"),
        json(200, "[]").with("x-ms-item-type", "DeviceRegistration"),
        json(200, "[]").with("x-ms-item-type", "Twin"),
        json(200, r#"[{"n":1}]"#).with("x-ms-item-type", "Raw"),
    ]);
    let (dps, hub) = (stage.dps(), stage.hub());
    let text = Query::new("SELECT * FROM enrollments");
    assert_eq!(dps.enrollments(text).try_collect::<Vec<_>>().await.unwrap()[0].items.len(), 0);
    dps.groups(Query::all()).try_collect::<Vec<_>>().await.unwrap();
    dps.registrations(&group("group-1"), Query::all()).try_collect::<Vec<_>>().await.unwrap();
    hub.twins(Query::new("SELECT * FROM devices")).try_collect::<Vec<_>>().await.unwrap();
    let rows: Vec<_> = hub.rows(Query::new("SELECT COUNT() AS n FROM devices")).try_collect().await.unwrap();
    assert_eq!(rows[0].items[0]["n"], 1);
    let seen = stage.server.take_seen();
    assert_eq!(String::from_utf8(seen[0].body.clone()).unwrap(), body!("dps/query_request.json"));
    let lines: Vec<String> = seen.iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "POST /enrollments/query?api-version=2021-10-01",
            "POST /enrollmentGroups/query?api-version=2021-10-01",
            "POST /registrations/group-1/query?api-version=2021-10-01",
            "POST /devices/query?api-version=2021-04-12",
            "POST /devices/query?api-version=2021-04-12",
        ]
    );
}

#[tokio::test]
async fn traffic_manager_is_reached_through_arm_by_bearer() {
    let arm = traffic_manager::ARM_HOST;
    let stage = crate::tls::stage(&[arm], |endpoints, address| endpoints.at(host(arm), address)).await;
    let name = |text: &str| ArmName::new(text).unwrap();
    let profile_name = traffic_manager::ProfileName {
        subscription: name("sub-1"),
        resource_group: name("group(1)"),
        profile: name("stamps"),
    };
    let credential = Credential::bearer(Tokens::new(), ARM_SCOPE);
    let service = traffic_manager::Service::new(stage.client.clone(), host(arm), credential, profile_name);
    let kind = traffic_manager::EndpointKind::External;

    stage.server.play([
        json(200, body!("arm/endpoint.json")),
        json(200, body!("arm/endpoint.json")),
        json(200, body!("arm/endpoint.json")),
        json(201, body!("arm/endpoint.json")),
        json(200, body!("arm/profile.json")),
        json(200, body!("arm/profile.json")),
        json(200, body!("arm/profile.json")),
        json(404, body!("arm/error_404.json")),
    ]);
    let endpoint = service.endpoint(&kind, &name("stamp-a")).await.unwrap();
    assert_eq!(endpoint.properties.endpoint_monitor_status, Some(traffic_manager::MonitorStatus::Online));
    let disable = traffic_manager::EndpointChange {
        status: Some(traffic_manager::EndpointStatus::Disabled),
        ..Default::default()
    };
    service.patch_endpoint(&kind, &name("stamp-a"), &disable).await.unwrap();
    let reweight = traffic_manager::EndpointChange { weight: Some(250), ..Default::default() };
    service.patch_endpoint(&kind, &name("stamp-a"), &reweight).await.unwrap();
    let put: traffic_manager::Endpoint =
        serde_json::from_str(body!("arm/endpoint_put_request.json")).unwrap();
    service.put_endpoint(&kind, &name("stamp-a"), &put).await.unwrap();
    let profile = service.profile().await.unwrap();
    assert_eq!(profile.properties.dns_config.as_ref().unwrap().ttl, Some(60));
    service.put_profile(&profile).await.unwrap();
    service.patch_profile(&profile).await.unwrap();
    let error = service.profile().await.unwrap_err();
    assert!(error.is_missing(Missing::Profile));

    let seen = stage.server.take_seen();
    let base = "/subscriptions/sub-1/resourceGroups/group%281%29/providers/Microsoft.Network/trafficmanagerprofiles/stamps";
    let endpoint = format!("{base}/ExternalEndpoints/stamp-a?api-version=2022-04-01");
    let profile = format!("{base}?api-version=2022-04-01");
    let expected = [
        format!("GET {endpoint}"),
        format!("PATCH {endpoint}"),
        format!("PATCH {endpoint}"),
        format!("PUT {endpoint}"),
        format!("GET {profile}"),
        format!("PUT {profile}"),
        format!("PATCH {profile}"),
        format!("GET {profile}"),
    ];
    assert_eq!(seen.iter().map(line).collect::<Vec<_>>(), expected);
    is_json(&seen[1], body!("arm/endpoint_disable_request.json"));
    is_json(&seen[2], body!("arm/endpoint_reweight_request.json"));
    is_json(&seen[3], body!("arm/endpoint_put_request.json"));
    is_json(&seen[5], body!("arm/profile.json"));
    assert!(seen.iter().all(|seen| seen.header("authorization") == Some("Bearer token-1")));
    assert!(seen.iter().all(|seen| seen.header("host") == Some(arm)));

    for bad in [
        traffic_manager::EndpointChange::default(),
        traffic_manager::EndpointChange { weight: Some(0), ..Default::default() },
        traffic_manager::EndpointChange { priority: Some(1_001), ..Default::default() },
    ] {
        let error = service.patch_endpoint(&kind, &name("stamp-a"), &bad).await.unwrap_err();
        assert!(matches!(error, AzureError::Invalid { .. }));
    }
}

#[tokio::test]
async fn conflicts_and_stale_etags_are_told_apart() {
    let stage = Stage::new().await;
    stage.server.play([
        json(409, body!("dps/error_409201.json")),
        json(412, r#"{"errorCode":412001,"message":"Precondition failed."}"#),
        json(404, body!("dps/error_404201.json")),
        json(403, r#"{"errorCode":403000,"message":"no"}"#),
    ]);
    let new =
        dps::IndividualEnrollment::new(registration("dev-1"), dps::Attestation::symmetric_made_by_dps());
    let dps = stage.dps();
    let error = dps.put_enrollment(&new, &IfMatch::Absent).await.unwrap_err();
    assert!(matches!(error, AzureError::Conflict { conflicting: Conflicting::Enrollment, .. }));
    let error = dps.put_enrollment(&new, &etag("ImEi")).await.unwrap_err();
    assert!(matches!(error, AzureError::PreconditionFailed { .. }));
    let error = dps.enrollment(&registration("dev-1")).await.unwrap_err();
    assert!(error.is_missing(Missing::Enrollment));
    let error = dps.enrollment(&registration("dev-1")).await.unwrap_err();
    assert!(matches!(error, AzureError::Forbidden { .. }));
    assert_eq!(stage.server.seen().len(), 4, "none is repeated");
}
