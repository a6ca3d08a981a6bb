//! Takes out of texts what must not be shown or kept.

/// Shortest run of base64 letters that is taken for a key: tracking IDs have 32, device keys 44 and more.
const KEY_CHARS_MIN: usize = 40;
/// Bytes of a nonsensical answer that an error shows.
const FIRST_BYTES: usize = 48;
/// Names whose value is a secret, however long, where `=` or `:` stands between; in lower case.
const NAMES: [&str; 8] = [
    "sharedaccesskey",
    "authenticationkey",
    "primarykey",
    "secondarykey",
    "accesskey",
    "sig",
    "access_token",
    "client_secret",
];
/// Shortest run that is taken for a key after the word `key`, whatever stands between: 16 bytes in base64.
const NAMED_KEY_CHARS_MIN: usize = 24;
/// Most quotes, escapes, blanks and signs between a name and its value.
const GAP_MAX: usize = 12;
/// What stands in the place of a secret.
const MASK: &str = "(masked)";

/// A text of Azure's as an error may keep it: one line, at most `chars_max` long, nothing in it that looks like a key.
pub(crate) fn masked(text: &str, chars_max: usize) -> String {
    let bytes = text.as_bytes();
    let lower = text.to_ascii_lowercase();
    let mut out = String::new();
    let mut at = 0;
    while at < bytes.len() && out.len() <= chars_max * 4 {
        if let Some((from, length)) = secret(lower.as_bytes(), at) {
            push(&mut out, text.get(at..from));
            out.push_str(MASK);
            at = from + length;
            continue;
        }
        let (length, chars) = key_run(bytes, at);
        if chars >= KEY_CHARS_MIN {
            out.push_str(MASK);
            at += length;
        } else {
            let found = text.get(at..).and_then(|rest| rest.chars().next()).unwrap_or(' ');
            out.push(if found.is_control() { ' ' } else { found });
            at += found.len_utf8();
        }
    }
    let mut kept: String = out.chars().take(chars_max).collect();
    if kept.len() < out.len() {
        kept.push('…');
    }
    kept.trim().to_owned()
}

/// How many bytes of a run of base64 letters stand here, percent-encoded or not, and how many letters those are.
fn key_run(bytes: &[u8], from: usize) -> (usize, usize) {
    let (mut at, mut chars) = (from, 0);
    while let Some(byte) = bytes.get(at) {
        let encoded = bytes.get(at + 1..at + 3).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        at += match encoded {
            _ if is_key_char(*byte) => 1,
            Some(_) if *byte == b'%' => 3,
            _ => break,
        };
        chars += 1;
    }
    (at - from, chars)
}

fn push(out: &mut String, piece: Option<&str>) {
    out.push_str(piece.unwrap_or_default());
}

/// Where the secret after a name that begins at `at` stands, and how long it is.
fn secret(lower: &[u8], at: usize) -> Option<(usize, usize)> {
    let begins = |word: &str| lower.get(at..).is_some_and(|rest| rest.starts_with(word.as_bytes()));
    let after = |word: &str, least: usize, is_sign: fn(u8) -> bool| {
        if !begins(word) {
            return None;
        }
        let end = at + word.len();
        let gap = run(lower, end, is_gap).min(GAP_MAX);
        let has_sign = lower.get(end..end + gap).is_some_and(|gap| gap.iter().any(|byte| is_sign(*byte)));
        let length = run(lower, end + gap, is_value_char);
        (has_sign && length >= least).then_some((end + gap, length))
    };
    let is_word =
        at.checked_sub(1).and_then(|before| lower.get(before)).is_none_or(|b| !b.is_ascii_alphanumeric());
    NAMES
        .iter()
        .find_map(|name| after(name, 1, |byte| b"=:".contains(&byte)))
        .or_else(|| after("bearer", 1, |byte| byte == b' '))
        // A webhook's key; but not the number of an `errorcode=`.
        .or_else(|| if is_word { after("code", 1, |byte| byte == b'=') } else { None })
        .or_else(|| after("keys", NAMED_KEY_CHARS_MIN, is_gap))
        .or_else(|| after("key", NAMED_KEY_CHARS_MIN, is_gap))
}

/// What stands between a name and its value: signs, blanks, and quotes, escaped or not. No letter of base64 but `=`.
fn is_gap(byte: u8) -> bool {
    b"=: \"'\\([<`".contains(&byte)
}

