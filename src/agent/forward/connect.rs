//! Connections that the agent makes for its client.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::bind;
use crate::agent::error::words;

/// A TCP connection on its way: one address after another, as `sshd` tries them.
#[derive(Debug)]
pub struct Connecting {
    /// Writable once the outcome is known.
    pub socket: OwnedFd,
    rest: std::vec::IntoIter<SocketAddr>,
}

/// How far it has come.
#[derive(Debug)]
pub enum Step {
    /// It is there.
    Connected(OwnedFd),
    /// The socket is to be waited for.
    Pending(Connecting),
    /// No address answers. Why the last one does not, in words for the client.
    Failed(String),
}

impl Connecting {
    /// Begins with the first of `addresses`.
    pub fn start(addresses: Vec<SocketAddr>) -> Step {
        Self::next(addresses.into_iter(), Errno::ADDRNOTAVAIL)
    }

    /// Goes on where the socket is ready.
    pub fn ready(self) -> Step {
        match sockopt::socket_error(&self.socket) {
            Ok(Ok(())) if net::getpeername(&self.socket).is_ok() => connected(self.socket),
            // Not yet.
            Ok(Ok(())) => Step::Pending(self),
            Ok(Err(errno)) | Err(errno) => Self::next(self.rest, errno),
        }
    }

    fn next(mut rest: std::vec::IntoIter<SocketAddr>, mut last: Errno) -> Step {
        while let Some(address) = rest.next() {
            match begin(address) {
                Ok((socket, true)) => return connected(socket),
                Ok((socket, false)) => return Step::Pending(Connecting { socket, rest }),
                // Why another address failed says more than that the container has no IPv6.
                Err(errno) if bind::is_missing(errno) => {}
                Err(errno) => last = errno,
            }
        }
        Step::Failed(words(last))
    }
}

fn connected(socket: OwnedFd) -> Step {
    // Interactive traffic must not wait for more.
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    Step::Connected(socket)
}

/// A socket, and whether it is connected already.
fn begin(address: SocketAddr) -> Result<(OwnedFd, bool), Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    match net::connect(&socket, &address) {
        Ok(()) => Ok((socket, true)),
        Err(Errno::INPROGRESS | Errno::INTR) => Ok((socket, false)),
        Err(errno) => Err(errno),
    }
}

/// Connects to a unix socket, which takes no time. Fails with words for the client.
pub fn connect_unix(path: &Path) -> Result<OwnedFd, String> {
    let connect = || {
        let socket = bind::unix_socket()?;
        net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    };
    connect().map_err(words)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::{Connecting, Step};

    fn outcome(addresses: &[SocketAddr]) -> Result<(), String> {
        let mut step = Connecting::start(addresses.to_vec());
        loop {
            match step {
                Step::Connected(_) => return Ok(()),
                Step::Failed(reason) => return Err(reason),
                Step::Pending(connecting) => {
                    let deadline = Timespec { tv_sec: 20, tv_nsec: 0 };
                    let ready = poll(&mut [PollFd::new(&connecting.socket, PollFlags::OUT)], Some(&deadline));
                    assert_eq!(ready, Ok(1));
                    step = connecting.ready();
                }
            }
        }
    }

    #[test]
    fn addresses_are_tried_in_turn_and_the_last_ones_failure_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let live = listener.local_addr().unwrap();
        let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(outcome(&[dead, live]), Ok(()));
        assert_eq!(outcome(&[dead]), Err("Connection refused".into()));
        assert!(outcome(&[]).is_err());
    }
}
