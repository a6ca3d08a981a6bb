//! Listing devices, page by page at one revision.

use berth_proto::convert::Consistency;
use berth_proto::error::ApiError;
use berth_proto::v1::{ListRequest, ListResponse};
use berth_proto::{SnapshotToken, v1};
use berth_store::machine::Snapshot;

use super::Api;
use super::answer::misfit_task;
use super::scan::{self, Filter, Place};
use crate::directory::{Fresh, data_loss};

/// Devices of a page where the caller does not say.
const PAGE_SIZE_DEFAULT: u32 = 1_000;
/// Most devices of a page.
const PAGE_SIZE_MAX: u32 = 10_000;

impl Api {
    /// One page.
    pub(super) async fn list_devices(&self, asked: ListRequest) -> Result<ListResponse, ApiError> {
        let count = match asked.page_size {
            0 => PAGE_SIZE_DEFAULT,
            size @ 1..=PAGE_SIZE_MAX => size,
            size => {
                let problem = format!("{size} devices; 1 to {PAGE_SIZE_MAX} are allowed");
                return Err(ApiError::invalid("page_size", problem));
            }
        };
        let read = |snapshot: &Snapshot| Filter::read(snapshot, asked.filter.as_ref());
        let (fresh, filter, from) = match asked.page_token.as_str() {
            "" => {
                let consistency = Consistency::from_message(asked.consistency.as_ref())?;
                let (fresh, filter) = self.directory.find(consistency, read).await?;
                (fresh, filter, None)
            }
            token => {
                let token = read_token("page_token", token)?;
                let fresh = self.pinned(&token)?;
                let filter = read(&fresh.snapshot)?;
                (fresh, filter, Some(token))
            }
        };
        if from.is_some_and(|token| token.filter != filter.hash) {
            return Err(ApiError::invalid("page_token", "is of another filter; start again without it"));
        }
        let place = from.map(|token| Place { page: token.page, row: token.row }).unwrap_or_default();
        let hash = filter.hash;
        let (devices, next) = walk(fresh.snapshot.clone(), filter, place, count as usize).await?;
        let next_page_token = match next {
            None => {
                if let Some(token) = from {
                    self.directory.pins().release(token.pin);
                }
                String::new()
            }
            Some(place) => self.next_token(&fresh, from, place, hash)?,
        };
        Ok(ListResponse { header: Some(self.header(&fresh)), devices, next_page_token })
    }

    /// The revision that a token names.
    pub(super) fn pinned(&self, token: &SnapshotToken) -> Result<Fresh, ApiError> {
        if token.node_id != self.directory.node().id {
            return Err(ApiError::SnapshotElsewhere { node_id: token.node_id });
        }
        let pinned = self.directory.pins().find(token.pin);
        match pinned.filter(|pinned| pinned.snapshot.revision().0 == token.revision) {
            // How old it is now is nobody's promise: the token says which revision it is.
            Some(pinned) => Ok(Fresh {
                snapshot: pinned.snapshot,
                age_bound: std::time::Duration::MAX,
                role: self.directory.role(),
            }),
            None => Err(ApiError::SnapshotExpired { revision: token.revision }),
        }
    }

    fn next_token(
        &self,
        fresh: &Fresh,
        from: Option<SnapshotToken>,
        place: Place,
        filter: u64,
    ) -> Result<String, ApiError> {
        let pin = match from {
            Some(token) => token.pin,
            None => self.directory.pins().hold(fresh.snapshot.clone(), 1)?.pin,
        };
        let token = SnapshotToken {
            node_id: self.directory.node().id,
            pin,
            revision: fresh.snapshot.revision().0,
            page: place.page,
            row: place.row,
            filter,
        };
        Ok(token.encode())
    }
}

/// Reads a page or snapshot token.
pub(super) fn read_token(field: &str, text: &str) -> Result<SnapshotToken, ApiError> {
    SnapshotToken::decode(text).map_err(|error| ApiError::invalid(field, error))
}

/// Walks on a thread of its own: a page of a rare filter looks at many devices.
async fn walk(
    snapshot: Snapshot,
    filter: Filter,
    from: Place,
    count: usize,
) -> Result<(Vec<v1::Mapping>, Option<Place>), ApiError> {
    let walk = move || scan::step(&snapshot, &filter, from, snapshot.device_pages(), count);
    match tokio::task::spawn_blocking(walk).await {
        Ok(found) => found.map_err(|damage| data_loss(&damage)),
        Err(error) => Err(misfit_task(&error)),
    }
}
