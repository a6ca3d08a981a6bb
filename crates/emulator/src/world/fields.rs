//! Reading a JSON object field by field: what is known is taken out, what is left is kept to be echoed.

use serde_json::{Map, Value};

/// A JSON object.
pub(crate) type Object = Map<String, Value>;

/// An object whose known fields are being taken out. Null counts as absent.
pub(crate) struct Fields(Object);

impl Fields {
    pub(crate) fn of(object: Object) -> Self {
        Self(object)
    }

    /// Takes a field, whatever it is.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a text; the name of the field where it is none.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, "a string", &other)),
        }
    }

    /// Takes an object.
    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Object>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(other) => Err(wrong(name, "an object", &other)),
        }
    }

    /// Takes a boolean.
    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong(name, "true or false", &other)),
        }
    }

    /// Takes an array.
    pub(crate) fn array(&mut self, name: &str) -> Result<Option<Vec<Value>>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(array)),
            Some(other) => Err(wrong(name, "an array", &other)),
        }
    }

    /// Whether something is left under a name, however its case is.
    pub(crate) fn holds(&self, name: &str) -> bool {
        self.0.iter().any(|(key, value)| !value.is_null() && key.eq_ignore_ascii_case(name))
    }

    /// Keeps what is left of a nested object under its name.
    pub(crate) fn put_back(&mut self, name: &str, rest: Fields) {
        if let Some(rest) = rest.rest() {
            self.0.insert(name.to_owned(), Value::Object(*rest));
        }
    }

    /// What was not taken, without nulls; none where nothing is left, which is usual.
    pub(crate) fn rest(mut self) -> Option<Box<Object>> {
        self.0.retain(|_, value| !value.is_null());
        (!self.0.is_empty()).then(|| Box::new(self.0))
    }
}

fn wrong(name: &str, expected: &str, found: &Value) -> String {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    format!("`{name}` must be {expected}, and is {found}")
}

/// Puts what was kept beside what is known; the known wins.
pub(crate) fn echo(known: &mut Object, kept: Option<&Object>) {
    for (name, value) in kept.into_iter().flatten() {
        match (known.get_mut(name), value) {
            (None, value) => {
                known.insert(name.clone(), value.clone());
            }
            (Some(Value::Object(inner)), Value::Object(kept)) => echo(inner, Some(kept)),
            (Some(_), _) => {}
        }
    }
}
