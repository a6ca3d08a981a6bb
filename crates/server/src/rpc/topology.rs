//! TopologyService.

pub(super) mod pages;
mod room;
mod stored;

use berth_core::{
    Command, Expect, HubName, HubPatch, ObjectPatch, ObjectRef, Outcome, PlaceState, Revision, RouteKey,
    ScopeName, StampName, StampPatch, TopologyEdit,
};
use berth_proto::convert::{
    Consistency, ExpectedPatch, change_message, desired_edit, hub_message, hub_update, new_hub, new_route,
    new_scope, new_stamp, route_message, route_update, scope_message, scope_update, stamp_message,
    stamp_update, state_from, state_message, warning_message,
};
use berth_proto::error::ApiError;
use berth_proto::v1;
use berth_proto::v1::set_state_request::Target;
use berth_proto::v1::topology_service_server::TopologyService;
use berth_store::machine::Snapshot;
use tonic::{Request, Response, Status};

use self::pages::page;
use super::answer::{Asked, actor_of, misfit};
use super::{Api, names};
use crate::directory::data_loss;

/// The fields of a change, and its envelope.
macro_rules! asked {
    ($request:ident) => {{
        let actor = actor_of(&$request);
        let asked = $request.into_inner();
        let change = Asked::read(actor, &asked.request_id, &asked.reason, asked.validate_only)?;
        (asked, change)
    }};
}

#[tonic::async_trait]
impl TopologyService for Api {
    async fn create_stamp(
        &self,
        request: Request<v1::CreateStampRequest>,
    ) -> Result<Response<v1::CreateStampResponse>, Status> {
        let (asked, change) = asked!(request);
        let name = asked.stamp.as_ref().map(|stamp| stamp.name.clone()).unwrap_or_default();
        let header = self.patch(&change, new_stamp(asked.stamp)?).await?;
        let stamp = self.written(&change, |snapshot| stored::stamp(snapshot, &name));
        Ok(Response::new(v1::CreateStampResponse { header: Some(header), stamp }))
    }

    async fn get_stamp(
        &self,
        request: Request<v1::GetStampRequest>,
    ) -> Result<Response<v1::GetStampResponse>, Status> {
        let asked = request.into_inner();
        let consistency = Consistency::from_message(asked.consistency.as_ref())?;
        let find = |snapshot: &Snapshot| stored::stamp(snapshot, &asked.name);
        let (fresh, stamp) = self.directory.find(consistency, find).await?;
        Ok(Response::new(v1::GetStampResponse { header: Some(self.header(&fresh)), stamp: Some(stamp) }))
    }

    async fn list_stamps(
        &self,
        request: Request<v1::ListStampsRequest>,
    ) -> Result<Response<v1::ListStampsResponse>, Status> {
        let asked = request.into_inner();
        let fresh = self.directory.read(Consistency::from_message(asked.consistency.as_ref())?).await?;
        let all = fresh.snapshot.topology().stamps().map(|stamp| (stamp.name.as_str(), stamp));
        let (stamps, next_page_token) =
            page(all, asked.page_size, &asked.page_token, |_| true, stamp_message)?;
        Ok(Response::new(v1::ListStampsResponse {
            header: Some(self.header(&fresh)),
            stamps,
            next_page_token,
        }))
    }

    async fn update_stamp(
        &self,
        request: Request<v1::UpdateStampRequest>,
    ) -> Result<Response<v1::UpdateStampResponse>, Status> {
        let (asked, change) = asked!(request);
        let name = asked.stamp.as_ref().map(|stamp| stamp.name.clone()).unwrap_or_default();
        let patch = stamp_update(asked.stamp, asked.update_mask, asked.expected_revision)?;
        let header = self.patch(&change, patch).await?;
        let stamp = self.written(&change, |snapshot| stored::stamp(snapshot, &name));
        Ok(Response::new(v1::UpdateStampResponse { header: Some(header), stamp }))
    }

    async fn delete_stamp(
        &self,
        request: Request<v1::DeleteStampRequest>,
    ) -> Result<Response<v1::DeleteStampResponse>, Status> {
        let (asked, change) = asked!(request);
        let name = StampName::parse(&asked.name).map_err(|error| ApiError::invalid("name", error))?;
        let header = self.delete(&change, asked.expected_revision, ObjectRef::Stamp(name)).await?;
        Ok(Response::new(v1::DeleteStampResponse { header: Some(header) }))
    }

    async fn create_hub(
        &self,
        request: Request<v1::CreateHubRequest>,
    ) -> Result<Response<v1::CreateHubResponse>, Status> {
        let (asked, change) = asked!(request);
        let name = asked.hub.as_ref().map(|hub| hub.name.clone()).unwrap_or_default();
        let header = self.patch(&change, new_hub(asked.hub)?).await?;
        let hub = self.written(&change, |snapshot| stored::hub(snapshot, &name));
        Ok(Response::new(v1::CreateHubResponse { header: Some(header), hub }))
    }

