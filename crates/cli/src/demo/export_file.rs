//! A file as an IoT hub's export job writes it: one identity with its twin a line, in the job's order of fields, with
//! carriage return and line feed at the end of each (Azure: iot-hub-bulk-identity-mgmt; ExportImportDevice of the
//! service SDK). Keys look like keys and open nothing.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Bytes gathered before they go to the file.
const WRITE_BYTES: usize = 1 << 20;
/// Of so many devices one is disabled.
const DISABLED_EVERY: u64 = 250;
/// Regions that a tag names.
const REGIONS: [&str; 3] = ["westeurope", "northeurope", "eastus"];

/// Writes a file of so many devices, whose IDs are the prefix and ten digits.
pub(crate) fn write(path: &Path, devices: u64, prefix: &str) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(WRITE_BYTES, File::create(path)?);
    for no in 0..devices {
        line(&mut file, no, prefix)?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// True where the device of this number stands in the file as disabled.
pub(crate) fn is_disabled(no: u64) -> bool {
    no % DISABLED_EVERY == DISABLED_EVERY - 1
}

/// ID of the device of this number.
pub(crate) fn device_id(no: u64, prefix: &str) -> String {
    format!("{prefix}{no:010}")
}

fn line(to: &mut impl Write, no: u64, prefix: &str) -> io::Result<()> {
    let status = if is_disabled(no) { "disabled" } else { "enabled" };
    let region = REGIONS[usize::try_from(no % REGIONS.len() as u64).unwrap_or(0)];
    let (primary, secondary) = (key(no, 1), key(no, 2));
    let (hours, minutes, seconds) = (no / 3_600 % 24, no / 60 % 60, no % 60);
    write!(
        to,
        "{{\"id\":\"{prefix}{no:010}\",\"eTag\":\"{etag}\",\"status\":\"{status}\",\
         \"authentication\":{{\"symmetricKey\":{{\"primaryKey\":\"{primary}\",\"secondaryKey\":\"{secondary}\"}},\
         \"x509Thumbprint\":{{\"primaryThumbprint\":null,\"secondaryThumbprint\":null}},\"type\":\"sas\"}},\
         \"twinETag\":\"AAAAAAAAAAE=\",\
         \"tags\":{{\"region\":\"{region}\",\"site\":{{\"ring\":{ring},\"line\":\"L{line}\"}}}},\
         \"properties\":{{\"desired\":{{\"interval\":30,\
         \"$metadata\":{{\"$lastUpdated\":\"2025-03-01T{hours:02}:{minutes:02}:{seconds:02}.0000000Z\",\
         \"$lastUpdatedVersion\":1}},\"$version\":1}},\
         \"reported\":{{\"$metadata\":{{\"$lastUpdated\":\"2025-03-01T{hours:02}:{minutes:02}:{seconds:02}.0000000Z\"}},\
         \"$version\":1}}}},\
         \"capabilities\":{{\"iotEdge\":{edge}}}",
        etag = base64(&no.to_be_bytes()[5..]),
        ring = no % 4,
        line = no % 9 + 1,
        edge = no.is_multiple_of(40),
    )?;
    to.write_all(b"}\r\n")
}

/// 32 bytes that depend on the number, in base64, as a hub's generated keys look.
fn key(no: u64, which: u64) -> String {
    let mut bytes = [0; 32];
    let mut state = no.wrapping_mul(2).wrapping_add(which).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_be_bytes()[..chunk.len()]);
    }
    base64(&bytes)
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word =
            group.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let six = (word >> (18 - 6 * at)) & 63;
            text.push(if at <= group.len() { char::from(ALPHABET[six as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_in_the_rfc() {
        for (bytes, text) in [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn lines_are_json_with_the_fields_of_the_export_job() {
        let mut bytes = Vec::new();
        for no in 0..1_000 {
            line(&mut bytes, no, "dev-").unwrap();
        }
        let text = String::from_utf8(bytes).unwrap();
        let mut disabled = 0;
        for (no, line) in text.split_terminator("\r\n").enumerate() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(value["id"], device_id(no as u64, "dev-"));
            let fields: Vec<&String> = value.as_object().unwrap().keys().collect();
            for field in
                ["authentication", "capabilities", "eTag", "properties", "status", "tags", "twinETag"]
            {
                assert!(fields.iter().any(|known| *known == field), "{field}");
            }
            assert_eq!(value["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap().len(), 44);
            disabled += u64::from(value["status"] == "disabled");
        }
        assert_eq!(disabled, 4);
    }
}
