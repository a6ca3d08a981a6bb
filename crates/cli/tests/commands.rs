//! The command line against a node in this process, over real TCP: what it prints, and how it exits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "commands/emulator.rs"]
mod emulator;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_server::config::{Config, Settings};
use berth_server::health::Serving;
use berth_server::run::{Injected, Node};
use serde_json::Value;
use tokio::runtime::Runtime;

const CANARY: &str = "Q0FOQVJZLWtleS10aGF0LW11c3QtbmV2ZXItYXBwZWFy";
/// A node alone serves within a second or two; a test that waits longer says so instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster of one, and a folder for files.
struct Stage {
    runtime: Runtime,
    node: Option<Node>,
    endpoint: String,
    folder: tempfile::TempDir,
}

/// What a command did.
struct Ran {
    code: u8,
    out: String,
    err: String,
}

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Page {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let settings = Settings {
            data_dir: Some(folder.path().join("data")),
            listen: Some("127.0.0.1:0".to_owned()),
            peer_listen: Some("127.0.0.1:0".to_owned()),
            http_listen: Some("127.0.0.1:0".to_owned()),
            ..Settings::default()
        };
        let config = Config::from_settings([settings]).unwrap();
        let node = runtime.block_on(async {
            let node = Node::start(config, Injected::default()).await.unwrap();
            for mut health in [node.health().watch_read(), node.health().watch_write()] {
                let serves = health.wait_for(|serving| *serving == Serving::Yes);
                tokio::time::timeout(PATIENCE, serves).await.expect("the node serves in time").unwrap();
            }
            node
        });
        let endpoint = node.addresses().client.to_string();
        Self { runtime, node: Some(node), endpoint, folder }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Runs `berth` with these words.
    fn berth(&self, words: &[&str]) -> Ran {
        berth_at(&self.endpoint, words)
    }

    /// Runs `berth … --output json`, which has to go well, and reads what it prints.
    fn json(&self, words: &[&str]) -> Value {
        let mut all = words.to_vec();
        all.extend(["--output", "json"]);
        let ran = self.berth(&all);
        assert_eq!(ran.code, 0, "{words:?}: {}", ran.err);
        serde_json::from_str(&ran.out)
            .unwrap_or_else(|e| panic!("{words:?} printed no JSON ({e}): {}", ran.out))
    }

    /// Runs `berth`, which has to refuse with this exit code and one sentence that tells all of `facts`.
    fn refused(&self, code: u8, words: &[&str], facts: &[&str]) {
        let ran = self.berth(words);
        assert_eq!(ran.code, code, "{words:?}: {}{}", ran.out, ran.err);
        assert!(ran.err.starts_with("berth: ") && ran.err.lines().count() == 1, "{words:?}: {}", ran.err);
        for fact in facts {
            assert!(ran.err.contains(fact), "{words:?} does not tell `{fact}`: {}", ran.err);
        }
    }

    fn with_topology() -> Self {
        let stage = Self::new();
        let file = stage.file(
            "topology.toml",
            "[[stamps]]\nname = \"prod-1\"\n[[hubs]]\nname = \"h1.example\"\nstamp = \"prod-1\"\n[[hubs]]\n\
             name = \"h2.example\"\nstamp = \"prod-1\"\ncapacity = { hard = 3 }\n",
        );
        let ran = stage.berth(&["apply", "-f", &file]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        stage
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            let _ = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, node.shutdown()).await });
        }
    }
}

fn berth_at(endpoint: &str, words: &[&str]) -> Ran {
    let (out, err) = (Page::default(), Page::default());
    let mut all = vec!["berth"];
    all.extend(words);
    all.extend(["--endpoints", endpoint]);
    let code = berth::run_with(all, Box::new(out.clone()), Box::new(err.clone()));
    Ran { code, out: out.text(), err: err.text() }
}

