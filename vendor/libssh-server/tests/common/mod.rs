//! A server's session and a client's, with the test as the network between them.

#![allow(dead_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libssh_server::{Algorithms, Error, HostKey, HostKeys, KeyKind, Session};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// One side: its session, and the test's end of its socket.
struct Side {
    session: Session,
    network: TcpStream,
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
    for socket in [&session, &network] {
        socket.set_nodelay(true).unwrap();
    }
    (session, network)
}

impl Side {
    /// What the session has sent.
    fn sent(&mut self) -> Vec<u8> {
        if self.session.has_output() {
            let _ = self.session.flush();
        }
        let mut bytes = Vec::new();
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
        self.network.write_all(bytes).unwrap();
        let socket = self.session.socket();
        let wait = Timespec { tv_sec: if bytes.is_empty() { 0 } else { 30 }, tv_nsec: 0 };
        poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&wait)).unwrap();
        let mut messages = Vec::new();
        self.session.receive(&mut messages)?;
        Ok(messages)
    }
}

impl Link {
    /// Two sides that have exchanged keys.
    pub fn new(cipher: &str, mac: &str) -> Link {
        let mut link = Link::begin("curve25519-sha256", cipher, mac);
        link.settle();
        assert!(!link.server.session.is_exchanging() && !link.client.session.is_exchanging());
        link
    }

    /// Two sides that have not said anything yet.
    pub fn begin(key_exchange: &str, cipher: &str, mac: &str) -> Link {
        let mut keys = HostKeys::default();
        assert!(keys.add(HostKey::generate(KeyKind::Ed25519).unwrap()).is_ok());
        let algorithms = Algorithms::new("test_1", key_exchange, "ssh-ed25519", cipher, mac, "ssh-ed25519");
        let (server, client) = (sockets(), sockets());
        Link {
            server: Side { session: Session::new(server.0, &algorithms, Arc::new(keys)).unwrap(), network: server.1 },
            client: Side { session: Session::connect(client.0, &algorithms).unwrap(), network: client.1 },
        }
    }

    /// Carries all that is sent, until nothing more comes.
    pub fn settle(&mut self) {
        let end = Instant::now() + Duration::from_secs(30);
        let mut quiet = 0;
        while quiet < 5 {
            assert!(Instant::now() < end, "the two sides never come to rest");
            let (from_server, from_client) = (self.server.sent(), self.client.sent());
            quiet = if from_server.is_empty() && from_client.is_empty() { quiet + 1 } else { 0 };
            self.client.receive(&from_server).unwrap();
            self.server.receive(&from_client).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn sides(&mut self, direction: Direction) -> (&mut Side, &mut Side) {
        match direction {
            Direction::ToServer => (&mut self.client, &mut self.server),
            Direction::ToClient => (&mut self.server, &mut self.client),
        }
    }

    /// Has a message sent, without delivering it.
    pub fn send(&mut self, direction: Direction, message: &[u8]) {
        self.sides(direction).0.session.send(message).unwrap();
    }

    /// The bytes of what was sent.
    pub fn take(&mut self, direction: Direction) -> Vec<u8> {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let bytes = self.sides(direction).0.sent();
            if !bytes.is_empty() {
                return bytes;
            }
            assert!(Instant::now() < end, "nothing was sent");
        }
    }

    /// Delivers bytes; gives the messages that they had.
    pub fn give(&mut self, direction: Direction, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        self.sides(direction).1.receive(bytes)
    }

    /// Lets the user in.
    pub fn authenticate(&mut self) {
        self.client.session.expect_answers();
        self.server.session.authenticated().unwrap();
        self.settle();
    }

    /// Has one side begin a key exchange anew.
    pub fn exchange_keys(&mut self, from: Direction) {
        self.sides(from).0.session.exchange_keys().unwrap();
        assert!(self.sides(from).0.session.is_exchanging(), "{from:?}");
    }

    /// Both sides' session identifier, which is one.
    pub fn identifier(&self) -> Vec<u8> {
        assert_eq!(self.server.session.identifier(), self.client.session.identifier());
        assert!(!self.server.session.is_exchanging() && !self.client.session.is_exchanging());
        self.server.session.identifier().to_vec()
    }
}
