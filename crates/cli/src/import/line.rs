//! What a line of an import file says.

use berth_client::v1;
use berth_core::{DeviceId, HubName, Labels, RegistrationId, ScopeName};

/// A line that was read.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    /// A device that goes to the default hub with nothing else to say.
    Plain(String),
    /// A device.
    Row(Box<v1::DeviceAssignment>),
    /// A module of a device, which is not a device.
    Module,
}

/// The fields of a line, as texts that may be absent.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) device_id: &'a str,
    pub(super) hub: &'a str,
    pub(super) status: &'a str,
    pub(super) scope: &'a str,
    pub(super) registration_id: &'a str,
    pub(super) labels: Option<Vec<(String, String)>>,
}

impl Fields<'_> {
    /// Checks the fields by the same rules as the cluster, so that a bad line is known before it travels.
    pub(super) fn check(self) -> Result<Line, String> {
        DeviceId::parse(self.device_id).map_err(|e| e.to_string())?;
        if !self.hub.is_empty() {
            HubName::parse(self.hub).map_err(|e| e.to_string())?;
        }
        if !self.scope.is_empty() {
            ScopeName::parse(self.scope).map_err(|e| e.to_string())?;
        }
        if !self.registration_id.is_empty() {
            RegistrationId::parse(self.registration_id).map_err(|e| e.to_string())?;
        }
        let status = match self.status {
            "" => v1::MappingStatus::Unspecified,
            text => crate::parse::status(text)?,
        };
        let is_plain = self.hub.is_empty()
            && self.scope.is_empty()
            && self.registration_id.is_empty()
            && self.labels.is_none()
            && status == v1::MappingStatus::Assigned;
        if is_plain {
            return Ok(Line::Plain(self.device_id.to_owned()));
        }
        if let Some(labels) = &self.labels {
            Labels::parse(labels.iter().map(|(key, value)| (key, value))).map_err(|e| e.to_string())?;
        }
        Ok(Line::Row(Box::new(v1::DeviceAssignment {
            device_id: self.device_id.to_owned(),
            hub: self.hub.to_owned(),
            status: status.into(),
            labels: self.labels.map(|labels| v1::LabelSet { labels: labels.into_iter().collect() }),
            scope: self.scope.to_owned(),
            registration_id: self.registration_id.to_owned(),
            precondition: None,
        })))
    }
}

/// Writes labels as one text, `k=v;k=v`; a backslash stands before ; and \ in values.
pub(crate) fn labels_text<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let mut text = String::new();
    for (key, value) in labels {
        if !text.is_empty() {
            text.push(';');
        }
        text.push_str(key);
        text.push('=');
        for c in value.chars() {
            if matches!(c, ';' | '\\') {
                text.push('\\');
            }
            text.push(c);
        }
    }
    text
}

/// Reads what [`labels_text`] writes.
pub(super) fn labels_of(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut labels = Vec::new();
    let (mut key, mut value) = (None::<String>, String::new());
    let mut chars = text.chars();
    let mut end = |key: &mut Option<String>, value: &mut String| match key.take() {
        Some(key) => {
            labels.push((key, std::mem::take(value)));
            Ok(())
        }
        None => Err(format!("labels `{text}` have a part without =; write key=value;key=value")),
    };
    if text.is_empty() {
        return Ok(Vec::new());
    }
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                value.push(chars.next().ok_or_else(|| format!("labels `{text}` end in a lone backslash"))?)
            }
            ';' => end(&mut key, &mut value)?,
            '=' if key.is_none() => key = Some(std::mem::take(&mut value)),
            c => value.push(c),
        }
    }
    end(&mut key, &mut value)?;
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn labels_survive_being_written_as_text() {
        let labels: BTreeMap<String, String> =
            [("a", "1"), ("b", "x;y=\\z"), ("c", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let text = labels_text(&labels);
        assert_eq!(labels_of(&text).unwrap().into_iter().collect::<BTreeMap<_, _>>(), labels);
        assert!(labels_of("ring").is_err());
        assert!(labels_of("ring=1;").is_err());
        assert!(labels_of("ring=\\").is_err());
    }

    #[test]
    fn a_line_with_nothing_but_an_id_travels_packed() {
        let plain = Fields { device_id: "d", status: "assigned", ..Default::default() };
        assert_eq!(plain.check(), Ok(Line::Plain("d".into())));
        let unsaid = Fields { device_id: "d", ..Default::default() };
        assert!(
            matches!(unsaid.check(), Ok(Line::Row(_))),
            "an unsaid status must not enable a disabled device"
        );
        let bad = Fields { device_id: "d d", ..Default::default() };
        assert!(bad.check().unwrap_err().contains("device ID `d d`"));
    }
}