#[test]
fn a_topology_is_applied_once_and_then_as_described() {
    let stage = Stage::new();
    let file = stage.file(
        "t.yaml",
        "stamps:\n  - name: a\n    capacity: { soft: 5 }\nhubs:\n  - { name: h.x, stamp: a }\n",
    );
    let dry = stage.berth(&["apply", "-f", &file, "--dry-run"]);
    assert_eq!(dry.code, 0, "{}", dry.err);
    assert!(dry.out.contains("+ stamp a") && dry.out.contains("2 objects would change"), "{}", dry.out);
    assert_eq!(stage.json(&["stamp", "list"]), serde_json::json!([]));
    let applied = stage.json(&["apply", "-f", &file]);
    assert_eq!(applied["changes"].as_array().unwrap().len(), 2);
    let again = stage.berth(&["apply", "-f", &file]);
    assert_eq!(again.code, 0, "{}", again.err);
    assert!(again.out.contains("Nothing to change"), "{}", again.out);
    assert_eq!(stage.json(&["stamp", "get", "a"])["capacity"]["soft"], 5);
    assert_eq!(stage.json(&["hub", "get", "h.x"])["stamp"], "a");

    let wrong = stage.file("w.toml", "[[stamps]]\nname = \"a\"\nlables = {}\n");
    stage.refused(1, &["apply", "-f", &wrong], &["line 3"]);
}

#[test]
fn a_report_is_answered_with_the_mapping_to_use_next() {
    let stage = Stage::with_topology();
    let made = stage.json(&["device", "assign", "pump-1", "--hub", "h1.example"]);
    let old = made["epoch"].as_u64().unwrap().to_string();
    let epoch = stage.json(&["device", "assign", "pump-1", "--hub", "h2.example"])["epoch"]
        .as_u64()
        .unwrap()
        .to_string();
    let report = |hub: &str, epoch: &str, observed: &str| {
        stage.json(&["report", "pump-1", "--hub", hub, "--epoch", epoch, "--observed", observed])
    };
    let stale = report("h1.example", &old, "not-found");
    assert_eq!((&stale["finding"], &stale["hub"]), (&Value::from("STALE"), &Value::from("h2.example")));
    assert_eq!(report("h2.example", &epoch, "offline")["finding"], "NOTHING_TO_CHECK");
    // Nobody can be asked about a device without a scope.
    let unsure = report("h2.example", &epoch, "not-found");
    assert_eq!(
        (&unsure["finding"], &unsure["hub"]),
        (&Value::from("NOT_VERIFIED"), &Value::from("h2.example"))
    );
    assert!(unsure["problem"].as_str().unwrap().contains("scope"), "{unsure}");
    let table =
        stage.berth(&["report", "pump-1", "--hub", "h2.example", "--epoch", &epoch, "--observed", "ok"]);
    assert!(table.out.contains("FINDING") && table.out.contains("NOTHING_TO_CHECK"), "{}", table.out);
    let ahead = ["report", "pump-1", "--hub", "h2.example", "--epoch", "99999", "--observed", "not-found"];
    stage.refused(1, &ahead, &["99999", &epoch]);
    let nobody = ["report", "nobody", "--hub", "h2.example", "--epoch", "1", "--observed", "not-found"];
    stage.refused(3, &nobody, &["nobody"]);
}

