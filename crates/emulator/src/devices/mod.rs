//! Simulated devices: how they answer, register, and come back.

mod back_off;
mod behaviour;
mod fleet;
mod signing;

pub use behaviour::Behaviour;
pub(crate) use behaviour::Behaviours;
pub(crate) use fleet::{Fleets, REPROVISION_METHOD};

/// Something that a simulated device hears of, beside the answers to its own calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    /// It lost its connection.
    Thrown(Box<str>),
    /// It is told to register anew.
    Reprovision(Box<str>),
}