/// What a secret after a name is made of: base64 of both alphabets, tokens, and either of them percent-encoded.
fn is_value_char(byte: u8) -> bool {
    is_key_char(byte) || b"-._~%".contains(&byte)
}

fn is_key_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)
}

fn run(bytes: &[u8], from: usize, belongs: impl Fn(u8) -> bool) -> usize {
    bytes.get(from..).unwrap_or_default().iter().take_while(|byte| belongs(**byte)).count()
}

/// The first bytes of an answer, for a person to see its kind: letters become `x`, digits `0`, and what is not ASCII `?`.
pub(crate) fn first_bytes(body: &[u8]) -> String {
    if body.is_empty() {
        return "with nothing".to_owned();
    }
    let shown: String = body
        .iter()
        .take(FIRST_BYTES)
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' => 'x',
            b'0'..=b'9' => '0',
            b' '..=b'~' => char::from(*byte),
            b'\n' | b'\r' | b'\t' => ' ',
            _ => '?',
        })
        .collect();
    format!("`{shown}`, {} bytes in all", body.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn keys_are_masked_and_the_rest_stays() {
        for text in [
            format!("bad SharedAccessKey={KEY};next"),
            format!("xsig=2E4gSZOA%2B{KEY}&se=1"),
            format!("{{\"primaryKey\":\"{KEY}\"}}"),
            format!("a key: {KEY}."),
            "Bearer abc.def".to_owned(),
            "got Bearer abc-def_ghi.abc~x".to_owned(),
            "https://f.example/api?code=abc-def_ghi.abc==&name=x".to_owned(),
            "sig=abc-._~abc&se=1".to_owned(),
            "{\\\"primaryKey\\\" : \\\"abc\\\"}".to_owned(),
            "{\"SecondaryKey\" : \"abc\"}".to_owned(),
            "SharedAccessKey = abc".to_owned(),
            // 16 bytes, the shortest key.
            "the key 'AAECAwQFBgcICQoLDA0ODw==' is wrong".to_owned(),
            "key: AAECAwQFBgcICQoLDA0ODw==".to_owned(),
            "symmetricKey=AAECAwQFBgcICQoLDA0ODw%3D%3D".to_owned(),
            // A signature as it is sent, with nothing around it that says so.
            "tracking ID AAEC7dabc%2BabcFN%2fabcvVwabcabcabcabcabcabcAAEC%3D".to_owned(),
        ] {
            let shown = masked(&text, 512);
            assert!(!shown.contains("AAEC") && !shown.contains("2E4g") && !shown.contains("abc"), "{shown}");
            assert!(shown.contains(MASK), "{shown}");
        }
        let plain = "Tracking ID:8ad0463c0d1b4b7f8ad0463c0d1b4b7f-G:0, device 'pump-1' is not registered.";
        assert_eq!(masked(plain, 512), plain);
        for plain in ["SharedAccessKeyName=service", "errorcode=404001", "the key is wrong", "bearer", "sig"]
        {
            assert_eq!(masked(plain, 512), plain);
        }
    }

    #[test]
    fn a_message_is_one_line_of_bounded_length() {
        assert_eq!(masked("a\r\nb\u{7}c", 512), "a  b c");
        let long = "é ".repeat(1_000);
        assert_eq!(masked(&long, 10).chars().count(), 11);
    }

    #[test]
    fn the_first_bytes_tell_html_from_json_and_nothing_more() {
        assert_eq!(first_bytes(b"<html>503"), "`<xxxx>000`, 9 bytes in all");
        assert_eq!(first_bytes(b"{\"primaryKey\":\"AAEC\"}"), "`{\"xxxxxxxxxx\":\"xxxx\"}`, 21 bytes in all");
        assert_eq!(first_bytes(b""), "with nothing");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_or_grow(text in "\\PC{0,300}", max in 1_usize..64) {
            prop_assert!(masked(&text, max).chars().count() <= max + 1);
        }

        #[test]
        fn a_key_never_gets_through(before in "[ a-z.,:;-]{0,40}", after in "[ .,;:]{0,10}") {
            let shown = masked(&format!("{before} {KEY}{after}"), 512);
            prop_assert!(!shown.contains("AAECAwQF"), "{}", shown);
        }
    }
}
