//! The commands of a running emulator, sent to its control API.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::failure::{EXIT_DONE, EXIT_NOT_FOUND, EXIT_UNAVAILABLE, Failure};
use crate::parse;
use crate::screen::Screen;

/// How long the emulator may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// Longest answer that is read: the counts of all operations take far less.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Where the emulator that is driven listens.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// Plain HTTP address of the emulator
    #[arg(
        long,
        env = "BERTH_EMULATOR_CONTROL",
        value_name = "ADDR",
        default_value = "127.0.0.1:8080",
        global = true
    )]
    control: SocketAddr,
    /// File with the token that its control API asks for
    #[arg(long, env = "BERTH_EMULATOR_TOKEN_FILE", value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
}

/// Drive an emulator that runs.
#[derive(Debug, Subcommand)]
pub(crate) enum Control {
    /// Count enrollments, registrations, identities and connections
    Status(#[command(flatten)] At),
    /// Count the calls answered so far, by operation and status
    Calls(#[command(flatten)] At),
    /// Let the next calls of an operation fail
    FailNext(FailNextArgs),
    /// Slow operations down
    Latency(OperationArgs),
    /// Make a service unreachable, or reachable again
    Outage(OutageArgs),
    /// Let reads of a service tell what was so before a change, for a while after it
    Lie(ServiceArgs),
    /// Let a hub's queries lag behind its registry
    QueryLag(ServiceArgs),
    /// Set how long a DPS instance takes to assign a device
    Assigning(ServiceArgs),
    /// Set where devices of a DPS instance are while they move
    Moving(MovingArgs),
    /// Multiply throttles and quotas, or switch them off
    Throttle(ThrottleArgs),
    /// Set how a device answers direct methods
    Behave(BehaveArgs),
    /// Connect a device to a hub
    Connect(DeviceArgs),
    /// Cut a device's connection
    Disconnect(DeviceArgs),
    /// Cut all connections of a hub
    DisconnectAll(HostArgs),
    /// Make devices that are assigned to a hub, as if each had registered
    Seed(SeedArgs),
    /// Move a device to another hub at once, behind everybody's back
    Place(PlaceArgs),
    /// Move the emulator's clock forward
    Advance(AdvanceArgs),
    /// Tell the emulator's time
    Now(#[command(flatten)] At),
    /// End all faults, outages, latencies and lies
    ClearFaults(#[command(flatten)] At),
    /// Write the state file
    Save(#[command(flatten)] At),
}

/// A fault to come.
#[derive(Debug, Args)]
pub(crate) struct FailNextArgs {
    /// An operation such as dps.enrollment.put, or the beginning of several: dps, hub.twin, device, arm
    operation: String,
    /// The HTTP status
    status: u16,
    /// Only calls of this host
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// The number in the body
    #[arg(long, value_name = "N")]
    code: Option<u32>,
    /// The message in the body
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
    /// Retry-After, in whole seconds
    #[arg(long, value_name = "SECONDS")]
    retry_after: Option<u64>,
    /// How many calls fail
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: u32,
    #[command(flatten)]
    at: At,
}

/// An operation and a time.
#[derive(Debug, Args)]
pub(crate) struct OperationArgs {
    /// An operation, or the beginning of several: dps, hub.twin, device, arm
    operation: String,
    /// How long, such as 300ms; 0s ends it
    #[arg(value_parser = parse::duration)]
    time: Duration,
    #[command(flatten)]
    at: At,
}

/// A host and a time.
#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    /// Its host
    host: String,
    /// How long, such as 300ms; 0s ends it
    #[arg(value_parser = parse::duration)]
    time: Duration,
    #[command(flatten)]
    at: At,
}

/// A host.
#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    /// Its host
    host: String,
    #[command(flatten)]
    at: At,
}

/// An outage.
#[derive(Debug, Args)]
pub(crate) struct OutageArgs {
    /// The host of a hub or a DPS instance, or arm
    service: String,
    /// Whether it begins or ends
    #[arg(value_enum)]
    state: OnOff,
    #[command(flatten)]
    at: At,
}

/// Whether something is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnOff {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// Where devices are while they move.
#[derive(Debug, Args)]
pub(crate) struct MovingArgs {
    /// The DPS instance's host
    dps: String,
    /// Where a device is meanwhile
    #[arg(value_enum)]
    moving: Moving,
    /// How long both hubs know it
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse::duration)]
    overlap: Duration,
    #[command(flatten)]
    at: At,
}

/// Where a device is while DPS moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Moving {
    /// In no hub, from the beginning of the move to its end.
    Neither,
    /// In one of them at every instant.
    Atomic,
    /// In both for a while.
    Both,
}

