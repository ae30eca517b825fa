//! Carries a client's messages to another SSH server, and the server's back.
//!
//! To the bridge it is an agent, by a stream of frames. Both ends of it speak RFC 4254, and number channels by
//! themselves: so almost everything passes as it is. Windows run end to end, as with an agent; what waits here is bounded
//! by [`LIMIT`].

use std::io::{self, Read as _};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use libssh_server::{Error, Session};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::sessions::{Sessions, Step};
use crate::backend;
use crate::connection::frame::{self, Queue, is_transient};
use crate::connection::hello::Hello;
use crate::connection::message::{ChannelRequest, GlobalRequest, Open, number};
use crate::connection::wire::{Malformed, Reader, Write};
use crate::ip_qos::Marking;

/// Bytes that may wait in either direction before no more is read from where they come.
const LIMIT: usize = 256 * 1024;

/// Bytes that may wait for a server before nothing more is taken from it. More than what the bridge may fill: a server that
/// writes before it reads is stopped by answers to itself alone.
pub(super) const UNREAD_LIMIT: usize = 2 * LIMIT;

/// Bytes read from the bridge at a time.
const READ: usize = 64 * 1024;

/// Where nothing has moved for so long, memory is given back.
const IDLE: Duration = Duration::from_secs(1);

/// How long the last words may take to be written.
const FAREWELL: Duration = Duration::from_secs(1);

/// Stack of the thread, in bytes.
const STACK: usize = 512 * 1024;

/// SSH_DISCONNECT_BY_APPLICATION, RFC 4253 section 11.1.
const BY_APPLICATION: u32 = 11;

/// A thread between a bridge and a server.
pub(super) struct Relay {
    stream: UnixStream,
    session: Session,
    /// Frames from the bridge.
    input: Queue,
    /// Frames for the bridge.
    output: Queue,
    /// The server's messages that have not been looked at.
    messages: Queue,
    greeted: bool,
    sessions: Sessions,
    marking: Marking,
    /// How long the server may take to answer, and when it must have, where it was asked for something of berth's own.
    patience: Duration,
    deadline: Option<Instant>,
}

/// Ends the thread when it is dropped.
pub(super) struct Lease {
    /// Another descriptor of the bridge's end.
    stream: UnixStream,
    thread: Option<JoinHandle<()>>,
}

/// Why a relay ends.
enum End {
    /// The bridge is gone.
    Bridge,
    /// The server is gone, or has broken the protocol.
    Server(Error),
    /// The server does not answer.
    Silent,
    /// A message cannot be understood.
    Malformed,
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        End::Server(error)
    }
}

impl From<Malformed> for End {
    fn from(_: Malformed) -> Self {
        End::Malformed
    }
}

impl Relay {
    /// Gives the bridge's end. `messages` have come already; `environment` is what every program is to have, and `patience`
    /// how long the server may take to say whether it may. `id` is the connection's, for the log.
    pub fn start(
        session: Session,
        messages: Queue,
        environment: Vec<(Vec<u8>, Vec<u8>)>,
        marking: Marking,
        patience: Duration,
        id: &str,
    ) -> io::Result<(Lease, UnixStream)> {
        let (stream, bridges) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        bridges.set_nonblocking(true)?;
        let mut output = Queue::default();
        let mut specific = Vec::new();
        specific.put_u32(frame::VERSION);
        // What it is capable of, its answers tell.
        specific.put_string("");
        let hello = GlobalRequest { name: frame::HELLO, want_reply: false, specific: &specific };
        frame::append(output.tail(), &hello.encode());
        let (input, sessions) = (Queue::default(), Sessions::new(environment, id));
        let relay = Relay {
            stream,
            session,
            input,
            output,
            messages,
            greeted: false,
            sessions,
            marking,
            patience,
            deadline: None,
        };
        let id = id.to_owned();
        let thread = std::thread::Builder::new().name("relay".into()).stack_size(STACK);
        let thread = thread.spawn(move || relay.run(&id))?;
        Ok((Lease { stream: bridges.try_clone()?, thread: Some(thread) }, bridges))
    }

