//! Driving the emulator: time, faults, devices. The control API takes these commands as JSON, and
//! [`Running::command`](crate::Running::command) takes them in the process.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use crate::config::{Moving, host_name};
use crate::devices::Behaviour;
use crate::faults::{FAULTS_MAX, FailNext};
use crate::http::Service;
use crate::world::{NotConnected, SEED_MAX, write_state};

/// The furthest that one command moves the clock, or delays anything, in milliseconds: a year.
const MS_MAX: u64 = 366 * 86_400_000;

/// One command. In JSON it is an object whose `command` names it, for example
/// `{"command": "advance", "ms": 60000}`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Moves the clock forward.
    Advance {
        /// By this many milliseconds.
        ms: u64,
    },
    /// Tells the emulator's time.
    Now,
    /// Lets the next calls of an operation fail.
    FailNext {
        /// Which, how, and how often.
        fault: FailNext,
    },
    /// Slows operations down.
    Latency {
        /// An operation, or the beginning of several: `dps`, `hub.twin`, `device`, `arm`.
        operation: String,
        /// By this many milliseconds; 0 ends it.
        ms: u64,
    },
    /// Makes one service unreachable (503), or reachable again. A hub that is out loses its connections.
    Outage {
        /// The host of a hub or a DPS instance, or `arm`.
        service: String,
        /// Whether it is out.
        out: bool,
    },
    /// Lets reads of one service tell what was so before a change, for a while after it.
    Lie {
        /// The host of a hub or a DPS instance.
        service: String,
        /// For this many milliseconds; 0 ends it.
        ms: u64,
    },
    /// Sets how long a hub's queries lag behind its registry.
    QueryLag {
        /// The hub's host.
        hub: String,
        /// By this many milliseconds.
        ms: u64,
    },
    /// Sets how long an assignment takes.
    Assigning {
        /// The DPS instance's host.
        dps: String,
        /// This many milliseconds.
        ms: u64,
    },
    /// Sets where devices are while they move.
    Moving {
        /// The DPS instance's host.
        dps: String,
        /// Where.
        moving: Moving,
        /// How long both hubs know a device, in milliseconds, where `moving` is `both`.
        overlap_ms: u64,
    },
    /// Sets the throttles.
    Throttle {
        /// Whether anything is throttled.
        enabled: bool,
        /// What the documented figures are multiplied by.
        factor: f64,
    },
    /// Sets how a device answers direct methods.
    Behave {
        /// The device's ID.
        device: String,
        /// How.
        behaviour: Behaviour,
    },
    /// Connects a device to a hub, as if it had done so itself.
    Connect {
        /// The hub's host.
        hub: String,
        /// The device's ID.
        device: String,
    },
    /// Cuts a device's connection.
    Disconnect {
        /// The hub's host.
        hub: String,
        /// The device's ID.
        device: String,
    },
    /// Cuts all connections of a hub, which stays reachable.
    DisconnectAll {
        /// The hub's host.
        hub: String,
    },
    /// Makes devices: individual enrollments, assigned to a hub as if each had registered. Counts against no quota.
    Seed {
        /// The DPS instance's host.
        dps: String,
        /// The hub's host, which the instance must be linked to.
        hub: String,
        /// Their IDs are this and a number of six digits.
        prefix: String,
        /// The first number. Default 0.
        #[serde(default)]
        first: u32,
        /// How many: at most 200,000 at one time.
        count: u32,
    },
    /// Moves a device to another hub at once, as if its enrollment had been changed and it had registered, and nobody
    /// had seen either.
    Place {
        /// The DPS instance's host.
        dps: String,
        /// The device's registration ID.
        registration_id: String,
        /// The hub's host, which the instance must be linked to.
        hub: String,
    },
    /// Ends all faults, outages, latencies and lies.
    ClearFaults,
    /// Tells how many calls were answered, by operation and status.
    Calls,
    /// Tells how many enrollments, registrations, identities and connections there are.
    Status,
    /// Writes the state file.
    Save,
}

