//! How simulated devices answer direct methods.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Most devices that answer otherwise than their fleet.
const EXCEPTIONS_MAX: usize = 1_000_000;

/// How a device that is connected answers direct methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Behaviour {
    /// At once, with status 200 and the payload it was sent.
    #[default]
    Echo,
    /// The same, after a while.
    Slow {
        /// How long it takes, in milliseconds.
        ms: u64,
    },
    /// At once, with this status and no payload.
    Fails {
        /// What the device says, not the hub.
        status: i32,
    },
    /// Never.
    Silent,
    /// It has no callback for methods: to the hub it is not online.
    Offline,
}

/// How each device answers.
#[derive(Debug, Default)]
pub(crate) struct Behaviours {
    /// By the beginning of the device ID.
    fleets: Vec<(String, Behaviour)>,
    exceptions: Mutex<BTreeMap<Box<str>, Behaviour>>,
}

impl Behaviours {
    pub(crate) fn new(fleets: Vec<(String, Behaviour)>) -> Self {
        Self { fleets, exceptions: Mutex::default() }
    }

    /// Sets how one device answers; false where too many are exceptions already.
    pub(crate) fn set(&self, device: &str, behaviour: Behaviour) -> bool {
        let mut exceptions = self.exceptions.lock();
        let fits = exceptions.len() < EXCEPTIONS_MAX || exceptions.contains_key(device);
        if fits {
            exceptions.insert(device.into(), behaviour);
        }
        fits
    }

    /// How one device answers.
    pub(crate) fn of(&self, device: &str) -> Behaviour {
        if let Some(behaviour) = self.exceptions.lock().get(device) {
            return *behaviour;
        }
        let fleet = self.fleets.iter().find(|(prefix, _)| device.starts_with(prefix));
        fleet.map(|(_, behaviour)| *behaviour).unwrap_or_default()
    }
}
