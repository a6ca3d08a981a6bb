//! The newest thing this client has seen, so that it can ask never to read below it.

use berth_proto::v1;
use parking_lot::Mutex;

/// The newest read token seen.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Revision and token of the newest answer.
    newest: Mutex<Option<(u64, Vec<u8>)>>,
}

impl Session {
    /// Takes note of an answer's header.
    pub(crate) fn observe(&self, header: Option<&v1::ResponseHeader>) {
        let Some(header) = header.filter(|header| !header.token.is_empty()) else { return };
        let mut newest = self.newest.lock();
        if newest.as_ref().is_none_or(|(revision, _)| *revision < header.revision) {
            *newest = Some((header.revision, header.token.to_vec()));
        }
    }

    /// The token of the newest answer.
    pub(crate) fn token(&self) -> Option<Vec<u8>> {
        self.newest.lock().as_ref().map(|(_, token)| token.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_answers_do_not_replace_newer_ones() {
        let session = Session::default();
        let header = |revision, token: &'static [u8]| v1::ResponseHeader {
            revision,
            token: token.into(),
            ..Default::default()
        };
        assert_eq!(session.token(), None);
        session.observe(Some(&header(7, b"seven")));
        session.observe(Some(&header(5, b"five")));
        session.observe(None);
        assert_eq!(session.token().as_deref(), Some(b"seven".as_slice()));
    }
}
