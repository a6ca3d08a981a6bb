//! Whether a stamp or hub takes devices.

use berth_client::{Client, v1};
use clap::{Args, Subcommand};
use serde_json::json;

use super::Kind;
use crate::device::WriteArgs;
use crate::failure::Failure;
use crate::present;
use crate::screen::{Format, Screen};

#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Let it keep its devices but take no new ones
    Cordon(StateArgs),
    /// Let it take devices again
    Uncordon(StateArgs),
    /// Say that it is being emptied; it takes no new devices
    Drain(StateArgs),
    /// Say that it cannot be reached; it takes no new devices
    Offline(StateArgs),
}

#[derive(Debug, Args)]
pub(crate) struct StateArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    write: WriteArgs,
}

/// Sets the state of the stamp or hub that `target` makes of a name.
pub(super) async fn set<K: Kind>(
    client: &Client,
    command: StateCommand,
    target: impl FnOnce(String) -> v1::set_state_request::Target,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let (args, state) = match command {
        StateCommand::Cordon(args) => (args, v1::AcceptState::Cordoned),
        StateCommand::Uncordon(args) => (args, v1::AcceptState::Active),
        StateCommand::Drain(args) => (args, v1::AcceptState::Draining),
        StateCommand::Offline(args) => (args, v1::AcceptState::Offline),
    };
    let request = v1::SetStateRequest {
        request_id: args.write.request_id,
        reason: args.write.reason,
        validate_only: args.write.dry_run,
        target: Some(target(args.name.clone())),
        state: state.into(),
    };
    let answer = client.set_state(request).await?;
    let state = present::accept_state(answer.state);
    let before = if answer.changed { "now" } else { "already" };
    screen.say(&format!("{} {}: {before} {state}", K::WORD, args.name))?;
    if screen.format != Format::Table {
        screen.one(&json!({
            "name": args.name,
            "state": state,
            "changed": answer.changed,
            "dry_run": args.write.dry_run,
            "header": present::header(answer.header.as_ref()),
        }))?;
    }
    Ok(())
}
