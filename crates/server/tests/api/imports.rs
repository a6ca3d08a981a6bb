use berth_core::Rejection;
use berth_proto::convert::pack_ids;
use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::import_request::Message;
use futures_util::{StreamExt, stream};
use tonic::Status;

use crate::lookups::rounds;
use crate::{Bench, HUB_1, HUB_2, apply, assignment, request_id};

fn start() -> v1::ImportStart {
    v1::ImportStart { import_id: request_id(), default_hub: HUB_1.to_owned(), ..v1::ImportStart::default() }
}

fn rows(chunk_no: u64, rows: impl IntoIterator<Item = v1::DeviceAssignment>) -> v1::ImportChunk {
    v1::ImportChunk { chunk_no, rows: rows.into_iter().collect(), ..v1::ImportChunk::default() }
}

async fn import(
    bench: &mut Bench,
    start: v1::ImportStart,
    chunks: Vec<v1::ImportChunk>,
) -> Vec<Result<v1::ImportResponse, Status>> {
    let messages = std::iter::once(Message::Start(start)).chain(chunks.into_iter().map(Message::Chunk));
    let messages: Vec<v1::ImportRequest> =
        messages.map(|message| v1::ImportRequest { message: Some(message) }).collect();
    let answers = bench.devices.import(stream::iter(messages)).await.unwrap().into_inner();
    answers.collect().await
}

fn sound(answers: Vec<Result<v1::ImportResponse, Status>>) -> Vec<v1::ImportResponse> {
    answers.into_iter().map(Result::unwrap).collect()
}