/// Why a command was not run. Nothing changed.
#[derive(Debug, Error)]
pub enum CommandError {
    /// A service or device that is not emulated.
    #[error("`{name}` is no host or device of this emulator")]
    Unknown {
        /// As it was written.
        name: String,
    },
    /// A number out of its bounds.
    #[error("`{field}` is out of bounds: write {bounds}")]
    OutOfBounds {
        /// Which.
        field: &'static str,
        /// What it may be.
        bounds: String,
    },
    /// What DPS itself would refuse.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// Too many faults wait already.
    #[error("{FAULTS_MAX} faults wait already: clear them first")]
    TooMany,
    /// A device that its hub did not let in.
    #[error("the hub did not let `{device}` in: {reason}")]
    NotConnected {
        /// The device.
        device: String,
        /// Why.
        reason: &'static str,
    },
    /// The state could not be written.
    #[error("the state could not be saved: {0}")]
    Save(#[source] io::Error),
    /// There is no file to write it to.
    #[error("no `state_file` is configured")]
    NoStateFile,
}

fn bounded_ms(field: &'static str, ms: u64) -> Result<Duration, CommandError> {
    match ms <= MS_MAX {
        true => Ok(Duration::from_millis(ms)),
        false => Err(CommandError::OutOfBounds { field, bounds: format!("0 to {MS_MAX}") }),
    }
}

fn unknown(name: &str) -> CommandError {
    CommandError::Unknown { name: name.to_owned() }
}

impl Command {
    /// Runs the command; what it tells.
    pub(crate) async fn run(self, service: &Arc<Service>) -> Result<Value, CommandError> {
        match self {
            Command::Advance { ms } => {
                service.clock.advance(bounded_ms("ms", ms)?);
                // What is due by now has happened when the command returns.
                Ok(service.with_world(|_, now| json!({ "now": now.to_string() })))
            }
            Command::Now => Ok(json!({ "now": service.clock.now().to_string() })),
            Command::Save => {
                let path = service.state_file.clone().ok_or(CommandError::NoStateFile)?;
                let service = Arc::clone(service);
                // Off the workers: the disk may take its time. Other calls wait for the text, and not for the disk.
                let save = move || {
                    // One at a time: two would write the same file.
                    let _turn = service.saving.lock();
                    write_state(&path, &service.with_world(|world, _| world.saved())?)
                };
                let saved = tokio::task::spawn_blocking(save).await.map_err(io::Error::other);
                saved.flatten().map_err(CommandError::Save)?;
                Ok(Value::Null)
            }
            Command::Calls => {
                let mut told = serde_json::Map::new();
                for ((operation, status), count) in service.calls() {
                    told.insert(format!("{operation} {status}"), json!(count));
                }
                Ok(Value::Object(told))
            }
            Command::Behave { device, behaviour } => match service.behaviours.set(&device, behaviour) {
                true => Ok(Value::Null),
                false => Err(CommandError::TooMany),
            },
            other => other.run_in_world(service),
        }
    }

