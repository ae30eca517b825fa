//! Work that blocks for long, beside a connection's thread.

use std::sync::mpsc::{Receiver, TryRecvError, channel};

use crate::waker::Waker;

/// Stack of a connection's thread and of its workers, in bytes. Only what is touched costs memory.
pub const STACK: usize = 512 * 1024;

/// A result that a worker thread will give.
pub struct Pending<T>(Receiver<T>);

/// The worker ended without a result: it panicked, or there was no thread for it.
#[derive(Clone, Copy, Debug)]
pub struct Lost;

impl<T: Send + 'static> Pending<T> {
    /// Runs `work` in a thread of its own, which wakes `waker` when it ends. Its deadlines are the work's own.
    pub fn start(waker: Waker, work: impl FnOnce() -> T + Send + 'static) -> Self {
        /// Wakes in the end, after a panic too.
        struct WakeOnDrop(Waker);
        impl Drop for WakeOnDrop {
            fn drop(&mut self) {
                self.0.wake();
            }
        }
        let (sender, receiver) = channel();
        let wake = WakeOnDrop(waker);
        let thread = std::thread::Builder::new().name("worker".into()).stack_size(STACK).spawn(move || {
            // Declared before the sender, so dropped after it: whoever is woken finds a result or its absence.
            let _wake = wake;
            let sender = sender;
            // Fails where the connection has ended meanwhile; then the result is dropped here.
            let _ = sender.send(work());
        });
        if let Err(error) = thread {
            log::error!("no thread for a worker: {error}");
        }
        Pending(receiver)
    }

    /// The result, once it is there.
    pub fn wait(&self) -> Result<T, Lost> {
        self.0.recv().map_err(|_| Lost)
    }

    /// The result, where it is there.
    pub fn poll(&self) -> Option<Result<T, Lost>> {
        match self.0.try_recv() {
            Ok(result) => Some(Ok(result)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(Lost)),
        }
    }
}
