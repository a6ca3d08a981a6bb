//! From lines to chunks, and from the cluster's answers back to line numbers.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_client::{CHUNK_ROWS_MAX, v1};
use parking_lot::Mutex;
use prost::Message;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::csv::CsvLines;
use super::iothub::LabelTag;
use super::line::Line;
use super::{FileFormat, ImportArgs, OnError, iothub, jsonl};
use crate::failure::Failure;

/// Longest line that is read: a device with a full twin (32 KiB of tags and properties, twice) takes far less.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Bytes of rows after which a chunk is full; the server takes 2 MiB.
const CHUNK_BYTES_FULL: usize = 3 << 19;
/// Size of the read buffer.
const READ_BYTES: usize = 1 << 20;

/// A line that was not imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadLine {
    /// Its number, from 1.
    pub(super) line: u64,
    /// Why.
    pub(super) problem: String,
}

impl BadLine {
    /// As the result lists it.
    pub(super) fn to_json(&self) -> Value {
        json!({"line": self.line, "problem": self.problem})
    }
}

/// How reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReaderEnd {
    /// The file is read.
    Done,
    /// A bad line ended it.
    Stopped,
    /// Nobody took the chunks any more.
    NotTaken,
}

/// A line with its number, read or refused.
pub(super) type Numbered = (u64, Result<Line, String>);

/// A source of numbered lines.
pub(super) trait LineSource {
    /// The next line; `None` after the last one.
    fn next(&mut self) -> Result<Option<Numbered>, std::io::Error>;
}

/// Which lines went into which chunk, and how far everything is.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    sent: Mutex<VecDeque<(u64, Vec<u64>)>>,
    lines_read: AtomicU64,
    modules: AtomicU64,
    settled_lines: AtomicU64,
}

impl Ledger {
    fn enter(&self, chunk_no: u64, lines: Vec<u64>) {
        self.sent.lock().push_back((chunk_no, lines));
    }

    /// A chunk is acknowledged: its lines, in the order of its rows.
    pub(super) fn settle(&self, chunk_no: u64) -> Vec<u64> {
        let mut sent = self.sent.lock();
        while let Some((no, lines)) = sent.pop_front() {
            self.settled_lines.fetch_add(lines.len() as u64, Ordering::Relaxed);
            if no == chunk_no {
                return lines;
            }
        }
        Vec::new()
    }

    pub(super) fn settled_lines(&self) -> u64 {
        self.settled_lines.load(Ordering::Relaxed)
    }

    pub(super) fn lines_read(&self) -> u64 {
        self.lines_read.load(Ordering::Relaxed)
    }

    pub(super) fn modules(&self) -> u64 {
        self.modules.load(Ordering::Relaxed)
    }
}

/// Reads a file into chunks.
pub(super) struct Reader {
    source: Box<dyn LineSource + Send>,
    ledger: Arc<Ledger>,
    stops: bool,
    from_chunk: u64,
}

impl Reader {
    /// Opens the file that the flags name.
    pub(super) fn open(args: &ImportArgs, ledger: Arc<Ledger>) -> Result<Self, Failure> {
        let tags: Result<Vec<_>, _> = args.label_tags.iter().map(|tag| LabelTag::parse(tag)).collect();
        let tags = tags.map_err(Failure::usage)?;
        let file = open(&args.file)?;
        let source: Box<dyn LineSource + Send> = match args.format {
            FileFormat::Csv => {
                let lines = CsvLines::open(file);
                Box::new(lines.map_err(|e| Failure::refused(format!("{}: {e}", args.file.display())))?)
            }
            FileFormat::Jsonl => Box::new(TextLines::new(file, jsonl::read)),
            FileFormat::Iothub => Box::new(TextLines::new(file, move |text| iothub::read(text, &tags))),
        };
        let stops = args.on_error == OnError::Stop && !args.dry_run;
        Ok(Self { source, ledger, stops, from_chunk: args.from_chunk.unwrap_or(1) })
    }

