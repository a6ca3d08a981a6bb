//! Api-versions.

/// Whether `text` is an api-version of a date at or after `first`: a date, and perhaps `-preview`.
pub(crate) fn is_version_since(text: &str, first: &str) -> bool {
    let date = text.strip_suffix("-preview").unwrap_or(text).as_bytes();
    let shaped = date.len() == 10
        && date.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    shaped && date >= first.as_bytes()
}
