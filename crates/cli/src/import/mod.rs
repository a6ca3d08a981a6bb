//! `berth import`: devices from a file. One thread reads and checks lines; chunks of them travel with a few in flight,
//! each durable when it is acknowledged. The same file with the same flags makes the same chunks, so that an import
//! that broke off can go on where it stopped.

mod chunks;
mod csv;
mod iothub;
mod jsonl;
mod line;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use berth_client::{ApiError, Error, v1};
use berth_core::Rejection;
use clap::{Args, ValueEnum};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use crate::args::Common;
use crate::failure::{EXIT_DONE, EXIT_REFUSED, Failure};
use crate::present;
use crate::progress::{Progress, rate, whole};
use crate::screen::{Format, Screen};
pub(crate) use line::labels_text;

use chunks::{BadLine, Ledger, Reader, ReaderEnd};

/// Chunks that are read ahead of the ones in flight.
const CHUNKS_AHEAD: usize = 4;
/// Bad lines that wait to be told; the thread that reads waits beyond that.
const BAD_LINES_AHEAD: usize = 1_000;
/// Bad lines that the result lists. Each is told on stderr as it comes.
const BAD_LINES_LISTED_MAX: usize = 1_000;

/// Flags of `berth import`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Formats:
  csv     a header line, then device_id, hub, status, registration_id, scope, labels (k=v;k=v) or label.KEY
  jsonl   one object a line: {\"device_id\":…,\"hub\":…,\"status\":…,\"labels\":{…},\"scope\":…,\"registration_id\":…}
  iothub  the file that an IoT hub's export job writes; name its hub with --hub. Keys in it are never read.
Exit code 1 where any line was refused.")]
pub(crate) struct ImportArgs {
    /// The file; - reads stdin
    file: PathBuf,
    /// Format of the file
    #[arg(long, default_value = "csv")]
    format: FileFormat,
    /// Host name of the hub for lines that name none; needed for iothub
    #[arg(long, required_if_eq("format", "iothub"))]
    hub: Option<String>,
    /// Provisioning scope for lines that name none
    #[arg(long)]
    scope: Option<String>,
    /// A tag that becomes a label (iothub only): its path, such as region or site.ring, or LABEL=PATH
    #[arg(long = "label-tag", value_name = "TAG")]
    label_tags: Vec<String>,
    /// What to do with a line that is wrong or refused
    #[arg(long, default_value = "stop")]
    on_error: OnError,
    /// What to do with a device that exists
    #[arg(long, default_value = "update")]
    if_exists: IfExists,
    /// Check every line against the directory, but write nothing
    #[arg(long)]
    dry_run: bool,
    /// Why, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Import ID of an import that broke off, to go on with it
    #[arg(long, requires = "from_chunk")]
    import_id: Option<String>,
    /// First chunk to send, when going on with an import; under a new import ID where none is given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    from_chunk: Option<u64>,
}

/// Format of an import file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileFormat {
    /// Comma-separated values with a header line
    Csv,
    /// One JSON object a line
    Jsonl,
    /// What an IoT hub's export job writes
    Iothub,
}

/// What to do with a bad line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnError {
    /// End the import before the chunk that holds it
    Stop,
    /// Report it and go on
    Continue,
}

/// What to do with a device that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IfExists {
    /// Make it as the line says
    Update,
    /// Leave it as it is
    Skip,
    /// Refuse the line
    Fail,
}

/// What an import did, beside the cluster's own counts.
#[derive(Debug, Default)]
struct Report {
    bad: Vec<BadLine>,
    bad_count: u64,
    /// Bad lines that the cluster counted without telling which.
    untold: u64,
    /// The line that ended the import.
    stopped_at: Option<BadLine>,
    revision: u64,
    last_chunk: u64,
    remarks: Vec<String>,
    warnings: Vec<v1::CapacityWarning>,
}

impl Report {
    fn acknowledge(
        &mut self,
        ack: &v1::ImportResponse,
        ledger: &Ledger,
        goes_on: bool,
        progress: &mut Progress,
    ) {
        let lines = ledger.settle(ack.chunk_no);
        for (n, row) in ack.errors.iter().enumerate() {
            let line = lines.get(row.row as usize).copied().unwrap_or(0);
            let told = row.error.clone().map(|error| ApiError::from(error).to_string());
            let bad = BadLine { line, problem: told.unwrap_or_else(|| "it was refused".to_owned()) };
            // A bad line that the reading thread found stands further down: it reads ahead.
            if !goes_on && n == 0 {
                self.stopped_at = Some(bad.clone());
            }
            self.bad(bad);
        }
        let untold = ack.refused.saturating_sub(ack.errors.len() as u64);
        self.bad_count += untold;
        self.untold += untold;
        // A chunk that stopped the import was not written.
        if ack.refused == 0 || goes_on {
            self.last_chunk = ack.chunk_no;
        }
        self.revision = self.revision.max(present::revision(ack.header.as_ref()));
        self.warnings.clone_from(&ack.warnings);
        self.remarks.extend(progress.note(ledger.settled_lines()));
    }

