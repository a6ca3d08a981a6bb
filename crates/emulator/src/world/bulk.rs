//! Bulk registry operations (IoT Hub REST API, bulk CRUD).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::fields::Object;
use super::hub::{Hub, Of};
use super::refusal::{HubCode, HubRefusal};
use crate::clock::{Randomness, Time};

/// Most items of one request.
pub(crate) const BULK_MAX: usize = 100;

/// A field by its name without case: Node spells `etag` and `Update` where others spell `eTag` and `update`.
fn field<'a>(item: &'a Object, name: &str) -> Option<&'a Value> {
    item.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn text(item: &Object, name: &str) -> Option<String> {
    field(item, name).and_then(Value::as_str).map(str::to_owned)
}

impl Hub {
    /// Does each item by itself; whether all went well, and the answer's body.
    pub(crate) fn bulk(
        &mut self,
        items: &[Value],
        random: &dyn Randomness,
        now: Time,
    ) -> Result<(bool, Object), HubRefusal> {
        if items.len() > BULK_MAX {
            return Err(HubRefusal::new(
                HubCode::TooManyDevices,
                format!("At most {BULK_MAX} devices at once"),
            ));
        }
        let mut named = BTreeSet::new();
        for item in items {
            let Value::Object(item) = item else {
                return Err(HubRefusal::argument("An item must be an object"));
            };
            let (id, module) = (text(item, "id"), text(item, "moduleId"));
            if !named.insert((id.clone(), module)) {
                let message = format!("Device '{}' is defined multiple times", id.unwrap_or_default());
                return Err(HubRefusal::new(HubCode::DeviceDefinedMultipleTimes, message));
            }
        }
        let mut errors = Vec::new();
        for item in items.iter().filter_map(Value::as_object) {
            let id = text(item, "id").unwrap_or_default();
            let module = text(item, "moduleId");
            let mode = text(item, "importMode").unwrap_or_else(|| "create".to_owned());
            if let Err(refusal) = self.bulk_item(&id, module.as_deref(), &mode, item, random, now) {
                errors.push(json!({
                    "deviceId": id,
                    "errorCode": refusal.code.name(),
                    "errorStatus": refusal.message,
                    "moduleId": module,
                    "operation": mode,
                }));
            }
        }
        let mut shown = Object::new();
        shown.insert("isSuccessful".to_owned(), json!(errors.is_empty()));
        let good = errors.is_empty();
        shown.insert("errors".to_owned(), json!(errors));
        shown.insert("warnings".to_owned(), json!([]));
        Ok((good, shown))
    }

    fn bulk_item(
        &mut self,
        id: &str,
        module: Option<&str>,
        mode: &str,
        item: &Object,
        random: &dyn Randomness,
        now: Time,
    ) -> Result<(), HubRefusal> {
        let of = Of { device: id, module };
        let etag = text(item, "eTag");
        let named = || etag.clone().ok_or_else(|| HubRefusal::argument("`eTag` is missing"));
        let any = Some("*");
        match mode.to_ascii_lowercase().as_str() {
            "create" => {
                self.write(of, item, None, random, now)?;
                self.write_item_twin(of, item, None, now)
            }
            "update" => self.write(of, item, any, random, now),
            "updateifmatchetag" => self.write(of, item, Some(&named()?), random, now),
            "delete" => self.erase(of, any, now),
            "deleteifmatchetag" => self.erase(of, Some(&named()?), now),
            "updatetwin" => self.write_item_twin(of, item, None, now),
            "updatetwinifmatchetag" => {
                let etag =
                    text(item, "twinETag").ok_or_else(|| HubRefusal::argument("`twinETag` is missing"))?;
                self.write_item_twin(of, item, Some(&etag), now)
            }
            _ => Err(HubRefusal::argument(format!("`importMode` is `{mode}`: no hub knows it"))),
        }
    }

    fn write(
        &mut self,
        of: Of<'_>,
        item: &Object,
        if_match: Option<&str>,
        random: &dyn Randomness,
        now: Time,
    ) -> Result<(), HubRefusal> {
        match of.module {
            None => self.put(of.device, item.clone(), if_match, random, now).map(drop),
            Some(module) => self.put_module(of.device, module, item.clone(), if_match, random, now).map(drop),
        }
    }

    fn erase(&mut self, of: Of<'_>, if_match: Option<&str>, now: Time) -> Result<(), HubRefusal> {
        match of.module {
            None => self.delete(of.device, if_match, now),
            Some(module) => self.delete_module(of.device, module, if_match, now),
        }
    }

    fn write_item_twin(
        &mut self,
        of: Of<'_>,
        item: &Object,
        if_match: Option<&str>,
        now: Time,
    ) -> Result<(), HubRefusal> {
        let mut body = Object::new();
        for name in ["tags", "properties"] {
            if let Some(value) = field(item, name).filter(|value| !value.is_null()) {
                body.insert(name.to_owned(), value.clone());
            }
        }
        if body.is_empty() && if_match.is_none() {
            return Ok(());
        }
        self.write_twin(of, &body, if_match, false, now).map(drop)
    }
}
