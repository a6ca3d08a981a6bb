//! Importing devices: numbered chunks in, an acknowledgement for each out, in order.
//!
//! One task reads and parses chunks, another writes them, so that the next chunk is parsed while one is being
//! replicated. Chunks are written one after the other: what is acknowledged is exactly a prefix of the import.

mod surplus;

use std::collections::BTreeMap;
use std::time::Duration;

use berth_core::{
    Assign, Command, EvidenceSource, HubName, Origin, Outcome, Precondition, Rejection, RequestId, ScopeName,
};
use berth_proto::convert::{
    AssignReader, Envelope, PackedIds, Violations, parse_request_id, warning_message,
};
use berth_proto::error::ApiError;
use berth_proto::v1::import_request::Message;
use berth_proto::v1::{IfExists, ImportChunk, ImportRequest, ImportResponse, ImportStart, OnError, RowError};
use berth_store::machine::Snapshot;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use xxhash_rust::xxh3::xxh3_128;

use self::surplus::Surplus;
use super::Api;
use super::answer::misfit;
use super::device::check_batch_size;
use crate::directory::{Fresh, data_loss};
use crate::edge::Movement;

/// Parsed chunks that wait for the one being written.
const CHUNKS_AHEAD_MAX: usize = 2;
/// Acknowledgements that wait for a slow reader.
const ANSWERS_AHEAD_MAX: usize = 4;
/// How often one chunk is tried without the rows refused so far: what is refused late hung on what was refused early.
const ATTEMPTS_MAX: u32 = 8;
/// Refused rows that an answer tells one by one: as many as a chunk of the command line has.
const TOLD_ROWS_MAX: usize = 2_000;
/// Bytes of them, so that with its header the answer fits a message.
const TOLD_BYTES_MAX: usize = 3 * 1024 * 1024;
/// How long the first message may take.
const START_WAIT_MAX: Duration = Duration::from_secs(10);

/// The answers of an import.
pub type Answers = BoxStream<'static, Result<ImportResponse, Status>>;

/// How an import goes, as checked.
#[derive(Debug, Clone)]
struct Plan {
    import: RequestId,
    actor: String,
    reason: String,
    validate_only: bool,
    goes_on: bool,
    if_exists: IfExists,
    default_hub: Option<HubName>,
    default_scope: Option<ScopeName>,
}

/// A chunk as parsed.
#[derive(Debug)]
struct Chunk {
    no: u64,
    rows: Vec<Row>,
    refused: Vec<RefusedRow>,
}

/// A row that can be written.
#[derive(Debug)]
struct Row {
    number: u32,
    assign: Assign,
}

/// A row that is refused.
#[derive(Debug)]
struct RefusedRow {
    number: u32,
    device: String,
    error: ApiError,
}

impl Api {
    /// Reads the start and begins to take chunks.
    pub(super) async fn start_import(
        &self,
        actor: String,
        mut messages: Streaming<ImportRequest>,
        movement: Movement,
    ) -> Result<Answers, Status> {
        let first = tokio::time::timeout(START_WAIT_MAX, messages.message()).await;
        let first = first.map_err(|_| ApiError::DeadlineExceeded {
            waiting_for: "the first message of the import".to_owned(),
        })?;
        let plan = match first?.and_then(|first| first.message) {
            Some(Message::Start(start)) => Plan::read(actor, &start)?,
            _ => {
                return Err(
                    ApiError::invalid("start", "is missing; it is the first message of an import").into()
                );
            }
        };
        let (chunks, parsed) = mpsc::channel(CHUNKS_AHEAD_MAX);
        let (answers, taken) = mpsc::channel(ANSWERS_AHEAD_MAX);
        // The reader ends with the stream or the writer, the writer with the reader or when nobody takes its answers.
        tokio::spawn(read_chunks(plan.clone(), messages, chunks, movement.clone()));
        let api = self.clone();
        tokio::spawn(async move { api.write_chunks(plan, parsed, answers).await });
        Ok(ReceiverStream::new(taken).inspect(move |_| movement.answered()).boxed())
    }

    async fn write_chunks(
        &self,
        plan: Plan,
        mut parsed: mpsc::Receiver<Result<Chunk, Status>>,
        answers: mpsc::Sender<Result<ImportResponse, Status>>,
    ) {
        while let Some(chunk) = parsed.recv().await {
            let answer = match chunk {
                Ok(chunk) => self.write_chunk(&plan, chunk).await.map_err(Status::from),
                Err(status) => Err(status),
            };
            let is_last = answer
                .as_ref()
                .map_or(true, |answer| answer.refused > 0 && !plan.goes_on && !plan.validate_only);
            if answers.send(answer).await.is_err() || is_last {
                return;
            }
        }
    }

