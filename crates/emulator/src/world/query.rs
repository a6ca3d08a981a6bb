//! The hub's query language, as far as device twins need it (IoT Hub, query language):
//! `SELECT * | COUNT() AS name | path [AS name], … FROM devices [WHERE condition]`, with comparisons, `IN`, `AND`,
//! `OR`, `NOT`, parentheses, `is_defined(path)` and `startswith(path, 'text')`.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::fields::Object;
use super::hub::{Hub, Of};
use super::identity::Identity;
use super::page::{self, Page, PageRequest};
use super::refusal::HubRefusal;
use crate::clock::Time;

/// Longest text of a query, in bytes.
const QUERY_BYTES_MAX: usize = 16_384;

/// Most terms of a query: columns, comparisons, and values of `IN` lists. Each is looked at for every device.
const TERMS_MAX: usize = 100;

/// Deepest nesting of a condition: parentheses and `NOT` are read by recursion.
const NESTING_MAX: usize = 32;

/// Most rows of a page (IoT Hub REST API, query).
const ROWS_MAX: usize = 1_000;

/// Rows of a page where none are asked for.
const ROWS_DEFAULT: usize = 100;

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Number(f64),
    Sign(&'static str),
}

type Path = Vec<String>;

#[derive(Debug, Clone, PartialEq)]
enum Condition {
    Compare(Path, &'static str, Value),
    In(Path, Vec<Value>),
    IsDefined(Path),
    StartsWith(Path, String),
    Not(Box<Condition>),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
}

#[derive(Debug, Clone, PartialEq)]
enum Columns {
    All,
    Count(String),
    Paths(Vec<(Path, String)>),
}

/// A query that was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Query {
    columns: Columns,
    condition: Option<Condition>,
}

impl Query {
    /// Reads a query; none where it is none.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let tokens = (text.len() <= QUERY_BYTES_MAX).then(|| tokens(text)).flatten()?;
        let mut reader = Reader { tokens, at: 0, depth: 0, terms: 0 };
        reader.query()
    }

    fn accepts(&self, id: &str, identity: &Identity) -> bool {
        self.condition.as_ref().is_none_or(|condition| condition.holds(id, identity) == Some(true))
    }

    /// The only devices that the condition can choose, where it names them; none where it may choose any.
    fn device_ids(&self) -> Option<BTreeSet<&str>> {
        self.condition.as_ref()?.device_ids()
    }

    fn row(&self, id: &str, identity: &Identity) -> Value {
        match &self.columns {
            Columns::Paths(paths) => {
                let mut row = Object::new();
                for (path, name) in paths {
                    if let Some(value) = value(id, identity, path) {
                        row.insert(name.clone(), value);
                    }
                }
                Value::Object(row)
            }
            _ => Value::Object(identity.show_twin(Of { device: id, module: None })),
        }
    }
}

impl Hub {
    /// A query over device twins, which lags behind them.
    pub(crate) fn query(&self, text: &str, request: &PageRequest, now: Time) -> Result<Page, HubRefusal> {
        let query = Query::read(text).ok_or_else(|| HubRefusal::argument("BadRequest"))?;
        let after = match &request.continuation {
            None => None,
            Some(token) => Some(
                page::continued(token).ok_or_else(|| HubRefusal::argument("Invalid continuation token"))?,
            ),
        };
        let after = after.as_deref();
        // Named devices are looked up: what asks for a hundred of them does not walk over all others.
        let rows: Box<dyn Iterator<Item = (&str, &Identity)>> = match query.device_ids() {
            Some(ids) => {
                let ids = ids.into_iter().filter(|id| after.is_none_or(|after| *id > after));
                let found: Vec<_> = ids.filter_map(|id| self.seen_by_query(id, now)).collect();
                Box::new(found.into_iter())
            }
            None => Box::new(self.seen_by_queries(after, now)),
        };
        let mut rows = rows.filter(|(id, identity)| query.accepts(id, identity));
        match &query.columns {
            Columns::Count(name) => {
                let mut row = Object::new();
                row.insert(name.clone(), json!(rows.by_ref().count()));
                Ok(Page { rows: vec![Value::Object(row)], continuation: None, item_type: "Raw" })
            }
            columns => {
                let item_type = if *columns == Columns::All { "Twin" } else { "Raw" };
                let rows_max = request.rows_max.unwrap_or(ROWS_DEFAULT).clamp(1, ROWS_MAX);
                let rows = rows.map(|(id, identity)| (id.to_owned(), query.row(id, identity)));
                Ok(page::cut(rows, rows_max, item_type))
            }
        }
    }
}

