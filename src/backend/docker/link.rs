//! Waiting for an agent.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::PollFlags;

use super::Error;
use super::api::Api;
use super::attached::Attached;
use super::socket::Socket;
use crate::backend::{Stream, Waiter};
use crate::http::{self, Deadline, Exchange};

/// How often it is looked whether the user is still there.
const WAITER_INTERVAL: Duration = Duration::from_millis(250);
/// How often it is looked whether a program has ended that was started and whose agent is not there.
const EXIT_INTERVAL: Duration = Duration::from_millis(100);

/// The way on which an agent is to come.
pub(super) trait Link {
    /// Can be read when something happens there. `None` where nothing will any more.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// The agent's stream, if the agent is there.
    fn accept(&mut self) -> Result<Option<Box<dyn Stream>>, Error>;
}

impl Link for Socket {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }

    fn accept(&mut self) -> Result<Option<Box<dyn Stream>>, Error> {
        let accepted = Socket::accept(self);
        let accepted = accepted.map_err(|source| Error::Socket { path: self.directory().to_owned(), source })?;
        Ok(accepted.map(|stream| Box::new(stream) as Box<dyn Stream>))
    }
}

/// A stream that is there from the beginning; the agent is once it says something. `None` when it has ended before.
impl Link for Option<Attached> {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.as_ref().map(AsFd::as_fd)
    }

    fn accept(&mut self) -> Result<Option<Box<dyn Stream>>, Error> {
        let Some(mut stream) = self.take() else { return Ok(None) };
        match stream.listen() {
            Ok(true) => Ok(Some(Box::new(stream))),
            Ok(false) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                *self = Some(stream);
                Ok(None)
            }
            Err(e) => Err(Error::Http { step: "hear the agent", source: http::Error::Read(e) }),
        }
    }
}

/// A program that was, or is being, started, and has the agent in it.
pub(super) struct Starting<'a> {
    pub api: &'a Api,
    /// What is being done; completes "cannot ...".
    pub step: &'static str,
    /// The call that starts it, until it was answered.
    pub call: Option<Exchange>,
    /// Why it has ended, if it has.
    pub exited: &'a dyn Fn() -> Result<Option<Error>, Error>,
    pub waiter: &'a dyn Waiter,
    /// When the agent must be there, and how long that is from the beginning.
    pub deadline: Deadline,
    pub patience: Duration,
}

impl Starting<'_> {
    /// Waits for the agent.
    pub(super) fn accept(mut self, link: &mut dyn Link) -> Result<Box<dyn Stream>, Error> {
        loop {
            let answered =
                self.wait(link.fd()).map_err(|e| Error::Http { step: self.step, source: http::Error::Read(e) })?;
            if let Some(stream) = link.accept()? {
                // The call takes its own time to be answered, which nobody waits for.
                if let Some(call) = self.call {
                    call.abandon();
                }
                return Ok(stream);
            }
            if let Some(call) = self.call.take_if(|_| answered) {
                self.api.finish(self.step, call, self.deadline)?;
            }
            if self.call.is_none()
                && let Some(exited) = (self.exited)()?
            {
                // It may have come at the last moment: then its stream tells more.
                return link.accept()?.ok_or(exited);
            }
            if self.deadline.has_passed() {
                return Err(Error::NotConnected(self.patience));
            }
            present(self.waiter)?;
        }
    }

    /// Waits for something to happen; whether the call was answered.
    fn wait(&self, link: Option<BorrowedFd<'_>>) -> io::Result<bool> {
        let soon = |interval| self.deadline.min(Deadline::after(interval));
        let on = |fd| (fd, PollFlags::IN);
        match (&self.call, link) {
            (Some(call), Some(link)) => {
                let [_, answered] = soon(WAITER_INTERVAL).poll([on(link), on(call.as_fd())])?;
                Ok(answered)
            }
            (Some(call), None) => Ok(soon(WAITER_INTERVAL).poll([on(call.as_fd())])? == [true]),
            (None, Some(link)) => soon(EXIT_INTERVAL).poll([on(link)]).map(|_| false),
            (None, None) => soon(EXIT_INTERVAL).poll([]).map(|_| false),
        }
    }
}

/// Fails where the user has gone.
pub(super) fn present(waiter: &dyn Waiter) -> Result<(), Error> {
    if waiter.is_gone() { Err(Error::Gone) } else { Ok(()) }
}