#[test]
fn operators_see_what_may_be_asked_of_azure_and_that_nothing_disagrees() {
    let stage = Stage::with_topology();
    stage.json(&["device", "assign", "pump-1", "--hub", "h1.example"]);
    // Nobody can be asked about a device without a scope.
    let ran = stage.berth(&["reconcile", "device", "pump-1", "--output", "json"]);
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &told["finding"]), (1, &Value::from("NOT_VERIFIED")), "{told}");
    assert_eq!(told["mapping"]["hub"], "h1.example");
    let table = stage.berth(&["reconcile", "device", "pump-1"]);
    assert!(table.out.contains("PROBLEM") && table.out.contains("NOT_VERIFIED"), "{}", table.out);
    assert_eq!(stage.json(&["reconcile", "drift", "--class", "wrong-hub"]), serde_json::json!([]));
    stage.refused(3, &["reconcile", "drift", "--scope", "0ne9"], &["0ne9"]);
    stage.refused(3, &["reconcile", "resolve", "pump-1", "--adopt"], &["pump-1", "disagreement"]);
    stage.refused(3, &["reconcile", "resolve", "pump-1", "--dismiss"], &["pump-1"]);
    assert_eq!(stage.berth(&["reconcile", "resolve", "pump-1"]).code, 2);
    assert_eq!(stage.berth(&["reconcile", "drift", "--class", "big"]).code, 2);
    let budgets = stage.json(&["reconcile", "budget"]);
    let names: Vec<_> = budgets.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["h1.example", "h2.example"]);
    assert_eq!((&budgets[0]["kind"], &budgets[0]["per_minute"]), (&Value::from("HUB"), &Value::from(60)));
    assert_eq!(stage.json(&["reconcile", "budget", "--hub", "h2.example"]).as_array().unwrap().len(), 1);
    // Without credentials nothing can be listed, and the sweep says so.
    stage.refused(3, &["reconcile", "sweep", "--status"], &["no sweep"]);
    let plan = stage.json(&["reconcile", "sweep", "--dry-run"]);
    assert_eq!((plan["calls"].as_u64(), plan["plan"].as_array().unwrap().len()), (Some(2), 2), "{plan}");
    let ran = stage.berth(&["reconcile", "sweep", "--watch", "--output", "json"]);
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &told["state"]), (1, &Value::from("INCOMPLETE")), "{told}");
    assert_eq!(told["problems"].as_array().unwrap().len(), 2, "{told}");
    assert_eq!(stage.json(&["reconcile", "sweep", "--status"])["number"], 1);
    assert_eq!(stage.berth(&["reconcile", "resolve", "pump-1", "--enforce"]).code, 3);
}

#[test]
fn devices_are_assigned_looked_up_moved_listed_and_removed() {
    let stage = Stage::with_topology();
    let made = stage.json(&[
        "device",
        "assign",
        "pump-1",
        "--hub",
        "h1.example",
        "--label",
        "ring=1",
        "--if-absent",
    ]);
    assert_eq!(made["created"], true);
    let epoch = made["epoch"].as_u64().unwrap();
    let found = stage.json(&["lookup", "pump-1"]);
    assert_eq!((found["hub"].as_str(), found["epoch"].as_u64()), (Some("h1.example"), Some(epoch)));

    stage.refused(1, &["device", "assign", "pump-1", "--hub", "h2.example", "--if-absent"], &["pump-1"]);
    stage.refused(
        1,
        &["device", "assign", "pump-1", "--hub", "h2.example", "--if-epoch", "99999"],
        &["99999", &epoch.to_string()],
    );
    assert_eq!(stage.json(&["lookup", "pump-1"])["hub"], "h1.example", "what is refused changes nothing");
    let moved =
        stage.json(&["device", "assign", "pump-1", "--hub", "h2.example", "--if-epoch", &epoch.to_string()]);
    assert_eq!((&moved["epoch"], &moved["moved"]), (&Value::from(epoch + 1), &Value::from(true)));
    // The token is of the move, so that an older answer would not do.
    let token = moved["header"]["token"].as_str().unwrap().to_owned();
    for level in ["local", "bounded:5s", &format!("at-least:{token}")] {
        assert_eq!(stage.json(&["lookup", "pump-1", "--consistency", level])["hub"], "h2.example", "{level}");
    }

    assert_eq!(stage.berth(&["lookup", "nobody"]).code, 3);
    let both = stage.berth(&["lookup", "nobody", "pump-1", "--output", "jsonl"]);
    assert_eq!(both.code, 3);
    let rows: Vec<Value> = both.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = rows.iter().map(|row| (row["device_id"].as_str(), row["hub"].as_str())).collect();
    assert_eq!(told, [(Some("nobody"), None), (Some("pump-1"), Some("h2.example"))]);
    stage.refused(3, &["device", "assign", "pump-2", "--hub", "nowhere.example"], &["nowhere.example"]);
    stage.refused(1, &["device", "assign", "pump 2", "--hub", "h1.example"], &["`pump 2`"]);

    let listed = stage.json(&["device", "list", "--label", "ring=1"]);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["labels"]["ring"], "1");
    assert_eq!(stage.json(&["device", "list", "--label", "ring=2"]), serde_json::json!([]));
    assert_eq!(stage.json(&["device", "remove", "pump-1"])["epoch"], epoch + 1);
    stage.refused(3, &["device", "get", "pump-1"], &["pump-1"]);
    let anew = stage.json(&["device", "assign", "pump-1", "--hub", "h1.example", "--if-absent"]);
    assert!(anew["epoch"].as_u64().unwrap() > epoch + 1, "an epoch never comes again: {anew}");
}

