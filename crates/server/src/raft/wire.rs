//! openraft's messages as protobuf messages, and back.

use berth_proto::internal as pb;
use berth_store::raft::codec::{
    CodecError, decode_entry, decode_stored_membership, encode_entry, encode_stored_membership,
};
use berth_store::raft::{BerthConfig, Entry, LeaderId, LogId, SnapshotMeta, Vote, log_id};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

/// The only format of entries and snapshots between peers so far.
pub const FORMAT: u32 = 1;

/// Why a peer's message is not understood.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("the peer's message has no {0}")]
    Missing(&'static str),
    /// A newer Berth sent it.
    #[error("the peer's message has format {0}, this build knows {FORMAT}: upgrade this node")]
    Format(u32),
    /// An entry or a membership is not understood.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

pub fn position(id: &LogId) -> pb::LogPosition {
    pb::LogPosition { term: id.committed_leader_id().term, index: id.index() }
}

pub fn from_position(position: &pb::LogPosition) -> LogId {
    log_id(position.term, position.index)
}

pub fn vote(vote: &Vote) -> pb::VoteState {
    pb::VoteState { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

pub fn from_vote(vote: Option<&pb::VoteState>) -> Result<Vote, WireError> {
    let vote = vote.ok_or(WireError::Missing("vote"))?;
    let leader_id = LeaderId { term: vote.term, voted_for: vote.node };
    Ok(Vote { leader_id, committed: vote.committed })
}

pub fn append_request(request: AppendEntriesRequest<BerthConfig>) -> pb::AppendRequest {
    pb::AppendRequest {
        format: FORMAT,
        vote: Some(vote(&request.vote)),
        previous: request.prev_log_id.as_ref().map(position),
        committed: request.leader_commit.as_ref().map(position),
        entries: request.entries.iter().map(entry).collect(),
    }
}

pub fn from_append_request(
    request: pb::AppendRequest,
) -> Result<AppendEntriesRequest<BerthConfig>, WireError> {
    known_format(request.format)?;
    Ok(AppendEntriesRequest {
        vote: from_vote(request.vote.as_ref())?,
        prev_log_id: request.previous.as_ref().map(from_position),
        leader_commit: request.committed.as_ref().map(from_position),
        entries: request.entries.iter().map(from_entry).collect::<Result<_, _>>()?,
    })
}

pub fn append_response(response: AppendEntriesResponse<BerthConfig>) -> pb::AppendResponse {
    use pb::append_response::Result as Answer;
    let answer = match response {
        AppendEntriesResponse::Success => Answer::Stored(pb::Empty {}),
        AppendEntriesResponse::PartialSuccess(upto) => Answer::Matched(matched(upto.as_ref())),
        // Only the streamed answer tells where; the caller of the other knows what it asked.
        AppendEntriesResponse::Conflict => Answer::Conflict(pb::Conflict { at: None }),
        AppendEntriesResponse::HigherVote(higher) => Answer::HigherVote(vote(&higher)),
    };
    pb::AppendResponse { result: Some(answer) }
}

pub fn from_append_response(
    response: pb::AppendResponse,
) -> Result<AppendEntriesResponse<BerthConfig>, WireError> {
    use pb::append_response::Result as Answer;
    Ok(match response.result.ok_or(WireError::Missing("result"))? {
        Answer::Stored(_) => AppendEntriesResponse::Success,
        Answer::Matched(matched) => {
            AppendEntriesResponse::PartialSuccess(matched.upto.as_ref().map(from_position))
        }
        Answer::Conflict(_) => AppendEntriesResponse::Conflict,
        Answer::HigherVote(higher) => AppendEntriesResponse::HigherVote(from_vote(Some(&higher))?),
    })
}

pub fn stream_response(result: &StreamAppendResult<BerthConfig>) -> pb::AppendResponse {
    use pb::append_response::Result as Answer;
    let answer = match result {
        Ok(upto) => Answer::Matched(matched(upto.as_ref())),
        Err(StreamAppendError::Conflict(at)) => Answer::Conflict(pb::Conflict { at: Some(position(at)) }),
        Err(StreamAppendError::HigherVote(higher)) => Answer::HigherVote(vote(higher)),
    };
    pb::AppendResponse { result: Some(answer) }
}

pub fn from_stream_response(
    response: pb::AppendResponse,
) -> Result<StreamAppendResult<BerthConfig>, WireError> {
    use pb::append_response::Result as Answer;
    Ok(match response.result.ok_or(WireError::Missing("result"))? {
        Answer::Stored(_) => return Err(WireError::Missing("position")),
        Answer::Matched(matched) => Ok(matched.upto.as_ref().map(from_position)),
        Answer::Conflict(conflict) => {
            let at = conflict.at.ok_or(WireError::Missing("position of the conflict"))?;
            Err(StreamAppendError::Conflict(from_position(&at)))
        }
        Answer::HigherVote(higher) => Err(StreamAppendError::HigherVote(from_vote(Some(&higher))?)),
    })
}

pub fn vote_request(request: &VoteRequest<BerthConfig>) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(vote(&request.vote)),
        last: request.last_log_id.as_ref().map(position),
        leadership_transfer: request.leadership_transfer,
    }
}

pub fn from_vote_request(request: &pb::VoteRequest) -> Result<VoteRequest<BerthConfig>, WireError> {
    let last = request.last.as_ref().map(from_position);
    let mut built = VoteRequest::new(from_vote(request.vote.as_ref())?, last);
    built.leadership_transfer = request.leadership_transfer;
    Ok(built)
}

pub fn vote_response(response: &VoteResponse<BerthConfig>) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: Some(vote(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(position),
    }
}

pub fn from_vote_response(response: &pb::VoteResponse) -> Result<VoteResponse<BerthConfig>, WireError> {
    let last = response.last.as_ref().map(from_position);
    Ok(VoteResponse::new(from_vote(response.vote.as_ref())?, last, response.granted))
}

pub fn transfer_request(request: &TransferLeaderRequest<BerthConfig>) -> pb::TransferLeaderRequest {
    pb::TransferLeaderRequest {
        from: Some(vote(request.from_leader())),
        to: *request.to_node_id(),
        last: request.last_log_id().map(position),
    }
}

pub fn from_transfer_request(
    request: &pb::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<BerthConfig>, WireError> {
    let last = request.last.as_ref().map(from_position);
    Ok(TransferLeaderRequest::new(from_vote(request.from.as_ref())?, request.to, last))
}

pub fn transfer_response(response: &TransferLeaderResponse<BerthConfig>) -> pb::TransferLeaderResponse {
    use pb::transfer_leader_response::Result as Answer;
    let answer = match response {
        Ok(()) => Answer::Accepted(pb::Empty {}),
        Err(TransferLeaderError::VoteChanged { actual, .. }) => Answer::VoteChanged(vote(actual)),
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
            Answer::LogNotFlushed(matched(actual.as_ref()))
        }
    };
    pb::TransferLeaderResponse { result: Some(answer) }
}

pub fn from_transfer_response(
    request: &TransferLeaderRequest<BerthConfig>,
    response: pb::TransferLeaderResponse,
) -> Result<TransferLeaderResponse<BerthConfig>, WireError> {
    use pb::transfer_leader_response::Result as Answer;
    Ok(match response.result.ok_or(WireError::Missing("result"))? {
        Answer::Accepted(_) => Ok(()),
        Answer::VoteChanged(actual) => Err(TransferLeaderError::VoteChanged {
            expected: *request.from_leader(),
            actual: from_vote(Some(&actual))?,
        }),
        Answer::LogNotFlushed(actual) => Err(TransferLeaderError::LogNotFlushed {
            expected: request.last_log_id().copied(),
            actual: actual.upto.as_ref().map(from_position),
        }),
    })
}

pub fn snapshot_head(leader: Option<&Vote>, meta: &SnapshotMeta) -> pb::SnapshotPart {
    let head = pb::SnapshotHead {
        format: FORMAT,
        vote: leader.map(vote),
        last: meta.last_log_id.as_ref().map(position),
        membership: encode_stored_membership(&meta.last_membership).into(),
    };
    pb::SnapshotPart { part: Some(pb::snapshot_part::Part::Head(head)) }
}

pub fn from_snapshot_head(head: &pb::SnapshotHead) -> Result<SnapshotMeta, WireError> {
    known_format(head.format)?;
    Ok(SnapshotMeta {
        last_log_id: head.last.as_ref().map(from_position),
        last_membership: decode_stored_membership(&head.membership)?,
    })
}

fn entry(entry: &Entry) -> pb::LogEntry {
    let (kind, body) = encode_entry(&entry.payload);
    let at = position(&entry.log_id);
    pb::LogEntry { term: at.term, index: at.index, kind: u32::from(kind), body }
}

fn from_entry(entry: &pb::LogEntry) -> Result<Entry, WireError> {
    let kind = u8::try_from(entry.kind).unwrap_or(u8::MAX);
    Ok(Entry { log_id: log_id(entry.term, entry.index), payload: decode_entry(kind, &entry.body)? })
}

fn matched(upto: Option<&LogId>) -> pb::Matched {
    pb::Matched { upto: upto.map(position) }
}

fn known_format(format: u32) -> Result<(), WireError> {
    if format == FORMAT { Ok(()) } else { Err(WireError::Format(format)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    proptest! {
        #[test]
        fn rubbish_from_a_peer_is_refused_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(message) = pb::AppendRequest::decode(bytes.as_slice()) {
                let _ = from_append_request(message);
            }
            if let Ok(message) = pb::AppendResponse::decode(bytes.as_slice()) {
                let _ = from_append_response(message);
                let _ = from_stream_response(message);
            }
            if let Ok(message) = pb::SnapshotHead::decode(bytes.as_slice()) {
                let _ = from_snapshot_head(&message);
            }
            if let Ok(message) = pb::VoteRequest::decode(bytes.as_slice()) {
                let _ = from_vote_request(&message);
            }
        }

        #[test]
        fn appended_entries_come_back_as_they_went(terms in prop::collection::vec((1u64..9, any::<u64>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6), higher: bool) {
            let leader = Vote { leader_id: LeaderId { term: 9, voted_for: 2 }, committed: true };
            let entries: Vec<Entry> = terms.iter().map(|(term, index, bytes)| Entry {
                log_id: log_id(*term, *index),
                payload: berth_store::raft::EntryPayload::Normal(berth_store::raft::Payload::from_slice(bytes).unwrap()),
            }).collect();
            let request = AppendEntriesRequest { vote: leader, prev_log_id: None, entries: entries.clone(), leader_commit: Some(log_id(3, 4)) };
            let bytes = append_request(request).encode_to_vec();
            let back = from_append_request(pb::AppendRequest::decode(bytes.as_slice()).unwrap()).unwrap();
            prop_assert_eq!(back.entries, entries);
            prop_assert_eq!((back.vote, back.leader_commit), (leader, Some(log_id(3, 4))));
            let result = if higher { Err(StreamAppendError::HigherVote(leader)) } else { Ok(Some(log_id(1, 2))) };
            prop_assert_eq!(from_stream_response(stream_response(&result)).unwrap(), result);
        }
    }

    #[test]
    fn an_unknown_format_is_refused_by_name() {
        let request = pb::AppendRequest { format: 2, ..pb::AppendRequest::default() };
        assert!(from_append_request(request).unwrap_err().to_string().contains("upgrade"));
    }
}
