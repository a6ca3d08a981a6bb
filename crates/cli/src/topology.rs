//! `berth stamp`, `hub`, `scope` and `route`: the objects of the topology one by one.

use berth_client::{Client, Error, v1};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::args::Common;
use crate::device::WriteArgs;
use crate::failure::{EXIT_DONE, Failure};
use crate::parse::{self, Limit};
use crate::present;
use crate::screen::{Column, Format, Screen};

/// Objects a page of a list.
const PAGE_SIZE: u32 = 1_000;

/// Flags of `berth stamp`.
#[derive(Debug, Args)]
pub(crate) struct StampArgs {
    #[command(subcommand)]
    command: StampCommand,
}

#[derive(Debug, Subcommand)]
enum StampCommand {
    /// List stamps by name
    List(ListArgs),
    /// Read a stamp
    Get(GetArgs),
    /// Create a stamp
    Create(StampFields),
    /// Change what is given of a stamp
    Update(UpdateStamp),
    /// Delete a stamp that nothing refers to
    Delete(DeleteArgs),
    #[command(flatten)]
    State(StateCommand),
}

/// Flags of `berth hub`.
#[derive(Debug, Args)]
pub(crate) struct HubArgs {
    #[command(subcommand)]
    command: HubCommand,
}

#[derive(Debug, Subcommand)]
enum HubCommand {
    /// List hubs by name
    List(ListOfStamp),
    /// Read a hub
    Get(GetArgs),
    /// Create a hub
    Create(CreateHub),
    /// Change what is given of a hub
    Update(UpdateHub),
    /// Delete a hub that nothing refers to
    Delete(DeleteArgs),
    #[command(flatten)]
    State(StateCommand),
}

/// Flags of `berth scope`.
#[derive(Debug, Args)]
pub(crate) struct ScopeArgs {
    #[command(subcommand)]
    command: ScopeCommand,
}

#[derive(Debug, Subcommand)]
enum ScopeCommand {
    /// List scopes by name
    List(ListArgs),
    /// Read a scope
    Get(GetArgs),
    /// Create a scope
    Create(ScopeFields),
    /// Change what is given of a scope
    Update(UpdateScope),
    /// Delete a scope that no device refers to
    Delete(DeleteArgs),
}

/// Flags of `berth route`.
#[derive(Debug, Args)]
pub(crate) struct RouteArgs {
    #[command(subcommand)]
    command: RouteCommand,
}

#[derive(Debug, Subcommand)]
enum RouteCommand {
    /// List routes by key
    List(ListOfStamp),
    /// Read a route
    Get(GetArgs),
    /// Say which stamp and app endpoint serve a host or tenant
    Lookup(GetArgs),
    /// Create a route
    Create(RouteFields),
    /// Point a route at another stamp
    Update(UpdateRoute),
    /// Delete a route
    Delete(DeleteArgs),
}

#[derive(Debug, Subcommand)]
enum StateCommand {
    /// Let it keep its devices but take no new ones
    Cordon(StateArgs),
    /// Let it take devices again
    Uncordon(StateArgs),
    /// Say that it is being emptied; it takes no new devices
    Drain(StateArgs),
    /// Say that it cannot be reached; it takes no new devices
    Offline(StateArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// How fresh the answer has to be: linearizable, local, bounded:DURATION or at-least:TOKEN
    #[arg(long, value_name = "LEVEL", default_value = "linearizable", value_parser = parse::consistency)]
    consistency: v1::Consistency,
}

#[derive(Debug, Args)]
struct ListOfStamp {
    /// Only those of this stamp
    #[arg(long)]
    stamp: Option<String>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Args)]
struct GetArgs {
    /// Its name, or the key of a route
    name: String,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Args)]
struct DeleteArgs {
    /// Its name, or the key of a route
    name: String,
    /// Only if its last change was this revision; 0 means whatever it was
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    if_revision: u64,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Debug, Args)]
struct StateArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Debug, Args)]
struct CapacityFields {
    /// Past so many devices, arrivals are reported; a number or `unlimited`
    #[arg(long, value_name = "DEVICES", value_parser = parse::limit)]
    soft: Option<Limit>,
    /// Past so many devices, arrivals are refused; a number or `unlimited`
    #[arg(long, value_name = "DEVICES", value_parser = parse::limit)]
    hard: Option<Limit>,
}