#[test]
fn an_export_file_of_a_hub_is_imported_and_what_is_exported_can_be_imported() {
    let stage = Stage::with_topology();
    let mut text = String::new();
    for no in 0..5_000 {
        let status = if no % 100 == 7 { "disabled" } else { "enabled" };
        text.push_str(&format!(
            "{{\"id\":\"dev-{no:04}\",\"eTag\":\"MQ==\",\"status\":\"{status}\",\"authentication\":{{\"symmetricKey\":\
             {{\"primaryKey\":\"{CANARY}\",\"secondaryKey\":\"{CANARY}\"}},\"type\":\"sas\"}},\"tags\":{{\"ring\":{}}}}}\r\n",
            no % 3
        ));
    }
    text.push_str(&format!("{{\"id\":\"bad id\",\"authentication\":\"{CANARY}\"}}\n"));
    let file = stage.file("devices.txt", &text);
    let stopped = stage.berth(&["import", &file, "--format", "iothub", "--hub", "h1.example"]);
    assert_eq!(stopped.code, 1);
    assert!(stopped.err.contains("line 5001") && stopped.err.contains("--from-chunk 3"), "{}", stopped.err);
    let devices = |stage: &Stage| stage.json(&["cluster", "status"])["devices"].as_u64();
    assert_eq!(devices(&stage), Some(4_000), "the chunks before the one with the bad line are written");
    let words = [
        "import",
        &file,
        "--format",
        "iothub",
        "--hub",
        "h1.example",
        "--label-tag",
        "ring",
        "--on-error",
        "continue",
    ];
    let went = stage.berth(&[words.as_slice(), &["--output", "json"]].concat());
    assert_eq!(went.code, 1, "a bad line is told by the exit code");
    let summary: Value = serde_json::from_str(&went.out).unwrap();
    assert_eq!(summary["lines"], 5_001);
    assert_eq!(summary["bad"], 1);
    assert_eq!(summary["bad_lines"][0]["line"], 5_001);
    assert_eq!(summary["created"], 1_000, "the others were there from the first time: {summary}");
    assert_eq!(devices(&stage), Some(5_000));
    for told in [&stopped.out, &stopped.err, &went.out, &went.err] {
        assert!(!told.contains(CANARY));
    }
    let disabled = stage.json(&["device", "list", "--status", "disabled"]);
    assert_eq!(disabled.as_array().unwrap().len(), 50);
    assert_eq!(stage.berth(&["lookup", "dev-0007"]).code, 1, "a disabled device has no hub to call");
    let found = stage.json(&["device", "get", "dev-0004"]);
    assert_eq!((found["labels"]["ring"].as_str(), found["origin"].as_str()), (Some("1"), Some("IMPORTED")));

    for format in ["csv", "jsonl"] {
        let out = stage.folder.path().join(format!("out.{format}")).display().to_string();
        let exported = stage.json(&["export", "--out", &out, "--format", format]);
        assert_eq!(exported["devices"], 5_000);
        let again = stage.json(&["import", &out, "--format", format]);
        assert_eq!((again["unchanged"].as_u64(), again["bad"].as_u64()), (Some(5_000), Some(0)), "{format}");
        assert!(!has_bytes(Path::new(&out), CANARY.as_bytes()), "{format}");
    }
    assert!(has_bytes(&stage.folder.path().join("data"), b"dev-0004"), "the search finds what is stored");
    assert!(!has_bytes(&stage.folder.path().join("data"), CANARY.as_bytes()), "a key is on disk");
}

/// True where a file, or one anywhere in a folder, holds these bytes.
fn has_bytes(path: &Path, bytes: &[u8]) -> bool {
    if path.is_dir() {
        return std::fs::read_dir(path).unwrap().any(|entry| has_bytes(&entry.unwrap().path(), bytes));
    }
    std::fs::read(path).unwrap().windows(bytes.len()).any(|window| window == bytes)
}