    fn run(mut self, id: &str) {
        let mut idle = false;
        let end = loop {
            match self.round(&mut idle) {
                Ok(()) => (),
                Err(end) => break end,
            }
        };
        match end {
            End::Bridge => {
                self.session.flush_within(FAREWELL);
                self.session.disconnect(BY_APPLICATION, "the client is gone");
            }
            End::Malformed => log::error!("{id}: sshproxy: malformed message"),
            End::Silent => {
                log::warn!(
                    "{id}: sshproxy: the server did not say within sshproxy.timeout whether it takes a variable"
                );
            }
            End::Server(error) => {
                match error {
                    Error::Closed => log::info!("{id}: sshproxy: the server closed the connection"),
                    error => log::warn!("{id}: sshproxy: {error}"),
                }
                self.drain();
            }
        }
    }

    /// Deals with all that is there, and waits for more.
    fn round(&mut self, idle: &mut bool) -> Result<(), End> {
        self.pass_on()?;
        self.pass_back()?;
        let mut server = PollFlags::empty();
        let may_come = self.output.len() < LIMIT && self.session.pending() < UNREAD_LIMIT;
        server.set(PollFlags::IN, may_come);
        // Poll does not tell of what was read already.
        let has_input = may_come && self.session.has_input();
        server.set(PollFlags::OUT, self.session.has_output());
        let mut bridge = PollFlags::empty();
        bridge.set(PollFlags::IN, self.takes_more());
        bridge.set(PollFlags::OUT, !self.output.is_empty());
        let mut fds = vec![PollFd::from_borrowed_fd(self.stream.as_fd(), bridge)];
        // Only so: one that has hung up is always ready.
        if !server.is_empty() {
            fds.push(PollFd::from_borrowed_fd(self.session.socket(), server));
        }
        let timeout = Timespec { tv_sec: IDLE.as_secs() as i64, tv_nsec: 0 };
        let timeout = if has_input { Timespec::default() } else { timeout };
        let watches = has_input || !*idle || self.deadline.is_some();
        let found = match poll(&mut fds, watches.then_some(&timeout)) {
            Ok(found) => found,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(End::Server(Error::Io(error.into()))),
        };
        // It cannot be heard while the client takes nothing.
        let is_heard = self.output.len() < LIMIT;
        match self.deadline {
            Some(deadline) if is_heard && Instant::now() >= deadline => return Err(End::Silent),
            Some(_) if !is_heard => self.deadline = Some(Instant::now() + self.patience),
            _ => (),
        }
        *idle = found == 0 && !has_input;
        let bridge = fds[0].revents();
        let server = fds.get(1).map_or(PollFlags::empty(), PollFd::revents);
        drop(fds);
        if *idle {
            self.session.shrink();
            [&mut self.input, &mut self.output, &mut self.messages].into_iter().for_each(Queue::shrink);
        }
        if server.contains(PollFlags::OUT) {
            self.session.flush()?;
        }
        if has_input || server.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            let result = self.session.receive(self.messages.tail());
            self.pass_back()?;
            result?;
        }
        if bridge.contains(PollFlags::IN) {
            self.read()?;
        }
        if bridge.intersects(PollFlags::HUP | PollFlags::ERR) {
            return Err(End::Bridge);
        }
        self.write()
    }

    /// Whether the server can be sent more.
    fn takes_more(&self) -> bool {
        self.session.pending() < LIMIT && !self.session.is_exchanging() && !self.sessions.is_asking()
    }

    fn read(&mut self) -> Result<(), End> {
        match self.input.fill(READ, |room| self.stream.read(room)) {
            Err(error) if is_transient(&error) => Ok(()),
            Ok(0) | Err(_) => Err(End::Bridge),
            Ok(_) => Ok(()),
        }
    }

    fn write(&mut self) -> Result<(), End> {
        self.output.write_to(&mut self.stream).map_err(|_| End::Bridge)
    }

    /// Gives the bridge what the server said last.
    fn drain(&mut self) {
        while self.write().is_ok() && !self.output.is_empty() {
            let mut fds = [PollFd::new(&self.stream, PollFlags::OUT)];
            let ready = poll(&mut fds, None);
            if ready.is_err() || fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
                return;
            }
        }
    }

    /// Carries the bridge's messages to the server, as far as that takes them.
    fn pass_on(&mut self) -> Result<(), End> {
        while self.takes_more() {
            let Some(message) = self.input.front().map_err(|_| End::Malformed)? else { break };
            let body = &message[1..];
            match message[0] {
                _ if !self.greeted => {
                    Hello::decode(body).map_err(|_| End::Malformed)?;
                    self.greeted = true;
                }
                number::CHANNEL_OPEN => {
                    self.sessions.open(&Open::decode(body)?);
                    self.session.send(message)?;
                }
                number::CHANNEL_REQUEST => {
                    let request = ChannelRequest::decode(body)?;
                    if !self.sessions.has_ended(request.recipient) {
                        let steps = self.sessions.request(&request)?;
                        self.take(steps)?;
                    }
                    self.marking.set(self.session.socket(), self.sessions.have_terminal());
                }
                number::CHANNEL_CLOSE => {
                    self.sessions.closed_by_client(Reader::new(body).u32()?);
                    self.marking.set(self.session.socket(), self.sessions.have_terminal());
                    self.session.send(message)?;
                }
                number::CHANNEL_WINDOW_ADJUST..=number::CHANNEL_EOF
                    if self.sessions.has_ended(Reader::new(body).u32()?) => {}
                _ => self.session.send(message)?,
            }
            self.input.pop();
        }
        Ok(())
    }

    /// Carries the server's messages to the bridge.
    fn pass_back(&mut self) -> Result<(), End> {
        while let Ok(Some(message)) = self.messages.front() {
            let body = &message[1..];
            match message[0] {
                // It may ask whether its client is alive.
                number::GLOBAL_REQUEST => {
                    if GlobalRequest::decode(body)?.want_reply {
                        self.session.send(&[number::REQUEST_FAILURE])?;
                    }
                }
                number::CHANNEL_OPEN_CONFIRMATION => {
                    let mut fields = Reader::new(body);
                    self.sessions.confirmed(fields.u32()?, fields.u32()?);
                    frame::append(self.output.tail(), message);
                }
                number::CHANNEL_OPEN_FAILURE => {
                    self.sessions.refused(Reader::new(body).u32()?);
                    frame::append(self.output.tail(), message);
                }
                kind @ (number::CHANNEL_SUCCESS | number::CHANNEL_FAILURE) => {
                    match self.sessions.answered(Reader::new(body).u32()?, kind == number::CHANNEL_SUCCESS) {
                        None => frame::append(self.output.tail(), message),
                        Some(steps) => self.take(steps)?,
                    }
                }
                number::CHANNEL_CLOSE => {
                    if self.sessions.closed_by_server(Reader::new(body).u32()?) {
                        frame::append(self.output.tail(), message);
                    }
                    if !self.sessions.is_asking() {
                        self.deadline = None;
                    }
                }
                number::CHANNEL_WINDOW_ADJUST..=number::CHANNEL_REQUEST
                    if self.sessions.keeps(Reader::new(body).u32()?) => {}
                _ => frame::append(self.output.tail(), message),
            }
            self.messages.pop();
        }
        Ok(())
    }

    /// Sends what is to be sent for a session.
    fn take(&mut self, steps: Vec<Step>) -> Result<(), End> {
        for step in steps {
            match step {
                Step::Server(message) => self.session.send(&message)?,
                Step::Client(message) => frame::append(self.output.tail(), &message),
            }
        }
        self.deadline = self.sessions.is_asking().then(|| self.deadline.unwrap_or(Instant::now() + self.patience));
        Ok(())
    }
}

impl backend::Lease for Lease {}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
