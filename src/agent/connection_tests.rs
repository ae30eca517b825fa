//! Messages one by one, without a stream.

use super::connection::{CHANNELS, Connection};
use super::process::Local;
use crate::connection::frame::HELLO;
use crate::connection::hello::Hello;
use crate::connection::message::{ChannelRequest, GlobalRequest, Open, bare, number};
use crate::connection::wire::Write;

fn hello() -> Vec<u8> {
    Hello::default().encode()
}

/// A connection after both hellos.
fn greeted() -> Connection<Local> {
    let mut connection = Connection::new(Local::default()).unwrap();
    connection.message(&hello()).unwrap();
    connection.out.take_messages();
    connection
}

fn open(channel_type: &[u8]) -> Vec<u8> {
    Open { channel_type, sender: 9, window: 1000, maximum_packet: 100, specific: b"" }.encode()
}

/// The numbers of the messages that `message` is answered with.
fn answers(connection: &mut Connection<Local>, message: &[u8]) -> Vec<u8> {
    connection.message(message).unwrap();
    connection.out.take_messages().iter().map(|message| message[0]).collect()
}

#[test]
fn another_version_or_a_first_message_that_is_no_hello_ends_the_stream() {
    let error = |message: &[u8]| Connection::new(Local::default()).unwrap().message(message).unwrap_err().to_string();
    let mut newer = hello();
    // Behind the message's number, the name, and what of a reply.
    newer[1 + 4 + HELLO.len() + 1..][..4].copy_from_slice(&9u32.to_be_bytes());
    assert!(error(&newer).contains("version 9"));
    assert!(error(&open(b"session")).contains("hello@berth"));
    assert!(error(b"").contains("malformed"));
}

#[test]
fn unknown_channel_types_and_too_many_channels_are_refused() {
    let mut connection = greeted();
    assert_eq!(answers(&mut connection, &open(b"tun@openssh.com")), [number::CHANNEL_OPEN_FAILURE]);
    for _ in 0..CHANNELS {
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
        let mut connection = if random.next(8) == 0 { Connection::new(Local::default()).unwrap() } else { greeted() };
        let _ = connection.message(&open(b"session"));
        while connection.message(&random.message()).is_ok() {
            served += 1;
            connection.drain();
            connection.out.take_messages();
        }
    }
    assert!(served > 3000, "only {served} messages were well-formed: the test tests nothing");
}
