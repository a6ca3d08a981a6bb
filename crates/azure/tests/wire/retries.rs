//! What is tried again, how often, when, and who is asked before.

use std::time::Duration;

use berth_azure::id::{DeviceId, Etag, RegistrationId};
use berth_azure::{AzureError, Ended, IfMatch, RETRY_AFTER_MAX, dps, hub};

use crate::bodies::body;
use crate::stage::{Act, Counted, DPS, Stage, json};

fn id() -> RegistrationId {
    RegistrationId::new("device-4dfe3739").unwrap()
}

fn new_enrollment() -> dps::IndividualEnrollment {
    dps::IndividualEnrollment::new(id(), dps::Attestation::symmetric_made_by_dps())
}

fn unavailable() -> Act {
    json(503, r#"{"errorCode":503001,"message":"busy"}"#)
}

fn throttled() -> Act {
    json(429, body!("dps/error_429001.json"))
}

#[tokio::test]
async fn a_read_is_tried_again_and_the_budget_hears_of_every_request() {
    let stage = Stage::new().await;
    stage.server.play([
        unavailable(),
        Act::Close,
        throttled(),
        json(200, body!("dps/registration_state.json")),
    ]);
    let budget = Counted::of(10);
    let dps = stage.dps().budget(budget.clone());
    dps.registration(&id()).await.unwrap();
    assert_eq!(stage.server.seen().len(), 4);
    let asked: Vec<_> = (1..=4).map(|attempt| ("get registration", attempt)).collect();
    assert_eq!(*budget.asked.lock(), asked);
    assert_eq!(
        *budget.ended.lock(),
        [answered(503, None), Ended::Unanswered, answered(429, None), answered(200, None)]
    );
    assert_eq!(*budget.held.lock(), (0, 1), "each permit is given back before the next is asked for");
    // Half of 500, 1,000 and 2,000 ms, as the clock draws one half.
    assert_eq!(stage.clock.pauses(), [250, 500, 1_000].map(Duration::from_millis));
}

fn answered(status: u16, retry_after_s: Option<u64>) -> Ended {
    Ended::Answered { status, retry_after: retry_after_s.map(Duration::from_secs) }
}

#[tokio::test]
async fn the_budget_hears_how_long_azure_wants_to_be_left_alone() {
    let stage = Stage::new().await;
    stage.server.play([
        throttled().with("retry-after", "7"),
        json(429, body!("hub/error_429.json")).with("iothub-errorcode", "ThrottlingBacklogTimeout"),
        json(200, body!("hub/statistics_service.json")).with("retry-after", "90000"),
    ]);
    let budget = Counted::of(10);
    stage.hub().budget(budget.clone()).service_statistics().await.unwrap();
    assert_eq!(
        *budget.ended.lock(),
        [answered(429, Some(7)), answered(429, Some(10)), answered(200, Some(3_600))],
        "in seconds, in words, and never more than an hour"
    );
}

#[tokio::test]
async fn attempts_are_bounded_and_the_last_error_is_told() {
    let stage = Stage::new().await;
    stage.server.play(vec![unavailable(); 20]);
    let error = stage.dps().registration(&id()).await.unwrap_err();
    assert!(matches!(error, AzureError::Unavailable { .. }) && error.is_retryable());
    assert_eq!(error.told_by_azure().unwrap().attempts, 4);
    assert_eq!(stage.server.take_seen().len(), 4);
    stage.dps().attempts(1).registration(&id()).await.unwrap_err();
    assert_eq!(stage.server.take_seen().len(), 1);
}

#[tokio::test]
async fn azures_word_on_when_to_come_back_is_kept() {
    let stage = Stage::new().await;
    stage
        .server
        .play([throttled().with("retry-after", "7"), json(200, body!("dps/registration_state.json"))]);
    stage.dps().registration(&id()).await.unwrap();
    assert_eq!(stage.clock.pauses(), [Duration::from_millis(7_250)]);
}

#[tokio::test]
async fn a_word_beyond_the_bound_or_the_deadline_goes_to_the_caller_at_once() {
    let stage = Stage::new().await;
    let beyond = (RETRY_AFTER_MAX.as_secs() + 1).to_string();
    stage.server.play([throttled().with("retry-after", &beyond), throttled().with("retry-after", "60")]);
    let error = stage.dps().within(Duration::from_secs(600)).registration(&id()).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(RETRY_AFTER_MAX + Duration::from_secs(1)));
    let error = stage.dps().registration(&id()).await.unwrap_err();
    assert!(matches!(error, AzureError::Throttled { .. }), "{error}");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(60)));
    assert!(stage.clock.pauses().is_empty());
}

