//! Runs an emulator by a configuration file until it is interrupted, and tells where it listens:
//! `cargo run -p berth-emulator --example emulator -- emulator.toml`.

use std::error::Error;
use std::io::Write;
use std::sync::Arc;

use berth_emulator::{Config, Emulator, SystemRandomness, WallClock};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("name a configuration file")?;
    let config = Config::from_toml(&std::fs::read_to_string(path)?)?;
    let running = Emulator::start(config, Arc::new(WallClock::new()), Arc::new(SystemRandomness)).await?;
    let mut out = std::io::stdout();
    writeln!(out, "https {}", running.https_address())?;
    if let Some(address) = running.http_address() {
        writeln!(out, "http {address}")?;
    }
    writeln!(out, "ready")?;
    out.flush()?;
    tokio::signal::ctrl_c().await?;
    running.stop().await?;
    Ok(())
}
