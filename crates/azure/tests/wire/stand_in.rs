//! A stand-in for DPS and two hubs, with just the rules that the scenario asks about: so that the scenario itself is
//! known to be playable, and known to fail where a rule is broken.

mod device_api;
mod hub_api;
mod rules;
mod service_api;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_azure::KeySource;
use berth_azure::id::{DeviceId, HostName, IdScope};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::scenarios::{self, Controls, Presence};
use crate::stage::{Act, DPS, HUB, KEY, Seen, Stage, host};
use rules::Broken;

const HUB_B: &str = "hub-b.azure-devices.net";
const SCOPE: &str = "0ne00000001";
/// Bytes 31 to 0.
const OTHER_KEY: &str = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

/// A thing with an etag, as JSON.
type Things = BTreeMap<String, Value>;

/// What it knows.
#[derive(Default)]
struct State {
    broken: Option<Broken>,
    etags: u64,
    enrollments: Things,
    groups: Things,
    registrations: Things,
    /// Devices and twins of each hub, by its host.
    hubs: BTreeMap<String, (Things, Things)>,
    online: BTreeSet<String>,
    throttled: BTreeSet<String>,
    is_slow: bool,
    /// Polls still to be answered with `assigning`, by registration.
    under_way: BTreeMap<String, u32>,
}

/// Status and body.
type Told = (u16, Value);

impl State {
    fn etag(&mut self) -> String {
        self.etags += 1;
        STANDARD.encode(format!("\"{}\"", self.etags))
    }

    fn key(&mut self) -> String {
        self.etags += 1;
        STANDARD.encode(format!("{:032}", self.etags))
    }

    fn is_broken(&self, rule: Broken) -> bool {
        self.broken == Some(rule)
    }
}

/// Answers one request.
fn answer(state: &mut State, seen: &Seen) -> Act {
    let at = seen.header("host").unwrap_or_default().to_owned();
    let path = seen.path.split('?').next().unwrap_or_default();
    let segments: Vec<String> = path
        .split('/')
        .skip(1)
        .map(|segment| percent_encoding::percent_decode_str(segment).decode_utf8().unwrap().into_owned())
        .collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    if state.throttled.remove(&at) {
        return crate::stage::json(429, r#"{"errorCode":429001,"message":"throttled"}"#);
    }
    if at == DPS || at == HUB || at == HUB_B {
        let is_known = rules::is_signed(seen, &at, KEY) || state.is_broken(Broken::AnyKey);
        if !is_known {
            return crate::stage::json(401, r#"{"errorCode":401002,"message":"Unauthorized"}"#);
        }
    }
    if segments.last() == Some(&"query") {
        return service_api::query(state, seen, &at, &segments);
    }
    let (status, body) = match at.as_str() {
        DPS => service_api::answer(state, seen, &segments),
        HUB | HUB_B => hub_api::answer(state, seen, &at, &segments),
        _ => device_api::answer(state, seen, &segments),
    };
    if status == 204 {
        return crate::faults::no_content();
    }
    let act = crate::stage::json(status, body.to_string());
    match body.get("hubName").and_then(Value::as_str) {
        Some(name) => act.with("iothub-errorcode", name),
        None => act,
    }
}

struct Levers(Arc<Mutex<State>>);

impl Controls for Levers {
    fn presence<'a>(
        &'a self,
        _hub: &'a HostName,
        device: &'a DeviceId,
        presence: Presence,
    ) -> BoxFuture<'a, Result<(), String>> {
        let mut state = self.0.lock();
        match presence {
            Presence::Echoes => state.online.insert(device.to_string()),
            Presence::Offline => state.online.remove(device.as_str()),
        };
        Box::pin(async { Ok(()) })
    }

    fn assign_slowly(&self, slowly: bool) -> BoxFuture<'_, Result<(), String>> {
        self.0.lock().is_slow = slowly;
        Box::pin(async { Ok(()) })
    }

    fn throttle_once<'a>(&'a self, host: &'a HostName) -> BoxFuture<'a, Result<(), String>> {
        self.0.lock().throttled.insert(host.to_string());
        Box::pin(async { Ok(()) })
    }

    fn settle<'a>(&'a self, _hub: &'a HostName) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

/// Plays the scenario against a stand-in with one rule broken, or with none.
async fn played(broken: Option<Broken>) -> Result<Vec<&'static str>, scenarios::Failed> {
    let state = Arc::new(Mutex::new(State { broken, ..State::default() }));
    state.lock().hubs = [(HUB.to_owned(), Default::default()), (HUB_B.to_owned(), Default::default())].into();
    let ours = Arc::clone(&state);
    let made = crate::tls::made_for(&[DPS, HUB, HUB_B, berth_azure::dps::GLOBAL_HOST]);
    let server =
        crate::stage::Server::answering(made.acceptor, move |seen| answer(&mut ours.lock(), seen)).await;
    let endpoints = berth_azure::Endpoints::public()
        .all_at(host(&server.address().to_string()))
        .trust_pem(made.authority_pem.as_bytes())
        .unwrap();
    let stage = Stage::over(server, endpoints.clone(), 4);
    let key_of = |file: &str, name: &str, key: &str| {
        KeySource::File(
            stage.file(file, &format!("HostName={name};SharedAccessKeyName=all;SharedAccessKey={key}")),
        )
    };
    let scenario = scenarios::Stage {
        endpoints,
        surroundings: Arc::new(stage.clock.clone()),
        dps: key_of("dps", DPS, KEY),
        dps_wrong_key: key_of("stranger", DPS, OTHER_KEY),
        device_host: host(berth_azure::dps::GLOBAL_HOST),
        id_scope: IdScope::new(SCOPE).unwrap(),
        hubs: [key_of("a", HUB, KEY), key_of("b", HUB_B, KEY)],
        controls: Arc::new(Levers(state)),
    };
    scenarios::play(&scenario).await
}

#[tokio::test]
async fn the_scenario_is_played_to_its_end() {
    let played = played(None).await.unwrap_or_else(|failed| panic!("{failed}"));
    assert_eq!(played.len(), scenarios::steps().len());
}

#[tokio::test]
async fn every_broken_rule_ends_the_scenario_at_its_step() {
    for (broken, step) in rules::BROKEN {
        let failed = played(Some(broken)).await.expect_err(&format!("{broken:?} went unseen"));
        assert_eq!(failed.step, step, "{broken:?}: {failed}");
    }
}

fn refused(status: u16, code: u32, message: &str) -> Told {
    (status, json!({"errorCode": code, "trackingId": "0f1e2d3c", "message": message}))
}
