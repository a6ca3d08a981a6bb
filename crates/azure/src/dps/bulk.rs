//! Up to ten changes of enrollments in one call.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::error::AzureError;
use crate::id::{EnrollmentGroupId, Etag, RegistrationId};
use crate::json::{Unknown, empty_if_null, none_if_empty, words};

/// Most items of one call (DPS REST API, bulk enrollment operations).
pub const BULK_ITEMS_MAX: usize = 10;

words! {
    /// What a bulk call does with each of its items.
    BulkMode {
        /// Makes it; it must not exist.
        Create = "create",
        /// Replaces it. DPS has been seen to refuse this without an etag: [`BulkMode::UpdateIfMatchEtag`] is the one to use.
        Update = "update",
        /// Replaces it, if it has the etag that the item carries.
        UpdateIfMatchEtag = "updateIfMatchETag",
        /// Removes it.
        Delete = "delete",
    }
}

/// How a bulk call went. The items succeed and fail one by one, and the answer is a success either way: look at
/// [`BulkResult::errors`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkResult {
    /// True where every item succeeded.
    pub is_successful: bool,
    /// The items that failed.
    #[serde(default, deserialize_with = "empty_if_null")]
    pub errors: Vec<BulkError>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Why one item failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkError {
    /// The item, of enrollments.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub registration_id: Option<RegistrationId>,
    /// The item, of groups.
    #[serde(default, deserialize_with = "none_if_empty", skip_serializing_if = "Option::is_none")]
    pub enrollment_group_id: Option<EnrollmentGroupId>,
    /// Azure's number, such as 409201.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<u32>,
    /// Azure's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_status: Option<String>,
    /// What else there is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Refuses what DPS would refuse, and what would do half of what was meant.
pub(super) fn check<'a>(
    operation: &'static str,
    mode: &BulkMode,
    items: impl ExactSizeIterator<Item = (String, Option<&'a Etag>)>,
) -> Result<(), AzureError> {
    let refuse = |problem: String| Err(AzureError::invalid(operation, problem));
    let count = items.len();
    if count == 0 {
        return refuse("there are no items; give 1 to 10".to_owned());
    }
    if count > BULK_ITEMS_MAX {
        return refuse(format!("there are {count} items; DPS takes at most {BULK_ITEMS_MAX} in a call"));
    }
    let mut seen = HashSet::new();
    for (id, etag) in items {
        if *mode == BulkMode::UpdateIfMatchEtag && etag.is_none() {
            return refuse(format!("`{id}` has no etag; read it first, or use another mode"));
        }
        if !seen.insert(id.clone()) {
            return refuse(format!("`{id}` is there twice; give each once"));
        }
    }
    Ok(())
}