    /// Writes what can be written of a chunk.
    async fn write_chunk(&self, plan: &Plan, chunk: Chunk) -> Result<ImportResponse, ApiError> {
        let Chunk { no, mut rows, mut refused } = chunk;
        let mut answer = ImportResponse { chunk_no: no, ..ImportResponse::default() };
        if plan.if_exists == IfExists::Skip {
            // An older state could lack a device, or have one that is gone.
            let fresh = self.directory.barrier().await?;
            answer.skipped += leave_out_existing(&fresh.snapshot, &mut rows)?;
            answer.header = Some(self.header(&fresh));
        }
        for attempt in 0..ATTEMPTS_MAX {
            if rows.is_empty() || !refused.is_empty() && !plan.goes_on {
                break;
            }
            let (checked, decided) = self.submit(plan, no, attempt, &rows).await?;
            match decided {
                Ok(Outcome::BatchAssigned { revision, created, moved, touched, unchanged, over_soft }) => {
                    answer.created = u64::from(created);
                    answer.moved = u64::from(moved);
                    answer.touched = u64::from(touched);
                    answer.unchanged = u64::from(unchanged);
                    answer.warnings = over_soft.iter().map(warning_message).collect();
                    let written = || self.written_header(revision);
                    answer.header = Some(checked.as_ref().map_or_else(written, |fresh| self.header(fresh)));
                    rows.clear();
                }
                Ok(other) => return Err(misfit(&other)),
                Err(rejection) => {
                    let snapshot = checked.map_or_else(|| self.directory.newest(), |fresh| fresh.snapshot);
                    answer.skipped += take_out(plan, &snapshot, rejection, &mut rows, &mut refused)?;
                }
            }
        }
        // What still hangs on something refused after so many attempts is refused with it.
        let left = rows.drain(..).filter(|_| plan.goes_on);
        let given_up = left.map(|row| {
            let problem = "was not tried again: too many rows of its chunk are refused; import it anew";
            RefusedRow {
                number: row.number,
                device: row.assign.device.to_string(),
                error: ApiError::invalid("row", problem),
            }
        });
        refused.extend(given_up);
        refused.sort_by_key(|row| row.number);
        answer.refused = refused.len() as u64;
        answer.errors = told(refused);
        if answer.header.is_none() {
            answer.header = Some(self.header(&self.directory.barrier().await?));
        }
        Ok(answer)
    }

    /// Proposes the rows as one batch, or only decides it; what it was decided from comes with it then.
    async fn submit(
        &self,
        plan: &Plan,
        chunk_no: u64,
        attempt: u32,
        rows: &[Row],
    ) -> Result<(Option<Fresh>, Result<Outcome, Rejection>), ApiError> {
        let proposal = |request_id| berth_core::Proposal {
            request_id,
            payload_hash: 0,
            actor: plan.actor.clone(),
            reason: plan.reason.clone(),
            command: Command::BatchAssign(rows.iter().map(|row| row.assign.clone()).collect()),
        };
        if plan.validate_only {
            let (fresh, decided) = self.directory.try_dry_run(proposal(None)).await?;
            return Ok((Some(fresh), decided));
        }
        // Rows were left out for the state of the directory: the same attempt at another time may be another command.
        let varies = attempt > 0 || plan.if_exists == IfExists::Skip;
        let request_id = chunk_request_id(&plan.import, chunk_no, attempt);
        match self.directory.try_propose(proposal(Some(request_id))).await? {
            Err(Rejection::RequestIdReused { .. }) if varies => {}
            // The whole import is wrong, not one row of it. A chunk whose ID is forgotten may have been written long
            // ago: written again without its ID it would undo what came after it, so its caller has to say that it
            // is to be written.
            Err(
                wrong @ (Rejection::RequestIdReused { .. }
                | Rejection::RequestIdExpired { .. }
                | Rejection::RequestIdAhead { .. }),
            ) => return Err(wrong.into()),
            decided => return Ok((None, decided)),
        }
        Ok((None, self.directory.try_propose(proposal(None)).await?))
    }
}

