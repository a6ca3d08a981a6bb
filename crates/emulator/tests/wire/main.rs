//! The emulator over real sockets: what a client sees on the wire.

mod device;
mod dps;
mod faults;
mod fleet;
mod hub;
mod shapes;
mod support;
mod switches;
mod traffic;
