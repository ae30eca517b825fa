//! The connection layer: takes messages apart, and hands them to the channels.
//!
//! Nothing here knows of the stream to the server: messages come in one by one, replies queue in [`Outbound`].

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::process::Signal;

use super::channel::{Channel, Peer, Role};
use super::error::{Error, in_message};
use super::exec::UNABLE;
use super::forward::{Connecting, Listeners, Resolver, Step, connect_unix};
use super::host::{Exit, Host};
use super::outbound::Outbound;
use super::session::Surroundings;
use crate::connection::forward::HostPort;
use crate::connection::frame::{HELLO, STOPPING, VERSION};
use crate::connection::hello::{self, Hello};
use crate::connection::message::{
    ChannelRequest, GlobalRequest, MAXIMUM_PACKET, Open, OpenFailure, WINDOW, number, open_confirmation, open_failure,
};
use crate::connection::wire::{Malformed, Reader, Write};

/// What this end can do, for its hello: channel types and subsystems.
const CAPABILITIES: &str = "session,sftp";

/// And where sockets can be forwarded.
const FORWARDING: &str = ",direct-tcpip,direct-streamlocal@openssh.com,tcpip-forward,\
    streamlocal-forward@openssh.com,auth-agent-req@openssh.com,x11-req";

/// More channels than this are not open at once.
pub const CHANNELS: usize = 1024;

/// The last of them are the client's: connections that we accept cannot keep it from opening a session.
const RESERVED: usize = 64;

/// How long a connection may take to be made, the name's lookup included: about as long as the kernel tries.
const CONNECT: Duration = Duration::from_secs(130);

/// The agent's end of an SSH connection.
#[derive(Debug)]
pub struct Connection<H: Host> {
    host: H,
    /// Whether the server's hello came.
    greeted: bool,
    /// Whether sessions are refused: the client said that it opens no more, or the container is being stopped.
    no_more_sessions: bool,
    /// Whether the container is being stopped.
    is_stopping: bool,
    /// By our number. Numbers are used again.
    channels: Vec<Slot<H>>,
    listeners: Listeners,
    resolver: Resolver,
    /// What goes to the server.
    pub out: Outbound,
}

/// What a channel number stands for.
#[derive(Debug)]
enum Slot<H: Host> {
    Free,
    /// The client wants a connection, whose name is being looked up; until when.
    Resolving(Peer, u64, Instant),
    /// It is being made; until when.
    Connecting(Peer, Connecting, Instant),
    /// We have opened a channel for this connection, and the client has not answered.
    Opening(OwnedFd),
    Open(Box<Channel<H>>),
}

/// What has descriptors that the loop polls.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// An open channel.
    Channel(u32, Role),
    /// A channel whose connection is being made.
    Connecting(u32),
    /// A listening socket.
    Listener(u64),
    /// Lookups of names.
    Resolver,
}

impl<H: Host> Connection<H> {
    /// A connection that begins with our hello.
    pub fn new(host: H) -> Result<Self, Error> {
        let mut out = Outbound::default();
        let mut specific = Vec::new();
        specific.put_u32(VERSION);
        specific.put_string([CAPABILITIES, if H::FORWARDS { FORWARDING } else { "" }].concat());
        out.send(&GlobalRequest { name: HELLO, want_reply: false, specific: &specific }.encode());
        Ok(Connection {
            host,
            greeted: false,
            no_more_sessions: false,
            is_stopping: false,
            channels: Vec::new(),
            listeners: Listeners::default(),
            resolver: Resolver::new().map_err(|errno| Error::System("eventfd", errno.into()))?,
            out,
        })
    }

    /// Serves one message. An error ends the stream.
    pub fn message(&mut self, message: &[u8]) -> Result<(), Error> {
        let Some((&number, body)) = message.split_first() else { return Err(Error::Malformed(0)) };
        let malformed = in_message(number);
        if !self.greeted {
            return self.hello(number, body);
        }
        match number {
            number::GLOBAL_REQUEST => {
                GlobalRequest::decode(body).and_then(|request| self.global_request(&request)).map_err(malformed)?;
            }
            // Replies to what we never ask.
            number::REQUEST_SUCCESS | number::REQUEST_FAILURE => {}
            number::CHANNEL_SUCCESS | number::CHANNEL_FAILURE => {}
            number::CHANNEL_OPEN => Open::decode(body).and_then(|open| self.open(&open)).map_err(malformed)?,
            number::CHANNEL_OPEN_CONFIRMATION | number::CHANNEL_OPEN_FAILURE => {
                let mut fields = Reader::new(body);
                let (recipient, sender) = (fields.u32().map_err(&malformed)?, fields.u32().map_err(&malformed)?);
                let peer = if number == number::CHANNEL_OPEN_CONFIRMATION {
                    let (window, maximum_packet) =
                        (fields.u32().map_err(&malformed)?, fields.u32().map_err(malformed)?);
                    Some(Peer { number: sender, window, maximum_packet })
                } else {
                    None
                };
                self.answered(recipient, peer)?;
            }
            number::CHANNEL_REQUEST => {
                let request = ChannelRequest::decode(body).map_err(&malformed)?;
                let (channel, mut surroundings, out) = self.channel(request.recipient)?;
                channel.request(&request, &mut surroundings, out).map_err(&malformed)?;
                self.settle(request.recipient);
            }
            _ => {
                let mut fields = Reader::new(body);
                let recipient = fields.u32().map_err(&malformed)?;
                self.channel_message(number, recipient, &mut fields, malformed)?;
                self.settle(recipient);
            }
        }
        Ok(())
    }