/// How throttles are scaled.
#[derive(Debug, Args)]
pub(crate) struct ThrottleArgs {
    /// Whether anything is throttled
    #[arg(value_enum)]
    state: OnOff,
    /// What Azure's figures are multiplied by
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    factor: f64,
    #[command(flatten)]
    at: At,
}

/// How a device answers.
#[derive(Debug, Args)]
pub(crate) struct BehaveArgs {
    /// The device's ID
    device: String,
    /// echo, silent, offline, slow:MILLISECONDS or fails:STATUS
    #[arg(value_parser = behaviour)]
    behaviour: Value,
    #[command(flatten)]
    at: At,
}

/// A device at a hub.
#[derive(Debug, Args)]
pub(crate) struct DeviceArgs {
    /// The hub's host
    hub: String,
    /// The device's ID
    device: String,
    #[command(flatten)]
    at: At,
}

/// Devices to make.
#[derive(Debug, Args)]
pub(crate) struct SeedArgs {
    /// The DPS instance's host
    dps: String,
    /// The hub's host, which the instance must be linked to
    hub: String,
    /// How many
    count: u32,
    /// Their IDs are this and a number of six digits
    #[arg(long, value_name = "TEXT", default_value = "dev-")]
    prefix: String,
    /// The first number
    #[arg(long, value_name = "N", default_value_t = 0)]
    first: u32,
    #[command(flatten)]
    at: At,
}

/// A device to move.
#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// The DPS instance's host
    dps: String,
    /// The device's registration ID
    registration: String,
    /// The hub's host, which the instance must be linked to
    hub: String,
    #[command(flatten)]
    at: At,
}

/// A step in time.
#[derive(Debug, Args)]
pub(crate) struct AdvanceArgs {
    /// How far, such as 90s or 5m
    #[arg(value_parser = parse::duration)]
    time: Duration,
    #[command(flatten)]
    at: At,
}

