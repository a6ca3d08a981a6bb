//! `berth lookup`: which hub devices are on now.

use std::io::BufRead;

use berth_client::{ApiError, Client, v1};
use clap::Args;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::args::{Common, ReadArgs};
use crate::failure::{EXIT_DONE, EXIT_NOT_FOUND, EXIT_REFUSED, Failure};
use crate::present;
use crate::screen::{Column, Format, Screen};

/// IDs of one batch: what a server takes at most.
const BATCH_MAX: usize = 10_000;
/// Batches read ahead from stdin, so that reading and asking overlap.
const BATCHES_AHEAD: usize = 2;
/// Lookups by registration ID at the same time: they have no batch.
const REGISTRATIONS_IN_FLIGHT: usize = 32;

/// Flags of `berth lookup`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 3 where a device is unknown, 1 where a device is known but has no hub to call."
)]
pub(crate) struct LookupArgs {
    /// Device IDs
    #[arg(value_name = "ID", required_unless_present = "stdin")]
    ids: Vec<String>,
    /// The IDs are registration IDs
    #[arg(long)]
    registration_id: bool,
    /// Provisioning scope to find registration IDs in
    #[arg(long, requires = "registration_id")]
    scope: Option<String>,
    #[command(flatten)]
    read: ReadArgs,
    /// Read further IDs from stdin, one a line
    #[arg(long)]
    stdin: bool,
}

const COLUMNS: [Column; 6] = [
    Column("DEVICE", "/device_id"),
    Column("HUB", "/hub"),
    Column("STAMP", "/stamp"),
    Column("STATUS", "/status"),
    Column("EPOCH", "/epoch"),
    Column("REVISION", "/revision"),
];

pub(crate) async fn run(common: &Common, args: LookupArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let client = common.client()?;
    if let ([id], false) = (args.ids.as_slice(), args.stdin) {
        let row = one(&client, &args, id).await?;
        if screen.format == Format::Table {
            screen.list(&COLUMNS, std::slice::from_ref(&row))?;
        } else {
            screen.one(&row)?;
        }
        return Ok(verdict(std::slice::from_ref(&row)));
    }
    if args.registration_id {
        let mut ids = args.ids.clone();
        let mut more = ids_from_stdin(args.stdin);
        while let Some(batch) = more.recv().await {
            ids.extend(batch?);
        }
        let rows = registrations(&client, &args, &ids).await?;
        screen.list(&COLUMNS, &rows)?;
        return Ok(verdict(&rows));
    }
    let mut code = EXIT_DONE;
    let mut all = Vec::new();
    let mut show = |rows: Vec<Value>, screen: &mut Screen| -> Result<(), Failure> {
        code = worse(code, verdict(&rows));
        match screen.format {
            // Lines can go out as they come; a table or an array is one whole.
            Format::Jsonl => screen.list(&COLUMNS, &rows)?,
            _ => all.extend(rows),
        }
        Ok(())
    };
    for ids in args.ids.chunks(BATCH_MAX) {
        show(batch(&client, &args, ids.to_vec()).await?, screen)?;
    }
    let mut more = ids_from_stdin(args.stdin);
    while let Some(ids) = more.recv().await {
        show(batch(&client, &args, ids?).await?, screen)?;
    }
    if screen.format != Format::Jsonl {
        screen.list(&COLUMNS, &all)?;
    }
    Ok(code)
}

async fn one(client: &Client, args: &LookupArgs, id: &str) -> Result<Value, Failure> {
    let consistency = Some(args.read.consistency.clone());
    let answer = if args.registration_id {
        client.lookup_registration(id, args.scope.as_deref().unwrap_or_default(), consistency).await?
    } else {
        client.lookup(id, consistency).await?
    };
    row_of(id, &answer)
}

fn row_of(id: &str, answer: &v1::LookupResponse) -> Result<Value, Failure> {
    let mut row = match &answer.result {
        Some(v1::lookup_response::Result::Found(found)) => present::found(id, found),
        Some(v1::lookup_response::Result::Negative(negative)) => present::negative(id, negative),
        None => return Err(Failure::refused("the answer has neither a hub nor a reason for none")),
    };
    row["header"] = present::header(answer.header.as_ref());
    Ok(row)
}