#[tokio::test]
async fn no_pause_passes_the_deadline() {
    for draw in [0.0, 0.3, 0.99] {
        let stage = Stage::new().await;
        stage.clock.set_draw(draw);
        stage.server.play(vec![unavailable(); 20]);
        let within = Duration::from_secs(3);
        stage.dps().within(within).attempts(16).registration(&id()).await.unwrap_err();
        assert!(stage.clock.pauses().iter().sum::<Duration>() < within);
        assert!(stage.server.seen().len() <= 16);
    }
}

#[tokio::test]
async fn what_creates_is_repeated_only_where_it_was_not_served() {
    let stage = Stage::new().await;
    for (act, requests, unknown) in [
        (unavailable(), 1, true),
        (Act::Close, 1, true),
        (Act::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec()), 1, true),
        (throttled(), 4, false),
    ] {
        stage.server.play(vec![act; requests]);
        let error = stage.dps().put_enrollment(&new_enrollment(), &IfMatch::Absent).await.unwrap_err();
        assert_eq!(error.outcome_unknown(), unknown, "{error:?}");
        assert_eq!(stage.server.take_seen().len(), requests);
    }
    let many = [new_enrollment()];
    stage.server.play([unavailable()]);
    stage.dps().bulk_enrollments(&dps::BulkMode::Create, &many).await.unwrap_err();
    assert_eq!(stage.server.take_seen().len(), 1);
}

#[tokio::test]
async fn what_carries_an_etag_or_removes_is_repeated() {
    let stage = Stage::new().await;
    let etag = IfMatch::Etag(Etag::new("ImEi").unwrap());
    stage.server.play([unavailable(), Act::Close, json(200, body!("dps/enrollment_put_reply.json"))]);
    stage.dps().put_enrollment(&new_enrollment(), &etag).await.unwrap();
    stage.server.play([unavailable(), crate::faults::no_content()]);
    stage.dps().delete_enrollment(&id(), &etag).await.unwrap();
    let seen = stage.server.take_seen();
    assert_eq!(seen.len(), 5);
    assert!(seen.iter().all(|seen| seen.header("if-match") == Some("ImEi")));
    assert!(seen[0].body == seen[1].body && seen[1].body == seen[2].body, "the same request each time");
}

#[tokio::test]
async fn a_direct_method_is_repeated_only_where_it_cannot_have_run() {
    let stage = Stage::new().await;
    let device = DeviceId::new("dev-1").unwrap();
    let call = hub::MethodCall::new("reboot");
    let not_online = json(404, body!("hub/error_404103_nested.json"));
    let gone = json(404, r#"{"Message":"ErrorCode:DeviceConnectionClosedRemotely;gone"}"#);
    for (act, requests, unknown) in [
        (unavailable(), 1, true),
        (json(500, ""), 1, true),
        (json(504, ""), 1, true),
        (gone.with("iothub-errorcode", "DeviceConnectionClosedRemotely"), 1, true),
        (Act::Close, 1, true),
        (not_online, 1, false),
        (json(429, body!("hub/error_429.json")), 4, false),
    ] {
        stage.server.play(vec![act.clone(); requests]);
        let error = stage.hub().invoke(&device, &call).await.unwrap_err();
        assert_eq!(error.outcome_unknown(), unknown, "{act:?}: {error:?}");
        assert_eq!(stage.server.take_seen().len(), requests, "{act:?}");
    }
}

#[tokio::test]
async fn a_spent_budget_stops_repeats_too() {
    let stage = Stage::new().await;
    stage.server.play(vec![unavailable(); 4]);
    let budget = Counted::of(2);
    let error = stage.dps().budget(budget.clone()).registration(&id()).await.unwrap_err();
    assert!(matches!(error, AzureError::OverBudget { .. }) && error.is_retryable(), "{error}");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(9)));
    assert!(!error.outcome_unknown());
    assert_eq!(stage.server.seen().len(), 2);
    assert_eq!(budget.ended.lock().len(), 2);
}

#[tokio::test]
async fn a_budget_that_never_answers_is_ended_by_the_deadline() {
    struct Silent;
    impl berth_azure::Budget for Silent {
        fn ask<'a>(
            &'a self,
            _request: berth_azure::Outgoing<'a>,
        ) -> futures_util::future::BoxFuture<'a, Result<berth_azure::Permit, berth_azure::Spent>> {
            Box::pin(std::future::pending())
        }
    }
    let stage = Stage::new().await;
    let dps = stage.dps().budget(std::sync::Arc::new(Silent)).within(Duration::from_secs(5));
    let asked = tokio::spawn(async move { dps.registration(&id()).await });
    stage.clock.turn(Duration::from_secs(5));
    // Whether the call began before or after the turn, the next one ends it.
    tokio::task::yield_now().await;
    while !asked.is_finished() {
        stage.clock.turn(Duration::from_secs(5));
        tokio::task::yield_now().await;
    }
    let error = asked.await.unwrap().unwrap_err();
    assert!(matches!(error, AzureError::Deadline { in_flight: false, attempts: 0, .. }), "{error:?}");
    assert!(stage.server.seen().is_empty());
}

