//! Simulated devices: how they answer, register, and come back.

mod behaviour;

pub use behaviour::Behaviour;
pub(crate) use behaviour::Behaviours;