#[test]
fn a_dry_run_tells_every_bad_line_and_writes_nothing() {
    let stage = Stage::with_topology();
    let file = stage.file(
        "d.csv",
        "device_id,hub\na,h2.example\nb,nowhere.example\nc c,h1.example\nd,h2.example\ne,h1.example,x\n",
    );
    let ran = stage.berth(&["import", &file, "--dry-run", "--output", "json"]);
    assert_eq!(ran.code, 1);
    let summary: Value = serde_json::from_str(&ran.out).unwrap();
    let mut lines: Vec<u64> =
        summary["bad_lines"].as_array().unwrap().iter().map(|bad| bad["line"].as_u64().unwrap()).collect();
    lines.sort_unstable();
    assert_eq!(lines, [3, 4, 6], "{summary}");
    assert_eq!((&summary["lines"], &summary["bad"]), (&Value::from(5), &Value::from(3)), "{summary}");
    assert_eq!(stage.json(&["device", "list"]), serde_json::json!([]));
}

#[test]
fn a_lookup_of_many_registrations_tells_of_each() {
    let stage = Stage::with_topology();
    assert_eq!(stage.berth(&["scope", "create", "0ne1"]).code, 0);
    for (device, status) in [("a", "assigned"), ("b", "disabled"), ("c", "assigned"), ("e", "enrolling")] {
        let words =
            ["device", "assign", device, "--hub", "h1.example", "--scope", "0ne1", "--status", status];
        let ran = stage.berth(&words);
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    let words =
        ["lookup", "--registration-id", "--scope", "0ne1", "a", "b", "nobody", "c", "--output", "jsonl"];
    let ran = stage.berth(&words);
    assert_eq!(ran.code, 3, "{}", ran.err);
    let rows: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = rows.iter().map(|row| row["status"].as_str().unwrap()).collect();
    assert_eq!(told, ["ASSIGNED", "DISABLED", "UNKNOWN", "ASSIGNED"]);
    stage.refused(3, &["lookup", "--registration-id", "--scope", "0ne9", "a", "c"], &["0ne9"]);
    assert_eq!(stage.berth(&["lookup", "e"]).code, 1, "as its help says");
    assert_eq!(stage.berth(&["lookup", "b"]).code, 1);

    let file = stage.folder.path().join("all.jsonl").display().to_string();
    assert_eq!(stage.berth(&["export", "--out", &file]).code, 0);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count(), 4, "{text}");
}

#[test]
fn every_bad_line_of_a_file_is_told_with_its_number() {
    const LINES: usize = 4_300;
    let stage = Stage::with_topology();
    let row = |n: usize| match n % 2 {
        0 => format!("device-{n},nowhere.example\n"),
        _ => format!("device {n},h1.example\n"),
    };
    let text: String = std::iter::once("device_id,hub\n".to_owned()).chain((0..LINES).map(row)).collect();
    let file = stage.file("bad.csv", &text);
    let ran = stage.berth(&["import", &file, "--on-error", "continue", "--output", "json"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let told: std::collections::BTreeSet<usize> = ran
        .err
        .lines()
        .filter_map(|line| line.strip_prefix("line ")?.split_once(':')?.0.parse().ok())
        .collect();
    assert_eq!(told, (2..LINES + 2).collect());
    let summary: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(summary["bad"], LINES);
    assert_eq!(summary["bad_lines"].as_array().unwrap().len(), 1_000);
}

#[test]
fn full_hubs_and_closed_ones_refuse_with_one_sentence() {
    let stage = Stage::with_topology();
    for no in 0..3 {
        stage.json(&["device", "assign", &format!("d{no}"), "--hub", "h2.example"]);
    }
    stage.refused(
        1,
        &["device", "assign", "d3", "--hub", "h2.example"],
        &["`h2.example` is full", "3 devices and 0 reserved of 3"],
    );
    let cordoned = stage.json(&["hub", "cordon", "h1.example", "--reason", "maintenance"]);
    assert_eq!((&cordoned["state"], &cordoned["changed"]), (&Value::from("CORDONED"), &Value::from(true)));
    assert_eq!(stage.json(&["hub", "cordon", "h1.example"])["changed"], false);
    stage.refused(1, &["device", "assign", "d3", "--hub", "h1.example"], &["`h1.example`", "CORDONED"]);
    stage.refused(1, &["suggest"], &["no hub has room"]);
    stage.json(&["hub", "uncordon", "h1.example"]);
    assert_eq!(stage.json(&["suggest"])["placements"][0]["hub"], "h1.example");
    let used = stage.json(&["capacity"]);
    let hub = used["hubs"].as_array().unwrap().iter().find(|hub| hub["name"] == "h2.example").unwrap();
    assert_eq!((hub["devices"].as_u64(), hub["headroom"].as_u64()), (Some(3), Some(0)));
    stage.refused(1, &["hub", "delete", "h2.example"], &["in use: 3 devices"]);
    stage.refused(2, &["hub", "update", "h2.example"], &["nothing to change"]);
    stage.json(&["hub", "update", "h2.example", "--hard", "unlimited"]);
    assert_eq!(stage.json(&["hub", "get", "h2.example"])["capacity"]["hard"], Value::Null);
    stage.json(&["route", "create", "contoso.example", "--stamp", "prod-1"]);
    assert_eq!(stage.json(&["route", "lookup", "contoso.example"])["stamp"], "prod-1");
    assert_eq!(stage.berth(&["route", "lookup", "other.example"]).code, 3);
}

/// An object of a kind: what its creation adds to the words, what a change adds, and where the change is seen.
struct Object {
    kind: &'static str,
    name: &'static str,
    new: &'static [&'static str],
    change: &'static [&'static str],
    field: &'static str,
    changed: Value,
}

