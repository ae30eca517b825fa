//! A websocket client (RFC 6455), non-blocking, without extensions.
//!
//! `frame` takes bytes apart and owns no socket. Here are the opening handshake, over a [`Client`], and the connection
//! after it: pings are answered, closing is agreed on, and all that goes out is masked with random keys.

pub mod frame;

pub use frame::{Close, Kind};

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{Body, Client, Deadline, Request, Response, Transport, Upgraded};
use crate::random;
use frame::{Decoder, Event, Opcode};

/// How much is read at a time. More than the server sends at once, mostly, and what a reader can be expected to take.
const READ_SIZE: usize = Transport::WHOLE_READ;
/// What a server proves with that it knows the protocol: section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why a websocket failed.
#[derive(Debug)]
pub enum Error {
    /// The exchange that was to open it.
    Http(super::Error),
    /// The server agreed to something else: this field of its answer is wrong.
    Handshake(&'static str),
    /// Its stream.
    Io(io::Error),
    /// The stream ended without a close frame.
    Lost,
    /// The server broke the protocol.
    Protocol(frame::Error),
    /// Something was to be read or sent after the close frame.
    Closed,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Http(e) => e.fmt(f),
            Error::Handshake(field) => write!(f, "the server's websocket handshake has a wrong {field}"),
            Error::Io(e) => e.fmt(f),
            Error::Lost => f.write_str("the connection was lost"),
            Error::Protocol(e) => write!(f, "the server broke the websocket protocol: {e}"),
            Error::Closed => f.write_str("the websocket is closed"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        match error {
            Error::Io(error) => error,
            Error::Lost => io::Error::new(io::ErrorKind::UnexpectedEof, error.to_string()),
            error => io::Error::other(error.to_string()),
        }
    }
}

/// What came of a handshake.
#[derive(Debug)]
pub enum Opening {
    /// The connection, and the subprotocol that the server chose.
    Open(WebSocket<Upgraded>, String),
    /// The server answered in the ordinary way: its answer says why.
    Refused(Response),
}

/// Opens a websocket at `target` of a server: section 4.1. `fields` are further header fields. The server must choose one
/// of the `protocols`.
pub fn open(
    client: &Client,
    target: &str,
    fields: &[(&str, &str)],
    protocols: &[&str],
    deadline: Deadline,
) -> Result<Opening, Error> {
    let key = BASE64.encode(random::bytes::<16>().map_err(Error::Io)?);
    let protocols = protocols.join(", ");
    let own = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", &key),
        ("Sec-WebSocket-Protocol", &protocols),
    ];
    let fields = [&own, fields].concat();
    let request = Request { method: "GET", target, fields: &fields, body: Body::Empty };
    let response = client.send(request, deadline).map_err(Error::Http)?;
    if response.status() != 101 {
        return Ok(Opening::Refused(response));
    }
    let protocol = check(&response, &key, &protocols).map_err(Error::Handshake)?;
    let stream = response.upgrade().map_err(Error::Http)?;
    Ok(Opening::Open(WebSocket::new(stream), protocol))
}

/// Checks a server's handshake; gives the protocol that it chose, or the name of the field that is wrong.
fn check(response: &Response, key: &str, protocols: &str) -> Result<String, &'static str> {
    let is = |name: &'static str, wanted: &str| {
        let members = response.field(name).unwrap_or_default().split(',');
        members.map(str::trim).any(|member| member.eq_ignore_ascii_case(wanted)).then_some(()).ok_or(name)
    };
    is("Upgrade", "websocket")?;
    is("Connection", "upgrade")?;
    if response.field("Sec-WebSocket-Accept") != Some(&accept(key)) {
        return Err("Sec-WebSocket-Accept");
    }
    if response.field("Sec-WebSocket-Extensions").is_some() {
        return Err("Sec-WebSocket-Extensions");
    }
    let chosen = response.field("Sec-WebSocket-Protocol").unwrap_or_default();
    match protocols.split(", ").find(|protocol| *protocol == chosen) {
        Some(protocol) => Ok(protocol.to_owned()),
        None => Err("Sec-WebSocket-Protocol"),
    }
}

/// The answer to a key: section 4.2.2.
fn accept(key: &str) -> String {
    BASE64.encode(openssl::sha::sha1(format!("{key}{GUID}").as_bytes()))
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A piece of a message.
    Data {
        /// What the message is made of. A text's pieces together are UTF-8, each alone need not be.
        kind: Kind,
        /// Whether the message begins with it.
        first: bool,
        /// Whether the message ends with it.
        last: bool,
        /// The piece, which can be empty.
        bytes: &'a [u8],
    },
    /// The answer to [`WebSocket::ping`].
    Pong,
    /// The server closes. Nothing else comes.
    Close(Close),
}

/// An open websocket over a non-blocking stream.
///
/// What was read and is no whole step yet is kept, and so is what is to be sent until the stream takes it: see
/// [`WebSocket::flush`].
#[derive(Debug)]
pub struct WebSocket<S> {
    stream: S,
    decoder: Decoder,
    input: Vec<u8>,
    start: usize,
    output: Vec<u8>,
    /// How many bytes at the end of `output` are a pong. A newer ping's answer takes its place: section 5.5.3.
    pong: usize,
    close_sent: bool,
    close_received: bool,
}

