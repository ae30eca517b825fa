//! Exchanges over kept connections.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::parse::{Event, Framing, Head};
use super::{Address, Deadline, Error, Phase, Transport, parse};

/// The most unused connections that are kept.
const IDLE_LIMIT: usize = 8;
/// The most interim (1xx) responses before the real one.
const INTERIM_LIMIT: usize = 8;
/// How much is read at a time: so much that what is left is in the socket, where poll finds it.
const READ_SIZE: usize = Transport::WHOLE_READ;
/// How long an abandoned answer that has begun may take to end.
const ABANDONED_WAIT: Duration = Duration::from_millis(100);

/// A client of one server, which keeps a few connections for the next calls. Clones share them.
#[derive(Clone, Debug)]
pub struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    address: Address,
    idle: Mutex<Vec<Connection>>,
    abandoned: Mutex<Vec<Connection>>,
}

/// A request. `Host` and the body's length are added to its fields.
pub struct Request<'a, 'b> {
    /// `GET`, `HEAD`, `POST`, `PUT`, `DELETE`.
    pub method: &'a str,
    /// Path and query, percent-encoded.
    pub target: &'a str,
    /// Further header fields.
    pub fields: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: Body<'b>,
}

/// A request's body.
pub enum Body<'a> {
    /// None.
    Empty,
    /// These bytes.
    Bytes(&'a [u8]),
    /// What this reader gives; chunked unless the length is known.
    Stream(&'a mut dyn Read, Option<u64>),
}

/// A connection and what has been read from it but not used.
#[derive(Debug)]
struct Connection {
    transport: Transport,
    buffer: Vec<u8>,
    start: usize,
}

impl Client {
    /// A client; connects when it is used.
    pub fn new(address: Address) -> Client {
        Client(Arc::new(Shared { address, idle: Mutex::default(), abandoned: Mutex::default() }))
    }

    /// Sends a request and reads the answer's head. An idempotent request (RFC 9110 section 9.2.2) whose body can be
    /// sent again is sent once more if a kept connection turns out to have been closed.
    pub fn send(&self, mut request: Request<'_, '_>, deadline: Deadline) -> Result<Response, Error> {
        let repeatable = request.method != "POST" && !matches!(request.body, Body::Stream(..));
        let (connection, kept) = self.connection(deadline)?;
        let result = self.begin_on(connection, &mut request, deadline).and_then(|exchange| exchange.response(deadline));
        match result {
            Err(Error::Closed(Phase::Head) | Error::Read(_) | Error::Write(_)) if kept && repeatable => {
                let connection = Connection::open(&self.0.address, deadline)?;
                self.begin_on(connection, &mut request, deadline)?.response(deadline)
            }
            result => result,
        }
    }

    /// Sends a request and leaves the answer for later.
    pub fn begin(&self, mut request: Request<'_, '_>, deadline: Deadline) -> Result<Exchange, Error> {
        let (connection, _) = self.connection(deadline)?;
        self.begin_on(connection, &mut request, deadline)
    }

    fn begin_on(
        &self,
        mut connection: Connection,
        request: &mut Request<'_, '_>,
        deadline: Deadline,
    ) -> Result<Exchange, Error> {
        match connection.write(&self.0.address.host(), request, deadline) {
            // A server that refuses a request before its end answers and closes: the answer says why. TLS has alerts for
            // that.
            Err(Error::Write(_)) => {}
            result => result?,
        }
        Ok(Exchange { client: self.clone(), connection, answers_head: request.method == "HEAD" })
    }

    /// A kept connection (then true) or a new one.
    fn connection(&self, deadline: Deadline) -> Result<(Connection, bool), Error> {
        self.collect_abandoned();
        while let Some(connection) = self.idle().pop() {
            if connection.transport.is_quiet() {
                return Ok((connection, true));
            }
        }
        Ok((Connection::open(&self.0.address, deadline)?, false))
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle();
        if idle.len() < IDLE_LIMIT {
            idle.push(connection);
        }
    }

    /// Reads the abandoned answers that have come, so that their connections can be used again.
    fn collect_abandoned(&self) {
        let come: Vec<_> = self.abandoned().extract_if(.., |connection| !connection.transport.is_quiet()).collect();
        for connection in come {
            let deadline = Deadline::after(ABANDONED_WAIT);
            let exchange = Exchange { client: self.clone(), connection, answers_head: false };
            // A failure only costs the connection.
            let _ = exchange.response(deadline).and_then(|mut response| response.bytes(READ_SIZE, deadline));
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn abandoned(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.0.abandoned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn open(address: &Address, deadline: Deadline) -> Result<Connection, Error> {
        Ok(Connection { transport: Transport::connect(address, deadline)?, buffer: Vec::new(), start: 0 })
    }

    fn write(&mut self, host: &str, request: &mut Request<'_, '_>, deadline: Deadline) -> Result<(), Error> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", request.method, request.target);
        for (name, value) in request.fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match &request.body {
            Body::Empty if matches!(request.method, "POST" | "PUT") => head.push_str("Content-Length: 0\r\n"),
            Body::Empty => {}
            Body::Bytes(bytes) => head.push_str(&format!("Content-Length: {}\r\n", bytes.len())),
            Body::Stream(_, Some(length)) => head.push_str(&format!("Content-Length: {length}\r\n")),
            Body::Stream(_, None) => head.push_str("Transfer-Encoding: chunked\r\n"),
        }
        head.push_str("\r\n");
        let mut head = head.into_bytes();
        if let Body::Bytes(bytes) = request.body {
            head.extend_from_slice(bytes);
        }
        self.transport.write_by(&head, deadline)?;
        match &mut request.body {
            Body::Stream(reader, length) => self.write_stream(*reader, *length, deadline),
            _ => Ok(()),
        }
    }

    fn write_stream(&mut self, reader: &mut dyn Read, length: Option<u64>, deadline: Deadline) -> Result<(), Error> {
        let mut buffer = vec![0; 4 * READ_SIZE];
        let mut sent = 0;
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::Source(e)),
            };
            let piece = buffer.get(..n).unwrap_or_default();
            sent += n as u64;
            match length {
                Some(length) if sent > length || (n == 0 && sent < length) => {
                    return Err(Error::Source(io::Error::other(format!("{sent} bytes where {length} were promised"))));
                }
                Some(_) => self.transport.write_by(piece, deadline)?,
                None => {
                    self.transport.write_by(format!("{n:x}\r\n").as_bytes(), deadline)?;
                    self.transport.write_by(piece, deadline)?;
                    self.transport.write_by(b"\r\n", deadline)?;
                }
            }
            if n == 0 {
                return Ok(());
            }
        }
    }

    fn unused(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    fn consume(&mut self, n: usize) {
        self.start += n;
        if self.start >= self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
    }

    /// Reads more from the socket behind what is unused; false at the stream's end.
    fn fill(&mut self, deadline: Deadline, phase: Phase) -> Result<bool, Error> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let length = self.buffer.len();
        self.buffer.resize(length + READ_SIZE, 0);
        let result = self.transport.read_by(self.buffer.get_mut(length..).unwrap_or_default(), deadline, phase);
        self.buffer.truncate(length + result.as_ref().copied().unwrap_or(0));
        Ok(result? > 0)
    }

    fn head(&mut self, deadline: Deadline) -> Result<Head, Error> {
        let mut interim = 0;
        loop {
            match Head::parse(self.unused()).map_err(Error::Malformed)? {
                Some((head, length)) => {
                    self.consume(length);
                    if !matches!(head.status, 100 | 102..=199) {
                        return Ok(head);
                    }
                    interim += 1;
                    if interim > INTERIM_LIMIT {
                        return Err(Error::Malformed(parse::Error::HeadTooLong));
                    }
                }
                None if self.fill(deadline, Phase::Head)? => {}
                None => return Err(Error::Closed(Phase::Head)),
            }
        }
    }
}

