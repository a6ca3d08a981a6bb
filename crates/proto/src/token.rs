//! Opaque tokens: the read token, and the token that goes on with a page or a snapshot.

use berth_core::Revision;
use bytes::Bytes;
use uuid::Uuid;

/// Format of both tokens so far.
const FORMAT: u8 = 1;
/// Bytes of a read token: format, cluster, restore epoch, revision.
const READ_TOKEN_BYTES: usize = 1 + 16 + 4 + 8;
/// Bytes of a snapshot token: format, node, pin, revision, page, row, filter.
const SNAPSHOT_TOKEN_BYTES: usize = 1 + 8 + 8 + 8 + 4 + 4 + 8;

/// Why bytes or text are not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a token of this version of Berth; pass one back exactly as it was received, or leave it out")]
pub struct TokenError;

/// Proof of freshness: what a read was read at, or what a write created. Ordered within one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadToken {
    /// The cluster.
    pub cluster: Uuid,
    /// How often the cluster was restored from a backup.
    pub restore_epoch: u32,
    /// The revision.
    pub revision: Revision,
}

impl ReadToken {
    /// The token as callers see it. Tokens of one cluster compare as their bytes do.
    pub fn encode(&self) -> Bytes {
        let mut out = [0u8; READ_TOKEN_BYTES];
        let (format, rest) = out.split_at_mut(1);
        let (cluster, rest) = rest.split_at_mut(16);
        let (epoch, revision) = rest.split_at_mut(4);
        format.fill(FORMAT);
        cluster.copy_from_slice(self.cluster.as_bytes());
        epoch.copy_from_slice(&self.restore_epoch.to_be_bytes());
        revision.copy_from_slice(&self.revision.0.to_be_bytes());
        Bytes::copy_from_slice(&out)
    }

    /// Reads a token.
    ///
    /// # Errors
    /// [`TokenError`] where the bytes are not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, TokenError> {
        let ([FORMAT], rest) = bytes.split_first_chunk::<1>().ok_or(TokenError)? else {
            return Err(TokenError);
        };
        let (cluster, rest) = rest.split_first_chunk::<16>().ok_or(TokenError)?;
        let (epoch, rest) = rest.split_first_chunk::<4>().ok_or(TokenError)?;
        let revision: [u8; 8] = rest.try_into().map_err(|_| TokenError)?;
        Ok(Self {
            cluster: Uuid::from_bytes(*cluster),
            restore_epoch: u32::from_be_bytes(*epoch),
            revision: Revision(u64::from_be_bytes(revision)),
        })
    }
}

/// Goes on with a listing, or reads another partition, at the revision that a node holds pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SnapshotToken {
    /// The node that holds the revision.
    pub node_id: u64,
    /// Number of the pin on that node, so that a revision pinned anew is not taken for the old pin.
    pub pin: u64,
    /// The revision.
    pub revision: u64,
    /// Page of the device table to go on with.
    pub page: u32,
    /// Row of that page to go on with.
    pub row: u32,
    /// Hash of the filter: it must not change between pages.
    pub filter: u64,
}

impl SnapshotToken {
    /// The token as callers see it: hexadecimal digits.
    pub fn encode(&self) -> String {
        let mut out = Vec::with_capacity(SNAPSHOT_TOKEN_BYTES);
        out.push(FORMAT);
        out.extend_from_slice(&self.node_id.to_be_bytes());
        out.extend_from_slice(&self.pin.to_be_bytes());
        out.extend_from_slice(&self.revision.to_be_bytes());
        out.extend_from_slice(&self.page.to_be_bytes());
        out.extend_from_slice(&self.row.to_be_bytes());
        out.extend_from_slice(&self.filter.to_be_bytes());
        out.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads a token.
    ///
    /// # Errors
    /// [`TokenError`] where the text is not one.
    pub fn decode(text: &str) -> Result<Self, TokenError> {
        let digits = text.as_bytes();
        if digits.len() != SNAPSHOT_TOKEN_BYTES * 2 {
            return Err(TokenError);
        }
        let (pairs, _) = digits.as_chunks::<2>();
        let bytes =
            pairs.iter().map(|pair| from_hex(*pair)).collect::<Option<Vec<u8>>>().ok_or(TokenError)?;
        let (format, rest) = take::<1>(&bytes)?;
        let (node_id, rest) = take::<8>(rest)?;
        let (pin, rest) = take::<8>(rest)?;
        let (revision, rest) = take::<8>(rest)?;
        let (page, rest) = take::<4>(rest)?;
        let (row, rest) = take::<4>(rest)?;
        let (filter, _) = take::<8>(rest)?;
        if format != [FORMAT] {
            return Err(TokenError);
        }
        Ok(Self {
            node_id: u64::from_be_bytes(node_id),
            pin: u64::from_be_bytes(pin),
            revision: u64::from_be_bytes(revision),
            page: u32::from_be_bytes(page),
            row: u32::from_be_bytes(row),
            filter: u64::from_be_bytes(filter),
        })
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), TokenError> {
    bytes.split_first_chunk::<N>().map(|(head, rest)| (*head, rest)).ok_or(TokenError)
}

fn from_hex([high, low]: [u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_read_token_comes_back(cluster in any::<u128>(), restore_epoch in any::<u32>(), revision in any::<u64>()) {
            let token = ReadToken { cluster: Uuid::from_u128(cluster), restore_epoch, revision: Revision(revision) };
            prop_assert_eq!(ReadToken::decode(&token.encode()), Ok(token));
        }

        #[test]
        fn read_tokens_compare_as_their_bytes(a in any::<(u32, u64)>(), b in any::<(u32, u64)>()) {
            let token = |(restore_epoch, revision)| {
                ReadToken { cluster: Uuid::from_u128(1), restore_epoch, revision: Revision(revision) }
            };
            prop_assert_eq!(token(a).cmp(&token(b)), token(a).encode().cmp(&token(b).encode()));
        }

        #[test]
        fn a_snapshot_token_comes_back(n in any::<[u64; 4]>(), page in any::<u32>(), row in any::<u32>()) {
            let token = SnapshotToken { node_id: n[0], pin: n[1], revision: n[2], page, row, filter: n[3] };
            prop_assert_eq!(SnapshotToken::decode(&token.encode()), Ok(token));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), text in ".{0,90}") {
            let _ = ReadToken::decode(&bytes);
            let _ = SnapshotToken::decode(&text);
        }
    }
}
