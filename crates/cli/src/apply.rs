//! `berth apply`: the topology as a file describes it, in one revision.

use std::fs::File;
use std::io::{self, Read};
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
        return bounded(io::stdin().lock())
            .map_err(|e| Failure::refused(format!("cannot read the topology from stdin: {e}")));
    }
    File::open(path).and_then(bounded).map_err(|e| Failure::file("read", path, &e))
}

/// Reads a text to its end. Its length is not asked for beforehand, since a pipe does not know its own.
fn bounded(from: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    from.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!(
            "it has more than {FILE_BYTES_MAX} bytes, the most that is read"
        )));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_far_as_they_are_text_of_a_bounded_size() {
        assert_eq!(bounded(&b"[[stamps]]"[..]).unwrap(), "[[stamps]]");
        assert!(bounded(&b"\xff"[..]).unwrap_err().to_string().contains("not UTF-8"));
        let most = bounded(io::repeat(b' ').take(FILE_BYTES_MAX)).unwrap();
        assert_eq!(most.len() as u64, FILE_BYTES_MAX);
        // The character that the bound would cut is no reason to blame the text.
        let more = bounded(io::repeat(b' ').take(FILE_BYTES_MAX).chain("é".as_bytes())).unwrap_err();
        assert!(more.to_string().contains("more than"), "{more}");
    }
}
