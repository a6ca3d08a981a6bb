//! Where results and remarks go.

use std::io::{self, BufWriter, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde_json::Value;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// One JSON value, indented.
    Json,
    /// One JSON value a line.
    Jsonl,
}

/// A column of a table: its heading, and the JSON pointer of its value in a row.
pub(crate) struct Column(pub(crate) &'static str, pub(crate) &'static str);

/// The two streams that a command writes to.
pub(crate) struct Screen {
    pub(crate) format: Format,
    out: BufWriter<Box<dyn Write + Send>>,
    err: Box<dyn Write + Send>,
}

impl Screen {
    pub(crate) fn new(format: Format, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self { format, out: BufWriter::new(out), err }
    }

    /// Prints many things of one kind: rows of a table, one array, or a line each.
    pub(crate) fn list(&mut self, columns: &[Column], rows: &[Value]) -> io::Result<()> {
        match self.format {
            Format::Json => {
                serde_json::to_writer_pretty(&mut self.out, rows)?;
                writeln!(self.out)
            }
            Format::Jsonl => self.lines(rows),
            Format::Table => {
                let mut table = Table::new();
                table.load_style(presets::NOTHING).force_no_tty();
                table.set_header(columns.iter().map(|column| column.0));
                for row in rows {
                    table.add_row(columns.iter().map(|column| cell(row.pointer(column.1))));
                }
                for line in table.lines() {
                    writeln!(self.out, "{}", line.trim_end())?;
                }
                Ok(())
            }
        }
    }

    /// Prints one thing: its fields under each other, or one object.
    pub(crate) fn one(&mut self, thing: &Value) -> io::Result<()> {
        match (self.format, thing.as_object()) {
            (Format::Table, Some(fields)) => {
                let width = fields.keys().map(String::len).max().unwrap_or(0);
                for (key, value) in fields {
                    writeln!(self.out, "{}", format!("{key:width$}  {}", cell(Some(value))).trim_end())?;
                }
                Ok(())
            }
            (Format::Jsonl, _) => self.lines(std::slice::from_ref(thing)),
            _ => {
                serde_json::to_writer_pretty(&mut self.out, thing)?;
                writeln!(self.out)
            }
        }
    }

    /// Prints one line of text for people; nothing where JSON was asked for.
    pub(crate) fn say(&mut self, line: &str) -> io::Result<()> {
        match self.format {
            Format::Table => writeln!(self.out, "{line}"),
            _ => Ok(()),
        }
    }

    fn lines(&mut self, rows: &[Value]) -> io::Result<()> {
        for row in rows {
            serde_json::to_writer(&mut self.out, row)?;
            writeln!(self.out)?;
        }
        Ok(())
    }

    /// The results' stream itself, for what has a format of its own.
    pub(crate) fn raw(&mut self) -> &mut impl Write {
        &mut self.out
    }

    /// A remark beside the results.
    pub(crate) fn remark(&mut self, line: &str) {
        // Where stderr is gone there is nowhere left to say so.
        let _ = writeln!(self.err, "{line}");
    }

    /// An error, in one sentence.
    pub(crate) fn complain(&mut self, message: &str) {
        self.remark(&format!("berth: {message}"));
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// True where remarks go to a person's terminal.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// A JSON value as a table shows it.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Object(map)) => map
            .iter()
            .map(|(key, value)| format!("{key}={}", cell(Some(value))))
            .collect::<Vec<_>>()
            .join(" "),
        Some(Value::Array(items)) => items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(", "),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn printed(format: Format, print: impl FnOnce(&mut Screen)) -> String {
        let page = Page::default();
        let mut screen = Screen::new(format, Box::new(page.clone()), Box::new(io::sink()));
        print(&mut screen);
        screen.flush().unwrap();
        drop(screen);
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_list_is_a_table_an_array_or_lines() {
        let columns = [Column("NAME", "/name"), Column("DEVICES", "/use/devices")];
        let rows = [json!({"name": "a", "use": {"devices": 7}}), json!({"name": "bb"})];
        assert_eq!(
            printed(Format::Table, |s| s.list(&columns, &rows).unwrap()),
            " NAME  DEVICES\n a     7\n bb\n"
        );
        assert_eq!(
            printed(Format::Jsonl, |s| s.list(&columns, &rows).unwrap()),
            "{\"name\":\"a\",\"use\":{\"devices\":7}}\n{\"name\":\"bb\"}\n"
        );
        let array: Value =
            serde_json::from_str(&printed(Format::Json, |s| s.list(&columns, &rows).unwrap())).unwrap();
        assert_eq!(array, json!(rows));
    }

    #[test]
    fn remarks_for_people_stay_out_of_json() {
        assert_eq!(printed(Format::Json, |s| s.say("hello").unwrap()), "");
        assert_eq!(printed(Format::Table, |s| s.say("hello").unwrap()), "hello\n");
    }

    #[test]
    fn one_thing_is_a_column_of_fields() {
        let thing = json!({"hub": "h", "labels": {"ring": "1"}});
        assert_eq!(printed(Format::Table, |s| s.one(&thing).unwrap()), "hub     h\nlabels  ring=1\n");
    }
}