/// Leaves out the rows whose device exists; a race is settled by the rows' precondition.
fn leave_out_existing(snapshot: &Snapshot, rows: &mut Vec<Row>) -> Result<u64, ApiError> {
    let before = rows.len();
    let mut absent = Vec::with_capacity(before);
    for row in rows.drain(..) {
        if snapshot.device(&row.assign.device).map_err(|damage| data_loss(&damage))?.is_none() {
            absent.push(row);
        }
    }
    *rows = absent;
    Ok((before - rows.len()) as u64)
}

/// Takes the rows out of a refused batch that it was refused for. Returns how many of them are skipped because they
/// exist.
fn take_out(
    plan: &Plan,
    snapshot: &Snapshot,
    rejection: Rejection,
    rows: &mut Vec<Row>,
    refused: &mut Vec<RefusedRow>,
) -> Result<u64, ApiError> {
    let mut why: BTreeMap<usize, Rejection> = match rejection {
        Rejection::Batch { items } => {
            items.into_iter().map(|item| (item.index as usize, item.rejection)).collect()
        }
        // Nobody has to go where somebody else has made room since.
        Rejection::Full { .. } => {
            let assigns = rows.iter().map(|row| &row.assign).collect();
            snapshot.view(Surplus(assigns)).map_err(|damage| data_loss(&damage))?
        }
        // Whatever else there is, no row of the chunk can be written.
        ref other => (0..rows.len()).map(|index| (index, other.clone())).collect(),
    };
    let mut skipped = 0;
    let mut kept = Vec::with_capacity(rows.len());
    for (index, row) in rows.drain(..).enumerate() {
        match why.remove(&index) {
            None => kept.push(row),
            Some(Rejection::DeviceExists { .. }) if plan.if_exists == IfExists::Skip => skipped += 1,
            Some(rejection) => refused.push(RefusedRow {
                number: row.number,
                device: row.assign.device.to_string(),
                error: rejection.into(),
            }),
        }
    }
    *rows = kept;
    Ok(skipped)
}

impl Plan {
    fn read(actor: String, start: &ImportStart) -> Result<Self, ApiError> {
        let mut violations = Violations::default();
        let import = violations.check("start.import_id", parse_request_id(&start.import_id));
        let on_error = violations.check("start.on_error", known(start.on_error, OnError::try_from));
        let if_exists = violations.check("start.if_exists", known(start.if_exists, IfExists::try_from));
        let default_hub = match start.default_hub.as_str() {
            "" => None,
            text => violations.check("start.default_hub", HubName::parse(text)),
        };
        let default_scope = match start.default_scope.as_str() {
            "" => None,
            text => violations.check("start.default_scope", ScopeName::parse(text)),
        };
        let reason = Envelope::from_fields("", &start.reason)?.reason;
        violations.finish()?;
        Ok(Self {
            import: import.ok_or_else(|| ApiError::invalid("start.import_id", "is missing"))?,
            actor,
            reason,
            validate_only: start.validate_only,
            goes_on: on_error == Some(OnError::Continue),
            if_exists: if_exists.unwrap_or_default(),
            default_hub,
            default_scope,
        })
    }

    /// Parses a chunk whose number is `due`.
    fn parse(&self, due: Option<u64>, chunk: &ImportChunk) -> Result<Chunk, ApiError> {
        if due.is_some_and(|due| due != chunk.chunk_no) || chunk.chunk_no == 0 {
            let problem = match due {
                Some(due) => format!("{} came where {due} was due; chunks rise by 1", chunk.chunk_no),
                None => "0 came first; chunks are numbered from 1".to_owned(),
            };
            return Err(ApiError::invalid("chunk.chunk_no", problem));
        }
        let count = chunk.rows.len() + PackedIds::new(&chunk.packed_device_ids).count_ids();
        if count > 0 || !chunk.packed_device_ids.is_empty() {
            check_batch_size(count)?;
        }
        let mut reader = AssignReader::new(Origin::Imported, EvidenceSource::Import)
            .with_defaults(self.default_hub.clone(), self.default_scope.clone());
        let mut parsed = Chunk { no: chunk.chunk_no, rows: Vec::with_capacity(count), refused: Vec::new() };
        let absent = self.if_exists != IfExists::Update && self.if_exists != IfExists::Unspecified;
        for (number, row) in (0u32..).zip(&chunk.rows) {
            let read = reader.read(String::new, row);
            let error = reader.take_error().err();
            match (read, error) {
                (Some(mut assign), None) => {
                    if absent && assign.precondition == Precondition::None {
                        assign.precondition = Precondition::Absent;
                    }
                    parsed.rows.push(Row { number, assign });
                }
                (_, error) => {
                    let device = row.device_id.chars().take(128).collect();
                    let error = error.unwrap_or_else(|| ApiError::invalid("row", "is malformed"));
                    parsed.refused.push(RefusedRow { number, device, error });
                }
            }
        }
        let first = u32::try_from(chunk.rows.len()).unwrap_or(u32::MAX);
        self.parse_packed(&mut reader, first, &chunk.packed_device_ids, absent, &mut parsed);
        Ok(parsed)
    }

