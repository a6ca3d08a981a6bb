//! The one door by which state changes.

mod assign;
mod repeat;
mod topology;

use crate::{Command, Decision, Delta, Outcome, Proposal, Rejection, Revision, Timestamp, View};

/// Decides `proposal` on the state in `view`: what to answer and what to write.
///
/// `revision` is the one it takes if accepted; `now` is the leader's stamp from the log. The answer depends on these
/// arguments alone. Total: whatever decodable proposal arrives, it ends in a [`Decision`].
pub fn decide(view: &impl View, proposal: &Proposal, revision: Revision, now: Timestamp) -> Decision {
    if let Some(known) = repeat::check(view, proposal, now) {
        return known;
    }
    let decided = match &proposal.command {
        Command::Assign(assign) => assign::one(view, assign, revision, now),
        Command::BatchAssign(batch) => assign::batch(view, batch, revision, now),
        Command::Remove(remove) => assign::remove(view, remove, revision),
        Command::Topology(edit) => topology::edit(view, edit, revision),
    };
    match decided {
        Ok((outcome, mut delta)) => {
            repeat::remember(view, proposal, &outcome, &mut delta);
            Decision::Accepted { outcome, delta: Box::new(delta) }
        }
        Err(rejection) => Decision::Refused(rejection),
    }
}

/// The refusal of a command that holds a secret where the name of one belongs. [`decide`] refuses it too, but only when
/// it is in the log, which keeps what is refused as well: so this is asked before a command is written anywhere.
pub fn misplaced_secret(command: &Command) -> Option<Rejection> {
    match command {
        Command::Topology(edit) => topology::misplaced_secret(edit),
        Command::Assign(_) | Command::BatchAssign(_) | Command::Remove(_) => None,
    }
}

/// What a kind of command makes of itself: its answer and what to write, or why not.
type Decided = Result<(Outcome, Delta), Rejection>;