    async fn get_hub(
        &self,
        request: Request<v1::GetHubRequest>,
    ) -> Result<Response<v1::GetHubResponse>, Status> {
        let asked = request.into_inner();
        let consistency = Consistency::from_message(asked.consistency.as_ref())?;
        let find = |snapshot: &Snapshot| stored::hub(snapshot, &asked.name);
        let (fresh, hub) = self.directory.find(consistency, find).await?;
        Ok(Response::new(v1::GetHubResponse { header: Some(self.header(&fresh)), hub: Some(hub) }))
    }

    async fn list_hubs(
        &self,
        request: Request<v1::ListHubsRequest>,
    ) -> Result<Response<v1::ListHubsResponse>, Status> {
        let asked = request.into_inner();
        let consistency = Consistency::from_message(asked.consistency.as_ref())?;
        let find = |snapshot: &Snapshot| optional_stamp(snapshot, &asked.stamp);
        let (fresh, stamp) = self.directory.find(consistency, find).await?;
        let topology = fresh.snapshot.topology();
        let all = topology.hubs().map(|hub| (hub.name.as_str(), hub));
        let (hubs, next_page_token) = page(
            all,
            asked.page_size,
            &asked.page_token,
            |hub| stamp.is_none_or(|stamp| hub.stamp == stamp),
            |hub| hub_message(topology, hub),
        )?;
        Ok(Response::new(v1::ListHubsResponse { header: Some(self.header(&fresh)), hubs, next_page_token }))
    }

    async fn update_hub(
        &self,
        request: Request<v1::UpdateHubRequest>,
    ) -> Result<Response<v1::UpdateHubResponse>, Status> {
        let (asked, change) = asked!(request);
        let name = asked.hub.as_ref().map(|hub| hub.name.clone()).unwrap_or_default();
        let patch = hub_update(asked.hub, asked.update_mask, asked.expected_revision)?;
        let header = self.patch(&change, patch).await?;
        let hub = self.written(&change, |snapshot| stored::hub(snapshot, &name));
        Ok(Response::new(v1::UpdateHubResponse { header: Some(header), hub }))
    }

    async fn delete_hub(
        &self,
        request: Request<v1::DeleteHubRequest>,
    ) -> Result<Response<v1::DeleteHubResponse>, Status> {
        let (asked, change) = asked!(request);
        let name = HubName::parse(&asked.name).map_err(|error| ApiError::invalid("name", error))?;
        let header = self.delete(&change, asked.expected_revision, ObjectRef::Hub(name)).await?;
        Ok(Response::new(v1::DeleteHubResponse { header: Some(header) }))
    }

    async fn create_scope(
        &self,
        request: Request<v1::CreateScopeRequest>,
    ) -> Result<Response<v1::CreateScopeResponse>, Status> {
        let (asked, change) = asked!(request);
        let name = asked.scope.as_ref().map(|scope| scope.name.clone()).unwrap_or_default();
        let header = self.patch(&change, new_scope(asked.scope)?).await?;
        let scope = self.written(&change, |snapshot| stored::scope(snapshot, &name));
        Ok(Response::new(v1::CreateScopeResponse { header: Some(header), scope }))
    }

    async fn get_scope(
        &self,
        request: Request<v1::GetScopeRequest>,
    ) -> Result<Response<v1::GetScopeResponse>, Status> {
        let asked = request.into_inner();
        let consistency = Consistency::from_message(asked.consistency.as_ref())?;
        let find = |snapshot: &Snapshot| stored::scope(snapshot, &asked.name);
        let (fresh, scope) = self.directory.find(consistency, find).await?;
        Ok(Response::new(v1::GetScopeResponse { header: Some(self.header(&fresh)), scope: Some(scope) }))
    }

    async fn list_scopes(
        &self,
        request: Request<v1::ListScopesRequest>,
    ) -> Result<Response<v1::ListScopesResponse>, Status> {
        let asked = request.into_inner();
        let fresh = self.directory.read(Consistency::from_message(asked.consistency.as_ref())?).await?;
        let topology = fresh.snapshot.topology();
        let all = topology.scopes().map(|scope| (scope.name.as_str(), scope));
        let message = |scope: &berth_core::Scope| scope_message(topology, scope);
        let (scopes, next_page_token) = page(all, asked.page_size, &asked.page_token, |_| true, message)?;
        Ok(Response::new(v1::ListScopesResponse {
            header: Some(self.header(&fresh)),
            scopes,
            next_page_token,
        }))
    }

