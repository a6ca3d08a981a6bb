//! The command line as a whole; each command's own flags stand with the command.

use std::ffi::OsString;
use std::time::Duration;

use berth_client::v1;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::screen::Format;
use crate::topology::ObjectArgs;
use crate::{
    apply, bench, cluster, demo, device, emulator, export, import, lookup, parse, place, reconcile, report,
    server, shell,
};

/// Most results go to stdout; what is going on goes to stderr.
#[derive(Debug, Parser)]
#[command(
    name = "berth",
    version,
    about = "Keeps which IoT hub every device is on: replicated, durable, linearizable",
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 not found, 4 unavailable.",
    propagate_version = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Reads a command line, and the environment behind it.
    pub(crate) fn read<I, T>(args: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        let mut matches = full_command().try_get_matches_from(args)?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut full_command()))
    }
}

/// All commands, with a variable of the environment behind every flag: `BERTH_` and the words of command and flag,
/// unless the flag names its own.
pub(crate) fn full_command() -> clap::Command {
    with_environment(Cli::command(), "BERTH")
}

fn with_environment(command: clap::Command, prefix: &str) -> clap::Command {
    let prefix_of_flags = prefix.to_owned();
    let command = command.mut_args(move |arg| match arg.get_long() {
        Some(long) if arg.get_env().is_none() && !matches!(long, "help" | "version") => {
            let variable = format!("{prefix_of_flags}_{}", words(long));
            // clap wants names that live as long as the process; there are as many as there are flags.
            arg.env(&*Box::leak(variable.into_boxed_str()))
        }
        _ => arg,
    });
    let prefix = prefix.to_owned();
    command.mut_subcommands(move |sub| {
        let prefix = format!("{prefix}_{}", words(sub.get_name()));
        with_environment(sub, &prefix)
    })
}

fn words(name: &str) -> String {
    name.replace('-', "_").to_ascii_uppercase()
}

/// What every command that talks to a cluster takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Client addresses of some nodes, separated by commas
    #[arg(
        long,
        global = true,
        env = "BERTH_ENDPOINTS",
        value_name = "A,B,C",
        value_delimiter = ',',
        default_value = "127.0.0.1:7400"
    )]
    pub(crate) endpoints: Vec<String>,
    /// How results are printed
    #[arg(long, short, global = true, env = "BERTH_OUTPUT", value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
    /// How long a call may take with all its repeats, such as 500ms, 10s or 2m
    #[arg(long, global = true, env = "BERTH_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = parse::duration)]
    pub(crate) timeout: Duration,
}

impl Common {
    /// A client of these endpoints.
    pub(crate) fn client(&self) -> Result<berth_client::Client, berth_client::Error> {
        let options = berth_client::Options { deadline: self.timeout, ..Default::default() };
        berth_client::Client::connect(&self.endpoints, options)
    }
}

/// What every read takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReadArgs {
    /// How fresh the answer has to be: linearizable, local, bounded:DURATION or at-least:TOKEN
    #[arg(long, value_name = "LEVEL", default_value = "linearizable", value_parser = parse::consistency)]
    pub(crate) consistency: v1::Consistency,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node; without arguments, a working cluster of one
    Server(Box<server::ServerArgs>),
    /// Emulate DPS, IoT hubs and Traffic Manager; or drive an emulator that runs
    Emulator(emulator::EmulatorArgs),
    /// Play the main job on a cluster in this process, and check it
    Demo(demo::DemoArgs),
    /// Say which hub devices are on now
    Lookup(lookup::LookupArgs),
    /// Tell what was seen at a hub, and have the mapping verified where that contradicts it
    Report(report::ReportArgs),
    /// Compare devices with Azure, and see and end disagreements
    Reconcile(reconcile::ReconcileArgs),
    /// Assign, read, list and remove devices
    Device(device::DeviceArgs),
    /// Import devices from a file
    Import(import::ImportArgs),
    /// Export all devices at one revision
    Export(export::ExportArgs),
    /// Make the topology as a file describes it, in one revision
    Apply(apply::ApplyArgs),
    /// List and change stamps
    Stamp(ObjectArgs<v1::Stamp>),
    /// List and change hubs
    Hub(ObjectArgs<v1::Hub>),
    /// List and change provisioning scopes
    Scope(ObjectArgs<v1::Scope>),
    /// List and change routes from an app key to a stamp
    Route(ObjectArgs<v1::Route>),
    /// Say how full stamps and hubs are, and what they cost
    Capacity(place::CapacityArgs),
    /// Say where new devices would be put
    Suggest(place::SuggestArgs),
    /// Look at the cluster and change who is in it
    Cluster(cluster::ClusterArgs),
    /// Generate load and measure it
    Bench(bench::BenchArgs),
    /// The bare service that `bench` compares with
    #[command(hide = true)]
    BenchEcho(bench::echo::EchoArgs),
    /// Print the completions for a shell
    Completions(shell::CompletionsArgs),
    /// Write the manual pages into a folder
    Man(shell::ManArgs),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        full_command().debug_assert();
    }

    #[test]
    fn every_flag_can_be_set_by_the_environment() {
        fn check(command: &clap::Command, path: &str) {
            for arg in command.get_arguments() {
                let is_flag = arg.get_long().is_some();
                let is_built_in = matches!(arg.get_id().as_str(), "help" | "version");
                if is_flag && !is_built_in && !arg.is_hide_set() {
                    let env = arg.get_env().and_then(|env| env.to_str()).unwrap_or_default();
                    assert!(
                        env.starts_with("BERTH_"),
                        "{path} --{:?} has no BERTH_ variable",
                        arg.get_long()
                    );
                }
            }
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                check(sub, &format!("{path} {}", sub.get_name()));
            }
        }
        check(&full_command(), "berth");
    }
}
