//! Changes to bytes: flips, cuts, copies, and numbers at the ends of their range.

use std::fmt::Write;

use rand::RngExt;
use rand::rngs::StdRng;

/// Most changes to one piece of bytes: with many nothing of its form is left, and only the first check is tried.
const CHANGES_MAX: u32 = 4;
/// Longest piece that is copied or taken out.
const PIECE_MAX: usize = 64;
/// Bytes of rubbish that are shown.
const SHOWN_MAX: usize = 600;
/// A number of ten groups of seven bits: 2^64 - 1, and one past every bound.
const VARINT_MAX: [u8; 10] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];

/// Bytes that a test works on: shown if it panics.
pub struct Rubbish<'a> {
    pub what: &'static str,
    pub bytes: &'a [u8],
    pub seed: u64,
}

impl Drop for Rubbish<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut hex = String::new();
            for byte in self.bytes.iter().take(SHOWN_MAX) {
                // Writing to a string cannot fail.
                let _ = write!(hex, "{byte:02x}");
            }
            eprintln!("{} of {} bytes, seed {}: {hex}", self.what, self.bytes.len(), self.seed);
        }
    }
}

pub fn tampered(random: &mut StdRng, whole: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..random.random_range(0..=CHANGES_MAX) {
        change(random, &mut bytes, other);
    }
    bytes
}

fn change(random: &mut StdRng, bytes: &mut Vec<u8>, other: &[u8]) {
    if bytes.is_empty() {
        bytes.push(random.random());
        return;
    }
    let at = random.random_range(0..bytes.len());
    match random.random_range(0..10) {
        0 | 1 => bytes[at] ^= 1 << random.random_range(0..8),
        2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xfe, 0xff][random.random_range(0..6)],
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(piece(random, bytes.len()))),
        5 => {
            let copied = bytes[piece(random, bytes.len())].to_vec();
            insert(bytes, at, &copied);
        }
        6 => {
            let taken = if other.is_empty() { 0..0 } else { piece(random, other.len()) };
            let end = bytes.len().min(at + taken.len());
            bytes.splice(at..end, other[taken].iter().copied());
        }
        7 => overwrite(bytes, at, &extreme(random)),
        8 => insert(bytes, at, &VARINT_MAX[random.random_range(0..10)..]),
        _ => {
            let noise: [u8; 5] = random.random();
            insert(bytes, at, &noise[..random.random_range(1..=5)]);
        }
    }
}

/// A number at an end of its range, in one of the widths and orders that a layout may have.
fn extreme(random: &mut StdRng) -> Vec<u8> {
    let number = [0, 1, u64::MAX, u64::MAX - 1, i64::MAX as u64, u64::from(u32::MAX), 1 << 30]
        [random.random_range(0..7)];
    let width = [1, 2, 3, 4, 6, 8][random.random_range(0..6)];
    if random.random() {
        number.to_le_bytes()[..width].to_vec()
    } else {
        number.to_be_bytes()[8 - width..].to_vec()
    }
}

fn piece(random: &mut StdRng, length: usize) -> std::ops::Range<usize> {
    let from = random.random_range(0..length);
    from..length.min(from + random.random_range(1..=PIECE_MAX))
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    bytes.splice(at..at, piece.iter().copied());
}

fn overwrite(bytes: &mut [u8], at: usize, piece: &[u8]) {
    for (byte, new) in bytes[at..].iter_mut().zip(piece) {
        *byte = *new;
    }
}
