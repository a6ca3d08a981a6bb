//! Bad surroundings of `berth`, as real processes: a port in use, damaged files, a directory in use, a disk without
//! room. Each ends in one clear sentence and an exit code, and nothing acknowledged is lost.

mod commands;
mod mount;
mod refusals;
mod space;

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use berth_tests::process::PATIENCE;

use crate::common::binary;

/// Between two looks at a process that is to end.
const POLL: Duration = Duration::from_millis(10);

/// Exit codes, as the manual tells them.
const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const UNAVAILABLE: i32 = 4;

/// How a process ended, and what it said.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs `berth` with these words to its end.
fn berth<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> Ended {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    let file = |path| File::create(path).expect("a file for what it says");
    let mut child = Command::new(binary())
        .args(words)
        .stdin(Stdio::null())
        .stdout(file(&out))
        .stderr(file(&err))
        .spawn()
        .expect("berth starts");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().expect("a child of ours can be asked for") {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => {
                child.kill().expect("a child of ours can be killed");
                child.wait().expect("a killed child can be waited for");
                break None;
            }
            None => std::thread::sleep(POLL),
        }
    };
    let read = |path| fs::read_to_string(path).expect("what it says is text");
    Ended { code: status.and_then(|status| status.code()), out: read(&out), err: read(&err) }
}

/// Checks that a process refused with this exit code, and that the last it said is one sentence that tells all of
/// `facts`.
fn refused(what: &str, code: i32, told: Option<i32>, err: &str, facts: &[&str]) {
    assert_eq!(told, Some(code), "{what}: {err}");
    assert!(!err.contains("panicked"), "{what}: {err}");
    let sentences: Vec<&str> = err.lines().filter(|line| line.starts_with("berth: ")).collect();
    let [sentence] = sentences[..] else { panic!("{what}: {} sentences: {err}", sentences.len()) };
    assert_eq!(err.lines().next_back(), Some(sentence), "{what}: the sentence is the last word");
    for fact in facts {
        assert!(sentence.contains(fact), "{what} does not tell `{fact}`: {sentence}");
    }
}