fn value(id: &str, identity: &Identity, path: &Path) -> Option<Value> {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    identity.find(id, &path)
}

fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a, b) => (a == b).then_some(Ordering::Equal),
    }
}

impl Condition {
    fn device_ids(&self) -> Option<BTreeSet<&str>> {
        let is_id = |path: &Path| path.len() == 1 && path[0] == "deviceId";
        match self {
            Condition::Compare(path, "=", value) if is_id(path) => Some(value.as_str().into_iter().collect()),
            Condition::In(path, values) if is_id(path) => {
                Some(values.iter().filter_map(Value::as_str).collect())
            }
            Condition::And(a, b) => a.device_ids().or_else(|| b.device_ids()),
            Condition::Or(a, b) => Some(a.device_ids()?.into_iter().chain(b.device_ids()?).collect()),
            _ => None,
        }
    }

    /// Whether the condition holds; none where that cannot be told, because something it compares is not there. So
    /// neither `a = 1` nor `NOT a = 1` chooses a device without `a`.
    fn holds(&self, id: &str, identity: &Identity) -> Option<bool> {
        match self {
            Condition::Compare(path, sign, expected) => {
                let order = order(&value(id, identity, path)?, expected);
                Some(match *sign {
                    "=" => order == Some(Ordering::Equal),
                    "!=" => order != Some(Ordering::Equal),
                    "<" => order == Some(Ordering::Less),
                    ">" => order == Some(Ordering::Greater),
                    "<=" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                    _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
                })
            }
            Condition::In(path, values) => {
                let found = value(id, identity, path)?;
                Some(values.iter().any(|value| order(&found, value) == Some(Ordering::Equal)))
            }
            Condition::IsDefined(path) => Some(value(id, identity, path).is_some()),
            Condition::StartsWith(path, start) => {
                let found = value(id, identity, path)?;
                Some(found.as_str().is_some_and(|text| text.starts_with(start)))
            }
            Condition::Not(inner) => inner.holds(id, identity).map(|holds| !holds),
            Condition::And(a, b) => match (a.holds(id, identity), b.holds(id, identity)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (a, b) => a.and(b),
            },
            Condition::Or(a, b) => match (a.holds(id, identity), b.holds(id, identity)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (a, b) => a.and(b),
            },
        }
    }
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = if first == '\'' || first == '"' {
            let end = rest[1..].find(first)?;
            (Token::Text(rest[1..=end].to_owned()), end + 2)
        } else if first.is_ascii_digit() || first == '-' {
            let numeric = |c: char| !(c.is_ascii_digit() || "+-.eE".contains(c));
            let end = rest.find(numeric).unwrap_or(rest.len());
            (Token::Number(rest[..end].parse().ok()?), end)
        } else if first.is_ascii_alphabetic() || first == '$' || first == '_' {
            let other = |c: char| !(c.is_ascii_alphanumeric() || "$_-.".contains(c));
            let end = rest.find(other).unwrap_or(rest.len());
            (Token::Word(rest[..end].to_owned()), end)
        } else {
            const SIGNS: [&str; 13] = ["<=", ">=", "!=", "<>", "=", "<", ">", "(", ")", "[", "]", ",", "*"];
            let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign))?;
            (Token::Sign(if sign == "<>" { "!=" } else { sign }), sign.len())
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Some(tokens)
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    terms: usize,
}

impl Reader {
    fn query(&mut self) -> Option<Query> {
        self.word("select")?;
        let columns = self.columns()?;
        self.word("from")?;
        self.word("devices")?;
        let condition = match self.word("where") {
            Some(()) => Some(self.either()?),
            None => None,
        };
        (self.at == self.tokens.len()).then_some(Query { columns, condition })
    }

    fn columns(&mut self) -> Option<Columns> {
        if self.sign("*").is_some() {
            return Some(Columns::All);
        }
        if self.word("count").is_some() {
            self.sign("(")?;
            self.sign(")")?;
            let name = match self.word("as") {
                Some(()) => self.path()?.join("."),
                None => "$1".to_owned(),
            };
            return Some(Columns::Count(name));
        }
        let mut paths = Vec::new();
        loop {
            let path = self.path()?;
            let name = match self.word("as") {
                Some(()) => self.path()?.join("."),
                None => path.last()?.clone(),
            };
            self.term()?;
            paths.push((path, name));
            if self.sign(",").is_none() {
                return Some(Columns::Paths(paths));
            }
        }
    }

