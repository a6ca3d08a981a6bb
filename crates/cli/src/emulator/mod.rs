//! `berth emulator`: Azure, for tests and for trying things out; and what drives one that runs.

mod control;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_emulator::{Config, Emulator, SystemRandomness, WallClock};
use clap::Args;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use self::control::Control;
use crate::failure::{EXIT_DONE, Failure};
use crate::screen::{Format, Screen};

/// What is emulated where no file says otherwise: one DPS instance, two hubs, a thousand devices.
const EXAMPLE: &str = include_str!("../../../../deploy/emulator.toml");

/// Flags of `berth emulator`. Each stands above the file.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct EmulatorArgs {
    /// What to emulate, in TOML [default: deploy/emulator.toml as it was when this program was built]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address for HTTPS
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address for plain HTTP, which the commands below use
    #[arg(long, value_name = "ADDR")]
    listen_http: Option<SocketAddr>,
    /// Where to write the certificate authority that clients have to trust
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    #[command(subcommand)]
    control: Option<Control>,
}

pub(crate) async fn run(args: EmulatorArgs, screen: &mut Screen) -> Result<u8, Failure> {
    match args.control {
        Some(control) => control::run(control, screen).await,
        None => serve(args, screen).await,
    }
}

fn read_config(args: &EmulatorArgs) -> Result<Config, Failure> {
    let (text, from) = match &args.config {
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(|e| Failure::file("read", file, &e))?;
            (text, file.as_path())
        }
        None => (EXAMPLE.to_owned(), Path::new("the built-in configuration")),
    };
    let mut config =
        Config::from_toml(&text).map_err(|e| Failure::usage(format!("{}: {e}", from.display())))?;
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    config.listen_http = args.listen_http.or(config.listen_http);
    config.ca_file = args.ca_file.clone().or(config.ca_file);
    Ok(config)
}

async fn serve(args: EmulatorArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let config = read_config(&args)?;
    crate::logging::start().map_err(Failure::usage)?;
    let ca_file = config.ca_file.clone();
    let hosts: Vec<String> = config
        .dps
        .iter()
        .map(|dps| dps.host.clone())
        .chain(config.hubs.iter().map(|h| h.host.clone()))
        .collect();
    // Listened for from the start, so that what asks it to end is never lost.
    let listen = |kind| signal(kind).map_err(|e: io::Error| Failure::refused(e.to_string()));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let running = Emulator::start(config, Arc::new(WallClock::new()), Arc::new(SystemRandomness)).await;
    let running = running.map_err(|e| Failure::refused(told(&e)))?;
    let http = running.http_address();
    match screen.format {
        Format::Table => {
            screen.say(&format!("Azure is emulated at https://{}", running.https_address()))?;
            if let Some(http) = http {
                screen.say(&format!("and without TLS at http://{http}"))?;
            }
            screen.say(&format!("Hosts: {}", hosts.join(", ")))?;
            if let Some(file) = &ca_file {
                screen.say(&format!("Trust the authority in {}", file.display()))?;
            }
            screen.say("Ctrl-C ends it.")?;
        }
        _ => screen.one(&json!({
            "https": running.https_address().to_string(),
            "http": http.map(|http| http.to_string()),
            "hosts": hosts,
            "ca_file": ca_file.map(|file| file.display().to_string()),
        }))?,
    }
    screen.flush()?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    running.stop().await.map_err(|e| Failure::refused(format!("the state could not be saved: {e}")))?;
    Ok(EXIT_DONE)
}

/// An error with what caused it.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}