#[tokio::test]
async fn a_host_that_cannot_be_reached_was_sent_nothing() {
    let stage = Stage::new().await;
    // A port that nobody listens on: bound once, and let go.
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let endpoints = berth_azure::Endpoints::public()
        .plain_at(crate::stage::host(DPS), crate::stage::host(&gone.to_string()));
    let transport = berth_azure::Transport::new(endpoints).unwrap();
    let budget = Counted::of(10);
    let client = berth_azure::Client::new(transport, std::sync::Arc::new(stage.clock.clone()));
    let dps =
        dps::Service::new(client, crate::stage::host(DPS), stage.credential(DPS)).budget(budget.clone());
    let error = dps.put_enrollment(&new_enrollment(), &IfMatch::Absent).await.unwrap_err();
    assert!(matches!(error, AzureError::Connect { .. }) && !error.outcome_unknown(), "{error:?}");
    assert!(error.to_string().contains(&gone.to_string()), "{error}");
    assert_eq!(*budget.ended.lock(), vec![Ended::NotSent; 4], "as nothing was sent, even this is repeated");
}

/// What the hub says where an etag fits no more.
fn stale() -> Act {
    json(412, body!("hub/error_412.json")).with("iothub-errorcode", "PreconditionFailed")
}

#[tokio::test]
async fn what_an_unheard_first_try_may_have_done_is_told_with_the_last_error() {
    let stage = Stage::new().await;
    let etag = IfMatch::Etag(Etag::new("ImEi").unwrap());
    let gone = || json(404, body!("dps/error_404201.json"));
    for first in [unavailable(), Act::Close] {
        stage.server.play([first.clone(), gone()]);
        let error = stage.dps().delete_enrollment(&id(), &etag).await.unwrap_err();
        assert!(error.is_missing(berth_azure::Missing::Enrollment) && error.outcome_unknown(), "{error:?}");
        assert!(error.told_by_azure().unwrap().perhaps_served);

        stage.server.play([first.clone(), throttled(), stale()]);
        let error = stage.dps().put_enrollment(&new_enrollment(), &etag).await.unwrap_err();
        assert!(matches!(error, AzureError::PreconditionFailed { .. }), "{error:?}");
        assert!(error.outcome_unknown(), "the throttled request in between does not make it forgotten");

        let budget = Counted::of(1);
        stage.server.play([first.clone()]);
        let dps = stage.dps().budget(budget);
        let error = dps.put_enrollment(&new_enrollment(), &etag).await.unwrap_err();
        assert!(matches!(error, AzureError::OverBudget { .. }) && error.outcome_unknown(), "{error:?}");
    }
    // Where nothing unheard went before, and in a read, the answer is all there is to know.
    stage.server.play([throttled(), gone(), unavailable(), gone()]);
    let error = stage.dps().delete_enrollment(&id(), &etag).await.unwrap_err();
    assert!(!error.outcome_unknown(), "{error:?}");
    let error = stage.dps().enrollment(&id()).await.unwrap_err();
    assert!(error.is_missing(berth_azure::Missing::Enrollment) && !error.outcome_unknown(), "{error:?}");
}