    fn either(&mut self) -> Option<Condition> {
        let mut condition = self.both()?;
        while self.word("or").is_some() {
            condition = Condition::Or(Box::new(condition), Box::new(self.both()?));
        }
        Some(condition)
    }

    fn both(&mut self) -> Option<Condition> {
        let mut condition = self.single()?;
        while self.word("and").is_some() {
            condition = Condition::And(Box::new(condition), Box::new(self.single()?));
        }
        Some(condition)
    }

    fn single(&mut self) -> Option<Condition> {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return None;
        }
        let condition = self.single_inner();
        self.depth -= 1;
        condition
    }

    fn single_inner(&mut self) -> Option<Condition> {
        if self.word("not").is_some() {
            return Some(Condition::Not(Box::new(self.single()?)));
        }
        if self.sign("(").is_some() {
            let inner = self.either()?;
            self.sign(")")?;
            return Some(inner);
        }
        self.term()?;
        if self.word("is_defined").is_some() {
            self.sign("(")?;
            let path = self.path()?;
            self.sign(")")?;
            return Some(Condition::IsDefined(path));
        }
        if self.word("startswith").is_some() {
            self.sign("(")?;
            let path = self.path()?;
            self.sign(",")?;
            let Value::String(start) = self.literal()? else { return None };
            self.sign(")")?;
            return Some(Condition::StartsWith(path, start));
        }
        let path = self.path()?;
        if self.word("in").is_some() {
            self.sign("[")?;
            let mut values = vec![self.literal()?];
            while self.sign(",").is_some() {
                self.term()?;
                values.push(self.literal()?);
            }
            self.sign("]")?;
            return Some(Condition::In(path, values));
        }
        let sign = ["=", "!=", "<=", ">=", "<", ">"].into_iter().find(|sign| self.sign(sign).is_some())?;
        Some(Condition::Compare(path, sign, self.literal()?))
    }

    /// Counts one more term; none where there are too many.
    fn term(&mut self) -> Option<()> {
        self.terms += 1;
        (self.terms <= TERMS_MAX).then_some(())
    }

    fn literal(&mut self) -> Option<Value> {
        let value = match self.tokens.get(self.at)? {
            Token::Text(text) => json!(text),
            Token::Number(number) => json!(number),
            Token::Word(word) if word.eq_ignore_ascii_case("true") => json!(true),
            Token::Word(word) if word.eq_ignore_ascii_case("false") => json!(false),
            Token::Word(word) if word.eq_ignore_ascii_case("null") => Value::Null,
            _ => return None,
        };
        self.at += 1;
        Some(value)
    }

    fn path(&mut self) -> Option<Path> {
        let Token::Word(word) = self.tokens.get(self.at)? else { return None };
        let mut path: Path = word.split('.').map(str::to_owned).collect();
        self.at += 1;
        // `SELECT c.deviceId FROM devices c` is not read, and the collection's own name before a path is.
        if path.len() > 1 && path.first().is_some_and(|first| first.eq_ignore_ascii_case("devices")) {
            path.remove(0);
        }
        path.iter().all(|name| !name.is_empty()).then_some(path)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        match self.tokens.get(self.at)? {
            Token::Word(found) if found.eq_ignore_ascii_case(word) => self.at += 1,
            _ => return None,
        }
        Some(())
    }

    fn sign(&mut self, sign: &str) -> Option<()> {
        match self.tokens.get(self.at)? {
            Token::Sign(found) if *found == sign => self.at += 1,
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededRandomness;

    fn hub() -> Hub {
        let (random, now) = (SeededRandomness::new(1), Time::from_unix_seconds(5));
        let mut hub = Hub::new("h", Default::default(), 1, Default::default(), Default::default());
        for no in 0..5 {
            let body = json!({ "status": if no == 4 { "disabled" } else { "enabled" } });
            let id = format!("d-{no}");
            hub.put(&id, body.as_object().cloned().unwrap(), None, &random, now).unwrap();
            let twin = json!({ "tags": { "ring": no, "site": format!("s{}", no % 2) } });
            let of = Of { device: &id, module: None };
            hub.write_twin(of, twin.as_object().unwrap(), None, false, now).unwrap();
        }
        hub
    }

    fn ids(text: &str) -> Vec<String> {
        let page = hub().query(text, &PageRequest::default(), Time::from_unix_seconds(9)).unwrap();
        page.rows.iter().map(|row| row["deviceId"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn conditions_choose_devices() {
        assert_eq!(ids("SELECT * FROM devices").len(), 5);
        assert_eq!(ids("select * from devices where status = 'disabled'"), ["d-4"]);
        assert_eq!(ids("SELECT * FROM devices WHERE tags.ring >= 2 AND tags.site = 's0'"), ["d-2", "d-4"]);
        assert_eq!(ids("SELECT * FROM devices WHERE NOT (tags.ring < 3 OR deviceId = 'd-4')"), ["d-3"]);
        assert_eq!(ids("SELECT * FROM devices WHERE deviceId IN ['d-1', 'd-9']"), ["d-1"]);
        assert_eq!(
            ids("SELECT * FROM devices WHERE startswith(deviceId, 'd-') AND is_defined(tags.no)").len(),
            0
        );
        assert_eq!(ids("SELECT deviceId FROM devices WHERE tags.none != 1").len(), 0);
        assert_eq!(ids("SELECT * FROM devices WHERE NOT tags.none = 1").len(), 0);
        assert_eq!(ids("SELECT * FROM devices WHERE NOT (tags.none = 1 OR tags.ring = 9)").len(), 0);
        assert_eq!(ids("SELECT * FROM devices WHERE NOT (tags.none = 1 AND tags.ring = 9)").len(), 5);
        assert_eq!(ids("SELECT * FROM devices WHERE NOT is_defined(tags.none) OR tags.none = 1").len(), 5);
    }

    #[test]
    fn a_query_has_a_bounded_number_of_terms() {
        let ids = |count: usize| (0..count).map(|no| format!("'d-{no}'")).collect::<Vec<_>>().join(",");
        let listed = |count| format!("SELECT * FROM devices WHERE deviceId IN [{}]", ids(count));
        assert!(Query::read(&listed(TERMS_MAX)).is_some());
        assert!(Query::read(&listed(TERMS_MAX + 1)).is_none());
        let either = vec!["a=1"; TERMS_MAX + 1].join(" OR ");
        assert!(Query::read(&format!("SELECT * FROM devices WHERE {either}")).is_none());
        let columns = vec!["a"; TERMS_MAX + 1].join(",");
        assert!(Query::read(&format!("SELECT {columns} FROM devices")).is_none());
    }

    #[test]
    fn devices_that_are_named_are_looked_up() {
        for (text, named) in [
            ("deviceId = 'd-1'", Some(vec!["d-1"])),
            ("tags.ring > 0 AND deviceId IN ['d-2', 'd-1', 5]", Some(vec!["d-1", "d-2"])),
            ("deviceId = 'd-1' OR deviceId = 'd-3'", Some(vec!["d-1", "d-3"])),
            ("deviceId = 'd-1' OR tags.ring = 2", None),
            ("deviceId != 'd-1'", None),
            ("NOT deviceId = 'd-1'", None),
        ] {
            let query = Query::read(&format!("SELECT * FROM devices WHERE {text}")).unwrap();
            assert_eq!(query.device_ids().map(|ids| ids.into_iter().collect()), named, "{text}");
        }
        assert_eq!(ids("SELECT * FROM devices WHERE tags.ring > 1 AND deviceId IN ['d-2', 'd-1']"), ["d-2"]);
        let (hub, now) = (hub(), Time::from_unix_seconds(9));
        let mut request = PageRequest { rows_max: Some(1), continuation: None };
        let text = "SELECT * FROM devices WHERE deviceId IN ['d-2', 'd-1', 'd-9']";
        let first = hub.query(text, &request, now).unwrap();
        request.continuation = first.continuation;
        let second = hub.query(text, &request, now).unwrap();
        assert_eq!((&first.rows[0]["deviceId"], &second.rows[0]["deviceId"]), (&json!("d-1"), &json!("d-2")));
        assert_eq!(second.continuation, None);
    }

    #[test]
    fn projections_and_counts_are_raw() {
        let page = |text| hub().query(text, &PageRequest::default(), Time::from_unix_seconds(9)).unwrap();
        let projected = page("SELECT deviceId, tags.ring AS ring FROM devices");
        assert_eq!(projected.item_type, "Raw");
        assert_eq!(projected.rows[3], json!({ "deviceId": "d-3", "ring": 3 }));
        assert_eq!(page("SELECT COUNT() AS total FROM devices").rows, [json!({ "total": 5 })]);
    }

    #[test]
    fn what_is_no_query_is_refused() {
        let deep = format!("SELECT * FROM devices WHERE {}a=1", "NOT ".repeat(100));
        for text in [
            "",
            "SELECT",
            "SELECT * FROM jobs",
            "SELECT * FROM devices WHERE",
            "x",
            "SELECT * FROM devices z",
            &deep,
        ] {
            assert!(Query::read(text).is_none(), "{text}");
        }
    }
}
