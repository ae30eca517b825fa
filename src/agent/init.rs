//! The agent as PID 1: signals, and reaping.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, Signal, WaitOptions, getpid, set_child_subreaper, umask, wait};
use rustix::stdio::{stdin, stdout};

use super::connection::Connection;
use super::endpoint::{Endpoint, Round, Stream};
use super::error::Error;
use super::handover;
use super::process::Local;
use super::system;
use crate::connection::message::GlobalRequest;

/// How long the server may take to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// How long programs have to end, and clients to hear of it, when the container is stopped: well within the 10 seconds
/// that Docker waits before it kills.
const STOP: Duration = Duration::from_secs(5);

/// How long a container outlives the agents in it: an engine that takes it down at once may lose what they have said last.
const LINGER: Duration = Duration::from_millis(300);

/// How often something is said on a stream that may lead through an API server: Kubernetes ends those that are silent for
/// four hours, and what may stand before it has less patience, a minute in many cases.
const KEEPALIVE: Duration = Duration::from_secs(50);

/// How often it is looked whether all have ended.
const INTERVAL: Duration = Duration::from_millis(20);

/// Where the server is.
#[derive(Debug, PartialEq, Eq)]
pub enum Server {
    /// It listens on this socket.
    Socket(PathBuf),
    /// At the other ends of standard input and output.
    Stdio,
    /// At the other ends of what is handed over at this socket.
    Listen(PathBuf),
}

/// Serves the server's connection until it ends. Where this is PID 1, everything that was started is hung up then, and the
/// kernel kills the whole container when it exits. In a container that stays, terminals hang up as they are closed, and
/// what survives that goes on, as under sshd.
pub fn run(server: &Server, command: Vec<OsString>) -> Result<(), Error> {
    let signals = [Signal::CHILD, Signal::TERM, Signal::INT, Signal::HUP];
    let signals = system::signal_fd(&signals).map_err(|error| Error::System("signalfd", error))?;
    system::keep_descriptors();
    umask(Mode::from_raw_mode(0o022));
    let is_guest = getpid() != Pid::INIT;
    if is_guest {
        // While it runs it reaps what its programs leave behind: the container's init may be one that does not.
        let _ = set_child_subreaper(Some(getpid()));
    }
    // Kept until the end, which it tells of.
    let mut _peer = None;
    let stream = match server {
        Server::Socket(path) => connect_to(path).map_err(|errno| Error::Connect(path.clone(), errno.into()))?.into(),
        Server::Stdio => stdio().map_err(|errno| Error::Stream(errno.into()))?,
        Server::Listen(path) => match handover::accept(path, signals.as_fd())? {
            Some(joined) => {
                let stream = pipes(joined.input, joined.output).map_err(|errno| Error::Stream(errno.into()))?;
                _peer = Some(joined.peer);
                stream
            }
            None => return Ok(()),
        },
    };
    let mut init = Init {
        endpoint: Endpoint::new(stream, Connection::new(Local { command, ..Local::default() })?),
        signals,
        stop: None,
        keepalive: (!matches!(server, Server::Socket(_))).then(|| Instant::now() + KEEPALIVE),
    };
    let result = init.serve();
    // The last words, an error's cause among them, as far as the server takes them.
    let _ = init.endpoint.flush();
    if !is_guest {
        init.hang_up();
    }
    if init.stop.is_some() {
        init.endpoint.connection.kill(Signal::KILL);
    }
    result
}

/// Keeps a container running, and reaps, until it is asked to stop.
pub fn wait_for_end() -> Result<(), Error> {
    let signals = [Signal::CHILD, Signal::TERM, Signal::INT, Signal::HUP];
    let signals = system::signal_fd(&signals).map_err(|error| Error::System("signalfd", error))?;
    loop {
        let mut fds = [PollFd::new(&signals, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::System("poll", errno.into())),
        }
        let received = system::read_signals(&signals);
        while matches!(wait(WaitOptions::NOHANG), Ok(Some(_)) | Err(Errno::INTR)) {}
        if received.iter().any(|signal| *signal != Signal::CHILD.as_raw()) {
            break;
        }
    }
    // Agents end their sessions in good order; what is left then, the kernel kills at the end of PID 1. Any other process
    // must not ask for that: all may be the host's.
    let end = Instant::now() + STOP;
    let had_agents = getpid() == Pid::INIT && system::signal_all(Signal::TERM.as_raw());
    let mut more = had_agents;
    while more && Instant::now() < end {
        std::thread::sleep(INTERVAL);
        while matches!(wait(WaitOptions::NOHANG), Ok(Some(_)) | Err(Errno::INTR)) {}
        more = system::signal_all(0);
    }
    if had_agents {
        std::thread::sleep(LINGER);
    }
    Ok(())
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
    pipes(fcntl_dupfd_cloexec(stdin(), 3)?, fcntl_dupfd_cloexec(stdout(), 3)?)
}

fn pipes(input: OwnedFd, output: OwnedFd) -> Result<Stream, Errno> {
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
    /// When something is to be said next, where silence would end the stream.
    keepalive: Option<Instant>,
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
            if let Some(due) = &mut self.keepalive
                && *due <= Instant::now()
            {
                *due = Instant::now() + KEEPALIVE;
                let request = GlobalRequest { name: b"keepalive@openssh.com", want_reply: false, specific: b"" };
                self.endpoint.connection.out.send(&request.encode());
                continue;
            }
            let deadline = self.stop.into_iter().chain(self.keepalive).min();
            match self.endpoint.round(self.signals.as_fd(), deadline)? {
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
                // docker stop. Sessions end as when a terminal hangs up, and their clients hear why and how.
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
