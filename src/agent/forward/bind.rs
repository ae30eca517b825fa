//! Sockets to listen on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustix::process::umask;

use crate::connection::forward::GatewayPorts;
use crate::random;

/// How many connections the kernel keeps for us: `sshd`'s number.
const BACKLOG: i32 = 128;

/// Where directories for sockets are made, best first. A container with a read-only root, or without /tmp, still has
/// /dev/shm.
const TEMPORARY: [&str; 2] = ["/tmp", "/dev/shm"];

/// The addresses that `sshd` would listen on for a client that names `host`. None where that is no address: names other
/// than `localhost` are not looked up.
pub fn addresses(host: &[u8], gateway_ports: GatewayPorts) -> Vec<IpAddr> {
    const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let named = std::str::from_utf8(host).ok().and_then(|host| host.parse().ok());
    match (gateway_ports, host, named) {
        (GatewayPorts::Yes, ..) | (GatewayPorts::ClientSpecified, b"" | b"*", _) => ANY.into(),
        (GatewayPorts::No, _, Some(address)) if LOOPBACK.contains(&address) => vec![address],
        (GatewayPorts::No, ..) | (GatewayPorts::ClientSpecified, b"localhost", _) => LOOPBACK.into(),
        (GatewayPorts::ClientSpecified, _, named) => named.into_iter().collect(),
    }
}

/// Listens on a TCP port.
pub fn tcp(address: IpAddr, port: u16) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // Both families have sockets of their own.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    net::bind(&socket, &SocketAddr::new(address, port))?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Whether this system has no such address, so that nobody expects us on it.
pub fn is_missing(errno: Errno) -> bool {
    matches!(errno, Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
}

/// The port that a socket is bound to.
pub fn port(socket: &OwnedFd) -> Option<u16> {
    let address = net::getsockname(socket).ok()?;
    SocketAddr::try_from(address).ok().map(|address| address.port())
}

/// A unix socket's file, removed when dropped.
#[derive(Debug)]
pub struct SocketFile {
    /// Where it is.
    pub path: PathBuf,
    /// Device and inode: another file of the name is not ours to remove.
    identity: Option<(u64, u64)>,
    /// The directory that was made for it.
    directory: Option<PathBuf>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = rustix::fs::unlink(&self.path);
        }
        if let Some(directory) = &self.directory {
            let _ = rustix::fs::rmdir(directory);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    rustix::fs::lstat(path).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// Listens on a unix socket that this user alone can connect to: `sshd`'s StreamLocalBindMask of 0177. With `unlink`, a
/// file in its place is removed first.
pub fn unix(path: PathBuf, unlink: bool) -> Result<(OwnedFd, SocketFile), Errno> {
    let address = SocketAddrUnix::new(&path)?;
    let socket = unix_socket()?;
    if unlink {
        // What cannot be removed is in the way of bind, too.
        let _ = rustix::fs::unlink(&path);
    }
    let mask = umask(Mode::from_raw_mode(0o177));
    let bound = net::bind(&socket, &address);
    umask(mask);
    bound?;
    let file = SocketFile { identity: identity(&path), path, directory: None };
    net::listen(&socket, BACKLOG)?;
    Ok((socket, file))
}

/// A unix socket, non-blocking.
pub fn unix_socket() -> Result<OwnedFd, Errno> {
    net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// Listens on a unix socket of the name `name`, in a fresh directory that this user alone can enter:
/// `/tmp/ssh-XXXXXXXXXX/NAME`.
pub fn temporary(name: &str) -> io::Result<(OwnedFd, SocketFile)> {
    let mut last = Errno::NOENT;
    for parent in TEMPORARY {
        let directory = Path::new(parent).join(format!("ssh-{}", letters()?));
        // No second try where the name is taken: there are 62^10.
        match rustix::fs::mkdir(&directory, Mode::RWXU) {
            Ok(()) => {
                let bound = unix(directory.join(name), false);
                let (socket, mut file) = bound.inspect_err(|_| _ = rustix::fs::rmdir(&directory))?;
                file.directory = Some(directory);
                return Ok((socket, file));
            }
            Err(errno) => last = errno,
        }
    }
    Err(io::Error::new(io::Error::from(last).kind(), format!("{}: {last}", TEMPORARY.join(", "))))
}

/// Ten letters or digits.
fn letters() -> io::Result<String> {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    Ok(random::bytes::<10>()?.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect())
}

#[cfg(test)]
mod tests {
    use super::{GatewayPorts, addresses};

    fn listening(gateway_ports: GatewayPorts, host: &str) -> String {
        let addresses = addresses(host.as_bytes(), gateway_ports);
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn without_gateway_ports_only_loopback_is_listened_on() {
        for host in ["", "*", "localhost", "0.0.0.0", "192.0.2.1", "somewhere"] {
            assert_eq!(listening(GatewayPorts::No, host), "127.0.0.1 ::1", "{host}");
        }
        assert_eq!(listening(GatewayPorts::No, "127.0.0.1"), "127.0.0.1");
        assert_eq!(listening(GatewayPorts::No, "::1"), "::1");
    }

    #[test]
    fn with_gateway_ports_all_addresses_are_listened_on_whatever_is_asked_for() {
        for host in ["", "*", "localhost", "127.0.0.1", "somewhere"] {
            assert_eq!(listening(GatewayPorts::Yes, host), "0.0.0.0 ::", "{host}");
        }
    }

    #[test]
    fn a_client_that_may_specify_the_address_gets_what_it_asks_for() {
        for (host, expected) in [
            ("", "0.0.0.0 ::"),
            ("*", "0.0.0.0 ::"),
            ("0.0.0.0", "0.0.0.0"),
            ("::", "::"),
            ("localhost", "127.0.0.1 ::1"),
            ("127.0.0.1", "127.0.0.1"),
            ("192.0.2.1", "192.0.2.1"),
            ("somewhere", ""),
        ] {
            assert_eq!(listening(GatewayPorts::ClientSpecified, host), expected, "{host}");
        }
    }
}
