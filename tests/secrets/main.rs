//! Secrets stay where they are kept: a cluster is given keys of hubs and provisioning services and the secrets of its hook,
//! each once right and once wrong, in files and in the environment, and an Azure that throws the signatures it was
//! shown back in its answers, in every place that an answer has. Then all that the nodes said and wrote is searched.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test tells its figures")]

mod azure;
mod needles;
mod story;

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_tests::process::{Cluster, Tuning, files_below, under_test};

use azure::Azure;
use needles::Needles;
use story::Story;

const DPS: &str = "dps-a.azure-devices-provisioning.net";
/// Its credential is no connection string.
const DPS_WRONG: &str = "dps-b.azure-devices-provisioning.net";
/// The credential of the first is in a file, and of the second in the environment; those of the others are wrong.
const HUBS: [&str; 4] = [
    "hub-file.azure-devices.net",
    "hub-env.azure-devices.net",
    "hub-wrong-file.azure-devices.net",
    "hub-wrong-env.azure-devices.net",
];

/// A node that writes down each step of each heartbeat is slow.
const SLOW_RAFT: &str = "[raft]\nheartbeat_ms = 250\nelection_min_ms = 1000\nelection_max_ms = 2000\n\n";

/// What is planted.
struct Secrets {
    hubs: [String; 4],
    dps: [String; 2],
    hook: [String; 2],
    /// Too short to be taken.
    hook_wrong: String,
    /// Put where the name of a secret belongs.
    misplaced: String,
}

impl Secrets {
    fn new() -> Self {
        let key = || STANDARD.encode(rand::random::<[u8; 32]>());
        // A key that is none, and one that stands alone.
        let hubs = [key(), key(), format!("!{}", key()), key()];
        let hook_wrong = STANDARD.encode(rand::random::<[u8; 9]>());
        Self { hubs, dps: [key(), key()], hook: [key(), key()], hook_wrong, misplaced: key() }
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        let single = [&self.hook_wrong, &self.misplaced];
        self.hubs.iter().chain(&self.dps).chain(&self.hook).chain(single)
    }
}

fn connection_string(host: &str, key: &str) -> String {
    format!("HostName={host};SharedAccessKeyName=berth;SharedAccessKey={key}")
}

fn binary() -> String {
    under_test(env!("CARGO_BIN_EXE_berth_under_test"))
}

/// Table `[azure]` of each node, the files that it names, and the environment.
fn configured(folder: &Path, azure: &str, secrets: &Secrets) -> Tuning {
    let file = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        format!("file:{}", path.display())
    };
    let hub_file = file("hub-file", connection_string(HUBS[0], &secrets.hubs[0]));
    let hub_wrong = file("hub-wrong", connection_string(HUBS[2], &secrets.hubs[2]));
    file("dps", connection_string(DPS, &secrets.dps[0]));
    // Another host's: what is signed for one is not sent to another.
    file("dps-wrong", connection_string("dps-other.azure-devices-provisioning.net", &secrets.dps[1]));
    let hook = file("hook", secrets.hook.join("\n"));
    let hosts = [DPS, DPS_WRONG].iter().chain(&HUBS);
    let addresses: Vec<String> = hosts.map(|host| format!("{host:?} = {azure:?}")).collect();
    let tables = format!(
        "{SLOW_RAFT}[azure]\nplain_http = true\nhook_secret = {hook:?}\naddresses = {{ {} }}\nhub_credentials = {{ {:?} = {hub_file:?}, \
         {:?} = \"env:PLANTED_HUB\", {:?} = {hub_wrong:?}, {:?} = \"env:PLANTED_WRONG\" }}\n",
        addresses.join(", "),
        HUBS[0],
        HUBS[1],
        HUBS[2],
        HUBS[3],
    );
    let environment = [
        ("BERTH_LOG", "trace".to_owned()),
        ("PLANTED_HUB", connection_string(HUBS[1], &secrets.hubs[1])),
        ("PLANTED_WRONG", secrets.hubs[3].clone()),
    ];
    Tuning {
        environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
        tables,
        ..Tuning::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_secrets_are_found_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = Secrets::new();
    let azure = Azure::start(HUBS).await;
    let mut cluster = Cluster::start(binary(), 3, configured(folder.path(), &azure.address(), &secrets));
    cluster.all_ready().await;

    let mut story = Story::new(&cluster, &azure, &secrets, folder.path());
    story.play().await;
    let said = story.said;
    for at in 0..3 {
        assert!(cluster.stop(at).success(), "{}", cluster.logs());
    }

    let mut needles = Needles::default();
    for secret in secrets.all() {
        needles.add(secret);
    }
    let signatures = azure.signatures();
    assert!(signatures.len() >= 3, "each credential that is right has signed: {signatures:?}");
    for signature in &signatures {
        needles.add(signature);
    }
    // What is searched for is found where it is: in each form, and in pieces.
    for secret in secrets.all().chain(&signatures) {
        needles.check_bite(secret);
    }

    let mut bytes = 0;
    let mut search = |place: &str, text: &[u8]| {
        bytes += text.len();
        if let Some(at) = needles.find(text) {
            let around =
                String::from_utf8_lossy(&text[at.saturating_sub(200)..text.len().min(at + 60)]).into_owned();
            panic!("{place} tells a secret, after …{around}…");
        }
    };
    assert!(said.len() > 60, "{} answers", said.len());
    for (question, answer) in &said {
        search(&format!("the answer to {question}"), answer);
    }
    for at in 0..3 {
        let log = cluster.log(at);
        assert!(log.contains("TRACE") && log.len() > 10_000, "the log is at its finest");
        search(&format!("the log of n{}", at + 1), log.as_bytes());
        let files = files_below(&cluster.nodes()[at].data_dir);
        assert!(files.len() >= 5, "{files:?}");
        for file in files {
            search(&file.display().to_string(), &std::fs::read(&file).unwrap());
        }
    }
    println!("{} answers, {} signatures, {} bytes searched", said.len(), signatures.len(), bytes);
}

/// A secret that stands where its name belongs is refused at the start, and not repeated.
#[test]
fn a_misplaced_secret_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = Secrets::new();
    let mut needles = Needles::default();
    needles.add(&secrets.misplaced);
    let whole = connection_string(HUBS[0], &secrets.misplaced);
    for table in [
        format!("hook_secret = {:?}", secrets.misplaced),
        format!("hub_credentials = {{ {:?} = {whole:?} }}", HUBS[0]),
        format!("hub_credentials = {{ {whole:?} = \"env:HUB\" }}"),
        format!("hub_credentials = {whole:?}"),
        format!("hook_secrets = {:?}", secrets.misplaced),
        format!("hook_secret = [{:?}]", secrets.misplaced),
    ] {
        let config = folder.path().join("berth.toml");
        let data = folder.path().join("data");
        std::fs::write(&config, format!("data_dir = {data:?}\n[azure]\n{table}\n")).unwrap();
        let ended = std::process::Command::new(binary())
            .args(["server", "--config"])
            .arg(&config)
            .env("BERTH_LOG", "trace")
            .output()
            .unwrap();
        assert!(!ended.status.success(), "{ended:?}");
        let told = [ended.stdout, ended.stderr].concat();
        let kind = table.split(' ').next().unwrap_or_default();
        assert!(needles.find(&told).is_none(), "a secret in the place of {kind} is repeated");
        assert!(!told.is_empty() && !data.exists());
    }
}
