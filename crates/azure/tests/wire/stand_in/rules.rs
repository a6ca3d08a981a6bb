use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::stage::Seen;

/// Rules that the stand-in can be made to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Reads tell keys.
    KeysInReads,
    /// A create replaces what exists.
    CreateReplaces,
    /// Etags are not looked at.
    StaleEtagAccepted,
    /// The second page begins anew.
    PageTwice,
    /// A clash within a bulk call is not told.
    BulkHidesClash,
    /// Every key is right.
    AnyKey,
    /// Device IDs have no case.
    DeviceCase,
    /// A patch replaces the whole twin.
    PatchReplaces,
    /// An offline device is not found.
    OfflineNotFound,
    /// The registration follows the enrollment at once.
    MovesAtOnce,
    /// The identity stays in the old hub.
    StaysInOldHub,
    /// `never` moves.
    NeverMoves,
    /// Nothing is ever under way.
    NeverAssigning,
    /// A disabled enrollment registers.
    DisabledRegisters,
    /// A removal removes nothing.
    DeleteKeeps,
}

/// Each rule, and the step that must notice.
pub const BROKEN: [(Broken, &str); 15] = [
    (Broken::KeysInReads, "dps_makes_keys_for_a_new_enrollment"),
    (Broken::CreateReplaces, "dps_guards_an_enrollment_by_its_etag"),
    (Broken::StaleEtagAccepted, "dps_guards_an_enrollment_by_its_etag"),
    (Broken::PageTwice, "dps_lists_enrollments_page_by_page"),
    (Broken::BulkHidesClash, "dps_changes_enrollments_in_bulk"),
    (Broken::AnyKey, "dps_refuses_a_wrong_key"),
    (Broken::DeviceCase, "hub_keeps_identities"),
    (Broken::PatchReplaces, "hub_keeps_twins"),
    (Broken::OfflineNotFound, "hub_calls_methods"),
    (Broken::MovesAtOnce, "device_moves_when_it_registers_again"),
    (Broken::StaysInOldHub, "device_moves_when_it_registers_again"),
    (Broken::NeverMoves, "device_moves_by_policy"),
    (Broken::NeverAssigning, "device_polls_while_assigning"),
    (Broken::DisabledRegisters, "device_is_refused"),
    (Broken::DeleteKeeps, "all_is_taken_away"),
];

/// True where the request carries a signature for `resource` by `key`.
pub fn is_signed(seen: &Seen, resource: &str, key: &str) -> bool {
    let Some(rest) =
        seen.header("authorization").and_then(|text| text.strip_prefix("SharedAccessSignature "))
    else {
        return false;
    };
    let field =
        |name: &str| rest.split('&').find_map(|part| part.split_once('=').filter(|(n, _)| *n == name));
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned();
    let (Some((_, sr)), Some((_, sig)), Some((_, se))) = (field("sr"), field("sig"), field("se")) else {
        return false;
    };
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &STANDARD.decode(key).unwrap());
    let right = ring::hmac::sign(&key, format!("{sr}\n{se}").as_bytes());
    decoded(sr).eq_ignore_ascii_case(resource)
        && STANDARD.decode(decoded(sig)).is_ok_and(|sig| sig == right.as_ref())
}

/// What `If-Match` says of a thing.
pub enum Match {
    Good,
    Exists,
    Missing,
    Stale,
}

pub fn matched(seen: &Seen, thing: Option<&Value>, stale_is_good: bool) -> Match {
    let wanted = seen.header("if-match").map(|text| text.trim_matches('"'));
    match (wanted, thing) {
        (None, None) => Match::Good,
        (None, Some(_)) => Match::Exists,
        (Some(_), None) => Match::Missing,
        (Some("*"), Some(_)) => Match::Good,
        (Some(wanted), Some(thing)) if thing["etag"] == wanted || stale_is_good => Match::Good,
        _ => Match::Stale,
    }
}

/// Merges `patch` into `value`: null removes (RFC 7396).
pub fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        value.clone_from(patch);
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Some(object) = value.as_object_mut() else { return };
    for (name, change) in patch {
        if change.is_null() {
            object.remove(name);
        } else {
            merge(object.entry(name).or_insert(Value::Null), change);
        }
    }
}
