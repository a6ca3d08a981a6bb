//! Who may do what: shared access signatures, shared access policies, and tokens of Microsoft Entra ID.

mod keys;
mod policy;
mod sas;

pub(crate) use keys::{DeviceKey, decode_key, derive_key, mint_key};
pub(crate) use policy::{Bearers, Policies, Policy};
pub use policy::{Right, Secret};
pub(crate) use sas::{Covers, SasToken, sign};
