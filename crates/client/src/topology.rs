//! Topology: stamps, hubs, scopes, routes, and what is put on them.

use berth_proto::v1;
use berth_proto::v1::topology_service_client::TopologyServiceClient;

use crate::call::Client;
use crate::error::Error;

macro_rules! calls {
    ($($kind:ident $(#[$doc:meta])* $name:ident($request:ident) -> $response:ident;)+) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`Error::Refused`] with what the directory has against it; see [`Error`] for the rest.
                pub async fn $name(&self, request: v1::$request) -> Result<v1::$response, Error> {
                    let call = |channel, request| async move {
                        TopologyServiceClient::new(channel).$name(request).await
                    };
                    self.$kind(request, call).await
                }
            )+
        }
    };
}

calls! {
    write /// Creates a stamp.
    create_stamp(CreateStampRequest) -> CreateStampResponse;
    read /// Reads a stamp.
    get_stamp(GetStampRequest) -> GetStampResponse;
    read /// Lists stamps by name.
    list_stamps(ListStampsRequest) -> ListStampsResponse;
    write /// Changes the masked fields of a stamp.
    update_stamp(UpdateStampRequest) -> UpdateStampResponse;
    write /// Deletes a stamp that nothing refers to.
    delete_stamp(DeleteStampRequest) -> DeleteStampResponse;
    write /// Creates a hub.
    create_hub(CreateHubRequest) -> CreateHubResponse;
    read /// Reads a hub.
    get_hub(GetHubRequest) -> GetHubResponse;
    read /// Lists hubs by name.
    list_hubs(ListHubsRequest) -> ListHubsResponse;
    write /// Changes the masked fields of a hub.
    update_hub(UpdateHubRequest) -> UpdateHubResponse;
    write /// Deletes a hub that nothing refers to.
    delete_hub(DeleteHubRequest) -> DeleteHubResponse;
    write /// Creates a scope.
    create_scope(CreateScopeRequest) -> CreateScopeResponse;
    read /// Reads a scope.
    get_scope(GetScopeRequest) -> GetScopeResponse;
    read /// Lists scopes by name.
    list_scopes(ListScopesRequest) -> ListScopesResponse;
    write /// Changes the masked fields of a scope.
    update_scope(UpdateScopeRequest) -> UpdateScopeResponse;
    write /// Deletes a scope that nothing refers to.
    delete_scope(DeleteScopeRequest) -> DeleteScopeResponse;
    write /// Creates a route.
    create_route(CreateRouteRequest) -> CreateRouteResponse;
    read /// Reads a route.
    get_route(GetRouteRequest) -> GetRouteResponse;
    read /// Lists routes by key.
    list_routes(ListRoutesRequest) -> ListRoutesResponse;
    write /// Changes a route.
    update_route(UpdateRouteRequest) -> UpdateRouteResponse;
    write /// Deletes a route.
    delete_route(DeleteRouteRequest) -> DeleteRouteResponse;
    write /// Makes the topology as described, in one revision.
    apply(ApplyRequest) -> ApplyResponse;
    write /// Cordons, uncordons, drains or takes offline a stamp or hub.
    set_state(SetStateRequest) -> SetStateResponse;
    read /// Says how full stamps and hubs are, and what they cost.
    get_capacity(GetCapacityRequest) -> GetCapacityResponse;
    read /// Says where new devices would be put.
    suggest_placement(SuggestPlacementRequest) -> SuggestPlacementResponse;
}