async fn registrations(client: &Client, args: &LookupArgs, ids: &[String]) -> Result<Vec<Value>, Failure> {
    use futures_util::{StreamExt, TryStreamExt};
    let scope = args.scope.as_deref().unwrap_or_default();
    let lookups = ids.iter().map(|id| async move {
        let consistency = Some(args.read.consistency.clone());
        match client.lookup_registration(id, scope, consistency).await {
            Ok(answer) => row_of(id, &answer),
            Err(error) => match error.api_error().and_then(|told| row_of_refusal(id, told)) {
                Some(row) => Ok(row),
                None => Err(error.into()),
            },
        }
    });
    futures_util::stream::iter(lookups).buffered(REGISTRATIONS_IN_FLIGHT).try_collect().await
}

/// What is refused of one registration alone: the others have their answers all the same.
fn row_of_refusal(id: &str, told: &ApiError) -> Option<Value> {
    let negative = |kind: v1::NegativeKind, epoch| v1::Negative {
        kind: kind.into(),
        confirmed: true,
        epoch,
        ..v1::Negative::default()
    };
    match told {
        ApiError::RegistrationUnknown { .. } => {
            Some(present::negative(id, &negative(v1::NegativeKind::Unknown, 0)))
        }
        ApiError::NoHub { kind, epoch, .. } => Some(present::negative(id, &negative(*kind, *epoch))),
        ApiError::RegistrationAmbiguous { .. } => Some(serde_json::json!({
            "device_id": id,
            "hub": null,
            "status": "AMBIGUOUS",
            "problem": told.to_string(),
        })),
        _ => None,
    }
}

async fn batch(client: &Client, args: &LookupArgs, ids: Vec<String>) -> Result<Vec<Value>, Failure> {
    let asked = ids.clone();
    let request = v1::BatchLookupRequest {
        consistency: Some(args.read.consistency.clone()),
        device_ids: ids,
        ..Default::default()
    };
    let answer = client.batch_lookup(request).await?;
    let mut negatives = answer.negatives.iter().map(|n| (n.index as usize, n.negative)).peekable();
    let mut rows = Vec::with_capacity(asked.len());
    for (at, id) in asked.iter().enumerate() {
        let number = answer.hub_numbers.get(at).copied().unwrap_or(0) as usize;
        let hub = number.checked_sub(1).and_then(|at| answer.hubs.get(at));
        let negative = negatives.next_if(|(index, _)| *index == at).and_then(|(_, negative)| negative);
        rows.push(match (hub, negative) {
            (Some(hub), _) => serde_json::json!({
                "device_id": id,
                "hub": hub.hub,
                "stamp": hub.stamp,
                "status": "ASSIGNED",
                "epoch": answer.epochs.get(at),
                "revision": answer.revisions.get(at),
                "hub_state": present::accept_state(hub.state),
            }),
            (None, Some(negative)) => present::negative(id, &negative),
            (None, None) => {
                return Err(Failure::refused(format!("the answer says nothing of device `{id}`")));
            }
        });
    }
    Ok(rows)
}

/// The exit code that these rows deserve.
fn verdict(rows: &[Value]) -> u8 {
    let code = |row: &Value| match (&row["hub"], row["status"].as_str()) {
        (Value::Null, Some("UNKNOWN")) => EXIT_NOT_FOUND,
        (Value::Null, _) => EXIT_REFUSED,
        _ => EXIT_DONE,
    };
    rows.iter().map(code).fold(EXIT_DONE, worse)
}

fn worse(a: u8, b: u8) -> u8 {
    if a == EXIT_NOT_FOUND || b == EXIT_NOT_FOUND { EXIT_NOT_FOUND } else { a.max(b) }
}

/// IDs from stdin in batches, read on a thread of their own; nothing where they are not asked for.
fn ids_from_stdin(asked: bool) -> mpsc::Receiver<Result<Vec<String>, Failure>> {
    let (batches, receiver) = mpsc::channel(BATCHES_AHEAD);
    if asked {
        std::thread::spawn(move || {
            let mut ids = Vec::new();
            for line in std::io::stdin().lock().lines() {
                match line {
                    Ok(line) if line.trim().is_empty() => {}
                    Ok(line) => ids.push(line.trim().to_owned()),
                    Err(error) => {
                        let failure = Failure::refused(format!("cannot read IDs from stdin: {error}"));
                        let _ = batches.blocking_send(Err(failure));
                        return;
                    }
                }
                if ids.len() == BATCH_MAX && batches.blocking_send(Ok(std::mem::take(&mut ids))).is_err() {
                    return;
                }
            }
            if !ids.is_empty() {
                // Where nobody takes the last batch the command has failed already.
                let _ = batches.blocking_send(Ok(ids));
            }
        });
    }
    receiver
}
