//! A client whose messages the test makes itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use libssh_server::{Algorithms, Error, Session};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};

use super::process::DEADLINE;
use super::ssh_agent::string;

/// What a client's own socket may hold of what it has not read, in bytes: as little as can be.
const RECEIVE_BUFFER: usize = 4096;

/// How long nothing may go out before the server is taken to read no more.
const STALL: Duration = Duration::from_secs(2);

/// A connection from an address of loopback, with a small buffer for what comes.
pub fn connect_from(source: Ipv4Addr, port: u16) -> TcpStream {
    let socket: OwnedFd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER).unwrap();
    bind(&socket, &SocketAddr::new(IpAddr::V4(source), 0)).unwrap();
    connect(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap();
    socket.into()
}

/// SSH_MSG_USERAUTH_REQUEST of alice's, up to the method's own fields.
pub fn auth_request(method: &str) -> Vec<u8> {
    [&[50][..], &string("alice"), &string("ssh-connection"), &string(method)].concat()
}

/// A client's side of the transport.
pub struct RawClient {
    session: Session,
    messages: Vec<u8>,
}

impl RawClient {
    /// Has exchanged keys.
    pub fn connect(port: u16) -> Self {
        RawClient::connect_from(Ipv4Addr::LOCALHOST, port)
    }

    /// As [`RawClient::connect`], from this address.
    pub fn connect_from(source: Ipv4Addr, port: u16) -> Self {
        let socket = connect_from(source, port);
        let algorithms = Algorithms::new(
            "test",
            "curve25519-sha256",
            "ssh-ed25519",
            "aes128-ctr",
            "hmac-sha2-256-etm@openssh.com",
            "ssh-ed25519",
        );
        let session = Session::connect(socket, &algorithms).unwrap();
        let mut client = RawClient { session, messages: Vec::new() };
        let end = Instant::now() + DEADLINE;
        while client.session.is_exchanging() || client.session.identifier().is_empty() {
            assert!(Instant::now() < end, "no key exchange");
            client.turn(true).unwrap();
        }
        client.push();
        client
    }

    /// Waits a little, writes what can be written, and reads, if that is wanted.
    fn turn(&mut self, reads: bool) -> Result<(), Error> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, reads);
        flags.set(PollFlags::OUT, self.session.pending() > 0);
        let socket = self.session.socket();
        let mut fds = [PollFd::new(&socket, flags)];
        let has_input = reads && self.session.has_input();
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: if has_input { 0 } else { 20_000_000 } }));
        let found = fds[0].revents();
        if found.intersects(PollFlags::HUP | PollFlags::ERR) && !reads {
            return Err(Error::Closed);
        }
        if found.contains(PollFlags::OUT) {
            self.session.flush()?;
        }
        if found.contains(PollFlags::IN) || has_input {
            self.session.receive(&mut self.messages)?;
        }
        Ok(())
    }

    /// Ends the connection by a reset, as a client does that is killed with something unread.
    pub fn reset(self) {
        sockopt::set_socket_linger(self.session.socket(), Some(Duration::ZERO)).unwrap();
    }

    pub fn send(&mut self, message: &[u8]) {
        self.session.expect_answers();
        self.session.send(message).unwrap();
    }

    /// Writes all that has been sent.
    pub fn push(&mut self) {
        while self.session.pending() > 0 {
            self.turn(false).unwrap();
        }
    }

    /// The next message; none where the server has ended the connection.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some((length, rest)) = self.messages.split_first_chunk() {
                let message = rest[..u32::from_be_bytes(*length) as usize].to_vec();
                self.messages.drain(..4 + message.len());
                return Some(message);
            }
            assert!(Instant::now() < end, "no message");
            self.session.expect_answers();
            if self.turn(true).is_err() && self.messages.is_empty() {
                return None;
            }
        }
    }

    /// The next message of this number. Others are passed over.
    #[track_caller]
    pub fn expect(&mut self, number: u8) -> Vec<u8> {
        loop {
            let message = self.next().unwrap_or_else(|| panic!("the end in place of message {number}"));
            if message[0] == number {
                return message;
            }
        }
    }

    /// Asks for the service of authentication.
    pub fn ask_for_service(&mut self) {
        self.send(&[&[5][..], &string("ssh-userauth")].concat());
        self.expect(6);
    }

    /// Logs in as alice.
    pub fn log_in(&mut self, password: &str) {
        self.ask_for_service();
        self.send(&[&auth_request("password")[..], &[0], &string(password)].concat());
        self.expect(52);
    }

    /// Sends a message so many times, and reads nothing, until the server does not read either, or has ended the
    /// connection. Gives how many were written.
    pub fn flood(&mut self, message: &[u8], count: usize) -> usize {
        let mut sent = 0;
        let mut moved = (Instant::now(), (0, usize::MAX));
        loop {
            while sent < count && self.session.pending() < 1 << 20 {
                if self.session.send(message).is_err() {
                    return sent;
                }
                sent += 1;
            }
            let pending = self.session.pending();
            // It is filled up again: what is left alone tells nothing.
            if (sent, pending) != moved.1 {
                moved = (Instant::now(), (sent, pending));
            }
            if pending == 0 || moved.0.elapsed() > STALL || self.turn(false).is_err() {
                return sent;
            }
        }
    }
}
