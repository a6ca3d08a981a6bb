//! Arbitrary histories of commands over a small world, and hostile ones over no world at all.
//!
//! The world is small on purpose: a few stamps, hubs, scopes and devices, so that commands meet each other's traces.
//! Names come in both letter cases and from both alphabets (hub and DPS), since that is where identity goes wrong.
//! This file names only `berth_core` and `proptest`, so that the core's own tests can include it by its path.

use berth_core::{
    Assign, Command, Cost, DeviceId, Epoch, EvidenceSource, Expect, HubName, HubPatch, Labels, ObjectPatch,
    ObjectRef, Origin, PlaceState, Precondition, Proposal, RegistrationId, Remove, RepairRule, RequestId,
    Revision, RouteKey, RoutePatch, ScopeName, ScopePatch, StampName, StampPatch, Status, Tier, Timestamp,
    TopologyEdit,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Stamps of the small world.
pub const STAMPS: [&str; 3] = ["alpha", "beta", "Beta"];
/// Hubs of the small world, by host name.
pub const HUBS: [&str; 5] = ["h0.example.net", "h1.example.net", "H2.Example.net", "h3.example.net", "h4"];
/// Scopes of the small world.
pub const SCOPES: [&str; 3] = ["0ne001", "0ne002", "0NE001"];
/// Routes of the small world.
pub const ROUTES: [&str; 3] = ["app.example.net", "APP.example.net", "tenant/7"];
/// Devices of the small world. Two differ only in letter case; two have no legal registration ID.
pub const DEVICES: [&str; 10] = ["d0", "D0", "d1", "d2", "d3", "d4", "d5", "d6.", "d#7", "d8"];
/// Registration IDs of the small world, some of which name devices in another case.
pub const REGISTRATIONS: [&str; 7] = ["r0", "R0", "d0", "D1", "r1", "R-2", "d8"];
/// The leader's stamp of the first command, in milliseconds: some day of 2027.
pub const NOW_FIRST: Timestamp = Timestamp(1_800_000_000_000);
/// Milliseconds between two commands of a history.
const STEP_MS: u64 = 7;

/// A proposal with the leader's stamp under which it is applied.
pub type Stamped = (Proposal, Timestamp);

/// Histories of up to `steps_max` commands after [`small_world`], with repeats, reused and far-off request IDs.
pub fn histories(steps_max: usize) -> impl Strategy<Value = Vec<Stamped>> {
    let step = (command(), option::weighted(0.6, request()), option::weighted(0.12, any::<Index>()));
    vec(step, 0..=steps_max).prop_map(|steps| {
        let mut history = vec![(anonymous(Command::Topology(small_world())), NOW_FIRST)];
        for (at, (command, request, repeat)) in (1u64..).zip(steps) {
            let now = Timestamp(NOW_FIRST.0 + at * STEP_MS);
            let proposal = match repeat {
                Some(index) => index.get(&history).0.clone(),
                None => Proposal { request_id: request.map(|r| r.id(now)), ..anonymous(command) },
            };
            history.push((proposal, now));
        }
        history
    })
}

/// A command in an envelope without a request ID.
pub fn anonymous(command: Command) -> Proposal {
    let payload_hash = hash(&format!("{command:?}"));
    Proposal { request_id: None, payload_hash, actor: "test".into(), reason: "because".into(), command }
}

/// Two stamps, four hubs, two scopes and a route: what most commands of a history need to succeed.
pub fn small_world() -> TopologyEdit {
    let mut patches = Vec::new();
    for (at, name) in STAMPS.iter().take(2).enumerate() {
        let mut stamp = StampPatch::of(parsed(name));
        stamp.capacity_hard = Some((at == 0).then_some(9));
        patches.push((Expect::Any, ObjectPatch::Stamp(stamp)));
    }
    for (at, name) in HUBS.iter().take(4).enumerate() {
        let mut hub = HubPatch::of(parsed(name));
        hub.stamp = Some(parsed(STAMPS[at % 2]));
        hub.capacity_soft = Some((at < 2).then_some(2));
        hub.capacity_hard = Some((at < 2).then_some(5));
        patches.push((Expect::Any, ObjectPatch::Hub(hub)));
    }
    for name in SCOPES.iter().take(2) {
        let mut scope = ScopePatch::of(parsed(name));
        scope.linked_hubs = Some(vec![parsed(HUBS[0])]);
        patches.push((Expect::Any, ObjectPatch::Scope(scope)));
    }
    let route = RoutePatch { key: parsed(ROUTES[0]), stamp: Some(parsed(STAMPS[0])) };
    patches.push((Expect::Any, ObjectPatch::Route(route)));
    TopologyEdit { patches, deletes: Vec::new(), prune: false }
}

/// One command over the small world.
pub fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        8 => assign().prop_map(Command::Assign),
        4 => vec(assign(), 0..8).prop_map(Command::BatchAssign),
        3 => remove().prop_map(Command::Remove),
        4 => edit().prop_map(Command::Topology),
    ]
}

