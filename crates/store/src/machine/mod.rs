//! The replicated state machine: entries of the log in, one published root after the other out.

mod checkpoint;
mod counts;
mod handle;
mod keys;
mod labels;
mod meta;
mod reader;
mod state;
mod view;
mod writer;

pub use checkpoint::CheckpointError;
pub use handle::{Handle, Receiving};
pub use meta::{Cluster, Meta, NodeRecord};
pub use reader::{Position, Question, Reader, RecountError, Snapshot};
pub use state::{Builder, InstallError, Machine, MachineOptions, OpenError, OpenReport};
pub use view::RowDamage;
pub use writer::ApplyError;
