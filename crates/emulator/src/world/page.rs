//! Pages of queries, and the tokens between them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// One page of rows.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) rows: Vec<Value>,
    /// What the next page is asked for with; none on the last.
    pub(crate) continuation: Option<String>,
    /// What `x-ms-item-type` says.
    pub(crate) item_type: &'static str,
}

/// What a caller asks of a page.
#[derive(Debug, Clone, Default)]
pub(crate) struct PageRequest {
    /// `x-ms-max-item-count`.
    pub(crate) rows_max: Option<usize>,
    /// `x-ms-continuation`.
    pub(crate) continuation: Option<String>,
}

/// A token that continues after `last`. Opaque to callers, and shaped as recorded ones are.
pub(crate) fn continuation(last: &str) -> String {
    STANDARD.encode(json!([{ "token": last, "range": { "min": "", "max": "FF" } }]).to_string())
}

/// Where a token continues; none where it is no token of this service.
pub(crate) fn continued(token: &str) -> Option<String> {
    let value: Value = serde_json::from_slice(&STANDARD.decode(token).ok()?).ok()?;
    Some(value.get(0)?.get("token")?.as_str()?.to_owned())
}

/// Cuts a page of `rows_max` out of `rows`, which begin after the token; each comes with the text that continues
/// after it.
pub(crate) fn cut(
    mut rows: impl Iterator<Item = (String, Value)>,
    rows_max: usize,
    item_type: &'static str,
) -> Page {
    let mut last = None;
    let mut page = Vec::new();
    for (after, row) in rows.by_ref().take(rows_max) {
        last = Some(after);
        page.push(row);
    }
    // A token only where another row follows: no query ends with an empty page.
    let continuation = rows.next().and(last).map(|last| continuation(&last));
    Page { rows: page, continuation, item_type }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_page_is_neither_empty_nor_continued() {
        let rows = |from: usize| (from..150).map(|no| (no.to_string(), json!(no)));
        let mut from = 0;
        let mut pages = 0;
        loop {
            let page = cut(rows(from), 50, "Enrollment");
            assert_eq!(page.rows.len(), 50);
            pages += 1;
            let Some(token) = page.continuation else { break };
            from = continued(&token).unwrap().parse::<usize>().unwrap() + 1;
        }
        assert_eq!(pages, 3);
        assert_eq!(continued("nonsense"), None);
    }
}
