//! Golden bytes: what is on the wire and on disk today must still be read, and written alike, tomorrow.
//!
//! Each case is a value, and its bytes as hexadecimal digits. A changed case means that nodes of different versions
//! no longer understand each other or their own files: add a format or a field instead.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

/// A test for each message: its bytes are these, and they are read as it.
macro_rules! goldens {
    ($($name:ident: $message:expr => $hex:literal;)+) => {
        $(
            #[test]
            fn $name() {
                let message = $message;
                check(&[Golden::new(stringify!($name), message.encode_to_vec(), $hex)]);
                comes_back(message, $hex);
            }
        )+
    };
}

mod disk;
mod errors;
mod messages;
mod peers;

use std::fmt::{Debug, Write};

use prost::Message;

/// A value's bytes, and what they have to be.
struct Golden {
    name: &'static str,
    bytes: Vec<u8>,
    hex: &'static str,
}

impl Golden {
    fn new(name: &'static str, bytes: impl Into<Vec<u8>>, hex: &'static str) -> Self {
        Self { name, bytes: bytes.into(), hex }
    }
}

/// Compares all cases, and tells every difference at once.
fn check(cases: &[Golden]) {
    let mut differences = String::new();
    for case in cases {
        let found = to_hex(&case.bytes);
        if found != case.hex.split_whitespace().collect::<String>() {
            writeln!(differences, "{}\n  is     {found}\n  but was {}", case.name, case.hex).unwrap();
        }
    }
    assert!(differences.is_empty(), "bytes have changed:\n{differences}");
}

/// Reads the bytes back: they are of this message, and nothing of them is lost.
fn comes_back<M: Message + Default + PartialEq + Debug>(message: M, hex: &str) {
    let bytes = from_hex(hex);
    let read = M::decode(bytes.as_slice()).unwrap();
    assert_eq!(read.encode_to_vec(), bytes);
    assert_eq!(read, message);
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn from_hex(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}
