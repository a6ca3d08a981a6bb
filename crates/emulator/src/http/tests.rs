//! What no caller from without can bring about.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::*;
use crate::auth::sign;
use crate::clock::{SeededRandomness, SteppedClock};
use crate::{Config, Emulator};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[tokio::test]
async fn a_token_is_held_to_the_time_of_the_world_and_not_of_the_request() {
    let config = format!(
        "[[hubs]]\nhost = \"hub\"\npolicies = [{{ name = \"p\", primary_key = \"{KEY}\" }}]\n\
         [[dps]]\nid_scope = \"0ne1\"\nhost = \"dps\"\nhubs = [{{ host = \"hub\" }}]\n\
         policies = [{{ name = \"p\", primary_key = \"{KEY}\" }}]"
    );
    let start = Time::from_unix_seconds(1_700_000_000);
    let clock = Arc::new(SteppedClock::at(start));
    let random = Arc::new(SeededRandomness::new(1));
    let config = Config::from_toml(&config).unwrap();
    let running = Emulator::start(config, Arc::clone(&clock) as Arc<dyn Clock>, random).await.unwrap();
    let service = running.service();
    let key = crate::auth::decode_key(KEY).unwrap();
    let call = |host: &str, target: &str| {
        let resource = if target.starts_with("/0ne1") { "0ne1" } else { host };
        let mut headers = HeaderMap::new();
        headers.insert("host", host.parse().unwrap());
        let token = sign(resource, &key, start.unix_seconds() + 60, "p");
        headers.insert("authorization", token.parse().unwrap());
        Call::new(Method::GET, &target.parse().unwrap(), headers, Bytes::new()).unwrap()
    };
    let trace = Trace { id: "t".to_owned(), now: start };
    let to_hub = call("hub", "/devices/d?api-version=2021-04-12");
    let to_dps = call("dps", "/enrollments/d?api-version=2021-10-01");
    let to_device = call("dps", "/0ne1/registrations/d/operations/x?api-version=2021-06-01");
    let (hub_get, device_get) = (hub::route(&to_hub).unwrap(), device::route(&to_device).unwrap().1.unwrap());
    let dps_service::Routed::To(dps_get) = dps_service::route(&to_dps) else { panic!("no operation") };
    let answers = async || {
        [
            hub::answer(service, 0, &hub_get, &to_hub, &trace).await.status,
            dps_service::answer(service, 0, &dps_get, &to_dps, &trace).status,
            device::answer(service, 0, &device_get, &to_device, &trace).status,
        ]
    };
    assert_eq!(answers().await, [404, 404, 404]);
    clock.advance(Duration::from_secs(3_600));
    assert_eq!(answers().await, [401, 401, 401]);
}
