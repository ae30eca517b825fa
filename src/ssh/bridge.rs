//! The bridge between a client and its agent.
//!
//! Both sides speak RFC 4254; the bridge carries messages from one to the other. Data, windows, EOF and close pass
//! through as they are, so that flow control runs end to end: the channels' windows bound what is under way, and what
//! the bridge buffers is bounded besides ([`LIMIT`]; beyond it, it stops reading). It looks into opens, requests and
//! global requests, since policy is decided here: the agent runs where its user has power over it.
//!
//! A container is started when the client first asks for something that takes one: a session, a connection, or a
//! listening socket; see [`super::early`] for what happens meanwhile.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use libssh_server::Session;
use rustix::event::PollFlags;

use super::agent::Agent;
use super::authentication::Login;
use super::early::{self, Early, Verdict};
use super::forwards::Forwards;
use super::policy::Policy;
use super::waker::Waker;
use super::worker::{Lost, Pending};
use super::{Server, reason};
use crate::backend::{self, Container, Request, Waiter};
use crate::connection::frame::Queue;
use crate::connection::message::{self, GlobalRequest, Open, OpenFailure, number};
use crate::connection::wire::{Malformed, Reader};

/// Bytes that may wait in either direction before the bridge stops reading from where they come.
pub const LIMIT: usize = 256 * 1024;

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

/// The peer broke the protocol.
pub fn protocol_error(text: &str) -> End {
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
    forwards: Forwards,
    state: State,
    no_more_sessions: bool,
}

