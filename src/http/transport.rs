//! The byte streams that HTTP is spoken over.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::tls::{self, Tls};
use super::{Deadline, Error, Phase, Proxy};

/// How long a TCP connection may be silent before the kernel looks whether the other end is still there, and how often
/// and how many times it then does. So a peer that has vanished is found in a minute, and no firewall between forgets a
/// connection that only waits.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// Where a server is.
#[derive(Clone, Debug)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port of a host, which is a name or an IP address without brackets. With or without TLS.
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// How TLS is spoken, if it is.
        tls: Option<Tls>,
        /// What is between, if anything.
        proxy: Option<Proxy>,
    },
}

impl Address {
    /// What stands in a request's Host field.
    pub(super) fn host(&self) -> String {
        match self {
            // The field must be there, and nothing looks at it.
            Address::Unix(_) => "berth".to_owned(),
            Address::Tcp { host, port, .. } => super::authority(host, *port),
        }
    }
}

/// A connected, non-blocking byte stream.
///
/// With TLS, a read into [`Transport::WHOLE_READ`] bytes or more leaves nothing decrypted behind: what is still to come
/// is in the socket, where poll finds it. With less room, read on until [`io::ErrorKind::WouldBlock`] before polling.
#[derive(Debug)]
pub enum Transport {
    /// Over a unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
    /// Over TLS.
    Tls(Box<tls::Stream>),
}

impl Transport {
    /// The most that one record of TLS holds (RFC 8446 section 5.1), in bytes.
    pub const WHOLE_READ: usize = 16 * 1024;

    /// Connects, and shakes hands where TLS is spoken. The deadline bounds all but the lookup of a host's name, which
    /// ends by the resolver's own (5 s by default).
    pub fn connect(address: &Address, deadline: Deadline) -> Result<Transport, Error> {
        match address {
            Address::Unix(path) => connect_unix(path, deadline).map(Transport::Unix),
            Address::Tcp { host, port, tls, proxy } => {
                let socket = match proxy {
                    None => connect_tcp(host, *port, deadline)?,
                    Some(proxy) => {
                        let socket = connect_tcp(&proxy.host, proxy.port, deadline)?;
                        proxy.open(socket, host, *port, deadline)?
                    }
                };
                match tls {
                    None => Ok(Transport::Tcp(socket)),
                    Some(tls) => Ok(Transport::Tls(Box::new(tls.connect(host, socket, deadline)?))),
                }
            }
        }
    }

    /// Whether a connection that nothing is expected on is still good: one that can be read was closed, or has sent
    /// what nobody asked for.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(Deadline::after(Duration::ZERO).poll([(self.as_fd(), PollFlags::IN)]), Ok([false]))
            && !matches!(self, Transport::Tls(stream) if stream.has_more())
    }

    /// What to wait for after a call that was meant to wait for `flags`: TLS can have to write in order to read.
    fn wanted(&self, flags: PollFlags) -> PollFlags {
        match self {
            Transport::Tls(stream) => stream.wanted(),
            Transport::Unix(_) | Transport::Tcp(_) => flags,
        }
    }

    /// Says that no more is written. Reading goes on.
    pub(super) fn shutdown_write(&mut self) -> io::Result<()> {
        match self {
            Transport::Unix(socket) => socket.shutdown(Shutdown::Write),
            Transport::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Transport::Tls(stream) => stream.shutdown_write(),
        }
    }

    /// Reads what there is, at least one byte; 0 is the end.
    pub(super) fn read_by(&mut self, buffer: &mut [u8], deadline: Deadline, phase: Phase) -> Result<usize, Error> {
        loop {
            match self.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    deadline.wait(self.as_fd(), self.wanted(PollFlags::IN), phase)?;
                }
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
                    deadline.wait(self.as_fd(), self.wanted(PollFlags::OUT), Phase::Write)?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::Write(e)),
            }
        }
        Ok(())
    }
}

fn connect_unix(path: &Path, deadline: Deadline) -> Result<UnixStream, Error> {
    let open = || -> rustix::io::Result<UnixStream> {
        let name = SocketAddrUnix::new(path)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // A full backlog makes connect wait, and only the send timeout ends that (unix(7)). Zero would mean for ever.
        let left = deadline.remaining().max(Duration::from_millis(1));
        set_socket_timeout(&socket, Timeout::Send, Some(left))?;
        connect(&socket, &name)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(socket.into())
    };
    match open() {
        Ok(socket) => Ok(socket),
        Err(Errno::AGAIN) => Err(Error::TimedOut(Phase::Connect)),
        Err(e) => Err(Error::Connect(e.into())),
    }
}

/// Tries the host's addresses one after another, each for its share of the time that is left.
fn connect_tcp(host: &str, port: u16, deadline: Deadline) -> Result<TcpStream, Error> {
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(Error::Connect)?.collect();
    let mut last = Error::Connect(io::Error::other("the host has no address"));
    for (tried, address) in addresses.iter().enumerate() {
        let share = deadline.remaining() / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match connect_address(*address, Deadline::after(share)) {
            Ok(socket) => return Ok(socket.into()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_address(address: SocketAddr, deadline: Deadline) -> Result<OwnedFd, Error> {
    let failed = |e: Errno| Error::Connect(e.into());
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(failed)?;
    sockopt::set_tcp_nodelay(&socket, true).map_err(failed)?;
    sockopt::set_socket_keepalive(&socket, true).map_err(failed)?;
    let (idle, interval, count) = KEEPALIVE;
    sockopt::set_tcp_keepidle(&socket, idle).map_err(failed)?;
    sockopt::set_tcp_keepintvl(&socket, interval).map_err(failed)?;
    sockopt::set_tcp_keepcnt(&socket, count).map_err(failed)?;
    match connect(&socket, &address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS | Errno::INTR) => {
            deadline.wait(socket.as_fd(), PollFlags::OUT, Phase::Connect)?;
            sockopt::socket_error(&socket).map_err(failed)?.map_err(failed)?;
        }
        Err(e) => return Err(failed(e)),
    }
    Ok(socket)
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Unix(socket) => socket.read(buffer),
            Transport::Tcp(socket) => socket.read(buffer),
            Transport::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Transport {
    // std sends with MSG_NOSIGNAL: a daemon that goes away does not kill berth with SIGPIPE. TLS writes by way of std.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Unix(socket) => socket.write(bytes),
            Transport::Tcp(socket) => socket.write(bytes),
            Transport::Tls(stream) => stream.write(bytes),
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
            Transport::Tcp(socket) => socket.as_fd(),
            Transport::Tls(stream) => stream.as_fd(),
        }
    }
}
