//! Which calls serve which kind of object.

use berth_client::{Client, Error, v1};
use prost_types::FieldMask;

use super::flags::ListOfStamp;
use crate::device::WriteArgs;

/// Objects a page of a list.
const PAGE_SIZE: u32 = 1_000;

/// A page of objects, and the token of the next one; it is empty after the last.
pub(crate) type Page<K> = Result<(Vec<K>, String), Error>;
/// What a change answers: the object, unless it is gone.
pub(crate) type Answer<K> = (Option<v1::ResponseHeader>, Option<K>);
/// A change, done or refused.
pub(crate) type Done<K> = Result<Answer<K>, Error>;

/// The calls that serve a kind of object. Their messages have the same fields, but no type in common.
///
/// `at` is the revision that the object's last change has to be; 0 is any.
pub(crate) trait Calls: Sized {
    /// The name or key that tells the object apart.
    fn name(&self) -> &str;

    async fn page(client: &Client, list: &ListOfStamp, page_token: String) -> Page<Self>;
    async fn get(client: &Client, name: String, how: v1::Consistency) -> Result<Option<Self>, Error>;
    async fn create(client: &Client, object: Self, write: &WriteArgs) -> Done<Self>;
    async fn update(client: &Client, object: Self, mask: FieldMask, at: u64, write: &WriteArgs)
    -> Done<Self>;
    async fn delete(client: &Client, name: String, at: u64, write: &WriteArgs) -> Done<Self>;
}

/// The request of a change: what every change says of itself, and its own fields.
macro_rules! change {
    ($request:ident, $write:ident, $($field:ident: $value:expr),+) => {
        v1::$request {
            request_id: $write.request_id.clone(),
            reason: $write.reason.clone(),
            validate_only: $write.dry_run,
            $($field: $value),+
        }
    };
}

/// A row names a type of object, the field that it has in messages, the field that tells such objects apart, and its
/// calls with their requests. Behind the request of a list stands in braces what limits it, and then the field with
/// the objects that were found.
macro_rules! calls {
    ($(
        $object:ident in $field:ident by $key:ident:
        $get:ident($get_request:ident),
        $list:ident($list_request:ident $({ $limit:ident })?) -> $objects:ident,
        $create:ident($create_request:ident),
        $update:ident($update_request:ident),
        $delete:ident($delete_request:ident);
    )+) => {$(
        impl Calls for v1::$object {
            fn name(&self) -> &str {
                &self.$key
            }

            async fn page(client: &Client, list: &ListOfStamp, page_token: String) -> Page<Self> {
                let request = v1::$list_request {
                    page_size: PAGE_SIZE,
                    page_token,
                    consistency: Some(list.read.consistency.clone()),
                    $($limit: list.$limit.clone().unwrap_or_default(),)?
                };
                let page = client.$list(request).await?;
                Ok((page.$objects, page.next_page_token))
            }

            async fn get(client: &Client, name: String, how: v1::Consistency) -> Result<Option<Self>, Error> {
                let request = v1::$get_request { $key: name, consistency: Some(how) };
                Ok(client.$get(request).await?.$field)
            }

            async fn create(client: &Client, object: Self, write: &WriteArgs) -> Done<Self> {
                let request = change!($create_request, write, $field: Some(object));
                let answer = client.$create(request).await?;
                Ok((answer.header, answer.$field))
            }

            async fn update(
                client: &Client, object: Self, mask: FieldMask, at: u64, write: &WriteArgs,
            ) -> Done<Self> {
                let request = change!(
                    $update_request, write,
                    $field: Some(object), update_mask: Some(mask), expected_revision: at
                );
                let answer = client.$update(request).await?;
                Ok((answer.header, answer.$field))
            }

            async fn delete(client: &Client, name: String, at: u64, write: &WriteArgs) -> Done<Self> {
                let request = change!($delete_request, write, $key: name, expected_revision: at);
                Ok((client.$delete(request).await?.header, None))
            }
        }
    )+};
}

calls! {
    Stamp in stamp by name: get_stamp(GetStampRequest), list_stamps(ListStampsRequest) -> stamps,
        create_stamp(CreateStampRequest), update_stamp(UpdateStampRequest), delete_stamp(DeleteStampRequest);
    Hub in hub by name: get_hub(GetHubRequest), list_hubs(ListHubsRequest { stamp }) -> hubs,
        create_hub(CreateHubRequest), update_hub(UpdateHubRequest), delete_hub(DeleteHubRequest);
    Scope in scope by name: get_scope(GetScopeRequest), list_scopes(ListScopesRequest) -> scopes,
        create_scope(CreateScopeRequest), update_scope(UpdateScopeRequest), delete_scope(DeleteScopeRequest);
    Route in route by key: get_route(GetRouteRequest), list_routes(ListRoutesRequest { stamp }) -> routes,
        create_route(CreateRouteRequest), update_route(UpdateRouteRequest), delete_route(DeleteRouteRequest);
}
