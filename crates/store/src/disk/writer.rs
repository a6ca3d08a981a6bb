//! The thread that writes checkpoints, so that a slow disk holds up nobody else.

use super::checkpoint::{Checkpointer, Completed};
use super::{Disk, DiskError};
use crate::pages::Root;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Checkpoints waiting while one is written: a newer one would hold all that an older one holds, so that more
/// would only keep memory.
const WAITING_MAX: usize = 1;

type Job = Box<dyn FnOnce(&mut Checkpointer) + Send>;

/// Runs a [`Checkpointer`] on a thread of its own.
pub struct CheckpointWriter {
    jobs: mpsc::SyncSender<Job>,
    thread: JoinHandle<Checkpointer>,
    disk: Disk,
}

impl CheckpointWriter {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// [`DiskError::Io`] if the system gives no thread.
    pub fn start(checkpointer: Checkpointer) -> Result<Self, DiskError> {
        let disk = checkpointer.disk();
        let (jobs, waiting) = mpsc::sync_channel::<Job>(WAITING_MAX);
        let mut checkpointer = checkpointer;
        let thread = std::thread::Builder::new().name("berth-pages".to_owned()).spawn(move || {
            for job in waiting {
                job(&mut checkpointer);
            }
            checkpointer
        });
        let thread = thread.map_err(|e| DiskError::io("start a thread to write", disk.dir().path(), e))?;
        Ok(Self { jobs, thread, disk })
    }

    /// The handle for figures and snapshots.
    pub fn disk(&self) -> Disk {
        self.disk.clone()
    }

    /// Asks for a checkpoint of `root`, which is held until it is done. None if one is waiting already: its
    /// outcome makes room for a newer one. If the receiver ends without an answer the writer has died, and the
    /// process must end.
    pub fn submit<M: Send + Sync + 'static>(
        &self,
        root: Arc<Root<M>>,
        meta: Vec<u8>,
    ) -> Option<oneshot::Receiver<Result<Completed, DiskError>>> {
        let (done, outcome) = oneshot::channel();
        let job: Job = Box::new(move |checkpointer| {
            let result = checkpointer.checkpoint(&root, &meta);
            drop(root);
            // Whoever asked may have gone; the checkpoint stands all the same.
            let _ = done.send(result);
        });
        match self.jobs.try_send(job) {
            // A dead writer drops the job, and with it the sender of the outcome.
            Ok(()) | Err(mpsc::TrySendError::Disconnected(_)) => Some(outcome),
            Err(mpsc::TrySendError::Full(_)) => None,
        }
    }

    /// Finishes what was asked for, ends the thread, and gives the checkpointer back. None if it has panicked.
    /// Blocks until then.
    pub fn stop(self) -> Option<Checkpointer> {
        drop(self.jobs);
        self.thread.join().ok()
    }
}