    fn parse_packed(
        &self,
        reader: &mut AssignReader,
        first: u32,
        packed: &[u8],
        absent: bool,
        parsed: &mut Chunk,
    ) {
        for (number, id) in (first..).zip(PackedIds::new(packed)) {
            let (text, error) = match id {
                Ok(id) => (id.to_owned(), None),
                Err(error) => (String::new(), Some(ApiError::invalid("packed_device_ids", error))),
            };
            let row = berth_proto::v1::DeviceAssignment { device_id: text, ..Default::default() };
            let read = if error.is_none() { reader.read(String::new, &row) } else { None };
            let error = error.or_else(|| reader.take_error().err());
            match (read, error) {
                (Some(mut assign), None) => {
                    if absent {
                        assign.precondition = Precondition::Absent;
                    }
                    parsed.rows.push(Row { number, assign });
                }
                (_, error) => {
                    let error =
                        error.unwrap_or_else(|| ApiError::invalid("packed_device_ids", "is malformed"));
                    parsed.refused.push(RefusedRow { number, device: row.device_id, error });
                }
            }
        }
    }
}

async fn read_chunks(
    plan: Plan,
    mut messages: Streaming<ImportRequest>,
    chunks: mpsc::Sender<Result<Chunk, Status>>,
    movement: Movement,
) {
    let mut due = None;
    loop {
        let parsed = match messages.message().await {
            Ok(None) => return,
            Ok(Some(ImportRequest { message: Some(Message::Chunk(chunk)) })) => {
                movement.received();
                let parsed = plan.parse(due, &chunk).map_err(Status::from);
                due = chunk.chunk_no.checked_add(1);
                parsed
            }
            Ok(Some(_)) => {
                Err(ApiError::invalid("message", "is no chunk; only chunks follow the start").into())
            }
            Err(status) => Err(status),
        };
        let failed = parsed.is_err();
        if chunks.send(parsed).await.is_err() || failed {
            return;
        }
    }
}

fn known<T, E>(number: i32, read: impl FnOnce(i32) -> Result<T, E>) -> Result<T, String> {
    read(number).map_err(|_| format!("{number} is not known; the caller may be newer than the server"))
}

/// The request ID of one attempt at a chunk: the import's time, and bits that follow from import, chunk and attempt.
fn chunk_request_id(import: &RequestId, chunk_no: u64, attempt: u32) -> RequestId {
    let mut seed = import.as_bytes().to_vec();
    seed.extend_from_slice(&chunk_no.to_be_bytes());
    seed.extend_from_slice(&attempt.to_be_bytes());
    let mut bytes = xxh3_128(&seed).to_be_bytes();
    for (to, from) in bytes.iter_mut().zip(import.as_bytes()).take(6) {
        *to = *from;
    }
    bytes[6] = bytes[6] & 0x0f | 0x70;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    // Version and variant were just set; the import's own ID could only be returned where they were not.
    RequestId::from_bytes(bytes).unwrap_or(*import)
}

/// The refused rows as an answer tells them: the first ones, as far as they fit.
fn told(refused: Vec<RefusedRow>) -> Vec<RowError> {
    let mut bytes = 0;
    let errors = refused.into_iter().take(TOLD_ROWS_MAX).map(row_error);
    let fits = |error: &RowError| {
        bytes += error.encoded_len();
        bytes <= TOLD_BYTES_MAX
    };
    errors.take_while(fits).collect()
}