    fn channel_message(
        &mut self,
        number: u8,
        recipient: u32,
        fields: &mut Reader,
        malformed: impl Fn(Malformed) -> Error,
    ) -> Result<(), Error> {
        let (channel, _, out) = self.channel(recipient)?;
        match number {
            number::CHANNEL_DATA => channel.data(fields.string().map_err(malformed)?, out),
            number::CHANNEL_EXTENDED_DATA => {
                let _kind = fields.u32().map_err(&malformed)?;
                channel.extended_data(fields.string().map_err(malformed)?, out)
            }
            number::CHANNEL_WINDOW_ADJUST => channel.adjust(fields.u32().map_err(malformed)?),
            number::CHANNEL_EOF => {
                channel.eof();
                Ok(())
            }
            number::CHANNEL_CLOSE => {
                channel.close();
                Ok(())
            }
            _ => Err(Error::Protocol("a message that makes no sense here, or of an unknown number")),
        }
    }

    /// The first message must be the server's hello.
    fn hello(&mut self, number: u8, body: &[u8]) -> Result<(), Error> {
        let hello = if number == number::GLOBAL_REQUEST { Hello::decode(body) } else { Err(hello::Error::None) };
        let hello = hello.map_err(|error| match error {
            hello::Error::None => Error::Protocol("it did not begin with hello@berth"),
            hello::Error::Version(version) => Error::Version(version),
            hello::Error::Malformed => Error::Malformed(number),
        })?;
        self.listeners.listening = hello.listening;
        self.host.greeted(&hello);
        self.greeted = true;
        Ok(())
    }

    fn global_request(&mut self, request: &GlobalRequest) -> Result<(), Malformed> {
        let success = match request.name {
            b"no-more-sessions@openssh.com" => {
                self.no_more_sessions = true;
                Some(Vec::new())
            }
            // keepalive@openssh.com is none of theirs either, and fails: any reply will do for that.
            _ if H::FORWARDS => self.listeners.request(request)?,
            _ => None,
        };
        if request.want_reply {
            let mut reply = vec![if success.is_some() { number::REQUEST_SUCCESS } else { number::REQUEST_FAILURE }];
            reply.extend(success.unwrap_or_default());
            self.out.send(&reply);
        }
        Ok(())
    }

    fn open(&mut self, open: &Open) -> Result<(), Malformed> {
        let peer = Peer { number: open.sender, window: open.window, maximum_packet: open.maximum_packet };
        let mut fields = Reader::new(open.specific);
        let Some(number) = self.free_number(CHANNELS) else {
            self.refuse(peer, OpenFailure::ResourceShortage, "too many channels are open");
            return Ok(());
        };
        match open.channel_type {
            b"session" if self.no_more_sessions => {
                self.refuse(peer, OpenFailure::AdministrativelyProhibited, "no more sessions are allowed");
            }
            b"session" => self.confirm(number, peer, Channel::session(peer)),
            b"direct-tcpip" | b"direct-streamlocal@openssh.com" if !H::FORWARDS => {
                log::info!("forwarding is refused: it takes an agent, which disableAgent keeps out");
                self.refuse(peer, OpenFailure::AdministrativelyProhibited, "open failed");
            }
            b"direct-tcpip" => {
                let target = HostPort::decode(&mut fields)?;
                let _originator = HostPort::decode(&mut fields)?;
                self.connect(number, peer, target);
            }
            b"direct-streamlocal@openssh.com" => {
                let path = fields.string()?;
                match connect_unix(Path::new(OsStr::from_bytes(path))) {
                    Ok(socket) => self.confirm(number, peer, Channel::socket(socket, peer)),
                    Err(reason) => self.refuse(peer, OpenFailure::ConnectFailed, &reason),
                }
            }
            _ => self.refuse(peer, OpenFailure::UnknownChannelType, "unknown channel type"),
        }
        Ok(())
    }

