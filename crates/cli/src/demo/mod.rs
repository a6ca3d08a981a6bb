//! `berth demo`: a cluster in one process that plays the main job and checks it.
//!
//! Three nodes run on real TCP and real disk, each on threads of its own. Everything the story does goes through the
//! public API, and everything it claims is counted; a check that fails ends it with an error.

mod checks;
mod cluster;
pub(crate) mod export_file;
mod story;

use std::path::PathBuf;

use clap::Args;

use crate::failure::{EXIT_DONE, Failure};
use crate::screen::Screen;
use cluster::Trio;

/// Fewest devices that the story can be told with.
const DEVICES_MIN: u64 = 1_000;
/// Most devices: what fits a small machine's memory three times over.
const DEVICES_MAX: u64 = 10_000_000;

/// Flags of `berth demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How many devices the export file has
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(DEVICES_MIN..=DEVICES_MAX))]
    devices: u64,
    /// Leave the cluster and its data up afterwards, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Where the nodes keep their data [default: a new temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) async fn run(args: DemoArgs, screen: &mut Screen) -> Result<u8, Failure> {
    // The story is on stdout; what the nodes log is for those who ask by BERTH_LOG.
    if std::env::var_os("BERTH_LOG").is_some() {
        crate::logging::start().map_err(Failure::usage)?;
    }
    let temporary = match &args.dir {
        Some(_) => None,
        None => {
            let made = tempfile::Builder::new().prefix("berth-demo-").tempdir();
            Some(made.map_err(|e| Failure::refused(format!("cannot make a temporary directory: {e}")))?)
        }
    };
    let dir = match (&args.dir, &temporary) {
        (Some(dir), _) => dir.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => std::env::temp_dir(),
    };
    let mut trio = Trio::new(dir.clone());
    let told = story::tell(&mut trio, args.devices, &dir, screen).await;
    if told.is_ok() && args.keep {
        stay(&trio, &dir, screen).await?;
    }
    trio.stop().await;
    if let Some(temporary) = temporary {
        if args.keep {
            screen.say(&format!("The data stays in {}.", temporary.keep().display()))?;
        } else if let Err(error) = temporary.close() {
            screen.complain(&format!("the temporary directory could not be removed: {error}"));
        }
    }
    told.map(|()| EXIT_DONE)
}

/// Leaves the cluster up for the person who watches.
async fn stay(trio: &Trio, dir: &std::path::Path, screen: &mut Screen) -> Result<(), Failure> {
    let endpoints = trio.endpoints().join(",");
    let device = export_file::device_id(1, story::DEVICE_PREFIX);
    for line in [
        String::new(),
        "The cluster stays up until Ctrl-C. In another terminal:".to_owned(),
        String::new(),
        format!("  export BERTH_ENDPOINTS={endpoints}"),
        "  berth cluster status".to_owned(),
        format!("  berth lookup {device}"),
        "  berth stamp list".to_owned(),
        format!("  berth device assign {device} --hub {}", story::HUB_C),
        format!("  berth export --out {}/export.jsonl", dir.display()),
        "  berth bench lookup --compare-echo".to_owned(),
        String::new(),
    ] {
        screen.say(&line)?;
    }
    screen.flush()?;
    tokio::signal::ctrl_c().await.map_err(|e| Failure::refused(format!("cannot wait for Ctrl-C: {e}")))
}
