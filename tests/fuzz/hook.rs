//! What DPS posts to the allocation hook, tampered with: it is refused, or it is a call that the core decides.

use berth_core::allocation::allocate;
use berth_core::model::Model;
use berth_server::hook::Call;

use crate::Fuzz;

const QUERY: &str = "scope=0ne00000001&code=a%2Fsecret&label=region:weu";
const INDIVIDUAL: &str = r#"{"individualEnrollment":{"registrationId":"pump-1","deviceId":"Pump#1","attestation":{"type":"symmetricKey"},"reprovisionPolicy":{"updateHubAssignment":false,"migrateDeviceData":false},"initialTwin":{"tags":{"a":[1,2.5e3,null,"\u00e9"]}}},"deviceRuntimeContext":{"registrationId":"pump-1","currentIotHubHostName":"hub-1.azure-devices.net","currentDeviceId":"Pump#1","symmetricKey":{},"payload":{"deep":[[[[1]]]]}},"linkedHubs":["hub-1.azure-devices.net","hub-2.azure-devices.net"]}"#;
const GROUP: &str = r#"{"enrollmentGroup":{"enrollmentGroupId":"g","deviceId":null},"deviceRuntimeContext":{"registrationId":"pump-2","x509":{}},"linkedHubs":["hub-2.azure-devices.net"]}"#;

#[test]
fn calls_of_dps() {
    let mut fuzz = Fuzz::new("calls of DPS", 1);
    let whole: Vec<Vec<u8>> = [INDIVIDUAL, GROUP].map(|body| body.as_bytes().to_vec()).into();
    let model = Model::default();
    let mut understood = 0;
    for round in 0..fuzz.rounds {
        let body = fuzz.tampered_one(&whole);
        // One of the two at a time: else hardly a call would have both right.
        let query = match round % 4 {
            0 => fuzz.tampered(QUERY.as_bytes(), GROUP.as_bytes()),
            _ => QUERY.as_bytes().to_vec(),
        };
        let _shown = fuzz.shown("a call of DPS", &body);
        match Call::read(&String::from_utf8_lossy(&query), &body) {
            Ok(call) => {
                understood += 1;
                assert!(!call.request.linked_hubs.is_empty() && call.request.linked_hubs.len() <= 100);
                assert!(allocate(&model, &call.request).is_err(), "an empty directory has no hub");
            }
            Err(malformed) => assert!(malformed.problem.len() <= 300, "{malformed}"),
        }
    }
    println!("calls of DPS: {understood} understood");
    assert!(understood > fuzz.rounds / 20, "too few calls are understood");
}