/// What there is of a container.
enum State {
    /// None is wanted yet.
    Idle,
    Starting {
        container: Pending<Result<Container, backend::Error>>,
        waiter: Arc<Waiting>,
    },
    Running(Agent),
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
        let forwarding = server.forwarding.of(&login.user).clone();
        let policy = Policy::new(server.settings.accept_env.clone(), forwarding, login.restrictions);
        Bridge {
            server,
            id,
            user: login.user,
            client,
            waker,
            policy,
            environment,
            early: Early::default(),
            forwards: Forwards::default(),
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
            number::GLOBAL_REQUEST => return self.global_request(session, &GlobalRequest::decode(body)?),
            number::CHANNEL_OPEN => return self.open(session, &Open::decode(body)?),
            // Signs of life: the server asks for nothing else.
            number::REQUEST_SUCCESS | number::REQUEST_FAILURE => (),
            number::CHANNEL_OPEN_CONFIRMATION | number::CHANNEL_OPEN_FAILURE => {
                let opened = self.forwards.opened(Reader::new(body).u32()?);
                let (State::Running(agent), true) = (&mut self.state, opened) else {
                    return Err(protocol_error("no such channel"));
                };
                agent.send(message);
            }
            number::CHANNEL_WINDOW_ADJUST..=number::CHANNEL_FAILURE => {
                let recipient = Reader::new(body).u32()?;
                if recipient < early::FIRST {
                    let State::Running(agent) = &mut self.state else { return Err(protocol_error("no such channel")) };
                    agent.take(message, &self.policy, &mut self.forwards)?;
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
                        agent.take(&translated, &self.policy, &mut self.forwards)?;
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

    /// Whether the request has been dealt with; if not, it has to wait.
    fn global_request(&mut self, session: &mut Session, request: &GlobalRequest<'_>) -> Result<bool, End> {
        if self.forwards.is_full() || !self.early.has_room() {
            return Ok(false);
        }
        let ends_sessions = request.name == b"no-more-sessions@openssh.com";
        self.no_more_sessions |= ends_sessions;
        if self.policy.may_listen(request)? && self.ask(request)? {
            return Ok(true);
        }
        if request.want_reply {
            self.forwards.answer(ends_sessions);
        }
        self.forwards.send_answers(session)?;
        Ok(true)
    }

    /// Whether the agent can be asked to listen, or to stop that.
    fn ask(&mut self, request: &GlobalRequest<'_>) -> Result<bool, End> {
        let stops = request.name.starts_with(b"cancel-");
        let possible = match &mut self.state {
            _ if !stops && !self.forwards.has_room() => false,
            State::Running(agent) => {
                agent.send(&request.encode());
                true
            }
            // Nobody listens.
            State::Idle if stops => false,
            State::Idle | State::Starting { .. } => {
                self.early.request(request);
                true
            }
        };
        if possible {
            self.forwards.passed_on(request)?;
            self.start();
        } else {
            log::info!("{}: refused: {}", self.id, request.name.escape_ascii());
        }
        Ok(possible)
    }

    /// Whether the open has been dealt with; if not, it has to wait.
    fn open(&mut self, session: &mut Session, open: &Open<'_>) -> Result<bool, End> {
        if !self.early.has_room() {
            return Ok(false);
        }
        let allowed = match open.channel_type {
            b"session" if self.no_more_sessions => {
                return Err(protocol_error(
                    "Possible attack: attempt to open a session after additional sessions disabled",
                ));
            }
            b"session" => Ok(()),
            b"direct-tcpip" | b"direct-streamlocal@openssh.com" if self.policy.may_connect(open)? => Ok(()),
            b"direct-tcpip" | b"direct-streamlocal@openssh.com" => {
                log::info!("{}: refused: {}", self.id, open.channel_type.escape_ascii());
                Err(OpenFailure::AdministrativelyProhibited)
            }
            _ => Err(OpenFailure::UnknownChannelType),
        };
        let opened = allowed.and_then(|()| match &mut self.state {
            State::Running(agent) => {
                agent.send(&open.encode());
                Ok(())
            }
            State::Idle | State::Starting { .. } => self.early.open(open),
        });
        match opened {
            Ok(()) => self.start(),
            Err(failure) => session.send(&message::open_failure(open.sender, failure, "open failed"))?,
        }
        Ok(true)
    }

    /// Starts a container, where there is none.
    fn start(&mut self) {
        if !matches!(self.state, State::Idle) {
            return;
        }
        let waiter =
            Arc::new(Waiting { line: Mutex::new(None), gone: AtomicBool::new(false), waker: self.waker.clone() });
        let (server, waiting) = (Arc::clone(&self.server), Arc::clone(&waiter));
        let request = Request { connection: self.id.clone(), user: self.user.clone(), client: self.client };
        let container = Pending::start(self.waker.clone(), move || server.backend.start(&request, waiting.as_ref()));
        self.state = State::Starting { container, waiter };
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
                let mut agent = Agent::new(container, &self.environment, self.policy.listening(), knows_eow);
                for message in self.early.offer() {
                    agent.send(&message);
                }
                self.state = State::Running(agent);
            }
            Err(error) => {
                log::error!("{}: {}", self.id, error.log);
                self.state = State::Idle;
                self.early.fail(session, &error.user)?;
                self.forwards.fail();
                self.forwards.send_answers(session)?;
            }
        }
        Ok(())
    }

    /// Whether so much waits for the agent that no more may come.
    pub fn is_full(&self) -> bool {
        matches!(&self.state, State::Running(agent) if agent.is_full())
    }

    /// The agent's stream and what to poll it for, where there is an agent. It is not read while much waits for the
    /// client already.
    pub fn interest(&self, session: &Session) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let State::Running(agent) = &self.state else { return None };
        Some(agent.interest(session.pending() < LIMIT && !session.is_exchanging()))
    }

    /// Carries over what the agent has sent. To be called where its stream is readable.
    pub fn read(&mut self, session: &mut Session) -> Result<(), End> {
        if let State::Running(agent) = &mut self.state {
            agent.read(&self.id, session, &mut self.early, &mut self.forwards)?;
            agent.write();
        }
        Ok(())
    }

    /// Writes to the agent what its stream takes.
    pub fn write(&mut self) {
        if let State::Running(agent) = &mut self.state {
            agent.write();
        }
    }

    /// Gives back the memory of empty buffers.
    pub fn shrink(&mut self) {
        if let State::Running(agent) = &mut self.state {
            agent.shrink();
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