/// One assignment over the small world.
pub fn assign() -> impl Strategy<Value = Assign> {
    let who = (
        named(&DEVICES),
        option::weighted(0.25, named(&SCOPES)),
        option::weighted(0.2, named(&REGISTRATIONS)),
    );
    let what = (
        option::weighted(0.75, named(&HUBS)),
        option::weighted(0.2, status()),
        option::weighted(0.3, labels()),
    );
    assign_of(who, what, precondition())
}

/// One removal over the small world.
pub fn remove() -> impl Strategy<Value = Remove> {
    (named(&DEVICES), precondition()).prop_map(|(device, precondition)| Remove { device, precondition })
}

/// A topology edit over the small world: mostly one or two patches, now and then deletions and a prune.
pub fn edit() -> impl Strategy<Value = TopologyEdit> {
    let patches = vec((expect(), patch()), 0..4);
    let deletes = prop_oneof![3 => Just(Vec::new()), 2 => vec((expect(), object()), 1..3)];
    (patches, deletes, prop::bool::weighted(0.05)).prop_map(|(patches, deletes, prune)| TopologyEdit {
        patches,
        deletes,
        prune,
    })
}

/// A set of labels with few keys and values, so that sets repeat.
pub fn labels() -> impl Strategy<Value = Labels> {
    vec((select(&["ring", "site"][..]), select(&["a", "b", "c"][..])), 0..3)
        .prop_map(|pairs| Labels::parse(pairs).unwrap_or_default())
}

/// Any proposal that the decoders could let through: every field at random, most of it nonsense.
pub fn hostile_proposal() -> impl Strategy<Value = Proposal> {
    let envelope = (option::of(any::<[u8; 16]>()), any::<u128>(), ".{0,20}", ".{0,20}");
    (envelope, hostile_command()).prop_map(|((id, payload_hash, actor, reason), command)| {
        let request_id = id.and_then(|bytes| RequestId::from_bytes(versioned(bytes)).ok());
        Proposal { request_id, payload_hash, actor, reason, command }
    })
}

/// Any command that the decoders could let through.
pub fn hostile_command() -> impl Strategy<Value = Command> {
    let batch = prop_oneof![
        9 => vec(hostile_assign(), 0..40),
        1 => (hostile_assign(), 9_990usize..10_010).prop_map(|(one, count)| vec![one; count]),
    ];
    prop_oneof![
        hostile_assign().prop_map(Command::Assign),
        batch.prop_map(Command::BatchAssign),
        (hostile_device(), hostile_precondition())
            .prop_map(|(device, precondition)| Command::Remove(Remove { device, precondition })),
        hostile_edit().prop_map(Command::Topology),
    ]
}

fn hostile_assign() -> impl Strategy<Value = Assign> {
    let who = (hostile_device(), option::of(hostile_scope()), option::of(hostile_registration()));
    let what = (option::of(hostile_hub()), option::of(status()), option::of(hostile_labels()));
    assign_of(who, what, hostile_precondition())
}