    fn connect(&mut self, number: u32, peer: Peer, target: HostPort) {
        let (Ok(name), Ok(port)) = (str::from_utf8(target.host), u16::try_from(target.port)) else {
            return self.refuse(peer, OpenFailure::ConnectFailed, "no such host and port");
        };
        let deadline = Instant::now() + CONNECT;
        if let Ok(address) = name.parse::<IpAddr>() {
            self.advance(number, peer, deadline, Connecting::start(vec![SocketAddr::new(address, port)]));
        } else {
            let lookup = self.resolver.lookup(name.to_owned(), port);
            self.put(number, Slot::Resolving(peer, lookup, deadline));
        }
    }

    /// Takes a connection on that is being made.
    fn advance(&mut self, number: u32, peer: Peer, deadline: Instant, step: Step) {
        self.put(number, Slot::Free);
        match step {
            Step::Connected(socket) => self.confirm(number, peer, Channel::socket(socket, peer)),
            Step::Pending(connecting) => self.put(number, Slot::Connecting(peer, connecting, deadline)),
            Step::Failed(reason) => self.refuse(peer, OpenFailure::ConnectFailed, &reason),
        }
    }

    fn confirm(&mut self, number: u32, peer: Peer, channel: Channel<H>) {
        self.out.send(&open_confirmation(peer.number, number, channel.receive_window()));
        self.put(number, Slot::Open(Box::new(channel)));
    }

    fn refuse(&mut self, peer: Peer, reason: OpenFailure, description: &str) {
        self.out.send(&open_failure(peer.number, reason, description));
    }

    /// Opens a channel for a connection that waits at a listening socket.
    fn accept(&mut self, listener: u64) {
        let Some(number) = self.free_number(CHANNELS - RESERVED) else { return };
        let Some(accepted) = self.listeners.accept(listener) else { return };
        let open = Open {
            channel_type: accepted.channel_type,
            sender: number,
            window: WINDOW,
            maximum_packet: MAXIMUM_PACKET,
            specific: &accepted.specific,
        };
        self.out.send(&open.encode());
        self.put(number, Slot::Opening(accepted.socket));
    }

    /// The client has answered our open: with its side of the channel, unless it refuses. Then the connection is
    /// closed.
    fn answered(&mut self, number: u32, peer: Option<Peer>) -> Result<(), Error> {
        let slot = self.channels.get_mut(number as usize).filter(|slot| matches!(slot, Slot::Opening(_)));
        let slot = slot.ok_or(Error::Protocol("an answer to an open that was none"))?;
        if let (Slot::Opening(socket), Some(peer)) = (std::mem::replace(slot, Slot::Free), peer) {
            *slot = Slot::Open(Box::new(Channel::socket(socket, peer)));
        }
        Ok(())
    }

    /// A channel number below `limit`, if one is free.
    fn free_number(&self, limit: usize) -> Option<u32> {
        let free = self.channels.iter().position(|slot| matches!(slot, Slot::Free)).unwrap_or(self.channels.len());
        (free < limit).then_some(free as u32)
    }

    /// Sets what a free number, or one in use, stands for.
    fn put(&mut self, number: u32, slot: Slot<H>) {
        match self.channels.get_mut(number as usize) {
            Some(old) => *old = slot,
            None => self.channels.push(slot),
        }
    }

    fn channel(&mut self, number: u32) -> Result<(&mut Channel<H>, Surroundings<'_, H>, &mut Outbound), Error> {
        let Some(Slot::Open(channel)) = self.channels.get_mut(number as usize) else {
            return Err(Error::Protocol("a message for a channel that is not open"));
        };
        let surroundings = Surroundings { host: &mut self.host, listeners: &mut self.listeners, channel: number };
        Ok((channel, surroundings, &mut self.out))
    }

    fn settle(&mut self, number: u32) {
        if let Ok((channel, surroundings, out)) = self.channel(number)
            && channel.settle(out)
        {
            surroundings.listeners.close_session(number);
            self.put(number, Slot::Free);
        }
    }

    /// The descriptors that the loop has to poll: whose, which, for what.
    pub fn interests(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>, PollFlags)> {
        let takes_data = self.out.takes_data();
        let channels = (0..).zip(&self.channels).flat_map(move |(number, slot)| {
            let (channel, connecting) = match slot {
                Slot::Open(channel) => (Some(channel), None),
                Slot::Connecting(_, connecting, _) => (None, Some(connecting)),
                Slot::Free | Slot::Resolving(..) | Slot::Opening(_) => (None, None),
            };
            let channel = channel.into_iter().flat_map(move |channel| channel.interests(takes_data));
            let channel = channel.map(move |(role, fd, flags)| (Source::Channel(number, role), fd, flags));
            let connecting =
                connecting.map(|connecting| (Source::Connecting(number), connecting.socket.as_fd(), PollFlags::OUT));
            channel.chain(connecting)
        });
        let accepts = takes_data && self.free_number(CHANNELS - RESERVED).is_some();
        let listeners = self.listeners.interests().filter(move |_| accepts);
        let listeners = listeners.map(|(number, fd)| (Source::Listener(number), fd, PollFlags::IN));
        let resolver = (Source::Resolver, self.resolver.interest(), PollFlags::IN);
        channels.chain(listeners).chain([resolver])
    }

