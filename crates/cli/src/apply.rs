//! `berth apply`: the topology as a file describes it, in one revision.

use std::path::{Path, PathBuf};

use berth_client::v1;
use clap::Args;
use serde_json::{Value, json};

use crate::args::Common;
use crate::failure::{EXIT_DONE, Failure};
use crate::present;
use crate::screen::{Format, Screen};
use crate::topology_file;

/// Largest file that is read: a thousand objects, the most that one call takes, need far less.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Flags of `berth apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The file, in TOML or (named .yaml or .yml) YAML; - reads TOML from stdin
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Show the difference, but write nothing
    #[arg(long)]
    dry_run: bool,
    /// Delete the objects that the file leaves out
    #[arg(long)]
    prune: bool,
    /// Why, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Request ID (a UUID of version 7) of an apply whose outcome is not known, to repeat it safely
    #[arg(long, default_value = "", hide_default_value = true)]
    request_id: String,
}

pub(crate) async fn run(common: &Common, args: ApplyArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let text = read(&args.file)?;
    let desired = topology_file::read(&args.file.display().to_string(), &text).map_err(Failure::refused)?;
    let request = v1::ApplyRequest {
        request_id: args.request_id,
        reason: args.reason,
        validate_only: args.dry_run,
        desired: Some(desired),
        prune: args.prune,
    };
    let answer = common.client()?.apply(request).await?;
    for warning in &answer.warnings {
        screen.complain(&format!("warning: {}", present::told(warning)));
    }
    if screen.format != Format::Table {
        screen.one(&json!({
            "dry_run": args.dry_run,
            "changes": answer.changes.iter().map(change).collect::<Value>(),
            "warnings": present::warnings(&answer.warnings),
            "header": present::header(answer.header.as_ref()),
        }))?;
        return Ok(EXIT_DONE);
    }
    for change in &answer.changes {
        tell(change, screen)?;
    }
    let revision = present::revision(answer.header.as_ref());
    let count = answer.changes.len();
    screen.say(&match (count, args.dry_run) {
        (0, _) => format!("Nothing to change; everything is as described at revision {revision}."),
        (_, true) => format!("{count} objects would change. Nothing was written."),
        (_, false) => format!("{count} objects changed at revision {revision}."),
    })?;
    Ok(EXIT_DONE)
}

fn read(path: &Path) -> Result<String, Failure> {
    if path == Path::new("-") {
        return std::io::read_to_string(std::io::stdin())
            .map_err(|e| Failure::refused(format!("cannot read the topology from stdin: {e}")));
    }
    let read = || {
        let bytes = std::fs::metadata(path)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(std::io::Error::other(format!(
                "it has {bytes} bytes; at most {FILE_BYTES_MAX} are read"
            )));
        }
        std::fs::read_to_string(path)
    };
    read().map_err(|e| Failure::file("read", path, &e))
}

fn tell(change: &v1::TopologyChange, screen: &mut Screen) -> Result<(), Failure> {
    let sign = match change.kind() {
        v1::ChangeKind::Create => '+',
        v1::ChangeKind::Delete => '-',
        v1::ChangeKind::Update | v1::ChangeKind::Unspecified => '~',
    };
    let kind = present::object(change.object).to_ascii_lowercase();
    screen.say(&format!("{sign} {kind} {}", change.name))?;
    if change.kind() != v1::ChangeKind::Delete {
        for field in &change.fields {
            let (before, after) = (shown(&field.before), shown(&field.after));
            screen.say(&match change.kind() {
                v1::ChangeKind::Create => format!("    {} = {after}", field.field),
                _ => format!("    {}: {before} -> {after}", field.field),
            })?;
        }
    }
    Ok(())
}

fn shown(value: &str) -> &str {
    if value.is_empty() { "(unset)" } else { value }
}

fn change(change: &v1::TopologyChange) -> Value {
    let field = |field: &v1::FieldChange| json!({ "field": field.field, "before": field.before, "after": field.after });
    json!({
        "kind": present::change(change.kind),
        "object": present::object(change.object),
        "name": change.name,
        "fields": change.fields.iter().map(field).collect::<Value>(),
    })
}
