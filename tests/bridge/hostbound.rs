//! Keys that are bound to the server's host key: OpenSSH's PROTOCOL, section 3.1.

use std::net::{Ipv4Addr, TcpStream};
use std::time::Instant;

use berth::connection::frame;
use berth::connection::wire::Write;
use libssh_server::{Algorithms, HostKey, KeyKind, Session, number};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::harness::{DEADLINE, Server};

/// A client that speaks in messages.
struct Client {
    session: Session,
    received: Vec<u8>,
}

impl Client {
    /// One that may ask to log in.
    fn connect(server: &Server) -> Self {
        let algorithms = Algorithms::new(
            "test",
            "curve25519-sha256",
            "ssh-ed25519",
            "aes128-gcm@openssh.com",
            "hmac-sha2-256-etm@openssh.com",
            "",
        );
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).unwrap();
        let session = Session::connect(socket, &algorithms).unwrap();
        let mut client = Client { session, received: Vec::new() };
        while client.session.is_exchanging() {
            client.advance();
        }
        let mut request = vec![number::SERVICE_REQUEST];
        request.put_string("ssh-userauth");
        assert_eq!(client.ask(&request)[0], number::SERVICE_ACCEPT);
        client
    }

    fn advance(&mut self) {
        self.session.flush().unwrap();
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, self.session.pending() > 0);
        let timeout = Timespec { tv_sec: 1, tv_nsec: 0 };
        poll(&mut [PollFd::from_borrowed_fd(self.session.socket(), flags)], Some(&timeout)).unwrap();
        self.session.receive(&mut self.received).unwrap();
    }

    /// Sends a message, and gives the answer.
    fn ask(&mut self, message: &[u8]) -> Vec<u8> {
        self.session.expect_answers();
        self.session.send(message).unwrap();
        let started = Instant::now();
        loop {
            if let Some((answer, rest)) = frame::split(&self.received).unwrap() {
                let (answer, rest) = (answer.to_vec(), rest.to_vec());
                self.received = rest;
                return answer;
            }
            assert!(started.elapsed() < DEADLINE, "no answer");
            self.advance();
        }
    }

    /// Asks to log in by a key, for a server with this host key; gives the number of the answer. `change` is made in the
    /// signature.
    fn log_in(&mut self, host_key: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> u8 {
        let key = HostKey::generate(KeyKind::Ed25519).unwrap();
        let mut request = vec![number::USERAUTH_REQUEST];
        request.put_string("alice");
        request.put_string("ssh-connection");
        request.put_string("publickey-hostbound-v00@openssh.com");
        request.put_boolean(true);
        request.put_string("ssh-ed25519");
        request.put_string(key.public_blob().unwrap());
        request.put_string(host_key);
        let mut signed = Vec::new();
        signed.put_string(self.session.identifier());
        signed.extend_from_slice(&request);
        let mut signature = key.sign("ssh-ed25519", &signed).unwrap();
        change(&mut signature);
        request.put_string(signature);
        self.ask(&request)[0]
    }
}

#[test]
fn a_key_that_is_bound_to_another_server_lets_nobody_in() {
    let server = Server::start();
    let mut client = Client::connect(&server);
    let shown = client.session.host_key().unwrap();
    for byte in [0, 10, shown.len() - 1] {
        let mut other = shown.clone();
        other[byte] ^= 1;
        assert_eq!(client.log_in(&other, |_| ()), number::USERAUTH_FAILURE, "byte {byte}");
    }
    assert_eq!(client.log_in(&[], |_| ()), number::USERAUTH_FAILURE);
    let flip = |signature: &mut Vec<u8>| *signature.last_mut().unwrap() ^= 1;
    assert_eq!(client.log_in(&shown, flip), number::USERAUTH_FAILURE);
    let mut client = Client::connect(&server);
    assert_eq!(client.log_in(&shown, |_| ()), number::USERAUTH_SUCCESS);
}
