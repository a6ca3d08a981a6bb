//! Searches for secrets in whatever form: as they are, decoded, encoded once more, and in pieces of them.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// Shortest piece that counts as telling a secret, in bytes: by chance none is found in any amount of text.
const PIECE: usize = 10;
/// The same where each byte is written as a number: of those a piece says less.
const PIECE_OF_NUMBERS: usize = 48;

/// What is searched for.
#[derive(Default)]
pub struct Needles {
    texts: Pieces<PIECE>,
    numbers: Pieces<PIECE_OF_NUMBERS>,
}

/// All pieces of one length.
struct Pieces<const N: usize> {
    pieces: HashSet<[u8; N]>,
    /// Whether a piece begins with these three bytes: most places are passed by it.
    begins: Vec<bool>,
}

impl<const N: usize> Default for Pieces<N> {
    fn default() -> Self {
        Self { pieces: HashSet::new(), begins: vec![false; 1 << 24] }
    }
}

impl<const N: usize> Pieces<N> {
    fn add(&mut self, form: &[u8]) {
        for piece in form.windows(N) {
            self.begins[beginning(piece)] = true;
            self.pieces.insert(piece.try_into().unwrap());
        }
    }

    fn find(&self, text: &[u8]) -> Option<usize> {
        text.windows(N).position(|piece| self.begins[beginning(piece)] && self.pieces.contains(piece))
    }

    /// All of a form is found in the middle of something, and either half of it.
    fn check_bite(&self, form: &[u8]) {
        let (end, start) = (form.len() / 2 + N / 2, form.len() / 2 - N / 2);
        for part in [form, &form[..end], &form[start..]] {
            let hidden = [b"nothing to see ", part, b" here"].concat();
            assert!(self.find(&hidden).is_some(), "a form of a secret is not searched for");
        }
    }
}

fn beginning(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2])
}

/// All that is not alphanumeric, as `%2F` or as `%2f`.
fn percent(text: &str, upper: bool) -> String {
    let encode = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte if upper => format!("%{byte:02X}"),
        byte => format!("%{byte:02x}"),
    };
    text.bytes().map(encode).collect()
}

/// The bytes that a key stands for.
fn decoded(secret: &str) -> Option<Vec<u8>> {
    STANDARD.decode(secret.trim_start_matches('!')).ok()
}

fn texts(secret: &str) -> Vec<Vec<u8>> {
    let mut forms = vec![
        secret.as_bytes().to_vec(),
        percent(secret, true).into_bytes(),
        percent(secret, false).into_bytes(),
        percent(&percent(secret, true), true).into_bytes(),
        secret.replace('/', "\\/").into_bytes(),
        STANDARD.encode(secret).into_bytes(),
    ];
    if let Some(decoded) = decoded(secret) {
        forms.push(URL_SAFE.encode(&decoded).into_bytes());
        forms.push(decoded);
    }
    forms
}

/// As hexadecimal digits, and as `Debug` writes bytes.
fn numbers(secret: &str) -> Vec<Vec<u8>> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes();
    let debug = |bytes: &[u8]| format!("{bytes:?}").trim_matches(['[', ']']).as_bytes().to_vec();
    let bytes = secret.as_bytes();
    let mut forms = vec![hex(bytes), debug(bytes)];
    if let Some(decoded) = decoded(secret) {
        forms.extend([hex(&decoded), debug(&decoded)]);
    }
    forms
}

impl Needles {
    pub fn add(&mut self, secret: &str) {
        texts(secret).iter().for_each(|form| self.texts.add(form));
        numbers(secret).iter().for_each(|form| self.numbers.add(form));
    }

    /// Where the first piece of a secret stands.
    pub fn find(&self, text: &[u8]) -> Option<usize> {
        self.texts.find(text).or_else(|| self.numbers.find(text))
    }

    /// The search finds this secret in any form that is long enough for it.
    pub fn check_bite(&self, secret: &str) {
        let long = |forms: Vec<Vec<u8>>, min| forms.into_iter().filter(move |form| form.len() >= min);
        long(texts(secret), PIECE).for_each(|form| self.texts.check_bite(&form));
        long(numbers(secret), PIECE_OF_NUMBERS).for_each(|form| self.numbers.check_bite(&form));
        assert_eq!(self.find(b"nothing to see here, of no secret at all, 0123456789"), None);
    }
}
