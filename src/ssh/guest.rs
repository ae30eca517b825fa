//! One container of a client's, from before it is there until the client has let go of it.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use libssh_server::Session;
use rustix::event::PollFlags;

use super::agent::{Agent, ENDED};
use super::bridge::{End, LIMIT, protocol_error};
use super::channels::{Channels, NUMBERS};
use super::early::{self, Early, Line, Verdict};
use super::forwards::Forwards;
use super::policy::Policy;
use super::quota::{Kind, Share};
use super::worker::{Lost, Pending};
use crate::backend::{self, Backend, Container, Lease, Request, Waiter};
use crate::connection::frame::Queue;
use crate::connection::message::{GlobalRequest, Open, OpenFailure, number, window_adjust};
use crate::connection::wire::Reader;
use crate::metrics::{self, Metric};
use crate::waker::Waker;

/// How many guests one client can have.
pub const MOST: u32 = early::FIRST / NUMBERS;

/// A container, and what its client has in it.
pub struct Guest {
    /// Tells the client's guests apart. It is in the numbers that the client knows this one's channels by.
    pub index: u32,
    /// Whether a session was ever its.
    pub has_had_session: bool,
    pub channels: Channels,
    early: Early,
    state: State,
}

/// What there is of the container.
enum State {
    Starting {
        container: Pending<Result<Container, backend::Error>>,
        waiter: Arc<Waiting>,
    },
    Running(Agent),
    /// None any more, or never.
    Gone,
}

/// The user who waits, as the backend sees it from its worker.
struct Waiting {
    line: Mutex<Option<Line>>,
    gone: AtomicBool,
    waker: Waker,
}

impl Waiting {
    fn show(&self, line: Line) {
        if let Ok(mut newest) = self.line.lock() {
            *newest = Some(line);
        }
        self.waker.wake();
    }
}

impl Waiter for Waiting {
    fn progress(&self, line: &str) {
        self.show(Line::ForAll(line.to_owned()));
    }

    fn announce(&self, line: &str) {
        self.show(Line::ForTerminals(line.to_owned()));
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

/// A container that counts as its user's until it is removed.
struct Counted {
    /// Dropped first.
    lease: Box<dyn Lease>,
    _share: Share,
}

impl Lease for Counted {
    fn ended(&mut self) {
        self.lease.ended();
    }
}

impl Guest {
    /// Begins to start a container, where the user has less than `most`; 0 is no limit.
    pub fn start(index: u32, backend: &Arc<dyn Backend>, request: Request, most: usize, waker: &Waker) -> Self {
        let waiter = Arc::new(Waiting { line: Mutex::new(None), gone: AtomicBool::new(false), waker: waker.clone() });
        let (backend, waiting) = (Arc::clone(backend), Arc::clone(&waiter));
        let container = Pending::start(waker.clone(), move || {
            let share =
                Share::wait(Kind::Containers, &request.user, most, || !waiting.is_gone()).map_err(|exceeded| {
                    let log = format!("{:?} is refused a container: {exceeded}", request.user);
                    backend::Error::new(exceeded.to_string(), log)
                })?;
            metrics::count(Metric::BackendRequests, &[]);
            let counted = |lease| -> Box<dyn Lease> { Box::new(Counted { lease, _share: share }) };
            match backend.start(&request, waiting.as_ref()) {
                Ok(Container { lease, stream }) => Ok(Container { lease: counted(lease), stream }),
                Err(backend::Error { user, log, rest }) => {
                    metrics::count(Metric::BackendErrors, &[]);
                    Err(backend::Error { user, log, rest: rest.map(counted) })
                }
            }
        });
        Guest {
            index,
            has_had_session: false,
            channels: Channels::default(),
            early: Early::new(index),
            state: State::Starting { container, waiter },
        }
    }

    /// Whether the container is there or on its way.
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, State::Gone)
    }

    /// Whether nothing is left of it: its index is free.
    pub fn is_forgotten(&self) -> bool {
        !self.is_alive() && self.channels.is_empty() && self.early.is_empty()
    }

    /// Whether another channel or request can be taken: else the client's message has to wait.
    pub fn has_room(&self) -> bool {
        self.early.has_room()
    }

    /// The client opens a channel. Gives the reason where that cannot be.
    pub fn open(&mut self, open: &Open<'_>) -> Result<(), OpenFailure> {
        if !self.channels.have_room() {
            return Err(OpenFailure::ResourceShortage);
        }
        match &mut self.state {
            State::Running(agent) => agent.send(&open.encode()),
            State::Starting { .. } => self.early.open(open)?,
            State::Gone => return Err(OpenFailure::ConnectFailed),
        }
        self.has_had_session |= open.channel_type == b"session";
        self.channels.offer(open);
        Ok(())
    }