/// As the control API writes it.
fn behaviour(text: &str) -> Result<Value, String> {
    let number = |text: &str| text.parse::<i64>().map_err(|e| format!("`{text}` is no number: {e}"));
    match text.split_once(':') {
        None if matches!(text, "echo" | "silent" | "offline") => Ok(json!(text)),
        Some(("slow", ms)) => Ok(json!({"slow": {"ms": number(ms)?}})),
        Some(("fails", status)) => Ok(json!({"fails": {"status": number(status)?}})),
        _ => Err(format!("`{text}` is none of echo, silent, offline, slow:MILLISECONDS, fails:STATUS")),
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Control {
    /// The command as the control API takes it, and where that is.
    fn into_command(self) -> (Value, At) {
        match self {
            Self::Status(at) => (json!({"command": "status"}), at),
            Self::Calls(at) => (json!({"command": "calls"}), at),
            Self::Now(at) => (json!({"command": "now"}), at),
            Self::ClearFaults(at) => (json!({"command": "clear_faults"}), at),
            Self::Save(at) => (json!({"command": "save"}), at),
            Self::FailNext(args) => {
                let fault = json!({
                    "operation": args.operation, "host": args.host, "status": args.status, "code": args.code,
                    "message": args.message, "retry_after_s": args.retry_after, "count": args.count,
                });
                (json!({"command": "fail_next", "fault": fault}), args.at)
            }
            Self::Latency(args) => {
                (json!({"command": "latency", "operation": args.operation, "ms": ms(args.time)}), args.at)
            }
            Self::Outage(args) => (
                json!({"command": "outage", "service": args.service, "out": args.state == OnOff::On}),
                args.at,
            ),
            Self::Lie(args) => {
                (json!({"command": "lie", "service": args.host, "ms": ms(args.time)}), args.at)
            }
            Self::QueryLag(args) => {
                (json!({"command": "query_lag", "hub": args.host, "ms": ms(args.time)}), args.at)
            }
            Self::Assigning(args) => {
                (json!({"command": "assigning", "dps": args.host, "ms": ms(args.time)}), args.at)
            }
            Self::Moving(args) => {
                let moving = match args.moving {
                    Moving::Neither => "neither",
                    Moving::Atomic => "atomic",
                    Moving::Both => "both",
                };
                let overlap = ms(args.overlap);
                (
                    json!({"command": "moving", "dps": args.dps, "moving": moving, "overlap_ms": overlap}),
                    args.at,
                )
            }
            Self::Throttle(args) => (
                json!({"command": "throttle", "enabled": args.state == OnOff::On, "factor": args.factor}),
                args.at,
            ),
            Self::Behave(args) => {
                (json!({"command": "behave", "device": args.device, "behaviour": args.behaviour}), args.at)
            }
            Self::Connect(args) => {
                (json!({"command": "connect", "hub": args.hub, "device": args.device}), args.at)
            }
            Self::Disconnect(args) => {
                (json!({"command": "disconnect", "hub": args.hub, "device": args.device}), args.at)
            }
            Self::DisconnectAll(args) => (json!({"command": "disconnect_all", "hub": args.host}), args.at),
            Self::Seed(args) => (
                json!({
                    "command": "seed", "dps": args.dps, "hub": args.hub, "prefix": args.prefix, "first": args.first,
                    "count": args.count,
                }),
                args.at,
            ),
            Self::Place(args) => (
                json!({
                    "command": "place", "dps": args.dps, "registration_id": args.registration, "hub": args.hub,
                }),
                args.at,
            ),
            Self::Advance(args) => (json!({"command": "advance", "ms": ms(args.time)}), args.at),
        }
    }
}

pub(super) async fn run(control: Control, screen: &mut Screen) -> Result<u8, Failure> {
    let (command, at) = control.into_command();
    let token = match &at.token_file {
        Some(file) => Some(std::fs::read_to_string(file).map_err(|e| Failure::file("read", file, &e))?),
        None => None,
    };
    let unavailable = |problem: String| Failure {
        code: EXIT_UNAVAILABLE,
        message: format!("the emulator at {} does not answer: {problem}", at.control),
    };
    let sent = tokio::time::timeout(ANSWER_WAIT, send(at.control, &command, token.as_deref().map(str::trim)));
    let sent =
        sent.await.map_err(|_| unavailable(format!("nothing came within {} s", ANSWER_WAIT.as_secs())))?;
    let (status, body) = sent.map_err(|error| unavailable(error.to_string()))?;
    if status != http::StatusCode::OK {
        let message = String::from_utf8_lossy(&body).trim().to_owned();
        let unknown = status == http::StatusCode::NOT_FOUND && !message.contains("control");
        let code = if unknown { EXIT_NOT_FOUND } else { crate::failure::EXIT_REFUSED };
        return Err(Failure { code, message });
    }
    let answer: Value = serde_json::from_slice(&body)
        .map_err(|e| Failure::refused(format!("the emulator's answer is no JSON: {e}")))?;
    match answer.get("result") {
        None | Some(Value::Null) => screen.one(&json!({"done": true}))?,
        Some(result) => screen.one(result)?,
    }
    Ok(EXIT_DONE)
}

type Problem = Box<dyn std::error::Error + Send + Sync>;

async fn send(
    at: SocketAddr,
    command: &Value,
    token: Option<&str>,
) -> Result<(http::StatusCode, bytes::Bytes), Problem> {
    let stream = TcpStream::connect(at).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = http::Request::post("/_emulator/commands")
        .header(http::header::HOST, at.to_string())
        .header(http::header::CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        let mut value = http::HeaderValue::from_str(&format!("Bearer {token}"))?;
        value.set_sensitive(true);
        request = request.header(http::header::AUTHORIZATION, value);
    }
    let request = request.body(Full::new(bytes::Bytes::from(serde_json::to_vec(command)?)))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_one_that_the_emulator_takes() {
        let lines = [
            "status",
            "calls",
            "now",
            "clear-faults",
            "save",
            "fail-next dps.enrollment.put 429 --code 429001 --retry-after 3 --count 2",
            "latency hub.twin 300ms",
            "outage hub-a.azure-devices.net on",
            "lie hub-a.azure-devices.net 5s",
            "query-lag hub-a.azure-devices.net 2s",
            "assigning dps-a.azure-devices-provisioning.net 3s",
            "moving dps-a.azure-devices-provisioning.net both --overlap 4s",
            "throttle on --factor 0.5",
            "behave sim-1 slow:300",
            "behave sim-1 fails:500",
            "behave sim-1 offline",
            "connect hub-a.azure-devices.net dev-1",
            "disconnect hub-a.azure-devices.net dev-1",
            "disconnect-all hub-a.azure-devices.net",
            "seed dps-a.azure-devices-provisioning.net hub-a.azure-devices.net 10 --prefix x-",
            "place dps-a.azure-devices-provisioning.net dev-1 hub-b.azure-devices.net",
            "advance 90s",
        ];
        for line in lines {
            let words = ["berth", "emulator"].into_iter().chain(line.split(' '));
            let cli = crate::args::Cli::read(words).unwrap_or_else(|e| panic!("{line}: {e}"));
            let crate::args::Command::Emulator(args) = cli.command else { panic!("{line}") };
            let (command, _) = args.control.unwrap_or_else(|| panic!("{line} drives nothing")).into_command();
            serde_json::from_value::<berth_emulator::Command>(command.clone())
                .unwrap_or_else(|e| panic!("{line}: {command}: {e}"));
        }
    }

    #[test]
    fn an_unknown_behaviour_is_refused() {
        assert!(behaviour("sleepy").unwrap_err().contains("slow:MILLISECONDS"));
        assert!(behaviour("slow:soon").unwrap_err().contains("`soon`"));
    }
}