    async fn update_scope(
        &self,
        request: Request<v1::UpdateScopeRequest>,
    ) -> Result<Response<v1::UpdateScopeResponse>, Status> {
        let (asked, change) = asked!(request);
        let name = asked.scope.as_ref().map(|scope| scope.name.clone()).unwrap_or_default();
        let patch = scope_update(asked.scope, asked.update_mask, asked.expected_revision)?;
        let header = self.patch(&change, patch).await?;
        let scope = self.written(&change, |snapshot| stored::scope(snapshot, &name));
        Ok(Response::new(v1::UpdateScopeResponse { header: Some(header), scope }))
    }

    async fn delete_scope(
        &self,
        request: Request<v1::DeleteScopeRequest>,
    ) -> Result<Response<v1::DeleteScopeResponse>, Status> {
        let (asked, change) = asked!(request);
        let name = ScopeName::parse(&asked.name).map_err(|error| ApiError::invalid("name", error))?;
        let header = self.delete(&change, asked.expected_revision, ObjectRef::Scope(name)).await?;
        Ok(Response::new(v1::DeleteScopeResponse { header: Some(header) }))
    }

    async fn create_route(
        &self,
        request: Request<v1::CreateRouteRequest>,
    ) -> Result<Response<v1::CreateRouteResponse>, Status> {
        let (asked, change) = asked!(request);
        let name = asked.route.as_ref().map(|route| route.key.clone()).unwrap_or_default();
        let header = self.patch(&change, new_route(asked.route)?).await?;
        let route = self.written(&change, |snapshot| stored::route(snapshot, &name));
        Ok(Response::new(v1::CreateRouteResponse { header: Some(header), route }))
    }

    async fn get_route(
        &self,
        request: Request<v1::GetRouteRequest>,
    ) -> Result<Response<v1::GetRouteResponse>, Status> {
        let asked = request.into_inner();
        let consistency = Consistency::from_message(asked.consistency.as_ref())?;
        let find = |snapshot: &Snapshot| stored::route(snapshot, &asked.key);
        let (fresh, route) = self.directory.find(consistency, find).await?;
        Ok(Response::new(v1::GetRouteResponse { header: Some(self.header(&fresh)), route: Some(route) }))
    }

    async fn list_routes(
        &self,
        request: Request<v1::ListRoutesRequest>,
    ) -> Result<Response<v1::ListRoutesResponse>, Status> {
        let asked = request.into_inner();
        let consistency = Consistency::from_message(asked.consistency.as_ref())?;
        let find = |snapshot: &Snapshot| optional_stamp(snapshot, &asked.stamp);
        let (fresh, stamp) = self.directory.find(consistency, find).await?;
        let topology = fresh.snapshot.topology();
        let all = topology.routes().map(|route| (route.key.as_str(), route));
        let (routes, next_page_token) = page(
            all,
            asked.page_size,
            &asked.page_token,
            |route| stamp.is_none_or(|stamp| route.stamp == stamp),
            |route| route_message(topology, route),
        )?;
        Ok(Response::new(v1::ListRoutesResponse {
            header: Some(self.header(&fresh)),
            routes,
            next_page_token,
        }))
    }

    async fn update_route(
        &self,
        request: Request<v1::UpdateRouteRequest>,
    ) -> Result<Response<v1::UpdateRouteResponse>, Status> {
        let (asked, change) = asked!(request);
        let name = asked.route.as_ref().map(|route| route.key.clone()).unwrap_or_default();
        let patch = route_update(asked.route, asked.update_mask, asked.expected_revision)?;
        let header = self.patch(&change, patch).await?;
        let route = self.written(&change, |snapshot| stored::route(snapshot, &name));
        Ok(Response::new(v1::UpdateRouteResponse { header: Some(header), route }))
    }

    async fn delete_route(
        &self,
        request: Request<v1::DeleteRouteRequest>,
    ) -> Result<Response<v1::DeleteRouteResponse>, Status> {
        let (asked, change) = asked!(request);
        let name = RouteKey::parse(&asked.key).map_err(|error| ApiError::invalid("key", error))?;
        let header = self.delete(&change, asked.expected_revision, ObjectRef::Route(name)).await?;
        Ok(Response::new(v1::DeleteRouteResponse { header: Some(header) }))
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let (asked, change) = asked!(request);
        let edit = desired_edit(asked.desired, asked.prune)?;
        let (header, outcome) = self.change(&change, Command::Topology(edit)).await?;
        let Outcome::TopologyEdited { diff, over, .. } = &outcome else {
            return Err(misfit(&outcome).into());
        };
        Ok(Response::new(v1::ApplyResponse {
            header: Some(header),
            changes: diff.iter().map(change_message).collect(),
            warnings: over.iter().map(warning_message).collect(),
        }))
    }

