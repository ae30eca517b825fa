//! The bridge between a client and its agent.
//!
//! Both sides speak RFC 4254; the bridge carries messages from one to the other. Data, EOF and close pass through as they
//! are, and windows but for some delay, so that flow control runs end to end: the channels' windows bound what is under way, and what
//! the bridge buffers is bounded besides ([`LIMIT`]; beyond it, it stops reading). It looks into opens, requests and
//! global requests, since policy is decided here: the agent runs where its user has power over it.
//!
//! A container is started when the client first asks for something that takes one: a session, a connection, or a
//! listening socket; see [`super::early`] for what happens meanwhile. It may be the connection's only one, or each session
//! has its own ([`Scope`]). What is forwarded goes to the oldest that there is, and a session takes one that was started
//! for forwarding, if none had it yet.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use libssh_server::Session;
use rustix::event::PollFlags;

use super::agent::{Agent, ENDED};
use super::authentication::Login;
use super::channels::NUMBERS;
use super::early;
use super::forwards::Forwards;
use super::guest::{self, Guest};
use super::habits::Habits;
use super::policy::Policy;
use super::quota::Share;
use super::services::Service;
use super::worker::Pending;
use super::{Server, reason, rotation};
use crate::backend::{Backend, Request, Scope};
use crate::connection::frame::Queue;
use crate::connection::message::{self, GlobalRequest, Open, OpenFailure, number};
use crate::connection::wire::{Malformed, Reader};
use crate::ip_qos::Marking;
use crate::metadata::Metadata;
use crate::waker::Waker;

/// Bytes that may wait in either direction before the bridge stops reading from where they come.
pub const LIMIT: usize = 256 * 1024;

/// Bytes that may wait for a client before nothing more is taken from it, in any phase. More than what agents may fill:
/// so a client whose one thread writes before it reads is stopped by answers to itself alone.
const UNREAD_LIMIT: usize = 2 * LIMIT;