    /// The client asks for a port or a unix socket to be listened on, or for an end of that.
    pub fn request(&mut self, request: &GlobalRequest<'_>) {
        match &mut self.state {
            State::Running(agent) => agent.send(&request.encode()),
            State::Starting { .. } | State::Gone => self.early.request(request),
        }
    }

    /// The client answers an open of the agent's: `client` is its number for the channel and its window, where it
    /// confirms.
    pub fn answer(&mut self, session: &mut Session, message: &[u8], client: Option<(u32, u32)>) -> Result<(), End> {
        let agents = Reader::new(&message[1..]).u32()?;
        if agents >= early::FIRST || !self.channels.answered(agents % NUMBERS, client) {
            return Err(protocol_error("no such channel"));
        }
        match &mut self.state {
            State::Running(agent) => agent.send_to(message, agents % NUMBERS),
            State::Starting { .. } | State::Gone => self.channels.abandon(session, &mut self.early, ENDED)?,
        }
        Ok(())
    }

    /// Takes a client's message to one of the channels. Whether it has been dealt with; if not, it has to wait.
    pub fn message(&mut self, session: &mut Session, message: &[u8], policy: &Policy) -> Result<bool, End> {
        let recipient = Reader::new(&message[1..]).u32()?;
        let mut number = recipient % NUMBERS;
        if recipient >= early::FIRST {
            match self.early.message(session, recipient, message)? {
                Verdict::Wait => return Ok(false),
                Verdict::Unknown => return Err(protocol_error("no such channel")),
                Verdict::Taken => return Ok(true),
                Verdict::Forward(agents) => number = agents,
            }
        }
        match &mut self.state {
            State::Running(agent) if message[0] == number::CHANNEL_WINDOW_ADJUST => {
                if let Some(bytes) = self.channels.widened(number, Reader::new(&message[5..]).u32()?) {
                    agent.send(&window_adjust(number, bytes));
                }
            }
            State::Running(agent) => agent.take(message, number, policy, &mut self.channels)?,
            State::Starting { .. } => return Err(protocol_error("no such channel")),
            State::Gone => (),
        }
        if message[0] == number::CHANNEL_CLOSE {
            self.channels.closed_by_client(number);
            self.early.forget(recipient);
        }
        Ok(true)
    }

    /// Goes on where the backend's worker has something to say. Gives what will run, or why nothing will, once that is
    /// known.
    pub fn poll(&mut self, session: &mut Session) -> Result<Option<Result<Container, backend::Error>>, End> {
        let State::Starting { container, waiter } = &mut self.state else { return Ok(None) };
        if let Some(line) = waiter.line.lock().ok().and_then(|mut line| line.take()) {
            self.early.progress(session, line)?;
        }
        Ok(container.poll().map(|result| {
            result.unwrap_or_else(|Lost| {
                Err(backend::Error::new("internal error", "the worker ended without a container"))
            })
        }))
    }

    /// The container is there: its agent gets what has waited for it.
    pub fn run(&mut self, mut agent: Agent) {
        for message in self.early.offer() {
            agent.send(&message);
        }
        self.state = State::Running(agent);
    }

    /// There will be no container: the user is told this line.
    pub fn fail(&mut self, session: &mut Session, line: &str) -> Result<(), End> {
        self.state = State::Gone;
        self.channels = Channels::default();
        Ok(self.early.fail(session, line)?)
    }

    /// Shows lines to those who wait and have said that they listen.
    pub fn show(&mut self, session: &mut Session, queue: &Queue) -> Result<(), End> {
        Ok(self.early.show(session, queue)?)
    }

    /// The agent is gone, or is to go: the client is told so, with this line, for all that it has there. Gives what there
    /// was of it, which removes the container when it is dropped.
    pub fn end(&mut self, session: &mut Session, line: &str) -> Result<Option<Agent>, End> {
        let State::Running(agent) = std::mem::replace(&mut self.state, State::Gone) else { return Ok(None) };
        self.channels.abandon(session, &mut self.early, line)?;
        Ok(Some(agent))
    }

    /// The connection is about to end: to its client, all sessions have failed.
    pub fn cut(&mut self, session: &mut Session) -> Result<(), libssh_server::Error> {
        self.early.cut(session)?;
        self.channels.cut(session)
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

    /// Carries over what the agent has sent. To be called where its stream is readable. `forwards` are given where it
    /// listens for the client. All errors but a session's are the agent's fault.
    pub fn read(&mut self, id: &str, session: &mut Session, forwards: Option<&mut Forwards>) -> Result<(), End> {
        if let State::Running(agent) = &mut self.state {
            agent.read(id, session, &mut self.early, &mut self.channels, forwards)?;
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

impl Drop for Guest {
    /// Waits until the container is removed, or is not made any more. The backend's deadlines bound that.
    fn drop(&mut self) {
        if let State::Starting { container, waiter } = &self.state {
            waiter.gone.store(true, Ordering::Relaxed);
            let _ = container.wait();
        }
    }
}
