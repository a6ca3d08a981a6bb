//! What do operators type?
//!
//! The command line of Berth: `berth server` runs a node, everything else talks to a cluster through the client
//! library. Results go to stdout as a table, JSON or JSON lines; progress and errors go to stderr, an error as one
//! clear sentence. Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 not found, 4 unavailable.

mod apply;
mod args;
mod bench;
mod cluster;
mod demo;
mod device;
mod emulator;
mod export;
mod failure;
mod import;
mod logging;
mod lookup;
mod parse;
mod place;
mod present;
mod progress;
mod reconcile;
mod report;
mod screen;
mod server;
mod shell;
mod stage;
mod topology;
mod topology_file;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use args::{Cli, Command};
use failure::{EXIT_DONE, EXIT_USAGE, Failure};
use screen::Screen;

/// A node replaces thousands of pages a second on one thread while others read them; see Cargo.toml.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs one command line, its first word being the program's name, on the process's own stdout and stderr.
pub fn main_with<I, T>(args: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    ExitCode::from(run_with(args, Box::new(std::io::stdout()), Box::new(std::io::stderr())))
}

/// Runs one command line with its results on `out`, and progress and errors on `err`; returns the exit code.
pub fn run_with<I, T>(args: I, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> u8
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    perform(Cli::read(args), out, err)
}

/// Not generic, so that this crate holds the machine code of all commands; each program would have its own otherwise.
fn perform(read: Result<Cli, clap::Error>, out: Box<dyn Write + Send>, mut err: Box<dyn Write + Send>) -> u8 {
    let cli = match read {
        Ok(cli) => cli,
        Err(usage) => {
            let (mut to, code) = if usage.use_stderr() { (err, EXIT_USAGE) } else { (out, EXIT_DONE) };
            // Help that nobody reads any more is no failure.
            let _ = write!(to, "{}", usage.render());
            let _ = to.flush();
            return code;
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(err, "berth: cannot start the runtime: {error}");
            return failure::EXIT_REFUSED;
        }
    };
    let mut screen = Screen::new(cli.common.output, out, err);
    let result = runtime.block_on(dispatch(cli, &mut screen)).and_then(|code| {
        screen.flush()?;
        Ok(code)
    });
    // Tasks that still wait for a node shall not keep the command from ending.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(failure) => {
            if !failure.is_silent() {
                screen.complain(&failure.message);
            }
            failure.code
        }
    }
}

async fn dispatch(cli: Cli, screen: &mut Screen) -> Result<u8, Failure> {
    let common = cli.common;
    match cli.command {
        Command::Server(args) => server::run(args).await,
        Command::Emulator(args) => emulator::run(args, screen).await,
        Command::Demo(args) => demo::run(&common, args, screen).await,
        Command::Lookup(args) => lookup::run(&common, args, screen).await,
        Command::Report(args) => report::run(&common, args, screen).await,
        Command::Reconcile(args) => reconcile::run(&common, args, screen).await,
        Command::Device(args) => device::run(&common, args, screen).await,
        Command::Import(args) => import::run(&common, args, screen).await,
        Command::Export(args) => export::run(&common, args, screen).await,
        Command::Apply(args) => apply::run(&common, args, screen).await,
        Command::Stamp(args) => topology::run(&common, args, screen).await,
        Command::Hub(args) => topology::run(&common, args, screen).await,
        Command::Scope(args) => topology::run(&common, args, screen).await,
        Command::Route(args) => topology::run(&common, args, screen).await,
        Command::Capacity(args) => place::capacity(&common, args, screen).await,
        Command::Suggest(args) => place::suggest(&common, args, screen).await,
        Command::Cluster(args) => cluster::run(&common, args, screen).await,
        Command::Bench(args) => bench::run(&common, args, screen).await,
        Command::BenchEcho(args) => bench::echo::serve(args, screen).await,
        Command::Completions(args) => shell::completions(&args, screen),
        Command::Man(args) => shell::man(&args, screen),
    }
}
