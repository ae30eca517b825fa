//! The loop over a [`Connection`] and the stream to the server.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::fcntl_setpipe_size;

use super::buffer::Buffer;
use super::connection::{Connection, Source};
use super::error::Error;
use super::host::Host;
use crate::connection::frame;

/// How much is read from the server at once, in bytes: a few of OpenSSH's messages.
const READ: usize = 256 * 1024;

/// How much is to wait in a pipe to the server, in bytes: as much as Linux lets anybody have.
const PIPE: usize = 1024 * 1024;

/// The stream to the server, non-blocking: a socket, or a pipe each way.
pub struct Stream {
    input: OwnedFd,
    /// None where it is the same.
    output: Option<OwnedFd>,
}

impl From<OwnedFd> for Stream {
    fn from(socket: OwnedFd) -> Self {
        Stream { input: socket, output: None }
    }
}

impl Stream {
    /// Of two pipes.
    pub fn pipes(input: OwnedFd, output: OwnedFd) -> Self {
        // A container runtime reads a page at a time. With room for a burst, there is not a write for each of them. Where
        // it is no pipe, or the user has no more pages, it stays as it is.
        let _ = fcntl_setpipe_size(&output, PIPE);
        Stream { input, output: Some(output) }
    }

    fn output(&self) -> &OwnedFd {
        self.output.as_ref().unwrap_or(&self.input)
    }
}

/// A connection, and its stream.
pub struct Endpoint<H: Host> {
    /// Messages go to it, and what it answers waits in it.
    pub connection: Connection<H>,
    stream: Stream,
    /// What came from the server and is no whole frame yet.
    inbound: Buffer,
    /// Whose turn it is to be served first: whoever always were would keep the others from the stream.
    turn: usize,
}

/// What a round has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Whether the other descriptor can be read.
    Served(bool),
    /// The stream has ended.
    Ended,
}

/// What a descriptor is for.
#[derive(Clone, Copy)]
enum Token {
    Other,
    Input,
    /// It takes more: the next flush finds out, and whether it still does.
    Output,
    Connection(Source),
}

impl<H: Host> Endpoint<H> {
    /// `stream` is non-blocking.
    pub fn new(stream: Stream, connection: Connection<H>) -> Self {
        Endpoint { connection, stream, inbound: Buffer::default(), turn: 0 }
    }

    /// Sends what waits, as far as the server takes it. False where the server has gone.
    pub fn flush(&mut self) -> Result<bool, Error> {
        match self.connection.out.flush(self.stream.output()) {
            Ok(()) => Ok(true),
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(false),
            Err(errno) => Err(Error::Stream(errno.into())),
        }
    }

    /// Sends, waits, and serves what is ready: of its own descriptors, while `other` is the caller's. Waits until
    /// `deadline` at most.
    pub fn round(&mut self, other: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<Round, Error> {
        self.connection.expire(Instant::now());
        // Reading terminals on can fill the stream again, and what it filled must be sent first.
        self.connection.drain();
        let mut ready = self.wait(other, deadline)?;
        let turn = self.turn % ready.len().max(1);
        ready.rotate_left(turn);
        self.turn = self.turn.wrapping_add(1);
        let mut found = false;
        for token in ready {
            match token {
                Token::Other => found = true,
                Token::Output => {}
                Token::Input => {
                    if !self.receive()? {
                        return Ok(Round::Ended);
                    }
                }
                Token::Connection(source) => self.connection.ready(source),
            }
        }
        Ok(Round::Served(found))
    }

    fn wait(&self, other: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<Vec<Token>, Error> {
        let out = &self.connection.out;
        let mut input = PollFlags::empty();
        input.set(PollFlags::IN, out.takes_replies());
        let mut tokens = vec![Token::Other, Token::Input];
        let mut fds = vec![PollFd::from_borrowed_fd(other, PollFlags::IN), PollFd::new(&self.stream.input, input)];
        if !out.is_empty() {
            tokens.push(Token::Output);
            fds.push(PollFd::new(self.stream.output(), PollFlags::OUT));
        }
        for (source, fd, flags) in self.connection.interests() {
            tokens.push(Token::Connection(source));
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        let deadline = self.connection.deadline().into_iter().chain(deadline).min();
        let timeout = deadline.map(|deadline| Timespec::try_from(deadline.saturating_duration_since(Instant::now())));
        let timeout = timeout.map(|timeout| timeout.unwrap_or_default());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(Error::System("poll", errno.into())),
        }
        Ok(tokens.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(token, _)| token).collect())
    }

    /// Reads from the server and serves every whole frame. Returns false at the stream's end.
    fn receive(&mut self) -> Result<bool, Error> {
        if !self.connection.out.takes_replies() {
            return Ok(true);
        }
        match rustix::io::read(self.stream.input.as_fd(), self.inbound.space(READ)) {
            Ok(0) => return Ok(false),
            Ok(count) => self.inbound.commit(count),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(true),
            Err(Errno::CONNRESET) => return Ok(false),
            Err(errno) => return Err(Error::Stream(errno.into())),
        }
        while let Some((message, _)) = frame::split(self.inbound.bytes()).map_err(Error::Frame)? {
            self.connection.message(message)?;
            let count = size_of::<u32>() + message.len();
            self.inbound.consume(count);
        }
        Ok(true)
    }
}
