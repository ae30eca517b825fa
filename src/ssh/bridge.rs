//! The bridge between a client and its agent.
//!
//! Both sides speak RFC 4254; the bridge carries messages from one to the other. Data, windows, EOF and close pass
//! through as they are, so that flow control runs end to end: the channels' windows bound what is under way, and what
//! the bridge buffers is bounded besides ([`LIMIT`]; beyond it, it stops reading). It looks into opens, requests and
//! global requests, since policy is decided here: the agent runs where its user has power over it.
//!
//! A container is started when the client opens its first session; see [`super::early`] for what happens meanwhile.

use std::io::{self, Read, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use libssh_server::Session;
use rustix::event::PollFlags;

use super::authentication::Login;
use super::early::{self, Early, Verdict};
use super::policy::Policy;
use super::waker::Waker;
use super::worker::{Lost, Pending};
use super::{Server, reason};
use crate::backend::{self, Container, Request, Waiter};
use crate::connection::forward::Listening;
use crate::connection::frame::{self, Queue};
use crate::connection::message::{self, ChannelRequest, GlobalRequest, Open, OpenFailure, number};
use crate::connection::wire::{Malformed, Reader, Write};

/// Bytes that may wait in either direction before the bridge stops reading from where they come.
pub const LIMIT: usize = 256 * 1024;

/// Bytes read from the agent at a time.
const READ: usize = 64 * 1024;

/// Why a bridge, and with it the connection, ends.
pub enum End {
    /// The session has failed, or the client is gone.
    Session(libssh_server::Error),
    /// To be told to the client: SSH_MSG_DISCONNECT's reason and text.
    Disconnect(u32, String),
}

impl From<libssh_server::Error> for End {
    fn from(error: libssh_server::Error) -> Self {
        End::Session(error)
    }
}

impl From<Malformed> for End {
    fn from(_: Malformed) -> Self {
        End::Disconnect(reason::PROTOCOL_ERROR, "malformed message".into())
    }
}

fn protocol_error(text: &str) -> End {
    End::Disconnect(reason::PROTOCOL_ERROR, text.into())
}

/// An authenticated client's half of the server.
pub struct Bridge {
    server: Arc<Server>,
    id: String,
    user: String,
    client: SocketAddr,
    waker: Waker,
    policy: Policy,
    /// What every session of this connection finds in its environment.
    environment: Vec<(String, String)>,
    early: Early,
    state: State,
    no_more_sessions: bool,
}

enum State {
    /// No session has been opened.
    Idle,
    Starting {
        container: Pending<Result<Container, backend::Error>>,
        waiter: Arc<Waiting>,
    },
    Running(Agent),
}

/// A running container's agent.
struct Agent {
    container: Container,
    /// Frames for the agent.
    output: Queue,
    /// Frames from the agent.
    input: Queue,
    /// Whether its hello has come.
    greeted: bool,
    /// Whether the client is OpenSSH's, which alone knows eow@openssh.com.
    knows_eow: bool,
}

/// The user who waits, as the backend sees it from its worker.
struct Waiting {
    line: Mutex<Option<String>>,
    gone: AtomicBool,
    waker: Waker,
}

impl Waiter for Waiting {
    fn progress(&self, line: &str) {
        if let Ok(mut newest) = self.line.lock() {
            *newest = Some(line.to_owned());
        }
        self.waker.wake();
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

impl Bridge {
    /// `local` is the address that the client connected to.
    pub fn new(
        server: Arc<Server>,
        id: String,
        client: SocketAddr,
        local: SocketAddr,
        waker: Waker,
        login: Login,
    ) -> Self {
        let mut environment = login.restrictions.environment.clone();
        let (from, to) = (client.ip().to_canonical(), local.ip().to_canonical());
        environment.push(("SSH_CLIENT".into(), format!("{from} {} {}", client.port(), local.port())));
        environment.push(("SSH_CONNECTION".into(), format!("{from} {} {to} {}", client.port(), local.port())));
        let policy = Policy::new(server.settings.accept_env.clone(), login.restrictions);
        Bridge {
            server,
            id,
            user: login.user,
            client,
            waker,
            policy,
            environment,
            early: Early::default(),
            state: State::Idle,
            no_more_sessions: false,
        }
    }

    /// Takes from the client's messages as many as can be dealt with now.
    pub fn client_messages(&mut self, session: &mut Session, queue: &mut Queue) -> Result<(), End> {
        while let Ok(Some(message)) = queue.front() {
            if self.is_full() || !self.client_message(session, message)? {
                break;
            }
            queue.pop();
        }
        self.early.show(session, queue)?;
        self.write();
        Ok(())
    }

    /// Whether the message has been dealt with; if not, it has to wait.
    fn client_message(&mut self, session: &mut Session, message: &[u8]) -> Result<bool, End> {
        let Some((&kind, body)) = message.split_first() else { return Ok(true) };
        match kind {
            number::GLOBAL_REQUEST => self.global_request(session, &GlobalRequest::decode(body)?)?,
            number::CHANNEL_OPEN => self.open(session, &Open::decode(body)?)?,
            // The server sends the client no requests and opens no channels that these could answer.
            number::REQUEST_SUCCESS | number::REQUEST_FAILURE => (),
            number::CHANNEL_OPEN_CONFIRMATION | number::CHANNEL_OPEN_FAILURE => (),
            number::CHANNEL_WINDOW_ADJUST..=number::CHANNEL_FAILURE => {
                let recipient = Reader::new(body).u32()?;
                if recipient < early::FIRST {
                    let State::Running(agent) = &mut self.state else { return Err(protocol_error("no such channel")) };
                    agent.take(message, &self.policy)?;
                    return Ok(true);
                }
                match self.early.message(session, recipient, message)? {
                    Verdict::Wait => return Ok(false),
                    Verdict::Unknown => return Err(protocol_error("no such channel")),
                    Verdict::Taken => (),
                    Verdict::Forward(number) => {
                        let State::Running(agent) = &mut self.state else { return Ok(true) };
                        let mut translated = message.to_vec();
                        translated[1..5].copy_from_slice(&number.to_be_bytes());
                        agent.take(&translated, &self.policy)?;
                        if kind == number::CHANNEL_CLOSE {
                            self.early.forget(recipient);
                        }
                    }
                }
            }
            _ => return Err(protocol_error("unknown message")),
        }
        Ok(true)
    }

    fn global_request(&mut self, session: &mut Session, request: &GlobalRequest<'_>) -> Result<(), End> {
        let known = request.name == b"no-more-sessions@openssh.com";
        self.no_more_sessions |= known;
        if request.want_reply {
            session.send(&[if known { number::REQUEST_SUCCESS } else { number::REQUEST_FAILURE }])?;
        }
        Ok(())
    }

    fn open(&mut self, session: &mut Session, open: &Open<'_>) -> Result<(), End> {
        let refusal = match open.channel_type {
            b"session" if self.no_more_sessions => {
                return Err(protocol_error(
                    "Possible attack: attempt to open a session after additional sessions disabled",
                ));
            }
            b"session" => self.open_session(open).err(),
            b"direct-tcpip" | b"direct-streamlocal@openssh.com" => Some(OpenFailure::AdministrativelyProhibited),
            _ => Some(OpenFailure::UnknownChannelType),
        };
        if let Some(failure) = refusal {
            session.send(&message::open_failure(open.sender, failure, "open failed"))?;
        }
        Ok(())
    }

    fn open_session(&mut self, open: &Open<'_>) -> Result<(), OpenFailure> {
        if let State::Running(agent) = &mut self.state {
            frame::append(agent.output.tail(), &open.encode());
            return Ok(());
        }
        self.early.open(open)?;
        if matches!(self.state, State::Idle) {
            self.state = self.start();
        }
        Ok(())
    }

    fn start(&self) -> State {
        let waiter =
            Arc::new(Waiting { line: Mutex::new(None), gone: AtomicBool::new(false), waker: self.waker.clone() });
        let (server, waiting) = (Arc::clone(&self.server), Arc::clone(&waiter));
        let request = Request { connection: self.id.clone(), user: self.user.clone(), client: self.client };
        let container = Pending::start(self.waker.clone(), move || server.backend.start(&request, waiting.as_ref()));
        State::Starting { container, waiter }
    }

    /// Goes on where the backend's worker has something to say.
    pub fn resume(&mut self, session: &mut Session) -> Result<(), End> {
        let State::Starting { container, waiter } = &mut self.state else { return Ok(()) };
        if let Some(line) = waiter.line.lock().ok().and_then(|mut line| line.take()) {
            self.early.progress(session, &line)?;
        }
        let Some(result) = container.poll() else { return Ok(()) };
        let result = result.unwrap_or_else(|Lost| {
            Err(backend::Error { user: "internal error".into(), log: "the worker ended without a container".into() })
        });
        match result {
            Ok(container) => {
                log::debug!("{}: the agent is connected", self.id);
                let knows_eow = session.client().is_some_and(|client| client.starts_with("SSH-2.0-OpenSSH"));
                let (output, input) = (Queue::default(), Queue::default());
                let mut agent = Agent { container, output, input, greeted: false, knows_eow };
                frame::append(agent.output.tail(), &hello(&self.environment));
                for open in self.early.offer() {
                    frame::append(agent.output.tail(), &open);
                }
                self.state = State::Running(agent);
            }
            Err(error) => {
                log::error!("{}: {}", self.id, error.log);
                self.state = State::Idle;
                self.early.fail(session, &error.user)?;
            }
        }
        Ok(())
    }

    /// Whether so much waits for the agent that no more may come.
    pub fn is_full(&self) -> bool {
        matches!(&self.state, State::Running(agent) if agent.output.len() >= LIMIT)
    }

    /// The agent's stream and what to poll it for, where there is an agent. It is not read while much waits for the
    /// client already.
    pub fn interest(&self, session: &Session) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let State::Running(agent) = &self.state else { return None };
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, session.pending() < LIMIT && !session.is_exchanging());
        flags.set(PollFlags::OUT, !agent.output.is_empty());
        Some((agent.container.stream.as_fd(), flags))
    }

    /// Carries over what the agent has sent. To be called where its stream is readable.
    pub fn read(&mut self, session: &mut Session) -> Result<(), End> {
        let State::Running(agent) = &mut self.state else { return Ok(()) };
        let tail = agent.input.tail();
        let start = tail.len();
        tail.resize(start + READ, 0);
        let result = agent.container.stream.read(&mut tail[start..]);
        tail.truncate(start + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) => return Err(End::Disconnect(reason::BY_APPLICATION, "the container has ended".into())),
            Ok(_) => (),
            Err(error) if is_transient(&error) => return Ok(()),
            Err(error) => {
                log::warn!("{}: the agent's stream: {error}", self.id);
                return Err(End::Disconnect(reason::BY_APPLICATION, "the container is lost".into()));
            }
        }
        agent.deliver(session, &mut self.early).inspect_err(|end| {
            if let End::Disconnect(_, text) = end {
                log::error!("{}: the agent broke the protocol: {text}", self.id);
            }
        })?;
        self.write();
        Ok(())
    }

    /// Writes to the agent what its stream takes.
    pub fn write(&mut self) {
        let State::Running(agent) = &mut self.state else { return };
        while !agent.output.is_empty() {
            match agent.container.stream.write(agent.output.bytes()) {
                Ok(count) if count > 0 => agent.output.consume(count),
                Err(error) if is_transient(&error) => break,
                // What the agent said last may still be there to read: reading finds the end.
                Ok(_) | Err(_) => agent.output = Queue::default(),
            }
        }
    }

    /// Gives back the memory of empty buffers.
    pub fn shrink(&mut self) {
        if let State::Running(agent) = &mut self.state {
            agent.output.shrink();
            agent.input.shrink();
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if let State::Starting { waiter, .. } = &self.state {
            waiter.gone.store(true, Ordering::Relaxed);
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The server's first message: see PROTOCOL.md.
fn hello(environment: &[(String, String)]) -> Vec<u8> {
    let mut specific = Vec::new();
    specific.put_u32(frame::VERSION);
    specific.put_u32(environment.len() as u32);
    for (name, value) in environment {
        specific.put_string(name);
        specific.put_string(value);
    }
    Listening::default().encode(&mut specific);
    GlobalRequest { name: frame::HELLO, want_reply: false, specific: &specific }.encode()
}

impl Agent {
    /// Takes a client's channel message.
    fn take(&mut self, message: &[u8], policy: &Policy) -> Result<(), End> {
        if message[0] == number::CHANNEL_REQUEST {
            policy.channel_request(ChannelRequest::decode(&message[1..])?, self.output.tail())?;
        } else {
            frame::append(self.output.tail(), message);
        }
        Ok(())
    }

    /// Carries the agent's whole messages to the client. They are an attacker's as much as the client's are: whoever
    /// has power in the container may have replaced the agent.
    fn deliver(&mut self, session: &mut Session, early: &mut Early) -> Result<(), End> {
        loop {
            let message = match self.input.front() {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(error) => return Err(protocol_error(&error.to_string())),
            };
            let (kind, body) = (message[0], &message[1..]);
            match kind {
                _ if !self.greeted => {
                    check_hello(message)?;
                    self.greeted = true;
                }
                number::CHANNEL_OPEN_CONFIRMATION => {
                    let mut r = Reader::new(body);
                    let (client, agent, window) = (r.u32()?, r.u32()?, r.u32()?);
                    if agent >= early::FIRST {
                        return Err(protocol_error("channel number out of range"));
                    }
                    if early.confirmed(session, client, agent, window)? {
                        session.send(message)?;
                    }
                }
                number::CHANNEL_OPEN_FAILURE => {
                    if early.refused(Reader::new(body).u32()?) {
                        session.send(message)?;
                    }
                }
                number::CHANNEL_REQUEST if !self.knows_eow => {
                    if ChannelRequest::decode(body)?.name != b"eow@openssh.com" {
                        session.send(message)?;
                    }
                }
                number::CHANNEL_WINDOW_ADJUST..=number::CHANNEL_FAILURE => session.send(message)?,
                // The client has asked for no channels from here.
                number::CHANNEL_OPEN => {
                    let open = Open::decode(body)?;
                    let failure = message::open_failure(open.sender, OpenFailure::AdministrativelyProhibited, "");
                    self.input.pop();
                    if self.output.len() >= LIMIT {
                        return Err(protocol_error("too many channels"));
                    }
                    frame::append(self.output.tail(), &failure);
                    continue;
                }
                // Nor does it answer requests.
                number::GLOBAL_REQUEST | number::REQUEST_SUCCESS | number::REQUEST_FAILURE => (),
                _ => return Err(protocol_error("unknown message")),
            }
            self.input.pop();
        }
    }
}

fn check_hello(message: &[u8]) -> Result<(), End> {
    if message[0] != number::GLOBAL_REQUEST {
        return Err(protocol_error("no hello"));
    }
    let request = GlobalRequest::decode(&message[1..])?;
    if request.name != frame::HELLO {
        return Err(protocol_error("no hello"));
    }
    match Reader::new(request.specific).u32()? {
        frame::VERSION => Ok(()),
        other => {
            Err(protocol_error(&format!("the agent speaks version {other} of the protocol, not {}", frame::VERSION)))
        }
    }
}
