//! The agent of a running container, as the bridge sees it.
//!
//! Its messages are an attacker's as much as the client's are: whoever has power in the container may have replaced it.
//! What it can do with them is to end its own connection. Of what it sends, this is looked at: frames, which are
//! bounded; numbers of channels that it opens or confirms, which must be its own; opens, for which its client must have
//! asked; and answers, for which it must have been asked. Data, windows, EOF and close are between it and the client,
//! which knows best what it has offered: a lie about those is one to the client alone, and costs the server no more
//! than [`LIMIT`] bytes. Data is counted, so that the agent learns in time of the client's wider windows.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use libssh_server::Session;
use rustix::event::PollFlags;
use rustix::net::{Shutdown, shutdown};

use super::bridge::{End, LIMIT, protocol_error};
use super::channels::{self, AUTHENTICATION_AGENT, Channels, Refusal};
use super::early::Early;
use super::forwards::Forwards;
use super::habits::Habits;
use super::policy::Policy;
use super::reason;
use crate::backend::Container;
use crate::connection::forward::Listening;
use crate::connection::frame::{self, Queue, is_transient};
use crate::connection::hello::Hello;
use crate::connection::message::{
    ChannelRequest, GlobalRequest, Open, OpenFailure, number, open_failure, window_adjust,
};
use crate::connection::wire::{Malformed, Reader};

/// Bytes read from the agent at a time.
const READ: usize = 64 * 1024;

/// What users are told of a container that is gone.
pub const ENDED: &str = "the container has ended";

/// A running container's agent.
pub struct Agent {
    container: Container,
    /// What is added to its channel numbers for the client.
    base: u32,
    /// Frames for the agent.
    output: Queue,
    /// Frames from the agent.
    input: Queue,
    /// Whether its hello has come.
    greeted: bool,
    /// Whether it has said that the container is being stopped.
    is_stopping: bool,
    habits: Habits,
}

impl Agent {
    /// Greets it. `base` is added to its channel numbers for the client, `listening` is how to listen for the client, which
    /// has these habits.
    pub fn new(container: Container, base: u32, listening: Listening, habits: Habits) -> Self {
        let (output, input) = (Queue::default(), Queue::default());
        let mut agent = Agent { container, base, output, input, greeted: false, is_stopping: false, habits };
        agent.send(&Hello { listening, symlinks: habits.symlinks }.encode());
        agent
    }

    /// Queues a message for it.
    pub fn send(&mut self, message: &[u8]) {
        frame::append(self.output.tail(), message);
    }

    /// Takes a client's channel message, for the channel that the agent calls `number`.
    pub fn take(&mut self, message: &[u8], number: u32, policy: &Policy, channels: &mut Channels) -> Result<(), End> {
        if message[0] == number::CHANNEL_REQUEST {
            let mut request = ChannelRequest { recipient: number, ..ChannelRequest::decode(&message[1..])? };
            if let Some(channel_type) = channels::lent_by(request.name) {
                request.name = AUTHENTICATION_AGENT.0;
                if policy.may_forward_agent() {
                    channels.agent = Some(channel_type);
                }
            }
            channels.x11 |= request.name == b"x11-req" && policy.may_forward_x11();
            if request.name == b"pty-req" && policy.may_have_terminal(&request)? {
                channels.ask_for_terminal(number);
            }
            policy.channel_request(request, self.output.tail())?;
        } else {
            self.send_to(message, number);
        }
        Ok(())
    }

    /// Queues a message whose first field is the recipient's channel, which the agent calls `number`.
    pub fn send_to(&mut self, message: &[u8], number: u32) {
        let tail = self.output.tail();
        frame::append(tail, message);
        let recipient = tail.len() - message.len() + 1;
        tail[recipient..recipient + 4].copy_from_slice(&number.to_be_bytes());
    }

    /// Whether so much waits for it that no more may come.
    pub fn is_full(&self) -> bool {
        self.output.len() >= LIMIT
    }

    /// Its stream and what to poll that for.
    pub fn interest(&self, readable: bool) -> (BorrowedFd<'_>, PollFlags) {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, readable);
        flags.set(PollFlags::OUT, !self.output.is_empty());
        (self.container.stream.as_fd(), flags)
    }

