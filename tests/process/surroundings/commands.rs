//! Commands whose surroundings are bad: each says so in one sentence, and with the exit code that scripts rely on.

use std::fs;

use super::{REFUSED, UNAVAILABLE, USAGE, berth, refused};
use crate::common::binary;

/// An address at which nobody listens: it was free a moment ago, on a loopback address of this process alone.
fn nobody() -> String {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let listener =
        std::net::TcpListener::bind((std::net::Ipv4Addr::new(127, 250, high, low.clamp(1, 254)), 0)).unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn nobody_there() {
    let addr = nobody();
    for words in [
        &["lookup", "device-1"][..],
        &["device", "get", "device-1"],
        &["cluster", "status"],
        &["stamp", "list"],
    ] {
        let words = [words, &["--endpoints", &addr, "--timeout", "500ms"]].concat();
        let ended = berth(&words);
        refused(words[0], UNAVAILABLE, ended.code, &ended.err, &[&addr]);
        assert!(ended.out.is_empty(), "{words:?}: {}", ended.out);
    }
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.toml").display().to_string();
    let ended = berth(&["apply", "-f", &missing]);
    refused(
        "a missing topology",
        REFUSED,
        ended.code,
        &ended.err,
        &["cannot read", &missing, "No such file"],
    );
    let broken = dir.path().join("broken.toml").display().to_string();
    fs::write(&broken, "[[stamps]]\nname = \n").unwrap();
    let ended = berth(&["apply", "-f", &broken]);
    refused("a broken topology", REFUSED, ended.code, &ended.err, &[&broken, "line 2"]);
    let ended = berth(&["import", &missing]);
    refused("a missing import", REFUSED, ended.code, &ended.err, &[&missing, "No such file"]);

    for (name, text, facts) in [
        ("a missing configuration", None, "No such file"),
        ("a broken configuration", Some("listen = \n"), "line 1"),
        ("an unknown setting", Some("lisen = \"127.0.0.1:0\"\n"), "lisen"),
        ("an impossible setting", Some("listen = \"nowhere\"\n"), "nowhere"),
    ] {
        let config = dir.path().join(format!("{}.toml", name.replace(' ', "-")));
        if let Some(text) = text {
            fs::write(&config, text).unwrap();
        }
        let ended = berth(&["server", "--config", config.to_str().unwrap()]);
        assert_eq!(ended.code, Some(USAGE), "{name}: {}", ended.err);
        assert!(ended.err.starts_with("berth: ") && ended.err.contains(facts), "{name}: {}", ended.err);
        assert!(!ended.err.contains("panicked"), "{name}: {}", ended.err);
    }
}

/// Whoever reads the output has gone: that is no failure, and nothing to talk about.
#[test]
fn a_reader_that_went_away() {
    let mut child = std::process::Command::new(binary())
        .args(["completions", "bash"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    let err = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(0), "{err}");
    assert!(err.is_empty(), "{err}");
}

/// A disk without room for what a command writes.
#[test]
fn an_output_that_cannot_be_written() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = std::process::Command::new(binary())
        .args(["completions", "bash"])
        .stdin(std::process::Stdio::null())
        .stdout(full)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    let err = String::from_utf8(ended.stderr).unwrap();
    refused("completions", REFUSED, ended.status.code(), &err, &["cannot write the result", "No space left"]);
}
