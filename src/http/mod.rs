//! A minimal blocking HTTP/1.1 and websocket client.
//!
//! Framing (`parse`) takes bytes and gives events, and owns no socket; `transport` moves bytes over unix sockets, TCP and
//! TLS, and knows no HTTP; `client` joins the two; [`websocket`] goes on from there. There are no redirects, cookies
//! or compression: the daemons and API servers that berth talks to use none. Every wait has a [`Deadline`], and an error
//! names the [`Phase`] that it ended.

mod client;
mod deadline;
pub mod parse;
mod proxy;
mod server;
mod tls;
mod transport;
pub mod websocket;

pub use client::{Body, Client, Exchange, Request, Response, Upgraded};
pub use deadline::{Deadline, Phase};
pub use proxy::Proxy;
pub use server::{Endpoint, FindPage, Page, PageServer};
pub use tls::{Tls, TlsError, TlsOffer, TlsSettings};
pub use transport::{Address, Transport};

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::fuzzing::Target;

pub(crate) const FUZZ_TARGETS: &[Target] =
    &[("http", parse::fuzz), ("websocket", websocket::frame::fuzz), ("pages", server::fuzz)];

/// Percent-encodes a query value; with the unreserved characters (RFC 3986 section 2.3) `/` stays, so that a whole path
/// can be encoded, too.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Reads the host and port of a URL (RFC 3986 section 3.2), without the user: `host`, `host:80`, `[::1]:80`. `port` is
/// the one that need not be there.
pub fn host_and_port(text: &str, port: u16) -> Option<(String, u16)> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').filter(|(host, _)| host.parse::<std::net::Ipv6Addr>().is_ok())?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let good = |c: char| c.is_ascii_alphanumeric() || "-._~:%".contains(c);
    let port = match rest.strip_prefix(':') {
        Some(digits) => digits.parse().ok()?,
        None if rest.is_empty() => port,
        None => return None,
    };
    (!host.is_empty() && host.chars().all(good)).then(|| (host.to_owned(), port))
}

/// The other way round: an address in brackets where its colons would be taken for the port's.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// What a User-Agent field says: RFC 9110 section 10.1.5.
pub const USER_AGENT: &str = concat!("berth/", env!("CARGO_PKG_VERSION"));

/// What an Authorization field says of a user and password: RFC 7617.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Why an exchange failed. An answer with an error status is no error here: see [`Response::status`].
#[derive(Debug)]
pub enum Error {
    /// No connection to the server: it is down, or may not be reached.
    Connect(io::Error),
    /// No TLS with the server; in OpenSSL's words.
    Tls(String),
    /// The connection failed while the request was being written.
    Write(io::Error),
    /// The connection failed while the answer was being read.
    Read(io::Error),
    /// The body of the request could not be read from its source.
    Source(io::Error),
    /// The deadline passed. A body's reader may go on with a new deadline: nothing is lost.
    TimedOut(Phase),
    /// The server closed the connection before the answer's end.
    Closed(Phase),
    /// What the server sent is not HTTP/1.1.
    Malformed(parse::Error),
    /// The body, or a line of it, is longer than this many bytes.
    TooLarge(usize),
    /// An upgrade was asked for and the server answered in the ordinary way, with this status.
    NotUpgraded(u16),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Connect(e) => write!(f, "cannot connect: {e}"),
            Error::Tls(reason) => f.write_str(reason),
            Error::Write(e) => write!(f, "cannot send the request: {e}"),
            Error::Read(e) => write!(f, "cannot read the answer: {e}"),
            Error::Source(e) => write!(f, "cannot read the request's body from its source: {e}"),
            Error::TimedOut(phase) => write!(f, "timed out while {phase}"),
            Error::Closed(phase) => write!(f, "the server closed the connection while {phase}"),
            Error::Malformed(e) => write!(f, "the answer is not valid HTTP: {e}"),
            Error::TooLarge(limit) => write!(f, "the answer is longer than the limit of {limit} bytes"),
            Error::NotUpgraded(status) => write!(f, "the server did not upgrade the connection: status {status}"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn encoding_leaves_no_character_that_ends_a_path_or_a_query_value() {
        assert_eq!(encode("reg:5000/a b?c&d#é@%"), "reg%3A5000/a%20b%3Fc%26d%23%C3%A9%40%25");
    }
}
