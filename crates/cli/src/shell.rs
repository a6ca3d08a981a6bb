//! Completions and manual pages, generated from the command line itself.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use crate::args::full_command;
use crate::failure::{EXIT_DONE, Failure};
use crate::screen::Screen;

/// Flags of `berth completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

/// Flags of `berth man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Folder that the pages are written into; it is made where it is missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) fn completions(args: &CompletionsArgs, screen: &mut Screen) -> Result<u8, Failure> {
    // The generator panics where a write fails: it is given memory, and what fails later is told as ever.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut full_command(), "berth", &mut script);
    screen.raw().write_all(&script)?;
    Ok(EXIT_DONE)
}

pub(crate) fn man(args: &ManArgs, screen: &mut Screen) -> Result<u8, Failure> {
    std::fs::create_dir_all(&args.out).map_err(|e| Failure::file("make the folder", &args.out, &e))?;
    clap_mangen::generate_to(full_command(), &args.out)
        .map_err(|e| Failure::file("write manual pages into", &args.out, &e))?;
    screen.say(&format!("Manual pages are in {}.", args.out.display()))?;
    Ok(EXIT_DONE)
}
