//! What the generated messages have in common, said as traits.

use std::time::Duration;

use berth_proto::v1;

/// A change that carries a request ID.
pub trait Mutation: Clone + Send + Sync + 'static {
    /// The request ID; empty where none was chosen yet.
    fn request_id(&self) -> &str;
    /// Sets the request ID.
    fn set_request_id(&mut self, id: String);
    /// True where nothing is to be written.
    fn validate_only(&self) -> bool;
}

/// An answer with a header.
pub trait Headed {
    /// The header, where the server sent one.
    fn header(&self) -> Option<&v1::ResponseHeader>;
}

macro_rules! mutations {
    ($($request:ident),+ $(,)?) => {$(
        impl Mutation for v1::$request {
            fn request_id(&self) -> &str {
                &self.request_id
            }

            fn set_request_id(&mut self, id: String) {
                self.request_id = id;
            }

            fn validate_only(&self) -> bool {
                self.validate_only
            }
        }
    )+};
}

macro_rules! headed {
    ($($response:ident),+ $(,)?) => {$(
        impl Headed for v1::$response {
            fn header(&self) -> Option<&v1::ResponseHeader> {
                self.header.as_ref()
            }
        }
    )+};
}

mutations!(
    AssignRequest,
    BatchAssignRequest,
    RemoveRequest,
    CreateStampRequest,
    UpdateStampRequest,
    DeleteStampRequest,
    CreateHubRequest,
    UpdateHubRequest,
    DeleteHubRequest,
    CreateScopeRequest,
    UpdateScopeRequest,
    DeleteScopeRequest,
    CreateRouteRequest,
    UpdateRouteRequest,
    DeleteRouteRequest,
    ApplyRequest,
    SetStateRequest,
    ResolveDriftRequest,
);

headed!(
    LookupResponse,
    BatchLookupResponse,
    LookupRouteResponse,
    ReportResponse,
    AssignResponse,
    BatchAssignResponse,
    GetResponse,
    ListResponse,
    RemoveResponse,
    ImportResponse,
    ExportResponse,
    CreateStampResponse,
    GetStampResponse,
    ListStampsResponse,
    UpdateStampResponse,
    DeleteStampResponse,
    CreateHubResponse,
    GetHubResponse,
    ListHubsResponse,
    UpdateHubResponse,
    DeleteHubResponse,
    CreateScopeResponse,
    GetScopeResponse,
    ListScopesResponse,
    UpdateScopeResponse,
    DeleteScopeResponse,
    CreateRouteResponse,
    GetRouteResponse,
    ListRoutesResponse,
    UpdateRouteResponse,
    DeleteRouteResponse,
    ApplyResponse,
    SetStateResponse,
    GetCapacityResponse,
    SuggestPlacementResponse,
    ReconcileDeviceResponse,
    ListDriftResponse,
    ResolveDriftResponse,
    GetBudgetResponse,
    StatusResponse,
    AddLearnerResponse,
    PromoteResponse,
    RemoveNodeResponse,
    TransferLeaderResponse,
    DigestResponse,
);

/// Packs device IDs into one field: a byte of length, then the ID, for each. `None` where an ID is empty or longer
/// than 255 bytes, which no legal device ID is.
pub fn pack_ids<I: AsRef<str>>(ids: impl IntoIterator<Item = I>) -> Option<Vec<u8>> {
    let mut packed = Vec::new();
    for id in ids {
        let id = id.as_ref();
        let length = u8::try_from(id.len()).ok().filter(|length| *length > 0)?;
        packed.push(length);
        packed.extend_from_slice(id.as_bytes());
    }
    Some(packed)
}

pub(crate) fn duration(of: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(of.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(of.subsec_nanos()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_ids_carry_their_lengths() {
        assert_eq!(pack_ids(["a", "bcd"]).unwrap(), b"\x01a\x03bcd");
        assert_eq!(pack_ids([""]), None);
        assert_eq!(pack_ids(["x".repeat(256)]), None);
    }
}
