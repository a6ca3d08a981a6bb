//! A caller's say over every request: asked before each is sent, repeats included, and told how each ended.

use std::any::Any;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::id::HostName;

/// A request about to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The operation, in words: `get enrollment`.
    pub operation: &'static str,
    /// The host it goes to.
    pub host: &'a HostName,
    /// 1 for the first request of a call, 2 for its first repeat.
    pub attempt: u32,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With an answer.
    Answered {
        /// Its HTTP status.
        status: u16,
        /// How long Azure asked to be left alone; at most [`crate::RETRY_AFTER_TOLD_MAX`].
        retry_after: Option<Duration>,
    },
    /// Without a connection: nothing was sent.
    NotSent,
    /// Without a whole answer: it may have been served.
    Unanswered,
}

/// Leave to send one request. Whatever it holds is dropped when the request has ended.
#[derive(Default)]
pub struct Permit {
    _held: Option<Box<dyn Any + Send>>,
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Permit")
    }
}

impl Permit {
    /// Leave that holds nothing.
    pub fn free() -> Self {
        Self::default()
    }

    /// Leave that gives something back when the request has ended, such as a semaphore's permit.
    pub fn holding(held: impl Any + Send) -> Self {
        Self { _held: Some(Box::new(held)) }
    }
}

/// Why a request may not be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spent {
    /// What is spent, in words.
    pub problem: String,
    /// When there is more.
    pub retry_after: Option<Duration>,
}

/// Decides about requests before they are sent.
///
/// Obligations: `ask` is called exactly once before each request and may wait, but not for ever, as only the call's
/// deadline ends it; a request refused is not sent and ends its call; `ended` is called exactly once for each request
/// allowed, unless the caller drops the call meanwhile: then only the permit is dropped. Neither may panic.
pub trait Budget: Send + Sync + 'static {
    /// Allows a request, or refuses it.
    fn ask<'a>(&'a self, request: Outgoing<'a>) -> BoxFuture<'a, Result<Permit, Spent>>;

    /// Learns how a request ended.
    fn ended(&self, request: Outgoing<'_>, ended: Ended) {
        let _ = (request, ended);
    }
}
