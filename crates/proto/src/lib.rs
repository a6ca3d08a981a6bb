//! What are the bytes, on the wire and on disk?
//!
//! Messages and services are generated from `proto/` at build time: [`v1`] is the public API, only ever added to;
//! [`internal`] is for peers, log and disk. Around them stand the conversions to and from the core's types, the one
//! map between refusals and gRPC statuses ([`error`]), the read token, and the fixed layouts of rows and commands
//! ([`disk`]). Nothing here decides anything, stores anything or talks to anybody.

pub mod convert;
pub mod disk;
pub mod error;
pub mod token;

mod generated {
    #![allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
    include!(concat!(env!("OUT_DIR"), "/berth.rs"));
}

pub use generated::berth::{internal, v1};
pub use token::{ReadToken, SnapshotToken, TokenError};

/// Every file of `proto/`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/berth_descriptors.bin"));
