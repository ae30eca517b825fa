//! The agent as PID 1: signals, and reaping.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Signal, WaitOptions, umask, wait};
use rustix::stdio::{stdin, stdout};

use super::connection::Connection;
use super::endpoint::{Endpoint, Round, Stream};
use super::error::Error;
use super::process::Local;
use super::system;

/// How long the server may take to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// How long programs have to end, and clients to hear of it, when the container is stopped: well within the 10 seconds
/// that Docker waits before it kills.
const STOP: Duration = Duration::from_secs(5);

/// Where the server is.
#[derive(Debug, PartialEq, Eq)]
pub enum Server {
    /// It listens on this socket.
    Socket(PathBuf),
    /// At the other ends of standard input and output.
    Stdio,
}

/// Serves the server's connection until it ends. Then everything that was started is hung up; and where this is PID 1,
/// the kernel kills the whole container when it exits.
pub fn run(server: &Server, command: Vec<OsString>) -> Result<(), Error> {
    let signals = [Signal::CHILD, Signal::TERM, Signal::INT, Signal::HUP];
    let signals = system::signal_fd(&signals).map_err(|error| Error::System("signalfd", error))?;
    system::keep_descriptors();
    umask(Mode::from_raw_mode(0o022));
    let stream = match server {
        Server::Socket(path) => connect_to(path).map_err(|errno| Error::Connect(path.clone(), errno.into()))?.into(),
        Server::Stdio => stdio().map_err(|errno| Error::Stream(errno.into()))?,
    };
    let mut init = Init {
        endpoint: Endpoint::new(stream, Connection::new(Local { command, ..Local::default() })?),
        signals,
        stop: None,
    };
    let result = init.serve();
    // The last words, an error's cause among them, as far as the server takes them.
    let _ = init.endpoint.flush();
    init.hang_up();
    if init.stop.is_some() {
        init.endpoint.connection.kill(Signal::KILL);
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

/// Our own copies: programs do not inherit them.
fn stdio() -> Result<Stream, Errno> {
    let (input, output) = (fcntl_dupfd_cloexec(stdin(), 3)?, fcntl_dupfd_cloexec(stdout(), 3)?);
    for pipe in [&input, &output] {
        fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?;
    }
    Ok(Stream::pipes(input, output))
}

struct Init {
    endpoint: Endpoint<Local>,
    signals: OwnedFd,
    /// When to exit at the latest, once somebody asked us to.
    stop: Option<Instant>,
}

impl Init {
    /// Ends with the stream, or when it is time to stop.
    fn serve(&mut self) -> Result<(), Error> {
        loop {
            // The server may go while there is something for it.
            if !self.endpoint.flush()? {
                return Ok(());
            }
            if self.stop.is_some_and(|stop| Instant::now() >= stop || self.endpoint.connection.is_idle()) {
                return Ok(());
            }
            match self.endpoint.round(self.signals.as_fd(), self.stop)? {
                Round::Served(true) => self.take_signals(),
                Round::Served(false) => {}
                Round::Ended => return Ok(()),
            }
        }
    }

    fn take_signals(&mut self) {
        for signal in system::read_signals(&self.signals) {
            if signal == Signal::CHILD.as_raw() {
                self.reap();
            } else if self.stop.is_none() {
                // docker stop. Sessions end as when a terminal hangs up, and their clients hear how.
                self.stop = Some(Instant::now() + STOP);
                self.endpoint.connection.stop();
                self.hang_up();
            }
        }
    }

    /// Reaps all that ended, orphans included: PID 1 inherits every one.
    fn reap(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => self.endpoint.connection.ended(&pid, status.into()),
                Err(Errno::INTR) => {}
                // None has ended, or there is none.
                Ok(None) | Err(_) => break,
            }
        }
    }

    /// A stopped program learns of it when it is continued.
    fn hang_up(&mut self) {
        self.endpoint.connection.kill(Signal::HUP);
        self.endpoint.connection.kill(Signal::CONT);
    }
}
