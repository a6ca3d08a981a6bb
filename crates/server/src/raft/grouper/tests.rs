//! The grouper against a replicator that answers when it is told to.

use std::time::UNIX_EPOCH;

use berth_core::Rejection;
use berth_store::payload::Frame;
use berth_store::raft::log_id;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::*;
use crate::metrics::Metrics;

/// Stamps and commands of entries.
type Entries = Arc<Mutex<Vec<(u64, Vec<Vec<u8>>)>>>;

/// Keeps what it was sent, and answers one entry per permit.
#[derive(Clone)]
struct Replicator {
    entries: Entries,
    permits: Arc<Semaphore>,
}

impl Replicate for Replicator {
    fn replicate(&self, payload: Payload) -> BoxFuture<'static, Result<(LogId, Applied), WriteError>> {
        let Ok(Frame::Commands { stamp_ms, commands }) = payload.frame() else { panic!("not commands") };
        let results = commands.iter().map(|command| refused(command)).collect();
        let index = {
            let mut entries = self.entries.lock();
            entries.push((stamp_ms, commands.iter().map(|command| command.to_vec()).collect()));
            entries.len() as u64
        };
        let permits = Arc::clone(&self.permits);
        Box::pin(async move {
            permits.acquire().await.unwrap().forget();
            Ok((log_id(1, index), Applied { results }))
        })
    }
}

struct Stopped(u64);

impl Clock for Stopped {
    fn now_ms(&self) -> u64 {
        self.0
    }
}

fn refused(command: &[u8]) -> CommandResult {
    Err(Rejection::DeviceUnknown { device: String::from_utf8_lossy(command).into_owned() })
}

fn start(permits: usize) -> (Grouper, Replicator) {
    let replicator = Replicator { entries: Arc::default(), permits: Arc::new(Semaphore::new(permits)) };
    let work = Arc::clone(&Metrics::new(UNIX_EPOCH).work);
    let grouper = Grouper::start(replicator.clone(), Arc::new(Stopped(5)), Arc::new(|| 9), work);
    (grouper, replicator)
}

fn propose(grouper: &Grouper, command: Vec<u8>) -> tokio::task::JoinHandle<Result<Committed, WriteError>> {
    let grouper = grouper.clone();
    tokio::spawn(async move { grouper.propose(command.into()).await })
}

async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_arrives_meanwhile_travels_in_the_next_and_everybody_gets_their_own_answer() {
    let (grouper, replicator) = start(0);
    let first = propose(&grouper, b"first".to_vec());
    until(|| replicator.entries.lock().len() == 1).await;
    let rest: Vec<_> = (0..600).map(|n| propose(&grouper, format!("c{n}").into_bytes())).collect();
    until(|| replicator.entries.lock().len() >= 2).await;
    replicator.permits.add_permits(100);
    assert_eq!(first.await.unwrap().unwrap().result, refused(b"first"));
    for (n, answer) in rest.into_iter().enumerate() {
        assert_eq!(answer.await.unwrap().unwrap().result, refused(format!("c{n}").as_bytes()));
    }
    let entries = replicator.entries.lock().clone();
    assert!(entries.len() <= 5, "601 commands took {} entries", entries.len());
    assert!(entries.iter().all(|(stamp_ms, _)| *stamp_ms == 9), "the state machine's stamp is not undercut");
    until(|| grouper.in_flight() == (0, 0)).await;
}

#[tokio::test]
async fn entries_keep_their_bounds() {
    let (grouper, replicator) = start(1_000);
    let large = vec![1; COMMAND_BYTES_MAX];
    let half = vec![2; FRAME_BYTES_MAX / 2 + 1];
    let all: Vec<_> =
        [large, half.clone(), half.clone(), half].map(|command| propose(&grouper, command)).into();
    let small: Vec<_> = (0..2_500).map(|_| propose(&grouper, b"s".to_vec())).collect();
    for answer in all.into_iter().chain(small) {
        answer.await.unwrap().unwrap();
    }
    for (_, commands) in replicator.entries.lock().iter() {
        let bytes: usize = commands.iter().map(Vec::len).sum();
        assert!(commands.len() <= FRAME_COMMANDS_MAX && (commands.len() == 1 || bytes <= FRAME_BYTES_MAX));
    }
    let too_large = grouper.propose(vec![0; COMMAND_BYTES_MAX + 1].into()).await.unwrap_err();
    assert_eq!(too_large, WriteError::TooLarge(COMMAND_BYTES_MAX + 1));
}

#[tokio::test]
async fn too_much_is_refused_at_once() {
    let (grouper, replicator) = start(0);
    let waiting: Vec<_> = (0..IN_FLIGHT_COMMANDS_MAX).map(|_| propose(&grouper, b"w".to_vec())).collect();
    until(|| grouper.in_flight().0 == IN_FLIGHT_COMMANDS_MAX).await;
    assert_eq!(grouper.propose(Bytes::from_static(b"x")).await.unwrap_err(), WriteError::Overloaded);
    replicator.permits.add_permits(10_000);
    for answer in waiting {
        answer.await.unwrap().unwrap();
    }
    let (grouper, _replicator) = start(0);
    let heavy = vec![0; COMMAND_BYTES_MAX];
    let waiting: Vec<_> =
        (0..IN_FLIGHT_BYTES_MAX / COMMAND_BYTES_MAX).map(|_| propose(&grouper, heavy.clone())).collect();
    until(|| grouper.in_flight().0 == waiting.len()).await;
    assert_eq!(grouper.propose(heavy.into()).await.unwrap_err(), WriteError::Overloaded);
}

#[tokio::test]
async fn commands_behind_stuck_entries_are_refused_and_not_left_in_doubt() {
    let (grouper, replicator) = start(0);
    let mut stuck = Vec::new();
    for entries in 1..=IN_FLIGHT_ENTRIES_MAX {
        stuck.push(propose(&grouper, vec![0; WORTH_BYTES]));
        until(|| replicator.entries.lock().len() == entries).await;
    }
    assert_eq!(grouper.propose(Bytes::from_static(b"late")).await.unwrap_err(), WriteError::NoQuorum);
    assert_eq!(replicator.entries.lock().len(), IN_FLIGHT_ENTRIES_MAX, "it was never sent");
    replicator.permits.add_permits(10);
    for answer in stuck {
        answer.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn whoever_gave_up_before_sending_is_not_sent() {
    let (grouper, replicator) = start(0);
    let mut stuck = Vec::new();
    for entries in 1..=IN_FLIGHT_ENTRIES_MAX {
        stuck.push(propose(&grouper, vec![0; WORTH_BYTES]));
        until(|| replicator.entries.lock().len() == entries).await;
    }
    let given_up = propose(&grouper, b"given up".to_vec());
    until(|| grouper.in_flight().0 == IN_FLIGHT_ENTRIES_MAX + 1).await;
    given_up.abort();
    let _ = given_up.await;
    replicator.permits.add_permits(10);
    for answer in stuck {
        answer.await.unwrap().unwrap();
    }
    until(|| grouper.in_flight().0 == 0).await;
    assert_eq!(replicator.entries.lock().len(), IN_FLIGHT_ENTRIES_MAX);
}
