//! Long answers: every page once, and an end to all of them.

use berth_azure::{AzureError, Continuation, Query, dps};
use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::stage::{Act, Stage, json};

fn page(ids: &[&str], next: Option<&str>) -> Act {
    let rows: Vec<String> = ids
        .iter()
        .map(|id| format!(r#"{{"registrationId":"{id}","attestation":{{"type":"symmetricKey"}}}}"#))
        .collect();
    let act = json(200, format!("[{}]", rows.join(","))).with("x-ms-item-type", "Enrollment");
    match next {
        Some(next) => act.with("x-ms-continuation", next),
        None => act,
    }
}

async fn ids(
    stream: impl futures_util::Stream<Item = Result<berth_azure::Page<dps::IndividualEnrollment>, AzureError>>,
) -> Result<Vec<String>, AzureError> {
    let pages: Vec<_> = stream.try_collect().await?;
    Ok(pages.into_iter().flat_map(|page| page.items).map(|item| item.registration_id.to_string()).collect())
}

#[tokio::test]
async fn pages_follow_each_other_to_the_last() {
    let stage = Stage::new().await;
    let token = r#"W3sidG9rZW4iOiIrUklEOn4i"/+=[{}]"#;
    stage.server.play([page(&["a", "b"], Some(token)), page(&[], Some("2")), page(&["c"], None)]);
    let read = ids(stage.dps().enrollments(Query::all().page_items(2))).await.unwrap();
    assert_eq!(read, ["a", "b", "c"]);
    let seen = stage.server.seen();
    let sent: Vec<_> =
        seen.iter().map(|s| (s.header("x-ms-max-item-count"), s.header("x-ms-continuation"))).collect();
    assert_eq!(sent, [(Some("2"), None), (Some("2"), Some(token)), (Some("2"), Some("2"))]);
}

#[tokio::test]
async fn an_empty_token_is_the_end() {
    let stage = Stage::new().await;
    stage.server.play([page(&["a"], Some(""))]);
    assert_eq!(ids(stage.dps().enrollments(Query::all())).await.unwrap(), ["a"]);
    assert_eq!(stage.server.seen().len(), 1);
}

#[tokio::test]
async fn what_goes_round_in_circles_is_nonsense() {
    let stage = Stage::new().await;
    stage.server.play([page(&["a"], Some("1")), page(&["b"], Some("1"))]);
    let error = ids(stage.dps().enrollments(Query::all())).await.unwrap_err();
    assert!(error.to_string().contains("where it has just been"), "{error}");
}

#[tokio::test]
async fn more_pages_than_allowed_are_an_error_and_not_a_short_answer() {
    let stage = Stage::new().await;
    stage.server.play((1..10).map(|n| page(&["a"], Some(&n.to_string()))));
    let mut stream = Box::pin(stage.dps().enrollments(Query::all().pages_max(3)));
    let mut last = None;
    for _ in 0..3 {
        last = stream.next().await.unwrap().unwrap().next;
    }
    let error = stream.next().await.unwrap().unwrap_err();
    assert!(matches!(error, AzureError::TooManyPages { pages_max: 3, .. }), "{error}");
    assert!(stream.next().await.is_none());
    assert_eq!(stage.server.take_seen().len(), 3);

    // And it can go on from there.
    let kept = last.unwrap().as_str().to_owned();
    let from = Continuation::new(&kept).unwrap();
    let mut stream = Box::pin(stage.dps().enrollments(Query::all().from(from)));
    stream.next().await.unwrap().unwrap();
    assert_eq!(stage.server.seen()[0].header("x-ms-continuation"), Some("3"));
}

#[tokio::test]
async fn items_of_another_kind_are_nonsense() {
    let stage = Stage::new().await;
    stage.server.play([
        json(200, "[]").with("x-ms-item-type", "EnrollmentGroup"),
        json(200, r#"{"registrationId":"a"}"#),
    ]);
    for said in ["of type `EnrollmentGroup`", "line 1"] {
        let error = ids(stage.dps().enrollments(Query::all())).await.unwrap_err();
        assert!(matches!(error, AzureError::Nonsense { .. }) && error.to_string().contains(said), "{error}");
    }
}

#[tokio::test]
async fn a_page_that_fails_in_passing_is_asked_for_again_alone() {
    let stage = Stage::new().await;
    stage.server.play([page(&["a"], Some("1")), Act::Close, json(503, ""), page(&["b"], None)]);
    assert_eq!(ids(stage.dps().enrollments(Query::all())).await.unwrap(), ["a", "b"]);
    let sent: Vec<_> =
        stage.server.seen().iter().map(|seen| seen.header("x-ms-continuation").map(str::to_owned)).collect();
    assert_eq!(sent, [None, Some("1".into()), Some("1".into()), Some("1".into())]);
}

#[tokio::test]
async fn a_token_that_cannot_be_sent_back_is_no_end() {
    let stage = Stage::new().await;
    stage.server.play([page(&["a"], Some("tök")), page(&["a"], Some(&"x".repeat(40_000)))]);
    for _ in 0..2 {
        let error = ids(stage.dps().enrollments(Query::all())).await.unwrap_err();
        assert!(error.to_string().contains("cannot be sent back"), "{error}");
    }
}

#[tokio::test]
async fn an_odd_row_does_not_stop_the_sweep() {
    let stage = Stage::new().await;
    let good = r#"{"registrationId":"a","attestation":{"type":"none"}}"#;
    let odd = r#"{"registrationId":"a b","attestation":{"type":"none"}}"#;
    stage
        .server
        .play([json(200, format!("[{odd},{good},null]")).with("x-ms-continuation", "1"), page(&["b"], None)]);
    let pages: Vec<_> = stage.dps().enrollments(Query::all()).try_collect().await.unwrap();
    assert_eq!((pages.len(), pages[0].items.len(), pages[1].items.len()), (2, 1, 1));
    let at: Vec<usize> = pages[0].odd.iter().map(|odd| odd.at).collect();
    assert_eq!(at, [0, 2]);
    assert!(pages[0].odd[0].problem.contains("registration ID"), "{:?}", pages[0].odd);
    assert!(pages[1].odd.is_empty());
}

#[tokio::test]
async fn a_page_has_no_more_rows_than_a_page_may_have() {
    let stage = Stage::new().await;
    let rows = |count: usize| format!("[{}]", vec!["1"; count].join(","));
    stage.server.play([json(200, rows(1_000)), json(200, rows(1_001)), json(200, rows(2_000_000))]);
    let hub = stage.hub();
    let pages: Vec<_> = hub.rows(Query::all()).try_collect().await.unwrap();
    assert_eq!(pages[0].items.len(), 1_000);
    for _ in 0..2 {
        let error = hub.rows(Query::all()).try_collect::<Vec<_>>().await.unwrap_err();
        assert!(
            matches!(error, AzureError::Nonsense { .. }) && error.to_string().contains("1000"),
            "{error}"
        );
    }
}
