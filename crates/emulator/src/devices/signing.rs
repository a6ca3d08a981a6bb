//! What a simulated device knows of itself: its key, and how to sign with it.

use crate::auth::{decode_key, derive_key, sign};
use crate::clock::Time;
use crate::world::{Key, World};

/// How long a device's token holds, in seconds.
const TOKEN_SECONDS: u64 = 3_600;

/// The `Authorization` header of a device; none where it is not enrolled by a symmetric key.
pub(super) fn authorization(
    world: &World,
    dps_no: usize,
    group: Option<&Key>,
    id: &str,
    now: Time,
) -> Option<String> {
    let dps = world.dps.get(dps_no)?;
    let key = match group {
        Some(group) => derive_key(&decode_key(dps.groups.get(group)?.attestation.primary_key()?)?, id),
        None => decode_key(dps.individual.get(&Key::of(id))?.attestation.primary_key()?)?,
    };
    let resource = format!("{}%2Fregistrations%2F{id}", dps.id_scope);
    Some(sign(&resource, &key, now.unix_seconds() + TOKEN_SECONDS, "registration"))
}