/// A request that was sent and whose answer has not been read. [`AsFd`] can be read when it comes.
#[derive(Debug)]
pub struct Exchange {
    client: Client,
    connection: Connection,
    answers_head: bool,
}

impl Exchange {
    /// Reads the answer's head.
    pub fn response(mut self, deadline: Deadline) -> Result<Response, Error> {
        let head = self.connection.head(deadline)?;
        let framing = Framing::of(&head, self.answers_head).map_err(Error::Malformed)?;
        let Exchange { client, connection, .. } = self;
        let mut response = Response { client, head, framing, connection: Some(connection), line: Vec::new() };
        if response.framing == Framing::Length(0) {
            response.finish();
        }
        Ok(response)
    }

    /// Lets the request take its course: its answer is thrown away when it has come. To drop the exchange instead
    /// closes the connection, which makes a server give the request up.
    pub fn abandon(self) {
        self.client.abandoned().push(self.connection);
    }
}

impl AsFd for Exchange {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.transport.as_fd()
    }
}

/// An answer. The connection is kept for the next request once the body has been read to its end; dropping it before
/// closes the connection.
#[derive(Debug)]
pub struct Response {
    client: Client,
    head: Head,
    framing: Framing,
    /// Gone when the body has ended.
    connection: Option<Connection>,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
}