    /// Carries over to the client what it has sent. `id` is the connection's, for the log; `forwards` are given where
    /// it listens for the client. All errors but a session's are the agent's fault.
    pub fn read(
        &mut self,
        id: &str,
        session: &mut Session,
        early: &mut Early,
        channels: &mut Channels,
        forwards: Option<&mut Forwards>,
    ) -> Result<(), End> {
        match self.input.fill(READ, |room| self.container.stream.read(room)) {
            Ok(0) => {
                self.container.lease.ended();
                return Err(End::Disconnect(reason::BY_APPLICATION, ENDED.into()));
            }
            Ok(_) => (),
            Err(error) if is_transient(&error) => return Ok(()),
            Err(error) => {
                log::warn!("{id}: the agent's stream: {error}");
                self.container.lease.ended();
                return Err(End::Disconnect(reason::BY_APPLICATION, "the container is lost".into()));
            }
        }
        self.deliver(id, session, early, channels, forwards).inspect_err(|end| {
            if let End::Disconnect(_, text) = end {
                log::error!("{id}: the agent broke the protocol: {text}");
            }
        })
    }

    /// Carries its whole messages to the client.
    fn deliver(
        &mut self,
        id: &str,
        session: &mut Session,
        early: &mut Early,
        channels: &mut Channels,
        mut forwards: Option<&mut Forwards>,
    ) -> Result<(), End> {
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
                    channels.confirmed(client, agent, early.window(client))?;
                    if early.confirmed(session, client, agent, window)? {
                        let mut message = message.to_vec();
                        message[5..9].copy_from_slice(&(self.base + agent).to_be_bytes());
                        session.send(&message)?;
                    }
                }
                number::CHANNEL_OPEN_FAILURE => {
                    let client = Reader::new(body).u32()?;
                    channels.refused(client)?;
                    if early.refused(client) {
                        session.send(message)?;
                    }
                }
                number::CHANNEL_OPEN => {
                    let open = Open::decode(body)?;
                    let reason = match channels.open(&open, forwards.as_deref())? {
                        Ok(channel_type) => {
                            session.send(&Open { channel_type, sender: self.base + open.sender, ..open }.encode())?;
                            None
                        }
                        Err(Refusal::NotAskedFor) => Some(OpenFailure::AdministrativelyProhibited),
                        Err(Refusal::TooMany) => Some(OpenFailure::ResourceShortage),
                        Err(Refusal::Number) => return Err(protocol_error("channel number out of range or in use")),
                    };
                    if let Some(reason) = reason {
                        if self.output.len() >= LIMIT {
                            return Err(protocol_error("too many channels"));
                        }
                        frame::append(self.output.tail(), &open_failure(open.sender, reason, "open failed"));
                    }
                }
                number::REQUEST_SUCCESS | number::REQUEST_FAILURE => {
                    let Some(forwards) = forwards.as_deref_mut() else {
                        return Err(protocol_error("an answer to no request"));
                    };
                    forwards.answered(kind, body)?;
                    forwards.send_answers(session)?;
                }
                number::CHANNEL_WINDOW_ADJUST..=number::CHANNEL_FAILURE => {
                    if let Some((number, bytes)) = channels.said(kind, body)? {
                        frame::append(self.output.tail(), &window_adjust(number, bytes));
                    }
                    let is_eow = || Ok::<_, Malformed>(ChannelRequest::decode(body)?.name == b"eow@openssh.com");
                    if kind != number::CHANNEL_REQUEST || self.habits.knows_eow || !is_eow()? {
                        session.send(message)?;
                    }
                }
                // It has nothing to ask for, but something to say, once.
                number::GLOBAL_REQUEST => {
                    if GlobalRequest::decode(body)?.name == frame::STOPPING && !self.is_stopping {
                        log::info!("{id}: the container is being stopped");
                        self.is_stopping = true;
                        self.container.lease.ended();
                    }
                }
                _ => return Err(protocol_error("unknown message")),
            }
            self.input.pop();
        }
    }

    /// Writes to it what its stream takes.
    pub fn write(&mut self) {
        if self.output.write_to(&mut self.container.stream).is_err() {
            // What the agent said last may still be there to read: reading finds the end.
            self.output = Queue::default();
        }
    }

    /// Gives back the memory of empty buffers.
    pub fn shrink(&mut self) {
        self.output.shrink();
        self.input.shrink();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.is_stopping {
            // It would wait for its client to have heard all, who has gone, and its container with it.
            let _ = shutdown(self.container.stream.as_fd(), Shutdown::Both);
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
