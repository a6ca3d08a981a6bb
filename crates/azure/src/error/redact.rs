//! Takes out of texts what must not be shown or kept.

/// Shortest run of base64 letters that is taken for a key: tracking IDs have 32, device keys 44 and more.
const KEY_CHARS_MIN: usize = 40;
/// Bytes of a nonsensical answer that an error shows.
const FIRST_BYTES: usize = 48;
/// Words that a secret follows, in lower case.
const BEFORE_SECRETS: [&str; 6] =
    ["sharedaccesskey=", "sig=", "authenticationkey\":\"", "primarykey\":\"", "secondarykey\":\"", "bearer "];
/// What stands in the place of a secret.
const MASK: &str = "(masked)";

/// A text of Azure's as an error may keep it: one line, at most `chars_max` long, nothing in it that looks like a key.
pub(crate) fn masked(text: &str, chars_max: usize) -> String {
    let bytes = text.as_bytes();
    let lower = text.to_ascii_lowercase();
    let mut out = String::new();
    let mut at = 0;
    while at < bytes.len() && out.len() <= chars_max * 4 {
        if let Some(word) = BEFORE_SECRETS
            .iter()
            .find(|word| lower.as_bytes().get(at..).is_some_and(|rest| rest.starts_with(word.as_bytes())))
        {
            let from = at + word.len();
            push(&mut out, text.get(at..from));
            out.push_str(MASK);
            at = from + run(bytes, from, |byte| is_key_char(byte) || byte == b'%');
            continue;
        }
        let length = run(bytes, at, is_key_char);
        if length >= KEY_CHARS_MIN {
            out.push_str(MASK);
            at += length;
        } else if length > 0 {
            // Not past the next word that a secret follows.
            let next = (at + 1..at + length)
                .find(|next| {
                    BEFORE_SECRETS
                        .iter()
                        .any(|word| lower.get(*next..).is_some_and(|rest| rest.starts_with(word)))
                })
                .unwrap_or(at + length);
            push(&mut out, text.get(at..next));
            at = next;
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

fn push(out: &mut String, piece: Option<&str>) {
    out.push_str(piece.unwrap_or_default());
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
        ] {
            let shown = masked(&text, 512);
            assert!(!shown.contains("AAEC") && !shown.contains("2E4g") && !shown.contains("abc"), "{shown}");
            assert!(shown.contains(MASK), "{shown}");
        }
        let plain = "Tracking ID:8ad0463c0d1b4b7f8ad0463c0d1b4b7f-G:0, device 'pump-1' is not registered.";
        assert_eq!(masked(plain, 512), plain);
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