impl<S: Read + Write> WebSocket<S> {
    fn new(stream: S) -> Self {
        WebSocket {
            stream,
            decoder: Decoder::default(),
            input: Vec::new(),
            start: 0,
            output: Vec::new(),
            pong: 0,
            close_sent: false,
            close_received: false,
        }
    }

    /// Reads the next step, at most [`Transport::WHOLE_READ`] bytes of it. [`io::ErrorKind::WouldBlock`] says that there
    /// is none yet, and that nothing is kept back from whoever polls the stream.
    pub fn read(&mut self) -> Result<Incoming<'_>, Error> {
        let event = loop {
            if self.close_received {
                return Err(Error::Closed);
            }
            let input = self.input.get(self.start..).unwrap_or_default();
            let (event, length) = self.decoder.decode(input).map_err(|error| self.fail(error))?;
            let start = self.start;
            self.start += length;
            let absolute = |range: std::ops::Range<usize>| start + range.start..start + range.end;
            match event {
                Event::More => self.fill()?,
                Event::Ping(range) => self.answer(absolute(range))?,
                Event::Pong(_) => return Ok(Incoming::Pong),
                Event::Close(close) => {
                    self.close_received = true;
                    self.close_with(close.as_ref().map(|(code, _)| *code))?;
                    return Ok(Incoming::Close(close));
                }
                Event::Data { kind, first, last, range } => break (kind, first, last, absolute(range)),
            }
        };
        let (kind, first, last, range) = event;
        Ok(Incoming::Data { kind, first, last, bytes: self.input.get(range).unwrap_or_default() })
    }

    /// Whether something was read from the stream that may make a step, of which polling does not tell.
    pub fn has_read_ahead(&self) -> bool {
        self.start < self.input.len()
    }

    /// Reads more from the stream behind what is not used yet, which is the begin of a frame at most.
    fn fill(&mut self) -> Result<(), Error> {
        self.input.drain(..self.start);
        self.start = 0;
        let length = self.input.len();
        self.input.resize(length + READ_SIZE, 0);
        let result = self.stream.read(self.input.get_mut(length..).unwrap_or_default());
        self.input.truncate(length + result.as_ref().copied().unwrap_or(0));
        if self.input.is_empty() {
            // An idle connection has no buffer.
            self.input = Vec::new();
        }
        match result {
            Ok(0) => Err(Error::Lost),
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(Error::Io(e)),
        }
    }

    /// Answers a ping whose payload is in this place of the input.
    fn answer(&mut self, payload: std::ops::Range<usize>) -> Result<(), Error> {
        if self.close_sent {
            return Ok(());
        }
        let key = random::bytes().map_err(Error::Io)?;
        self.output.truncate(self.output.len() - self.pong);
        let length = self.output.len();
        frame::append(&mut self.output, Opcode::Pong, key, &[self.input.get(payload).unwrap_or_default()]);
        self.pong = self.output.len() - length;
        self.flush_some()
    }

    /// Tells the server what is wrong, as far as that goes.
    fn fail(&mut self, error: frame::Error) -> Error {
        let _ = self.close_with(Some(error.close_code()));
        self.close_received = true;
        Error::Protocol(error)
    }

    /// Queues a message whose payload are the `parts`, and sends what the stream takes. How much waits is the caller's to
    /// bound: see [`WebSocket::flush`].
    pub fn send(&mut self, kind: Kind, parts: &[&[u8]]) -> Result<(), Error> {
        self.queue(Opcode::Message(kind), parts)
    }

    /// Asks for a sign of life.
    pub fn ping(&mut self) -> Result<(), Error> {
        self.queue(Opcode::Ping, &[])
    }

    /// Says that this was all. The server's own close frame follows, behind what it still has to say.
    pub fn close(&mut self, code: u16) -> Result<(), Error> {
        self.close_with(Some(code))
    }

    fn close_with(&mut self, code: Option<u16>) -> Result<(), Error> {
        if self.close_sent {
            return self.flush_some();
        }
        let payload = code.map(u16::to_be_bytes);
        self.queue(Opcode::Close, &[payload.as_ref().map_or(&[], |code| code.as_slice())])?;
        self.close_sent = true;
        Ok(())
    }

    fn queue(&mut self, opcode: Opcode, parts: &[&[u8]]) -> Result<(), Error> {
        if self.close_sent {
            return Err(Error::Closed);
        }
        let key = random::bytes().map_err(Error::Io)?;
        self.pong = 0;
        frame::append(&mut self.output, opcode, key, parts);
        self.flush_some()
    }

    fn flush_some(&mut self) -> Result<(), Error> {
        match self.flush() {
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }

    /// Sends what waits; [`io::ErrorKind::WouldBlock`] where some of it has to go on waiting, until the stream can be
    /// written.
    pub fn flush(&mut self) -> Result<(), Error> {
        let mut sent = 0;
        let result = loop {
            let waiting = self.output.get(sent..).unwrap_or_default();
            if waiting.is_empty() {
                break Ok(());
            }
            match self.stream.write(waiting) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        if sent > 0 {
            // A pong that has begun must be ended.
            self.pong = 0;
            self.output.drain(..sent);
        }
        if self.output.is_empty() {
            self.output = Vec::new();
        }
        result.map_err(Error::Io)
    }
}

impl<S: AsFd> AsFd for WebSocket<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::accept;

    #[test]
    fn a_key_is_answered_as_in_the_rfc() {
        // Section 1.3.
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