    /// A line that never went to the cluster. Where it ends the import, a chunk before it may have done so already.
    fn bad_by_itself(&mut self, line: BadLine) {
        if self.stopped_at.is_none() {
            self.stopped_at = Some(line.clone());
        }
        self.bad(line);
    }

    fn bad(&mut self, line: BadLine) {
        self.bad_count += 1;
        self.remarks.push(format!("line {}: {}", line.line, line.problem));
        if self.bad.len() < BAD_LINES_LISTED_MAX {
            self.bad.push(line);
        }
    }
}

impl ImportArgs {
    /// An import of an IoT hub's export file, with everything else as it is by default.
    pub(crate) fn of_hub_export(file: PathBuf, hub: String) -> Self {
        Self {
            file,
            format: FileFormat::Iothub,
            hub: Some(hub),
            scope: None,
            label_tags: Vec::new(),
            on_error: OnError::Stop,
            if_exists: IfExists::Update,
            dry_run: false,
            reason: String::new(),
            import_id: None,
            from_chunk: None,
        }
    }

    /// An import of a CSV file, with everything else as it is by default.
    pub(crate) fn of_csv(file: PathBuf) -> Self {
        Self { format: FileFormat::Csv, hub: None, ..Self::of_hub_export(file, String::new()) }
    }

    /// The same import with tags that become labels.
    pub(crate) fn with_label_tags(self, tags: &[&str]) -> Self {
        Self { label_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(), ..self }
    }

    fn goes_on(&self) -> bool {
        // A dry run reports every line, whatever is done about it later.
        self.dry_run || self.on_error == OnError::Continue
    }
}

/// Times between acknowledgements, for whoever wants to measure them.
#[derive(Debug, Default, Clone)]
pub(crate) struct Acks(Arc<Mutex<(Option<Instant>, Vec<u64>)>>);

impl Acks {
    fn note(&self) {
        let now = Instant::now();
        let mut acks = self.0.lock();
        if let Some(last) = acks.0.replace(now) {
            acks.1.push(u64::try_from((now - last).as_micros()).unwrap_or(u64::MAX));
        }
    }

    /// The times seen so far, in microseconds.
    pub(crate) fn take(&self) -> Vec<u64> {
        std::mem::take(&mut self.0.lock().1)
    }
}

pub(crate) async fn run(common: &Common, args: ImportArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let summary = perform(common, &args, &Acks::default(), screen).await?;
    tell(&summary, &args, screen)?;
    if summary["stopped"] == true {
        let (line, problem) = (&summary["stopped_at"]["line"], &summary["stopped_at"]["problem"]);
        let goes_on = summary["go_on"].as_str().unwrap_or_default();
        return Err(Failure::refused(format!(
            "the import stopped at line {line}: {}; nothing of its chunk was written: mend the line and go on with \
             {goes_on}, or use --on-error continue",
            problem.as_str().unwrap_or_default()
        )));
    }
    let bad = summary["bad"].as_u64().unwrap_or(0);
    if bad > BAD_LINES_LISTED_MAX as u64 && screen.format != Format::Table {
        screen.remark(&format!("the result lists the first {BAD_LINES_LISTED_MAX} of {bad} bad lines"));
    }
    Ok(if bad > 0 { EXIT_REFUSED } else { EXIT_DONE })
}

