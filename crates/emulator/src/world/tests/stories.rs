//! What the model does not know of: groups, state files, and many devices.

use serde_json::{Value, json};

use super::super::{Dps, Env, Key, Kind, PageRequest, Time, write_state};
use super::{ASSIGNING_MS, HUBS, KEY, Real, Step, object};

#[test]
fn a_group_knows_its_registrations_and_no_other() {
    let mut real = Real::new(1);
    let (start, attestation) = (real.now, json!({ "attestation": { "type": "symmetricKey" } }));
    for group in ["G-1", "g-2"] {
        let mut body = object(attestation.clone());
        body.insert("enrollmentGroupId".to_owned(), json!(group));
        real.world.with_dps(0, start, |dps, env| dps.put(Kind::Group, group, body, None, env)).unwrap();
    }
    let register = |real: &mut Real, id: &str, group: &str| {
        let attested = super::super::register::Attested::by(Some(group), KEY);
        real.world.register(0, id, attested, None, true, real.now).unwrap();
        real.step(&Step::Advance { ms: ASSIGNING_MS });
    };
    let rows = |real: &mut Real, group: &str| {
        let (now, page) = (real.now, PageRequest::default());
        let rows =
            |dps: &mut Dps, env: &Env<'_>| dps.query_registrations(group, "", &page, env).unwrap().rows;
        let rows = real.world.with_dps(0, now, rows);
        let mut ids: Vec<_> =
            rows.iter().map(|row| row["registrationId"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    for (id, group) in [("a", "g-1"), ("b", "G-1"), ("c", "g-2")] {
        register(&mut real, id, group);
    }
    assert_eq!(rows(&mut real, "g-1"), ["a", "b"]);
    assert_eq!(rows(&mut real, "G-2"), ["c"]);
    // One changes its group, one is deleted, and a state file knows as much.
    register(&mut real, "a", "g-2");
    let now = real.now;
    real.world.with_dps(0, now, |dps, env| dps.delete_registration("b", None, env)).unwrap();
    let expected = (Vec::<String>::new(), vec!["a".to_owned(), "c".to_owned()]);
    assert_eq!((rows(&mut real, "g-1"), rows(&mut real, "g-2")), expected);
    assert_eq!(real.world.dps[0].groups_with_members(), ["g-2"]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    write_state(&path, &real.world.saved().unwrap()).unwrap();
    let mut again = Real::new(1);
    again.world.load(&path, now).unwrap();
    assert_eq!((rows(&mut again, "g-1"), rows(&mut again, "g-2")), expected);
}

#[test]
fn a_hundred_groups_of_each_attestation_fit_and_the_last_is_tried_first() {
    let mut real = Real::new(1);
    let now = real.now;
    let mut put = |id: String, attestation: Value, if_match: Option<&str>| {
        let body = object(json!({ "enrollmentGroupId": id, "attestation": attestation }));
        let put = real.world.with_dps(0, now, |dps, env| dps.put(Kind::Group, &id, body, if_match, env));
        put.map(drop).map_err(|refusal| refusal.status)
    };
    let keys = || json!({ "type": "symmetricKey" });
    let x509 = || json!({ "type": "x509", "x509": { "signingCertificates": {} } });
    for no in 0..100 {
        put(format!("s-{no}"), keys(), None).unwrap();
        put(format!("x-{no}"), x509(), None).unwrap();
    }
    assert_eq!(put("s".into(), keys(), None), Err(403));
    assert_eq!(put("x".into(), x509(), None), Err(403));
    assert_eq!(put("s-0".into(), x509(), Some("*")), Err(403), "it would be one too many of the other kind");
    assert_eq!(put("s-0".into(), keys(), Some("*")), Ok(()));

    let last = real.world.dps[0].symmetric_groups().last().unwrap().0.id.clone();
    let tries = |real: &Real| {
        let tries = std::cell::Cell::new(0);
        let verify = |keys: [&[u8]; 2]| {
            tries.set(tries.get() + 1);
            let dps = &real.world.dps[0];
            let (_, key, _) = dps.symmetric_group(&Key::of(&last)).unwrap();
            keys[0] == crate::auth::derive_key(&crate::auth::decode_key(key).unwrap(), "dev").as_slice()
        };
        let attested = real.world.attest(0, "dev", verify).unwrap();
        (attested, tries.get())
    };
    let (attested, first) = tries(&real);
    assert_eq!(first, 100);
    real.world.register(0, "dev", attested, None, true, now).unwrap();
    assert_eq!(tries(&real).1, 1, "while it is being assigned");
    real.step(&Step::Advance { ms: ASSIGNING_MS });
    assert_eq!(tries(&real).1, 1);
}

#[test]
fn a_state_file_throttles_nobody() {
    let mut real = Real::new(1);
    real.world.throttle.enabled = true;
    let body = json!({ "registrationId": "dev", "attestation": { "type": "symmetricKey" } });
    let start = real.now;
    real.world
        .with_dps(0, start, |dps, env| dps.put(Kind::Individual, "dev", object(body), None, env))
        .unwrap();
    let attested = real.world.attest(0, "dev", |_| true).unwrap();
    real.world.register(0, "dev", attested, None, true, start).unwrap();
    let key = Key::of("dev");
    while real.world.meter_poll(0, &key, start).is_ok() {}
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    write_state(&path, &real.world.saved().unwrap()).unwrap();
    let mut again = Real::new(1);
    again.world.throttle.enabled = true;
    // The next run's clock may well be behind this one's.
    let before = Time::from_unix_seconds(1);
    again.world.load(&path, before).unwrap();
    again.world.meter_poll(0, &key, before).unwrap();
}

#[test]
fn two_hundred_thousand_devices_fit() {
    let mut real = Real::new(1);
    for device in 0..200_000u32 {
        let id = format!("device-{device}");
        let attestation = json!({ "type": "symmetricKey" });
        let body = object(json!({ "registrationId": id, "attestation": attestation, "iotHubs": [HUBS[0]] }));
        let now = real.now;
        real.world.with_dps(0, now, |dps, env| dps.put(Kind::Individual, &id, body, None, env)).unwrap();
        let attested = real.world.attest(0, &id, |_| true).unwrap();
        real.world.register(0, &id, attested, None, true, now).unwrap();
    }
    real.step(&Step::Advance { ms: ASSIGNING_MS });
    assert_eq!(real.world.hubs[0].devices.len(), 200_000);
}
