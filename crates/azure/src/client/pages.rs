//! Long answers, page by page.

use std::fmt;

use futures_util::stream::{Stream, try_unfold};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::request::{CONTINUATION, CONTINUATION_BYTES_MAX, ITEM_COUNT, ITEM_TYPE};
use super::{Door, Request};
use crate::error::AzureError;
use crate::transport::BODY_BYTES_MAX;

/// Largest page that may be asked for: IoT Hub lists no more (IoT Hub, quotas), DPS says nothing.
pub const PAGE_ITEMS_MAX: u32 = 1_000;
/// Pages that one stream reads unless told otherwise: with pages of 100, the largest hub.
pub const PAGES_MAX: u32 = 10_000;
/// Items of a page unless told otherwise.
const PAGE_ITEMS: u32 = 100;
/// Longest query text, in bytes.
const QUERY_BYTES_MAX: usize = 8 * 1_024;

/// Where a long answer goes on. Opaque; it may be kept and used by a later stream of the same query.
#[derive(Clone, PartialEq, Eq)]
pub struct Continuation(String);

impl fmt::Debug for Continuation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Continuation({} bytes)", self.0.len())
    }
}

impl Continuation {
    /// A token as [`Continuation::as_str`] gave it: 1 to 32,768 characters that fit a header.
    pub fn new(token: &str) -> Option<Self> {
        let fits = (1..=CONTINUATION_BYTES_MAX).contains(&token.len())
            && token.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        fits.then(|| Self(token.to_owned()))
    }

    /// The token, to be kept.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Some of a long answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The items, in an order that means nothing (DPS gives that of its partitions).
    pub items: Vec<T>,
    /// Rows that are no such item; at most [`PAGE_ITEMS_MAX`], as a page has no more. The pages behind are read all the
    /// same, but whoever counts or compares must know that these are missing among the items.
    pub odd: Vec<OddRow>,
    /// Where the answer goes on; none on the last page.
    pub next: Option<Continuation>,
}

/// A row that could not be read as an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OddRow {
    /// Its place in the page, from 0.
    pub at: usize,
    /// What is wrong with it, without its values; at most 160 characters.
    pub problem: String,
}

/// The rows of a page as they came, and no more of them than a page may have: so that a body of millions of small
/// values is not read into as many objects.
struct Rows<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Rows<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded;

        impl<'de> Visitor<'de> for Bounded {
            type Value = Vec<&'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {PAGE_ITEMS_MAX} rows")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = seq.next_element()? {
                    if rows.len() >= PAGE_ITEMS_MAX as usize {
                        return Err(serde::de::Error::invalid_length(rows.len() + 1, &self));
                    }
                    rows.push(row);
                }
                Ok(rows)
            }
        }

        deserializer.deserialize_seq(Bounded).map(Rows)
    }
}

/// What to ask for, and how much at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub(crate) text: String,
    page_items: u32,
    pages_max: u32,
    from: Option<Continuation>,
}

impl Query {
    /// A query by its text, such as `SELECT * FROM enrollments`: pages of 100, at most [`PAGES_MAX`] of them.
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned(), page_items: PAGE_ITEMS, pages_max: PAGES_MAX, from: None }
    }

    /// Everything there is.
    pub fn all() -> Self {
        Self::new("SELECT *")
    }

    /// Asks for pages of so many items, 1 to [`PAGE_ITEMS_MAX`]. Azure may give fewer.
    pub fn page_items(mut self, items: u32) -> Self {
        self.page_items = items.clamp(1, PAGE_ITEMS_MAX);
        self
    }

    /// Reads at most so many pages; where there are more the stream ends with [`AzureError::TooManyPages`].
    pub fn pages_max(mut self, pages_max: u32) -> Self {
        self.pages_max = pages_max;
        self
    }

    /// Goes on where an earlier stream of the same query was left.
    pub fn from(mut self, continuation: Continuation) -> Self {
        self.from = Some(continuation);
        self
    }
}

/// What a stream of pages needs to know between two of them.
struct State<F> {
    door: Door,
    /// Makes the request of a page, but for its paging headers.
    request: F,
    next: Option<Continuation>,
    is_done: bool,
    read: u32,
}

/// Streams the pages that `request` gives. Each page is a call of its own, with its own time and attempts.
pub(crate) fn pages<T, F>(
    door: Door,
    query: Query,
    item_types: &'static [&'static str],
    expected: &'static str,
    request: F,
) -> impl Stream<Item = Result<Page<T>, AzureError>> + Send
where
    T: DeserializeOwned + Send,
    F: Fn() -> Result<Request, AzureError> + Send,
{
    let Query { text, page_items, pages_max, from } = query;
    let too_long = text.len() > QUERY_BYTES_MAX;
    let start = State { door, request, next: from, is_done: false, read: 0 };
    try_unfold(start, move |mut state| async move {
        if state.is_done {
            return Ok(None);
        }
        let request = (state.request)()?;
        if too_long {
            let problem = format!("the query has more than {QUERY_BYTES_MAX} bytes");
            return Err(AzureError::invalid(request.operation, problem));
        }
        if state.read >= pages_max {
            let place = crate::error::Place { operation: request.operation, host: state.door.host.clone() };
            return Err(AzureError::TooManyPages { place, pages_max });
        }
        let mut request = request.answer_max(BODY_BYTES_MAX).header(ITEM_COUNT, &page_items.to_string())?;
        if let Some(next) = &state.next {
            request = request.header(CONTINUATION, next.as_str())?;
        }
        let page = page(&state.door, state.next.as_ref(), request, item_types, expected).await?;
        state.read += 1;
        state.is_done = page.next.is_none();
        state.next.clone_from(&page.next);
        Ok(Some((page, state)))
    })
}

async fn page<T: DeserializeOwned>(
    door: &Door,
    before: Option<&Continuation>,
    request: Request,
    item_types: &[&str],
    expected: &'static str,
) -> Result<Page<T>, AzureError> {
    let reply = door.send(request).await?;
    if let Some(kind) = reply.header(&ITEM_TYPE)
        && !item_types.iter().any(|known| known.eq_ignore_ascii_case(kind))
    {
        let kind = crate::error::masked(kind, 64);
        return Err(reply.nonsense(expected, format!("its items are of type `{kind}`")));
    }
    let Rows(rows) = reply.json(expected)?;
    let (mut items, mut odd) = (Vec::with_capacity(rows.len()), Vec::new());
    for (at, row) in rows.into_iter().enumerate() {
        match serde_json::from_str(row.get()) {
            Ok(item) => items.push(item),
            Err(error) => {
                let problem = crate::error::masked(&error.to_string(), 160);
                tracing::warn!(operation = reply.place.operation, host = %reply.place.host, at, %problem, "odd row");
                odd.push(OddRow { at, problem });
            }
        }
    }
    // An empty token has been seen to mean the end, and would begin anew.
    let token = reply.answer.headers.get(&CONTINUATION).filter(|token| !token.is_empty());
    let next = match token {
        None => None,
        Some(token) => Some(token.to_str().ok().and_then(Continuation::new).ok_or_else(|| {
            reply.nonsense(
                expected,
                format!("its continuation token of {} bytes cannot be sent back", token.len()),
            )
        })?),
    };
    if next.is_some() && next.as_ref() == before {
        return Err(reply.nonsense(expected, "it goes on where it has just been".to_owned()));
    }
    Ok(Page { items, odd, next })
}
