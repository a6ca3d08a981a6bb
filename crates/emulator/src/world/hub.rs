//! One IoT hub: its registry, its twins, and who is connected.

mod twins;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

pub(crate) use super::identity::{Identity, Of};

use super::etag;
use super::fields::Object;
use super::former::Former;
use super::id::is_device_id;
use super::refusal::{HubCode, HubRefusal};
use crate::auth::Policies;
use crate::clock::{Randomness, Time};
use crate::config::Tier;
use crate::throttle::{Bucket, Rate, Verdict};

/// Most devices of a hub (IoT Hub, quotas and throttling).
const DEVICES_MAX: usize = 1_000_000;

/// How long a hub holds an operation back before it refuses it: what its own refusal tells callers to wait.
const BACKLOG: Duration = Duration::from_secs(10);

/// Most devices of a list (IoT Hub REST API, get devices).
pub(crate) const LIST_MAX: usize = 1_000;

/// What a hub throttles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metered {
    Registry,
    Connections,
    Methods,
    Queries,
    TwinReads,
    TwinUpdates,
}

/// Whether and how much of the documented figures is in force.
#[derive(Debug, Clone)]
pub(crate) struct Throttle {
    pub(crate) enabled: bool,
    pub(crate) factor: f64,
    pub(crate) service_retry_after: bool,
    pub(crate) device_retry_after: bool,
}

/// One IoT hub.
pub(crate) struct Hub {
    pub(crate) host: Arc<str>,
    pub(crate) policies: Policies,
    pub(crate) tier: Tier,
    pub(crate) units: u32,
    pub(crate) devices: BTreeMap<Box<str>, Identity>,
    /// Of the devices, those that are enabled, and those that are connected: statistics count nobody anew.
    enabled: usize,
    connected: usize,
    /// Nobody reaches it, and nobody stays connected.
    pub(crate) out: bool,
    query_lag: Duration,
    /// How long reads tell what is no longer so.
    lie: Duration,
    lagging: Former<Box<str>, Identity>,
    lied: Former<Box<str>, Identity>,
    buckets: [Bucket; 6],
    /// Devices that lost their connection, until somebody takes the list; only those that had one.
    pub(crate) thrown: Vec<Box<str>>,
}

/// Why a device cannot connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotConnected {
    /// The hub is out.
    Out,
    /// The identity is absent or disabled: the hub says 401003 to a device either way.
    Unauthorized,
    /// Too many connections at once.
    Throttled(Duration),
}

impl Hub {
    pub(crate) fn new(host: &str, tier: Tier, units: u32, query_lag: Duration, policies: Policies) -> Self {
        Self {
            host: host.into(),
            policies,
            tier,
            units,
            devices: BTreeMap::new(),
            enabled: 0,
            connected: 0,
            out: false,
            query_lag,
            lie: Duration::ZERO,
            lagging: Former::default(),
            lied: Former::default(),
            buckets: [Bucket::default(); 6],
            thrown: Vec::new(),
        }
    }

    /// The documented figure of one meter (IoT Hub, quotas and throttling).
    fn rate(&self, what: Metered, factor: f64) -> Rate {
        let units = f64::from(self.units);
        let second = Duration::from_secs(1);
        let minute = Duration::from_secs(60);
        let (small, middle) = match self.tier {
            Tier::F1 | Tier::B1 | Tier::S1 => (true, false),
            Tier::B2 | Tier::S2 => (false, true),
            Tier::B3 | Tier::S3 => (false, false),
        };
        let large = !small && !middle;
        let (uses, window) = match what {
            Metered::Registry => (if large { 5_000.0 } else { 100.0 } * units, minute),
            Metered::Connections if small => (f64::max(100.0, 12.0 * units), second),
            Metered::Connections => (if large { 6_000.0 } else { 120.0 } * units, second),
            // Meters of 4 KiB: 160 KiB, 480 KiB and 24 MiB a second and unit.
            Metered::Methods if small => (40.0 * units, second),
            Metered::Methods => (if large { 6_144.0 } else { 120.0 } * units, second),
            Metered::Queries => (if large { 1_000.0 } else { 20.0 } * units, minute),
            Metered::TwinReads if small => (100.0, second),
            Metered::TwinReads if middle => (f64::max(100.0, 10.0 * units), second),
            Metered::TwinReads => (500.0 * units, second),
            Metered::TwinUpdates if small => (50.0, second),
            Metered::TwinUpdates if middle => (f64::max(50.0, 5.0 * units), second),
            Metered::TwinUpdates => (250.0 * units, second),
        };
        Rate::per(uses, window, factor)
    }

    /// Meters one operation: how long to hold it back, or a refusal. Bursts are shaped first.
    pub(crate) fn meter(
        &mut self,
        what: Metered,
        uses: u64,
        throttle: &Throttle,
        now: Time,
    ) -> Result<Duration, HubRefusal> {
        if !throttle.enabled {
            return Ok(Duration::ZERO);
        }
        let rate = self.rate(what, throttle.factor);
        self.buckets[what as usize].shape(rate, uses, BACKLOG, now).map_err(|_| {
            let message =
                "The request has been throttled. Wait 10 seconds and try again. Operation type: CRUD";
            HubRefusal::new(HubCode::ThrottlingBacklogTimeout, message)
        })
    }