    fn run_in_world(self, service: &Service) -> Result<Value, CommandError> {
        service.with_world(|world, now| {
            let lowered = |name: &str| host_name(name).ok_or_else(|| unknown(name));
            let hub_no = |name: &str| {
                let host = lowered(name)?;
                world.hubs.iter().position(|hub| *hub.host == *host).ok_or_else(|| unknown(name))
            };
            let dps_no = |name: &str| {
                let host = lowered(name)?;
                world.dps.iter().position(|dps| dps.host == host).ok_or_else(|| unknown(name))
            };
            match self {
                Command::FailNext { fault } => {
                    if !(200..=599).contains(&fault.status) {
                        return Err(CommandError::OutOfBounds {
                            field: "status",
                            bounds: "200 to 599".into(),
                        });
                    }
                    world.faults.fail_next(fault).then_some(Value::Null).ok_or(CommandError::TooMany)
                }
                Command::Latency { operation, ms } => {
                    let latency = bounded_ms("ms", ms)?;
                    let set = world.faults.set_latency(&operation, latency);
                    set.then_some(Value::Null).ok_or(CommandError::TooMany)
                }
                Command::Outage { service, out } => {
                    match (hub_no(&service), dps_no(&service)) {
                        (Ok(no), _) => world.hubs[no].set_out(out, now),
                        (_, Ok(no)) => {
                            let host = world.dps[no].host.clone();
                            world.faults.set_out(&host, out);
                        }
                        _ if service == "arm" => world.faults.set_out("arm", out),
                        _ => return Err(unknown(&service)),
                    }
                    Ok(Value::Null)
                }
                Command::Lie { service, ms } => {
                    let lie = bounded_ms("ms", ms)?;
                    match (hub_no(&service), dps_no(&service)) {
                        (Ok(no), _) => world.hubs[no].set_lie(lie),
                        (_, Ok(no)) => world.dps[no].set_lie(lie),
                        _ => return Err(unknown(&service)),
                    }
                    Ok(Value::Null)
                }
                Command::QueryLag { hub, ms } => {
                    let no = hub_no(&hub)?;
                    world.hubs[no].set_query_lag(bounded_ms("ms", ms)?);
                    Ok(Value::Null)
                }
                Command::Assigning { dps, ms } => {
                    let no = dps_no(&dps)?;
                    world.dps[no].assigning = bounded_ms("ms", ms)?;
                    Ok(Value::Null)
                }
                Command::Moving { dps, moving, overlap_ms } => {
                    let (no, overlap) = (dps_no(&dps)?, bounded_ms("overlap_ms", overlap_ms)?);
                    world.dps[no].moving = moving;
                    world.dps[no].overlap = overlap;
                    Ok(Value::Null)
                }
                Command::Throttle { enabled, factor } => {
                    if !(0.000_001..=1_000_000.0).contains(&factor) {
                        let bounds = "0.000001 to 1000000".to_owned();
                        return Err(CommandError::OutOfBounds { field: "factor", bounds });
                    }
                    world.throttle.enabled = enabled;
                    world.throttle.factor = factor;
                    Ok(Value::Null)
                }
                Command::Connect { hub, device } => {
                    let no = hub_no(&hub)?;
                    let throttle = world.throttle.clone();
                    let reason = match world.hubs[no].connect(&device, &throttle, now) {
                        Ok(()) => return Ok(Value::Null),
                        Err(NotConnected::Out) => "it is out",
                        Err(NotConnected::Unauthorized) => "the identity is absent or disabled",
                        Err(NotConnected::Throttled(_)) => "too many connect at once",
                    };
                    Err(CommandError::NotConnected { device, reason })
                }
                Command::Disconnect { hub, device } => {
                    let no = hub_no(&hub)?;
                    match world.hubs[no].disconnect(&device, now) {
                        true => Ok(Value::Null),
                        false => Err(unknown(&device)),
                    }
                }
                Command::Seed { dps, hub, prefix, first, count } => {
                    let no = dps_no(&dps)?;
                    let host = lowered(&hub)?;
                    let linked = world.dps[no].linked_hosts.iter().find(|linked| ***linked == *host).cloned();
                    let linked = linked.ok_or_else(|| unknown(&hub))?;
                    let end = first.checked_add(count).filter(|end| *end <= 1_000_000 && count <= SEED_MAX);
                    let bounds = || format!("at most {SEED_MAX} at once, and 1000000 in all");
                    let end =
                        end.ok_or_else(|| CommandError::OutOfBounds { field: "count", bounds: bounds() })?;
                    match world.seed(no, &linked, &prefix, first..end, now) {
                        Ok(made) => Ok(json!({ "made": made })),
                        Err(refusal) => Err(CommandError::Refused { reason: refusal.message }),
                    }
                }
                Command::Place { dps, registration_id, hub } => {
                    let (no, host) = (dps_no(&dps)?, lowered(&hub)?);
                    match world.place(no, &registration_id, &host, now) {
                        true => Ok(Value::Null),
                        false => Err(CommandError::Refused {
                            reason: format!("`{registration_id}` has no assignment to be moved to `{hub}`"),
                        }),
                    }
                }
                Command::DisconnectAll { hub } => {
                    let no = hub_no(&hub)?;
                    Ok(json!({ "disconnected": world.hubs[no].disconnect_all(now) }))
                }
                Command::ClearFaults => {
                    world.faults.clear();
                    for hub in &mut world.hubs {
                        hub.out = false;
                        hub.set_lie(Duration::ZERO);
                    }
                    for dps in &mut world.dps {
                        dps.set_lie(Duration::ZERO);
                    }
                    Ok(Value::Null)
                }
                Command::Status => {
                    let dps: Vec<Value> = world
                        .dps
                        .iter()
                        .map(|dps| {
                            json!({
                                "host": dps.host,
                                "enrollments": dps.individual.len(),
                                "enrollmentGroups": dps.groups.len(),
                                "registrations": dps.registrations.len(),
                            })
                        })
                        .collect();
                    let hubs: Vec<Value> = world
                        .hubs
                        .iter()
                        .map(|hub| {
                            json!({
                                "host": hub.host,
                                "devices": hub.devices.len(),
                                "connected": hub.connected(),
                                "out": hub.out,
                            })
                        })
                        .collect();
                    Ok(json!({ "now": now.to_string(), "dps": dps, "hubs": hubs }))
                }
                // Run by the caller.
                Command::Advance { .. }
                | Command::Now
                | Command::Save
                | Command::Calls
                | Command::Behave { .. } => Ok(Value::Null),
            }
        })
    }
}