    /// Reads to the end, or to the first bad line where that ends the import.
    pub(super) fn run(
        mut self,
        chunks: &mpsc::Sender<v1::ImportChunk>,
        bad: &mut dyn FnMut(BadLine),
    ) -> Result<ReaderEnd, Failure> {
        let mut chunk = Filling { chunk_no: 1, ..Default::default() };
        loop {
            let next = self.source.next();
            let next = next.map_err(|e| Failure::refused(format!("cannot read the import file: {e}")))?;
            let Some((number, line)) = next else { break };
            self.ledger.lines_read.fetch_add(1, Ordering::Relaxed);
            match line {
                Ok(Line::Module) => {
                    self.ledger.modules.fetch_add(1, Ordering::Relaxed);
                }
                Ok(line) => chunk.put(number, line),
                // What came before a chunk that is passed over was told the first time.
                Err(_) if chunk.chunk_no < self.from_chunk && !self.stops => {}
                Err(problem) => {
                    bad(BadLine { line: number, problem });
                    if self.stops {
                        return Ok(ReaderEnd::Stopped);
                    }
                }
            }
            if chunk.is_full() && !self.send(&mut chunk, chunks) {
                return Ok(ReaderEnd::NotTaken);
            }
        }
        let is_sent = chunk.is_empty() || self.send(&mut chunk, chunks);
        Ok(if is_sent { ReaderEnd::Done } else { ReaderEnd::NotTaken })
    }

    fn send(&self, chunk: &mut Filling, chunks: &mpsc::Sender<v1::ImportChunk>) -> bool {
        let (chunk_no, lines, message) = chunk.take();
        if chunk_no < self.from_chunk {
            return true;
        }
        self.ledger.enter(chunk_no, lines);
        chunks.blocking_send(message).is_ok()
    }
}

/// A chunk that is being filled.
#[derive(Default)]
struct Filling {
    chunk_no: u64,
    rows: Vec<v1::DeviceAssignment>,
    row_lines: Vec<u64>,
    packed: Vec<u8>,
    packed_lines: Vec<u64>,
    bytes: usize,
}

impl Filling {
    fn put(&mut self, number: u64, line: Line) {
        match line {
            Line::Plain(id) => {
                // A device ID has at most 128 bytes.
                self.packed.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
                self.packed.extend_from_slice(id.as_bytes());
                self.packed_lines.push(number);
                self.bytes += id.len() + 1;
            }
            Line::Row(row) => {
                self.bytes += row.encoded_len() + 4;
                self.rows.push(*row);
                self.row_lines.push(number);
            }
            Line::Module => {}
        }
    }

    fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.packed.is_empty()
    }

    fn is_full(&self) -> bool {
        self.row_lines.len() + self.packed_lines.len() >= CHUNK_ROWS_MAX || self.bytes >= CHUNK_BYTES_FULL
    }

    /// The chunk's number, its lines in the order of its rows, and the chunk; the next one begins.
    fn take(&mut self) -> (u64, Vec<u64>, v1::ImportChunk) {
        let full = std::mem::take(self);
        self.chunk_no = full.chunk_no + 1;
        let mut lines = full.row_lines;
        lines.extend(full.packed_lines);
        let chunk = v1::ImportChunk {
            chunk_no: full.chunk_no,
            rows: full.rows,
            packed_device_ids: full.packed.into(),
        };
        (full.chunk_no, lines, chunk)
    }
}

/// Lines of text, each read by a function.
struct TextLines<R, F> {
    reader: BufReader<R>,
    read: F,
    buffer: Vec<u8>,
    number: u64,
}

impl<R: Read, F: Fn(&str) -> Result<Line, String>> TextLines<R, F> {
    fn new(from: R, read: F) -> Self {
        Self { reader: BufReader::with_capacity(READ_BYTES, from), read, buffer: Vec::new(), number: 0 }
    }

    fn understand(&self) -> Result<Line, String> {
        if self.buffer.len() > LINE_BYTES_MAX {
            return Err(format!("the line is longer than {LINE_BYTES_MAX} bytes"));
        }
        let text = std::str::from_utf8(&self.buffer).map_err(|_| "the line is not UTF-8".to_owned())?;
        // Files written on Windows may begin with a byte order mark.
        (self.read)(text.trim().trim_start_matches('\u{feff}'))
    }
}

