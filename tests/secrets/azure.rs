//! An Azure that answers by the name of the device, and shows back what it was shown: the signature of the caller stands
//! in bodies, in headers, and in the place of IDs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What is wrong with an answer: the beginning of the device's name says so.
pub const WRONGS: [&str; 17] = [
    "e401json",
    "e401html",
    "e403json",
    "e404text",
    "e409json",
    "e500json",
    "e500text",
    "e200html",
    "e200half",
    "e200name",
    "e200hub",
    "e200device",
    "e200status",
    "e200kind",
    "e200text",
    "eheader",
    "ecut",
];
/// Throttled, with the signature in all its words. The place is left alone afterwards: it comes last.
pub const THROTTLED: &str = "e429json";

pub struct Azure {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// Each as it was sent, and decoded.
    signatures: BTreeSet<String>,
    /// Paths that were asked for.
    asked: BTreeSet<String>,
}

impl Azure {
    pub async fn start(hubs: [&'static str; 4]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let kept = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, hubs, Arc::clone(&kept)));
            }
        });
        Self { address, seen }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The signatures that were sent, as they were sent and as they are in base64.
    pub fn signatures(&self) -> Vec<String> {
        self.seen.lock().unwrap().signatures.iter().cloned().collect()
    }

    /// Whether anybody asked for a path with this in it.
    pub fn was_asked(&self, part: &str) -> bool {
        self.seen.lock().unwrap().asked.iter().any(|path| path.contains(part))
    }
}

async fn serve(mut stream: TcpStream, hubs: [&'static str; 4], seen: Arc<Mutex<Seen>>) {
    let mut request = Vec::new();
    let mut buffer = [0; 4_096];
    // Reads alone are asked for, which have no body.
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
    let request = String::from_utf8(request).unwrap();
    let header = |name: &str| {
        let line = request.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}: ")));
        line.and_then(|line| line.split_once(": ")).map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let authorization = header("authorization");
    let signature = authorization
        .split('&')
        .find_map(|part| part.strip_prefix("sig="))
        .unwrap_or_else(|| panic!("{path} is not signed"))
        .to_owned();
    {
        let mut seen = seen.lock().unwrap();
        seen.signatures.insert(signature.replace("%2B", "+").replace("%2F", "/").replace("%3D", "="));
        seen.asked.insert(format!("{}{path}", header("host")));
    }
    let is_hub = header("host").starts_with("hub-");
    let id = path.split(['/', '?']).nth(2).unwrap_or_default().to_owned();
    // `dps-…` goes wrong at DPS, `hub-…` at the hub.
    let (place, wrong) = id.split_once('-').unwrap_or((&id, ""));
    let echo = Echo { authorization: &authorization, signature: &signature, is_hub };
    let goes_wrong = (place == "hub") == is_hub && place != "fine";
    let answer = if goes_wrong { echo.wrong(wrong, &id) } else { right(&id, is_hub, hubs) };
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn answer(status: u16, kind: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Told\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
}

const JSON: &str = "application/json; charset=utf-8";

/// The device is on the hub whose number its name ends in.
fn right(id: &str, is_hub: bool, hubs: [&str; 4]) -> String {
    let hub = hubs[id.bytes().last().map_or(0, |digit| usize::from(digit - b'0'))];
    let body = match is_hub {
        true => format!(r#"{{"deviceId":"{id}","generationId":"1","etag":"MQ==","status":"enabled"}}"#),
        false => format!(
            r#"{{"registrationId":"{id}","assignedHub":"{hub}","deviceId":"{id}","status":"assigned","substatus":"initialAssignment","lastUpdatedDateTimeUtc":"2026-01-01T00:00:01Z","etag":"MQ=="}}"#
        ),
    };
    answer(200, JSON, "", &body)
}

struct Echo<'a> {
    authorization: &'a str,
    signature: &'a str,
    is_hub: bool,
}

impl Echo<'_> {
    fn wrong(&self, wrong: &str, id: &str) -> String {
        let Self { authorization, signature, .. } = self;
        let decoded = signature.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=");
        let kind = wrong.split('-').next().unwrap_or_default();
        match kind {
            "e401json" => answer(401, JSON, "", &self.error(401_002)),
            "e403json" => answer(403, JSON, "", &self.error(403_000)),
            "e409json" => answer(409, JSON, "", &self.error(409_201)),
            "e429json" => answer(429, JSON, "retry-after: 1\r\n", &self.error(429_001)),
            "e500json" => answer(500, JSON, "", &self.error(500_001)),
            "e401html" => answer(401, "text/html", "", &format!("<html>{authorization}</html>")),
            "e404text" => answer(404, "text/plain", "", authorization),
            "e500text" => answer(500, "text/plain", "", &format!("{signature} {decoded}")),
            "e200html" => answer(200, "text/html", "", &format!("{authorization}<html>")),
            // What is told of the caller in the place of what was asked.
            "e200text" => {
                answer(200, JSON, "", &format!(r#"{{"status":"{decoded}","deviceId":"{authorization}"}}"#))
            }
            "e200half" => answer(
                200,
                JSON,
                "",
                &format!(r#"{{"registrationId":"{id}","deviceId":"{id}","etag":"{decoded}","#),
            ),
            // Whatever of a signature fits a name.
            "e200name" => {
                let name: String = decoded.chars().filter(char::is_ascii_alphanumeric).collect();
                let body = format!(
                    r#"{{"registrationId":"{name}","deviceId":"{signature}","status":"assigned","assignedHub":"hub-file.azure-devices.net"}}"#
                );
                answer(200, JSON, "", &body)
            }
            "e200hub" => {
                let name: String = decoded.chars().filter(char::is_ascii_alphanumeric).collect();
                let body = format!(
                    r#"{{"registrationId":"{id}","deviceId":"{}","status":"assigned","assignedHub":"{name}.example"}}"#,
                    if self.is_hub { signature } else { id }
                );
                answer(200, JSON, "", &body)
            }
            "e200device" => {
                let body = format!(
                    r#"{{"registrationId":"{id}","deviceId":"{signature}","status":"assigned","assignedHub":"hub-file.azure-devices.net"}}"#
                );
                answer(200, JSON, "", &body)
            }
            "e200status" => {
                let body = format!(r#"{{"registrationId":"{id}","deviceId":"{id}","status":"{decoded}"}}"#);
                answer(200, JSON, "", &body)
            }
            "e200kind" => answer(200, &format!("{decoded}; {signature}"), "", "{}"),
            "eheader" => {
                let headers = format!(
                    "x-ms-request-id: {authorization}\r\niothub-errorcode: {decoded}\r\nx-ms-error-code: {signature}\r\nretry-after: {decoded}\r\n"
                );
                answer(500, &format!("application/json; {authorization}"), &headers, &self.error(500_001))
            }
            // Fewer bytes than were announced.
            _ => format!(
                "HTTP/1.1 200 {decoded}\r\ncontent-type: {JSON}\r\ncontent-length: 9999\r\n\r\n{authorization}"
            ),
        }
    }

    fn error(&self, code: u32) -> String {
        let Self { authorization, signature, is_hub } = self;
        let hash = STANDARD.encode([7; 6]);
        match is_hub {
            true => format!(
                r#"{{"Message":"ErrorCode:{signature};Unauthorized {authorization} {hash}","ExceptionMessage":"Tracking ID:{signature}-TimeStamp:{authorization}"}}"#
            ),
            false => format!(
                r#"{{"errorCode":{code},"trackingId":"{signature}","message":"Wrong: {authorization}","timestampUtc":"{signature}","info":{{"k":"{authorization}"}}}}"#
            ),
        }
    }
}