#[derive(Debug, Args)]
struct StampFields {
    /// Name
    name: String,
    /// State: active, cordoned, draining or offline
    #[arg(long, value_parser = parse::accept_state)]
    state: Option<v1::AcceptState>,
    /// A label, key=value; all labels given replace the ones there are
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    capacity: CapacityFields,
    /// URL of its app endpoint; empty clears it
    #[arg(long, value_name = "URL")]
    app_endpoint: Option<String>,
    /// Currency of the cost figures, such as EUR
    #[arg(long, value_name = "CODE", default_value = "", hide_default_value = true)]
    currency: String,
    /// Its cost a month without any device
    #[arg(long, value_name = "AMOUNT", value_parser = parse::micros)]
    fixed_per_month: Option<u64>,
    /// Additional cost of each device a month
    #[arg(long, value_name = "AMOUNT", value_parser = parse::micros)]
    per_device_month: Option<u64>,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Debug, Args)]
struct UpdateStamp {
    #[command(flatten)]
    fields: StampFields,
    #[command(flatten)]
    expected: ExpectedArgs,
}

#[derive(Debug, Args)]
struct ExpectedArgs {
    /// Only if its last change was this revision; 0 means whatever it was
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    if_revision: u64,
}

#[derive(Debug, Args)]
struct HubFields {
    /// Host name
    name: String,
    /// State: active, cordoned, draining or offline
    #[arg(long, value_parser = parse::accept_state)]
    state: Option<v1::AcceptState>,
    #[command(flatten)]
    capacity: CapacityFields,
    /// Tier: f1, b1, b2, b3, s1, s2 or s3
    #[arg(long, value_parser = parse::tier)]
    tier: Option<v1::HubTier>,
    /// Units of that tier
    #[arg(long)]
    units: Option<u32>,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Debug, Args)]
struct CreateHub {
    #[command(flatten)]
    fields: HubFields,
    /// The stamp that it belongs to
    #[arg(long)]
    stamp: String,
}

#[derive(Debug, Args)]
struct UpdateHub {
    #[command(flatten)]
    fields: HubFields,
    #[command(flatten)]
    expected: ExpectedArgs,
}

#[derive(Debug, Args)]
struct ScopeFields {
    /// ID scope, such as 0ne00112233
    name: String,
    /// Host name of its service API
    #[arg(long, value_name = "HOST")]
    service_host: Option<String>,
    /// Name under which its credential is kept; never the credential itself
    #[arg(long, value_name = "NAME")]
    credential_ref: Option<String>,
    /// A hub that is linked to it; all hubs given replace the ones there are
    #[arg(long = "linked-hub", value_name = "HUB")]
    linked_hubs: Vec<String>,
    /// Berth's share of its operations, in percent
    #[arg(long, value_name = "PERCENT")]
    budget_percent: Option<u32>,
    /// What is done where both disagree: adopt or enforce
    #[arg(long, value_parser = parse::repair)]
    repair: Option<v1::RepairRule>,
    /// Whether a lookup of an unknown device asks the provisioning service
    #[arg(long, value_name = "BOOL")]
    read_through: Option<bool>,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Debug, Args)]
struct UpdateScope {
    #[command(flatten)]
    fields: ScopeFields,
    #[command(flatten)]
    expected: ExpectedArgs,
}

#[derive(Debug, Args)]
struct RouteFields {
    /// Key: a host or tenant
    key: String,
    /// The stamp that serves it
    #[arg(long)]
    stamp: String,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Debug, Args)]
struct UpdateRoute {
    #[command(flatten)]
    fields: RouteFields,
    #[command(flatten)]
    expected: ExpectedArgs,
}

const STAMP_COLUMNS: [Column; 6] = [
    Column("STAMP", "/name"),
    Column("STATE", "/state"),
    Column("SOFT", "/capacity/soft"),
    Column("HARD", "/capacity/hard"),
    Column("LABELS", "/labels"),
    Column("APP ENDPOINT", "/app_endpoint"),
];
const HUB_COLUMNS: [Column; 7] = [
    Column("HUB", "/name"),
    Column("STAMP", "/stamp"),
    Column("STATE", "/state"),
    Column("SOFT", "/capacity/soft"),
    Column("HARD", "/capacity/hard"),
    Column("TIER", "/tier"),
    Column("UNITS", "/units"),
];
const SCOPE_COLUMNS: [Column; 5] = [
    Column("SCOPE", "/name"),
    Column("SERVICE HOST", "/service_host"),
    Column("LINKED HUBS", "/linked_hubs"),
    Column("REPAIR", "/repair"),
    Column("READ THROUGH", "/read_through"),
];
const ROUTE_COLUMNS: [Column; 3] =
    [Column("KEY", "/key"), Column("STAMP", "/stamp"), Column("REVISION", "/revision")];