#[tokio::test]
async fn a_change_without_an_etag_is_not_repeated_where_it_may_have_been_served() {
    let stage = Stage::new().await;
    let (dps, hub, device) = (stage.dps(), stage.hub(), DeviceId::new("dev-1").unwrap());
    let change = hub::TwinChange { tags: Some(serde_json::json!({"a": 1})), desired: None };
    let enrollments = [new_enrollment()];
    let mut guarded = new_enrollment();
    guarded.etag = Some(Etag::new("ImEi").unwrap());
    let item = |mode: hub::BulkDeviceMode| hub::BulkDevice {
        etag: Some(Etag::new("ImEi").unwrap()),
        twin_etag: Some(Etag::new("ImEi").unwrap()),
        ..hub::BulkDevice::new(DeviceId::new(mode.as_str()).unwrap(), mode)
    };
    use hub::BulkDeviceMode as Mode;
    for first in [unavailable(), Act::Close] {
        stage.server.play(vec![first.clone(); 10]);
        dps.put_enrollment(&new_enrollment(), &IfMatch::Any).await.unwrap_err();
        dps.delete_registration(&id(), &IfMatch::Any).await.unwrap_err();
        dps.bulk_enrollments(&dps::BulkMode::Delete, &enrollments).await.unwrap_err();
        dps.bulk_enrollments(&dps::BulkMode::Update, &enrollments).await.unwrap_err();
        hub.put_identity(&hub::Identity::new(device.clone()), &IfMatch::Any).await.unwrap_err();
        hub.delete_identity(&device, &IfMatch::Any).await.unwrap_err();
        hub.patch_twin(&device, &change, &IfMatch::Any).await.unwrap_err();
        hub.replace_twin(&device, &change, &IfMatch::Absent).await.unwrap_err();
        hub.bulk(&[item(Mode::UpdateIfMatchEtag), item(Mode::Delete)]).await.unwrap_err();
        let error = hub.bulk(&[item(Mode::UpdateTwin)]).await.unwrap_err();
        assert!(error.outcome_unknown(), "{error:?}");
        assert_eq!(stage.server.take_seen().len(), 10, "one request each");

        let all = [Mode::UpdateIfMatchEtag, Mode::DeleteIfMatchEtag, Mode::UpdateTwinIfMatchEtag].map(item);
        let good = json(200, body!("dps/bulk_reply.json"));
        stage.server.play([first.clone(), good.clone(), first, good]);
        hub.bulk(&all).await.unwrap();
        dps.bulk_enrollments(&dps::BulkMode::UpdateIfMatchEtag, std::slice::from_ref(&guarded))
            .await
            .unwrap();
        assert_eq!(stage.server.take_seen().len(), 4, "what goes by etags is repeated");
    }
}

#[tokio::test]
async fn a_write_to_traffic_manager_is_not_repeated_where_it_may_have_been_served() {
    use crate::stage::host;
    use berth_azure::id::ArmName;
    use berth_azure::traffic_manager::{ARM_HOST, EndpointChange, EndpointKind, ProfileName, Service};
    let stage = crate::tls::stage(&[ARM_HOST], |ends, address| ends.at(host(ARM_HOST), address)).await;
    let name = |text: &str| ArmName::new(text).unwrap();
    let profile = ProfileName { subscription: name("s"), resource_group: name("g"), profile: name("stamps") };
    let tokens = berth_azure::Credential::bearer(crate::credentials::Tokens::new(), berth_azure::ARM_SCOPE);
    let service = Service::new(stage.client.clone(), host(ARM_HOST), tokens, profile);
    stage.server.play([unavailable(), unavailable(), unavailable()]);
    let change = EndpointChange { weight: Some(7), ..EndpointChange::default() };
    let error = service.patch_endpoint(&EndpointKind::External, &name("stamp-a"), &change).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error:?}");
    service.put_profile(&Default::default()).await.unwrap_err();
    service.patch_profile(&Default::default()).await.unwrap_err();
    assert_eq!(stage.server.take_seen().len(), 3);
}

/// Allows everything, but only when the call's time is up.
struct AtTheLast {
    clock: crate::stage::TestClock,
    ended: parking_lot::Mutex<Vec<Ended>>,
}

impl berth_azure::Budget for AtTheLast {
    fn ask<'a>(
        &'a self,
        _request: berth_azure::Outgoing<'a>,
    ) -> futures_util::future::BoxFuture<'a, Result<berth_azure::Permit, berth_azure::Spent>> {
        Box::pin(async {
            self.clock.turn(Duration::from_secs(5));
            Ok(berth_azure::Permit::free())
        })
    }

    fn ended(&self, _request: berth_azure::Outgoing<'_>, ended: Ended) {
        self.ended.lock().push(ended);
    }
}

#[tokio::test]
async fn nothing_is_sent_when_time_is_up() {
    let stage = Stage::new().await;
    stage.server.play(vec![json(200, body!("dps/registration_state.json")); 2]);
    let budget = std::sync::Arc::new(AtTheLast { clock: stage.clock.clone(), ended: Default::default() });
    let dps = stage.dps().budget(budget.clone()).within(Duration::from_secs(5));
    let error = dps.registration(&id()).await.unwrap_err();
    assert!(matches!(error, AzureError::Deadline { in_flight: false, attempts: 0, .. }), "{error:?}");
    assert_eq!(*budget.ended.lock(), [Ended::NotSent], "what was allowed is accounted for");
    let error = stage.dps().within(Duration::ZERO).registration(&id()).await.unwrap_err();
    assert!(matches!(error, AzureError::Deadline { in_flight: false, attempts: 0, .. }), "{error:?}");
    assert_eq!((stage.server.seen().len(), stage.server.connections().opened), (0, 0));
}
