//! `berth reconcile sweep`: starts a sweep, says what it would cost, or watches it.

use std::time::Duration;

use berth_client::{Client, v1};
use clap::Args;
use serde_json::{Value, json};

use crate::args::Common;
use crate::failure::{EXIT_DONE, EXIT_NOT_FOUND, EXIT_REFUSED, Failure};
use crate::present;
use crate::screen::{Column, Format, Screen};

/// Between two looks at a sweep that is watched.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Flags of `berth reconcile sweep`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 1 where the sweep that was watched was interrupted or could not compare everything, 3 where there is none to tell of."
)]
pub(super) struct SweepArgs {
    /// Only this scope's provisioning service and the hubs linked to it
    #[arg(long, conflicts_with = "hub")]
    scope: Option<String>,
    /// Only this hub
    #[arg(long)]
    hub: Option<String>,
    /// Start none: say how far the one under way is, or how the last one ended
    #[arg(long, conflicts_with_all = ["scope", "hub", "dry_run"])]
    status: bool,
    /// Wait until it has ended, and say how far it is meanwhile
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,
    /// Say what it would cost, but start none
    #[arg(long)]
    dry_run: bool,
    /// Why, for the node's log
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

const PLAN_COLUMNS: [Column; 5] = [
    Column("KIND", "/kind"),
    Column("NAME", "/name"),
    Column("DEVICES", "/devices"),
    Column("CALLS", "/calls"),
    Column("SECONDS", "/seconds"),
];

pub(super) async fn run(common: &Common, args: SweepArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let client = common.client()?;
    let mut sweep = match args.status {
        true => {
            let told = client.sweep().await?.sweep;
            told.ok_or_else(|| Failure {
                code: EXIT_NOT_FOUND,
                message: "the leader has begun no sweep".to_owned(),
            })?
        }
        false => {
            let request = v1::StartSweepRequest {
                reason: args.reason,
                validate_only: args.dry_run,
                scope: args.scope.unwrap_or_default(),
                hub: args.hub.unwrap_or_default(),
                ..Default::default()
            };
            let answer = client.start_sweep(request).await?;
            if args.dry_run {
                return tell_plan(&answer, screen);
            }
            answer.sweep.ok_or_else(|| Failure::refused("the answer tells of no sweep"))?
        }
    };
    if args.watch {
        sweep = watch(&client, sweep, screen).await?;
    }
    screen.one(&row_of(&sweep))?;
    Ok(match sweep.state() {
        v1::SweepState::Incomplete | v1::SweepState::Interrupted if args.watch => EXIT_REFUSED,
        _ => EXIT_DONE,
    })
}

fn tell_plan(answer: &v1::StartSweepResponse, screen: &mut Screen) -> Result<u8, Failure> {
    let rows: Vec<Value> = answer.plan.iter().map(place).collect();
    let seconds = answer.takes.as_ref().map(present::millis).unwrap_or_default() / 1_000;
    if screen.format == Format::Table {
        screen.list(&PLAN_COLUMNS, &rows)?;
        screen
            .say(&format!("{} calls, at least {seconds} s; what is odd is verified on top", answer.calls))?;
    } else {
        screen.one(&json!({ "calls": answer.calls, "seconds": seconds, "plan": rows }))?;
    }
    Ok(EXIT_DONE)
}

fn place(place: &v1::PlannedPlace) -> Value {
    let (kind, name) = match &place.place {
        Some(v1::planned_place::Place::Hub(name)) => ("HUB", name.as_str()),
        Some(v1::planned_place::Place::Scope(name)) => ("SCOPE", name.as_str()),
        None => ("UNKNOWN", ""),
    };
    json!({
        "kind": kind,
        "name": name,
        "devices": place.devices,
        "calls": place.calls,
        "seconds": place.takes.as_ref().map(present::millis).unwrap_or_default() / 1_000,
    })
}

/// Waits for the end of a sweep. One that another leader began since is not taken for it.
async fn watch(client: &Client, mut sweep: v1::Sweep, screen: &mut Screen) -> Result<v1::Sweep, Failure> {
    let (number, began) = (sweep.number, sweep.began);
    while sweep.state() == v1::SweepState::Running {
        screen.remark(&format!(
            "{}: {} of about {} pages, {} verified, {} in disagreement",
            present::sweep_phase(sweep.phase),
            sweep.pages,
            sweep.pages_expected,
            sweep.verified,
            sweep.found.iter().map(|found| found.count).sum::<u64>(),
        ));
        tokio::time::sleep(LOOK_EVERY).await;
        match client.sweep().await?.sweep {
            Some(told) if (told.number, told.began) == (number, began) => sweep = told,
            // The leader changed, and its sweep ended with it.
            _ => sweep.state = v1::SweepState::Interrupted.into(),
        }
    }
    Ok(sweep)
}

fn row_of(sweep: &v1::Sweep) -> Value {
    let text = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    let found = sweep.found.iter().map(|found| (present::drift(found.class).to_owned(), found.count.into()));
    json!({
        "number": sweep.number,
        "state": present::sweep_state(sweep.state),
        "phase": if sweep.phase == 0 { Value::Null } else { present::sweep_phase(sweep.phase).into() },
        "began": sweep.began.as_ref().map(ToString::to_string),
        "ended": sweep.ended.as_ref().map(ToString::to_string),
        "scope": text(&sweep.scope),
        "hub": text(&sweep.hub),
        "pages": sweep.pages,
        "pages_expected": sweep.pages_expected,
        "rows": sweep.rows,
        "odd_rows": sweep.odd_rows,
        "walked": sweep.walked,
        "waiting": sweep.waiting,
        "verified": sweep.verified,
        "found": found.collect::<serde_json::Map<String, Value>>(),
        "repaired": sweep.repaired,
        "adopted": sweep.adopted,
        "released": sweep.released,
        "enforced": sweep.enforced,
        "unverified": sweep.unverified,
        "problems": sweep.problems,
        "left_ms": sweep.left.as_ref().map(present::millis),
    })
}
