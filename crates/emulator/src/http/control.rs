//! The control API: `POST /_emulator/commands` with one [`Command`] as JSON, on any host; see the crate's
//! documentation. Off unless the configuration says otherwise.

use std::sync::Arc;

use http::Method;
use serde_json::json;

use super::Service;
use super::answer::Answer;
use super::call::Call;
use super::listen::plain;
use crate::control::{Command, CommandError};

/// Answers a call of the control API.
pub(super) async fn answer(service: &Arc<Service>, call: &Call) -> Answer {
    let Some(token) = &service.control else {
        return plain(404, "The control API is off: set `control.enabled`.");
    };
    if let Some(token) = token {
        let told = call.header("authorization").and_then(|header| header.strip_prefix("Bearer "));
        if told != Some(token.expose()) {
            return plain(401, "The control API asks for its bearer token.");
        }
    }
    if call.method != Method::POST
        || call.path.get(1).map(String::as_str) != Some("commands")
        || call.path.len() != 2
    {
        return plain(404, "The control API is POST /_emulator/commands.");
    }
    let command: Command = match serde_json::from_slice(&call.body) {
        Ok(command) => command,
        Err(error) => return plain(400, &format!("The body is no command: {error}")),
    };
    match command.run(service).await {
        Ok(told) => Answer::json(200, &json!({ "result": told })),
        Err(error @ CommandError::Unknown { .. }) => plain(404, &error.to_string()),
        Err(error @ CommandError::Save(_)) => plain(500, &error.to_string()),
        Err(error) => plain(400, &error.to_string()),
    }
}