/// Assignments of these parts, with any origin and evidence.
fn assign_of(
    who: impl Strategy<Value = (DeviceId, Option<ScopeName>, Option<RegistrationId>)>,
    what: impl Strategy<Value = (Option<HubName>, Option<Status>, Option<Labels>)>,
    precondition: impl Strategy<Value = Precondition>,
) -> impl Strategy<Value = Assign> {
    let how = (precondition, origin(), evidence());
    (who, what, how).prop_map(
        |((device, scope, registration), (hub, status, labels), (precondition, origin, evidence))| Assign {
            device,
            hub,
            status,
            labels,
            scope,
            registration,
            precondition,
            origin,
            evidence,
        },
    )
}

fn hostile_edit() -> impl Strategy<Value = TopologyEdit> {
    let stamp = stamp_fields(hostile_limit(), "\\PC{0,12}", any::<[u64; 2]>(), hostile_labels());
    let hub = hub_fields(hostile_stamp(), hostile_limit(), any::<u32>());
    let scope = scope_fields(hostile_hub(), "\\PC{0,12}", any::<u8>());
    let patch = patch_of(
        (hostile_stamp(), stamp),
        (hostile_hub(), hub),
        (hostile_scope(), scope),
        (hostile_route(), option::of(hostile_stamp())),
    );
    let object = object_of(hostile_stamp(), hostile_hub(), hostile_scope(), hostile_route());
    let expect = || prop_oneof![expect(), any::<u64>().prop_map(|r| Expect::At(Revision(r)))];
    (vec((expect(), patch), 0..20), vec((expect(), object), 0..10), any::<bool>())
        .prop_map(|(patches, deletes, prune)| TopologyEdit { patches, deletes, prune })
}

/// Half of the hostile names are known ones, so that hostile commands reach past the first check.
fn hostile_device() -> impl Strategy<Value = DeviceId> {
    prop_oneof![
        named(&DEVICES),
        "[A-Za-z0-9.+%_#*?!(),=@$':-]{1,128}".prop_filter_map("legal", |t| t.parse().ok())
    ]
}

fn hostile_registration() -> impl Strategy<Value = RegistrationId> {
    prop_oneof![
        named(&REGISTRATIONS),
        "[A-Za-z0-9._:-]{0,127}[A-Za-z0-9-]".prop_filter_map("legal", |t| t.parse().ok())
    ]
}

fn hostile_hub() -> impl Strategy<Value = HubName> {
    prop_oneof![
        named(&HUBS),
        "[A-Za-z0-9]{1,60}(\\.[a-z0-9]{1,30}){0,2}".prop_filter_map("legal", |t| t.parse().ok())
    ]
}

fn hostile_stamp() -> impl Strategy<Value = StampName> {
    prop_oneof![named(&STAMPS), "[A-Za-z0-9._-]{1,63}".prop_filter_map("legal", |t| t.parse().ok())]
}

fn hostile_scope() -> impl Strategy<Value = ScopeName> {
    prop_oneof![named(&SCOPES), "[A-Za-z0-9]{1,32}".prop_filter_map("legal", |t| t.parse().ok())]
}

fn hostile_route() -> impl Strategy<Value = RouteKey> {
    prop_oneof![named(&ROUTES), "[!#-&(-;=?-\\[\\]_a-z~]{1,253}".prop_filter_map("legal", |t| t.parse().ok())]
}

fn hostile_labels() -> impl Strategy<Value = Labels> {
    vec(("[a-z0-9._/-]{1,63}", "[^\\pC]{0,15}"), 0..8)
        .prop_map(|pairs| Labels::parse(pairs).unwrap_or_default())
}

fn hostile_limit() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![Just(0), Just(1), Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()]
}

fn hostile_precondition() -> impl Strategy<Value = Precondition> {
    prop_oneof![precondition(), any::<u64>().prop_map(|e| Precondition::Epoch(Epoch(e)))]
}

