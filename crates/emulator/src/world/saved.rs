//! The state in a file: one line of JSON for each thing, below a line that tells the format.

use std::io::{self, BufRead, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::enrollment::Enrollment;
use super::identity::Identity;
use super::registration::Registration;
use super::{Due, Key, Profile, World};
use crate::clock::Time;

/// The format that is written, and the only one that is read.
const FORMAT: u32 = 1;

/// One line.
#[derive(Serialize, Deserialize)]
enum Line {
    Format(u32),
    Enrollment {
        scope: String,
        value: Box<Enrollment>,
    },
    Group {
        scope: String,
        value: Box<Enrollment>,
    },
    Registration {
        scope: String,
        value: Box<Registration>,
    },
    Identity {
        hub: String,
        id: Box<str>,
        value: Box<Identity>,
    },
    Profile(Box<Profile>),
    /// An old hub that is about to lose a device.
    Removal {
        hub: Arc<str>,
        id: Box<str>,
        generation: u64,
    },
}

/// Writes a state file, whole or not at all. Slow: not to be called where the world waits.
pub(crate) fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    // It holds the keys of devices: emulated ones, and read by nobody else all the same.
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

/// Why a state file was not read.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("the state file could not be read")]
    Io(#[from] io::Error),
    /// A line is not what this program writes.
    #[error("line {line} of the state file is damaged: remove the file to start with nothing")]
    Damaged {
        /// Which, counted from 1.
        line: usize,
    },
    /// Another format.
    #[error("the state file has format {found}, and this program reads {FORMAT}")]
    Format {
        /// The file's.
        found: u32,
    },
}

impl World {
    /// Everything that is remembered, as the text of a state file: as large as the state, for as long as it takes to
    /// be written, and the world goes on meanwhile.
    pub(crate) fn saved(&self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut line = |line: &Line| -> io::Result<()> {
            serde_json::to_writer(&mut out, line)?;
            out.write_all(b"\n")
        };
        line(&Line::Format(FORMAT))?;
        for dps in &self.dps {
            let scope = || dps.id_scope.clone();
            for value in dps.individual.values() {
                line(&Line::Enrollment { scope: scope(), value: Box::new(value.clone()) })?;
            }
            for value in dps.groups.values() {
                line(&Line::Group { scope: scope(), value: Box::new(value.clone()) })?;
            }
            for value in dps.registrations.values() {
                line(&Line::Registration { scope: scope(), value: Box::new(value.clone()) })?;
            }
        }
        for hub in &self.hubs {
            for (id, value) in &hub.devices {
                let (hub, id, value) = (hub.host.to_string(), id.clone(), Box::new(value.clone()));
                line(&Line::Identity { hub, id, value })?;
            }
        }
        for profile in &self.profiles {
            line(&Line::Profile(Box::new(profile.clone())))?;
        }
        for due in self.due.values() {
            if let Due::Remove { host, device_id, generation } = due {
                let (hub, id) = (Arc::clone(host), device_id.clone());
                line(&Line::Removal { hub, id, generation: *generation })?;
            }
        }
        Ok(out)
    }

    /// Reads what [`write`] wrote. What belongs to services that the configuration no longer has is left out.
    /// Assignments under way go on; a webhook that was being asked is forgotten, and the device may register again.
    pub(crate) fn load(&mut self, path: &Path, now: Time) -> Result<(), LoadError> {
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut formatted = false;
        for (no, text) in io::BufReader::new(file).lines().enumerate() {
            let damaged = LoadError::Damaged { line: no + 1 };
            let line: Line = serde_json::from_str(&text?).map_err(|_| LoadError::Damaged { line: no + 1 })?;
            match line {
                Line::Format(FORMAT) if no == 0 => formatted = true,
                Line::Format(found) if no == 0 => return Err(LoadError::Format { found }),
                _ if !formatted => return Err(damaged),
                line => self.load_line(line, now),
            }
        }
        match formatted {
            true => Ok(()),
            false => Err(LoadError::Damaged { line: 1 }),
        }
    }

    fn load_line(&mut self, line: Line, now: Time) {
        let dps_no = |scope: &str| self.dps.iter().position(|dps| dps.id_scope == scope);
        match line {
            Line::Format(_) => {}
            Line::Enrollment { scope, value } => {
                if let Some(no) = dps_no(&scope) {
                    self.dps[no].individual.insert(Key::of(&value.id), *value);
                }
            }
            Line::Group { scope, value } => {
                if let Some(no) = dps_no(&scope) {
                    self.dps[no].groups.insert(Key::of(&value.id), *value);
                }
            }
            Line::Registration { scope, mut value } => {
                let Some(no) = dps_no(&scope) else { return };
                value.pending = value.pending.filter(|pending| pending.target.is_some());
                let (key, operation) = (Key::of(&value.id), value.operation);
                if value.pending.is_some() {
                    self.schedule(now, Due::Finish { dps: no, key: key.clone(), operation });
                }
                self.dps[no].restore(key, *value);
            }
            Line::Identity { hub, id, value } => {
                if let Some(hub) = self.hub_mut(&hub) {
                    hub.restore(id, *value);
                }
            }
            Line::Removal { hub, id, generation } => {
                self.schedule(now, Due::Remove { host: hub, device_id: id, generation });
            }
            Line::Profile(saved) => {
                let same = |profile: &&mut Profile| {
                    profile.is(&saved.subscription, &saved.resource_group, &saved.name)
                };
                if let Some(profile) = self.profiles.iter_mut().find(same) {
                    *profile = *saved;
                }
            }
        }
    }
}
