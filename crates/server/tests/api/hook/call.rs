//! A call of DPS, byte by byte, on a connection of its own.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{SCOPE, SECRET};

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    pub text: String,
    pub body: Value,
}

impl Answer {
    pub fn hub(&self) -> Option<&str> {
        self.body["iotHubHostName"].as_str()
    }

    pub fn reason(&self) -> &str {
        self.body["error"]["reason"].as_str().unwrap_or_default()
    }
}

/// The URL's query as an enrollment has it.
pub fn query() -> String {
    format!("scope={SCOPE}&code={SECRET}")
}

pub fn body(id: &str, hubs: &[&str]) -> Value {
    json!({
        "individualEnrollment": {
            "registrationId": id,
            "attestation": { "type": "symmetricKey" },
            "allocationPolicy": "custom",
            "customAllocationDefinition": {
                "webhookUrl": "https://berth.example/hooks/dps/allocate?****", "apiVersion": "2021-10-01",
            },
            "provisioningStatus": "enabled",
        },
        "deviceRuntimeContext": { "registrationId": id, "symmetricKey": {} },
        "linkedHubs": hubs,
    })
}

pub async fn allocate(to: SocketAddr, id: &str, hubs: &[&str]) -> Answer {
    post(to, &query(), body(id, hubs).to_string().as_bytes()).await
}

pub async fn post(to: SocketAddr, query: &str, body: &[u8]) -> Answer {
    try_post(to, query, body).await.unwrap()
}

pub async fn try_post(to: SocketAddr, query: &str, body: &[u8]) -> std::io::Result<Answer> {
    let head = format!(
        "POST /hooks/dps/allocate?{query} HTTP/1.1\r\nhost: berth.example\r\nconnection: close\r\n\
         content-type: application/json; charset=utf-8\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    send(to, head.as_bytes(), body).await
}

pub async fn send(to: SocketAddr, head: &[u8], body: &[u8]) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(head).await?;
    // One who is refused may find the door shut before all is said.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let Some((head, text)) = answer.split_once("\r\n\r\n") else {
        return Err(ended.err().unwrap_or_else(|| std::io::ErrorKind::UnexpectedEof.into()));
    };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    let body = serde_json::from_str(text).unwrap_or_default();
    Ok(Answer { status, head: head.to_ascii_lowercase(), text: text.to_owned(), body })
}

/// The value of a line of `/metrics`; 0 where it is not there.
pub async fn metric(of: SocketAddr, line: &str) -> u64 {
    let request = "GET /metrics HTTP/1.1\r\nhost: berth\r\nconnection: close\r\n\r\n";
    let text = send(of, request.as_bytes(), b"").await.unwrap().text;
    let value = text.lines().find_map(|seen| seen.strip_prefix(line)?.strip_prefix(' '));
    value.map_or(0, |value| value.trim().parse().unwrap())
}
