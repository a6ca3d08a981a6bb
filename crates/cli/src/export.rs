//! `berth export`: all devices at one revision, several partitions at a time.

use std::io::Write;
use std::path::{Path, PathBuf};

use berth_client::{Error, ExportStream, v1};
use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::sync::mpsc;

use crate::args::{Common, ReadArgs};
use crate::device::FilterArgs;
use crate::failure::{EXIT_DONE, Failure};
use crate::import::labels_text;
use crate::present;
use crate::progress::Progress;
use crate::screen::{Format, Screen};

/// Partitions that are streamed at the same time.
const PARTITIONS: u32 = 4;
/// Messages of up to 1,000 devices that wait to be written.
const PARTS_WAITING: usize = 8;
/// Bytes gathered before they go to the file.
const WRITE_BYTES: usize = 1 << 18;

/// Flags of `berth export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// File to write; without it, or with -, stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Format of the file, which `berth import` reads; by default as the file's name or --output says, else csv
    #[arg(long)]
    format: Option<ExportFormat>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    read: ReadArgs,
}

/// Format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// Comma-separated values with a header line
    Csv,
    /// One JSON object a line
    Jsonl,
}

impl ExportFormat {
    /// The format that a file of this name has, or that results are asked for in.
    fn that_fits(file: Option<&Path>, screen: Format) -> Self {
        let ending = file.and_then(Path::extension).and_then(|ending| ending.to_str());
        match ending.map(str::to_ascii_lowercase).as_deref() {
            Some("csv") => Self::Csv,
            Some("jsonl" | "ndjson" | "json") => Self::Jsonl,
            _ if screen != Format::Table => Self::Jsonl,
            _ => Self::Csv,
        }
    }
}

pub(crate) async fn run(common: &Common, args: ExportArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let client = common.client()?;
    let request = v1::ExportRequest {
        consistency: Some(args.read.consistency),
        partitions: PARTITIONS,
        filter: Some(args.filter.into_filter()),
        ..Default::default()
    };
    let (parts, mut waiting) = mpsc::channel(PARTS_WAITING);
    let mut first = client.export(request).await?;
    // The first message names the revision, which the other partitions are read at too.
    let opening = first.next().await?;
    let revision = opening.as_ref().map_or(0, |part| present::revision(part.header.as_ref()));
    if let Some(opening) = opening {
        // The queue is empty still, and its other end is here: this neither waits nor fails.
        let _ = parts.send(Ok(opening)).await;
    }
    for partition in 1..PARTITIONS {
        tokio::spawn(forward(first.sibling(partition).await?, parts.clone()));
    }
    tokio::spawn(forward(first, parts));

    let to_file = args.out.filter(|path| path != Path::new("-"));
    let mut progress = Progress::new("devices exported", None);
    let mut devices = 0;
    let format = args.format.unwrap_or_else(|| ExportFormat::that_fits(to_file.as_deref(), screen.format));
    let mut sheet = Sheet::new(format)?;
    let mut file = to_file.as_deref().map(Unfinished::create).transpose()?;
    while let Some(part) = waiting.recv().await {
        let part = part?;
        for device in &part.devices {
            sheet.write(device)?;
        }
        devices += part.devices.len() as u64;
        if sheet.bytes.len() >= WRITE_BYTES {
            sheet.empty_into(file.as_mut(), screen)?;
        }
        progress.at(devices, screen);
    }
    sheet.empty_into(file.as_mut(), screen)?;
    progress.finish();
    if let (Some(file), Some(path)) = (file, &to_file) {
        file.finish(path)?;
        let seconds = progress.seconds();
        screen.say(&format!(
            "Exported {devices} devices at revision {revision} in {seconds:.1} s to {}.",
            path.display()
        ))?;
        if screen.format != Format::Table {
            screen.one(&json!({
                "devices": devices,
                "revision": revision,
                "file": path.display().to_string(),
                "seconds": seconds,
            }))?;
        }
    }
    Ok(EXIT_DONE)
}

/// Passes a partition's messages on; ends with the first error.
async fn forward(mut stream: ExportStream, parts: mpsc::Sender<Result<v1::ExportResponse, Error>>) {
    loop {
        let part = match stream.next().await {
            Ok(None) => return,
            Ok(Some(part)) => Ok(part),
            Err(error) => Err(error),
        };
        let is_last = part.is_err();
        if parts.send(part).await.is_err() || is_last {
            return;
        }
    }
}

/// Devices as bytes of a format.
struct Sheet {
    format: ExportFormat,
    bytes: Vec<u8>,
}

const CSV_HEADER: [&str; 10] = [
    "device_id",
    "hub",
    "stamp",
    "status",
    "epoch",
    "revision",
    "origin",
    "scope",
    "registration_id",
    "labels",
];

impl Sheet {
    fn new(format: ExportFormat) -> Result<Self, Failure> {
        let mut sheet = Self { format, bytes: Vec::with_capacity(WRITE_BYTES * 2) };
        if format == ExportFormat::Csv {
            sheet.record(&CSV_HEADER)?;
        }
        Ok(sheet)
    }

    fn write(&mut self, device: &v1::Mapping) -> Result<(), Failure> {
        match self.format {
            ExportFormat::Jsonl => {
                serde_json::to_writer(&mut self.bytes, &present::mapping(device))
                    .map_err(std::io::Error::from)?;
                self.bytes.push(b'\n');
                Ok(())
            }
            ExportFormat::Csv => self.record(&[
                &device.device_id,
                &device.hub,
                &device.stamp,
                present::status(device.status),
                &device.epoch.to_string(),
                &device.revision.to_string(),
                present::origin(device.origin),
                &device.scope,
                &device.registration_id,
                &labels_text(&device.labels),
            ]),
        }
    }

    fn record(&mut self, fields: &[&str]) -> Result<(), Failure> {
        let mut writer = csv::Writer::from_writer(&mut self.bytes);
        let written = writer.write_record(fields).map_err(std::io::Error::other);
        written.and_then(|()| writer.flush()).map_err(Failure::from)
    }

    fn empty_into(&mut self, file: Option<&mut Unfinished>, screen: &mut Screen) -> Result<(), Failure> {
        match file {
            Some(file) => {
                file.file.write_all(&self.bytes).map_err(|e| Failure::file("write", &file.path, &e))?;
            }
            None => screen.raw().write_all(&self.bytes)?,
        }
        self.bytes.clear();
        Ok(())
    }
}

/// A file beside its final place, so that nobody takes half an export for a whole one. Removed unless finished.
struct Unfinished {
    file: std::fs::File,
    path: PathBuf,
    is_finished: bool,
}

impl Unfinished {
    fn create(target: &Path) -> Result<Self, Failure> {
        let mut name = target.as_os_str().to_owned();
        name.push(".unfinished");
        let path = PathBuf::from(name);
        let file = std::fs::File::create(&path).map_err(|e| Failure::file("make", &path, &e))?;
        Ok(Self { file, path, is_finished: false })
    }

    fn finish(mut self, target: &Path) -> Result<(), Failure> {
        self.file.sync_all().map_err(|e| Failure::file("write", &self.path, &e))?;
        std::fs::rename(&self.path, target).map_err(|e| Failure::file("put the export at", target, &e))?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_finished {
            // The failure that led here is told already.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