/// Lists all pages of a kind of object.
macro_rules! all_pages {
    ($client:expr, $list:ident, $request:expr, $items:ident, $present:path) => {{
        let mut rows: Vec<Value> = Vec::new();
        let mut request = $request;
        loop {
            let page = $client.$list(request.clone()).await?;
            rows.extend(page.$items.iter().map($present));
            if page.next_page_token.is_empty() {
                break rows;
            }
            request.page_token = page.next_page_token;
        }
    }};
}

/// What a change of one object answers: the object, or nothing where it is gone.
macro_rules! stored {
    ($answer:expr, $field:ident, $present:path) => {
        ($answer.header.clone(), $answer.$field.as_ref().map($present).unwrap_or_default())
    };
}

pub(crate) async fn stamp(common: &Common, args: StampArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let client = common.client()?;
    match args.command {
        StampCommand::List(list) => {
            let request = v1::ListStampsRequest {
                page_size: PAGE_SIZE,
                consistency: Some(list.consistency),
                ..Default::default()
            };
            let rows = all_pages!(client, list_stamps, request, stamps, present::stamp);
            screen.list(&STAMP_COLUMNS, &rows)?;
        }
        StampCommand::Get(get) => {
            let request = v1::GetStampRequest { name: get.name, consistency: Some(get.list.consistency) };
            let answer = client.get_stamp(request).await?;
            screen.one(&answer.stamp.as_ref().map(present::stamp).unwrap_or_default())?;
        }
        StampCommand::Create(fields) => {
            let (name, write, (stamp, _)) = (fields.name.clone(), fields.write.clone(), stamp_of(fields));
            let answer = client
                .create_stamp(v1::CreateStampRequest {
                    request_id: write.request_id.clone(),
                    reason: write.reason.clone(),
                    validate_only: write.dry_run,
                    stamp: Some(stamp),
                })
                .await?;
            told("stamp", &name, "created", &write, stored!(answer, stamp, present::stamp), screen)?;
        }
        StampCommand::Update(update) => {
            let fields = update.fields;
            let (name, write, (stamp, mask)) = (fields.name.clone(), fields.write.clone(), stamp_of(fields));
            let answer = client
                .update_stamp(v1::UpdateStampRequest {
                    request_id: write.request_id.clone(),
                    reason: write.reason.clone(),
                    validate_only: write.dry_run,
                    stamp: Some(stamp),
                    update_mask: Some(needed("stamp", mask)?),
                    expected_revision: update.expected.if_revision,
                })
                .await?;
            told("stamp", &name, "changed", &write, stored!(answer, stamp, present::stamp), screen)?;
        }
        StampCommand::Delete(delete) => {
            let answer = client
                .delete_stamp(v1::DeleteStampRequest {
                    request_id: delete.write.request_id.clone(),
                    reason: delete.write.reason.clone(),
                    validate_only: delete.write.dry_run,
                    name: delete.name.clone(),
                    expected_revision: delete.if_revision,
                })
                .await?;
            told("stamp", &delete.name, "deleted", &delete.write, (answer.header, Value::Null), screen)?;
        }
        StampCommand::State(command) => {
            set_state(&client, command, "stamp", v1::set_state_request::Target::Stamp, screen).await?;
        }
    }
    Ok(EXIT_DONE)
}

