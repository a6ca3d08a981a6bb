//! What a normal entry of the Raft log carries: one frame of bytes, written once by the leader
//! and copied unchanged to every log, wire and replica.
//!
//! A frame starts with a format byte and a kind byte. Numbers are little-endian. Decoding never
//! panics and never allocates more than the frame's own length, whatever the bytes are.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

/// The only frame format so far.
pub const FRAME_FORMAT: u8 = 1;
/// Commands that one frame may hold: keeps the time to apply one entry within a few milliseconds.
pub const FRAME_COMMANDS_MAX: usize = 1_000;
/// Bytes of a frame with more than one command; with a second entry behind it still a peer message.
pub const FRAME_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of a single command: with its frame and envelope it must fit a peer message of 4 MiB.
pub const COMMAND_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Bytes of any frame that a decoder accepts: one largest command and its frame.
pub const PAYLOAD_BYTES_MAX: usize = COMMAND_BYTES_MAX + 4 * 1024;
/// Bytes of a node's name or address inside a frame; host names end at 253.
const TEXT_BYTES_MAX: usize = 1_024;

const KIND_COMMANDS: u8 = 1;
const KIND_GENESIS: u8 = 2;
const KIND_ADMIT: u8 = 3;

/// The bytes of a normal entry, owned and cheap to clone.
///
/// The bytes are never a slice of a larger buffer: an entry stays in the log cache for long, and a
/// slice would keep the whole receive buffer it came in alive.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Arc<[u8]>);

/// What a [`Payload`] says, borrowed from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Commands in the order to decide them.
    Commands {
        /// The leader's clock when it built the frame, in Unix milliseconds; never lower than the
        /// stamp of the frame before.
        stamp_ms: u64,
        /// The encoded commands.
        commands: Vec<&'a [u8]>,
    },
    /// The birth of the cluster: the first normal entry of the log.
    Genesis(Genesis),
    /// A node shows up with its data directory for the first time.
    Admit(Admit),
}

/// The birth certificate of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// The founder's clock, in Unix milliseconds.
    pub stamp_ms: u64,
    /// Names the cluster for ever.
    pub cluster_id: Uuid,
    /// Keys the hash that spreads devices over pages.
    pub hash_key: [u8; 16],
}

/// Binds a node ID to one data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admit {
    /// The leader's clock, in Unix milliseconds.
    pub stamp_ms: u64,
    /// The node; `None` asks for a new ID, which is the log index of this very entry.
    pub node_id: Option<u64>,
    /// The random identity of the node's data directory.
    pub incarnation: Uuid,
    /// The name that an operator gave it.
    pub name: String,
    /// Where peers reach it.
    pub peer_addr: String,
    /// Where clients reach it.
    pub client_addr: String,
}

/// Why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The frame ends before what it announces.
    #[error("the entry frame of {len} bytes ends inside its {part}")]
    Short {
        /// Bytes there are.
        len: usize,
        /// What was being read.
        part: &'static str,
    },
    /// Bytes follow the end of the frame.
    #[error("the entry frame is followed by {extra} bytes that belong to nothing")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A newer Berth wrote it.
    #[error("entry frame format {format} is not known (this build knows {FRAME_FORMAT}); upgrade this node")]
    UnknownFormat {
        /// The format byte found.
        format: u8,
    },
    /// A newer Berth wrote it.
    #[error("entry kind {kind} is not known to this build; upgrade this node")]
    UnknownKind {
        /// The kind byte found.
        kind: u8,
    },
    /// A count or length is past its bound.
    #[error("{what} is {value}, more than the {max} that an entry frame may hold")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The value found.
        value: usize,
        /// The bound.
        max: usize,
    },
    /// A text field is not UTF-8.
    #[error("the {part} of an admit frame is not UTF-8")]
    Text {
        /// Which field.
        part: &'static str,
    },
}