/// Imports, and tells what was done.
pub(crate) async fn perform(
    common: &Common,
    args: &ImportArgs,
    acks: &Acks,
    screen: &mut Screen,
) -> Result<Value, Failure> {
    if args.format != FileFormat::Iothub && !args.label_tags.is_empty() {
        let problem = "--label-tag goes with --format iothub only; other formats carry labels themselves";
        return Err(Failure::usage(problem));
    }
    let client = common.client()?;
    let import_id = args.import_id.clone().unwrap_or_else(|| client.new_request_id());
    let (ledger, report) = (Arc::new(Ledger::default()), Arc::new(Mutex::new(Report::default())));
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
    let reader = Reader::open(args, Arc::clone(&ledger))?;
    let (found, mut bad_lines) = mpsc::channel(BAD_LINES_AHEAD);
    let reading = tokio::task::spawn_blocking(move || {
        // Where nobody listens the whole command is over.
        reader.run(&sender, &mut |line| drop(found.blocking_send(line)))
    });
    let mut progress = Progress::new("lines imported", None);
    let news = Arc::new(Notify::new());
    let acknowledged = {
        let (ledger, report, news) = (Arc::clone(&ledger), Arc::clone(&report), Arc::clone(&news));
        let (progress, goes_on) = (&mut progress, args.goes_on());
        move |ack: &v1::ImportResponse| {
            acks.note();
            report.lock().acknowledge(ack, &ledger, goes_on, progress);
            news.notify_one();
        }
    };
    let importing = client.import(start(args, &import_id), chunks, acknowledged);
    let both = async { (importing.await, reading.await) };
    let (outcome, end) = watch(both, &mut bad_lines, &news, &report, screen).await;
    progress.finish();
    let end = end.map_err(|e| Failure::refused(format!("the reading thread broke off: {e}")))?;
    let report = std::mem::take(&mut *report.lock());
    if report.untold > 0 {
        screen
            .complain(&format!("{} more lines were refused; the cluster does not say which", report.untold));
    }
    for warning in &report.warnings {
        screen.complain(&format!("warning: {}", present::told(warning)));
    }

    let from = report.last_chunk.max(args.from_chunk.map_or(0, |from| from - 1)) + 1;
    let go_on = format!("`--import-id {import_id} --from-chunk {from}`");
    let broken_off = |failure: Failure, go_on: &str| match failure.is_silent() || args.dry_run {
        true => failure,
        false => Failure { message: format!("{}; go on with {go_on}", failure.message), ..failure },
    };
    let totals = outcome.map_err(|error| {
        let go_on = match &error {
            // A long import goes through several IDs; what is in doubt has the last of them.
            Error::OutcomeUnknown { request_id, .. } => {
                format!("`--import-id {request_id} --from-chunk {from}`")
            }
            expired if is_forgotten(expired) => {
                format!("`--from-chunk {from}`, which writes the chunk once more if it was written")
            }
            _ => go_on.clone(),
        };
        broken_off(error.into(), &go_on)
    })?;
    let end = end.map_err(|failure| broken_off(failure, &go_on))?;
    let stopped = totals.stopped || end == ReaderEnd::Stopped;
    let seconds = progress.seconds();
    let lines = ledger.lines_read();
    Ok(json!({
        "import_id": import_id,
        "dry_run": args.dry_run,
        "lines": lines,
        "created": totals.created,
        "moved": totals.moved,
        "touched": totals.touched,
        "unchanged": totals.unchanged,
        "skipped": totals.skipped,
        "bad": report.bad_count,
        "modules": ledger.modules(),
        "chunks": totals.chunks,
        "stopped": stopped,
        "stopped_at": report.stopped_at.as_ref().filter(|_| stopped).map(BadLine::to_json),
        "go_on": go_on,
        "revision": report.revision,
        "seconds": (seconds * 1_000.0).round() / 1_000.0,
        "lines_per_second": whole(rate(lines, seconds)),
        "bad_lines": report.bad.iter().map(BadLine::to_json).collect::<Value>(),
    }))
}

fn start(args: &ImportArgs, import_id: &str) -> v1::ImportStart {
    let on_error = if args.goes_on() { v1::OnError::Continue } else { v1::OnError::Stop };
    let if_exists = match args.if_exists {
        IfExists::Update => v1::IfExists::Update,
        IfExists::Skip => v1::IfExists::Skip,
        IfExists::Fail => v1::IfExists::Fail,
    };
    v1::ImportStart {
        import_id: import_id.to_owned(),
        reason: args.reason.clone(),
        validate_only: args.dry_run,
        on_error: on_error.into(),
        if_exists: if_exists.into(),
        default_hub: args.hub.clone().unwrap_or_default(),
        default_scope: args.scope.clone().unwrap_or_default(),
    }
}

/// Waits for the import, and passes remarks on as they come up.
async fn watch<T>(
    importing: impl Future<Output = T>,
    bad_lines: &mut mpsc::Receiver<BadLine>,
    news: &Notify,
    report: &Mutex<Report>,
    screen: &mut Screen,
) -> T {
    let mut importing = std::pin::pin!(importing);
    loop {
        let outcome = tokio::select! {
            outcome = &mut importing => Some(outcome),
            Some(line) = bad_lines.recv() => {
                report.lock().bad_by_itself(line);
                None
            }
            () = news.notified() => None,
        };
        if outcome.is_some() {
            // The thread that reads has ended by then.
            while let Ok(line) = bad_lines.try_recv() {
                report.lock().bad_by_itself(line);
            }
        }
        let mut remarks = std::mem::take(&mut report.lock().remarks);
        tell_remarks(&mut remarks, screen);
        if let Some(outcome) = outcome {
            return outcome;
        }
    }
}

/// True where the cluster cannot tell any more whether a chunk was written.
fn is_forgotten(error: &Error) -> bool {
    matches!(error.api_error(), Some(ApiError::Rejected(Rejection::RequestIdExpired { .. })))
}

fn tell_remarks(remarks: &mut Vec<String>, screen: &mut Screen) {
    for remark in remarks.drain(..) {
        screen.remark(&remark);
    }
}

fn tell(summary: &Value, args: &ImportArgs, screen: &mut Screen) -> Result<(), Failure> {
    if screen.format != Format::Table {
        screen.one(summary)?;
        return Ok(());
    }
    let did = if args.dry_run { "Checked" } else { "Imported" };
    screen.say(&format!(
        "{did} {} lines in {} s ({}/s): {} created, {} moved, {} touched, {} unchanged, {} skipped, {} bad.",
        summary["lines"],
        summary["seconds"],
        summary["lines_per_second"],
        summary["created"],
        summary["moved"],
        summary["touched"],
        summary["unchanged"],
        summary["skipped"],
        summary["bad"],
    ))?;
    if summary["modules"] != 0 {
        screen.say(&format!(
            "{} lines are modules, which are not devices; they were passed over.",
            summary["modules"]
        ))?;
    }
    Ok(())
}
