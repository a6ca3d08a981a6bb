//! Request IDs: a repeat gets the first outcome, and what can no longer be told apart is refused.

use crate::{Decision, Delta, Outcome, Proposal, REQUEST_ID_AHEAD_MS_MAX, Rejection, Reply, Timestamp, View};

/// Most lines of a list in a remembered outcome, so that a reply fits one stored value.
const REPLY_LINES_MAX: usize = 4;

/// The decision where the request ID alone settles it.
pub(super) fn check(view: &impl View, proposal: &Proposal, now: Timestamp) -> Option<Decision> {
    let id = proposal.request_id?;
    if let Some(reply) = view.reply(&id) {
        return Some(if reply.payload_hash == proposal.payload_hash {
            Decision::Repeated(reply.outcome)
        } else {
            Decision::Refused(Rejection::RequestIdReused { request_id: id.to_string() })
        });
    }
    let made = id.time();
    if let Some(kept_since) = view.replies_forgotten_until().filter(|&until| made <= until) {
        let request_id = id.to_string();
        return Some(Decision::Refused(Rejection::RequestIdExpired { request_id, made, kept_since }));
    }
    if made.0 > now.0.saturating_add(REQUEST_ID_AHEAD_MS_MAX) {
        return Some(Decision::Refused(Rejection::RequestIdAhead { request_id: id.to_string(), made, now }));
    }
    None
}

/// Adds the reply to the delta, and the one to forget for it.
pub(super) fn remember(view: &impl View, proposal: &Proposal, outcome: &Outcome, delta: &mut Delta) {
    let Some(id) = proposal.request_id else { return };
    let reply = Reply { payload_hash: proposal.payload_hash, outcome: compact(outcome) };
    delta.reply = Some((id, reply));
    if view.replies() >= view.replies_max() {
        delta.forget = view.oldest_reply();
    }
}

/// The outcome with its lists cut to what a stored reply can hold.
fn compact(outcome: &Outcome) -> Outcome {
    let mut kept = outcome.clone();
    match &mut kept {
        Outcome::Assigned { over_soft, .. } | Outcome::BatchAssigned { over_soft, .. } => {
            over_soft.truncate(REPLY_LINES_MAX);
        }
        Outcome::TopologyEdited { diff, over, .. } => {
            diff.truncate(REPLY_LINES_MAX);
            diff.iter_mut().for_each(|entry| entry.fields.clear());
            over.truncate(REPLY_LINES_MAX);
        }
        Outcome::Removed { .. } => {}
    }
    kept
}
