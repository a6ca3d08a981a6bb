//! Comma-separated values with a header line.

use csv::{ByteRecord, ReaderBuilder};

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
type Terminated<R> = std::io::Chain<R, &'static [u8]>;

/// A CSV file.
pub(super) struct CsvLines<R> {
    reader: csv::Reader<Terminated<R>>,
    columns: Vec<Column>,
    record: ByteRecord,
}

impl<R: std::io::Read> CsvLines<R> {
    /// Reads the header line.
    pub(super) fn open(from: R) -> Result<Self, String> {
        let from = from.chain(&b"\n"[..]);
        let mut reader = ReaderBuilder::new().flexible(true).buffer_capacity(1 << 18).from_reader(from);
        let headers = reader.headers().map_err(|e| format!("line 1: cannot read the header: {e}"))?;
        let mut columns = Vec::new();
        for name in headers {
            let column = column(name.trim())?;
            if column != Column::Passed && columns.contains(&column) {
                return Err(format!("line 1: column `{name}` stands in the header twice"));
            }
            columns.push(column);
        }
        if !columns.contains(&Column::DeviceId) {
            return Err("line 1: the header has no column `device_id`".to_owned());
        }
        Ok(Self { reader, columns, record: ByteRecord::new() })
    }

    fn fields(&self) -> Result<Line, String> {
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

impl<R: std::io::Read> LineSource for CsvLines<R> {
    fn next(&mut self) -> Result<Option<super::chunks::Numbered>, std::io::Error> {
        match self.reader.read_byte_record(&mut self.record) {
            Ok(false) => Ok(None),
            Ok(true) => {
                // The record's own position lies before the empty lines that were skipped; its end does not.
                let inside = self.record.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64;
                let line = self.reader.position().line().saturating_sub(1 + inside);
                Ok(Some((line, self.fields())))
            }
            Err(error) => Err(std::io::Error::other(error)),
        }
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
                    "line 1: unknown column `{other}`; known are device_id, hub, status, registration_id, scope, \
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

    #[test]
    fn a_header_with_mistakes_is_refused() {
        for (header, problem) in [
            ("hub\n", "no column `device_id`"),
            ("device_id,hubb\n", "unknown column `hubb`"),
            ("device_id,id\n", "twice"),
        ] {
            let error = CsvLines::open(header.as_bytes()).err().unwrap();
            assert!(error.contains(problem), "{error}");
        }
    }
}
