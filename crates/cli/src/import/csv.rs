//! Comma-separated values with a header line.

use std::io::{self, Read};

use csv::{ByteRecord, ReaderBuilder, Terminator};

use super::chunks::LineSource;
use super::line::{Fields, Line, labels_of};

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Column {
    DeviceId,
    Hub,
    Status,
    Scope,
    RegistrationId,
    Labels,
    Label(String),
    /// A column that an export writes and an import leaves alone.
    Passed,
}

/// A file whose last line ends like every other, so that lines can be counted by their ends.
struct Terminated<R> {
    file: R,
    is_ended: bool,
    /// The reader was told that nothing follows.
    is_over: bool,
}

impl<R: Read> Read for Terminated<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = if self.is_ended { 0 } else { self.file.read(buffer)? };
        match buffer.first_mut() {
            Some(first) if read == 0 && !self.is_ended => {
                *first = b'\n';
                self.is_ended = true;
                Ok(1)
            }
            Some(_) => {
                self.is_over = read == 0;
                Ok(read)
            }
            None => Ok(0),
        }
    }
}

/// A CSV file.
pub(super) struct CsvLines<R> {
    reader: csv::Reader<Terminated<R>>,
    columns: Vec<Column>,
    record: ByteRecord,
}

impl<R: Read> CsvLines<R> {
    /// Reads the header line.
    pub(super) fn open(file: R) -> Result<Self, String> {
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            // A record that ends in CRLF would be over before its LF, and be counted as a line less than one that
            // ends in LF. The CR stays at the end of the last field, where it is trimmed.
            .terminator(Terminator::Any(b'\n'))
            .buffer_capacity(1 << 18)
            .from_reader(Terminated { file, is_ended: false, is_over: false });
        let mut lines = Self { reader, columns: Vec::new(), record: ByteRecord::new() };
        let line = lines.advance().map_err(|e| format!("cannot read the header: {e}"))?;
        let Some(line) = line else {
            return Err("the file is empty; its first line has to name the columns".to_owned());
        };
        lines.columns = lines.header().map_err(|problem| format!("line {line}: {problem}"))?;
        Ok(lines)
    }

    fn header(&self) -> Result<Vec<Column>, String> {
        self.check_quotes()?;
        let mut columns = Vec::new();
        for name in &self.record {
            let name = std::str::from_utf8(name).map_err(|_| "the header is not UTF-8".to_owned())?.trim();
            if name.contains('\r') {
                return Err("lines end in CR alone; save the file with LF or CRLF at their ends".to_owned());
            }
            let column = column(name)?;
            if column != Column::Passed && columns.contains(&column) {
                return Err(format!("column `{name}` stands in the header twice"));
            }
            columns.push(column);
        }
        if !columns.contains(&Column::DeviceId) {
            return Err("the header has no column `device_id`".to_owned());
        }
        Ok(columns)
    }

    /// Reads the next record that is more than an empty line, and tells the line that it begins on.
    fn advance(&mut self) -> Result<Option<u64>, csv::Error> {
        while self.reader.read_byte_record(&mut self.record)? {
            if self.record.len() == 1 && self.record.as_slice() == b"\r" {
                continue;
            }
            // The record's own position lies before the empty lines that were skipped; its end does not.
            let inside = self.record.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64;
            let ends = inside + u64::from(!self.is_cut_off());
            return Ok(Some(self.reader.position().line().saturating_sub(ends)));
        }
        Ok(None)
    }

    /// True where no line end is the record's: a quote swallowed the rest of the file.
    fn is_cut_off(&self) -> bool {
        self.reader.get_ref().is_over
    }

    fn check_quotes(&self) -> Result<(), String> {
        if self.is_cut_off() {
            return Err(
                "a quote is opened and never closed, so that all further lines belong to it".to_owned()
            );
        }
        Ok(())
    }

