//! The connection layer: takes messages apart, and hands them to the channels.
//!
//! Nothing here knows of the socket: messages come in one by one, replies queue in [`Outbound`].

use std::ffi::OsString;
use std::os::fd::BorrowedFd;

use rustix::event::PollFlags;
use rustix::process::{Pid, Signal, WaitStatus};

use super::channel::{Channel, Kind, Role};
use super::error::{Error, in_message};
use super::outbound::Outbound;
use super::process::Container;
use super::session::Session;
use crate::connection::frame::{HELLO, VERSION};
use crate::connection::message::{ChannelRequest, GlobalRequest, Open, OpenFailure, number, open_failure};
use crate::connection::wire::{Malformed, Reader, Write};

/// What this agent can do, for its hello: channel types and subsystems.
const CAPABILITIES: &str = "session,sftp";

/// More channels than this are not open at once.
const CHANNELS: usize = 1024;

/// The agent's end of an SSH connection.
#[derive(Debug)]
pub struct Connection {
    container: Container,
    /// Whether the server's hello came.
    greeted: bool,
    /// Whether sessions are refused: the client said that it opens no more, or the container is being stopped.
    no_more_sessions: bool,
    /// By our number. Numbers are used again.
    channels: Vec<Option<Channel>>,
    /// What goes to the server.
    pub out: Outbound,
}

impl Connection {
    /// A connection that begins with our hello. `command` is the image's.
    pub fn new(command: Vec<OsString>) -> Self {
        let mut out = Outbound::default();
        let mut specific = Vec::new();
        specific.put_u32(VERSION);
        specific.put_string(CAPABILITIES);
        out.send(&GlobalRequest { name: HELLO, want_reply: false, specific: &specific }.encode());
        let container = Container { command, ..Container::default() };
        Connection { container, greeted: false, no_more_sessions: false, channels: Vec::new(), out }
    }

