use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;

use super::*;

/// Bytes of one entry, and how many: enough that writing them takes longer than looking at the file.
const ENTRY_BYTES: usize = 2 * 1024 * 1024;
const ENTRIES: u64 = 8;

/// What a process killed at the moment of the acknowledgement leaves behind has all that was acknowledged.
#[test]
fn an_acknowledged_append_is_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut log = open(dir.path());
        log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
        append(&mut log, vec![entry(0)]).await;
        let before = std::fs::metadata(only_file(dir.path())).unwrap().len();
        let (done, acknowledged) = BerthConfig::oneshot();
        let large = (1..=ENTRIES).map(|index| {
            let command = bytes::Bytes::from(vec![index as u8; ENTRY_BYTES]);
            Entry {
                log_id: log_id(1, index),
                payload: EntryPayload::Normal(Payload::commands(index, &[command]).unwrap()),
            }
        });
        log.append(large.collect::<Vec<_>>(), IOFlushed::signal(done)).await.unwrap();
        acknowledged.await.unwrap().unwrap();
        let after = std::fs::metadata(only_file(dir.path())).unwrap().len();
        let written = after - before;
        assert!(written >= ENTRIES * ENTRY_BYTES as u64, "acknowledged with {written} bytes in the file");
    });
}