pub(crate) async fn hub(common: &Common, args: HubArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let client = common.client()?;
    match args.command {
        HubCommand::List(list) => {
            let request = v1::ListHubsRequest {
                page_size: PAGE_SIZE,
                consistency: Some(list.list.consistency),
                stamp: list.stamp.unwrap_or_default(),
                ..Default::default()
            };
            let rows = all_pages!(client, list_hubs, request, hubs, present::hub);
            screen.list(&HUB_COLUMNS, &rows)?;
        }
        HubCommand::Get(get) => {
            let request = v1::GetHubRequest { name: get.name, consistency: Some(get.list.consistency) };
            let answer = client.get_hub(request).await?;
            screen.one(&answer.hub.as_ref().map(present::hub).unwrap_or_default())?;
        }
        HubCommand::Create(create) => {
            let fields = create.fields;
            let (name, write, (hub, _)) = (fields.name.clone(), fields.write.clone(), hub_of(fields));
            let answer = client
                .create_hub(v1::CreateHubRequest {
                    request_id: write.request_id.clone(),
                    reason: write.reason.clone(),
                    validate_only: write.dry_run,
                    hub: Some(v1::Hub { stamp: create.stamp, ..hub }),
                })
                .await?;
            told("hub", &name, "created", &write, stored!(answer, hub, present::hub), screen)?;
        }
        HubCommand::Update(update) => {
            let fields = update.fields;
            let (name, write, (hub, mask)) = (fields.name.clone(), fields.write.clone(), hub_of(fields));
            let answer = client
                .update_hub(v1::UpdateHubRequest {
                    request_id: write.request_id.clone(),
                    reason: write.reason.clone(),
                    validate_only: write.dry_run,
                    hub: Some(hub),
                    update_mask: Some(needed("hub", mask)?),
                    expected_revision: update.expected.if_revision,
                })
                .await?;
            told("hub", &name, "changed", &write, stored!(answer, hub, present::hub), screen)?;
        }
        HubCommand::Delete(delete) => {
            let answer = client
                .delete_hub(v1::DeleteHubRequest {
                    request_id: delete.write.request_id.clone(),
                    reason: delete.write.reason.clone(),
                    validate_only: delete.write.dry_run,
                    name: delete.name.clone(),
                    expected_revision: delete.if_revision,
                })
                .await?;
            told("hub", &delete.name, "deleted", &delete.write, (answer.header, Value::Null), screen)?;
        }
        HubCommand::State(command) => {
            set_state(&client, command, "hub", v1::set_state_request::Target::Hub, screen).await?;
        }
    }
    Ok(EXIT_DONE)
}

pub(crate) async fn scope(common: &Common, args: ScopeArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let client = common.client()?;
    match args.command {
        ScopeCommand::List(list) => {
            let request = v1::ListScopesRequest {
                page_size: PAGE_SIZE,
                consistency: Some(list.consistency),
                ..Default::default()
            };
            let rows = all_pages!(client, list_scopes, request, scopes, present::scope);
            screen.list(&SCOPE_COLUMNS, &rows)?;
        }
        ScopeCommand::Get(get) => {
            let request = v1::GetScopeRequest { name: get.name, consistency: Some(get.list.consistency) };
            let answer = client.get_scope(request).await?;
            screen.one(&answer.scope.as_ref().map(present::scope).unwrap_or_default())?;
        }
        ScopeCommand::Create(fields) => {
            let (name, write, (scope, _)) = (fields.name.clone(), fields.write.clone(), scope_of(fields));
            let answer = client
                .create_scope(v1::CreateScopeRequest {
                    request_id: write.request_id.clone(),
                    reason: write.reason.clone(),
                    validate_only: write.dry_run,
                    scope: Some(scope),
                })
                .await?;
            told("scope", &name, "created", &write, stored!(answer, scope, present::scope), screen)?;
        }
        ScopeCommand::Update(update) => {
            let fields = update.fields;
            let (name, write, (scope, mask)) = (fields.name.clone(), fields.write.clone(), scope_of(fields));
            let answer = client
                .update_scope(v1::UpdateScopeRequest {
                    request_id: write.request_id.clone(),
                    reason: write.reason.clone(),
                    validate_only: write.dry_run,
                    scope: Some(scope),
                    update_mask: Some(needed("scope", mask)?),
                    expected_revision: update.expected.if_revision,
                })
                .await?;
            told("scope", &name, "changed", &write, stored!(answer, scope, present::scope), screen)?;
        }
        ScopeCommand::Delete(delete) => {
            let answer = client
                .delete_scope(v1::DeleteScopeRequest {
                    request_id: delete.write.request_id.clone(),
                    reason: delete.write.reason.clone(),
                    validate_only: delete.write.dry_run,
                    name: delete.name.clone(),
                    expected_revision: delete.if_revision,
                })
                .await?;
            told("scope", &delete.name, "deleted", &delete.write, (answer.header, Value::Null), screen)?;
        }
    }
    Ok(EXIT_DONE)
}

