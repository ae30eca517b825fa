//! Deadlines, and what was being waited for when one passed.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::Error;

/// What an exchange was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Connecting to the server.
    Connect,
    /// Writing the request.
    Write,
    /// Waiting for the answer's head.
    Head,
    /// Reading the answer's body.
    Body,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Phase::Connect => "connecting",
            Phase::Write => "sending the request",
            Phase::Head => "waiting for the answer",
            Phase::Body => "reading the answer's body",
        })
    }
}

/// The moment at which a wait ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// Stands for "never" where a duration is too long for the clock.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

impl Deadline {
    /// This long from now.
    pub fn after(duration: Duration) -> Deadline {
        Deadline(Instant::now() + duration.min(YEAR))
    }

    /// What is left; zero when it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// Waits for any of `fds` and says for each whether it is ready (an error or a hang-up counts); all are `false`
    /// when the deadline passed.
    pub fn poll<const N: usize>(self, fds: [(BorrowedFd<'_>, PollFlags); N]) -> io::Result<[bool; N]> {
        let mut set = fds.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags));
        loop {
            let left = self.remaining();
            // Infallible on every target that has 64-bit seconds; `after` keeps the value within a year.
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match rustix::event::poll(&mut set, Some(&timeout)) {
                Ok(_) => return Ok(set.each_ref().map(|fd| !fd.revents().is_empty())),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits for one descriptor.
    pub(super) fn wait(self, fd: BorrowedFd<'_>, flags: PollFlags, phase: Phase) -> Result<(), Error> {
        match self.poll([(fd, flags)]) {
            Ok([true]) => Ok(()),
            Ok([false]) => Err(Error::TimedOut(phase)),
            Err(e) if phase == Phase::Write => Err(Error::Write(e)),
            Err(e) => Err(Error::Read(e)),
        }
    }
}
