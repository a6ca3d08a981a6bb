//! The emulator's own commands, against one in a process of its own.

use serde_json::Value;

use super::{Ran, berth_at};

/// An emulator in a process of its own; killed if a test fails.
struct Emulated {
    process: std::process::Child,
    at: Value,
}

impl Emulated {
    fn start() -> Self {
        let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_berth"))
            .args([
                "emulator",
                "--listen",
                "127.0.0.1:0",
                "--listen-http",
                "127.0.0.1:0",
                "--output",
                "jsonl",
            ])
            .current_dir(std::env::temp_dir())
            .args(["--ca-file", "/dev/null"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut told = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(process.stdout.take().unwrap()), &mut told)
            .unwrap();
        Self { process, at: serde_json::from_str(&told).unwrap() }
    }

    /// Runs a command that drives it.
    fn tell(&self, words: &[&str]) -> Ran {
        let mut line = vec!["emulator"];
        line.extend(words);
        line.extend(["--control", self.at["http"].as_str().unwrap(), "--output", "json"]);
        berth_at("127.0.0.1:1", &line)
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn an_emulator_is_run_driven_and_ended() {
    let mut emulated = Emulated::start();
    assert!(emulated.at["hosts"].as_array().unwrap().contains(&"hub-a.azure-devices.net".into()));
    let (dps, hub) = ("dps-a.azure-devices-provisioning.net", "hub-b.azure-devices.net");
    let seeded = emulated.tell(&["seed", dps, hub, "25", "--prefix", "pump-"]);
    assert_eq!(seeded.code, 0, "{}", seeded.err);
    let status = emulated.tell(&["status"]);
    assert!(status.out.contains("25"), "{}", status.out);
    assert_eq!(emulated.tell(&["outage", hub, "on"]).code, 0);
    assert_eq!(emulated.tell(&["clear-faults"]).code, 0);
    let unknown = emulated.tell(&["outage", "hub-z.azure-devices.net", "on"]);
    assert_eq!((unknown.code, unknown.err.contains("hub-z.azure-devices.net")), (3, true), "{}", unknown.err);
    let bounds = emulated.tell(&["throttle", "on", "--factor", "0"]);
    assert_eq!((bounds.code, bounds.err.contains("factor")), (1, true), "{}", bounds.err);
    let id = emulated.process.id().to_string();
    assert!(std::process::Command::new("kill").arg(id).status().unwrap().success());
    assert!(emulated.process.wait().unwrap().success(), "it ends well when it is asked to end");
    assert_eq!(emulated.tell(&["now"]).code, 4, "nobody answers any more");
}
