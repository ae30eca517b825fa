//! The agent as PID 1: the poll loop, signals, and reaping.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Signal, WaitOptions, umask, wait};

use super::buffer::Buffer;
use super::connection::{Connection, Source};
use super::error::Error;
use super::process::Local;
use super::system;
use crate::connection::frame;

/// How long the server may take to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// How long programs have to end, and clients to hear of it, when the container is stopped: well within the 10 seconds
/// that Docker waits before it kills.
const STOP: Duration = Duration::from_secs(5);

/// How much is read from the server at once, in bytes: a few of OpenSSH's messages.
const READ: usize = 256 * 1024;

/// Serves the connection at `socket` until it ends. Then everything that was started is hung up; and where this is
/// PID 1, the kernel kills the whole container when it exits.
pub fn run(socket: &Path, command: Vec<OsString>) -> Result<(), Error> {
    let signals = [Signal::CHILD, Signal::TERM, Signal::INT, Signal::HUP];
    let signals = system::signal_fd(&signals).map_err(|error| Error::System("signalfd", error))?;
    system::keep_descriptors();
    umask(Mode::from_raw_mode(0o022));
    let stream = connect_to(socket).map_err(|errno| Error::Connect(socket.into(), errno.into()))?;
    let mut init = Init {
        stream,
        signals,
        inbound: Buffer::default(),
        connection: Connection::new(Local { command })?,
        stop: None,
        turn: 0,
    };
    let result = init.serve();
    // The last words, an error's cause among them, as far as the server takes them.
    let _ = init.connection.out.flush(&init.stream);
    init.hang_up();
    if init.stop.is_some() {
        init.connection.kill(Signal::KILL);
    }
    result
}

fn connect_to(path: &Path) -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // A connect waits for the server's queue no longer than a send.
    set_socket_timeout(&socket, Timeout::Send, Some(CONNECT))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    fcntl_setfl(&socket, OFlags::NONBLOCK)?;
    Ok(socket)
}

struct Init {
    stream: OwnedFd,
    signals: OwnedFd,
    /// What came from the server and is no whole frame yet.
    inbound: Buffer,
    connection: Connection<Local>,
    /// When to exit at the latest, once somebody asked us to.
    stop: Option<Instant>,
    /// Whose turn it is to be served first: whoever always were would keep the others from the stream.
    turn: usize,
}

/// What a descriptor is for.
#[derive(Clone, Copy)]
enum Token {
    Signals,
    Stream,
    Connection(Source),
}

impl Init {
    /// The loop: wait, serve what is ready, send. Ends with the stream, or when it is time to stop.
    fn serve(&mut self) -> Result<(), Error> {
        loop {
            match self.connection.out.flush(&self.stream) {
                Ok(()) => {}
                // The server went while there was something for it.
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
                Err(errno) => return Err(Error::Stream(errno.into())),
            }
            self.connection.expire(Instant::now());
            // Reading terminals on can fill the stream again, and what it filled must be sent first.
            self.connection.drain();
            if self.stop.is_some_and(|stop| Instant::now() >= stop || self.connection.is_idle()) {
                return Ok(());
            }
            let mut ready = self.wait()?;
            let turn = self.turn % ready.len().max(1);
            ready.rotate_left(turn);
            self.turn = self.turn.wrapping_add(1);
            for token in ready {
                match token {
                    Token::Signals => self.take_signals(),
                    Token::Stream => {
                        if !self.receive()? {
                            return Ok(());
                        }
                    }
                    Token::Connection(source) => self.connection.ready(source),
                }
            }
        }
    }

    fn wait(&self) -> Result<Vec<Token>, Error> {
        let out = &self.connection.out;
        let mut stream = PollFlags::empty();
        stream.set(PollFlags::IN, out.takes_replies());
        stream.set(PollFlags::OUT, !out.is_empty());
        let mut tokens = vec![Token::Signals, Token::Stream];
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.stream, stream)];
        for (source, fd, flags) in self.connection.interests() {
            tokens.push(Token::Connection(source));
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        let deadline = self.connection.deadline().into_iter().chain(self.stop).min();
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
        match rustix::io::read(self.stream.as_fd(), self.inbound.space(READ)) {
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

    fn take_signals(&mut self) {
        for signal in system::read_signals(&self.signals) {
            if signal == Signal::CHILD.as_raw() {
                self.reap();
            } else if self.stop.is_none() {
                // docker stop. Sessions end as when a terminal hangs up, and their clients hear how.
                self.stop = Some(Instant::now() + STOP);
                self.connection.stop();
                self.hang_up();
            }
        }
    }

    /// Reaps all that ended, orphans included: PID 1 inherits every one.
    fn reap(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => self.connection.ended(&pid, status.into()),
                Err(Errno::INTR) => {}
                // None has ended, or there is none.
                Ok(None) | Err(_) => break,
            }
        }
    }

    /// A stopped program learns of it when it is continued.
    fn hang_up(&mut self) {
        self.connection.kill(Signal::HUP);
        self.connection.kill(Signal::CONT);
    }
}