    fn fields(&self) -> Result<Line, String> {
        self.check_quotes()?;
        if self.record.len() != self.columns.len() {
            let (found, due) = (self.record.len(), self.columns.len());
            return Err(format!("the line has {found} fields where the header has {due}"));
        }
        let mut fields = Fields::default();
        let mut labels = Vec::new();
        let mut has_labels = false;
        for (column, bytes) in self.columns.iter().zip(&self.record) {
            if *column == Column::Passed {
                continue;
            }
            let text = std::str::from_utf8(bytes).map_err(|_| "the line is not UTF-8".to_owned())?.trim();
            match column {
                Column::DeviceId => fields.device_id = text,
                Column::Hub => fields.hub = text,
                Column::Status => fields.status = text,
                Column::Scope => fields.scope = text,
                Column::RegistrationId => fields.registration_id = text,
                Column::Labels => {
                    has_labels = true;
                    labels.extend(labels_of(text)?);
                }
                Column::Label(key) => {
                    has_labels = true;
                    if !text.is_empty() {
                        labels.push((key.clone(), text.to_owned()));
                    }
                }
                Column::Passed => {}
            }
        }
        fields.labels = has_labels.then_some(labels);
        fields.check()
    }
}

impl<R: Read> LineSource for CsvLines<R> {
    fn next(&mut self) -> Result<Option<super::chunks::Numbered>, io::Error> {
        let line = self.advance().map_err(io::Error::other)?;
        Ok(line.map(|line| (line, self.fields())))
    }
}