impl Response {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The first header field of this name, in any case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    /// All header fields of this name that are text, in any case.
    pub fn fields(&self, name: &str) -> impl Iterator<Item = &str> {
        self.head.fields(name)
    }

    /// Can be read when more of the body comes; `None` where it has ended. What has come already is to be read first.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().map(|connection| connection.transport.as_fd())
    }

    /// The body has ended: keeps the connection if it can be used again.
    fn finish(&mut self) {
        if self.status() == 101 {
            // What follows is for `upgrade`.
            return;
        }
        if let Some(connection) = self.connection.take()
            && self.head.keeps_alive()
            && self.framing != Framing::UntilClose
            && connection.unused().is_empty()
        {
            self.client.keep(connection);
        }
    }

    /// Reads some of the body, at least one byte; 0 is its end. After [`Error::TimedOut`] it may be called again.
    pub fn read(&mut self, buffer: &mut [u8], deadline: Deadline) -> Result<usize, Error> {
        while let Some(connection) = &mut self.connection {
            match self.framing.decode(connection.unused(), buffer.len().max(1)).map_err(Error::Malformed)? {
                Event::Data(range) => {
                    let data = connection.unused().get(range.clone()).unwrap_or_default();
                    let length = data.len().min(buffer.len());
                    for (to, from) in buffer.iter_mut().zip(data) {
                        *to = *from;
                    }
                    connection.consume(range.end);
                    if length > 0 {
                        return Ok(length);
                    }
                }
                Event::End(n) => {
                    connection.consume(n);
                    self.finish();
                    return Ok(0);
                }
                Event::More if connection.fill(deadline, Phase::Body)? => {}
                Event::More if self.framing == Framing::UntilClose => self.finish(),
                Event::More => return Err(Error::Closed(Phase::Body)),
            }
        }
        Ok(0)
    }

    /// Reads the rest of the body, which may have up to `limit` bytes.
    pub fn bytes(&mut self, limit: usize, deadline: Deadline) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.read(&mut buffer, deadline)? {
                0 => return Ok(body),
                n if body.len() + n > limit => return Err(Error::TooLarge(limit)),
                n => body.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            }
        }
    }

    /// Reads a line of up to `limit` bytes, without its end; `None` at the body's end. After [`Error::TimedOut`] it may
    /// be called again, and nothing is lost.
    pub fn line(&mut self, limit: usize, deadline: Deadline) -> Result<Option<Vec<u8>>, Error> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(end) = self.line.iter().position(|b| *b == b'\n') {
                let mut line: Vec<u8> = self.line.drain(..=end).collect();
                line.truncate(end);
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(Some(line));
            }
            if self.line.len() > limit {
                return Err(Error::TooLarge(limit));
            }
            match self.read(&mut buffer, deadline)? {
                0 if self.line.is_empty() => return Ok(None),
                0 => return Ok(Some(std::mem::take(&mut self.line))),
                n => self.line.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            }
        }
    }

    /// Takes the connection over as a raw stream: after a 101, or after Docker's way of saying the same to a client
    /// that sent no `Upgrade` (a 200 whose body has no length).
    pub fn upgrade(mut self) -> Result<Upgraded, Error> {
        let raw = self.status() == 101 || (self.status() == 200 && self.framing == Framing::UntilClose);
        match self.connection.take() {
            Some(connection) if raw => {
                Ok(Upgraded { early: connection.unused().to_vec(), start: 0, transport: connection.transport })
            }
            _ => Err(Error::NotUpgraded(self.status())),
        }
    }
}

/// A raw, non-blocking stream that began as an exchange. What the server sent right behind its answer is read first, so
/// read until [`io::ErrorKind::WouldBlock`] before polling.
#[derive(Debug)]
pub struct Upgraded {
    early: Vec<u8>,
    start: usize,
    transport: Transport,
}

impl Upgraded {
    /// Says that no more is written. Reading goes on.
    pub fn shutdown_write(&mut self) -> io::Result<()> {
        self.transport.shutdown_write()
    }
}

impl Read for Upgraded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut early = self.early.get(self.start..).unwrap_or_default();
        if early.is_empty() {
            return self.transport.read(buffer);
        }
        let n = early.read(buffer)?;
        self.start += n;
        Ok(n)
    }
}

impl Write for Upgraded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.transport.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.transport.flush()
    }
}

impl AsFd for Upgraded {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.as_fd()
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