fn row_error(row: RefusedRow) -> RowError {
    RowError { row: row.number, device_id: row.device, error: Some(row.error.into()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use berth_proto::v1::DeviceAssignment;

    const IMPORT: &str = "01936d0e-8b00-7abc-8def-0123456789ab";

    fn start() -> ImportStart {
        ImportStart {
            import_id: IMPORT.to_owned(),
            default_hub: "h.example".to_owned(),
            ..ImportStart::default()
        }
    }

    fn row(device_id: &str) -> DeviceAssignment {
        DeviceAssignment { device_id: device_id.to_owned(), ..DeviceAssignment::default() }
    }

    #[test]
    fn each_attempt_at_each_chunk_has_its_own_request_id_of_the_imports_time() {
        let import = parse_request_id(IMPORT).unwrap();
        let ids: BTreeSet<RequestId> = (1..50)
            .flat_map(|chunk| (0..8).map(move |attempt| chunk_request_id(&import, chunk, attempt)))
            .collect();
        assert_eq!(ids.len(), 49 * 8);
        assert!(ids.iter().all(|id| id.time() == import.time() && *id != import));
        assert_eq!(chunk_request_id(&import, 7, 1), chunk_request_id(&import, 7, 1));
    }

    #[test]
    fn malformed_rows_are_told_apart_from_sound_ones() {
        let plan = Plan::read(String::new(), &start()).unwrap();
        let chunk = ImportChunk {
            chunk_no: 3,
            rows: vec![row("a"), row("bad id"), row("c")],
            packed_device_ids: berth_proto::convert::pack_ids(["d", "e e", "f"]),
        };
        let parsed = plan.parse(Some(3), &chunk).unwrap();
        assert_eq!(parsed.rows.iter().map(|row| row.number).collect::<Vec<_>>(), [0, 2, 3, 5]);
        assert_eq!(parsed.refused.iter().map(|row| row.number).collect::<Vec<_>>(), [1, 4]);
        assert!(
            parsed.rows.iter().all(|row| row
                .assign
                .hub
                .as_ref()
                .is_some_and(|hub| hub.as_str() == "h.example"))
        );
        assert!(parsed.refused[0].error.to_string().contains("device_id"), "{}", parsed.refused[0].error);
    }

    #[test]
    fn rows_behind_an_illegal_packed_id_are_read() {
        let plan = Plan::read(String::new(), &start()).unwrap();
        let packed = b"\x01a\x00\x01b\x01\xff\x01c\x09d";
        let chunk =
            ImportChunk { chunk_no: 1, rows: vec![row("r")], packed_device_ids: packed.as_slice().into() };
        let parsed = plan.parse(None, &chunk).unwrap();
        assert_eq!(parsed.rows.iter().map(|row| row.number).collect::<Vec<_>>(), [0, 1, 3, 5]);
        assert_eq!(parsed.refused.iter().map(|row| row.number).collect::<Vec<_>>(), [2, 4, 6]);
        let last = parsed.refused[2].error.to_string();
        assert!(last.contains("from there on nothing can be read"), "{last}");
    }

    #[test]
    fn chunks_must_follow_each_other() {
        let plan = Plan::read(String::new(), &start()).unwrap();
        let chunk = |chunk_no| ImportChunk { chunk_no, rows: vec![row("a")], ..ImportChunk::default() };
        assert!(plan.parse(None, &chunk(17)).is_ok());
        assert!(plan.parse(None, &chunk(0)).is_err());
        let error = plan.parse(Some(18), &chunk(20)).unwrap_err().to_string();
        assert!(error.contains("20 came where 18 was due"), "{error}");
    }

    #[test]
    fn skip_and_fail_ask_for_absent_devices() {
        for (if_exists, expected) in [
            (IfExists::Update, Precondition::None),
            (IfExists::Skip, Precondition::Absent),
            (IfExists::Fail, Precondition::Absent),
        ] {
            let start = ImportStart { if_exists: if_exists as i32, ..start() };
            let plan = Plan::read(String::new(), &start).unwrap();
            let chunk = ImportChunk { chunk_no: 1, rows: vec![row("a")], ..ImportChunk::default() };
            assert_eq!(plan.parse(None, &chunk).unwrap().rows[0].assign.precondition, expected);
        }
    }

    #[test]
    fn a_start_without_a_sound_id_is_refused() {
        let start = ImportStart { import_id: "x".to_owned(), on_error: 9, ..ImportStart::default() };
        let ApiError::Invalid(violations) = Plan::read(String::new(), &start).unwrap_err() else { panic!() };
        let fields: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["start.import_id", "start.on_error"]);
    }
}
