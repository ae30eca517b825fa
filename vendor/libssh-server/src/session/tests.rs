//! How much one turn of receiving comes to.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{READ, Session, TURN};
use crate::algorithms::text;
use crate::key::{HostKey, HostKeys, KeyKind};
use crate::message::frames;
use crate::{Algorithms, number};

/// The largest of the messages that are sent.
const LARGE: usize = 200 * 1024;

/// A server and a client whose user is logged in, with compression.
fn compressing() -> (Session, Session) {
    let mut keys = HostKeys::default();
    keys.add(HostKey::generate(KeyKind::Ed25519).unwrap());
    let mut algorithms = Algorithms::new(
        "test_1",
        "curve25519-sha256",
        "ssh-ed25519",
        "aes128-gcm@openssh.com",
        "hmac-sha2-256",
        "ssh-ed25519",
    );
    algorithms.methods[6] = text("zlib@openssh.com");
    algorithms.methods[7] = text("none");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut server = Session::new(listener.accept().unwrap().0, &algorithms, Arc::new(keys)).unwrap();
    let mut client = Session::connect(client, &algorithms).unwrap();
    until(|| {
        for session in [&mut server, &mut client] {
            session.flush().unwrap();
            session.receive(&mut Vec::new()).unwrap();
        }
        !server.is_exchanging() && !client.is_exchanging()
    });
    server.authenticated().unwrap();
    client.expect_answers();
    until(|| {
        server.flush().unwrap();
        client.receive(&mut Vec::new()).unwrap();
        client.phase.stage == super::Stage::Authenticated
    });
    (server, client)
}

/// Does this until it is true.
#[track_caller]
fn until(mut is_done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_done() {
        assert!(Instant::now() < end);
    }
}

/// A message that compresses well.
fn large(number: u8) -> Vec<u8> {
    let mut message = vec![number];
    super::frame(&mut message, &vec![0; LARGE]);
    message
}

#[test]
fn what_inflates_to_much_is_taken_in_turns() {
    let (mut server, mut client) = compressing();
    // All of them together are read at once.
    for _ in 0..100 {
        client.send(&large(94)).unwrap();
    }
    assert!(client.pending() < READ);
    let mut count = 0;
    until(|| {
        client.flush().unwrap();
        let mut messages = Vec::new();
        server.receive(&mut messages).unwrap();
        assert!(messages.len() < TURN + LARGE + 100, "{}", messages.len());
        count += frames(&messages).count();
        count == 100
    });
    assert!(!server.has_input());
}

#[test]
fn answers_to_what_inflates_to_much_are_given_in_turns() {
    let (mut server, mut client) = compressing();
    for _ in 0..100 {
        client.send(&large(number::PING)).unwrap();
    }
    let mut sent = 0;
    until(|| {
        client.flush().unwrap();
        server.receive(&mut Vec::new()).unwrap();
        let pending = server.pending();
        assert!(pending < TURN + LARGE + 100, "{pending}");
        // As if the client had read them.
        sent += pending;
        server.output.clear();
        sent > 100 * LARGE
    });
}
