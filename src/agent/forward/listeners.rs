//! The sockets that the agent listens on for its client.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with, sockopt};

use super::bind::{self, SocketFile};
use crate::connection::forward::{HostPort, Listening};
use crate::connection::message::GlobalRequest;
use crate::connection::wire::{Malformed, Reader, Write};

/// More sockets than this are not listened on.
const LISTENERS: usize = 1024;

/// How long accepting rests where no descriptor is left: `sshd` takes as long.
const REST: Duration = Duration::from_secs(1);

/// X displays begin here, so as not to be taken for real ones: sshd_config(5), X11DisplayOffset.
const FIRST_DISPLAY: u16 = 10;

/// How many numbers are tried for a display.
const DISPLAYS: u16 = 1000;

/// The TCP port of X display 0.
const X11_PORT: u16 = 6000;

/// All listening sockets, by numbers that are not used again.
#[derive(Debug, Default)]
pub struct Listeners {
    /// How to listen.
    pub listening: Listening,
    list: BTreeMap<u64, Listener>,
    next: u64,
    /// Until when nothing is accepted.
    rest: Option<Instant>,
}

#[derive(Debug)]
struct Listener {
    socket: OwnedFd,
    purpose: Purpose,
}

#[derive(Debug)]
enum Purpose {
    /// `tcpip-forward`: the address that the client named, and the port.
    Tcp(Vec<u8>, u16),
    /// `streamlocal-forward@openssh.com`
    Unix(SocketFile),
    /// `auth-agent-req@openssh.com`
    Agent { session: u32, _file: SocketFile },
    /// `x11-req`, and whether it is for one connection only.
    X11 { session: u32, single: bool },
}

/// A connection for which a channel is to be opened.
#[derive(Debug)]
pub struct Accepted {
    /// Connected, non-blocking.
    pub socket: OwnedFd,
    /// The type of the channel,
    pub channel_type: &'static [u8],
    /// and what its open says of the connection.
    pub specific: Vec<u8>,
}

impl Listeners {
    /// Serves a global request. `None` is failure; success may have something to say.
    pub fn request(&mut self, request: &GlobalRequest) -> Result<Option<Vec<u8>>, Malformed> {
        let mut fields = Reader::new(request.specific);
        Ok(match request.name {
            b"tcpip-forward" => self.listen_tcp(HostPort::decode(&mut fields)?, request.want_reply),
            b"cancel-tcpip-forward" => {
                let HostPort { host, port } = HostPort::decode(&mut fields)?;
                self.cancel(|purpose| matches!(purpose, Purpose::Tcp(h, p) if h == host && u32::from(*p) == port))
            }
            b"streamlocal-forward@openssh.com" => self.listen_unix(fields.string()?),
            b"cancel-streamlocal-forward@openssh.com" => {
                let path = OsStr::from_bytes(fields.string()?);
                self.cancel(|purpose| matches!(purpose, Purpose::Unix(file) if file.path.as_os_str() == path))
            }
            _ => None,
        })
    }

    fn listen_tcp(&mut self, wanted: HostPort, want_reply: bool) -> Option<Vec<u8>> {
        let requested = u16::try_from(wanted.port).ok()?;
        // Nobody would ever know a port that we choose without a reply.
        if self.is_full() || (requested == 0 && !want_reply) {
            return None;
        }
        let (mut port, mut sockets) = (requested, Vec::new());
        for address in bind::addresses(wanted.host, self.listening.gateway_ports) {
            match bind::tcp(address, port) {
                Ok(socket) => {
                    // All families have the same one.
                    port = if port == 0 { bind::port(&socket)? } else { port };
                    sockets.push(socket);
                }
                Err(error) => log::debug!("cannot listen on {address} port {port}: {error}"),
            }
        }
        if sockets.is_empty() {
            log::warn!("cannot listen for a client on {wanted}");
            return None;
        }
        for socket in sockets {
            self.add(socket, Purpose::Tcp(wanted.host.to_vec(), port));
        }
        Some(if requested == 0 { u32::from(port).to_be_bytes().to_vec() } else { Vec::new() })
    }

    fn listen_unix(&mut self, path: &[u8]) -> Option<Vec<u8>> {
        let path = PathBuf::from(OsStr::from_bytes(path));
        let bound = if self.is_full() { Err(Errno::MFILE) } else { bind::unix(path.clone(), self.listening.unlink) };
        let (socket, file) =
            bound.inspect_err(|error| log::warn!("cannot listen for a client on {}: {error}", path.display())).ok()?;
        self.add(socket, Purpose::Unix(file));
        Some(Vec::new())
    }

