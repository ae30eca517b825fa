//! Ways to a server through a proxy: HTTP's CONNECT (RFC 9110 section 9.3.6) and SOCKS 5 (RFC 1928, RFC 1929).

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;

use rustix::event::PollFlags;

use super::parse::Head;
use super::{Deadline, Error, Phase};

/// A proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    kind: Kind,
    pub(super) host: String,
    pub(super) port: u16,
    /// User and password.
    user: Option<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    Socks5,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("kind", &self.kind).field("host", &self.host).field("port", &self.port).finish()
    }
}

impl Proxy {
    /// Reads a proxy's URL, such as `http://user:password@proxy:3128` or `socks5://127.0.0.1:1080`. An error says what is
    /// allowed.
    pub fn parse(url: &str) -> Result<Proxy, &'static str> {
        const ALLOWED: &str = "must be the URL of a proxy, such as http://proxy:3128 or socks5://127.0.0.1:1080";
        let (scheme, rest) = url.split_once("://").ok_or(ALLOWED)?;
        let (kind, port) = match scheme {
            "http" => (Kind::Http, 80),
            "socks5" | "socks5h" => (Kind::Socks5, 1080),
            "https" => return Err("proxies that are spoken with by TLS are not supported; use http:// or socks5://"),
            _ => return Err(ALLOWED),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let user = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
            Some((name, password)) => Some((decode(name).ok_or(ALLOWED)?, decode(password).ok_or(ALLOWED)?)),
            None => None,
        };
        let (host, port) = super::host_and_port(place, port).ok_or(ALLOWED)?;
        // SOCKS has one byte for each length.
        let long = |text: &String| text.is_empty() || text.len() > 255;
        if kind == Kind::Socks5 && user.as_ref().is_some_and(|(name, password)| long(name) || long(password)) {
            return Err(ALLOWED);
        }
        Ok(Proxy { kind, host, port, user })
    }

    /// Asks the proxy, with which `socket` is connected, for a connection to a server.
    pub(super) fn open(
        &self,
        socket: TcpStream,
        host: &str,
        port: u16,
        deadline: Deadline,
    ) -> Result<TcpStream, Error> {
        let mut peer = Peer { socket, deadline };
        match self.kind {
            Kind::Http => self.connect(&mut peer, host, port)?,
            Kind::Socks5 => self.socks(&mut peer, host, port)?,
        }
        Ok(peer.socket)
    }

    fn connect(&self, peer: &mut Peer, host: &str, port: u16) -> Result<(), Error> {
        let target = super::authority(host, port);
        let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some((name, password)) = &self.user {
            head.push_str(&format!("Proxy-Authorization: {}\r\n", super::basic(name, password)));
        }
        head.push_str("\r\n");
        peer.write(head.as_bytes())?;
        // Byte by byte: what follows the head is the server's.
        let mut answer = Vec::new();
        loop {
            answer.extend(peer.read::<1>()?);
            if !answer.ends_with(b"\r\n\r\n") && !answer.ends_with(b"\n\n") {
                if answer.len() > super::parse::HEAD_LIMIT {
                    return Err(refused("its answer is too long"));
                }
                continue;
            }
            return match Head::parse(&answer).map_err(Error::Malformed)? {
                Some((head, _)) if head.status / 100 == 2 => Ok(()),
                Some((head, _)) => Err(refused(format!("status {}", head.status))),
                None => Err(refused("its answer has no head")),
            };
        }
    }

    fn socks(&self, peer: &mut Peer, host: &str, port: u16) -> Result<(), Error> {
        const VERSION: u8 = 5;
        const NONE: u8 = 0;
        const PASSWORD: u8 = 2;
        let method = if self.user.is_some() { PASSWORD } else { NONE };
        peer.write(&[VERSION, 1, method])?;
        if peer.read()? != [VERSION, method] {
            return Err(refused("it wants another way to log in"));
        }
        if let Some((name, password)) = &self.user {
            let field = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
            peer.write(&[&[1], &*field(name), &*field(password)].concat())?;
            let [_, status] = peer.read()?;
            if status != 0 {
                return Err(refused("wrong user or password"));
            }
        }
        let Ok(length) = u8::try_from(host.len()) else { return Err(refused("the server's name is too long")) };
        // CONNECT, to a domain name: that can be an address, too.
        peer.write(&[&[VERSION, 1, 0, 3, length], host.as_bytes(), &port.to_be_bytes()].concat())?;
        let [_, status, _, kind] = peer.read()?;
        if status != 0 {
            return Err(refused(format!("SOCKS status {status}")));
        }
        // The address that it connects from, which nobody needs.
        let length = match kind {
            1 => 4,
            3 => peer.read::<1>()?[0],
            4 => 16,
            _ => return Err(refused("unknown kind of address")),
        };
        for _ in 0..length {
            peer.read::<1>()?;
        }
        peer.read::<2>()?;
        Ok(())
    }
}

fn refused(why: impl fmt::Display) -> Error {
    Error::Connect(io::Error::other(format!("the proxy refuses: {why}")))
}

/// Percent-decodes (RFC 3986 section 2.1).
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push(match byte {
            b'%' => u8::try_from(digit(rest.next()?)? * 16 + digit(rest.next()?)?).ok()?,
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// The proxy's end.
struct Peer {
    socket: TcpStream,
    deadline: Deadline,
}

impl Peer {
    fn wait(&self, flags: PollFlags) -> Result<(), Error> {
        self.deadline.wait(self.socket.as_fd(), flags, Phase::Connect)
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            match self.socket.write(bytes) {
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::Connect(e)),
            }
        }
        Ok(())
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (mut bytes, mut count) = ([0; N], 0);
        while count < N {
            match self.socket.read(bytes.get_mut(count..).unwrap_or_default()) {
                Ok(0) => return Err(Error::Closed(Phase::Connect)),
                Ok(n) => count += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::IN)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::Connect(e)),
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
