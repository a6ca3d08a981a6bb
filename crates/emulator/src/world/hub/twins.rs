//! The twins of a hub, and the modules of its devices.

use serde_json::Value;

use super::super::etag;
use super::super::fields::Object;
use super::super::id::is_device_id;
use super::super::refusal::{Envelope, HubCode, HubRefusal};
use super::{Hub, Identity, Of};
use crate::clock::{Randomness, Time};

/// Most modules of a device (IoT Hub, quotas and throttling).
const MODULES_MAX: usize = 50;

impl Hub {
    /// GET of a twin.
    pub(crate) fn twin(&self, of: Of<'_>, now: Time) -> Result<Object, HubRefusal> {
        let device = self.seen(of.device, now).ok_or_else(|| HubRefusal::device_not_found(of.device))?;
        Ok(device.one_of(of)?.show_twin(of))
    }

    /// PATCH (`replaces` false) or PUT of a twin.
    pub(crate) fn write_twin(
        &mut self,
        of: Of<'_>,
        body: &Object,
        if_match: Option<&str>,
        replaces: bool,
        now: Time,
    ) -> Result<Object, HubRefusal> {
        let part = |value: Option<&Value>, name: &str| match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object.clone())),
            Some(_) => Err(HubRefusal::argument(format!("`{name}` must be an object"))),
        };
        let tags = part(body.get("tags"), "tags")?;
        let properties = part(body.get("properties"), "properties")?.unwrap_or_default();
        let desired = part(properties.get("desired"), "properties.desired")?;
        let device = self.devices.get(of.device).ok_or_else(|| HubRefusal::device_not_found(of.device))?;
        let mut changed = device.clone();
        let identity = match of.module {
            None => &mut changed,
            Some(module) => changed
                .modules
                .as_mut()
                .and_then(|modules| modules.get_mut(module))
                .ok_or_else(|| module_not_found(of))?,
        };
        if if_match.is_some_and(|told| !etag::names(told, &identity.twin.etag())) {
            return Err(HubRefusal::stale());
        }
        match replaces {
            true => identity.twin.replace(tags.as_ref(), desired.as_ref(), now)?,
            false => identity.twin.patch(tags.as_ref(), desired.as_ref(), now)?,
        }
        let shown = identity.show_twin(of);
        self.insert(of.device, changed, now);
        Ok(shown)
    }

    /// The modules of a device.
    pub(crate) fn modules(&self, device: &str) -> Result<Vec<Value>, HubRefusal> {
        let identity = self.enabled_for_modules(device)?;
        let modules = identity.modules.iter().flat_map(|modules| modules.iter());
        Ok(modules.map(|(id, module)| Value::Object(module.show(Of { device, module: Some(id) }))).collect())
    }

    /// GET of a module.
    pub(crate) fn module(&self, of: Of<'_>) -> Result<Object, HubRefusal> {
        Ok(self.enabled_for_modules(of.device)?.one_of(of)?.show(of))
    }

    /// PUT of a module.
    pub(crate) fn put_module(
        &mut self,
        device: &str,
        module: &str,
        body: Object,
        if_match: Option<&str>,
        random: &dyn Randomness,
        now: Time,
    ) -> Result<Object, HubRefusal> {
        let of = Of { device, module: Some(module) };
        let mut changed = self.enabled_for_modules(device)?.clone();
        if !is_device_id(module) {
            return Err(HubRefusal::argument(format!("Module ID '{module}' is not valid")));
        }
        let modules = changed.modules.get_or_insert_default();
        let former = modules.get(module);
        match (former, if_match) {
            (Some(_), None) => {
                let message = format!("Device {device} already contains Module {module}.");
                let code = HubCode::ModuleAlreadyExistsOnDevice;
                return Err(HubRefusal { envelope: Envelope::Bare, ..HubRefusal::new(code, message) });
            }
            (None, Some(_)) => return Err(module_not_found(of)),
            (Some(former), Some(told)) if !etag::names(told, &former.etag.hub()) => {
                return Err(HubRefusal::stale());
            }
            _ => {}
        }
        if former.is_none() && modules.len() >= MODULES_MAX {
            let message = format!("Device {device} holds {MODULES_MAX} modules already");
            return Err(HubRefusal::new(HubCode::TooManyDevices, message));
        }
        let identity = Identity::read(body, former, random, now)?;
        let shown = identity.show(of);
        modules.insert(module.into(), identity);
        self.insert(device, changed, now);
        Ok(shown)
    }

    /// DELETE of a module.
    pub(crate) fn delete_module(
        &mut self,
        device: &str,
        module: &str,
        if_match: Option<&str>,
        now: Time,
    ) -> Result<(), HubRefusal> {
        let of = Of { device, module: Some(module) };
        let told = if_match.ok_or_else(|| HubRefusal::new(HubCode::PreconditionFailed, "Etag missing"))?;
        let mut changed = self.enabled_for_modules(device)?.clone();
        if !etag::names(told, &changed.one_of(of)?.etag.hub()) {
            return Err(HubRefusal::stale());
        }
        if let Some(modules) = changed.modules.as_mut() {
            modules.remove(module);
        }
        self.insert(device, changed, now);
        Ok(())
    }

    /// Module calls on a device that is absent or disabled are 401 on the live service, not 404.
    fn enabled_for_modules(&self, device: &str) -> Result<&Identity, HubRefusal> {
        let found = self.devices.get(device).filter(|identity| identity.enabled);
        found.ok_or_else(HubRefusal::unauthorized_access)
    }
}

impl Identity {
    /// This device, or one of its modules.
    pub(crate) fn one_of(&self, of: Of<'_>) -> Result<&Identity, HubRefusal> {
        match of.module {
            None => Ok(self),
            Some(module) => {
                let found = self.modules.as_ref().and_then(|modules| modules.get(module));
                found.ok_or_else(|| module_not_found(of))
            }
        }
    }
}

fn module_not_found(of: Of<'_>) -> HubRefusal {
    let module = of.module.unwrap_or_default();
    HubRefusal::new(HubCode::ModuleNotFound, format!("{}/{module}", of.device))
}