impl Payload {
    /// Frames commands.
    ///
    /// # Errors
    /// [`PayloadError::TooLarge`] when there are more than [`FRAME_COMMANDS_MAX`], when one exceeds
    /// [`COMMAND_BYTES_MAX`], or when several exceed [`FRAME_BYTES_MAX`] together.
    pub fn commands(stamp_ms: u64, commands: &[Bytes]) -> Result<Self, PayloadError> {
        at_most("the number of commands", commands.len(), FRAME_COMMANDS_MAX)?;
        let total: usize = commands.iter().map(Bytes::len).sum();
        if commands.len() > 1 {
            at_most("the bytes of several commands", total, FRAME_BYTES_MAX)?;
        } else {
            at_most("the bytes of one command", total, COMMAND_BYTES_MAX)?;
        }
        let mut out = Vec::with_capacity(14 + 4 * commands.len() + total);
        out.extend_from_slice(&[FRAME_FORMAT, KIND_COMMANDS]);
        out.extend_from_slice(&stamp_ms.to_le_bytes());
        // The bounds above are far below 2^32.
        out.extend_from_slice(&(commands.len() as u32).to_le_bytes());
        for command in commands {
            out.extend_from_slice(&(command.len() as u32).to_le_bytes());
            out.extend_from_slice(command);
        }
        Ok(Self(out.into()))
    }

    /// Frames the birth of a cluster.
    #[must_use]
    pub fn genesis(genesis: &Genesis) -> Self {
        let mut out = Vec::with_capacity(42);
        out.extend_from_slice(&[FRAME_FORMAT, KIND_GENESIS]);
        out.extend_from_slice(&genesis.stamp_ms.to_le_bytes());
        out.extend_from_slice(genesis.cluster_id.as_bytes());
        out.extend_from_slice(&genesis.hash_key);
        Self(out.into())
    }

    /// Frames a node's first contact.
    ///
    /// # Errors
    /// [`PayloadError::TooLarge`] when a text field is longer than 1,024 bytes.
    pub fn admit(admit: &Admit) -> Result<Self, PayloadError> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(&[FRAME_FORMAT, KIND_ADMIT]);
        out.extend_from_slice(&admit.stamp_ms.to_le_bytes());
        // Zero is never a joined node's ID (index 0 holds the first membership), but it may be a
        // founder's, so presence has its own byte.
        out.push(u8::from(admit.node_id.is_some()));
        out.extend_from_slice(&admit.node_id.unwrap_or_default().to_le_bytes());
        out.extend_from_slice(admit.incarnation.as_bytes());
        for text in [&admit.name, &admit.peer_addr, &admit.client_addr] {
            at_most("the length of a name or address", text.len(), TEXT_BYTES_MAX)?;
            out.extend_from_slice(&(text.len() as u16).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        Ok(Self(out.into()))
    }

    /// Takes bytes from a peer or a disk. They are copied, so that nothing larger stays alive.
    ///
    /// The bytes are not interpreted: a follower stores what its leader wrote. [`Self::frame`]
    /// interprets them when they are applied.
    ///
    /// # Errors
    /// [`PayloadError::TooLarge`] past [`PAYLOAD_BYTES_MAX`].
    pub fn from_slice(bytes: &[u8]) -> Result<Self, PayloadError> {
        at_most("the entry payload", bytes.len(), PAYLOAD_BYTES_MAX)?;
        Ok(Self(bytes.into()))
    }

    /// The bytes, as they travel and are stored.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The bytes for a message, shared rather than copied.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        Bytes::from_owner(Shared(Arc::clone(&self.0)))
    }

    /// Reads the frame.
    ///
    /// # Errors
    /// [`PayloadError`] says what is wrong; an unknown format or kind means that a newer build wrote
    /// it, and the node must stop before applying it.
    pub fn frame(&self) -> Result<Frame<'_>, PayloadError> {
        decode(&self.0)
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Payload {
    /// Kind and size only: commands name devices, and logs must not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0.get(1) {
            Some(&KIND_COMMANDS) => "commands",
            Some(&KIND_GENESIS) => "genesis",
            Some(&KIND_ADMIT) => "admit",
            _ => "unknown",
        };
        write!(f, "{kind}({} bytes)", self.0.len())
    }
}

