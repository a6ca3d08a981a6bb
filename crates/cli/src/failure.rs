//! How a command ends: an exit code, and one clear sentence.

use std::io;

/// Everything was done.
pub(crate) const EXIT_DONE: u8 = 0;
/// The cluster refused, or something failed.
pub(crate) const EXIT_REFUSED: u8 = 1;
/// The command line is wrong.
pub(crate) const EXIT_USAGE: u8 = 2;
/// What was asked for does not exist.
pub(crate) const EXIT_NOT_FOUND: u8 = 3;
/// Nobody could serve the call now.
pub(crate) const EXIT_UNAVAILABLE: u8 = 4;

/// Why a command did not do all it was asked to.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self { code: EXIT_REFUSED, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: EXIT_USAGE, message: message.into() }
    }

    pub(crate) fn file(what: &str, path: &std::path::Path, error: &io::Error) -> Self {
        Self::refused(format!("cannot {what} `{}`: {error}", path.display()))
    }

    /// True where the reader of stdout is gone: there is nobody to tell, and nothing wrong.
    pub(crate) fn is_silent(&self) -> bool {
        self.message.is_empty()
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { code: EXIT_DONE, message: String::new() };
        }
        Self::refused(format!("cannot write the result: {error}"))
    }
}

impl From<berth_client::Error> for Failure {
    fn from(error: berth_client::Error) -> Self {
        let code = match &error {
            berth_client::Error::Endpoint(_) => EXIT_USAGE,
            error if error.is_not_found() => EXIT_NOT_FOUND,
            error if error.is_unavailable() => EXIT_UNAVAILABLE,
            _ => EXIT_REFUSED,
        };
        // One line, whatever a server puts into its message.
        let message = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { code, message }
    }
}
