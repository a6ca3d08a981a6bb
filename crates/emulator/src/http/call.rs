//! A request, as far as the services tell requests apart.

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use percent_encoding::percent_decode_str;
use serde_json::Value;

pub(super) use crate::version::is_version_since;
use crate::world::{Object, PageRequest};

/// Longest path and query, in bytes: IDs have at most 128, and three of them with their names fit well.
const TARGET_BYTES_MAX: usize = 8_192;

/// A request that was read whole.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// `Host`, lower-cased, without the port.
    pub(crate) host: String,
    /// The path, decoded once, segment by segment, without a trailing slash.
    pub(crate) path: Vec<String>,
    query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why a request's body is no JSON object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoObject(pub(crate) String);

impl Call {
    /// Reads the head; none where its path is too long or does not decode to text.
    pub(crate) fn new(method: Method, uri: &Uri, headers: HeaderMap, body: Bytes) -> Option<Self> {
        let told = headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        let host = told.or_else(|| uri.host()).unwrap_or_default();
        let host = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
        let host = host.map_or(told.or_else(|| uri.host()).unwrap_or_default(), |(host, _)| host);
        let query = uri.query().unwrap_or_default();
        if uri.path().len() + query.len() > TARGET_BYTES_MAX {
            return None;
        }
        let decode = |text: &str| percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned());
        let path = uri.path().trim_matches('/').split('/').map(decode).collect::<Option<Vec<_>>>()?;
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        });
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        Some(Self { method, host, path, query: query.collect::<Option<_>>()?, headers, body })
    }

    /// A query parameter, by its name without case.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn if_match(&self) -> Option<&str> {
        self.header("if-match")
    }

    /// Whether there is no body, or one that is told to be JSON.
    pub(crate) fn is_json(&self) -> bool {
        let told = self.header("content-type").and_then(|told| told.split(';').next()).unwrap_or_default();
        self.body.is_empty() || told.trim().eq_ignore_ascii_case("application/json")
    }

    /// What the caller asks of a page.
    pub(crate) fn page(&self) -> PageRequest {
        PageRequest {
            rows_max: self.header("x-ms-max-item-count").and_then(|count| count.parse().ok()),
            // SDKs may send it empty for the first page.
            continuation: self
                .header("x-ms-continuation")
                .filter(|token| !token.is_empty())
                .map(str::to_owned),
        }
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<Value, NoObject> {
        // Not the parser's own text: it may quote the body, and the body may hold a key.
        serde_json::from_slice(&self.body).map_err(|error| {
            NoObject(format!("The body is no JSON: line {}, column {}", error.line(), error.column()))
        })
    }

    /// The body as a JSON object.
    pub(crate) fn object(&self) -> Result<Object, NoObject> {
        match self.json()? {
            Value::Object(object) => Ok(object),
            _ => Err(NoObject("The body must be a JSON object".to_owned())),
        }
    }

    /// The body as a JSON object; an empty body counts as an empty one.
    pub(crate) fn object_or_empty(&self) -> Result<Object, NoObject> {
        if self.body.iter().all(u8::is_ascii_whitespace) { Ok(Object::new()) } else { self.object() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(uri: &str, host: &str) -> Call {
        let mut headers = HeaderMap::new();
        headers.insert("host", host.parse().unwrap());
        Call::new(Method::GET, &uri.parse().unwrap(), headers, Bytes::new()).unwrap()
    }

    #[test]
    fn paths_are_decoded_once_and_slashes_at_the_end_do_not_count() {
        let call = call(
            "/devices/dev%231%3Fx%2525y/?Api-Version=2021-04-12&forceRegistration=true",
            "HUB-a.net:8443",
        );
        assert_eq!(call.path, ["devices", "dev#1?x%25y"]);
        assert_eq!(call.host, "hub-a.net");
        assert_eq!(call.parameter("api-version"), Some("2021-04-12"));
    }

    #[test]
    fn versions_are_dates() {
        for good in ["2018-09-01-preview", "2019-03-31", "2021-10-01", "2026-04-01"] {
            assert!(is_version_since(good, "2018-09-01"), "{good}");
        }
        for bad in ["", "2018-04-01", "2021-10", "banana", "2021-10-01-x", "20211001"] {
            assert!(!is_version_since(bad, "2018-09-01"), "{bad}");
        }
    }
}