/// Whether so much waits for the client that nothing more may be read from it, and no message of its looked at. It gets
/// through once it reads.
pub fn is_behind(session: &Session) -> bool {
    session.pending() >= UNREAD_LIMIT
}

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
    container: Option<String>,
    metadata: Arc<Metadata>,
    backend: Arc<dyn Backend>,
    max_sessions: i32,
    max_containers: usize,
    _share: Share,
    client: SocketAddr,
    waker: Waker,
    policy: Policy,
    /// The oldest first.
    guests: Vec<Guest>,
    /// How many there have been.
    count: u32,
    /// Containers that are being removed while the connection goes on.
    removals: Vec<Pending<()>>,
    forwards: Forwards,
    no_more_sessions: bool,
    marking: Marking,
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
        let Service { backend, security, forwarding, max_sessions, quota } = login.service;
        // Webhooks' variables are the container's or come with each program, and are not for a key or a client to change.
        let metadata = Arc::new(login.grant.metadata);
        let keys = login.grant.restrictions.environment.iter();
        let mut environment: Vec<_> =
            keys.filter(|(name, _)| !metadata.environment.contains_key(name)).cloned().collect();
        environment.extend(backend.variables(&metadata));
        let (from, to) = (client.ip().to_canonical(), local.ip().to_canonical());
        environment.push(("SSH_CLIENT".into(), format!("{from} {} {}", client.port(), local.port())));
        environment.push(("SSH_CONNECTION".into(), format!("{from} {} {to} {}", client.port(), local.port())));
        let policy = Policy {
            connection: id.clone(),
            accept_env: server.settings.accept_env.clone(),
            fixed: metadata.environment.keys().cloned().collect(),
            environment,
            subsystems: backend.subsystems(),
            security,
            forwarding,
            restrictions: login.grant.restrictions,
        };
        let marking = Marking::new(server.settings.ip_qos);
        Bridge {
            server,
            id,
            user: login.user,
            container: login.container,
            metadata,
            backend,
            max_sessions,
            max_containers: quota.containers,
            _share: login.share,
            client,
            waker,
            policy,
            guests: Vec::new(),
            count: 0,
            removals: Vec::new(),
            forwards: Forwards::default(),
            no_more_sessions: false,
            marking,
        }
    }

    /// Takes from the client's messages as many as can be dealt with now.
    pub fn client_messages(&mut self, session: &mut Session, queue: &mut Queue) -> Result<(), End> {
        while let Ok(Some(message)) = queue.front() {
            if self.is_full() || is_behind(session) || !self.client_message(session, message)? {
                break;
            }
            queue.pop();
        }
        for guest in &mut self.guests {
            guest.show(session, queue)?;
            guest.write();
        }
        self.sweep(session)
    }

    /// Whether the message has been dealt with; if not, it has to wait.
    fn client_message(&mut self, session: &mut Session, message: &[u8]) -> Result<bool, End> {
        let Some((&kind, body)) = message.split_first() else { return Ok(true) };
        match kind {
            number::GLOBAL_REQUEST => return self.global_request(session, &GlobalRequest::decode(body)?),
            number::CHANNEL_OPEN => return self.open(session, &Open::decode(body)?),
            // Signs of life: the server asks for nothing else.
            number::REQUEST_SUCCESS | number::REQUEST_FAILURE => (),
            number::CHANNEL_OPEN_CONFIRMATION => {
                let mut fields = Reader::new(body);
                let (recipient, sender, window) = (fields.u32()?, fields.u32()?, fields.u32()?);
                if self.guests.iter().any(|guest| guest.channels.contains(sender)) {
                    return Err(protocol_error("channel number in use"));
                }
                guest_of(&mut self.guests, recipient)?.answer(session, message, Some((sender, window)))?;
            }
            number::CHANNEL_OPEN_FAILURE => {
                guest_of(&mut self.guests, Reader::new(body).u32()?)?.answer(session, message, None)?;
            }
            number::CHANNEL_WINDOW_ADJUST..=number::CHANNEL_FAILURE => {
                let recipient = Reader::new(body).u32()?;
                let guest = guest_of(&mut self.guests, recipient)?;
                let is_taken = guest.message(session, message, &self.policy)?;
                if matches!(kind, number::CHANNEL_REQUEST | number::CHANNEL_CLOSE) {
                    let has_terminal = self.guests.iter().any(|guest| guest.channels.have_terminal());
                    self.marking.set(session.socket(), has_terminal);
                }
                return Ok(is_taken);
            }
            _ => return Err(protocol_error("unknown message")),
        }
        Ok(true)
    }

    /// Whether the request has been dealt with; if not, it has to wait.
    fn global_request(&mut self, session: &mut Session, request: &GlobalRequest<'_>) -> Result<bool, End> {
        if self.forwards.is_full() || !self.guests.iter().all(Guest::has_room) {
            return Ok(false);
        }
        if request.name == rotation::PROVE && request.want_reply {
            let proof = rotation::proof(&self.server.host_keys, session.identifier(), request.specific);
            self.forwards.answer_with(proof);
            self.forwards.send_answers(session)?;
            return Ok(true);
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

    /// Whether an agent could be asked to listen, or to stop that.
    fn ask(&mut self, request: &GlobalRequest<'_>) -> Result<bool, End> {
        let stops = request.name.starts_with(b"cancel-");
        let listening = self.forwards.guest.and_then(|index| self.guests.iter().position(|guest| guest.index == index));
        let guest = match listening {
            // Nobody listens.
            None if stops => None,
            _ if !stops && !self.forwards.has_room() => None,
            None => self.for_forwarding().ok(),
            listening => listening,
        };
        if let Some(guest) = guest {
            self.forwards.passed_on(request)?;
            self.forwards.guest = Some(self.guests[guest].index);
            self.guests[guest].request(request);
        } else {
            log::info!("{}: refused: {}", self.id, request.name.escape_ascii());
        }
        Ok(guest.is_some())
    }

    /// Whether the open has been dealt with; if not, it has to wait.
    fn open(&mut self, session: &mut Session, open: &Open<'_>) -> Result<bool, End> {
        if !self.guests.iter().all(Guest::has_room) {
            return Ok(false);
        }
        if self.guests.iter().any(|guest| guest.channels.contains(open.sender)) {
            return Err(protocol_error("channel number in use"));
        }
        let guest = match open.channel_type {
            b"session" if self.no_more_sessions => {
                return Err(protocol_error(
                    "Possible attack: attempt to open a session after additional sessions disabled",
                ));
            }
            b"session" => self.for_session(),
            b"direct-tcpip" | b"direct-streamlocal@openssh.com" if self.policy.may_connect(open)? => {
                self.for_forwarding()
            }
            b"direct-tcpip" | b"direct-streamlocal@openssh.com" => {
                log::info!("{}: refused: {}", self.id, open.channel_type.escape_ascii());
                Err(OpenFailure::AdministrativelyProhibited)
            }
            _ => Err(OpenFailure::UnknownChannelType),
        };
        if let Err(failure) = guest.and_then(|guest| self.guests[guest].open(open)) {
            session.send(&message::open_failure(open.sender, failure, "open failed"))?;
        }
        Ok(true)
    }

    /// The guest for another session, by its place in the list.
    fn for_session(&mut self) -> Result<usize, OpenFailure> {
        let most = self.max_sessions;
        let sessions = self.guests.iter().map(|guest| guest.channels.sessions()).sum::<usize>();
        if usize::try_from(most).is_ok_and(|most| sessions >= most) {
            log::info!("{}: refused: there are security.maxSessions ({sessions}) sessions", self.id);
            return Err(OpenFailure::ConnectFailed);
        }
        let shared = self.backend.scope() == Scope::Connection;
        self.living(|guest| shared || !guest.has_had_session).map_or_else(|| self.start(), Ok)
    }

    /// The guest for what is forwarded.
    fn for_forwarding(&mut self) -> Result<usize, OpenFailure> {
        self.living(|_| true).map_or_else(|| self.start(), Ok)
    }

    /// The oldest that has a container, or will have one, and is as is asked for.
    fn living(&self, fits: impl Fn(&Guest) -> bool) -> Option<usize> {
        self.guests.iter().position(|guest| guest.is_alive() && fits(guest))
    }

    /// Starts another container.
    fn start(&mut self) -> Result<usize, OpenFailure> {
        let index = (0..guest::MOST).find(|index| self.guests.iter().all(|guest| guest.index != *index));
        let index = index.ok_or(OpenFailure::ResourceShortage)?;
        let request = Request {
            connection: self.id.clone(),
            number: self.count,
            user: self.user.clone(),
            client: self.client,
            container: self.container.clone(),
            metadata: Arc::clone(&self.metadata),
        };
        self.count += 1;
        self.guests.push(Guest::start(index, &self.backend, request, self.max_containers, &self.waker));
        Ok(self.guests.len() - 1)
    }

    /// Goes on where the backend's workers have something to say.
    pub fn resume(&mut self, session: &mut Session) -> Result<(), End> {
        self.removals.retain(|removal| removal.poll().is_none());
        let mut started = Vec::new();
        for guest in &mut self.guests {
            match guest.poll(session)? {
                None => (),
                Some(Ok(container)) => {
                    log::debug!("{}: the agent is connected", self.id);
                    let client = session.client().unwrap_or_default();
                    let habits = Habits::of(&client, &self.server.settings.server_version);
                    let (base, listening) = (guest.index * NUMBERS, self.policy.listening());
                    guest.run(Agent::new(container, base, listening, habits));
                    started.push(guest.index);
                }
                Some(Err(error)) => {
                    log::error!("{}: {}", self.id, error.log);
                    guest.fail(session, &error.user)?;
                    if let Some(rest) = error.rest {
                        self.removals.push(Pending::start(self.waker.clone(), move || drop(rest)));
                    }
                    if self.forwards.guest == Some(guest.index) {
                        self.forwards.fail();
                        self.forwards.send_answers(session)?;
                    }
                }
            }
        }
        // What was read ahead of a stream, poll does not tell of.
        started.into_iter().try_for_each(|index| self.ready(session, index, PollFlags::IN))
    }

    /// Ends the containers whose sessions have ended, where each session has its own, and forgets those that are gone.
    fn sweep(&mut self, session: &mut Session) -> Result<(), End> {
        if self.backend.scope() == Scope::Session {
            for guest in 0..self.guests.len() {
                let Guest { index, has_had_session, channels, .. } = &self.guests[guest];
                let listens = self.forwards.guest == Some(*index) && self.forwards.are_in_use();
                if *has_had_session && channels.are_closed_by_agent() && !listens {
                    self.end(session, guest, ENDED)?;
                }
            }
        }
        self.guests.retain(|guest| !guest.is_forgotten());
        Ok(())
    }

    /// Removes a guest's container, while the connection goes on. Who is in it still is told this line.
    fn end(&mut self, session: &mut Session, guest: usize, line: &str) -> Result<(), End> {
        let guest = &mut self.guests[guest];
        if let Some(agent) = guest.end(session, line)? {
            self.removals.push(Pending::start(self.waker.clone(), move || drop(agent)));
        }
        if self.forwards.guest == Some(guest.index) {
            self.forwards.fail();
            self.forwards.send_answers(session)?;
        }
        Ok(())
    }

    /// The connection is about to end, and not by its client: the sessions that are open have an exit status that says so.
    /// Clients such as Dropbear's take a SSH_MSG_DISCONNECT alone for success.
    pub fn cut(&mut self, session: &mut Session) -> Result<(), libssh_server::Error> {
        self.guests.iter_mut().try_for_each(|guest| guest.cut(session))
    }

    /// Whether so much waits for an agent that no more may come.
    pub fn is_full(&self) -> bool {
        self.guests.iter().any(Guest::is_full)
    }

    /// The agents' streams and what to poll them for, each with its guest's index.
    pub fn interests(&self, session: &Session) -> impl Iterator<Item = (u32, BorrowedFd<'_>, PollFlags)> {
        self.guests.iter().filter_map(|guest| {
            let (stream, flags) = guest.interest(session)?;
            Some((guest.index, stream, flags))
        })
    }

    /// An agent's stream is ready: carries over what it has sent, and writes what it takes.
    pub fn ready(&mut self, session: &mut Session, index: u32, flags: PollFlags) -> Result<(), End> {
        let Some(position) = self.guests.iter().position(|guest| guest.index == index) else { return Ok(()) };
        let guest = &mut self.guests[position];
        if flags.contains(PollFlags::OUT) {
            guest.write();
        }
        // Other agents may have filled what there was room for.
        if !flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) || session.pending() >= LIMIT {
            return Ok(());
        }
        let forwards = (self.forwards.guest == Some(index)).then_some(&mut self.forwards);
        match guest.read(&self.id, session, forwards) {
            // Other sessions have their own.
            Err(End::Disconnect(_, text)) if self.backend.scope() == Scope::Session => {
                log::info!("{}: a session ends: {text}", self.id);
                self.end(session, position, &text)?;
            }
            result => result?,
        }
        self.sweep(session)
    }

    /// Gives back the memory of empty buffers.
    pub fn shrink(&mut self) {
        self.guests.iter_mut().for_each(Guest::shrink);
    }
}

/// The guest whose channel a client knows by this number.
fn guest_of(guests: &mut [Guest], number: u32) -> Result<&mut Guest, End> {
    let index = number % early::FIRST / NUMBERS;
    guests.iter_mut().find(|guest| guest.index == index).ok_or_else(|| protocol_error("no such channel"))
}

impl Drop for Bridge {
    /// Waits until all containers are removed.
    fn drop(&mut self) {
        let mut guests = std::mem::take(&mut self.guests).into_iter();
        let first = guests.next();
        // One after another would take its time.
        for guest in guests {
            self.removals.push(Pending::start(self.waker.clone(), move || drop(guest)));
        }
        drop(first);
        for removal in &self.removals {
            let _ = removal.wait();
        }
    }
}