    /// Serves one message. An error ends the stream.
    pub fn message(&mut self, message: &[u8]) -> Result<(), Error> {
        let Some((&number, body)) = message.split_first() else { return Err(Error::Malformed(0)) };
        let malformed = in_message(number);
        if !self.greeted {
            return self.hello(number, body);
        }
        match number {
            number::GLOBAL_REQUEST => self.global_request(GlobalRequest::decode(body).map_err(malformed)?),
            // Replies to what we never ask.
            number::REQUEST_SUCCESS | number::REQUEST_FAILURE => {}
            number::CHANNEL_SUCCESS | number::CHANNEL_FAILURE => {}
            number::CHANNEL_OPEN => self.open(Open::decode(body).map_err(malformed)?),
            number::CHANNEL_REQUEST => {
                let request = ChannelRequest::decode(body).map_err(&malformed)?;
                let (channel, container, out) = self.channel(request.recipient)?;
                channel.request(&request, container, out).map_err(&malformed)?;
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

    /// The first message must be the server's hello: version, and the environment of every session.
    fn hello(&mut self, number: u8, body: &[u8]) -> Result<(), Error> {
        let hello = GlobalRequest::decode(body).ok().filter(|hello| hello.name == HELLO);
        let (number::GLOBAL_REQUEST, Some(hello)) = (number, hello) else {
            return Err(Error::Protocol("it did not begin with hello@berth"));
        };
        let malformed = in_message(number);
        let mut fields = Reader::new(hello.specific);
        let version = fields.u32().map_err(&malformed)?;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        for _ in 0..fields.u32().map_err(&malformed)? {
            let (name, value) = (fields.string().map_err(&malformed)?, fields.string().map_err(&malformed)?);
            if !self.container.environment.add(name, value) {
                return Err(Error::Malformed(number));
            }
        }
        fields.end().map_err(malformed)?;
        self.greeted = true;
        Ok(())
    }

    fn global_request(&mut self, request: GlobalRequest) {
        let success = match request.name {
            b"no-more-sessions@openssh.com" => {
                self.no_more_sessions = true;
                true
            }
            // keepalive@openssh.com among them: any reply will do for that.
            _ => false,
        };
        if request.want_reply {
            self.out.send(&[if success { number::REQUEST_SUCCESS } else { number::REQUEST_FAILURE }]);
        }
    }

    fn open(&mut self, open: Open) {
        let kind = match open.channel_type {
            b"session" if self.no_more_sessions => {
                Err((OpenFailure::AdministrativelyProhibited, "no more sessions are allowed"))
            }
            b"session" => Ok(Kind::Session(Session::default())),
            _ => Err((OpenFailure::UnknownChannelType, "unknown channel type")),
        };
        let free = self.channels.iter().position(Option::is_none).unwrap_or(self.channels.len());
        let kind = match kind {
            Ok(_) if free >= CHANNELS => Err((OpenFailure::ResourceShortage, "too many channels are open")),
            other => other,
        };
        match kind {
            Ok(kind) => {
                let own = free as u32;
                let channel = Channel::open(kind, own, open.sender, open.window, open.maximum_packet, &mut self.out);
                if free == self.channels.len() {
                    self.channels.push(Some(channel));
                } else {
                    self.channels[free] = Some(channel);
                }
            }
            Err((reason, description)) => self.out.send(&open_failure(open.sender, reason, description)),
        }
    }

    fn channel(&mut self, number: u32) -> Result<(&mut Channel, &Container, &mut Outbound), Error> {
        let channel = self.channels.get_mut(number as usize).and_then(Option::as_mut);
        let channel = channel.ok_or(Error::Protocol("a message for a channel that is not open"))?;
        Ok((channel, &self.container, &mut self.out))
    }

    fn settle(&mut self, number: u32) {
        if let Some(slot) = self.channels.get_mut(number as usize)
            && slot.as_mut().is_some_and(|channel| channel.settle(&mut self.out))
        {
            *slot = None;
        }
    }

    /// The descriptors that the loop has to poll: whose, which, for what.
    pub fn interests(&self) -> impl Iterator<Item = (u32, Role, BorrowedFd<'_>, PollFlags)> {
        let takes_data = self.out.takes_data();
        self.open_channels().flat_map(move |(number, channel)| {
            channel.interests(takes_data).map(move |(role, fd, flags)| (number, role, fd, flags))
        })
    }

    fn open_channels(&self) -> impl Iterator<Item = (u32, &Channel)> {
        (0..).zip(&self.channels).filter_map(|(number, slot)| Some((number, slot.as_ref()?)))
    }

    /// Serves one of [`interests`](Connection::interests) that is ready.
    pub fn ready(&mut self, number: u32, role: Role) {
        if let Ok((channel, _, out)) = self.channel(number) {
            channel.ready(role, out);
            self.settle(number);
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
    pub fn reaped(&mut self, pid: Pid, status: WaitStatus) {
        for number in 0..self.channels.len() as u32 {
            if let Ok((channel, _, out)) = self.channel(number)
                && channel.reaped(pid, status, out)
            {
                return self.settle(number);
            }
        }
    }

    /// Sends `signal` to the programs of all sessions.
    pub fn kill(&self, signal: Signal) {
        self.open_channels().for_each(|(_, channel)| channel.kill(signal));
    }

    /// Opens no more sessions.
    pub fn refuse_sessions(&mut self) {
        self.no_more_sessions = true;
    }

    /// Whether no channel is open.
    pub fn is_idle(&self) -> bool {
        self.channels.iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::Connection;
    use crate::connection::frame::{HELLO, VERSION};
    use crate::connection::message::{ChannelRequest, GlobalRequest, Open, bare, number};
    use crate::connection::wire::Write;

    fn hello(version: u32, environment: &[(&str, &str)]) -> Vec<u8> {
        let mut specific = Vec::new();
        specific.put_u32(version);
        specific.put_u32(environment.len() as u32);
        for (name, value) in environment {
            specific.put_string(name);
            specific.put_string(value);
        }
        GlobalRequest { name: HELLO, want_reply: false, specific: &specific }.encode()
    }

    /// A connection after both hellos.
    fn greeted() -> Connection {
        let mut connection = Connection::new(Vec::new());
        connection.message(&hello(VERSION, &[("A", "1")])).unwrap();
        connection.out.take_messages();
        connection
    }

    fn open(channel_type: &[u8]) -> Vec<u8> {
        Open { channel_type, sender: 9, window: 1000, maximum_packet: 100, specific: b"" }.encode()
    }

    /// The numbers of the messages that `message` is answered with.
    fn answers(connection: &mut Connection, message: &[u8]) -> Vec<u8> {
        connection.message(message).unwrap();
        connection.out.take_messages().iter().map(|message| message[0]).collect()
    }

    #[test]
    fn another_version_or_a_first_message_that_is_no_hello_ends_the_stream() {
        let error = |message: &[u8]| Connection::new(Vec::new()).message(message).unwrap_err().to_string();
        assert!(error(&hello(2, &[])).contains("version 2"));
        assert!(error(&open(b"session")).contains("hello@berth"));
        assert!(error(&hello(VERSION, &[("A=B", "")])).contains("malformed"));
        assert!(error(b"").contains("malformed"));
    }

    #[test]
    fn unknown_channel_types_and_too_many_channels_are_refused() {
        let mut connection = greeted();
        assert_eq!(answers(&mut connection, &open(b"x11")), [number::CHANNEL_OPEN_FAILURE]);
        for _ in 0..super::CHANNELS {
            assert_eq!(answers(&mut connection, &open(b"session")), [number::CHANNEL_OPEN_CONFIRMATION]);
        }
        assert_eq!(answers(&mut connection, &open(b"session")), [number::CHANNEL_OPEN_FAILURE]);
        assert_eq!(answers(&mut connection, &bare(number::CHANNEL_CLOSE, 77)), [number::CHANNEL_CLOSE]);
        connection.message(&open(b"session")).unwrap();
        let confirmation = &connection.out.take_messages()[0];
        assert_eq!(confirmation[1..9], [0, 0, 0, 9, 0, 0, 0, 77]);
    }

    #[test]
    fn no_session_opens_after_no_more_sessions() {
        let mut connection = greeted();
        let request = |name| GlobalRequest { name, want_reply: true, specific: b"" }.encode();
        assert_eq!(answers(&mut connection, &request(b"keepalive@openssh.com")), [number::REQUEST_FAILURE]);
        assert_eq!(answers(&mut connection, &request(b"no-more-sessions@openssh.com")), [number::REQUEST_SUCCESS]);
        assert_eq!(answers(&mut connection, &open(b"session")), [number::CHANNEL_OPEN_FAILURE]);
    }

    #[test]
    fn data_without_a_window_and_messages_for_no_channel_end_the_stream() {
        let data = |bytes: &[u8]| {
            let mut message = bare(number::CHANNEL_DATA, 0);
            message.put_string(bytes);
            message
        };
        let mut connection = greeted();
        assert!(connection.message(&data(b"x")).is_err());
        connection.message(&open(b"session")).unwrap();
        assert!(connection.message(&data(b"")).is_ok());
        assert!(connection.message(&data(b"x")).is_err());
    }

    /// A small generator: the same bytes in every run.
    struct Random(u64);

    impl Random {
        fn next(&mut self, below: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as usize % below
        }

        fn bytes(&mut self, below: usize) -> Vec<u8> {
            (0..self.next(below)).map(|_| self.next(256) as u8).collect()
        }

        fn message(&mut self) -> Vec<u8> {
            // Nothing that would run a program.
            let names: [&[u8]; 8] =
                [b"pty-req", b"env", b"subsystem", b"window-change", b"signal", b"break", b"eow@openssh.com", b""];
            let mut specific = self.bytes(60);
            if self.next(2) == 0 {
                specific = Vec::new();
                specific.put_string(self.bytes(5));
                (0..self.next(5)).for_each(|_| specific.put_u32(self.next(300) as u32));
                specific.put_string(self.bytes(40));
            }
            let recipient = if self.next(30) == 0 { 5 } else { 0 };
            let mut message = match self.next(4) {
                0 => open(b"session"),
                1 => {
                    let (name, want_reply) = (names[self.next(names.len())], self.next(2) == 0);
                    ChannelRequest { recipient, name, want_reply, specific: &specific }.encode()
                }
                2 => {
                    let mut message = bare(80 + self.next(21) as u8, recipient);
                    message.extend(specific);
                    message
                }
                _ if self.next(8) == 0 => self.bytes(40),
                _ => GlobalRequest { name: b"", want_reply: true, specific: &specific }.encode(),
            };
            if self.next(30) == 0 {
                let length = self.next(message.len() + 1);
                message.truncate(length);
            }
            message
        }
    }

    #[test]
    fn no_message_whatever_panics() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut served = 0;
        for _ in 0..3000 {
            let mut connection = if random.next(8) == 0 { Connection::new(Vec::new()) } else { greeted() };
            let _ = connection.message(&open(b"session"));
            while connection.message(&random.message()).is_ok() {
                served += 1;
                connection.drain();
                connection.out.take_messages();
            }
        }
        assert!(served > 3000, "only {served} messages were well-formed: the test tests nothing");
    }
}
