//! What is wrong with a configuration file, told without any value of it: where the name of a secret belongs, the secret
//! itself may stand by mistake.

use toml::de::Error;

/// Line, setting and problem of an error in `text`.
pub(super) fn problem(text: &str, error: &Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line_no = before.matches('\n').count() + 1;
    let from = before.rfind('\n').map_or(0, |end| end + 1);
    let line = text.get(from..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
    // These tell names of settings, and no value.
    if message.starts_with("unknown field") || message.starts_with("missing field") {
        return format!("line {line_no}: {message}");
    }
    // What was found stands before the last of these words, and what serde expects behind it.
    let expected = match message.rsplit_once(", expected ") {
        Some((_, expected)) if message.starts_with("invalid ") => expected.to_owned(),
        _ => "TOML as deploy/berth.toml shows it".to_owned(),
    };
    // A line inside of a longer text is not taken for a setting.
    let named = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    match line.split_once('=').map(|(name, _)| name.trim()).filter(|name| !name.is_empty() && named(name)) {
        Some(name) => format!("line {line_no}: `{name}` is not what it may be; expected {expected}"),
        None => format!("line {line_no}: expected {expected}"),
    }
}