struct Shared(Arc<[u8]>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn at_most(what: &'static str, value: usize, max: usize) -> Result<(), PayloadError> {
    if value > max { Err(PayloadError::TooLarge { what, value, max }) } else { Ok(()) }
}

fn decode(bytes: &[u8]) -> Result<Frame<'_>, PayloadError> {
    let mut cursor = Cursor { all: bytes, at: 0 };
    let [format, kind] = cursor.array("head")?;
    if format != FRAME_FORMAT {
        return Err(PayloadError::UnknownFormat { format });
    }
    let stamp_ms = u64::from_le_bytes(cursor.array("stamp")?);
    let frame = match kind {
        KIND_COMMANDS => {
            let count = u32::from_le_bytes(cursor.array("command count")?) as usize;
            at_most("the number of commands", count, FRAME_COMMANDS_MAX)?;
            let mut commands = Vec::with_capacity(count);
            for _ in 0..count {
                let len = u32::from_le_bytes(cursor.array("command length")?) as usize;
                commands.push(cursor.take(len, "command")?);
            }
            Frame::Commands { stamp_ms, commands }
        }
        KIND_GENESIS => Frame::Genesis(Genesis {
            stamp_ms,
            cluster_id: Uuid::from_bytes(cursor.array("cluster ID")?),
            hash_key: cursor.array("hash key")?,
        }),
        KIND_ADMIT => {
            let [given] = cursor.array("node ID")?;
            let id = u64::from_le_bytes(cursor.array("node ID")?);
            Frame::Admit(Admit {
                stamp_ms,
                node_id: (given != 0).then_some(id),
                incarnation: Uuid::from_bytes(cursor.array("incarnation")?),
                name: cursor.text("name")?,
                peer_addr: cursor.text("peer address")?,
                client_addr: cursor.text("client address")?,
            })
        }
        kind => return Err(PayloadError::UnknownKind { kind }),
    };
    match bytes.len() - cursor.at {
        0 => Ok(frame),
        extra => Err(PayloadError::Trailing { extra }),
    }
}

struct Cursor<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize, part: &'static str) -> Result<&'a [u8], PayloadError> {
        let short = PayloadError::Short { len: self.all.len(), part };
        let end = self.at.checked_add(len).ok_or_else(|| short.clone())?;
        let taken = self.all.get(self.at..end).ok_or(short)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], PayloadError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, part)?);
        Ok(out)
    }

    fn text(&mut self, part: &'static str) -> Result<String, PayloadError> {
        let len = u16::from_le_bytes(self.array(part)?) as usize;
        at_most("the length of a name or address", len, TEXT_BYTES_MAX)?;
        let bytes = self.take(len, part)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| PayloadError::Text { part })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn commands_come_back_as_they_went(stamp_ms: u64, commands in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..40)) {
            let bytes: Vec<Bytes> = commands.iter().cloned().map(Bytes::from).collect();
            let payload = Payload::commands(stamp_ms, &bytes).unwrap();
            let Frame::Commands { stamp_ms: stamp, commands: back } = payload.frame().unwrap() else { panic!("kind") };
            prop_assert_eq!(stamp, stamp_ms);
            prop_assert_eq!(back, commands.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_read_but_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..5) {
            let _ = Payload::from_slice(&bytes).unwrap().frame();
            if bytes.len() > 1 {
                bytes[0] = FRAME_FORMAT;
                bytes[1] = kind;
            }
            let _ = Payload::from_slice(&bytes).unwrap().frame();
        }

        #[test]
        fn a_frame_cut_anywhere_is_refused(cut in 0usize..100) {
            let whole = Payload::commands(7, &[Bytes::from_static(b"one"), Bytes::from_static(b"two")]).unwrap();
            let cut = cut % whole.as_slice().len();
            prop_assert!(Payload::from_slice(&whole.as_slice()[..cut]).unwrap().frame().is_err());
        }
    }

    #[test]
    fn genesis_and_admit_come_back_as_they_went() {
        let genesis = Genesis { stamp_ms: 3, cluster_id: Uuid::from_u128(9), hash_key: [5; 16] };
        assert_eq!(Payload::genesis(&genesis).frame(), Ok(Frame::Genesis(genesis)));
        for node_id in [None, Some(0), Some(u64::MAX)] {
            let admit = Admit {
                stamp_ms: 4,
                node_id,
                incarnation: Uuid::from_u128(1),
                name: "n1".into(),
                peer_addr: "10.0.0.1:7001".into(),
                client_addr: String::new(),
            };
            assert_eq!(Payload::admit(&admit).unwrap().frame(), Ok(Frame::Admit(admit)));
        }
    }

    #[test]
    fn bounds_are_kept_when_framing() {
        let many = vec![Bytes::new(); FRAME_COMMANDS_MAX + 1];
        assert!(matches!(Payload::commands(0, &many), Err(PayloadError::TooLarge { .. })));
        let half = Bytes::from(vec![0; FRAME_BYTES_MAX / 2 + 1]);
        assert!(matches!(Payload::commands(0, &[half.clone(), half]), Err(PayloadError::TooLarge { .. })));
        let largest = Bytes::from(vec![0; COMMAND_BYTES_MAX]);
        assert!(Payload::commands(0, &[largest]).unwrap().as_slice().len() <= PAYLOAD_BYTES_MAX);
    }
}