impl Object {
    /// How many of its kind in a list have its name.
    fn count(&self, stage: &Stage) -> usize {
        let list = stage.json(&[self.kind, "list"]);
        let names = list.as_array().unwrap().iter().filter_map(|row| row.get("name").or(row.get("key")));
        names.filter(|name| *name == self.name).count()
    }

    /// Plays its life, from a creation that is only tried to a deletion.
    fn live(&self, stage: &Stage) {
        let Self { kind, name, .. } = *self;
        let create = [[kind, "create", name].as_slice(), self.new].concat();
        let told = stage.berth(&[create.as_slice(), &["--dry-run"]].concat());
        assert_eq!(told.code, 0, "{}", told.err);
        assert!(told.out.starts_with(&format!("{kind} {name}: would be created")), "{}", told.out);
        stage.refused(3, &[kind, "get", name], &[name]);
        let made = stage.json(&create);
        assert_eq!((&made["dry_run"], self.count(stage)), (&Value::from(false), 1), "{made}");
        stage.refused(1, &create, &[name, "exists already"]);

        let update = [[kind, "update", name].as_slice(), self.change].concat();
        stage.refused(1, &[update.as_slice(), &["--if-revision", "1"]].concat(), &[name, "not 1"]);
        let before = stage.json(&[kind, "get", name]);
        assert_ne!(before.pointer(self.field), Some(&self.changed), "{before}");
        let revision = before["revision"].as_u64().unwrap().to_string();
        let updated = stage.json(&[update.as_slice(), &["--if-revision", &revision]].concat());
        assert_eq!(updated[kind].pointer(self.field), Some(&self.changed), "{updated}");
        assert_eq!(updated[kind], stage.json(&[kind, "get", name]));

        stage.refused(1, &[kind, "delete", name, "--if-revision", &revision], &[name]);
        let deleted = stage.json(&[kind, "delete", name]);
        assert_eq!(deleted[kind], serde_json::json!({ "name": name, "done": "deleted" }));
        assert_eq!(self.count(stage), 0, "{kind}");
        stage.refused(3, &[kind, "delete", name], &[name]);
    }
}

#[test]
fn every_kind_of_object_is_created_read_changed_and_deleted() {
    let stage = Stage::with_topology();
    stage.json(&["stamp", "create", "prod-2"]);
    for (kind, name, new, change, field, changed) in [
        ("stamp", "s-1", [].as_slice(), ["--label", "ring=2"].as_slice(), "/labels/ring", "2".into()),
        ("hub", "h3.example", &["--stamp", "prod-1"], &["--hard", "7"], "/capacity/hard", 7.into()),
        ("scope", "0ne1", &[], &["--linked-hub", "h1.example"], "/linked_hubs/0", "h1.example".into()),
        ("route", "r.example", &["--stamp", "prod-1"], &["--stamp", "prod-2"], "/stamp", "prod-2".into()),
    ] {
        Object { kind, name, new, change, field, changed }.live(&stage);
    }
    let of_stamp = stage.json(&["hub", "list", "--stamp", "prod-2"]);
    assert_eq!(of_stamp, serde_json::json!([]), "both hubs are of the other stamp");
    assert_eq!(stage.json(&["hub", "list", "--stamp", "prod-1"]).as_array().unwrap().len(), 2);
}