    /// Reserves one registry operation for DPS, which waits as long as it must: one for each registration under way, so
    /// at most a million for each instance that is linked to the hub, and its refusal would be no answer to anybody.
    pub(crate) fn reserve_registry(&mut self, throttle: &Throttle, now: Time) -> Duration {
        if !throttle.enabled {
            return Duration::ZERO;
        }
        let rate = self.rate(Metered::Registry, throttle.factor);
        let bucket = &mut self.buckets[Metered::Registry as usize];
        bucket.shape(rate, 1, Duration::MAX, now).unwrap_or_default()
    }

    /// Sets how long queries lag behind changes from now on. Those before are seen at once.
    pub(crate) fn set_query_lag(&mut self, lag: Duration) {
        self.query_lag = lag;
        self.lagging.clear();
    }

    /// Sets how long reads lie of changes from now on. Those before are seen at once.
    pub(crate) fn set_lie(&mut self, lie: Duration) {
        self.lie = lie;
        self.lied.clear();
    }

    /// To be called before an identity or its twin changes.
    fn remember(&mut self, id: &str, now: Time) {
        let (devices, key) = (&self.devices, Box::<str>::from(id));
        self.lagging.remember(&key, || devices.get(id).cloned(), self.query_lag, now);
        self.lied.remember(&key, || devices.get(id).cloned(), self.lie, now);
    }

    /// The identity as reads see it.
    pub(crate) fn seen(&self, id: &str, now: Time) -> Option<&Identity> {
        let former = (!self.lie.is_zero()).then(|| self.lied.get(&id.into(), now)).flatten();
        former.unwrap_or_else(|| self.devices.get(id))
    }

    /// One identity as queries see it, under its ID as it is stored.
    pub(crate) fn seen_by_query(&self, id: &str, now: Time) -> Option<(&str, &Identity)> {
        match self.lagging.get_entry(id, now) {
            Some((id, former)) => Some((&**id, former?)),
            None => self.devices.get_key_value(id).map(|(id, identity)| (&**id, identity)),
        }
    }