    async fn set_state(
        &self,
        request: Request<v1::SetStateRequest>,
    ) -> Result<Response<v1::SetStateResponse>, Status> {
        let (asked, change) = asked!(request);
        let state = state_from(asked.state).map_err(|problem| ApiError::invalid("state", problem))?;
        let state = state.ok_or_else(|| {
            ApiError::invalid("state", "is not said; it is one of ACTIVE, CORDONED, DRAINING, OFFLINE")
        })?;
        let edit = edit_of((Expect::Present, state_patch(asked.target, state)?));
        let (header, outcome) = self.change(&change, Command::Topology(edit)).await?;
        let Outcome::TopologyEdited { diff, .. } = &outcome else { return Err(misfit(&outcome).into()) };
        let (state, changed) = (state_message(state) as i32, !diff.is_empty());
        Ok(Response::new(v1::SetStateResponse { header: Some(header), state, changed }))
    }

    async fn get_capacity(
        &self,
        request: Request<v1::GetCapacityRequest>,
    ) -> Result<Response<v1::GetCapacityResponse>, Status> {
        let asked = request.into_inner();
        let consistency = Consistency::from_message(asked.consistency.as_ref())?;
        let find = |snapshot: &Snapshot| optional_stamp(snapshot, &asked.stamp);
        let (fresh, stamp) = self.directory.find(consistency, find).await?;
        let (stamps, hubs) =
            fresh.snapshot.view(room::CapacityOf { stamp }).map_err(|damage| data_loss(&damage))?;
        Ok(Response::new(v1::GetCapacityResponse { header: Some(self.header(&fresh)), stamps, hubs }))
    }

    async fn suggest_placement(
        &self,
        request: Request<v1::SuggestPlacementRequest>,
    ) -> Result<Response<v1::SuggestPlacementResponse>, Status> {
        let asked = request.into_inner();
        let wanted = room::wanted(&asked)?;
        let consistency = Consistency::from_message(asked.consistency.as_ref())?;
        let find = |snapshot: &Snapshot| {
            let found =
                snapshot.view(room::SuggestFor { wanted: &wanted }).map_err(|damage| data_loss(&damage))?;
            found.map_err(ApiError::from)
        };
        let (fresh, placements) = self.directory.find(consistency, find).await?;
        Ok(Response::new(v1::SuggestPlacementResponse { header: Some(self.header(&fresh)), placements }))
    }
}

impl Api {
    async fn patch(&self, change: &Asked, patch: ExpectedPatch) -> Result<v1::ResponseHeader, ApiError> {
        self.change(change, Command::Topology(edit_of(patch))).await.map(|(header, _)| header)
    }

    async fn delete(
        &self,
        change: &Asked,
        revision: u64,
        object: ObjectRef,
    ) -> Result<v1::ResponseHeader, ApiError> {
        let expect = if revision == 0 { Expect::Present } else { Expect::At(Revision(revision)) };
        let edit = TopologyEdit { deletes: vec![(expect, object)], ..TopologyEdit::default() };
        self.change(change, Command::Topology(edit)).await.map(|(header, _)| header)
    }

    /// The object after a change; nothing where nothing was written, or where it is gone again already.
    fn written<T>(&self, change: &Asked, find: impl FnOnce(&Snapshot) -> Result<T, ApiError>) -> Option<T> {
        if change.validate_only() {
            return None;
        }
        find(&self.directory.newest()).ok()
    }
}

fn edit_of(patch: ExpectedPatch) -> TopologyEdit {
    TopologyEdit { patches: vec![patch], ..TopologyEdit::default() }
}

fn state_patch(target: Option<Target>, state: PlaceState) -> Result<ObjectPatch, ApiError> {
    match target {
        Some(Target::Stamp(name)) => {
            let name = StampName::parse(&name).map_err(|error| ApiError::invalid("stamp", error))?;
            Ok(ObjectPatch::Stamp(StampPatch { state: Some(state), ..StampPatch::of(name) }))
        }
        Some(Target::Hub(name)) => {
            let name = HubName::parse(&name).map_err(|error| ApiError::invalid("hub", error))?;
            Ok(ObjectPatch::Hub(HubPatch { state: Some(state), ..HubPatch::of(name) }))
        }
        None => Err(ApiError::invalid("target", "is missing; name a stamp or a hub")),
    }
}

fn optional_stamp(snapshot: &Snapshot, text: &str) -> Result<Option<berth_core::StampNo>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let name = StampName::parse(text).map_err(|error| ApiError::invalid("stamp", error))?;
    names::stamp_no(snapshot, &name).map(Some)
}