/// A request ID that is about to be made: how far its time is from the leader's, and its random part.
#[derive(Debug, Clone, Copy)]
struct Request {
    offset_ms: i64,
    noise: u8,
}

impl Request {
    fn id(self, now: Timestamp) -> RequestId {
        request_id(Timestamp(now.0.saturating_add_signed(self.offset_ms)), self.noise)
    }
}

fn request() -> impl Strategy<Value = Request> {
    // Mostly about now; sometimes later than allowed, sometimes long ago.
    let offset =
        prop_oneof![12 => -60i64..60, 1 => 9_900i64..10_100, 1 => 20_000i64..9_000_000, 1 => -90_000i64..-60];
    (offset, 0u8..3).prop_map(|(offset_ms, noise)| Request { offset_ms, noise })
}

/// A UUIDv7 made at `time`, its random part all `noise`.
pub fn request_id(time: Timestamp, noise: u8) -> RequestId {
    let mut bytes = [noise; 16];
    bytes[..6].copy_from_slice(&time.0.to_be_bytes()[2..]);
    RequestId::from_bytes(versioned(bytes)).unwrap_or_else(|error| unreachable_id(&error.to_string()))
}

fn versioned(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes[6] = 0x70 | bytes[6] & 0x0f;
    bytes[8] = 0x80 | bytes[8] & 0x3f;
    bytes
}

fn patch() -> impl Strategy<Value = ObjectPatch> {
    let costs = any::<[u8; 2]>().prop_map(|c| c.map(u64::from));
    patch_of(
        (named(&STAMPS), stamp_fields(0u64..12, "(https://app/)?", costs, labels())),
        (named(&HUBS), hub_fields(named(&STAMPS), 0u64..8, 0u32..210)),
        (named(&SCOPES), scope_fields(named(&HUBS), "(dps.example.net)?", 0u8..110)),
        (named(&ROUTES), option::weighted(0.8, named(&STAMPS))),
    )
}

/// Patches of objects of these names, with these fields.
fn patch_of(
    stamp: impl Strategy<Value = (StampName, StampPatch)>,
    hub: impl Strategy<Value = (HubName, HubPatch)>,
    scope: impl Strategy<Value = (ScopeName, ScopePatch)>,
    route: impl Strategy<Value = (RouteKey, Option<StampName>)>,
) -> impl Strategy<Value = ObjectPatch> {
    prop_oneof![
        stamp.prop_map(|(name, fields)| ObjectPatch::Stamp(StampPatch { name, ..fields })),
        hub.prop_map(|(name, fields)| ObjectPatch::Hub(HubPatch { name, ..fields })),
        scope.prop_map(|(name, fields)| ObjectPatch::Scope(ScopePatch { name, ..fields })),
        route.prop_map(|(key, stamp)| ObjectPatch::Route(RoutePatch { key, stamp })),
    ]
}

fn stamp_fields(
    limit: impl Strategy<Value = u64> + Clone,
    text: &'static str,
    cost: impl Strategy<Value = [u64; 2]>,
    labels: impl Strategy<Value = Labels>,
) -> impl Strategy<Value = StampPatch> {
    let cost =
        (select(&["", "EUR", "euro"][..]), cost).prop_map(|(currency, [fixed_micros, per_device_micros])| {
            Cost { currency: currency.to_owned(), fixed_micros, per_device_micros }
        });
    let limits = (patched(limit.clone()), patched(limit));
    (
        option::of(place_state()),
        option::of(labels),
        limits,
        option::weighted(0.2, text),
        option::weighted(0.2, cost),
    )
        .prop_map(|(state, labels, (capacity_soft, capacity_hard), app_endpoint, cost)| StampPatch {
            state,
            labels,
            capacity_soft,
            capacity_hard,
            app_endpoint,
            cost,
            ..StampPatch::of(parsed(STAMPS[0]))
        })
}

