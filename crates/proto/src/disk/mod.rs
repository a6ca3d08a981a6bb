//! What is kept on disk and in the log: rows, topology objects, label sets, replies, commands.
//!
//! Every value says its format. Decoders take arbitrary bytes: they never panic, and never allocate more than a
//! small multiple of what they were given. Row and command layouts are fixed here, byte by byte, because there are
//! millions of them; topology objects and replies are protobuf messages behind a format byte.

mod command;
mod object;
mod reply;
mod row;
#[cfg(test)]
mod tests;
mod topology_edit;

use std::fmt;

pub use command::{ACTOR_BYTES_MAX, REASON_BYTES_MAX, decode_proposal, encode_proposal};
pub use object::{
    decode_hub, decode_label_set, decode_route, decode_scope, decode_stamp, encode_hub, encode_label_set,
    encode_route, encode_scope, encode_stamp,
};
pub use reply::{REPLY_BYTES_MAX, decode_reply, encode_reply};
pub use row::{MAPPING_BYTES_MAX, decode_mapping, encode_mapping};

/// Why bytes are not what they should be, or a value cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end too early.
    #[error("{what}: the bytes end too early")]
    Short {
        /// What was being read.
        what: &'static str,
    },
    /// The bytes go on after the end.
    #[error("{what}: {extra} bytes after its end")]
    Trailing {
        /// What was being read.
        what: &'static str,
        /// Bytes left over.
        extra: usize,
    },
    /// A newer Berth wrote this.
    #[error("{what}: format or kind {found} is not known to this build; upgrade this node")]
    Unknown {
        /// What was being read.
        what: &'static str,
        /// The format or kind found.
        found: u64,
    },
    /// A value is out of range or not legal.
    #[error("{what}: {problem}")]
    Illegal {
        /// What was being read or written.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl CodecError {
    pub(crate) fn illegal(what: &'static str, problem: impl fmt::Display) -> Self {
        Self::Illegal { what, problem: problem.to_string() }
    }

    /// True where a newer build may know what this one does not.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}

/// Takes values off the front of a slice.
pub(crate) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CodecError::Short { what: self.what })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) =
            self.rest.split_first_chunk::<N>().ok_or(CodecError::Short { what: self.what })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CodecError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, CodecError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_le_bytes)
    }

    /// A 24-bit number.
    pub(crate) fn u24(&mut self) -> Result<u32, CodecError> {
        self.array().map(|[a, b, c]| u32::from_le_bytes([a, b, c, 0]))
    }

    /// A 48-bit number.
    pub(crate) fn u48(&mut self) -> Result<u64, CodecError> {
        self.array().map(|[a, b, c, d, e, f]| u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// A number in groups of seven bits, lowest first, in its shortest form.
    pub(crate) fn varint(&mut self) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(CodecError::illegal(self.what, "a number of more than 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(CodecError::illegal(self.what, "a number that is not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(CodecError::illegal(self.what, "a number of more than 64 bits"))
    }

    /// How many things follow: at most `max`, and no more than there are bytes for.
    pub(crate) fn count(&mut self, max: usize) -> Result<usize, CodecError> {
        let count = self.varint()?;
        match usize::try_from(count) {
            Ok(count) if count > max => Err(CodecError::illegal(
                self.what,
                format_args!("a count of {count}; at most {max} are allowed"),
            )),
            Ok(count) if count <= self.rest.len() => Ok(count),
            _ => Err(CodecError::Short { what: self.what }),
        }
    }

    /// A text of up to 255 bytes behind a byte of length.
    pub(crate) fn short_text(&mut self) -> Result<&'a str, CodecError> {
        let length = self.u8()?;
        let bytes = self.take(usize::from(length))?;
        std::str::from_utf8(bytes).map_err(|_| CodecError::illegal(self.what, "a text that is not UTF-8"))
    }

    /// Checks that nothing is left.
    pub(crate) fn end(&self) -> Result<(), CodecError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(CodecError::Trailing { what: self.what, extra }),
        }
    }
}

/// Writes a number in groups of seven bits, lowest first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Writes a text of up to 255 bytes behind a byte of length.
pub(crate) fn put_short_text(out: &mut Vec<u8>, what: &'static str, text: &str) -> Result<(), CodecError> {
    let length = u8::try_from(text.len()).map_err(|_| {
        CodecError::illegal(what, format_args!("a text of {} bytes; at most 255 are allowed", text.len()))
    })?;
    out.push(length);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Wraps a parse error of the core.
pub(crate) fn legal<T, E: fmt::Display>(what: &'static str, parsed: Result<T, E>) -> Result<T, CodecError> {
    parsed.map_err(|error| CodecError::illegal(what, error))
}