pub(crate) async fn route(common: &Common, args: RouteArgs, screen: &mut Screen) -> Result<u8, Failure> {
    let client = common.client()?;
    match args.command {
        RouteCommand::List(list) => {
            let request = v1::ListRoutesRequest {
                page_size: PAGE_SIZE,
                consistency: Some(list.list.consistency),
                stamp: list.stamp.unwrap_or_default(),
                ..Default::default()
            };
            let rows = all_pages!(client, list_routes, request, routes, present::route);
            screen.list(&ROUTE_COLUMNS, &rows)?;
        }
        RouteCommand::Get(get) => {
            let request = v1::GetRouteRequest { key: get.name, consistency: Some(get.list.consistency) };
            let answer = client.get_route(request).await?;
            screen.one(&answer.route.as_ref().map(present::route).unwrap_or_default())?;
        }
        RouteCommand::Lookup(get) => {
            let answer = client.lookup_route(&get.name, Some(get.list.consistency)).await?;
            screen.one(&json!({
                "key": answer.key,
                "stamp": answer.stamp,
                "app_endpoint": answer.app_endpoint,
                "state": present::accept_state(answer.state),
                "revision": answer.revision,
            }))?;
        }
        RouteCommand::Create(fields) => {
            let answer = client
                .create_route(v1::CreateRouteRequest {
                    request_id: fields.write.request_id.clone(),
                    reason: fields.write.reason.clone(),
                    validate_only: fields.write.dry_run,
                    route: Some(v1::Route { key: fields.key.clone(), stamp: fields.stamp, revision: 0 }),
                })
                .await?;
            let stored = stored!(answer, route, present::route);
            told("route", &fields.key, "created", &fields.write, stored, screen)?;
        }
        RouteCommand::Update(update) => {
            let fields = update.fields;
            let answer = client
                .update_route(v1::UpdateRouteRequest {
                    request_id: fields.write.request_id.clone(),
                    reason: fields.write.reason.clone(),
                    validate_only: fields.write.dry_run,
                    route: Some(v1::Route { key: fields.key.clone(), stamp: fields.stamp, revision: 0 }),
                    update_mask: Some(prost_types::FieldMask { paths: vec!["stamp".to_owned()] }),
                    expected_revision: update.expected.if_revision,
                })
                .await?;
            let stored = stored!(answer, route, present::route);
            told("route", &fields.key, "changed", &fields.write, stored, screen)?;
        }
        RouteCommand::Delete(delete) => {
            let answer = client
                .delete_route(v1::DeleteRouteRequest {
                    request_id: delete.write.request_id.clone(),
                    reason: delete.write.reason.clone(),
                    validate_only: delete.write.dry_run,
                    key: delete.name.clone(),
                    expected_revision: delete.if_revision,
                })
                .await?;
            told("route", &delete.name, "deleted", &delete.write, (answer.header, Value::Null), screen)?;
        }
    }
    Ok(EXIT_DONE)
}

/// The stamp that the flags describe, and the names of the fields that they gave.
fn stamp_of(fields: StampFields) -> (v1::Stamp, Vec<&'static str>) {
    let has_cost =
        fields.fixed_per_month.is_some() || fields.per_device_month.is_some() || !fields.currency.is_empty();
    let mut mask = capacity_mask(&fields.capacity);
    mark(&mut mask, "state", fields.state.is_some());
    mark(&mut mask, "labels", !fields.labels.is_empty());
    mark(&mut mask, "app_endpoint", fields.app_endpoint.is_some());
    mark(&mut mask, "cost", has_cost);
    let stamp = v1::Stamp {
        name: fields.name,
        state: fields.state.unwrap_or_default().into(),
        labels: fields.labels.into_iter().collect(),
        capacity: capacity_of(&fields.capacity),
        app_endpoint: fields.app_endpoint.unwrap_or_default(),
        cost: has_cost.then_some(v1::Cost {
            currency: fields.currency,
            fixed_micros_per_month: fields.fixed_per_month.unwrap_or_default(),
            device_micros_per_month: fields.per_device_month.unwrap_or_default(),
        }),
        revision: 0,
    };
    (stamp, mask)
}

fn hub_of(fields: HubFields) -> (v1::Hub, Vec<&'static str>) {
    let mut mask = capacity_mask(&fields.capacity);
    mark(&mut mask, "state", fields.state.is_some());
    mark(&mut mask, "tier", fields.tier.is_some());
    mark(&mut mask, "units", fields.units.is_some());
    let hub = v1::Hub {
        name: fields.name,
        stamp: String::new(),
        state: fields.state.unwrap_or_default().into(),
        capacity: capacity_of(&fields.capacity),
        tier: fields.tier.unwrap_or_default().into(),
        units: fields.units.unwrap_or_default(),
        revision: 0,
    };
    (hub, mask)
}