#[test]
fn the_cluster_tells_of_itself() {
    let stage = Stage::with_topology();
    let status = stage.json(&["cluster", "status"]);
    assert_eq!(status["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(status["nodes"][0]["client_address"], stage.endpoint.as_str());
    assert_eq!(
        (&status["serving_reads"], &status["serving_writes"]),
        (&Value::from(true), &Value::from(true))
    );
    let digest = stage.json(&["cluster", "digest", "--recount"]);
    assert_eq!(
        (&digest["nodes"][0]["recount"]["agrees"], &digest["differ"]),
        (&Value::from(true), &Value::from(false))
    );
    stage.refused(3, &["cluster", "promote", "nobody"], &["`nobody`"]);
    let table = stage.berth(&["cluster", "status"]);
    assert!(table.out.contains("LEADER"), "{}", table.out);
}

#[test]
fn a_small_bench_counts_what_it_did() {
    let stage = Stage::new();
    let load = ["--devices", "1000", "--seconds", "2", "--connections", "1", "--in-flight", "4"];
    let figures = stage.json(&[["bench", "lookup"].as_slice(), &load].concat());
    assert!(figures["per_second"].as_f64().unwrap() > 0.0 && figures["errors"] == 0, "{figures}");
    let figures = stage.json(&[["bench", "batch", "--batch", "64"].as_slice(), &load].concat());
    let latency = |key: &str| figures[key].as_u64().unwrap();
    assert!(latency("p50_us") > 0 && latency("p99_us") >= latency("p50_us"), "{figures}");
    assert_eq!(figures["errors"], 0, "{figures}");
    let figures = stage.json(&["bench", "assign", "--devices", "1000", "--batch", "100", "--seconds", "2"]);
    assert!(figures["per_second"].as_f64().unwrap() > 0.0 && figures["errors"] == 0, "{figures}");
    let figures = stage.json(&["bench", "import", "--devices", "3000"]);
    assert_eq!((&figures["lines"], &figures["errors"]), (&Value::from(3_000), &Value::from(0)), "{figures}");
}

#[test]
fn wrong_usage_and_absent_clusters_have_their_own_codes() {
    let nobody = "127.0.0.1:1";
    assert_eq!(berth_at(nobody, &["lookup"]).code, 2);
    assert_eq!(berth_at(nobody, &["lookup", "a", "--consistency", "strong"]).code, 2);
    assert_eq!(berth_at(nobody, &["import", "x", "--format", "iothub"]).code, 2, "the hub is needed");
    assert_eq!(berth_at("nonsense", &["lookup", "a"]).code, 2);
    let away = berth_at(nobody, &["lookup", "a", "--timeout", "300ms"]);
    assert_eq!((away.code, away.err.lines().count()), (4, 1), "{}", away.err);
    assert!(away.err.contains(nobody) && away.out.is_empty(), "{}", away.err);
    let away = berth_at(nobody, &["device", "assign", "a", "--hub", "h.x", "--timeout", "300ms"]);
    assert_eq!(away.code, 4, "{}", away.err);
    let missing = berth_at(nobody, &["import", "/nonexistent/file.csv"]);
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("/nonexistent/file.csv"), "{}", missing.err);
    let version = berth_at(nobody, &["--version"]);
    assert_eq!((version.code, version.out.trim()), (0, concat!("berth ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn completions_and_manual_pages_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().display().to_string();
    assert_eq!(berth_at("127.0.0.1:1", &["man", "--out", &out]).code, 0);
    assert!(folder.path().join("berth-import.1").exists());
    let bash = berth_at("127.0.0.1:1", &["completions", "bash"]);
    assert_eq!(bash.code, 0, "{}", bash.err);
    assert!(bash.out.contains("_berth") && bash.out.contains("uncordon"), "completions of bash");
}
