//! A server's session and a client's, with the test as the network between them.

#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libssh_server::{Algorithms, Error, HostKey, HostKeys, KeyKind, Session};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long anything may take.
const TIME: Duration = Duration::from_secs(30);

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// One side: its session, and the test's end of its socket.
struct Side {
    session: Option<Session>,
    network: TcpStream,
    /// What is to be put behind the next line that it is sent.
    insert: Vec<u8>,
}

/// The two sides. Nothing gets from one to the other by itself.
pub struct Link {
    server: Side,
    client: Side,
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let session = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (network, _) = listener.accept().unwrap();
    network.set_nonblocking(true).unwrap();
    network.set_nodelay(true).unwrap();
    (session, network)
}

/// Whether there is something to read, now or soon.
fn is_readable(socket: &impl std::os::fd::AsFd, time: Duration) -> bool {
    let timeout = Timespec::try_from(time).unwrap();
    poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)).unwrap() == 1
}

impl Side {
    fn new(session: Session, network: TcpStream) -> Side {
        Side { session: Some(session), network, insert: Vec::new() }
    }

    fn session(&mut self) -> &mut Session {
        self.session.as_mut().unwrap()
    }

    /// What the session has sent, and has to send.
    fn sent(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(session) = &mut self.session
            && session.has_output()
        {
            session.flush().unwrap();
            assert!(is_readable(&self.network, TIME));
        }
        let mut piece = [0; 65536];
        loop {
            match self.network.read(&mut piece) {
                Ok(0) => return bytes,
                Ok(count) => bytes.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return bytes,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Lets the session receive `bytes`; gives its messages, each behind its length.
    fn receive(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let mut messages = Vec::new();
        let mut bytes = bytes.to_vec();
        if !self.insert.is_empty()
            && let Some(end) = bytes.iter().position(|byte| *byte == b'\n')
        {
            bytes.splice(end + 1..end + 1, self.insert.drain(..));
        }
        self.network.write_all(&bytes).unwrap();
        let session = self.session();
        if !bytes.is_empty() {
            assert!(is_readable(&session.socket(), TIME));
        }
        while session.has_input() || is_readable(&session.socket(), Duration::ZERO) {
            session.receive(&mut messages)?;
        }
        Ok(messages)
    }
}

impl Link {
    /// Two sides that have exchanged keys.
    pub fn new(cipher: &str, mac: &str) -> Link {
        let mut link = Link::unsettled(cipher, mac);
        link.settle();
        assert!(!link.server.session().is_exchanging() && !link.client.session().is_exchanging());
        link
    }

    /// Two sides that have not said anything.
    pub fn unsettled(cipher: &str, mac: &str) -> Link {
        Link::of("curve25519-sha256", cipher, mac)
    }

    /// As [`Link::unsettled`], with another method of key exchange.
    pub fn of(key_exchange: &str, cipher: &str, mac: &str) -> Link {
        let mut keys = HostKeys::default();
        keys.add(HostKey::generate(KeyKind::Ed25519).unwrap());
        let algorithms = Algorithms::new("test_1", key_exchange, "ssh-ed25519", cipher, mac, "ssh-ed25519");
        let (server, client) = (sockets(), sockets());
        Link {
            server: Side::new(Session::new(server.0, &algorithms, Arc::new(keys)).unwrap(), server.1),
            client: Side::new(Session::connect(client.0, &algorithms).unwrap(), client.1),
        }
    }

    /// Carries all that is sent, until nothing more comes; gives the messages.
    pub fn settle(&mut self) -> Vec<u8> {
        self.try_settle().unwrap()
    }

    pub fn try_settle(&mut self) -> Result<Vec<u8>, Error> {
        let end = Instant::now() + TIME;
        let mut messages = Vec::new();
        loop {
            assert!(Instant::now() < end, "the two sides never come to rest");
            let (from_server, from_client) = (self.server.sent(), self.client.sent());
            if from_server.is_empty() && from_client.is_empty() {
                return Ok(messages);
            }
            messages.append(&mut self.client.receive(&from_server)?);
            messages.append(&mut self.server.receive(&from_client)?);
        }
    }

    /// Logs a user in.
    pub fn login(&mut self) {
        self.client.session().expect_answers();
        self.server.session().authenticated().unwrap();
        self.settle();
    }

    fn sides(&mut self, direction: Direction) -> (&mut Side, &mut Side) {
        match direction {
            Direction::ToServer => (&mut self.client, &mut self.server),
            Direction::ToClient => (&mut self.server, &mut self.client),
        }
    }

    /// Has the side that sends this way begin a key exchange.
    pub fn begin_exchange(&mut self, direction: Direction) {
        let session = self.sides(direction).0.session();
        session.exchange_keys().unwrap();
        assert!(session.is_exchanging());
    }

    /// Has keys exchanged anew.
    pub fn exchange_keys(&mut self, direction: Direction) {
        self.begin_exchange(direction);
        self.settle();
        assert!(!self.server.session().is_exchanging() && !self.client.session().is_exchanging());
    }

    /// The session identifier, which both sides have.
    pub fn identifier(&mut self) -> Vec<u8> {
        let identifier = self.server.session().identifier().to_vec();
        assert_eq!(identifier, self.client.session().identifier());
        identifier
    }

    /// Puts bytes behind the identification that goes this way.
    pub fn insert_after_identification(&mut self, direction: Direction, bytes: &[u8]) {
        self.sides(direction).1.insert = bytes.to_vec();
    }

    /// Has a message sent, without delivering it.
    pub fn send(&mut self, direction: Direction, message: &[u8]) {
        self.sides(direction).0.session().send(message).unwrap();
    }

    /// How much waits to be sent.
    pub fn pending(&mut self, direction: Direction) -> usize {
        self.sides(direction).0.session().pending()
    }

    /// The bytes of what was sent.
    pub fn take(&mut self, direction: Direction) -> Vec<u8> {
        self.sides(direction).0.sent()
    }

    /// Delivers bytes; gives the messages that they had.
    pub fn give(&mut self, direction: Direction, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        self.sides(direction).1.receive(bytes)
    }

    /// Ends the server's session; gives its last bytes.
    pub fn disconnect_server(&mut self, reason: u32, text: &str) -> Vec<u8> {
        self.server.session.take().unwrap().disconnect(reason, text);
        assert!(is_readable(&self.server.network, TIME));
        self.server.sent()
    }
}