fn column(name: &str) -> Result<Column, String> {
    Ok(match name {
        "device_id" | "id" => Column::DeviceId,
        "hub" => Column::Hub,
        "status" => Column::Status,
        "scope" => Column::Scope,
        "registration_id" => Column::RegistrationId,
        "labels" => Column::Labels,
        "stamp" | "epoch" | "revision" | "origin" | "evidence_source" | "evidence_time" => Column::Passed,
        other => match other.strip_prefix("label.") {
            Some(key) if !key.is_empty() => Column::Label(key.to_owned()),
            _ => {
                return Err(format!(
                    "unknown column `{other}`; known are device_id, hub, status, registration_id, scope, \
                     labels and label.KEY"
                ));
            }
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<crate::import::chunks::Numbered> {
        let mut lines = CsvLines::open(text.as_bytes()).unwrap();
        std::iter::from_fn(|| lines.next().unwrap()).collect()
    }

    #[test]
    fn lines_are_read_by_their_header_and_numbered_as_in_the_file() {
        let lines =
            all("device_id,hub,label.ring,labels\na,h.x,1,\n\n\"b\",,,\"region=eu;x=1\"\nc c,,,\nd,,\n");
        assert_eq!(lines.iter().map(|(no, _)| *no).collect::<Vec<_>>(), [2, 4, 5, 6]);
        let Ok(Line::Row(first)) = &lines[0].1 else { panic!("a row") };
        assert_eq!(
            (first.hub.as_str(), first.labels.as_ref().unwrap().labels["ring"].as_str()),
            ("h.x", "1")
        );
        let Ok(Line::Row(second)) = &lines[1].1 else { panic!("a row") };
        assert_eq!(second.labels.as_ref().unwrap().labels.len(), 2);
        assert!(lines[2].1.as_ref().unwrap_err().contains("`c c`"));
        assert!(lines[3].1.as_ref().unwrap_err().contains("3 fields where the header has 4"));
    }

    /// The numbers of the lines of `text` behind a header, and the problem of the last one.
    fn numbers(header: &str, text: &str) -> (Vec<u64>, String) {
        let lines = all(&format!("{header}{text}"));
        let problem = lines.last().and_then(|(_, line)| line.as_ref().err()).cloned().unwrap_or_default();
        (lines.iter().map(|(number, _)| *number).collect(), problem)
    }

    #[test]
    fn numbers_are_the_same_whatever_ends_the_lines() {
        let text = "device_id,hub\na,h.x\n\n\nb,\"h.x\"\n\"c\",h.x\nd d,h.x\n";
        for (name, text) in [
            ("LF", text.to_owned()),
            ("CRLF", text.replace('\n', "\r\n")),
            ("no last LF", text.trim_end().to_owned()),
            ("no last CRLF", text.trim_end().replace('\n', "\r\n")),
            ("a byte order mark", format!("\u{feff}{text}")),
            ("a byte order mark and CRLF", format!("\u{feff}{}", text.replace('\n', "\r\n"))),
            ("empty lines at the end", format!("{text}\n\r\n\n")),
        ] {
            let (numbers, problem) = numbers("", &text);
            assert_eq!(numbers, [2, 5, 6, 7], "{name}");
            assert!(problem.contains("`d d`"), "{name}: {problem}");
            let lines = all(&text);
            for (_, line) in &lines[..3] {
                let Ok(Line::Row(row)) = line else { panic!("{name}: {line:?}") };
                assert_eq!(row.hub, "h.x", "{name}");
            }
        }
    }

    #[test]
    fn a_record_has_the_number_of_its_first_line() {
        for end in ["\n", "\r\n"] {
            let text =
                ["device_id,stamp", "", "a,\"x", "", "y\"", "b,", "\"c", "c\",z", "", "d", ""].join(end);
            assert_eq!(numbers("", &text).0, [3, 6, 7, 10], "{end:?}");
        }
    }

    #[test]
    fn a_file_of_one_column_has_empty_lines_too() {
        for text in ["a\n\nb\n", "a\r\n\r\nb\r\n", "a\r\n\r\nb"] {
            assert_eq!(numbers("device_id\r\n", text).0, [2, 4], "{text:?}");
        }
        let (numbers, problem) = numbers("device_id\n", "a\n\"\"\n");
        assert_eq!(numbers, [2, 3]);
        assert!(!problem.is_empty(), "an empty ID is not an empty line");
    }

    #[test]
    fn a_quote_that_is_never_closed_hides_no_line() {
        for last in ["", "\n", "\r\n", "\nc,s\nd,s\n", "\nc,s\nd,s"] {
            let (numbers, problem) = numbers("device_id,stamp\n", &format!("a,s\n\nb,\"s{last}"));
            assert_eq!(numbers, [2, 4], "{last:?}");
            assert!(problem.contains("never closed"), "{last:?}: {problem}");
        }
        let (_, problem) = numbers("device_id,stamp\n", "a,\"s\"");
        assert_eq!(problem, "", "a quote may close at the very end");
    }

    #[test]
    fn lines_are_numbered_alike_in_parts_of_any_size() {
        /// Hands out a byte at a time.
        struct Drop(&'static [u8]);

        impl Read for Drop {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
                buffer[0] = *first;
                self.0 = rest;
                Ok(1)
            }
        }

        let mut lines = CsvLines::open(Drop(b"\r\n\r\ndevice_id,hub\r\na,\"h.x\"\r\n\r\nb,h.x")).unwrap();
        let numbers: Vec<u64> =
            std::iter::from_fn(|| lines.next().unwrap()).map(|(number, _)| number).collect();
        assert_eq!(numbers, [4, 6]);
    }

    #[test]
    fn a_header_with_mistakes_is_refused() {
        for (header, problem) in [
            ("hub\n", "no column `device_id`"),
            ("device_id,hubb\n", "unknown column `hubb`"),
            ("device_id,id\n", "twice"),
            ("\r\n\ndevice_id,,hub\n", "line 3: unknown column ``"),
            ("device_id,hub\ra,h.x\r", "end in CR alone"),
            ("\"device_id,hub\na,h.x\n", "line 1: a quote"),
            ("", "is empty"),
            ("\r\n\n", "is empty"),
        ] {
            let error = CsvLines::open(header.as_bytes()).err().unwrap();
            assert!(error.contains(problem), "{error}");
        }
    }
}
