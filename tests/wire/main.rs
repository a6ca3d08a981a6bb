//! Golden bytes: what is on the wire and on disk today must still be read, and written alike, tomorrow.
//!
//! Each case is a value, and its bytes as hexadecimal digits. A changed case means that nodes of different versions
//! no longer understand each other or their own files: add a format or a field instead.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod disk;
mod messages;

use std::fmt::Write;

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