    fn cancel(&mut self, is_meant: impl Fn(&Purpose) -> bool) -> Option<Vec<u8>> {
        let before = self.list.len();
        self.list.retain(|_, listener| !is_meant(&listener.purpose));
        (self.list.len() < before).then(Vec::new)
    }

    /// Listens for connections to the client's authentication agent, and returns where.
    pub fn authentication_agent(&mut self, session: u32) -> Option<PathBuf> {
        if self.is_full() {
            return None;
        }
        let (socket, file) = bind::temporary(&format!("agent.{}", std::process::id()))
            .inspect_err(|error| log::warn!("no socket for agent forwarding: {error}"))
            .ok()?;
        let path = file.path.clone();
        self.add(socket, Purpose::Agent { session, _file: file });
        Some(path)
    }

    /// Listens for connections to the client's X server, and returns the number of the display.
    pub fn x11(&mut self, session: u32, single: bool) -> Option<u16> {
        if self.is_full() {
            return None;
        }
        let taken = (FIRST_DISPLAY..FIRST_DISPLAY + DISPLAYS).find_map(|number| Some((number, listen_x11(number)?)));
        let Some((number, sockets)) = taken else {
            log::warn!("no port for an X display");
            return None;
        };
        for socket in sockets {
            self.add(socket, Purpose::X11 { session, single });
        }
        Some(number)
    }

    fn is_full(&self) -> bool {
        self.list.len() >= LISTENERS
    }

    fn add(&mut self, socket: OwnedFd, purpose: Purpose) {
        self.list.insert(self.next, Listener { socket, purpose });
        self.next += 1;
    }

    /// The session is over: what was for its programs goes with it.
    pub fn close_session(&mut self, session: u32) {
        self.list.retain(|_, listener| match listener.purpose {
            Purpose::Agent { session: owner, .. } | Purpose::X11 { session: owner, .. } => owner != session,
            Purpose::Tcp(..) | Purpose::Unix(_) => true,
        });
    }

    /// Listens no more.
    pub fn close_all(&mut self) {
        self.list.clear();
    }

    /// The sockets to wait for, where anything may be accepted.
    pub fn interests(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        let list = self.list.iter().filter(|_| self.rest.is_none());
        list.map(|(number, listener)| (*number, listener.socket.as_fd()))
    }

    /// When to call [`wake`](Listeners::wake).
    pub fn deadline(&self) -> Option<Instant> {
        self.rest
    }

    /// Goes on accepting, where it is time.
    pub fn wake(&mut self, now: Instant) {
        self.rest = self.rest.filter(|rest| *rest > now);
    }

    /// Accepts one connection, where there is one.
    pub fn accept(&mut self, number: u64) -> Option<Accepted> {
        let Listener { socket, purpose } = self.list.get(&number)?;
        let (socket, peer) = match acceptfrom_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok((socket, peer)) => (socket, peer.and_then(|peer| SocketAddr::try_from(peer).ok())),
            Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => {
                log::warn!("no descriptor left for a connection to forward");
                self.rest = Some(Instant::now() + REST);
                return None;
            }
            // Nobody is there any more.
            Err(_) => return None,
        };
        let mut specific = Vec::new();
        let channel_type: &[u8] = match purpose {
            Purpose::Tcp(host, port) => {
                HostPort { host, port: (*port).into() }.encode(&mut specific);
                b"forwarded-tcpip"
            }
            Purpose::Unix(file) => {
                specific.put_string(file.path.as_os_str().as_bytes());
                specific.put_string(""); // reserved
                b"forwarded-streamlocal@openssh.com"
            }
            Purpose::Agent { .. } => b"auth-agent@openssh.com",
            Purpose::X11 { .. } => b"x11",
        };
        if let Some(peer) = peer {
            let originator = peer.ip().to_string();
            HostPort { host: originator.as_bytes(), port: peer.port().into() }.encode(&mut specific);
            // Interactive traffic must not wait for more.
            let _ = sockopt::set_tcp_nodelay(&socket, true);
        }
        if let Purpose::X11 { session, single: true } = *purpose {
            let is_its =
                |purpose: &Purpose| matches!(purpose, Purpose::X11 { session: owner, .. } if *owner == session);
            self.list.retain(|_, listener| !is_its(&listener.purpose));
        }
        Some(Accepted { socket, channel_type, specific })
    }
}

/// Listens on a display's port, on loopback in both families. `None` where either is taken.
fn listen_x11(number: u16) -> Option<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        match bind::tcp(address, X11_PORT + number) {
            Ok(socket) => sockets.push(socket),
            Err(errno) if bind::is_missing(errno) => {}
            Err(_) => return None,
        }
    }
    (!sockets.is_empty()).then_some(sockets)
}
