//! Names to addresses, beside the agent's loop.
//!
//! The C library's resolver blocks, so each name is looked up in a thread of its own, which ends with it: within the
//! resolver's own deadline (some seconds for each of resolv.conf's servers). Few run at once; other names wait.

use std::collections::VecDeque;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// More lookups than this do not run at once.
const LOOKUPS: usize = 32;

/// Stack of a lookup's thread, in bytes: the resolver's buffers are on it.
const STACK: usize = 256 * 1024;

/// What came of a lookup: addresses, best first, or why there are none, in words for the client.
pub type Outcome = Result<Vec<SocketAddr>, &'static str>;

/// Lookups under way, by numbers that are not used again.
#[derive(Debug)]
pub struct Resolver {
    /// Readable where there are outcomes.
    event: Arc<OwnedFd>,
    sender: Sender<(u64, Outcome)>,
    outcomes: Receiver<(u64, Outcome)>,
    running: usize,
    waiting: VecDeque<(u64, String, u16)>,
    next: u64,
}

impl Resolver {
    /// Fails where no descriptor is left.
    pub fn new() -> Result<Self, Errno> {
        let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (sender, outcomes) = channel();
        Ok(Resolver { event, sender, outcomes, running: 0, waiting: VecDeque::new(), next: 0 })
    }

    /// What to wait for.
    pub fn interest(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Looks `name` up, and returns the lookup's number.
    pub fn lookup(&mut self, name: String, port: u16) -> u64 {
        let number = self.next;
        self.next += 1;
        self.waiting.push_back((number, name, port));
        self.start();
        number
    }

    /// Nobody wants to know any more. A lookup that runs already goes on to its end.
    pub fn forget(&mut self, number: u64) {
        self.waiting.retain(|(waiting, ..)| *waiting != number);
    }

    /// The outcomes that are there.
    pub fn outcomes(&mut self) -> Vec<(u64, Outcome)> {
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        let outcomes: Vec<_> = self.outcomes.try_iter().collect();
        self.running = self.running.saturating_sub(outcomes.len());
        self.start();
        outcomes
    }

    fn start(&mut self) {
        while self.running < LOOKUPS
            && let Some((number, name, port)) = self.waiting.pop_front()
        {
            self.running += 1;
            let (sender, event) = (self.sender.clone(), Arc::clone(&self.event));
            let report = move |outcome| {
                // The receiver outlives the thread, or the agent has ended.
                let _ = sender.send((number, outcome));
                let _ = rustix::io::write(&event, &1u64.to_ne_bytes());
            };
            let refuse = report.clone();
            let lookup = std::thread::Builder::new().name("lookup".into()).stack_size(STACK);
            if let Err(error) = lookup.spawn(move || report(look_up(&name, port))) {
                log::warn!("no thread for a lookup: {error}");
                refuse(Err(TEMPORARY));
            }
        }
    }
}

/// The words of glibc, which users of `sshd` know, rather than musl's.
const UNKNOWN: &str = "Name or service not known";
const TEMPORARY: &str = "Temporary failure in name resolution";

fn look_up(name: &str, port: u16) -> Outcome {
    match (name, port).to_socket_addrs() {
        Ok(addresses) => Ok(addresses.collect()),
        // std tells what the C library said in words only.
        Err(error) if error.to_string().ends_with("Try again") => Err(TEMPORARY),
        Err(_) => Err(UNKNOWN),
    }
}