    /// Serves one of [`interests`](Connection::interests) that is ready.
    pub fn ready(&mut self, source: Source) {
        match source {
            Source::Channel(number, role) => {
                if let Ok((channel, _, out)) = self.channel(number) {
                    channel.ready(role, out);
                    self.settle(number);
                }
            }
            Source::Connecting(number) => {
                let Some(slot @ Slot::Connecting(..)) = self.channels.get_mut(number as usize) else { return };
                if let Slot::Connecting(peer, connecting, deadline) = std::mem::replace(slot, Slot::Free) {
                    self.advance(number, peer, deadline, connecting.ready());
                }
            }
            Source::Listener(number) => self.accept(number),
            Source::Resolver => {
                for (lookup, outcome) in self.resolver.outcomes() {
                    // One that took too long nobody waits for.
                    let found = (0..).zip(&self.channels).find_map(|(number, slot)| match slot {
                        Slot::Resolving(peer, waiting, deadline) if *waiting == lookup => {
                            Some((number, *peer, *deadline))
                        }
                        _ => None,
                    });
                    let step = outcome.map_or_else(|reason| Step::Failed(reason.into()), Connecting::start);
                    if let Some((number, peer, deadline)) = found {
                        self.advance(number, peer, deadline, step);
                    }
                }
            }
        }
    }

    /// When to call [`expire`](Connection::expire).
    pub fn deadline(&self) -> Option<Instant> {
        let connections = self.channels.iter().filter_map(|slot| match slot {
            Slot::Resolving(_, _, deadline) | Slot::Connecting(_, _, deadline) => Some(*deadline),
            Slot::Free | Slot::Opening(_) | Slot::Open(_) => None,
        });
        connections.chain(self.listeners.deadline()).min()
    }

    /// Gives connections up that have taken too long, and goes on after a rest.
    pub fn expire(&mut self, now: Instant) {
        self.listeners.wake(now);
        for number in 0..self.channels.len() as u32 {
            let peer = match &self.channels[number as usize] {
                Slot::Resolving(peer, lookup, deadline) if *deadline <= now => {
                    self.resolver.forget(*lookup);
                    *peer
                }
                Slot::Connecting(peer, _, deadline) if *deadline <= now => *peer,
                _ => continue,
            };
            self.put(number, Slot::Free);
            self.refuse(peer, OpenFailure::ConnectFailed, "Connection timed out");
        }
    }

    /// Reads on from terminals whose programs have ended: no descriptor tells of those.
    pub fn drain(&mut self) {
        for number in 0..self.channels.len() as u32 {
            if let Ok((channel, _, out)) = self.channel(number)
                && out.takes_data()
            {
                channel.drain(out);
                self.settle(number);
            }
        }
    }

    /// Tells the channel whose process this was how it ended. Orphans have none.
    pub fn ended(&mut self, process: &H::Process, exit: Exit) {
        // It was not the program's own end: by a signal, libssh2 would take it for success.
        let is_stopped = self.is_stopping && matches!(exit, Exit::Signal { .. });
        let exit = if is_stopped { Exit::Status(UNABLE.into()) } else { exit };
        for number in 0..self.channels.len() as u32 {
            if let Ok((channel, _, out)) = self.channel(number)
                && channel.ended(process, exit, out)
            {
                return self.settle(number);
            }
        }
    }

    /// Sends `signal` to the programs of all sessions.
    pub fn kill(&mut self, signal: Signal) {
        for slot in &self.channels {
            if let Slot::Open(channel) = slot {
                channel.kill(signal, &mut self.host);
            }
        }
    }

    /// Tells the users of all sessions a line.
    pub fn tell(&mut self, line: &str) {
        for slot in &mut self.channels {
            if let Slot::Open(channel) = slot {
                channel.tell(line, &mut self.out);
            }
        }
    }

    /// The container is being stopped: tells so, opens no more sessions, and accepts no more connections.
    pub fn stop(&mut self) {
        self.out.send(&GlobalRequest { name: STOPPING, want_reply: false, specific: b"" }.encode());
        self.tell("the container is being stopped");
        (self.no_more_sessions, self.is_stopping) = (true, true);
        self.listeners.close_all();
    }

    /// Whether no channel is open.
    pub fn is_idle(&self) -> bool {
        self.channels.iter().all(|slot| matches!(slot, Slot::Free))
    }
}
