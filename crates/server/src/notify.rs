//! Tells systemd that the node is ready or stops, by the datagram that `sd_notify` sends.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where a service's supervisor listens, if it does.
#[derive(Debug, Clone, Default)]
pub struct Notifier(Option<OsString>);

impl Notifier {
    /// A notifier for the value of `NOTIFY_SOCKET`; without one it says nothing.
    pub fn new(socket: Option<OsString>) -> Self {
        Self(socket.filter(|socket| !socket.is_empty()))
    }

    /// The node serves.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The node stops, and will take a moment.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    fn tell(&self, state: &str) {
        let Some(socket) = &self.0 else { return };
        if let Err(error) = send(socket, state) {
            // The node runs well without its supervisor's knowing; whoever configured the socket wants to hear.
            tracing::warn!(socket = %socket.display(), state, %error, "cannot tell the supervisor");
        }
    }
}

fn send(socket: &OsString, state: &str) -> io::Result<()> {
    // A leading @ stands for the zero byte of an abstract name.
    let addr = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let datagram = UnixDatagram::unbound()?;
    // A supervisor that does not read must not hold the node up.
    datagram.set_nonblocking(true)?;
    datagram.send_to_addr(state.as_bytes(), &addr).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn both_kinds_of_socket_hear_the_states() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(Some(path.into_os_string()));
        notifier.ready();
        notifier.stopping();
        assert_eq!(heard(&by_path), "READY=1");
        assert_eq!(heard(&by_path), "STOPPING=1");

        let name = format!("berth-notify-{}", std::process::id());
        let abstracted = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Notifier::new(Some(format!("@{name}").into())).ready();
        assert_eq!(heard(&abstracted), "READY=1");
    }

    #[test]
    fn nothing_happens_without_a_socket_or_a_listener() {
        Notifier::new(None).ready();
        Notifier::new(Some(OsString::new())).ready();
        Notifier::new(Some("/nonexistent/notify".into())).ready();
    }
}