fn scope_of(fields: ScopeFields) -> (v1::Scope, Vec<&'static str>) {
    let mut mask = Vec::new();
    mark(&mut mask, "service_host", fields.service_host.is_some());
    mark(&mut mask, "credential_ref", fields.credential_ref.is_some());
    mark(&mut mask, "linked_hubs", !fields.linked_hubs.is_empty());
    mark(&mut mask, "budget_percent", fields.budget_percent.is_some());
    mark(&mut mask, "repair", fields.repair.is_some());
    mark(&mut mask, "read_through", fields.read_through.is_some());
    let scope = v1::Scope {
        name: fields.name,
        service_host: fields.service_host.unwrap_or_default(),
        credential_ref: fields.credential_ref.unwrap_or_default(),
        linked_hubs: fields.linked_hubs,
        budget_percent: fields.budget_percent.unwrap_or_default(),
        repair: fields.repair.unwrap_or_default().into(),
        read_through: fields.read_through.unwrap_or_default(),
        revision: 0,
    };
    (scope, mask)
}

fn capacity_of(fields: &CapacityFields) -> Option<v1::Capacity> {
    let limit = |limit: Option<Limit>| limit.and_then(|limit| limit.0);
    let is_given = fields.soft.is_some() || fields.hard.is_some();
    is_given.then(|| v1::Capacity { soft: limit(fields.soft), hard: limit(fields.hard) })
}

fn capacity_mask(fields: &CapacityFields) -> Vec<&'static str> {
    let mut mask = Vec::new();
    mark(&mut mask, "capacity.soft", fields.soft.is_some());
    mark(&mut mask, "capacity.hard", fields.hard.is_some());
    mask
}

fn mark(mask: &mut Vec<&'static str>, field: &'static str, is_given: bool) {
    if is_given {
        mask.push(field);
    }
}

fn needed(kind: &str, mask: Vec<&'static str>) -> Result<prost_types::FieldMask, Failure> {
    if mask.is_empty() {
        return Err(Failure::usage(format!(
            "nothing to change; `berth {kind} update --help` lists the fields"
        )));
    }
    Ok(prost_types::FieldMask { paths: mask.into_iter().map(str::to_owned).collect() })
}

async fn set_state(
    client: &Client,
    command: StateCommand,
    kind: &str,
    target: impl FnOnce(String) -> v1::set_state_request::Target,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let (args, state) = match command {
        StateCommand::Cordon(args) => (args, v1::AcceptState::Cordoned),
        StateCommand::Uncordon(args) => (args, v1::AcceptState::Active),
        StateCommand::Drain(args) => (args, v1::AcceptState::Draining),
        StateCommand::Offline(args) => (args, v1::AcceptState::Offline),
    };
    let request = v1::SetStateRequest {
        request_id: args.write.request_id,
        reason: args.write.reason,
        validate_only: args.write.dry_run,
        target: Some(target(args.name.clone())),
        state: state.into(),
    };
    let answer: Result<_, Error> = client.set_state(request).await;
    let answer = answer?;
    let state = present::accept_state(answer.state);
    let before = if answer.changed { "now" } else { "already" };
    screen.say(&format!("{kind} {}: {before} {state}", args.name))?;
    if screen.format != Format::Table {
        screen.one(&json!({
            "name": args.name,
            "state": state,
            "changed": answer.changed,
            "dry_run": args.write.dry_run,
            "header": present::header(answer.header.as_ref()),
        }))?;
    }
    Ok(())
}

fn told(
    kind: &str,
    name: &str,
    done: &str,
    write: &WriteArgs,
    (header, object): (Option<v1::ResponseHeader>, Value),
    screen: &mut Screen,
) -> Result<(), Failure> {
    let revision = present::revision(header.as_ref());
    let would = if write.dry_run { "would be " } else { "" };
    screen.say(&format!("{kind} {name}: {would}{done} (revision {revision})"))?;
    if screen.format != Format::Table {
        let object = if object.is_null() { json!({ "name": name, "done": done }) } else { object };
        screen.one(
            &json!({ kind: object, "dry_run": write.dry_run, "header": present::header(header.as_ref()) }),
        )?;
    }
    Ok(())
}
