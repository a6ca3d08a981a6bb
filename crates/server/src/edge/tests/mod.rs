//! The edge over real sockets of the loopback.

mod abuse;
mod bounds;
mod node;