fn hub_fields(
    stamp: impl Strategy<Value = StampName>,
    limit: impl Strategy<Value = u64> + Clone,
    units: impl Strategy<Value = u32>,
) -> impl Strategy<Value = HubPatch> {
    let limits = (patched(limit.clone()), patched(limit));
    let scale = (option::weighted(0.2, select(Tier::ALL)), option::weighted(0.2, units));
    (option::weighted(0.5, stamp), option::of(place_state()), limits, scale).prop_map(
        |(stamp, state, (capacity_soft, capacity_hard), (tier, units))| HubPatch {
            stamp,
            state,
            capacity_soft,
            capacity_hard,
            tier,
            units,
            ..HubPatch::of(parsed(HUBS[0]))
        },
    )
}

fn scope_fields(
    hub: impl Strategy<Value = HubName>,
    text: &'static str,
    percent: impl Strategy<Value = u8>,
) -> impl Strategy<Value = ScopePatch> {
    let texts = (option::weighted(0.2, text), option::weighted(0.2, text));
    let rest = (option::weighted(0.2, percent), option::of(repair()), option::of(any::<bool>()));
    (texts, option::of(vec(hub, 0..4)), rest).prop_map(
        |((service_host, credential_ref), linked_hubs, (budget_percent, repair, read_through))| ScopePatch {
            service_host,
            credential_ref,
            linked_hubs,
            budget_percent,
            repair,
            read_through,
            ..ScopePatch::of(parsed(SCOPES[0]))
        },
    )
}

fn object() -> impl Strategy<Value = ObjectRef> {
    object_of(named(&STAMPS), named(&HUBS), named(&SCOPES), named(&ROUTES))
}

fn object_of(
    stamp: impl Strategy<Value = StampName>,
    hub: impl Strategy<Value = HubName>,
    scope: impl Strategy<Value = ScopeName>,
    route: impl Strategy<Value = RouteKey>,
) -> impl Strategy<Value = ObjectRef> {
    prop_oneof![
        stamp.prop_map(ObjectRef::Stamp),
        hub.prop_map(ObjectRef::Hub),
        scope.prop_map(ObjectRef::Scope),
        route.prop_map(ObjectRef::Route),
    ]
}

fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![
        10 => Just(Expect::Any),
        1 => Just(Expect::Absent),
        1 => Just(Expect::Present),
        1 => (0u64..40).prop_map(|r| Expect::At(Revision(r))),
    ]
}

/// A limit left alone, lifted, or set.
fn patched(limit: impl Strategy<Value = u64>) -> impl Strategy<Value = Option<Option<u64>>> {
    option::weighted(0.3, option::weighted(0.7, limit))
}

fn precondition() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        8 => Just(Precondition::None),
        2 => Just(Precondition::Absent),
        2 => (1u64..30).prop_map(|e| Precondition::Epoch(Epoch(e))),
    ]
}

fn place_state() -> impl Strategy<Value = PlaceState> {
    prop_oneof![4 => Just(PlaceState::Active), 3 => select(PlaceState::ALL)]
}

fn status() -> impl Strategy<Value = Status> {
    select(Status::ALL)
}

fn origin() -> impl Strategy<Value = Origin> {
    select(Origin::ALL)
}

fn evidence() -> impl Strategy<Value = EvidenceSource> {
    select(EvidenceSource::ALL)
}

fn repair() -> impl Strategy<Value = RepairRule> {
    prop_oneof![Just(RepairRule::Adopt), Just(RepairRule::Enforce)]
}

/// One of the small world's names, typed.
fn named<T: std::str::FromStr + Clone + std::fmt::Debug>(
    texts: &'static [&'static str],
) -> impl Strategy<Value = T> + Clone {
    select(texts).prop_filter_map("a legal name", |text| text.parse().ok())
}

fn parsed<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| unreachable_id(text))
}

#[allow(
    clippy::panic,
    reason = "the names of this file are constants; an illegal one is a mistake in this file"
)]
fn unreachable_id(text: &str) -> ! {
    panic!("`{text}` is not a legal identifier")
}

/// A plain 128-bit FNV-1a: equal commands get equal payload hashes.
fn hash(text: &str) -> u128 {
    text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}