impl<R: Read, F: Fn(&str) -> Result<Line, String>> LineSource for TextLines<R, F> {
    fn next(&mut self) -> Result<Option<(u64, Result<Line, String>)>, std::io::Error> {
        loop {
            self.buffer.clear();
            let limit = LINE_BYTES_MAX as u64 + 1;
            let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.buffer)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            let is_cut = self.buffer.len() > LINE_BYTES_MAX && self.buffer.last() != Some(&b'\n');
            let line = self.understand();
            if is_cut {
                skip_line(&mut self.reader)?;
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(Some((self.number, line)));
            }
        }
    }
}

/// Passes over the rest of a line without keeping it.
fn skip_line(reader: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(buffer.len(), |at| at + 1);
        reader.consume(used);
        if end.is_some() {
            return Ok(());
        }
    }
}

fn open(path: &Path) -> Result<Box<dyn Read + Send>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdin()));
    }
    let file = File::open(path).map_err(|e| Failure::file("read", path, &e))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(Failure::refused(format!("cannot read `{}`: it is a folder", path.display())));
    }
    Ok(Box::new(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(
        text: &str,
        stops: bool,
        from_chunk: u64,
    ) -> (Vec<v1::ImportChunk>, Vec<BadLine>, ReaderEnd, Arc<Ledger>) {
        let ledger = Arc::new(Ledger::default());
        let source = Box::new(TextLines::new(std::io::Cursor::new(text.to_owned()), jsonl::read));
        let reader = Reader { source, ledger: Arc::clone(&ledger), stops, from_chunk };
        let (sender, mut receiver) = mpsc::channel(1_000);
        let mut bad = Vec::new();
        let end = reader.run(&sender, &mut |line| bad.push(line)).unwrap();
        drop(sender);
        let chunks = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
        (chunks, bad, end, ledger)
    }

    fn lines(count: usize) -> String {
        (0..count).map(|i| format!("{{\"device_id\":\"d{i}\",\"status\":\"assigned\"}}\n")).collect()
    }

    #[test]
    fn chunks_are_bounded_numbered_and_know_their_lines() {
        let text = format!("\n{}", lines(CHUNK_ROWS_MAX + 5));
        let (chunks, bad, end, ledger) = read_all(&text, true, 1);
        assert!(bad.is_empty());
        assert_eq!(end, ReaderEnd::Done);
        assert_eq!(chunks.iter().map(|c| c.chunk_no).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(ledger.settle(1)[0], 2, "the blank first line is counted");
        assert_eq!(ledger.settle(2).len(), 5);
        assert_eq!(ledger.settled_lines(), CHUNK_ROWS_MAX as u64 + 5);
    }

    #[test]
    fn a_bad_line_stops_before_its_chunk_or_is_passed_over() {
        let text = format!("{}nonsense\n{}", lines(3), lines(2));
        let (chunks, bad, end, _) = read_all(&text, true, 1);
        assert_eq!((chunks.len(), end), (0, ReaderEnd::Stopped));
        assert_eq!(bad[0].line, 4);
        let (chunks, bad, end, ledger) = read_all(&text, false, 1);
        assert_eq!((chunks.len(), bad.len(), end), (1, 1, ReaderEnd::Done));
        assert_eq!(ledger.settle(1), [1, 2, 3, 5, 6]);
    }

    #[test]
    fn going_on_sends_the_same_chunks_from_the_one_asked_for() {
        let text = lines(3 * CHUNK_ROWS_MAX);
        let (all, ..) = read_all(&text, true, 1);
        let (rest, ..) = read_all(&text, true, 3);
        assert_eq!(rest, all[2..]);
    }

    #[test]
    fn over_long_and_foreign_lines_are_bad_lines() {
        let text = format!("{}\n{}", "x".repeat(2 * LINE_BYTES_MAX + 7), lines(1));
        let (chunks, bad, ..) = read_all(&text, false, 1);
        assert_eq!((bad.len(), bad[0].line), (1, 1));
        assert!(bad[0].problem.contains("longer than"));
        assert_eq!(chunks.len(), 1);
    }
}
