//! The byte streams that HTTP is spoken over.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::event::PollFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{Deadline, Error, Phase};

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A connected, non-blocking byte stream.
#[derive(Debug)]
pub enum Transport {
    /// Over a unix socket.
    Unix(UnixStream),
}

impl Transport {
    /// Connects.
    pub fn connect(address: &Address, deadline: Deadline) -> Result<Transport, Error> {
        match address {
            Address::Unix(path) => {
                let connect = || -> rustix::io::Result<UnixStream> {
                    let name = SocketAddrUnix::new(path)?;
                    let flags = SocketFlags::CLOEXEC;
                    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
                    // A full backlog makes connect wait, and only the send timeout ends that (unix(7)). Zero would
                    // mean for ever.
                    let left = deadline.remaining().max(std::time::Duration::from_millis(1));
                    set_socket_timeout(&socket, Timeout::Send, Some(left))?;
                    rustix::net::connect(&socket, &name)?;
                    rustix::io::ioctl_fionbio(&socket, true)?;
                    Ok(socket.into())
                };
                match connect() {
                    Ok(socket) => Ok(Transport::Unix(socket)),
                    Err(rustix::io::Errno::AGAIN) => Err(Error::TimedOut(Phase::Connect)),
                    Err(e) => Err(Error::Connect(e.into())),
                }
            }
        }
    }

    /// Whether a connection that nothing is expected on is still good: one that can be read was closed, or has sent
    /// what nobody asked for.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(Deadline::after(std::time::Duration::ZERO).poll([(self.as_fd(), PollFlags::IN)]), Ok([false]))
    }

    /// Says that no more is written. Reading goes on.
    pub(super) fn shutdown_write(&mut self) -> io::Result<()> {
        match self {
            Transport::Unix(socket) => socket.shutdown(Shutdown::Write),
        }
    }

    /// Reads what there is, at least one byte; 0 is the end.
    pub(super) fn read_by(&mut self, buffer: &mut [u8], deadline: Deadline, phase: Phase) -> Result<usize, Error> {
        loop {
            match self.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => deadline.wait(self.as_fd(), PollFlags::IN, phase)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map_err(Error::Read),
            }
        }
    }

    /// Writes everything.
    pub(super) fn write_by(&mut self, mut bytes: &[u8], deadline: Deadline) -> Result<(), Error> {
        while !bytes.is_empty() {
            match self.write(bytes) {
                Ok(0) => return Err(Error::Write(io::ErrorKind::WriteZero.into())),
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    deadline.wait(self.as_fd(), PollFlags::OUT, Phase::Write)?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::Write(e)),
            }
        }
        Ok(())
    }
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Unix(socket) => socket.read(buffer),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            // std sends with MSG_NOSIGNAL: a daemon that goes away does not kill berth with SIGPIPE.
            Transport::Unix(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Transport::Unix(socket) => socket.as_fd(),
        }
    }
}