fn row_errors(answer: &v1::ImportResponse) -> Vec<(u32, ApiError)> {
    answer.errors.iter().map(|row| (row.row, ApiError::from(row.error.clone().unwrap()))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_acknowledged_in_order_and_a_repeat_changes_nothing() {
    let mut bench = Bench::start().await;
    let chunk = |no: u64| v1::ImportChunk {
        chunk_no: no,
        packed_device_ids: pack_ids((0..2_000).map(|n| format!("d-{no}-{n}"))),
        rows: vec![v1::DeviceAssignment {
            status: v1::MappingStatus::Disabled as i32,
            ..assignment(&format!("row-{no}"), HUB_2)
        }],
    };
    let start = start();
    let answers = sound(import(&mut bench, start.clone(), (1..=5).map(chunk).collect()).await);
    assert_eq!(answers.iter().map(|answer| answer.chunk_no).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert!(answers.iter().all(|answer| answer.created == 2_001 && answer.refused == 0));
    let mapping = bench.get("row-3").await.unwrap();
    assert_eq!((mapping.hub.as_str(), mapping.status()), (HUB_2, v1::MappingStatus::Disabled));
    assert_eq!(mapping.origin(), v1::Origin::Imported);

    // A resumed import sends chunks again that were written: they get their first outcome.
    let again = sound(import(&mut bench, start.clone(), vec![chunk(4), chunk(5), chunk(6)]).await);
    assert_eq!(again[0].header.as_ref().unwrap().revision, answers[3].header.as_ref().unwrap().revision);
    assert_eq!((again[1].created, again[2].created), (2_001, 2_001));
    // Another import of the same rows finds them as they are.
    let anew =
        sound(import(&mut bench, v1::ImportStart { import_id: request_id(), ..start }, vec![chunk(1)]).await);
    assert_eq!((anew[0].created, anew[0].unchanged), (0, 2_001));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn going_on_reports_every_bad_row_with_its_number() {
    let mut bench = Bench::start().await;
    let start = v1::ImportStart { on_error: v1::OnError::Continue as i32, ..start() };
    let bad = rows(
        1,
        [
            assignment("good-0", ""),
            assignment("bad id", ""),
            assignment("good-2", HUB_2),
            assignment("lost", "nowhere.example"),
            assignment("good-0", HUB_2),
            v1::DeviceAssignment { registration_id: "reg".to_owned(), ..assignment("scopeless", "") },
            assignment("good-6", ""),
        ],
    );
    let answers = sound(import(&mut bench, start, vec![bad, rows(2, [assignment("good-7", "")])]).await);
    let errors = row_errors(&answers[0]);
    assert_eq!(errors.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 3, 4, 5]);
    assert!(matches!(errors[0].1, ApiError::Invalid(_)), "{errors:?}");
    assert!(matches!(errors[1].1, ApiError::Rejected(Rejection::Unknown { .. })), "{errors:?}");
    assert!(matches!(errors[2].1, ApiError::Rejected(Rejection::DuplicateInBatch { .. })), "{errors:?}");
    assert!(matches!(errors[3].1, ApiError::Rejected(Rejection::ScopeRequired { .. })), "{errors:?}");
    assert_eq!((answers[0].created, answers[0].refused, answers[1].created), (3, 4, 1));
    assert_eq!(bench.get("good-0").await.unwrap().hub, HUB_1);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_writes_nothing_of_the_chunk_and_nothing_after_it() {
    let mut bench = Bench::start().await;
    let chunks = vec![
        rows(1, [assignment("a", "")]),
        rows(2, [assignment("b", ""), assignment("lost", "nowhere.example")]),
        rows(3, [assignment("c", "")]),
    ];
    let answers = sound(import(&mut bench, start(), chunks).await);
    assert_eq!(answers.len(), 2);
    assert_eq!((answers[1].chunk_no, answers[1].created, answers[1].refused), (2, 0, 1));
    assert_eq!(row_errors(&answers[1])[0].0, 1);
    assert!(bench.get("a").await.is_ok());
    assert!(bench.get("b").await.is_err() && bench.get("c").await.is_err());
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn existing_devices_are_updated_skipped_or_refused_as_asked() {
    let mut bench = Bench::start().await;
    bench.assign("old", HUB_2).await;
    let chunk = || vec![rows(1, [assignment("old", HUB_1), assignment("new", HUB_1)])];
    let how = |if_exists: v1::IfExists| v1::ImportStart {
        if_exists: if_exists as i32,
        on_error: v1::OnError::Continue as i32,
        ..start()
    };
    let skipped = sound(import(&mut bench, how(v1::IfExists::Skip), chunk()).await);
    assert_eq!((skipped[0].created, skipped[0].skipped, skipped[0].refused), (1, 1, 0));
    let before = rounds(&bench).await;
    let again = sound(import(&mut bench, how(v1::IfExists::Skip), chunk()).await);
    assert_eq!((again[0].created, again[0].skipped), (0, 2));
    assert!(rounds(&bench).await > before, "a quorum confirms what exists");
    let refused = sound(import(&mut bench, how(v1::IfExists::Fail), chunk()).await);
    assert_eq!((refused[0].created, refused[0].skipped, refused[0].refused), (0, 0, 2));
    assert_eq!(bench.get("old").await.unwrap().hub, HUB_2);
    let updated = sound(import(&mut bench, how(v1::IfExists::Update), chunk()).await);
    assert_eq!((updated[0].moved, updated[0].unchanged), (1, 1));
    assert_eq!(bench.get("old").await.unwrap().hub, HUB_1);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_hub_takes_what_fits_and_refuses_the_rest() {
    let mut bench = Bench::start().await;
    let capacity = v1::DesiredCapacity { soft: None, hard: Some(v1::DesiredLimit { devices: Some(60) }) };
    let hub =
        v1::DesiredHub { name: HUB_1.to_owned(), capacity: Some(capacity), ..v1::DesiredHub::default() };
    let desired = v1::DesiredTopology { hubs: vec![hub], ..v1::DesiredTopology::default() };
    bench.topology.apply(apply(desired)).await.unwrap();
    bench.assign("there", HUB_1).await;
    let start = v1::ImportStart { on_error: v1::OnError::Continue as i32, ..start() };
    let mut devices: Vec<_> = (0..100).map(|n| assignment(&format!("d-{n:03}"), "")).collect();
    devices.insert(0, assignment("there", ""));
    devices.push(assignment("elsewhere", HUB_2));
    let answers = sound(import(&mut bench, start, vec![rows(1, devices)]).await);
    assert_eq!((answers[0].created, answers[0].unchanged, answers[0].refused), (60, 1, 41));
    let errors = row_errors(&answers[0]);
    assert!(errors.iter().all(|(_, error)| matches!(error, ApiError::Rejected(Rejection::Full { .. }))));
    assert_eq!((errors[0].0, errors[40].0), (60, 100));
    assert!(bench.get("d-058").await.is_ok() && bench.get("d-059").await.is_err());
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_full_hubs_in_one_chunk_refuse_no_row_that_fits() {
    let mut bench = Bench::start().await;
    let name = |n: usize| format!("small-{n}.azure-devices.net");
    let hub = |n| v1::DesiredHub {
        name: name(n),
        stamp: Some("prod-1".to_owned()),
        capacity: Some(v1::DesiredCapacity { soft: None, hard: Some(v1::DesiredLimit { devices: Some(1) }) }),
        ..v1::DesiredHub::default()
    };
    let desired = v1::DesiredTopology { hubs: (0..20).map(hub).collect(), ..v1::DesiredTopology::default() };
    bench.topology.apply(apply(desired)).await.unwrap();
    for validate_only in [true, false] {
        let start = v1::ImportStart { on_error: v1::OnError::Continue as i32, validate_only, ..start() };
        let mut devices: Vec<_> = (0..40).map(|n| assignment(&format!("d-{n}"), &name(n / 2))).collect();
        devices.push(assignment("elsewhere", HUB_2));
        let answers = sound(import(&mut bench, start, vec![rows(1, devices)]).await);
        assert_eq!((answers[0].created, answers[0].refused), (21, 20));
        let errors = row_errors(&answers[0]);
        assert!(errors.iter().all(|(_, error)| matches!(error, ApiError::Rejected(Rejection::Full { .. }))));
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_reports_and_writes_nothing() {
    let mut bench = Bench::start().await;
    let start = v1::ImportStart { validate_only: true, on_error: v1::OnError::Continue as i32, ..start() };
    let chunk = rows(1, [assignment("a", ""), assignment("lost", "nowhere.example")]);
    let answers = sound(import(&mut bench, start, vec![chunk]).await);
    assert_eq!((answers[0].created, answers[0].refused), (1, 1));
    assert!(bench.get("a").await.is_err());
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_rows_under_the_same_import_and_chunk_are_refused() {
    let mut bench = Bench::start().await;
    let start = start();
    sound(import(&mut bench, start.clone(), vec![rows(1, [assignment("a", "")])]).await);
    let answers = import(&mut bench, start, vec![rows(1, [assignment("b", "")])]).await;
    let error = ApiError::from(answers[0].as_ref().unwrap_err());
    assert!(matches!(error, ApiError::Rejected(Rejection::RequestIdReused { .. })), "{error:?}");
    assert!(bench.get("b").await.is_err());
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_import_is_refused() {
    let mut bench = Bench::start().await;
    let no_start = vec![v1::ImportRequest { message: Some(Message::Chunk(rows(1, []))) }];
    let error = bench.devices.import(stream::iter(no_start)).await.unwrap_err();
    assert!(error.message().starts_with("start:"), "{error}");
    let answers = import(&mut bench, start(), vec![rows(1, [assignment("a", "")]), rows(3, [])]).await;
    assert!(answers[0].is_ok());
    assert!(answers[1].as_ref().unwrap_err().message().contains("3 came where 2 was due"), "{answers:?}");
    let many = rows(1, (0..10_001).map(|n| assignment(&n.to_string(), "")));
    let answers = import(&mut bench, start(), vec![many]).await;
    assert!(answers[0].as_ref().unwrap_err().message().contains("10001"), "{answers:?}");
    bench.stop().await;
}
