//! A server that cannot start says why in one sentence, exits with 1, and leaves what it found as it was.

use std::fs;
use std::path::{Path, PathBuf};

use berth_tests::load::{Caller, Load, read_at};
use berth_tests::process::{
    Cluster, Health, Tuning, copy_dir, eventually, files_below, flip_bit, pages_dirs,
};
use rand::RngExt;

use super::mount::Small;
use super::{REFUSED, berth, refused};
use crate::common::binary;

/// Writes after which the log no longer begins at its beginning.
const WRITES: u64 = 800;

/// The words of a server that listens anywhere and keeps its data in `dir`.
fn server(dir: &Path) -> Vec<String> {
    let mut words = vec!["server".to_owned(), "--data-dir".to_owned(), dir.display().to_string()];
    for flag in ["--listen", "--peer-listen", "--http-listen"] {
        words.extend([flag.to_owned(), "127.0.0.1:0".to_owned()]);
    }
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_or_a_directory_in_use() {
    let mut cluster = Cluster::start(binary(), 1, Tuning::default());
    cluster.all_ready().await;
    let node = &cluster.nodes()[0];
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for (place, addr) in [(4, node.client), (6, node.peer), (8, node.http)] {
        let mut words = server(&data);
        words[place] = addr.to_string();
        let ended = berth(&words);
        let facts = ["cannot listen on", &addr.to_string(), "the port is in use"];
        refused(&words[place - 1], REFUSED, ended.code, &ended.err, &facts);
        assert!(!data.exists(), "something was written before the port was had");
    }
    let taken = node.data_dir.display().to_string();
    let ended = berth(&server(&node.data_dir));
    refused("a directory in use", REFUSED, ended.code, &ended.err, &[&taken, "in use by another process"]);
    assert!(cluster.healthy(0, Health::Read).await, "the first was disturbed");
    assert!(cluster.runs(0));
}

/// Places where no data directory can be.
#[test]
fn a_directory_that_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    for data in [file.clone(), file.join("below")] {
        let ended = berth(&server(&data));
        refused(
            "a file in its place",
            REFUSED,
            ended.code,
            &ended.err,
            &["cannot create", &data.display().to_string()],
        );
    }
    if let Some(small) = Small::mount(4) {
        small.make_read_only();
        let ended = berth(&server(&small.data_dir()));
        refused(
            "a read-only disk",
            REFUSED,
            ended.code,
            &ended.err,
            &["cannot create", "Read-only file system"],
        );
    }
}

/// A node alone, with checkpoints behind it and a log that no longer begins at its beginning. It does not run.
struct Kept {
    cluster: Cluster,
    data: PathBuf,
    whole: PathBuf,
}

impl Kept {
    async fn new() -> Self {
        let seed = rand::rng().random();
        println!("seed {seed}");
        let mut cluster =
            Cluster::start(binary(), 1, Tuning { checkpoint_mib_per_second: 0, ..Tuning::default() });
        cluster.all_ready().await;
        let load = Load::start(cluster.endpoints(), seed).await;
        let enough = eventually(|| async {
            let purged = cluster.metric(0, "berth_raft_purged_index").unwrap_or(0);
            (load.accepted() > WRITES && purged > 0).then_some(())
        });
        assert!(enough.await.is_some(), "the log is never purged\n{}", cluster.logs());
        load.finish().await;
        assert!(cluster.stop(0).success());
        let data = cluster.nodes()[0].data_dir.clone();
        let whole = data.with_extension("whole");
        copy_dir(&data, &whole);
        Self { cluster, data, whole }
    }

    /// Starts the node on its damaged directory, which has to be refused; then puts the directory back.
    fn refuses(&mut self, what: &str, facts: &[&str]) {
        self.cluster.clear_log(0);
        self.cluster.spawn(0);
        let ended = self.cluster.wait_for_exit(0);
        let code = ended.unwrap_or_else(|| panic!("{what}: it does not end\n{}", self.cluster.logs())).code();
        refused(what, REFUSED, code, &self.cluster.log(0), facts);
        copy_dir(&self.whole, &self.data);
    }

    /// Starts the node, which has to serve what it had; then stops it and puts the directory back.
    async fn serves(&mut self, what: &str) {
        self.cluster.clear_log(0);
        self.cluster.spawn(0);
        self.cluster.ready(0, Health::Read).await;
        let caller = Caller::new(&self.cluster.endpoints());
        let devices: Vec<u32> = (0..200).collect();
        let answer = eventually(|| caller.look_up(0, &devices, read_at::linearizable())).await;
        let (_, seen) = answer.unwrap_or_else(|| panic!("{what}: no answer\n{}", self.cluster.logs()));
        assert!(seen.iter().all(Option::is_some), "{what}: devices are lost");
        self.cluster.recount(0).await;
        assert!(self.cluster.stop(0).success(), "{what}");
        copy_dir(&self.whole, &self.data);
    }
}

/// Turns a bit in the middle of a file.
fn damage(file: &Path) {
    flip_bit(file, fs::metadata(file).unwrap().len() * 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_files() {
    let mut kept = Kept::new().await;
    let data = kept.data.clone();

    damage(&data.join("IDENTITY"));
    kept.refuses("a damaged IDENTITY", &["IDENTITY", "is damaged", "--join"]);
    fs::write(data.join("IDENTITY"), "").unwrap();
    kept.refuses("an empty IDENTITY", &["IDENTITY", "is damaged", "--join"]);

    let logs: Vec<PathBuf> = files_below(&data.join("log"))
        .into_iter()
        .filter(|file| file.extension().is_some_and(|e| e == "wal"))
        .collect();
    damage(&logs[0]);
    kept.refuses("a damaged log", &["the Raft log in", "is damaged", "must not vote again", "--join"]);
    fs::remove_dir_all(data.join("log")).unwrap();
    kept.refuses("a missing log", &["its Raft log is empty", "must not vote again", "--join"]);

    // One pages directory can only be the one in force; with two of them nobody knows, and the log has been purged.
    damage(&data.join("CURRENT"));
    kept.serves("a damaged CURRENT beside one pages directory").await;
    let (named, others) = pages_dirs(&data);
    assert_eq!((named.len(), others.len()), (1, 0), "{named:?} {others:?}");
    let other = data.join("pages-77");
    copy_dir(&data.join(&named[0]), &other);
    damage(&data.join("CURRENT"));
    kept.refuses(
        "a damaged CURRENT beside two",
        &["DATA_LOSS", "CURRENT is damaged", "does not start empty"],
    );
    kept.serves("the directory as it was").await;
}
