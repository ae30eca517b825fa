//! How much one turn of receiving comes to, and what is held up.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{MOST_HELD, READ, Session, TURN};
use crate::algorithms::text;
use crate::key::{HostKey, HostKeys, KeyKind};
use crate::message::frames;
use crate::{Algorithms, Error, PacketError, number};

/// The largest of the messages that are sent.
const LARGE: usize = 200 * 1024;

/// A server and a client whose user is logged in, with compression.
fn compressing() -> (Session, Session) {
    logged_in("zlib@openssh.com")
}

fn logged_in(compression: &str) -> (Session, Session) {
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
    algorithms.methods[6] = text(compression);
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

/// SSH_MSG_KEXINIT (RFC 4253 section 7.1).
fn kexinit() -> Vec<u8> {
    let mut message = [&[number::KEXINIT][..], &[7; 16]].concat();
    for names in ["curve25519-sha256", "ssh-ed25519", "aes128-gcm@openssh.com", "aes128-gcm@openssh.com"] {
        super::frame(&mut message, names.as_bytes());
    }
    for names in ["hmac-sha2-256", "hmac-sha2-256", "none", "none", "", ""] {
        super::frame(&mut message, names.as_bytes());
    }
    message.extend_from_slice(&[0; 5]);
    message
}

/// SSH_MSG_KEX_ECDH_INIT (RFC 8731 section 3), with X25519's base point.
fn kex_init() -> Vec<u8> {
    let mut message = vec![30];
    super::frame(&mut message, &[&[9][..], &[0; 31]].concat());
    message
}

#[test]
fn a_clients_part_of_a_key_exchange_is_left_to_a_turn_of_its_own() {
    let (mut server, mut client) = logged_in("none");
    // All of it at once.
    for message in [&kexinit()[..], &kex_init(), &[number::IGNORE, 0, 0, 0, 0]] {
        client.put_out(message).unwrap();
    }
    client.flush().unwrap();
    assert!(!client.has_output() && !server.will_compute());
    until(|| {
        server.receive(&mut Vec::new()).unwrap();
        server.will_compute()
    });
    // The answer to KEXINIT is another one, and nothing more, however long the turn takes to come.
    assert!(server.is_exchanging() && server.has_input() && server.next_opener.is_none());
    server.receive(&mut Vec::new()).unwrap();
    assert!(!server.will_compute() && server.next_opener.is_some() && server.filled > 0);
    // What came behind it.
    server.receive(&mut Vec::new()).unwrap();
    assert!(!server.has_input() && server.filled == 0);
}

#[test]
fn a_key_exchange_holds_up_so_many_answers() {
    let (mut server, mut client) = logged_in("none");
    server.exchange_keys().unwrap();
    // To a client that does not go on with it.
    server.flush().unwrap();
    let mut ping = vec![number::PING];
    super::frame(&mut ping, &[0; 1000]);
    let end = Instant::now() + Duration::from_secs(30);
    let error = loop {
        assert!(Instant::now() < end);
        client.put_out(&ping).unwrap();
        client.flush().unwrap();
        let result = server.receive(&mut Vec::new());
        assert!(server.queued.len() <= MOST_HELD + ping.len() + 4, "{}", server.queued.len());
        if let Err(error) = result {
            break error;
        }
    };
    assert!(matches!(error, Error::Packet(PacketError::Message(number::PING))), "{error}");
    assert!(server.queued.len() > MOST_HELD - 2 * ping.len());
}
