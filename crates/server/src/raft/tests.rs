//! Three nodes in one process, over real TCP on the loopback, with real logs on disk and the least state
//! machine that can tell right from wrong.

mod cluster;
mod links;
mod machine;
mod stories;

pub(crate) use cluster::{free_address, until};
pub(crate) use links::Cuts;