    /// All identities as queries see them, which lag, by ID and after `after`.
    pub(crate) fn seen_by_queries(
        &self,
        after: Option<&str>,
        now: Time,
    ) -> impl Iterator<Item = (&str, &Identity)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let former = self.lagging.range::<str>(from, now).map(|(id, identity)| (&**id, identity));
        let present =
            self.devices.range::<str, _>((from, Bound::Unbounded)).map(|(id, identity)| (&**id, identity));
        let mut present = present.peekable();
        let mut former = former.peekable();
        // Both go by ID; what was stands for what is.
        let mut merged = std::iter::from_fn(move || match (present.peek(), former.peek()) {
            (Some((is, _)), Some((was, _))) if is < was => {
                present.next().map(|(id, identity)| (id, Some(identity)))
            }
            (Some((is, _)), Some((was, _))) => {
                if is == was {
                    present.next();
                }
                former.next()
            }
            (Some(_), None) => present.next().map(|(id, identity)| (id, Some(identity))),
            (None, _) => former.next(),
        });
        std::iter::from_fn(move || {
            loop {
                let (id, identity) = merged.next()?;
                if let Some(identity) = identity {
                    return Some((id, identity));
                }
            }
        })
    }

    pub(crate) fn contains(&self, id: &str) -> bool {
        self.devices.contains_key(id)
    }

    pub(crate) fn peek(&self, id: &str) -> Option<&Identity> {
        self.devices.get(id)
    }

    pub(crate) fn insert(&mut self, id: &str, identity: Identity, now: Time) {
        self.remember(id, now);
        self.restore(id.into(), identity);
    }

    /// Puts an identity in that nobody sees come: out of a state file, or in place of one that was remembered.
    pub(crate) fn restore(&mut self, id: Box<str>, identity: Identity) {
        self.enabled += usize::from(identity.enabled);
        self.connected += usize::from(identity.connected);
        let former = self.devices.insert(id, identity);
        self.uncount(former.as_ref());
    }

    /// No longer counts an identity that is gone.
    fn uncount(&mut self, gone: Option<&Identity>) {
        self.enabled -= usize::from(gone.is_some_and(|gone| gone.enabled));
        self.connected -= usize::from(gone.is_some_and(|gone| gone.connected));
    }

    /// Takes an identity out. Its connection drops.
    pub(crate) fn remove(&mut self, id: &str, now: Time) -> Option<Identity> {
        self.remember(id, now);
        let mut removed = self.devices.remove(id)?;
        self.uncount(Some(&removed));
        if std::mem::take(&mut removed.connected) {
            self.thrown.push(id.into());
        }
        Some(removed)
    }

    /// Makes the hub unreachable, or reachable again. All connections drop.
    pub(crate) fn set_out(&mut self, out: bool, now: Time) {
        self.out = out;
        if out {
            self.disconnect_all(now);
        }
    }

    /// Cuts all connections; how many there were.
    pub(crate) fn disconnect_all(&mut self, now: Time) -> usize {
        let before = self.thrown.len();
        for (id, identity) in &mut self.devices {
            if std::mem::take(&mut identity.connected) {
                identity.connection_updated = now;
                self.thrown.push(id.clone());
            }
        }
        self.connected = 0;
        self.thrown.len() - before
    }

    /// A device connects. Neither etag moves.
    pub(crate) fn connect(&mut self, id: &str, throttle: &Throttle, now: Time) -> Result<(), NotConnected> {
        if self.out {
            return Err(NotConnected::Out);
        }
        if throttle.enabled {
            let rate = self.rate(Metered::Connections, throttle.factor);
            if let Verdict::Wait(wait) = self.buckets[Metered::Connections as usize].take(rate, 1, now) {
                return Err(NotConnected::Throttled(wait));
            }
        }
        let identity = self.devices.get_mut(id).filter(|identity| identity.enabled);
        let identity = identity.ok_or(NotConnected::Unauthorized)?;
        self.connected += usize::from(!std::mem::replace(&mut identity.connected, true));
        identity.connection_updated = now;
        identity.last_activity = now;
        Ok(())
    }

    /// A device goes, or its connection is cut.
    pub(crate) fn disconnect(&mut self, id: &str, now: Time) -> bool {
        let Some(identity) = self.devices.get_mut(id) else { return false };
        let was = std::mem::take(&mut identity.connected);
        if was {
            self.connected -= 1;
            identity.connection_updated = now;
            self.thrown.push(id.into());
        }
        was
    }

    /// GET of a device.
    pub(crate) fn get(&self, id: &str, now: Time) -> Result<Object, HubRefusal> {
        let identity = self.seen(id, now).ok_or_else(|| HubRefusal::device_not_found(id))?;
        Ok(identity.show(Of { device: id, module: None }))
    }

    /// PUT of a device. Without `if_match` it is created; with one it is replaced.
    pub(crate) fn put(
        &mut self,
        id: &str,
        body: Object,
        if_match: Option<&str>,
        random: &dyn Randomness,
        now: Time,
    ) -> Result<Object, HubRefusal> {
        if !is_device_id(id) {
            return Err(HubRefusal::argument(format!("Device ID '{id}' is not valid")));
        }
        if body.get("deviceId").and_then(Value::as_str).is_some_and(|told| told != id) {
            return Err(HubRefusal::argument("The device IDs of path and body differ"));
        }
        let former = self.devices.get(id);
        match (former, if_match) {
            (Some(_), None) => return Err(HubRefusal::device_exists(id)),
            (None, Some(_)) => return Err(HubRefusal::device_not_found(id)),
            (Some(former), Some(told)) if !etag::names(told, &former.etag.hub()) => {
                return Err(HubRefusal::stale());
            }
            _ => {}
        }
        if former.is_none() && self.devices.len() >= DEVICES_MAX {
            return Err(HubRefusal::new(HubCode::TooManyDevices, "The hub holds as many devices as it may"));
        }
        let identity = Identity::read(body, former, random, now)?;
        let shown = identity.show(Of { device: id, module: None });
        let enabled = identity.enabled;
        self.insert(id, identity, now);
        if !enabled {
            self.disconnect(id, now);
        }
        Ok(shown)
    }

    /// DELETE of a device.
    pub(crate) fn delete(&mut self, id: &str, if_match: Option<&str>, now: Time) -> Result<(), HubRefusal> {
        let told = if_match.ok_or_else(|| HubRefusal::new(HubCode::PreconditionFailed, "Etag missing"))?;
        let identity = self.devices.get(id).ok_or_else(|| HubRefusal::device_not_found(id))?;
        if !etag::names(told, &identity.etag.hub()) {
            return Err(HubRefusal::stale());
        }
        self.remove(id, now);
        Ok(())
    }

    /// The first devices by ID.
    pub(crate) fn list(&self, top: usize) -> Vec<Value> {
        let devices = self.devices.iter().take(top.clamp(1, LIST_MAX));
        devices.map(|(id, identity)| Value::Object(identity.show(Of { device: id, module: None }))).collect()
    }

    /// `/statistics/devices`.
    pub(crate) fn device_statistics(&self) -> Object {
        let (enabled, total) = (self.enabled, self.devices.len());
        let mut shown = Object::new();
        shown.insert("totalDeviceCount".to_owned(), json!(total));
        shown.insert("enabledDeviceCount".to_owned(), json!(enabled));
        shown.insert("disabledDeviceCount".to_owned(), json!(total - enabled));
        shown
    }

    /// Devices that are connected.
    pub(crate) fn connected(&self) -> usize {
        self.connected
    }
}
